//! Graphs to a program: every node becomes a call of a one-op kernel.
//!
//! # Invariants
//! - Structurally equal kernels exist once, however many nodes and graphs use them.
//! - A kernel has one parameter for each different operand of its node.
//! - Kernels are named after their op and numbered in order of first use.

use std::collections::HashMap;

use indexmap::IndexMap;

use crate::graph::{Graph, Node};
use crate::ops::{KernelBuilder, Value};
use crate::program::{
    Call, EntryArg, EntryFn, EntryResult, Kernel, Program, ResultTarget, Slot, V,
};
use crate::types::Type;

/// Imports graphs as the entries of one program.
pub fn import(name: &str, graphs: &[&Graph]) -> Program {
    let mut kernels = Kernels::default();
    let entries = graphs.iter().map(|g| entry(g, &mut kernels)).collect();
    let mesh = graphs.first().map(|g| g.placement.mesh.clone()).unwrap_or_default();
    let machine = graphs.first().and_then(|g| g.placement.machine.clone());
    Program { name: name.to_owned(), mesh, machine, kernels: kernels.finish(), entries }
}

/// Kernels by structure, named in order of first use.
#[derive(Default)]
struct Kernels {
    /// Nameless kernels and their names.
    known: IndexMap<Kernel, String>,
    /// Kernels of each op so far.
    counts: HashMap<&'static str, usize>,
}

impl Kernels {
    fn number(&mut self, kernel: Kernel, op: &'static str) -> u32 {
        if let Some(index) = self.known.get_index_of(&kernel) {
            return index as u32;
        }
        let count = self.counts.entry(op).or_default();
        let name = format!("{}_{count}", snake_case(op));
        *count += 1;
        self.known.insert(kernel, name);
        self.known.len() as u32 - 1
    }

    fn finish(self) -> Vec<Kernel> {
        self.known.into_iter().map(|(kernel, name)| Kernel { name, ..kernel }).collect()
    }
}

fn entry(graph: &Graph, kernels: &mut Kernels) -> EntryFn {
    let mut slots: HashMap<Value, Slot> = HashMap::new();
    let mut args = Vec::with_capacity(graph.inputs.len());
    for (i, input) in graph.inputs.iter().enumerate() {
        slots.insert(input.value, Slot(i as u32));
        args.push(EntryArg {
            name: input.name.clone(),
            ty: graph.ty(input.value).clone(),
            kind: input.kind,
            shard: graph.placement.inputs.get(&input.name).cloned(),
            owner: graph.placement.owners.get(&input.name).cloned(),
        });
    }
    let mut next = args.len() as u32;
    let mut calls = Vec::with_capacity(graph.nodes.len());
    for node in graph.nodes.values() {
        let operands = different(&node.operands);
        let kernel = kernels.number(kernel(graph, node, &operands), node.op.name());
        let first_result = Slot(next);
        for value in &node.results {
            slots.insert(*value, Slot(next));
            next += 1;
        }
        let args = operands.iter().map(|v| slots[v]).collect();
        let first = node.results.first();
        let nodes = first.and_then(|v| graph.placement.nodes.get(v)).cloned();
        let nodes = nodes.unwrap_or_else(|| vec![node.origin.path.clone()]);
        let decision = first.and_then(|v| graph.placement.decisions.get(v));
        calls.push(Call {
            kernel,
            args,
            first_result,
            nodes,
            epilogue: None,
            until: None,
            only: first.and_then(|v| graph.placement.only.get(v)).cloned(),
            decisions: decision.cloned().into_iter().collect(),
        });
    }
    let result = |(v, t): &(Value, ResultTarget)| {
        let shard = match t {
            ResultTarget::Fetch(name) => graph.placement.fetches.get(name).cloned(),
            ResultTarget::Update(_) => None,
        };
        EntryResult { value: slots[v], target: t.clone(), shard }
    };
    let results = graph.outputs.iter().map(result).collect();
    EntryFn { name: graph.name.clone(), args, calls, results, layout: None }
}

/// Each operand once, in order of first appearance.
fn different(operands: &[Value]) -> Vec<Value> {
    let mut seen = Vec::with_capacity(operands.len());
    for value in operands {
        if !seen.contains(value) {
            seen.push(*value);
        }
    }
    seen
}

/// The nameless kernel of a node.
fn kernel(graph: &Graph, node: &Node, operands: &[Value]) -> Kernel {
    let mut builder = KernelBuilder::default();
    let params: Vec<Type> = operands.iter().map(|v| graph.ty(*v).clone()).collect();
    let values: HashMap<Value, V> =
        operands.iter().zip(&params).map(|(v, ty)| (*v, builder.param(ty.clone()))).collect();
    let arguments: Vec<V> = node.operands.iter().map(|v| values[v]).collect();
    let types: Vec<Type> = node.results.iter().map(|v| graph.ty(*v).clone()).collect();
    let results = node.op.lower(&mut builder, &arguments, &types);
    Kernel { name: String::new(), params, ops: builder.ops, results }
}

/// `RaggedEinsum` → `ragged_einsum`.
fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
