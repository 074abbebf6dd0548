//! The plan: what the compiler hands to the runtime, and the only type both of them know.
//!
//! A plan holds everything a step needs and nothing that names how it was made: the persistent
//! tensors, the kernels as text (CLIF for the CPU, PTX for an NVIDIA GPU), and per entry point a
//! fixed list of steps over a fixed buffer layout.
//!
//! # Invariants
//! - All shapes are static; every byte offset, extent and stride is decided here, not at run time.
//! - Steps run in list order; a collective may end later, where it says ([`Collective::until`]).
//! - The same program gives the same bytes: no clock, path, address or hash order reaches a plan.
//! - A plan from outside is untrusted: [`Plan::verify`] bounds every index before anything runs.
//!
//! # See also
//! [`container`] for the file format.

pub mod container;
mod machine;
mod mesh;
mod memory;
pub mod timeline;
mod traffic;
mod verify;
mod work;

use serde::{Deserialize, Serialize};

pub use machine::{Link, Machine};
pub use memory::{RankMemory, SEGMENT_BYTES};
pub use mesh::{MAX_RANKS, Mesh, MeshAxis, Only, Shard};
pub use traffic::{Exchange, Sent};
pub use verify::PlanError;
pub use work::{Class, Work};

/// Version of the plan format; a reader refuses any other.
pub const FORMAT_VERSION: u32 = 5;

/// Alignment of every kernel argument on a GPU, bytes.
pub const GPU_ALIGN: u64 = 64;

/// Element type of a buffer, named as in MLIR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(non_camel_case_types)]
pub enum DType {
    /// IEEE binary64; the reference interpreter's type.
    f64,
    /// IEEE binary32.
    f32,
    /// bfloat16.
    bf16,
    /// IEEE binary16.
    f16,
    /// Signed 32-bit integer: token ids, expert indices, offsets.
    i32,
    /// Truth value, one byte in memory.
    i1,
}

impl DType {
    /// Bytes of one element in memory.
    pub const fn bytes(self) -> u64 {
        match self {
            DType::f64 => 8,
            DType::f32 | DType::i32 => 4,
            DType::bf16 | DType::f16 => 2,
            DType::i1 => 1,
        }
    }

    /// The type's name, as MLIR and the spec write it.
    pub const fn name(self) -> &'static str {
        match self {
            DType::f64 => "f64",
            DType::f32 => "f32",
            DType::bf16 => "bf16",
            DType::f16 => "f16",
            DType::i32 => "i32",
            DType::i1 => "i1",
        }
    }

    /// Whether the type is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::f64 | DType::f32 | DType::bf16 | DType::f16)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A compiled program: a model with its training step, or any other set of entry points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`FORMAT_VERSION`] of the writer.
    pub format: u32,
    /// Name of the spec, `k2-nano/train`.
    pub name: String,
    /// What the kernel texts are for: `cpu` or `sm_90a`.
    pub target: String,
    /// The ranks that run it together, all of them the same steps.
    pub mesh: Mesh,
    /// What the order of steps was made for, if collectives run beside kernels.
    pub machine: Option<Machine>,
    /// Tensors that outlive a step: parameters, optimizer state, router biases.
    pub tensors: Vec<TensorDecl>,
    /// Kernels, each once however many layers launch it.
    pub kernels: Vec<KernelDecl>,
    /// Entry points: `init`, `train_step`, `forward`, …
    pub entries: Vec<Entry>,
    /// Paths of RON nodes (`layers.3.attn.q`), referred to by [`Step::nodes`].
    pub nodes: Vec<String>,
}

/// A tensor that outlives a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorDecl {
    /// Path in the spec: `layers.0.attn.q_a_proj`, or for state `layers.0.attn.q_a_proj/momentum`.
    pub name: String,
    /// Element type in storage.
    pub dtype: DType,
    /// Extents of what a rank holds, outermost first; row-major and contiguous.
    pub shape: Vec<u64>,
    /// What the tensor is.
    pub kind: TensorKind,
    /// Which part of the tensor a rank holds; all of it, if absent.
    pub shard: Option<Shard>,
    /// The ranks that hold it; all of them, if absent. The others have no memory for it.
    pub owner: Option<Only>,
}

