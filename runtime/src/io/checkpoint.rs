//! Checkpoints: everything that a run needs to go on, in a folder a step.
//!
//! ```text
//! DIR/step-000000120/tensors.safetensors
//! DIR/step-000000120/MANIFEST.json         step, plan, hash of every tensor, hash of itself
//! ```
//!
//! # Invariants
//! - A checkpoint is written under a temporary name, synced, and renamed: a folder named `step-…`
//!   was complete when it appeared.
//! - Loading verifies every hash before a value is handed out, and falls back to the newest
//!   checkpoint that is intact, saying which it skipped.
//! - Nothing is deleted by saving; [`prune`] keeps at least two.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::safetensors::{self, Weights};
use super::{IoError, durable};
use crate::{HostTensor, RuntimeError, Session};

/// Version of the manifest.
const FORMAT: u64 = 1;
/// Largest manifest that is read.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;
const TENSORS: &str = "tensors.safetensors";
const MANIFEST: &str = "MANIFEST.json";

/// The state of a run after a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Steps taken.
    pub step: u64,
    /// Hash or name of the plan whose tensors these are.
    pub plan: String,
    /// What else the run must remember: the data's cursor, seeds.
    pub extra: BTreeMap<String, String>,
    /// Every persistent tensor by name.
    pub tensors: BTreeMap<String, HostTensor>,
}

/// A checkpoint that could not be used, and why.
#[derive(Debug)]
pub struct Skipped {
    /// Its folder.
    pub folder: PathBuf,
    /// What is wrong with it.
    pub error: IoError,
}

impl Checkpoint {
    /// Takes every persistent tensor of a session.
    ///
    /// # Errors
    /// Those of [`Session::tensor`].
    pub fn of(session: &Session, step: u64, plan: &str) -> Result<Checkpoint, RuntimeError> {
        let mut tensors = BTreeMap::new();
        for decl in &session.plan().tensors {
            tensors.insert(decl.name.clone(), session.tensor(&decl.name)?);
        }
        Ok(Checkpoint { step, plan: plan.to_owned(), extra: BTreeMap::new(), tensors })
    }

    /// Sets every persistent tensor of a session.
    ///
    /// # Errors
    /// A tensor of the plan that the checkpoint lacks, or has in another type; nothing is set then.
    pub fn restore(&self, session: &mut Session) -> Result<(), RuntimeError> {
        let decls = session.plan().tensors.clone();
        for decl in &decls {
            let unknown = || RuntimeError::UnknownTensor { name: decl.name.clone() };
            let value = self.tensors.get(&decl.name).ok_or_else(unknown)?;
            if value.dtype() != decl.dtype || value.shape() != decl.shape {
                return Err(RuntimeError::TensorType {
                    name: decl.name.clone(),
                    expected: crate::tensor::type_name(decl.dtype, &decl.shape),
                    found: value.type_name(),
                });
            }
        }
        for decl in &decls {
            session.set_tensor(&decl.name, &self.tensors[&decl.name])?;
        }
        Ok(())
    }

    /// The manifest without its own hash.
    fn manifest(&self) -> Value {
        let hashes: BTreeMap<&str, String> =
            self.tensors.iter().map(|(name, tensor)| (name.as_str(), hash_of(tensor))).collect();
        json!({
            "format": FORMAT,
            "step": self.step,
            "plan": self.plan,
            "extra": self.extra,
            "tensors": hashes,
        })
    }
}

/// Hash of a tensor's type and bytes.
fn hash_of(tensor: &HostTensor) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(tensor.type_name().as_bytes());
    hasher.update(tensor.bytes());
    hasher.finalize().to_hex().to_string()
}

/// Saves a checkpoint under `folder` and returns where.
///
/// # Errors
/// When it cannot be written; no `step-…` folder appears then.
pub fn save(folder: &Path, checkpoint: &Checkpoint) -> Result<PathBuf, IoError> {
    fs::create_dir_all(folder).map_err(|source| IoError::system("make", folder, source))?;
    let target = folder.join(format!("step-{:09}", checkpoint.step));
    let temporary = folder.join(format!(".tmp-{}-{}", checkpoint.step, std::process::id()));
    let written = fill(&temporary, checkpoint).and_then(|()| {
        if target.exists() {
            // The same step again, after a fall back: the new one replaces it.
            remove(&target)?;
        }
        fs::rename(&temporary, &target).map_err(|source| IoError::system("make", &target, source))
    });
    if let Err(error) = written {
        // The first error is the one to tell.
        let _ = fs::remove_dir_all(&temporary);
        return Err(error);
    }
    durable::sync_folder(folder)?;
    Ok(target)
}

