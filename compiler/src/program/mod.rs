//! The program: what the MLIR text of every tensor-level stage says, as plain data.
//!
//! A program is one MLIR module: kernels (`func.func` over tensors, their bodies in `linalg`,
//! `tensor`, `arith`, `math` and the small `perilune` dialect) and one function per entry point
//! whose body is nothing but calls of kernels. Identical kernels exist once, so the size of the
//! kernels does not depend on the number of layers.
//!
//! Passes are Rust functions over this data; MLIR carries it: [`mod@print`] writes the module text and
//! [`read`] reads it back through melior, so any stage can be written, edited, verified with stock
//! `mlir-opt` and resumed from (`perilune opt`).
//!
//! # Invariants
//! - `read(print(p)) == p`, locations included (the RON node path of a call is its MLIR location).
//! - Kernel bodies are SSA, ops in dependency order, every shape static.
//! - After import every call's kernel holds one graph op; after `fuse`, one fusion group.

mod collective;
mod decision;
mod dialect;
mod literal;
mod scalar_names;
pub mod normal;
pub mod rows;
pub mod print;
pub mod read;
pub mod verify;

pub(crate) mod evaluate;
pub(crate) mod view;

pub use collective::{Collective, CollectiveKind};
pub use decision::{Decision, Reason, Rule};
pub(crate) use dialect::attention_shape;

use crate::scalar::{Body, ScalarOp};
use crate::types::{DType, Type};
use perilune_plan::{Machine, Mesh, Only, Shard};

/// A value inside a kernel: parameters come first, then the results of ops in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct V(pub u32);

/// A value inside an entry: entry arguments first, then call results in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// A module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// Name of the spec.
    pub name: String,
    /// The ranks that run it together; shapes are those of what one rank holds.
    pub mesh: Mesh,
    /// What it runs on, if collectives are to run beside kernels.
    pub machine: Option<Machine>,
    /// Kernels in order of first use; names are unique.
    pub kernels: Vec<Kernel>,
    /// Entry points.
    pub entries: Vec<EntryFn>,
}

impl Program {
    /// The machine whose ranks run collectives beside kernels, if they do.
    pub fn overlaps_on(&self) -> Option<&Machine> {
        self.machine.as_ref().filter(|_| self.mesh.ranks() > 1)
    }
}

/// A kernel at tensor level.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Symbol name.
    pub name: String,
    /// Parameter types.
    pub params: Vec<Type>,
    /// Body.
    pub ops: Vec<KernelOp>,
    /// What it returns.
    pub results: Vec<V>,
}

/// Most elements of a constant: each is part of the text, and of the stack of every thread.
pub const MAX_CONSTANT_ELEMS: u64 = 1 << 12;

/// One op of a kernel body. Each makes one value, except [`OpKind::Dialect`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelOp {
    /// What.
    pub kind: OpKind,
    /// Operands.
    pub operands: Vec<V>,
    /// Result types.
    pub results: Vec<Type>,
}

/// The closed set of tensor-level ops.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// `linalg.generic`: elementwise, broadcast, permutation, reduction, gather.
    Generic(Generic),
    /// `tensor.extract_slice` with unit strides: per dimension, the first index (sizes are the result's).
    Slice(Vec<u64>),
    /// `tensor.concat` along a dimension.
    Concat(u64),
    /// `tensor.pad` with a constant (bits of an f64): elements before, elements after, per dimension.
    Pad {
        /// Elements in front.
        low: Vec<u64>,
        /// Elements behind.
        high: Vec<u64>,
        /// f64 bits of the padding value.
        value: u64,
    },
    /// `tensor.collapse_shape` / `tensor.expand_shape`: same elements, row-major.
    Reshape,
    /// `linalg.contract`: two operands, sum of products; letters are iteration dimensions.
    Contract(ContractDims),
    /// `arith.constant dense<[…]>`: f64 bits of each element, rounded to the result's dtype.
    Constant(Vec<u64>),
    /// An op of the `perilune` dialect.
    Dialect(DialectOp),
}

/// `linalg.generic`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Generic {
    /// Extent of each iteration dimension.
    pub extents: Vec<u64>,
    /// Per `Arg` operand (the first operands), the iteration dimension behind each tensor dimension;
    /// `None` reads index 0 of an extent-1 dimension.
    pub maps: Vec<Vec<Option<u32>>>,
    /// Iteration dimension behind each result dimension; those absent are reduced. All results of
    /// the body share it.
    pub out: Vec<u32>,
    /// How reduced elements combine; `None` iff nothing is reduced.
    pub combine: Option<Combine>,
    /// Element function. `Arg(i)` is operand `i`; `Load(j, …)` reads operand `maps.len() + j` whole.
    /// Yields exactly one value.
    pub body: Body,
}

