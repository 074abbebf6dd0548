//! `Random`: counter-based random numbers: each element depends on seed, stream and position alone.
//!
//! Philox2x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11), keyed by
//! `seed ^ stream` and counting positions; normal numbers by Box–Muller. Uniform numbers lie
//! strictly between 0 and 1.
//!
//! With `first`, the rows are those of a larger tensor from that row on: what a rank draws of its
//! part is what one rank alone draws there.

use serde::Deserialize;

use super::form::{DimForm, FormCx, ScalarForm, Spanned};
use super::support::{Rng, Sample, checked, expect_dtype, expect_ndim, i32_type, touched};
use super::{
    Built, Cost, KernelBuilder, OpDef, TypeError, codes, generic, support,
};
use crate::diagnostic::Diagnostic;
use crate::program::{Generic, OpKind, V};
use crate::scalar::{Binary, Body, S, Unary};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// A distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum Distribution {
    /// Mean 0, variance 1.
    Normal,
    /// Between 0 and 1.
    Uniform,
}

/// Random numbers. Operands: none, the seed, or the seed and the index of the first row; i32.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Random {
    /// Of which distribution.
    pub dist: Distribution,
    /// The result's extents.
    pub shape: Vec<u64>,
    /// The result's element type.
    pub dtype: DType,
    /// Distinguishes tensors under one seed.
    pub stream: u32,
}

/// `Random(dist: Normal, shape: [d, d], seed: "seed", stream: 7)`.
#[derive(Debug, Deserialize)]
#[serde(rename = "Random", deny_unknown_fields)]
pub struct Form {
    /// Normal or Uniform.
    dist: Distribution,
    /// The result's extents.
    shape: Vec<DimForm>,
    /// A scalar i32 node; 0 if left out.
    #[serde(default)]
    seed: Option<Spanned<String>>,
    /// Distinguishes tensors under one seed.
    #[serde(default)]
    stream: Option<ScalarForm>,
    /// A scalar i32 node, the index of the first row; 0 if left out. It needs a seed.
    #[serde(default)]
    first: Option<Spanned<String>>,
    /// The result's element type.
    #[serde(default = "super::fill::f32_default")]
    dtype: DType,
}

const MULTIPLIER: u32 = 0xD256_D193;
const WEYL: u32 = 0x9E37_79B9;
const ROUNDS: u32 = 10;

fn word(b: &mut Body, value: u32) -> S {
    b.int(i64::from(value as i32))
}

/// Philox2x32-10: two random words from a key and a counter of two words.
fn philox(b: &mut Body, mut key: S, counter: [S; 2]) -> [S; 2] {
    let (multiplier, weyl) = (word(b, MULTIPLIER), word(b, WEYL));
    let [mut c0, mut c1] = counter;
    for round in 0..ROUNDS {
        if round > 0 {
            key = b.add(key, weyl);
        }
        let high = b.combine(Binary::MulHiU, multiplier, c0);
        let low = b.mul(multiplier, c0);
        let mixed = b.combine(Binary::Xor, high, key);
        c0 = b.combine(Binary::Xor, mixed, c1);
        c1 = low;
    }
    [c0, c1]
}

/// A word as a float strictly between 0 and 1: `(top 23 bits + ½) / 2²³`, exact in f32.
fn unit(b: &mut Body, bits: S) -> S {
    let nine = word(b, 9);
    let top = b.combine(Binary::Shr, bits, nine);
    let float = b.cast(top, DType::i32, DType::f32);
    let half = b.number(0.5, DType::f32);
    let sum = b.add(float, half);
    let step = b.number((-23f64).exp2(), DType::f32);
    b.mul(sum, step)
}

impl Random {
    /// Counter: the position within the first dimension's slice, and the first dimension's index.
    fn counter(&self, b: &mut Body, first_row: Option<S>) -> [S; 2] {
        let n = self.shape.len();
        let row = |b: &mut Body| match (b.index(0), first_row) {
            (index, Some(first)) => b.add(index, first),
            (index, None) => index,
        };
        let first = if n > 1 { row(b) } else { b.int(0) };
        let mut position = b.int(0);
        let mut stride = 1u64;
        for d in (usize::from(n > 1)..n).rev() {
            let index = if d == 0 { row(b) } else { b.index(d as u32) };
            let stride_word = word(b, stride as u32);
            let term = b.mul(index, stride_word);
            position = b.add(term, position);
            stride = stride.wrapping_mul(self.shape[d]);
        }
        [position, first]
    }

