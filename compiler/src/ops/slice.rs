//! `Slice`: a range of indices along one dimension.

use serde::Deserialize;

use super::form::{DimForm, FormCx, Spanned};
use super::support::{Rng, Sample, expect_operands, f32_type, moved};
use super::{Builder, Built, Cost, KernelBuilder, OpDef, Pad, TypeError, Value, codes, support};
use crate::program::{OpKind, V};
use crate::tensor::Tensor;
use crate::types::Type;

/// A range of indices along one dimension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The dimension.
    pub dim: u64,
    /// First index taken.
    pub start: u64,
    /// How many.
    pub len: u64,
}

/// `Slice("x", 2, 0, rope_dim)`, `Slice(x: "x", dim: 2, start: 0, len: rope_dim)`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Slice", deny_unknown_fields)]
pub struct Form {
    /// The tensor.
    x: Spanned<String>,
    /// The dimension, from 0.
    dim: DimForm,
    /// First index taken.
    start: DimForm,
    /// How many.
    len: DimForm,
}

impl OpDef for Slice {
    const NAME: &'static str = "Slice";
    const SUMMARY: &'static str = "A range of indices along one dimension.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "The last third of each row.",
    inputs: { "x": [batch, 12] },
    nodes: [("y", Slice(x: "x", dim: 1, start: 8, len: 4))],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let x = support::operand(cx, &form.x);
        let (dim, start, len) = (cx.dim(&form.dim), cx.dim(&form.start), cx.dim(&form.len));
        Some((Slice { dim: dim?, start: start?, len: len? }, vec![x?]))
    }

    fn attributes(&self) -> String {
        format!("dim {} [{}; {}]", self.dim, self.start, self.len)
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 1)?;
        let mut ty = operands[0].clone();
        let extent = support::extent_of(operands, 0, self.dim)?;
        if self.start.checked_add(self.len).is_none_or(|end| end > extent) {
            let headline =
                format!("slice of {} from {} leaves extent {extent}", self.len, self.start);
            return Err(TypeError::new(codes::BAD_ATTRIBUTE, headline).operand(0, &operands[0]));
        }
        ty.shape[self.dim as usize] = self.len;
        Ok(vec![ty])
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], results: &[Type]) -> Vec<Tensor> {
        vec![Tensor::from_fn(&results[0].shape, |index| {
            let mut index = index.to_vec();
            index[self.dim as usize] += self.start;
            operands[0].at(&index)
        })]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        _: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let Some(grad) = grads[0] else { return vec![None] };
        let extent = cx.ty(operands[0]).shape[self.dim as usize];
        let after = extent - self.start - self.len;
        vec![Some(cx.push(Pad::zeros(self.dim, self.start, after).into(), &[grad])[0])]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let mut first = vec![0; results[0].ndim()];
        first[self.dim as usize] = self.start;
        vec![cx.push(OpKind::Slice(first), operands, results[0].clone())]
    }

    fn cost(&self, _: &[Type], results: &[Type]) -> Cost {
        moved(results, results)
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let shape = rng.extents(3);
        let dim = rng.below(3);
        let start = rng.below(shape[dim as usize] + 1);
        let len = rng.below(shape[dim as usize] - start + 1);
        Sample::random(Slice { dim, start, len }, vec![f32_type(&shape)], rng)
    }
}
