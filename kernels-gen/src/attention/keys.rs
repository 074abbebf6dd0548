//! The gradients of keys and values: `d_v = pᵀ · d_o`, `d_k = (p (d_p − delta))ᵀ · q · scale`.
//!
//! # Invariants
//! - A block owns a tile of keys; it walks over the query heads that share them, and in each over
//!   the queries that see them, in ascending order.
//! - Logits are computed transposed, `k · qᵀ`: a lane's rows are keys.

use perilune_plan::AttentionGrad;

use super::{
    Cut, PerQuery, Places, grad_tiles, load, logit_grad, matrix, operand, operand_types, per_query,
    place, probability, product_type, reach, store_positions, store_tile, warp_tile,
};
use crate::builder::{Builder, Compare, Ty, Val};
use crate::fragment::{Lane, WarpTile, multiply};
use crate::problem::Problem;
use crate::tile::{Team, Tile};
use crate::{Body, KernelError};

/// Writes the kernel.
pub(super) fn write(problem: &Problem, a: &AttentionGrad, cut: Cut) -> Result<Body, KernelError> {
    let types = operand_types(problem)?;
    let out_ty = |n: usize| Ty::of(problem.dtypes[n]).ok_or(KernelError::DType(problem.dtypes[n]));
    let out_types = [out_ty(6)?, out_ty(7)?];
    let s = &a.shape;
    let mut b = Builder::default();
    let p: Vec<Val> = problem.dtypes.iter().map(|_| b.parameter()).collect();
    let b = &mut b;
    let (here, count) = place(b, (s.seq_kv, cut.keys), s.kv_heads);
    let at = (here.batch, here.head);
    let k = matrix(b, (p[1], &a.k, types[1]), at, (s.seq_kv, s.qk_dim));
    let v = matrix(b, (p[2], &a.v, types[2]), at, (s.seq_kv, s.v_dim));
    let d_k = matrix(b, (p[6], &a.d_k, out_types[0]), at, (s.seq_kv, s.qk_dim));
    let d_v = matrix(b, (p[7], &a.d_v, out_types[1]), at, (s.seq_kv, s.v_dim));
    let thread = b.thread();
    let (team, lane) = (Team { thread, threads: cut.threads() }, Lane::of(b, thread));
    let mut places = Places::new(b);
    let [tq, tk, tv, td] = grad_tiles(s, cut, &types).map(|t| (t, places.take(b, t)));
    let product = Tile { rows: cut.keys, columns: cut.queries, ty: product_type(cut, &types) };
    let [tp, ts] = [product; 2].map(|t| (t, places.take(b, t)));
    let warp = warp_tile(b, cut, thread, [cut.keys, cut.queries]);
    let key_warp = warp_tile(b, cut, thread, [cut.keys, tk.0.columns]);
    let value_warp = warp_tile(b, cut, thread, [cut.keys, tv.0.columns]);
    load(b, team, &k, here.first, tk);
    load(b, team, &v, here.first, tv);
    b.copy_commit();
    let (first_tile, tiles) = query_tiles(b, a, cut, here.first);
    let group = (s.heads / s.kv_heads.max(1)) as i64;
    let first_head = b.mul(here.head, group);
    let zero = b.i32(0);
    let start = [key_warp.zeros(b), value_warp.zeros(b)].concat();
    let heads = b.i32(group);
    let acc = b.repeat((zero, heads), &start, |b, number, acc| {
        let head = b.add(first_head, number);
        let at = (here.batch, head);
        let q = matrix(b, (p[0], &a.q, types[0]), at, (s.seq_q, s.qk_dim));
        let d_o = matrix(b, (p[4], &a.d_o, types[3]), at, (s.seq_q, s.v_dim));
        let rows = [per_query(b, (p[3], a.lse.offset), s, at), per_query(b, (p[5], 0), s, at)];
        b.repeat((first_tile, tiles), acc, |b, tile, acc| {
            let (d_k, d_v) = acc.split_at(key_warp.count() as usize);
            let first = b.mul(tile, i64::from(cut.queries));
            // Nobody reads the tiles of the trip before any more.
            b.barrier();
            load(b, team, &q, first, tq);
            load(b, team, &d_o, first, td);
            b.copy_commit();
            b.copy_wait(0);
            b.barrier();
            let product = |b: &mut Builder, left, right, depth| {
                let (left, right) = (operand(left, true), operand(right, true));
                let zeros = warp.zeros(b);
                multiply(b, cut.engine, lane, (&left, &right, depth), (&warp, zeros))
            };
            let sums = product(b, tk, tq, tk.0.columns);
            let d_p = product(b, tv, td, tv.0.columns);
            let logits = Logits { a, warp: &warp, lane, first_key: here.first, first_query: first };
            let (p, d_s) = logits.grad(b, &rows, &sums, &d_p);
            store_tile(b, tp, (&warp, lane), &p);
            store_tile(b, ts, (&warp, lane), &d_s);
            b.barrier();
            let outer = |b: &mut Builder, left, right, warp: &WarpTile, acc: &[Val]| {
                let (left, right) = (operand(left, true), operand(right, false));
                let work = (&left, &right, cut.queries);
                multiply(b, cut.engine, lane, work, (warp, acc.to_vec()))
            };
            let d_v = outer(b, tp, td, &value_warp, d_v);
            let d_k = outer(b, ts, tq, &key_warp, d_k);
            [d_k, d_v].concat()
        })
    });
    let (key_grad, value_grad) = acc.split_at(key_warp.count() as usize);
    store_positions(b, (&d_k, here.first), (&key_warp, lane), key_grad);
    store_positions(b, (&d_v, here.first), (&value_warp, lane), value_grad);
    let text = std::mem::take(b).finish();
    Ok(Body { text, blocks: count * s.batch * s.kv_heads, shared_bytes: places.bytes })
}

