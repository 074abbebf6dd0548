//! `perilune build SPEC --emit STAGE`: any stage of the road from a spec to a plan.

use std::fmt::Write;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use perilune_compiler::compile::compile;
use perilune_compiler::import::import;
use perilune_compiler::lower::Target;
use perilune_compiler::lower::text::KernelStage;
use perilune_compiler::mlir::Mlir;
use perilune_compiler::program::Program;
use perilune_compiler::program::print::print;
use perilune_compiler::stages::{self, STAGES};
use perilune_plan::container;
use serde_json::json;

use super::spec_args::SpecArgs;
use super::write_file;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::pipeline::{Checked, internal, kernel_texts};

/// Arguments of `build`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: SpecArgs,
    /// What to write
    #[arg(long, value_name = "STAGE", default_value = "plan", value_parser = PossibleValuesParser::new(emits()))]
    emit: String,
    /// What a plan (cpu, unless said) or kernels (of a GPU: sm_90a, unless said) are for
    #[arg(long, value_parser = PossibleValuesParser::new(Target::ALL.map(Target::name)))]
    target: Option<String>,
    /// File to write to (stdout; a plan needs a file)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Everything `--emit` takes.
fn emits() -> Vec<String> {
    let stages = STAGES.iter().map(|s| format!("mlir:{}", s.name));
    let first = ["spec", "graph"].map(str::to_owned).into_iter();
    let kernels = KernelStage::ALL.into_iter().map(|s| match s.is_mlir() {
        true => format!("mlir:{}", s.name()),
        false => s.name().to_owned(),
    });
    first.chain(stages).chain(kernels).chain(["plan".to_owned()]).collect()
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let target = args.target.as_deref().and_then(Target::named);
    if args.emit == "plan" {
        return plan(console, args, target.unwrap_or(Target::Cpu));
    }
    let checked = args.spec.check()?;
    let text = match args.emit.as_str() {
        "spec" => spec(&checked),
        "graph" => checked.local()?.graphs().iter().map(ToString::to_string).collect(),
        emit => {
            let stage = emit.strip_prefix("mlir:").unwrap_or(emit);
            let kernels = KernelStage::named(stage);
            let last = STAGES.len() - 1;
            let program = program(&checked, stages::position(stage).unwrap_or(last))?;
            match kernels {
                Some(stage) => kernel_texts(&Mlir::new(), &program, stage, target)?,
                None => print(&program),
            }
        }
    };
    match &args.output {
        Some(path) => write_file(path, text.as_bytes())?,
        None if console.json => {
            console.json(&json!({"version": 1, "emit": args.emit, "text": text}));
        }
        None => console.data(&text),
    }
    Ok(Exit::Ok)
}

/// Every file of the spec, as read.
fn spec(checked: &Checked) -> String {
    let mut out = String::new();
    for file in checked.sources.files() {
        let _ = write!(out, "// {}\n{}\n", file.path, file.text.trim_end());
    }
    out
}

/// The program at a stage.
fn program(checked: &Checked, stage: usize) -> Result<Program, Failure> {
    let local = checked.local()?;
    let mut program = import(&local.name, &local.graphs());
    stages::advance(&mut program, 0, stage);
    Ok(program)
}

fn plan(console: &Console, args: &Args, target: Target) -> Result<Exit, Failure> {
    let path = args.output.as_ref().ok_or_else(|| {
        Failure::new(Exit::Usage, "a plan is a file: say where to write it")
            .help("add --output FILE, or --emit clif to look at its kernels")
    })?;
    let plan = compile(&args.spec.check()?.elaborated, target).map_err(internal)?.plan;
    let bytes = container::write(&plan).map_err(|error| Failure::internal(error.to_string()))?;
    write_file(path, &bytes)?;
    let entries: Vec<_> = plan
        .entries
        .iter()
        .map(|e| json!({"name": e.name, "steps": e.steps.len(), "arena_bytes": e.arena_bytes}))
        .collect();
    if console.json {
        console.json(&json!({
            "version": 1,
            "name": plan.name,
            "target": plan.target,
            "kernels": plan.kernels.len(),
            "ranks": plan.mesh.ranks(),
            "entries": entries,
            "file": path.display().to_string(),
            "bytes": bytes.len(),
        }));
    } else {
        let (name, kernels, mesh) = (&plan.name, plan.kernels.len(), &plan.mesh);
        let ranks = match mesh.ranks() {
            1 => String::new(),
            ranks => format!(", one plan for all {ranks} ranks ({mesh})"),
        };
        console.note(&format!("{name}: {kernels} kernels in {}{ranks}", path.display()));
    }
    Ok(Exit::Ok)
}
