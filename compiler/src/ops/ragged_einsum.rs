//! `RaggedEinsum`: matrix products of rows grouped by expert.
//!
//! ```text
//! rows:   y[r, n] = Σ_k x[r, k] · w[g(r), n, k]        "r k, g n k -> r n" (or "r k, g k n -> r n")
//! outer:  w[g, m, n] = Σ_{r in g} x[r, m] · y[r, n]     "r m, r n -> g m n"
//! ```
//!
//! `offsets` (i32, one more than groups) bounds the groups: rows `offsets[g]..offsets[g + 1]` are
//! expert g's, ascending. Rows outside every group give 0. No padding, no capacity.
//! Ref.: MegaBlocks (arXiv 2211.15841).

use serde::Deserialize;

use super::einsum::{inside, parse_equation};
use super::form::{FormCx, Spanned};
use super::support::{
    Rng, Sample, checked, expect_dtype, expect_extents, expect_ndim, expect_operands, f32_type,
    i32_type, touched,
};
use super::{Builder, Built, Cost, KernelBuilder, OpDef, TypeError, Value, codes, support};
use crate::diagnostic::Diagnostic;
use crate::program::{DialectOp, OpKind, V};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// The two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ragged {
    /// Rows times their group's matrix.
    Rows {
        /// Matrices are `[g, n, k]` rather than `[g, k, n]`.
        transposed: bool,
    },
    /// Per group, the sum of outer products of its rows.
    Outer,
}

/// A product of grouped rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RaggedEinsum {
    /// Which.
    pub form: Ragged,
}

/// `RaggedEinsum("r d, e f d -> r f", ["rows", "weights"], "offsets")`.
#[derive(Debug, Deserialize)]
#[serde(rename = "RaggedEinsum", deny_unknown_fields)]
pub struct Form {
    /// Which dimensions are rows, groups, summed.
    equation: Spanned<String>,
    /// Rows and matrices, or rows and rows.
    operands: Vec<Spanned<String>>,
    /// Bounds of the groups.
    offsets: Spanned<String>,
}

/// The form an equation states.
fn classify(text: &str) -> Option<Ragged> {
    let (operands, out) = parse_equation(text).ok()?;
    match (operands.as_slice(), out.as_slice()) {
        ([x, w], [r, n]) if matches!((x.len(), w.len()), (2, 3)) => {
            let k = x[1];
            let distinct =
                x[0] == *r && n != r && k != *r && k != *n && ![*r, *n, k].contains(&w[0]);
            match (w[1], w[2]) {
                (a, b) if distinct && a == *n && b == k => Some(Ragged::Rows { transposed: true }),
                (a, b) if distinct && a == k && b == *n => Some(Ragged::Rows { transposed: false }),
                _ => None,
            }
        }
        ([x, y], [g, m, n]) if x.len() == 2 && y.len() == 2 => {
            let rows = x[0] == y[0] && x[1] == *m && y[1] == *n;
            (rows && m != n && ![*m, *n, x[0]].contains(g)).then_some(Ragged::Outer)
        }
        _ => None,
    }
}

impl RaggedEinsum {
    fn push(cx: &mut dyn Builder, form: Ragged, operands: [Value; 3]) -> Option<Value> {
        cx.push(RaggedEinsum { form }.into(), &operands).first().copied()
    }
}

/// Calls `f` with each group and row in it.
fn for_each_row(offsets: &Tensor, n_rows: u64, mut f: impl FnMut(u64, u64)) {
    for (g, bounds) in offsets.data.windows(2).enumerate() {
        for r in (bounds[0].max(0.0) as u64)..(bounds[1].max(0.0) as u64).min(n_rows) {
            f(g as u64, r);
        }
    }
}

impl OpDef for RaggedEinsum {
    const NAME: &'static str = "RaggedEinsum";
    const SUMMARY: &'static str = "Matrix products of rows grouped by expert, without padding.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Each row times the matrix of its group.",
    inputs: { "rows": [6, 4], "weights": [3, 5, 4], "keys": Input([6], i32) },
    nodes: [
        ("load", Histogram("keys", 3)),
        ("offsets", CumSum("load", true)),
        ("y", RaggedEinsum("r k, g n k -> r n", ["rows", "weights"], "offsets")),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let [a, b] = form.operands.as_slice() else {
            let headline = format!("expected 2 operands, found {}", form.operands.len());
            let span = form.operands.get(2).map_or(form.equation.span, |o| o.span);
            cx.report(Diagnostic::error(
                codes::OPERAND_COUNT,
                headline,
                span,
                "rows and matrices, or rows and rows",
            ));
            return None;
        };
        let operands = support::operands(cx, &[a, b, &form.offsets]);
        let Some(ragged) = classify(&form.equation.value) else {
            let place = inside(form.equation.span);
            let headline = "no ragged form of this equation";
            let d = Diagnostic::error(codes::EINSUM_EQUATION, headline, place, "in this equation");
            cx.report(d.help(
                "forms are `r k, g n k -> r n`, `r k, g k n -> r n` and `r m, r n -> g m n`",
            ));
            return None;
        };
        Some((RaggedEinsum { form: ragged }, operands?))
    }

