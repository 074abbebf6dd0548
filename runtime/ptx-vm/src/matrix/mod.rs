//! Matrix instructions as index functions and products: fragments, descriptors and shapes.
//!
//! # Invariants
//! - Pure: indices and values in, indices and values out; the executor fetches and stores.
