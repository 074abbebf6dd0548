//! `Einsum`: sums of products of one or two tensors, named by dimension.
//!
//! ```text
//! Einsum("b s r, h e r -> b s h e", ["x", "w"]):   y[b,s,h,e] = Σ_r x[b,s,r] · w[h,e,r]
//! ```
//!
//! Words are separated by spaces; `...` stands for equal leading dimensions. Products accumulate in
//! f32 at least. Ref.: NumPy's `einsum`, with words instead of letters.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::form::{FormCx, Spanned};
use super::support::{Rng, Sample, checked, expect_ndim, expect_operands, f32_type, touched};
use super::{
    Builder, Built, Cost, KernelBuilder, OpDef, TypeError, Value, codes, generic, support,
};
use crate::diagnostic::Diagnostic;
use crate::program::{Combine, ContractDims, Generic, OpKind, V};
use crate::source::Span;
use crate::tensor::{Tensor, for_each_index};
use crate::types::Type;

/// A contraction of two tensors, or a sum and transpose of one. Ids name iteration dimensions, the
/// result's first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Einsum {
    /// Per operand, the id of each dimension.
    pub operands: Vec<Vec<u32>>,
    /// Ids of the result's dimensions.
    pub out: Vec<u32>,
}

/// `Einsum("b s d, f d -> b s f", ["x", "w"])`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Einsum", deny_unknown_fields)]
pub struct Form {
    /// Words of each operand, then of the result.
    equation: Spanned<String>,
    /// One or two operands.
    operands: Vec<Spanned<String>>,
}

/// The words of an equation, `...` still unexpanded: per operand, then of the result.
pub(super) fn parse_equation(text: &str) -> Result<(Vec<Vec<&str>>, Vec<&str>), String> {
    let Some((operands, out)) = text.split_once("->") else {
        return Err("the equation has no `->`".to_string());
    };
    let words =
        |side: &'_ str| -> Vec<String> { side.split_whitespace().map(String::from).collect() };
    let all = operands.split(',').chain([out]);
    for word in all.flat_map(words) {
        let letters = word.chars().all(|c| c.is_alphanumeric() || c == '_');
        if word != "..." && (!letters || word.starts_with(|c: char| c.is_ascii_digit())) {
            return Err(format!("`{word}` is no dimension word"));
        }
    }
    let operands = operands.split(',').map(|side| side.split_whitespace().collect()).collect();
    Ok((operands, out.split_whitespace().collect()))
}

impl Einsum {
    /// An einsum from any ids: renumbered so that the result's come first, in order.
    pub fn new(operands: &[&[u32]], out: &[u32]) -> Self {
        let mut ids: BTreeMap<u32, u32> = BTreeMap::new();
        let all = out.iter().chain(operands.iter().flat_map(|o| o.iter()));
        for id in all {
            let next = ids.len() as u32;
            ids.entry(*id).or_insert(next);
        }
        let rename = |side: &[u32]| side.iter().map(|id| ids[id]).collect();
        Einsum { operands: operands.iter().map(|o| rename(o)).collect(), out: rename(out) }
    }

    /// Extent of each id.
    fn extents(&self, operands: &[Type]) -> Vec<u64> {
        let n = self.operands.iter().flatten().chain(&self.out).max().map_or(0, |m| m + 1);
        let mut extents = vec![0; n as usize];
        for (ids, ty) in self.operands.iter().zip(operands) {
            ids.iter().zip(&ty.shape).for_each(|(id, d)| extents[*id as usize] = *d);
        }
        extents
    }

    /// The same thing as a product and a sum.
    fn generic(&self, extents: Vec<u64>) -> Generic {
        let body = generic::body_of(self.operands.len(), |b, a| {
            a.iter().copied().reduce(|x, y| b.mul(x, y)).unwrap_or(a[0])
        });
        let combine = (self.out.len() < extents.len()).then_some(Combine::Sum);
        let maps = self.operands.iter().map(|ids| generic::dims(ids.iter().copied())).collect();
        Generic { extents, maps, out: self.out.clone(), combine, body }
    }

    /// Whether anything is summed.
    pub(crate) fn sums(&self) -> bool {
        let n = self.operands.iter().flatten().chain(&self.out).max().map_or(0, |m| m + 1);
        self.out.len() < n as usize
    }

    fn contracts(&self) -> bool {
        self.operands.len() == 2 && self.sums()
    }
}

