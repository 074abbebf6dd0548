//! Counting: stable sorting of bounded keys, and histograms.
//!
//! Keys are cut into ranges. A unit reads all keys, and sorts or counts those of its range alone:
//! where a range begins in the result is the number of keys below it. So units are independent,
//! and the scratch is a counter per key of the range.
//!
//! # Invariants
//! - Sorting clamps keys to `0..bound`, so the result is a permutation whatever the keys.
//! - Counting skips keys outside `0..bound`.

use super::code::{Code, Memory};
use super::{Cx, Grain, Written};
use crate::diagnostic::InternalError;

/// Keys of a range on the CPU: 4 KiB of counters.
const KEYS_PER_UNIT: u64 = 1024;

/// `keys i32[n] → order i32[n]`.
pub(super) fn emit(cx: &mut Cx<'_>, bound: u64) -> Result<Written, InternalError> {
    let (keys, ty) = cx.operand(0)?;
    let (n, bound) = (ty.elems(), bound.max(1));
    let range = match cx.grain {
        Grain::Core => bound.min(KEYS_PER_UNIT),
        Grain::Thread => 1,
    };
    let order = cx.results.first().cloned().unwrap_or_default();
    let counters = (range > 1).then(|| cx.code.alloca(range));
    let sort = Sort { keys, order, n, bound, range, counters };
    cx.code.for_each(("%block_begin", "%block_end"), &[], |code, unit, _| {
        let low = {
            let range = code.index(sort.range);
            let low = code.binary("muli", unit, &range, "index");
            code.int_of(&low)
        };
        match &sort.counters {
            None => sort.one_key(code, &low),
            Some(counters) => sort.many_keys(code, &low, counters),
        }
        Vec::new()
    });
    let units = bound.div_ceil(range);
    Ok((units, 2 * n * units, "exact; equal keys keep their order"))
}

struct Sort {
    keys: Memory,
    order: Vec<Memory>,
    n: u64,
    bound: u64,
    range: u64,
    counters: Option<Memory>,
}

impl Sort {
    /// The key at `i`, clamped.
    fn key(&self, code: &mut Code, i: &str) -> String {
        let key = code.load(&self.keys, i);
        let (zero, top) = (code.int(0), code.int(self.bound as i64 - 1));
        let key = code.binary("maxsi", &key, &zero, "i32");
        code.binary("minsi", &key, &top, "i32")
    }

    fn put(&self, code: &mut Code, at: &str, i: &str) {
        let (at, i) = (code.index_of(at), code.int_of(i));
        for memory in &self.order {
            code.store(memory, &at, &i);
        }
    }

    /// A range of one key: count the keys below, then write where it occurs.
    fn one_key(&self, code: &mut Code, low: &str) {
        let (zero, end) = (code.index(0), code.index(self.n));
        let (none, one) = (code.int(0), code.int(1));
        let below = code.for_each((&zero, &end), &[(none.clone(), "i32")], |code, i, below| {
            let key = self.key(code, i);
            let is_below = code.compare("slt", &key, low, "i32");
            let step = code.select(&is_below, &one, &none, "i32");
            vec![code.binary("addi", &below[0], &step, "i32")]
        });
        code.for_each((&zero, &end), &[(below[0].clone(), "i32")], |code, i, next| {
            let key = self.key(code, i);
            let same = code.compare("eq", &key, low, "i32");
            code.when(&same, &[(next[0].clone(), "i32")], |code| {
                self.put(code, &next[0], i);
                vec![code.binary("addi", &next[0], &one, "i32")]
            })
        });
    }

