//! Epilogues: a loop kernel that reads a contraction row by row runs on panels of its rows.
//!
//! The contraction finishes its result in panels of rows. A kernel whose rows are those rows can
//! run on each panel right then, while the panel is in cache, instead of fetching the whole result
//! from memory again. The kernel stays a kernel and its call a call: the call moves right behind
//! the contraction's and is marked with the number of rows.
//!
//! The mirror image, a prologue that makes panels of an operand just before they are read, is judged
//! and never taken: the product library packs operands from memory itself, so a panel would be
//! written and read all the same. What such a prologue would be about is recorded.
//!
//! # Invariants
//! - A marked call follows its contraction, reads its result at the own row only, and makes results
//!   that the same rows lead.
//! - A contraction has one epilogue, and an epilogue one contraction. Greedy in call order.
//! - What the call computes, and in which order, does not change.
//! - A contraction waits for no collective that it does not need.

use std::collections::{HashMap, HashSet};

use super::bufferise::is_alias;
use super::facts::{Facts, Shape};
use super::order::Groups;
use super::{is_recomputed, renumber};
use crate::program::rows::{finished_rows, row_aligned};
use crate::program::{Decision, EntryFn, Kernel, Program, Reason, Rule, Slot};

/// Calls further apart than this are not considered: the operands would live too long.
const WINDOW: usize = 400;
/// With fewer rows there is nothing to cut.
const MIN_ROWS: u64 = 16;

/// Runs the pass.
pub fn run(program: &mut Program) {
    let facts: Vec<Facts> = program.kernels.iter().map(Facts::of).collect();
    let beside = program.overlaps_on().is_some();
    for entry in &mut program.entries {
        let mut marker = Marker {
            entry,
            kernels: &program.kernels,
            facts: &facts,
            groups: Groups::new(entry, |number| &program.kernels[number as usize], beside),
            rows: vec![None; entry.calls.len()],
            decisions: vec![Vec::new(); entry.calls.len()],
        };
        let readers = marker.readers();
        marker.mark(&readers);
        marker.note_prologues(&readers);
        let Marker { groups, rows, decisions, .. } = marker;
        for (call, (rows, made)) in entry.calls.iter_mut().zip(rows.into_iter().zip(decisions)) {
            call.epilogue = rows;
            call.decisions.extend(made);
        }
        let mut calls: Vec<_> = std::mem::take(&mut entry.calls).into_iter().map(Some).collect();
        let order = groups.in_order().into_iter().flatten();
        entry.calls = order.filter_map(|c| calls[c].take()).collect();
        renumber(entry, &program.kernels);
    }
}

/// One entry while its epilogues are found.
struct Marker<'a> {
    entry: &'a EntryFn,
    kernels: &'a [Kernel],
    /// Facts of each kernel.
    facts: &'a [Facts],
    groups: Groups,
    /// The mark of each call.
    rows: Vec<Option<u64>>,
    /// Decisions about each call.
    decisions: Vec<Vec<Decision>>,
}

