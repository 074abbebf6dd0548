//! Common calls once, dead calls never.
//!
//! Two calls of one kernel on the same slots, on the same ranks, are the same call. A call none of whose results is
//! read, by a call or by the entry, is dropped.
//!
//! # Invariants
//! - The first of equal calls stays where it is; its node paths and decisions gain those of
//!   the others.

use std::collections::HashMap;

use perilune_plan::Only;

use super::{drop_unused_kernels, is_recomputed, renumber};
use crate::program::{EntryFn, Kernel, Program, Slot};

/// Runs the pass.
pub fn run(program: &mut Program) {
    for entry in &mut program.entries {
        merge_equal_calls(entry, &program.kernels);
        drop_dead_calls(entry, &program.kernels);
        renumber(entry, &program.kernels);
    }
    drop_unused_kernels(program);
}

fn merge_equal_calls(entry: &mut EntryFn, kernels: &[Kernel]) {
    let mut slots: Vec<Slot> = (0..entry.slot_count(kernels) as u32).map(Slot).collect();
    let mut seen: HashMap<(u32, Vec<Slot>, Option<Only>), usize> = HashMap::new();
    let mut kept = Vec::with_capacity(entry.calls.len());
    for mut call in std::mem::take(&mut entry.calls) {
        call.args.iter_mut().for_each(|a| *a = slots[a.0 as usize]);
        if is_recomputed(&call) {
            kept.push(call);
            continue;
        }
        let key = (call.kernel, call.args.clone(), call.only.clone());
        match seen.get(&key) {
            None => {
                seen.insert(key, kept.len());
                kept.push(call);
            }
            Some(first) => {
                let first: &mut crate::program::Call = &mut kept[*first];
                for (mine, theirs) in call.results(kernels).zip(first.results(kernels)) {
                    slots[mine.0 as usize] = theirs;
                }
                for node in call.nodes {
                    if !first.nodes.contains(&node) {
                        first.nodes.push(node);
                    }
                }
                first.decisions.extend(call.decisions);
            }
        }
    }
    entry.calls = kept;
    entry.results.iter_mut().for_each(|r| r.value = slots[r.value.0 as usize]);
}

fn drop_dead_calls(entry: &mut EntryFn, kernels: &[Kernel]) {
    let last = entry.calls.iter().flat_map(|c| c.results(kernels)).map(|s| s.0 as usize + 1).max();
    let mut live = vec![false; last.unwrap_or(0).max(entry.args.len())];
    entry.results.iter().for_each(|r| live[r.value.0 as usize] = true);
    for call in entry.calls.iter().rev() {
        if call.results(kernels).any(|s| live[s.0 as usize]) {
            call.args.iter().for_each(|a| live[a.0 as usize] = true);
        }
    }
    entry.calls.retain(|call| call.results(kernels).any(|s| live[s.0 as usize]));
}
