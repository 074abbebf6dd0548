//! `Fill`: one constant everywhere.

use serde::Deserialize;

use super::form::{DimForm, FormCx, ScalarForm};
use super::support::{Rng, Sample, checked, expect_operands, moved};
use super::{Built, Cost, KernelBuilder, OpDef, TypeError, generic};
use crate::program::{OpKind, V};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// One constant everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fill {
    /// f64 bits of the constant.
    pub value: u64,
    /// The result's extents.
    pub shape: Vec<u64>,
    /// The result's element type.
    pub dtype: DType,
}

/// `Fill(0.0, [batch, dim])`, `Fill(value: 1, shape: [], dtype: i32)`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Fill", deny_unknown_fields)]
pub struct Form {
    /// The constant.
    value: ScalarForm,
    /// The result's extents.
    shape: Vec<DimForm>,
    /// The result's element type.
    #[serde(default = "f32_default")]
    dtype: DType,
}

pub(super) fn f32_default() -> DType {
    DType::f32
}

impl Fill {
    /// A constant of a type.
    pub fn new(value: f64, ty: &Type) -> Self {
        Fill { value: value.to_bits(), shape: ty.shape.clone(), dtype: ty.dtype }
    }
}

impl OpDef for Fill {
    const NAME: &'static str = "Fill";
    const SUMMARY: &'static str = "One constant everywhere.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Add a constant row.",
    inputs: { "x": [batch, 3] },
    nodes: [
        ("ones", Fill(1.0, [3])),
        ("y", Map("x[b d] + ones[d]")),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let shape: Vec<Option<u64>> = form.shape.iter().map(|d| cx.dim(d)).collect();
        let value = cx.scalar(&form.value)?.to_bits();
        let shape = shape.into_iter().collect::<Option<Vec<u64>>>()?;
        Some((Fill { value, shape, dtype: form.dtype }, Vec::new()))
    }

    fn attributes(&self) -> String {
        format!("{:?} {}", f64::from_bits(self.value), Type::new(self.dtype, self.shape.clone()))
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 0)?;
        Ok(vec![checked(self.dtype, self.shape.clone())?])
    }

    fn reference(&self, _: &[&Tensor], _: &[Type], _: &[Type]) -> Vec<Tensor> {
        let value = crate::scalar::eval::cast(f64::from_bits(self.value), self.dtype);
        vec![Tensor::full(&self.shape, value)]
    }

    fn lower(&self, cx: &mut KernelBuilder, _: &[V], results: &[Type]) -> Vec<V> {
        let value = f64::from_bits(self.value);
        let body = generic::body_of(0, |b, _| b.number(value, self.dtype));
        let g = generic::elementwise(&self.shape, 0, body);
        vec![cx.push(OpKind::Generic(g), &[], results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        moved(operands, results)
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let ty = Type::new(DType::f32, rng.extents(2));
        let value = rng.float();
        Sample::random(Fill::new(value, &ty), Vec::new(), rng)
    }
}
