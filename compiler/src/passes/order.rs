//! Groups of calls, kept in an order in which each comes after what it reads.
//!
//! Two groups may become one when no path from the one to the other leads through a third. The
//! groups between them are then laid out around the new one: those that depend on it behind it, the
//! others in front. So the order is right after every merge, and nothing ever has to be undone.
//!
//! # Invariants
//! - The order is topological: a group's users stand behind it.
//! - A search never leaves the stretch of the order between the two groups it is about.
//! - Merges that hold nothing up leave as it is what every other group waits for.

use std::collections::BTreeSet;

use fixedbitset::FixedBitSet;

use crate::program::{EntryFn, Kernel, Slot};

/// The groups of an entry's calls; at first each call is one.
pub(super) struct Groups {
    /// Union-find parent of each call.
    parent: Vec<usize>,
    /// Calls of a group, ascending, at its representative.
    members: Vec<Vec<usize>>,
    /// Where a group stands, at its representative.
    position: Vec<usize>,
    /// The group at a position; a merge leaves a position empty.
    at: Vec<Option<usize>>,
    /// Calls that read what a call makes, each once, ascending.
    users: Vec<Vec<usize>>,
    /// Collectives that a group waits for, directly or not, at its representative.
    waits: Vec<FixedBitSet>,
}

impl Groups {
    /// Every call on its own; `kernel` gives a kernel by number. Where collectives run `beside`
    /// kernels, they hold up what waits for them, and only that.
    pub(super) fn new<'k>(
        entry: &EntryFn,
        kernel: impl Fn(u32) -> &'k Kernel,
        beside: bool,
    ) -> Groups {
        let count = entry.calls.len();
        let mut users: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); count];
        let mut maker: Vec<Option<usize>> = vec![None; entry.args.len()];
        for (i, call) in entry.calls.iter().enumerate() {
            for Slot(slot) in &call.args {
                if let Some(from) = maker.get(*slot as usize).copied().flatten() {
                    users[from].insert(i);
                }
            }
            let (first, made) = (call.first_result.0 as usize, kernel(call.kernel).results.len());
            maker.resize(maker.len().max(first + made), None);
            maker[first..first + made].fill(Some(i));
        }
        let users: Vec<Vec<usize>> = users.into_iter().map(Vec::from_iter).collect();
        let is_collective = |call: usize| kernel(entry.calls[call].kernel).collective().is_some();
        Groups {
            parent: (0..count).collect(),
            members: (0..count).map(|i| vec![i]).collect(),
            position: (0..count).collect(),
            at: (0..count).map(Some).collect(),
            waits: waits(&users, |call| beside && is_collective(call)),
            users,
        }
    }

    /// The group a call is in.
    pub(super) fn find(&self, mut call: usize) -> usize {
        while self.parent[call] != call {
            call = self.parent[call];
        }
        call
    }

    /// The calls of a group, ascending.
    pub(super) fn members(&self, group: usize) -> &[usize] {
        &self.members[group]
    }

    /// Calls from the first of either group to the last.
    pub(super) fn span(&self, a: usize, b: usize) -> usize {
        let ends = |group: usize| self.members[group].first().zip(self.members[group].last());
        let all = [ends(a), ends(b)].into_iter().flatten();
        let first = all.clone().map(|(first, _)| *first).min().unwrap_or(0);
        all.map(|(_, last)| *last).max().unwrap_or(0) - first
    }

    /// Whether a path from one of two groups to the other leads through a third.
    pub(super) fn joined_outside(&self, a: usize, b: usize) -> bool {
        let (first, last) = self.sorted(a, b);
        self.between(first, last).into_iter().any(|group| self.after(group).any(|g| g == last))
    }

    /// Whether `a` waits for a collective that `b` does not wait for.
    pub(super) fn waits_beyond(&self, a: usize, b: usize) -> bool {
        !self.waits[a].is_subset(&self.waits[b])
    }

    /// Whether others would have to wait for a collective that they do not need if two groups were
    /// one.
    pub(super) fn holds_up(&self, a: usize, b: usize) -> bool {
        let held_up = |group: usize, other: usize| {
            self.after(group).any(|user| user != other && self.waits_beyond(other, user))
        };
        held_up(a, b) || held_up(b, a)
    }

    /// Makes one group of two that are not [joined outside](Self::joined_outside); `a` represents it.
    pub(super) fn unite(&mut self, a: usize, b: usize) {
        let (first, last) = self.sorted(a, b);
        let depends = self.between(first, last);
        let stretch = self.position[first]..self.position[last] + 1;
        let others = self.at[stretch.clone()].iter().flatten().copied();
        let others: Vec<usize> = others.filter(|g| *g != a && *g != b).collect();
        let (behind, front): (Vec<usize>, Vec<usize>) =
            others.into_iter().partition(|g| depends.contains(g));
        self.at[stretch.clone()].fill(None);
        for (position, group) in stretch.zip(front.into_iter().chain([a]).chain(behind)) {
            self.at[position] = Some(group);
            self.position[group] = position;
        }
        let waits = std::mem::take(&mut self.waits[b]);
        self.waits[a].union_with(&waits);
        let other = std::mem::take(&mut self.members[b]);
        self.members[a].extend(other);
        self.members[a].sort_unstable();
        self.parent[b] = a;
    }

    /// The groups in order.
    pub(super) fn in_order(&self) -> Vec<Vec<usize>> {
        self.at.iter().flatten().map(|group| self.members[*group].clone()).collect()
    }

    fn sorted(&self, a: usize, b: usize) -> (usize, usize) {
        if self.position[a] <= self.position[b] { (a, b) } else { (b, a) }
    }

    /// Groups that read what a group makes; one may come several times.
    fn after(&self, group: usize) -> impl Iterator<Item = usize> + '_ {
        let users = self.members[group].iter().flat_map(|call| &self.users[*call]);
        users.map(|call| self.find(*call)).filter(move |g| *g != group)
    }

    /// Groups that depend on `first` and stand before `last`.
    fn between(&self, first: usize, last: usize) -> BTreeSet<usize> {
        let end = self.position[last];
        let mut found = BTreeSet::new();
        let mut todo = vec![first];
        while let Some(group) = todo.pop() {
            for next in self.after(group) {
                if self.position[next] < end && found.insert(next) {
                    todo.push(next);
                }
            }
        }
        found
    }
}

