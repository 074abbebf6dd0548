//! Attention and its gradient: no `seq × seq` matrix exists.
//!
//! A block owns a tile of positions (queries in the forward and for `d_q`, keys for `d_k` and `d_v`)
//! and walks over the tiles of the other positions that the mask lets it see. Logits, probabilities
//! and their gradients live in registers; what becomes an operand again goes through shared memory.
//!
//! # Invariants
//! - Tiles above the causal diagonal are neither loaded nor computed.
//! - Head dimensions are padded with zeros to a multiple of 16 in shared memory alone.
//! - A gradient is a sum in one block, in a fixed order: no atomics.

mod forward;
mod keys;
mod queries;

use perilune_plan::{AttentionShape, HeadsView};

use crate::builder::{Builder, Compare, Ty, Val};
use crate::elements::row_start;
use crate::fragment::{Lane, Operand, WarpTile};
use crate::problem::{Problem, Work};
use crate::schedule::{Engine, Schedule};
use crate::tile::{Source, Team, Tile, fill, vector};
use crate::{Body, KernelError};

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// Head dimensions are padded to a multiple of this.
const DIM_UNIT: u64 = 16;

/// The cut of attention, as its schedule says.
#[derive(Clone, Copy, Debug)]
struct Cut {
    engine: Engine,
    queries: u32,
    keys: u32,
    warps: [u32; 2],
}

impl Cut {
    fn of(schedule: &Schedule) -> Result<Cut, KernelError> {
        let Schedule::Attention { engine, queries, keys, warps, .. } = schedule else {
            return Err(KernelError::Schedule("attention takes an attention schedule"));
        };
        Ok(Cut { engine: *engine, queries: *queries, keys: *keys, warps: *warps })
    }

    fn threads(&self) -> u32 {
        self.warps[0] * self.warps[1] * 32
    }
}

/// Writes the kernel of attention or of a part of its gradient.
pub(crate) fn write(problem: &Problem, schedule: &Schedule) -> Result<Body, KernelError> {
    let cut = Cut::of(schedule)?;
    let own = if matches!(problem.work, Work::GradKeys(_)) { cut.keys } else { cut.queries };
    let other = cut.queries + cut.keys - own;
    let divides = own.is_multiple_of(cut.warps[0] * 16) && other.is_multiple_of(cut.warps[1] * 8);
    if !divides || !other.is_multiple_of(16) || cut.warps[1] > 2 {
        return Err(KernelError::Schedule("tiles do not divide among warps and steps"));
    }
    let operands = operand_types(problem)?;
    let alike = operands.iter().all(|t| *t == operands[0] && *t != Ty::F32);
    if cut.engine == Engine::Mma && !alike {
        return Err(KernelError::Schedule("tensor cores take operands of one 16-bit type"));
    }
    match &problem.work {
        Work::Attention(a) => forward::write(problem, a, cut),
        Work::GradQueries(a) => queries::write(problem, a, cut),
        Work::GradKeys(a) => keys::write(problem, a, cut),
        Work::Contract(_)
        | Work::Ragged(_)
        | Work::MaxLogit { .. }
        | Work::GradDelta(_)
        | Work::Copy { .. } => Err(KernelError::Schedule("not attention")),
    }
}

/// Types of `q`, `k`, `v` and, for a gradient, `d_o`.
fn operand_types(problem: &Problem) -> Result<Vec<Ty>, KernelError> {
    let numbers: &[usize] =
        if matches!(problem.work, Work::Attention(_)) { &[0, 1, 2] } else { &[0, 1, 2, 4] };
    numbers
        .iter()
        .map(|n| Ty::of(problem.dtypes[*n]).ok_or(KernelError::DType(problem.dtypes[*n])))
        .collect()
}

/// Bytes of shared memory of a block; 0 where the types have no kernel.
pub(crate) fn shared_bytes(problem: &Problem, schedule: &Schedule) -> u32 {
    let (Ok(cut), Ok(types)) = (Cut::of(schedule), operand_types(problem)) else { return 0 };
    let (Work::Attention(_), None) = (&problem.work, types.get(3)) else {
        let (Work::GradQueries(a) | Work::GradKeys(a)) = &problem.work else { return 0 };
        let copies = if matches!(problem.work, Work::GradKeys(_)) { 2 } else { 1 };
        let products = Tile { rows: cut.queries, columns: cut.keys, ty: product_type(cut, &types) };
        let across = Tile { rows: cut.keys, columns: cut.queries, ..products };
        let all = grad_tiles(&a.shape, cut, &types);
        let operands: u32 = all.iter().map(|t| t.bytes()).sum();
        return operands + copies * if copies == 2 { across } else { products }.bytes();
    };
    let Work::Attention(a) = &problem.work else { return 0 };
    forward::tiles(&a.shape, cut, &types).iter().map(|t| t.bytes()).sum()
}

