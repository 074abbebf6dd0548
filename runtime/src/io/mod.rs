//! What a run keeps on disk: weights, checkpoints, files that are there whole or not at all.
//!
//! ```text
//! checkpoint   step-N folders: save, verify, find the newest that is whole
//!   manifest   what a checkpoint holds, hash by hash
//! weights      a safetensors file, or a folder of them with an index
//!   safetensors  one file: header first, tensors on demand
//! atomic       one file, replaced whole
//!   volume     the file operations all of them are made of
//! ```
//!
//! # Invariants
//! - Nothing read is trusted before it is bounded and checked; damage is a typed error.
//! - Nothing is written in place: a temporary name, fsync, rename, fsync of the folder.

pub mod checkpoint;
mod manifest;
pub mod weights;
pub mod safetensors;
pub mod atomic;
mod volume;
