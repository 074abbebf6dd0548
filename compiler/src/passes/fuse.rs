//! Fusion: loop kernels that share rows become one kernel.
//!
//! Every call starts as a group of its own. Along each edge from a producer to a consumer, and
//! between siblings that read the same value, two groups merge when the merged kernel would not
//! compute anything twice, has enough rows to spread over, and no cycle arises. Each decision is
//! recorded with its reason and numbers.
//!
//! A kernel's *rows* are the leading dimensions that its reductions are indexed by; an elementwise
//! kernel can take any leading dimensions as rows.
//!
//! # Invariants
//! - Greedy in call order, so the outcome depends on the program alone.
//! - A reduction is computed once per row: who reads it in its group reads it at its own row.
//! - Contractions, attention and serial kernels are never merged here.

use std::collections::{BTreeSet, HashMap};

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;

use super::facts::{Facts, Shape, row_aligned};
use super::merge::{Interner, Member, merge};
use super::{drop_unused_kernels, renumber};
use crate::program::{Call, EntryFn, Program, Slot};

/// Calls further apart than this are not considered: the value would live too long, and the search
/// for cycles would cost too much.
const WINDOW: usize = 400;
/// A fused kernel has at most this many parameters and results, and ops.
const MAX_OPERANDS: usize = 28;
const MAX_OPS: usize = 64;
/// A group with reductions needs this many rows to spread over threads.
const MIN_ROWS: u64 = 16;

/// An enum of names that can be listed.
macro_rules! listed {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$item_doc])* $item,)*
        }

        impl $name {
            /// Every one, in order.
            pub const ALL: &[$name] = &[$($name::$item,)*];
        }
    };
}

listed! {
    /// Which rule was tried.
    Rule {
        /// An elementwise producer into an elementwise consumer.
        Elementwise,
        /// A reduction and an elementwise neighbour over the same rows: norms, softmax.
        RowReduction,
        /// An elementwise producer into a reduction down columns.
        ColumnReduction,
        /// Two kernels over the same extents that read the same value.
        Sibling,
    }
}

listed! {
    /// Why a fusion was accepted or rejected.
    Reason {
        /// F00: merged.
        Fused,
        /// F01: one of them is no loop kernel, or a reduction that cannot take neighbours.
        NotFusable,
        /// F02: their rows differ.
        RowsDiffer,
        /// F03: too few rows to spread a reduction's group over.
        FewRows,
        /// F04: the consumer reads the producer at other rows, so it would be computed again.
        Misaligned,
        /// F05: the merged kernel would be too large.
        TooLarge,
        /// F06: something between them depends on one and feeds the other.
        Cycle,
        /// F07: too far apart.
        Far,
        /// F08: a small value read by many elements would be computed for each of them.
        Recomputed,
    }
}

impl Reason {
    /// Its code, `F03`.
    pub fn code(self) -> &'static str {
        match self {
            Reason::Fused => "F00",
            Reason::NotFusable => "F01",
            Reason::RowsDiffer => "F02",
            Reason::FewRows => "F03",
            Reason::Misaligned => "F04",
            Reason::TooLarge => "F05",
            Reason::Cycle => "F06",
            Reason::Far => "F07",
            Reason::Recomputed => "F08",
        }
    }

    /// The reason in words.
    pub fn words(self) -> &'static str {
        match self {
            Reason::Fused => "fused",
            Reason::NotFusable => "one of them cannot be fused",
            Reason::RowsDiffer => "their rows differ",
            Reason::FewRows => "too few rows to spread over threads",
            Reason::Misaligned => "the consumer reads other rows than its own",
            Reason::TooLarge => "the kernel would be too large",
            Reason::Cycle => "something between them depends on one and feeds the other",
            Reason::Far => "they are too far apart",
            Reason::Recomputed => {
                "the value would be computed again for each element that reads it"
            }
        }
    }
}

/// One decision of this pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Entry it was made in.
    pub entry: String,
    /// The rule.
    pub rule: Rule,
    /// The outcome.
    pub reason: Reason,
    /// Node of the producer, or of the first sibling.
    pub from: String,
    /// Node of the consumer, or of the second sibling.
    pub to: String,
    /// Bytes that need not go through memory if they merge.
    pub bytes: u64,
}

/// Runs the pass; gives every decision in the order made.
pub fn run(program: &mut Program) -> Vec<Decision> {
    let mut kernels = Interner::new(std::mem::take(&mut program.kernels));
    let mut decisions = Vec::new();
    for entry in &mut program.entries {
        let mut fuser = Fuser::new(entry, &kernels);
        fuser.along_edges();
        fuser.between_siblings();
        let groups = fuser.acyclic_groups();
        decisions.append(&mut fuser.decisions);
        let (calls, renamed) = merged_calls(entry, &groups, &mut kernels);
        entry.calls = calls;
        rename(entry, &renamed);
    }
    program.kernels = kernels.finish();
    for entry in &mut program.entries {
        renumber(entry, &program.kernels);
    }
    drop_unused_kernels(program);
    decisions
}