/// The type in which probabilities become an operand.
fn product_type(cut: Cut, types: &[Ty]) -> Ty {
    match cut.engine {
        Engine::Mma => types[0],
        Engine::Fma => Ty::F32,
    }
}

/// A tile of positions with a padded head dimension.
fn positions(rows: u32, dim: u64, ty: Ty) -> Tile {
    Tile { rows, columns: dim.max(1).next_multiple_of(DIM_UNIT) as u32, ty }
}

/// Tiles of `q`, `k`, `v`, `d_o` in a gradient.
fn grad_tiles(s: &AttentionShape, cut: Cut, types: &[Ty]) -> [Tile; 4] {
    [
        positions(cut.queries, s.qk_dim, types[0]),
        positions(cut.keys, s.qk_dim, types[1]),
        positions(cut.keys, s.v_dim, types[2]),
        positions(cut.queries, s.v_dim, types[3]),
    ]
}

/// Places of tiles in shared memory, one after the other.
struct Places {
    shared: Val,
    bytes: u32,
}

impl Places {
    fn new(b: &mut Builder) -> Self {
        Places { shared: b.shared_symbol(crate::SHARED), bytes: 0 }
    }

    fn take(&mut self, b: &mut Builder, tile: Tile) -> Val {
        let start = b.at_const(self.shared, i64::from(self.bytes));
        self.bytes += tile.bytes();
        start
    }
}

/// The matrix `[positions, dim]` of a batch and a head.
fn matrix(
    b: &mut Builder,
    (base, view, ty): (Val, &HeadsView, Ty),
    (batch, head): (Val, Val),
    (seq, dim): (u64, u64),
) -> Source {
    let none = b.int(Ty::I64, 0);
    let (batch, head) = (b.wide(batch), b.wide(head));
    let origin = row_start(b, view, [batch, none, head]);
    let moves = [view.view.offset as i64, view.batch, view.seq, view.head];
    Source {
        base,
        ty,
        origin,
        strides: [view.seq, 1],
        limits: [b.i32(seq as i64), b.i32(dim as i64)],
        vector: vector(ty, 1, &moves),
    }
}

/// Starts filling a tile with the positions from `first` on.
fn load(b: &mut Builder, team: Team, source: &Source, first: Val, to: (Tile, Val)) {
    let zero = b.i32(0);
    fill(b, team, source, [first, zero], to);
}

/// A tile as an operand whose rows run along the contracted dimension, or whose rows are it.
fn operand((tile, start): (Tile, Val), along_k: bool) -> Operand {
    Operand { tile, start, along_k }
}

/// A warp's part of a product with `extents` rows and columns.
fn warp_tile(b: &mut Builder, cut: Cut, thread: Val, extents: [u32; 2]) -> WarpTile {
    let warp = b.div(thread, 32);
    let columns = i64::from(cut.warps[1]);
    let place = [b.div(warp, columns), b.rem(warp, columns)];
    let edges = [extents[0] / cut.warps[0], extents[1] / cut.warps[1]];
    WarpTile {
        blocks: [edges[0] / 16, edges[1] / 8],
        first: [b.mul(place[0], i64::from(edges[0])), b.mul(place[1], i64::from(edges[1]))],
    }
}

/// How many keys after its own number a query sees, and one more: `seq_kv − seq_q + 1`.
fn reach(s: &AttentionShape) -> i64 {
    s.seq_kv as i64 - s.seq_q as i64 + 1
}

/// Keys that a query sees: those below the result.
fn visible(b: &mut Builder, s: &AttentionShape, query: Val) -> Val {
    let all = b.i32(s.seq_kv as i64);
    match s.causal {
        true => {
            let seen = b.add_const(query, reach(s));
            b.min(seen, all)
        }
        false => all,
    }
}

/// Tiles of keys that a tile of queries from `first` on sees.
fn key_trips(b: &mut Builder, s: &AttentionShape, cut: Cut, first: Val) -> Val {
    let next = b.add_const(first, i64::from(cut.queries));
    let all = b.i32(s.seq_q as i64);
    let end = b.min(next, all);
    let last = b.add_const(end, -1);
    let seen = visible(b, s, last);
    let zero = b.i32(0);
    let seen = b.max(seen, zero);
    let covering = b.add_const(seen, i64::from(cut.keys) - 1);
    b.div(covering, i64::from(cut.keys))
}

/// A block's place: its tile (the last first, because they see most), batch and head.
struct Place {
    first: Val,
    batch: Val,
    head: Val,
}

fn place(b: &mut Builder, (seq, tile): (u64, u32), heads: u64) -> (Place, u64) {
    let tiles = seq.div_ceil(u64::from(tile));
    let block = b.block();
    let count = (tiles as i64).max(1);
    let number = b.rem(block, count);
    let last = b.i32(count - 1);
    let number = b.sub(last, number);
    let rest = b.div(block, count);
    let heads = (heads as i64).max(1);
    let place = Place {
        first: b.mul(number, i64::from(tile)),
        batch: b.div(rest, heads),
        head: b.rem(rest, heads),
    };
    (place, tiles)
}

