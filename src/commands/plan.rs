//! `perilune plan FILE`: check a plan file and say what it holds.
//!
//! # Invariants
//! - A file that is truncated, altered or of another version is refused whole; nothing of it is shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use perilune_plan::{Entry, KernelDecl, Plan, PlanError, StepOp, TensorKind, container};
use perilune_runtime::profile::Profile;
use serde_json::{Value, json};

use super::{cannot_write, write_file};

use crate::collectives;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::number::{bytes, grouped, rate};

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plan: what `build --emit plan` writes and a run keeps as `plan.perilune`
    file: PathBuf,
    /// Write the text of this kernel, CLIF or PTX, and nothing else
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Write when the steps of an entry are predicted to run, as a trace for Perfetto
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// The entry that --trace is of
    #[arg(long, value_name = "NAME", default_value = "train_step", requires = "trace")]
    entry: String,
}

/// Writes the predicted trace of an entry.
fn write_predicted(plan: &Plan, name: &str, path: &Path) -> Result<(), Failure> {
    let entry = plan.entries.iter().find(|entry| entry.name == name).ok_or_else(|| {
        Failure::input(format!("the plan has no entry `{name}`"))
            .help("`perilune plan FILE` lists its entries")
    })?;
    let machine = plan.machine.clone().unwrap_or_default();
    let profile = Profile::predicted(plan, entry, (&machine, true));
    let mut bytes = Vec::new();
    profile.write_trace(&mut bytes).map_err(|error| cannot_write(path, &error))?;
    write_file(path, &bytes)
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let plan = read(&args.file)?;
    if let Some(path) = &args.trace {
        write_predicted(&plan, &args.entry, path)?;
    }
    match &args.kernel {
        Some(name) => {
            let kernel = plan.kernels.iter().find(|k| k.name == *name).ok_or_else(|| {
                Failure::input(format!("the plan has no kernel `{name}`"))
                    .help("`perilune plan FILE` lists its kernels")
            })?;
            match console.json {
                true => console.json(&json!({"version": 1, "ok": true, "text": kernel.text})),
                false => console.data(&kernel.text),
            }
        }
        None if console.json => console.json(&plan_json(&plan)),
        None => console.data(&describe(&plan)),
    }
    Ok(Exit::Ok)
}

/// A plan from a file.
///
/// # Errors
/// A file that cannot be read, is no whole plan, or is one of another version.
fn read(path: &Path) -> Result<Plan, Failure> {
    let shown = path.display();
    let content = std::fs::read(path)
        .map_err(|error| Failure::environment(format!("cannot read `{shown}`: {error}")))?;
    container::read(&content).map_err(|error| {
        let help = match &error {
            PlanError::NotAPlan => "`perilune build SPEC --emit plan -o FILE` writes one",
            PlanError::Version { .. } => "build it again from its spec with this version",
            _ => "the file is damaged or was edited; build it again from its spec",
        };
        Failure::new(Exit::Integrity, format!("`{shown}`: {error}")).help(help)
    })
}

/// How often each kernel is launched, all entries together.
fn launches(plan: &Plan) -> BTreeMap<u32, u64> {
    let mut count = BTreeMap::new();
    for step in plan.entries.iter().flat_map(|entry| &entry.steps) {
        let epilogue = match &step.op {
            StepOp::Launch(launch) => Some(launch),
            StepOp::Contract(contract) => contract.epilogue.as_ref().map(|e| &e.launch),
            StepOp::Ragged(_)
            | StepOp::Attention(_)
            | StepOp::AttentionGrad(_)
            | StepOp::Copy { .. }
            | StepOp::Collective(_) => None,
        };
        if let Some(launch) = epilogue {
            *count.entry(launch.kernel).or_default() += 1;
        }
    }
    count
}

/// Bytes of the persistent tensors of one kind.
fn persistent(plan: &Plan, kind: TensorKind) -> u64 {
    let tensors = plan.tensors.iter().filter(|t| t.kind == kind);
    tensors.map(|t| t.elems() * t.dtype.bytes()).sum()
}

fn describe(plan: &Plan) -> String {
    let mut lines = vec![
        format!("plan        {} for {}, format {}", plan.name, plan.target, plan.format),
        format!("parameters  {}", bytes(persistent(plan, TensorKind::Param))),
        format!("buffers     {}", bytes(persistent(plan, TensorKind::Buffer))),
        format!("state       {}", bytes(persistent(plan, TensorKind::State))),
        format!("kernels     {}", plan.kernels.len()),
        String::new(),
        format!("{:<14}{:>8}{:>14}{:>8}{:>9}", "entry", "steps", "arena", "feeds", "fetches"),
    ];
    if plan.mesh.ranks() > 1 {
        lines.insert(1, format!("mesh        {} ({} ranks)", plan.mesh, plan.mesh.ranks()));
    }
    lines.extend(plan.entries.iter().map(|entry| {
        let (steps, arena) = (grouped(entry.steps.len() as u64), bytes(entry.arena_bytes));
        let (feeds, fetches) = (entry.feeds.len(), entry.fetches.len());
        format!("{:<14}{steps:>8}{arena:>14}{feeds:>8}{fetches:>9}", entry.name)
    }));
    let exchanged = plan.entries.iter().flat_map(|e| collectives::of_entry(plan, e));
    let exchanged: Vec<String> = exchanged.map(|line| line.to_string()).collect();
    if !exchanged.is_empty() {
        lines.push(String::new());
        lines.extend(exchanged);
    }
    let count = launches(plan);
    lines.push(String::new());
    lines.push(format!("{:>9}{:>11}{:>12}  kernel", "launches", "flop", "bytes"));
    lines.extend((0..).zip(&plan.kernels).map(|(index, kernel)| {
        let launched = grouped(count.get(&index).copied().unwrap_or(0));
        let (flops, moved) = (rate(kernel.flops as f64), bytes(kernel.bytes));
        format!("{launched:>9}{flops:>11}{moved:>12}  {}", kernel.name)
    }));
    lines.join("\n")
}

fn plan_json(plan: &Plan) -> Value {
    let count = launches(plan);
    json!({
        "version": 1,
        "ok": true,
        "name": plan.name,
        "target": plan.target,
        "format": plan.format,
        "mesh": plan.mesh.to_string(),
        "collectives": plan.entries.iter().flat_map(|e| collectives::of_entry(plan, e))
            .map(|line| line.json()).collect::<Vec<_>>(),
        "param_bytes": persistent(plan, TensorKind::Param),
        "buffer_bytes": persistent(plan, TensorKind::Buffer),
        "state_bytes": persistent(plan, TensorKind::State),
        "entries": plan.entries.iter().map(entry_json).collect::<Vec<_>>(),
        "kernels": (0..).zip(&plan.kernels).map(|k| kernel_json(k, &count)).collect::<Vec<_>>(),
    })
}

fn entry_json(entry: &Entry) -> Value {
    json!({
        "name": entry.name,
        "steps": entry.steps.len(),
        "arena_bytes": entry.arena_bytes,
        "feeds": entry.feeds.iter().map(|feed| &feed.name).collect::<Vec<_>>(),
        "fetches": entry.fetches.iter().map(|fetch| &fetch.name).collect::<Vec<_>>(),
    })
}

fn kernel_json((index, kernel): (u32, &KernelDecl), launches: &BTreeMap<u32, u64>) -> Value {
    json!({
        "name": kernel.name,
        "launches": launches.get(&index).copied().unwrap_or(0),
        "blocks": kernel.blocks,
        "threads": kernel.threads,
        "flops": kernel.flops,
        "bytes": kernel.bytes,
        "numerics": kernel.numerics,
    })
}
