//! Reverse-mode differentiation of a graph.
//!
//! Gradient nodes are added behind the graph's own; their origin is the forward node's path with
//! `/grad`. Nothing is special about parameters, layers or optimizers here.
//!
//! # Invariants
//! - Contributions to a value's gradient are added in one node, users last to first, operands in
//!   order: the order is declared, not accidental.
//! - Values that do not lead from `wrt` to a seed get no gradient nodes that outlive
//!   [`Graph::cleaned`].

use cranelift_entity::SecondaryMap;

use crate::graph::{Graph, NodeId, Origin};
use crate::ops::{Builder, Fill, Op, Value, generic};
use crate::types::Type;

/// Adds the gradients of a scalar loss to the graph; one per value of `wrt`, zero where the loss
/// does not depend on it.
///
/// # Panics
/// If the loss is no float scalar (the caller has checked and told the author).
pub fn differentiate(graph: &mut Graph, loss: Value, wrt: &[Value]) -> Vec<Value> {
    let ty = graph.ty(loss).clone();
    assert!(ty.shape.is_empty() && ty.dtype.is_float(), "the loss is a float scalar, not {ty}");
    let origin = origin_of(graph, loss);
    let mut cx = GradCx { graph, origin };
    let seed = cx.push(Fill::new(1.0, &ty).into(), &[])[0];
    backward(graph, &[(loss, seed)], wrt)
}

/// Adds gradients of any values, given the gradients of others (the seeds).
pub fn backward(graph: &mut Graph, seeds: &[(Value, Value)], wrt: &[Value]) -> Vec<Value> {
    let depends = dependents(graph, wrt);
    let mut parts: SecondaryMap<Value, Vec<Value>> = SecondaryMap::new();
    for (value, seed) in seeds {
        parts[*value].push(*seed);
    }
    let last = seeds.iter().filter_map(|(value, _)| graph.maker(*value)).max();
    let n_nodes = last.map_or(0, |node| node.as_u32() + 1);
    for node in (0..n_nodes).rev().map(NodeId::from_u32) {
        visit(graph, node, &depends, &mut parts);
    }
    let zero = |graph: &mut Graph, value: Value| {
        let (ty, origin) = (graph.ty(value).clone(), origin_of(graph, value));
        GradCx { graph, origin }.push(Fill::new(0.0, &ty).into(), &[])[0]
    };
    wrt.iter().map(|v| total(graph, *v, &parts[*v]).unwrap_or_else(|| zero(graph, *v))).collect()
}

/// Float values that depend on `wrt`.
fn dependents(graph: &Graph, wrt: &[Value]) -> SecondaryMap<Value, bool> {
    let mut depends = SecondaryMap::with_default(false);
    for value in wrt {
        depends[*value] = graph.ty(*value).dtype.is_float();
    }
    for node in graph.nodes.values() {
        if node.operands.iter().any(|v| depends[*v]) {
            for result in &node.results {
                depends[*result] = graph.ty(*result).dtype.is_float();
            }
        }
    }
    depends
}

fn visit(
    graph: &mut Graph,
    id: NodeId,
    depends: &SecondaryMap<Value, bool>,
    parts: &mut SecondaryMap<Value, Vec<Value>>,
) {
    let node = graph.nodes[id].clone();
    let wanted = node.operands.iter().any(|v| depends[*v]);
    if !wanted || node.results.iter().all(|r| parts[*r].is_empty()) {
        return;
    }
    let grads: Vec<Option<Value>> =
        node.results.iter().map(|r| total(graph, *r, &parts[*r])).collect();
    let mut cx = GradCx { graph, origin: node.origin.derived("grad") };
    let operand_grads = node.op.vjp(&mut cx, &node.operands, &node.results, &grads);
    for (operand, grad) in node.operands.iter().zip(operand_grads) {
        if let (Some(grad), true) = (grad, depends[*operand]) {
            parts[*operand].push(grad);
        }
    }
}

/// The sum of a value's gradient contributions.
fn total(graph: &mut Graph, value: Value, parts: &[Value]) -> Option<Value> {
    if let [] | [_] = parts {
        return parts.first().copied();
    }
    let origin = origin_of(graph, value);
    let mut cx = GradCx { graph, origin };
    let sum = generic::map(&mut cx, parts, |b, a| {
        a.iter().copied().reduce(|x, y| b.add(x, y)).unwrap_or(a[0])
    });
    Some(sum)
}

fn origin_of(graph: &Graph, value: Value) -> Origin {
    match graph.maker(value) {
        Some(node) => graph.nodes[node].origin.derived("grad"),
        None => {
            let input = graph.inputs.iter().find(|i| i.value == value);
            Origin::new(input.map_or("", |i| i.name.as_str()), None).derived("grad")
        }
    }
}

/// Adds gradient nodes with the origin of what they derive from.
struct GradCx<'a> {
    graph: &'a mut Graph,
    origin: Origin,
}

impl Builder for GradCx<'_> {
    fn push(&mut self, op: Op, operands: &[Value]) -> Vec<Value> {
        let name = op.name();
        match self.graph.push(op, operands, self.origin.clone()) {
            Ok(results) => results,
            Err(e) => panic!("gradient of `{}`: {name}: {}", self.origin.path, e.headline),
        }
    }

    fn ty(&self, value: Value) -> &Type {
        self.graph.ty(value)
    }
}
