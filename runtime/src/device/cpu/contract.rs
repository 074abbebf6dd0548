//! Batched, strided matrix products over the pool.
//!
//! # Invariants
//! - Tiles depend on the extents alone, so neither the number of threads nor their timing shows.
//! - A tile's outer sums run in order on one thread, in f32, and are rounded once.
//! - An epilogue's block runs after every tile of its rows, exactly once.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};

use perilune_plan::Loop;

use super::bind::KernelCall;
use super::matrix::{Extents, Operand, Scale, copy, multiply};
use super::pool::{Pool, WorkerPanic};

/// A task should do at least this many floating-point operations.
const TASK_FLOPS: u64 = 1 << 21;
/// A tile should not do more than this many, so that tasks balance over threads.
const TILE_FLOPS: u64 = 1 << 25;
/// A tile's rows and columns are not cut below this.
const TILE_EDGE: usize = 128;
/// A symmetric result's tiles are not cut below this.
const DIAGONAL_EDGE: usize = 64;

/// A bound contraction.
pub(crate) struct ContractStep {
    pub(crate) a: Operand,
    pub(crate) b: Operand,
    pub(crate) c: Operand,
    pub(crate) batch: Vec<Loop>,
    pub(crate) sum: Vec<Loop>,
    pub(crate) extents: Extents,
    pub(crate) scale: Scale,
    pub(crate) symmetric: bool,
    pub(crate) epilogue: Option<(KernelCall, usize)>,
}

thread_local! {
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// How a contraction is cut into tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tiling {
    rows: usize,
    columns: usize,
    row_tiles: usize,
    column_tiles: usize,
    /// Batch items per task; above 1 only where a tile is a whole product.
    group: usize,
}

/// Cuts a product of these extents.
fn tiling(extents: Extents, sums: u64, symmetric: bool) -> Tiling {
    let Extents { m, n, .. } = extents;
    let effort = effort(extents).saturating_mul(sums);
    let (rows, columns) = tile_edges(m, n, effort);
    // Smaller tiles on a diagonal leave less of the other triangle computed for nothing.
    let quarter = m.div_ceil(4).next_multiple_of(16).max(DIAGONAL_EDGE);
    let edge = rows.min(columns).min(quarter);
    let (rows, columns) = if symmetric { (edge, edge) } else { (rows, columns) };
    let (row_tiles, column_tiles) = (m.div_ceil(rows), n.div_ceil(columns));
    let group = match row_tiles * column_tiles {
        1 => (TASK_FLOPS / effort.max(1)).clamp(1, 1 << 12) as usize,
        _ => 1,
    };
    Tiling { rows, columns, row_tiles, column_tiles, group }
}

/// Operations that a product takes as long as: one with few rows waits for memory instead.
pub(crate) fn effort(extents: Extents) -> u64 {
    const FEW: usize = 16;
    let Extents { m, n, k } = extents;
    Extents { m: m.max(FEW), n: n.max(FEW), k }.flops()
}

/// Rows and columns of a tile of an `m × n` result that costs `flops`; never 0.
pub(crate) fn tile_edges(m: usize, n: usize, flops: u64) -> (usize, usize) {
    let (mut rows, mut columns) = (m.max(1), n.max(1));
    let target = (flops / 16).clamp(2 * TASK_FLOPS, TILE_FLOPS);
    let mut cost = flops;
    while cost > target {
        if rows >= columns && rows > TILE_EDGE {
            rows = half(rows);
        } else if columns > TILE_EDGE {
            columns = half(columns);
        } else if rows > TILE_EDGE {
            rows = half(rows);
        } else {
            break;
        }
        cost /= 2;
    }
    (rows, columns)
}

/// Half, rounded up to whole vector registers.
fn half(edge: usize) -> usize {
    edge.div_ceil(2).next_multiple_of(16)
}

