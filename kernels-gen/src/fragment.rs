//! Products of tiles in a warp's registers, on tensor cores or on CUDA cores.
//!
//! Both engines share one layout of accumulators, that of `mma.m16n8`: of every 16 × 8 block, lane
//! `l` holds rows `l / 4` and `l / 4 + 8`, columns `2 (l mod 4)` and the next. What follows a
//! product (softmax, scaling, stores) is therefore written once.
//!
//! # Invariants
//! - An accumulator's sum runs over `k` in ascending order, rounded to f32 at every step of the
//!   engine: 1 on CUDA cores, 16 in `mma`.

use crate::builder::{Builder, Val};
use crate::schedule::Engine;
use crate::tile::Tile;

/// Contracted elements that one step of a loop over CUDA-core products takes.
const FMA_STEP: u32 = 8;
/// Contracted elements up to which such a loop is written out.
const FMA_UNROLLED: u32 = 16;
/// Contracted elements of a vector load.
const FMA_VECTOR: u32 = 4;
/// Contracted elements of `mma`.
const MMA_STEP: u32 = 16;

/// Which elements of a warp's blocks a lane holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    /// Number in the warp.
    pub(crate) lane: Val,
    /// `lane / 4`: the row of a block.
    pub(crate) row: Val,
    /// `2 (lane mod 4)`: the column of a block.
    pub(crate) column: Val,
}

impl Lane {
    /// Of a thread.
    pub(crate) fn of(b: &mut Builder, thread: Val) -> Lane {
        let lane = b.rem(thread, 32);
        let column = b.rem(lane, 4);
        Lane { lane, row: b.div(lane, 4), column: b.mul(column, 2) }
    }
}

/// A tile as an operand of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    /// The tile.
    pub(crate) tile: Tile,
    /// Its start in shared memory.
    pub(crate) start: Val,
    /// Whether a row of the tile runs along the contracted dimension.
    pub(crate) along_k: bool,
}

/// The part of a product that a warp computes: `blocks[0]` × `blocks[1]` blocks of 16 × 8.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WarpTile {
    /// Blocks along rows and columns.
    pub(crate) blocks: [u32; 2],
    /// First row and column in the block's tile.
    pub(crate) first: [Val; 2],
}

/// A place in a warp's accumulators.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    /// Index into the accumulators.
    pub(crate) index: usize,
    /// Columns after the lane's first.
    pub(crate) column: u32,
}

impl WarpTile {
    /// Number of accumulators of a lane.
    pub(crate) fn count(&self) -> u32 {
        self.blocks[0] * self.blocks[1] * 4
    }

    /// The rows that a lane holds, counted from its first.
    pub(crate) fn rows(&self) -> impl Iterator<Item = u32> + use<> {
        (0..self.blocks[0] * 2).map(|i| i * 8)
    }

    /// The accumulators of the `i`-th of [`WarpTile::rows`], in pairs of neighbours.
    pub(crate) fn pairs(&self, i: u32) -> impl Iterator<Item = Spot> + use<> {
        let n = self.blocks[1];
        (0..n).map(move |j| Spot {
            index: (((i / 2) * n + j) * 4 + (i % 2) * 2) as usize,
            column: j * 8,
        })
    }

    /// Accumulators at zero.
    pub(crate) fn zeros(&self, b: &mut Builder) -> Vec<Val> {
        let zero = b.f32(0.0);
        vec![zero; self.count() as usize]
    }

    /// Row and column of the lane's first accumulator.
    pub(crate) fn corner(&self, b: &mut Builder, lane: Lane) -> [Val; 2] {
        [b.add(self.first[0], lane.row), b.add(self.first[1], lane.column)]
    }
}

/// `acc + A · B` over `depth` contracted elements; `B` is given with its columns as rows of a
/// product's operand, `[n, k]` or `[k, n]`.
pub(crate) fn multiply(
    b: &mut Builder,
    engine: Engine,
    lane: Lane,
    (lhs, rhs, depth): (&Operand, &Operand, u32),
    (warp, acc): (&WarpTile, Vec<Val>),
) -> Vec<Val> {
    match engine {
        Engine::Mma => multiply_mma(b, lane, (lhs, rhs, depth), (warp, acc)),
        Engine::Fma => multiply_fma(b, lane, (lhs, rhs, depth), (warp, acc)),
    }
}

fn multiply_mma(
    b: &mut Builder,
    lane: Lane,
    (lhs, rhs, depth): (&Operand, &Operand, u32),
    (warp, mut acc): (&WarpTile, Vec<Val>),
) -> Vec<Val> {
    let [m, n] = warp.blocks;
    let left = matrix_row(b, lane, lhs, (warp.first[0], true));
    let right = matrix_row(b, lane, rhs, (warp.first[1], false));
    for k in (0..depth).step_by(MMA_STEP as usize) {
        let a: Vec<Vec<Val>> = (0..m)
            .map(|i| {
                let row = b.at_const(left, shift(lhs, i * 16, k));
                b.load_matrices(row, 4, !lhs.along_k)
            })
            .collect();
        let mut columns: Vec<[Val; 2]> = Vec::with_capacity(n as usize);
        for j in (0..n).step_by(2) {
            let row = b.at_const(right, shift(rhs, j * 8, k));
            let parts = b.load_matrices(row, if j + 1 < n { 4 } else { 2 }, !rhs.along_k);
            columns.extend(parts.chunks_exact(2).map(|p| [p[0], p[1]]));
        }
        for (i, a) in a.iter().enumerate() {
            for (j, column) in columns.iter().enumerate() {
                let at = (i * n as usize + j) * 4;
                let sum = b.mma(lhs.tile.ty, a, column, &acc[at..at + 4]);
                acc[at..at + 4].copy_from_slice(&sum);
            }
        }
    }
    acc
}

