//! What plan steps mean, as plain loops in f64.

use perilune_plan::{
    Attention, AttentionGrad, AttentionShape, Contract, HeadsView, Loop, Ragged, RaggedForm,
};

use crate::machine::Buffer;

/// Every index of nested loops, outermost first.
fn indices(loops: &[Loop]) -> Vec<Vec<i64>> {
    let mut all = vec![Vec::new()];
    for l in loops {
        let trips = 0..l.extent as i64;
        all = all.iter().flat_map(|i| trips.clone().map(|n| [&i[..], &[n]].concat())).collect();
    }
    all
}

fn place(offset: u64, loops: &[Loop], index: &[i64], stride: fn(&Loop) -> i64) -> usize {
    let moved: i64 = loops.iter().zip(index).map(|(l, i)| stride(l) * i).sum();
    (offset as i64 + moved) as usize
}

/// `C = alpha · Σ A · B (+ C)`.
pub(crate) fn contract(c: &Contract, buffers: &mut [Buffer]) {
    let outer: Vec<Loop> = c.batch.iter().copied().chain([c.m, c.n]).collect();
    let inner: Vec<Loop> = c.sum.iter().copied().chain([c.k]).collect();
    for o in indices(&outer) {
        let mut sum = 0.0;
        for i in indices(&inner) {
            let value = |buffer: u32, offset, stride: fn(&Loop) -> i64| {
                let at = place(offset, &outer, &o, stride) + place(0, &inner, &i, stride);
                buffers[buffer as usize].values[at]
            };
            sum += value(c.a.buffer, c.a.offset, |l| l.a) * value(c.b.buffer, c.b.offset, |l| l.b);
        }
        let at = place(c.c.offset, &outer, &o, |l| l.c);
        let result = &mut buffers[c.c.buffer as usize].values[at];
        let old = if c.accumulate { *result } else { 0.0 };
        *result = f64::from(c.alpha) * sum + old;
    }
}

/// Both forms of a product over groups of rows.
pub(crate) fn ragged(r: &Ragged, buffers: &mut [Buffer]) {
    let value = |buffers: &[Buffer], view: perilune_plan::View, at: i64| {
        buffers[view.buffer as usize].values[(view.offset as i64 + at) as usize]
    };
    let offsets: Vec<i64> =
        (0..=r.groups as i64).map(|g| value(buffers, r.offsets, g) as i64).collect();
    let (k, n, [by_group, by_k, by_n]) = (r.k as i64, r.n as i64, r.b_strides);
    let mut results: Vec<(i64, f64)> = Vec::new();
    match r.form {
        RaggedForm::Rows => {
            for row in 0..r.rows as i64 {
                let group = offsets.windows(2).position(|w| w[0] <= row && row < w[1]);
                for column in 0..n {
                    let product = |i: i64, g: usize| {
                        value(buffers, r.a, row * r.a_row + i)
                            * value(buffers, r.b, g as i64 * by_group + i * by_k + column * by_n)
                    };
                    let sum = group.map_or(0.0, |g| (0..k).map(|i| product(i, g)).sum());
                    results.push((row * n + column, sum));
                }
            }
        }
        RaggedForm::Outer => {
            for (g, w) in offsets.windows(2).enumerate() {
                for (i, j) in (0..k).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let product = |row: i64| {
                        value(buffers, r.a, row * r.a_row + i)
                            * value(buffers, r.b, row * by_k + j * by_n)
                    };
                    let sum = (w[0]..w[1]).map(product).sum();
                    results.push(((g as i64 * k + i) * n + j, sum));
                }
            }
        }
    }
    for (at, sum) in results {
        buffers[r.c.buffer as usize].values[r.c.offset as usize + at as usize] = sum;
    }
}

/// Index of an element of a heads view.
fn at(view: &HeadsView, [batch, position, head, d]: [u64; 4]) -> usize {
    let moved = batch as i64 * view.batch + position as i64 * view.seq + head as i64 * view.head;
    (view.view.offset as i64 + moved) as usize + d as usize
}

fn dot(
    buffers: &[Buffer],
    (x, i): (&HeadsView, [u64; 3]),
    (y, j): (&HeadsView, [u64; 3]),
    n: u64,
) -> f64 {
    let value = |v: &HeadsView, [b, s, h]: [u64; 3], d| {
        buffers[v.view.buffer as usize].values[at(v, [b, s, h, d])]
    };
    (0..n).map(|d| value(x, i, d) * value(y, j, d)).sum()
}

