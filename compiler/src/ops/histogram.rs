//! `Histogram`: how often each small integer occurs.
//!
//! `y[j]` is the number of keys equal to `j`; keys outside `0..bound` are not counted.

use serde::Deserialize;

use super::form::{DimForm, FormCx, Spanned};
use super::support::{Rng, Sample, expect_dtype, expect_ndim, expect_operands, i32_type, touched};
use super::{Built, Cost, KernelBuilder, OpDef, TypeError, codes, support};
use crate::program::{DialectOp, OpKind, V};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// Counts of integer keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Histogram {
    /// Exclusive bound of the keys.
    pub bound: u64,
}

/// `Histogram("keys", n_experts)`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Histogram", deny_unknown_fields)]
pub struct Form {
    /// The keys, i32 `[n]`; those outside `0..bound` are not counted.
    keys: Spanned<String>,
    /// Exclusive bound of the keys.
    bound: DimForm,
}

impl OpDef for Histogram {
    const NAME: &'static str = "Histogram";
    const SUMMARY: &'static str = "How often each small integer occurs.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Rows per expert.",
    inputs: { "keys": Input([8], i32) },
    nodes: [("y", Histogram("keys", 3))],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let keys = support::operand(cx, &form.keys);
        Some((Histogram { bound: cx.dim(&form.bound)? }, vec![keys?]))
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
        Ok(vec![Type::new(DType::i32, [self.bound])])
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], results: &[Type]) -> Vec<Tensor> {
        let mut counts = Tensor::full(&results[0].shape, 0.0);
        for key in &operands[0].data {
            if *key >= 0.0 && *key < self.bound as f64 {
                counts.data[*key as usize] += 1.0;
            }
        }
        vec![counts]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let kind = OpKind::Dialect(DialectOp::Histogram { bound: self.bound });
        vec![cx.push(kind, operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        Cost { flops: operands[0].elems(), bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let (n, bound) = (rng.below(12), rng.below(5) + 1);
        let mut sample = Sample::random(Histogram { bound }, vec![i32_type(&[n])], rng);
        sample.operands[0] = rng.integers(&[n], -2, bound as i64 + 2);
        sample
    }
}
