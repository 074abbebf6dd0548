//! `Concat`: tensors end to end along one dimension.

use serde::Deserialize;

use super::form::{DimForm, FormCx, Spanned};
use super::support::{Rng, Sample, checked, f32_type, moved};
use super::{Builder, Built, Cost, KernelBuilder, OpDef, Slice, TypeError, Value, codes, support};
use crate::program::{OpKind, V};
use crate::tensor::Tensor;
use crate::types::Type;

/// Tensors end to end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Concat {
    /// The dimension.
    pub dim: u64,
}

/// `Concat(["a", "b"], 1)`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Concat", deny_unknown_fields)]
pub struct Form {
    /// The tensors, in order.
    parts: Vec<Spanned<String>>,
    /// The dimension, from 0.
    dim: DimForm,
}

impl OpDef for Concat {
    const NAME: &'static str = "Concat";
    const SUMMARY: &'static str = "Tensors end to end along one dimension.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Two projections side by side.",
    inputs: { "a": [batch, 3], "b": [batch, 5] },
    nodes: [("y", Concat(["a", "b"], 1))],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let names: Vec<&Spanned<String>> = form.parts.iter().collect();
        let parts = support::operands(cx, &names);
        Some((Concat { dim: cx.dim(&form.dim)? }, parts?))
    }

    fn attributes(&self) -> String {
        format!("dim {}", self.dim)
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        if operands.is_empty() {
            return Err(TypeError::new(codes::OPERAND_COUNT, "nothing to concatenate"));
        }
        let mut total = support::extent_of(operands, 0, self.dim)?;
        for (i, ty) in operands.iter().enumerate().skip(1) {
            support::expect_ndim(operands, i, operands[0].ndim())?;
            support::expect_dtype(operands, i, operands[0].dtype.name(), |d| {
                d == operands[0].dtype
            })?;
            for d in (0..ty.ndim()).filter(|d| *d as u64 != self.dim) {
                support::expect_extents(operands, (0, d), (i, d))?;
            }
            total = total.saturating_add(ty.shape[self.dim as usize]);
        }
        let mut shape = operands[0].shape.clone();
        shape[self.dim as usize] = total;
        Ok(vec![checked(operands[0].dtype, shape)?])
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], results: &[Type]) -> Vec<Tensor> {
        let d = self.dim as usize;
        vec![Tensor::from_fn(&results[0].shape, |index| {
            let mut index = index.to_vec();
            for part in operands {
                if index[d] < part.shape[d] {
                    return part.at(&index);
                }
                index[d] -= part.shape[d];
            }
            f64::NAN
        })]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        _: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let Some(grad) = grads[0] else { return vec![None; operands.len()] };
        let mut start = 0;
        operands
            .iter()
            .map(|part| {
                let len = cx.ty(*part).shape[self.dim as usize];
                let slice = Slice { dim: self.dim, start, len };
                start += len;
                Some(cx.push(slice.into(), &[grad])[0])
            })
            .collect()
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        vec![cx.push(OpKind::Concat(self.dim), operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        moved(operands, results)
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let shape = rng.extents(2);
        let dim = rng.below(2);
        let types = (0..=rng.below(3))
            .map(|_| {
                let mut shape = shape.clone();
                shape[dim as usize] = rng.extent();
                f32_type(&shape)
            })
            .collect();
        Sample::random(Concat { dim }, types, rng)
    }
}