/// The collectives that each call waits for, as numbers in call order.
fn waits(users: &[Vec<usize>], is_collective: impl Fn(usize) -> bool) -> Vec<FixedBitSet> {
    let mut waits = vec![FixedBitSet::new(); users.len()];
    let mut collectives = 0;
    for (call, users) in users.iter().enumerate() {
        let mut handed_on = waits[call].clone();
        if is_collective(call) {
            handed_on.grow_and_insert(collectives);
            collectives += 1;
        }
        users.iter().for_each(|user| waits[*user].union_with(&handed_on));
    }
    waits
}

#[cfg(test)]
mod tests {
    use petgraph::algo::is_cyclic_directed;
    use petgraph::graphmap::DiGraphMap;

    use super::*;
    use crate::ops::Rng;
    use crate::program::{
        Call, Collective, CollectiveKind, Combine, DialectOp, EntryArg, KernelOp, OpKind, V,
    };
    use crate::types::{DType, Type};

    /// An entry whose call `i` reads what the calls of `edges[i]` make, and the argument.
    fn entry(edges: &[Vec<usize>]) -> (EntryFn, Vec<Kernel>) {
        let ty = Type::new(DType::f32, [4]);
        let call = |(i, from): (usize, &Vec<usize>)| Call {
            kernel: i as u32,
            args: [0]
                .into_iter()
                .chain(from.iter().map(|f| f + 1))
                .map(|s| Slot(s as u32))
                .collect(),
            first_result: Slot(i as u32 + 1),
            nodes: vec![format!("n{i}")],
            epilogue: None,
            until: None,
            only: None,
            decisions: Vec::new(),
        };
        let kernel = |from: &Vec<usize>| Kernel {
            name: String::new(),
            params: vec![ty.clone(); from.len() + 1],
            ops: Vec::new(),
            results: vec![V(0)],
        };
        let arg = EntryArg {
            name: "x".into(),
            ty: ty.clone(),
            kind: crate::program::ArgKind::Feed,
            shard: None,
            owner: None,
        };
        let calls = edges.iter().enumerate().map(call).collect();
        let entry = EntryFn { args: vec![arg], calls, ..EntryFn::default() };
        (entry, edges.iter().map(kernel).collect())
    }

    fn groups(edges: &[Vec<usize>]) -> Groups {
        let (entry, kernels) = entry(edges);
        Groups::new(&entry, |k| &kernels[k as usize], true)
    }

    #[test]
    fn a_path_through_a_third_group_keeps_two_apart() {
        let mut groups = groups(&[vec![], vec![0], vec![0, 1], vec![]]);
        assert!(groups.joined_outside(0, 2) && groups.joined_outside(2, 0));
        assert!(!groups.joined_outside(0, 1) && !groups.joined_outside(1, 2));
        assert!(!groups.joined_outside(0, 3));
        groups.unite(1, 2);
        assert!(!groups.joined_outside(0, 1), "what lay between is now part of the other");
        groups.unite(0, 3);
        assert_eq!(groups.in_order(), [vec![0, 3], vec![1, 2]]);
    }

