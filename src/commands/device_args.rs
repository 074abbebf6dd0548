//! Which device runs a plan: `--device`, and what it checks: `--checks`.

use clap::builder::PossibleValuesParser;
use perilune_runtime::{Checks, DeviceKind};

use crate::exit::{Exit, Failure};

/// Arguments of every command that runs a plan.
#[derive(Debug, clap::Args)]
pub(crate) struct DeviceArgs {
    /// What runs the steps: this processor, or the PTX virtual machine on it
    #[arg(long, default_value = "cpu", value_name = "DEVICE", value_parser = PossibleValuesParser::new(["cpu", "ptx-vm"]))]
    device: String,
    /// What ptx-vm checks beside bounds, alignment and barriers: `all`, `none`, or of `uninitialised,races` (all)
    #[arg(long, value_name = "CHECKS", value_parser = checks)]
    checks: Option<Checks>,
}

impl DeviceArgs {
    /// The device asked for.
    ///
    /// # Errors
    /// Checks for a device that makes none.
    pub(crate) fn kind(&self) -> Result<DeviceKind, Failure> {
        match (self.device.as_str(), self.checks) {
            ("ptx-vm", checks) => Ok(DeviceKind::PtxVm { checks: checks.unwrap_or(Checks::all()) }),
            (_, None) => Ok(DeviceKind::Cpu),
            (device, Some(_)) => {
                let headline = format!("the device `{device}` makes no checks");
                Err(Failure::new(Exit::Usage, headline).help("add `--device ptx-vm`"))
            }
        }
    }
}

/// The checks of a list on the command line.
pub(crate) fn checks(text: &str) -> Result<Checks, String> {
    let refused = "expected `all`, `none`, or a list of `uninitialised` and `races`";
    Checks::named(text).ok_or_else(|| refused.to_owned())
}
