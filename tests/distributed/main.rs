//! Training steps over many ranks against one rank: the same spec, the same numbers.
//!
//! Ranks are threads of this process; what carries their bytes keeps what it is given.
//!
//! # Invariants
//! - A rank is given its part of every batch and nothing else; what it holds is compared with the
//!   same part, or put together and compared with all of it.

mod deterministic;
mod fallback;
mod job;
mod kimi_k2;
mod meshes;
mod routing;
mod traffic;
mod zero;
