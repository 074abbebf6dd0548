//! Lowering: a tensor-level kernel to loops (MLIR) and on to CLIF or PTX text.
//!
//! Each step decides in Rust, records what it decided as attributes, and hands MLIR text to the
//! next: `tile` (extents to blocks, rows and lanes) → `loops` (scf, memref, vector, arith, math,
//! cleaned by upstream canonicalize, cse and licm) → `clif` or `ptx`.
//!
//! # Invariants
//! - Arguments of a lowered kernel are the kernel's parameters in order, then its results.
//! - Blocks are independent, and blocks, lanes and reduction orders depend on shapes alone.
//! - Contractions, ragged products and attention are plan steps; asking to lower them is an error.

mod clif;
mod loops;
mod ptx;
mod serial;
pub mod text;
mod tiling;

use std::borrow::Cow;

use indexmap::IndexSet;
use melior::ir::Module;
use perilune_kernels::{Choice, Problem};
use perilune_plan::{KernelParam, SharedMemory};

use crate::diagnostic::InternalError;
use crate::mlir::Mlir;
use crate::passes::bufferise::is_alias;
use crate::program::{Kernel, OpKind, Program};
use tiling::Tiling;

/// What a kernel is lowered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// CLIF text for Cranelift 0.135, 128-bit vectors.
    Cpu,
    /// PTX for NVIDIA Hopper.
    Sm90a,
    /// PTX for NVIDIA Ampere.
    Sm80,
}

impl Target {
    /// Every one.
    pub const ALL: [Target; 3] = [Target::Cpu, Target::Sm90a, Target::Sm80];

    /// The target of a name.
    pub fn named(name: &str) -> Option<Target> {
        Target::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Its name in a plan.
    pub fn name(self) -> &'static str {
        match self {
            Target::Cpu => "cpu",
            Target::Sm90a => "sm_90a",
            Target::Sm80 => "sm_80",
        }
    }

    /// Whether its contractions run epilogues on their rows.
    pub fn runs_epilogues(self) -> bool {
        match self {
            Target::Cpu => true,
            Target::Sm90a | Target::Sm80 => false,
        }
    }

    /// The chip; `None` for the CPU.
    fn chip(self) -> Option<&'static ptx::Chip> {
        match self {
            Target::Cpu => None,
            Target::Sm90a => Some(&ptx::SM_90A),
            Target::Sm80 => Some(&ptx::SM_80),
        }
    }
}

/// A lowered kernel, ready for a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Lowered {
    /// The kernel's name, and as an epilogue its rows.
    pub name: String,
    /// CLIF or PTX.
    pub text: String,
    /// The loops stage, as MLIR.
    pub loops: String,
    /// Number of independent blocks.
    pub blocks: u64,
    /// Threads per block; 1 on the CPU.
    pub threads: u32,
    /// Memory that a block's threads share; none on the CPU.
    pub shared: SharedMemory,
    /// Arguments: the kernel's parameters, then its results.
    pub params: Vec<KernelParam>,
    /// Floating-point operations of one launch.
    pub flops: u64,
    /// Bytes moved if every operand is touched once.
    pub bytes: u64,
    /// Accumulation type and reduction order, in words.
    pub numerics: String,
}

/// Upstream passes that clean the loops.
const CLEAN: &str = "builtin.module(func.func(canonicalize,cse,loop-invariant-code-motion,cse))";

/// Whether a kernel becomes code here: not a renaming of its operand, and not a plan step.
pub fn is_loop_kernel(kernel: &Kernel) -> bool {
    use crate::program::DialectOp as D;
    let step = |kind: &OpKind| match kind {
        OpKind::Contract(_) => true,
        OpKind::Dialect(op) => match op {
            D::Attention { .. }
            | D::AttentionGrad { .. }
            | D::RaggedRows { .. }
            | D::RaggedOuter
            | D::Collective(_) => true,
            D::TopK { .. }
            | D::ArgSort { .. }
            | D::Histogram { .. }
            | D::CumSum { .. }
            | D::ScatterAdd { .. } => false,
        },
        OpKind::Generic(_)
        | OpKind::Slice(_)
        | OpKind::Concat(_)
        | OpKind::Pad { .. }
        | OpKind::Reshape
        | OpKind::Constant(_) => false,
    };
    !is_alias(kernel) && !kernel.ops.iter().any(|op| step(&op.kind))
}

