//! Scalar functions: the bodies of elementwise maps and of `linalg.generic`.
//!
//! One representation serves the spec (`Map("silu(gate) * up")`), differentiation, the reference
//! interpreter and the MLIR regions: a hash-consed list of operations over arguments.
//!
//! # Invariants
//! - Operations are in dependency order; equal operations appear once.
//! - The set is closed: every backend matches it exhaustively.

mod build;
pub mod derive;
pub mod elaborate;
pub mod eval;
pub mod parse;
mod print;
mod types;

use perilune_plan::DType;

/// A scalar value inside a [`Body`]: the index of the operation that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct S(pub u32);

/// Functions of one argument. Floating point unless said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Unary {
    Neg,
    Abs,
    /// −1, 0 or 1.
    Sign,
    Exp,
    Log,
    Sqrt,
    Rsqrt,
    Tanh,
    Sigmoid,
    Sin,
    Cos,
    Floor,
    /// Boolean.
    Not,
}

/// Functions of two arguments of one type (float or i32; And/Or also boolean).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    /// Integer division truncates; indices are non-negative.
    Div,
    /// Remainder, sign of the dividend.
    Rem,
    Max,
    Min,
    /// Float only: x^y for x ≥ 0. The builder makes other operations of a constant integer y, so
    /// that x may be negative.
    Pow,
    And,
    Or,
    Xor,
    Shl,
    /// Logical (unsigned) shift right.
    Shr,
    /// High 32 bits of the unsigned 64-bit product of two i32 (counter-based random numbers).
    MulHiU,
}

/// Comparisons; the result is i1. Ordered for floats; integers compare signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// One scalar operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ScalarOp {
    /// Argument `n`: the element of the `n`-th operand.
    Arg(u32),
    /// A floating-point constant of a dtype, by its f64 bits.
    Float(u64, DType),
    /// An i32 or i1 constant.
    Int(i64, DType),
    /// The iteration index along a dimension, as i32.
    Index(u32),
    /// Element of a whole operand (`n`-th extra tensor) at computed i32 indices. Tensor level only.
    Load(u32, Vec<S>),
    /// A function of one value.
    Unary(Unary, S),
    /// A function of two values.
    Binary(Binary, S, S),
    /// A comparison.
    Cmp(Cmp, S, S),
    /// `if a { b } else { c }`; both sides are evaluated.
    Select(S, S, S),
    /// Conversion: float↔float rounds to nearest even, float→i32 truncates, i32→float, i1→float/i32 0 or 1.
    Cast(S, DType),
}

/// A scalar function with any number of results.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Body {
    /// Operations in dependency order; `S(i)` is the result of `ops[i]`.
    pub ops: Vec<ScalarOp>,
    /// The values the body yields.
    pub results: Vec<S>,
}

impl Body {
    /// Adds an operation, or finds the equal one already there.
    pub fn push(&mut self, op: ScalarOp) -> S {
        if let Some(i) = self.ops.iter().position(|o| *o == op) {
            return S(i as u32);
        }
        self.ops.push(op);
        S(self.ops.len() as u32 - 1)
    }

    /// Argument `n`.
    pub fn arg(&mut self, n: u32) -> S {
        self.push(ScalarOp::Arg(n))
    }

    /// A floating-point constant.
    pub fn float(&mut self, value: f64, dtype: DType) -> S {
        self.push(ScalarOp::Float(value.to_bits(), dtype))
    }

    /// An i32 constant.
    pub fn int(&mut self, value: i64) -> S {
        self.push(ScalarOp::Int(value, DType::i32))
    }

    /// A function of one value.
    pub fn unary(&mut self, f: Unary, x: S) -> S {
        self.push(ScalarOp::Unary(f, x))
    }

    /// A function of two values.
    pub fn binary(&mut self, f: Binary, x: S, y: S) -> S {
        self.push(ScalarOp::Binary(f, x, y))
    }
}
