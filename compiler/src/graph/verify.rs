//! Checks that a graph is what its invariants say.
//!
//! # Invariants
//! - A failure is our bug: user errors were reported while the graph was built.

use super::{Graph, NodeId, ValueDef};
use crate::diagnostic::InternalError;
use crate::ops::Value;

impl Graph {
    /// Checks every invariant: order, types, definitions.
    ///
    /// # Errors
    /// The first invariant that does not hold, with the printed graph.
    pub fn verify(&self) -> Result<(), InternalError> {
        let fail = |message: String| {
            Err(InternalError { pass: "verify-graph", message, reproducer: self.to_string() })
        };
        for (i, input) in self.inputs.iter().enumerate() {
            if self.values[input.value].1 != ValueDef::Input(i as u32) {
                return fail(format!("input `{}` is not defined as input {i}", input.name));
            }
        }
        for (id, node) in self.nodes.iter() {
            if let Some(v) = node.operands.iter().find(|v| !self.precedes(**v, id)) {
                return fail(format!("`{}` uses {v} before it is made", node.origin.path));
            }
            match node.op.infer(&self.operand_types(id)) {
                Ok(types) if types == self.result_types(id) => {}
                Ok(_) => return fail(format!("`{}` has stale result types", node.origin.path)),
                Err(e) => return fail(format!("`{}`: {}", node.origin.path, e.headline)),
            }
            for (n, result) in node.results.iter().enumerate() {
                if self.values[*result].1 != ValueDef::Result(id, n as u32) {
                    return fail(format!("result {n} of `{}` is not its own", node.origin.path));
                }
            }
        }
        match self.outputs.iter().find(|(v, _)| !self.values.is_valid(*v)) {
            Some((v, target)) => fail(format!("output {target:?} is {v}, which does not exist")),
            None => Ok(()),
        }
    }

    /// Whether a value exists before a node runs.
    fn precedes(&self, value: Value, node: NodeId) -> bool {
        self.values.is_valid(value)
            && match self.values[value].1 {
                ValueDef::Input(_) => true,
                ValueDef::Result(maker, _) => maker < node,
            }
    }
}
