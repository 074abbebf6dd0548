//! The order of calls: as written, except that a call which frees more than it makes runs as soon
//! as it can.
//!
//! The written order is forward, backward, update. Moving the releasing calls up (an optimizer
//! update right after its gradient, a reduction right after what it reads) shortens live ranges.
//!
//! # Invariants
//! - Dependency order holds; a call and the epilogue marked on the next one stay together.
//! - Deterministic: ties keep the written order.

use super::renumber;
use crate::program::{EntryFn, Kernel, Program};

/// Runs the pass.
pub fn run(program: &mut Program) {
    for entry in &mut program.entries {
        order(entry, &program.kernels);
        renumber(entry, &program.kernels);
    }
}

/// One or two calls that run together: a call, and its epilogue.
struct Unit {
    calls: std::ops::Range<usize>,
    /// Units whose results it reads, each once.
    needs: Vec<usize>,
    /// Units that read its results.
    users: Vec<usize>,
    /// Slots it reads, each once, and their bytes.
    reads: Vec<(usize, u64)>,
    /// Bytes of its results.
    makes: u64,
}

fn order(entry: &mut EntryFn, kernels: &[Kernel]) {
    let bytes: Vec<u64> = entry.slot_types(kernels).iter().map(|t| t.bytes()).collect();
    let units = units(entry, kernels, &bytes);
    let mut readers = vec![0u32; bytes.len()];
    for unit in &units {
        unit.reads.iter().for_each(|(slot, _)| readers[*slot] += 1);
    }
    // Arguments and results of the entry stay alive whatever runs.
    (0..entry.args.len()).for_each(|i| readers[i] = u32::MAX / 2);
    entry.results.iter().for_each(|r| readers[r.value.0 as usize] = u32::MAX / 2);

    let mut missing: Vec<usize> = units.iter().map(|u| u.needs.len()).collect();
    let mut done = vec![false; units.len()];
    let mut sequence = Vec::with_capacity(units.len());
    let mut ready = Vec::new();
    for next in 0..units.len() {
        ready.push(next);
        while let Some(unit) = ready.pop() {
            if done[unit] {
                continue;
            }
            done[unit] = true;
            sequence.push(unit);
            units[unit].reads.iter().for_each(|(slot, _)| readers[*slot] -= 1);
            for user in units[unit].users.iter().rev() {
                missing[*user] -= 1;
                if missing[*user] == 0 && releases(&units[*user], &readers) {
                    ready.push(*user);
                }
            }
        }
    }
    let mut calls: Vec<_> = std::mem::take(&mut entry.calls).into_iter().map(Some).collect();
    let sorted = sequence.iter().flat_map(|u| units[*u].calls.clone());
    entry.calls = sorted.filter_map(|c| calls[c].take()).collect();
}

/// Whether running it now frees more than it makes: it is the last reader of enough bytes.
fn releases(unit: &Unit, readers: &[u32]) -> bool {
    let freed: u64 = unit.reads.iter().filter(|(s, _)| readers[*s] == 1).map(|(_, b)| b).sum();
    freed > unit.makes
}

fn units(entry: &EntryFn, kernels: &[Kernel], bytes: &[u64]) -> Vec<Unit> {
    let mut maker = vec![None; bytes.len()];
    let mut units: Vec<Unit> = Vec::new();
    for (i, call) in entry.calls.iter().enumerate() {
        let joins = call.epilogue.is_some() && !units.is_empty();
        if !joins {
            let (needs, users, reads) = (Vec::new(), Vec::new(), Vec::new());
            units.push(Unit { calls: i..i, needs, users, reads, makes: 0 });
        }
        let me = units.len() - 1;
        units[me].calls.end = i + 1;
        for arg in &call.args {
            let slot = arg.0 as usize;
            if let Some(from) =
                maker[slot].filter(|from| *from != me && !units[me].needs.contains(from))
            {
                units[me].needs.push(from);
                units[from].users.push(me);
            }
            if !units[me].reads.iter().any(|(s, _)| *s == slot) {
                units[me].reads.push((slot, bytes[slot]));
            }
        }
        for slot in call.results(kernels) {
            maker[slot.0 as usize] = Some(me);
            units[me].makes += bytes[slot.0 as usize];
        }
    }
    units
}
