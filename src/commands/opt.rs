//! `perilune opt FILE --from STAGE --to STAGE`: the text of one stage to the text of another.

use std::fmt::Write;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use perilune_compiler::lower::{Target, is_loop_kernel, lower_kernel};
use perilune_compiler::mlir::Mlir;
use perilune_compiler::program::Program;
use perilune_compiler::program::print::print;
use perilune_compiler::program::read::read;
use perilune_compiler::program::verify::verify;
use perilune_compiler::stages::{self, STAGES};
use serde_json::json;

use super::write_file;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::pipeline::internal;

/// Largest text that is read.
const MAX_BYTES: u64 = 256 << 20;

/// Arguments of `opt`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// MLIR text of a stage, as `build --emit mlir:STAGE` writes it
    file: PathBuf,
    /// The stage the file is at
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new(program_stages()))]
    from: String,
    /// The stage to write
    #[arg(long, value_name = "STAGE", value_parser = PossibleValuesParser::new(all_stages()))]
    to: String,
    /// File to write to (stdout)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Names of the stages whose text is a program.
pub(super) fn program_stages() -> Vec<&'static str> {
    STAGES.iter().map(|s| s.name).collect()
}

fn all_stages() -> Vec<&'static str> {
    program_stages().into_iter().chain(["loops", "clif", "ptx"]).collect()
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let mlir = Mlir::new();
    let meta = std::fs::metadata(&args.file).map_err(|e| unreadable(args, &e))?;
    if meta.len() > MAX_BYTES {
        return Err(Failure::new(
            Exit::Spec,
            format!("the file is larger than {} MiB", MAX_BYTES >> 20),
        ));
    }
    let text = std::fs::read_to_string(&args.file).map_err(|e| unreadable(args, &e))?;
    let refused = |e: &dyn std::fmt::Display| {
        Failure::new(Exit::Spec, format!("`{}` is not a program: {e}", args.file.display()))
    };
    let mut program = read(&mlir, &text).map_err(|e| refused(&e))?;
    verify(&program).map_err(|e| refused(&e))?;
    let last = STAGES.len() - 1;
    let from = stages::position(&args.from).unwrap_or(0);
    let to = stages::position(&args.to).unwrap_or(last);
    if to < from {
        let headline = format!("stage `{}` comes before `{}`", args.to, args.from);
        return Err(Failure::new(Exit::Usage, headline).help(order()));
    }
    stages::advance(&mut program, from, to);
    let out = match args.to.as_str() {
        "loops" => lowered(&mlir, &program, Target::Cpu, |l| l.loops)?,
        "clif" => lowered(&mlir, &program, Target::Cpu, |l| l.text)?,
        "ptx" => lowered(&mlir, &program, Target::Sm90a, |l| l.text)?,
        _ => print(&program),
    };
    match &args.output {
        Some(path) => write_file(path, out.as_bytes())?,
        None if console.json => console.json(&json!({"version": 1, "stage": args.to, "text": out})),
        None => console.data(&out),
    }
    Ok(Exit::Ok)
}

/// The stages in order, for a reader who has them the wrong way round.
fn order() -> String {
    format!("the order is {}", all_stages().join(", "))
}

fn lowered(
    mlir: &Mlir,
    program: &Program,
    target: Target,
    text: impl Fn(perilune_compiler::lower::Lowered) -> String,
) -> Result<String, Failure> {
    let mut out = String::new();
    for kernel in program.kernels.iter().filter(|k| is_loop_kernel(k)) {
        let lowered = lower_kernel(mlir, kernel, target).map_err(internal)?;
        let _ = writeln!(out, "// {}\n{}", kernel.name, text(lowered).trim_end());
    }
    Ok(out)
}

fn unreadable(args: &Args, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Spec, format!("cannot read `{}`: {error}", args.file.display()))
}
