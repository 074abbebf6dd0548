//! Attention and its gradient against plain f64 loops.

use perilune_plan::{Attention, AttentionGrad, AttentionShape, DType, HeadsView, StepOp};
use perilune_runtime::HostTensor;
use proptest::prelude::*;

use crate::support::{PlanBuilder, assert_close, noise_tensor, values, whole};

fn shape(
    batch: u64,
    seq: [u64; 2],
    heads: [u64; 2],
    dims: [u64; 2],
    causal: bool,
) -> AttentionShape {
    AttentionShape {
        batch,
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

/// `[batch, seq, heads, dim]`, dense.
fn dense(buffer: u32, seq: u64, heads: u64, dim: u64) -> HeadsView {
    let (seq, heads, dim) = (seq as i64, heads as i64, dim as i64);
    HeadsView { view: whole(buffer), batch: seq * heads * dim, seq: heads * dim, head: dim }
}

/// Extents of q, k, v and o.
fn sizes(s: &AttentionShape) -> [(u64, u64, u64); 4] {
    [
        (s.seq_q, s.heads, s.qk_dim),
        (s.seq_kv, s.kv_heads, s.qk_dim),
        (s.seq_kv, s.kv_heads, s.v_dim),
        (s.seq_q, s.heads, s.v_dim),
    ]
}

/// Everything that attention and its gradient give, in f64.
#[derive(Default)]
struct Truth {
    o: Vec<f64>,
    lse: Vec<f64>,
    max: Vec<f64>,
    d_q: Vec<f64>,
    d_k: Vec<f64>,
    d_v: Vec<f64>,
}

fn truth(s: &AttentionShape, q: &[f64], k: &[f64], v: &[f64], d_o: &[f64]) -> Truth {
    let [b, sq, sk, h, hk, d, e] =
        [s.batch, s.seq_q, s.seq_kv, s.heads, s.kv_heads, s.qk_dim, s.v_dim].map(|x| x as usize);
    let scale = f64::from(s.scale);
    let mut t = Truth {
        o: vec![0.0; b * sq * h * e],
        lse: vec![f64::NEG_INFINITY; b * h * sq],
        max: vec![f64::NEG_INFINITY; h],
        d_q: vec![0.0; q.len()],
        d_k: vec![0.0; k.len()],
        d_v: vec![0.0; v.len()],
    };
    for (bi, hi, i) in (0..b)
        .flat_map(|bi| (0..h).map(move |hi| (bi, hi)))
        .flat_map(|(bi, hi)| (0..sq).map(move |i| (bi, hi, i)))
    {
        let kh = hi / (h / hk);
        let visible = if s.causal { (i + 1 + sk).saturating_sub(sq).min(sk) } else { sk };
        let at_q = ((bi * sq + i) * h + hi) * d;
        let at_o = ((bi * sq + i) * h + hi) * e;
        let at_k = |j: usize| ((bi * sk + j) * hk + kh) * d;
        let at_v = |j: usize| ((bi * sk + j) * hk + kh) * e;
        let inner = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let logits: Vec<f64> = (0..visible)
            .map(|j| scale * inner(&q[at_q..at_q + d], &k[at_k(j)..at_k(j) + d]))
            .collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        t.max[hi] = t.max[hi].max(max);
        if visible == 0 {
            continue;
        }
        let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
        t.lse[(bi * h + hi) * sq + i] = max + sum.ln();
        let p: Vec<f64> = logits.iter().map(|x| (x - max).exp() / sum).collect();
        for j in 0..visible {
            for c in 0..e {
                t.o[at_o + c] += p[j] * v[at_v(j) + c];
                t.d_v[at_v(j) + c] += p[j] * d_o[at_o + c];
            }
        }
        let d_p: Vec<f64> =
            (0..visible).map(|j| inner(&d_o[at_o..at_o + e], &v[at_v(j)..at_v(j) + e])).collect();
        let mean = inner(&p, &d_p);
        for j in 0..visible {
            let d_s = scale * p[j] * (d_p[j] - mean);
            for c in 0..d {
                t.d_q[at_q + c] += d_s * k[at_k(j) + c];
                t.d_k[at_k(j) + c] += d_s * q[at_q + c];
            }
        }
    }
    t
}

fn forward_and_backward(s: &AttentionShape, dtype: DType) -> PlanBuilder {
    let mut builder = PlanBuilder::new();
    let sizes = sizes(s);
    let count = |(seq, heads, dim): (u64, u64, u64)| s.batch * seq * heads * dim;
    let view = |buffer, (seq, heads, dim)| dense(buffer, seq, heads, dim);
    let inputs = [0, 1, 2, 3].map(|i: usize| builder.feed(dtype, &[count(sizes[i])]));
    let o = builder.result(dtype, &[count(sizes[3])]);
    let lse = builder.result(DType::f32, &[s.batch * s.heads * s.seq_q]);
    let max = builder.result(DType::f32, &[s.heads]);
    let grads = [0, 1, 2].map(|i: usize| builder.result(dtype, &[count(sizes[i])]));
    let [q, k, v] = [0, 1, 2].map(|i: usize| view(inputs[i], sizes[i]));
    builder.step(StepOp::Attention(Attention {
        shape: *s,
        q,
        k,
        v,
        o: view(o, sizes[3]),
        lse: Some(whole(lse)),
        max_logit: Some(whole(max)),
    }));
    builder.step(StepOp::AttentionGrad(AttentionGrad {
        shape: *s,
        q,
        k,
        v,
        o: view(o, sizes[3]),
        lse: whole(lse),
        d_o: view(inputs[3], sizes[3]),
        d_q: view(grads[0], sizes[0]),
        d_k: view(grads[1], sizes[1]),
        d_v: view(grads[2], sizes[2]),
    }));
    builder
}

fn check(s: &AttentionShape, dtype: DType, tolerance: f64) {
    let elems = sizes(s).map(|(seq, heads, dim)| s.batch * seq * heads * dim);
    let feeds: Vec<HostTensor> = (0..4)
        .map(|i| noise_tensor(i as u64 + 5, &[elems[i]]).cast(dtype).expect("a float type"))
        .collect();
    let found = forward_and_backward(s, dtype).run_all(&feeds);
    let inputs: Vec<Vec<f64>> = feeds.iter().map(values).collect();
    let t = truth(s, &inputs[0], &inputs[1], &inputs[2], &inputs[3]);
    let names = ["o", "lse", "max", "d_q", "d_k", "d_v"];
    for ((found, truth), name) in
        found.iter().zip([&t.o, &t.lse, &t.max, &t.d_q, &t.d_k, &t.d_v]).zip(names)
    {
        assert_close(&values(found), truth, tolerance, &format!("{name} of {s:?}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn attention_and_its_gradient_equal_plain_loops(
        batch in 0u64..3,
        seq in [0u64..20, 0u64..20],
        (kv_heads, group) in (1u64..3, 1u64..4),
        dims in [1u64..12, 1u64..12],
        causal in any::<bool>(),
        bf16 in any::<bool>(),
    ) {
        let s = shape(batch, seq, [kv_heads * group, kv_heads], dims, causal);
        let (dtype, tolerance) = if bf16 { (DType::bf16, 4e-2) } else { (DType::f32, 1e-5) };
        check(&s, dtype, tolerance);
    }
}

#[test]
fn attention_over_many_tiles_equals_plain_loops() {
    check(&shape(1, [300, 300], [2, 1], [24, 16], true), DType::f32, 1e-5);
    check(&shape(2, [65, 530], [1, 1], [8, 33], true), DType::f32, 1e-5);
    check(&shape(1, [530, 65], [2, 2], [8, 3], true), DType::f32, 1e-5);
    check(&shape(1, [129, 257], [2, 2], [5, 7], false), DType::f32, 1e-5);
}

#[test]
fn large_logits_do_not_overflow() {
    let mut s = shape(1, [40, 40], [1, 1], [8, 8], true);
    s.scale = 90.0;
    check(&s, DType::f32, 2e-3);
}