impl ContractStep {
    /// Computes the product and its epilogue.
    pub(crate) fn run(&self, pool: &mut Pool) -> Result<(), WorkerPanic> {
        let batch: u64 = self.batch.iter().map(|l| l.extent).product();
        let Extents { m, n, .. } = self.extents;
        if batch == 0 || m == 0 || n == 0 {
            return Ok(());
        }
        let sums: u64 = self.sum.iter().map(|l| l.extent).product();
        let tiling = tiling(self.extents, sums.max(1), self.symmetric);
        let batch = batch as usize;
        if self.symmetric && tiling.row_tiles > 1 {
            self.run_symmetric(pool, batch, tiling)?;
            return self.run_epilogue(pool);
        }
        match &self.epilogue {
            Some((call, rows))
                if m.is_multiple_of(*rows)
                    && (tiling.row_tiles == 1 || tiling.rows.is_multiple_of(*rows)) =>
            {
                self.run_tiles(pool, batch, tiling, Some((call, *rows)))
            }
            _ => {
                self.run_tiles(pool, batch, tiling, None)?;
                self.run_epilogue(pool)
            }
        }
    }

    fn run_tiles(
        &self,
        pool: &mut Pool,
        batch: usize,
        tiling: Tiling,
        epilogue: Option<(&KernelCall, usize)>,
    ) -> Result<(), WorkerPanic> {
        let Tiling { row_tiles, column_tiles, group, .. } = tiling;
        let counters = match (epilogue, column_tiles) {
            (Some(_), 2..) => batch * row_tiles,
            _ => 0,
        };
        let finished: Vec<AtomicU32> = (0..counters).map(|_| AtomicU32::new(0)).collect();
        let tasks = batch.div_ceil(group) * row_tiles * column_tiles;
        pool.run(tasks as u64, 1, &|range| {
            for task in range {
                let task = task as usize;
                let (rest, column) = (task / column_tiles, task % column_tiles);
                let (first, row) = (rest / row_tiles * group, rest % row_tiles);
                for item in first..batch.min(first + group) {
                    self.tile(item, tiling, row, column);
                    let Some((call, rows)) = epilogue else { continue };
                    let last = match finished.get(item * row_tiles + row) {
                        Some(count) => {
                            count.fetch_add(1, Ordering::AcqRel) + 1 == column_tiles as u32
                        }
                        None => true,
                    };
                    if last {
                        let m = self.extents.m;
                        let begin = item * m + row * tiling.rows;
                        let end = item * m + m.min((row + 1) * tiling.rows);
                        call.run_blocks((begin / rows) as u64, (end / rows) as u64);
                    }
                }
            }
        })
    }

    /// Computes the tiles on and below the diagonal and mirrors those below it.
    fn run_symmetric(
        &self,
        pool: &mut Pool,
        batch: usize,
        tiling: Tiling,
    ) -> Result<(), WorkerPanic> {
        let triangle = tiling.row_tiles * (tiling.row_tiles + 1) / 2;
        pool.run((batch * triangle) as u64, 1, &|range| {
            for task in range {
                let (item, within) = (task as usize / triangle, task as usize % triangle);
                let (row, column) = triangle_position(within);
                self.tile(item, tiling, row, column);
                if row != column {
                    self.mirror(item, tiling, row, column);
                }
            }
        })
    }

    fn run_epilogue(&self, pool: &mut Pool) -> Result<(), WorkerPanic> {
        match &self.epilogue {
            Some((call, _)) => call.run(pool),
            None => Ok(()),
        }
    }

