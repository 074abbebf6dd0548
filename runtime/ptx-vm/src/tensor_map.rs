//! Tensor maps (TMA descriptors): from box coordinates to global addresses and shared-memory offsets.
//!
//! # Invariants
//! - Pure: coordinates in, addresses out; nothing here reads or writes memory.