    #[test]
    fn what_depends_on_a_merged_group_moves_behind_it() {
        // 1 reads 0; 2 is free; 3 reads 2. Merging 0 and 3 needs 2 before and 1 after.
        let mut groups = groups(&[vec![], vec![0], vec![], vec![2]]);
        groups.unite(0, 3);
        assert_eq!(groups.in_order(), [vec![2], vec![0, 3], vec![1]]);
    }

    #[test]
    fn a_merge_that_makes_others_wait_for_a_collective_is_told() {
        // 0 is a collective; 1 reads it, 2 does not; 3 reads 2; 4 reads 1 and 2; 5 reads 0 and 6.
        let edges = [vec![], vec![0], vec![], vec![2], vec![1, 2], vec![0, 6], vec![]];
        let (entry, mut kernels) = entry(&edges);
        kernels[0].ops.push(all_reduce());
        let mut groups = Groups::new(&entry, |k| &kernels[k as usize], true);
        assert!(groups.waits_beyond(1, 2) && groups.waits_beyond(4, 2));
        assert!(groups.holds_up(1, 2), "3 and 4 read 2");
        assert!(groups.holds_up(2, 4), "3 reads 2");
        assert!(!groups.holds_up(1, 4) && !groups.holds_up(2, 3));
        assert!(!groups.holds_up(1, 3), "nothing reads 3");
        assert!(!groups.holds_up(1, 6), "5 waits for the collective anyway");
        groups.unite(2, 3);
        assert!(!groups.holds_up(2, 4), "only 4 reads them");
        groups.unite(4, 2);
        assert!(groups.waits_beyond(4, 0), "one waits for what all of them do");
        let without = Groups::new(&entry, |k| &kernels[k as usize], false);
        assert!(!without.holds_up(1, 2));
    }

    fn all_reduce() -> KernelOp {
        let kind = CollectiveKind::AllReduce(Combine::Sum);
        let collective = Collective { kind, axes: vec![0], ranks: 2, roots: Vec::new() };
        let kind = OpKind::Dialect(DialectOp::Collective(collective));
        KernelOp { kind, operands: Vec::new(), results: Vec::new() }
    }

    /// Whether every group stands behind what it reads, found without the kept order.
    fn is_topological(order: &[Vec<usize>], edges: &[Vec<usize>]) -> bool {
        let at = |call: usize| order.iter().position(|g| g.contains(&call));
        edges.iter().enumerate().all(|(to, from)| from.iter().all(|f| at(*f) <= at(to)))
    }

    /// Whether groups would wait for each other if these two were one: the graph of groups then has a
    /// cycle.
    fn would_wait(groups: &Groups, a: usize, b: usize) -> bool {
        let one = |group: usize| if group == b { a } else { group };
        let all = groups.in_order().into_iter().map(|g| groups.find(g[0]));
        let edges = all.flat_map(|g| groups.after(g).map(move |user| (one(g), one(user))));
        let merged = DiGraphMap::<usize, ()>::from_edges(edges.filter(|(from, to)| from != to));
        is_cyclic_directed(&merged)
    }

    #[test]
    fn random_merges_are_refused_exactly_where_they_make_a_cycle() {
        let mut rng = Rng::new(5);
        let (mut merged, mut refused) = (0, 0);
        for _ in 0..200 {
            let edges: Vec<Vec<usize>> = (0..24)
                .map(|i| {
                    (0..rng.below(3) * u64::from(i > 0)).map(|_| rng.below(i) as usize).collect()
                })
                .collect();
            let mut groups = groups(&edges);
            for _ in 0..60 {
                let [a, b] = [(); 2].map(|()| groups.find(rng.below(24) as usize));
                if a == b {
                    continue;
                }
                let joined = groups.joined_outside(a, b);
                assert_eq!(joined, would_wait(&groups, a, b), "{edges:?}: {a} and {b}");
                if joined {
                    refused += 1;
                    continue;
                }
                groups.unite(a, b);
                merged += 1;
                let order = groups.in_order();
                assert!(is_topological(&order, &edges), "{edges:?}: {order:?}");
                assert_eq!(order.iter().flatten().count(), 24);
            }
        }
        assert!(merged > 1000 && refused > 1000, "{merged} merged, {refused} refused");
    }
}
