//! The CPU: the embedded default device.
//!
//! # Invariants
//! - Work is cut into tasks by shapes (and, for ragged steps, by the offsets); threads only
//!   choose who runs a task. No task's result depends on another's of the same step.
//! - `unsafe` is confined to [`memory`] (typed views of raw memory), [`jit`] (calling compiled
//!   code), [`pool`] (lending a closure to the workers) [`matrix`] and `transpose` (calling the GEMM library and
//!   feeding it).

pub mod attention;
pub mod attention_grad;
pub(crate) mod bind;
pub mod contract;
pub(crate) mod epilogue;
pub mod exponential;
pub mod jit;
pub mod matrix;
mod transpose;
pub mod memory;
pub mod pool;
pub mod ragged;