impl TensorDecl {
    /// Number of elements.
    pub fn elems(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// What a persistent tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TensorKind {
    /// A trained parameter; exported with the weights.
    Param,
    /// A buffer exported with the weights but not trained by gradient (the router bias).
    Buffer,
    /// Optimizer state; checkpointed, not exported.
    State,
}

/// A kernel's text and how to call it.
///
/// CPU ABI: `fn(args: *const *mut u8, block_begin: i64, block_end: i64)`; `args[i]` is the address
/// of the `i`-th launch argument. Blocks are independent: any partition over threads gives the
/// same bytes.
///
/// GPU ABI: one pointer to global memory per argument; the grid is the blocks, along x, and a block
/// its threads, along x. A grid of no blocks does nothing. The storage behind every argument (an
/// arena buffer, a tensor, a feed) starts at a multiple of [`GPU_ALIGN`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelDecl {
    /// Symbol in the text, unique in the plan.
    pub name: String,
    /// CLIF or PTX. Kept outside the RON header by [`container`].
    #[serde(skip)]
    pub text: String,
    /// The arguments a launch passes, in order.
    pub params: Vec<KernelParam>,
    /// Number of independent blocks.
    pub blocks: u64,
    /// Threads per block (GPU only; 1 on the CPU).
    pub threads: u32,
    /// Memory that a block's threads share (GPU only; none on the CPU).
    pub shared: SharedMemory,
    /// Work of one launch, for reports: floating-point operations.
    pub flops: u64,
    /// Work of one launch, for reports: bytes moved if every operand is touched once.
    pub bytes: u64,
    /// Declared numerics: accumulation type and reduction order, in words.
    pub numerics: String,
}

/// Memory that the threads of a GPU block share, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedMemory {
    /// Declared in the text with its size.
    pub static_bytes: u32,
    /// Declared in the text without a size: the launch gives it.
    pub dynamic_bytes: u32,
}

/// One kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelParam {
    /// Element type.
    pub dtype: DType,
    /// Elements the kernel may touch, from the start of the argument.
    pub elems: u64,
    /// Whether the kernel writes it.
    pub written: bool,
}

/// One entry point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `init`, `train_step`, `forward`, …
    pub name: String,
    /// What the caller provides for each call: batches, step-varying scalars.
    pub feeds: Vec<FeedDecl>,
    /// What the caller may read after the call: loss, metrics, logits.
    pub fetches: Vec<FetchDecl>,
    /// Bytes of the arena that holds every temporary, alignment 64.
    pub arena_bytes: u64,
    /// Where every value lives.
    pub buffers: Vec<Buffer>,
    /// What to do, in order.
    pub steps: Vec<Step>,
}

/// An input given anew at each call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedDecl {
    /// Name in the spec: `tokens`, `step`.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents of what a rank is given; empty for a scalar.
    pub shape: Vec<u64>,
    /// Which part of the input a rank is given; all of it, if absent.
    pub shard: Option<Shard>,
}

/// A result the caller may read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchDecl {
    /// Name in the spec: `loss`, `attn.max_logit`.
    pub name: String,
    /// Extents of what a rank reads; empty for a scalar.
    pub shape: Vec<u64>,
    /// Index into [`Entry::buffers`].
    pub buffer: u32,
    /// Which part of the result a rank reads; all of it, if absent.
    pub shard: Option<Shard>,
}

/// A value's place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffer {
    /// Element type.
    pub dtype: DType,
    /// Number of elements.
    pub elems: u64,
    /// Where it is.
    pub place: Place,
}

/// Where a buffer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// In the entry's arena, at this byte offset.
    Arena(u64),
    /// A persistent tensor, by index into [`Plan::tensors`].
    Tensor(u32),
    /// A feed, by index into [`Entry::feeds`].
    Feed(u32),
}

/// One step of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What to do.
    pub op: StepOp,
    /// The RON nodes this step computes, as indices into [`Plan::nodes`]; never empty.
    pub nodes: Vec<u32>,
    /// The ranks that run it; all of them, if absent.
    pub only: Option<Only>,
}

/// The closed set of things a runtime can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StepOp {
    /// Run every block of a kernel.
    Launch(Launch),
    /// A strided, possibly batched matrix product.
    Contract(Contract),
    /// A matrix product whose rows are grouped by expert.
    Ragged(Ragged),
    /// Attention forward.
    Attention(Attention),
    /// Attention backward.
    AttentionGrad(AttentionGrad),
    /// Copy `src` to `dst` (equal dtype and elems).
    Copy {
        /// Index into [`Entry::buffers`].
        src: u32,
        /// Index into [`Entry::buffers`].
        dst: u32,
    },
    /// An exchange between the ranks of a group.
    Collective(Collective),
}

/// An exchange between the ranks of a group: every rank of it runs this step, at the same point of
/// its list. Of one rank it is a copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collective {
    /// What is exchanged.
    pub kind: CollectiveKind,
    /// The group: the ranks that differ along these mesh axes only.
    pub axes: Vec<u32>,
    /// What a rank gives, as indices into [`Entry::buffers`].
    pub send: Vec<u32>,
    /// For `Broadcast` and `Reduce`, the place in the group of each value's root; else empty.
    pub roots: Vec<u64>,
    /// What it gets; no two of them, and none of them and what is sent, share bytes, except where
    /// an `AllReduce`, a `Reduce` or a `Broadcast` gives a buffer back in its own place.
    pub receive: Vec<u32>,
    /// It runs beside the steps that follow and is done before this one, or before the end of the
    /// entry where it is the number of steps; absent: before the next. Until then nothing else touches
    /// what it gets, or writes what it sends.
    pub until: Option<u32>,
}

