//! `AttentionGrad`: gradients of [`super::Attention`], with logits recomputed from `lse`.
//!
//! ```text
//! p = exp(s − lse)    d_v = pᵀ d_o    d_p = d_o vᵀ    d_s = p ∘ (d_p − Σ o ∘ d_o)
//! d_q = scale · d_s k           d_k = scale · d_sᵀ q
//! ```
//!
//! It has no gradient of its own: second derivatives through attention are not supported.

use serde::Deserialize;

use super::attention::{Extents, dot, expect_heads, sample_heads};
use super::form::{FormCx, ScalarForm, Spanned};
use super::support::{Rng, Sample, expect_dtype, expect_operands, touched};
use super::{Built, Cost, KernelBuilder, OpDef, TypeError, codes, support};
use crate::program::{DialectOp, OpKind, V};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// Gradients of attention.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttentionGrad {
    /// f64 bits of the factor on q·k.
    pub scale: u64,
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
}

/// `AttentionGrad(q: "q", k: "k", v: "v", o: "attn.o", lse: "attn.lse", d_o: "g", causal: true, scale: s)`.
#[derive(Debug, Deserialize)]
#[serde(rename = "AttentionGrad", deny_unknown_fields)]
pub struct Form {
    /// Queries.
    q: Spanned<String>,
    /// Keys.
    k: Spanned<String>,
    /// Values.
    v: Spanned<String>,
    /// Result of the forward.
    o: Spanned<String>,
    /// Log-sum-exp of the forward.
    lse: Spanned<String>,
    /// Gradient of `o`.
    d_o: Spanned<String>,
    /// Whether a query sees only keys up to its own position.
    causal: bool,
    /// Factor on q·k.
    scale: ScalarForm,
}

impl OpDef for AttentionGrad {
    const NAME: &'static str = "AttentionGrad";
    const SUMMARY: &'static str = "Gradients of attention, with logits recomputed.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Attention and, by hand, the gradient of the sum of its result.",
    inputs: { "q": [2, 5, 4, 8], "k": [2, 5, 4, 8], "v": [2, 5, 4, 6] },
    nodes: [
        ("attn", Attention(q: "q", k: "k", v: "v", causal: true, scale: 0.5)),
        ("ones", Fill(1.0, [2, 5, 4, 6])),
        ("y", AttentionGrad(q: "q", k: "k", v: "v", o: "attn.o", lse: "attn.lse", d_o: "ones", causal: true, scale: 0.5)),
    ],
    outputs: { "y": "y.d_q" },
)"#;
    const RESULTS: &'static [&'static str] = &["d_q", "d_k", "d_v"];
    const STATISTICS: &'static [usize] = &[0, 1, 2];

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let names = [&form.q, &form.k, &form.v, &form.o, &form.lse, &form.d_o];
        let operands = support::operands(cx, &names);
        let scale = cx.scalar(&form.scale)?.to_bits();
        Some((AttentionGrad { scale, causal: form.causal }, operands?))
    }

    fn attributes(&self) -> String {
        format!("causal {} scale {:?}", self.causal, f64::from_bits(self.scale))
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 6)?;
        let e = expect_heads(operands)?;
        let o = vec![e.batch, e.seq_q, e.heads, e.v_dim];
        let lse = vec![e.batch, e.heads, e.seq_q];
        for (i, shape) in [(3, &o), (4, &lse), (5, &o)] {
            let want = if i == 4 { DType::f32 } else { operands[0].dtype };
            expect_dtype(operands, i, want.name(), |d| d == want)?;
            if operands[i].shape != *shape {
                let headline = format!("shapes differ: {shape:?} vs {:?}", operands[i].shape);
                return Err(TypeError::new(codes::EXTENTS_DIFFER, headline)
                    .operand(i, &operands[i])
                    .operand(0, &operands[0]));
            }
        }
        Ok(operands[..3].to_vec())
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], results: &[Type]) -> Vec<Tensor> {
        let [q, k, v, o, lse, d_o] = operands else { return Vec::new() };
        let e = Extents::of(&q.shape, &k.shape, &v.shape);
        let scale = f64::from_bits(self.scale);
        let mut grads: Vec<Tensor> =
            results.iter().map(|ty| Tensor::full(&ty.shape, 0.0)).collect();
        let mut add = |n: usize, at: [u64; 4], x: f64| {
            let at = grads[n].offset(&at);
            grads[n].data[at] += x;
        };
        e.for_each_query(|b, h, i| {
            let g = e.kv_head(h);
            let delta = dot(o, [b, i, h], d_o, [b, i, h]);
            for j in 0..e.visible(i, self.causal) {
                let s = scale * dot(q, [b, i, h], k, [b, j, g]);
                let p = (s - lse.at(&[b, h, i])).exp();
                let d_s = p * (dot(d_o, [b, i, h], v, [b, j, g]) - delta) * scale;
                for d in 0..e.qk_dim {
                    add(0, [b, i, h, d], d_s * k.at(&[b, j, g, d]));
                    add(1, [b, j, g, d], d_s * q.at(&[b, i, h, d]));
                }
                for d in 0..e.v_dim {
                    add(2, [b, j, g, d], p * d_o.at(&[b, i, h, d]));
                }
            }
        });
        grads
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let op = DialectOp::AttentionGrad { scale: self.scale, causal: self.causal };
        cx.push_many(OpKind::Dialect(op), operands, results.to_vec())
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        let e = Extents::of(&operands[0].shape, &operands[1].shape, &operands[2].shape);
        // q·k again, d_q, d_k; d_o·v, d_v.
        let flops = e.pairs(self.causal).saturating_mul(2 * (3 * e.qk_dim + 2 * e.v_dim));
        Cost { flops, bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let (forward, types) = sample_heads(rng);
        let mut sample = Sample::random(forward, types, rng);
        let (op, operands) = (&sample.op, &sample.operands);
        let e = Extents::of(&operands[0].shape, &operands[1].shape, &operands[2].shape);
        let o = Type::new(DType::f32, [e.batch, e.seq_q, e.heads, e.v_dim]);
        let lse = Type::new(DType::f32, [e.batch, e.heads, e.seq_q]);
        let max = Type::new(DType::f32, [e.heads]);
        let borrowed: Vec<&Tensor> = operands.iter().collect();
        let forward = op.reference(&borrowed, &sample.types, &[o.clone(), lse.clone(), max]);
        sample.types.extend([o.clone(), lse, o.clone()]);
        sample.operands.extend(forward.into_iter().take(2));
        sample.operands.push(rng.tensor(&o));
        sample.map(|op| AttentionGrad { scale: op.scale, causal: op.causal })
    }
}
