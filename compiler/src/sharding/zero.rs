//! ZeRO: optimizer state and the work of updates divided over the ranks that would all do the same.
//!
//! A parameter's state lies on one of its replicas, its owner, which runs the update and gives the
//! new value to the others. Stage 1 keeps whole gradients on all ranks; from stage 2 on, gradients
//! are summed on the owner alone.
//! Ref.: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
//! SC'20. Parameters go to owners whole, so Muon sees whole matrices.
//!
//! # Invariants
//! - All state of a parameter has one owner.
//! - Parameters are dealt out by longest processing time first, of work and memory at once: the
//!   largest that is left goes to where the larger of the busiest rank's two shares is smallest.

use std::collections::BTreeMap;

use perilune_plan::{Only, Shard, TensorKind};

use crate::elaborate::Elaborated;
use crate::graph::Graph;
use crate::ops::{Op, Value};

/// A parameter whose update one of several ranks runs.
struct Item<'a> {
    /// Names of its state.
    state: Vec<&'a str>,
    /// Axes that its replicas differ along.
    axes: Vec<u32>,
    /// Work of a rank that owns it.
    cost: u64,
    /// Bytes of its state on such a rank.
    bytes: u64,
}

/// What a rank owns.
#[derive(Clone, Copy, Default)]
struct Load {
    cost: u64,
    bytes: u64,
}

impl Load {
    /// The larger of its shares of all work and of all bytes, as a multiple of their product's inverse.
    fn share(self, all: Load) -> u128 {
        let (cost, bytes) = (u128::from(self.cost), u128::from(self.bytes));
        (cost * u128::from(all.bytes)).max(bytes * u128::from(all.cost))
    }

    fn with(self, item: &Item<'_>) -> Load {
        let (cost, bytes) = (self.cost.saturating_add(item.cost), self.bytes + item.bytes);
        Load { cost, bytes }
    }
}

/// The owner of every optimizer state that belongs to a parameter with replicas, by name.
pub(super) fn owners(spec: &Elaborated, shards: &BTreeMap<&str, Shard>) -> BTreeMap<String, Only> {
    let mesh = &spec.mesh;
    let mut items = items(spec, shards);
    let all = items.iter().fold(Load::default(), Load::with);
    items.sort_by_key(|item| std::cmp::Reverse(Load::default().with(item).share(all)));
    let mut load = vec![Load::default(); mesh.ranks() as usize];
    let mut owners = BTreeMap::new();
    for item in items {
        let among = |at: u64| {
            let only = Only { axes: item.axes.clone(), at };
            let ranks: Vec<usize> = (0..mesh.ranks() as u32)
                .filter(|rank| mesh.among(*rank, Some(&only)))
                .map(|rank| rank as usize)
                .collect();
            (only, ranks)
        };
        let busiest = |ranks: &[usize]| {
            ranks.iter().map(|r| load[*r].with(&item).share(all)).max().unwrap_or(0)
        };
        let candidates = (0..mesh.group_size(&item.axes)).map(among);
        let Some((only, ranks)) = candidates.min_by_key(|(only, r)| (busiest(r), only.at)) else {
            continue;
        };
        ranks.iter().for_each(|rank| load[*rank] = load[*rank].with(&item));
        for name in item.state {
            owners.insert(name.to_owned(), only.clone());
        }
    }
    owners
}

fn items<'a>(spec: &'a Elaborated, shards: &BTreeMap<&str, Shard>) -> Vec<Item<'a>> {
    let costs = costs(spec);
    let params = spec.tensors.iter().filter(|t| t.kind == TensorKind::Param);
    let item = |name: &'a str| {
        let prefix = format!("{name}/");
        let state = spec.tensors.iter().filter(|t| t.kind == TensorKind::State);
        let state: Vec<&str> =
            state.map(|t| t.name.as_str()).filter(|n| n.starts_with(&prefix)).collect();
        let cut: &[u32] = shards.get(name).map_or(&[], |shard| &shard.axes);
        let axes = (0..spec.mesh.axes.len() as u32).filter(|axis| !cut.contains(axis)).collect();
        let ranks = spec.mesh.group_size(cut);
        let cost = costs.get(name).copied().unwrap_or(0) / ranks;
        let held = spec.tensors.iter().filter(|t| state.contains(&t.name.as_str()));
        let bytes = held.map(|t| t.ty.bytes()).sum::<u64>() / ranks;
        Item { state, axes, cost, bytes }
    };
    let all = params.map(|t| item(&t.name));
    all.filter(|item| !item.state.is_empty() && !item.axes.is_empty()).collect()
}

/// Floating-point operations and bytes of each parameter's update.
fn costs(spec: &Elaborated) -> BTreeMap<&str, u64> {
    let mut costs = BTreeMap::new();
    let Some(graph) = &spec.train_step else { return costs };
    let names: BTreeMap<&str, &str> = spec
        .tensors
        .iter()
        .filter(|t| t.kind == TensorKind::Param)
        .map(|t| (t.name.as_str(), t.name.as_str()))
        .collect();
    for (id, node) in graph.nodes.iter() {
        let Some(path) = node.origin.path.strip_prefix("optimizer.") else { continue };
        // A node of the rule is `optimizer.<parameter>.<node>`, where both may have dots.
        let dots = path.match_indices('.').map(|(at, _)| &path[..at]);
        let Some(name) = dots.rev().find_map(|prefix| names.get(prefix)) else { continue };
        let cost = node.op.cost(&graph.operand_types(id), &graph.result_types(id));
        let work: &mut u64 = costs.entry(*name).or_default();
        *work = work.saturating_add(cost.flops).saturating_add(cost.bytes);
    }
    costs
}

/// Values that only the owner of some state reads element by element with it: gradients, clipped or
/// scaled.
pub(super) fn wishes(graph: &Graph, owners: &BTreeMap<String, Only>) -> BTreeMap<Value, Only> {
    let states: BTreeMap<Value, &Only> = graph
        .inputs
        .iter()
        .filter_map(|input| Some((input.value, owners.get(&input.name)?)))
        .collect();
    let mut wishes: BTreeMap<Value, Option<Only>> = BTreeMap::new();
    for node in graph.nodes.values().rev().filter(|node| matches!(node.op, Op::Map(_))) {
        let own = node.operands.iter().find_map(|v| states.get(v).copied().cloned());
        let passed = || wishes.get(&node.results[0]).cloned().flatten();
        let Some(wish) = own.or_else(passed) else { continue };
        for operand in &node.operands {
            if graph.ty(*operand).shape != graph.ty(node.results[0]).shape {
                continue;
            }
            let known = wishes.entry(*operand).or_insert_with(|| Some(wish.clone()));
            if known.as_ref() != Some(&wish) {
                *known = None;
            }
        }
    }
    wishes.into_iter().filter_map(|(value, wish)| Some((value, wish?))).collect()
}
