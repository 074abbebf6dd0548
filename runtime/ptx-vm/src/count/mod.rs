//! What was executed: by instruction, from which the mix by opcode follows.

use crate::module::Module;
use std::collections::BTreeMap;

/// Executions of an opcode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Times a warp executed it.
    pub warps: u64,
    /// Times a lane executed it.
    pub lanes: u64,
}

/// Dynamic counts of a launch.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    by_instruction: Vec<Count>,
    executed: u64,
}

impl Counters {
    pub(crate) fn new(module: &Module) -> Self {
        Self { by_instruction: vec![Count::default(); module.code.len()], executed: 0 }
    }

    #[inline]
    pub(crate) fn count(&mut self, pc: u32, active: u32) {
        let count = &mut self.by_instruction[pc as usize];
        count.warps += 1;
        count.lanes += u64::from(active.count_ones());
        self.executed += 1;
    }

    /// Warp instructions so far.
    pub(crate) fn executed(&self) -> u64 {
        self.executed
    }

    /// Takes in the counts of another part of the grid.
    pub(crate) fn add(&mut self, other: &Self) {
        for (into, from) in self.by_instruction.iter_mut().zip(&other.by_instruction) {
            into.warps += from.warps;
            into.lanes += from.lanes;
        }
        self.executed += other.executed;
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
