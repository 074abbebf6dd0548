//! How long a call takes on a machine, told from its kernel.
//!
//! # Invariants
//! - The same formulas as [`perilune_plan::Work`] has for a plan's steps, before there is a plan.

use perilune_plan::{Class, Machine, Work};

use crate::passes::bufferise::is_alias;
use crate::program::{Collective, CollectiveKind, ContractDims, DialectOp, Kernel, OpKind};
use crate::types::Type;

/// Nanoseconds on the lane that computes, and of a collective on the one that communicates.
pub(super) fn time_ns(kernel: &Kernel, machine: &Machine) -> (u64, Option<u64>) {
    let bytes = |types: &mut dyn Iterator<Item = u64>| types.fold(0, u64::saturating_add);
    let read = bytes(&mut kernel.params.iter().map(Type::bytes));
    let written = bytes(&mut kernel.result_types().iter().map(Type::bytes));
    if is_alias(kernel) {
        return (0, None);
    }
    let Some(collective) = kernel.collective() else {
        let (class, flops) = operations(kernel);
        let bytes = read.saturating_add(written);
        let work = Work { flops, epilogue_flops: 0, bytes, class };
        return (machine.compute_ns(&work) as u64, None);
    };
    let handed = Work { bytes: read.saturating_add(written), ..Work::new(Class::Exchange) };
    let lane = match collective.ranks {
        0 | 1 => 0.0,
        ranks => {
            machine.exchange_ns(exchanges(collective.kind), sent(kernel, collective, ranks as f64))
        }
    };
    (machine.compute_ns(&handed) as u64, Some(lane as u64))
}

/// The work of a kernel's contraction, or of its loops.
fn operations(kernel: &Kernel) -> (Class, u64) {
    let product = |factors: &[u64]| factors.iter().fold(1u64, |n, f| n.saturating_mul(*f));
    for op in &kernel.ops {
        let ty = |n: usize| kernel.ty(op.operands[n]);
        match &op.kind {
            OpKind::Contract(dims) => {
                return (Class::Contract, points(dims, ty(0), ty(1)).saturating_mul(2));
            }
            OpKind::Dialect(DialectOp::RaggedRows { .. }) => {
                let n = op.results[0].shape[1];
                return (Class::Ragged, product(&[2, ty(0).shape[0], ty(0).shape[1], n]));
            }
            OpKind::Dialect(DialectOp::RaggedOuter) => {
                let (m, n) = (ty(0).shape[1], ty(1).shape[1]);
                return (Class::Ragged, product(&[2, ty(0).shape[0], m, n]));
            }
            OpKind::Dialect(DialectOp::Attention { causal, .. }) => {
                return (
                    Class::Attention,
                    logits(ty(0), ty(1), *causal).saturating_mul(2 * dims(ty(0), ty(2))),
                );
            }
            OpKind::Dialect(DialectOp::AttentionGrad { causal, .. }) => {
                let (qk, v) = (ty(0).shape[3], ty(2).shape[3]);
                let flops = logits(ty(0), ty(1), *causal).saturating_mul(2 * (3 * qk + 2 * v));
                return (Class::Attention, flops);
            }
            _ => {}
        }
    }
    (Class::Loops, kernel.flops())
}

/// Elements of a query and of a value.
fn dims(q: &Type, v: &Type) -> u64 {
    q.shape[3] + v.shape[3]
}

/// Visible logits of `[batch, seq, heads, dim]` queries and keys.
fn logits(q: &Type, k: &Type, causal: bool) -> u64 {
    let (seq_q, seq_kv) = (q.shape[1], k.shape[1]);
    let hidden = match causal {
        true => seq_kv.min(seq_q).saturating_sub(1).saturating_mul(seq_q) / 2,
        false => 0,
    };
    let visible = seq_q.saturating_mul(seq_kv).saturating_sub(hidden);
    q.shape[0].saturating_mul(q.shape[2]).saturating_mul(visible)
}

/// Iterations of a contraction.
fn points(dims: &ContractDims, lhs: &Type, rhs: &Type) -> u64 {
    let left = dims.lhs.iter().zip(&lhs.shape);
    let right = dims.rhs.iter().zip(&rhs.shape).filter(|(id, _)| !dims.lhs.contains(id));
    left.chain(right).fold(1, |n, (_, extent)| n.saturating_mul(*extent))
}

/// Exchanges that a collective is made of.
fn exchanges(kind: CollectiveKind) -> u64 {
    match kind {
        CollectiveKind::AllReduce(_) | CollectiveKind::DispatchTokens { .. } => 2,
        CollectiveKind::Reduce(_)
        | CollectiveKind::Broadcast
        | CollectiveKind::AllGather { .. }
        | CollectiveKind::ExchangeCounts
        | CollectiveKind::Dispatch { .. }
        | CollectiveKind::Combine { .. } => 1,
    }
}

/// Bytes to expect that a rank of `ranks` sends, where experts are chosen evenly.
fn sent(kernel: &Kernel, collective: &Collective, ranks: f64) -> f64 {
    let params = kernel.params.iter().map(|t| t.bytes() as f64);
    let first = kernel.params.first();
    let row = first
        .map_or(0.0, |t| t.bytes() as f64 / t.shape.first().copied().unwrap_or(1).max(1) as f64);
    let others = 1.0 - 1.0 / ranks;
    match collective.kind {
        CollectiveKind::AllReduce(_) => 2.0 * others * params.sum::<f64>(),
        CollectiveKind::Reduce(_) | CollectiveKind::Broadcast => others * params.sum::<f64>(),
        CollectiveKind::AllGather { .. } => (ranks - 1.0) * params.sum::<f64>(),
        CollectiveKind::ExchangeCounts => others * params.sum::<f64>(),
        CollectiveKind::Dispatch { .. } => others * params.take(1).sum::<f64>(),
        CollectiveKind::DispatchTokens { .. } => {
            let slots = kernel.params.get(1).map_or(0, Type::elems) as f64;
            others * slots * (row + 4.0)
        }
        // As many rows come home as there are slots.
        CollectiveKind::Combine { rows } => others * rows as f64 * row,
    }
}
