//! Decoded instructions: what the executor dispatches on.
//!
//! # Invariants
//! - Operands are rows of the register file; constants, addresses of symbols and the special registers
//!   that do not change while a thread runs are rows too, filled when a frame is entered.
//! - A row holds 32 lanes of 64 bits, each zero-extended from its register's width.

use super::tensor::{BulkOp, MatrixOp, MbarrierOp, ProxyFence, WgmmaOp};
use super::types::Space;
use std::fmt;
use std::sync::Arc;

/// 32 lanes of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub(crate) struct Lanes(pub(crate) [u64; 32]);

impl Lanes {
    pub(crate) const ZERO: Self = Self([0; 32]);
}

/// A row of the register file, counted from the frame's first.
pub(crate) type Row = u32;
/// A predicate, counted from the frame's first.
pub(crate) type Pred = u32;

/// A range of [`super::Module::pool`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

pub(crate) type Fn1 = Arc<dyn Fn(&Lanes, &mut Lanes) + Send + Sync>;
pub(crate) type Fn2 = Arc<dyn Fn(&Lanes, &Lanes, &mut Lanes) + Send + Sync>;
pub(crate) type Fn3 = Arc<dyn Fn(&Lanes, &Lanes, &Lanes, &mut Lanes) + Send + Sync>;
/// Four values of one lane to one.
pub(crate) type Fn4 = Arc<dyn Fn([u64; 4]) -> u64 + Send + Sync>;
/// Both arguments to the mask of lanes where it holds.
pub(crate) type FnTest = Arc<dyn Fn(&Lanes, &Lanes) -> u32 + Send + Sync>;
/// Arguments and carry in to result and carry out.
pub(crate) type FnCarry = Arc<dyn Fn(u64, u64, u64, bool) -> (u64, bool) + Send + Sync>;
/// Old value and up to two operands to the new value.
pub(crate) type FnAtom = Arc<dyn Fn(u64, u64, u64) -> u64 + Send + Sync>;

/// A function of one value, over lanes.
pub(crate) fn lanes1(f: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Fn1 {
    Arc::new(move |a, d| {
        for lane in 0..32 {
            d.0[lane] = f(a.0[lane]);
        }
    })
}

/// A function of two values, over lanes.
pub(crate) fn lanes2(f: impl Fn(u64, u64) -> u64 + Send + Sync + 'static) -> Fn2 {
    Arc::new(move |a, b, d| {
        for lane in 0..32 {
            d.0[lane] = f(a.0[lane], b.0[lane]);
        }
    })
}

/// A function of three values, over lanes.
pub(crate) fn lanes3(f: impl Fn(u64, u64, u64) -> u64 + Send + Sync + 'static) -> Fn3 {
    Arc::new(move |a, b, c, d| {
        for lane in 0..32 {
            d.0[lane] = f(a.0[lane], b.0[lane], c.0[lane]);
        }
    })
}

/// A test of two values, over lanes.
pub(crate) fn test2(f: impl Fn(u64, u64) -> bool + Send + Sync + 'static) -> FnTest {
    Arc::new(move |a, b| {
        let mut mask = 0;
        for lane in 0..32 {
            mask |= u32::from(f(a.0[lane], b.0[lane])) << lane;
        }
        mask
    })
}

/// An address operand: a row plus bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub(crate) base: Row,
    pub(crate) offset: i64,
    pub(crate) space: Space,
}

/// A predicate or its negation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Literal {
    pub(crate) pred: Pred,
    pub(crate) negated: bool,
}

/// How two predicates meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// A load or store of `count` values of `bytes` each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) at: Address,
    pub(crate) bytes: u8,
    /// Registers, one per value.
    pub(crate) regs: List,
    /// For a signed load, the register's width in bits; else 0.
    pub(crate) extend: u8,
    /// Relaxed, acquire, release or volatile: never a data race with another strong access.
    pub(crate) order: Order,
    pub(crate) scope: Scope,
}

/// The memory order of an access or fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Weak,
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
}

/// Which threads a strong access or a fence speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Cta,
    Cluster,
    Device,
}

impl Order {
    pub(crate) fn acquires(self) -> bool {
        matches!(self, Self::Acquire | Self::AcquireRelease)
    }

    pub(crate) fn releases(self) -> bool {
        matches!(self, Self::Release | Self::AcquireRelease)
    }
}

/// An atomic read-modify-write; `d` is the sink for `red`.
#[derive(Clone)]
pub(crate) struct Atomic {
    pub(crate) at: Address,
    pub(crate) bytes: u8,
    pub(crate) f: FnAtom,
    /// What global memory does instead: sums of f32 flush subnormals there.
    pub(crate) on_global: Option<FnAtom>,
    /// Destinations; empty for `red`.
    pub(crate) dst: List,
    /// First operands, one per value.
    pub(crate) b: List,
    /// Second operand of `cas`.
    pub(crate) c: Row,
    pub(crate) order: Order,
    pub(crate) scope: Scope,
    /// Whether the order in which threads come shows in no value.
    pub(crate) commutes: bool,
}

/// How a shuffle finds its source lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What a vote computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// A reduction over the lanes of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduce {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
    MinF { abs: bool, nan: bool },
    MaxF { abs: bool, nan: bool },
}

/// What happens at a barrier of the CTA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bar {
    Sync,
    Arrive,
    /// `bar.red.popc` into a row, `bar.red.and`/`or` into a predicate.
    Popc(Row),
    And(Pred),
    Or(Pred),
}

/// A clock-like register that is read anew each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticking {
    Clock,
    ClockHigh,
    Clock64,
}

