//! The `k` largest elements of each row.
//!
//! The order is total: greater first, a NaN below every number, equal elements by ascending index.
//! For small `k` one scan keeps the best `k` in registers; for large `k` each round finds the next
//! element of that order.
//!
//! # Invariants
//! - A unit is a row.

use super::code::{Code, Memory};
use super::{Cx, Written, rows};
use crate::diagnostic::InternalError;

/// Largest `k` kept in registers.
const IN_REGISTERS: u64 = 8;

/// `x [.., n] → (values [.., k], indices i32[.., k])`.
pub(super) fn emit(cx: &mut Cx<'_>, k: u64) -> Result<Written, InternalError> {
    let (x, ty) = cx.operand(0)?;
    let (count, n) = rows(ty)?;
    if k > n || cx.results.len() != 2 {
        return Err(InternalError::new("serial", format!("the {k} largest of {n}")));
    }
    let results = cx.results.clone();
    cx.code.for_each(("%block_begin", "%block_end"), &[], |code, row, _| {
        let row_in = Row { memory: &x, base: row, n };
        let found = if k <= IN_REGISTERS {
            scan(code, &row_in, k)
        } else {
            let (zero, top) = (code.index(0), code.index(k));
            rounds(code, &row_in, (&zero, &top), |code, j, value, index| {
                let at = code.at(row, k, j);
                put(code, &results, &at, value, index);
            });
            Vec::new()
        };
        for (j, (value, index)) in found.iter().enumerate() {
            let j = code.index(j as u64);
            let at = code.at(row, k, &j);
            put(code, &results, &at, value, index);
        }
        Vec::new()
    });
    let passes = if k <= IN_REGISTERS { 1 } else { k };
    Ok((count, count * n * passes, "exact; ties take the lower index, NaN is least"))
}

struct Row<'a> {
    memory: &'a Memory,
    base: &'a str,
    n: u64,
}

impl Row<'_> {
    fn load(&self, code: &mut Code, i: &str) -> String {
        let at = code.at(self.base, self.n, i);
        code.load(self.memory, &at)
    }
}

fn put(code: &mut Code, results: &[Vec<Memory>], at: &str, value: &str, index: &str) {
    for memory in &results[0] {
        code.store(memory, at, value);
    }
    for memory in &results[1] {
        code.store(memory, at, index);
    }
}

/// Whether `a` stands before `b` whatever their indices: greater, or a number against a NaN.
fn greater(code: &mut Code, a: &str, b: &str, ty: &str) -> String {
    if !ty.starts_with('f') {
        return code.compare("sgt", a, b, ty);
    }
    let number = code.def(format!("arith.cmpf ord, {a}, {a} : {ty}"));
    let above = code.def(format!("arith.cmpf ugt, {a}, {b} : {ty}"));
    code.binary("andi", &number, &above, "i1")
}

/// One scan with the best `k` carried along: the first `k` elements fill the places, then an
/// element enters only if it beats the last place.
fn scan(code: &mut Code, row: &Row<'_>, k: u64) -> Vec<(String, String)> {
    let ty = row.memory.compute();
    if k == 0 {
        return Vec::new();
    }
    let (least, none) = (code.least(ty), code.int(-1));
    let mut state: Vec<(String, &str)> = vec![(least, ty); k as usize];
    state.extend(vec![(none, "i32"); k as usize]);
    let (zero, filled, end) = (code.index(0), code.index(k), code.index(row.n));
    for (seed, bounds) in [(true, (&zero, &filled)), (false, (&filled, &end))] {
        let out = code.for_each((bounds.0, bounds.1), &state, |code, i, places| {
            let x = row.load(code, i);
            enter(code, (&x, i), (places, ty), seed)
        });
        state = out.into_iter().zip(state).map(|(v, (_, t))| (v, t)).collect();
    }
    let names: Vec<String> = state.into_iter().map(|(v, _)| v).collect();
    let (values, indices) = names.split_at(k as usize);
    values.iter().cloned().zip(indices.iter().cloned()).collect()
}

