//! Which groups may merge, and why not.

use std::collections::BTreeSet;

use super::Fuser;
use crate::passes::facts::{Facts, Shape};
use crate::passes::is_recomputed;
use crate::program::rows::row_aligned;
use crate::program::{Reason, Rule, Slot};

/// Calls further apart than this are not considered: the value would live too long.
const WINDOW: usize = 400;
/// A fused kernel has at most this many parameters and results, and ops.
const MAX_OPERANDS: usize = 28;
const MAX_OPS: usize = 64;
/// A group with reductions needs this many rows to spread over threads.
const MIN_ROWS: u64 = 16;

/// The rule that an edge between two groups falls under.
pub(super) fn rule(producer: &Facts, consumer: &Facts) -> Rule {
    match (&producer.shape, &consumer.shape) {
        (_, Shape::Columns) | (Shape::Columns, _) => Rule::ColumnReduction,
        (Shape::Elementwise, Shape::Elementwise) => Rule::Elementwise,
        _ => Rule::RowReduction,
    }
}

/// Rows two groups can share: the longer of the rows either needs, if it leads both.
fn common_rows(a: &Facts, b: &Facts) -> Option<Vec<u64>> {
    let rows = match (&a.shape, &b.shape) {
        (Shape::Rows(x), Shape::Rows(y)) => (x == y).then(|| x.clone())?,
        (Shape::Rows(x), _) | (_, Shape::Rows(x)) => x.clone(),
        _ => a.leading_in_common(b),
    };
    let leads = |f: &Facts| f.extents.len() >= rows.len() && f.extents.starts_with(&rows);
    (leads(a) && leads(b)).then_some(rows)
}

/// Number of rows two groups share, or would if they could merge.
pub(super) fn shared_rows(a: &Facts, b: &Facts) -> u64 {
    common_rows(a, b).unwrap_or_else(|| a.leading_in_common(b)).iter().product()
}

impl Fuser<'_> {
    /// Judges the edge that is `slot`.
    pub(super) fn judge_edge(&self, producer: usize, consumer: usize, slot: Slot) -> Reason {
        if self.entry.calls[producer].only != self.entry.calls[consumer].only {
            return Reason::OtherRanks;
        }
        let (a, b) = (self.groups.find(producer), self.groups.find(consumer));
        let (p, c) = (&self.facts[a], &self.facts[b]);
        if p.shape == Shape::Columns {
            return Reason::NotFusable;
        }
        let made_again = |call: usize| is_recomputed(&self.entry.calls[call]);
        if made_again(consumer) && !made_again(producer) {
            return Reason::MadeAgain;
        }
        let only_reader = self.readers[&slot].len() == 1 && !self.is_result(slot);
        if c.shape == Shape::Columns {
            // The reduction walks its operands once; anything else the producer feeds would walk
            // them in another order.
            let alone = self.groups.members(a).len() == 1;
            let inlined = p.shape == Shape::Elementwise && only_reader && alone;
            return if inlined { self.judge_size_and_order(a, b) } else { Reason::NotFusable };
        }
        let Some(rows) = common_rows(p, c) else { return Reason::RowsDiffer };
        if !self.reads_own_rows(a, b, rows.len()) {
            return Reason::Misaligned;
        }
        let whole = p.extents == c.extents;
        let per_row = p.extents.len() <= rows.len();
        let reduces = p.shape != Shape::Elementwise || c.shape != Shape::Elementwise;
        if !whole && !per_row && !reduces {
            return Reason::Recomputed;
        }
        if reduces && rows.iter().product::<u64>() < MIN_ROWS {
            return Reason::FewRows;
        }
        if per_row && !reduces && rows.is_empty() && !c.extents.is_empty() {
            return Reason::Recomputed;
        }
        self.judge_size_and_order(a, b)
    }

    /// Judges two groups that read the same value.
    pub(super) fn judge_siblings(&self, a: usize, b: usize) -> Reason {
        let (p, c) = (&self.facts[a], &self.facts[b]);
        if p.shape == Shape::Columns || c.shape == Shape::Columns {
            return Reason::NotFusable;
        }
        let Some(rows) = common_rows(p, c) else { return Reason::RowsDiffer };
        let reduces = p.shape != Shape::Elementwise || c.shape != Shape::Elementwise;
        if !reduces && p.extents != c.extents {
            return Reason::RowsDiffer;
        }
        if reduces && (rows.iter().product::<u64>() < MIN_ROWS || p.extents != c.extents) {
            return Reason::FewRows;
        }
        if !self.reads_own_rows(a, b, rows.len()) {
            return Reason::Misaligned;
        }
        self.judge_size_and_order(a, b)
    }

    /// Whether what either of two groups makes is read at the own rows by the other, so that it need
    /// not be computed again for another row: merging takes every edge between them inside.
    fn reads_own_rows(&self, a: usize, b: usize, rows: usize) -> bool {
        let made_in = |group: usize, slot: &Slot| {
            self.maker.get(slot).is_some_and(|maker| self.groups.find(*maker) == group)
        };
        let aligned = |reader: usize, from: usize| {
            let call = &self.entry.calls[reader];
            let kernel = self.kernels.get(call.kernel);
            let params = call.args.iter().enumerate().filter(|(_, slot)| made_in(from, slot));
            params.into_iter().all(|(param, _)| row_aligned(kernel, param, rows))
        };
        self.groups.members(b).iter().all(|reader| aligned(*reader, a))
            && self.groups.members(a).iter().all(|reader| aligned(*reader, b))
    }

    fn judge_size_and_order(&self, a: usize, b: usize) -> Reason {
        if self.facts[a].ops + self.facts[b].ops > MAX_OPS || self.operands(a, b) > MAX_OPERANDS {
            return Reason::TooLarge;
        }
        if self.groups.span(a, b) > WINDOW {
            return Reason::Far;
        }
        if self.groups.holds_up(a, b) {
            return Reason::HeldUp;
        }
        if self.groups.joined_outside(a, b) { Reason::Cycle } else { Reason::Fused }
    }

    /// Parameters and results of two groups as one.
    fn operands(&self, a: usize, b: usize) -> usize {
        let calls = || self.groups.members(a).iter().chain(self.groups.members(b));
        let read: BTreeSet<Slot> =
            calls().flat_map(|c| self.entry.calls[*c].args.iter().copied()).collect();
        let made: BTreeSet<Slot> = calls().flat_map(|c| self.made(*c)).collect();
        let inside: BTreeSet<usize> = calls().copied().collect();
        let kept = made.iter().filter(|s| self.needed_outside(**s, &inside)).count();
        read.difference(&made).count() + kept
    }

    fn made(&self, call: usize) -> impl Iterator<Item = Slot> + use<> {
        let first = self.entry.calls[call].first_result.0;
        let count = self.kernels.get(self.entry.calls[call].kernel).results.len() as u32;
        (first..first + count).map(Slot)
    }

    fn is_result(&self, slot: Slot) -> bool {
        self.results.contains(&slot)
    }

    fn needed_outside(&self, slot: Slot, inside: &BTreeSet<usize>) -> bool {
        let read = self.readers.get(&slot).into_iter().flatten().any(|c| !inside.contains(c));
        read || self.is_result(slot)
    }
}
