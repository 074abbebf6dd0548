//! The command line: one module per command.
//!
//! # Invariants
//! - A command returns data or a [`Failure`]; only [`Console`] writes, only [`run`] exits.

use std::ffi::OsString;
use std::path::Path;

use clap::{CommandFactory, Parser, Subcommand};
use perilune_runtime::io::atomic;

use crate::console::{ColorChoice, Console};
use crate::exit::{Exit, Failure};

mod comm_args;
mod device_args;
mod spec_args;

mod check;
mod train;
mod build;
mod opt;
mod plan;
mod explain;
mod graph;
mod parity;
mod vm;
mod launch;
mod launch_rank;
mod comm_check;
mod hang_report;
mod doctor;

/// Heading of the options that every command has.
const EVERYWHERE: &str = "Everywhere";

/// A compiler for training steps: model, optimizer and schedule in RON, to the CPU at hand and PTX.
#[derive(Debug, Parser)]
#[command(name = "perilune", version, max_term_width = 100)]
struct Cli {
    /// Write data to stdout as JSON
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    json: bool,
    /// Write no messages but errors
    #[arg(long, short, global = true, help_heading = EVERYWHERE)]
    quiet: bool,
    /// Colour messages: auto (on a terminal, unless NO_COLOR is set), always or never
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    #[arg(hide_possible_values = true, help_heading = EVERYWHERE)]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find every mistake of a spec at once, or say what the model costs
    Check(check::Args),
    /// Compile a training step and train on a text
    Train(train::Args),
    /// Write any stage of the road from a spec to a plan
    Build(build::Args),
    /// Take the text of one stage to another
    Opt(opt::Args),
    /// Check a plan file and say what it holds
    Plan(plan::Args),
    /// Compare forward, gradients and optimizer with an oracle folder
    Parity(parity::Args),
    /// Run, check and count a PTX kernel on the CPU
    Vm(vm::Args),
    /// Start the ranks of a job on this machine, and end them together
    Launch(launch::Args),
    /// One rank of a job that `launch` started
    #[command(hide = true)]
    LaunchRank(launch_rank::Args),
    /// Check and time the collectives between the ranks of a job
    CommCheck(comm_check::Args),
    /// Say from the ranks' flight recorders which of them a job waits for
    HangReport(hang_report::Args),
    /// Draw the model as Graphviz text
    Graph(graph::Args),
    /// Say more about an error code, an op, or what was decided about a node
    Explain(explain::Args),
    /// Look for what Perilune needs on this machine and say how to get what is missing
    Doctor(doctor::Args),
}

/// The command line as data, for its reference and for completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs a command line and gives the exit code of the process.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help to stdout and mistakes to stderr.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    let console = Console::new(cli.json, cli.quiet, cli.color);
    let exit = match dispatch(&console, &cli.command) {
        Ok(exit) => exit,
        Err(failure) => console.failure(&failure),
    };
    console.end(exit)
}

fn dispatch(console: &Console, command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Check(args) => check::run(console, args),
        Command::Train(args) => train::run(console, args),
        Command::Build(args) => build::run(console, args),
        Command::Opt(args) => opt::run(console, args),
        Command::Plan(args) => plan::run(console, args),
        Command::Parity(args) => parity::run(console, args),
        Command::Vm(args) => vm::run(console, args),
        Command::Launch(args) => launch::run(console, args),
        Command::LaunchRank(args) => launch_rank::run(args),
        Command::CommCheck(args) => comm_check::run(console, args),
        Command::HangReport(args) => hang_report::run(console, args),
        Command::Graph(args) => graph::run(console, args),
        Command::Explain(args) => explain::run(console, args),
        Command::Doctor(args) => doctor::run(console, args),
    }
}

/// Writes a file whole or not at all.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    atomic::write(path, bytes).map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::environment(format!("cannot write `{}`: {error}", path.display()))
        .help("name a place you may write, with space left")
}
