//! The loops stage: a kernel as MLIR in scf, memref, vector, arith and math.
//!
//! # Invariants
//! - Arguments are flat memories, parameters first, then results; then the range of blocks.
//! - Every result element is stored exactly once; what it needs is computed before any store of
//!   the same iteration.

mod body;
mod emit;
mod functions;
mod index;
mod memory;
mod pull;
mod reduce;
mod roots;
mod seams;
mod threads;

pub(crate) use roots::{argument_types, emit_cpu};
pub(crate) use seams::{refined, reshape_groups};
pub(crate) use threads::{SHARED_BYTES, emit_gpu};
