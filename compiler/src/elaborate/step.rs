//! A training step under construction: what its stages hand on.
//!
//! # Invariants
//! - Keys are tensor indices, so iteration has the order in which tensors were declared.

use std::collections::BTreeMap;

use super::scope::Scope;
use crate::ops::Value;
use crate::source::Span;

/// A step under construction.
pub(super) struct Step {
    /// Names of the train file.
    pub scope: Scope,
    /// Gradients by tensor index.
    pub grads: BTreeMap<usize, Value>,
    /// New values by tensor index, with the place to blame.
    pub new: BTreeMap<usize, (Value, Span)>,
    /// Nodes that a backward pass added.
    pub backward: Vec<std::ops::Range<usize>>,
}
