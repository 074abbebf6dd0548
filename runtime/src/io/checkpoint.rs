//! Checkpoints of a run: folders that are there whole or not at all, newest valid one wins.
//!
//! ```text
//! checkpoints/
//!   step-200/  weights.safetensors  state.safetensors  MANIFEST.json
//!   step-400/  …
//!   .tmp-600   being written      .del-100   being removed      .lock   held while saving
//! ```
//!
//! # Invariants
//! - A folder has the name `step-N` only after everything in it is durable: write under `.tmp-N`,
//!   fsync each file and the folder, rename, fsync the parent. There is no pointer file to go stale.
//! - Every byte is verified against the manifest before a value leaves this module.
//! - A save removes an old checkpoint only after at least two newer ones were verified.
//! - A checkpoint that is valid is never overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use perilune_plan::TensorKind;

pub use super::manifest::DataCursor;

use super::atomic::folder_of;
use super::manifest::{self, FileRecord, Files, MAX_MANIFEST_BYTES, Manifest};
use super::safetensors::{Encoding, SafetensorsError, SafetensorsFile, read_bounded};
use super::volume::{Disk, Fill, Volume, fill_synced};
use crate::tensor::type_name;
use crate::{HostTensor, RuntimeError, Session};

/// Fewest checkpoints that are kept: when the newest is damaged there must be another.
pub const MIN_KEPT: usize = 2;

const WEIGHTS: &str = "weights.safetensors";
const STATE: &str = "state.safetensors";
const MANIFEST: &str = "MANIFEST.json";
const LOCK: &str = ".lock";
const STEP: &str = "step-";
const TEMPORARY: &str = ".tmp-";
const REMOVED: &str = ".del-";

/// What can go wrong with checkpoints.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file system refused.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file of a checkpoint cannot be read or written.
    #[error(transparent)]
    File(#[from] SafetensorsError),
    /// A file is not the one that was saved.
    #[error("`{}` is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// A checkpoint was written in a form that is not read here.
    #[error("`{}` has the format `{found}`, which is not read here", path.display())]
    Format {
        /// Its manifest.
        path: PathBuf,
        /// The format it names.
        found: String,
    },
    /// There are checkpoints, but none is valid.
    #[error("no checkpoint in `{}` is valid; skipped {}", folder.display(), describe(skipped))]
    NoneValid {
        /// The folder.
        folder: PathBuf,
        /// Every one, newest first.
        skipped: Vec<Skipped>,
    },
    /// Fewer checkpoints would be kept than is safe.
    #[error("cannot keep {keep} checkpoints, at least {MIN_KEPT} are needed")]
    Keep {
        /// How many were asked for.
        keep: usize,
    },
    /// Another process is saving into the folder.
    #[error("`{}` is in use by another process", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// A valid checkpoint of another run has the name.
    #[error("`{}` is a valid checkpoint with other contents", path.display())]
    Occupied {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The checkpoint belongs to another plan.
    #[error("the checkpoint is of plan {found}, not {expected}")]
    Plan {
        /// The plan at hand.
        expected: String,
        /// The plan that was saved.
        found: String,
    },
}

impl CheckpointError {
    /// Whether a checkpoint that cannot be read is lost, rather than out of reach for now or of another form.
    fn is_damage(&self) -> bool {
        let lost = |error: &io::Error| {
            matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof)
        };
        match self {
            Self::Io { source, .. } | Self::File(SafetensorsError::Io { source, .. }) => {
                lost(source)
            }
            Self::File(_) | Self::Damaged { .. } => true,
            _ => false,
        }
    }
}

/// A checkpoint that was passed over, and why.
#[derive(Debug)]
pub struct Skipped {
    /// Its step.
    pub step: u64,
    /// What is wrong with it.
    pub reason: Box<CheckpointError>,
}

/// Everything that a run needs to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Steps done.
    pub step: u64,
    /// Hash of the plan.
    pub plan: String,
    /// Where the data stands.
    pub data: DataCursor,
    /// Parameters and buffers, by name.
    pub weights: BTreeMap<String, HostTensor>,
    /// State of the optimizer, by name.
    pub state: BTreeMap<String, HostTensor>,
}

