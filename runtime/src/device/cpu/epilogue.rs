//! Epilogues: a kernel that runs on panels of a contraction's rows as they are finished.
//!
//! A panel is what a row of tiles makes. The thread that finishes its last tile runs the kernel's
//! blocks on its rows, which are still in that core's cache for the most part.
//!
//! # Invariants
//! - A panel's blocks run once, after every tile that writes its rows.
//! - Panels come from shapes and offsets; which thread runs one shows in no result.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use perilune_plan::Loop;

use super::bind::KernelCall;
use super::pool::{Pool, WorkerPanic};

/// With fewer panels the kernel runs after the contraction instead, spread over all threads.
const MIN_PANELS: usize = 4;

/// A bound epilogue: block `i` works on elements `[i·row, (i + 1)·row)` of the result.
pub(crate) struct EpilogueStep {
    pub(crate) call: KernelCall,
    pub(crate) row: usize,
}

impl EpilogueStep {
    /// Runs every block, after the whole contraction.
    pub(crate) fn run(&self, pool: &mut Pool) -> Result<(), WorkerPanic> {
        self.call.run(pool)
    }

    /// Panels that wait for this many tiles each; `None` where there are too few of them.
    pub(crate) fn panels(&self, tiles: impl Iterator<Item = u32>) -> Option<Panels<'_>> {
        let left: Vec<AtomicU32> = tiles.map(AtomicU32::new).collect();
        (left.len() >= MIN_PANELS).then_some(Panels { call: &self.call, left })
    }
}

/// The panels of one run.
pub(crate) struct Panels<'a> {
    call: &'a KernelCall,
    /// Tiles that each panel still waits for.
    left: Vec<AtomicU32>,
}

impl Panels<'_> {
    /// Says that a tile of a panel is done; the last one runs the kernel on the panel's rows.
    pub(crate) fn finish(&self, panel: usize, rows: Range<usize>) {
        if self.left[panel].fetch_sub(1, Ordering::AcqRel) == 1 {
            self.call.run_blocks(rows.start as u64, rows.end as u64);
        }
    }
}

/// How the items of a batch lie among the rows of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowItems {
    /// Groups of items that have rows of their own.
    pub(crate) apart: usize,
    /// Items that share each of those rows.
    pub(crate) sharing: usize,
}

/// How the items of `batch` lie among rows of `row` elements, if a tile's rows are neighbours in a
/// dense result: a step of `m` is a row, `n` stays inside one, and each batch loop goes either over
/// whole stretches of `m` rows or inside a row.
pub(crate) fn row_items(batch: &[Loop], m: Loop, n: Loop, row: usize) -> Option<RowItems> {
    let row = row as i128;
    let reach = |l: &Loop| i128::from(l.extent) * i128::from(l.c);
    let inside = |l: &Loop| l.extent == 1 || l.c > 0 && reach(l) <= row;
    let matrix = i128::from(m.extent) * row;
    let steps = m.extent == 1 || i128::from(m.c) == row;
    if !steps || !inside(&n) || !is_dense(batch.iter().chain([&m, &n])) {
        return None;
    }
    let mut items = RowItems { apart: 1, sharing: 1 };
    for l in batch.iter().filter(|l| l.extent != 1) {
        let over = i128::from(l.c) >= matrix && i128::from(l.c) % matrix == 0;
        let count = if over { &mut items.apart } else { &mut items.sharing };
        *count *= usize::try_from(l.extent).ok()?;
        if !over && !inside(l) {
            return None;
        }
    }
    Some(items)
}

/// Whether loops visit every element of a stretch of memory once.
fn is_dense<'a>(loops: impl Iterator<Item = &'a Loop>) -> bool {
    let mut loops: Vec<&Loop> = loops.filter(|l| l.extent != 1).collect();
    loops.sort_by_key(|l| l.c);
    let mut next: i128 = 1;
    loops.iter().all(|l| {
        let fits = i128::from(l.c) == next;
        next *= i128::from(l.extent);
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn l(extent: u64, c: i64) -> Loop {
        Loop { extent, a: 0, b: 0, c }
    }

    #[test]
    fn items_lie_apart_or_share_rows() {
        let items = |batch: &[Loop], m, n, row| row_items(batch, m, n, row);
        // [4, 3, 5] with rows of 5.
        let apart = items(&[l(4, 15)], l(3, 5), l(5, 1), 5);
        assert_eq!(apart, Some(RowItems { apart: 4, sharing: 1 }));
        // [m 3, heads 4, 5] with rows of 20: the heads share each row.
        let sharing = items(&[l(4, 5)], l(3, 20), l(5, 1), 20);
        assert_eq!(sharing, Some(RowItems { apart: 1, sharing: 4 }));
        // Both, and a product of one row each.
        let both = items(&[l(2, 60), l(4, 5)], l(3, 20), l(5, 1), 20);
        assert_eq!(both, Some(RowItems { apart: 2, sharing: 4 }));
        let single = items(&[l(6, 5)], l(1, 0), l(5, 1), 5);
        assert_eq!(single, Some(RowItems { apart: 6, sharing: 1 }));
    }

    #[test]
    fn rows_that_are_no_neighbours_are_refused() {
        // The result transposed, with a gap between rows, and with rows of half a step.
        assert_eq!(row_items(&[], l(3, 1), l(5, 3), 5), None);
        assert_eq!(row_items(&[], l(3, 6), l(5, 1), 5), None);
        assert_eq!(row_items(&[], l(3, 10), l(10, 1), 5), None);
        // A batch loop between m and n whose items cross rows.
        assert_eq!(row_items(&[l(4, 15)], l(3, 5), l(5, 1), 30), None);
    }
}
