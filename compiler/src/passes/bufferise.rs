//! Where every value lives: persistent tensors in place, temporaries in an arena.
//!
//! A call whose kernel only reshapes names its operand's storage anew. The new value of a
//! persistent tensor is written straight over the old one when nothing needs the old one any more;
//! otherwise it gets arena storage and the plan copies it at the end. Arena offsets come from live
//! ranges by best fit.
//!
//! # Invariants
//! - No two storages that are alive at the same call overlap, except where a result is written over
//!   an operand element by element ([`pointwise`](super::pointwise)).
//! - A contraction and its epilogue run at the same time: what either reads or writes is alive
//!   throughout both.
//! - What a collective sends and gets is alive, and written by nothing else, until it is done.
//! - Fetched values and values to be copied live to the end of the entry.
//! - Offsets are multiples of [`ALIGN`].

use std::collections::{BTreeMap, BTreeSet};

use super::pointwise::can_overwrite;
use crate::program::{EntryFn, Kernel, Layout, OpKind, Place, Program, ResultTarget, Slot};

/// Alignment of every arena buffer, bytes.
pub const ALIGN: u64 = 64;

/// Runs the pass.
pub fn run(program: &mut Program) {
    let kernels = &program.kernels;
    for entry in &mut program.entries {
        entry.layout = Some(layout(entry, kernels));
    }
}

/// Whether a kernel's only result is its first parameter under another shape.
pub fn is_alias(kernel: &Kernel) -> bool {
    kernel.params.len() == 1
        && kernel.results.len() == 1
        && kernel.ops.iter().all(|op| op.kind == OpKind::Reshape)
}

/// One piece of storage: the slots that share it, and when it is alive (call indices).
#[derive(Clone, Debug)]
struct Storage {
    bytes: u64,
    first: usize,
    last: usize,
    /// The last call that uses it, whether or not it is done by then.
    used: usize,
    /// Collectives that send it and run beside later calls: the call, and the last of those.
    flights: Vec<(usize, usize)>,
    place: Option<Place>,
    /// The call that writes it, with the position among its results.
    writer: Option<(usize, usize)>,
}

struct Layouter<'a> {
    entry: &'a EntryFn,
    kernels: &'a [Kernel],
    storages: Vec<Storage>,
    /// Storage of each slot, when it was made.
    of: Vec<usize>,
    /// The storage a storage was merged into; itself, if none.
    merged: Vec<usize>,
}

fn layout(entry: &EntryFn, kernels: &[Kernel]) -> Layout {
    let mut l =
        Layouter { entry, kernels, storages: Vec::new(), of: Vec::new(), merged: Vec::new() };
    l.collect();
    l.update_in_place();
    l.reuse_operands();
    let arena_bytes = l.place_arena();
    let slots = (0..l.of.len() as u32).map(Slot);
    let places = slots.map(|s| l.storages[l.storage(s)].place.unwrap_or(Place::Arena(0))).collect();
    Layout { places, arena_bytes }
}

