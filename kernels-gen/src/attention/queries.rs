//! The gradient of the queries: `d_q = (p (d_p − delta)) · k · scale` with `d_p = d_o · vᵀ`.
//!
//! # Invariants
//! - A block owns a tile of queries and walks over the keys they see, in ascending order.

use perilune_plan::AttentionGrad;

use super::{
    Cut, Places, grad_tiles, key_trips, load, logit_grad, matrix, operand, operand_types,
    per_query, place, probability, product_type, store_positions, store_tile, visible, warp_tile,
};
use crate::builder::{Builder, Compare, Ty, Val};
use crate::fragment::{Lane, WarpTile, multiply};
use crate::problem::Problem;
use crate::tile::{Team, Tile};
use crate::{Body, KernelError};

/// Logits of a tile and what their gradient needs.
struct Logits<'a> {
    a: &'a AttentionGrad,
    warp: &'a WarpTile,
    lane: Lane,
    /// First query of the block.
    first: Val,
    /// Log-sum-exp and delta of the lane's rows.
    rows: &'a [[Val; 2]],
}

/// Writes the kernel.
pub(super) fn write(problem: &Problem, a: &AttentionGrad, cut: Cut) -> Result<Body, KernelError> {
    let types = operand_types(problem)?;
    let out_ty = Ty::of(problem.dtypes[6]).ok_or(KernelError::DType(problem.dtypes[6]))?;
    let s = &a.shape;
    let mut b = Builder::default();
    let p: Vec<Val> = problem.dtypes.iter().map(|_| b.parameter()).collect();
    let b = &mut b;
    let (here, count) = place(b, (s.seq_q, cut.queries), s.heads);
    let key_head = b.div(here.head, (s.heads / s.kv_heads.max(1)).max(1) as i64);
    let (at, at_key) = ((here.batch, here.head), (here.batch, key_head));
    let q = matrix(b, (p[0], &a.q, types[0]), at, (s.seq_q, s.qk_dim));
    let k = matrix(b, (p[1], &a.k, types[1]), at_key, (s.seq_kv, s.qk_dim));
    let v = matrix(b, (p[2], &a.v, types[2]), at_key, (s.seq_kv, s.v_dim));
    let d_o = matrix(b, (p[4], &a.d_o, types[3]), at, (s.seq_q, s.v_dim));
    let d_q = matrix(b, (p[6], &a.d_q, out_ty), at, (s.seq_q, s.qk_dim));
    let lse = per_query(b, (p[3], a.lse.offset), s, at);
    let delta = per_query(b, (p[5], 0), s, at);
    let thread = b.thread();
    let (team, lane) = (Team { thread, threads: cut.threads() }, Lane::of(b, thread));
    let mut places = Places::new(b);
    let [tq, tk, tv, td] = grad_tiles(s, cut, &types).map(|t| (t, places.take(b, t)));
    let ts = Tile { rows: cut.queries, columns: cut.keys, ty: product_type(cut, &types) };
    let ts = (ts, places.take(b, ts));
    let warp = warp_tile(b, cut, thread, [cut.queries, cut.keys]);
    let out_warp = warp_tile(b, cut, thread, [cut.queries, tq.0.columns]);
    load(b, team, &q, here.first, tq);
    load(b, team, &d_o, here.first, td);
    b.copy_commit();
    let corner = warp.corner(b, lane);
    let rows: Vec<[Val; 2]> = warp
        .rows()
        .map(|row| {
            let query = b.add(here.first, corner[0]);
            let query = b.add_const(query, i64::from(row));
            [lse.load(b, query), delta.load(b, query)]
        })
        .collect();
    let logits = Logits { a, warp: &warp, lane, first: here.first, rows: &rows };
    let trips = key_trips(b, s, cut, here.first);
    let (zero, acc) = (b.i32(0), out_warp.zeros(b));
    let acc = b.repeat((zero, trips), &acc, |b, trip, acc| {
        let first_key = b.mul(trip, i64::from(cut.keys));
        // Nobody reads the tiles of the trip before any more.
        b.barrier();
        load(b, team, &k, first_key, tk);
        load(b, team, &v, first_key, tv);
        b.copy_commit();
        b.copy_wait(0);
        b.barrier();
        let product = |b: &mut Builder, left, right, depth| {
            let (left, right) = (operand(left, true), operand(right, true));
            let zeros = warp.zeros(b);
            multiply(b, cut.engine, lane, (&left, &right, depth), (&warp, zeros))
        };
        let sums = product(b, tq, tk, tq.0.columns);
        let d_p = product(b, td, tv, td.0.columns);
        let d_s = logits.grad(b, first_key, &sums, &d_p);
        store_tile(b, ts, (&warp, lane), &d_s);
        b.barrier();
        let (left, right) = (operand(ts, true), operand(tk, false));
        multiply(b, cut.engine, lane, (&left, &right, cut.keys), (&out_warp, acc.to_vec()))
    });
    store_positions(b, (&d_q, here.first), (&out_warp, lane), &acc);
    let text = std::mem::take(b).finish();
    Ok(Body { text, blocks: count * s.batch * s.heads, shared_bytes: places.bytes })
}

impl Logits<'_> {
    /// Gradients of a tile's logits; 0 where a query does not see a key.
    fn grad(&self, b: &mut Builder, first_key: Val, sums: &[Val], d_p: &[Val]) -> Vec<Val> {
        let corner = self.warp.corner(b, self.lane);
        let scale = self.a.shape.scale;
        let mut grads = sums.to_vec();
        for (i, row) in self.warp.rows().enumerate() {
            let query = b.add(self.first, corner[0]);
            let query = b.add_const(query, i64::from(row));
            let seen = visible(b, &self.a.shape, query);
            let left = b.sub(seen, first_key);
            let left = b.sub(left, corner[1]);
            let [lse, delta] = self.rows[i];
            for spot in self.warp.pairs(i as u32) {
                for e in 0..2 {
                    let at = spot.index + e as usize;
                    let p = probability(b, sums[at], scale, lse);
                    let grad = logit_grad(b, (p, d_p[at]), delta, scale);
                    let column = b.i32(i64::from(spot.column) + e);
                    let holds = b.compare(Compare::Less, column, left);
                    let zero = b.f32(0.0);
                    grads[at] = b.select(holds, grad, zero);
                }
            }
        }
        grads
    }
}
