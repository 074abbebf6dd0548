//! What op files share: type errors, cost of touching memory, random cases.
//!
//! # Invariants
//! - A random case depends on the seed alone.

use super::{Cost, Value, codes};
use crate::diagnostic::{Code, Diagnostic};
use crate::ops::form::{FormCx, Spanned};
use crate::source::Span;
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// Why operands do not fit an op; the caller adds spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeError {
    /// The error code.
    pub code: Code,
    /// The headline.
    pub headline: String,
    /// Operands involved with what each is: the first is to blame.
    pub labels: Vec<(usize, String)>,
    /// What to do.
    pub help: Option<String>,
}

impl TypeError {
    /// An error that blames the op as a whole.
    pub fn new(code: Code, headline: impl Into<String>) -> Self {
        TypeError { code, headline: headline.into(), labels: Vec::new(), help: None }
    }

    /// Names an operand and says what it is.
    pub fn operand(mut self, operand: usize, ty: &Type) -> Self {
        self.labels.push((operand, format!("this is {ty}")));
        self
    }

    /// Says what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The message with places: `operands[i]` is where operand `i` was written.
    pub fn diagnostic(&self, operands: &[Span], whole: Span) -> Diagnostic {
        let place = |i: &usize| operands.get(*i).copied().unwrap_or(whole);
        let mut labels = self.labels.iter().map(|(i, text)| (place(i), text.clone()));
        let (span, text) = labels.next().unwrap_or((whole, "here".to_string()));
        let mut d = Diagnostic::error(self.code, self.headline.clone(), span, text);
        for (span, text) in labels {
            d = d.label(span, text);
        }
        d.help = self.help.clone();
        d
    }
}

/// `n` operands, no more and no less.
pub(super) fn expect_operands(operands: &[Type], n: usize) -> Result<(), TypeError> {
    if operands.len() == n {
        return Ok(());
    }
    let headline = format!("expected {n} operands, found {}", operands.len());
    Err(TypeError::new(codes::OPERAND_COUNT, headline))
}

/// Operand `i` has a dtype that `fits`.
pub(super) fn expect_dtype(
    operands: &[Type],
    i: usize,
    wanted: &str,
    fits: impl Fn(DType) -> bool,
) -> Result<(), TypeError> {
    let ty = &operands[i];
    if fits(ty.dtype) {
        return Ok(());
    }
    let headline = format!("expected {wanted}, found {}", ty.dtype);
    Err(TypeError::new(codes::DTYPE_MISMATCH, headline).operand(i, ty).help(format!(
        "convert it first: `Cast(\"…\", {})`",
        if wanted == "i32" { "i32" } else { "f32" }
    )))
}

/// Operand `i` has `n` dimensions.
pub(super) fn expect_ndim(operands: &[Type], i: usize, n: usize) -> Result<(), TypeError> {
    let ty = &operands[i];
    if ty.ndim() == n {
        return Ok(());
    }
    let headline = format!("expected {n} dimensions, found {}", ty.ndim());
    Err(TypeError::new(codes::WRONG_NDIM, headline).operand(i, ty))
}

/// Extents `a` and `b` (operand, dimension) are equal.
pub(super) fn expect_extents(
    operands: &[Type],
    a: (usize, usize),
    b: (usize, usize),
) -> Result<(), TypeError> {
    let (m, n) = (operands[a.0].shape[a.1], operands[b.0].shape[b.1]);
    if m == n {
        return Ok(());
    }
    Err(TypeError::new(codes::EXTENTS_DIFFER, format!("extents differ: {m} vs {n}"))
        .operand(b.0, &operands[b.0])
        .operand(a.0, &operands[a.0]))
}

/// Extent of a dimension of operand `i`.
pub(super) fn extent_of(operands: &[Type], i: usize, dim: u64) -> Result<u64, TypeError> {
    let ty = &operands[i];
    ty.shape.get(dim as usize).copied().ok_or_else(|| {
        let headline = format!("no dimension {dim} in {} dimensions", ty.ndim());
        TypeError::new(codes::BAD_ATTRIBUTE, headline)
            .operand(i, ty)
            .help("dimensions count from 0")
    })
}

