//! Layouts: which part of a value a rank holds.
//!
//! # Invariants
//! - The parts of a group's ranks are all of the value, and nothing twice.

use perilune_plan::{Only, Shard};

use crate::ops::Value;
use crate::program::Combine;

/// Rows at their experts: which exchange of the graph takes rows there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DispatchId(pub(super) usize);

/// Which part of a value a rank holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// All of it.
    Whole,
    /// A part of one dimension.
    Split(Shard),
    /// Along dimension 0, the rows of this rank's experts, ordered by (expert, place in the whole);
    /// as many rows as there can be at most, those behind the last without meaning.
    Routed(DispatchId),
    /// The order that groups a rank's own rows by expert.
    Order(DispatchId),
    /// The inverse of that order.
    Inverse(DispatchId),
    /// Where the rows of each of this rank's experts begin and end.
    Offsets(DispatchId),
}

/// A value of the whole graph as a rank holds it.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The rank's value, in its own graph.
    pub(super) value: Value,
    /// Which part it is.
    pub(super) form: Form,
    /// What it is yet to be combined by, and over which axes.
    pub(super) partial: Option<Partial>,
    /// The ranks that have it; all of them, if absent.
    pub(super) owner: Option<Only>,
}

/// A combination over ranks that is still to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    pub(super) combine: Combine,
    /// Indices of mesh axes, ascending.
    pub(super) axes: Vec<u32>,
}

impl State {
    /// A value that is what its form says.
    pub(super) fn of(value: Value, form: Form) -> State {
        State { value, form, partial: None, owner: None }
    }

    /// A value that every rank holds.
    pub(super) fn whole(value: Value) -> State {
        State::of(value, Form::Whole)
    }
}

impl Form {
    /// The cut, if it is a plain one: one part of one dimension.
    pub(super) fn split(&self) -> Option<&Shard> {
        match self {
            Form::Split(shard) if shard.blocks == 1 => Some(shard),
            _ => None,
        }
    }
}

/// A part of one dimension.
pub(super) fn split(dim: usize, axes: &[u32]) -> Shard {
    Shard { dim: dim as u32, axes: axes.to_vec(), blocks: 1 }
}

/// The dimension of a reshaped tensor that is cut where dimension `dim` of the tensor is, for parts
/// that are consecutive elements within the same stretches of it.
pub(super) fn reshaped_dim(from: &[u64], to: &[u64], dim: usize, ranks: u64) -> Option<usize> {
    let stretches: u64 = from[..dim].iter().product();
    let mut prefix = 1u64;
    for (at, extent) in to.iter().enumerate() {
        if prefix == stretches && *extent > 1 {
            return extent.is_multiple_of(ranks).then_some(at);
        }
        prefix = prefix.saturating_mul(*extent);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_survives_a_reshape_where_its_parts_stay_consecutive() {
        assert_eq!(reshaped_dim(&[8, 11, 2], &[176], 0, 4), Some(0));
        assert_eq!(reshaped_dim(&[176, 3], &[8, 11, 2, 3], 0, 4), Some(0));
        assert_eq!(reshaped_dim(&[176], &[2, 88], 0, 4), None, "2 rows are not cut by 4");
        assert_eq!(reshaped_dim(&[3, 8, 5], &[3, 1, 40], 1, 4), Some(2));
        assert_eq!(reshaped_dim(&[3, 8, 5], &[24, 5], 1, 4), None, "parts are not consecutive");
        assert_eq!(reshaped_dim(&[1, 8], &[8], 1, 2), Some(0));
    }
}
