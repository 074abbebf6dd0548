//! `Reduce`: sum, mean, maximum or minimum of an element expression over some of its dimensions.
//!
//! ```text
//! y[kept] = Σ_over f(x0[i0], x1[i1], …)
//! ```
//!
//! The sum over nothing is 0, the maximum −∞, the minimum +∞, the mean not a number.
//! The gradient of a maximum or minimum is shared equally by the elements that attain it.

use serde::Deserialize;

use super::form::{DimForm, FormCx, MappingForm, SpannedMap, WordsForm};
use super::support::{TypeError, touched};
use super::{
    Builder, Built, Cost, KernelBuilder, OpDef, Rng, Sample, Value, codes, generic, mapping,
};
use crate::diagnostic::Diagnostic;
use crate::program::{Combine, Generic, OpKind, V};
use crate::scalar::{Cmp, S};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[allow(missing_docs)]
pub enum Reduction {
    Sum,
    Mean,
    Max,
    Min,
}

/// A reduction of an element expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reduce {
    /// How.
    pub reduction: Reduction,
    /// The element and what is reduced; `combine` is set.
    pub generic: Generic,
}

/// `Reduce(Sum, "x[b s d] * x[b s d]", "d")`, `Reduce(Mean, "x[b s] -> b")`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Reduce", deny_unknown_fields)]
pub struct Form {
    /// Sum, Mean, Max or Min.
    combine: Reduction,
    /// The element.
    expr: MappingForm,
    /// The dimensions that go. Without it, `-> words` says which stay.
    #[serde(default)]
    over: Option<WordsForm>,
    /// Extents of words that no operand has.
    #[serde(default)]
    dims: SpannedMap<DimForm>,
}

impl Reduce {
    /// A reduction that needs no division.
    pub fn plain(generic: Generic) -> Self {
        let reduction = match generic.combine {
            Some(Combine::Max) => Reduction::Max,
            Some(Combine::Min) => Reduction::Min,
            Some(Combine::Sum) | None => Reduction::Sum,
        };
        Reduce { reduction, generic }
    }

    /// Number of elements combined into one.
    fn n_combined(&self) -> u64 {
        let g = &self.generic;
        let reduced = (0..g.extents.len()).filter(|d| !g.out.contains(&(*d as u32)));
        reduced.map(|d| g.extents[d]).fold(1, u64::saturating_mul)
    }

    fn mean_factor(&self) -> f64 {
        1.0 / self.n_combined() as f64
    }

    /// The gradient that each element attaining the extremum gets, in the iteration's full shape,
    /// folded into the body: `where(f(x) == y, g / count, 0)`.
    fn extremum_vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        result: Value,
        grad: Value,
    ) -> Vec<Option<Value>> {
        let g = &self.generic;
        let n = operands.len();
        let dtype = cx.ty(result).dtype;
        let mut maps = g.maps.clone();
        maps.push(generic::dims(g.out.iter().copied()));
        let attains = |body: &mut crate::scalar::Body, a: &[S], yes: S| {
            let y = body.inline(&g.body, &a[..n])[0];
            let hit = body.compare(Cmp::Eq, y, a[n]);
            let zero = body.number(0.0, dtype);
            body.select(hit, yes, zero)
        };
        let count_body = generic::body_of(n + 1, |b, a| {
            let one = b.number(1.0, dtype);
            attains(b, a, one)
        });
        let mut all = operands.to_vec();
        all.push(result);
        let counted = Generic {
            extents: g.extents.clone(),
            maps: maps.clone(),
            out: g.out.clone(),
            combine: Some(Combine::Sum),
            body: count_body,
        };
        let count = generic::push(cx, counted, &all);
        let share = generic::map(cx, &[grad, count], |b, a| b.div(a[0], a[1]));

        // The gradient of Σ where(f(x) == y, f(x), 0) · share: the condition carries none.
        let masked = Generic {
            extents: g.extents.clone(),
            maps,
            out: g.out.clone(),
            combine: Some(Combine::Sum),
            body: generic::body_of(n + 1, |b, a| {
                let y = b.inline(&g.body, &a[..n])[0];
                attains(b, a, y)
            }),
        };
        let mut grads = generic::vjp(cx, &masked, &all, share);
        grads.truncate(n);
        grads
    }
}

