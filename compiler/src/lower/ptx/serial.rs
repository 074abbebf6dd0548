//! Serial kernels on threads: one unit each.
//!
//! # Invariants
//! - Thread `t` of block `b` runs unit `b · threads + t`, if there is one.

use std::fmt::Write as _;

use super::{GpuKernel, WARP};
use crate::diagnostic::InternalError;
use crate::lower::serial::{self, Grain};
use crate::program::Kernel;

/// Most threads of a block: few, so that few units spread over many processors.
const MAX_THREADS: u64 = 128;

/// Maps a serial kernel.
pub(super) fn map(kernel: &Kernel) -> Result<GpuKernel, InternalError> {
    let loops = serial::emit(kernel, Grain::Thread)?;
    let warp = u64::from(WARP);
    let threads = loops.units.clamp(1, MAX_THREADS).next_multiple_of(warp);
    let mut body = String::new();
    let _ = write!(
        body,
        "%block = gpu.block_id x\n\
         %thread = gpu.thread_id x\n\
         %threads = arith.constant {threads} : index\n\
         %units = arith.constant {} : index\n\
         %one = arith.constant 1 : index\n\
         %first = arith.muli %block, %threads overflow<nsw, nuw> : index\n\
         %block_begin = arith.addi %first, %thread overflow<nsw, nuw> : index\n\
         %next = arith.addi %block_begin, %one overflow<nsw, nuw> : index\n\
         %block_end = arith.minsi %next, %units : index\n",
        loops.units
    );
    body.push_str(&loops.body);
    Ok(GpuKernel {
        name: kernel.name.clone(),
        globals: String::new(),
        parameters: loops.parameters,
        shared: Vec::new(),
        shared_bytes: 0,
        body,
        blocks: loops.units.div_ceil(threads),
        threads: threads as u32,
        flops: loops.flops,
        numerics: loops.numerics,
    })
}
