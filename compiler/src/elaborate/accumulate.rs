//! Gradient accumulation: a step over several micro-batches, unrolled.
//!
//! Feeds get `accumulate` times the rows; micro-batch `k` reads the `k`-th part of them. What does
//! not depend on a batch is computed once.
//!
//! # Invariants
//! - A value asked for after the expansion covers all micro-batches: maxima by their maximum,
//!   integers (counts) by their sum, truth values by whether any holds, everything else by its mean.
//!   Updates of buffers are computed from such values.

use std::collections::BTreeMap;

use cranelift_entity::{EntityRef, PrimaryMap, SecondaryMap};

use super::context::Cx;
use super::micro::Micro;
use crate::graph::{Graph, Node, NodeId, Origin, ValueDef};
use crate::ops::{Op, Slice, Value};
use crate::program::ArgKind;
use crate::program::Combine;
use crate::types::{DType, Type};

/// Turns feeds with dims into slices of feeds `n` times as long, and finds what depends on them.
pub(super) fn widen_feeds(
    graph: &mut Graph,
    n: u64,
) -> (SecondaryMap<Value, bool>, Vec<(Value, Value)>) {
    let mut batched = SecondaryMap::new();
    let mut feeds = Vec::new();
    let mut nodes: PrimaryMap<NodeId, Node> = PrimaryMap::new();
    for i in 0..graph.inputs.len() {
        let ty = graph.ty(graph.inputs[i].value).clone();
        if graph.inputs[i].kind != ArgKind::Feed || ty.ndim() == 0 {
            continue;
        }
        let part = graph.inputs[i].value;
        let mut shape = ty.shape.clone();
        shape[0] *= n;
        let whole = graph.values.push((Type::new(ty.dtype, shape), ValueDef::Input(i as u32)));
        graph.inputs[i].value = whole;
        batched[part] = true;
        let origin = Origin { path: format!("{}/part", graph.inputs[i].name), span: None };
        let id = nodes.push(Node {
            op: part_op(&ty, 0),
            operands: vec![whole],
            results: vec![part],
            origin,
        });
        graph.values[part].1 = ValueDef::Result(id, 0);
        feeds.push((part, whole));
    }
    for node in graph.nodes.values() {
        let depends = node.operands.iter().any(|v| batched[*v]);
        let id = nodes.push(node.clone());
        for (i, result) in node.results.iter().enumerate() {
            batched[*result] = depends;
            graph.values[*result].1 = ValueDef::Result(id, i as u32);
        }
    }
    graph.nodes = nodes;
    (batched, feeds)
}

/// The op that takes the `k`-th part of a feed.
fn part_op(part: &Type, k: u64) -> Op {
    let rows = part.shape[0];
    Slice { dim: 0, start: k * rows, len: rows }.into()
}

impl Cx<'_, '_> {
    /// Adds micro-batch `k`: a copy of the first `template` nodes as far as they depend on a batch.
    /// Gives the values of the copy.
    pub(super) fn add_micro_batch(
        &mut self,
        micro: &mut Micro,
        feeds: &[(Value, Value)],
        k: u64,
        template: usize,
    ) -> BTreeMap<Value, Value> {
        let mut map = BTreeMap::new();
        for (part, whole) in feeds {
            let op = part_op(self.ty(*part), k);
            let origin = Origin { path: format!("{}/part", self.path_of(*part)), span: None };
            let copy = self.must_add(op, &[*whole], origin);
            map.insert(*part, copy[0]);
        }
        for i in 0..template {
            let node = self.graph.nodes[NodeId::new(i)].clone();
            let depends = node.results.iter().any(|r| micro.batched[*r]);
            if !depends || map.contains_key(&node.results[0]) {
                continue;
            }
            let operands: Vec<Value> =
                node.operands.iter().map(|v| *map.get(v).unwrap_or(v)).collect();
            let copies = self.must_add(node.op, &operands, node.origin);
            map.extend(node.results.iter().copied().zip(copies));
        }
        micro.others.push(map.clone());
        map
    }

    fn path_of(&self, value: Value) -> String {
        match self.graph.maker(value) {
            Some(node) => self.graph.nodes[node].origin.path.trim_end_matches("/part").to_owned(),
            None => String::new(),
        }
    }

    /// Adds a node whose operands are known to fit.
    pub(super) fn must_add(&mut self, op: Op, operands: &[Value], origin: Origin) -> Vec<Value> {
        let path = origin.path.clone();
        match self.graph.push(op, operands, origin) {
            Ok(values) => values,
            Err(e) => panic!("internal error in elaborate: `{path}`: {}", e.headline),
        }
    }

    /// A value over all micro-batches.
    pub(super) fn over_micro_batches(&mut self, value: Value) -> Value {
        let Some(micro) = &self.micro else { return value };
        if !micro.batched[value] || micro.others.is_empty() {
            return value;
        }
        if let Some(known) = micro.joined.get(&value) {
            return *known;
        }
        let others: Vec<Value> =
            micro.others.iter().filter_map(|m| m.get(&value).copied()).collect();
        let joined = self.join(value, &others);
        if let Some(micro) = &mut self.micro {
            micro.joined.insert(value, joined);
        }
        joined
    }

    /// A new value of a buffer for all micro-batches: what it makes of counts and maxima it makes of
    /// those of the whole step; what depends on a batch in another way is a mean.
    pub(super) fn update_over_micro_batches(&mut self, value: Value) -> Value {
        self.of_whole_step(value).unwrap_or_else(|| self.over_micro_batches(value))
    }

    fn of_whole_step(&mut self, value: Value) -> Option<Value> {
        if !self.micro.as_ref()?.batched[value] {
            return Some(value);
        }
        if !self.ty(value).dtype.is_float() || self.is_maximum(value) {
            return Some(self.over_micro_batches(value));
        }
        let ValueDef::Result(id, n) = self.graph.values[value].1 else { return None };
        let node = self.graph.nodes[id].clone();
        if !matches!(node.op, Op::Map(_) | Op::Reduce(_) | Op::Cast(_) | Op::Reshape(_)) {
            return None;
        }
        let operands: Option<Vec<Value>> =
            node.operands.iter().map(|v| self.of_whole_step(*v)).collect();
        let results = self.must_add(node.op, &operands?, node.origin.derived("joined"));
        results.get(n as usize).copied()
    }

    fn join(&mut self, first: Value, others: &[Value]) -> Value {
        let origin = match self.graph.maker(first) {
            Some(node) => self.graph.nodes[node].origin.derived("joined"),
            None => return first,
        };
        let dtype = self.ty(first).dtype;
        let text = match (dtype, self.is_maximum(first)) {
            (DType::i1, _) => "Map(\"a || b\")",
            (_, true) => "Map(\"max(a, b)\")",
            (_, false) => "Map(\"a + b\")",
        };
        let joined =
            others.iter().fold(first, |a, b| self.synth(text, &[("a", a), ("b", *b)], &origin));
        if !dtype.is_float() || self.is_maximum(first) {
            return joined;
        }
        let n = others.len() + 1;
        self.synth(&format!("Map(\"a * (1 / {n})\")"), &[("a", joined)], &origin)
    }

    fn is_maximum(&self, value: Value) -> bool {
        let ValueDef::Result(node, n) = self.graph.values[value].1 else { return false };
        match &self.graph.nodes[node].op {
            Op::Reduce(r) => r.generic.combine == Some(Combine::Max),
            op => op.result_names().get(n as usize) == Some(&"max_logit"),
        }
    }
}
