//! Execution: a grid as clusters over host threads, a cluster as warps in turn, a warp in lockstep.
//!
//! # Invariants
//! - A cluster runs on one host thread, its warps in a fixed order, so its outcome depends on nothing
//!   but its inputs; outcomes are put together in the order of the grid.
//! - Lanes that took different ways run as groups, the deepest call and the lowest instruction first,
//!   and meet again where their places are equal.
//! - Every loop of the machine spends steps, and steps are limited.

// Each uses only what stands above it.
mod state;
mod lanes;
mod setup;
mod engine;
mod place;
mod access;
mod measure;
mod atomic;
mod collective;
mod copy;
mod matrix;
mod wgmma;
mod mbarrier;
mod bulk;
mod barrier;
mod call;
mod step;
mod warp;
mod hang;
mod cluster;
mod order;
mod grid;

pub(crate) use bulk::Ending;
pub(crate) use engine::Engine;
pub use grid::{Machine, Outcome};
pub(crate) use lanes::{At, lanes};
pub(crate) use place::{Place, Touch};
pub(crate) use setup::Setup;
pub use setup::{DEFAULT_STEP_LIMIT, Extents, Options};
pub(crate) use state::{Busy, Copied, Frame, Object, Warp, unravel};
