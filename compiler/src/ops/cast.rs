//! `Cast`: conversion to another element type.
//!
//! Float to float rounds to nearest even, float to i32 truncates, i32 and truth values become 0, 1, …

use serde::Deserialize;

use super::form::{FormCx, Spanned};
use super::support::{Rng, Sample, expect_operands, f32_type, touched};
use super::{Builder, Built, Cost, KernelBuilder, OpDef, TypeError, Value, generic, support};
use crate::program::{Generic, OpKind, V};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// A conversion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cast {
    /// To what.
    pub to: DType,
}

/// `Cast("x", bf16)`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Cast", deny_unknown_fields)]
pub struct Form {
    /// The tensor.
    x: Spanned<String>,
    /// To what: f32, bf16, f16, f64, i32.
    to: DType,
}

impl Cast {
    fn generic(&self, x: &Type) -> Generic {
        let body = generic::body_of(1, |b, a| b.cast(a[0], x.dtype, self.to));
        generic::elementwise(&x.shape, 1, body)
    }
}

impl OpDef for Cast {
    const NAME: &'static str = "Cast";
    const SUMMARY: &'static str = "Conversion to another element type.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Count as floats.",
    inputs: { "ids": Input([batch], i32) },
    nodes: [("y", Cast("ids", f32))],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        Some((Cast { to: form.to }, vec![support::operand(cx, &form.x)?]))
    }

    fn attributes(&self) -> String {
        self.to.to_string()
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 1)?;
        Ok(vec![operands[0].with_dtype(self.to)])
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], _: &[Type]) -> Vec<Tensor> {
        let mut y = operands[0].clone();
        y.data.iter_mut().for_each(|x| *x = crate::scalar::eval::cast(*x, self.to));
        vec![y]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        _: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let from = cx.ty(operands[0]).dtype;
        let (Some(grad), true) = (grads[0], from.is_float()) else { return vec![None] };
        if from == self.to {
            return vec![Some(grad)];
        }
        vec![Some(cx.push(Cast { to: from }.into(), &[grad])[0])]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let g = self.generic(cx.ty(operands[0]));
        vec![cx.push(OpKind::Generic(g), operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        Cost { flops: results[0].elems(), bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let to = [DType::bf16, DType::f64, DType::f32][rng.below(3) as usize];
        let shape = rng.extents(2);
        Sample::random(Cast { to }, vec![f32_type(&shape)], rng)
    }
}