impl Generic {
    /// Whether a reduction runs along rows: its widest operand is contiguous along a reduced
    /// dimension. Others run down columns.
    pub(crate) fn is_horizontal(&self) -> bool {
        let widest = self.maps.iter().map(Vec::len).max().unwrap_or(0);
        self.maps
            .iter()
            .filter(|m| m.len() == widest)
            .filter_map(|m| m.last().copied().flatten())
            .any(|d| !self.out.contains(&d))
    }

    /// Points of its iteration space; the largest number, if there are more.
    pub(crate) fn points(&self) -> u64 {
        self.extents.iter().fold(1, |n, extent| n.saturating_mul(*extent))
    }
}

/// Combiner of a reduction; the identity is implied (0, −∞ or lowest, +∞ or highest).
/// Accumulation is in f32 for floats narrower than f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Combine {
    Sum,
    Max,
    Min,
}

/// Iteration dimensions of a contraction, as in einsum: one id per tensor dimension.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContractDims {
    /// Ids of the left operand's dimensions.
    pub lhs: Vec<u32>,
    /// Ids of the right operand's dimensions.
    pub rhs: Vec<u32>,
    /// Ids of the result's dimensions; an id absent here is summed over.
    pub out: Vec<u32>,
}

/// Ops upstream dialects lack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DialectOp {
    /// `(q, k, v) → (o, lse, max_logit)`; see [`perilune_plan::Attention`] for shapes.
    Attention {
        /// f64 bits of the factor on q·k.
        scale: u64,
        /// Causal mask.
        causal: bool,
    },
    /// `(q, k, v, o, lse, d_o) → (d_q, d_k, d_v)`.
    AttentionGrad {
        /// f64 bits of the factor on q·k.
        scale: u64,
        /// Causal mask.
        causal: bool,
    },
    /// `(rows [r, k], weights [g, …], offsets i32[g+1]) → [r, n]`; weights are `[g, n, k]` if
    /// `transposed`, else `[g, k, n]`.
    RaggedRows {
        /// Layout of the weights.
        transposed: bool,
    },
    /// `(rows [r, m], rows [r, n], offsets i32[g+1]) → [g, m, n]`.
    RaggedOuter,
    /// `x [.., n] → (values [.., k], indices i32[.., k])`, descending; ties: lower index first; NaN
    /// behind every number.
    TopK {
        /// How many.
        k: u64,
    },
    /// `keys i32[n] → order i32[n]`: stable ascending; keys count as clamped to `0..bound`.
    ArgSort {
        /// Exclusive bound of the keys.
        bound: u64,
    },
    /// `keys i32[n] → counts i32[bound]`; keys outside `0..bound` are skipped.
    Histogram {
        /// Exclusive bound of the keys.
        bound: u64,
    },
    /// Inclusive or exclusive running sum along the last dimension. Exclusive appends the total:
    /// `[.., n] → [.., n + 1]`.
    CumSum {
        /// Start from 0 and append the total.
        exclusive: bool,
    },
    /// `(updates [n, ..d], indices i32[n]) → [extent, ..d]`: zero, then add row `i` at `indices[i]`
    /// in ascending `i`; indices outside `0..extent` are skipped.
    ScatterAdd {
        /// Rows of the result.
        extent: u64,
    },
    /// An exchange between ranks; see [`CollectiveKind`] for shapes.
    Collective(Collective),
}

/// An entry point: a list of kernel calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EntryFn {
    /// `train_step`, `forward`, …
    pub name: String,
    /// Arguments.
    pub args: Vec<EntryArg>,
    /// Calls in dependency order (after `schedule`: in execution order).
    pub calls: Vec<Call>,
    /// Results.
    pub results: Vec<EntryResult>,
    /// Where every slot lives; set by `bufferise`.
    pub layout: Option<Layout>,
}

/// Where the slots of an entry live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// One place per slot.
    pub places: Vec<Place>,
    /// Bytes of the arena.
    pub arena_bytes: u64,
}

/// A slot's storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this byte of the arena.
    Arena(u64),
    /// The storage of the `n`-th argument: a persistent tensor or a feed.
    Arg(u32),
}

/// An argument of an entry.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryArg {
    /// Its path in the spec.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// What it is.
    pub kind: ArgKind,
    /// Which part of it a rank holds; all of it, if absent.
    pub shard: Option<Shard>,
    /// The ranks that hold it; all of them, if absent.
    pub owner: Option<Only>,
}

/// What an entry argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ArgKind {
    Param,
    Buffer,
    State,
    Feed,
}

