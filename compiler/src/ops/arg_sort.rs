//! `ArgSort`: the stable ascending order of small integer keys.
//!
//! `y[r]` is the position of the key that comes `r`-th; equal keys keep their order. Applied to a
//! permutation it gives the inverse. Keys outside `0..bound` count as the nearest one inside.

use serde::Deserialize;

use super::form::{DimForm, FormCx, Spanned};
use super::support::{Rng, Sample, expect_dtype, expect_ndim, expect_operands, i32_type, touched};
use super::{Built, Cost, KernelBuilder, OpDef, TypeError, codes, support};
use crate::program::{DialectOp, OpKind, V};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// The order of integer keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ArgSort {
    /// Exclusive bound of the keys.
    pub bound: u64,
}

/// `ArgSort("keys", n_experts)`.
#[derive(Debug, Deserialize)]
#[serde(rename = "ArgSort", deny_unknown_fields)]
pub struct Form {
    /// The keys, i32 `[n]`, in `0..bound`.
    keys: Spanned<String>,
    /// Exclusive bound of the keys.
    bound: DimForm,
}

impl OpDef for ArgSort {
    const NAME: &'static str = "ArgSort";
    const SUMMARY: &'static str = "The stable ascending order of small integer keys.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Rows in the order of their experts.",
    inputs: { "keys": Input([8], i32), "x": [8, 4] },
    nodes: [
        ("order", ArgSort("keys", 3)),
        ("y", Gather("x", "order")),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let keys = support::operand(cx, &form.keys);
        Some((ArgSort { bound: cx.dim(&form.bound)? }, vec![keys?]))
    }

    fn attributes(&self) -> String {
        format!("bound {}", self.bound)
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 1)?;
        expect_dtype(operands, 0, "i32", |d| d == DType::i32)?;
        expect_ndim(operands, 0, 1)?;
        if self.bound > i32::MAX as u64 {
            let headline = format!("bound {} does not fit in i32", self.bound);
            return Err(TypeError::new(codes::BAD_ATTRIBUTE, headline));
        }
        Ok(vec![operands[0].clone()])
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], _: &[Type]) -> Vec<Tensor> {
        let last = self.bound.max(1) as f64 - 1.0;
        let keys: Vec<f64> = operands[0].data.iter().map(|key| key.clamp(0.0, last)).collect();
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by(|a, b| keys[*a].total_cmp(&keys[*b]));
        let data = order.into_iter().map(|i| i as f64).collect();
        vec![Tensor { shape: operands[0].shape.clone(), data }]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let kind = OpKind::Dialect(DialectOp::ArgSort { bound: self.bound });
        vec![cx.push(kind, operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        Cost { flops: operands[0].elems(), bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let (n, bound) = (rng.below(12), rng.below(5) + 1);
        let mut sample = Sample::random(ArgSort { bound }, vec![i32_type(&[n])], rng);
        sample.operands[0] = rng.integers(&[n], -2, bound as i64 + 2);
        sample
    }
}
