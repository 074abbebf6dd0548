//! `perilune check SPEC`: every mistake of a spec at once, or what the model costs.

use std::fmt::Write;

use perilune_compiler::program::ArgKind;
use serde_json::json;

use super::spec_args::SpecArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::number::{bytes, four_digits, grouped};
use crate::pipeline::{self, Checked};
use crate::render;
use crate::summary::{self, Summary};
use crate::{collectives, training};

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
    let ranks = rank(&checked)?;
    if console.json {
        let mut value = render::json(&checked.warnings, &checked.sources);
        let figures = serde_json::to_value(&figures);
        let figures = figures.map_err(|error| Failure::internal(error.to_string()))?;
        if let (Some(to), Some(from)) = (value.as_object_mut(), figures.as_object()) {
            to.extend(from.clone());
        }
        value["name"] = json!(checked.elaborated.name);
        value["state_bytes"] = json!(state);
        if let Some(rank) = &ranks {
            value["mesh"] = json!({
                "axes": rank.mesh, "ranks": rank.ranks, "tensor_bytes": rank.tensors,
                "arena_bytes": rank.arena, "collectives": rank.collectives,
                "collective_bytes": rank.sent,
            });
        }
        console.json(&value);
    } else {
        if !checked.warnings.list().is_empty() {
            console.note(&render::text(&checked.warnings, &checked.sources, console.color));
        }
        let inputs = &checked.elaborated.forward.inputs;
        let over_tokens = inputs.iter().any(|i| i.kind == ArgKind::Feed && i.name == "tokens");
        let mut text = table(&checked.elaborated.name, &figures, state, over_tokens);
        text += &ranks.map_or(String::new(), |rank| rank.table());
        console.data(&text);
    }
    Ok(Exit::Ok)
}

/// What one rank of a mesh holds and sends in a step.
struct Rank {
    mesh: String,
    ranks: u64,
    tensors: u64,
    arena: u64,
    collectives: usize,
    /// Bytes that the busiest rank sends at most.
    sent: u64,
}

/// The figures of a rank, where there are several.
fn rank(checked: &Checked) -> Result<Option<Rank>, Failure> {
    if checked.elaborated.mesh.ranks() == 1 {
        return Ok(None);
    }
    let plan = pipeline::sketch(checked)?;
    let step = plan.entries.iter().find(|e| e.name == training::TRAIN_STEP);
    let lines = step.map_or(Vec::new(), |entry| collectives::of_entry(&plan, entry));
    Ok(Some(Rank {
        mesh: plan.mesh.to_string(),
        ranks: plan.mesh.ranks(),
        tensors: plan.tensors.iter().map(|t| t.elems() * t.dtype.bytes()).sum(),
        arena: plan.entries.iter().map(|e| e.arena_bytes).max().unwrap_or(0),
        collectives: lines.len(),
        sent: collectives::most_bytes(&lines),
    }))
}

impl Rank {
    fn table(&self) -> String {
        let mut out = format!("on each of {} ranks ({})\n", grouped(self.ranks), self.mesh);
        let mut row = |what: &str, value: String| {
            let _ = writeln!(out, "  {what:<24}{value:>22}");
        };
        row("tensors", bytes(self.tensors));
        row("arena", bytes(self.arena));
        row("collectives a step", grouped(self.collectives as u64));
        row("sent a step, at most", bytes(self.sent));
        out
    }
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
