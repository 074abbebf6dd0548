//! The `perilune` program: parse the command line, run one command, end with its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(perilune::commands::run(std::env::args_os()) as u8)
}