/// What a [`Collective`] exchanges. `n` is the number of ranks in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CollectiveKind {
    /// `receive[i]` is the combination of all ranks' `send[i]`, all of one type (f64, f32, bf16 or
    /// i32), taken as a pairwise tree in the order of the group.
    AllReduce(Reduction),
    /// `receive[i]` is the combination of all ranks' `send[i]` on rank `roots[i]`, as `AllReduce` takes
    /// it; on the others it is their own `send[i]`.
    Reduce(Reduction),
    /// `receive[i]` is the `send[i]` of rank `roots[i]`; those of the others have no meaning.
    Broadcast,
    /// `[outer, part] → [outer, n, part]`: every rank's part, in the order of the group.
    AllGather {
        /// Extents in front of the dimension that is put together, multiplied.
        outer: u64,
    },
    /// i32 `[n, m] → [n, m]`: piece `r` goes to rank `r`; what comes from it becomes piece `r`.
    ExchangeCounts,
    /// `(rows [any, row], sent i32 [n, e], received i32 [n, e]) → [most, row]`.
    ///
    /// A rank's rows are grouped by expert, ascending; `sent[r, x]` of them are for expert `x` of
    /// rank `r`. It gets the rows for its own `e` experts, ordered by (expert, rank they come from,
    /// their order there); `received[r, x]` of them come from rank `r` for its expert `x`. Rows
    /// behind the last are zero.
    Dispatch {
        /// Elements of a row.
        row: u64,
    },
    /// `(tokens [any, row], order i32 [slots], sent, received) → [most, row]`: `Dispatch` of rows of
    /// which row `i` is that of token `order[i] / per_token`. A token goes to a rank once, with the
    /// places of its rows there.
    DispatchTokens {
        /// Elements of a row.
        row: u64,
        /// Rows of a token.
        per_token: u64,
    },
    /// `(rows [most, row], sent, received) → [any, row]`: the way back of `Dispatch`, each row to
    /// the place that it came from.
    Combine {
        /// Elements of a row.
        row: u64,
    },
}

impl CollectiveKind {
    /// Its name, as the ranks and their records call it.
    pub fn name(self) -> &'static str {
        match self {
            CollectiveKind::AllReduce(_) => "all_reduce",
            CollectiveKind::Reduce(_) => "reduce",
            CollectiveKind::Broadcast => "broadcast",
            CollectiveKind::AllGather { .. } => "all_gather",
            CollectiveKind::ExchangeCounts => "exchange_counts",
            CollectiveKind::Dispatch { .. } => "dispatch",
            CollectiveKind::DispatchTokens { .. } => "dispatch_tokens",
            CollectiveKind::Combine { .. } => "combine",
        }
    }
}

/// How ranks' values combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// Their maximum.
    Max,
    /// Their minimum.
    Min,
}

/// Run every block of a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// Index into [`Plan::kernels`].
    pub kernel: u32,
    /// One buffer per kernel parameter.
    pub args: Vec<u32>,
}

/// A strided view of a buffer's elements: the first element's index; strides are with the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Index into [`Entry::buffers`].
    pub buffer: u32,
    /// Elements to skip.
    pub offset: u64,
}

/// One loop of a contraction: an extent and the stride (in elements) each operand advances by;
/// 0 where the operand does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loop {
    /// Trip count.
    pub extent: u64,
    /// Stride in `a`.
    pub a: i64,
    /// Stride in `b`.
    pub b: i64,
    /// Stride in `c`.
    pub c: i64,
}

/// `C[batch, m, n] = alpha · Σ_k A[batch, m, k] · B[batch, k, n]  (+ C where `accumulate`)`.
///
/// Numerics: f32 accumulation, `k` in ascending panels fixed by the extents alone.
/// `m.b`, `n.a`, `k.c` are 0. Outer sums (`sum` loops) run sequentially in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// Left operand.
    pub a: View,
    /// Right operand.
    pub b: View,
    /// Result.
    pub c: View,
    /// Independent outer loops (any number, outermost first).
    pub batch: Vec<Loop>,
    /// Outer loops of the contraction that do not merge with `k`; `c` stride 0.
    pub sum: Vec<Loop>,
    /// Rows.
    pub m: Loop,
    /// Columns.
    pub n: Loop,
    /// Contracted.
    pub k: Loop,
    /// Scale of the product.
    pub alpha: f32,
    /// Add to what `c` holds instead of overwriting it.
    pub accumulate: bool,
    /// C is symmetric (A·Aᵀ and its polynomials, as in Newton–Schulz): the runtime may compute one
    /// triangle and mirror it.
    pub symmetric: bool,
    /// What runs on each panel of finished rows.
    pub epilogue: Option<Epilogue>,
}