    fn generic(&self, n_operands: usize) -> Generic {
        let body = generic::body_of(n_operands, |b, a| {
            let stream = word(b, self.stream);
            let key = match a {
                [seed, ..] => b.combine(Binary::Xor, *seed, stream),
                [] => stream,
            };
            let counter = self.counter(b, a.get(1).copied());
            let [r0, r1] = philox(b, key, counter);
            let u0 = unit(b, r0);
            let y = match self.dist {
                Distribution::Uniform => u0,
                Distribution::Normal => {
                    let u1 = unit(b, r1);
                    box_muller(b, u0, u1)
                }
            };
            b.cast(y, DType::f32, self.dtype)
        });
        let out = (0..self.shape.len() as u32).collect();
        let maps = vec![Vec::new(); n_operands];
        Generic { extents: self.shape.clone(), maps, out, combine: None, body }
    }
}

/// `sqrt(-2 log u0) · cos(2π u1)`
fn box_muller(b: &mut Body, u0: S, u1: S) -> S {
    let log = b.apply(Unary::Log, u0);
    let minus_two = b.number(-2.0, DType::f32);
    let square = b.mul(minus_two, log);
    let radius = b.apply(Unary::Sqrt, square);
    let turn = b.number(std::f64::consts::TAU, DType::f32);
    let angle = b.mul(turn, u1);
    let cos = b.apply(Unary::Cos, angle);
    b.mul(radius, cos)
}

