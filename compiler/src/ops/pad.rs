//! `Pad`: constant elements before and after, along one dimension.

use serde::Deserialize;

use super::form::{DimForm, FormCx, ScalarForm, Spanned};
use super::support::{Rng, Sample, checked, expect_operands, f32_type, moved};
use super::{Builder, Built, Cost, KernelBuilder, OpDef, Slice, TypeError, Value, codes, support};
use crate::program::{OpKind, V};
use crate::tensor::Tensor;
use crate::types::Type;

/// Constant elements around a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pad {
    /// The dimension.
    pub dim: u64,
    /// Elements in front.
    pub before: u64,
    /// Elements behind.
    pub after: u64,
    /// f64 bits of the constant.
    pub value: u64,
}

/// `Pad("x", 1, 0, 3)`, `Pad(x: "x", dim: 1, before: 0, after: 3, value: -1)`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Pad", deny_unknown_fields)]
pub struct Form {
    /// The tensor.
    x: Spanned<String>,
    /// The dimension, from 0.
    dim: DimForm,
    /// Elements in front.
    before: DimForm,
    /// Elements behind.
    after: DimForm,
    /// The constant; 0 if left out.
    #[serde(default)]
    value: Option<ScalarForm>,
}

impl Pad {
    /// Zeros around a tensor.
    pub fn zeros(dim: u64, before: u64, after: u64) -> Self {
        Pad { dim, before, after, value: 0.0f64.to_bits() }
    }
}

impl OpDef for Pad {
    const NAME: &'static str = "Pad";
    const SUMMARY: &'static str = "Constant elements before and after, along one dimension.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Shift each row right by one, filling with -1.",
    inputs: { "x": [batch, seq] },
    nodes: [
        ("padded", Pad(x: "x", dim: 1, before: 1, after: 0, value: -1.0)),
        ("y", Slice(x: "padded", dim: 1, start: 0, len: seq)),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let x = support::operand(cx, &form.x);
        let dims = (cx.dim(&form.dim), cx.dim(&form.before), cx.dim(&form.after));
        let value = match &form.value {
            Some(value) => cx.scalar(value)?,
            None => 0.0,
        };
        let (dim, before, after) = (dims.0?, dims.1?, dims.2?);
        Some((Pad { dim, before, after, value: value.to_bits() }, vec![x?]))
    }

    fn attributes(&self) -> String {
        let value = f64::from_bits(self.value);
        format!("dim {} +{} +{} value {value:?}", self.dim, self.before, self.after)
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 1)?;
        let extent = support::extent_of(operands, 0, self.dim)?;
        let mut shape = operands[0].shape.clone();
        let padded = extent.checked_add(self.before).and_then(|n| n.checked_add(self.after));
        shape[self.dim as usize] =
            padded.ok_or_else(|| TypeError::new(codes::TOO_LARGE, "padded extent is too large"))?;
        Ok(vec![checked(operands[0].dtype, shape)?])
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], results: &[Type]) -> Vec<Tensor> {
        let x = operands[0];
        let d = self.dim as usize;
        vec![Tensor::from_fn(&results[0].shape, |index| {
            let mut index = index.to_vec();
            if index[d] < self.before || index[d] >= self.before + x.shape[d] {
                return f64::from_bits(self.value);
            }
            index[d] -= self.before;
            x.at(&index)
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
        let len = cx.ty(operands[0]).shape[self.dim as usize];
        let slice = Slice { dim: self.dim, start: self.before, len };
        vec![Some(cx.push(slice.into(), &[grad])[0])]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let (mut low, mut high) = (vec![0; results[0].ndim()], vec![0; results[0].ndim()]);
        low[self.dim as usize] = self.before;
        high[self.dim as usize] = self.after;
        let kind = OpKind::Pad { low, high, value: self.value };
        vec![cx.push(kind, operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        moved(operands, results)
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let shape = rng.extents(2);
        let value = rng.float().to_bits();
        let (dim, before, after) = (rng.below(2), rng.below(3), rng.below(3));
        Sample::random(Pad { dim, before, after, value }, vec![f32_type(&shape)], rng)
    }
}
