//! Types of the `perilune` dialect's ops: what each makes of its operands.
//!
//! # Invariants
//! - A kernel's memory is as long as its types say, so these decide what a kernel may touch.
//! - The same types as the graph op of each infers.

use perilune_plan::AttentionShape;

use super::{Collective, CollectiveKind, DialectOp};
use crate::types::{DType, Type};

/// Types of an op's results; `None` where it does not take such operands.
pub(super) fn results_of(op: &DialectOp, operands: &[&Type]) -> Option<Vec<Type>> {
    match *op {
        DialectOp::Attention { .. } => attention(operands),
        DialectOp::AttentionGrad { .. } => attention_grad(operands),
        DialectOp::RaggedRows { transposed } => ragged_rows(operands, transposed),
        DialectOp::RaggedOuter => ragged_outer(operands),
        DialectOp::TopK { k } => top_k(operands, k),
        DialectOp::ArgSort { bound } => Some(vec![integers(keys(operands, bound)?)]),
        DialectOp::Histogram { bound } => keys(operands, bound).map(|_| vec![integers(bound)]),
        DialectOp::CumSum { exclusive } => cum_sum(operands, exclusive),
        DialectOp::ScatterAdd { extent } => scatter_add(operands, extent),
        DialectOp::Collective(ref c) => collective(c, operands),
    }
}

fn integers(n: u64) -> Type {
    Type::new(DType::i32, [n])
}

/// The type, if a program can address it.
fn addressable(dtype: DType, shape: Vec<u64>) -> Option<Type> {
    let ty = Type::new(dtype, shape);
    ty.checked_bytes().map(|_| ty)
}

/// Whether all are floats of one dtype.
fn floats(operands: &[&Type]) -> bool {
    operands.iter().all(|ty| ty.dtype == operands[0].dtype && ty.dtype.is_float())
}

/// `o`, `lse` and `max_logit` of `q [b, s, h, d]`, `k [b, t, g, d]` and `v [b, t, g, e]`.
fn attention(operands: &[&Type]) -> Option<Vec<Type>> {
    let [q, k, v] = *operands else { return None };
    let ([b, s, h, d], [bk, t, g, dk], [bv, tv, gv, e]) =
        (&q.shape[..], &k.shape[..], &v.shape[..])
    else {
        return None;
    };
    let fits = (b, b, t, g, d) == (bk, bv, tv, gv, dk) && h.is_multiple_of(*g);
    (fits && floats(operands)).then(|| {
        vec![
            Type::new(q.dtype, [*b, *s, *h, *e]),
            Type::new(DType::f32, [*b, *h, *s]),
            Type::new(DType::f32, [*h]),
        ]
    })
}

/// The gradients of `q`, `k` and `v` from them, `o`, `lse` and the gradient of `o`.
fn attention_grad(operands: &[&Type]) -> Option<Vec<Type>> {
    let [q, k, v, o, lse, d_o] = *operands else { return None };
    let made = attention(&operands[..3])?;
    (made[0] == *o && made[1] == *lse && o == d_o).then(|| [q, k, v].map(Type::clone).into())
}

/// Number of groups that `offsets i32[groups + 1]` bound.
fn groups(offsets: &Type) -> Option<u64> {
    match offsets.shape[..] {
        [n] if offsets.dtype == DType::i32 => n.checked_sub(1),
        _ => None,
    }
}

fn ragged_rows(operands: &[&Type], transposed: bool) -> Option<Vec<Type>> {
    let [x, w, offsets] = *operands else { return None };
    let ([rows, k], [g, a, b]) = (&x.shape[..], &w.shape[..]) else { return None };
    let (n, depth) = if transposed { (a, b) } else { (b, a) };
    let fits = depth == k && groups(offsets) == Some(*g) && floats(&[x, w]);
    if fits { addressable(x.dtype, vec![*rows, *n]).map(|ty| vec![ty]) } else { None }
}

fn ragged_outer(operands: &[&Type]) -> Option<Vec<Type>> {
    let [x, y, offsets] = *operands else { return None };
    let ([rows, m], [same, n]) = (&x.shape[..], &y.shape[..]) else { return None };
    let groups = groups(offsets).filter(|_| rows == same && floats(&[x, y]))?;
    addressable(x.dtype, vec![groups, *m, *n]).map(|ty| vec![ty])
}