struct Fuser<'a> {
    entry: &'a EntryFn,
    kernels: &'a Interner,
    /// Facts of a group, at its representative.
    facts: Vec<Facts>,
    /// Union-find parent of each call.
    parent: Vec<usize>,
    /// Calls of a group in order, at its representative.
    members: Vec<Vec<usize>>,
    /// The call that makes a slot.
    maker: HashMap<Slot, usize>,
    /// Calls that read a slot, in order.
    readers: HashMap<Slot, Vec<usize>>,
    /// Bytes of each slot.
    bytes: HashMap<Slot, u64>,
    decisions: Vec<Decision>,
}

impl<'a> Fuser<'a> {
    fn new(entry: &'a EntryFn, kernels: &'a Interner) -> Self {
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
        let count = entry.calls.len();
        Fuser {
            entry,
            kernels,
            facts,
            parent: (0..count).collect(),
            members: (0..count).map(|i| vec![i]).collect(),
            maker,
            readers,
            bytes,
            decisions: Vec::new(),
        }
    }

    fn find(&self, mut call: usize) -> usize {
        while self.parent[call] != call {
            call = self.parent[call];
        }
        call
    }

    /// Tries every edge, consumers in call order.
    fn along_edges(&mut self) {
        for consumer in 0..self.entry.calls.len() {
            if !self.facts[consumer].fusable() {
                continue;
            }
            for slot in &self.entry.calls[consumer].args {
                let Some(&producer) = self.maker.get(slot) else { continue };
                let (a, b) = (self.find(producer), self.find(consumer));
                if a == b || !self.facts[a].fusable() {
                    continue;
                }
                let rule = self.rule(a, b);
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
                let (a, b) = (self.find(pair[0]), self.find(pair[1]));
                let both = self.facts[a].fusable() && self.facts[b].fusable();
                if a == b || !both {
                    continue;
                }
                let reason = self.judge_siblings(a, b);
                self.decide(Rule::Sibling, reason, pair[0], pair[1], self.bytes[&slot]);
            }
        }
    }

    fn rule(&self, a: usize, b: usize) -> Rule {
        match (&self.facts[a].shape, &self.facts[b].shape) {
            (_, Shape::Columns) | (Shape::Columns, _) => Rule::ColumnReduction,
            (Shape::Elementwise, Shape::Elementwise) => Rule::Elementwise,
            _ => Rule::RowReduction,
        }
    }

