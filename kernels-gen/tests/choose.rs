//! Schedules: what is chosen for Kimi-K2's products, and that every candidate is a kernel.

use std::fmt::Write as _;

use perilune_kernels::{
    Engine, KernelError, Problem, Schedule, SharedLayout, TARGETS, Target, candidates, choose,
    generate, parts,
};
use perilune_plan::{
    Attention, AttentionGrad, AttentionShape, Contract, DType, HeadsView, Loop, Ragged, RaggedForm,
    StepOp, View,
};

fn view(buffer: u32) -> View {
    View { buffer, offset: 0 }
}

fn product(batch: u64, [m, n, k]: [u64; 3], symmetric: bool) -> StepOp {
    let (rows, columns, depth) = (m as i64, n as i64, k as i64);
    StepOp::Contract(Contract {
        a: view(0),
        b: view(1),
        c: view(3),
        batch: vec![Loop { extent: batch, a: rows * depth, b: columns * depth, c: rows * columns }],
        sum: Vec::new(),
        m: Loop { extent: m, a: depth, b: 0, c: columns },
        n: Loop { extent: n, a: 0, b: depth, c: 1 },
        k: Loop { extent: k, a: 1, b: 1, c: 0 },
        alpha: 1.0,
        accumulate: false,
        symmetric,
        epilogue: None,
    })
}

fn groups(form: RaggedForm, [rows, groups, k, n]: [u64; 4]) -> StepOp {
    let (depth, width) = (k as i64, n as i64);
    let b_strides = match form {
        RaggedForm::Rows => [depth * width, width, 1],
        RaggedForm::Outer => [0, width, 1],
    };
    StepOp::Ragged(Ragged {
        form,
        a: view(0),
        a_row: depth,
        b: view(1),
        b_strides,
        c: view(3),
        offsets: view(2),
        rows,
        groups,
        k,
        n,
        epilogue: None,
    })
}

fn attention(seq: u64, heads: u64, [qk_dim, v_dim]: [u64; 2]) -> [StepOp; 2] {
    let shape = AttentionShape {
        batch: 1,
        seq_q: seq,
        seq_kv: seq,
        heads,
        kv_heads: heads,
        qk_dim,
        v_dim,
        scale: 0.1,
        causal: true,
    };
    let of = |buffer, dim: u64| HeadsView {
        view: view(buffer),
        batch: (seq * heads * dim) as i64,
        seq: (heads * dim) as i64,
        head: dim as i64,
    };
    let (q, k, v, o) = (of(0, qk_dim), of(1, qk_dim), of(1, v_dim), of(3, v_dim));
    let forward = Attention { shape, q, k, v, o, lse: Some(view(4)), max_logit: Some(view(4)) };
    let backward = AttentionGrad {
        shape,
        q,
        k,
        v,
        o,
        lse: view(4),
        d_o: o,
        d_q: of(3, qk_dim),
        d_k: of(3, qk_dim),
        d_v: o,
    };
    [StepOp::Attention(forward), StepOp::AttentionGrad(backward)]
}

/// The problems of a step whose operands are of a type.
fn problems(op: &StepOp, dtype: DType) -> Vec<Problem> {
    let ragged = matches!(op, StepOp::Ragged(_));
    let buffer = |n: u32| match n {
        2 if ragged => (DType::i32, 1 << 40),
        4 => (DType::f32, 1 << 40),
        _ => (dtype, 1 << 40),
    };
    parts(op, &buffer).into_iter().map(|p| p.problem).collect()
}

/// Kimi-K2 at its pre-training context, a step of its optimizer, and k2-nano.
fn steps() -> Vec<StepOp> {
    let mut steps = vec![
        product(1, [4096, 1536, 7168], false),
        product(1, [4096, 12288, 1536], false),
        product(1, [4096, 7168, 8192], false),
        product(1, [4096, 384, 7168], false),
        product(1, [7168, 18432, 4096], false),
        product(384, [2048, 2048, 7168], true),
        product(1, [22, 16, 32], false),
        groups(RaggedForm::Rows, [32768, 384, 7168, 2048]),
        groups(RaggedForm::Outer, [32768, 384, 7168, 2048]),
        groups(RaggedForm::Rows, [44, 4, 32, 16]),
    ];
    steps.extend(attention(4096, 64, [192, 128]));
    steps.extend(attention(11, 2, [16, 6]));
    steps
}