/// The first tile of queries that sees a key from `first` on, and the number of all tiles.
fn query_tiles(b: &mut Builder, a: &AttentionGrad, cut: Cut, first: Val) -> (Val, Val) {
    let s = &a.shape;
    let tiles = b.i32(s.seq_q.div_ceil(u64::from(cut.queries)) as i64);
    let zero = b.i32(0);
    if !s.causal {
        return (zero, tiles);
    }
    // Query i sees key j where j < i + reach.
    let earliest = b.add_const(first, 1 - reach(s));
    let earliest = b.max(earliest, zero);
    (b.div(earliest, i64::from(cut.queries)), tiles)
}

/// Transposed logits of a tile.
struct Logits<'a> {
    a: &'a AttentionGrad,
    warp: &'a WarpTile,
    lane: Lane,
    first_key: Val,
    first_query: Val,
}

impl Logits<'_> {
    /// Probabilities and gradients of the logits; 0 where a query does not exist or see a key.
    fn grad(
        &self,
        b: &mut Builder,
        rows: &[PerQuery; 2],
        sums: &[Val],
        d_p: &[Val],
    ) -> (Vec<Val>, Vec<Val>) {
        let s = &self.a.shape;
        let corner = self.warp.corner(b, self.lane);
        let key = b.add(self.first_key, corner[0]);
        let query = b.add(self.first_query, corner[1]);
        let (queries, zero) = (b.i32(s.seq_q as i64), b.f32(0.0));
        let (mut p, mut d_s) = (sums.to_vec(), sums.to_vec());
        for j in 0..self.warp.blocks[1] {
            for e in 0..2 {
                let query = b.add_const(query, i64::from(j * 8 + e));
                let [lse, delta] = [rows[0].load(b, query), rows[1].load(b, query)];
                let exists = b.less(query, queries);
                let seen = b.add_const(query, reach(s));
                for (i, row) in self.warp.rows().enumerate() {
                    let Some(spot) = self.warp.pairs(i as u32).nth(j as usize) else { continue };
                    let at = spot.index + e as usize;
                    let mut holds = exists;
                    if s.causal {
                        let key = b.add_const(key, i64::from(row));
                        let sees = b.compare(Compare::Less, key, seen);
                        holds = b.and(holds, sees);
                    }
                    let value = probability(b, sums[at], s.scale, lse);
                    p[at] = b.select(holds, value, zero);
                    let grad = logit_grad(b, (value, d_p[at]), delta, s.scale);
                    d_s[at] = b.select(holds, grad, zero);
                }
            }
        }
        (p, d_s)
    }
}
