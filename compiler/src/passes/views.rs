//! Views into their readers: slices, reshapes, permutations and broadcasts stop being calls.
//!
//! A view computes nothing, so every loop kernel that reads one takes it into its own body, and a
//! contraction or attention takes it where strides can say it. What is left without a reader goes
//! away.
//!
//! # Invariants
//! - A contraction or attention only gets views that the plan can express
//!   (`crate::program::view`'s rules).

use std::collections::HashMap;

use super::canonicalize_cse;
use super::merge::{Interner, Member, merge};
use crate::program::view::trace;
use crate::program::{Call, DialectOp, EntryFn, Kernel, OpKind, Program, Slot};
use crate::scalar::ScalarOp;

/// Runs the pass.
pub fn run(program: &mut Program) {
    let mut kernels = Interner::new(std::mem::take(&mut program.kernels));
    for entry in &mut program.entries {
        absorb(entry, &mut kernels);
    }
    program.kernels = kernels.finish();
    canonicalize_cse::run(program);
}

/// Whether a kernel only moves elements about: every result is a view of its parameter.
pub(super) fn is_view(kernel: &Kernel) -> bool {
    kernel.params.len() == 1
        && kernel.results.len() == 1
        && kernel.ops.iter().all(|op| match &op.kind {
            OpKind::Slice(_) | OpKind::Reshape => true,
            OpKind::Generic(g) => {
                let copies = g.body.results.first().and_then(|r| g.body.ops.get(r.0 as usize));
                g.combine.is_none() && g.maps.len() == 1 && copies == Some(&ScalarOp::Arg(0))
            }
            OpKind::Concat(_)
            | OpKind::Pad { .. }
            | OpKind::Contract(_)
            | OpKind::Constant(_)
            | OpKind::Dialect(_) => false,
        })
}

/// Calls are in dependency order, so a chain of views is absorbed link by link.
fn absorb(entry: &mut EntryFn, kernels: &mut Interner) {
    let mut views: HashMap<Slot, Call> = HashMap::new();
    for at in 0..entry.calls.len() {
        let mut call = entry.calls[at].clone();
        for slot in call.args.clone() {
            let Some(view) = views.get(&slot) else { continue };
            let merged = merge(&[
                Member { call: view, kernel: kernels.get(view.kernel), kept: &[] },
                Member {
                    call: &call,
                    kernel: kernels.get(call.kernel),
                    kept: &all(&call, kernels),
                },
            ]);
            if accepts(&merged.kernel) {
                let kernel = kernels.intern(merged.kernel);
                call = Call { kernel, args: merged.args, ..call };
            }
        }
        if is_view(kernels.get(call.kernel)) {
            views.insert(call.first_result, call.clone());
        }
        entry.calls[at] = call;
    }
}

fn all(call: &Call, kernels: &Interner) -> Vec<Slot> {
    let count = kernels.get(call.kernel).results.len() as u32;
    (call.first_result.0..call.first_result.0 + count).map(Slot).collect()
}

/// Whether a kernel that absorbed a view can still become a step.
fn accepts(kernel: &Kernel) -> bool {
    let strided = |n: usize, at: usize| trace(kernel, kernel.ops[at].operands[n]);
    let contiguous = |n: usize, at: usize| {
        strided(n, at).is_some_and(|s| s.strides.last() == Some(&1) || s.shape.last() == Some(&1))
    };
    kernel.ops.iter().enumerate().all(|(at, op)| match &op.kind {
        OpKind::Contract(_) => (0..2).all(|n| strided(n, at).is_some()),
        OpKind::Dialect(d) => match d {
            DialectOp::Attention { .. } => (0..3).all(|n| contiguous(n, at)),
            DialectOp::AttentionGrad { .. } => {
                [0, 1, 2, 3, 5].iter().all(|n| contiguous(*n, at)) && is_parameter(kernel, at, 4)
            }
            DialectOp::RaggedRows { .. } => {
                contiguous(0, at) && strided(1, at).is_some() && is_parameter(kernel, at, 2)
            }
            DialectOp::RaggedOuter => {
                contiguous(0, at) && contiguous(1, at) && is_parameter(kernel, at, 2)
            }
            DialectOp::TopK { .. }
            | DialectOp::ArgSort { .. }
            | DialectOp::Histogram { .. }
            | DialectOp::CumSum { .. }
            | DialectOp::ScatterAdd { .. }
            | DialectOp::Collective(_) => false,
        },
        OpKind::Generic(_)
        | OpKind::Slice(_)
        | OpKind::Concat(_)
        | OpKind::Pad { .. }
        | OpKind::Reshape => true,
        OpKind::Constant(_) => false,
    })
}

fn is_parameter(kernel: &Kernel, at: usize, operand: usize) -> bool {
    (kernel.ops[at].operands[operand].0 as usize) < kernel.params.len()
}
