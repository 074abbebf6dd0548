//! `LogSumExp`: `log Σ exp(x)` along the last dimension, without overflow.
//!
//! With it cross-entropy is `LogSumExp(logits) − logits[target]`, and no probabilities are stored.
//! The result is a statistic: f32 at least, as its sums are.

use serde::Deserialize;

use super::form::{FormCx, Spanned};
use super::softmax::{exp_of_difference, row_generic, rows_type};
use super::support::{Rng, Sample, f32_type, touched};
use super::{Builder, Built, Cost, KernelBuilder, OpDef, TypeError, Value, generic, support};
use crate::program::{Combine, OpKind, V};
use crate::scalar::Unary;
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// `log Σ exp` along the last dimension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogSumExp;

/// `LogSumExp("logits")`.
#[derive(Debug, Deserialize)]
#[serde(rename = "LogSumExp", deny_unknown_fields)]
pub struct Form {
    /// The tensor, `[.., n]`.
    x: Spanned<String>,
}

/// What sums of a type are kept in.
fn wide(dtype: DType) -> DType {
    if dtype == DType::f64 { dtype } else { DType::f32 }
}

impl OpDef for LogSumExp {
    const NAME: &'static str = "LogSumExp";
    const SUMMARY: &'static str = "log Σ exp along the last dimension, without overflow.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Cross-entropy of a row of logits.",
    inputs: { "logits": [batch, 10], "target": Input([batch, 1], i32) },
    nodes: [
        ("lse", LogSumExp("logits")),
        ("picked", TakeAlong("logits", "target")),
        ("y", Map("lse[b] - picked[b 1]")),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        Some((LogSumExp, vec![support::operand(cx, &form.x)?]))
    }

    fn attributes(&self) -> String {
        String::new()
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        let rows = rows_type(operands)?;
        let dtype = wide(rows.dtype);
        Ok(vec![rows.with_dtype(dtype)])
    }

    fn reference(&self, operands: &[&Tensor], types: &[Type], results: &[Type]) -> Vec<Tensor> {
        let n = types[0].shape.last().copied().unwrap_or(0) as usize;
        let rows = results[0].elems() as usize;
        let data = (0..rows)
            .map(|r| {
                let row = &operands[0].data[r * n..(r + 1) * n];
                let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                row.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max
            })
            .collect();
        vec![Tensor { shape: results[0].shape.clone(), data }]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        results: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let Some(grad) = grads[0] else { return vec![None] };
        let Type { shape, dtype } = cx.ty(operands[0]).clone();
        let dx = row_generic(&shape, &[true, false, false], None, |b, a| {
            let x = b.cast(a[0], dtype, wide(dtype));
            let p = exp_of_difference(b, &[x, a[1]]);
            let dx = b.mul(a[2], p);
            b.cast(dx, wide(dtype), dtype)
        });
        vec![Some(generic::push(cx, dx, &[operands[0], results[0], grad]))]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let (x, rows) = (operands[0], results[0].clone());
        let Type { shape, dtype } = cx.ty(x).clone();
        let max =
            row_generic(&shape, &[true], Some(Combine::Max), |b, a| b.cast(a[0], dtype, rows.dtype));
        let max = cx.push(OpKind::Generic(max), &[x], rows.clone());
        let sum = row_generic(&shape, &[true, false], Some(Combine::Sum), |b, a| {
            let x = b.cast(a[0], dtype, rows.dtype);
            exp_of_difference(b, &[x, a[1]])
        });
        let sum = cx.push(OpKind::Generic(sum), &[x, max], rows.clone());
        let body = generic::body_of(2, |b, a| {
            let log = b.apply(Unary::Log, a[0]);
            b.add(log, a[1])
        });
        let y = generic::elementwise(&rows.shape, 2, body);
        vec![cx.push(OpKind::Generic(y), &[sum, max], rows)]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        let flops = operands[0].elems().saturating_mul(4);
        Cost { flops, bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let mut shape = rng.extents(2);
        shape.push(rng.below(4) + 1);
        Sample::random(LogSumExp, vec![f32_type(&shape)], rng)
    }
}
