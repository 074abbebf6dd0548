//! Running sums along the last dimension.
//!
//! # Invariants
//! - A unit is a row; elements are added in ascending order, narrow floats in f32.

use super::{Cx, Written, rows};
use crate::diagnostic::InternalError;

/// `[.., n] → [.., n]`, or, exclusive, `[.., n] → [.., n + 1]` with the total last.
pub(super) fn emit(cx: &mut Cx<'_>, exclusive: bool) -> Result<Written, InternalError> {
    let (x, ty) = cx.operand(0)?;
    let (count, n) = rows(ty)?;
    let width = if exclusive { n + 1 } else { n };
    let results = cx.results.first().cloned().unwrap_or_default();
    let elem = x.compute();
    cx.code.for_each(("%block_begin", "%block_end"), &[], |code, row, _| {
        let (zero, end) = (code.index(0), code.index(n));
        let start = code.zero(elem);
        let total = code.for_each((&zero, &end), &[(start, elem)], |code, i, sum| {
            let from = code.at(row, n, i);
            let value = code.load(&x, &from);
            let next = code.add(&sum[0], &value, elem);
            let to = code.at(row, width, i);
            for memory in &results {
                code.store(memory, &to, if exclusive { &sum[0] } else { &next });
            }
            vec![next]
        });
        if exclusive {
            let to = code.at(row, width, &end);
            for memory in &results {
                code.store(memory, &to, &total[0]);
            }
        }
        Vec::new()
    });
    Ok((count, count * n, "sums in ascending order, f32 for narrow floats"))
}
