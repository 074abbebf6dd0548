//! Attention forward with an online softmax.
//!
//! A warp owns whole rows of logits: the maximum and the sum of a row are butterflies over the four
//! lanes that hold it. While keys are multiplied the values are on their way, and the next keys
//! while values are.
//!
//! # Invariants
//! - A query that sees no key gives zeros and a log-sum-exp of −∞.
//! - NaN among the logits of a row makes its output, log-sum-exp and maximum NaN.

use perilune_plan::{Attention, AttentionShape};

use super::{
    Cut, LOG2_E, Places, key_trips, load, matrix, operand, operand_types, per_query, place,
    positions, product_type, store_positions, store_tile, times, visible, warp_tile,
};
use crate::builder::{Builder, Compare, Ty, Val};
use crate::elements::over_lanes;
use crate::fragment::{Lane, WarpTile, multiply};
use crate::problem::{Problem, STRIP, strips};
use crate::tile::{Source, Team, Tile};
use crate::{Body, KernelError};

/// Lanes that share a row.
const ROW_LANES: [i64; 2] = [2, 1];
/// Lanes that hold one column of a block's rows.
const COLUMN_LANES: [i64; 3] = [16, 8, 4];

/// Tiles of `q`, `k`, `v` and the probabilities.
pub(super) fn tiles(s: &AttentionShape, cut: Cut, types: &[Ty]) -> [Tile; 4] {
    [
        positions(cut.queries, s.qk_dim, types[0]),
        positions(cut.keys, s.qk_dim, types[1]),
        positions(cut.keys, s.v_dim, types[2]),
        Tile { rows: cut.queries, columns: cut.keys, ty: product_type(cut, types) },
    ]
}

/// What the loop over keys knows.
struct Walk<'a> {
    shape: &'a AttentionShape,
    cut: Cut,
    team: Team,
    lane: Lane,
    /// First query of the block.
    first: Val,
    trips: Val,
    sources: [Source; 3],
    tiles: [(Tile, Val); 4],
    /// The warp's logits and outputs.
    warps: [WarpTile; 2],
}

/// A warp's state: per row the maximum and this lane's sum, then the outputs.
struct State {
    max: Vec<Val>,
    sum: Vec<Val>,
    out: Vec<Val>,
}

impl State {
    fn flat(self) -> Vec<Val> {
        [self.max, self.sum, self.out].concat()
    }

    fn of(flat: &[Val], rows: usize) -> State {
        State {
            max: flat[..rows].to_vec(),
            sum: flat[rows..2 * rows].to_vec(),
            out: flat[2 * rows..].to_vec(),
        }
    }
}

/// Writes the kernel.
pub(super) fn write(problem: &Problem, a: &Attention, cut: Cut) -> Result<Body, KernelError> {
    if cut.warps[1] != 1 {
        return Err(KernelError::Schedule("a warp of the forward owns whole rows"));
    }
    let types = operand_types(problem)?;
    let out_ty = Ty::of(problem.dtypes[3]).ok_or(KernelError::DType(problem.dtypes[3]))?;
    let s = &a.shape;
    let mut b = Builder::default();
    let parameters: Vec<Val> = problem.dtypes.iter().map(|_| b.parameter()).collect();
    let b = &mut b;
    let (here, count) = place(b, (s.seq_q, cut.queries), s.heads);
    let key_head = b.div(here.head, (s.heads / s.kv_heads.max(1)).max(1) as i64);
    let at = (here.batch, here.head);
    let at_key = (here.batch, key_head);
    let sources = [
        matrix(b, (parameters[0], &a.q, types[0]), at, (s.seq_q, s.qk_dim)),
        matrix(b, (parameters[1], &a.k, types[1]), at_key, (s.seq_kv, s.qk_dim)),
        matrix(b, (parameters[2], &a.v, types[2]), at_key, (s.seq_kv, s.v_dim)),
    ];
    let out = matrix(b, (parameters[3], &a.o, out_ty), at, (s.seq_q, s.v_dim));
    let thread = b.thread();
    let mut places = Places::new(b);
    let tiles = tiles(s, cut, &types).map(|t| (t, places.take(b, t)));
    let walk = Walk {
        shape: s,
        cut,
        team: Team { thread, threads: cut.threads() },
        lane: Lane::of(b, thread),
        first: here.first,
        trips: key_trips(b, s, cut, here.first),
        sources,
        tiles,
        warps: [
            warp_tile(b, cut, thread, [cut.queries, cut.keys]),
            warp_tile(b, cut, thread, [cut.queries, tiles[2].0.columns]),
        ],
    };
    let state = walk.run(b);
    let state = walk.finish(b, state, &out);
    if let Some(lse) = a.lse {
        let to = per_query(b, (parameters[lse.buffer as usize], lse.offset), s, at);
        walk.store_lse(b, &state, &to);
    }
    if let Some(max) = a.max_logit {
        let each = s.seq_q.div_ceil(STRIP);
        let head = b.wide(here.head);
        let by_head = b.mul(head, strips(s) as i64);
        let batch = b.wide(here.batch);
        let by_batch = b.mul(batch, each as i64);
        let origin = b.add(by_head, by_batch);
        walk.store_max(b, &state.max, (parameters[max.buffer as usize], origin));
    }
    let text = std::mem::take(b).finish();
    Ok(Body { text, blocks: count * s.batch * s.heads, shared_bytes: places.bytes })
}

