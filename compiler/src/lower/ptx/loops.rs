//! Loop kernels on threads.
//!
//! # See also
//! [`super::mapping`] decides; [`crate::lower::loops`] writes.

use super::{GpuKernel, mapping};
use crate::diagnostic::InternalError;
use crate::lower::loops;
use crate::program::Kernel;

/// Maps a loop kernel.
pub(super) fn map(kernel: &Kernel) -> Result<GpuKernel, InternalError> {
    let parts = mapping::decide(kernel);
    let written = loops::emit_gpu(kernel, &parts)?;
    Ok(GpuKernel {
        name: kernel.name.clone(),
        globals: String::new(),
        parameters: written.parameters,
        shared_bytes: loops::SHARED_BYTES * written.shared.len() as u32,
        shared: written.shared,
        body: written.body,
        blocks: parts.iter().map(|p| p.blocks).sum(),
        threads: mapping::THREADS,
        flops: kernel.flops(),
        numerics: numerics(&parts),
    })
}

/// What a reader must know of the arithmetic.
fn numerics(parts: &[mapping::Part]) -> String {
    let mut text = String::from(
        "f32 arithmetic, a product is contracted into the sum it feeds; exp, rsqrt and reciprocals \
         as NVIDIA's approximate instructions",
    );
    let teams = parts.iter().any(|p| matches!(p.mapping, mapping::Mapping::Rows { .. }));
    if teams {
        text.push_str(
            "; sums in f32, order fixed by extents: element i of a row goes to lane i mod 4 of \
             thread (i / 4) mod team, lanes (0+2)+(1+3), then the tail, then a butterfly over the \
             warp, then warps in pairs",
        );
    }
    text
}
