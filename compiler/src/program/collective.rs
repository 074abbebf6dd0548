//! Exchanges between ranks, as ops of the `perilune` dialect.
//!
//! # Invariants
//! - Every rank of a group runs the same collectives in the same order: they are part of the one
//!   program that all ranks run.

use perilune_plan as plan;

use super::Combine;
use crate::types::Type;

/// An exchange between the ranks of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collective {
    /// What is exchanged.
    pub kind: CollectiveKind,
    /// The group: ranks that differ along these mesh axes only; indices, ascending.
    pub axes: Vec<u32>,
    /// Ranks in the group.
    pub ranks: u64,
    /// For `Reduce` and `Broadcast`, each value's root in the group; else empty.
    pub roots: Vec<u64>,
}

/// What a [`Collective`] exchanges; `n` is the number of ranks. Their meaning is that of
/// [`perilune_plan::CollectiveKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CollectiveKind {
    /// `(x, y, ..) → (x, y, ..)`, all of one type, each combined over the ranks.
    AllReduce(Combine),
    /// `(x, y, ..) → (x, y, ..)`, each combined over the ranks on its root.
    Reduce(Combine),
    /// `(x, y, ..) → (x, y, ..)`, each as its root has it.
    Broadcast,
    /// `[.., p, ..] → [.., n · p, ..]`: parts of a dimension put together.
    AllGather {
        /// The dimension.
        dim: u64,
    },
    /// `i32 [n · m] → [n · m]`: piece `r` to rank `r`.
    ExchangeCounts,
    /// `(rows [a, d], sent i32 [n · e], received i32 [n · e]) → [rows, d]`: rows to their experts.
    Dispatch {
        /// Rows of the result: as many as can come at most.
        rows: u64,
    },
    /// `(tokens [t, d], order i32 [t · per_token], sent, received) → [rows, d]`: `Dispatch` of rows
    /// that tokens share, each token once to a rank.
    DispatchTokens {
        /// Rows of the result.
        rows: u64,
        /// Rows of a token.
        per_token: u64,
    },
    /// `(rows [a, d], sent, received) → [rows, d]`: the way back of `Dispatch`.
    Combine {
        /// Rows of the result.
        rows: u64,
    },
}

impl Collective {
    /// Its name as an op of the dialect, which is what the plan calls it.
    pub fn name(&self) -> &'static str {
        match self.kind {
            CollectiveKind::AllReduce(_) => "all_reduce",
            CollectiveKind::Reduce(_) => "reduce",
            CollectiveKind::Broadcast => "broadcast",
            CollectiveKind::AllGather { .. } => "all_gather",
            CollectiveKind::ExchangeCounts => "exchange_counts",
            CollectiveKind::Dispatch { .. } => "dispatch",
            CollectiveKind::DispatchTokens { .. } => "dispatch_tokens",
            CollectiveKind::Combine { .. } => "combine",
        }
    }
}

impl CollectiveKind {
    /// What the plan calls it; `first` is the type of its first operand.
    pub fn in_plan(self, first: &Type) -> plan::CollectiveKind {
        let row = first.shape.iter().skip(1).product::<u64>();
        match self {
            CollectiveKind::AllReduce(combine) => {
                plan::CollectiveKind::AllReduce(combine.in_plan())
            }
            CollectiveKind::Reduce(combine) => plan::CollectiveKind::Reduce(combine.in_plan()),
            CollectiveKind::Broadcast => plan::CollectiveKind::Broadcast,
            CollectiveKind::AllGather { dim } => {
                let outer = first.shape.iter().take(dim as usize).product();
                plan::CollectiveKind::AllGather { outer }
            }
            CollectiveKind::ExchangeCounts => plan::CollectiveKind::ExchangeCounts,
            CollectiveKind::Dispatch { .. } => plan::CollectiveKind::Dispatch { row },
            CollectiveKind::DispatchTokens { per_token, .. } => {
                plan::CollectiveKind::DispatchTokens { row, per_token }
            }
            CollectiveKind::Combine { .. } => plan::CollectiveKind::Combine { row },
        }
    }

    /// Whether it takes any number of values, each of which becomes one of the same type: such
    /// collectives of one group can be one, and a value can stay where it is.
    pub fn is_each_by_itself(self) -> bool {
        match self {
            CollectiveKind::AllReduce(_)
            | CollectiveKind::Reduce(_)
            | CollectiveKind::Broadcast => true,
            CollectiveKind::AllGather { .. }
            | CollectiveKind::ExchangeCounts
            | CollectiveKind::Dispatch { .. }
            | CollectiveKind::DispatchTokens { .. }
            | CollectiveKind::Combine { .. } => false,
        }
    }
}

impl Combine {
    /// What the plan calls it.
    fn in_plan(self) -> plan::Reduction {
        match self {
            Combine::Sum => plan::Reduction::Sum,
            Combine::Max => plan::Reduction::Max,
            Combine::Min => plan::Reduction::Min,
        }
    }

    /// `sum`, `max`, `min`.
    pub fn name(self) -> &'static str {
        match self {
            Combine::Sum => "sum",
            Combine::Max => "max",
            Combine::Min => "min",
        }
    }
}