/// The operands of a direct or indirect call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The function's index.
    pub(crate) target: Target,
    /// What the caller passes, in order.
    pub(crate) args: Vec<Place>,
    pub(crate) returns: Vec<Place>,
}

/// What is called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Function(u32),
    Pointer(Row),
}

/// Where an argument lies in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Row(Row),
    Pred(Pred),
    /// An offset and a size in the frame's local memory.
    Bytes {
        offset: u32,
        bytes: u32,
    },
}

/// `cp.async`: bytes from global to shared memory; what the source does not fill is zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyAsync {
    pub(crate) to: Address,
    pub(crate) from: Address,
    pub(crate) bytes: u8,
    /// How many bytes to read, if fewer.
    pub(crate) source_bytes: Option<Row>,
    /// `ignore-src`.
    pub(crate) ignore: Option<Literal>,
}

/// Extended-precision arithmetic through the carry flag.
#[derive(Clone)]
pub(crate) struct Carry {
    pub(crate) f: FnCarry,
    pub(crate) d: Row,
    pub(crate) args: [Row; 3],
    pub(crate) writes_carry: bool,
}

/// Tests of the lower and upper halves of two registers, into a predicate each.
#[derive(Clone)]
pub(crate) struct SetPredHalves {
    pub(crate) tests: [FnTest; 2],
    pub(crate) preds: [Pred; 2],
    pub(crate) args: [Row; 2],
    pub(crate) with: Option<(Logic, Literal)>,
}

/// An instruction.
#[derive(Clone)]
pub(crate) enum Op {
    Nop,
    Mov {
        d: Row,
        a: Row,
    },
    Map1 {
        f: Fn1,
        d: Row,
        a: Row,
    },
    Map2 {
        f: Fn2,
        d: Row,
        a: Row,
        b: Row,
    },
    Map3 {
        f: Fn3,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    Map4 {
        f: Fn4,
        d: Row,
        args: [Row; 4],
    },
    Carry(Box<Carry>),
    /// Narrow registers side by side in a wide one, lowest first.
    Pack {
        d: Row,
        parts: List,
        bits: u8,
    },
    Unpack {
        a: Row,
        parts: List,
        bits: u8,
    },
    /// `p` gets the test, `q` its complement, both combined with `with`.
    SetPred {
        f: FnTest,
        p: Pred,
        q: Pred,
        a: Row,
        b: Row,
        with: Option<(Logic, Literal)>,
    },
    /// Tests of the halves of a register, into two predicates.
    SetPredHalves(Box<SetPredHalves>),
    /// `if_true` or zero.
    Set {
        f: FnTest,
        d: Row,
        a: Row,
        b: Row,
        if_true: u64,
        with: Option<(Logic, Literal)>,
    },
    Select {
        d: Row,
        a: Row,
        b: Row,
        p: Literal,
    },
    PredLogic {
        how: Logic,
        d: Pred,
        a: Literal,
        b: Literal,
    },
    PredMove {
        d: Pred,
        a: Literal,
    },
    Ticking {
        d: Row,
        which: Ticking,
    },
    Load(Transfer),
    Store(Transfer),
    ToGeneric {
        d: Row,
        a: Row,
        space: Space,
    },
    FromGeneric {
        d: Row,
        a: Row,
        space: Space,
    },
    IsSpace {
        p: Pred,
        a: Row,
        space: Space,
    },
    MapShared {
        d: Row,
        a: Row,
        rank: Row,
        generic: bool,
    },
    SharedRank {
        d: Row,
        a: Row,
    },
    Atomic(Box<Atomic>),
    CopyAsync(Box<CopyAsync>),
    CopyCommit,
    /// Waits until at most so many groups are pending; `None` waits for every copy.
    CopyWait {
        pending: Option<u32>,
    },
    Fence(Order, Scope),
    Shuffle {
        how: Shuffle,
        d: Row,
        p: Pred,
        a: Row,
        b: Row,
        c: Row,
        members: Row,
    },
    VotePred {
        how: Vote,
        d: Pred,
        a: Literal,
        members: Row,
    },
    Ballot {
        d: Row,
        a: Literal,
        members: Row,
    },
    MatchAny {
        d: Row,
        a: Row,
        members: Row,
    },
    MatchAll {
        d: Row,
        p: Pred,
        a: Row,
        members: Row,
    },
    Reduce {
        how: Reduce,
        d: Row,
        a: Row,
        members: Row,
    },
    Elect {
        d: Row,
        p: Pred,
        members: Row,
    },
    ActiveMask {
        d: Row,
    },
    Bar {
        how: Bar,
        id: Row,
        threads: Option<Row>,
        input: Literal,
        aligned: bool,
    },
    BarWarp {
        members: Row,
    },
    /// `barrier.cluster.arrive`; `release` without `.relaxed`.
    ClusterArrive {
        release: bool,
        aligned: bool,
    },
    Matrix(Box<MatrixOp>),
    Wgmma(WgmmaOp),
    Mbarrier(Box<MbarrierOp>),
    Bulk(Box<BulkOp>),
    FenceProxy(ProxyFence),
    ClusterWait {
        aligned: bool,
    },
    Branch {
        target: u32,
    },
    BranchIndex {
        index: Row,
        targets: List,
    },
    Call(Box<Call>),
    Return,
    Exit,
    Trap,
    /// `nanosleep` and its like: lets others run.
    Yield,
}

/// A guarded instruction.
#[derive(Clone)]
pub(crate) struct Inst {
    pub(crate) op: Op,
    pub(crate) guard: Option<Literal>,
}

impl fmt::Debug for Inst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inst").field("guard", &self.guard).finish_non_exhaustive()
    }
}
