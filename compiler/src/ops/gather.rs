//! `Gather`: rows of a tensor at given indices.
//!
//! ```text
//! y[i.., d..] = x[indices[i..], d..]        0 where x has no such row
//! ```
//!
//! The gradient is a `ScatterAdd`. If the readers of each row are known (`inverse`: row j is read by
//! `inverse[j]`, or by `inverse[j, 0..m]`, negative for none), it is a gather as well:
//! deterministic without atomics.

use serde::Deserialize;

use super::form::{FormCx, Spanned};
use super::support::{
    Rng, Sample, checked, expect_dtype, expect_operands, f32_type, i32_type, moved,
};
use super::{
    Builder, Built, Cost, KernelBuilder, OpDef, ScatterAdd, TypeError, Value, codes, generic,
    support,
};
use crate::program::{Combine, Generic, OpKind, V};
use crate::scalar::{Binary, Body, Cmp, S, ScalarOp};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// Rows at indices. Operands: x, indices, and optionally the inverse.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gather;

/// `Gather("embedding", "tokens")`, `Gather("rows", "order", "inverse_order")`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Gather", deny_unknown_fields)]
pub struct Form {
    /// The rows.
    x: Spanned<String>,
    /// Which, i32 of any shape; outside the rows, negative say, for a row of zeros.
    indices: Spanned<String>,
    /// For each row of x the positions that read it, i32 `[n]` or `[n, m]`; negative for none.
    #[serde(default)]
    inverse: Option<Spanned<String>>,
}

/// `Load(0, at)` if the index (dimension `which` of `at`) lies in `0..extent`, else 0.
pub(super) fn load_or_zero(
    b: &mut Body,
    at: Vec<S>,
    (which, extent): (usize, u64),
    dtype: DType,
) -> S {
    let (index, zero) = (at[which], b.int(0));
    let mut inside = b.compare(Cmp::Ge, index, zero);
    if let Ok(extent) = i32::try_from(extent) {
        let end = b.int(extent.into());
        let below = b.compare(Cmp::Lt, index, end);
        inside = b.combine(Binary::And, inside, below);
    }
    // A load clamps its indices.
    let loaded = b.push(ScalarOp::Load(0, at));
    let none = b.number(0.0, dtype);
    b.select(inside, loaded, none)
}

