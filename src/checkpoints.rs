//! Checkpoints of a training run: what is saved, and what a run may go on from.
//!
//! # Invariants
//! - A run goes on only from a checkpoint of the same plan, the same data and the same seed.
//! - Values that are not finite are never saved.

use std::path::{Path, PathBuf};

use perilune_plan::Mesh;
use perilune_runtime::io::checkpoint::{
    CheckpointError, DataCursor, Loaded, MIN_KEPT, Skipped, Snapshot, Store,
};
use perilune_runtime::{HostTensor, Session};

use crate::exit::{Exit, Failure};
use crate::pipeline::runtime;

/// Where a run's folder keeps them.
const FOLDER: &str = "checkpoints";

/// What makes a run the same run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Hash of the plan's file, and the mesh it is for; see [`Identity::plan_on`].
    pub plan: String,
    /// Hash of the data.
    pub data: String,
    /// Seed of initial weights and batches.
    pub seed: u64,
}

/// What stands between the hash of a plan and its mesh.
const ON: &str = " on ";

impl Identity {
    /// What a plan's checkpoints say they are of: the hash of its file, and its mesh.
    pub fn plan_on(hash: &str, mesh: &Mesh) -> String {
        format!("{hash}{ON}{mesh}")
    }

    /// The mesh in what a checkpoint says it is of.
    pub fn mesh_of(plan: &str) -> Option<&str> {
        Some(plan.split_once(ON)?.1)
    }
}

/// The checkpoints in a run's folder.
pub struct Checkpoints {
    folder: PathBuf,
    store: Store,
    identity: Identity,
}

impl Checkpoints {
    /// Those below a run's folder, `out/checkpoints`; the newest `keep`, at least two, are kept.
    ///
    /// # Errors
    /// None today; the store's own where it refuses the number.
    pub fn below(out: &Path, keep: u64, identity: Identity) -> Result<Self, Failure> {
        let folder = out.join(FOLDER);
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).max(MIN_KEPT);
        let store = Store::new(&folder, keep).map_err(|error| failure(&error))?;
        Ok(Checkpoints { folder, store, identity })
    }

    /// The run that they are of.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The last step that has one below a run's folder, of whatever run.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn last_below(out: &Path) -> Result<Option<u64>, Failure> {
        let store = Store::new(&out.join(FOLDER), MIN_KEPT).map_err(|error| failure(&error))?;
        Ok(store.steps().map_err(|error| failure(&error))?.last().copied())
    }

    /// The checkpoint of a step.
    ///
    /// # Errors
    /// When it is not there, or damaged.
    pub fn at(&self, step: u64) -> Result<Snapshot, Failure> {
        self.store.load(step).map_err(|error| failure(&error))
    }

    /// Steps that have one, ascending.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn steps(&self) -> Result<Vec<u64>, Failure> {
        self.store.steps().map_err(|error| failure(&error))
    }

    /// The checkpoint of a step, if it is of this run.
    ///
    /// # Errors
    /// When it is not there, damaged, or of another run.
    pub fn of_run(&self, step: u64) -> Result<Snapshot, Failure> {
        let found = self.at(step)?;
        self.expect(&found).map(|()| found)
    }

    /// The plan that the newest valid one is of, as it says.
    ///
    /// # Errors
    /// When there is none, or none is valid.
    pub fn newest_plan(&self) -> Result<String, Failure> {
        Ok(self.load_newest()?.snapshot.plan)
    }

    /// Removes all of them.
    ///
    /// # Errors
    /// When the file system refuses, or another process is saving.
    pub fn clear(&mut self) -> Result<(), Failure> {
        self.store.clear().map_err(|error| failure(&error))
    }

    /// Saves what a session holds after a step.
    ///
    /// # Errors
    /// When a value is not finite, or the checkpoint cannot be written.
    pub fn save(&mut self, session: &Session, step: u64) -> Result<(), Failure> {
        let Identity { plan, data, seed } = self.identity.clone();
        let cursor = DataCursor { source: data, seed, step: step + 1 };
        let snapshot = Snapshot::of(session, step, &plan, cursor).map_err(runtime)?;
        let tensors = snapshot.weights.iter().chain(&snapshot.state);
        if let Some((name, _)) = tensors.into_iter().find(|(_, tensor)| !finite(tensor)) {
            let headline = format!("after step {step} `{name}` is not finite");
            return Err(Failure::new(Exit::NonFinite, headline)
                .help("`skip_nonfinite: true` keeps such steps from the weights"));
        }
        self.store.save(&snapshot).map(drop).map_err(|error| failure(&error))
    }

    /// The newest valid checkpoint of this run, and newer ones that are damaged.
    ///
    /// # Errors
    /// When there is none, none is valid, or it belongs to another run.
    pub fn newest(&self) -> Result<(Snapshot, Vec<Skipped>), Failure> {
        let loaded = self.load_newest()?;
        self.expect(&loaded.snapshot)?;
        Ok((loaded.snapshot, loaded.skipped))
    }

    fn load_newest(&self) -> Result<Loaded, Failure> {
        self.store.load_newest().map_err(|error| failure(&error))?.ok_or_else(|| {
            Failure::input(format!("`{}` has no checkpoint to go on from", self.folder.display()))
                .help("leave out --resume to start a run, or give the run's folder with --out")
        })
    }

    /// A checkpoint must be of this run.
    fn expect(&self, found: &Snapshot) -> Result<(), Failure> {
        let differs = match &self.identity {
            own if found.plan != own.plan => "another plan",
            own if found.data.source != own.data => "other data",
            own if found.data.seed != own.seed => "another seed",
            _ => return Ok(()),
        };
        let place = self.folder.join(format!("step-{}", found.step));
        let headline = format!("the checkpoint `{}` is of {differs}", place.display());
        let help = match differs {
            "another plan" => {
                "the spec, its files, a `--set` or Perilune itself is not what the run began with; \
                 put it back (the mesh may be another), or start anew with --overwrite or another \
                 --out"
                    .to_owned()
            }
            "another seed" => format!("pass --seed {}", found.data.seed),
            _ => "give the text that the run began with".to_owned(),
        };
        Err(Failure::input(headline).help(help))
    }
}

fn finite(tensor: &HostTensor) -> bool {
    !tensor.dtype().is_float()
        || tensor.to_f32().is_ok_and(|values| values.iter().all(|value| value.is_finite()))
}

/// A checkpoint's error as a failure: the system's refusals are the machine's, damage the file's.
fn failure(error: &CheckpointError) -> Failure {
    let exit = match error {
        CheckpointError::Io { .. } | CheckpointError::Busy { .. } => Exit::Environment,
        CheckpointError::File(inner) => crate::pipeline::io(inner).exit(),
        CheckpointError::Keep { .. } | CheckpointError::Plan { .. } => Exit::Spec,
        _ => Exit::Integrity,
    };
    let failure = Failure::new(exit, error.to_string());
    match error {
        CheckpointError::NoneValid { .. } => {
            failure.help("start anew with --overwrite, or restore one from a copy")
        }
        CheckpointError::Busy { .. } => {
            failure.help("another run writes there; give another --out")
        }
        _ => failure,
    }
}
