//! The spec: what was typed, every part with its place.
//!
//! # Invariants
//! - Readers report every mistake of a file in one run and carry on.
//! - Files come through [`crate::source::Loader`]; a path never leaves the root.

pub mod block;
pub mod files;
pub mod names;
pub mod nodes;
pub mod optimizer;
pub mod read;
pub mod suggest;
pub use crate::syntax;
pub mod train;