impl Snapshot {
    /// Takes every persistent tensor of a session.
    ///
    /// # Errors
    /// Those of [`Session::tensor`].
    pub fn of(
        session: &Session,
        step: u64,
        plan: &str,
        data: DataCursor,
    ) -> Result<Self, RuntimeError> {
        let (mut weights, mut state) = (BTreeMap::new(), BTreeMap::new());
        for decl in session.plan().tensors.iter().filter(|decl| session.holds(decl)) {
            let kept = match decl.kind {
                TensorKind::Param | TensorKind::Buffer => &mut weights,
                TensorKind::State => &mut state,
            };
            kept.insert(decl.name.clone(), session.tensor(&decl.name)?);
        }
        Ok(Snapshot { step, plan: plan.to_owned(), data, weights, state })
    }

    /// Sets every persistent tensor that a session holds.
    ///
    /// # Errors
    /// [`RuntimeError::UnknownTensor`] for a tensor of the plan that the snapshot lacks,
    /// [`RuntimeError::TensorType`] for one of another type; nothing is set then.
    pub fn restore(&self, session: &mut Session) -> Result<(), RuntimeError> {
        let mut decls = session.plan().tensors.clone();
        decls.retain(|decl| session.holds(decl));
        let mut values = Vec::with_capacity(decls.len());
        for decl in &decls {
            let kept = match decl.kind {
                TensorKind::Param | TensorKind::Buffer => &self.weights,
                TensorKind::State => &self.state,
            };
            let unknown = || RuntimeError::UnknownTensor { name: decl.name.clone() };
            let value = kept.get(&decl.name).ok_or_else(unknown)?;
            if value.dtype() != decl.dtype || value.shape() != decl.shape {
                return Err(RuntimeError::TensorType {
                    name: decl.name.clone(),
                    expected: type_name(decl.dtype, &decl.shape),
                    found: value.type_name(),
                });
            }
            values.push(value);
        }
        for (decl, value) in decls.iter().zip(values) {
            session.set_tensor(&decl.name, value)?;
        }
        Ok(())
    }

    /// Checks that the snapshot belongs to a plan.
    ///
    /// # Errors
    /// [`CheckpointError::Plan`] where it does not.
    pub fn expect_plan(&self, hash: &str) -> Result<(), CheckpointError> {
        if self.plan == hash {
            return Ok(());
        }
        Err(CheckpointError::Plan { expected: hash.to_owned(), found: self.plan.clone() })
    }
}

/// A snapshot that was found, and what had to be passed over to find it.
#[derive(Debug)]
pub struct Loaded {
    /// The newest valid one.
    pub snapshot: Snapshot,
    /// Newer ones that are damaged, newest first.
    pub skipped: Vec<Skipped>,
}

/// What a save did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The checkpoint's folder.
    pub path: PathBuf,
    /// Steps of the old checkpoints that were removed.
    pub removed: Vec<u64>,
}

/// A folder of checkpoints.
pub struct Store {
    root: PathBuf,
    keep: usize,
    volume: Box<dyn Volume>,
    /// Checkpoints that this process has verified.
    verified: BTreeSet<u64>,
}

impl Store {
    /// A store in `root`, which need not exist yet, that keeps the newest `keep` valid checkpoints.
    ///
    /// # Errors
    /// [`CheckpointError::Keep`] below [`MIN_KEPT`].
    pub fn new(root: &Path, keep: usize) -> Result<Self, CheckpointError> {
        if keep < MIN_KEPT {
            return Err(CheckpointError::Keep { keep });
        }
        let root = root.to_path_buf();
        Ok(Store { root, keep, volume: Box::new(Disk), verified: BTreeSet::new() })
    }

