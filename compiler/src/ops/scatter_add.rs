//! `ScatterAdd`: rows added up at given indices, into zeros.
//!
//! ```text
//! y[j, d..] = Σ_{i: indices[i] = j} updates[i, d..]      in ascending i
//! ```

use serde::Deserialize;

use super::form::{DimForm, FormCx, Spanned};
use super::support::{
    Rng, Sample, checked, expect_dtype, expect_extents, expect_ndim, expect_operands, f32_type,
    i32_type, touched,
};
use super::{Builder, Built, Cost, Gather, KernelBuilder, OpDef, TypeError, Value, codes, support};
use crate::program::{DialectOp, OpKind, V};
use crate::tensor::{Tensor, for_each_index};
use crate::types::{DType, Type};

/// Rows added up at indices.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScatterAdd {
    /// Rows of the result.
    pub extent: u64,
}

/// `ScatterAdd("updates", "indices", n)`.
#[derive(Debug, Deserialize)]
#[serde(rename = "ScatterAdd", deny_unknown_fields)]
pub struct Form {
    /// The rows.
    updates: Spanned<String>,
    /// Where each goes, i32; outside the result: nowhere.
    indices: Spanned<String>,
    /// Rows of the result.
    extent: DimForm,
}

impl OpDef for ScatterAdd {
    const NAME: &'static str = "ScatterAdd";
    const SUMMARY: &'static str = "Rows added up at given indices, into zeros, in ascending order.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Sum rows by key.",
    inputs: { "rows": [8, 4], "keys": Input([8], i32) },
    nodes: [("y", ScatterAdd("rows", "keys", 3))],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let operands = support::operands(cx, &[&form.updates, &form.indices]);
        Some((ScatterAdd { extent: cx.dim(&form.extent)? }, operands?))
    }

    fn attributes(&self) -> String {
        format!("extent {}", self.extent)
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 2)?;
        expect_dtype(operands, 0, "a float", |d| d.is_float())?;
        expect_dtype(operands, 1, "i32", |d| d == DType::i32)?;
        expect_ndim(operands, 1, 1)?;
        if operands[0].ndim() == 0 {
            let headline = "a scalar has no rows to scatter";
            return Err(TypeError::new(codes::WRONG_NDIM, headline).operand(0, &operands[0]));
        }
        expect_extents(operands, (0, 0), (1, 0))?;
        let mut shape = operands[0].shape.clone();
        shape[0] = self.extent;
        Ok(vec![checked(operands[0].dtype, shape)?])
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], results: &[Type]) -> Vec<Tensor> {
        let (updates, indices) = (operands[0], operands[1]);
        let mut y = Tensor::full(&results[0].shape, 0.0);
        for_each_index(&updates.shape, |index| {
            let row = indices.at(&index[..1]);
            if row >= 0.0 && row < self.extent as f64 {
                let mut at = index.to_vec();
                at[0] = row as u64;
                let at = y.offset(&at);
                y.data[at] += updates.at(index);
            }
        });
        vec![y]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        _: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let Some(grad) = grads[0] else { return vec![None, None] };
        vec![Some(cx.push(Gather.into(), &[grad, operands[1]])[0]), None]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let kind = OpKind::Dialect(DialectOp::ScatterAdd { extent: self.extent });
        vec![cx.push(kind, operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        Cost { flops: operands[0].elems(), bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let (n, extent, d) = (rng.extent(), rng.below(4) + 1, rng.extent());
        let types = vec![f32_type(&[n, d]), i32_type(&[n])];
        let mut sample = Sample::random(ScatterAdd { extent }, types, rng);
        sample.operands[1] = rng.integers(&[n], -2, extent as i64 + 2);
        sample
    }
}
