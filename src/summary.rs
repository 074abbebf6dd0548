//! What a model costs, read off its forward graph: parameters, FLOPs per token, memory.
//!
//! # Invariants
//! - Counted from the graph alone: nothing here knows a model by name.
//! - A parameter of grouped experts is active for the share of experts that a token meets.

use std::collections::BTreeMap;

use perilune_compiler::graph::{Graph, Node};
use perilune_compiler::ops::Value;
use perilune_compiler::program::ArgKind;
use serde::Serialize;

/// Figures of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Trained parameters.
    pub params_total: u64,
    /// Trained parameters that one token meets.
    pub params_active: u64,
    /// Parameters of the input embedding, which is looked up and not multiplied.
    pub params_embedding: u64,
    /// Floating-point operations of the forward per token, contractions and attention.
    pub forward_flops_per_token: f64,
    /// Of a training step per token: three times the forward. Optimizer not included.
    pub train_flops_per_token: f64,
    /// Tokens in a batch.
    pub tokens_per_batch: u64,
    /// Bytes of the parameters as stored.
    pub param_bytes: u64,
    /// Trained tensors.
    pub param_tensors: usize,
    /// Nodes of the forward graph.
    pub nodes: usize,
}

/// Reads the figures off a forward graph whose feed `tokens` holds the token ids.
pub fn summarize(forward: &Graph) -> Summary {
    let params: BTreeMap<Value, u64> = forward
        .inputs
        .iter()
        .filter(|input| input.kind == ArgKind::Param)
        .map(|input| (input.value, forward.ty(input.value).elems()))
        .collect();
    let tokens = forward.inputs.iter().find(|i| i.kind == ArgKind::Feed && i.name == "tokens");
    let tokens_per_batch = tokens.map_or(1, |input| forward.ty(input.value).elems());
    let tokens = tokens_per_batch.max(1);
    let mut counted = Counted { idle: 0.0, embedding: 0, flops: 0.0 };
    for node in forward.nodes.values() {
        counted.add(forward, node, &params, tokens);
    }
    let total: u64 = params.values().sum();
    let per_token = counted.flops / tokens as f64;
    Summary {
        params_total: total,
        params_active: total - counted.idle.round() as u64,
        params_embedding: counted.embedding,
        forward_flops_per_token: per_token,
        train_flops_per_token: 3.0 * per_token,
        tokens_per_batch,
        param_bytes: params.keys().map(|&value| forward.ty(value).bytes()).sum(),
        param_tensors: params.len(),
        nodes: forward.nodes.len(),
    }
}

struct Counted {
    /// Parameters that a token does not meet.
    idle: f64,
    embedding: u64,
    flops: f64,
}

impl Counted {
    fn add(&mut self, graph: &Graph, node: &Node, params: &BTreeMap<Value, u64>, tokens: u64) {
        let operands: Vec<_> = node.operands.iter().map(|&v| graph.ty(v).clone()).collect();
        let results: Vec<_> = node.results.iter().map(|&v| graph.ty(v).clone()).collect();
        let param = |n: usize| {
            let value = origin(graph, *node.operands.get(n)?);
            params.get(&value).copied()
        };
        match node.op.name() {
            "Einsum" | "Attention" => self.flops += node.op.cost(&operands, &results).flops as f64,
            "RaggedEinsum" => {
                self.flops += node.op.cost(&operands, &results).flops as f64;
                let (rows, groups) = (operands[0].shape[0], operands[1].shape[0].max(1));
                let met = rows as f64 / tokens as f64 / groups as f64;
                self.idle += param(1).unwrap_or(0) as f64 * (1.0 - met).max(0.0);
            }
            "Gather" => self.embedding += param(0).unwrap_or(0),
            _ => {}
        }
    }
}

/// The value that another is only a view or a conversion of.
fn origin(graph: &Graph, mut value: Value) -> Value {
    while let Some(node) = graph.maker(value) {
        let node = &graph.nodes[node];
        match (node.op.name(), node.operands.as_slice()) {
            ("Cast" | "Reshape" | "StopGradient", [only]) => value = *only,
            _ => break,
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_compiler::graph::Origin;
    use perilune_compiler::ops::{Cast, Einsum};
    use perilune_compiler::types::{DType, Type};

    #[test]
    fn a_projection_costs_two_flops_a_parameter_and_token_forward() {
        let mut graph = Graph::new("forward");
        let f32 = |shape: &[u64]| Type::new(DType::f32, shape);
        graph.input("tokens", ArgKind::Feed, Type::new(DType::i32, [2, 8]));
        let x = graph.input("x", ArgKind::Feed, f32(&[2, 8, 16]));
        let w = graph.input("w", ArgKind::Param, Type::new(DType::bf16, [32, 16]));
        graph.input("router.bias", ArgKind::Buffer, f32(&[4]));
        let at = |name: &str| Origin::new(name, None);
        let wide = graph.push(Cast { to: DType::f32 }.into(), &[w], at("wide")).expect("cast")[0];
        let einsum = Einsum::new(&[&[0, 1, 2], &[3, 2]], &[0, 1, 3]);
        graph.push(einsum.into(), &[x, wide], at("y")).expect("einsum");
        let summary = summarize(&graph);
        assert_eq!(summary.params_total, 512);
        assert_eq!(summary.params_active, 512);
        assert_eq!(summary.forward_flops_per_token, 1024.0);
        assert_eq!(summary.train_flops_per_token, 6.0 * 512.0);
        assert_eq!((summary.param_bytes, summary.param_tensors), (1024, 1));
    }
}
