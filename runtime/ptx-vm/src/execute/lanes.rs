//! The lanes that execute an instruction, their registers, and where they go after it.
//!
//! # Invariants
//! - Only active lanes of a row or predicate are written.

use super::state::{State, Warp};
use crate::module::{Lanes, Literal, Pred, Row};

/// Where execution goes after an instruction.
pub(crate) enum Flow {
    Next,
    /// The active lanes go to an instruction of the same function.
    Jump(u32),
    /// The groups of the warp were changed; choose again.
    Changed,
    /// The group waits at this instruction.
    Wait(State),
    /// The group goes on behind this instruction when others had their turn.
    Pause,
    /// The cluster cannot go on.
    Stop,
}

/// An instruction being executed: which one, for whom, in which frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) pc: u32,
    /// Lanes whose guard holds.
    pub(crate) active: u32,
    /// Lanes of the group.
    pub(crate) mask: u32,
    pub(crate) rows: usize,
    pub(crate) preds: usize,
    pub(crate) group: usize,
}

/// The lanes of a mask, lowest first.
#[inline]
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let lane = left.trailing_zeros() as usize;
        left &= left - 1;
        Some(lane)
    })
}

impl Warp {
    /// A row of the frame.
    #[inline]
    pub(crate) fn row(&self, at: &At, row: Row) -> &Lanes {
        &self.rows[at.rows + row as usize]
    }

    /// The value of a row for its first active lane.
    #[inline]
    pub(crate) fn first(&self, at: &At, row: Row) -> u64 {
        self.row(at, row).0[at.active.trailing_zeros() as usize & 31]
    }

    /// Writes the active lanes of a row.
    #[inline]
    pub(crate) fn write(&mut self, at: &At, row: Row, value: &Lanes) {
        let into = &mut self.rows[at.rows + row as usize];
        if at.active == u32::MAX {
            *into = *value;
            return;
        }
        for lane in 0..32 {
            let keep = (at.active >> lane & 1).wrapping_sub(1);
            let keep = u64::from(keep) << 32 | u64::from(keep);
            into.0[lane] = (into.0[lane] & keep) | (value.0[lane] & !keep);
        }
    }

    /// Writes the active lanes of a predicate.
    #[inline]
    pub(crate) fn write_pred(&mut self, at: &At, pred: Pred, bits: u32) {
        let into = &mut self.preds[at.preds + pred as usize];
        *into = (*into & !at.active) | (bits & at.active);
    }

    /// A row as 32-bit registers.
    pub(crate) fn words(&self, at: &At, row: Row) -> [u32; 32] {
        self.row(at, row).0.map(|bits| bits as u32)
    }

    /// A predicate or its negation, as a mask.
    #[inline]
    pub(crate) fn holds(&self, at: &At, literal: Literal) -> u32 {
        let bits = self.preds[at.preds + literal.pred as usize];
        if literal.negated { !bits } else { bits }
    }
}
