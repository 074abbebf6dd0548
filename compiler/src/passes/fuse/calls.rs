//! Groups of calls as calls: each group one call of a merged kernel.
//!
//! # Invariants
//! - A merged call makes what others read, and nothing else; it carries its members' nodes and
//!   decisions.

use std::collections::{BTreeSet, HashMap};

use crate::passes::merge::{Interner, Member, merge};
use crate::program::{Call, Decision, EntryFn, Slot};

/// Replaces an entry's calls by one for each group, in the order of the groups.
pub(super) fn merge_groups(
    entry: &mut EntryFn,
    groups: &[Vec<usize>],
    decisions: Vec<Vec<Decision>>,
    kernels: &mut Interner,
) {
    for (call, made) in entry.calls.iter_mut().zip(decisions) {
        call.decisions.extend(made);
    }
    let (calls, renamed) = merged_calls(entry, groups, kernels);
    entry.calls = calls;
    let new = |slot: &mut Slot| *slot = renamed.get(slot).copied().unwrap_or(*slot);
    entry.calls.iter_mut().flat_map(|c| &mut c.args).for_each(new);
    entry.results.iter_mut().for_each(|r| new(&mut r.value));
}

/// The groups as calls, and the new slots of what merged calls make.
fn merged_calls(
    entry: &EntryFn,
    groups: &[Vec<usize>],
    kernels: &mut Interner,
) -> (Vec<Call>, HashMap<Slot, Slot>) {
    let kept = read_outside(entry, groups, kernels);
    let made =
        entry.calls.iter().map(|c| c.first_result.0 + kernels.get(c.kernel).results.len() as u32);
    let mut next = made.max().unwrap_or(0).max(entry.args.len() as u32);
    let mut renamed: HashMap<Slot, Slot> = HashMap::new();
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

/// Slots that another group or the entry's caller reads.
fn read_outside(entry: &EntryFn, groups: &[Vec<usize>], kernels: &Interner) -> BTreeSet<Slot> {
    let mut home: Vec<usize> = vec![0; entry.calls.len()];
    for (g, members) in groups.iter().enumerate() {
        members.iter().for_each(|c| home[*c] = g);
    }
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
    kept
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
    let decisions = members.iter().flat_map(|c| entry.calls[*c].decisions.clone()).collect();
    let call = Call {
        kernel: kernels.intern(merged.kernel),
        args: merged.args,
        first_result: Slot(first),
        nodes,
        epilogue: None,
        until: None,
        only: members.first().and_then(|c| entry.calls[*c].only.clone()),
        decisions,
    };
    (call, merged.results)
}
