//! What a checkpoint says of itself: the step, what it belongs to, and a hash for every byte.
//!
//! # Invariants
//! - One manifest has one spelling: a text that is not the one [`Manifest::to_json`] gives is refused,
//!   so no byte of it can change unseen.
//! - Headers and tensors together are all the bytes of a file, and each is hashed once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::safetensors::{Encoding, SafetensorsFile};
use crate::HostTensor;

/// The longest manifest that is read.
pub(super) const MAX_MANIFEST_BYTES: u64 = 128 << 20;

/// The form of checkpoint that is written.
const FORMAT: &str = "perilune-checkpoint/1";

/// How the names of all forms begin.
const FORMATS: &str = "perilune-checkpoint/";

/// The form that a manifest names, if it is one of ours that is not read here; its other contents may be
/// anything.
pub(super) fn foreign_format(text: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let format = value.get("manifest")?.get("format")?.as_str()?;
    (format.starts_with(FORMATS) && format != FORMAT).then(|| format.to_owned())
}

/// Where a run stands in its data: batch `step` depends on these alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataCursor {
    /// Identity of the data, for instance its hash.
    pub source: String,
    /// Seed of the batches.
    pub seed: u64,
    /// The next batch.
    pub step: u64,
}

/// The contents of `MANIFEST.json`, less its own hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) format: String,
    pub(super) step: u64,
    pub(super) plan: String,
    pub(super) data: DataCursor,
    pub(super) weights: FileRecord,
    pub(super) state: FileRecord,
}

/// What a manifest says of one safetensors file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRecord {
    bytes: u64,
    header_blake3: String,
    tensors: BTreeMap<String, TensorRecord>,
}

/// What a manifest says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorRecord {
    dtype: String,
    shape: Vec<u64>,
    blake3: String,
}

/// A manifest and its hash, as the file has them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    manifest: Manifest,
    manifest_blake3: String,
}

/// The two files of a checkpoint, as a manifest records them.
pub(super) struct Files {
    pub(super) weights: FileRecord,
    pub(super) state: FileRecord,
}

impl Manifest {
    /// A manifest of the form written today.
    pub(super) fn new(step: u64, plan: String, data: DataCursor, files: Files) -> Self {
        let Files { weights, state } = files;
        Manifest { format: FORMAT.to_owned(), step, plan, data, weights, state }
    }

    /// The text of `MANIFEST.json`.
    pub(super) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let manifest_blake3 = blake3::hash(&serde_json::to_vec(self)?).to_hex().to_string();
        let sealed = Sealed { manifest: self.clone(), manifest_blake3 };
        let mut text = serde_json::to_vec_pretty(&sealed)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads `MANIFEST.json`; says what is wrong where the text is not exactly a manifest's.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let sealed: Sealed = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let manifest = sealed.manifest;
        if manifest.format != FORMAT {
            return Err(format!("the format is `{}`, expected `{FORMAT}`", manifest.format));
        }
        if manifest.to_json().map_err(|error| error.to_string())? != text {
            return Err("it does not match its own hash".into());
        }
        Ok(manifest)
    }
}

impl FileRecord {
    /// Records a file that is about to be written.
    pub(super) fn of(encoding: &Encoding<'_>, tensors: &BTreeMap<String, HostTensor>) -> Self {
        let record = |(name, tensor): (&String, &HostTensor)| (name.clone(), record(tensor));
        FileRecord {
            bytes: encoding.file_bytes(),
            header_blake3: encoding.header_hash().to_hex().to_string(),
            tensors: tensors.iter().map(record).collect(),
        }
    }

    /// Compares a file's length and header; says what differs.
    pub(super) fn verify_header(&self, file: &SafetensorsFile) -> Result<(), String> {
        if file.file_bytes() != self.bytes {
            return Err(format!("{} bytes, expected {}", file.file_bytes(), self.bytes));
        }
        if file.header_hash().to_hex().as_str() != self.header_blake3 {
            return Err("the header does not match its hash".into());
        }
        if !file.tensors().keys().eq(self.tensors.keys()) {
            return Err("the tensors are not those of the manifest".into());
        }
        Ok(())
    }

    /// Compares a tensor that was read; says what differs.
    pub(super) fn verify_tensor(&self, name: &str, tensor: &HostTensor) -> Result<(), String> {
        match self.tensors.get(name) {
            Some(expected) if *expected == record(tensor) => Ok(()),
            Some(_) => Err(format!("tensor `{name}` does not match its hash")),
            None => Err(format!("tensor `{name}` is not in the manifest")),
        }
    }
}

fn record(tensor: &HostTensor) -> TensorRecord {
    TensorRecord {
        dtype: tensor.dtype().to_string(),
        shape: tensor.shape().to_vec(),
        blake3: blake3::hash(tensor.bytes()).to_hex().to_string(),
    }
}
