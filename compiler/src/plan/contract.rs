//! A contraction as loops with strides: batch, rows, columns, contracted.
//!
//! # Invariants
//! - Loops whose strides line up in every operand are merged, so a product of matrices is one
//!   matrix product whatever the number of letters.
//! - What does not merge goes to `batch` (independent) or `sum` (in order).

use perilune_plan as plan;
use plan::Loop;

use super::{broken, not_a_view};
use crate::diagnostic::InternalError;
use crate::program::view::{Strided, contiguous, trace};
use crate::program::{ContractDims, Kernel, OpKind};

/// The step for the contraction at `op` of a kernel whose result it is.
pub(super) fn contract(
    kernel: &Kernel,
    op: usize,
    args: &[u32],
    c: u32,
) -> Result<plan::Contract, InternalError> {
    let OpKind::Contract(dims) = &kernel.ops[op].kind else {
        return Err(broken("not a contraction"));
    };
    let [lhs, rhs] = kernel.ops[op].operands[..] else {
        return Err(broken("a contraction has two operands"));
    };
    let a = trace(kernel, lhs).ok_or_else(|| not_a_view(kernel, lhs))?;
    let b = trace(kernel, rhs).ok_or_else(|| not_a_view(kernel, rhs))?;
    let shape = &kernel.ops[op].results[0].shape;
    let groups = Groups::new(dims, &a, &b, shape);
    let alike = args[a.param] == args[b.param] && a.offset == b.offset && groups.mirrored();
    let Groups { mut batch, mut m, mut n, mut k } = groups;
    let (row, column, depth) = (take_largest(&mut m), take_largest(&mut n), take_largest(&mut k));
    // Rows and columns left over become items of the batch, which are not symmetric one by one.
    let symmetric = alike && m.is_empty() && n.is_empty();
    batch.extend(m);
    batch.extend(n);
    Ok(plan::Contract {
        a: plan::View { buffer: args[a.param], offset: a.offset },
        b: plan::View { buffer: args[b.param], offset: b.offset },
        c: plan::View { buffer: c, offset: 0 },
        batch,
        sum: k,
        m: row,
        n: column,
        k: depth,
        alpha: 1.0,
        accumulate: false,
        symmetric,
        epilogue: None,
    })
}

/// Loops by which operands they move.
#[derive(Default)]
struct Groups {
    batch: Vec<Loop>,
    m: Vec<Loop>,
    n: Vec<Loop>,
    k: Vec<Loop>,
}

impl Groups {
    fn new(dims: &ContractDims, a: &Strided, b: &Strided, c_shape: &[u64]) -> Self {
        let c_strides = contiguous(c_shape);
        let mut groups = Groups::default();
        let mut ids: Vec<u32> = dims.out.clone();
        for id in dims.lhs.iter().chain(&dims.rhs) {
            if !ids.contains(id) {
                ids.push(*id);
            }
        }
        for id in ids {
            let at = |dims: &[u32]| dims.iter().position(|d| *d == id);
            let (in_a, in_b, in_c) = (at(&dims.lhs), at(&dims.rhs), at(&dims.out));
            let extents =
                in_a.map(|d| a.shape[d]).or(in_b.map(|d| b.shape[d])).or(in_c.map(|d| c_shape[d]));
            let item = Loop {
                extent: extents.unwrap_or(1),
                a: in_a.map_or(0, |d| a.strides[d]),
                b: in_b.map_or(0, |d| b.strides[d]),
                c: in_c.map_or(0, |d| c_strides[d]),
            };
            match (in_a, in_b, in_c) {
                (Some(_), Some(_), Some(_)) | (None, None, _) => groups.batch.push(item),
                (Some(_), None, Some(_)) => groups.m.push(item),
                (None, Some(_), Some(_)) => groups.n.push(item),
                (_, _, None) => groups.k.push(item),
            }
        }
        for group in [&mut groups.batch, &mut groups.m, &mut groups.n, &mut groups.k] {
            merge(group);
        }
        groups
    }

    /// Whether rows of `a` and columns of `b` run alike: A·Aᵀ, if both are the same data.
    fn mirrored(&self) -> bool {
        let alike = self.m.len() == self.n.len()
            && self.m.iter().zip(&self.n).all(|(m, n)| m.extent == n.extent && m.a == n.b);
        alike && self.batch.iter().chain(&self.k).all(|l| l.a == l.b)
    }
}

/// Drops loops of one trip and merges neighbours; loops are outermost first.
fn merge(loops: &mut Vec<Loop>) {
    let mut merged: Vec<Loop> = Vec::with_capacity(loops.len());
    for inner in loops.drain(..).filter(|l| l.extent != 1) {
        let lines_up = |outer: &Loop| {
            let trips = inner.extent as i64;
            outer.a == inner.a * trips && outer.b == inner.b * trips && outer.c == inner.c * trips
        };
        match merged.last_mut().filter(|outer| lines_up(outer)) {
            Some(outer) => *outer = Loop { extent: outer.extent * inner.extent, ..inner },
            None => merged.push(inner),
        }
    }
    *loops = merged;
}

/// Takes out the loop with the most trips (the innermost of equals); one trip, if there is none.
fn take_largest(loops: &mut Vec<Loop>) -> Loop {
    let largest = loops.iter().enumerate().max_by_key(|(i, l)| (l.extent, *i)).map(|(i, _)| i);
    largest.map_or(Loop { extent: 1, a: 0, b: 0, c: 0 }, |i| loops.remove(i))
}
