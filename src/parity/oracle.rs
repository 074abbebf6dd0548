//! An oracle folder: a checkpoint, inputs, and whatever expected values are there.
//!
//! # Invariants
//! - Files that are absent are not checked; files that are damaged are an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use perilune_runtime::HostTensor;
use perilune_runtime::io::weights::Weights;
use serde_json::Value;

use crate::exit::{Exit, Failure};

/// Values of an expected file by name.
pub(super) type Expected = BTreeMap<String, HostTensor>;

/// A folder in the form of `tests/golden`.
#[derive(Clone, Debug)]
pub(super) struct Oracle {
    dir: PathBuf,
}

impl Oracle {
    /// Opens a folder; it must hold a config and a checkpoint.
    ///
    /// # Errors
    /// When the folder lacks one of them.
    pub(super) fn open(dir: &Path) -> Result<Self, Failure> {
        let oracle = Oracle { dir: dir.to_path_buf() };
        for needed in ["config.json", "model.safetensors", "inputs.safetensors"] {
            if !oracle.path(needed).is_file() {
                let headline = format!("`{}` lacks {needed}", dir.display());
                return Err(Failure::new(Exit::Spec, headline).help(
                    "a folder holds config.json, model.safetensors and inputs.safetensors; \
                     docs/parity.md says how to make one",
                ));
            }
        }
        Ok(oracle)
    }

    /// Path of one of its files.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// A JSON file, if it is there.
    ///
    /// # Errors
    /// When it is not JSON.
    pub(super) fn json(&self, file: &str) -> Result<Option<Value>, Failure> {
        let path = self.path(file);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, &e))?;
        serde_json::from_str(&text).map(Some).map_err(|e| unreadable(&path, &e))
    }

    /// A safetensors file, if it is there.
    ///
    /// # Errors
    /// When it is damaged.
    pub(super) fn tensors(&self, file: &str) -> Result<Option<Expected>, Failure> {
        let path = self.path(file);
        if !path.is_file() {
            return Ok(None);
        }
        let weights = Weights::open(&path).map_err(|e| unreadable(&path, &e))?;
        let names: Vec<String> = weights.names().map(str::to_owned).collect();
        let read = |n: String| match weights.read(&n) {
            Ok(tensor) => Ok((n, tensor)),
            Err(e) => Err(unreadable(&path, &e)),
        };
        names.into_iter().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// A safetensors file that must be there.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub(super) fn need(&self, file: &str) -> Result<Expected, Failure> {
        let missing =
            || Failure::new(Exit::Spec, format!("`{}` is missing", self.path(file).display()));
        self.tensors(file)?.ok_or_else(missing)
    }
}

/// One tensor of a file.
///
/// # Errors
/// When the file lacks it.
pub(super) fn tensor<'a>(file: &'a Expected, name: &str) -> Result<&'a HostTensor, Failure> {
    let missing = || Failure::new(Exit::Spec, format!("the oracle lacks tensor `{name}`"));
    file.get(name).ok_or_else(missing)
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Integrity, format!("`{}` cannot be read: {error}", path.display()))
}
