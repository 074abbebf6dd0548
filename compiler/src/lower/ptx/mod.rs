//! PTX for NVIDIA GPUs, of loop, serial and generated kernels.
//!
//! # Invariants
//! - One pointer parameter per kernel argument; the grid is the blocks, along x.
//! - What a thread computes depends on shapes alone; reductions across threads are butterflies in
//!   a fixed order.
//! - The text needs no library and no linking.

mod assemble;
mod generated;
mod loops;
pub(crate) mod mapping;
mod serial;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

pub(crate) use assemble::{to_nvvm, to_ptx};

use crate::diagnostic::InternalError;
use crate::lower::serial as serial_loops;
use crate::mlir::Mlir;
use crate::program::Kernel;

/// A GPU architecture PTX is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chip {
    /// As ptxas calls it.
    pub(crate) name: &'static str,
    /// Features of LLVM's backend: the PTX version.
    pub(crate) features: &'static str,
}

/// NVIDIA Hopper with its architecture-specific instructions.
pub(crate) const SM_90A: Chip = Chip { name: "sm_90a", features: "+ptx80" };
/// NVIDIA Ampere.
pub(crate) const SM_80: Chip = Chip { name: "sm_80", features: "+ptx80" };

/// Asks ptxas for one block per processor at least: left alone it aims at more and spills for it.
const ROOM_FOR_REGISTERS: &str = "nvvm.minctasm = 1 : i32";
/// Threads of a warp.
pub(crate) const WARP: u32 = 32;

/// A kernel in the gpu dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GpuKernel {
    /// Symbol.
    pub(crate) name: String,
    /// Operations beside the function, as MLIR writes them.
    pub(crate) globals: String,
    /// Parameters as MLIR writes them: flat memories.
    pub(crate) parameters: Vec<String>,
    /// Memory of a block, as MLIR writes it.
    pub(crate) shared: Vec<String>,
    /// Bytes of that memory.
    pub(crate) shared_bytes: u32,
    /// Operations, without a terminator; thread and block numbers included.
    pub(crate) body: String,
    /// Number of blocks (CTAs).
    pub(crate) blocks: u64,
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Additions or comparisons of one launch.
    pub(crate) flops: u64,
    /// Accumulation type and reduction order, in words.
    pub(crate) numerics: String,
}

impl GpuKernel {
    /// The kernel as a module of its own.
    pub(crate) fn as_module(&self) -> String {
        let workgroup = match self.shared.as_slice() {
            [] => String::new(),
            all => format!(" workgroup({})", all.join(", ")),
        };
        let mut out = String::from("module attributes {gpu.container_module} {\n");
        let _ = writeln!(out, "gpu.module @kernels {{");
        out.push_str(&self.globals);
        let _ = writeln!(
            out,
            "gpu.func @{}({}){} kernel attributes {{known_block_size = array<i32: {}, 1, 1>, \
             {ROOM_FOR_REGISTERS}}} {{",
            self.name,
            self.parameters.join(", "),
            workgroup,
            self.threads
        );
        let _ = writeln!(out, "{}gpu.return\n}}\n}}\n}}", self.body);
        out
    }
}

/// Maps a kernel to threads.
///
/// # Errors
/// When the kernel holds a plan step or breaks an invariant.
pub(crate) fn map(kernel: &Kernel) -> Result<GpuKernel, InternalError> {
    check_symbol(&kernel.name)?;
    if serial_loops::serial_op(kernel).is_some() {
        return serial::map(kernel);
    }
    loops::map(kernel)
}

/// A generated kernel under a name.
///
/// # Errors
/// When the name cannot be one in PTX.
pub(crate) fn map_generated(
    kernel: &perilune_kernels::Kernel,
    name: String,
) -> Result<GpuKernel, InternalError> {
    generated::map(kernel, name)
}

/// PTX of a mapped kernel.
///
/// # Errors
/// When a pass refuses it.
pub(crate) fn assemble(
    mlir: &Mlir,
    kernel: &GpuKernel,
    chip: &Chip,
) -> Result<String, InternalError> {
    let mut module = mlir.parse("ptx", &kernel.as_module())?;
    to_nvvm(mlir, &mut module, chip)?;
    to_ptx(mlir, &mut module)
}

/// PTX names are letters, digits, `_` and `$`; any other would be mangled.
fn check_symbol(name: &str) -> Result<(), InternalError> {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if first && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Ok(());
    }
    Err(InternalError::new("ptx", format!("`{name}` is not a PTX name")))
}
