//! Rows: the leading dimensions along which a kernel can be cut.
//!
//! # Invariants
//! - Conservative: what is not known to keep to its rows counts as reading other ones.

use super::{ContractDims, DialectOp, Generic, Kernel, OpKind, V};

/// The leading extents of a contraction's result that it finishes in panels: those of its left
/// operand's rows and of the batch around them. `None` if the kernel is no contraction, or if some
/// of its columns lie outside its rows.
pub fn finished_rows(kernel: &Kernel) -> Option<&[u64]> {
    let op = kernel.ops.last()?;
    let shape = &op.results.first()?.shape;
    let rows = match &op.kind {
        OpKind::Contract(dims) => rows_of_contraction(dims)?,
        OpKind::Dialect(DialectOp::RaggedRows { .. }) => 1,
        OpKind::Dialect(DialectOp::RaggedOuter) => 2,
        OpKind::Dialect(_)
        | OpKind::Generic(_)
        | OpKind::Slice(_)
        | OpKind::Concat(_)
        | OpKind::Pad { .. }
        | OpKind::Reshape
        | OpKind::Constant(_) => return None,
    };
    shape.get(..rows)
}

fn rows_of_contraction(dims: &ContractDims) -> Option<usize> {
    let (left, right) = (|d: &u32| dims.lhs.contains(d), |d: &u32| dims.rhs.contains(d));
    let rows = match dims.out.iter().rposition(|d| left(d) && !right(d)) {
        Some(last) => last + 1,
        None => dims.out.iter().take_while(|d| left(d)).count(),
    };
    (rows > 0 && dims.out[..rows].iter().all(left)).then_some(rows)
}

/// Whether a kernel reads a parameter only at its own row: the leading `rows` indices of every read
/// are those of what is computed.
pub(crate) fn row_aligned(kernel: &Kernel, param: usize, rows: usize) -> bool {
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