fn fill(temporary: &Path, checkpoint: &Checkpoint) -> Result<(), IoError> {
    fs::create_dir_all(temporary).map_err(|source| IoError::system("make", temporary, source))?;
    let tensors: Vec<(&str, &HostTensor)> =
        checkpoint.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    safetensors::write(&temporary.join(TENSORS), &tensors)?;
    let body = checkpoint.manifest();
    let hash = blake3::hash(body.to_string().as_bytes()).to_hex().to_string();
    let manifest = json!({ "body": body, "blake3": hash });
    durable::write_file(&temporary.join(MANIFEST), |out| {
        out.write_all(format!("{manifest:#}\n").as_bytes())
    })
}

/// Deletes a checkpoint's folder, first taking its name away so that no half is ever loaded.
fn remove(folder: &Path) -> Result<(), IoError> {
    let fail = |source| IoError::system("delete", folder, source);
    let doomed = folder.with_extension(format!("del-{}", std::process::id()));
    fs::rename(folder, &doomed).map_err(fail)?;
    fs::remove_dir_all(&doomed).map_err(fail)
}

/// The checkpoints under a folder, oldest first; none when there is no such folder.
///
/// # Errors
/// When the folder cannot be listed.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, IoError> {
    let fail = |source| IoError::system("list", folder, source);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut steps = BTreeMap::new();
    for entry in entries {
        let name = entry.map_err(fail)?.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-"));
        if let Some(step) = step.and_then(|digits| digits.parse::<u64>().ok()) {
            steps.insert(step, folder.join(&name));
        }
    }
    Ok(steps.into_values().collect())
}

/// Loads one checkpoint, verifying everything.
///
/// # Errors
/// When a file is missing or damaged; the message names file and tensor.
pub fn load(folder: &Path) -> Result<Checkpoint, IoError> {
    let path = folder.join(MANIFEST);
    let fail = |source| IoError::system("read", &path, source);
    if fs::metadata(&path).map_err(fail)?.len() > MAX_MANIFEST_BYTES {
        return Err(IoError::format(&path, "it is too large"));
    }
    let text = fs::read_to_string(&path).map_err(fail)?;
    let manifest: Value =
        serde_json::from_str(&text).map_err(|error| IoError::format(&path, error.to_string()))?;
    let body = &manifest["body"];
    let hash = blake3::hash(body.to_string().as_bytes()).to_hex().to_string();
    if manifest["blake3"].as_str() != Some(hash.as_str()) {
        return Err(IoError::format(&path, "its hash does not match"));
    }
    if body["format"].as_u64() != Some(FORMAT) {
        return Err(IoError::format(&path, format!("its format is {}", body["format"])));
    }
    let missing = |what: &str| IoError::format(&path, format!("`{what}` is missing"));
    let texts = |key: &str| -> Result<BTreeMap<String, String>, IoError> {
        let object = body[key].as_object().ok_or_else(|| missing(key))?;
        let pair = |(k, v): (&String, &Value)| Some((k.clone(), v.as_str()?.to_owned()));
        object.iter().map(pair).collect::<Option<_>>().ok_or_else(|| missing(key))
    };
    let tensors = load_tensors(&folder.join(TENSORS), &texts("tensors")?)?;
    Ok(Checkpoint {
        step: body["step"].as_u64().ok_or_else(|| missing("step"))?,
        plan: body["plan"].as_str().ok_or_else(|| missing("plan"))?.to_owned(),
        extra: texts("extra")?,
        tensors,
    })
}