impl Marker<'_> {
    /// Calls that read a slot, in order.
    fn readers(&self) -> HashMap<Slot, Vec<usize>> {
        let mut readers: HashMap<Slot, Vec<usize>> = HashMap::new();
        for (i, call) in self.entry.calls.iter().enumerate() {
            for slot in &call.args {
                readers.entry(*slot).or_default().push(i);
            }
        }
        readers
    }

    fn mark(&mut self, readers: &HashMap<Slot, Vec<usize>>) {
        for host in 0..self.entry.calls.len() {
            let call = &self.entry.calls[host];
            let kernel = &self.kernels[call.kernel as usize];
            let Some(rows) = finished_rows(kernel) else { continue };
            let bytes = kernel.ops.last().map_or(0, |op| op.results[0].bytes());
            for &reader in readers.get(&call.first_result).into_iter().flatten() {
                self.consider(host, reader, rows, bytes);
            }
        }
    }

    /// Notes what a prologue would be about: loop kernels that one contraction alone reads.
    fn note_prologues(&mut self, readers: &HashMap<Slot, Vec<usize>>) {
        let given: HashSet<Slot> = self.entry.results.iter().map(|r| r.value).collect();
        for (from, call) in self.entry.calls.iter().enumerate() {
            let (number, kernel) = (call.kernel as usize, &self.kernels[call.kernel as usize]);
            if !self.facts[number].fusable() || is_alias(kernel) {
                continue;
            }
            let reason =
                if self.rows[from].is_some() { Reason::Taken } else { Reason::PackedFromMemory };
            for (slot, ty) in call.results(self.kernels).zip(kernel.result_types()) {
                let Some([to]) = readers.get(&slot).map(Vec::as_slice) else { continue };
                let host = &self.kernels[self.entry.calls[*to].kernel as usize];
                if given.contains(&slot) || finished_rows(host).is_none() {
                    continue;
                }
                let rows = ty.shape.split_last().map_or(1, |(_, rows)| rows.iter().product());
                let decision = self.decision(Rule::Prologue, reason, [from, *to], ty.bytes(), rows);
                self.decisions[*to].push(decision);
            }
        }
    }

    fn decision(
        &self,
        rule: Rule,
        reason: Reason,
        calls: [usize; 2],
        bytes: u64,
        rows: u64,
    ) -> Decision {
        let node = |call: usize| self.entry.calls[call].nodes.first().cloned().unwrap_or_default();
        let [from, to] = calls.map(node);
        Decision { rule, reason, from, to, bytes, rows }
    }

    /// Judges a reader of a contraction's result, notes the outcome and follows it.
    fn consider(&mut self, host: usize, reader: usize, rows: &[u64], bytes: u64) {
        let number = self.entry.calls[reader].kernel as usize;
        if !self.facts[number].fusable() || is_alias(&self.kernels[number]) {
            return;
        }
        let reason = self.judge(host, reader, rows);
        let rows = rows.iter().product();
        let decision = self.decision(Rule::Epilogue, reason, [host, reader], bytes, rows);
        self.decisions[reader].push(decision);
        if reason == Reason::Fused {
            self.groups.unite(host, reader);
            self.rows[reader] = Some(rows);
        }
    }

    fn judge(&self, host: usize, reader: usize, rows: &[u64]) -> Reason {
        let call = &self.entry.calls[reader];
        if call.only != self.entry.calls[host].only {
            return Reason::OtherRanks;
        }
        if is_recomputed(call) && !is_recomputed(&self.entry.calls[host]) {
            return Reason::MadeAgain;
        }
        let kernel = &self.kernels[call.kernel as usize];
        match &self.facts[call.kernel as usize].shape {
            Shape::Other | Shape::Columns => return Reason::NotFusable,
            Shape::Rows(own) if !own.starts_with(rows) => return Reason::RowsDiffer,
            Shape::Rows(_) | Shape::Elementwise => {}
        }
        if kernel.result_types().iter().any(|ty| !ty.shape.starts_with(rows)) {
            return Reason::RowsDiffer;
        }
        let result = self.entry.calls[host].first_result;
        let params = call.args.iter().enumerate().filter(|(_, slot)| **slot == result);
        if params.into_iter().any(|(param, _)| !row_aligned(kernel, param, rows.len())) {
            return Reason::Misaligned;
        }
        if rows.iter().product::<u64>() < MIN_ROWS {
            return Reason::FewRows;
        }
        let alone = |call: usize| self.groups.members(self.groups.find(call)).len() == 1;
        if !alone(host) || !alone(reader) {
            return Reason::Taken;
        }
        if self.groups.span(host, reader) > WINDOW {
            return Reason::Far;
        }
        if self.groups.waits_beyond(reader, host) {
            return Reason::HeldUp;
        }
        let joined = self.groups.joined_outside(host, reader);
        if joined { Reason::Cycle } else { Reason::Fused }
    }
}
