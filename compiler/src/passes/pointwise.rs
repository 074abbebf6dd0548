//! Which results of a kernel read a parameter only at the element they write.
//!
//! Such a result may be written over the parameter's storage.
//!
//! # Invariants
//! - Conservative: an op not known to be pointwise counts as reading everything.
//! - Positions are row-major element numbers, so a reshape keeps them.

use crate::program::{DialectOp, Generic, Kernel, OpKind, V};

/// Whether writing `result` over parameter `param`, element by element, leaves every result of the
/// kernel right. All that read the parameter read it at their own position, and share the loop that
/// writes: results of one shape do, others run before or after it, or in other blocks.
pub fn can_overwrite(kernel: &Kernel, param: usize, result: usize) -> bool {
    let (old, new) = (&kernel.params[param], kernel.ty(kernel.results[result]));
    old.dtype == new.dtype
        && old.elems() == new.elems()
        && kernel.results.iter().all(|v| match reads(kernel, *v, V(param as u32)) {
            Reads::No => true,
            Reads::OwnPosition => kernel.ty(*v).shape == new.shape,
            Reads::Anywhere => false,
        })
}

/// How a value reads a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reads {
    No,
    OwnPosition,
    Anywhere,
}

fn reads(kernel: &Kernel, value: V, param: V) -> Reads {
    // Every value's answer follows from its operands', which come first.
    let count = kernel.params.len() + kernel.ops.iter().map(|o| o.results.len()).sum::<usize>();
    let mut known = vec![Reads::No; count];
    known[param.0 as usize] = Reads::OwnPosition;
    let mut next = kernel.params.len();
    for op in &kernel.ops {
        let through = op.operands.iter().enumerate().map(|(i, v)| match known[v.0 as usize] {
            Reads::No => Reads::No,
            _ if !keeps_position(&op.kind, i) => Reads::Anywhere,
            known => known,
        });
        let answer = through.max().unwrap_or(Reads::No);
        for n in 0..op.results.len() {
            known[next] = match each_by_itself(&op.kind) {
                true => known[op.operands[n].0 as usize],
                false => answer,
            };
            next += 1;
        }
    }
    known[value.0 as usize]
}

/// Whether element `p` of the result depends on this operand at position `p` only.
fn keeps_position(kind: &OpKind, operand: usize) -> bool {
    match kind {
        OpKind::Reshape => true,
        OpKind::Generic(generic) => is_identity(generic, operand),
        OpKind::Slice(_)
        | OpKind::Concat(_)
        | OpKind::Pad { .. }
        | OpKind::Contract(_)
        | OpKind::Constant(_)
        | OpKind::Dialect(_) => false,
    }
}

/// Whether result `n` is made of operand `n` alone, position by position.
fn each_by_itself(kind: &OpKind) -> bool {
    match kind {
        OpKind::Dialect(DialectOp::Collective(collective)) => collective.kind.is_each_by_itself(),
        _ => false,
    }
}

fn is_identity(generic: &Generic, operand: usize) -> bool {
    let whole = generic.combine.is_none() && generic.out.len() == generic.extents.len();
    let map = generic.maps.get(operand);
    let same = |map: &Vec<Option<u32>>| {
        map.len() == generic.out.len() && map.iter().zip(&generic.out).all(|(m, o)| *m == Some(*o))
    };
    whole && map.is_some_and(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::generic::{body_of, elementwise};
    use crate::program::KernelOp;
    use crate::types::{DType, Type};

    /// Adds a sum of two values of one shape.
    fn add(kernel: &mut Kernel, x: V, y: V) -> V {
        let ty = kernel.ty(x).clone();
        let body = body_of(2, |b, v| b.add(v[0], v[1]));
        let kind = OpKind::Generic(elementwise(&ty.shape, 2, body));
        kernel.ops.push(KernelOp { kind, operands: vec![x, y], results: vec![ty] });
        V((kernel.params.len() + kernel.ops.len()) as u32 - 1)
    }

    #[test]
    fn a_result_is_not_written_over_what_a_result_of_another_shape_reads() {
        let params = vec![Type::new(DType::f32, [256]); 2];
        let mut kernel = Kernel { name: "k".into(), params, ops: Vec::new(), results: Vec::new() };
        let first = add(&mut kernel, V(0), V(1));
        let second = add(&mut kernel, first, V(1));
        kernel.results = vec![first, second];
        assert!(can_overwrite(&kernel, 1, 0), "both are written in one loop");
        let column = vec![Type::new(DType::f32, [256, 1])];
        kernel.ops.push(KernelOp {
            kind: OpKind::Reshape,
            operands: vec![second],
            results: column,
        });
        kernel.results[1] = V(4);
        assert!(!can_overwrite(&kernel, 1, 0), "the other is read in a loop of its own");
    }
}
