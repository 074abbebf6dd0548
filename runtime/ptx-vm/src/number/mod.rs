//! Numbers as PTX means them: formats, conversions, rounding, saturation and the `.approx` functions.
//!
//! # Invariants
//! - Pure: bits in, bits out; no memory, no warp, no global state.
//! - Deterministic: no call into the host's libm decides a bit.