fn top_k(operands: &[&Type], k: u64) -> Option<Vec<Type>> {
    let [x] = *operands else { return None };
    let mut values = x.clone();
    let last = values.shape.last_mut().filter(|n| **n >= k)?;
    *last = k;
    let indices = values.with_dtype(DType::i32);
    floats(operands).then(|| vec![values, indices])
}

/// Number of keys, which are bounded by a number that an i32 holds.
fn keys(operands: &[&Type], bound: u64) -> Option<u64> {
    let [keys] = *operands else { return None };
    match keys.shape[..] {
        [n] if keys.dtype == DType::i32 && bound <= i32::MAX as u64 => Some(n),
        _ => None,
    }
}

fn cum_sum(operands: &[&Type], exclusive: bool) -> Option<Vec<Type>> {
    let [x] = *operands else { return None };
    let mut shape = x.shape.clone();
    *shape.last_mut()? += u64::from(exclusive);
    if x.dtype == DType::i1 { None } else { addressable(x.dtype, shape).map(|ty| vec![ty]) }
}

fn scatter_add(operands: &[&Type], extent: u64) -> Option<Vec<Type>> {
    let [updates, indices] = *operands else { return None };
    let fits = updates.shape.first() == indices.shape.first()
        && indices.ndim() == 1
        && indices.dtype == DType::i32
        && updates.dtype.is_float();
    let mut shape = updates.shape.clone();
    *shape.first_mut()? = extent;
    if fits { addressable(updates.dtype, shape).map(|ty| vec![ty]) } else { None }
}

/// What ranks give each other; counts are `[ranks · experts]`.
fn collective(c: &Collective, operands: &[&Type]) -> Option<Vec<Type>> {
    let counts = |ty: &Type| {
        let whole = ty.ndim() == 1 && c.ranks > 0 && ty.shape[0].is_multiple_of(c.ranks);
        whole && ty.dtype == DType::i32
    };
    let moved = |rows: u64, from: &Type| match from.shape[..] {
        [_, width] => addressable(from.dtype, vec![rows, width]).map(|ty| vec![ty]),
        _ => None,
    };
    let same = || operands.iter().map(|ty| (*ty).clone()).collect::<Vec<_>>();
    let combined = operands.iter().all(|ty| !matches!(ty.dtype, DType::f16 | DType::i1));
    let alike = operands.windows(2).all(|pair| pair[0] == pair[1]);
    match (c.kind, operands) {
        (kind, _) if kind.is_each_by_itself() && !alike => None,
        (CollectiveKind::AllReduce(_), _) => combined.then(same),
        (CollectiveKind::Reduce(_), _) => (combined && c.roots.len() == operands.len()).then(same),
        (CollectiveKind::Broadcast, _) => (c.roots.len() == operands.len()).then(same),
        (CollectiveKind::AllGather { dim }, [part]) => {
            let mut shape = part.shape.clone();
            let extent = shape.get_mut(dim as usize)?;
            *extent = extent.checked_mul(c.ranks)?;
            addressable(part.dtype, shape).map(|ty| vec![ty])
        }
        (CollectiveKind::ExchangeCounts, [sent]) => counts(sent).then(same),
        (
            CollectiveKind::Dispatch { rows } | CollectiveKind::Combine { rows },
            [from, sent, received],
        ) => (counts(sent) && counts(received)).then(|| moved(rows, from))?,
        (CollectiveKind::DispatchTokens { rows, per_token }, [tokens, order, sent, received]) => {
            let slots = tokens.shape.first()?.checked_mul(per_token)?;
            let fits = **order == integers(slots) && counts(sent) && counts(received);
            fits.then(|| moved(rows, tokens))?
        }
        _ => None,
    }
}

/// Extents of an attention, from the shapes of its `[batch, seq, heads, dim]` queries, keys and values.
pub(crate) fn attention_shape(
    (q, k, v): (&[u64], &[u64], &[u64]),
    (scale, causal): (f64, bool),
) -> AttentionShape {
    AttentionShape {
        batch: q[0],
        seq_q: q[1],
        seq_kv: k[1],
        heads: q[2],
        kv_heads: k[2],
        qk_dim: q[3],
        v_dim: v[3],
        scale: scale as f32,
        causal,
    }
}
