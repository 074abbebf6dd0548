//! What is alive while a grid runs: warps, their diverged groups, CTAs and their barriers.
//!
//! # Invariants
//! - The groups of a warp have disjoint masks; together they are the lanes that have not exited.
//! - Rows and predicates of a frame lie at the same place for all groups at that depth, since a lane
//!   only touches its own column.

use crate::module::{Bar, Lanes};
use std::collections::{BTreeMap, VecDeque};

/// A call in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) function: u32,
    /// Where the caller goes on; its call stands before it.
    pub(crate) return_to: u32,
    /// First row of the frame.
    pub(crate) rows: u32,
    /// First predicate of the frame.
    pub(crate) preds: u32,
    /// First byte of the frame in local memory.
    pub(crate) local: u32,
}

/// Why a group does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Lets others run first.
    Yielded,
    /// Waits at a warp-wide instruction for the lanes of the mask.
    Converge {
        missing: u32,
    },
    /// Waits at a barrier of the CTA.
    Barrier {
        id: u8,
        how: Bar,
    },
    /// Waits for the cluster.
    Cluster,
    /// Waits at this instruction for what others do.
    Await(Awaited),
}

/// The rank of a CTA and an offset in its shared memory: where an object lies.
pub(crate) type Object = (u32, u32);

/// Bytes of an object.
pub(crate) const OBJECT_BYTES: u32 = 8;

/// Bytes of a copy that an mbarrier will be told of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completing {
    pub(crate) object: Object,
    pub(crate) bytes: u32,
    /// Who started the copy, and where.
    pub(crate) warp: u32,
    pub(crate) cta: u32,
    pub(crate) lane: u8,
    pub(crate) pc: u32,
}

/// What a group waits for at an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// The end of an mbarrier's phase of this parity.
    Phase { object: Object, parity: bool },
    /// The other warps of the warpgroup, at their product of this number.
    Warpgroup { target: u64 },
}

/// Products of a warp that were started with `wgmma.mma_async`.
#[derive(Debug, Default)]
pub(crate) struct Products {
    pub(crate) issued: u64,
    /// The last one's instruction.
    pub(crate) last_pc: u32,
    /// How many were issued at each commit that nobody waited for.
    pub(crate) committed: VecDeque<u64>,
    /// Registers that products in flight use, by row.
    pub(crate) busy: BTreeMap<u32, Busy>,
    /// Rows that nothing wrote since the last `wgmma.fence`.
    pub(crate) clean: Vec<bool>,
}

/// The use of a register by a product in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Busy {
    pub(crate) number: u64,
    /// As the accumulator, not as an operand.
    pub(crate) accumulates: bool,
    pub(crate) pc: u32,
}

/// Lanes of a warp that run together.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) mask: u32,
    pub(crate) pc: u32,
    pub(crate) frames: Vec<Frame>,
    pub(crate) state: State,
}

impl Group {
    /// The innermost frame.
    #[inline]
    pub(crate) fn frame(&self) -> Frame {
        self.frames[self.frames.len() - 1]
    }

    pub(crate) fn is_at_same_place(&self, other: &Self) -> bool {
        self.pc == other.pc && self.frames == other.frames
    }
}

/// A copy that was started and not yet waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied {
    pub(crate) lane: u8,
    /// Where in shared memory, and how many bytes.
    pub(crate) at: u32,
    pub(crate) bytes: u8,
    pub(crate) pc: u32,
}

/// 32 threads.
#[derive(Debug, Default)]
pub(crate) struct Warp {
    /// Number in the CTA.
    pub(crate) index: u32,
    /// Rank of the CTA in the cluster.
    pub(crate) cta: u32,
    pub(crate) rows: Vec<Lanes>,
    pub(crate) preds: Vec<u32>,
    pub(crate) carry: u32,
    pub(crate) groups: Vec<Group>,
    /// Lanes that exist.
    pub(crate) born: u32,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    /// Local memory of each lane.
    pub(crate) local: Vec<Vec<u8>>,
    /// `cp.async` copies since the last commit, and the groups committed before with the lanes that
    /// have not waited for them.
    pub(crate) open_copies: Vec<Copied>,
    pub(crate) copy_groups: VecDeque<(u32, Vec<Copied>)>,
    pub(crate) products: Products,
    /// Lanes for which a row or predicate has a value; empty when registers are not checked.
    pub(crate) row_known: Vec<u32>,
    pub(crate) pred_known: Vec<u32>,
    /// By lane, which bytes of local memory have a value.
    pub(crate) local_known: Vec<Vec<bool>>,
}

impl Warp {
    /// Takes the lanes of `mask` out of a group into a new one at `pc`.
    pub(crate) fn split(&mut self, group: usize, mask: u32, pc: u32) -> usize {
        let frames = self.groups[group].frames.clone();
        self.groups[group].mask &= !mask;
        self.groups.push(Group { mask, pc, frames, state: State::Ready });
        self.groups.len() - 1
    }

    /// Drops groups without lanes.
    pub(crate) fn drop_empty(&mut self) {
        self.groups.retain(|group| group.mask != 0);
    }
}

/// A barrier of the CTA.
#[derive(Clone, Debug, Default)]
pub(crate) struct Barrier {
    /// Lanes that arrived, by warp.
    pub(crate) arrived: Vec<u32>,
    /// Threads that complete it, if an instruction said so.
    pub(crate) threads: Option<u32>,
    pub(crate) votes: u32,
    pub(crate) against: u32,
    /// The instruction that arrived first.
    pub(crate) pc: u32,
}

impl Barrier {
    pub(crate) fn is_open(&self) -> bool {
        self.arrived.iter().any(|lanes| *lanes != 0)
    }
}

/// Descriptors of the products that not all warps of a warpgroup have come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Descriptors {
    /// Products before the first of these.
    pub(crate) before: u64,
    /// Of A, 0 where it lies in registers, and of B; and the warp that came first.
    pub(crate) given: VecDeque<([u64; 2], u32)>,
}

/// A block of threads.
#[derive(Debug, Default)]
pub(crate) struct Cta {
    /// Position in the grid.
    pub(crate) id: [u32; 3],
    pub(crate) shared: Vec<u8>,
    pub(crate) warps: Vec<Warp>,
    pub(crate) barriers: Vec<Barrier>,
    /// By warpgroup.
    pub(crate) descriptors: Vec<Descriptors>,
    /// Lanes that have not exited, by warp.
    pub(crate) live: Vec<u32>,
    /// Lanes that arrived at the cluster barrier's current phase, by warp.
    pub(crate) cluster_arrived: Vec<u32>,
    /// Lanes whose phase has ended and that have not waited for it yet.
    pub(crate) cluster_passed: Vec<u32>,
}

/// The position of `index` in a box, the first dimension running fastest.
pub(crate) fn unravel(index: u64, extents: [u32; 3]) -> [u32; 3] {
    let [x, y, _] = extents.map(u64::from);
    [(index % x) as u32, (index / x % y) as u32, (index / x / y) as u32]
}
