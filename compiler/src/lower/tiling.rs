//! Tiling: which extents become blocks, rows and lanes. A decision from shapes alone.
//!
//! # Invariants
//! - Depends on shapes and the kernel's structure only, never on the machine or the thread count.
//! - Rows are a common prefix of every result's extents, long enough that each reduction along
//!   contiguous memory has all its indices among them.

use crate::lower::loops::is_horizontal;
use crate::program::{Kernel, OpKind, V};

/// Elements of work a block should at least hold.
const BLOCK_ELEMS: u64 = 16 * 1024;
/// Rows below which inner extents are taken into the rows as well.
const MIN_ROWS: u64 = 64;

/// How a loop kernel is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tiling {
    /// Leading extents, common to all results, flattened to rows.
    pub(crate) rows: Vec<u64>,
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
        let needed = kernel.results.iter().map(|r| rows_needed(kernel, *r)).max().unwrap_or(0);
        let rows = row_dims(&shapes, prefix, needed.min(prefix));
        let work = work(kernel);
        let unroll = unroll(kernel);
        let first = shapes.first().copied().unwrap_or(&[]);
        if rows == 0 && first.len() == 1 && shapes.iter().all(|s| *s == first) {
            return Tiling::by_columns(first[0], work, unroll);
        }
        let rows: Vec<u64> = first[..rows].to_vec();
        let count: u64 = rows.iter().product();
        let per_block = (BLOCK_ELEMS / (work / count.max(1)).max(1)).clamp(1, count.max(1));
        Tiling { rows, per_block, columns: None, unroll, blocks: count.div_ceil(per_block) }
    }

    fn by_columns(extent: u64, work: u64, unroll: u32) -> Tiling {
        let group = 4 * u64::from(unroll);
        let wanted = BLOCK_ELEMS / (work / extent.max(1)).max(1);
        let per_block = wanted.next_multiple_of(group).max(group);
        let blocks = extent.div_ceil(per_block);
        Tiling { rows: Vec::new(), per_block, columns: Some(extent), unroll, blocks }
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

/// How many leading extents become rows: what reductions need; else enough rows, never the last
/// extent of a result, which is for the lanes.
fn row_dims(shapes: &[&[u64]], prefix: usize, needed: usize) -> usize {
    let longest = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let limit = if shapes.iter().all(|s| s.len() == longest) {
        prefix.min(longest.saturating_sub(1))
    } else {
        prefix
    };
    let mut rows = needed;
    let mut count: u64 = shapes.first().map_or(1, |s| s[..rows].iter().product());
    while rows < limit && count < MIN_ROWS {
        count *= shapes[0][rows];
        rows += 1;
    }
    // A row must hold more than its index costs.
    rows
}

/// Number of leading dimensions of a result that its horizontal reductions are indexed by.
pub(crate) fn rows_needed(kernel: &Kernel, result: V) -> usize {
    let dims: Vec<u64> = (0..shape(kernel, result).len()).map(|d| 1 << d.min(63)).collect();
    let mut seen = std::collections::HashSet::new();
    let mut mask = 0;
    visit(kernel, result, dims, &mut seen, &mut mask);
    64 - u64::leading_zeros(mask) as usize
}

/// Walks from a value to the reductions behind it; `dims` says, per dimension, which dimensions of
/// the result its index depends on.
fn visit(
    kernel: &Kernel,
    v: V,
    dims: Vec<u64>,
    seen: &mut std::collections::HashSet<(V, Vec<u64>)>,
    mask: &mut u64,
) {
    let Some(i) = (v.0 as usize).checked_sub(kernel.params.len()) else { return };
    if !seen.insert((v, dims.clone())) {
        return;
    }
    let op = &kernel.ops[i];
    match &op.kind {
        OpKind::Generic(g) => {
            if g.combine.is_some() && is_horizontal(g) {
                *mask |= dims.iter().fold(0, |a, b| a | b);
            }
            let mut iter = vec![0; g.extents.len()];
            for (d, deps) in g.out.iter().zip(&dims) {
                iter[*d as usize] = *deps;
            }
            let all = iter.iter().fold(0, |a, b| a | b);
            for (k, operand) in op.operands.iter().enumerate() {
                let deps = match g.maps.get(k) {
                    Some(map) => map.iter().map(|d| d.map_or(0, |d| iter[d as usize])).collect(),
                    None => vec![all; shape(kernel, *operand).len()],
                };
                visit(kernel, *operand, deps, seen, mask);
            }
        }
        OpKind::Slice(_) | OpKind::Concat(_) | OpKind::Pad { .. } => {
            for operand in &op.operands {
                visit(kernel, *operand, dims.clone(), seen, mask);
            }
        }
        OpKind::Reshape => {
            let from = shape(kernel, op.operands[0]);
            let deps = reshape_deps(&op.results[0].shape, &dims, from);
            visit(kernel, op.operands[0], deps, seen, mask);
        }
        OpKind::Constant(_) | OpKind::Contract(_) | OpKind::Dialect(_) => {}
    }
}

/// Dependence through a reshape: dimensions that cover the same elements exchange theirs.
fn reshape_deps(out: &[u64], dims: &[u64], from: &[u64]) -> Vec<u64> {
    let mut deps = vec![0; from.len()];
    let (mut i, mut j) = (0, 0);
    while j < from.len() {
        let (first, mut inner, mut outer, mut mask) = (j, from[j], 1, 0);
        j += 1;
        while inner != outer {
            if outer < inner && i < out.len() {
                outer *= out[i];
                mask |= dims[i];
                i += 1;
            } else if outer > inner && j < from.len() {
                inner *= from[j];
                j += 1;
            } else {
                break;
            }
        }
        deps[first..j].fill(mask);
    }
    deps
}

/// Points of all iteration spaces together.
fn work(kernel: &Kernel) -> u64 {
    let point = |op: &crate::program::KernelOp| match &op.kind {
        OpKind::Generic(g) => g.extents.iter().product(),
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
    let mut scalars = 0;
    let mut columns = false;
    for op in &kernel.ops {
        if let OpKind::Generic(g) = &op.kind {
            scalars += g.body.ops.len();
            columns |= g.combine.is_some() && !is_horizontal(g);
        }
    }
    match (columns, scalars) {
        (true, 0..=24) => 8,
        (false, 0..=16) => 4,
        (_, 17..=48) => 2,
        (_, _) => 1,
    }
}
