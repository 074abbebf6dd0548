//! Rows added at computed places.
//!
//! # Invariants
//! - A unit is a range of columns, so no two units write one element.
//! - Rows are added in ascending order; an index outside `0..extent` is skipped.
//! - Sums are held in the result, and so rounded to its dtype after each addition.

use super::code::{Code, Memory};
use super::{Cx, Grain, Written};
use crate::diagnostic::InternalError;

/// Fewest columns of a unit on the CPU: a cache line of f32.
const MIN_COLUMNS: u64 = 16;
/// Most units on the CPU.
const MAX_UNITS: u64 = 64;

/// `(updates [n, ..d], indices i32[n]) → [extent, ..d]`.
pub(super) fn emit(cx: &mut Cx<'_>, extent: u64) -> Result<Written, InternalError> {
    let ((updates, ty), (indices, index_ty)) = (cx.operand(0)?, cx.operand(1)?);
    let n = index_ty.elems();
    if ty.shape.first() != Some(&n) {
        return Err(InternalError::new("serial", "rows and indices to scatter differ in number"));
    }
    let columns: u64 = ty.shape[1..].iter().product();
    let per_unit = match cx.grain {
        Grain::Core => columns.div_ceil(MAX_UNITS).max(1).next_multiple_of(MIN_COLUMNS),
        Grain::Thread => 1,
    };
    let sums = cx.results.first().cloned().unwrap_or_default();
    let scatter = Scatter { updates, indices, sums, n, extent, columns };
    cx.code.for_each(("%block_begin", "%block_end"), &[], |code, unit, _| {
        let (per, all) = (code.index(per_unit), code.index(columns));
        let low = code.binary("muli", unit, &per, "index");
        let high = code.binary("addi", &low, &per, "index");
        let high = code.binary("minsi", &high, &all, "index");
        scatter.clear(code, (&low, &high));
        scatter.add_rows(code, (&low, &high));
        Vec::new()
    });
    Ok((
        columns.div_ceil(per_unit),
        n * columns,
        "rows added in ascending order in the result's dtype",
    ))
}

struct Scatter {
    updates: Memory,
    indices: Memory,
    sums: Vec<Memory>,
    n: u64,
    extent: u64,
    columns: u64,
}

impl Scatter {
    fn clear(&self, code: &mut Code, columns: (&str, &str)) {
        let (zero, end) = (code.index(0), code.index(self.extent));
        let nothing = code.zero(self.updates.compute());
        code.for_each((&zero, &end), &[], |code, row, _| {
            code.for_each(columns, &[], |code, column, _| {
                let at = code.at(row, self.columns, column);
                for memory in &self.sums {
                    code.store(memory, &at, &nothing);
                }
                Vec::new()
            });
            Vec::new()
        });
    }

    fn add_rows(&self, code: &mut Code, columns: (&str, &str)) {
        let (zero, end) = (code.index(0), code.index(self.n));
        let limit = code.int(i64::try_from(self.extent).unwrap_or(i64::MAX).min(i32::MAX.into()));
        code.for_each((&zero, &end), &[], |code, i, _| {
            let index = code.load(&self.indices, i);
            let inside = code.compare("ult", &index, &limit, "i32");
            code.when(&inside, &[], |code| {
                let row = code.index_of(&index);
                code.for_each(columns, &[], |code, column, _| {
                    self.add_element(code, (i, &row), column);
                    Vec::new()
                });
                Vec::new()
            });
            Vec::new()
        });
    }

    fn add_element(&self, code: &mut Code, (from, to): (&str, &str), column: &str) {
        let at = code.at(from, self.columns, column);
        let value = code.load(&self.updates, &at);
        let at = code.at(to, self.columns, column);
        for memory in &self.sums {
            let sum = code.load(memory, &at);
            let sum = code.add(&sum, &value, self.updates.compute());
            code.store(memory, &at, &sum);
        }
    }
}