/// The kernels that become code, in order of first use, each once for every number of rows that it
/// runs on as an epilogue.
pub fn loop_kernels(program: &Program, target: Target) -> IndexSet<(u32, Option<u64>)> {
    let calls = program.entries.iter().flat_map(|e| &e.calls);
    let used = calls.map(|c| (c.kernel, c.epilogue.filter(|_| target.runs_epilogues())));
    used.filter(|(number, _)| is_loop_kernel(&program.kernels[*number as usize])).collect()
}

/// Lowers a loop or serial kernel; with `rows`, as an epilogue: one block for each of the rows that
/// lead its results.
///
/// # Errors
/// When the kernel holds an op that is a plan step (contractions, attention), has no such rows, or
/// an invariant of it is broken.
pub fn lower_as(
    mlir: &Mlir,
    kernel: &Kernel,
    rows: Option<u64>,
    target: Target,
) -> Result<Lowered, InternalError> {
    match target.chip() {
        None => lower_cpu(mlir, &named(kernel, rows), rows),
        Some(chip) => lower_gpu(mlir, kernel, chip),
    }
}

/// A kernel under the name that it has as an epilogue on this many rows.
pub(crate) fn named(kernel: &Kernel, rows: Option<u64>) -> Cow<'_, Kernel> {
    match rows {
        None => Cow::Borrowed(kernel),
        Some(n) => {
            let name = format!("{}_by_{n}", kernel.name);
            Cow::Owned(Kernel { name, ..kernel.clone() })
        }
    }
}

/// Lowers a loop or serial kernel that is launched on its own.
///
/// # Errors
/// As [`lower_as`].
pub fn lower_kernel(
    mlir: &Mlir,
    kernel: &Kernel,
    target: Target,
) -> Result<Lowered, InternalError> {
    lower_as(mlir, kernel, None, target)
}

/// The loops stage of a kernel.
struct CpuLoops<'c> {
    module: Module<'c>,
    blocks: u64,
    flops: u64,
    numerics: String,
}

/// Loops over blocks, of a row each if `rows` are given; cleaned upstream.
fn cpu_loops<'c>(
    mlir: &'c Mlir,
    kernel: &Kernel,
    rows: Option<u64>,
) -> Result<CpuLoops<'c>, InternalError> {
    let (text, blocks, flops, numerics) = if serial::serial_op(kernel).is_some() {
        let serial = serial::emit(kernel, serial::Grain::Core)?;
        (serial.as_func(&kernel.name), serial.units, serial.flops, serial.numerics)
    } else {
        let (refined, tiling) = tiled(kernel, rows)?;
        let text = loops::emit_cpu(&refined, &tiling)?;
        (text, tiling.blocks, kernel.flops(), numerics(kernel))
    };
    let mut module = mlir.parse("loops", &text)?;
    mlir.run("loops", &mut module, CLEAN)?;
    Ok(CpuLoops { module, blocks, flops, numerics })
}

/// Loops, then CLIF.
fn lower_cpu(mlir: &Mlir, kernel: &Kernel, rows: Option<u64>) -> Result<Lowered, InternalError> {
    let CpuLoops { module, blocks, flops, numerics } = cpu_loops(mlir, kernel, rows)?;
    let params = kernel_params(kernel);
    Ok(Lowered {
        name: kernel.name.clone(),
        loops: mlir.print("loops", &module)?,
        text: clif::emit_clif(&module, &kernel.name)?,
        blocks,
        threads: 1,
        shared: SharedMemory::default(),
        bytes: params.iter().map(|p| p.elems * p.dtype.bytes()).sum(),
        params,
        flops,
        numerics,
    })
}

