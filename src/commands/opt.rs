//! `perilune opt FILE --from STAGE --to STAGE`: the text of one stage to the text of another.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use perilune_compiler::lower::Target;
use perilune_compiler::lower::text::{self, KernelStage};
use perilune_compiler::mlir::Mlir;
use perilune_compiler::program::print::print;
use perilune_compiler::program::read::read;
use perilune_compiler::stages::{self, STAGES};
use serde_json::json;

use super::write_file;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::pipeline::kernel_texts;

/// Largest text that is read.
const MAX_BYTES: u64 = 256 << 20;

/// Targets whose kernels have stages to choose a chip for.
const GPUS: [Target; 2] = [Target::Sm90a, Target::Sm80];

/// Arguments of `opt`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// MLIR text of a stage, as `build --emit mlir:STAGE` writes it
    file: PathBuf,
    /// The stage the file is at
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new(readable_stages()))]
    from: String,
    /// The stage to write
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new(all_stages()))]
    to: String,
    /// What kernels of a GPU are for
    #[arg(long, default_value = "sm_90a", value_parser = PossibleValuesParser::new(GPUS.map(Target::name)))]
    target: String,
    /// File to write to (stdout)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Names of the stages whose text can be read.
fn readable_stages() -> Vec<&'static str> {
    let kernels = KernelStage::ALL.into_iter().filter(|s| s.is_mlir());
    STAGES.iter().map(|s| s.name).chain(kernels.map(KernelStage::name)).collect()
}

fn all_stages() -> Vec<&'static str> {
    STAGES.iter().map(|s| s.name).chain(KernelStage::ALL.map(KernelStage::name)).collect()
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let text = source(args)?;
    let mlir = Mlir::new();
    let to = KernelStage::named(&args.to);
    let out = match (KernelStage::named(&args.from), to) {
        (Some(from), Some(to)) if to.comes_from(from) => {
            text::resume(&mlir, &text, from, (to, target(args, to)))
                .map_err(|e| refused(args, &e))?
        }
        (None, _) => from_program(args, &mlir, &text, to)?,
        (Some(_), _) => return Err(backwards(args)),
    };
    match &args.output {
        Some(path) => write_file(path, out.as_bytes())?,
        None if console.json => console.json(&json!({"version": 1, "stage": args.to, "text": out})),
        None => console.data(&out),
    }
    Ok(Exit::Ok)
}

/// What the kernels of a stage are for.
fn target(args: &Args, stage: KernelStage) -> Target {
    match stage.comes_from(KernelStage::Gpu) {
        true => Target::named(&args.target).unwrap_or(Target::Sm90a),
        false => Target::Cpu,
    }
}

/// The file's text, of a size that is read.
fn source(args: &Args) -> Result<String, Failure> {
    let meta = std::fs::metadata(&args.file).map_err(|e| unreadable(args, &e))?;
    if meta.len() > MAX_BYTES {
        let headline = format!("the file is larger than {} MiB", MAX_BYTES >> 20);
        return Err(Failure::new(Exit::Spec, headline));
    }
    std::fs::read_to_string(&args.file).map_err(|e| unreadable(args, &e))
}

/// From the text of a program to one of its later stages, or to its kernels.
fn from_program(
    args: &Args,
    mlir: &Mlir,
    text: &str,
    kernels: Option<KernelStage>,
) -> Result<String, Failure> {
    let mut program = read(mlir, text).map_err(|e| refused(args, &e))?;
    let last = STAGES.len() - 1;
    let from = stages::position(&args.from).unwrap_or(0);
    let to = stages::position(&args.to).unwrap_or(last);
    if to < from {
        return Err(backwards(args));
    }
    stages::advance(&mut program, from, to);
    match kernels {
        Some(stage) => kernel_texts(mlir, &program, stage, Some(target(args, stage))),
        None => Ok(print(&program)),
    }
}

fn refused(args: &Args, error: &dyn std::fmt::Display) -> Failure {
    let (file, stage) = (args.file.display(), &args.from);
    Failure::new(Exit::Spec, format!("`{file}` is no text of stage `{stage}`: {error}"))
}

fn backwards(args: &Args) -> Failure {
    let headline = format!("stage `{}` does not come after `{}`", args.to, args.from);
    Failure::new(Exit::Usage, headline).help(order())
}

/// The stages in order, for a reader who has them the wrong way round.
fn order() -> String {
    let program: Vec<&str> = STAGES.iter().map(|s| s.name).collect();
    format!("the order is {}; then loops, clif or gpu, nvvm, ptx", program.join(", "))
}

fn unreadable(args: &Args, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Spec, format!("cannot read `{}`: {error}", args.file.display()))
}
