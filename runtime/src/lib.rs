//! The runtime: executes a plan on the device at hand, and owns what a training run keeps.
//!
//! ```text
//! Plan ──Session::new──► kernels compiled, memory laid out, every view bounded
//!        Session::run──► feeds in, steps in order on the pool, fetches out
//! ```
//!
//! # Invariants
//! - Needs neither LLVM nor CUDA; it knows the plan's types, the PTX virtual machine and nothing of
//!   the compiler.
//! - Results do not depend on the number of threads: work is cut by shapes alone.
//! - Data from outside (plans, feeds, files) gives typed errors, never a panic.
//! - `unsafe` lives in [`device`] and in the calls to MPI and NCCL, each block with its reason.
//!
//! A kernel's text is machine code in waiting: running a plan means trusting whoever wrote it as
//! one trusts a shared library.

pub mod device;
pub mod comm;
pub mod io;
pub mod data;
mod error;
pub mod profile;
pub mod calibrate;
mod session;
pub mod shards;
mod tensor;

pub use device::DeviceKind;
pub use error::{KernelFindings, RuntimeError};
pub use perilune_ptx_vm::{Checks, DEFAULT_STEP_LIMIT, Finding};
pub use session::{Fetches, MemoryUse, Options, Session};
pub use tensor::HostTensor;
