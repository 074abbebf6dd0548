//! What is known of the micro-batches of a step.
//!
//! # Invariants
//! - Values are those of the first micro-batch; the others are found from them.

use std::collections::BTreeMap;

use cranelift_entity::SecondaryMap;

use crate::ops::Value;

/// What is known of the other micro-batches.
pub(super) struct Micro {
    /// Values of the first micro-batch that depend on a batch.
    pub(super) batched: SecondaryMap<Value, bool>,
    /// Per further micro-batch, its values.
    pub(super) others: Vec<BTreeMap<Value, Value>>,
    /// Values over all micro-batches, as far as asked for.
    pub(super) joined: BTreeMap<Value, Value>,
}

impl Micro {
    /// Only the first micro-batch is there.
    pub(super) fn new(batched: SecondaryMap<Value, bool>) -> Self {
        Micro { batched, others: Vec::new(), joined: BTreeMap::new() }
    }
}
