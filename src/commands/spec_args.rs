//! Arguments that every command on a spec takes.

use std::path::PathBuf;

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
}

impl SpecArgs {
    /// Elaborates the spec.
    pub(crate) fn check(&self) -> Result<Checked, Failure> {
        pipeline::check_file_on(&self.spec, &self.sets, self.mesh.as_deref())
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
