//! Matrices in shared memory, and how a block fills them from global memory.
//!
//! # Invariants
//! - A row takes an odd number of 16-byte chunks, so that eight rows at one column lie in different
//!   banks: `ldmatrix` and 128-bit loads have no conflicts.
//! - What lies outside the source's limits is zero in the tile and is never read.

use crate::builder::{Builder, Compare, Ty, Val};

/// Bytes of the widest access.
pub(crate) const CHUNK: u32 = 16;

/// A matrix in shared memory, row-major and padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Rows.
    pub(crate) rows: u32,
    /// Elements of a row.
    pub(crate) columns: u32,
    /// Element type.
    pub(crate) ty: Ty,
}

impl Tile {
    /// Bytes between rows.
    pub(crate) fn pitch(self) -> u32 {
        let chunks = (self.columns * self.ty.bytes()).div_ceil(CHUNK);
        (chunks | 1) * CHUNK
    }

    /// Bytes of the tile.
    pub(crate) fn bytes(self) -> u32 {
        self.rows * self.pitch()
    }
}

/// A matrix in global memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// Start of the buffer.
    pub(crate) base: Val,
    /// Element type.
    pub(crate) ty: Ty,
    /// Elements from the start of the buffer to the first of the matrix, i64.
    pub(crate) origin: Val,
    /// Elements between rows and between columns.
    pub(crate) strides: [i64; 2],
    /// Rows and columns, i32; beyond them is zero.
    pub(crate) limits: [Val; 2],
    /// Neighbours along a row that one access moves: every row starts at a multiple of them.
    pub(crate) vector: u32,
}

/// The threads that work together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Team {
    /// This thread's number.
    pub(crate) thread: Val,
    /// How many there are.
    pub(crate) threads: u32,
}

/// One access of a thread: row and column in the tile.
struct Piece {
    row: Val,
    column: Val,
    /// Whether the tile has it; known unless the pieces do not divide among the threads.
    exists: Val,
}

/// Elements of one access: as many as fit 16 bytes and divide every number that moves the address.
/// Where columns do not lie next to each other it is one.
pub(crate) fn vector(ty: Ty, column_stride: i64, moves: &[i64]) -> u32 {
    if column_stride != 1 {
        return 1;
    }
    let mut vector = CHUNK / ty.bytes();
    while vector > 1 && moves.iter().any(|m| m % i64::from(vector) != 0) {
        vector /= 2;
    }
    vector
}

/// Starts filling a tile from the source's rows and columns at `at`; asynchronous where the
/// accesses are of 4 bytes or more. The rest is written by plain stores.
pub(crate) fn fill(b: &mut Builder, team: Team, source: &Source, at: [Val; 2], to: (Tile, Val)) {
    let (tile, start) = to;
    let vector = source.vector.min(tile.columns);
    let pieces = pieces(b, team, tile, vector);
    let inside = [0, 1].map(|d| {
        let extent = [tile.rows, tile.columns][d];
        source.limits[d].known.is_some_and(|l| l % i64::from(extent) == 0)
    });
    if vector * source.ty.bytes() >= 4 {
        for piece in pieces {
            let exists = piece.exists;
            b.when(exists, |b| fill_async(b, source, at, (tile, start), (&piece, vector, inside)));
        }
        return;
    }
    let loaded: Vec<(Val, Val, Val)> = pieces
        .iter()
        .map(|piece| {
            let (offset, holds) = element(b, source, at, piece, inside);
            let from = b.at(source.base, offset);
            let value = b.load(from, Ty::I16);
            let zero = b.int(Ty::I16, 0);
            let value = b.select(holds, value, zero);
            (value, place(b, tile, start, piece), piece.exists)
        })
        .collect();
    for (value, to, exists) in loaded {
        b.when(exists, |b| b.store(value, to));
    }
}

fn fill_async(
    b: &mut Builder,
    source: &Source,
    at: [Val; 2],
    (tile, start): (Tile, Val),
    (piece, vector, inside): (&Piece, u32, [bool; 2]),
) {
    let size = vector * source.ty.bytes();
    let (offset, holds) = element(b, source, at, piece, inside);
    let from = b.at(source.base, offset);
    let to = place(b, tile, start, piece);
    if holds.known == Some(1) {
        return b.copy_async(to, from, size, None);
    }
    let whole = b.i32(i64::from(size));
    let bytes = match inside[1] || vector == 1 {
        true => whole,
        false => {
            let column = b.add(at[1], piece.column);
            let left = b.sub(source.limits[1], column);
            let left = b.mul(left, i64::from(source.ty.bytes()));
            b.min(left, whole)
        }
    };
    let none = b.i32(0);
    let bytes = b.select(holds, bytes, none);
    b.copy_async(to, from, size, Some(bytes));
}

/// The pieces of a thread.
fn pieces(b: &mut Builder, team: Team, tile: Tile, vector: u32) -> Vec<Piece> {
    let per_row = tile.columns / vector;
    let total = tile.rows * per_row;
    let even = team.threads.is_multiple_of(per_row);
    let column_of = |b: &mut Builder, index: Val| {
        let column = b.rem(index, i64::from(per_row));
        b.mul(column, i64::from(vector))
    };
    let (first_row, first_column) =
        (b.div(team.thread, i64::from(per_row)), column_of(b, team.thread));
    (0..total.div_ceil(team.threads))
        .map(|i| {
            let begin = i * team.threads;
            let index = b.add_const(team.thread, i64::from(begin));
            let (row, column) = match even {
                true => (b.add_const(first_row, i64::from(begin / per_row)), first_column),
                false => (b.div(index, i64::from(per_row)), column_of(b, index)),
            };
            let exists = match begin + team.threads <= total {
                true => b.int(Ty::I1, 1),
                false => {
                    let total = b.i32(i64::from(total));
                    b.less(index, total)
                }
            };
            Piece { row, column, exists }
        })
        .collect()
}

/// Byte offset of a piece in global memory, or that of the buffer's start where the source ends;
/// and whether the source has it.
fn element(
    b: &mut Builder,
    source: &Source,
    at: [Val; 2],
    piece: &Piece,
    inside: [bool; 2],
) -> (Val, Val) {
    let place = [b.add(at[0], piece.row), b.add(at[1], piece.column)];
    let mut holds = b.int(Ty::I1, 1);
    for d in [0, 1] {
        if !inside[d] {
            let below = b.compare(Compare::Less, place[d], source.limits[d]);
            holds = b.and(holds, below);
        }
    }
    let mut offset = source.origin;
    for d in [0, 1] {
        let wide = b.wide(place[d]);
        let moved = b.mul(wide, source.strides[d]);
        offset = b.add(offset, moved);
    }
    let zero = b.int(Ty::I64, 0);
    let offset = b.select(holds, offset, zero);
    (b.mul(offset, i64::from(source.ty.bytes())), holds)
}

/// Address of a piece in shared memory.
fn place(b: &mut Builder, tile: Tile, start: Val, piece: &Piece) -> Val {
    let row = b.mul(piece.row, i64::from(tile.pitch()));
    let column = b.mul(piece.column, i64::from(tile.ty.bytes()));
    let offset = b.add(row, column);
    b.at(start, offset)
}
