//! A model's weights on disk: one safetensors file, or a folder of them with an index.
//!
//! # Invariants
//! - File names come from the index, never from guesses, and name files in the folder itself.
//! - Index and files agree: every tensor is where the index says and nowhere else.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use perilune_plan::DType;
use serde::Deserialize;

use super::safetensors::{
    Description, MAX_TENSORS, SafetensorsError, SafetensorsFile, UniqueMap, read_bounded,
};
use crate::{HostTensor, RuntimeError};

/// The index of a sharded checkpoint.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The one file of a checkpoint that is not sharded.
pub const SINGLE_FILE: &str = "model.safetensors";

/// The longest index that is read.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The most files that an index may name.
const MAX_SHARDS: usize = 4096;

/// What is wrong with a folder of weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// One of the files is at fault.
    #[error(transparent)]
    File(#[from] SafetensorsError),
    /// The folder has neither an index nor the one file.
    #[error("`{}` has neither `{INDEX_FILE}` nor `{SINGLE_FILE}`", folder.display())]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
    /// The index is not a well-formed index.
    #[error("`{}` is not a valid index: {what}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The index names a file outside its folder.
    #[error("`{}` names `{file}`, which is not a file of its folder", path.display())]
    Outside {
        /// The index.
        path: PathBuf,
        /// The name.
        file: String,
    },
    /// A file lacks tensors that the index places there.
    #[error("`{}` lacks {}", path.display(), list(names))]
    Missing {
        /// The file.
        path: PathBuf,
        /// Every tensor it lacks.
        names: Vec<String>,
    },
    /// A file has tensors that the index does not place there.
    #[error("`{}` has {}, which the index does not place there", path.display(), list(names))]
    Unlisted {
        /// The file.
        path: PathBuf,
        /// Every such tensor.
        names: Vec<String>,
    },
    /// A tensor cannot be had in the type asked for.
    #[error("tensor `{name}`: {source}")]
    Cast {
        /// The tensor.
        name: String,
        /// Both types.
        #[source]
        source: RuntimeError,
    },
    /// No tensor has this name.
    #[error("`{}` has no tensor `{name}`", path.display())]
    UnknownTensor {
        /// The file or folder.
        path: PathBuf,
        /// The name asked for.
        name: String,
    },
}

/// Weights whose headers have been checked.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    shards: Vec<SafetensorsFile>,
    shard_of: BTreeMap<String, usize>,
}

impl Weights {
    /// Opens a safetensors file, or a folder in the form of the Hugging Face hub.
    ///
    /// Links are followed, as that hub's local cache needs.
    ///
    /// # Errors
    /// [`WeightsError`] where a file cannot be read, is malformed, or disagrees with the index.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        if !path.is_dir() {
            return Self::single(path, path);
        }
        let (index, single) = (path.join(INDEX_FILE), path.join(SINGLE_FILE));
        if index.exists() {
            Self::sharded(path, &index)
        } else if single.exists() {
            Self::single(path, &single)
        } else {
            Err(WeightsError::Empty { folder: path.to_path_buf() })
        }
    }

    fn single(path: &Path, file: &Path) -> Result<Self, WeightsError> {
        let shard = SafetensorsFile::open(file)?;
        let shard_of = shard.tensors().keys().map(|name| (name.clone(), 0)).collect();
        Ok(Weights { path: path.to_path_buf(), shards: vec![shard], shard_of })
    }

    fn sharded(folder: &Path, index: &Path) -> Result<Self, WeightsError> {
        let mut shards = Vec::new();
        let mut shard_of = BTreeMap::new();
        for (file, names) in read_index(index)? {
            let shard = SafetensorsFile::open(&folder.join(file))?;
            agree(&shard, &names)?;
            shard_of.extend(names.into_iter().map(|name| (name, shards.len())));
            shards.push(shard);
        }
        Ok(Weights { path: folder.to_path_buf(), shards, shard_of })
    }

    /// Every name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.shard_of.keys().map(String::as_str)
    }

    /// Every tensor's name, type and shape; reads no data.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Description)> {
        self.names().filter_map(|name| Some((name, self.describe(name)?)))
    }

    /// Type and shape of one tensor.
    pub fn describe(&self, name: &str) -> Option<&Description> {
        self.shards.get(*self.shard_of.get(name)?)?.tensors().get(name)
    }

    /// Extents of one tensor, outermost first.
    pub fn shape(&self, name: &str) -> Option<&[u64]> {
        self.describe(name).map(Description::shape)
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// [`WeightsError`] for an unknown name, or what [`SafetensorsFile::read`] says.
    pub fn read(&self, name: &str) -> Result<HostTensor, WeightsError> {
        let shard = self.shard_of.get(name).and_then(|shard| self.shards.get(*shard));
        match shard {
            Some(shard) => Ok(shard.read(name)?),
            None => Err(WeightsError::UnknownTensor { path: self.path.clone(), name: name.into() }),
        }
    }

    /// Reads one tensor as another floating-point type.
    ///
    /// # Errors
    /// As [`Weights::read`]; [`WeightsError::Cast`] between integers and floating-point types.
    pub fn read_as(&self, name: &str, dtype: DType) -> Result<HostTensor, WeightsError> {
        let tensor = self.read(name)?;
        tensor.cast(dtype).map_err(|source| WeightsError::Cast { name: name.into(), source })
    }
}

/// The part of an index that counts; the rest is for people.
#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap,
}

/// The files that an index names, each with its tensors.
fn read_index(path: &Path) -> Result<BTreeMap<String, Vec<String>>, WeightsError> {
    let bad = |what: String| WeightsError::Index { path: path.to_path_buf(), what };
    let text = read_bounded(path, MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, file) in index.weight_map.0 {
        if !is_plain_name(&file) {
            return Err(WeightsError::Outside { path: path.to_path_buf(), file });
        }
        files.entry(file).or_default().push(name);
    }
    if files.len() > MAX_SHARDS {
        return Err(bad(format!("{} files, limit {MAX_SHARDS}", files.len())));
    }
    if let Some((file, _)) = files.iter().find(|(_, names)| names.len() > MAX_TENSORS) {
        return Err(bad(format!("more than {MAX_TENSORS} tensors in `{file}`")));
    }
    Ok(files)
}

/// Whether a name is that of an entry of a folder: no separators, no `..`.
fn is_plain_name(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    let plain = matches!(parts.next(), Some(Component::Normal(part)) if part == file);
    plain && parts.next().is_none() && !file.contains(['\\', '\0'])
}

fn agree(shard: &SafetensorsFile, names: &[String]) -> Result<(), WeightsError> {
    let path = shard.path().to_path_buf();
    let absent = names.iter().filter(|name| !shard.tensors().contains_key(*name));
    let missing: Vec<String> = absent.cloned().collect();
    if !missing.is_empty() {
        return Err(WeightsError::Missing { path, names: missing });
    }
    // `names` is sorted: it was gathered from a sorted map.
    let extra = shard.tensors().keys().filter(|name| names.binary_search(name).is_err());
    let unlisted: Vec<String> = extra.cloned().collect();
    if !unlisted.is_empty() {
        return Err(WeightsError::Unlisted { path, names: unlisted });
    }
    Ok(())
}

/// The first few names, and how many more.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(SHOWN);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{tail}", shown.join(", "))
}

#[cfg(test)]
mod tests;
