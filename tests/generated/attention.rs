//! Attention and its gradient.

use perilune_plan::{Attention, AttentionGrad, AttentionShape, DType, HeadsView, StepOp, View};

use crate::machine::{Buffer, Schedules, check};
use crate::reference;

fn shape(seq: [u64; 2], heads: [u64; 2], dims: [u64; 2], causal: bool) -> AttentionShape {
    AttentionShape {
        batch: 2,
        seq_q: seq[0],
        seq_kv: seq[1],
        heads: heads[0],
        kv_heads: heads[1],
        qk_dim: dims[0],
        v_dim: dims[1],
        scale: 0.7,
        causal,
    }
}

/// `[batch, seq, heads, dim]` behind `offset` elements.
fn heads(buffer: u32, [seq, heads, dim]: [u64; 3]) -> HeadsView {
    HeadsView {
        view: View { buffer, offset: 0 },
        batch: (seq * heads * dim) as i64,
        seq: (heads * dim) as i64,
        head: dim as i64,
    }
}

fn elems(s: &AttentionShape, [seq, heads, dim]: [u64; 3]) -> u64 {
    s.batch * seq * heads * dim
}

/// Runs forward and backward.
fn run(s: AttentionShape, dtype: DType, schedules: Schedules) {
    let queries = [s.seq_q, s.heads, s.qk_dim];
    let keys = [s.seq_kv, s.kv_heads, s.qk_dim];
    let values = [s.seq_kv, s.kv_heads, s.v_dim];
    let outputs = [s.seq_q, s.heads, s.v_dim];
    let rows = s.batch * s.heads * s.seq_q;
    let forward = Attention {
        shape: s,
        q: heads(0, queries),
        k: heads(1, keys),
        v: heads(2, values),
        o: heads(3, outputs),
        lse: Some(View { buffer: 4, offset: 2 }),
        max_logit: Some(View { buffer: 5, offset: 1 }),
    };
    let before = [
        Buffer::random(dtype, elems(&s, queries), 1),
        Buffer::random(dtype, elems(&s, keys), 2),
        Buffer::random(dtype, elems(&s, values), 3),
        Buffer::untouched(dtype, elems(&s, outputs)),
        Buffer::untouched(DType::f32, rows + 2),
        Buffer::untouched(DType::f32, s.heads + 1),
    ];
    let mut expected = before.to_vec();
    reference::attention(&forward, &mut expected);
    let tolerance = if dtype == DType::f32 { 1e-5 } else { 2e-2 };
    check(&StepOp::Attention(forward), &before, &expected, (schedules, tolerance));

    let backward = AttentionGrad {
        shape: s,
        q: heads(0, queries),
        k: heads(1, keys),
        v: heads(2, values),
        o: heads(3, outputs),
        lse: View { buffer: 4, offset: 2 },
        d_o: heads(6, outputs),
        d_q: heads(7, queries),
        d_k: heads(8, keys),
        d_v: heads(9, values),
    };
    // The gradient starts from what the forward gave, as its types hold it.
    let rounded = expected.iter().map(|b| Buffer::new(b.dtype, b.values.iter().copied()));
    let before: Vec<Buffer> = rounded
        .chain([
            Buffer::random(dtype, elems(&s, outputs), 4),
            Buffer::untouched(dtype, elems(&s, queries)),
            Buffer::untouched(dtype, elems(&s, keys)),
            Buffer::untouched(dtype, elems(&s, values)),
        ])
        .collect();
    let mut expected = before.clone();
    reference::attention_grad(&backward, &mut expected);
    check(&StepOp::AttentionGrad(backward), &before, &expected, (schedules, tolerance));
}

#[test]
fn attention_and_its_gradient_match_over_odd_sizes() {
    for dtype in [DType::f32, DType::bf16] {
        run(shape([11, 11], [2, 2], [16, 6], true), dtype, Schedules::Chosen);
        run(shape([37, 37], [4, 2], [24, 16], true), dtype, Schedules::Chosen);
        run(shape([5, 40], [2, 1], [7, 9], true), dtype, Schedules::Chosen);
        run(shape([33, 20], [1, 1], [16, 16], false), dtype, Schedules::Chosen);
    }
}

#[test]
fn queries_that_see_nothing_give_zeros() {
    // The first queries of a causal mask that ends at the last key.
    for dtype in [DType::f32, DType::bf16] {
        run(shape([40, 5], [2, 2], [8, 8], true), dtype, Schedules::Chosen);
    }
}

#[test]
fn every_tile_attends_alike() {
    for dtype in [DType::f32, DType::bf16] {
        run(shape([70, 70], [2, 1], [24, 16], true), dtype, Schedules::EveryTile);
    }
}

#[test]
fn no_queries_and_no_keys_are_attention_too() {
    run(shape([0, 4], [2, 2], [8, 8], false), DType::f32, Schedules::Chosen);
    run(shape([4, 0], [2, 2], [8, 8], false), DType::f32, Schedules::Chosen);
}
