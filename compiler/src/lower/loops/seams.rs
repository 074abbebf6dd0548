//! Where the work along a result's dimension changes, and what a dimension is made of.
//!
//! A concatenation or a pad makes elements of different kinds; loops cut there hold no selects.
//! A reshape deep inside a kernel splits a dimension; loops over the parts need no division.
//!
//! # Invariants
//! - Both are optimisations: without them the generated code selects and divides, and is right.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::program::{Kernel, KernelOp, OpKind, V};

/// Cuts of a dimension, more than which it is left whole.
const MAX_CUTS: usize = 512;

/// What is known of an index: the root dimension it is, and how far it is shifted.
type Track = Option<(usize, i64)>;

/// Visits every op behind a value with the tracks of its result's dimensions.
fn walk(kernel: &Kernel, root: V, see: &mut dyn FnMut(&KernelOp, &[Track])) {
    let dims = kernel.ty(root).shape.len();
    let start: Vec<Track> = (0..dims).map(|d| Some((d, 0))).collect();
    let mut seen: HashSet<(V, Vec<Track>)> = HashSet::new();
    let mut todo = vec![(root, start)];
    while let Some((v, at)) = todo.pop() {
        let Some(i) = (v.0 as usize).checked_sub(kernel.params.len()) else { continue };
        if !seen.insert((v, at.clone())) {
            continue;
        }
        let op = &kernel.ops[i];
        see(op, &at);
        for (k, operand) in op.operands.iter().enumerate() {
            todo.push((*operand, operand_tracks(kernel, op, k, &at)));
        }
    }
}

/// Tracks of an operand's dimensions.
fn operand_tracks(kernel: &Kernel, op: &KernelOp, k: usize, at: &[Track]) -> Vec<Track> {
    let shape = &kernel.ty(op.operands[k]).shape;
    match &op.kind {
        OpKind::Generic(g) => {
            let mut iter: Vec<Track> = vec![None; g.extents.len()];
            for (d, track) in g.out.iter().zip(at) {
                iter[*d as usize] = *track;
            }
            match g.maps.get(k) {
                Some(map) => map.iter().map(|d| d.and_then(|d| iter[d as usize])).collect(),
                None => vec![None; shape.len()],
            }
        }
        OpKind::Slice(first) => shifted(at, |d| first[d] as i64),
        OpKind::Pad { low, .. } => shifted(at, |d| -(low[d] as i64)),
        OpKind::Concat(dim) => {
            let before: u64 =
                op.operands[..k].iter().map(|v| kernel.ty(*v).shape[*dim as usize]).sum();
            shifted(at, |d| if d == *dim as usize { -(before as i64) } else { 0 })
        }
        OpKind::Reshape => {
            let mut tracks = vec![None; shape.len()];
            for (outer, inner) in reshape_groups(&op.results[0].shape, shape) {
                if let ([o], [i]) = (outer.as_slice(), inner.as_slice()) {
                    tracks[*i] = at[*o];
                }
            }
            tracks
        }
        OpKind::Constant(_) | OpKind::Contract(_) | OpKind::Dialect(_) => vec![None; shape.len()],
    }
}

fn shifted(at: &[Track], by: impl Fn(usize) -> i64) -> Vec<Track> {
    at.iter().enumerate().map(|(d, t)| t.map(|(root, s)| (root, s + by(d)))).collect()
}

/// Runs of dimensions (extent 1 left out) that hold the same elements on both sides of a reshape.
pub(crate) fn reshape_groups(outer: &[u64], inner: &[u64]) -> Vec<(Vec<usize>, Vec<usize>)> {
    let real = |shape: &[u64]| (0..shape.len()).filter(|d| shape[*d] != 1).collect::<Vec<_>>();
    let (mut left, mut right) = (real(outer).into_iter(), real(inner).into_iter());
    let mut out = Vec::new();
    if outer.contains(&0) {
        return out;
    }
    while let (Some(i), Some(j)) = (left.next(), right.next()) {
        let (mut a, mut b) = (vec![i], vec![j]);
        let (mut m, mut n) = (outer[i], inner[j]);
        while m != n {
            let next = if m < n { left.next() } else { right.next() };
            let Some(d) = next else { return out };
            if m < n {
                m *= outer[d];
                a.push(d);
            } else {
                n *= inner[d];
                b.push(d);
            }
        }
        out.push((a, b));
    }
    out
}

