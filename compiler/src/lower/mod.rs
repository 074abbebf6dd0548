//! Lowering: a tensor-level kernel to loops (MLIR) and on to CLIF or PTX text.
//!
//! Each step decides in Rust, records what it decided as attributes, and hands MLIR text to the
//! next: `tile` (extents to blocks, rows and lanes) → `loops` (scf, memref, vector, arith, math,
//! cleaned by upstream canonicalize, cse and licm) → `clif` or `ptx`.
//!
//! # Invariants
//! - Arguments of a lowered kernel are the kernel's parameters in order, then its results.
//! - Blocks are independent, and blocks, lanes and reduction orders depend on shapes alone.
//! - Contractions, ragged products and attention are plan steps; asking to lower them is an error.

mod serial;

use perilune_plan::KernelParam;

use crate::diagnostic::InternalError;
use crate::mlir::Mlir;
use crate::program::Kernel;

/// What a kernel is lowered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// CLIF text for Cranelift 0.135, 128-bit vectors.
    Cpu,
    /// PTX for NVIDIA Hopper.
    Sm90a,
}

/// A lowered kernel, ready for a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// CLIF or PTX.
    pub text: String,
    /// The loops stage, as MLIR.
    pub loops: String,
    /// Number of independent blocks.
    pub blocks: u64,
    /// Threads per block; 1 on the CPU.
    pub threads: u32,
    /// Arguments: the kernel's parameters, then its results.
    pub params: Vec<KernelParam>,
    /// Floating-point operations of one launch.
    pub flops: u64,
    /// Bytes moved if every operand is touched once.
    pub bytes: u64,
    /// Accumulation type and reduction order, in words.
    pub numerics: String,
}

/// Lowers a loop or serial kernel.
///
/// # Errors
/// When the kernel holds an op that is a plan step (contractions, attention), or an invariant of
/// the kernel is broken.
pub fn lower_kernel(
    mlir: &Mlir,
    kernel: &Kernel,
    target: Target,
) -> Result<Lowered, InternalError> {
    let _ = (mlir, target);
    Err(InternalError::new("lower", format!("kernel `{}` has no loops yet", kernel.name)))
}