/// f32 per query: `[batch, heads, seq_q]` from `offset` on, of one batch and head.
#[derive(Clone, Copy)]
struct PerQuery {
    base: Val,
    origin: Val,
    last: Val,
}

fn per_query(
    b: &mut Builder,
    (base, offset): (Val, u64),
    s: &AttentionShape,
    (batch, head): (Val, Val),
) -> PerQuery {
    let matrix = b.mul(batch, s.heads as i64);
    let matrix = b.add(matrix, head);
    let matrix = b.wide(matrix);
    let start = b.mul(matrix, s.seq_q as i64);
    PerQuery {
        base,
        origin: b.add_const(start, offset as i64),
        last: b.i32((s.seq_q as i64 - 1).max(0)),
    }
}

impl PerQuery {
    fn at(&self, b: &mut Builder, query: Val) -> Val {
        let query = b.wide(query);
        let index = b.add(self.origin, query);
        let bytes = b.mul(index, 4);
        b.at(self.base, bytes)
    }

    /// A query's value; of the last query for those after it.
    fn load(&self, b: &mut Builder, query: Val) -> Val {
        let query = b.min(query, self.last);
        let from = self.at(b, query);
        b.load(from, Ty::F32)
    }
}

/// `x · by` with a known factor.
fn times(b: &mut Builder, x: Val, by: f32) -> Val {
    let by = b.f32(by);
    b.float("mulf", x, by)
}

/// `p = 2^(s · scale · log2 e − lse · log2 e)`, and `d_s = p (d_p − delta) scale`.
fn probability(b: &mut Builder, s: Val, scale: f32, lse: Val) -> Val {
    let minus = times(b, lse, -LOG2_E);
    let factor = b.f32(scale * LOG2_E);
    let exponent = b.fma(s, factor, minus);
    b.exp2(exponent)
}

/// The gradient of a logit before scaling.
fn logit_grad(b: &mut Builder, (p, d_p): (Val, Val), delta: Val, scale: f32) -> Val {
    let difference = b.float("subf", d_p, delta);
    let grad = b.float("mulf", p, difference);
    times(b, grad, scale)
}

/// Stores accumulators as a shared tile's rows and columns.
fn store_tile(
    b: &mut Builder,
    (tile, start): (Tile, Val),
    (warp, lane): (&WarpTile, Lane),
    acc: &[Val],
) {
    let corner = warp.corner(b, lane);
    let row = b.mul(corner[0], i64::from(tile.pitch()));
    let column = b.mul(corner[1], i64::from(tile.ty.bytes()));
    let offset = b.add(row, column);
    let start = b.at(start, offset);
    for (i, row) in warp.rows().enumerate() {
        for spot in warp.pairs(i as u32) {
            let bytes = row * tile.pitch() + spot.column * tile.ty.bytes();
            let to = b.at_const(start, i64::from(bytes));
            let pair = [0, 1].map(|e| b.narrow(acc[spot.index + e], tile.ty));
            b.store_vector(&pair, to);
        }
    }
}

/// Stores accumulators as positions of a result, those that exist.
fn store_positions(
    b: &mut Builder,
    (result, first): (&Source, Val),
    (warp, lane): (&WarpTile, Lane),
    acc: &[Val],
) {
    let corner = warp.corner(b, lane);
    let top = b.add(first, corner[0]);
    let dim = result.limits[1].known.unwrap_or(0);
    let paired = result.vector.is_multiple_of(2) && dim % 2 == 0;
    for (i, row) in warp.rows().enumerate() {
        let row = b.add_const(top, i64::from(row));
        let exists = b.compare(Compare::Less, row, result.limits[0]);
        b.when(exists, |b| {
            let wide = b.wide(row);
            let moved = b.mul(wide, result.strides[0]);
            let start = b.add(result.origin, moved);
            for spot in warp.pairs(i as u32) {
                let pair = [0, 1].map(|e| b.narrow(acc[spot.index + e], result.ty));
                let column = b.add_const(corner[1], i64::from(spot.column));
                let groups: &[&[Val]] = if paired { &[&pair] } else { &[&pair[..1], &pair[1..]] };
                for (e, values) in groups.iter().enumerate() {
                    let column = b.add_const(column, e as i64);
                    let exists = b.less(column, result.limits[1]);
                    b.when(exists, |b| {
                        let column = b.wide(column);
                        let index = b.add(start, column);
                        let bytes = b.mul(index, i64::from(result.ty.bytes()));
                        let to = b.at(result.base, bytes);
                        b.store_vector(values, to);
                    });
                }
            }
        });
    }
}
