//! Generated kernels as GPU functions.
//!
//! # See also
//! [`perilune_kernels`] writes them.

use perilune_kernels::Kernel;

use super::{GpuKernel, check_symbol};
use crate::diagnostic::InternalError;

/// The kernel under a name.
pub(super) fn map(kernel: &Kernel, name: String) -> Result<GpuKernel, InternalError> {
    check_symbol(&name)?;
    Ok(GpuKernel {
        name,
        globals: kernel.globals.clone(),
        parameters: kernel.parameters.clone(),
        shared: Vec::new(),
        shared_bytes: kernel.static_shared_bytes,
        body: kernel.body.clone(),
        blocks: kernel.blocks,
        threads: kernel.threads,
        flops: kernel.flops,
        numerics: kernel.numerics.clone(),
    })
}
