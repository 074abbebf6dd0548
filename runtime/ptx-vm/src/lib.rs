//! A PTX virtual machine: text in, buffers, findings and counters out, on any CPU.
//!
//! ```text
//! text ──parse──► ast ──decode──► Module ──launch──► memory, parameters
//!      ──execute──► grid ► clusters ► CTAs over threads ► warps in lockstep ──► Outcome
//! ```
//!
//! # Invariants
//! - Nothing from outside makes it panic: a text, a launch file or a kernel is refused, or stopped
//!   at a limit, with a code, a line and a column.
//! - An instruction it cannot execute exactly as documented is refused when the module is loaded.
//! - The thread count does not reach a result.

pub mod number;
pub mod matrix;
pub mod tensor_map;
pub mod mbarrier;
