//! Sharding: the graphs of one rank, from the graphs that say what all ranks compute together.
//!
//! ```text
//! step graph (global shapes) ──layouts, node by node──► rank's graph (local shapes, collectives)
//!    ──bucket──► adjacent reductions of one group as one exchange
//! ```
//!
//! A layout says which part of a value a rank holds: all of it, a part of one dimension, or the
//! rows that are at its experts; and whether what it holds is yet to be summed with the others'.
//! Each op has a rule that computes its part from parts (`rules`); where none applies, the
//! operands are put together first and the reason is kept ([`Decision`](crate::program::Decision)).
//!
//! # Invariants
//! - What is computed does not depend on the mesh: values are those of one rank alone up to the
//!   order of sums.
//! - One graph serves every rank. What differs is data: which part of a tensor, and a rank's
//!   coordinates, which are feeds.
//! - Every collective keeps the path of the node that caused it.
//! - No collective splits a tensor.
//! - With `reduction_slices` a sum over the batch is one over fixed parts of it, added up by a
//!   pairwise tree: first those of a rank, then those of its group. Then the result does not depend
//!   on how many ranks share the parts.

mod bucket;
mod experts;
mod iterate;
mod layout;
mod localise;
mod rewrite;
mod rules;
mod zero;

use std::borrow::Cow;
use std::collections::BTreeMap;

use perilune_plan::{Mesh, Shard};

use crate::diagnostic::InternalError;
use crate::elaborate::{Elaborated, Persistent};
use crate::graph::Graph;
use crate::program::ArgKind;
use rewrite::{Held, Sharder};

/// Largest bucket of reductions, bytes.
const BUCKET_BYTES: u64 = 32 << 20;

/// A spec with the graphs of one rank in place of those of all.
///
/// # Errors
/// A broken invariant: a bug of the compiler, not of the spec.
pub fn shard(spec: &Elaborated) -> Result<Cow<'_, Elaborated>, InternalError> {
    let slices = spec.train.as_ref().map_or(0, |train| train.reduction_slices);
    if spec.mesh.ranks() == 1 && slices == 0 {
        return Ok(Cow::Borrowed(spec));
    }
    let tensors: BTreeMap<&str, Shard> = spec
        .tensors
        .iter()
        .filter_map(|t| Some((t.name.as_str(), tensor_shard(t, &spec.mesh, slices > 0)?)))
        .collect();
    let (accumulate, zero) = spec.train.as_ref().map_or((1, 0), |t| (t.accumulate, t.zero));
    let owners = if zero > 0 { zero::owners(spec, &tensors) } else { BTreeMap::new() };
    let local = |graph: &Graph, blocks: u64| -> Result<Graph, InternalError> {
        let holds = |name: &str, kind: ArgKind, ndim: usize| match kind {
            ArgKind::Feed => {
                let shard = (ndim > 0).then(|| batch_shard(&spec.mesh, blocks));
                Held { shard, owner: None }
            }
            ArgKind::Param | ArgKind::Buffer | ArgKind::State => {
                Held { shard: tensors.get(name).cloned(), owner: owners.get(name).cloned() }
            }
        };
        let mut sharder = Sharder::new(graph, &spec.mesh, &holds)?;
        sharder.slices = slices;
        if zero > 1 {
            sharder.wishes = zero::wishes(graph, &owners);
        }
        let graph = sharder.run()?;
        let mut graph = bucket::bucket(&graph, BUCKET_BYTES);
        graph.placement.machine.clone_from(&spec.machine);
        graph.verify()?;
        Ok(graph)
    };
    Ok(Cow::Owned(Elaborated {
        name: spec.name.clone(),
        init: local(&spec.init, 1)?,
        forward: local(&spec.forward, 1)?,
        eval: spec.eval.as_ref().map(|g| local(g, 1)).transpose()?,
        train_step: spec.train_step.as_ref().map(|g| local(g, accumulate)).transpose()?,
        tensors: spec.tensors.clone(),
        dims: spec.dims.clone(),
        mesh: spec.mesh.clone(),
        machine: spec.machine.clone(),
        train: spec.train.clone(),
    }))
}

/// How a feed is cut: each of its blocks over all ranks, by its leading dimension.
fn batch_shard(mesh: &Mesh, blocks: u64) -> Shard {
    let axes: Vec<u32> = (0..mesh.axes.len() as u32).collect();
    Shard { dim: 0, axes, blocks }
}

/// How a persistent tensor is cut, if it is; `anyway` gives the cut over no axes of a tensor that is
/// cut on other meshes.
fn tensor_shard(tensor: &Persistent, mesh: &Mesh, anyway: bool) -> Option<Shard> {
    let cuts = tensor.shard.iter().map(|(name, dim)| {
        let axis = mesh.axes.iter().position(|axis| axis.name == *name);
        let axes = axis.map(|axis| axis as u32).into_iter().collect();
        Shard { dim: *dim as u32, axes, blocks: 1 }
    });
    let mut cuts = cuts.filter(|shard| anyway || !shard.axes.is_empty());
    let first = cuts.next()?;
    Some(
        cuts.find(|shard| !shard.axes.is_empty())
            .filter(|_| first.axes.is_empty())
            .unwrap_or(first),
    )
}
