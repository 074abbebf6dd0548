//! Tiling: which extents become blocks, rows and lanes. A decision from shapes alone.
//!
//! # Invariants
//! - Depends on shapes and the kernel's structure only, never on the machine or the thread count.
//! - Rows are a common prefix of every result's extents, long enough that each reduction along
//!   contiguous memory has all its indices among them.

use std::collections::HashSet;

use crate::lower::loops::reshape_groups;
use crate::program::{Kernel, KernelOp, OpKind, V};
use crate::scalar::{Binary, ScalarOp, Unary};

/// Elements of work a block should at least hold.
const BLOCK_ELEMS: u64 = 16 * 1024;
/// Rows below which inner extents are taken into the rows as well.
const MIN_ROWS: u64 = 64;

/// How a loop kernel is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tiling {
    /// Leading extents, common to all results, flattened to rows.
    pub(crate) rows: Vec<u64>,
    /// Leading extents of a result that run one index at a time, rows included, because reductions
    /// along contiguous memory are indexed by them.
    pub(crate) sequential: usize,
    /// Rows (or, with `columns`, columns) of a block.
    pub(crate) per_block: u64,
    /// Blocks are ranges of the only extent of every result, instead of rows.
    pub(crate) columns: Option<u64>,
    /// Vectors written side by side along the lanes.
    pub(crate) unroll: u32,
    /// Number of blocks.
    pub(crate) blocks: u64,
}

impl Tiling {
    /// Decides for a kernel.
    pub(crate) fn decide(kernel: &Kernel) -> Tiling {
        let shapes: Vec<&[u64]> = kernel.results.iter().map(|r| shape(kernel, *r)).collect();
        let prefix = common_prefix(&shapes);
        let reaches: Vec<Reach> = kernel.results.iter().map(|r| reach(kernel, *r)).collect();
        let sequential = reaches.iter().map(|r| r.needed).max().unwrap_or(0);
        let limit = reaches.iter().filter_map(|r| r.limit).min();
        let rows = row_dims(&shapes, prefix, (sequential, limit));
        let work = work(kernel);
        let unroll = unroll(kernel);
        let first = shapes.first().copied().unwrap_or(&[]);
        let one_extent = first.len() == 1 && shapes.iter().all(|s| *s == first);
        if rows == 0 && sequential == 0 && one_extent && limit != Some(0) {
            return Tiling::by_columns(first[0], work, unroll);
        }
        let rows: Vec<u64> = first[..rows].to_vec();
        let count: u64 = rows.iter().product();
        let per_block = (BLOCK_ELEMS / (work / count.max(1)).max(1)).clamp(1, count.max(1));
        let blocks = count.div_ceil(per_block);
        Tiling { rows, sequential, per_block, columns: None, unroll, blocks }
    }

    /// Blocks of one row each, where this many rows lead every result; `None` where they do not.
    pub(crate) fn by_rows(kernel: &Kernel, rows: u64) -> Option<Tiling> {
        let shapes: Vec<&[u64]> = kernel.results.iter().map(|r| shape(kernel, *r)).collect();
        let first = &shapes.first()?[..common_prefix(&shapes)];
        let counts = first.iter().scan(1u64, |n, extent| {
            *n *= extent;
            Some(*n)
        });
        let leading = [1].into_iter().chain(counts).position(|n| n == rows)?;
        let reaches: Vec<Reach> = kernel.results.iter().map(|r| reach(kernel, *r)).collect();
        let whole = reaches.iter().all(|r| r.limit.is_none_or(|limit| limit >= leading));
        let sequential = reaches.iter().map(|r| r.needed).max().unwrap_or(0);
        let rows_dims = first[..leading].to_vec();
        whole.then(|| Tiling {
            rows: rows_dims,
            sequential,
            per_block: 1,
            columns: None,
            unroll: unroll(kernel),
            blocks: rows,
        })
    }

    fn by_columns(extent: u64, work: u64, unroll: u32) -> Tiling {
        let group = 4 * u64::from(unroll);
        let wanted = BLOCK_ELEMS / (work / extent.max(1)).max(1);
        let per_block = wanted.next_multiple_of(group).max(group);
        let blocks = extent.div_ceil(per_block);
        Tiling { rows: Vec::new(), sequential: 0, per_block, columns: Some(extent), unroll, blocks }
    }
}

/// Shape of a value.
pub(crate) fn shape(kernel: &Kernel, v: V) -> &[u64] {
    &kernel.ty(v).shape
}

/// Number of leading extents that all shapes have in common.
pub(crate) fn common_prefix(shapes: &[&[u64]]) -> usize {
    let Some(first) = shapes.first() else { return 0 };
    (0..first.len()).take_while(|d| shapes.iter().all(|s| s.get(*d) == Some(&first[*d]))).count()
}

/// How many leading extents become rows: enough of them, but never the last extent of a result
/// (that is for the lanes, unless it runs in sequence), and none that a reduction does not depend
/// on, or it would be computed again for each row.
fn row_dims(
    shapes: &[&[u64]],
    prefix: usize,
    (sequential, limit): (usize, Option<usize>),
) -> usize {
    let longest = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let most = if shapes.iter().all(|s| s.len() == longest) {
        prefix.min(longest.saturating_sub(1).max(sequential))
    } else {
        prefix
    };
    let most = limit.map_or(most, |l| most.min(l));
    let mut rows = 0;
    let mut count: u64 = 1;
    while rows < most && count < MIN_ROWS {
        count *= shapes[0][rows];
        rows += 1;
    }
    rows
}