    /// A range of keys: count each and those below, turn counts into places, write.
    fn many_keys(&self, code: &mut Code, low: &str, counters: &Memory) {
        let (zero, end, range) = (code.index(0), code.index(self.n), code.index(self.range));
        let (none, one) = (code.int(0), code.int(1));
        code.for_each((&zero, &range), &[], |code, j, _| {
            code.store(counters, j, &none);
            Vec::new()
        });
        let below = code.for_each((&zero, &end), &[(none.clone(), "i32")], |code, i, below| {
            let key = self.key(code, i);
            let local = code.binary("subi", &key, low, "i32");
            let inside = self.inside(code, &local);
            code.when(&inside, &[], |code| {
                let at = code.index_of(&local);
                let count = code.load(counters, &at);
                let count = code.binary("addi", &count, &one, "i32");
                code.store(counters, &at, &count);
                Vec::new()
            });
            let is_below = code.compare("slt", &local, &none, "i32");
            let step = code.select(&is_below, &one, &none, "i32");
            vec![code.binary("addi", &below[0], &step, "i32")]
        });
        code.for_each((&zero, &range), &[(below[0].clone(), "i32")], |code, j, place| {
            let count = code.load(counters, j);
            code.store(counters, j, &place[0]);
            vec![code.binary("addi", &place[0], &count, "i32")]
        });
        code.for_each((&zero, &end), &[], |code, i, _| {
            let key = self.key(code, i);
            let local = code.binary("subi", &key, low, "i32");
            let inside = self.inside(code, &local);
            code.when(&inside, &[], |code| {
                let at = code.index_of(&local);
                let place = code.load(counters, &at);
                self.put(code, &place, i);
                let next = code.binary("addi", &place, &one, "i32");
                code.store(counters, &at, &next);
                Vec::new()
            });
            Vec::new()
        });
    }

    /// Whether a key relative to the range is in it; negative ones are large without sign.
    fn inside(&self, code: &mut Code, local: &str) -> String {
        let range = code.int(self.range as i64);
        code.compare("ult", local, &range, "i32")
    }
}

/// `keys i32[n] → counts i32[bound]`.
pub(super) fn emit_histogram(cx: &mut Cx<'_>, bound: u64) -> Result<Written, InternalError> {
    let (keys, ty) = cx.operand(0)?;
    let n = ty.elems();
    let counts = cx.results.first().cloned().unwrap_or_default();
    let units = match cx.grain {
        Grain::Core => bound.min(1),
        Grain::Thread => bound,
    };
    let thread = cx.grain == Grain::Thread;
    cx.code.for_each(("%block_begin", "%block_end"), &[], |code, unit, _| {
        if thread {
            count_one(code, &keys, n, (&counts, unit));
        } else {
            count_all(code, &keys, n, (&counts, bound));
        }
        Vec::new()
    });
    Ok((units, n * units, "exact"))
}

/// How often one key occurs.
fn count_one(code: &mut Code, keys: &Memory, n: u64, (counts, key): (&[Memory], &str)) {
    let (zero, end) = (code.index(0), code.index(n));
    let (none, one) = (code.int(0), code.int(1));
    let wanted = code.int_of(key);
    let count = code.for_each((&zero, &end), &[(none.clone(), "i32")], |code, i, count| {
        let found = code.load(keys, i);
        let same = code.compare("eq", &found, &wanted, "i32");
        let step = code.select(&same, &one, &none, "i32");
        vec![code.binary("addi", &count[0], &step, "i32")]
    });
    for memory in counts {
        code.store(memory, key, &count[0]);
    }
}

/// How often each key occurs, counted in the result.
fn count_all(code: &mut Code, keys: &Memory, n: u64, (counts, bound): (&[Memory], u64)) {
    let (zero, end, top) = (code.index(0), code.index(n), code.index(bound));
    let (none, one, limit) = (code.int(0), code.int(1), code.int(bound as i64));
    for memory in counts {
        code.for_each((&zero, &top), &[], |code, j, _| {
            code.store(memory, j, &none);
            Vec::new()
        });
        code.for_each((&zero, &end), &[], |code, i, _| {
            let key = code.load(keys, i);
            let inside = code.compare("ult", &key, &limit, "i32");
            code.when(&inside, &[], |code| {
                let at = code.index_of(&key);
                let count = code.load(memory, &at);
                let count = code.binary("addi", &count, &one, "i32");
                code.store(memory, &at, &count);
                Vec::new()
            });
            Vec::new()
        });
    }
}
