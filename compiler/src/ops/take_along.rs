//! `TakeAlong`: per row, the elements at given positions of the last dimension.
//!
//! ```text
//! y[.., k] = x[.., indices[.., k]]        0 where x has no such element
//! ```
//!
//! The gradient compares positions instead of scattering: no atomics.

use serde::Deserialize;

use super::form::{FormCx, Spanned};
use super::gather::load_or_zero;
use super::support::{
    Rng, Sample, expect_dtype, expect_extents, expect_ndim, expect_operands, f32_type, i32_type,
    moved,
};
use super::{
    Builder, Built, Cost, KernelBuilder, OpDef, TypeError, Value, codes, generic, support,
};
use crate::program::{Combine, Generic, OpKind, V};
use crate::scalar::{Body, Cmp};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// Elements at positions of the last dimension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TakeAlong;

/// `TakeAlong("scores", "top.indices")`.
#[derive(Debug, Deserialize)]
#[serde(rename = "TakeAlong", deny_unknown_fields)]
pub struct Form {
    /// The tensor, `[.., n]`.
    x: Spanned<String>,
    /// Positions along its last dimension, i32 `[.., k]`; outside of it: 0.
    indices: Spanned<String>,
}

/// `d_x[.., n] = Σ_k (indices[.., k] == n) · grad[.., k]`, the transpose of taking.
pub(super) fn put_along(cx: &mut dyn Builder, grad: Value, indices: Value, extent: u64) -> Value {
    let ty = cx.ty(grad).clone();
    let k = ty.ndim() as u32 - 1;
    let n = k + 1;
    let mut extents = ty.shape.clone();
    extents.push(extent);
    let body = generic::body_of(2, |b, a| {
        let position = b.index(n);
        let hit = b.compare(Cmp::Eq, a[1], position);
        let zero = b.number(0.0, ty.dtype);
        b.select(hit, a[0], zero)
    });
    let maps = vec![generic::dims(0..n), generic::dims(0..n)];
    let out = (0..k).chain([n]).collect();
    let g = Generic { extents, maps, out, combine: Some(Combine::Sum), body };
    generic::push(cx, g, &[grad, indices])
}

impl OpDef for TakeAlong {
    const NAME: &'static str = "TakeAlong";
    const SUMMARY: &'static str = "Per row, the elements at given positions of the last dimension.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "The scores of the two best.",
    inputs: { "scores": [batch, 6], "bias": [6] },
    nodes: [
        ("choice", Map("scores[b e] + bias[e]")),
        ("top", TopK("choice", 2)),
        ("y", TakeAlong("scores", "top.indices")),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        Some((TakeAlong, support::operands(cx, &[&form.x, &form.indices])?))
    }

    fn attributes(&self) -> String {
        String::new()
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 2)?;
        expect_dtype(operands, 1, "i32", |d| d == DType::i32)?;
        let n = operands[0].ndim();
        if n == 0 {
            let headline = "a scalar has no positions to take";
            return Err(TypeError::new(codes::WRONG_NDIM, headline).operand(0, &operands[0]));
        }
        expect_ndim(operands, 1, n)?;
        for d in 0..n - 1 {
            expect_extents(operands, (0, d), (1, d))?;
        }
        Ok(vec![operands[1].with_dtype(operands[0].dtype)])
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], results: &[Type]) -> Vec<Tensor> {
        let (x, indices) = (operands[0], operands[1]);
        vec![Tensor::from_fn(&results[0].shape, |index| {
            let position = indices.at(index);
            let last = index.len() - 1;
            if position < 0.0 || position >= x.shape[last] as f64 {
                return 0.0;
            }
            let mut at = index.to_vec();
            at[last] = position as u64;
            x.at(&at)
        })]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        _: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let x = cx.ty(operands[0]);
        let (extent, float) = (x.shape.last().copied().unwrap_or(0), x.dtype.is_float());
        match grads[0] {
            Some(grad) if float => vec![Some(put_along(cx, grad, operands[1], extent)), None],
            _ => vec![None, None],
        }
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let ty = &results[0];
        let last = ty.ndim() as u32 - 1;
        let mut b = Body::default();
        let position = b.arg(0);
        let mut at: Vec<_> = (0..last).map(|d| b.index(d)).collect();
        at.push(position);
        let extent = cx.ty(operands[0]).shape[last as usize];
        let y = load_or_zero(&mut b, at, (last as usize, extent), ty.dtype);
        b.results = vec![y];
        let g = generic::elementwise(&ty.shape, 1, b);
        vec![cx.push(OpKind::Generic(g), &[operands[1], operands[0]], ty.clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        moved(&operands[1..2], &[results[0].clone(), results[0].clone()])
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let (b, n, k) = (rng.extent(), rng.below(4) + 1, rng.extent());
        let types = vec![f32_type(&[b, n]), i32_type(&[b, k])];
        let mut sample = Sample::random(TakeAlong, types, rng);
        sample.operands[1] = rng.integers(&[b, k], -2, n as i64 + 2);
        sample
    }
}
