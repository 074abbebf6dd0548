//! Combiners of reductions in f64, for whoever evaluates them.
//!
//! # See also
//! [`crate::interpret`] evaluates kernels.

use super::Combine;
use crate::types::DType;

/// The identity of a combiner for an element type.
pub(crate) fn identity(combine: Combine, dtype: DType) -> f64 {
    match (combine, dtype) {
        (Combine::Sum, _) => 0.0,
        (Combine::Max, DType::i32) => f64::from(i32::MIN),
        (Combine::Min, DType::i32) => f64::from(i32::MAX),
        (Combine::Max, DType::i1) => 0.0,
        (Combine::Min, DType::i1) => 1.0,
        (Combine::Max, _) => f64::NEG_INFINITY,
        (Combine::Min, _) => f64::INFINITY,
    }
}

/// What was combined so far with one more element. i32 sums wrap; NaN stays.
pub(crate) fn combine(how: Combine, dtype: DType, old: f64, value: f64) -> f64 {
    match how {
        Combine::Sum if dtype == DType::i32 => f64::from((old as i32).wrapping_add(value as i32)),
        Combine::Sum => old + value,
        Combine::Max if value > old || value.is_nan() => value,
        Combine::Min if value < old || value.is_nan() => value,
        Combine::Max | Combine::Min => old,
    }
}