impl OpDef for Reduce {
    const NAME: &'static str = "Reduce";
    const SUMMARY: &'static str =
        "Sum, mean, maximum or minimum of an element expression over some dimensions.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Mean square per row, and the largest element of all.",
    inputs: { "x": [batch, dim] },
    nodes: [
        ("mean_square", Reduce(Mean, "x[b d] * x[b d]", "d")),
        ("largest", Reduce(Max, "x[b d]", "b d")),
        ("y", Map("mean_square[b] / largest")),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let mut mapped = mapping::resolve(cx, &form.expr, &form.dims)?;
        let all: Vec<u32> = (0..mapped.generic.extents.len() as u32).collect();
        let out = mapped.stated_out(cx, &form.expr, None)?;
        let over = match &form.over {
            Some(o) => Some(mapped.find(cx, &o.words, o.text)?),
            None => None,
        };
        let kept = match (out, over) {
            (Some(out), None) => out,
            (None, Some(over)) => all.into_iter().filter(|d| !over.contains(d)).collect(),
            (Some(out), Some(over)) if !out.iter().any(|d| over.contains(d)) => out,
            _ => {
                let headline = "what is reduced is not clear";
                let span = form.over.map_or(form.expr.text.span, |o| o.text.span);
                let d = Diagnostic::error(codes::EXPR_INDEX, headline, span, "here");
                cx.report(d.help("say `over: \"d\"` or `\"… -> b s\"`"));
                return None;
            }
        };
        mapped.generic.out = kept;
        mapped.generic.combine = Some(match form.combine {
            Reduction::Sum | Reduction::Mean => Combine::Sum,
            Reduction::Max => Combine::Max,
            Reduction::Min => Combine::Min,
        });
        let (generic, kept) = generic::canonical(mapped.generic);
        let operands = kept.into_iter().map(|k| mapped.operands[k]).collect();
        Some((Reduce { reduction: form.combine, generic }, operands))
    }

    fn attributes(&self) -> String {
        format!("{:?} {}", self.reduction, generic::describe(&self.generic))
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        super::support::expect_operands(operands, self.generic.maps.len())?;
        let ty = generic::infer(&self.generic, operands)?;
        let fits = match self.reduction {
            Reduction::Mean => ty.dtype.is_float(),
            Reduction::Sum | Reduction::Max | Reduction::Min => ty.dtype != DType::i1,
        };
        if !fits {
            let headline = format!("{:?} does not take {}", self.reduction, ty.dtype);
            return Err(TypeError::new(codes::DTYPE_MISMATCH, headline)
                .help("convert the element: `f32(…)`"));
        }
        Ok(vec![ty])
    }

    fn reference(&self, operands: &[&Tensor], types: &[Type], _: &[Type]) -> Vec<Tensor> {
        let dtypes: Vec<DType> = types.iter().map(|t| t.dtype).collect();
        let mut y = generic::evaluate(&self.generic, operands, &dtypes);
        if self.reduction == Reduction::Mean {
            let n = self.n_combined() as f64;
            y.data.iter_mut().for_each(|x| *x /= n);
        }
        vec![y]
    }

    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        results: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        let Some(grad) = grads[0] else { return vec![None; operands.len()] };
        match self.reduction {
            Reduction::Sum => generic::vjp(cx, &self.generic, operands, grad),
            Reduction::Mean => {
                let dtype = cx.ty(grad).dtype;
                let factor = self.mean_factor();
                let scaled = generic::map(cx, &[grad], |b, a| {
                    let c = b.number(factor, dtype);
                    b.mul(a[0], c)
                });
                generic::vjp(cx, &self.generic, operands, scaled)
            }
            Reduction::Max | Reduction::Min => self.extremum_vjp(cx, operands, results[0], grad),
        }
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let ty = &results[0];
        let mut g = self.generic.clone();
        if g.out.len() == g.extents.len() {
            // Nothing is reduced after all: every element stands alone.
            g.combine = None;
        }
        if self.reduction != Reduction::Mean {
            return vec![cx.push(OpKind::Generic(g), operands, ty.clone())];
        }
        // The sum of many is out of a narrow type's range where their mean is not.
        let wide = if ty.dtype.bytes() < 4 { DType::f32 } else { ty.dtype };
        let element = g.body.results[0];
        g.body.results[0] = g.body.cast(element, ty.dtype, wide);
        let sum = cx.push(OpKind::Generic(g), operands, ty.with_dtype(wide));
        let factor = self.mean_factor();
        let body = generic::body_of(1, |b, a| {
            let c = b.number(factor, wide);
            let mean = b.mul(a[0], c);
            b.cast(mean, wide, ty.dtype)
        });
        let scale = generic::elementwise(&ty.shape, 1, body);
        vec![cx.push(OpKind::Generic(scale), &[sum], ty.clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        Cost { flops: generic::flops(&self.generic), bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let reduction = [Reduction::Sum, Reduction::Mean, Reduction::Max, Reduction::Min];
        let reduction = reduction[rng.below(4) as usize];
        let combine = match reduction {
            Reduction::Sum | Reduction::Mean => Combine::Sum,
            Reduction::Max => Combine::Max,
            Reduction::Min => Combine::Min,
        };
        let extents = rng.extents(3);
        let maps = vec![generic::dims([0, 2, 1]), generic::dims([1])];
        let body = generic::body_of(2, |b, a| b.mul(a[0], a[1]));
        let out = [vec![0], vec![1, 0], vec![2], vec![]][rng.below(4) as usize].clone();
        let g = Generic { extents, maps, out, combine: Some(combine), body };
        let types = g.maps.iter().map(|m| generic::operand_type(&g, m)).collect();
        let (generic, _) = generic::canonical(g);
        Sample::random(Reduce { reduction, generic }, types, rng)
    }
}
