//! Building bodies: constructors that fold constants and drop what changes nothing.
//!
//! # Invariants
//! - A fold never changes a finite result by more than rounding: `x * 0` stays, `x * 1` goes.

use super::{Binary, Body, Cmp, S, ScalarOp, Unary, eval};
use crate::types::DType;

/// Largest exponent that [`Body::pow`] expands to multiplications: each rounds once more.
const MAX_EXPANDED_EXPONENT: f64 = 16.0;

impl Body {
    /// The value of a constant and its type.
    pub fn constant(&self, s: S) -> Option<(f64, DType)> {
        match self.ops[s.0 as usize] {
            ScalarOp::Float(bits, ty) => Some((f64::from_bits(bits), ty)),
            ScalarOp::Int(n, ty) => Some((n as f64, ty)),
            _ => None,
        }
    }

    /// A constant of any type.
    pub fn number(&mut self, value: f64, ty: DType) -> S {
        if ty.is_float() {
            self.float(value, ty)
        } else {
            self.push(ScalarOp::Int(eval::cast(value, ty) as i64, ty))
        }
    }

    fn is(&self, s: S, value: f64) -> bool {
        self.constant(s).is_some_and(|(v, _)| v == value)
    }

    /// A function of one value, folded.
    pub fn apply(&mut self, f: Unary, x: S) -> S {
        if let Some((v, ty)) = self.constant(x) {
            return self.number(eval::unary(f, v, ty), ty);
        }
        match (f, &self.ops[x.0 as usize]) {
            (Unary::Neg, ScalarOp::Unary(Unary::Neg, inner)) => *inner,
            (Unary::Not, ScalarOp::Unary(Unary::Not, inner)) => *inner,
            _ => self.unary(f, x),
        }
    }

    /// A function of two values of one type, folded.
    pub fn combine(&mut self, f: Binary, x: S, y: S) -> S {
        if let (Some((a, ty)), Some((b, _))) = (self.constant(x), self.constant(y)) {
            return self.number(eval::binary(f, a, b, ty), ty);
        }
        match f {
            Binary::Add if self.is(x, 0.0) => y,
            Binary::Add | Binary::Sub if self.is(y, 0.0) => x,
            Binary::Sub if self.is(x, 0.0) => self.apply(Unary::Neg, y),
            Binary::Mul if self.is(x, 1.0) => y,
            Binary::Mul | Binary::Div if self.is(y, 1.0) => x,
            Binary::Mul if self.is(x, -1.0) => self.apply(Unary::Neg, y),
            Binary::Mul | Binary::Div if self.is(y, -1.0) => self.apply(Unary::Neg, x),
            Binary::Max | Binary::Min if x == y => x,
            Binary::Pow => self.pow(x, y),
            _ => self.binary(f, x, y),
        }
    }

    /// `x + y`
    pub fn add(&mut self, x: S, y: S) -> S {
        self.combine(Binary::Add, x, y)
    }

    /// `x - y`
    pub fn sub(&mut self, x: S, y: S) -> S {
        self.combine(Binary::Sub, x, y)
    }

    /// `x * y`
    pub fn mul(&mut self, x: S, y: S) -> S {
        self.combine(Binary::Mul, x, y)
    }

    /// `x / y`
    pub fn div(&mut self, x: S, y: S) -> S {
        self.combine(Binary::Div, x, y)
    }

    /// `x ^ y`: small integer exponents become multiplications, large ones a power of `|x|` with the
    /// sign put back, ±½ becomes (r)sqrt.
    pub fn pow(&mut self, x: S, y: S) -> S {
        let Some((exponent, ty)) = self.constant(y) else { return self.binary(Binary::Pow, x, y) };
        if exponent == 0.5 {
            return self.apply(Unary::Sqrt, x);
        }
        if exponent == -0.5 {
            return self.apply(Unary::Rsqrt, x);
        }
        if exponent.fract() != 0.0 || !exponent.is_finite() {
            return self.binary(Binary::Pow, x, y);
        }
        if exponent.abs() > MAX_EXPANDED_EXPONENT {
            return self.signed_power(x, (exponent, y), ty);
        }
        let power = self.integer_power(x, exponent.abs() as u32, ty);
        if exponent >= 0.0 {
            return power;
        }
        let one = self.number(1.0, ty);
        self.div(one, power)
    }