    /// One tile of one batch item, all outer sums.
    fn tile(&self, item: usize, tiling: Tiling, row: usize, column: usize) {
        let (row, column) = (row * tiling.rows, column * tiling.columns);
        let extents = Extents {
            m: tiling.rows.min(self.extents.m - row),
            n: tiling.columns.min(self.extents.n - column),
            k: self.extents.k,
        };
        let [a, b, c] = offsets(&self.batch, item as u64);
        let a = self.a.shifted(a).at(row, 0);
        let b = self.b.shifted(b).at(0, column);
        let c = self.c.shifted(c).at(row, column);
        let sums: u64 = self.sum.iter().map(|l| l.extent).product();
        if sums <= 1 || c.is_wide() {
            // SAFETY: binding has checked every index the loops reach against the buffers, and
            // that tiles of different tasks do not share elements of `c`.
            return unsafe { self.sum_into(c, a, b, extents) };
        }
        // A narrow result is rounded once, after the last of the outer sums.
        WIDE.with_borrow_mut(|wide| {
            wide.clear();
            wide.resize(extents.m * extents.n, 0.0);
            // SAFETY: as above; the scratch belongs to this thread.
            unsafe {
                if self.scale.keep {
                    c.read_into(wide, extents.n);
                }
                self.sum_into(Operand::scratch(wide, extents.n), a, b, extents);
                c.write_from(wide, extents.n);
            }
        });
    }

    /// The outer sums of one tile, in order.
    ///
    /// # Safety
    /// Every index that the loops reach from `a` and `b` lies in live memory that nobody writes
    /// meanwhile, and nobody else uses the tile at `c`.
    unsafe fn sum_into(&self, c: Operand, a: Operand, b: Operand, extents: Extents) {
        let sums: u64 = self.sum.iter().map(|l| l.extent).product();
        let mut scale = self.scale;
        if sums == 0 {
            let empty = Extents { k: 0, ..extents };
            // SAFETY: the caller's promise; an empty contraction reads neither operand.
            unsafe { multiply(c, a, b, empty, scale) };
        }
        for index in 0..sums {
            let [da, db, _] = offsets(&self.sum, index);
            // SAFETY: the caller's promise.
            unsafe { multiply(c, a.shifted(da), b.shifted(db), extents, scale) };
            scale.keep = true;
        }
    }

    /// Copies a tile to its place on the other side of the diagonal.
    fn mirror(&self, item: usize, tiling: Tiling, row: usize, column: usize) {
        let [_, _, c] = offsets(&self.batch, item as u64);
        let (row, column) = (row * tiling.rows, column * tiling.columns);
        let rows = tiling.rows.min(self.extents.m - row);
        let columns = tiling.columns.min(self.extents.n - column);
        let c = self.c.shifted(c);
        let (from, to) = (c.at(row, column), c.at(column, row).transposed());
        // SAFETY: both tiles lie in `c`, which binding has bounded, and belong to this task alone.
        unsafe { copy(from, to, rows, columns) };
    }
}

/// Row and column tile of the `index`-th tile of a lower triangle.
fn triangle_position(index: usize) -> (usize, usize) {
    let mut row = 0;
    let mut first = 0;
    while first + row < index {
        first += row + 1;
        row += 1;
    }
    (row, index - first)
}

/// Element offsets of `a`, `b`, `c` at the `index`-th iteration of nested loops.
fn offsets(loops: &[Loop], index: u64) -> [isize; 3] {
    let mut rest = index;
    let mut at = [0i64; 3];
    for l in loops.iter().rev() {
        let i = (rest % l.extent) as i64;
        rest /= l.extent;
        at = [at[0] + i * l.a, at[1] + i * l.b, at[2] + i * l.c];
    }
    at.map(|offset| offset as isize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triangle_positions_enumerate_the_triangle() {
        let positions: Vec<_> = (0..6).map(triangle_position).collect();
        assert_eq!(positions, [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]);
    }

    #[test]
    fn tiles_cover_and_tiny_products_are_grouped() {
        for (m, n, k) in [(1, 1, 1), (1, 4096, 512), (2048, 2048, 2048), (513, 17, 300)] {
            let t = tiling(Extents { m, n, k }, 1, false);
            assert!(t.rows * t.row_tiles >= m && t.columns * t.column_tiles >= n, "{t:?}");
            assert!(t.group >= 1);
        }
        assert!(tiling(Extents { m: 8, n: 8, k: 8 }, 1, false).group > 100);
        assert_eq!(tiling(Extents { m: 512, n: 512, k: 512 }, 1, false).group, 1);
    }
}