/// The places after `x` at index `i` came by; an empty place (`seed`) has index −1.
fn enter(
    code: &mut Code,
    (x, i): (&str, &str),
    (places, ty): (&[String], &str),
    seed: bool,
) -> Vec<String> {
    let k = places.len() / 2;
    let (values, indices) = places.split_at(k);
    let beats = |code: &mut Code, j: usize| {
        let above = greater(code, x, &values[j], ty);
        if !seed {
            return above;
        }
        let zero = code.int(0);
        let empty = code.compare("slt", &indices[j], &zero, "i32");
        code.binary("ori", &above, &empty, "i1")
    };
    let last = beats(code, k - 1);
    let otherwise: Vec<(String, &str)> = values
        .iter()
        .map(|v| (v.clone(), ty))
        .chain(indices.iter().map(|v| (v.clone(), "i32")))
        .collect();
    code.when(&last, &otherwise, |code| {
        let i = code.int_of(i);
        let mut wins: Vec<String> = (0..k - 1).map(|j| beats(code, j)).collect();
        wins.push(last.clone());
        let mut out = shift(code, (values, ty), x, &wins);
        out.extend(shift(code, (indices, "i32"), &i, &wins));
        out
    })
}

/// Places with `new` put in front of the first it beats, the later ones moved down.
fn shift(code: &mut Code, (old, ty): (&[String], &str), new: &str, wins: &[String]) -> Vec<String> {
    let mut out = Vec::with_capacity(old.len());
    for j in 0..old.len() {
        let entering = match j {
            0 => new.to_string(),
            _ => code.select(&wins[j - 1], &old[j - 1], new, ty),
        };
        out.push(code.select(&wins[j], &entering, &old[j], ty));
    }
    out
}

/// Each round takes the first element of the order that stands behind the one taken before.
fn rounds(
    code: &mut Code,
    row: &Row<'_>,
    bounds: (&str, &str),
    mut taken: impl FnMut(&mut Code, &str, &str, &str),
) {
    let ty = row.memory.compute();
    let (least, none) = (code.least(ty), code.int(-1));
    let (zero, end) = (code.index(0), code.index(row.n));
    let start = vec![(least.clone(), ty), (none.clone(), "i32")];
    code.for_each(bounds, &start, |code, j, before| {
        let best = vec![(least, ty), (none.clone(), "i32")];
        let best = code.for_each((&zero, &end), &best, |code, i, best| {
            let x = row.load(code, i);
            let i = code.int_of(i);
            let fresh = comes_after(code, (&x, &i), (&before[0], &before[1]), (&none, ty));
            let above = greater(code, &x, &best[0], ty);
            let empty = code.compare("eq", &best[1], &none, "i32");
            let above = code.binary("ori", &above, &empty, "i1");
            let takes = code.binary("andi", &fresh, &above, "i1");
            vec![code.select(&takes, &x, &best[0], ty), code.select(&takes, &i, &best[1], "i32")]
        });
        taken(code, j, &best[0], &best[1]);
        best
    });
}

/// Whether element `(x, i)` stands behind the element taken before (none yet if its index is −1).
fn comes_after(
    code: &mut Code,
    (x, i): (&str, &str),
    (value, index): (&str, &str),
    (none, ty): (&str, &str),
) -> String {
    let below = greater(code, value, x, ty);
    let above = greater(code, x, value, ty);
    let yes = code.def("arith.constant true");
    let level = code.binary("xori", &above, &yes, "i1");
    let later = code.compare("sgt", i, index, "i32");
    let behind = code.binary("andi", &level, &later, "i1");
    let after = code.binary("ori", &below, &behind, "i1");
    let first = code.compare("eq", index, none, "i32");
    code.binary("ori", &after, &first, "i1")
}
