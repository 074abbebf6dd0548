//! Attention backward: probabilities are recomputed tile by tile from the log-sum-exp.
//!
//! `D = rowsum(dO ∘ O)`, `P = e^(scale·QKᵀ − lse)`, `dV = Pᵀ dO`, `dS = P ∘ (dO Vᵀ − D)`,
//! `dQ = scale·dS K`, `dK = scale·dSᵀ Q`.
//!
//! # Invariants
//! - One task owns one key head of one sequence and every query head that reads it, so each of the
//!   three gradients is summed by one thread in a fixed order: key tiles outside, query heads, then
//!   query tiles inside.
//! - No `seq × seq` matrix exists.

use std::cell::RefCell;

use perilune_plan::DType;
use pulp::Arch;

use super::attention::{AttentionExtents, Heads};
use super::exponential::{dot, softmax_grad_row};
use super::matrix::{Extents, Operand, Scale, multiply};
use super::memory::Span;
use super::pool::{Pool, WorkerPanic};

/// Query positions of a tile.
const TILE_Q: usize = 64;
/// Key positions of a tile.
const TILE_KV: usize = 128;

/// A bound attention backward.
pub(crate) struct AttentionGradStep {
    pub(crate) extents: AttentionExtents,
    pub(crate) q: Heads,
    pub(crate) k: Heads,
    pub(crate) v: Heads,
    pub(crate) o: Heads,
    pub(crate) lse: Span,
    pub(crate) d_o: Heads,
    pub(crate) d_q: Heads,
    pub(crate) d_k: Heads,
    pub(crate) d_v: Heads,
}

/// A task's working memory.
#[derive(Default)]
struct Scratch {
    p: Vec<f32>,
    ds: Vec<f32>,
    /// `[group, seq_q]`
    lse: Vec<f32>,
    /// `[group, seq_q]`
    delta: Vec<f32>,
    /// `[group, seq_q, qk_dim]`
    d_q: Vec<f32>,
    /// `[TILE_KV, qk_dim]`
    d_k: Vec<f32>,
    /// `[TILE_KV, v_dim]`
    d_v: Vec<f32>,
    row_o: Vec<f32>,
    row_d_o: Vec<f32>,
}

/// Where a tile of logits lies.
#[derive(Clone, Copy)]
struct Tile {
    batch: usize,
    head: usize,
    /// Index of the query head among those that share the key head.
    member: usize,
    kv_head: usize,
    query: usize,
    queries: usize,
    key: usize,
    keys: usize,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

impl AttentionGradStep {
    /// Computes the three gradients.
    pub(crate) fn run(&self, pool: &mut Pool) -> Result<(), WorkerPanic> {
        let e = self.extents;
        let arch = Arch::new();
        pool.run((e.batch * e.kv_heads) as u64, 1, &|range| {
            for task in range {
                let (batch, kv_head) = (task as usize / e.kv_heads, task as usize % e.kv_heads);
                SCRATCH.with_borrow_mut(|scratch| self.task(arch, scratch, batch, kv_head));
            }
        })
    }

    fn task(&self, arch: Arch, s: &mut Scratch, batch: usize, kv_head: usize) {
        let e = self.extents;
        let group = e.heads / e.kv_heads;
        let heads = kv_head * group..(kv_head + 1) * group;
        self.prepare(arch, s, batch, heads.clone());
        for key in (0..e.seq_kv).step_by(TILE_KV) {
            let keys = TILE_KV.min(e.seq_kv - key);
            s.d_k.clear();
            s.d_k.resize(keys * e.qk_dim, 0.0);
            s.d_v.clear();
            s.d_v.resize(keys * e.v_dim, 0.0);
            for (member, head) in heads.clone().enumerate() {
                for query in (0..e.seq_q).step_by(TILE_Q) {
                    let queries = TILE_Q.min(e.seq_q - query);
                    if e.visible(query + queries - 1) <= key {
                        continue;
                    }
                    let tile = Tile { batch, head, member, kv_head, query, queries, key, keys };
                    self.tile(arch, s, tile);
                }
            }
            // SAFETY: binding has bounded the gradients; these key rows belong to this task.
            unsafe {
                self.d_k.matrix(batch, kv_head).at(key, 0).write_from(&s.d_k, e.qk_dim);
                self.d_v.matrix(batch, kv_head).at(key, 0).write_from(&s.d_v, e.v_dim);
            }
        }
        for (member, head) in heads.enumerate() {
            let len = e.seq_q * e.qk_dim;
            let d_q = &s.d_q[member * len..(member + 1) * len];
            // SAFETY: as above; the query heads of this key head belong to this task.
            unsafe { self.d_q.matrix(batch, head).write_from(d_q, e.qk_dim) };
        }
    }