    /// `x ^ n` for an integer `n`, by the power of `|x|`.
    fn signed_power(&mut self, x: S, (exponent, n): (f64, S), ty: DType) -> S {
        let size = self.apply(Unary::Abs, x);
        let power = self.binary(Binary::Pow, size, n);
        if exponent % 2.0 == 0.0 {
            return power;
        }
        let zero = self.number(0.0, ty);
        let negative = self.compare(Cmp::Lt, x, zero);
        let mirrored = self.apply(Unary::Neg, power);
        self.select(negative, mirrored, power)
    }

    /// By squaring, lowest bit first.
    fn integer_power(&mut self, x: S, mut exponent: u32, ty: DType) -> S {
        let mut result = self.number(1.0, ty);
        let mut square = x;
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = self.mul(result, square);
            }
            exponent >>= 1;
            if exponent > 0 {
                square = self.mul(square, square);
            }
        }
        result
    }

    /// A comparison, folded.
    pub fn compare(&mut self, f: Cmp, x: S, y: S) -> S {
        if let (Some((a, _)), Some((b, _))) = (self.constant(x), self.constant(y)) {
            return self.number(f64::from(u8::from(eval::cmp(f, a, b))), DType::i1);
        }
        self.push(ScalarOp::Cmp(f, x, y))
    }

    /// `if c { x } else { y }`, folded.
    pub fn select(&mut self, c: S, x: S, y: S) -> S {
        match self.constant(c) {
            _ if x == y => x,
            Some((v, _)) if v != 0.0 => x,
            Some(_) => y,
            None => self.push(ScalarOp::Select(c, x, y)),
        }
    }

    /// A conversion of a value of type `from`, folded.
    pub fn cast(&mut self, x: S, from: DType, to: DType) -> S {
        if from == to {
            return x;
        }
        match self.constant(x) {
            Some((v, _)) => self.number(eval::cast(v, to), to),
            None => self.push(ScalarOp::Cast(x, to)),
        }
    }

    /// The iteration index along a dimension.
    pub fn index(&mut self, dim: u32) -> S {
        self.push(ScalarOp::Index(dim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_nothing_is_dropped() {
        let mut b = Body::default();
        let x = b.arg(0);
        let (zero, one) = (b.float(0.0, DType::f32), b.float(1.0, DType::f32));
        assert_eq!(b.mul(x, one), x);
        assert_eq!(b.add(zero, x), x);
        assert_eq!(b.div(x, one), x);
        let n = b.apply(Unary::Neg, x);
        assert_eq!(b.apply(Unary::Neg, n), x);
        assert_ne!(b.mul(x, zero), zero, "0 * inf is not 0");
    }

    #[test]
    fn integer_powers_are_multiplications() {
        let mut b = Body::default();
        let x = b.arg(0);
        let five = b.float(5.0, DType::f32);
        let p = b.pow(x, five);
        b.results.push(p);
        let b = b.pruned(&b.results);
        assert_eq!(b.ops.iter().filter(|o| matches!(o, ScalarOp::Binary(..))).count(), 3);
        let y = eval::Evaluator::new(&b, &[DType::f32], &[]).run(&[1.5], &[], &|_, _| 0.0);
        assert_eq!(y, [1.5f64.powi(5)]);
    }

    #[test]
    fn a_large_integer_power_takes_a_negative_base() {
        for (exponent, value) in
            [(20.0, 1_048_576.0), (21.0, -2_097_152.0), (-19.0, -0.5f64.powi(19))]
        {
            let mut b = Body::default();
            let x = b.arg(0);
            let n = b.float(exponent, DType::f32);
            let p = b.pow(x, n);
            b.results.push(p);
            let b = b.pruned(&b.results);
            let base = |op: &ScalarOp| match op {
                ScalarOp::Binary(Binary::Pow, x, _) => Some(b.ops[x.0 as usize].clone()),
                _ => None,
            };
            let bases: Vec<ScalarOp> = b.ops.iter().filter_map(base).collect();
            assert!(matches!(bases[..], [ScalarOp::Unary(Unary::Abs, _)]), "{bases:?}");
            let y = eval::Evaluator::new(&b, &[DType::f32], &[]).run(&[-2.0], &[], &|_, _| 0.0);
            assert_eq!(y, [value]);
        }
    }

    #[test]
    fn constants_fold_in_their_own_arithmetic() {
        let mut b = Body::default();
        let big = b.int(i64::from(i32::MAX));
        let one = b.int(1);
        let sum = b.add(big, one);
        assert_eq!(b.constant(sum), Some((f64::from(i32::MIN), DType::i32)));
    }
}
