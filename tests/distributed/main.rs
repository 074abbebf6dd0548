//! Training steps over many ranks against one rank: the same spec, the same numbers.
//!
//! Ranks are threads of this process, whose carrier keeps what it is given, or processes that MPI
//! connects.
//!
//! # Invariants
//! - A rank is given its part of every batch and nothing else; what it holds is compared with the
//!   same part, or put together and compared with all of it.

#![allow(clippy::print_stderr, reason = "a skipped check says so")]

mod deterministic;
mod fallback;
mod job;
mod kimi_k2;
mod meshes;
mod overlap;
mod routing;
mod traffic;
mod zero;

mod launched;
#[path = "../workbench/mesh_table.rs"]
mod mesh_table;
#[path = "../workbench/mod.rs"]
mod workbench;

mod faults;
mod start;
mod ladder;
mod trains;
mod two_hosts;