impl Walk<'_> {
    /// Queries and first keys, then tile after tile.
    fn run(&self, b: &mut Builder) -> State {
        load(b, self.team, &self.sources[0], self.first, self.tiles[0]);
        let zero = b.i32(0);
        let any = b.less(zero, self.trips);
        b.when(any, |b| load(b, self.team, &self.sources[1], zero, self.tiles[1]));
        b.copy_commit();
        let rows = self.warps[0].rows().count();
        let start = State {
            max: vec![b.f32(f32::NEG_INFINITY); rows],
            sum: vec![b.f32(0.0); rows],
            out: self.warps[1].zeros(b),
        };
        let end = b.repeat((zero, self.trips), &start.flat(), |b, trip, flat| {
            self.step(b, trip, State::of(flat, rows)).flat()
        });
        State::of(&end, rows)
    }

    fn step(&self, b: &mut Builder, trip: Val, state: State) -> State {
        let engine = self.cut.engine;
        let first_key = b.mul(trip, i64::from(self.cut.keys));
        b.copy_wait(0);
        b.barrier();
        load(b, self.team, &self.sources[2], first_key, self.tiles[2]);
        b.copy_commit();
        let (left, right) = (operand(self.tiles[0], true), operand(self.tiles[1], true));
        let work = (&left, &right, self.tiles[0].0.columns);
        let zeros = self.warps[0].zeros(b);
        let logits = multiply(b, engine, self.lane, work, (&self.warps[0], zeros));
        let logits: Vec<Val> = logits.into_iter().map(|x| times(b, x, self.shape.scale)).collect();
        let logits = self.mask(b, first_key, logits);
        b.copy_wait(0);
        b.barrier();
        let next = b.add_const(trip, 1);
        let more = b.less(next, self.trips);
        b.when(more, |b| {
            let first = b.mul(next, i64::from(self.cut.keys));
            load(b, self.team, &self.sources[1], first, self.tiles[1]);
        });
        b.copy_commit();
        let (state, probabilities) = self.softmax(b, &logits, state);
        store_tile(b, self.tiles[3], (&self.warps[0], self.lane), &probabilities);
        b.warp_barrier();
        let (left, right) = (operand(self.tiles[3], true), operand(self.tiles[2], false));
        let work = (&left, &right, self.cut.keys);
        let out = multiply(b, engine, self.lane, work, (&self.warps[1], state.out));
        State { out, ..state }
    }

    /// −∞ for keys that a query does not see, in tiles where there are such.
    fn mask(&self, b: &mut Builder, first_key: Val, logits: Vec<Val>) -> Vec<Val> {
        let end = b.add_const(first_key, i64::from(self.cut.keys));
        let seen = visible(b, self.shape, self.first);
        let crosses = b.less(seen, end);
        b.replace_when(crosses, &logits, |b| {
            let warp = &self.warps[0];
            let corner = warp.corner(b, self.lane);
            let hidden = b.f32(f32::NEG_INFINITY);
            let mut masked = logits.clone();
            for (i, row) in warp.rows().enumerate() {
                let query = b.add(self.first, corner[0]);
                let query = b.add_const(query, i64::from(row));
                let seen = visible(b, self.shape, query);
                let left = b.sub(seen, first_key);
                let left = b.sub(left, corner[1]);
                for spot in warp.pairs(i as u32) {
                    for e in 0..2 {
                        let column = b.i32(i64::from(spot.column) + e);
                        let holds = b.compare(Compare::Less, column, left);
                        let at = spot.index + e as usize;
                        masked[at] = b.select(holds, logits[at], hidden);
                    }
                }
            }
            masked
        })
    }

    /// Moves the rows' maxima, sums and outputs on, and gives the probabilities.
    fn softmax(&self, b: &mut Builder, logits: &[Val], state: State) -> (State, Vec<Val>) {
        let [warp, out_warp] = &self.warps;
        let mut next = state;
        let mut probabilities = logits.to_vec();
        for i in 0..next.max.len() {
            let row = |k: u32| warp.pairs(k).flat_map(|p| [p.index, p.index + 1]);
            let mut max = next.max[i];
            let tile = row(i as u32).map(|at| logits[at]).collect::<Vec<_>>();
            let mut of_tile = tile[0];
            for x in &tile[1..] {
                of_tile = b.maximum(of_tile, *x);
            }
            let of_tile = over_lanes(b, of_tile, &ROW_LANES, Builder::maximum);
            let old = max;
            max = b.maximum(max, of_tile);
            // A row that has seen nothing stays at weight 0 instead of ∞ − ∞.
            let (nothing, zero) = (b.f32(f32::NEG_INFINITY), b.f32(0.0));
            let unseen = b.float_equal(max, nothing);
            let base = b.select(unseen, zero, max);
            let minus = times(b, base, -LOG2_E);
            let log2_e = b.f32(LOG2_E);
            let shrink = b.fma(old, log2_e, minus);
            let shrink = b.exp2(shrink);
            let mut sum = b.float("mulf", next.sum[i], shrink);
            for at in row(i as u32) {
                let exponent = b.fma(logits[at], log2_e, minus);
                probabilities[at] = b.exp2(exponent);
                sum = b.float("addf", sum, probabilities[at]);
            }
            (next.max[i], next.sum[i]) = (max, sum);
            for pair in out_warp.pairs(i as u32) {
                for at in [pair.index, pair.index + 1] {
                    next.out[at] = b.float("mulf", next.out[at], shrink);
                }
            }
        }
        (next, probabilities)
    }

    /// Divides by the rows' sums and stores the outputs; the sums come back over all lanes.
    fn finish(&self, b: &mut Builder, mut state: State, out: &Source) -> State {
        let warp = &self.warps[1];
        for i in 0..state.sum.len() {
            let sum = over_lanes(b, state.sum[i], &ROW_LANES, |b, x, y| b.float("addf", x, y));
            let zero = b.f32(0.0);
            let empty = b.float_equal(sum, zero);
            let inverse = b.intrinsic("llvm.nvvm.rcp.approx.ftz.f", &[sum]);
            let inverse = b.select(empty, zero, inverse);
            for pair in warp.pairs(i as u32) {
                for at in [pair.index, pair.index + 1] {
                    state.out[at] = b.float("mulf", state.out[at], inverse);
                }
            }
            state.sum[i] = sum;
        }
        store_positions(b, (out, self.first), (warp, self.lane), &state.out);
        state
    }

    /// The query of the lane's `i`-th row.
    fn query(&self, b: &mut Builder, row: u32) -> Val {
        let corner = self.warps[0].corner(b, self.lane);
        let query = b.add(self.first, corner[0]);
        b.add_const(query, i64::from(row))
    }

    fn store_lse(&self, b: &mut Builder, state: &State, to: &super::PerQuery) {
        let zero = b.i32(0);
        let leads = b.compare(Compare::Equal, self.lane.column, zero);
        let queries = b.i32(self.shape.seq_q as i64);
        for (i, row) in self.warps[0].rows().enumerate() {
            let query = self.query(b, row);
            let below = b.less(query, queries);
            let exists = b.and(leads, below);
            b.when(exists, |b| {
                let log = b.log2(state.sum[i]);
                let ln_2 = b.f32(std::f32::consts::LN_2);
                let value = b.fma(log, ln_2, state.max[i]);
                let to = to.at(b, query);
                b.store(value, to);
            });
        }
    }

    /// One maximum per strip of queries.
    fn store_max(&self, b: &mut Builder, max: &[Val], (base, origin): (Val, Val)) {
        let queries = b.i32(self.shape.seq_q as i64);
        let rows: Vec<u32> = self.warps[0].rows().collect();
        for (pair, rows) in max.chunks_exact(2).zip(rows.chunks_exact(2)) {
            let mut strip = b.f32(f32::NEG_INFINITY);
            for (value, row) in pair.iter().zip(rows) {
                let query = self.query(b, *row);
                let exists = b.less(query, queries);
                let nothing = b.f32(f32::NEG_INFINITY);
                let value = b.select(exists, *value, nothing);
                strip = b.maximum(strip, value);
            }
            let strip = over_lanes(b, strip, &COLUMN_LANES, Builder::maximum);
            let (zero, query) = (b.i32(0), self.query(b, rows[0]));
            let leads = b.compare(Compare::Equal, self.lane.lane, zero);
            let below = b.less(query, queries);
            let exists = b.and(leads, below);
            b.when(exists, |b| {
                let number = b.div(query, STRIP as i64);
                let number = b.wide(number);
                let index = b.add(origin, number);
                let bytes = b.mul(index, 4);
                let to = b.at(base, bytes);
                b.store(strip, to);
            });
        }
    }
}
