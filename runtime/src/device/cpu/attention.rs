//! Attention forward, tiled with an online softmax: no `seq × seq` matrix exists.
//!
//! # Invariants
//! - One task computes one tile of query positions of one head; key tiles run in ascending order.
//! - Tiles above the causal diagonal are skipped; a query that sees no key gives zeros and a
//!   log-sum-exp of −∞.
//!
//! # Numerics
//! Logits, softmax and the output's accumulation are f32; bf16 operands are widened.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};

use pulp::Arch;

use super::exponential::{exp, exp_row, max_row, scale_row};
use super::matrix::{Extents, Operand, Scale, multiply};
use super::memory::Span;
use super::pool::{Pool, WorkerPanic};

/// Query positions of a tile.
const TILE_Q: usize = 64;
/// Key positions of a tile.
const TILE_KV: usize = 256;

/// Extents and options, as [`perilune_plan::AttentionShape`] in host integers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionExtents {
    pub(crate) batch: usize,
    pub(crate) seq_q: usize,
    pub(crate) seq_kv: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) qk_dim: usize,
    pub(crate) v_dim: usize,
    pub(crate) scale: f32,
    pub(crate) causal: bool,
}

impl AttentionExtents {
    /// Keys that query `i` sees: `0..visible(i)`.
    pub(crate) fn visible(&self, i: usize) -> usize {
        if !self.causal {
            return self.seq_kv;
        }
        (i + 1 + self.seq_kv).saturating_sub(self.seq_q).min(self.seq_kv)
    }

    /// The key head that a query head reads.
    pub(crate) fn kv_head(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads.max(1)).max(1)
    }
}

/// A `[batch, seq, heads, dim]` operand: a matrix `[seq, dim]` per batch and head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) base: Operand,
    pub(crate) batch: isize,
    pub(crate) head: isize,
}

impl Heads {
    /// The `[seq, dim]` matrix of a batch and a head.
    pub(crate) fn matrix(&self, batch: usize, head: usize) -> Operand {
        self.base.shifted(batch as isize * self.batch + head as isize * self.head)
    }
}

/// A bound attention forward.
pub(crate) struct AttentionStep {
    pub(crate) extents: AttentionExtents,
    pub(crate) q: Heads,
    pub(crate) k: Heads,
    pub(crate) v: Heads,
    pub(crate) o: Heads,
    pub(crate) lse: Option<Span>,
    pub(crate) max_logit: Option<Span>,
}

/// A tile's working memory.
#[derive(Default)]
struct Scratch {
    logits: Vec<f32>,
    out: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

impl AttentionStep {
    /// Computes the output, and what else is asked for.
    pub(crate) fn run(&self, pool: &mut Pool) -> Result<(), WorkerPanic> {
        let e = self.extents;
        let tiles = e.seq_q.div_ceil(TILE_Q);
        let tasks = e.batch * e.heads * tiles;
        let maxima: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
        let arch = Arch::new();
        pool.run(tasks as u64, 1, &|range| {
            for task in range {
                // Late tiles see the most keys; taking them first balances the threads.
                let tile = tiles - 1 - task as usize % tiles;
                let head = task as usize / tiles;
                let place = head * tiles + tile;
                let max = SCRATCH.with_borrow_mut(|scratch| {
                    self.tile(arch, scratch, [head / e.heads, head % e.heads, tile])
                });
                maxima[place].store(max.to_bits(), Ordering::Relaxed);
            }
        })?;
        if let Some(target) = self.max_logit {
            let mut per_head = vec![f32::NEG_INFINITY; e.heads];
            for (i, bits) in maxima.iter().enumerate() {
                let max = f32::from_bits(bits.load(Ordering::Relaxed));
                let best = &mut per_head[i / tiles % e.heads];
                if max > *best || max.is_nan() {
                    *best = max;
                }
            }
            target.write_f32(&per_head);
        }
        Ok(())
    }

