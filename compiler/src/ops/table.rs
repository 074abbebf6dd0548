//! `Table`: constants computed while compiling, from the positions of their elements.
//!
//! `Table("pow(theta, -2 * i / dim)", {"i": half})`: words are numbers here, arithmetic is f64.

use serde::Deserialize;

use super::form::{DimForm, FormCx, MappingForm, Name, SpannedMap};
use super::support::{Rng, Sample, checked, expect_operands, moved};
use super::{Built, Cost, KernelBuilder, OpDef, TypeError, codes};
use crate::diagnostic::Diagnostic;
use crate::program::{MAX_CONSTANT_ELEMS, OpKind, V};
use crate::scalar::elaborate::evaluate;
use crate::tensor::{Tensor, for_each_index};
use crate::types::{DType, Type};

/// A constant tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    /// The result's extents.
    pub shape: Vec<u64>,
    /// The result's element type.
    pub dtype: DType,
    /// f64 bits of each element, row-major.
    pub elems: Vec<u64>,
}

/// `Table("pow(theta, -2 * i / dim)", {"i": half})`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Table", deny_unknown_fields)]
pub struct Form {
    /// The element; the words of `dims` are its position.
    expr: MappingForm,
    /// The result's dimensions in order, with extents.
    dims: SpannedMap<DimForm>,
    /// The result's element type.
    #[serde(default = "super::fill::f32_default")]
    dtype: DType,
}

impl OpDef for Table {
    const NAME: &'static str = "Table";
    const SUMMARY: &'static str =
        "Constants computed while compiling, from the positions of their elements.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Inverse frequencies.",
    inputs: { "x": [batch, 4] },
    nodes: [
        ("frequency", Table("pow(10000, -2 * i / 8)", { "i": 4 })),
        ("y", Map("x[b i] * frequency[i]")),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let words: Vec<&str> = form.dims.entries.iter().map(|(w, _)| w.value.as_str()).collect();
        let extents: Vec<Option<u64>> = form.dims.entries.iter().map(|(_, d)| cx.dim(d)).collect();
        let shape = extents.into_iter().collect::<Option<Vec<u64>>>()?;
        let text = form.expr.text;
        if shape
            .iter()
            .try_fold(1u64, |n, d| n.checked_mul(*d))
            .is_none_or(|n| n > MAX_CONSTANT_ELEMS)
        {
            let headline = format!("a table has at most {MAX_CONSTANT_ELEMS} elements");
            let d = Diagnostic::error(codes::TOO_LARGE, headline, text.span, "this one has more");
            cx.report(d.help("compute it with `Map` and `index(…)` instead"));
            return None;
        }
        let mut elems = Vec::new();
        let mut problem = None;
        for_each_index(&shape, |index| {
            if problem.is_some() {
                return;
            }
            let value = evaluate(&form.expr.mapping.expr, &mut |name, range| {
                if let Some(i) = words.iter().position(|w| *w == name) {
                    return Some(index[i] as f64);
                }
                match cx.name(name, text.at(range))? {
                    Name::Constant(x) => Some(x),
                    Name::Operand(_) => {
                        let headline = format!("`{name}` is a tensor, a table takes constants");
                        let d = Diagnostic::error(
                            codes::EXPR_TYPE,
                            headline,
                            text.at(range),
                            "not a constant",
                        );
                        cx.report(d.help("compute with tensors in `Map`"));
                        None
                    }
                }
            });
            match value {
                Ok(x) => elems.push(x.to_bits()),
                Err(error) => problem = Some(error),
            }
        });
        if let Some(error) = problem {
            super::mapping::report(cx, text, error);
            return None;
        }
        Some((Table { shape, dtype: form.dtype, elems }, Vec::new()))
    }

    fn attributes(&self) -> String {
        let shown: Vec<String> =
            self.elems.iter().take(4).map(|e| format!("{:?}", f64::from_bits(*e))).collect();
        let rest = if self.elems.len() > 4 { ", …" } else { "" };
        let ty = Type::new(self.dtype, self.shape.clone());
        format!("{ty} [{}{rest}]", shown.join(", "))
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        expect_operands(operands, 0)?;
        Ok(vec![checked(self.dtype, self.shape.clone())?])
    }

    fn reference(&self, _: &[&Tensor], _: &[Type], _: &[Type]) -> Vec<Tensor> {
        let cast = |e: &u64| crate::scalar::eval::cast(f64::from_bits(*e), self.dtype);
        vec![Tensor { shape: self.shape.clone(), data: self.elems.iter().map(cast).collect() }]
    }

    fn lower(&self, cx: &mut KernelBuilder, _: &[V], results: &[Type]) -> Vec<V> {
        vec![cx.push(OpKind::Constant(self.elems.clone()), &[], results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        moved(operands, results)
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let shape = rng.extents(2);
        let n: u64 = shape.iter().product();
        let elems = (0..n).map(|_| rng.float().to_bits()).collect();
        Sample::random(Table { shape, dtype: DType::f32, elems }, Vec::new(), rng)
    }
}