    /// Clears the gradients and computes `D` for the query heads of a task.
    fn prepare(&self, arch: Arch, s: &mut Scratch, batch: usize, heads: std::ops::Range<usize>) {
        let e = self.extents;
        s.p.resize(TILE_Q * TILE_KV, 0.0);
        s.ds.resize(TILE_Q * TILE_KV, 0.0);
        s.d_q.clear();
        s.d_q.resize(heads.len() * e.seq_q * e.qk_dim, 0.0);
        s.row_o.resize(e.v_dim, 0.0);
        s.row_d_o.resize(e.v_dim, 0.0);
        s.lse.clear();
        s.delta.clear();
        for head in heads {
            let (o, d_o) = (self.o.matrix(batch, head), self.d_o.matrix(batch, head));
            let lse = Operand::new(self.lse, DType::f32, 0, [1, 1]);
            let lse = lse.at((batch * e.heads + head) * e.seq_q, 0);
            for i in 0..e.seq_q {
                // SAFETY: binding has bounded o, d_o and lse; nobody writes them now.
                unsafe {
                    o.at(i, 0).read_into(&mut s.row_o, e.v_dim);
                    d_o.at(i, 0).read_into(&mut s.row_d_o, e.v_dim);
                    s.lse.push(lse.load(i, 0));
                }
                s.delta.push(dot(arch, &s.row_o, &s.row_d_o));
            }
        }
    }

    /// Adds one tile's part to the three gradients.
    fn tile(&self, arch: Arch, s: &mut Scratch, t: Tile) {
        let e = self.extents;
        let q = self.q.matrix(t.batch, t.head).at(t.query, 0);
        let k = self.k.matrix(t.batch, t.kv_head).at(t.key, 0);
        let v = self.v.matrix(t.batch, t.kv_head).at(t.key, 0);
        let d_o = self.d_o.matrix(t.batch, t.head).at(t.query, 0);
        let p = Operand::scratch(&mut s.p, TILE_KV);
        let ds = Operand::scratch(&mut s.ds, TILE_KV);
        let logits = Extents { m: t.queries, n: t.keys, k: e.qk_dim };
        // SAFETY: binding has bounded q, k, v and d_o; the scratch tiles are this thread's.
        unsafe {
            let scale = Scale { alpha: e.scale, keep: false };
            multiply(p, q, k.transposed(), logits, scale);
            let scale = Scale { alpha: 1.0, keep: false };
            multiply(ds, d_o, v.transposed(), Extents { k: e.v_dim, ..logits }, scale);
        }
        for i in 0..t.queries {
            let visible = e.visible(t.query + i).saturating_sub(t.key).min(t.keys);
            let row = i * TILE_KV..i * TILE_KV + t.keys;
            let (p, p_hidden) = s.p[row.clone()].split_at_mut(visible);
            let (ds, ds_hidden) = s.ds[row].split_at_mut(visible);
            p_hidden.fill(0.0);
            ds_hidden.fill(0.0);
            let at = t.member * e.seq_q + t.query + i;
            softmax_grad_row(arch, p, ds, s.lse[at], s.delta[at]);
        }
        let p = Operand::scratch(&mut s.p, TILE_KV);
        let ds = Operand::scratch(&mut s.ds, TILE_KV);
        let first = (t.member * e.seq_q + t.query) * e.qk_dim;
        let d_q = Operand::scratch(&mut s.d_q[first..], e.qk_dim);
        let d_k = Operand::scratch(&mut s.d_k, e.qk_dim);
        let d_v = Operand::scratch(&mut s.d_v, e.v_dim);
        let add = Scale { alpha: 1.0, keep: true };
        let add_scaled = Scale { alpha: e.scale, keep: true };
        // SAFETY: as above; the gradient tiles have `queries` and `keys` rows.
        unsafe {
            let by_key = Extents { m: t.keys, n: e.v_dim, k: t.queries };
            multiply(d_v, p.transposed(), d_o, by_key, add);
            let by_key = Extents { n: e.qk_dim, ..by_key };
            multiply(d_k, ds.transposed(), q, by_key, add_scaled);
            let by_query = Extents { m: t.queries, n: e.qk_dim, k: t.keys };
            multiply(d_q, ds, k, by_query, add_scaled);
        }
    }
}