#[test]
fn choices_for_kimi_k2() {
    let mut table = String::new();
    for target in &TARGETS {
        for dtype in [DType::bf16, DType::f32] {
            for problem in steps().iter().flat_map(|op| problems(op, dtype)) {
                let choice = choose(&problem, target).expect("a schedule");
                assert_eq!(choice, choose(&problem, target).expect("a schedule"));
                let schedule = ron::to_string(&choice.schedule).expect("a schedule prints");
                let e = &choice.estimate;
                let _ = writeln!(
                    table,
                    "{} {}: {schedule} of {}, {:.0} µs, {} blocks in {} waves of {} each",
                    target.name,
                    problem.stem(),
                    choice.considered,
                    e.microseconds,
                    e.blocks,
                    e.waves,
                    e.occupancy
                );
            }
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn every_candidate_is_a_kernel_that_fits_its_target() {
    for target in &TARGETS {
        for dtype in [DType::bf16, DType::f32] {
            for problem in steps().iter().flat_map(|op| problems(op, dtype)) {
                let all = candidates(&problem, target);
                assert!(!all.is_empty(), "{problem:?}");
                for schedule in all {
                    let kernel = generate(&problem, &schedule)
                        .unwrap_or_else(|e| panic!("{e}: {schedule:?} of {problem:?}"));
                    let shared = kernel.static_shared_bytes + kernel.dynamic_shared_bytes;
                    assert!(shared <= target.block_shared_bytes, "{schedule:?}");
                    assert!(kernel.static_shared_bytes <= 48 * 1024, "{schedule:?}");
                    assert!(kernel.threads.is_multiple_of(32) && kernel.threads <= 1024);
                    let again = generate(&problem, &schedule).expect("a kernel");
                    assert_eq!(kernel, again, "the same text twice");
                }
            }
        }
    }
}

#[test]
fn a_schedule_prints_as_ron_and_reads_back() {
    let problem = problems(&product(1, [64, 64, 64], false), DType::bf16).remove(0);
    for schedule in candidates(&problem, &TARGETS[0]) {
        let text = ron::to_string(&schedule).expect("it prints");
        assert_eq!(ron::from_str::<Schedule>(&text).expect("it reads"), schedule);
    }
    let unknown = "Matrix(engine:Mma,tile:(64,64,32),warps:(2,2),stages:2,layout:Padded,color:1)";
    assert!(ron::from_str::<Schedule>(unknown).is_err());
}

#[test]
fn equal_steps_on_other_buffers_are_one_problem() {
    let StepOp::Contract(step) = product(1, [64, 64, 64], false) else { panic!("a contraction") };
    let mut other = step.clone();
    (other.a.buffer, other.b.buffer, other.c.buffer) = (7, 5, 9);
    let of = |c: Contract| problems(&StepOp::Contract(c), DType::f32);
    assert_eq!(of(step.clone()), of(other.clone()));
    other.a.offset = 64;
    assert_ne!(of(step), of(other), "an offset is part of the kernel");
}

#[test]
fn schedules_and_types_without_a_kernel_are_refused() {
    let problem = problems(&product(1, [64, 64, 64], false), DType::f32).remove(0);
    let matrix = |engine, tile, warps, stages| Schedule::Matrix {
        engine,
        tile,
        warps,
        stages,
        layout: SharedLayout::Padded,
    };
    for schedule in [
        matrix(Engine::Mma, [64, 64, 32], [2, 2], 2),
        matrix(Engine::Fma, [64, 64, 32], [2, 3], 2),
        matrix(Engine::Fma, [64, 64, 6], [2, 2], 2),
        matrix(Engine::Fma, [64, 64, 32], [2, 2], 1),
        Schedule::Elements { threads: 128, vector: 1 },
    ] {
        let refused = generate(&problem, &schedule);
        assert!(matches!(refused, Err(KernelError::Schedule(_))), "{schedule:?}");
    }
    let wide = problems(&product(1, [64, 64, 64], false), DType::f64).remove(0);
    let schedule = matrix(Engine::Fma, [64, 64, 16], [2, 2], 2);
    assert_eq!(generate(&wide, &schedule), Err(KernelError::DType(DType::f64)));
    let huge = problems(&product(1, [1 << 31, 64, 64], false), DType::f32).remove(0);
    assert!(matches!(generate(&huge, &schedule), Err(KernelError::TooLarge(_))));
}

#[test]
fn targets_are_rows_of_a_table() {
    assert_eq!(Target::named("sm_80").map(|t| t.processors), Some(108));
    assert!(Target::named("sm_52").is_none());
}
