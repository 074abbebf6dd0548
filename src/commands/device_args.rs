//! Which device runs a plan: `--device`, what it checks: `--checks`; where it stops: `--vm-steps`.

use clap::builder::PossibleValuesParser;
use perilune_runtime::{Checks, DEFAULT_STEP_LIMIT, DeviceKind};

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
    /// Warp instructions that ptx-vm executes in a launch at most (4294967296)
    #[arg(long, value_name = "N")]
    vm_steps: Option<u64>,
}

impl DeviceArgs {
    /// The device asked for.
    ///
    /// # Errors
    /// Checks or a limit for a device that has none.
    pub(crate) fn kind(&self) -> Result<DeviceKind, Failure> {
        let device = self.device.as_str();
        if device == "ptx-vm" {
            return Ok(DeviceKind::PtxVm {
                checks: self.checks.unwrap_or(Checks::all()),
                step_limit: self.vm_steps.unwrap_or(DEFAULT_STEP_LIMIT),
            });
        }
        let headline = match (self.checks, self.vm_steps) {
            (None, None) => return Ok(DeviceKind::Cpu),
            (Some(_), _) => format!("the device `{device}` makes no checks"),
            (None, Some(_)) => format!("the device `{device}` counts no steps"),
        };
        Err(Failure::new(Exit::Usage, headline).help("add `--device ptx-vm`"))
    }
}

/// The checks of a list on the command line.
pub(crate) fn checks(text: &str) -> Result<Checks, String> {
    let refused = "expected `all`, `none`, or a list of `uninitialised` and `races`";
    Checks::named(text).ok_or_else(|| refused.to_owned())
}
