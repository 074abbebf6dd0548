//! `Attention`: softmax attention over heads, tiled: no `seq × seq` matrix exists.
//!
//! ```text
//! s[b,h,i,j] = scale · Σ_d q[b,i,h,d] · k[b,j,h',d]     h' = h / (heads / kv_heads)
//! o[b,i,h,:] = Σ_j softmax_j(s)[j] · v[b,j,h',:]
//! lse[b,h,i] = log Σ_j exp(s)          max_logit[h] = max over b, i, j of s
//! ```
//!
//! With `causal` query i sees keys j ≤ i + (seq_kv − seq_q); one that sees none gives 0. `lse` and
//! `max_logit` are f32 statistics: they carry no gradient. QK-clip demands `max_logit`.
//! Ref.: FlashAttention-2 (arXiv 2307.08691); grouped queries (arXiv 2305.13245).

use serde::Deserialize;

use super::form::{FormCx, ScalarForm, Spanned};
use super::support::{
    Rng, Sample, checked, expect_dtype, expect_extents, expect_ndim, expect_operands, f32_type,
    touched,
};
use super::{
    AttentionGrad, Builder, Built, Cost, KernelBuilder, OpDef, TypeError, Value, codes, support,
};
use crate::program::{DialectOp, OpKind, V};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// Softmax attention over heads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    /// f64 bits of the factor on q·k.
    pub scale: u64,
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
}

/// `Attention(q: "q", k: "k", v: "v", causal: true, scale: softmax_scale)`; also `lse`, `max_logit`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Attention", deny_unknown_fields)]
pub struct Form {
    /// Queries, `[batch, seq, heads, qk_dim]`.
    q: Spanned<String>,
    /// Keys, `[batch, seq_kv, kv_heads, qk_dim]`.
    k: Spanned<String>,
    /// Values, `[batch, seq_kv, kv_heads, v_dim]`.
    v: Spanned<String>,
    /// Whether a query sees only keys up to its own position.
    causal: bool,
    /// Factor on q·k; `1 / sqrt(qk_dim)` if left out.
    #[serde(default)]
    scale: Option<ScalarForm>,
}

/// Extents of an attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extents {
    pub batch: u64,
    pub seq_q: u64,
    pub seq_kv: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub qk_dim: u64,
    pub v_dim: u64,
}

impl Extents {
    pub(super) fn of(q: &[u64], k: &[u64], v: &[u64]) -> Self {
        Extents {
            batch: q[0],
            seq_q: q[1],
            seq_kv: k[1],
            heads: q[2],
            kv_heads: k[2],
            qk_dim: q[3],
            v_dim: v[3],
        }
    }

    /// Number of keys that query `i` sees.
    pub(super) fn visible(&self, i: u64, causal: bool) -> u64 {
        if !causal {
            return self.seq_kv;
        }
        (i + 1 + self.seq_kv).saturating_sub(self.seq_q).min(self.seq_kv)
    }

    /// The key/value head of a query head.
    pub(super) fn kv_head(&self, head: u64) -> u64 {
        head * self.kv_heads / self.heads
    }

    /// Query-key pairs that count, over batch and heads.
    pub(super) fn pairs(&self, causal: bool) -> u64 {
        let (s, t) = (self.seq_q, self.seq_kv);
        let per_head = match causal {
            false => s.saturating_mul(t),
            // Rows see t − s + 1 .. t keys, or none where that is negative.
            true if t >= s => s.saturating_mul(2 * t - s + 1) / 2,
            true => t.saturating_mul(t + 1) / 2,
        };
        per_head.saturating_mul(self.batch).saturating_mul(self.heads)
    }

    /// Calls `f` with every batch, head and query.
    pub(super) fn for_each_query(&self, mut f: impl FnMut(u64, u64, u64)) {
        for b in 0..self.batch {
            for h in 0..self.heads {
                (0..self.seq_q).for_each(|i| f(b, h, i));
            }
        }
    }
}

/// `Σ_d x[b, i, h, d] · y[b, j, g, d]`
pub(super) fn dot(x: &Tensor, at_x: [u64; 3], y: &Tensor, at_y: [u64; 3]) -> f64 {
    let at = |[b, i, h]: [u64; 3], d: u64| [b, i, h, d];
    (0..x.shape[3]).map(|d| x.at(&at(at_x, d)) * y.at(&at(at_y, d))).sum()
}

/// Checks q, k, v; gives their extents.
pub(super) fn expect_heads(operands: &[Type]) -> Result<Extents, TypeError> {
    for i in 0..3 {
        expect_ndim(operands, i, 4)?;
        expect_dtype(operands, i, "a float", |d| d.is_float())?;
        expect_dtype(operands, i, operands[0].dtype.name(), |d| d == operands[0].dtype)?;
    }
    for (a, b, dim) in [(0, 1, 0), (0, 2, 0), (1, 2, 1), (1, 2, 2), (0, 1, 3)] {
        expect_extents(operands, (a, dim), (b, dim))?;
    }
    let e = Extents::of(&operands[0].shape, &operands[1].shape, &operands[2].shape);
    let per_pair = e.qk_dim.saturating_add(e.v_dim);
    support::expect_iterable(&[e.batch, e.heads, e.seq_q, operands[1].shape[1], per_pair])?;
    if !e.heads.is_multiple_of(e.kv_heads) {
        let headline = format!("{} key heads do not divide {} query heads", e.kv_heads, e.heads);
        return Err(TypeError::new(codes::EXTENTS_DIFFER, headline)
            .operand(1, &operands[1])
            .operand(0, &operands[0]));
    }
    Ok(e)
}

