//! From text to a syntax tree whose every part knows where it stands.
//!
//! # Invariants
//! - No recursion is deeper than [`MAX_NESTING`]; nothing is allocated that the text does not hold.
//! - Names and modifiers stay slices of the text; what they mean is decided by [`crate::module`].

mod lexer;
pub(crate) mod ast;
mod cursor;
mod declaration;
mod body;
mod unit;

pub(crate) use unit::parse_unit;

/// How deep blocks, vectors and initialisers may nest.
pub(crate) const MAX_NESTING: usize = 64;

/// The longest text that is read, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 256 << 20;