/// Ids of the words, `...` expanded by the operands' dimensions.
fn ids(
    equation: &(Vec<Vec<&str>>, Vec<&str>),
    ndims: &[usize],
) -> Result<(Vec<Vec<u32>>, Vec<u32>), String> {
    let mut known: Vec<String> = Vec::new();
    let mut ellipsis = None;
    let mut operands = Vec::new();
    for (words, ndim) in equation.0.iter().zip(ndims) {
        let dotted = words.contains(&"...");
        let plain = words.len() - usize::from(dotted);
        if plain > *ndim || (!dotted && plain != *ndim) {
            return Err(format!("`{}` does not name {ndim} dimensions", words.join(" ")));
        }
        if dotted && *ellipsis.get_or_insert(ndim - plain) != ndim - plain {
            return Err("`...` stands for different numbers of dimensions".to_string());
        }
        operands.push(expand(words, ellipsis.unwrap_or(0)));
    }
    let out = expand(&equation.1, ellipsis.unwrap_or(0));
    let mut number = |word: &String| match known.iter().position(|k| k == word) {
        Some(id) => id as u32,
        None => {
            known.push(word.clone());
            known.len() as u32 - 1
        }
    };
    let operands = operands.iter().map(|o| o.iter().map(&mut number).collect()).collect();
    Ok((operands, out.iter().map(&mut number).collect()))
}

fn expand(words: &[&str], ellipsis: usize) -> Vec<String> {
    let part = |w: &&str| match *w {
        "..." => (0..ellipsis).map(|i| format!("...{i}")).collect(),
        w => vec![w.to_string()],
    };
    words.iter().flat_map(part).collect()
}

fn equation_error(cx: &mut dyn FormCx, span: Span, headline: String) {
    let d = Diagnostic::error(codes::EINSUM_EQUATION, headline, span, "in this equation");
    cx.report(d.help("an equation reads `b s d, f d -> b s f`"));
}

/// The place between the quotes of a string.
pub(super) fn inside(span: Span) -> Span {
    if span.end >= span.start + 2 {
        return Span { start: span.start + 1, end: span.end - 1, ..span };
    }
    span
}

impl OpDef for Einsum {
    const NAME: &'static str = "Einsum";
    const SUMMARY: &'static str = "Sums of products of one or two tensors, named by dimension.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Project rows to heads, then compare every pair of rows within a head.",
    inputs: { "x": [batch, seq, dim], "w": [heads, head_dim, dim] },
    nodes: [
        ("q", Einsum("b s d, h e d -> b s h e", ["x", "w"])),
        ("y", Einsum("b s h e, b t h e -> b h s t", ["q", "q"])),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let names: Vec<&Spanned<String>> = form.operands.iter().collect();
        let operands = support::operands(cx, &names);
        let place = inside(form.equation.span);
        let equation = match parse_equation(&form.equation.value) {
            Ok(equation) => equation,
            Err(message) => {
                equation_error(cx, place, message);
                return None;
            }
        };
        let operands = operands?;
        let n = equation.0.len();
        if n != operands.len() || n > 2 {
            let headline = format!("equation has {n} operands, the list {}", operands.len());
            let d = Diagnostic::error(codes::OPERAND_COUNT, headline, place, "in this equation");
            cx.report(d.help("an einsum takes one or two operands; chain them for more"));
            return None;
        }
        let types: Vec<Type> = operands.iter().map(|(v, _)| cx.ty(*v)).collect();
        for (i, (words, ty)) in equation.0.iter().zip(&types).enumerate() {
            let dotted = words.contains(&"...");
            let plain = words.len() - usize::from(dotted);
            if plain > ty.ndim() || (!dotted && plain != ty.ndim()) {
                let headline =
                    format!("equation names {plain} dimensions, operand has {}", ty.ndim());
                let d = Diagnostic::error(
                    codes::WRONG_NDIM,
                    headline,
                    operands[i].1,
                    format!("this is {ty}"),
                );
                cx.report(d.label(place, format!("`{}` here", words.join(" "))));
                return None;
            }
        }
        let ndims: Vec<usize> = types.iter().map(Type::ndim).collect();
        let op = match ids(&equation, &ndims) {
            Ok((sides, out)) => {
                let sides: Vec<&[u32]> = sides.iter().map(Vec::as_slice).collect();
                Einsum::new(&sides, &out)
            }
            Err(message) => {
                equation_error(cx, place, message);
                return None;
            }
        };
        if let Err(message) = op.well_formed() {
            equation_error(cx, place, message.to_string());
            return None;
        }
        Some((op, operands))
    }