    /// Steps that have a checkpoint, valid or not, ascending.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] where the folder cannot be listed; a missing one has none.
    pub fn steps(&self) -> Result<Vec<u64>, CheckpointError> {
        let mut steps: Vec<u64> =
            self.names()?.iter().filter_map(|name| step_of(name, STEP)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Saves a snapshot, then removes checkpoints that are no longer needed.
    ///
    /// Saving again what is already there is no work; a damaged checkpoint of the same step is replaced once
    /// the new one is written.
    ///
    /// # Errors
    /// [`CheckpointError`], also where the checkpoint of the same step cannot be read and may be valid; the
    /// checkpoints there were stay as they were.
    pub fn save(&mut self, snapshot: &Snapshot) -> Result<Saved, CheckpointError> {
        let _lock = self.lock()?;
        self.sweep()?;
        let path = self.folder(STEP, snapshot.step);
        let (weights, state) = (encode(&snapshot.weights)?, encode(&snapshot.state)?);
        let files = Files {
            weights: FileRecord::of(&weights, &snapshot.weights),
            state: FileRecord::of(&state, &snapshot.state),
        };
        let (plan, data) = (snapshot.plan.clone(), snapshot.data.clone());
        let manifest = Manifest::new(snapshot.step, plan, data, files);
        let occupied = path.is_dir();
        if occupied {
            match self.read(snapshot.step) {
                Ok((there, _)) if there == manifest => {
                    return Ok(Saved { path, removed: Vec::new() });
                }
                Ok(_) => return Err(CheckpointError::Occupied { path }),
                Err(error) if !error.is_damage() => return Err(error),
                Err(_) => {}
            }
        }
        let temporary = self.folder(TEMPORARY, snapshot.step);
        self.volume.create_folder(&temporary).map_err(|e| io_error(&temporary, e))?;
        if let Err(error) = self.fill(&temporary, (&weights, &state), &manifest) {
            // Room for the next attempt; the first error is the one to report.
            let _ = self.volume.remove_folder(&temporary);
            return Err(error);
        }
        let damaged = self.folder(REMOVED, snapshot.step);
        if occupied {
            self.volume.rename(&path, &damaged).map_err(|e| io_error(&path, e))?;
        }
        self.volume.rename(&temporary, &path).map_err(|e| io_error(&temporary, e))?;
        self.volume.sync_folder(&self.root).map_err(|e| io_error(&self.root, e))?;
        if occupied {
            self.volume.remove_folder(&damaged).map_err(|e| io_error(&damaged, e))?;
        }
        self.verified.remove(&snapshot.step);
        let removed = self.retain()?;
        Ok(Saved { path, removed })
    }

    /// Removes every checkpoint, the oldest first: what is left is always the newest of a run.
    ///
    /// # Errors
    /// [`CheckpointError`]; those not removed yet stay as they were.
    pub fn clear(&mut self) -> Result<(), CheckpointError> {
        // Taking the lock would make the folder.
        if self.steps()?.is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.sweep()?;
        for step in self.steps()? {
            self.remove(step)?;
            self.verified.remove(&step);
        }
        Ok(())
    }

    /// Writes a checkpoint's files and makes them durable.
    fn fill(
        &self,
        folder: &Path,
        (weights, state): (&Encoding<'_>, &Encoding<'_>),
        manifest: &Manifest,
    ) -> Result<(), CheckpointError> {
        let path = folder.join(MANIFEST);
        let text = manifest.to_json().map_err(|e| io_error(&path, io::Error::other(e)))?;
        self.write(&folder.join(WEIGHTS), &mut |out| weights.write(out))?;
        self.write(&folder.join(STATE), &mut |out| state.write(out))?;
        self.write(&path, &mut |out| out.write_all(&text))?;
        self.volume.sync_folder(folder).map_err(|e| io_error(folder, e))
    }

    /// Reads and verifies the checkpoint of a step.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file and, where it can, the tensor.
    pub fn load(&self, step: u64) -> Result<Snapshot, CheckpointError> {
        Ok(self.read(step)?.1)
    }

    /// The newest valid checkpoint; `None` where there is none at all.
    ///
    /// # Errors
    /// [`CheckpointError::NoneValid`] where there are some and all are damaged.
    pub fn load_newest(&self) -> Result<Option<Loaded>, CheckpointError> {
        let mut skipped = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match self.load(step) {
                Ok(snapshot) => return Ok(Some(Loaded { snapshot, skipped })),
                Err(reason) => skipped.push(Skipped { step, reason: Box::new(reason) }),
            }
        }
        if skipped.is_empty() {
            return Ok(None);
        }
        Err(CheckpointError::NoneValid { folder: self.root.clone(), skipped })
    }

    fn read(&self, step: u64) -> Result<(Manifest, Snapshot), CheckpointError> {
        let folder = self.folder(STEP, step);
        let path = folder.join(MANIFEST);
        let text = read_bounded(&path, MAX_MANIFEST_BYTES)?;
        if let Some(found) = manifest::foreign_format(&text) {
            return Err(CheckpointError::Format { path, found });
        }
        let manifest = Manifest::parse(&text)
            .map_err(|what| CheckpointError::Damaged { path: path.clone(), what })?;
        if manifest.step != step {
            let what = format!("it is of step {}", manifest.step);
            return Err(CheckpointError::Damaged { path, what });
        }
        let snapshot = Snapshot {
            step,
            plan: manifest.plan.clone(),
            data: manifest.data.clone(),
            weights: read_file(&folder.join(WEIGHTS), &manifest.weights)?,
            state: read_file(&folder.join(STATE), &manifest.state)?,
        };
        Ok((manifest, snapshot))
    }

    fn write(&self, path: &Path, fill: Fill<'_>) -> Result<(), CheckpointError> {
        let sink = self.volume.create(path);
        sink.and_then(|sink| fill_synced(sink, fill)).map_err(|e| io_error(path, e))
    }

    /// Removes what is older than the newest `keep` valid checkpoints; damaged ones among the newer
    /// ones stay, for a person to look at.
    fn retain(&mut self) -> Result<Vec<u64>, CheckpointError> {
        let mut steps = self.steps()?;
        if steps.len() <= self.keep {
            return Ok(Vec::new());
        }
        let mut valid = 0;
        while valid < self.keep {
            let Some(step) = steps.pop() else { return Ok(Vec::new()) };
            if self.verified.contains(&step) || self.load(step).is_ok() {
                self.verified.insert(step);
                valid += 1;
            }
        }
        for step in &steps {
            self.remove(*step)?;
            self.verified.remove(step);
        }
        Ok(steps)
    }

    /// Takes a checkpoint's name away, durably, and then its files.
    fn remove(&self, step: u64) -> Result<(), CheckpointError> {
        let (path, removed) = (self.folder(STEP, step), self.folder(REMOVED, step));
        self.volume.rename(&path, &removed).map_err(|e| io_error(&path, e))?;
        self.volume.sync_folder(&self.root).map_err(|e| io_error(&self.root, e))?;
        self.volume.remove_folder(&removed).map_err(|e| io_error(&removed, e))
    }

    /// Removes what killed saves left; the lock says that no save is alive.
    fn sweep(&self) -> Result<(), CheckpointError> {
        for name in self.names()? {
            if step_of(&name, TEMPORARY).or(step_of(&name, REMOVED)).is_some() {
                let path = self.root.join(name);
                self.volume.remove_folder(&path).map_err(|e| io_error(&path, e))?;
            }
        }
        Ok(())
    }

    /// Makes the folder and keeps other processes from saving into it.
    fn lock(&self) -> Result<File, CheckpointError> {
        if !self.root.is_dir() {
            fs::create_dir_all(&self.root).map_err(|e| io_error(&self.root, e))?;
            let parent = folder_of(&self.root);
            self.volume.sync_folder(&parent).map_err(|e| io_error(&parent, e))?;
        }
        let path = self.root.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| io_error(&path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err(CheckpointError::Busy { folder: self.root.clone() })
            }
            Err(TryLockError::Error(error)) => Err(io_error(&path, error)),
        }
    }

