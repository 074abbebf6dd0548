//! `perilune check SPEC`: every mistake of a spec at once, or what the model costs.

use std::fmt::Write;

use perilune_compiler::program::ArgKind;
use serde_json::json;

use super::spec_args::SpecArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::number::{bytes, four_digits, grouped};
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
        let inputs = &checked.elaborated.forward.inputs;
        let over_tokens = inputs.iter().any(|i| i.kind == ArgKind::Feed && i.name == "tokens");
        console.data(&table(&checked.elaborated.name, &figures, state, over_tokens));
    }
    Ok(Exit::Ok)
}

/// Bytes of optimizer state, where the spec is a training step.
fn state_bytes(checked: &Checked) -> u64 {
    let Some(graph) = &checked.elaborated.train_step else { return 0 };
    let state = graph.inputs.iter().filter(|input| input.kind == ArgKind::State);
    state.map(|input| graph.ty(input.value).bytes()).sum()
}

fn table(name: &str, figures: &Summary, state: u64, over_tokens: bool) -> String {
    let mut out = format!("{name}: the spec holds\n");
    let mut row = |what: &str, value: String| {
        let _ = writeln!(out, "  {what:<24}{value:>22}");
    };
    let (forward, training) = match over_tokens {
        true => ("forward FLOPs a token", "training FLOPs a token"),
        false => ("forward FLOPs", "training FLOPs"),
    };
    row("parameters", grouped(figures.params_total));
    if figures.params_active != figures.params_total {
        row("active for a token", grouped(figures.params_active));
    }
    row(forward, four_digits(figures.forward_flops_per_token));
    row(training, four_digits(figures.train_flops_per_token));
    if over_tokens {
        row("tokens a batch", grouped(figures.tokens_per_batch));
    }
    row("parameter memory", bytes(figures.param_bytes));
    if state > 0 {
        row("optimizer memory", bytes(state));
    }
    out
}
