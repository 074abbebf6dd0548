//! Schedules: how a kernel is cut over blocks, warps and stages, as data.
//!
//! # Invariants
//! - A schedule changes no operand and no order of summation along a block's `k` other than what
//!   [`Engine`] declares.
//! - It prints as RON and reads back.

use serde::{Deserialize, Serialize};

/// Who multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Engine {
    /// CUDA cores: f32 products and sums, contracted into fused multiply-adds in ascending `k`.
    Fma,
    /// Tensor cores, `mma.sync.m16n8k16`: bf16 or f16 operands, f32 accumulation.
    Mma,
}

/// How tiles lie in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SharedLayout {
    /// Rows padded to an odd number of 16-byte chunks: no bank conflicts for `ldmatrix`.
    Padded,
}

/// How one kernel is cut.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Schedule {
    /// A matrix product: a block computes a tile of the result, its warps parts of it.
    Matrix {
        /// Who multiplies.
        engine: Engine,
        /// Rows, columns and contracted elements of a block's tile.
        tile: [u32; 3],
        /// Warps along rows and columns.
        warps: [u32; 2],
        /// Tiles of the operands in shared memory at once.
        stages: u32,
        /// How they lie there.
        layout: SharedLayout,
    },
    /// Attention: a block takes queries (forward, their gradient) or keys (theirs) and walks over
    /// the others.
    Attention {
        /// Who multiplies.
        engine: Engine,
        /// Query positions of a tile.
        queries: u32,
        /// Key positions of a tile.
        keys: u32,
        /// Warps along the positions that the block owns and along the others.
        warps: [u32; 2],
        /// How tiles lie in shared memory.
        layout: SharedLayout,
    },
    /// Independent elements, or rows taken by warps.
    Elements {
        /// Threads of a block.
        threads: u32,
        /// Elements of an access.
        vector: u32,
    },
}

impl Schedule {
    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        match self {
            Schedule::Matrix { warps, .. } | Schedule::Attention { warps, .. } => {
                warps[0] * warps[1] * 32
            }
            Schedule::Elements { threads, .. } => *threads,
        }
    }
}
