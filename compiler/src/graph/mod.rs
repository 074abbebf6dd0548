//! The graph: what a spec means. Typed ops with bound dims, one flat list for the whole step.
//!
//! # Invariants
//! - Nodes are in dependency order: operands come before their users.
//! - Every node has an [`Origin`]: the path of the RON node it came from (kept through
//!   differentiation, recomputation and optimizer expansion) and its span.
//! - petgraph is used for algorithms on views of it, never for storage.

use cranelift_entity::{PrimaryMap, entity_impl};

use crate::ops::{Op, Value};
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