impl OpDef for Attention {
    const NAME: &'static str = "Attention";
    const SUMMARY: &'static str =
        "Softmax attention over heads, with per-head maximum logits on demand.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Causal attention of four query heads over two key heads.",
    inputs: { "q": [2, 5, 4, 8], "k": [2, 5, 2, 8], "v": [2, 5, 2, 6] },
    nodes: [("attn", Attention(q: "q", k: "k", v: "v", causal: true))],
    outputs: { "y": "attn.o", "max_logit": "attn.max_logit" },
)"#;
    const RESULTS: &'static [&'static str] = &["o", "lse", "max_logit"];
    const STATISTICS: &'static [usize] = &[1, 2];

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let operands = support::operands(cx, &[&form.q, &form.k, &form.v]);
        let given = match &form.scale {
            Some(scale) => Some(cx.scalar(scale)?),
            None => None,
        };
        let operands = operands?;
        let qk_dim = cx.ty(operands[0].0).shape.last().copied().unwrap_or(1);
        let scale = given.unwrap_or_else(|| 1.0 / (qk_dim as f64).sqrt());
        Some((Attention { scale: scale.to_bits(), causal: form.causal }, operands))
    }

    fn attributes(&self) -> String {
        format!("causal {} scale {:?}", self.causal, f64::from_bits(self.scale))
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 3)?;
        let e = expect_heads(operands)?;
        Ok(vec![
            checked(operands[0].dtype, vec![e.batch, e.seq_q, e.heads, e.v_dim])?,
            checked(DType::f32, vec![e.batch, e.heads, e.seq_q])?,
            checked(DType::f32, vec![e.heads])?,
        ])
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], results: &[Type]) -> Vec<Tensor> {
        let [q, k, v] = operands else { return Vec::new() };
        let e = Extents::of(&q.shape, &k.shape, &v.shape);
        let scale = f64::from_bits(self.scale);
        let mut o = Tensor::full(&results[0].shape, 0.0);
        let mut lse = Tensor::full(&results[1].shape, f64::NEG_INFINITY);
        let mut max_logit = Tensor::full(&results[2].shape, f64::NEG_INFINITY);
        e.for_each_query(|b, h, i| {
            let g = e.kv_head(h);
            let logits: Vec<f64> = (0..e.visible(i, self.causal))
                .map(|j| scale * dot(q, [b, i, h], k, [b, j, g]))
                .collect();
            if logits.is_empty() {
                return;
            }
            let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logits.iter().map(|s| (s - max).exp()).sum();
            let at = lse.offset(&[b, h, i]);
            lse.data[at] = max + sum.ln();
            max_logit.data[h as usize] = max_logit.data[h as usize].max(max);
            for d in 0..e.v_dim {
                let weighted = logits.iter().enumerate();
                let at = o.offset(&[b, i, h, d]);
                o.data[at] =
                    weighted.map(|(j, s)| (s - max).exp() / sum * v.at(&[b, j as u64, g, d])).sum();
            }
        });
        vec![o, lse, max_logit]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        results: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let (Some(grad), [q, k, v], [o, lse, _]) = (grads[0], operands, results) else {
            return vec![None; 3];
        };
        let op = AttentionGrad { scale: self.scale, causal: self.causal };
        cx.push(op.into(), &[*q, *k, *v, *o, *lse, grad]).into_iter().map(Some).collect()
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let op = DialectOp::Attention { scale: self.scale, causal: self.causal };
        cx.push_many(OpKind::Dialect(op), operands, results.to_vec())
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        let e = Extents::of(&operands[0].shape, &operands[1].shape, &operands[2].shape);
        let flops = e.pairs(self.causal).saturating_mul(2 * (e.qk_dim + e.v_dim));
        Cost { flops, bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let (op, types) = sample_heads(rng);
        Sample::random(op, types, rng)
    }
}

/// A random attention: its attributes and the types of q, k, v.
pub(super) fn sample_heads(rng: &mut Rng) -> (Attention, Vec<Type>) {
    let (b, s, t) = (rng.below(3), rng.extent(), rng.extent());
    let (kv_heads, group) = (rng.below(2) + 1, rng.below(2) + 1);
    let (qk, dv) = (rng.extent(), rng.extent());
    let types = vec![
        f32_type(&[b, s, kv_heads * group, qk]),
        f32_type(&[b, t, kv_heads, qk]),
        f32_type(&[b, t, kv_heads, dv]),
    ];
    (Attention { scale: 0.5f64.to_bits(), causal: rng.below(2) == 0 }, types)
}