/// A kernel with its results split as its loops want them, and its tiling.
fn tiled(kernel: &Kernel, rows: Option<u64>) -> Result<(Kernel, Tiling), InternalError> {
    let refined = loops::refined(kernel);
    let Some(rows) = rows else {
        let tiling = Tiling::decide(&refined);
        return Ok((refined, tiling));
    };
    // Results may be split in different places; their rows are the same when they are not.
    if let Some(tiling) = Tiling::by_rows(&refined, rows) {
        return Ok((refined, tiling));
    }
    let tiling = Tiling::by_rows(kernel, rows);
    let broken = || InternalError::new("tile", format!("`{}` has not {rows} rows", kernel.name));
    Ok((kernel.clone(), tiling.ok_or_else(broken)?))
}

/// Threads and blocks in the gpu dialect, then PTX.
fn lower_gpu(mlir: &Mlir, kernel: &Kernel, chip: &ptx::Chip) -> Result<Lowered, InternalError> {
    let mapped = ptx::map(kernel)?;
    let params = kernel_params(kernel);
    Ok(Lowered {
        name: kernel.name.clone(),
        text: ptx::assemble(mlir, &mapped, chip)?,
        loops: mapped.as_module(),
        blocks: mapped.blocks,
        threads: mapped.threads,
        shared: SharedMemory { static_bytes: mapped.shared_bytes, dynamic_bytes: 0 },
        bytes: params.iter().map(|p| p.elems * p.dtype.bytes()).sum(),
        params,
        flops: mapped.flops,
        numerics: mapped.numerics,
    })
}

/// A kernel that `kernels-gen` writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Its symbol.
    pub name: String,
    /// What it computes.
    pub problem: Problem,
    /// By which schedule, and why.
    pub choice: Choice,
}

impl Generated {
    /// Its text, as MLIR.
    ///
    /// # Errors
    /// When the schedule does not fit the problem.
    pub fn kernel(&self) -> Result<perilune_kernels::Kernel, InternalError> {
        perilune_kernels::generate(&self.problem, &self.choice.schedule)
            .map_err(|e| InternalError::new("ptx", format!("{}: {e}", self.name)))
    }
}

/// Writes a generated kernel and lowers it.
///
/// # Errors
/// When there is no such kernel, or the target is the CPU.
pub fn lower_generated(
    mlir: &Mlir,
    generated: &Generated,
    target: Target,
) -> Result<Lowered, InternalError> {
    let chip = target.chip().ok_or_else(|| InternalError::new("ptx", "a CPU has no grid"))?;
    let kernel = generated.kernel()?;
    let mapped = ptx::map_generated(&kernel, generated.name.clone())?;
    Ok(Lowered {
        name: generated.name.clone(),
        text: ptx::assemble(mlir, &mapped, chip)?,
        loops: mapped.as_module(),
        blocks: kernel.blocks,
        threads: kernel.threads,
        shared: SharedMemory {
            static_bytes: kernel.static_shared_bytes,
            dynamic_bytes: kernel.dynamic_shared_bytes,
        },
        bytes: kernel.params.iter().map(|p| p.elems * p.dtype.bytes()).sum(),
        params: kernel.params,
        flops: kernel.flops,
        numerics: kernel.numerics,
    })
}

/// The arguments of a launch.
fn kernel_params(kernel: &Kernel) -> Vec<KernelParam> {
    let inputs = kernel.params.len();
    loops::argument_types(kernel)
        .into_iter()
        .enumerate()
        .map(|(i, ty)| KernelParam { dtype: ty.dtype, elems: ty.elems(), written: i >= inputs })
        .collect()
}

/// What a reader must know of the arithmetic.
fn numerics(kernel: &Kernel) -> String {
    let reduces =
        kernel.ops.iter().any(|op| matches!(&op.kind, OpKind::Generic(g) if g.combine.is_some()));
    let order = "; sums in f32, order fixed by extents: along contiguous memory lane i mod 4 of \
                 accumulator (i / 4) mod unroll, accumulators in pairs, lanes (0+2)+(1+3), then the \
                 tail; otherwise ascending";
    format!(
        "f32 arithmetic, a product is contracted into the sum it feeds{}",
        if reduces { order } else { "" }
    )
}
