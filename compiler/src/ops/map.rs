//! `Map`: an elementwise function of tensors, with broadcast, permutation and iteration indices.
//!
//! ```text
//! y[out] = f(x0[i0], x1[i1], …)
//! ```
//!
//! Without index words all operands have one shape (or none: scalars). With them every dimension of
//! the result is a word: `x[b s d] * w[d]`; `dims` adds words that no operand has, `index(d)` is the
//! position along `d` as i32, `1` reads a dimension of extent 1, `...` stands for leading dimensions.

use serde::Deserialize;

use super::form::{DimForm, FormCx, MappingForm, SpannedMap, WordsForm};
use super::support::{TypeError, touched};
use super::{Builder, Built, Cost, KernelBuilder, OpDef, Rng, Sample, Value, generic, mapping};
use crate::diagnostic::Diagnostic;
use crate::ops::codes;
use crate::program::{Generic, OpKind, V};
use crate::scalar::Unary;
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// An elementwise function of tensors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// The function; nothing is reduced, nothing loaded.
    pub generic: Generic,
}

/// `Map("x[b s d] * w[d]")`, `Map(expr: "x[b s]", dims: {"h": n_heads}, out: "b s h")`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Map", deny_unknown_fields)]
pub struct Form {
    /// The element.
    expr: MappingForm,
    /// Extents of words that no operand has.
    #[serde(default)]
    dims: SpannedMap<DimForm>,
    /// The result's dimensions, if not in order of first appearance.
    #[serde(default)]
    out: Option<WordsForm>,
}

impl OpDef for Map {
    const NAME: &'static str = "Map";
    const SUMMARY: &'static str =
        "An elementwise function of tensors, with broadcast, permutation and indices.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Gated activation, scaled per channel and laid out by head.",
    inputs: { "gate": [batch, dim], "up": [batch, dim], "w": [dim] },
    nodes: [
        ("hidden", Map("silu(gate) * up")),
        ("scaled", Map("hidden[b d] * w[d]")),
        ("y", Map(expr: "scaled[b d]", dims: { "h": 2 }, out: "h d b")),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let mut mapped = mapping::resolve(cx, &form.expr, &form.dims)?;
        if let Some(out) = mapped.stated_out(cx, &form.expr, form.out.as_ref())? {
            if out.len() != mapped.generic.extents.len() {
                let headline = "the result leaves out a dimension of the expression";
                let d = Diagnostic::error(codes::EXPR_INDEX, headline, form.expr.text.span, "here");
                cx.report(d.help("`Map` keeps every dimension; `Reduce` sums over some"));
                return None;
            }
            mapped.generic.out = out;
        }
        let (generic, kept) = generic::canonical(mapped.generic);
        Some((Map { generic }, kept.into_iter().map(|k| mapped.operands[k]).collect()))
    }

    fn attributes(&self) -> String {
        generic::describe(&self.generic)
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        super::support::expect_operands(operands, self.generic.maps.len())?;
        Ok(vec![generic::infer(&self.generic, operands)?])
    }

    fn reference(&self, operands: &[&Tensor], types: &[Type], _: &[Type]) -> Vec<Tensor> {
        let dtypes: Vec<DType> = types.iter().map(|t| t.dtype).collect();
        vec![generic::evaluate(&self.generic, operands, &dtypes)]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        _: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        match grads[0] {
            Some(grad) => generic::vjp(cx, &self.generic, operands, grad),
            None => vec![None; operands.len()],
        }
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        vec![cx.push(OpKind::Generic(self.generic.clone()), operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        Cost { flops: generic::flops(&self.generic), bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let (b, d) = (rng.extent(), rng.extent());
        let body = generic::body_of(2, |b, a| {
            let gate = b.apply(Unary::Sigmoid, a[0]);
            let silu = b.mul(a[0], gate);
            let cos = b.apply(Unary::Cos, a[1]);
            b.mul(silu, cos)
        });
        let (maps, out) = match rng.below(3) {
            0 => (vec![generic::dims([0, 1]), generic::dims([1])], vec![0, 1]),
            1 => (vec![generic::dims([1, 0]), generic::dims([0])], vec![0, 1]),
            _ => (vec![generic::dims([0, 1]), vec![None, Some(1)]], vec![1, 0]),
        };
        let g = Generic { extents: vec![b, d], maps, out, combine: None, body };
        let types = g.maps.iter().map(|m| generic::operand_type(&g, m)).collect();
        let (generic, _) = generic::canonical(g);
        Sample::random(Map { generic }, types, rng)
    }
}
