//! Perilune: model and training step in RON, compiled through MLIR, run on the CPU at hand.
//!
//! This package is the command line (`perilune`) and the facade over the compiler and the runtime;
//! it is the only place that knows both. Everything with a terminal, a clock or a file in it is
//! here, so that the compiler stays pure.
//!
//! # Invariants
//! - stdout is data, stderr is messages; exit codes are those of [`exit::Exit`].
//! - Outputs are written whole or not at all ([`perilune_runtime::io::atomic`]).

pub mod exit;
pub mod console;
mod number;
pub mod render;
pub mod loader;
pub mod library;
pub mod corpus;
pub mod metrics;
pub mod pipeline;
pub mod training;
pub mod ranks;
pub mod checkpoints;
pub mod moved;
pub mod signals;
pub mod launch;
pub mod memory;
pub mod weights;
pub mod hf;
pub mod parity;
pub mod report;
pub mod summary;
pub mod collectives;
pub mod schedule;
pub mod dot;
pub mod commands;
