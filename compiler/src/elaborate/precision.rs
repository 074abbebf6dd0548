//! Precision: the forward pass of a step in narrower types than f32.
//!
//! The graph is typed in f32; a policy rewrites it before it is differentiated, so that gradients
//! have the types of what they are gradients of. Where a value becomes narrow is decided here:
//!
//! - operands of matrix products, ragged products and attention are `compute`, results `storage`;
//! - rows gathered from a parameter are `storage`;
//! - an elementwise map that reads something narrow computes in f32 and rounds its result once;
//! - what only moves elements keeps their type;
//! - reductions, log-sum-exps and other statistics are f32, whatever they read;
//! - parameters, buffers, and nodes that `exempt` names are f32.
//!
//! # Invariants
//! - Values keep their ids: names, metrics and updates found before mean the same node after.
//! - Sums are f32: what a matrix product, a reduction or the optimizer adds up is never narrow.

use std::collections::BTreeMap;

use cranelift_entity::{EntitySet, SecondaryMap};

use super::context::Cx;
use super::glob;
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::graph::{Graph, Node, NodeId, Origin, ValueDef};
use crate::ops::{Cast, Op, Value};
use crate::program::{ArgKind, Generic};
use crate::scalar::Body;
use crate::spec::train::{Precision, TrainSpec};
use crate::types::{DType, Type};

/// Reports a policy that no backend has.
pub(super) fn check(cx: &mut Cx, spec: &TrainSpec) {
    let Precision { storage, compute, accumulate, .. } = &spec.precision;
    let narrow = |dtype: &DType| matches!(dtype, DType::f32 | DType::bf16);
    let why = match (storage, compute, accumulate) {
        (s, c, _) if !narrow(s) || !narrow(c) => "values are f32 or bf16",
        (_, _, a) if *a != DType::f32 => "sums are f32",
        (DType::f32, DType::bf16, _) => {
            "a product of bf16 is rounded to bf16, so it is stored as such"
        }
        _ => return,
    };
    let span = spec.precision_span.unwrap_or(spec.span);
    let headline = "this precision is not available";
    let error = Diagnostic::error(codes::BAD_SETTING, headline, span, why);
    cx.sink.push(error.help("write `Precision(storage: bf16, compute: bf16, accumulate: f32)`"));
}

/// Applies the policy of a step to all nodes so far.
pub(super) fn apply(cx: &mut Cx, spec: &TrainSpec) {
    let exempt = exempt_nodes(cx, &spec.precision);
    let Precision { storage, compute, .. } = spec.precision;
    if cx.sink.errors() > 0 || (storage == DType::f32 && compute == DType::f32) {
        return;
    }
    let nodes = std::mem::take(&mut cx.graph.nodes);
    let mut rewrite = Rewrite {
        graph: &mut cx.graph,
        storage,
        compute,
        narrow: SecondaryMap::new(),
        casts: BTreeMap::new(),
    };
    for (id, node) in nodes {
        rewrite.node(node, exempt.contains(id));
    }
    // Persistent tensors keep their types.
    for (index, value, _) in &mut cx.updates {
        let ty = &cx.tensors[*index].0.ty;
        *value = rewrite.cast(*value, ty.dtype);
    }
}

/// A value as f32.
pub(super) fn widened(cx: &mut Cx, value: Value) -> Value {
    if cx.ty(value).dtype == DType::f32 {
        return value;
    }
    let origin = match cx.graph.maker(value) {
        Some(node) => cx.graph.nodes[node].origin.derived("f32"),
        None => Origin::new("f32", None),
    };
    cx.synth("Cast(\"x\", f32)", &[("x", value)], &origin)
}

