//! Scalar functions in f64: the reference of every backend.
//!
//! # Invariants
//! - i32 arithmetic wraps; shifts use the low five bits of the amount; division by zero gives 0.
//! - Float operations of any dtype are done in f64, unrounded.

use super::{Binary, Body, Cmp, S, ScalarOp, Unary};
use crate::types::DType;

/// A body ready to be evaluated many times.
#[derive(Debug)]
pub struct Evaluator<'a> {
    body: &'a Body,
    dtypes: Vec<DType>,
    values: Vec<f64>,
}

impl<'a> Evaluator<'a> {
    /// Prepares a body whose arguments and loaded tensors have these element types.
    pub fn new(body: &'a Body, args: &[DType], loads: &[DType]) -> Self {
        Evaluator { body, dtypes: body.dtypes(args, loads), values: Vec::new() }
    }

    /// Evaluates at an iteration index; `load` reads an extra tensor.
    pub fn run(
        &mut self,
        args: &[f64],
        index: &[u64],
        load: &dyn Fn(u32, &[i64]) -> f64,
    ) -> Vec<f64> {
        self.values.clear();
        for (i, op) in self.body.ops.iter().enumerate() {
            let of = |s: &S| self.values[s.0 as usize];
            let ty = self.dtypes[i];
            let value = match op {
                ScalarOp::Arg(n) => args[*n as usize],
                ScalarOp::Float(bits, _) => f64::from_bits(*bits),
                ScalarOp::Int(n, _) => *n as f64,
                ScalarOp::Index(d) => index[*d as usize] as f64,
                ScalarOp::Load(n, at) => {
                    load(*n, &at.iter().map(|s| of(s) as i64).collect::<Vec<_>>())
                }
                ScalarOp::Unary(f, x) => unary(*f, of(x), ty),
                ScalarOp::Binary(f, x, y) => binary(*f, of(x), of(y), ty),
                ScalarOp::Cmp(f, x, y) => f64::from(u8::from(cmp(*f, of(x), of(y)))),
                ScalarOp::Select(c, x, y) => {
                    if of(c) != 0.0 {
                        of(x)
                    } else {
                        of(y)
                    }
                }
                ScalarOp::Cast(x, to) => cast(of(x), *to),
            };
            self.values.push(value);
        }
        self.body.results.iter().map(|r| self.values[r.0 as usize]).collect()
    }
}

/// A function of one value.
pub fn unary(f: Unary, x: f64, ty: DType) -> f64 {
    match f {
        Unary::Neg if ty == DType::i32 => f64::from((x as i32).wrapping_neg()),
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sign if x == 0.0 || x.is_nan() => x,
        Unary::Sign => x.signum(),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => x.sqrt().recip(),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Floor => x.floor(),
        Unary::Not => f64::from(u8::from(x == 0.0)),
    }
}

/// A function of two values of one type.
pub fn binary(f: Binary, x: f64, y: f64, ty: DType) -> f64 {
    match ty {
        DType::i32 => f64::from(binary_i32(f, x as i32, y as i32)),
        DType::i1 => f64::from(binary_i32(f, x as i32, y as i32) & 1),
        _ => binary_float(f, x, y),
    }
}

fn binary_i32(f: Binary, x: i32, y: i32) -> i32 {
    match f {
        Binary::Add => x.wrapping_add(y),
        Binary::Sub => x.wrapping_sub(y),
        Binary::Mul => x.wrapping_mul(y),
        Binary::Div => {
            if y == 0 {
                0
            } else {
                x.wrapping_div(y)
            }
        }
        Binary::Rem => {
            if y == 0 {
                0
            } else {
                x.wrapping_rem(y)
            }
        }
        Binary::Max => x.max(y),
        Binary::Min => x.min(y),
        Binary::Pow => x.wrapping_pow(y.max(0) as u32),
        Binary::And => x & y,
        Binary::Or => x | y,
        Binary::Xor => x ^ y,
        Binary::Shl => x.wrapping_shl(y as u32),
        Binary::Shr => (x as u32).wrapping_shr(y as u32) as i32,
        Binary::MulHiU => ((u64::from(x as u32) * u64::from(y as u32)) >> 32) as u32 as i32,
    }
}

fn binary_float(f: Binary, x: f64, y: f64) -> f64 {
    match f {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::Rem => x % y,
        Binary::Max if x.is_nan() || y.is_nan() => f64::NAN,
        Binary::Max => x.max(y),
        Binary::Min if x.is_nan() || y.is_nan() => f64::NAN,
        Binary::Min => x.min(y),
        // The standard's 1^NaN = 1 would hide the NaN.
        Binary::Pow if y.is_nan() => f64::NAN,
        Binary::Pow => x.powf(y),
        Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr | Binary::MulHiU => {
            f64::from(binary_i32(f, x as i32, y as i32))
        }
    }
}

/// A comparison.
pub fn cmp(f: Cmp, x: f64, y: f64) -> bool {
    match f {
        Cmp::Eq => x == y,
        Cmp::Ne => x != y && !x.is_nan() && !y.is_nan(),
        Cmp::Lt => x < y,
        Cmp::Le => x <= y,
        Cmp::Gt => x > y,
        Cmp::Ge => x >= y,
    }
}

/// A conversion.
pub fn cast(x: f64, to: DType) -> f64 {
    match to {
        DType::i32 => f64::from(x as i32),
        DType::i1 => f64::from(u8::from(x != 0.0)),
        DType::f64 | DType::f32 | DType::bf16 | DType::f16 => x,
    }
}

/// A constant converted where a spec says so: `f32(x)` is the nearest f32. Narrower types round
/// where they are stored.
pub fn round(x: f64, to: DType) -> f64 {
    match to {
        DType::f32 => f64::from(x as f32),
        DType::f64 | DType::bf16 | DType::f16 | DType::i32 | DType::i1 => cast(x, to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_wrap_and_shift_as_in_32_bits() {
        assert_eq!(binary(Binary::Mul, 65537.0, 65537.0, DType::i32), 131073.0);
        assert_eq!(binary(Binary::MulHiU, -1.0, -1.0, DType::i32), -2.0);
        assert_eq!(binary(Binary::Shr, -1.0, 28.0, DType::i32), 15.0);
        assert_eq!(binary(Binary::Div, -7.0, 2.0, DType::i32), -3.0);
        assert_eq!(binary(Binary::Div, 1.0, 0.0, DType::i32), 0.0);
    }

    #[test]
    fn sign_of_zero_is_zero() {
        assert_eq!(unary(Unary::Sign, 0.0, DType::f32), 0.0);
        assert_eq!(unary(Unary::Sign, -3.0, DType::f32), -1.0);
    }
}