/// A kernel that runs on the rows of a contraction's result as they are finished, while they are
/// in cache. Row `i` of the result is its elements `[i·row, (i + 1)·row)`; block `i` of the kernel
/// reads of the result, and of what it writes, row `i` only. There are as many blocks as rows.
///
/// The kernel may run any time after its row is finished and before the step ends, so it writes
/// nothing that the contraction reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epilogue {
    /// The kernel and its arguments.
    pub launch: Launch,
    /// Elements of a row of `c`.
    pub row: u64,
}

/// A contraction over rows grouped by expert. `offsets` is i32 `[groups + 1]`, ascending, from 0
/// to `rows`; group `g` owns rows `offsets[g] .. offsets[g + 1]`. Empty groups are legal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ragged {
    /// Which of the two forms.
    pub form: RaggedForm,
    /// `[rows, k]` (Rows) or `[rows, m]` (Outer), row-major with `a_row` elements between rows.
    pub a: View,
    /// Elements between rows of `a`.
    pub a_row: i64,
    /// `[groups, …]` weights (Rows) or `[rows, n]` (Outer).
    pub b: View,
    /// Row form: strides of `b` per group, per `k`, per `n`. Outer form: `[0, row stride, n stride]`.
    pub b_strides: [i64; 3],
    /// `[rows, n]` row-major (Rows) or `[groups, m, n]` row-major (Outer).
    pub c: View,
    /// i32 `[groups + 1]`.
    pub offsets: View,
    /// Total rows (an upper bound that `offsets` reaches).
    pub rows: u64,
    /// Number of groups.
    pub groups: u64,
    /// Rows: contracted extent. Outer: extent of `m`.
    pub k: u64,
    /// Columns of `c`.
    pub n: u64,
    /// What runs on each panel of finished rows.
    pub epilogue: Option<Epilogue>,
}

/// The two ragged contractions; each is the other's gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaggedForm {
    /// `C[r, n] = Σ_k A[r, k] · B[group(r), k, n]`.
    Rows,
    /// `C[g, m, n] = Σ_{r in g} A[r, m] · B[r, n]`; zero for an empty group.
    Outer,
}

/// `[batch, seq, heads, head_dim]` operand of attention: the innermost dimension is contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadsView {
    /// Buffer and first element.
    pub view: View,
    /// Elements between batches.
    pub batch: i64,
    /// Elements between positions.
    pub seq: i64,
    /// Elements between heads.
    pub head: i64,
}

/// Extents and options shared by attention forward and backward.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: u64,
    /// Query positions.
    pub seq_q: u64,
    /// Key positions.
    pub seq_kv: u64,
    /// Query heads.
    pub heads: u64,
    /// Key/value heads; divides `heads` (grouped-query attention).
    pub kv_heads: u64,
    /// Extent of a query and a key.
    pub qk_dim: u64,
    /// Extent of a value.
    pub v_dim: u64,
    /// Factor on q·k before softmax.
    pub scale: f32,
    /// Query `i` sees keys `j ≤ i + (seq_kv − seq_q)`.
    pub causal: bool,
}

/// `O = softmax(scale · Q Kᵀ + mask) V`, tiled: no `seq × seq` matrix exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Extents and options.
    pub shape: AttentionShape,
    /// Queries.
    pub q: HeadsView,
    /// Keys.
    pub k: HeadsView,
    /// Values.
    pub v: HeadsView,
    /// Output, like `q` with `v_dim`.
    pub o: HeadsView,
    /// f32 `[batch, heads, seq_q]` natural log-sum-exp of the scaled logits, if the backward wants it.
    pub lse: Option<View>,
    /// f32 `[heads]` maximum of the scaled, unmasked-by-causality-visible logits over batch and
    /// positions, if the optimizer demands it (QK-clip).
    pub max_logit: Option<View>,
}

/// Gradients of [`Attention`]; logits are recomputed from `lse`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionGrad {
    /// Extents and options.
    pub shape: AttentionShape,
    /// Queries.
    pub q: HeadsView,
    /// Keys.
    pub k: HeadsView,
    /// Values.
    pub v: HeadsView,
    /// Forward output.
    pub o: HeadsView,
    /// f32 `[batch, heads, seq_q]` from the forward.
    pub lse: View,
    /// Gradient of `o`.
    pub d_o: HeadsView,
    /// Gradient of `q`.
    pub d_q: HeadsView,
    /// Gradient of `k`.
    pub d_k: HeadsView,
    /// Gradient of `v`.
    pub d_v: HeadsView,
}
