//! What fusion needs to know of a kernel: over which extents it runs and how it reduces.
//!
//! # Invariants
//! - Canonical generics: result dimensions come first, in order, then the reduced ones.

use crate::program::{Generic, Kernel, OpKind};

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

    /// Leading extents of both.
    pub(super) fn leading_in_common(&self, other: &Facts) -> Vec<u64> {
        let both = self.extents.iter().zip(&other.extents);
        both.take_while(|(a, b)| a == b).map(|(a, _)| *a).collect()
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
        let size = |f: &Facts| {
            (f.extents.len(), f.extents.iter().fold(1u64, |n, extent| n.saturating_mul(*extent)))
        };
        let longer = size(self) >= size(other);
        let extents = if longer { &self.extents } else { &other.extents };
        Facts { shape, extents: extents.clone(), ops: self.ops + other.ops }
    }
}

/// How a generic reduces, as its loops do.
fn reduction(g: &Generic) -> Shape {
    if g.combine.is_none() {
        return Shape::Elementwise;
    }
    let rows = g.out.iter().map(|d| g.extents[*d as usize]).collect();
    if g.is_horizontal() { Shape::Rows(rows) } else { Shape::Columns }
}