    fn attributes(&self) -> String {
        let side =
            |ids: &Vec<u32>| ids.iter().map(|i| format!("d{i}")).collect::<Vec<_>>().join(" ");
        let operands: Vec<String> = self.operands.iter().map(side).collect();
        format!("{} -> {}", operands.join(", "), side(&self.out))
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, self.operands.len())?;
        self.well_formed().map_err(|e| TypeError::new(codes::EINSUM_EQUATION, e))?;
        let mut first: BTreeMap<u32, (usize, u64)> = BTreeMap::new();
        for (i, (ids, ty)) in self.operands.iter().zip(operands).enumerate() {
            support::expect_dtype(operands, i, "a float", |d| d.is_float())?;
            expect_ndim(operands, i, ids.len())?;
            for (id, extent) in ids.iter().zip(&ty.shape) {
                let (other, known) = *first.entry(*id).or_insert((i, *extent));
                if known != *extent {
                    let headline = format!("contraction extents differ: {known} vs {extent}");
                    return Err(TypeError::new(codes::EXTENTS_DIFFER, headline)
                        .operand(i, ty)
                        .operand(other, &operands[other]));
                }
            }
        }
        if operands.iter().any(|ty| ty.dtype != operands[0].dtype) {
            let (a, b) = (&operands[0], &operands[1]);
            let headline = format!("operands have different types: {} and {}", a.dtype, b.dtype);
            return Err(TypeError::new(codes::DTYPE_MISMATCH, headline)
                .operand(1, b)
                .operand(0, a)
                .help("convert one with `Cast`"));
        }
        support::expect_iterable(&self.extents(operands))?;
        let shape = self.out.iter().map(|id| first[id].1).collect();
        Ok(vec![checked(operands[0].dtype, shape)?])
    }

    fn reference(&self, operands: &[&Tensor], types: &[Type], results: &[Type]) -> Vec<Tensor> {
        let mut y = Tensor::full(&results[0].shape, 0.0);
        for_each_index(&self.extents(types), |index| {
            let pick =
                |ids: &[u32]| -> Vec<u64> { ids.iter().map(|d| index[*d as usize]).collect() };
            let product: f64 =
                operands.iter().zip(&self.operands).map(|(t, ids)| t.at(&pick(ids))).product();
            let at = y.offset(&pick(&self.out));
            y.data[at] += product;
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
        let Some(grad) = grads[0] else { return vec![None; operands.len()] };
        if let [x] = operands {
            let extents = self.extents(&[cx.ty(*x).clone()]);
            return generic::vjp(cx, &self.generic(extents), operands, grad);
        }
        let (lhs, rhs) = (&self.operands[0], &self.operands[1]);
        let to_lhs = Einsum::new(&[&self.out, rhs], lhs);
        let to_rhs = Einsum::new(&[&self.out, lhs], rhs);
        let d_lhs = cx.push(to_lhs.into(), &[grad, operands[1]])[0];
        let d_rhs = cx.push(to_rhs.into(), &[grad, operands[0]])[0];
        vec![Some(d_lhs), Some(d_rhs)]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let kind = if self.contracts() {
            OpKind::Contract(ContractDims {
                lhs: self.operands[0].clone(),
                rhs: self.operands[1].clone(),
                out: self.out.clone(),
            })
        } else {
            let types: Vec<Type> = operands.iter().map(|v| cx.ty(*v).clone()).collect();
            OpKind::Generic(self.generic(self.extents(&types)))
        };
        vec![cx.push(kind, operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        let iterations = self.extents(operands).iter().fold(1u64, |n, d| n.saturating_mul(*d));
        let per_element = if self.contracts() { 2 } else { 1 };
        let flops = iterations.saturating_mul(per_element);
        Cost { flops, bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let cases: [(&[&[u32]], &[u32]); 6] = [
            (&[&[0, 1, 2], &[3, 2]], &[0, 1, 3]),
            (&[&[0, 1, 2], &[0, 3, 2]], &[0, 1, 3]),
            (&[&[2, 0], &[2, 1]], &[1, 0]),
            (&[&[0, 1], &[0, 1]], &[]),
            (&[&[0], &[1]], &[1, 0]),
            (&[&[0, 1, 2]], &[2, 0]),
        ];
        let (sides, out) = cases[rng.below(6) as usize];
        let extents = rng.extents(4);
        let shape =
            |ids: &&[u32]| f32_type(&ids.iter().map(|i| extents[*i as usize]).collect::<Vec<_>>());
        let types = sides.iter().map(shape).collect();
        Sample::random(Einsum::new(sides, out), types, rng)
    }
}

impl Einsum {
    /// Each word once per operand, every result word in an operand, no word of one operand alone
    /// summed away when there are two.
    fn well_formed(&self) -> Result<(), &'static str> {
        let repeats = |ids: &Vec<u32>| ids.iter().enumerate().any(|(i, id)| ids[..i].contains(id));
        if self.operands.iter().any(repeats) || repeats(&self.out) {
            return Err("a word stands twice on one tensor");
        }
        if self.out.iter().any(|id| !self.operands.iter().any(|o| o.contains(id))) {
            return Err("a word of the result stands on no operand");
        }
        if let [lhs, rhs] = self.operands.as_slice() {
            let lonely = |a: &Vec<u32>, b: &Vec<u32>| {
                a.iter().any(|id| !b.contains(id) && !self.out.contains(id))
            };
            if lonely(lhs, rhs) || lonely(rhs, lhs) {
                return Err("a word of one operand alone is summed away");
            }
        }
        Ok(())
    }
}
