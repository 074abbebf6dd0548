//! Cutting an entry's graph out of a larger one.
//!
//! # Invariants
//! - What stays keeps its order; inputs that nothing needs are left out.

use cranelift_entity::SecondaryMap;

use crate::graph::{Graph, Input, Node, ValueDef};
use crate::ops::Value;
use crate::program::ResultTarget;

/// The part of a graph that some outputs depend on.
pub(super) fn extract(graph: &Graph, name: &str, outputs: Vec<(Value, ResultTarget)>) -> Graph {
    let mut live: SecondaryMap<Value, bool> = SecondaryMap::new();
    outputs.iter().for_each(|(v, _)| live[*v] = true);
    for node in graph.nodes.values().rev() {
        if node.results.iter().any(|r| live[*r]) {
            node.operands.iter().for_each(|v| live[*v] = true);
        }
    }
    let mut out = Graph { name: name.to_owned(), ..Graph::default() };
    let mut renamed: SecondaryMap<Value, Option<Value>> = SecondaryMap::new();
    for input in graph.inputs.iter().filter(|i| live[i.value]) {
        let n = out.inputs.len() as u32;
        let value = out.values.push((graph.values[input.value].0.clone(), ValueDef::Input(n)));
        out.inputs.push(Input { name: input.name.clone(), kind: input.kind, value });
        renamed[input.value] = Some(value);
    }
    for node in graph.nodes.values().filter(|n| n.results.iter().any(|r| live[*r])) {
        let operands = node.operands.iter().filter_map(|v| renamed[*v]).collect();
        let id = out.nodes.next_key();
        let mut results = Vec::new();
        for (i, old) in node.results.iter().enumerate() {
            let ty = graph.values[*old].0.clone();
            let value = out.values.push((ty, ValueDef::Result(id, i as u32)));
            renamed[*old] = Some(value);
            results.push(value);
        }
        out.nodes.push(Node {
            op: node.op.clone(),
            operands,
            results,
            origin: node.origin.clone(),
        });
    }
    out.outputs = outputs.into_iter().filter_map(|(v, t)| Some((renamed[v]?, t))).collect();
    out
}