/// The row of 16 bytes that a lane names to `ldmatrix`, so that its four matrices are the halves of
/// the free and of the contracted dimension in the order of `mma`'s registers.
fn matrix_row(b: &mut Builder, lane: Lane, operand: &Operand, (first, left): (Val, bool)) -> Val {
    let within = b.rem(lane.lane, 8);
    let eighth = b.div(lane.lane, 8);
    let odd = b.rem(eighth, 2);
    let odd = b.mul(odd, 8);
    let upper = b.div(lane.lane, 16);
    let upper = b.mul(upper, 8);
    // A's registers walk along m first, B's along k first.
    let (free, k) = match (operand.along_k, left) {
        (true, true) => (b.add(within, odd), upper),
        (true, false) => (b.add(within, upper), odd),
        (false, true) => (odd, b.add(within, upper)),
        (false, false) => (upper, b.add(within, odd)),
    };
    let free = b.add(first, free);
    let (row, column) = if operand.along_k { (free, k) } else { (k, free) };
    address(b, operand, row, column)
}

fn address(b: &mut Builder, operand: &Operand, row: Val, column: Val) -> Val {
    let row = b.mul(row, i64::from(operand.tile.pitch()));
    let column = b.mul(column, i64::from(operand.tile.ty.bytes()));
    let offset = b.add(row, column);
    b.at(operand.start, offset)
}

/// Bytes from an element to the one `free` further along the free and `k` along the contracted
/// dimension.
fn shift(operand: &Operand, free: u32, k: u32) -> i64 {
    let (row, column) = if operand.along_k { (free, k) } else { (k, free) };
    i64::from(row * operand.tile.pitch() + column * operand.tile.ty.bytes())
}

fn multiply_fma(
    b: &mut Builder,
    lane: Lane,
    (lhs, rhs, depth): (&Operand, &Operand, u32),
    (warp, acc): (&WarpTile, Vec<Val>),
) -> Vec<Val> {
    let corner = warp.corner(b, lane);
    let starts = [(lhs, corner[0]), (rhs, corner[1])].map(|(operand, free)| {
        let zero = b.i32(0);
        let (row, column) = if operand.along_k { (free, zero) } else { (zero, free) };
        address(b, operand, row, column)
    });
    if depth <= FMA_UNROLLED {
        return fma_steps(b, (lhs, rhs, depth), starts, (warp, acc));
    }
    let (zero, trips) = (b.i32(0), b.i32(i64::from(depth / FMA_STEP)));
    b.repeat((zero, trips), &acc, |b, step, acc| {
        let starts = [(lhs, starts[0]), (rhs, starts[1])].map(|(operand, start)| {
            let bytes = b.mul(step, shift(operand, 0, FMA_STEP));
            b.at(start, bytes)
        });
        fma_steps(b, (lhs, rhs, FMA_STEP), starts, (warp, acc.to_vec()))
    })
}

fn fma_steps(
    b: &mut Builder,
    (lhs, rhs, depth): (&Operand, &Operand, u32),
    starts: [Val; 2],
    (warp, mut acc): (&WarpTile, Vec<Val>),
) -> Vec<Val> {
    let free = |rows: bool| -> Vec<u32> {
        match rows {
            true => warp.rows().collect(),
            false => (0..warp.blocks[1]).flat_map(|j| [j * 8, j * 8 + 1]).collect(),
        }
    };
    for k in (0..depth).step_by(FMA_VECTOR as usize) {
        let [rows, columns] = [(lhs, 0), (rhs, 1)].map(|(operand, side)| {
            let vectors = |b: &mut Builder, free: Vec<u32>| -> Vec<Vec<Val>> {
                free.into_iter().map(|f| line(b, operand, starts[side], (f, k))).collect()
            };
            operand.along_k.then(|| vectors(b, free(side == 0)))
        });
        for step in 0..FMA_VECTOR {
            let of = |lines: &Vec<Vec<Val>>| lines.iter().map(|l| l[step as usize]).collect();
            let row: Vec<Val> = match &rows {
                Some(lines) => of(lines),
                None => across(b, (lhs, starts[0]), (&free(true), k + step), 1),
            };
            let column: Vec<Val> = match &columns {
                Some(lines) => of(lines),
                None => across(b, (rhs, starts[1]), (&free(false), k + step), 2),
            };
            for (i, row) in row.iter().enumerate() {
                for (spot, pair) in warp.pairs(i as u32).zip(column.chunks_exact(2)) {
                    for (e, column) in pair.iter().enumerate() {
                        let at = spot.index + e;
                        acc[at] = b.fma(*row, *column, acc[at]);
                    }
                }
            }
        }
    }
    acc
}

/// Four contracted elements of one line of an operand whose rows run along them, as f32.
fn line(b: &mut Builder, operand: &Operand, start: Val, (free, k): (u32, u32)) -> Vec<Val> {
    let from = b.at_const(start, shift(operand, free, k));
    let raw = b.load_vector(from, operand.tile.ty, FMA_VECTOR);
    raw.into_iter().map(|x| b.widen(x)).collect()
}

/// One contracted element of every line of an operand whose columns are the lines, as f32; `count`
/// neighbouring lines are loaded at once.
fn across(
    b: &mut Builder,
    (operand, start): (&Operand, Val),
    (free, k): (&[u32], u32),
    count: usize,
) -> Vec<Val> {
    let mut all = Vec::with_capacity(free.len());
    for group in free.chunks(count) {
        let from = b.at_const(start, shift(operand, group[0], k));
        for x in b.load_vector(from, operand.tile.ty, group.len() as u32) {
            all.push(b.widen(x));
        }
    }
    all
}