    fn judge_edge(&self, producer: usize, consumer: usize, slot: Slot) -> Reason {
        let (a, b) = (self.find(producer), self.find(consumer));
        let (p, c) = (&self.facts[a], &self.facts[b]);
        if p.shape == Shape::Columns {
            return Reason::NotFusable;
        }
        let kernel = self.kernels.get(self.entry.calls[consumer].kernel);
        let param = self.entry.calls[consumer].args.iter().position(|s| *s == slot).unwrap_or(0);
        let only_reader = self.readers[&slot].len() == 1 && !self.is_result(slot);
        if c.shape == Shape::Columns {
            // The reduction walks its operands once; anything else the producer feeds would walk
            // them in another order.
            let inlined =
                p.shape == Shape::Elementwise && only_reader && self.members[a].len() == 1;
            if !inlined || self.members[b].len() > 1 && !only_reader {
                return Reason::NotFusable;
            }
            return self.judge_size_and_order(a, b);
        }
        let Some(rows) = common_rows(p, c) else { return Reason::RowsDiffer };
        if !row_aligned(kernel, param, rows.len()) {
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

    fn judge_siblings(&self, a: usize, b: usize) -> Reason {
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
        self.judge_size_and_order(a, b)
    }

    fn judge_size_and_order(&self, a: usize, b: usize) -> Reason {
        if self.facts[a].ops + self.facts[b].ops > MAX_OPS || self.operands(a, b) > MAX_OPERANDS {
            return Reason::TooLarge;
        }
        let first = self.members[a][0].min(self.members[b][0]);
        let last = self.members[a].last().max(self.members[b].last()).copied().unwrap_or(first);
        if last - first > WINDOW {
            return Reason::Far;
        }
        if self.joined_outside(a, b, last) || self.joined_outside(b, a, last) {
            return Reason::Cycle;
        }
        Reason::Fused
    }

    /// Parameters and results of two groups as one.
    fn operands(&self, a: usize, b: usize) -> usize {
        let calls = || self.members[a].iter().chain(&self.members[b]);
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
        self.entry.results.iter().any(|r| r.value == slot)
    }

    fn needed_outside(&self, slot: Slot, inside: &BTreeSet<usize>) -> bool {
        let read = self.readers.get(&slot).into_iter().flatten().any(|c| !inside.contains(c));
        read || self.is_result(slot)
    }

    /// Whether a path leaves group `a`, passes through something outside both, and enters `b`.
    fn joined_outside(&self, a: usize, b: usize, last: usize) -> bool {
        let mut seen = BTreeSet::new();
        let mut stack: Vec<usize> = self.after(a).filter(|g| *g != b && *g != a).collect();
        while let Some(group) = stack.pop() {
            if group == b {
                return true;
            }
            // Calls after the last member can lead back only through groups that start before it.
            if group == a || self.members[group][0] > last || !seen.insert(group) {
                continue;
            }
            stack.extend(self.after(group));
        }
        false
    }

    /// Groups that read what a group makes.
    fn after(&self, group: usize) -> impl Iterator<Item = usize> + '_ {
        let made = self.members[group].iter().flat_map(|c| self.made(*c));
        let readers = made.filter_map(|s| self.readers.get(&s)).flatten();
        readers.map(|c| self.find(*c)).filter(move |g| *g != group)
    }

    fn decide(&mut self, rule: Rule, reason: Reason, from: usize, to: usize, bytes: u64) {
        let node = |call: usize| self.entry.calls[call].nodes.first().cloned().unwrap_or_default();
        let (entry, from_node, to_node) = (self.entry.name.clone(), node(from), node(to));
        self.decisions.push(Decision { entry, rule, reason, from: from_node, to: to_node, bytes });
        if reason == Reason::Fused {
            self.unite(self.find(from), self.find(to));
        }
    }

    fn unite(&mut self, a: usize, b: usize) {
        let other = std::mem::take(&mut self.members[b]);
        self.members[a].extend(other);
        self.members[a].sort_unstable();
        self.parent[b] = a;
        self.facts[a] = self.facts[a].join(&self.facts[b]);
    }

    /// The groups in order. `joined_outside` looks at a window; where two groups further apart came
    /// to wait for each other, they are taken apart again.
    fn acyclic_groups(&mut self) -> Vec<Vec<usize>> {
        loop {
            let order = self.groups();
            let placed: BTreeSet<usize> = order.iter().flatten().copied().collect();
            let waiting: Vec<usize> = (0..self.parent.len())
                .filter(|c| self.parent[*c] == *c && !placed.contains(c))
                .collect();
            if waiting.is_empty() {
                return order;
            }
            for widest in self.widest_of_cycles(&waiting) {
                let members = self.members[widest].clone();
                self.take_apart(&members);
            }
        }
    }

    /// Of each circle of groups that wait for each other, the one that spans most calls.
    fn widest_of_cycles(&self, groups: &[usize]) -> Vec<usize> {
        let mut waits = DiGraphMap::<usize, ()>::new();
        for &group in groups {
            self.after(group).for_each(|user| {
                waits.add_edge(group, user, ());
            });
        }
        let span = |g: &usize| {
            let members = &self.members[*g];
            (members.last().unwrap_or(g) - members.first().unwrap_or(g), *g)
        };
        let circles = tarjan_scc(&waits).into_iter().filter(|circle| circle.len() > 1);
        circles.filter_map(|circle| circle.into_iter().max_by_key(span)).collect()
    }

    /// Makes calls groups of their own again and says so in the decisions that had joined them.
    fn take_apart(&mut self, calls: &[usize]) {
        let mut nodes = BTreeSet::new();
        for &call in calls {
            self.parent[call] = call;
            self.members[call] = vec![call];
            nodes.extend(self.entry.calls[call].nodes.first().cloned());
        }
        for d in self.decisions.iter_mut().filter(|d| d.reason == Reason::Fused) {
            if nodes.contains(&d.from) && nodes.contains(&d.to) {
                d.reason = Reason::Cycle;
            }
        }
    }

    /// Groups in an order in which each comes after what it reads; those in a cycle are left out.
    fn groups(&self) -> Vec<Vec<usize>> {
        let heads: Vec<usize> = (0..self.parent.len()).filter(|c| self.parent[*c] == *c).collect();
        let mut missing: HashMap<usize, usize> = HashMap::new();
        for head in &heads {
            let users: BTreeSet<usize> = self.after(*head).collect();
            users.into_iter().for_each(|u| *missing.entry(u).or_default() += 1);
        }
        // Ready groups by their last call: a group waits for its latest member's turn.
        let key = |g: usize| (self.members[g].last().copied().unwrap_or(g), g);
        let mut ready: BTreeSet<(usize, usize)> =
            heads.iter().filter(|h| !missing.contains_key(h)).map(|h| key(*h)).collect();
        let mut order = Vec::with_capacity(heads.len());
        while let Some((_, group)) = ready.pop_first() {
            order.push(self.members[group].clone());
            let users: BTreeSet<usize> = self.after(group).collect();
            for user in users {
                let left = missing.entry(user).or_default();
                *left -= 1;
                if *left == 0 {
                    ready.insert(key(user));
                }
            }
        }
        order
    }
}

/// Rows two groups can share: the longer of the rows either needs, if it leads both.
fn common_rows(a: &Facts, b: &Facts) -> Option<Vec<u64>> {
    let rows = match (&a.shape, &b.shape) {
        (Shape::Rows(x), Shape::Rows(y)) => (x == y).then(|| x.clone())?,
        (Shape::Rows(x), _) | (_, Shape::Rows(x)) => x.clone(),
        _ => {
            let shared = a.extents.iter().zip(&b.extents).take_while(|(x, y)| x == y);
            shared.map(|(x, _)| *x).collect()
        }
    };
    let leads = |f: &Facts| f.extents.len() >= rows.len() && f.extents.starts_with(&rows);
    (leads(a) && leads(b)).then_some(rows)
}

/// The groups as calls, and the new slots of what merged calls make.
fn merged_calls(
    entry: &EntryFn,
    groups: &[Vec<usize>],
    kernels: &mut Interner,
) -> (Vec<Call>, HashMap<Slot, Slot>) {
    let mut home: Vec<usize> = vec![0; entry.calls.len()];
    for (g, members) in groups.iter().enumerate() {
        members.iter().for_each(|c| home[*c] = g);
    }
    // Slots read by another group or by the entry.
    let mut kept: BTreeSet<Slot> = entry.results.iter().map(|r| r.value).collect();
    let mut maker: HashMap<Slot, usize> = HashMap::new();
    for (i, call) in entry.calls.iter().enumerate() {
        let count = kernels.get(call.kernel).results.len() as u32;
        (0..count).for_each(|n| {
            maker.insert(Slot(call.first_result.0 + n), i);
        });
        for arg in &call.args {
            if maker.get(arg).is_some_and(|m| home[*m] != home[i]) {
                kept.insert(*arg);
            }
        }
    }
    let mut renamed: HashMap<Slot, Slot> = HashMap::new();
    let mut next = maker.keys().map(|s| s.0 + 1).max().unwrap_or(0).max(entry.args.len() as u32);
    let mut calls = Vec::with_capacity(groups.len());
    for members in groups {
        calls.push(match members[..] {
            [one] => entry.calls[one].clone(),
            _ => {
                let (call, results) = one_call(entry, members, &kept, next, kernels);
                results.iter().zip(next..).for_each(|(slot, new)| {
                    renamed.insert(*slot, Slot(new));
                });
                next += results.len() as u32;
                call
            }
        });
    }
    (calls, renamed)
}

fn rename(entry: &mut EntryFn, renamed: &HashMap<Slot, Slot>) {
    let new = |slot: &mut Slot| *slot = renamed.get(slot).copied().unwrap_or(*slot);
    entry.calls.iter_mut().flat_map(|c| &mut c.args).for_each(new);
    entry.results.iter_mut().for_each(|r| new(&mut r.value));
}

fn one_call(
    entry: &EntryFn,
    members: &[usize],
    kept: &BTreeSet<Slot>,
    first: u32,
    kernels: &mut Interner,
) -> (Call, Vec<Slot>) {
    let kept: Vec<Vec<Slot>> = members
        .iter()
        .map(|c| {
            let call = &entry.calls[*c];
            let count = kernels.get(call.kernel).results.len() as u32;
            let made = (call.first_result.0..call.first_result.0 + count).map(Slot);
            made.filter(|s| kept.contains(s)).collect()
        })
        .collect();
    let list: Vec<Member> = members
        .iter()
        .zip(&kept)
        .map(|(c, kept)| {
            let call = &entry.calls[*c];
            Member { call, kernel: kernels.get(call.kernel), kept }
        })
        .collect();
    let merged = merge(&list);
    let mut nodes: Vec<String> = Vec::new();
    for node in members.iter().flat_map(|c| &entry.calls[*c].nodes) {
        if !nodes.contains(node) {
            nodes.push(node.clone());
        }
    }
    let kernel = kernels.intern(merged.kernel);
    let call = Call { kernel, args: merged.args, first_result: Slot(first), nodes, epilogue: None };
    (call, merged.results)
}
