//! How long a call takes on a machine, told from its kernel.
//!
//! # Invariants
//! - Formulas are those of the plan ([`perilune_plan::Work`], [`Exchange`]), filled in from types: there
//!   are no buffers yet. An epilogue counts as a call of its own.

use perilune_plan::{AttentionShape, Class, Exchange, Machine, Work};

use crate::passes::bufferise::is_alias;
use crate::program::{ContractDims, DialectOp, Kernel, KernelOp, OpKind, attention_shape};
use crate::types::Type;

/// Nanoseconds on the lane that computes, and of a collective on the one that communicates.
pub(super) fn time_ns(kernel: &Kernel, machine: &Machine) -> (u64, Option<u64>) {
    if is_alias(kernel) {
        return (0, None);
    }
    let results = kernel.result_types();
    let bytes = kernel.params.iter().chain(&results).map(Type::bytes).fold(0, u64::saturating_add);
    let exchange = exchange(kernel);
    let (class, flops) = match exchange {
        Some(_) => (Class::Exchange, 0),
        None => operations(kernel),
    };
    let compute = machine.compute_ns(&Work { class, flops, epilogue_flops: 0, bytes });
    (compute as u64, exchange.map(|exchange| machine.exchange_ns(&exchange) as u64))
}

/// What a collective exchanges.
fn exchange(kernel: &Kernel) -> Option<Exchange> {
    let collective = kernel.collective()?;
    let width = |ty: &Type| (ty.elems(), ty.dtype.bytes());
    Some(Exchange {
        kind: collective.kind.in_plan(kernel.params.first()?),
        send: kernel.params.iter().map(width).collect(),
        receive: kernel.result_types().iter().map(width).collect(),
        roots: collective.roots.clone(),
        ranks: collective.ranks.max(1),
    })
}

/// The work of a kernel's contraction, or of its loops.
fn operations(kernel: &Kernel) -> (Class, u64) {
    let found = kernel.ops.iter().find_map(|op| contraction(kernel, op));
    found.unwrap_or_else(|| (Class::Loops, kernel.flops()))
}

/// The work of an op that is a plan step of its own.
fn contraction(kernel: &Kernel, op: &KernelOp) -> Option<(Class, u64)> {
    let ty = |n: usize| kernel.ty(op.operands[n]);
    let product = |factors: [u64; 4]| factors.into_iter().fold(1, u64::saturating_mul);
    match &op.kind {
        OpKind::Contract(dims) => {
            Some((Class::Contract, points(dims, ty(0), ty(1)).saturating_mul(2)))
        }
        OpKind::Dialect(DialectOp::RaggedRows { .. }) => {
            let n = op.results[0].shape[1];
            Some((Class::Ragged, product([2, ty(0).shape[0], ty(0).shape[1], n])))
        }
        OpKind::Dialect(DialectOp::RaggedOuter) => {
            let (m, n) = (ty(0).shape[1], ty(1).shape[1]);
            Some((Class::Ragged, product([2, ty(0).shape[0], m, n])))
        }
        OpKind::Dialect(DialectOp::Attention { scale, causal }) => {
            Some((Class::Attention, heads(kernel, op, (*scale, *causal)).flops()))
        }
        OpKind::Dialect(DialectOp::AttentionGrad { scale, causal }) => {
            Some((Class::Attention, heads(kernel, op, (*scale, *causal)).grad_flops()))
        }
        OpKind::Generic(_)
        | OpKind::Slice(_)
        | OpKind::Concat(_)
        | OpKind::Pad { .. }
        | OpKind::Reshape
        | OpKind::Constant(_)
        | OpKind::Dialect(_) => None,
    }
}

/// The extents of an attention or its gradient.
fn heads(kernel: &Kernel, op: &KernelOp, (scale, causal): (u64, bool)) -> AttentionShape {
    let [q, k, v] = [0, 1, 2].map(|n: usize| &kernel.ty(op.operands[n]).shape[..]);
    attention_shape((q, k, v), (f64::from_bits(scale), causal))
}

/// Iterations of a contraction.
fn points(dims: &ContractDims, lhs: &Type, rhs: &Type) -> u64 {
    let left = dims.lhs.iter().zip(&lhs.shape);
    let right = dims.rhs.iter().zip(&rhs.shape).filter(|(id, _)| !dims.lhs.contains(id));
    left.chain(right).fold(1, |n, (_, extent)| n.saturating_mul(*extent))
}
