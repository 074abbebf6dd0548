//! Which threads compute what: a decision from shapes alone.
//!
//! # Invariants
//! - Every result belongs to one part; the blocks of the parts follow each other in the grid.
//! - Results of one shape are in one part, as writing over an operand relies on.
//! - Parts with a reduction along contiguous memory give each row to a team: a warp, or, for long
//!   rows, a whole block. All others give each thread elements of its own.

use indexmap::IndexMap;

use super::WARP;
use crate::lower::tiling::{common_prefix, rows_needed, shape};
use crate::program::{Generic, Kernel, OpKind, V};
use crate::types::DType;

/// Threads of a block.
pub(crate) const THREADS: u32 = 256;
/// Elements of a row that a warp still takes.
const WARP_ROW: u64 = 1024;
/// Elements of a 128-bit access.
const LANES: u64 = 4;

/// Results computed together, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Which results of the kernel.
    pub(crate) results: Vec<usize>,
    /// By whom.
    pub(crate) mapping: Mapping,
    /// Blocks of the grid it takes.
    pub(crate) blocks: u64,
}

/// Who computes a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// Thread `t` computes element `t`, or with `vectors` elements `4t .. 4t + 4`.
    Elements {
        /// Elements of all results, whose shapes are equal.
        elems: u64,
        /// Four neighbours at once.
        vectors: bool,
    },
    /// A team computes a row, its threads along what is left of the extents.
    Rows {
        /// Leading extents, common to all results, flattened to rows.
        rows: Vec<u64>,
        /// Threads of a team: a warp or a block.
        threads: u32,
    },
}

/// Decides for a kernel.
pub(crate) fn decide(kernel: &Kernel) -> Vec<Part> {
    let mut alike: IndexMap<&[u64], Vec<usize>> = IndexMap::new();
    for (k, result) in kernel.results.iter().enumerate() {
        alike.entry(shape(kernel, *result)).or_default().push(k);
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for results in alike.into_values() {
        match groups.iter_mut().find(|g| joins(kernel, g, &results)) {
            Some(group) => group.extend(results),
            None => groups.push(results),
        }
    }
    groups.iter_mut().for_each(|g| g.sort_unstable());
    groups.into_iter().map(|results| part(kernel, results)).collect()
}

/// Whether results of one shape share the threads of a group: they have equal rows.
fn joins(kernel: &Kernel, group: &[usize], results: &[usize]) -> bool {
    let of = |k: usize| kernel.results[k];
    let all: Vec<usize> = group.iter().chain(results).copied().collect();
    let rows: Vec<Option<usize>> = all.iter().map(|k| team_rows(kernel, of(*k))).collect();
    let Some(needed) = rows.iter().flatten().max() else { return false };
    let shapes: Vec<&[u64]> = all.iter().map(|k| shape(kernel, of(*k))).collect();
    common_prefix(&shapes) >= *needed && *needed > 0
}

fn part(kernel: &Kernel, results: Vec<usize>) -> Part {
    let shapes: Vec<&[u64]> = results.iter().map(|k| shape(kernel, kernel.results[*k])).collect();
    let needed = results.iter().filter_map(|k| team_rows(kernel, kernel.results[*k])).max();
    match needed {
        Some(needed) => {
            let rows = shapes[0][..needed.min(common_prefix(&shapes))].to_vec();
            let count: u64 = rows.iter().product();
            let rest = |s: &&[u64]| s[rows.len()..].iter().product::<u64>();
            let longest = shapes.iter().map(rest).chain([longest_reduction(kernel)]).max();
            let short = longest.is_some_and(|n| n <= WARP_ROW);
            let threads = if short { WARP } else { THREADS };
            let blocks = count.div_ceil(u64::from(THREADS / threads));
            Part { results, mapping: Mapping::Rows { rows, threads }, blocks }
        }
        None => {
            let elems: u64 = shapes[0].iter().product();
            let even = shapes[0].last().is_some_and(|n| n % LANES == 0);
            let vectors = even && !reduces(kernel) && !has_f64(kernel);
            let each = if vectors { LANES } else { 1 };
            let blocks = elems.div_ceil(each * u64::from(THREADS));
            Part { results, mapping: Mapping::Elements { elems, vectors }, blocks }
        }
    }
}

/// Leading extents that index the horizontal reductions behind a result; `None` without such.
fn team_rows(kernel: &Kernel, result: V) -> Option<usize> {
    reaches_horizontal(kernel, result).then(|| rows_needed(kernel, result))
}

fn reaches_horizontal(kernel: &Kernel, result: V) -> bool {
    let (mut stack, mut seen) = (vec![result], std::collections::BTreeSet::new());
    while let Some(v) = stack.pop() {
        let Some((i, op)) = kernel.def(v) else { continue };
        if !seen.insert(i) {
            continue;
        }
        if matches!(&op.kind, OpKind::Generic(g) if g.combine.is_some() && g.is_horizontal()) {
            return true;
        }
        stack.extend(&op.operands);
    }
    false
}

fn generics(kernel: &Kernel) -> impl Iterator<Item = &Generic> {
    kernel.ops.iter().filter_map(|op| match &op.kind {
        OpKind::Generic(g) => Some(g),
        OpKind::Slice(_)
        | OpKind::Concat(_)
        | OpKind::Pad { .. }
        | OpKind::Reshape
        | OpKind::Constant(_)
        | OpKind::Contract(_)
        | OpKind::Dialect(_) => None,
    })
}

/// Elements that the longest horizontal reduction combines into one.
fn longest_reduction(kernel: &Kernel) -> u64 {
    generics(kernel)
        .filter(|g| g.combine.is_some() && g.is_horizontal())
        .map(|g| {
            let reduced = |(d, n): (usize, &u64)| (!g.out.contains(&(d as u32))).then_some(*n);
            let reduced = g.extents.iter().enumerate().filter_map(reduced);
            reduced.fold(1, u64::saturating_mul)
        })
        .max()
        .unwrap_or(0)
}

fn reduces(kernel: &Kernel) -> bool {
    generics(kernel).any(|g| g.combine.is_some())
}

fn has_f64(kernel: &Kernel) -> bool {
    let mut types = kernel.params.iter().chain(kernel.ops.iter().flat_map(|op| &op.results));
    types.any(|t| t.dtype == DType::f64)
}
