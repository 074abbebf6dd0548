//! The chips kernels are generated for, as a table.
//!
//! # Invariants
//! - A number here comes from NVIDIA's programming guide (compute capability tables) or the chip's
//!   whitepaper; nothing else in the crate knows a chip.

use serde::Serialize;

/// What a schedule may use and what a cost estimate assumes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Target {
    /// As ptxas calls it.
    pub name: &'static str,
    /// Streaming multiprocessors.
    pub processors: u32,
    /// Clock, GHz.
    pub clock_ghz: f64,
    /// Dynamic shared memory that a block may have, bytes.
    pub block_shared_bytes: u32,
    /// Shared memory of a processor, bytes; each block also takes [`Target::reserved_bytes`].
    pub processor_shared_bytes: u32,
    /// Shared memory that the system takes of each block, bytes.
    pub reserved_bytes: u32,
    /// Threads that fit a processor.
    pub processor_threads: u32,
    /// Registers of a processor.
    pub processor_registers: u32,
    /// f32 fused multiply-adds that a processor starts per clock.
    pub fma_per_clock: u32,
    /// 16-bit multiply-adds of `mma.sync` that a processor does per clock.
    pub mma_per_clock: u32,
    /// Bytes that a processor loads from shared memory per clock.
    pub shared_bytes_per_clock: u32,
    /// Memory bandwidth, GB/s.
    pub memory_gb_per_s: f64,
    /// Instructions that newer kernels may use.
    pub features: &'static [Feature],
}

/// An ability that not every chip has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Feature {
    /// `cp.async`.
    CopyAsync,
    /// `mma.sync` on bf16.
    MmaBf16,
    /// The tensor memory accelerator and mbarriers with transaction counts.
    BulkTensorCopy,
    /// Products of four warps, `wgmma`.
    WarpgroupMma,
}

/// Every chip, the first the one that is tuned for.
pub static TARGETS: [Target; 2] = [
    Target {
        name: "sm_90a",
        processors: 132,
        clock_ghz: 1.755,
        block_shared_bytes: 232_448,
        processor_shared_bytes: 233_472,
        reserved_bytes: 1024,
        processor_threads: 2048,
        processor_registers: 65_536,
        fma_per_clock: 128,
        // wgmma reaches twice this.
        mma_per_clock: 1024,
        shared_bytes_per_clock: 128,
        memory_gb_per_s: 3350.0,
        features: &[
            Feature::CopyAsync,
            Feature::MmaBf16,
            Feature::BulkTensorCopy,
            Feature::WarpgroupMma,
        ],
    },
    Target {
        name: "sm_80",
        processors: 108,
        clock_ghz: 1.41,
        block_shared_bytes: 166_912,
        processor_shared_bytes: 167_936,
        reserved_bytes: 1024,
        processor_threads: 2048,
        processor_registers: 65_536,
        fma_per_clock: 64,
        mma_per_clock: 1024,
        shared_bytes_per_clock: 128,
        memory_gb_per_s: 1555.0,
        features: &[Feature::CopyAsync, Feature::MmaBf16],
    },
];

impl Target {
    /// The chip of a name.
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|t| t.name == name)
    }

    /// Blocks of a kernel that share a processor.
    pub fn occupancy(&self, threads: u32, registers: u32, shared_bytes: u32) -> u32 {
        let by_threads = self.processor_threads / threads.max(1);
        let by_registers = self.processor_registers / (threads * registers).max(1);
        let by_shared = self.processor_shared_bytes / (shared_bytes + self.reserved_bytes);
        by_threads.min(by_registers).min(by_shared).min(32)
    }
}