impl OpDef for Random {
    const NAME: &'static str = "Random";
    const SUMMARY: &'static str =
        "Counter-based random numbers that depend on seed, stream and position alone.";
    const EXAMPLE: &'static str = r#"Block(
    doc: "Noise on a tensor.",
    inputs: { "x": [batch, 4], "seed": Input([], i32) },
    nodes: [
        ("noise", Random(dist: Normal, shape: [batch, 4], seed: "seed", stream: 1)),
        ("y", Map("x + 0.1 * noise")),
    ],
    outputs: { "y": "y" },
)"#;

    type Form = Form;

    fn build(form: Form, cx: &mut dyn FormCx) -> Option<Built<Self>> {
        let shape: Vec<Option<u64>> = form.shape.iter().map(|d| cx.dim(d)).collect();
        let seed = match (&form.seed, &form.first) {
            (Some(seed), None) => vec![support::operand(cx, seed)?],
            (Some(seed), Some(first)) => support::operands(cx, &[seed, first])?,
            (None, None) => Vec::new(),
            (None, Some(first)) => {
                let headline = "a first row without a seed";
                cx.report(Diagnostic::error(codes::OPERAND_COUNT, headline, first.span, "here"));
                return None;
            }
        };
        let stream = match &form.stream {
            Some(stream) => cx.scalar(stream)?,
            None => 0.0,
        };
        let shape = shape.into_iter().collect::<Option<Vec<u64>>>()?;
        if stream.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&stream) {
            let span = form.stream.map(|s| s.text.span)?;
            let headline = format!("stream {stream} is no whole number of 32 bits");
            cx.report(Diagnostic::error(codes::BAD_ATTRIBUTE, headline, span, "here"));
            return None;
        }
        let op = Random { dist: form.dist, shape, dtype: form.dtype, stream: stream as u32 };
        Some((op, seed))
    }

    fn attributes(&self) -> String {
        let ty = Type::new(self.dtype, self.shape.clone());
        format!("{:?} {ty} stream {}", self.dist, self.stream)
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        if operands.len() > 1 {
            support::expect_operands(operands, 2)?;
        }
        for i in 0..operands.len() {
            expect_dtype(operands, i, "i32", |d| d == DType::i32)?;
            expect_ndim(operands, i, 0)?;
        }
        if operands.len() == 2 && self.shape.is_empty() {
            let headline = "a scalar has no first row";
            return Err(TypeError::new(codes::OPERAND_COUNT, headline));
        }
        if !self.dtype.is_float() {
            let headline = format!("random numbers are floats, not {}", self.dtype);
            return Err(TypeError::new(codes::DTYPE_MISMATCH, headline));
        }
        Ok(vec![checked(self.dtype, self.shape.clone())?])
    }

    fn reference(&self, operands: &[&Tensor], types: &[Type], _: &[Type]) -> Vec<Tensor> {
        let dtypes: Vec<DType> = types.iter().map(|t| t.dtype).collect();
        vec![generic::evaluate(&self.generic(operands.len()), operands, &dtypes)]
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let g = self.generic(operands.len());
        vec![cx.push(OpKind::Generic(g), operands, results[0].clone())]
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        let flops = generic::flops(&self.generic(operands.len()));
        Cost { flops, bytes: touched(operands, results) }
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let dist = [Distribution::Normal, Distribution::Uniform][rng.below(2) as usize];
        let n_dims = rng.below(4) as usize;
        let op = Random {
            dist,
            shape: rng.extents(n_dims),
            dtype: DType::f32,
            stream: rng.below(1 << 32) as u32,
        };
        let most = if op.shape.is_empty() { 2 } else { 3 };
        let types = vec![i32_type(&[]); rng.below(most) as usize];
        Sample::random(op, types, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(dist: Distribution, stream: u32, shape: &[u64]) -> Vec<f64> {
        let op = Random { dist, shape: shape.to_vec(), dtype: DType::f32, stream };
        op.reference(&[], &[], &[]).remove(0).data
    }

    /// Known-answer vectors of Random123's `kat_vectors` for philox2x32-10.
    #[test]
    fn philox_gives_the_published_words() {
        let run = |counter: [u32; 2], key: u32| {
            let mut b = Body::default();
            let key = word(&mut b, key);
            let counter = counter.map(|c| word(&mut b, c));
            philox(&mut b, key, counter).map(|s| b.constant(s).map_or(0, |(v, _)| v as i64 as u32))
        };
        assert_eq!(run([0, 0], 0), [0xff1d_ae59, 0x6cd1_0df2]);
        assert_eq!(run([u32::MAX; 2], u32::MAX), [0x2c3f_628b, 0xab4f_d7ad]);
        assert_eq!(run([0x243f_6a88, 0x85a3_08d3], 0x1319_8a2e), [0xdd7c_e038, 0xf62a_4c12]);
    }

    #[test]
    fn moments_are_those_of_the_distribution() {
        let n = numbers(Distribution::Normal, 3, &[64, 256]);
        let mean = n.iter().sum::<f64>() / n.len() as f64;
        let variance = n.iter().map(|x| x * x).sum::<f64>() / n.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
        let u = numbers(Distribution::Uniform, 3, &[64, 256]);
        let mean = u.iter().sum::<f64>() / u.len() as f64;
        assert!((mean - 0.5).abs() < 0.01 && u.iter().all(|x| *x > 0.0 && *x < 1.0));
    }

    #[test]
    fn rows_from_a_first_one_on_are_those_of_the_larger_tensor() {
        for (shape, row) in [(vec![6, 3, 2], 6), (vec![6], 1)] {
            let of = |shape: &[u64]| Random {
                dist: Distribution::Normal,
                shape: shape.to_vec(),
                dtype: DType::f32,
                stream: 5,
            };
            let seed = Tensor::full(&[], 7.0);
            let types = [i32_type(&[]), i32_type(&[])];
            let all = of(&shape).reference(&[&seed], &types[..1], &[]).remove(0).data;
            let mut part = shape.clone();
            part[0] = 2;
            let first = Tensor::full(&[], 3.0);
            let rows = of(&part).reference(&[&seed, &first], &types, &[]).remove(0).data;
            assert_eq!(rows, all[3 * row..5 * row]);
        }
    }

    #[test]
    fn streams_and_positions_differ() {
        let a = numbers(Distribution::Uniform, 1, &[8, 8]);
        let b = numbers(Distribution::Uniform, 2, &[8, 8]);
        assert!(a.iter().zip(&b).filter(|(x, y)| x == y).count() < 3);
        let mut sorted = a.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.dedup();
        assert_eq!(sorted.len(), a.len());
    }
}
