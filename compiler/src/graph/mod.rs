//! The graph: what a spec means. Typed ops with bound dims, one flat list for the whole step.
//!
//! # Invariants
//! - Nodes are in dependency order: operands come before their users.
//! - Every node has an [`Origin`]: the path of the RON node it came from (kept through
//!   differentiation, recomputation and optimizer expansion) and its span.
//! - petgraph is for algorithms on views of it, never for storage; today it finds the cycles that
//!   the order of fusion is held to.

mod clean;
mod print;
mod verify;

use std::collections::BTreeMap;

use cranelift_entity::{PrimaryMap, entity_impl};
use perilune_plan::{Machine, Mesh, Only, Shard};

use crate::ops::{Op, TypeError, Value};
use crate::program::{ArgKind, Decision, ResultTarget};
use crate::source::Span;
use crate::types::Type;

/// A node: one op applied to values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);
entity_impl!(NodeId, "n");

/// Where a node comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Path: `layers.3.attn.q`; derived nodes keep the path of what they derive from, with a suffix
    /// after `/`: `layers.3.attn.q/grad`, `/recompute`, `/muon.x`.
    pub path: String,
    /// Where the node was written.
    pub span: Option<Span>,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// From what.
    pub operands: Vec<Value>,
    /// Its results.
    pub results: Vec<Value>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Definition of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueDef {
    /// The `n`-th input of the graph.
    Input(u32),
    /// The `n`-th result of a node.
    Result(NodeId, u32),
}

/// A graph: one entry point of a program.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Entry name: `train_step`, `forward`, `init`.
    pub name: String,
    /// Nodes in dependency order.
    pub nodes: PrimaryMap<NodeId, Node>,
    /// Values: type and definition.
    pub values: PrimaryMap<Value, (Type, ValueDef)>,
    /// Inputs.
    pub inputs: Vec<Input>,
    /// Outputs.
    pub outputs: Vec<(Value, crate::program::ResultTarget)>,
    /// What of the whole it is, if it is the graph of one rank of many.
    pub placement: Placement,
}

/// What one rank's graph computes of what all ranks compute together; its shapes are the rank's.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// The ranks.
    pub mesh: Mesh,
    /// What they run on, if collectives are to run beside kernels.
    pub machine: Option<Machine>,
    /// Inputs of which a rank holds a part, by name.
    pub inputs: BTreeMap<String, Shard>,
    /// Fetches of which a rank gives a part, by name.
    pub fetches: BTreeMap<String, Shard>,
    /// Why a value is exchanged that need not be if the spec were another: by the first result.
    pub decisions: BTreeMap<Value, Decision>,
    /// Inputs that some of the ranks hold, by name.
    pub owners: BTreeMap<String, Only>,
    /// Nodes that some of the ranks run, by the first result.
    pub only: BTreeMap<Value, Only>,
    /// Paths of all nodes that an exchange is for, where there are several: by the first result.
    pub nodes: BTreeMap<Value, Vec<String>>,
}

/// An input of a graph.
#[derive(Clone, Debug)]
pub struct Input {
    /// Path or feed name.
    pub name: String,
    /// What it is.
    pub kind: crate::program::ArgKind,
    /// The value.
    pub value: Value,
}

impl Origin {
    /// A node written at `path`.
    pub fn new(path: impl Into<String>, span: Option<Span>) -> Self {
        Origin { path: path.into(), span }
    }

    /// What derives from it: `layers.3.attn.q` becomes `layers.3.attn.q/grad`.
    pub fn derived(&self, suffix: &str) -> Self {
        Origin { path: format!("{}/{suffix}", self.path), span: self.span }
    }
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Adds an input.
    pub fn input(&mut self, name: impl Into<String>, kind: ArgKind, ty: Type) -> Value {
        let value = self.values.push((ty, ValueDef::Input(self.inputs.len() as u32)));
        self.inputs.push(Input { name: name.into(), kind, value });
        value
    }

    /// Adds a node after all others; gives its results.
    ///
    /// # Errors
    /// When the operands do not fit the op.
    pub fn push(
        &mut self,
        op: Op,
        operands: &[Value],
        origin: Origin,
    ) -> Result<Vec<Value>, TypeError> {
        let types: Vec<Type> = operands.iter().map(|v| self.ty(*v).clone()).collect();
        let result_types = op.infer(&types)?;
        let node = self.nodes.next_key();
        let results: Vec<Value> = result_types
            .into_iter()
            .enumerate()
            .map(|(i, ty)| self.values.push((ty, ValueDef::Result(node, i as u32))))
            .collect();
        self.nodes.push(Node { op, operands: operands.to_vec(), results: results.clone(), origin });
        Ok(results)
    }

    /// Declares an output.
    pub fn output(&mut self, value: Value, target: ResultTarget) {
        self.outputs.push((value, target));
    }

    /// Type of a value.
    pub fn ty(&self, value: Value) -> &Type {
        &self.values[value].0
    }

    /// The node that makes a value; `None` for an input.
    pub fn maker(&self, value: Value) -> Option<NodeId> {
        match self.values[value].1 {
            ValueDef::Input(_) => None,
            ValueDef::Result(node, _) => Some(node),
        }
    }

    /// Types of a node's operands.
    pub fn operand_types(&self, node: NodeId) -> Vec<Type> {
        self.nodes[node].operands.iter().map(|v| self.ty(*v).clone()).collect()
    }

    /// Types of a node's results.
    pub fn result_types(&self, node: NodeId) -> Vec<Type> {
        self.nodes[node].results.iter().map(|v| self.ty(*v).clone()).collect()
    }
}
