//! `perilune check SPEC`: every mistake of a spec at once, or what the model costs.

use std::fmt::Write;

use perilune_compiler::program::ArgKind;
use serde_json::json;

use super::spec_args::SpecArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::pipeline::Checked;
use crate::render;
use crate::summary::{self, Summary};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: SpecArgs,
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let checked = args.spec.check()?;
    let figures = summary::summarize(&checked.elaborated.forward);
    let state = state_bytes(&checked);
    if console.json {
        let mut value = render::json(&checked.warnings, &checked.sources);
        let figures = serde_json::to_value(&figures);
        let figures = figures.map_err(|error| Failure::internal(error.to_string()))?;
        if let (Some(to), Some(from)) = (value.as_object_mut(), figures.as_object()) {
            to.extend(from.clone());
        }
        value["name"] = json!(checked.elaborated.name);
        value["state_bytes"] = json!(state);
        console.json(&value);
    } else {
        if !checked.warnings.list().is_empty() {
            console.note(&render::text(&checked.warnings, &checked.sources, console.color));
        }
        console.data(&table(&checked.elaborated.name, &figures, state));
    }
    Ok(Exit::Ok)
}

/// Bytes of optimizer state, where the spec is a training step.
fn state_bytes(checked: &Checked) -> u64 {
    let Some(graph) = &checked.elaborated.train_step else { return 0 };
    let state = graph.inputs.iter().filter(|input| input.kind == ArgKind::State);
    state.map(|input| graph.ty(input.value).bytes()).sum()
}

fn table(name: &str, figures: &Summary, state: u64) -> String {
    let mut out = format!("{name}: the spec holds\n");
    let rows = [
        ("parameters", grouped(figures.params_total)),
        ("active for a token", grouped(figures.params_active)),
        ("forward FLOPs a token", format!("{:.4e}", figures.forward_flops_per_token)),
        ("training FLOPs a token", format!("{:.4e}", figures.train_flops_per_token)),
        ("tokens a batch", grouped(figures.tokens_per_batch)),
        ("parameter memory", gib(figures.param_bytes)),
        ("optimizer memory", gib(state)),
    ];
    for (what, value) in rows {
        let _ = writeln!(out, "  {what:<24}{value:>22}");
    }
    out
}

/// `1234567` as `1,234,567`.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn gib(bytes: u64) -> String {
    format!("{:.3} GiB", bytes as f64 / f64::from(1u32 << 30))
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn digits_come_in_threes() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(123), "123");
        assert_eq!(grouped(1_026_408_232_448), "1,026,408,232,448");
    }
}
