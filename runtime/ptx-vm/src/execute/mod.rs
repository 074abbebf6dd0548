//! Execution: a grid as clusters over host threads, a cluster as warps in turn, a warp in lockstep.
//!
//! # Invariants
//! - A cluster runs on one host thread, its warps in a fixed order, so its outcome depends on nothing
//!   but its inputs; outcomes are put together in the order of the grid.
//! - Lanes that took different ways run as groups, the deepest call and the lowest instruction first,
//!   and meet again where their places are equal.
//! - Every loop of the machine spends steps, and steps are limited.

mod state;
mod setup;
mod grid;
mod cluster;
mod warp;
mod step;
mod call;
mod place;
mod access;
mod atomic;
mod collective;
mod barrier;
mod copy;
mod matrix;
mod wgmma;
mod mbarrier;
mod bulk;
mod measure;
mod hang;
mod order;

pub(crate) use bulk::Ending;
pub(crate) use cluster::{Engine, lanes, unravel};
pub use grid::{Machine, Options, Outcome};
pub(crate) use mbarrier::Object;
pub(crate) use place::{Place, Touch};
pub use setup::Extents;
pub(crate) use setup::Setup;
pub(crate) use state::{Busy, Copied, Frame, Warp};
pub(crate) use warp::At;