/// The type, if a program can address it.
pub(super) fn checked(dtype: DType, shape: Vec<u64>) -> Result<Type, TypeError> {
    let ty = Type::new(dtype, shape);
    match ty.checked_bytes() {
        Some(_) => Ok(ty),
        None => {
            let shape: Vec<String> = ty.shape.iter().map(u64::to_string).collect();
            let headline = format!("tensor of shape [{}] is too large", shape.join(", "));
            Err(TypeError::new(codes::TOO_LARGE, headline))
        }
    }
}

/// Refuses an iteration space that no program finishes: more than 2^60 points.
pub(super) fn expect_iterable(extents: &[u64]) -> Result<(), TypeError> {
    let points = extents.iter().fold(1u64, |n, extent| n.saturating_mul(*extent));
    if points <= 1 << 60 {
        return Ok(());
    }
    Err(TypeError::new(codes::TOO_LARGE, "iterates over more than 2^60 points"))
}

/// Bytes of all operands and results.
pub(super) fn touched(operands: &[Type], results: &[Type]) -> u64 {
    operands.iter().chain(results).map(Type::bytes).sum()
}

/// A cost in which nothing is computed.
pub(super) fn moved(operands: &[Type], results: &[Type]) -> Cost {
    Cost { flops: 0, bytes: touched(operands, results) }
}

/// An operand by name, with its place.
pub(super) fn operand(cx: &mut dyn FormCx, name: &Spanned<String>) -> Option<(Value, Span)> {
    cx.operand(name).map(|v| (v, name.span))
}

/// Operands by name; reports every unknown one.
pub(super) fn operands(
    cx: &mut dyn FormCx,
    names: &[&Spanned<String>],
) -> Option<Vec<(Value, Span)>> {
    let found: Vec<_> = names.iter().map(|n| operand(cx, n)).collect();
    found.into_iter().collect()
}

/// Pseudo-random numbers for test cases (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// An extent: mostly 2 to 5, sometimes 1, rarely 0.
    pub fn extent(&mut self) -> u64 {
        [0, 1, 1, 2, 2, 3, 3, 3, 4, 5][self.below(10) as usize]
    }

    /// Several extents.
    pub fn extents(&mut self, n: usize) -> Vec<u64> {
        (0..n).map(|_| self.extent()).collect()
    }

    /// A float in −2..2.
    pub fn float(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 * 4.0 - 2.0
    }

    /// A tensor of random elements: floats in −2..2, integers in 0..4, truth values.
    pub fn tensor(&mut self, ty: &Type) -> Tensor {
        match ty.dtype {
            DType::i32 => self.integers(&ty.shape, 0, 4),
            DType::i1 => self.integers(&ty.shape, 0, 2),
            _ => Tensor::from_fn(&ty.shape, |_| self.float()),
        }
    }

    /// A tensor of integers in `low..high`.
    pub fn integers(&mut self, shape: &[u64], low: i64, high: i64) -> Tensor {
        let span = (high - low).max(1) as u64;
        Tensor::from_fn(shape, |_| (low + self.below(span) as i64) as f64)
    }
}

/// A random case of an op.
#[derive(Clone, Debug)]
pub struct Sample<T> {
    /// The op.
    pub op: T,
    /// Types of its operands.
    pub types: Vec<Type>,
    /// Their values.
    pub operands: Vec<Tensor>,
}

impl<T> Sample<T> {
    /// A case with random values.
    pub fn random(op: T, types: Vec<Type>, rng: &mut Rng) -> Self {
        let operands = types.iter().map(|ty| rng.tensor(ty)).collect();
        Sample { op, types, operands }
    }

    /// The same case of a wrapped op.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Sample<U> {
        Sample { op: f(self.op), types: self.types, operands: self.operands }
    }
}

/// An f32 type.
pub(super) fn f32_type(shape: &[u64]) -> Type {
    Type::new(DType::f32, shape)
}

/// An i32 type.
pub(super) fn i32_type(shape: &[u64]) -> Type {
    Type::new(DType::i32, shape)
}
