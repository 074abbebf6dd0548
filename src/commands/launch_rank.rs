//! `perilune launch-rank`: what `launch` starts for each rank; see [`crate::launch::rank`].

use std::ffi::OsString;
use std::path::PathBuf;

use crate::exit::{Exit, Failure};
use crate::launch::rank;

/// Arguments of `launch-rank`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder that `launch` made
    #[arg(long)]
    folder: PathBuf,
    /// The command of the rank
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    rank::watch(&args.folder, &args.command)
}
