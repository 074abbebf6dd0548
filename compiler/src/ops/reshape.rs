//! `Reshape`: the same elements, row-major, under other dimensions.
//!
//! `Reshape("x", [batch, seq, heads, "d / heads"])`; one extent may be `_`: it is inferred.

use serde::Deserialize;

use super::form::{DimForm, FormCx, Spanned};
use super::support::{Rng, Sample, checked, expect_operands, f32_type, moved};
use super::{
    Builder, Built, Cost, KernelBuilder, OpDef, TypeError, Value, codes, generic, support,
};
use crate::diagnostic::Diagnostic;
use crate::program::{OpKind, V};
use crate::scalar::parse::ExprKind;
use crate::tensor::Tensor;
use crate::types::Type;

/// A reshape to a known shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reshape {
    /// The result's extents.
    pub shape: Vec<u64>,
}

/// `Reshape("x", [batch, seq, _])`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Reshape", deny_unknown_fields)]
pub struct Form {
    /// The tensor.
    x: Spanned<String>,
    /// The result's extents; one may be `_`.
    shape: Vec<DimForm>,
}

fn is_hole(form: &DimForm) -> bool {
    matches!(&form.expr.kind, ExprKind::Name { name, index: None } if name == "_")
}

impl OpDef for Reshape {
    const NAME: &'static str = "Reshape";
    const SUMMARY: &'static str = "The same elements, row-major, under other dimensions.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Split a row into heads and join them again.",
    inputs: { "x": [batch, seq, 12] },
    nodes: [
        ("heads", Reshape("x", [batch, seq, 3, 4])),
        ("y", Reshape("heads", ["batch * seq", _])),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let x = support::operand(cx, &form.x);
        let extents: Vec<Option<Option<u64>>> = form
            .shape
            .iter()
            .map(|d| if is_hole(d) { Some(None) } else { cx.dim(d).map(Some) })
            .collect();
        let (x, extents) = (x?, extents.into_iter().collect::<Option<Vec<Option<u64>>>>()?);
        let elems = cx.ty(x.0).elems();
        let holes: Vec<usize> = (0..extents.len()).filter(|i| extents[*i].is_none()).collect();
        let known = extents.iter().flatten().try_fold(1u64, |n, d| n.checked_mul(*d));
        let inferred = match (holes.as_slice(), known) {
            ([_], Some(n)) if n > 0 && elems.is_multiple_of(n) => elems / n,
            ([], _) => 0,
            ([first, ..], _) => {
                let headline = format!("`_` cannot be inferred from {elems} elements");
                let place = |at: usize| form.shape[at].text.span;
                let mut error =
                    Diagnostic::error(codes::BAD_ATTRIBUTE, headline, place(*first), "here");
                if let Some(zero) = extents.iter().position(|e| *e == Some(0)) {
                    error = error.label(place(zero), "this is 0").help("write the extent out");
                }
                cx.report(error);
                return None;
            }
        };
        let shape = extents.into_iter().map(|d| d.unwrap_or(inferred)).collect();
        Some((Reshape { shape }, vec![x]))
    }

    fn attributes(&self) -> String {
        format!("{:?}", self.shape)
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 1)?;
        let ty = checked(operands[0].dtype, self.shape.clone())?;
        if ty.elems() != operands[0].elems() {
            let (from, to) = (operands[0].elems(), ty.elems());
            let headline = format!("reshape changes the number of elements: {from} vs {to}");
            return Err(TypeError::new(codes::BAD_ATTRIBUTE, headline)
                .operand(0, &operands[0])
                .help(format!("the result would be {ty}")));
        }
        Ok(vec![ty])
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], _: &[Type]) -> Vec<Tensor> {
        vec![Tensor { shape: self.shape.clone(), data: operands[0].data.clone() }]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        _: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        vec![grads[0].map(|g| generic::reshaped(cx, g, operands[0]))]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        vec![cx.push(OpKind::Reshape, operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        moved(operands, results)
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let (a, b, c) = (rng.extent(), rng.extent(), rng.extent());
        let shape =
            [vec![a * b, c], vec![c, 1, b * a], vec![a * b * c]][rng.below(3) as usize].clone();
        Sample::random(Reshape { shape }, vec![f32_type(&[a, b, c])], rng)
    }
}