/// Keys that a query sees.
fn seen(s: &AttentionShape, query: u64) -> u64 {
    match s.causal {
        true => (query + 1 + s.seq_kv).saturating_sub(s.seq_q).min(s.seq_kv),
        false => s.seq_kv,
    }
}

/// Every query: batch, head, its key head, position.
fn queries(s: &AttentionShape) -> impl Iterator<Item = (u64, u64, u64, u64)> + use<> {
    let s = *s;
    let group = (s.heads / s.kv_heads.max(1)).max(1);
    (0..s.batch).flat_map(move |b| {
        (0..s.heads).flat_map(move |h| (0..s.seq_q).map(move |i| (b, h, h / group, i)))
    })
}

/// Attention forward.
pub(crate) fn attention(a: &Attention, buffers: &mut [Buffer]) {
    let s = &a.shape;
    let mut maxima = vec![f64::NEG_INFINITY; s.heads as usize];
    for (b, h, kh, i) in queries(s) {
        let logits: Vec<f64> = (0..seen(s, i))
            .map(|j| {
                let sum = dot(buffers, (&a.q, [b, i, h]), (&a.k, [b, j, kh]), s.qk_dim);
                f64::from(s.scale) * sum
            })
            .collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        maxima[h as usize] = maxima[h as usize].max(max);
        let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
        for d in 0..s.v_dim {
            let weigh = |(j, x): (usize, &f64)| {
                let v = &buffers[a.v.view.buffer as usize];
                (x - max).exp() / sum * v.values[at(&a.v, [b, j as u64, kh, d])]
            };
            let out = logits.iter().enumerate().map(weigh).sum();
            buffers[a.o.view.buffer as usize].values[at(&a.o, [b, i, h, d])] = out;
        }
        if let Some(lse) = a.lse {
            let to = lse.offset + (b * s.heads + h) * s.seq_q + i;
            buffers[lse.buffer as usize].values[to as usize] = max + sum.ln();
        }
    }
    if let Some(max) = a.max_logit {
        for (h, value) in maxima.into_iter().enumerate() {
            buffers[max.buffer as usize].values[max.offset as usize + h] = value;
        }
    }
}

/// Attention backward.
pub(crate) fn attention_grad(a: &AttentionGrad, buffers: &mut [Buffer]) {
    let s = &a.shape;
    let scale = f64::from(s.scale);
    let (kv_heads, qk, v) = (s.kv_heads, s.qk_dim, s.v_dim);
    for (view, seq, heads, dim) in [
        (&a.d_q, s.seq_q, s.heads, qk),
        (&a.d_k, s.seq_kv, kv_heads, qk),
        (&a.d_v, s.seq_kv, kv_heads, v),
    ] {
        for (b, i) in (0..s.batch).flat_map(|b| (0..seq).map(move |i| (b, i))) {
            for (h, d) in (0..heads).flat_map(|h| (0..dim).map(move |d| (h, d))) {
                buffers[view.view.buffer as usize].values[at(view, [b, i, h, d])] = 0.0;
            }
        }
    }
    for (b, h, kh, i) in queries(s) {
        let lse = a.lse.offset + (b * s.heads + h) * s.seq_q + i;
        let lse = buffers[a.lse.buffer as usize].values[lse as usize];
        let delta = dot(buffers, (&a.o, [b, i, h]), (&a.d_o, [b, i, h]), v);
        for j in 0..seen(s, i) {
            let logit = scale * dot(buffers, (&a.q, [b, i, h]), (&a.k, [b, j, kh]), qk);
            let p = (logit - lse).exp();
            let d_p = dot(buffers, (&a.d_o, [b, i, h]), (&a.v, [b, j, kh]), v);
            let d_s = p * (d_p - delta) * scale;
            let mut add =
                |to: &HeadsView, place: [u64; 3], from: &HeadsView, of: [u64; 3], by, n| {
                    for d in 0..n {
                        let [b0, s0, h0] = of;
                        let x =
                            buffers[from.view.buffer as usize].values[at(from, [b0, s0, h0, d])];
                        let [b1, s1, h1] = place;
                        buffers[to.view.buffer as usize].values[at(to, [b1, s1, h1, d])] += by * x;
                    }
                };
            add(&a.d_q, [b, i, h], &a.k, [b, j, kh], d_s, qk);
            add(&a.d_k, [b, j, kh], &a.q, [b, i, h], d_s, qk);
            add(&a.d_v, [b, j, kh], &a.d_o, [b, i, h], p, v);
        }
    }
}
