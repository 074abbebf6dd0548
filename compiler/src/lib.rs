//! The Perilune compiler: RON specs in, a [plan](perilune_plan::Plan) out.
//!
//! Stages are functions between printable IRs, each with one type:
//!
//! ```text
//! spec (RON, spanned) → Graph → step graph → Program (MLIR, tensor level) → fused → scheduled
//!   → tiled, vectorised, bufferised loops (MLIR) → CLIF | PTX → Plan
//! ```
//!
//! # Invariants
//! - Pure: no IO, clock, environment or thread count reaches a result; files come through
//!   [`source::Loader`].
//! - After [`graph::Graph::verify`] no later stage reports a user error or panics; a broken
//!   invariant is an internal error that names its pass.
//! - Modules use only what stands above them in the list below.

pub mod autodiff;
pub mod codes;
pub mod compile;
pub mod diagnostic;
pub mod elaborate;
pub mod graph;
pub mod import;
pub mod passes;
pub mod plan;
pub mod interpret;
pub mod lower;
pub mod mlir;
pub mod ops;
pub mod program;
pub mod scalar;
pub mod sharding;
pub mod source;
pub mod stages;
pub mod syntax;
pub mod spec;
pub mod tensor;
pub mod types;

pub use compile::compile;
