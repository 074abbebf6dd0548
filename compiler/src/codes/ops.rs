//! Codes of what can be wrong with an op's attributes and operands: `E03xx`.
//!
//! # Invariants
//! - A code is never reused for another meaning.

use crate::diagnostic::Code;

/// Operands whose extents must agree do not.
pub const EXTENTS_DIFFER: Code = Code(301);
/// An operand's dtype is not one the op takes, or two dtypes that must agree do not.
pub const DTYPE_MISMATCH: Code = Code(302);
/// An operand has too few or too many dimensions.
pub const WRONG_NDIM: Code = Code(303);
/// An attribute is out of range for the operands: a dimension, a slice, a `k`.
pub const BAD_ATTRIBUTE: Code = Code(304);
/// The number of operands is not the op's.
pub const OPERAND_COUNT: Code = Code(305);
/// A scalar expression does not parse.
pub const EXPR_SYNTAX: Code = Code(306);
/// A scalar expression calls a function that does not exist, or with the wrong arguments.
pub const EXPR_FUNCTION: Code = Code(307);
/// Index words of an expression: unbound, repeated, or missing on an operand that needs them.
pub const EXPR_INDEX: Code = Code(308);
/// The types inside a scalar expression do not fit.
pub const EXPR_TYPE: Code = Code(309);
/// An einsum equation is malformed.
pub const EINSUM_EQUATION: Code = Code(310);
/// The result has more elements or bytes than a program can address.
pub const TOO_LARGE: Code = Code(311);

/// A code with its short name and long explanation.
pub type Explained = (Code, &'static str, &'static str);

/// Every code of this file with name and explanation, in order.
pub const TABLE: &[Explained] = &[
    (
        EXTENTS_DIFFER,
        "extents-differ",
        "Two operands are read along one dimension, but their extents along it differ.\nCheck which of the two shapes is meant; `Reshape`, `Slice` or a transposed equation bring them together.\n\nWrong: `Einsum(\"t d, d f -> t f\", [\"x\", \"w\"])` with x f32[4, 8] and w f32[16, 8].\nRight: `Einsum(\"t d, f d -> t f\", [\"x\", \"w\"])`.",
    ),
    (
        DTYPE_MISMATCH,
        "dtype-mismatch",
        "An op does not convert by itself: operands that are combined have one dtype, and indices are i32.\nConvert with `Cast(\"x\", f32)` or, inside an expression, `f32(x)`.",
    ),
    (
        WRONG_NDIM,
        "wrong-ndim",
        "An operand has more or fewer dimensions than the op or the equation says.\n\nWrong: `Einsum(\"t d, f d -> t f\", [\"x\", \"w\"])` with x f32[2, 4, 8].\nRight: `Einsum(\"b s d, f d -> b s f\", [\"x\", \"w\"])`.",
    ),
    (
        BAD_ATTRIBUTE,
        "bad-attribute",
        "An attribute lies outside what the operands allow: a dimension that the tensor does not have, a slice that ends behind the last element, a `k` larger than the extent, a reshape to another number of elements.",
    ),
    (
        OPERAND_COUNT,
        "operand-count",
        "The list of operands is longer or shorter than the op or its equation says.",
    ),
    (
        EXPR_SYNTAX,
        "expression-syntax",
        "A scalar expression does not parse.\nExpressions are written with + - * / % ^, comparisons, && || !, function calls and names; a name may carry index words: `x[b s d] * w[d]`.",
    ),
    (
        EXPR_FUNCTION,
        "expression-function",
        "An expression calls a function that does not exist, or with the wrong number of arguments.\nFunctions: neg abs sign exp log sqrt rsqrt tanh sigmoid silu relu softplus sin cos floor ceil not; max min pow and or xor shl shr mulhi (two arguments); where(c, a, b), clamp(x, lo, hi); index(d); casts f32 bf16 f16 f64 i32.",
    ),
    (
        EXPR_INDEX,
        "expression-index",
        "The index words of an expression do not fit: a word is unknown to every operand, stands twice on one operand, or an operand with dimensions has no index while another has.\n\nWrong: `Map(\"x[b s d] * w\")` with w f32[8].\nRight: `Map(\"x[b s d] * w[d]\")`.",
    ),
    (
        EXPR_TYPE,
        "expression-type",
        "The types inside an expression do not fit: both sides of an operator have one dtype, conditions are comparisons, shifts take i32.\nConvert with `f32(x)` or `i32(x)`.",
    ),
    (
        EINSUM_EQUATION,
        "einsum-equation",
        "An einsum equation reads `words, words -> words`: per operand one word per dimension, separated by spaces, and after the arrow the words of the result.\nA word stands once per operand; a word of the result stands in an operand; a word of one operand alone must be in the result (reduce it first with `Sum`).",
    ),
    (
        TOO_LARGE,
        "too-large",
        "A tensor would have more than 2^60 bytes.\nCheck the dims it is made of.",
    ),
];
