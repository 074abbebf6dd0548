//! `TopK`: the largest elements of each row, descending, with their positions.
//!
//! Of equal elements, as 0 and −0 are, the one with the lower index comes first; NaN comes behind
//! every number. The gradient flows through the values.

use std::cmp::Ordering;

use serde::Deserialize;

use super::form::{DimForm, FormCx, Spanned};
use super::support::{Rng, Sample, expect_dtype, expect_operands, f32_type, touched};
use super::take_along::put_along;
use super::{Builder, Built, Cost, KernelBuilder, OpDef, TypeError, Value, codes, support};
use crate::program::{DialectOp, OpKind, V};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// The largest elements of each row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopK {
    /// How many.
    pub k: u64,
}

/// `TopK("scores", 8)`: values, and `indices` (i32).
#[derive(Debug, Deserialize)]
#[serde(rename = "TopK", deny_unknown_fields)]
pub struct Form {
    /// The tensor, `[.., n]`.
    x: Spanned<String>,
    /// How many of the last dimension.
    k: DimForm,
}

/// The order of elements, but for their indices.
fn descending(a: f64, b: f64) -> Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

impl OpDef for TopK {
    const NAME: &'static str = "TopK";
    const SUMMARY: &'static str =
        "The largest elements of each row with their positions; ties go to the lower index.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "The two best of six, as weights that sum to one.",
    inputs: { "scores": [batch, 6] },
    nodes: [
        ("top", TopK("scores", 2)),
        ("total", Reduce(Sum, "top[b k]", "k")),
        ("y", Map("top[b k] / total[b]")),
    ],
    outputs: { "y": "y", "experts": "top.indices" },
)"#;
    const RESULTS: &'static [&'static str] = &["values", "indices"];

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let x = support::operand(cx, &form.x);
        Some((TopK { k: cx.dim(&form.k)? }, vec![x?]))
    }

    fn attributes(&self) -> String {
        format!("k {}", self.k)
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 1)?;
        expect_dtype(operands, 0, "a float", |d| d.is_float())?;
        let mut ty = operands[0].clone();
        match ty.shape.last_mut() {
            Some(n) if *n >= self.k => *n = self.k,
            n => {
                let n = n.map_or(0, |n| *n);
                let headline = format!("cannot take the top {} of {n}", self.k);
                let e = TypeError::new(codes::BAD_ATTRIBUTE, headline);
                return Err(e.operand(0, &operands[0]));
            }
        }
        Ok(vec![ty.clone(), ty.with_dtype(DType::i32)])
    }

    fn reference(&self, operands: &[&Tensor], types: &[Type], results: &[Type]) -> Vec<Tensor> {
        let n = types[0].shape.last().copied().unwrap_or(0) as usize;
        let (mut values, mut indices) = (Vec::new(), Vec::new());
        for row in operands[0].data.chunks(n.max(1)) {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|a, b| descending(row[*a], row[*b]));
            for i in order.into_iter().take(self.k as usize) {
                values.push(row[i]);
                indices.push(i as f64);
            }
        }
        let shape = &results[0].shape;
        let tensor = |data| Tensor { shape: shape.clone(), data };
        vec![tensor(values), tensor(indices)]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        results: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let extent = cx.ty(operands[0]).shape.last().copied().unwrap_or(0);
        vec![grads[0].map(|grad| put_along(cx, grad, results[1], extent))]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let kind = OpKind::Dialect(DialectOp::TopK { k: self.k });
        cx.push_many(kind, operands, results.to_vec())
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        let flops = operands[0].elems().saturating_mul(self.k);
        Cost { flops, bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let (b, n) = (rng.extent(), rng.extent());
        let k = rng.below(n + 1);
        Sample::random(TopK { k }, vec![f32_type(&[b, n])], rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_elements_the_lower_index_comes_first() {
        let op = TopK { k: 3 };
        let x = Tensor { shape: vec![4], data: vec![1.0, 2.0, 2.0, 1.0] };
        let types = [f32_type(&[4])];
        let results = op.infer(&types).expect("fits");
        assert_eq!(op.reference(&[&x], &types, &results)[1].data, [1.0, 2.0, 0.0]);
        let x = Tensor { shape: vec![4], data: vec![f64::NAN, -0.0, 0.0, f64::NEG_INFINITY] };
        assert_eq!(op.reference(&[&x], &types, &results)[1].data, [1.0, 2.0, 3.0]);
    }
}
