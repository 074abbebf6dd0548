//! What a launch did: instructions by place and opcode, memory requests, operations; and what that means.
//!
//! # Invariants
//! - Counting changes no result, and sums do not depend on the order of clusters.

mod access;
mod device;
mod profile;
mod work;

use crate::module::{Module, Space};
use serde::Serialize;
use std::collections::BTreeMap;

pub(crate) use access::{SECTOR_BYTES, sectors, wavefronts};
pub use device::{Cta, DEVICES, Device, Limit, Occupancy};
pub use profile::{Bound, MemoryUse, Mix, Profile, RequestUse, Roofline, WorkUse};
pub use work::Pipe;

/// Executions of an opcode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Times a warp executed it.
    pub warps: u64,
    /// Times a lane executed it.
    pub lanes: u64,
}

/// Memory requests of an instruction or a state space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requests {
    /// Requests: one for each time a warp executed the instruction, or for each bulk copy.
    pub requests: u64,
    /// Bytes that the lanes asked for.
    pub bytes: u64,
    /// Sectors of 32 bytes of global memory.
    pub sectors: u64,
    /// Wavefronts of shared memory.
    pub wavefronts: u64,
    /// Wavefronts beyond those that the width of the request needs: bank conflicts.
    pub conflicts: u64,
}

impl Requests {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.sectors += other.sectors;
        self.wavefronts += other.wavefronts;
        self.conflicts += other.conflicts;
    }
}

/// Dynamic counts of a launch.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    by_instruction: Vec<Count>,
    executed: u64,
    /// Requests by instruction and state space; empty when memory is not measured.
    requests: BTreeMap<(u32, Space), Requests>,
    /// Sectors of each buffer that were touched, a bit each.
    touched: BTreeMap<u32, Vec<u64>>,
}

impl Counters {
    pub(crate) fn new(module: &Module) -> Self {
        let by_instruction = vec![Count::default(); module.code.len()];
        Self { by_instruction, ..Self::default() }
    }

    #[inline]
    pub(crate) fn count(&mut self, pc: u32, active: u32) {
        let count = &mut self.by_instruction[pc as usize];
        count.warps += 1;
        count.lanes += u64::from(active.count_ones());
        self.executed += 1;
    }

    /// An instruction was only tried, and will be executed again.
    pub(crate) fn uncount(&mut self, pc: u32, active: u32) {
        let count = &mut self.by_instruction[pc as usize];
        count.warps -= 1;
        count.lanes -= u64::from(active.count_ones());
    }

    /// Warp instructions so far, tries included.
    pub(crate) fn executed(&self) -> u64 {
        self.executed
    }

    /// Notes a request to memory.
    pub(crate) fn request(&mut self, pc: u32, space: Space, request: &Requests) {
        self.requests.entry((pc, space)).or_default().add(request);
    }

    /// Notes that bytes of a buffer were touched.
    pub(crate) fn touch(&mut self, buffer: u32, offset: u64, bytes: u64) {
        let bits = self.touched.entry(buffer).or_default();
        for sector in offset / SECTOR_BYTES..=(offset + bytes.max(1) - 1) / SECTOR_BYTES {
            let word = (sector / 64) as usize;
            if word >= bits.len() {
                bits.resize(word + 1, 0);
            }
            bits[word] |= 1 << (sector % 64);
        }
    }

    /// Takes in the counts of another part of the grid.
    pub(crate) fn add(&mut self, other: &Self) {
        for (into, from) in self.by_instruction.iter_mut().zip(&other.by_instruction) {
            into.warps += from.warps;
            into.lanes += from.lanes;
        }
        self.executed += other.executed;
        for (key, requests) in &other.requests {
            self.requests.entry(*key).or_default().add(requests);
        }
        for (buffer, bits) in &other.touched {
            let into = self.touched.entry(*buffer).or_default();
            into.resize(into.len().max(bits.len()), 0);
            into.iter_mut().zip(bits).for_each(|(into, bits)| *into |= bits);
        }
    }

    /// Requests by state space, in all.
    #[must_use]
    pub fn memory(&self) -> BTreeMap<Space, Requests> {
        let mut found: BTreeMap<Space, Requests> = BTreeMap::new();
        for ((_, space), requests) in &self.requests {
            found.entry(*space).or_default().add(requests);
        }
        found
    }

    /// Bytes of global memory that were touched, by whole sectors, each counted once.
    #[must_use]
    pub fn footprint_bytes(&self) -> u64 {
        let sectors = self.touched.values().flatten().map(|bits| u64::from(bits.count_ones()));
        sectors.sum::<u64>() * SECTOR_BYTES
    }

    /// Everything that was executed.
    #[must_use]
    pub fn total(&self) -> Count {
        self.by_instruction.iter().fold(Count::default(), |sum, count| Count {
            warps: sum.warps + count.warps,
            lanes: sum.lanes + count.lanes,
        })
    }

    /// The mix of opcodes as typed, such as `fma.rn.f32`, in the order of the alphabet.
    #[must_use]
    pub fn mix(&self, module: &Module) -> BTreeMap<String, Count> {
        let mut found: BTreeMap<String, Count> = BTreeMap::new();
        for (pc, count) in self.by_instruction.iter().enumerate().filter(|(_, c)| c.warps > 0) {
            let entry = found.entry(module.opcode(pc).to_owned()).or_default();
            entry.warps += count.warps;
            entry.lanes += count.lanes;
        }
        found
    }

    /// Counts by line of the text.
    #[must_use]
    pub fn lines(&self, module: &Module) -> BTreeMap<u32, Count> {
        let mut found: BTreeMap<u32, Count> = BTreeMap::new();
        for (pc, count) in self.by_instruction.iter().enumerate().filter(|(_, c)| c.warps > 0) {
            let line = module.source().position(module.meta[pc].opcode.start).line;
            let entry = found.entry(line).or_default();
            entry.warps += count.warps;
            entry.lanes += count.lanes;
        }
        found
    }
}
