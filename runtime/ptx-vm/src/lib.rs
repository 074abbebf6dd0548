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
//! - The thread count does not reach the result of a kernel that has no data race and completes.

mod source;
mod codes;
mod parse;
mod module;
mod memory;
mod launch;
mod execute;
mod check;
mod count;
pub mod number;
pub mod matrix;
pub mod tensor_map;
pub mod mbarrier;

pub use check::{Checks, Finding};
pub use codes::{CODES, Explanation, explain};
pub use count::{
    Bound, Count, Counters, Cta, DEVICES, Device, Limit, MemoryUse, Mix, Occupancy, Pipe, Profile,
    RequestUse, Requests, Roofline, WorkUse,
};
pub use execute::{DEFAULT_STEP_LIMIT, Extents, Machine, Options, Outcome};
pub use launch::{
    Dtype, Expect, Init, Launch, LaunchBuffer, LaunchParam, Mismatch, OutOfBounds, SwizzleMode,
    Tolerance,
};
pub use memory::{MAX_MEMORY_BYTES, Memory};
pub use module::{Kernel, Module, Param, Space, Type};
pub use source::{LoadError, Position, Source, Span, code};