    fn attributes(&self) -> String {
        match self.form {
            Ragged::Rows { transposed: true } => "r k, g n k -> r n",
            Ragged::Rows { transposed: false } => "r k, g k n -> r n",
            Ragged::Outer => "r m, r n -> g m n",
        }
        .to_string()
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 3)?;
        let second = if self.form == Ragged::Outer { 2 } else { 3 };
        for (i, n) in [(0, 2), (1, second), (2, 1)] {
            expect_ndim(operands, i, n)?;
        }
        expect_dtype(operands, 0, "a float", |d| d.is_float())?;
        expect_dtype(operands, 1, operands[0].dtype.name(), |d| d == operands[0].dtype)?;
        expect_dtype(operands, 2, "i32", |d| d == DType::i32)?;
        let (x, w, offsets) = (&operands[0].shape, &operands[1].shape, operands[2].shape[0]);
        let Some(groups) = offsets.checked_sub(1) else {
            let headline = "offsets are empty; there is one more than groups";
            return Err(TypeError::new(codes::EXTENTS_DIFFER, headline).operand(2, &operands[2]));
        };
        let shape = match self.form {
            Ragged::Outer => {
                expect_extents(operands, (0, 0), (1, 0))?;
                vec![groups, x[1], w[1]]
            }
            Ragged::Rows { transposed } => {
                let (n, k) = if transposed { (1, 2) } else { (2, 1) };
                expect_extents(operands, (0, 1), (1, k))?;
                if groups != w[0] {
                    let headline = format!("groups differ: {groups} in offsets vs {}", w[0]);
                    return Err(TypeError::new(codes::EXTENTS_DIFFER, headline)
                        .operand(2, &operands[2])
                        .operand(1, &operands[1]));
                }
                vec![x[0], w[n]]
            }
        };
        let columns = shape.last().copied().unwrap_or(1);
        support::expect_iterable(&[x[0], x[1], columns])?;
        Ok(vec![checked(operands[0].dtype, shape)?])
    }

    fn reference(&self, operands: &[&Tensor], _: &[Type], results: &[Type]) -> Vec<Tensor> {
        let [x, w, offsets] = operands else { return Vec::new() };
        let mut y = Tensor::full(&results[0].shape, 0.0);
        let rows = x.shape[0];
        for_each_row(offsets, rows, |g, r| match self.form {
            Ragged::Rows { transposed } => {
                for n in 0..y.shape[1] {
                    let at = |k: u64| if transposed { [g, n, k] } else { [g, k, n] };
                    let sum = (0..x.shape[1]).map(|k| x.at(&[r, k]) * w.at(&at(k))).sum();
                    let at = y.offset(&[r, n]);
                    y.data[at] = sum;
                }
            }
            Ragged::Outer => {
                for m in 0..x.shape[1] {
                    for n in 0..w.shape[1] {
                        let at = y.offset(&[g, m, n]);
                        y.data[at] += x.at(&[r, m]) * w.at(&[r, n]);
                    }
                }
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
        let (Some(grad), [x, w, offsets]) = (grads[0], operands) else { return vec![None; 3] };
        let (x, w, offsets) = (*x, *w, *offsets);
        match self.form {
            Ragged::Rows { transposed } => {
                let back = Ragged::Rows { transposed: !transposed };
                let outer = if transposed { [grad, x, offsets] } else { [x, grad, offsets] };
                vec![
                    Self::push(cx, back, [grad, w, offsets]),
                    Self::push(cx, Ragged::Outer, outer),
                    None,
                ]
            }
            Ragged::Outer => vec![
                Self::push(cx, Ragged::Rows { transposed: true }, [w, grad, offsets]),
                Self::push(cx, Ragged::Rows { transposed: false }, [x, grad, offsets]),
                None,
            ],
        }
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let op = match self.form {
            Ragged::Rows { transposed } => DialectOp::RaggedRows { transposed },
            Ragged::Outer => DialectOp::RaggedOuter,
        };
        vec![cx.push(OpKind::Dialect(op), operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        let per_row = match self.form {
            Ragged::Rows { .. } => operands[0].shape[1].saturating_mul(results[0].shape[1]),
            Ragged::Outer => operands[0].shape[1].saturating_mul(operands[1].shape[1]),
        };
        let flops = operands[0].shape[0].saturating_mul(per_row).saturating_mul(2);
        Cost { flops, bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let (r, k, n, g) = (rng.extent(), rng.extent(), rng.extent(), rng.extent());
        let (form, second) = match rng.below(3) {
            0 => (Ragged::Rows { transposed: true }, vec![g, n, k]),
            1 => (Ragged::Rows { transposed: false }, vec![g, k, n]),
            _ => (Ragged::Outer, vec![r, n]),
        };
        let types = vec![f32_type(&[r, k]), f32_type(&second), i32_type(&[g + 1])];
        let mut sample = Sample::random(RaggedEinsum { form }, types, rng);
        let mut offsets: Vec<u64> = (0..=g).map(|_| rng.below(r + 1)).collect();
        offsets.sort_unstable();
        sample.operands[2].data = offsets.iter().map(|o| *o as f64).collect();
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_classified_by_their_words() {
        assert_eq!(classify("r d, e f d -> r f"), Some(Ragged::Rows { transposed: true }));
        assert_eq!(classify("r d, e d f -> r f"), Some(Ragged::Rows { transposed: false }));
        assert_eq!(classify("r m, r n -> e m n"), Some(Ragged::Outer));
        for bad in
            ["r d, e f d -> f r", "r d, d f d -> r f", "r d, f d -> r f", "r d, r f -> r d f"]
        {
            assert_eq!(classify(bad), None, "{bad}");
        }
    }
}