/// The dimensions of a result that an index is made of, outermost first.
type Made = Vec<usize>;

/// What the reductions behind a result ask of its loops.
struct Reach {
    /// Leading dimensions that horizontal reductions are indexed by.
    needed: usize,
    /// Leading dimensions that every reduction is indexed by; `None` without reductions.
    limit: Option<usize>,
}

/// Number of leading dimensions of a result that its horizontal reductions are indexed by.
pub(crate) fn rows_needed(kernel: &Kernel, result: V) -> usize {
    reach(kernel, result).needed
}

fn reach(kernel: &Kernel, result: V) -> Reach {
    let root = shape(kernel, result);
    let mut seen: HashSet<(V, Vec<Made>)> = HashSet::new();
    let mut todo = vec![(result, (0..root.len()).map(|d| vec![d]).collect::<Vec<Made>>())];
    let mut reach = Reach { needed: 0, limit: None };
    while let Some((v, made)) = todo.pop() {
        let Some(i) = (v.0 as usize).checked_sub(kernel.params.len()) else { continue };
        if !seen.insert((v, made.clone())) {
            continue;
        }
        let op = &kernel.ops[i];
        if let OpKind::Generic(g) = &op.kind
            && g.combine.is_some()
        {
            let dims: HashSet<usize> = made.iter().flatten().copied().collect();
            let leading = (0..root.len()).take_while(|d| dims.contains(d)).count();
            reach.limit = Some(reach.limit.map_or(leading, |l| l.min(leading)));
            if g.is_horizontal() {
                reach.needed = dims.iter().map(|d| d + 1).max().unwrap_or(0).max(reach.needed);
            }
        }
        for (k, operand) in op.operands.iter().enumerate() {
            todo.push((*operand, operand_made(kernel, op, k, &made, root)));
        }
    }
    reach
}

/// What the indices of an operand are made of.
fn operand_made(
    kernel: &Kernel,
    op: &KernelOp,
    k: usize,
    made: &[Made],
    root: &[u64],
) -> Vec<Made> {
    let inner = shape(kernel, op.operands[k]);
    match &op.kind {
        OpKind::Generic(g) => {
            let mut iter: Vec<Made> = vec![Made::new(); g.extents.len()];
            for (d, m) in g.out.iter().zip(made) {
                iter[*d as usize] = m.clone();
            }
            match g.maps.get(k) {
                Some(map) => map
                    .iter()
                    .map(|d| d.map_or(Made::new(), |d| iter[d as usize].clone()))
                    .collect(),
                None => vec![iter.concat(); inner.len()],
            }
        }
        OpKind::Slice(_) | OpKind::Concat(_) | OpKind::Pad { .. } => made.to_vec(),
        OpKind::Reshape => {
            let mut out = vec![made.concat(); inner.len()];
            for (left, right) in reshape_groups(&op.results[0].shape, inner) {
                let all: Made = left.iter().flat_map(|d| made[*d].clone()).collect();
                let extents = |d: &usize| root.get(*d).copied();
                let same = all.iter().map(extents).eq(right.iter().map(|d| Some(inner[*d])));
                for (n, d) in right.iter().enumerate() {
                    out[*d] = if same { vec![all[n]] } else { all.clone() };
                }
            }
            for (d, extent) in inner.iter().enumerate() {
                if *extent == 1 {
                    out[d] = Made::new();
                }
            }
            out
        }
        OpKind::Constant(_) | OpKind::Contract(_) | OpKind::Dialect(_) => Vec::new(),
    }
}

/// Points of all iteration spaces together.
fn work(kernel: &Kernel) -> u64 {
    let point = |op: &KernelOp| match &op.kind {
        OpKind::Generic(g) => g.points(),
        OpKind::Slice(_)
        | OpKind::Concat(_)
        | OpKind::Pad { .. }
        | OpKind::Reshape
        | OpKind::Constant(_)
        | OpKind::Contract(_)
        | OpKind::Dialect(_) => op.results.iter().map(crate::types::Type::elems).sum::<u64>(),
    };
    kernel.ops.iter().map(point).max().unwrap_or(1).max(1)
}

/// Vectors side by side: many for a reduction down columns, so that each cache line it touches is
/// used whole; few for long bodies, which need the registers.
fn unroll(kernel: &Kernel) -> u32 {
    let mut cost = 0;
    let mut columns = false;
    for op in &kernel.ops {
        if let OpKind::Generic(g) = &op.kind {
            cost += g.body.ops.iter().map(instructions).sum::<u32>();
            columns |= g.combine.is_some() && !g.is_horizontal();
        }
    }
    match (columns, cost) {
        (true, 0..=24) => 8,
        (false, 0..=32) => 4,
        (_, 0..=80) => 2,
        (_, _) => 1,
    }
}

/// Roughly how many instructions a scalar operation takes.
fn instructions(op: &ScalarOp) -> u32 {
    match op {
        ScalarOp::Unary(f, _) => match f {
            Unary::Exp | Unary::Log | Unary::Sigmoid | Unary::Sin | Unary::Cos => 30,
            Unary::Tanh => 50,
            Unary::Neg
            | Unary::Abs
            | Unary::Sign
            | Unary::Sqrt
            | Unary::Rsqrt
            | Unary::Floor
            | Unary::Not => 1,
        },
        ScalarOp::Binary(Binary::Pow, ..) => 100,
        _ => 1,
    }
}
