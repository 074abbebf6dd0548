//! Kernels that loops over elements do not make: matrix products, products over groups of rows,
//! attention and its gradient, and what goes with them.
//!
//! A plan step is cut into [`Part`]s, one launch each ([`parts`]). For each part's [`Problem`]
//! [`choose`] takes the [`Schedule`] with the least estimated time on a [`Target`], and
//! [`generate`] writes the kernel: schedule in, MLIR out. The compiler lowers the text to PTX.
//!
//! ```text
//! StepOp ─parts─► Problem ─choose─► Choice { Schedule, estimate } ─generate─► Kernel (MLIR)
//! ```
//!
//! # Invariants
//! - A kernel is a function of problem and schedule: equal ones are the same text.
//! - No atomics and no order that depends on timing: the same operands give the same bytes.
//! - Everything data decides (groups of rows) is read on the device.
//! - This crate knows plans and nothing of MLIR but its text.

mod attention;
mod builder;
mod choose;
mod elements;
mod fragment;
mod matrix;
mod problem;
mod schedule;
mod target;
mod tile;

use perilune_plan::{DType, KernelParam};
use thiserror::Error;

pub use choose::{Choice, Estimate, candidates, choose, estimate};
pub use problem::{Argument, Part, Problem, STRIP, Work, parts};
pub use schedule::{Engine, Schedule, SharedLayout};
pub use target::{Feature, TARGETS, Target};

/// Symbol of a block's shared memory.
pub(crate) const SHARED: &str = "shared";
/// Shared memory that a kernel may declare with a fixed size; more is given at launch.
const STATIC_SHARED_BYTES: u32 = 48 * 1024;
/// Largest extent of anything a kernel counts in 32 bits, with room for a tile.
const MAX_EXTENT: u64 = 1 << 30;

/// A generated kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// What it is called before it is made unique: `contract_f32_64x48x32`.
    pub stem: String,
    /// Operations that stand in the module beside the function.
    pub globals: String,
    /// Parameters as MLIR writes them.
    pub parameters: Vec<String>,
    /// Operations of the function, without a terminator.
    pub body: String,
    /// Blocks of the grid.
    pub blocks: u64,
    /// Threads of a block.
    pub threads: u32,
    /// Shared memory of fixed size, bytes.
    pub static_shared_bytes: u32,
    /// Shared memory to be given at launch, bytes.
    pub dynamic_shared_bytes: u32,
    /// The arguments of a launch.
    pub params: Vec<KernelParam>,
    /// Floating-point operations of a launch.
    pub flops: u64,
    /// Accumulation type and order of sums, in words.
    pub numerics: String,
}

/// What a generator writes.
pub(crate) struct Body {
    text: String,
    blocks: u64,
    shared_bytes: u32,
}

/// Why there is no kernel.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KernelError {
    /// No generated kernel computes with this type.
    #[error("no generated kernel takes {0}")]
    DType(DType),
    /// The schedule does not fit the problem.
    #[error("the schedule does not fit: {0}")]
    Schedule(&'static str),
    /// More than the hardware can count.
    #[error("too large for one launch: {0}")]
    TooLarge(&'static str),
    /// No schedule of the search space fits the target.
    #[error("no schedule fits {0}")]
    NoSchedule(&'static str),
}

/// Writes the kernel of a problem.
///
/// # Errors
/// When the schedule does not fit the problem, or the problem is beyond 32-bit counting.
pub fn generate(problem: &Problem, schedule: &Schedule) -> Result<Kernel, KernelError> {
    if problem.extents().iter().any(|e| *e > MAX_EXTENT) {
        return Err(KernelError::TooLarge("an extent"));
    }
    let body = match &problem.work {
        Work::Contract(_) | Work::Ragged(_) => matrix::write(problem, schedule),
        Work::Attention(_) | Work::GradQueries(_) | Work::GradKeys(_) => {
            attention::write(problem, schedule)
        }
        Work::MaxLogit { .. } | Work::GradDelta(_) | Work::Copy { .. } => {
            elements::write(problem, schedule)
        }
    }?;
    if body.blocks > MAX_EXTENT {
        return Err(KernelError::TooLarge("the grid"));
    }
    let fixed = body.shared_bytes <= STATIC_SHARED_BYTES;
    let parameters = (0..problem.dtypes.len()).map(|i| format!("%{i}: !llvm.ptr<1>")).collect();
    Ok(Kernel {
        stem: problem.stem(),
        globals: shared_global(body.shared_bytes, fixed),
        parameters,
        body: body.text,
        blocks: body.blocks,
        threads: schedule.threads(),
        static_shared_bytes: if fixed { body.shared_bytes } else { 0 },
        dynamic_shared_bytes: if fixed { 0 } else { body.shared_bytes },
        params: problem.params(),
        flops: problem.flops(),
        numerics: numerics(problem, schedule),
    })
}

/// The block's shared memory.
fn shared_global(bytes: u32, fixed: bool) -> String {
    let (linkage, declared) = match (bytes, fixed) {
        (0, _) => return String::new(),
        (_, true) => ("internal", bytes),
        (_, false) => ("external", 0),
    };
    format!(
        "llvm.mlir.global {linkage} @{SHARED}() {{addr_space = 3 : i32, alignment = 16 : i64}} : \
         !llvm.array<{declared} x i8>\n"
    )
}

/// What a reader must know of the arithmetic.
fn numerics(problem: &Problem, schedule: &Schedule) -> String {
    let engine = match schedule {
        Schedule::Matrix { engine, .. } | Schedule::Attention { engine, .. } => match engine {
            Engine::Fma => "f32 fused multiply-adds in ascending k",
            Engine::Mma => "tensor cores, f32 accumulation over steps of 16 in ascending k",
        },
        Schedule::Elements { .. } => "f32",
    };
    let rest = match &problem.work {
        Work::Contract(_) | Work::Ragged(_) => "",
        Work::Attention(_) => {
            "; online softmax in f32 over key tiles in ascending order, 2^x as NVIDIA's \
             approximation, probabilities rounded to the operands' type"
        }
        Work::GradQueries(_) | Work::GradKeys(_) => {
            "; probabilities recomputed from the log-sum-exp, rounded to the operands' type with \
             their gradient; tiles, then heads, in ascending order"
        }
        Work::GradDelta(_) => "; element i of a row by lane i mod 32 of a warp, then a butterfly",
        Work::MaxLogit { .. } => "; maximum, NaN if one is",
        Work::Copy { .. } => "; bytes as they are",
    };
    format!("{engine}{rest}")
}