impl Layouter<'_> {
    /// Storages and their live ranges.
    fn collect(&mut self) {
        let end = self.entry.calls.len();
        for (i, arg) in self.entry.args.iter().enumerate() {
            let place = Some(Place::Arg(i as u32));
            self.of.push(self.storages.len());
            self.storages.push(Storage {
                bytes: arg.ty.bytes(),
                first: 0,
                last: 0,
                used: 0,
                flights: Vec::new(),
                place,
                writer: None,
            });
        }
        for (i, call) in self.entry.calls.iter().enumerate() {
            let kernel = &self.kernels[call.kernel as usize];
            let (begin, end) = self.runs(i);
            let done = self.done(i).max(end);
            for arg in &call.args {
                let storage = &mut self.storages[self.of[arg.0 as usize]];
                storage.used = end;
                storage.last = storage.last.max(done);
                storage.flights.extend(call.until.map(|_| (i, done)));
            }
            if is_alias(kernel) {
                self.of.push(self.of[call.args[0].0 as usize]);
                continue;
            }
            for (n, ty) in kernel.result_types().iter().enumerate() {
                self.of.push(self.storages.len());
                let writer = Some((i, n));
                self.storages.push(Storage {
                    bytes: ty.bytes(),
                    first: begin,
                    last: done,
                    used: end,
                    flights: Vec::new(),
                    place: None,
                    writer,
                });
            }
        }
        for result in &self.entry.results {
            let storage = &mut self.storages[self.of[result.value.0 as usize]];
            (storage.last, storage.used) = (end, end);
        }
        self.merged = (0..self.storages.len()).collect();
    }

    /// The first and the last call that run while a call does: itself, and its contraction or
    /// epilogue.
    fn runs(&self, call: usize) -> (usize, usize) {
        let marked = |i: usize| self.entry.calls.get(i).is_some_and(|c| c.epilogue.is_some());
        (call - usize::from(marked(call)), call + usize::from(marked(call + 1)))
    }

    /// The last call beside which a call runs: itself, but for a collective that is waited for later.
    fn done(&self, call: usize) -> usize {
        let until = self.entry.calls[call].until;
        until.map_or(call, |until| call.max((until as usize).saturating_sub(1)))
    }

    fn storage(&self, slot: Slot) -> usize {
        let mut storage = self.of[slot.0 as usize];
        while self.merged[storage] != storage {
            storage = self.merged[storage];
        }
        storage
    }

    /// Writes new values of persistent tensors over the old ones where that is safe.
    fn update_in_place(&mut self) {
        let by_name: BTreeMap<&str, usize> =
            self.entry.args.iter().enumerate().map(|(i, a)| (a.name.as_str(), i)).collect();
        let fetched: BTreeSet<usize> = self.results(|t| matches!(t, ResultTarget::Fetch(_)));
        let mut taken = BTreeSet::new();
        for result in &self.entry.results {
            let ResultTarget::Update(name) = &result.target else { continue };
            let Some(&arg) = by_name.get(name.as_str()) else { continue };
            let storage = self.storage(result.value);
            let Some((call, position)) = self.storages[storage].writer else { continue };
            let free = self.storages[storage].place.is_none() && !fetched.contains(&arg);
            if free && taken.insert(arg) && self.may_replace(arg, call, position) {
                self.storages[storage].place = Some(Place::Arg(arg as u32));
            }
        }
    }

    fn results(&self, wanted: impl Fn(&ResultTarget) -> bool) -> BTreeSet<usize> {
        let results = self.entry.results.iter().filter(|r| wanted(&r.target));
        results.map(|r| self.storage(r.value)).collect()
    }

    /// Whether a call may write this result over a storage: nothing reads the storage later, an
    /// epilogue included, and the call itself reads it element by element, if at all.
    fn may_replace(&self, old: usize, call: usize, position: usize) -> bool {
        let storage = &self.storages[old];
        let sent = storage.flights.iter().any(|(by, last)| *by != call && *last >= call);
        if storage.used > call || sent {
            return false;
        }
        let kernel = &self.kernels[self.entry.calls[call].kernel as usize];
        let args = self.entry.calls[call].args.iter().enumerate();
        let mut reads = args.filter(|(_, a)| self.storage(**a) == old);
        // An epilogue runs while the contraction before it still reads its operands.
        let before = self.entry.calls[call].epilogue.is_some().then(|| &self.entry.calls[call - 1]);
        let held = before.is_some_and(|c| c.args.iter().any(|a| self.storage(*a) == old));
        !held && reads.all(|(i, _)| can_overwrite(kernel, i, position))
    }

    /// Writes a temporary over an operand that dies at its call, where that is safe.
    fn reuse_operands(&mut self) {
        for i in 0..self.storages.len() {
            let Storage { bytes, writer: Some((call, position)), place: None, .. } =
                self.storages[i]
            else {
                continue;
            };
            let operands: Vec<usize> =
                self.entry.calls[call].args.iter().map(|a| self.storage(*a)).collect();
            let fits = |s: &&usize| {
                let old = &self.storages[**s];
                // Another result of the call may lie there by now.
                let taken = old.writer.is_some_and(|(writer, _)| writer == call);
                !taken && old.place.is_none() && old.bytes == bytes && old.last == self.done(call)
            };
            let reusable =
                operands.iter().filter(fits).find(|s| self.may_replace(**s, call, position));
            if let Some(&old) = reusable {
                let Storage { last, used, .. } = self.storages[i];
                let flights = std::mem::take(&mut self.storages[i].flights);
                self.storages[old].last = last;
                self.storages[old].used = used;
                self.storages[old].flights.extend(flights);
                self.merged[i] = old;
                self.storages[old].writer = Some((call, position));
            }
        }
    }

    fn is_temporary(&self, storage: usize) -> bool {
        self.storages[storage].place.is_none() && self.merged[storage] == storage
    }

    /// Offsets for every storage without a place; gives the arena's bytes.
    fn place_arena(&mut self) -> u64 {
        let mut order: Vec<usize> =
            (0..self.storages.len()).filter(|s| self.is_temporary(*s)).collect();
        order.sort_by_key(|s| {
            (self.storages[*s].first, std::cmp::Reverse(self.storages[*s].bytes), *s)
        });
        let mut arena = Arena::default();
        let mut dying: BTreeSet<(usize, usize)> = BTreeSet::new();
        for s in order {
            let Storage { bytes, first, last, .. } = self.storages[s];
            while let Some(&(end, old)) = dying.first().filter(|(end, _)| *end < first) {
                dying.remove(&(end, old));
                if let Some(Place::Arena(offset)) = self.storages[old].place {
                    arena.free(offset, self.storages[old].bytes);
                }
            }
            self.storages[s].place = Some(Place::Arena(arena.allocate(bytes)));
            dying.insert((last, s));
        }
        arena.top
    }
}

