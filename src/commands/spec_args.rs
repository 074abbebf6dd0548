//! Arguments that every command on a spec takes.

use std::path::{Path, PathBuf};

use perilune_plan::Machine;

use crate::exit::Failure;
use crate::pipeline::{self, Checked};

/// A spec and overrides of its dims and its mesh.
#[derive(Debug, clap::Args)]
pub(crate) struct SpecArgs {
    /// A RON file holding `Model(..)` or `Train(..)`
    pub(crate) spec: PathBuf,
    /// Override a dim of the model
    #[arg(long = "set", value_name = "DIM=VALUE", value_parser = pair)]
    pub(crate) sets: Vec<(String, String)>,
    /// Run on another mesh than the spec says: dp=2,ep=2
    #[arg(long, value_name = "AXIS=RANKS,..")]
    pub(crate) mesh: Option<String>,
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
}

/// How collectives run beside kernels.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct ScheduleArgs {
    /// Order the steps of a mesh by the rates in this file: a run leaves one, `machine.ron`
    #[arg(long, value_name = "FILE", conflicts_with = "no_overlap")]
    machine: Option<PathBuf>,
    /// Wait for every collective at once
    #[arg(long)]
    no_overlap: bool,
}

impl ScheduleArgs {
    /// Puts what is asked for into a spec.
    pub(crate) fn apply(&self, checked: &mut Checked) -> Result<(), Failure> {
        if self.no_overlap {
            checked.elaborated.machine = None;
        }
        if let Some(path) = &self.machine {
            checked.elaborated.machine = Some(read_machine(path)?);
        }
        Ok(())
    }
}

/// A machine from a file.
fn read_machine(path: &Path) -> Result<Machine, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::environment(format!("cannot read `{shown}`: {error}")))?;
    Machine::from_ron(&text).map_err(|error| {
        Failure::input(format!("`{shown}` is no machine: {error}"))
            .help("`perilune train` leaves one in its folder, `machine.ron`")
    })
}

impl SpecArgs {
    /// Elaborates the spec.
    pub(crate) fn check(&self) -> Result<Checked, Failure> {
        let mut checked = pipeline::check_file_on(&self.spec, &self.sets, self.mesh.as_deref())?;
        self.schedule.apply(&mut checked)?;
        Ok(checked)
    }
}

/// `name=value`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
