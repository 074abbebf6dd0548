//! Decoded instructions of the tensor cores and of the asynchronous engines.
//!
//! # Invariants
//! - Shapes, types and limits that the text fixes were checked when it was decoded.

use super::op::{Address, List, Literal, Order, Pred, Row, Scope};
use crate::matrix::{Major, Mma, Wgmma};
use crate::tensor_map::{Field, Reduction, TensorType};

/// An instruction of a whole warp on 8 × 8 or larger matrices.
#[derive(Clone, Debug)]
pub(crate) enum MatrixOp {
    Mma {
        mma: Mma,
        d: List,
        a: List,
        b: List,
        c: List,
    },
    /// `ldmatrix`: a register per matrix.
    Load {
        at: Address,
        transposed: bool,
        d: List,
    },
    /// `stmatrix`.
    Store {
        at: Address,
        transposed: bool,
        a: List,
    },
    /// `movmatrix.trans`.
    Transpose {
        d: Row,
        a: Row,
    },
}

/// An instruction of a warpgroup.
#[derive(Clone, Debug)]
pub(crate) enum WgmmaOp {
    Fence,
    Commit,
    Wait { pending: u32 },
    Multiply(Box<Multiply>),
}

/// The left operand of a wgmma.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left {
    Registers(List),
    Descriptor(Row, Major),
}

/// `wgmma.mma_async`.
#[derive(Clone, Debug)]
pub(crate) struct Multiply {
    pub(crate) wgmma: Wgmma,
    pub(crate) d: List,
    pub(crate) a: Left,
    pub(crate) b: Row,
    pub(crate) b_major: Major,
    pub(crate) accumulate: Literal,
    pub(crate) negate_a: bool,
    pub(crate) negate_b: bool,
}

impl Multiply {
    /// Whether the left operand is read from shared memory.
    pub(crate) fn a_in_memory(&self) -> bool {
        matches!(self.a, Left::Descriptor(..))
    }
}

/// An operation on an mbarrier object.
#[derive(Clone, Debug)]
pub(crate) struct MbarrierOp {
    pub(crate) at: Address,
    pub(crate) what: MbarrierAction,
    pub(crate) order: Order,
}

/// What happens to the object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MbarrierAction {
    Init {
        count: Row,
    },
    Invalidate,
    Arrive {
        token: Row,
        count: Row,
        expect: Option<Row>,
        drop: bool,
        no_complete: bool,
    },
    Expect {
        bytes: Row,
    },
    Complete {
        bytes: Row,
    },
    Wait {
        done: Pred,
        phase: Phase,
        blocks: bool,
    },
    /// `cp.async.mbarrier.arrive`.
    ArriveAfterCopies {
        counted: bool,
    },
}

/// Which phase a wait asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    Token(Row),
    Parity(Row),
}

/// How a bulk copy says that it is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Completion {
    /// Bytes arrive at an mbarrier beside the destination.
    Mbarrier(Address),
    /// In the thread's bulk group.
    Group,
}

/// A bulk copy of contiguous bytes.
#[derive(Clone, Debug)]
pub(crate) struct BulkCopy {
    pub(crate) to: Address,
    pub(crate) from: Address,
    pub(crate) bytes: Row,
    pub(crate) completion: Completion,
    /// CTAs of the cluster that get a copy each.
    pub(crate) multicast: Option<Row>,
    pub(crate) reduce: Option<(Reduction, TensorType)>,
    /// `.cp_mask`: which bytes of each 16 are written.
    pub(crate) byte_mask: Option<Row>,
}

/// A copy of a box of a tensor.
#[derive(Clone, Debug)]
pub(crate) struct TensorCopy {
    /// Where the 128 bytes of the map lie.
    pub(crate) map: Address,
    /// Innermost first.
    pub(crate) coordinates: List,
    /// The box in shared memory.
    pub(crate) shared: Address,
    pub(crate) direction: Direction,
}

/// Which way a box is copied.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    Load { mbarrier: Address, multicast: Option<Row> },
    Store { reduce: Option<Reduction> },
}

/// An instruction of the asynchronous copy engines.
#[derive(Clone, Debug)]
pub(crate) enum BulkOp {
    Copy(BulkCopy),
    Tensor(TensorCopy),
    Commit,
    /// With `read`, only the sources must have been read.
    Wait {
        pending: u32,
        read: bool,
    },
    /// `st.async` and `red.async`.
    Store(StoreAsync),
    /// `tensormap.replace`.
    Replace {
        at: Address,
        field: Field,
        value: Row,
    },
    /// `tensormap.cp_fenceproxy`: 128 bytes from shared to global memory.
    Publish {
        to: Address,
        from: Address,
    },
}

/// A store or reduction in another CTA's shared memory that completes bytes of an mbarrier there.
#[derive(Clone, Debug)]
pub(crate) struct StoreAsync {
    pub(crate) to: Address,
    pub(crate) mbarrier: Address,
    pub(crate) values: List,
    pub(crate) bytes: u8,
    pub(crate) reduce: Option<(Reduction, TensorType)>,
}

/// A fence between the generic proxy and another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyFence {
    /// `fence.proxy.async`, for every memory.
    Async,
    AsyncShared,
    AsyncGlobal,
    /// Aliases, tensor maps and `fence.mbarrier_init`: an order of generic accesses.
    Generic(Order, Scope),
}