/// A best-fit allocator over offsets.
#[derive(Default)]
struct Arena {
    /// Free gaps below `top`: offset → bytes; neighbours are merged.
    gaps: BTreeMap<u64, u64>,
    top: u64,
}

impl Arena {
    fn allocate(&mut self, bytes: u64) -> u64 {
        let bytes = bytes.next_multiple_of(ALIGN);
        if bytes == 0 {
            return 0;
        }
        let fits = self.gaps.iter().filter(|(_, gap)| **gap >= bytes);
        if let Some((&offset, &gap)) = fits.min_by_key(|(offset, gap)| (**gap, **offset)) {
            self.gaps.remove(&offset);
            if gap > bytes {
                self.gaps.insert(offset + bytes, gap - bytes);
            }
            return offset;
        }
        // The last gap may touch the top: grow from there.
        let last = self.gaps.last_key_value().map(|(o, g)| (*o, *g));
        let offset = match last.filter(|(o, g)| o + g == self.top) {
            Some((offset, _)) => {
                self.gaps.remove(&offset);
                offset
            }
            None => self.top,
        };
        self.top = offset + bytes;
        offset
    }

    fn free(&mut self, offset: u64, bytes: u64) {
        let (mut offset, mut bytes) = (offset, bytes.next_multiple_of(ALIGN));
        if bytes == 0 {
            return;
        }
        if let Some((&before, &gap)) = self.gaps.range(..offset).next_back()
            && before + gap == offset
        {
            self.gaps.remove(&before);
            (offset, bytes) = (before, gap + bytes);
        }
        if let Some(gap) = self.gaps.remove(&(offset + bytes)) {
            bytes += gap;
        }
        self.gaps.insert(offset, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::generic::{body_of, elementwise};
    use crate::program::{ArgKind, Call, EntryArg, KernelOp, V};
    use crate::scalar::Unary;
    use crate::types::{DType, Type};

    /// A kernel with some functions of its parameter as results.
    fn kernel(functions: &[Unary]) -> Kernel {
        let ty = Type::new(DType::f32, [64]);
        let op = |f: &Unary| KernelOp {
            kind: OpKind::Generic(elementwise(&[64], 1, body_of(1, |b, x| b.apply(*f, x[0])))),
            operands: vec![V(0)],
            results: vec![ty.clone()],
        };
        let results = (1..=functions.len() as u32).map(V).collect();
        let ops = functions.iter().map(op).collect();
        Kernel { name: "k".into(), params: vec![ty.clone()], ops, results }
    }

    #[test]
    fn two_results_of_a_call_never_share_an_operands_storage() {
        let kernels = [kernel(&[Unary::Exp]), kernel(&[Unary::Sin, Unary::Cos])];
        let call = |kernel: u32| Call {
            kernel,
            args: vec![Slot(kernel)],
            first_result: Slot(kernel + 1),
            nodes: Vec::new(),
            epilogue: None,
            until: None,
            only: None,
            decisions: Vec::new(),
        };
        let ty = Type::new(DType::f32, [64]);
        let args =
            vec![EntryArg { name: "x".into(), ty, kind: ArgKind::Feed, shard: None, owner: None }];
        // Nothing reads the results of the second call.
        let entry = EntryFn { args, calls: vec![call(0), call(1)], ..EntryFn::default() };
        let places = layout(&entry, &kernels).places;
        assert_eq!(places[1], places[2], "the first is written over the operand that dies");
        assert_ne!(places[2], places[3]);
    }

    #[test]
    fn freed_neighbours_merge_and_are_used_again() {
        let mut arena = Arena::default();
        let (a, b, c) = (arena.allocate(100), arena.allocate(64), arena.allocate(1));
        assert_eq!((a, b, c), (0, 128, 192));
        arena.free(a, 100);
        arena.free(b, 64);
        assert_eq!(arena.allocate(192), 0);
        arena.free(c, 1);
        assert_eq!(arena.allocate(128), 192, "the gap at the top grows");
        assert_eq!(arena.top, 320);
    }
}
