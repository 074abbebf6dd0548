//! Codes of what can be wrong with an op's attributes and operands: `E03xx`.
//!
//! # Invariants
//! - A code is never reused for another meaning.

use crate::diagnostic::Code;

codes! {
    /// Operands whose extents must agree do not.
    EXTENTS_DIFFER = 301, "extents-differ", "Two operands are read along one dimension, but their extents along it differ.\nCheck which of the two shapes is meant; `Reshape`, `Slice` or a transposed equation bring them together.\n\nWrong: `Einsum(\"t d, d f -> t f\", [\"x\", \"w\"])` with x f32[4, 8] and w f32[16, 8].\nRight: `Einsum(\"t d, f d -> t f\", [\"x\", \"w\"])`.";
    /// An operand's dtype is not one the op takes, or two dtypes that must agree do not.
    DTYPE_MISMATCH = 302, "dtype-mismatch", "An op does not convert by itself: operands that are combined have one dtype, and indices are i32.\nConvert with `Cast(\"x\", f32)` or, inside an expression, `f32(x)`.";
    /// An operand has too few or too many dimensions.
    WRONG_NDIM = 303, "wrong-ndim", "An operand has more or fewer dimensions than the op or the equation says.\n\nWrong: `Einsum(\"t d, f d -> t f\", [\"x\", \"w\"])` with x f32[2, 4, 8].\nRight: `Einsum(\"b s d, f d -> b s f\", [\"x\", \"w\"])`.";
    /// An attribute is out of range for the operands: a dimension, a slice, a `k`.
    BAD_ATTRIBUTE = 304, "bad-attribute", "An attribute lies outside what the operands allow: a dimension that the tensor does not have, a slice that ends behind the last element, a `k` larger than the extent, a reshape to another number of elements.";
    /// The number of operands is not the op's.
    OPERAND_COUNT = 305, "operand-count", "The list of operands is longer or shorter than the op or its equation says.";
    /// A scalar expression does not parse.
    EXPR_SYNTAX = 306, "expression-syntax", "A scalar expression does not parse.\nExpressions are written with + - * / % ^, comparisons, && || !, function calls and names; a name may carry index words: `x[b s d] * w[d]`.";
    /// A scalar expression calls a function that does not exist, or with the wrong arguments.
    EXPR_FUNCTION = 307, "expression-function", "An expression calls a function that does not exist, or with the wrong number of arguments.\nFunctions: neg abs sign exp log sqrt rsqrt tanh sigmoid silu relu softplus sin cos floor ceil not; max min pow and or xor shl shr mulhi (two arguments); where(c, a, b), clamp(x, lo, hi); index(d); casts f32 bf16 f16 f64 i32.";
    /// Index words of an expression: unbound, repeated, or missing on an operand that needs them.
    EXPR_INDEX = 308, "expression-index", "The index words of an expression do not fit: a word is unknown to every operand, stands twice on one operand, or an operand with dimensions has no index while another has.\n\nWrong: `Map(\"x[b s d] * w\")` with w f32[8].\nRight: `Map(\"x[b s d] * w[d]\")`.";
    /// The types inside a scalar expression do not fit.
    EXPR_TYPE = 309, "expression-type", "The types inside an expression do not fit: both sides of an operator have one dtype, conditions are comparisons, shifts take i32.\nConvert with `f32(x)` or `i32(x)`.";
    /// An einsum equation is malformed.
    EINSUM_EQUATION = 310, "einsum-equation", "An einsum equation reads `words, words -> words`: per operand one word per dimension, separated by spaces, and after the arrow the words of the result.\nA word stands once per operand; a word of the result stands in an operand; a word of one operand alone must be in the result (reduce it first with `Sum`).";
    /// The result has more elements or bytes than a program can address, or takes more points.
    TOO_LARGE = 311, "too-large", "A tensor would have more than 2^60 bytes, or take more than 2^60 points to compute.\nCheck the dims it is made of.";
}
