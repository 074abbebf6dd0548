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
//! - Parameters are dealt out by longest processing time first: the costliest update that is left
//!   goes to the rank with the least work.

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
}

/// The owner of every optimizer state that belongs to a parameter with replicas, by name.
pub(super) fn owners(spec: &Elaborated, shards: &BTreeMap<&str, Shard>) -> BTreeMap<String, Only> {
    let mesh = &spec.mesh;
    let mut items = items(spec, shards);
    items.sort_by_key(|item| std::cmp::Reverse(item.cost));
    let mut load = vec![0u64; mesh.ranks() as usize];
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
        let busiest = |ranks: &[usize]| ranks.iter().map(|r| load[*r]).max().unwrap_or(0);
        let candidates = (0..mesh.group_size(&item.axes)).map(among);
        let Some((only, ranks)) = candidates.min_by_key(|(only, r)| (busiest(r), only.at)) else {
            continue;
        };
        ranks.iter().for_each(|rank| load[*rank] += item.cost);
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
        let cost = costs.get(name).copied().unwrap_or(0) / spec.mesh.group_size(cut);
        Item { state, axes, cost }
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
