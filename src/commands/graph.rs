//! `perilune graph SPEC`: the model as Graphviz text, one box per block and layer.

use super::spec_args::SpecArgs;
use crate::console::Console;
use crate::dot;
use crate::exit::{Exit, Failure};

/// Arguments of `graph`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: SpecArgs,
    /// Draw only what lies under this path: model.layers.1.attn
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    under: String,
    /// Path parts to draw apart; deeper nodes are merged into their block
    #[arg(long, value_name = "N", default_value_t = 2)]
    depth: usize,
    /// Which graph
    #[arg(long, value_name = "ENTRY", default_value = "forward")]
    #[arg(value_parser = ["init", "forward", "eval", "train_step"])]
    entry: String,
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let checked = args.spec.check()?;
    let local = checked.local()?;
    let graphs = local.graphs();
    let graph = graphs.into_iter().find(|g| g.name == args.entry).ok_or_else(|| {
        Failure::input(format!("the spec has no `{}`", args.entry))
            .help("give a `Train(..)` spec, or --entry forward")
    })?;
    let text = dot::dot(graph, &args.under, args.depth);
    if !args.under.is_empty() && !text.contains("[label") {
        return Err(Failure::input(format!("no node lies under `{}`", args.under))
            .help("`perilune graph SPEC --depth 3` shows the paths there are"));
    }
    if console.json {
        console.json(&serde_json::json!({"version": 1, "dot": text}));
    } else {
        console.data(&text);
    }
    Ok(Exit::Ok)
}