/// Where a result's dimension should be cut: `0`, seams in ascending order, the extent.
pub(crate) fn cuts(kernel: &Kernel, root: V, dim: usize) -> Vec<i64> {
    let extent = kernel.ty(root).shape[dim] as i64;
    let mut found = BTreeSet::from([0, extent]);
    walk(kernel, root, &mut |op, at| {
        for (d, track) in at.iter().enumerate() {
            let Some((_, shift)) = track.filter(|t| t.0 == dim) else { continue };
            let mut add = |position: u64| found.insert(position as i64 - shift);
            match &op.kind {
                OpKind::Concat(c) if *c as usize == d => {
                    let mut end = 0;
                    for v in &op.operands {
                        end += kernel.ty(*v).shape[d];
                        add(end);
                    }
                }
                OpKind::Pad { low, .. } => {
                    add(low[d]);
                    add(low[d] + kernel.ty(op.operands[0]).shape[d]);
                }
                _ => {}
            }
        }
    });
    found.retain(|c| *c >= 0 && *c <= extent);
    match found.len() > MAX_CUTS {
        true => vec![0, extent],
        false => found.into_iter().collect(),
    }
}

/// What a result's dimensions are split into, where they are.
type Parts = Vec<Option<Vec<u64>>>;

/// The kernel with its results as the shapes its inner reshapes split them into, extents of 1 left
/// out. Results of one shape are split alike, so they stay in one loop.
pub(crate) fn refined(kernel: &Kernel) -> Kernel {
    let mut out = kernel.clone();
    let mut known: BTreeMap<Vec<u64>, Parts> = BTreeMap::new();
    for root in &kernel.results {
        let shape = &kernel.ty(*root).shape;
        let parts = known.entry(shape.clone()).or_insert_with(|| vec![None; shape.len()]);
        split(kernel, *root, parts);
    }
    for k in 0..kernel.results.len() {
        let root = kernel.results[k];
        let shape = &kernel.ty(root).shape;
        let parts = &known[shape];
        if parts.iter().all(Option::is_none) && !shape.contains(&1) {
            continue;
        }
        let whole = parts.iter().zip(shape);
        let split: Vec<u64> = whole
            .flat_map(|(p, extent)| p.clone().unwrap_or_else(|| vec![*extent]))
            .filter(|extent| *extent != 1)
            .collect();
        let ty = crate::types::Type::new(kernel.ty(root).dtype, split);
        out.ops.push(KernelOp { kind: OpKind::Reshape, operands: vec![root], results: vec![ty] });
        out.results[k] = V((out.params.len() + out.ops.len()) as u32 - 1);
    }
    out
}

/// Notes what the reshapes behind a result split its dimensions into, where nothing is noted yet.
fn split(kernel: &Kernel, root: V, parts: &mut Parts) {
    let shape = &kernel.ty(root).shape;
    walk(kernel, root, &mut |op, at| {
        if !matches!(op.kind, OpKind::Reshape) {
            return;
        }
        let from = &kernel.ty(op.operands[0]).shape;
        for (outer, inner) in reshape_groups(&op.results[0].shape, from) {
            let ([o], true) = (outer.as_slice(), inner.len() > 1) else { continue };
            if let Some((d, 0)) = at[*o]
                && shape[d] == op.results[0].shape[*o]
            {
                parts[d].get_or_insert_with(|| inner.iter().map(|i| from[*i]).collect());
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::reshape_groups;

    #[test]
    fn a_reshape_groups_dimensions_that_hold_the_same_elements() {
        let got = reshape_groups(&[6, 1, 20], &[2, 3, 4, 5]);
        assert_eq!(got, vec![(vec![0], vec![0, 1]), (vec![2], vec![2, 3])]);
    }
}