impl OpDef for Gather {
    const NAME: &'static str = "Gather";
    const SUMMARY: &'static str = "Rows of a tensor at given indices.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Token embedding.",
    inputs: { "tokens": Input([batch, seq], i32) },
    params: { "embedding": Param([vocab, dim]) },
    nodes: [("y", Gather("embedding", "tokens"))],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let mut names = vec![&form.x, &form.indices];
        names.extend(&form.inverse);
        Some((Gather, support::operands(cx, &names)?))
    }

    fn attributes(&self) -> String {
        String::new()
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        if operands.len() != 3 {
            expect_operands(operands, 2)?;
        }
        let Some(rows) = operands[0].shape.first() else {
            let headline = "a scalar has no rows to gather";
            return Err(TypeError::new(codes::WRONG_NDIM, headline).operand(0, &operands[0]));
        };
        expect_dtype(operands, 1, "i32", |d| d == DType::i32)?;
        if let Some(inverse) = operands.get(2) {
            expect_dtype(operands, 2, "i32", |d| d == DType::i32)?;
            if !(1..=2).contains(&inverse.ndim()) || inverse.shape[0] != *rows {
                let headline = "the inverse has no entry per row";
                return Err(TypeError::new(codes::EXTENTS_DIFFER, headline)
                    .operand(2, inverse)
                    .operand(0, &operands[0])
                    .help(format!("its shape is [{rows}] or [{rows}, m]")));
            }
        }
        let mut shape = operands[1].shape.clone();
        shape.extend(&operands[0].shape[1..]);
        Ok(vec![checked(operands[0].dtype, shape)?])
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], results: &[Type]) -> Vec<Tensor> {
        let (x, indices) = (operands[0], operands[1]);
        let n = indices.shape.len();
        vec![Tensor::from_fn(&results[0].shape, |index| {
            let row = indices.at(&index[..n]);
            if row < 0.0 || row >= x.shape[0] as f64 {
                return 0.0;
            }
            let mut at = vec![row as u64];
            at.extend(&index[n..]);
            x.at(&at)
        })]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        _: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let mut none = vec![None; operands.len()];
        let Some(grad) = grads[0] else { return none };
        let (x, indices) = (cx.ty(operands[0]).clone(), cx.ty(operands[1]).clone());
        if !x.dtype.is_float() {
            return none;
        }
        // One row of the gradient per index.
        let mut shape = vec![indices.elems()];
        let flat = cx.push(super::Reshape { shape: shape.clone() }.into(), &[operands[1]])[0];
        shape.extend(&x.shape[1..]);
        let rows = cx.push(super::Reshape { shape }.into(), &[grad])[0];
        none[0] = match operands.get(2) {
            None => {
                let extent = x.shape[0];
                Some(cx.push(ScatterAdd { extent }.into(), &[rows, flat])[0])
            }
            Some(inverse) => {
                let read = cx.push(Gather.into(), &[rows, *inverse, flat])[0];
                Some(sum_readers(cx, read, &x))
            }
        };
        none
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let (rows, n_index) = (cx.ty(operands[0]).shape[0], cx.ty(operands[1]).ndim() as u32);
        let ty = &results[0];
        let mut b = Body::default();
        let mut at = vec![b.arg(0)];
        at.extend((n_index..ty.ndim() as u32).map(|d| b.index(d)));
        let y = load_or_zero(&mut b, at, (0, rows), ty.dtype);
        b.results = vec![y];
        let g = Generic {
            extents: ty.shape.clone(),
            maps: vec![generic::dims(0..n_index)],
            out: (0..ty.ndim() as u32).collect(),
            combine: None,
            body: b,
        };
        vec![cx.push(OpKind::Generic(g), &[operands[1], operands[0]], ty.clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        moved(&operands[1..2], &[results[0].clone(), results[0].clone()])
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let (rows, d) = (rng.below(4) + 1, rng.extent());
        let n = rng.extent();
        let mut types = vec![f32_type(&[rows, d]), i32_type(&[n])];
        if rng.below(2) == 0 {
            let mut sample = Sample::random(Gather, types, rng);
            sample.operands[1] = rng.integers(&[n], -2, rows as i64 + 2);
            return sample;
        }
        // A relation and its inverse: row j is read at positions m·j .. m·(j + 1), shuffled.
        let m = rng.below(3) + 1;
        types[1] = i32_type(&[rows * m]);
        types.push(i32_type(&[rows, m]));
        let mut sample = Sample::random(Gather, types, rng);
        let mut order: Vec<u64> = (0..rows * m).collect();
        (1..order.len()).rev().for_each(|i| order.swap(i, rng.below(i as u64 + 1) as usize));
        for (slot, position) in order.iter().enumerate() {
            sample.operands[1].data[*position as usize] = (slot as u64 / m) as f64;
            sample.operands[2].data[slot] = *position as f64;
        }
        sample
    }
}

/// The gradients of all readers of a row, `[n, d..]` or `[n, m, d..]`, summed over `m`.
fn sum_readers(cx: &mut dyn Builder, read: Value, x: &Type) -> Value {
    let shape = cx.ty(read).shape.clone();
    if shape.len() == x.ndim() {
        return read;
    }
    let n = shape.len() as u32;
    let out = std::iter::once(0).chain(2..n).collect();
    let body = generic::body_of(1, |_, a| a[0]);
    let maps = vec![generic::dims(0..n)];
    let g = Generic { extents: shape, maps, out, combine: Some(Combine::Sum), body };
    generic::push(cx, g, &[read])
}
