//! Files a run reads and leaves: weights and checkpoints.
//!
//! # Invariants
//! - A file appears under its name whole and on disk, or not at all.
//! - Equal tensors give equal bytes.

pub mod safetensors;
pub mod checkpoint;
mod durable;

use std::path::{Path, PathBuf};

/// What can go wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The system refused.
    #[error("cannot {what} `{path}`: {source}")]
    System {
        /// `read`, `write`, …
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("`{path}` is damaged or of another kind: {what}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The file has no such tensor.
    #[error("`{path}` has no tensor `{tensor}`")]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
    },
    /// A tensor's values cannot be represented here.
    #[error("`{path}`, tensor `{tensor}`: {what}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        what: String,
    },
}

impl IoError {
    pub(crate) fn system(what: &'static str, path: &Path, source: std::io::Error) -> IoError {
        IoError::System { what, path: path.to_owned(), source }
    }

    pub(crate) fn format(path: &Path, what: impl Into<String>) -> IoError {
        IoError::Format { path: path.to_owned(), what: what.into() }
    }
}
