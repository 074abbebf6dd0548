//! `StopGradient`: the tensor itself, constant to differentiation.

use serde::Deserialize;

use super::form::{FormCx, Spanned};
use super::support::{Rng, Sample, expect_operands, f32_type, moved};
use super::{Built, Cost, KernelBuilder, OpDef, TypeError, generic, support};
use crate::program::{OpKind, V};
use crate::tensor::Tensor;
use crate::types::Type;

/// The tensor itself, constant to differentiation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StopGradient;

/// `StopGradient("x")`.
#[derive(Debug, Deserialize)]
#[serde(rename = "StopGradient", deny_unknown_fields)]
pub struct Form {
    /// The tensor.
    x: Spanned<String>,
}

impl OpDef for StopGradient {
    const NAME: &'static str = "StopGradient";
    const SUMMARY: &'static str = "The tensor itself, constant to differentiation.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "A straight-through step function: value of sign(x), gradient of x.",
    inputs: { "x": [batch] },
    nodes: [
        ("delta", Map("sign(x) - x")),
        ("fixed", StopGradient("delta")),
        ("y", Map("x + fixed")),
    ],
    outputs: { "y": "y" },
)"#;

    const STATISTICS: &'static [usize] = &[0];

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        Some((StopGradient, vec![support::operand(cx, &form.x)?]))
    }

    fn attributes(&self) -> String {
        String::new()
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 1)?;
        Ok(operands.to_vec())
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], _: &[Type]) -> Vec<Tensor> {
        vec![operands[0].clone()]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let g = generic::elementwise(&results[0].shape, 1, generic::body_of(1, |_, a| a[0]));
        vec![cx.push(OpKind::Generic(g), operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        moved(operands, results)
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let shape = rng.extents(2);
        Sample::random(StopGradient, vec![f32_type(&shape)], rng)
    }
}
