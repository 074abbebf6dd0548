//! Which results of a kernel read a parameter only at the element they write.
//!
//! Such a result may be written over the parameter's storage.
//!
//! # Invariants
//! - Conservative: an op not known to be pointwise counts as reading everything.
//! - Positions are row-major element numbers, so a reshape keeps them.

use crate::program::{Generic, Kernel, OpKind, V};

/// Whether writing `result` over parameter `param`, element by element, leaves every result of the
/// kernel right: all of them read the parameter at their own position only, and have as many
/// elements as it.
pub fn can_overwrite(kernel: &Kernel, param: usize, result: usize) -> bool {
    let elems = kernel.params[param].elems();
    let same_type = kernel.params[param].dtype == kernel.ty(kernel.results[result]).dtype;
    same_type
        && kernel.results.iter().enumerate().all(|(i, v)| {
            let reads = reads(kernel, *v, V(param as u32));
            let aligned = kernel.ty(*v).elems() == elems;
            match reads {
                Reads::No => i != result || aligned,
                Reads::OwnPosition => aligned,
                Reads::Anywhere => false,
            }
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
        for _ in &op.results {
            known[next] = answer;
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

fn is_identity(generic: &Generic, operand: usize) -> bool {
    let whole = generic.combine.is_none() && generic.out.len() == generic.extents.len();
    let map = generic.maps.get(operand);
    let same = |map: &Vec<Option<u32>>| {
        map.len() == generic.out.len() && map.iter().zip(&generic.out).all(|(m, o)| *m == Some(*o))
    };
    whole && map.is_some_and(same)
}