/// Nodes that the policy does not touch.
fn exempt_nodes(cx: &mut Cx, precision: &Precision) -> EntitySet<NodeId> {
    let mut set = EntitySet::new();
    for pattern in &precision.exempt {
        let mut any = false;
        for (id, node) in cx.graph.nodes.iter() {
            if glob::matches_within(&pattern.text, &node.origin.path) {
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

struct Rewrite<'a> {
    graph: &'a mut Graph,
    storage: DType,
    compute: DType,
    /// Values that were f32 and are `storage` now.
    narrow: SecondaryMap<Value, bool>,
    /// Conversions there are already.
    casts: BTreeMap<(Value, &'static str), Value>,
}

/// How a node meets the policy.
enum Role {
    /// A matrix product.
    Product,
    /// An elementwise map or a reduction: its body converts.
    Body { reduces: bool },
    /// Moves elements.
    Move,
    /// Reads any type of float and gives a statistic.
    Statistic,
    /// Runs in f32; the results are narrow again where asked for.
    Wide { narrow_again: bool },
    /// Has no float operand to convert.
    Plain,
}

impl Rewrite<'_> {
    fn role(&self, node: &Node) -> Role {
        match &node.op {
            Op::Einsum(e) if e.operands.len() == 2 => Role::Product,
            Op::RaggedEinsum(_) | Op::Attention(_) | Op::AttentionGrad(_) => Role::Product,
            Op::Map(_) => Role::Body { reduces: false },
            Op::Reduce(_) => Role::Body { reduces: true },
            Op::Einsum(e) if e.sums() => Role::Wide { narrow_again: false },
            // The gradient of a gather adds rows up, unless an inverse says who reads each.
            Op::Gather(_) if node.operands.len() == 2 => {
                let table = node.operands[0];
                Role::Wide { narrow_again: self.narrow[table] || self.is_param(table) }
            }
            Op::Einsum(_)
            | Op::Reshape(_)
            | Op::Slice(_)
            | Op::Concat(_)
            | Op::Pad(_)
            | Op::StopGradient(_)
            | Op::Gather(_) => Role::Move,
            Op::LogSumExp(_) => Role::Statistic,
            Op::Softmax(_) => Role::Wide { narrow_again: self.reads_narrow(node) },
            Op::ScatterAdd(_) | Op::TakeAlong(_) | Op::TopK(_) | Op::CumSum(_) => {
                Role::Wide { narrow_again: false }
            }
            Op::Cast(_)
            | Op::Fill(_)
            | Op::Table(_)
            | Op::Random(_)
            | Op::ArgSort(_)
            | Op::Histogram(_)
            | Op::Exchange(_) => Role::Plain,
        }
    }

    fn is_param(&self, value: Value) -> bool {
        let input = |n: u32| self.graph.inputs[n as usize].kind == ArgKind::Param;
        matches!(self.graph.values[value].1, ValueDef::Input(n) if input(n))
    }

    fn reads_narrow(&self, node: &Node) -> bool {
        node.operands.iter().any(|v| self.narrow[*v])
    }

    fn node(&mut self, mut node: Node, exempt: bool) {
        let reads_narrow = self.reads_narrow(&node);
        let narrow = match self.role(&node) {
            Role::Body { reduces } => {
                let rounded = !exempt && !reduces && reads_narrow;
                self.convert_body(&mut node, rounded);
                rounded
            }
            _ if exempt => {
                self.convert_operands(&mut node, DType::f32);
                false
            }
            Role::Product => {
                self.convert_operands(&mut node, self.compute);
                true
            }
            Role::Move => {
                if reads_narrow {
                    self.convert_operands(&mut node, self.storage);
                }
                reads_narrow
            }
            Role::Wide { narrow_again } => {
                self.convert_operands(&mut node, DType::f32);
                narrow_again
            }
            Role::Statistic | Role::Plain => false,
        };
        self.place(node, narrow);
    }

    /// Converts operands of the policy's types; others are as their author made them. A statistic
    /// that a gradient reads stays f32.
    fn convert_operands(&mut self, node: &mut Node, to: DType) {
        let statistic = |i: usize| matches!(node.op, Op::AttentionGrad(_)) && i == 4;
        let operands = node.operands.iter().enumerate();
        let ours = |r: &Self, v: Value| r.narrow[v] || r.graph.ty(v).dtype == DType::f32;
        node.operands = operands
            .map(|(i, v)| if ours(self, *v) && !statistic(i) { self.cast(*v, to) } else { *v })
            .collect();
    }

    /// Lets a body read narrow elements as f32 and, where asked for, round its result.
    fn convert_body(&mut self, node: &mut Node, rounded: bool) {
        let narrow: Vec<bool> = node.operands.iter().map(|v| self.narrow[*v]).collect();
        let result = self.graph.ty(node.results[0]).dtype;
        let to = if rounded && result == DType::f32 { self.storage } else { result };
        match &mut node.op {
            Op::Map(map) => convert(&mut map.generic, &narrow, self.storage, (result, to)),
            Op::Reduce(reduce) => convert(&mut reduce.generic, &narrow, self.storage, (result, to)),
            _ => {}
        }
    }

    /// A value in another float type.
    fn cast(&mut self, value: Value, to: DType) -> Value {
        if self.graph.ty(value).dtype == to {
            return value;
        }
        if let Some(known) = self.casts.get(&(value, to.name())) {
            return *known;
        }
        let origin = match self.graph.maker(value) {
            Some(node) => self.graph.nodes[node].origin.derived(to.name()),
            None => {
                let input = self.graph.inputs.iter().find(|i| i.value == value);
                Origin::new(input.map_or("", |i| i.name.as_str()), None).derived(to.name())
            }
        };
        let ty = self.graph.ty(value).with_dtype(to);
        let node = self.graph.nodes.next_key();
        let result = self.graph.values.push((ty, ValueDef::Result(node, 0)));
        let op = Cast { to }.into();
        self.graph.nodes.push(Node { op, operands: vec![value], results: vec![result], origin });
        self.casts.insert((value, to.name()), result);
        result
    }

    /// Adds a node whose operands are converted; its f32 results become narrow where asked for.
    fn place(&mut self, mut node: Node, narrow: bool) {
        let operands: Vec<Type> = node.operands.iter().map(|v| self.graph.ty(*v).clone()).collect();
        let types = match node.op.infer(&operands) {
            Ok(types) => types,
            Err(e) => panic!("internal error in precision: `{}`: {}", node.origin.path, e.headline),
        };
        let id = self.graph.nodes.next_key();
        let carries =
            |i: usize| node.op.differentiable(i) || matches!(node.op, Op::AttentionGrad(_));
        let carries: Vec<bool> = (0..types.len()).map(carries).collect();
        let mut rounded = Vec::new();
        for (i, native) in types.into_iter().enumerate() {
            let value = node.results[i];
            let mut wanted = self.graph.ty(value).dtype;
            if wanted == DType::f32 && narrow && carries[i] {
                wanted = self.storage;
                self.narrow[value] = wanted != DType::f32;
            }
            let made = ValueDef::Result(id, i as u32);
            if native.dtype == wanted {
                self.graph.values[value] = (native, made);
            } else {
                let fresh = self.graph.values.push((native, made));
                node.results[i] = fresh;
                rounded.push((fresh, value, wanted));
            }
        }
        let origin = node.origin.clone();
        self.graph.nodes.push(node);
        for (fresh, value, to) in rounded {
            let id = self.graph.nodes.next_key();
            let ty = self.graph.ty(fresh).with_dtype(to);
            self.graph.values[value] = (ty, ValueDef::Result(id, 0));
            let op = Cast { to }.into();
            let (operands, results) = (vec![fresh], vec![value]);
            self.graph.nodes.push(Node { op, operands, results, origin: origin.clone() });
        }
    }
}

/// Converts the narrow arguments of a body to f32 and its result from one type to another. A body
/// that gives back an argument as it is only moves elements.
fn convert(g: &mut Generic, narrow: &[bool], storage: DType, (from, to): (DType, DType)) {
    let mut body = Body::default();
    let args: Vec<_> = (0..g.maps.len() as u32)
        .map(|i| {
            let arg = body.arg(i);
            match narrow[i as usize] {
                true => body.cast(arg, storage, DType::f32),
                false => arg,
            }
        })
        .collect();
    let result = body.inline(&g.body, &args)[0];
    let moved = narrow.iter().position(|n| *n).filter(|i| args[*i] == result && from != to);
    let result = match moved {
        Some(i) => body.arg(i as u32),
        None => body.cast(result, from, to),
    };
    body.results = vec![result];
    g.body = body.pruned(&body.results);
}
