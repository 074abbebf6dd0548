//! `perilune parity DIR`: the compiled path against an oracle folder, quantity by quantity.

use std::fmt::Write;
use std::path::PathBuf;

use super::device_args::DeviceArgs;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::parity::{self, Report, Settings};

/// Arguments of `parity`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A folder with config.json, model.safetensors, inputs.safetensors and expected values
    dir: PathBuf,
    /// Steps of each trajectory to compare at most (all)
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let settings = Settings { device: args.device.kind()?, steps: args.steps };
    let report = parity::run(&args.dir, &settings)?;
    if console.json {
        let value = serde_json::to_value(&report);
        console.json(&value.map_err(|error| Failure::internal(error.to_string()))?);
    } else {
        console.data(&table(&report));
    }
    Ok(if report.ok { Exit::Ok } else { Exit::Spec })
}

fn table(report: &Report) -> String {
    let mut out = String::new();
    for check in &report.checks {
        let verdict = if check.ok { "ok" } else { "FAILED" };
        let (name, error, bound) = (&check.name, check.error, check.bound);
        let _ = writeln!(out, "{verdict:<7}error {error:>8.2e}  bound {bound:>8.2e}  {name}");
    }
    for skipped in &report.skipped {
        let _ = writeln!(out, "skipped {skipped}");
    }
    let failed = report.checks.iter().filter(|check| !check.ok).count();
    let _ = writeln!(out, "{} checks, {failed} failed", report.checks.len());
    out
}
