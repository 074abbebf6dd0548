//! The CPU: the embedded default device.
//!
//! # Invariants
//! - Work is cut into tasks by shapes (and, for ragged steps, by the offsets); threads only
//!   choose who runs a task. No task's result depends on another's of the same step.
//! - `unsafe` is confined to [`memory`] (typed views of raw memory), [`jit`] (calling compiled
//!   code), [`pool`] (lending a closure to the workers) [`matrix`] and `transpose` (calling the GEMM library and
//!   feeding it).
//! - The kernels and the memory outlive the bound steps: they are private and dropped with them.

pub mod attention;
pub mod attention_grad;
pub(crate) mod bind;
pub mod contract;
pub(crate) mod epilogue;
pub mod exponential;
pub mod jit;
pub mod matrix;
mod transpose;
pub mod memory;
pub mod pool;
pub mod ragged;

use perilune_plan::{Entry, Plan};

use self::bind::{Binder, BoundStep};
use self::jit::Kernels;
use self::pool::Pool;
use super::host::HostMemory;
use super::{Bindings, Device, Piece, Refused, StepFailure};
use crate::RuntimeError;
use crate::profile::Counts;
use crate::session::MemoryUse;

/// A bound entry.
struct BoundEntry {
    steps: Vec<BoundStep>,
    arena_bytes: u64,
}

/// A plan on the CPU.
pub(crate) struct Cpu {
    // Dropped in this order: bound steps hold addresses in what follows.
    entries: Vec<BoundEntry>,
    pool: Pool,
    kernels: Kernels,
    memory: HostMemory,
}

impl Cpu {
    /// Compiles the plan's kernels and gets memory.
    ///
    /// # Errors
    /// A kernel that does not compile, too little memory.
    pub(crate) fn open(
        plan: &Plan,
        sizes: MemoryUse,
        threads: usize,
    ) -> Result<Self, RuntimeError> {
        let mut pool = Pool::new(threads);
        let kernels = Kernels::compile(&plan.kernels, &mut pool)?;
        Ok(Cpu { entries: Vec::new(), pool, kernels, memory: HostMemory::new(sizes)? })
    }
}

impl Device for Cpu {
    fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn code_bytes(&self) -> u64 {
        self.kernels.code_bytes()
    }

    fn bind(
        &mut self,
        plan: &Plan,
        entry: &Entry,
        (places, runs): Bindings<'_>,
    ) -> Result<(), Refused> {
        let spans = places.iter().map(|piece| self.memory.span(*piece)).collect::<Option<_>>();
        let spans = spans.ok_or_else(|| Refused {
            step: 0,
            what: "a buffer lies outside of memory".to_owned(),
        })?;
        let binder = Binder { plan, entry, spans, kernels: &self.kernels };
        let mut steps = Vec::with_capacity(entry.steps.len());
        for (step, planned) in entry.steps.iter().enumerate() {
            steps.push(match runs(planned) {
                true => binder.step(&planned.op).map_err(|what| Refused { step, what })?,
                false => BoundStep::Elsewhere,
            });
        }
        self.entries.push(BoundEntry { steps, arena_bytes: entry.arena_bytes });
        Ok(())
    }

    fn begin(&mut self, entry: usize, poison: bool) {
        if poison {
            self.memory.poison(self.entries[entry].arena_bytes);
        }
    }

    fn run(
        &mut self,
        entry: usize,
        step: usize,
        _measure: bool,
    ) -> Result<Option<Counts>, StepFailure> {
        self.entries[entry].steps[step].run(&mut self.pool)?;
        Ok(None)
    }

    fn write(&mut self, piece: Piece, bytes: &[u8]) -> Result<(), RuntimeError> {
        self.memory.set(piece, bytes);
        Ok(())
    }

    fn read(&self, piece: Piece) -> Result<Vec<u8>, RuntimeError> {
        Ok(self.memory.get(piece).to_vec())
    }
}
