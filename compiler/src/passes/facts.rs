//! What fusion needs to know of a kernel: over which extents it runs and how it reduces.
//!
//! # Invariants
//! - Canonical generics: result dimensions come first, in order, then the reduced ones.

use crate::program::{Generic, Kernel, OpKind, V};

/// What a loop kernel does with its extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Not a loop kernel.
    Other,
    /// No reduction.
    Elementwise,
    /// Reductions along each row; the rows' extents.
    Rows(Vec<u64>),
    /// A reduction down columns.
    Columns,
}

/// Facts of a kernel or of a fusion group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) shape: Shape,
    /// The largest iteration space, rows first.
    pub(super) extents: Vec<u64>,
    /// Number of ops.
    pub(super) ops: usize,
}

impl Facts {
    pub(super) fn of(kernel: &Kernel) -> Facts {
        let mut facts =
            Facts { shape: Shape::Elementwise, extents: Vec::new(), ops: kernel.ops.len() };
        for op in &kernel.ops {
            let (shape, extents) = match &op.kind {
                OpKind::Generic(g) => (reduction(g), g.extents.clone()),
                OpKind::Slice(_) | OpKind::Concat(_) | OpKind::Pad { .. } | OpKind::Reshape => {
                    (Shape::Elementwise, op.results[0].shape.clone())
                }
                OpKind::Constant(_) | OpKind::Contract(_) | OpKind::Dialect(_) => {
                    (Shape::Other, Vec::new())
                }
            };
            let one = Facts { shape, extents, ops: 0 };
            facts = Facts { ops: facts.ops, ..facts.join(&one) };
        }
        // Views inside a kernel may have other extents than what it makes.
        if facts.shape == Shape::Elementwise && kernel.results.len() == 1 {
            facts.extents = kernel.ty(kernel.results[0]).shape.clone();
        }
        facts
    }

    pub(super) fn fusable(&self) -> bool {
        self.shape != Shape::Other && !self.extents.contains(&0)
    }

    /// Facts of both together.
    pub(super) fn join(&self, other: &Facts) -> Facts {
        let shape = match (&self.shape, &other.shape) {
            (Shape::Other, _) | (_, Shape::Other) => Shape::Other,
            (Shape::Columns, _) | (_, Shape::Columns) => Shape::Columns,
            (Shape::Rows(a), Shape::Rows(b)) if a != b => Shape::Columns,
            (Shape::Rows(r), _) | (_, Shape::Rows(r)) => Shape::Rows(r.clone()),
            (Shape::Elementwise, Shape::Elementwise) => Shape::Elementwise,
        };
        let longer = (self.extents.len(), self.extents.iter().product::<u64>())
            >= (other.extents.len(), other.extents.iter().product::<u64>());
        let extents = if longer { &self.extents } else { &other.extents };
        Facts { shape, extents: extents.clone(), ops: self.ops + other.ops }
    }
}

/// How a generic reduces: along rows where the last dimension of an operand is reduced.
fn reduction(g: &Generic) -> Shape {
    if g.combine.is_none() {
        return Shape::Elementwise;
    }
    let kept = g.out.len() as u32;
    let along = g.maps.iter().any(|m| matches!(m.last(), Some(Some(d)) if *d >= kept));
    let rows = g.out.iter().map(|d| g.extents[*d as usize]).collect();
    if along { Shape::Rows(rows) } else { Shape::Columns }
}

/// Whether a kernel reads a parameter only at its own row: the leading `rows` indices of every read
/// are those of what is computed.
pub(super) fn row_aligned(kernel: &Kernel, param: usize, rows: usize) -> bool {
    let mut aligned = vec![V(param as u32)];
    let mut next = kernel.params.len() as u32;
    for op in &kernel.ops {
        for (i, operand) in op.operands.iter().enumerate().filter(|(_, v)| aligned.contains(v)) {
            let extents = &kernel.ty(*operand).shape;
            let result = &op.results[0].shape;
            let keeps = extents.len() >= rows
                && match &op.kind {
                    OpKind::Generic(g) => reads_own_row(g, i, rows),
                    OpKind::Slice(starts) => {
                        starts[..rows].iter().all(|s| *s == 0) && result[..rows] == extents[..rows]
                    }
                    OpKind::Concat(dim) => *dim as usize >= rows,
                    OpKind::Pad { .. } => result[..rows] == extents[..rows],
                    OpKind::Reshape => result.len() >= rows && result[..rows] == extents[..rows],
                    OpKind::Constant(_) | OpKind::Contract(_) | OpKind::Dialect(_) => false,
                };
            if !keeps {
                return false;
            }
        }
        if op.operands.iter().any(|v| aligned.contains(v)) {
            aligned.push(V(next));
        }
        next += op.results.len() as u32;
    }
    true
}

fn reads_own_row(g: &Generic, operand: usize, rows: usize) -> bool {
    let identity = |map: &[Option<u32>]| map.iter().zip(0..).all(|(m, d)| *m == Some(d));
    let map = g.maps.get(operand).and_then(|m| m.get(..rows));
    map.is_some_and(identity)
        && g.out.len() >= rows
        && g.out[..rows].iter().zip(0..).all(|(o, d)| *o == d)
}