impl ArgKind {
    /// The kind of a persistent tensor.
    pub fn of(kind: perilune_plan::TensorKind) -> Self {
        match kind {
            perilune_plan::TensorKind::Param => ArgKind::Param,
            perilune_plan::TensorKind::Buffer => ArgKind::Buffer,
            perilune_plan::TensorKind::State => ArgKind::State,
        }
    }
}

/// A result of an entry.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryResult {
    /// The value.
    pub value: Slot,
    /// New value of the persistent tensor (by name), or a fetch of that name.
    pub target: ResultTarget,
    /// Which part of a fetch a rank reads; all of it, if absent.
    pub shard: Option<Shard>,
}

/// Where an entry's result goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResultTarget {
    /// Replaces the persistent tensor of this name.
    Update(String),
    /// Can be read by the caller under this name.
    Fetch(String),
}

/// A call of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Index into [`Program::kernels`].
    pub kernel: u32,
    /// Arguments.
    pub args: Vec<Slot>,
    /// First result; results are numbered upwards from it.
    pub first_result: Slot,
    /// Paths of the RON nodes it computes.
    pub nodes: Vec<String>,
    /// Set by `epilogue` on a call that runs on panels of rows of the contraction called just
    /// before it, as they are finished: the number of rows, which lead all results of both.
    pub epilogue: Option<u64>,
    /// The ranks that run it; all of them, if absent.
    pub only: Option<Only>,
    /// Set by `overlap` on a collective that runs beside the calls that follow: the index of the first
    /// call that waits for it, or the number of calls.
    pub until: Option<u32>,
    /// What fusion decided about it.
    pub decisions: Vec<Decision>,
}

/// Element type a float reduction or contraction accumulates in.
pub const ACCUMULATE: DType = DType::f32;

impl EntryFn {
    /// Number of slots: arguments and all call results.
    pub fn slot_count(&self, kernels: &[Kernel]) -> usize {
        let results = self.calls.iter().map(|c| kernels[c.kernel as usize].results.len());
        self.args.len() + results.sum::<usize>()
    }

    /// Type of every slot.
    pub fn slot_types(&self, kernels: &[Kernel]) -> Vec<Type> {
        let mut types: Vec<Type> = self.args.iter().map(|a| a.ty.clone()).collect();
        for call in &self.calls {
            types.extend(kernels[call.kernel as usize].result_types());
        }
        types
    }
}

impl Call {
    /// The slots it makes.
    pub fn results(&self, kernels: &[Kernel]) -> impl Iterator<Item = Slot> + use<> {
        let first = self.first_result.0;
        let count = kernels[self.kernel as usize].results.len() as u32;
        (first..first + count).map(Slot)
    }
}

impl Kernel {
    /// Type of a value.
    pub fn ty(&self, value: V) -> &Type {
        let mut index = value.0 as usize;
        if let Some(ty) = self.params.get(index) {
            return ty;
        }
        index -= self.params.len();
        for op in &self.ops {
            match op.results.get(index) {
                Some(ty) => return ty,
                None => index -= op.results.len(),
            }
        }
        unreachable!("value {value:?} of kernel `{}` does not exist", self.name)
    }

    /// Types of everything it returns.
    pub fn result_types(&self) -> Vec<Type> {
        self.results.iter().map(|v| self.ty(*v).clone()).collect()
    }

    /// The collective that it is, if it is one.
    pub fn collective(&self) -> Option<&Collective> {
        self.ops.iter().find_map(|op| match &op.kind {
            OpKind::Dialect(DialectOp::Collective(collective)) => Some(collective),
            _ => None,
        })
    }

    /// Floating-point operations of its loops: each operation of a body once for each iteration.
    pub fn flops(&self) -> u64 {
        let of = |op: &KernelOp| match &op.kind {
            OpKind::Generic(g) => {
                let counts =
                    |s: &&ScalarOp| matches!(s, ScalarOp::Unary(..) | ScalarOp::Binary(..));
                let body = g.body.ops.iter().filter(counts).count() as u64;
                (body + u64::from(g.combine.is_some())).saturating_mul(g.points())
            }
            OpKind::Slice(_)
            | OpKind::Concat(_)
            | OpKind::Pad { .. }
            | OpKind::Reshape
            | OpKind::Constant(_)
            | OpKind::Contract(_)
            | OpKind::Dialect(_) => 0,
        };
        self.ops.iter().map(of).fold(0, u64::saturating_add)
    }

    /// The op that makes a value, with the op's index; `None` for a parameter.
    pub fn def(&self, value: V) -> Option<(usize, &KernelOp)> {
        let mut index = (value.0 as usize).checked_sub(self.params.len())?;
        for (i, op) in self.ops.iter().enumerate() {
            match index.checked_sub(op.results.len()) {
                Some(rest) => index = rest,
                None => return Some((i, op)),
            }
        }
        None
    }
}
