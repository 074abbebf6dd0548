//! `Softmax`: exponentials normalised along the last dimension, `exp(x − max) / Σ exp(x − max)`.
//!
//! The running maximum, sum and quotient become one pass where `fuse` sees them together.

use serde::Deserialize;

use super::form::{FormCx, Spanned};
use super::support::{Rng, Sample, expect_dtype, expect_operands, f32_type, touched};
use super::{
    Builder, Built, Cost, KernelBuilder, OpDef, TypeError, Value, codes, generic, support,
};
use crate::program::{Combine, Generic, OpKind, V};
use crate::scalar::{Body, S, Unary};
use crate::tensor::Tensor;
use crate::types::Type;

/// Softmax along the last dimension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Softmax;

/// `Softmax("logits")`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Softmax", deny_unknown_fields)]
pub struct Form {
    /// The tensor, `[.., n]`.
    x: Spanned<String>,
}

/// The type without its last dimension; floats with at least one dimension only.
pub(super) fn rows_type(operands: &[Type]) -> Result<Type, TypeError> {
    expect_operands(operands, 1)?;
    expect_dtype(operands, 0, "a float", |d| d.is_float())?;
    let mut ty = operands[0].clone();
    match ty.shape.pop() {
        Some(_) => Ok(ty),
        None => {
            let headline = "a scalar has no last dimension";
            Err(TypeError::new(codes::WRONG_NDIM, headline).operand(0, &operands[0]))
        }
    }
}

/// A generic over `x [.., n]` and per-row operands: reduced along the last dimension, or not.
pub(super) fn row_generic(
    shape: &[u64],
    maps: &[bool],
    combine: Option<Combine>,
    f: impl FnOnce(&mut Body, &[S]) -> S,
) -> Generic {
    let n = shape.len() as u32;
    let whole = generic::dims(0..n);
    let row = generic::dims(0..n - 1);
    Generic {
        extents: shape.to_vec(),
        maps: maps.iter().map(|w| if *w { whole.clone() } else { row.clone() }).collect(),
        out: (0..n - u32::from(combine.is_some())).collect(),
        combine,
        body: generic::body_of(maps.len(), f),
    }
}

/// `exp(a0 - a1)`
pub(super) fn exp_of_difference(b: &mut Body, a: &[S]) -> S {
    let difference = b.sub(a[0], a[1]);
    b.apply(Unary::Exp, difference)
}

impl OpDef for Softmax {
    const NAME: &'static str = "Softmax";
    const SUMMARY: &'static str = "Exponentials normalised along the last dimension.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Probabilities of classes.",
    inputs: { "logits": [batch, 10] },
    nodes: [("y", Softmax("logits"))],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        Some((Softmax, vec![support::operand(cx, &form.x)?]))
    }

    fn attributes(&self) -> String {
        String::new()
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        rows_type(operands)?;
        Ok(operands.to_vec())
    }

    fn reference(&self, operands: &[&Tensor], types: &[Type], _: &[Type]) -> Vec<Tensor> {
        let n = types[0].shape.last().copied().unwrap_or(0).max(1) as usize;
        let mut y = operands[0].clone();
        for row in y.data.chunks_mut(n) {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter_mut().for_each(|x| *x = (*x - max).exp());
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|x| *x /= sum);
        }
        vec![y]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        _: &[Value],
        results: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let Some(grad) = grads[0] else { return vec![None] };
        let shape = cx.ty(grad).shape.clone();
        let dot = row_generic(&shape, &[true, true], Some(Combine::Sum), |b, a| b.mul(a[0], a[1]));
        let dot = generic::push(cx, dot, &[grad, results[0]]);
        let dx = row_generic(&shape, &[true, true, false], None, |b, a| {
            let centred = b.sub(a[0], a[2]);
            b.mul(a[1], centred)
        });
        vec![Some(generic::push(cx, dx, &[grad, results[0], dot]))]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let (x, ty) = (operands[0], results[0].clone());
        let mut rows = ty.clone();
        rows.shape.pop();
        let max = row_generic(&ty.shape, &[true], Some(Combine::Max), |_, a| a[0]);
        let max = cx.push(OpKind::Generic(max), &[x], rows.clone());
        let exp = row_generic(&ty.shape, &[true, false], None, exp_of_difference);
        let exp = cx.push(OpKind::Generic(exp), &[x, max], ty.clone());
        let sum = row_generic(&ty.shape, &[true], Some(Combine::Sum), |_, a| a[0]);
        let sum = cx.push(OpKind::Generic(sum), &[exp], rows);
        let y = row_generic(&ty.shape, &[true, false], None, |b, a| b.div(a[0], a[1]));
        vec![cx.push(OpKind::Generic(y), &[exp, sum], ty)]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        let flops = operands[0].elems().saturating_mul(5);
        Cost { flops, bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let shape = rng.extents(3);
        Sample::random(Softmax, vec![f32_type(&shape)], rng)
    }
}
