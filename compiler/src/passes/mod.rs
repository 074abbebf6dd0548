//! The passes over a [`Program`], one file each, and their order.
//!
//! # Invariants
//! - A pass keeps what the program computes, bit for bit (reductions keep their order).
//! - Calls are in dependency order before and after every pass, and slots are numbered in call order.
//! - Near-linear in the number of calls: the full Kimi-K2 step has tens of thousands.

pub mod canonicalize_cse;
pub mod views;
pub mod fuse;
pub mod preserve_old_values;
pub mod epilogue;
pub mod schedule;
pub mod overlap;
pub mod outline;
pub mod bufferise;
mod facts;
mod merge;
mod order;
pub mod pointwise;

use crate::program::{Call, EntryFn, Kernel, Program, Slot};

/// Whether all a call does is done again on purpose: it must not become the call that did it first,
/// nor run beside it.
pub(crate) fn is_recomputed(call: &Call) -> bool {
    !call.nodes.is_empty() && call.nodes.iter().all(|n| n.ends_with("/recompute"))
}

/// Numbers slots in call order again, after a pass moved or dropped calls.
pub fn renumber(entry: &mut EntryFn, kernels: &[Kernel]) {
    let mut next = entry.args.len() as u32;
    let mut map: Vec<Option<Slot>> = (0..next).map(|i| Some(Slot(i))).collect();
    for call in &mut entry.calls {
        let count = kernels[call.kernel as usize].results.len() as u32;
        let first = call.first_result.0 as usize;
        if map.len() < first + count as usize {
            map.resize(first + count as usize, None);
        }
        for i in 0..count {
            map[first + i as usize] = Some(Slot(next + i));
        }
        call.first_result = Slot(next);
        next += count;
    }
    let new = |slot: Slot| map.get(slot.0 as usize).copied().flatten().unwrap_or(slot);
    for call in &mut entry.calls {
        call.args.iter_mut().for_each(|a| *a = new(*a));
    }
    entry.results.iter_mut().for_each(|r| r.value = new(r.value));
}

/// Drops kernels that no call names and numbers the rest in order of first use.
pub fn drop_unused_kernels(program: &mut Program) {
    let mut order: Vec<Option<u32>> = vec![None; program.kernels.len()];
    let mut next = 0;
    for call in program.entries.iter().flat_map(|e| &e.calls) {
        let slot = &mut order[call.kernel as usize];
        if slot.is_none() {
            *slot = Some(next);
            next += 1;
        }
    }
    let mut kept: Vec<(u32, Kernel)> = Vec::with_capacity(next as usize);
    for (kernel, new) in std::mem::take(&mut program.kernels).into_iter().zip(&order) {
        kept.extend(new.map(|n| (n, kernel)));
    }
    kept.sort_by_key(|(n, _)| *n);
    program.kernels = kept.into_iter().map(|(_, k)| k).collect();
    for call in program.entries.iter_mut().flat_map(|e| &mut e.calls) {
        call.kernel = order[call.kernel as usize].unwrap_or(call.kernel);
    }
}