fn load_tensors(
    path: &Path,
    hashes: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, HostTensor>, IoError> {
    let weights = Weights::open(path)?;
    if let Some(stray) = weights.names().find(|name| !hashes.contains_key(*name)) {
        return Err(IoError::format(path, format!("the manifest does not know `{stray}`")));
    }
    let mut tensors = BTreeMap::new();
    for (name, hash) in hashes {
        let tensor = weights.read(name)?;
        if hash_of(&tensor) != *hash {
            return Err(IoError::Tensor {
                path: path.to_owned(),
                tensor: name.clone(),
                what: "its hash does not match the manifest".to_owned(),
            });
        }
        tensors.insert(name.clone(), tensor);
    }
    Ok(tensors)
}

/// Loads the newest intact checkpoint of a plan, with the newer ones that were skipped.
///
/// # Errors
/// When the folder cannot be listed.
pub fn load_newest(
    folder: &Path,
    plan: &str,
) -> Result<(Option<Checkpoint>, Vec<Skipped>), IoError> {
    let mut skipped = Vec::new();
    for folder in list(folder)?.into_iter().rev() {
        match load(&folder) {
            Ok(checkpoint) if checkpoint.plan == plan => return Ok((Some(checkpoint), skipped)),
            Ok(other) => {
                let what = format!("it belongs to the plan `{}`, not `{plan}`", other.plan);
                let error = IoError::format(&folder, what);
                skipped.push(Skipped { folder, error });
            }
            Err(error) => skipped.push(Skipped { folder, error }),
        }
    }
    Ok((None, skipped))
}

/// Deletes all but the newest `keep` checkpoints that are intact; at least two are kept.
///
/// # Errors
/// When a folder cannot be listed or deleted.
pub fn prune(folder: &Path, keep: usize) -> Result<(), IoError> {
    let mut intact = 0;
    for folder in list(folder)?.into_iter().rev() {
        if intact >= keep.max(2) {
            remove(&folder)?;
        } else if load(&folder).is_ok() {
            intact += 1;
        }
    }
    durable::sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(step: u64) -> Checkpoint {
        let values: Vec<f32> = (0..40).map(|i| i as f32 * 0.5 + step as f32).collect();
        let w = HostTensor::from_f32(&[5, 8], &values).expect("it fits");
        let m = HostTensor::scalar_f32(step as f32);
        Checkpoint {
            step,
            plan: "plan-hash".to_owned(),
            extra: BTreeMap::from([("cursor".to_owned(), step.to_string())]),
            tensors: BTreeMap::from([("w".to_owned(), w), ("w/momentum".to_owned(), m)]),
        }
    }

    #[test]
    fn the_newest_intact_checkpoint_is_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        for step in [2, 10, 9] {
            save(folder.path(), &checkpoint(step)).expect("it saves");
        }
        save(folder.path(), &checkpoint(10)).expect("it saves again");
        let (found, skipped) = load_newest(folder.path(), "plan-hash").expect("it lists");
        assert_eq!(found, Some(checkpoint(10)));
        assert!(skipped.is_empty());
        let (found, skipped) = load_newest(folder.path(), "another").expect("it lists");
        assert_eq!((found, skipped.len()), (None, 3));
        let nothing = load_newest(&folder.path().join("none"), "plan-hash").expect("it lists");
        assert_eq!(nothing.0, None);
    }

    #[test]
    fn every_flipped_byte_is_noticed_and_the_older_one_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        save(folder.path(), &checkpoint(1)).expect("it saves");
        let newest = save(folder.path(), &checkpoint(2)).expect("it saves");
        for file in [TENSORS, MANIFEST] {
            let path = newest.join(file);
            let whole = fs::read(&path).expect("it reads");
            for i in (0..whole.len()).step_by(7) {
                let mut bad = whole.clone();
                bad[i] ^= 0x08;
                fs::write(&path, &bad).expect("it writes");
                // A flip between JSON's blanks may change nothing; values never differ.
                let (found, skipped) = load_newest(folder.path(), "plan-hash").expect("it lists");
                match skipped.len() {
                    0 => assert_eq!(found, Some(checkpoint(2)), "{file} byte {i}"),
                    _ => assert_eq!(found, Some(checkpoint(1)), "{file} byte {i}"),
                }
            }
            fs::write(&path, &whole).expect("it writes");
        }
    }

    #[test]
    fn pruning_keeps_the_newest_intact_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        for step in 1..=5 {
            save(folder.path(), &checkpoint(step)).expect("it saves");
        }
        let newest = folder.path().join("step-000000005");
        fs::remove_file(newest.join(TENSORS)).expect("it deletes");
        prune(folder.path(), 1).expect("it prunes");
        let left: Vec<_> = list(folder.path()).expect("it lists");
        let names: Vec<_> = left.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["step-000000003", "step-000000004", "step-000000005"]);
    }
}
