//! `CumSum`: running sums along the last dimension.
//!
//! ```text
//! inclusive: y[.., j] = Σ_{i ≤ j} x[.., i]                 n → n
//! exclusive: y[.., j] = Σ_{i < j} x[.., i], j = 0..=n      n → n + 1, the total last
//! ```

use serde::Deserialize;

use super::form::{FormCx, Spanned};
use super::support::{Rng, Sample, expect_operands, f32_type, touched};
use super::{
    Builder, Built, Cost, KernelBuilder, OpDef, Slice, TypeError, Value, codes, generic, support,
};
use crate::program::{Combine, DialectOp, Generic, OpKind, V};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// Running sums along the last dimension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CumSum {
    /// Start from 0 and append the total.
    pub exclusive: bool,
}

/// `CumSum("x")`, `CumSum("load", true)`.
#[derive(Debug, Deserialize)]
#[serde(rename = "CumSum", deny_unknown_fields)]
pub struct Form {
    /// The tensor, `[.., n]`.
    x: Spanned<String>,
    /// Start from 0 and append the total: `[.., n + 1]`.
    #[serde(default)]
    exclusive: bool,
}

impl OpDef for CumSum {
    const NAME: &'static str = "CumSum";
    const SUMMARY: &'static str = "Running sums along the last dimension, inclusive or exclusive.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Where each expert's rows begin and end.",
    inputs: { "keys": Input([8], i32) },
    nodes: [
        ("load", Histogram("keys", 3)),
        ("y", CumSum(x: "load", exclusive: true)),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        Some((CumSum { exclusive: form.exclusive }, vec![support::operand(cx, &form.x)?]))
    }

    fn attributes(&self) -> String {
        if self.exclusive { "exclusive" } else { "inclusive" }.to_string()
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 1)?;
        support::expect_dtype(operands, 0, "numbers", |d| d != DType::i1)?;
        let mut ty = operands[0].clone();
        let Some(n) = ty.shape.last_mut() else {
            let headline = "a scalar has no running sums";
            return Err(TypeError::new(codes::WRONG_NDIM, headline).operand(0, &operands[0]));
        };
        *n += u64::from(self.exclusive);
        Ok(vec![support::checked(ty.dtype, ty.shape)?])
    }

    fn reference(&self, operands: &[&Tensor], types: &[Type], results: &[Type]) -> Vec<Tensor> {
        let n = types[0].shape.last().copied().unwrap_or(0) as usize;
        let rows = results[0].elems() as usize / (n + usize::from(self.exclusive)).max(1);
        let mut data = Vec::new();
        for r in 0..rows {
            let mut sum = 0.0;
            for x in &operands[0].data[r * n..(r + 1) * n] {
                if self.exclusive {
                    data.push(sum);
                }
                sum += x;
                if !self.exclusive {
                    data.push(sum);
                }
            }
            if self.exclusive {
                data.push(sum);
            }
        }
        vec![Tensor { shape: results[0].shape.clone(), data }]
    }

    /// `d_x[i]` is the sum of the gradients behind: the total minus those in front.
    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        _: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let ty = cx.ty(operands[0]).clone();
        let (Some(grad), true) = (grads[0], ty.dtype.is_float()) else { return vec![None] };
        let last = ty.ndim() as u32 - 1;
        // Exclusive sums: y[0] is 0 whatever x is, so only y[1..] counts, and it is inclusive.
        let grad = if self.exclusive {
            let slice = Slice { dim: u64::from(last), start: 1, len: ty.shape[last as usize] };
            cx.push(slice.into(), &[grad])[0]
        } else {
            grad
        };
        let sums = cx.push(CumSum { exclusive: false }.into(), &[grad])[0];
        let all = generic::dims(0..=last);
        let total = Generic {
            extents: ty.shape.clone(),
            maps: vec![all.clone()],
            out: (0..last).collect(),
            combine: Some(Combine::Sum),
            body: generic::body_of(1, |_, a| a[0]),
        };
        let total = generic::push(cx, total, &[grad]);
        let behind = Generic {
            extents: ty.shape,
            maps: vec![generic::dims(0..last), all.clone(), all],
            out: (0..=last).collect(),
            combine: None,
            body: generic::body_of(3, |b, a| {
                let rest = b.sub(a[0], a[1]);
                b.add(rest, a[2])
            }),
        };
        vec![Some(generic::push(cx, behind, &[total, sums, grad]))]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let kind = OpKind::Dialect(DialectOp::CumSum { exclusive: self.exclusive });
        vec![cx.push(kind, operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        Cost { flops: operands[0].elems(), bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let exclusive = rng.below(2) == 0;
        let shape = rng.extents(2);
        Sample::random(CumSum { exclusive }, vec![f32_type(&shape)], rng)
    }
}
