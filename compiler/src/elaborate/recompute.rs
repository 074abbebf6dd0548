//! Recompute: values of the forward pass that the backward pass makes again.
//!
//! # Invariants
//! - A copy has the path of its node with `/recompute` after it and stands just before its first
//!   use; passes that merge equal nodes leave such copies alone.

use std::collections::BTreeMap;

use cranelift_entity::{EntityRef, EntitySet};

use super::context::Cx;
use super::glob;
use crate::graph::{Graph, Node, NodeId, ValueDef};
use crate::ops::Value;
use crate::program::ResultTarget;
use crate::spec::train::TrainSpec;

/// Nodes that some pattern names.
pub(super) fn matching(cx: &mut Cx, spec: &TrainSpec) -> EntitySet<NodeId> {
    let mut set = EntitySet::new();
    for pattern in &spec.recompute {
        let mut any = false;
        for (id, node) in cx.graph.nodes.iter() {
            let path = &node.origin.path;
            if !path.contains('/')
                && !path.starts_with("optimizer.")
                && glob::matches_within(&pattern.text, path)
            {
                set.insert(id);
                any = true;
            }
        }
        if !any && cx.sink.errors() == 0 {
            let paths: Vec<&str> =
                cx.graph.nodes.values().map(|n| n.origin.path.as_str()).collect();
            let error = glob::no_match(pattern, "node", paths);
            cx.sink.push(error);
        }
    }
    set
}

/// The graph with copies in its backward passes.
pub(super) fn apply(
    graph: &Graph,
    repeated: &EntitySet<NodeId>,
    backward: &[std::ops::Range<usize>],
    outputs: &mut [(Value, ResultTarget)],
) -> Graph {
    if repeated.is_empty() {
        return graph.clone();
    }
    let mut out =
        Graph { name: graph.name.clone(), inputs: graph.inputs.clone(), ..Graph::default() };
    out.values = graph.values.clone();
    let mut copies: BTreeMap<Value, Value> = BTreeMap::new();
    for (id, node) in graph.nodes.iter() {
        let mut node = node.clone();
        match backward.iter().any(|r| r.contains(&id.index())) {
            false => copies.clear(),
            true => {
                for operand in &mut node.operands {
                    *operand = copy_of(graph, &mut out, repeated, &mut copies, *operand);
                }
            }
        }
        let new = out.nodes.next_key();
        for (i, result) in node.results.iter().enumerate() {
            out.values[*result].1 = ValueDef::Result(new, i as u32);
        }
        out.nodes.push(node);
    }
    debug_assert!(outputs.iter().all(|(v, _)| out.values.is_valid(*v)));
    out
}

/// The copy of a value that is made again, or the value itself.
fn copy_of(
    graph: &Graph,
    out: &mut Graph,
    repeated: &EntitySet<NodeId>,
    copies: &mut BTreeMap<Value, Value>,
    value: Value,
) -> Value {
    if let Some(copy) = copies.get(&value) {
        return *copy;
    }
    let ValueDef::Result(id, _) = graph.values[value].1 else { return value };
    if !repeated.contains(id) {
        return value;
    }
    // Chains of recomputed nodes are walked with a list, so that their length is no matter.
    let mut todo = vec![id];
    while let Some(&id) = todo.last() {
        let node = &graph.nodes[id];
        let waiting = node.operands.iter().find_map(|v| match graph.values[*v].1 {
            ValueDef::Result(maker, _) if repeated.contains(maker) && !copies.contains_key(v) => {
                Some(maker)
            }
            _ => None,
        });
        if let Some(maker) = waiting {
            todo.push(maker);
            continue;
        }
        todo.pop();
        if copies.contains_key(&node.results[0]) {
            continue;
        }
        let operands = node.operands.iter().map(|v| *copies.get(v).unwrap_or(v)).collect();
        let new = out.nodes.next_key();
        let mut results = Vec::new();
        for (i, old) in node.results.iter().enumerate() {
            let copy =
                out.values.push((graph.values[*old].0.clone(), ValueDef::Result(new, i as u32)));
            copies.insert(*old, copy);
            results.push(copy);
        }
        let origin = node.origin.derived("recompute");
        out.nodes.push(Node { op: node.op.clone(), operands, results, origin });
    }
    copies.get(&value).copied().unwrap_or(value)
}