    /// One tile of queries; returns its largest visible logit.
    fn tile(&self, arch: Arch, s: &mut Scratch, at: [usize; 3]) -> f32 {
        let e = self.extents;
        let [batch, head, tile] = at;
        let begin = tile * TILE_Q;
        let rows = TILE_Q.min(e.seq_q - begin);
        let q = self.q.matrix(batch, head).at(begin, 0);
        let k = self.k.matrix(batch, e.kv_head(head));
        let v = self.v.matrix(batch, e.kv_head(head));
        s.logits.resize(TILE_Q * TILE_KV, 0.0);
        s.out.clear();
        s.out.resize(rows * e.v_dim, 0.0);
        s.max.clear();
        s.max.resize(rows, f32::NEG_INFINITY);
        s.sum.clear();
        s.sum.resize(rows, 0.0);

        let end = e.visible(begin + rows - 1);
        for first in (0..end).step_by(TILE_KV) {
            let keys = TILE_KV.min(end - first);
            let logits = Operand::scratch(&mut s.logits, TILE_KV);
            let extents = Extents { m: rows, n: keys, k: e.qk_dim };
            let scale = Scale { alpha: e.scale, keep: false };
            // SAFETY: binding has bounded all positions of q and k; the scratch holds a tile.
            unsafe { multiply(logits, q, k.at(first, 0).transposed(), extents, scale) };
            self.soften(arch, s, [begin, first, keys]);
            let (p, out) = (Operand::scratch(&mut s.logits, TILE_KV), &mut s.out);
            let extents = Extents { m: rows, n: e.v_dim, k: keys };
            let scale = Scale { alpha: 1.0, keep: first > 0 };
            // SAFETY: as above, for v; the output tile has `rows × v_dim` elements.
            unsafe {
                multiply(Operand::scratch(out, e.v_dim), p, v.at(first, 0), extents, scale);
            }
        }
        self.finish(arch, s, [batch, head, begin])
    }

    /// Turns a tile of logits into exponentials, keeping each row's running maximum and sum and
    /// rescaling the output so far.
    fn soften(&self, arch: Arch, s: &mut Scratch, [begin, first, keys]: [usize; 3]) {
        let v_dim = self.extents.v_dim;
        for (i, row) in s.logits.chunks_exact_mut(TILE_KV).take(s.max.len()).enumerate() {
            let visible = self.extents.visible(begin + i).saturating_sub(first).min(keys);
            let (seen, hidden) = row[..keys].split_at_mut(visible);
            hidden.fill(0.0);
            if seen.is_empty() {
                continue;
            }
            let old = s.max[i];
            let tile_max = max_row(arch, seen);
            let max = if tile_max > old { tile_max } else { old };
            let sum = exp_row(arch, seen, max);
            if first == 0 {
                s.sum[i] = sum;
            } else {
                let factor = exp(old - max);
                s.sum[i] = s.sum[i] * factor + sum;
                if factor != 1.0 {
                    scale_row(arch, &mut s.out[i * v_dim..(i + 1) * v_dim], factor);
                }
            }
            s.max[i] = max;
        }
    }

    /// Normalises and stores a finished tile; returns its largest visible logit.
    fn finish(&self, arch: Arch, s: &mut Scratch, [batch, head, begin]: [usize; 3]) -> f32 {
        let e = self.extents;
        let mut best = f32::NEG_INFINITY;
        let mut lse = [f32::NEG_INFINITY; TILE_Q];
        for (i, (max, sum)) in s.max.iter().zip(&s.sum).enumerate() {
            if e.visible(begin + i) == 0 {
                continue;
            }
            lse[i] = max + sum.ln();
            if *max > best || lse[i].is_nan() {
                best = if lse[i].is_nan() { lse[i] } else { *max };
            }
            scale_row(arch, &mut s.out[i * e.v_dim..(i + 1) * e.v_dim], 1.0 / sum);
        }
        let rows = s.max.len();
        // SAFETY: binding has bounded the output; this tile's rows of this head belong to this task.
        unsafe { self.o.matrix(batch, head).at(begin, 0).write_from(&s.out, e.v_dim) };
        if let Some(target) = self.lse {
            let offset = 4 * ((batch * e.heads + head) * e.seq_q + begin) as u64;
            if let Some(target) = target.part(offset, 4 * rows as u64) {
                target.write_f32(&lse[..rows]);
            }
        }
        best
    }
}