    /// Names of the folders in the root.
    fn names(&self) -> Result<Vec<String>, CheckpointError> {
        let error = |e| io_error(&self.root, e);
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(error)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(error)?;
            if entry.file_type().map_err(error)?.is_dir() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn folder(&self, prefix: &str, step: u64) -> PathBuf {
        self.root.join(format!("{prefix}{step}"))
    }
}

/// The step in a folder's name, if it is spelt as this module spells it.
fn step_of(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    let step: u64 = digits.parse().ok()?;
    (step.to_string() == digits).then_some(step)
}

fn encode(tensors: &BTreeMap<String, HostTensor>) -> Result<Encoding<'_>, CheckpointError> {
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    Ok(Encoding::new(named, None)?)
}

fn read_file(
    path: &Path,
    record: &FileRecord,
) -> Result<BTreeMap<String, HostTensor>, CheckpointError> {
    let damaged = |what| CheckpointError::Damaged { path: path.to_path_buf(), what };
    let file = SafetensorsFile::open(path)?;
    record.verify_header(&file).map_err(damaged)?;
    let mut tensors = BTreeMap::new();
    for name in file.tensors().keys() {
        let tensor = file.read(name)?;
        record.verify_tensor(name, &tensor).map_err(damaged)?;
        tensors.insert(name.clone(), tensor);
    }
    Ok(tensors)
}

fn io_error(path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_path_buf(), source }
}

fn describe(skipped: &[Skipped]) -> String {
    let each: Vec<String> =
        skipped.iter().map(|one| format!("step {} ({})", one.step, one.reason)).collect();
    each.join(", ")
}

#[cfg(test)]
mod tests;
