//! Rebuilding a graph without what nobody needs: dead nodes, equal nodes, nodes that do nothing.
//!
//! # Invariants
//! - Inputs and outputs stay as they are; nodes that stay keep their order and origin.

use std::collections::HashMap;

use cranelift_entity::SecondaryMap;

use super::{Graph, Node};
use crate::ops::{Op, Value};

/// Which values are needed.
pub(super) type Live = SecondaryMap<Value, bool>;

impl Graph {
    /// Values that the outputs depend on.
    pub fn live_values(&self) -> SecondaryMap<Value, bool> {
        let mut live = Live::with_default(false);
        self.outputs.iter().for_each(|(v, _)| live[*v] = true);
        for node in self.nodes.values().rev() {
            if node.results.iter().any(|r| live[*r]) {
                node.operands.iter().for_each(|v| live[*v] = true);
            }
        }
        live
    }

    /// The graph without dead nodes, with equal nodes merged into the first, and without nodes that
    /// give back their operand (`StopGradient`, a cast or reshape to the same type). Call after
    /// differentiation.
    pub fn cleaned(&self) -> Graph {
        let live = self.live_values();
        let mut new = Graph::new(self.name.clone());
        let mut renamed: SecondaryMap<Value, Option<Value>> = SecondaryMap::new();
        for input in &self.inputs {
            let ty = self.ty(input.value).clone();
            renamed[input.value] = Some(new.input(input.name.clone(), input.kind, ty));
        }
        // Only looked up, never iterated: its order reaches nothing.
        let mut known: HashMap<(&Op, Vec<Value>), Vec<Value>> = HashMap::new();
        for node in self.nodes.values().filter(|n| n.results.iter().any(|r| live[*r])) {
            let operands: Vec<Value> = node.operands.iter().filter_map(|v| renamed[*v]).collect();
            let results = if self.does_nothing(node) {
                operands.clone()
            } else if let Some(results) = known.get(&(&node.op, operands.clone())) {
                results.clone()
            } else {
                let results = new.copy_node(self, node, &operands);
                known.insert((&node.op, operands), results.clone());
                results
            };
            for (old, now) in node.results.iter().zip(results) {
                renamed[*old] = Some(now);
            }
        }
        let outputs = self.outputs.iter();
        new.outputs =
            outputs.filter_map(|(v, target)| Some((renamed[*v]?, target.clone()))).collect();
        new
    }

    fn does_nothing(&self, node: &Node) -> bool {
        match &node.op {
            Op::StopGradient(_) => true,
            Op::Reshape(_) | Op::Cast(_) => self.ty(node.operands[0]) == self.ty(node.results[0]),
            _ => false,
        }
    }

    /// A node of another graph with these operands of ours.
    fn copy_node(&mut self, from: &Graph, node: &Node, operands: &[Value]) -> Vec<Value> {
        let id = self.nodes.next_key();
        let results: Vec<Value> = node
            .results
            .iter()
            .enumerate()
            .map(|(i, r)| {
                self.values.push((from.ty(*r).clone(), super::ValueDef::Result(id, i as u32)))
            })
            .collect();
        self.nodes.push(Node {
            op: node.op.clone(),
            operands: operands.to_vec(),
            results: results.clone(),
            origin: node.origin.clone(),
        });
        results
    }
}
