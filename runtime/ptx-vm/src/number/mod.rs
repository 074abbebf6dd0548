//! Numbers as PTX understands them: formats, rounding, arithmetic, conversions, integer instructions.
//!
//! Everything here is pure and lane-level: bits in, bits out.
//! A register is passed as its bits (`u32`, `u64`); what they mean is said by a [`FloatFormat`] or an [`IntType`].
//!
//! # Invariants
//! - Results depend on the arguments alone: no host transcendental function and no host rounding mode is used,
//!   only the correctly rounded IEEE operations of Rust, so that every machine computes the same bits.
//! - Arithmetic is exact and then rounded once. The `.approx` functions are computed in f64 with an error far
//!   below half a unit of the result and then rounded once, so they lie well inside their documented bounds;
//!   a GPU's own bits differ within those bounds.
//! - A NaN result of an instruction on f32, f16, bf16 or narrower is the format's canonical NaN.

mod format;
mod exact;
pub mod half;
pub mod single;
pub mod double;
pub mod convert;
pub mod approx;
pub mod compare;
pub mod integer;

pub use exact::{Overflow, decode, encode};
pub use format::{FloatFormat, Rounding};
pub use integer::IntType;
