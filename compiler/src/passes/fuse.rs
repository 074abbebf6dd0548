//! Fusion: loop kernels that share rows become one kernel.
//!
//! Every call starts as a group of its own. Along each edge from a producer to a consumer, and
//! between siblings that read the same value, two groups merge when the merged kernel would not
//! compute anything twice, has enough rows to spread over, and no cycle arises. The call of the
//! consumer, or of the second sibling, carries each decision with its reason and numbers.
//!
//! A kernel's *rows* are the leading dimensions that its reductions are indexed by; an elementwise
//! kernel can take any leading dimensions as rows.
//!
//! # Invariants
//! - Greedy in call order, so the outcome depends on the program alone.
//! - A reduction is computed once per row: who reads it in its group reads it at its own row.
//! - Contractions, attention, serial kernels and collectives are never merged here.
//! - What is recomputed for the backward pass is not merged into what the forward pass makes.
//! - What runs on some of the ranks merges with what runs on the same ones.
//! - A merge makes nothing wait for a collective that it did not wait for, except what only the other
//!   part of the merged kernel reads.

mod calls;
mod judge;

use std::collections::{HashMap, HashSet};

use super::facts::Facts;
use super::merge::Interner;
use super::order::Groups;
use super::{drop_unused_kernels, is_recomputed, renumber};
use crate::program::{Decision, EntryFn, Program, Reason, Rule, Slot};

/// Runs the pass.
pub fn run(program: &mut Program) {
    let beside = program.overlaps_on().is_some();
    let mut kernels = Interner::new(std::mem::take(&mut program.kernels));
    for entry in &mut program.entries {
        let mut fuser = Fuser::new(entry, &kernels, beside);
        fuser.along_edges();
        fuser.between_siblings();
        let Fuser { groups, decisions, .. } = fuser;
        calls::merge_groups(entry, &groups.in_order(), decisions, &mut kernels);
    }
    program.kernels = kernels.finish();
    for entry in &mut program.entries {
        renumber(entry, &program.kernels);
    }
    drop_unused_kernels(program);
}

/// One entry while its calls are grouped.
struct Fuser<'a> {
    entry: &'a EntryFn,
    kernels: &'a Interner,
    groups: Groups,
    /// Facts of a group, at its representative.
    facts: Vec<Facts>,
    /// The call that makes a slot.
    maker: HashMap<Slot, usize>,
    /// Calls that read a slot, in order.
    readers: HashMap<Slot, Vec<usize>>,
    /// Bytes of each slot.
    bytes: HashMap<Slot, u64>,
    /// Slots given to the caller.
    results: HashSet<Slot>,
    /// Decisions about each call.
    decisions: Vec<Vec<Decision>>,
}

impl<'a> Fuser<'a> {
    fn new(entry: &'a EntryFn, kernels: &'a Interner, beside: bool) -> Self {
        let mut known: HashMap<u32, Facts> = HashMap::new();
        let mut maker = HashMap::new();
        let mut readers: HashMap<Slot, Vec<usize>> = HashMap::new();
        let mut bytes = HashMap::new();
        let mut facts = Vec::with_capacity(entry.calls.len());
        for (i, call) in entry.calls.iter().enumerate() {
            let kernel = kernels.get(call.kernel);
            facts.push(known.entry(call.kernel).or_insert_with(|| Facts::of(kernel)).clone());
            for (n, ty) in kernel.result_types().iter().enumerate() {
                let slot = Slot(call.first_result.0 + n as u32);
                maker.insert(slot, i);
                bytes.insert(slot, ty.bytes());
            }
            for (slot, ty) in call.args.iter().zip(&kernel.params) {
                bytes.insert(*slot, ty.bytes());
                let list = readers.entry(*slot).or_default();
                if list.last() != Some(&i) {
                    list.push(i);
                }
            }
        }
        let groups = Groups::new(entry, |number| kernels.get(number), beside);
        let decisions = vec![Vec::new(); entry.calls.len()];
        let results = entry.results.iter().map(|r| r.value).collect();
        Fuser { entry, kernels, groups, facts, maker, readers, bytes, results, decisions }
    }

    /// Tries every edge, consumers in call order.
    fn along_edges(&mut self) {
        for consumer in 0..self.entry.calls.len() {
            if !self.facts[consumer].fusable() {
                continue;
            }
            for slot in &self.entry.calls[consumer].args {
                let Some(&producer) = self.maker.get(slot) else { continue };
                let (a, b) = (self.groups.find(producer), self.groups.find(consumer));
                if a == b || !self.facts[a].fusable() {
                    continue;
                }
                let rule = judge::rule(&self.facts[a], &self.facts[b]);
                let reason = self.judge_edge(producer, consumer, *slot);
                self.decide(rule, reason, producer, consumer, self.bytes[slot]);
            }
        }
    }

    /// Tries neighbours that read the same slot.
    fn between_siblings(&mut self) {
        let mut slots: Vec<Slot> = self.readers.keys().copied().collect();
        slots.sort();
        for slot in slots {
            let readers = self.readers[&slot].clone();
            for pair in readers.windows(2) {
                let (a, b) = (self.groups.find(pair[0]), self.groups.find(pair[1]));
                let both = self.facts[a].fusable() && self.facts[b].fusable();
                if a == b || !both {
                    continue;
                }
                let calls = [pair[0], pair[1]].map(|c| &self.entry.calls[c]);
                let [first, second] = calls.map(is_recomputed);
                let reason = match (calls[0].only == calls[1].only, first == second) {
                    (true, true) => self.judge_siblings(a, b),
                    (false, _) => Reason::OtherRanks,
                    (true, false) => Reason::MadeAgain,
                };
                self.decide(Rule::Sibling, reason, pair[0], pair[1], self.bytes[&slot]);
            }
        }
    }

    /// Notes a decision and follows it.
    fn decide(&mut self, rule: Rule, reason: Reason, from: usize, to: usize, bytes: u64) {
        let (a, b) = (self.groups.find(from), self.groups.find(to));
        let rows = judge::shared_rows(&self.facts[a], &self.facts[b]);
        let node = |call: usize| self.entry.calls[call].nodes.first().cloned().unwrap_or_default();
        let decision = Decision { rule, reason, from: node(from), to: node(to), bytes, rows };
        self.decisions[to].push(decision);
        if reason == Reason::Fused {
            self.groups.unite(a, b);
            self.facts[a] = self.facts[a].join(&self.facts[b]);
        }
    }
}
