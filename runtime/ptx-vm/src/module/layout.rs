//! Where variables and constants get their values: layouts fixed at load, addresses fixed at launch.
//!
//! # Invariants
//! - A module's variables keep the order of the text; a kernel's shared memory holds only what it reaches.

use super::types::Space;
use super::{Function, Kernel};

/// A register that keeps its value while a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    /// `%tid`, by dimension.
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtaRank,
    ClusterNctaRank,
    LaneId,
    WarpId,
    NwarpId,
    MaskEq,
    MaskLe,
    MaskLt,
    MaskGe,
    MaskGt,
    DynamicSharedBytes,
    TotalSharedBytes,
    /// Always zero here: `%smid`, `%gridid`, `%envreg`, `%current_graph_exec`.
    Zero,
    /// `%nsmid`.
    One,
}

/// Names of registers without components.
const SCALARS: [(&str, Special); 21] = [
    ("%laneid", Special::LaneId),
    ("%warpid", Special::WarpId),
    ("%nwarpid", Special::NwarpId),
    ("%lanemask_eq", Special::MaskEq),
    ("%lanemask_le", Special::MaskLe),
    ("%lanemask_lt", Special::MaskLt),
    ("%lanemask_ge", Special::MaskGe),
    ("%lanemask_gt", Special::MaskGt),
    ("%cluster_ctarank", Special::ClusterCtaRank),
    ("%cluster_nctarank", Special::ClusterNctaRank),
    ("%dynamic_smem_size", Special::DynamicSharedBytes),
    ("%total_smem_size", Special::TotalSharedBytes),
    ("%aggr_smem_size", Special::TotalSharedBytes),
    ("%smid", Special::Zero),
    ("%gridid", Special::Zero),
    ("%current_graph_exec", Special::Zero),
    ("%reserved_smem_offset_begin", Special::Zero),
    ("%reserved_smem_offset_end", Special::Zero),
    ("%reserved_smem_offset_cap", Special::Zero),
    ("%ctxid", Special::Zero),
    ("%nsmid", Special::One),
];

impl Special {
    /// The register `name`, with the component behind its dot.
    pub(crate) fn named(name: &str, member: Option<&str>) -> Option<Self> {
        let Some(member) = member else {
            if name.strip_prefix("%envreg").is_some_and(|n| n.parse::<u8>().is_ok_and(|n| n < 32)) {
                return Some(Self::Zero);
            }
            return SCALARS.iter().find(|(known, _)| *known == name).map(|(_, special)| *special);
        };
        let dim = ["x", "y", "z"].iter().position(|word| *word == member)? as u8;
        Some(match name {
            "%tid" => Self::Tid(dim),
            "%ntid" => Self::Ntid(dim),
            "%ctaid" => Self::Ctaid(dim),
            "%nctaid" => Self::Nctaid(dim),
            "%clusterid" => Self::ClusterId(dim),
            "%nclusterid" => Self::NclusterId(dim),
            "%cluster_ctaid" => Self::ClusterCtaid(dim),
            "%cluster_nctaid" => Self::ClusterNctaid(dim),
            _ => return None,
        })
    }
}

/// What fills a constant row when a frame is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u64),
    /// The address of a module variable in its space, plus bytes.
    Variable {
        index: u32,
        offset: i64,
    },
    /// The address in local memory of a place in the frame.
    Frame(i64),
    Special(Special),
}

/// An address in an initialiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relocation {
    /// Where in the variable, in bytes.
    pub(crate) at: u32,
    /// Bytes that the address takes.
    pub(crate) bytes: u8,
    pub(crate) target: RelocationTarget,
    pub(crate) addend: u64,
    pub(crate) generic: bool,
}

/// What an address in an initialiser names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelocationTarget {
    Variable(u32),
    Function(u32),
}

/// A variable of the module or declared in a function with a space that outlives calls.
#[derive(Clone, Debug)]
pub(crate) struct VariableDef {
    pub(crate) name: String,
    pub(crate) space: Space,
    pub(crate) align: u32,
    pub(crate) bytes: u32,
    /// Bytes at their offsets; the rest is zero.
    pub(crate) initial: Vec<(u32, Vec<u8>)>,
    pub(crate) relocations: Vec<Relocation>,
    /// `.extern .shared name[]`.
    pub(crate) dynamic: bool,
}

/// All variables, and the layout of constant memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    pub(crate) all: Vec<VariableDef>,
    /// Offsets in constant memory, by variable.
    pub(crate) const_offsets: Vec<u32>,
    pub(crate) const_bytes: u32,
}

/// `at` moved up to a multiple of `align`.
pub(crate) fn aligned(at: u32, align: u32) -> u32 {
    at.checked_next_multiple_of(align.max(1)).unwrap_or(u32::MAX)
}

impl Variables {
    /// Places the constant variables behind each other.
    pub(super) fn lay_out_constants(&mut self) {
        let mut at = 0;
        for variable in &self.all {
            let offset = aligned(at, variable.align);
            self.const_offsets.push(offset);
            if variable.space == Space::Const {
                at = offset.saturating_add(variable.bytes);
            }
        }
        self.const_bytes = at;
    }

    /// Places the shared variables that `kernel` reaches, and dynamic shared memory behind them.
    pub(super) fn lay_out_shared(&self, kernel: &mut Kernel, functions: &[Function]) {
        let mut reached = vec![false; functions.len()];
        let mut waiting = vec![kernel.function];
        let mut used = vec![false; self.all.len()];
        while let Some(function) = waiting.pop() {
            if std::mem::replace(&mut reached[function as usize], true) {
                continue;
            }
            let function = &functions[function as usize];
            waiting.extend(&function.callees);
            function.shared.iter().for_each(|variable| used[*variable as usize] = true);
        }
        let mut at = 0u32;
        let mut dynamic_align = 16;
        kernel.shared_offsets = vec![None; self.all.len()];
        for (index, variable) in self.all.iter().enumerate().filter(|(index, _)| used[*index]) {
            if variable.dynamic {
                dynamic_align = dynamic_align.max(variable.align);
                continue;
            }
            let offset = aligned(at, variable.align);
            kernel.shared_offsets[index] = Some(offset);
            at = offset.saturating_add(variable.bytes);
        }
        kernel.shared_bytes = at;
        kernel.dynamic_shared = aligned(at, dynamic_align);
        for (index, variable) in self.all.iter().enumerate() {
            if used[index] && variable.dynamic {
                kernel.shared_offsets[index] = Some(kernel.dynamic_shared);
            }
        }
    }
}
