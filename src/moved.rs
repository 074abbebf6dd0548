//! Going on with a run on another mesh: a rank's tensors put together from what other ranks saved.
//!
//! # Invariants
//! - Only the mesh may differ: the spec is compiled for the mesh that saved, and must be what was run
//!   there.
//! - Every rank reads the folders of all that saved, so they must be where all ranks see them.

use std::collections::BTreeMap;
use std::path::Path;

use perilune_plan::{Mesh, Plan, TensorDecl, TensorKind};
use perilune_runtime::comm::Communicator;
use perilune_runtime::io::checkpoint::Snapshot;
use perilune_runtime::{HostTensor, shards};

use crate::checkpoints::{Checkpoints, Identity};
use crate::exit::{Exit, Failure};
use crate::pipeline::runtime;
use crate::ranks;

/// A run on the mesh that saved it.
pub struct Earlier<'a> {
    /// Its plan.
    pub plan: &'a Plan,
    /// What its checkpoints say they are of.
    pub identity: Identity,
    /// The run's folder.
    pub out: &'a Path,
}

/// Parts of the tensors of one rank, by name, then by place in the group of the rank that saved them.
type Parts = BTreeMap<String, BTreeMap<u64, HostTensor>>;

impl Earlier<'_> {
    /// What a rank of `plan` goes on from: the newest step that all ranks of the earlier mesh have.
    /// Every rank calls this.
    ///
    /// # Errors
    /// When no step is whole, or a lost rank.
    pub fn snapshot(&self, plan: &Plan, comm: &mut dyn Communicator) -> Result<Snapshot, Failure> {
        let steps = self.checkpoints(0)?.steps()?;
        let listed: Vec<u8> = steps.iter().flat_map(|step| step.to_le_bytes()).collect();
        ranks::same(comm, "checkpoints", &[&listed])?;
        let mut reason = None;
        for step in steps.into_iter().rev() {
            let found = self.at(step, plan, comm.rank());
            let all = ranks::smallest(comm, "resume", i32::from(found.is_ok()))?;
            match found {
                Ok(snapshot) if all == 1 => return Ok(snapshot),
                Ok(_) => {}
                Err(failure) => reason = Some(failure),
            }
        }
        Err(reason.unwrap_or_else(|| {
            Failure::new(Exit::Integrity, "other ranks find no checkpoint that is whole")
        }))
    }

    fn checkpoints(&self, rank: u32) -> Result<Checkpoints, Failure> {
        Checkpoints::below(&ranks::folder(self.out, rank), 0, self.identity.clone())
    }

    /// A rank's tensors after a step.
    fn at(&self, step: u64, plan: &Plan, rank: u32) -> Result<Snapshot, Failure> {
        let held = |t: &&TensorDecl| plan.mesh.among(rank, t.owner.as_ref());
        let wanted: Vec<&TensorDecl> = plan.tensors.iter().filter(held).collect();
        let mut parts = Parts::new();
        let mut data = None;
        for from in 0..self.plan.mesh.ranks() as u32 {
            let sources = wanted.iter().filter(|t| self.source(&t.name, from).is_some());
            let sources: Vec<&TensorDecl> = sources.copied().collect();
            if sources.is_empty() {
                continue;
            }
            let mut saved = self.checkpoints(from)?.of_run(step)?;
            for decl in sources {
                let kept = match decl.kind {
                    TensorKind::Param | TensorKind::Buffer => &mut saved.weights,
                    TensorKind::State => &mut saved.state,
                };
                let place = self.source(&decl.name, from);
                if let Some((place, value)) = place.zip(kept.remove(&decl.name)) {
                    parts.entry(decl.name.clone()).or_default().insert(place, value);
                }
            }
            data.get_or_insert(saved.data);
        }
        let (mut weights, mut state) = (BTreeMap::new(), BTreeMap::new());
        for decl in wanted {
            let value = self.part(decl, parts.remove(&decl.name), (&plan.mesh, rank))?;
            let kept = match decl.kind {
                TensorKind::Param | TensorKind::Buffer => &mut weights,
                TensorKind::State => &mut state,
            };
            kept.insert(decl.name.clone(), value);
        }
        let plan = self.identity.plan.clone();
        Ok(Snapshot { step, plan, data: data.unwrap_or_default(), weights, state })
    }

    /// Which part of a tensor is taken from a rank: the first of those that hold it gives it.
    fn source(&self, name: &str, from: u32) -> Option<u64> {
        let mesh = &self.plan.mesh;
        let decl = self.plan.tensors.iter().find(|t| t.name == name)?;
        let axes: &[u32] = decl.shard.as_ref().map_or(&[], |shard| &shard.axes);
        let place = mesh.coordinate(from, axes);
        let holds = |rank: u32| mesh.among(rank, decl.owner.as_ref());
        let earlier = (0..from).any(|rank| holds(rank) && mesh.coordinate(rank, axes) == place);
        (holds(from) && !earlier).then_some(place)
    }

    /// A rank's part of a tensor, from all parts that were saved.
    fn part(
        &self,
        decl: &TensorDecl,
        parts: Option<BTreeMap<u64, HostTensor>>,
        at: (&Mesh, u32),
    ) -> Result<HostTensor, Failure> {
        let parts: Vec<HostTensor> = parts.unwrap_or_default().into_values().collect();
        let earlier = self.plan.tensors.iter().find(|t| t.name == decl.name);
        let whole = match earlier.and_then(|t| t.shard.as_ref()) {
            Some(shard) => shards::join(&parts, shard).map_err(runtime)?,
            None => parts.into_iter().next().ok_or_else(|| {
                Failure::new(Exit::Integrity, format!("no rank has saved `{}`", decl.name))
            })?,
        };
        match &decl.shard {
            Some(shard) => shards::part(&whole, shard, at).map_err(runtime),
            None => Ok(whole),
        }
    }

    /// Bytes of the whole tensors that some ranks share: what is put together before it is cut again.
    pub fn whole_bytes(&self) -> u64 {
        let mesh = &self.plan.mesh;
        let ranks = |t: &TensorDecl| t.shard.as_ref().map_or(1, |s| mesh.group_size(&s.axes));
        self.plan.tensors.iter().map(|t| t.elems() * t.dtype.bytes() * ranks(t)).sum()
    }
}
