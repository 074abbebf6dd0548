//! Matrix instructions as index functions and products: fragments, descriptors and shapes.
//!
//! # Numerics
//! Products are exact and are added in f64, the accumulator first, then along k in ascending order; the sum
//! is rounded once, to nearest even, to the format of the result.
//! f64 instructions use fused multiply-adds along k; integer ones are exact and wrap, or clamp with `.satfinite`.
//! Tensor cores align the products of a step and cut digits off below the largest one (about 24 to 27 bits
//! are kept), so that a GPU's result of one instruction differs by up to a few units of 2⁻²³ times the largest
//! product or accumulator: compare with the tolerance `k · 2⁻²³ · max|a·b|` per instruction of depth k.
//!
//! # Invariants
//! - Pure: indices and values in, indices and values out; the executor fetches and stores.

pub mod fragment;
pub mod product;
mod swizzle;
pub mod descriptor;

pub use descriptor::{Descriptor, Major};
pub use product::{Accumulator, Element, Mma, ShapeError, Wgmma};
pub use swizzle::Swizzle;
