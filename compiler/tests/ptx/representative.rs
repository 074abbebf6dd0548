//! The PTX of one small kernel of each kind, whole.

use perilune_compiler::lower::{Generated, Target, lower_generated};
use perilune_compiler::mlir::Mlir;
use perilune_kernels::{Choice, Engine, Schedule, SharedLayout, estimate, parts};
use perilune_plan::{
    Attention, AttentionGrad, AttentionShape, Contract, DType, HeadsView, Loop, Ragged, RaggedForm,
    StepOp, View,
};

fn view(buffer: u32) -> View {
    View { buffer, offset: 0 }
}

/// `C[32, 32] = A[32, 32] · B[32, 32]ᵀ`.
fn product(symmetric: bool) -> StepOp {
    StepOp::Contract(Contract {
        a: view(0),
        b: view(1),
        c: view(2),
        batch: Vec::new(),
        sum: Vec::new(),
        m: Loop { extent: 32, a: 32, b: 0, c: 32 },
        n: Loop { extent: 32, a: 0, b: 32, c: 1 },
        k: Loop { extent: 32, a: 1, b: 1, c: 0 },
        alpha: 1.0,
        accumulate: false,
        symmetric,
        epilogue: None,
    })
}

/// 64 rows in 4 groups.
fn groups(form: RaggedForm) -> StepOp {
    let b_strides = if form == RaggedForm::Rows { [1024, 32, 1] } else { [0, 32, 1] };
    StepOp::Ragged(Ragged {
        form,
        a: view(0),
        a_row: 32,
        b: view(1),
        b_strides,
        c: view(3),
        offsets: View { buffer: 2, offset: 0 },
        rows: 64,
        groups: 4,
        k: 32,
        n: 32,
        epilogue: None,
    })
}

const SHAPE: AttentionShape = AttentionShape {
    batch: 2,
    seq_q: 32,
    seq_kv: 32,
    heads: 2,
    kv_heads: 1,
    qk_dim: 16,
    v_dim: 16,
    scale: 0.25,
    causal: true,
};

fn heads(buffer: u32, heads: i64) -> HeadsView {
    HeadsView { view: view(buffer), batch: 512 * heads, seq: 16 * heads, head: 16 }
}

fn attention() -> StepOp {
    StepOp::Attention(Attention {
        shape: SHAPE,
        q: heads(0, 2),
        k: heads(1, 1),
        v: heads(1, 1),
        o: heads(3, 2),
        lse: Some(view(4)),
        max_logit: Some(view(4)),
    })
}

fn attention_grad() -> StepOp {
    StepOp::AttentionGrad(AttentionGrad {
        shape: SHAPE,
        q: heads(0, 2),
        k: heads(1, 1),
        v: heads(1, 1),
        o: heads(3, 2),
        lse: view(4),
        d_o: heads(3, 2),
        d_q: heads(3, 2),
        d_k: heads(3, 1),
        d_v: heads(3, 1),
    })
}

const fn matrix(engine: Engine, tile: [u32; 3], warps: [u32; 2]) -> Schedule {
    Schedule::Matrix { engine, tile, warps, stages: 2, layout: SharedLayout::Padded }
}

const fn walk(warps: [u32; 2]) -> Schedule {
    let (engine, layout) = (Engine::Mma, SharedLayout::Padded);
    Schedule::Attention { engine, queries: 16, keys: 16, warps, layout }
}

/// Snapshots the `n`-th launch of a step whose operands are of a type.
fn snapshot(name: &str, (op, n): (&StepOp, usize), dtype: DType, schedule: Schedule) {
    let buffer = |n: u32| match n {
        2 => (if matches!(op, StepOp::Ragged(_)) { DType::i32 } else { dtype }, 1024),
        4 => (DType::f32, 1024),
        _ => (dtype, 1024),
    };
    let part = parts(op, &buffer).swap_remove(n);
    for target in [Target::Sm90a, Target::Sm80] {
        let chip = perilune_kernels::Target::named(target.name()).expect("a chip");
        let estimate = estimate(&part.problem, &schedule, chip);
        let generated = Generated {
            name: name.to_owned(),
            problem: part.problem.clone(),
            choice: Choice { schedule: schedule.clone(), estimate, considered: 1 },
        };
        let mlir = Mlir::new();
        let lower = || {
            lower_generated(&mlir, &generated, target)
                .unwrap_or_else(|e| panic!("{e}\n{}", e.reproducer))
        };
        let lowered = lower();
        assert_eq!(lowered, lower(), "the same bytes twice");
        if target == Target::Sm90a {
            let lines = lowered.text.lines().filter(|l| !l.is_empty() && !l.starts_with("//"));
            insta::assert_snapshot!(name, lines.collect::<Vec<_>>().join("\n"));
        }
        crate::ptxas::check(name, &lowered.text, target.name());
    }
}

#[test]
fn products_of_tiles() {
    use DType::{bf16, f32};
    let cores = matrix(Engine::Fma, [16, 16, 8], [1, 1]);
    let tensor = matrix(Engine::Mma, [32, 32, 16], [1, 2]);
    snapshot("contract_on_cuda_cores", (&product(false), 0), f32, cores);
    snapshot("contract_on_tensor_cores", (&product(false), 0), bf16, tensor.clone());
    snapshot(
        "contract_symmetric",
        (&product(true), 0),
        bf16,
        matrix(Engine::Mma, [16, 16, 16], [1, 1]),
    );
    snapshot("ragged_rows", (&groups(RaggedForm::Rows), 0), bf16, tensor.clone());
    snapshot("ragged_outer", (&groups(RaggedForm::Outer), 0), bf16, tensor);
}

#[test]
fn attention_and_its_gradient() {
    use DType::bf16;
    let elements = Schedule::Elements { threads: 64, vector: 1 };
    snapshot("attention", (&attention(), 0), bf16, walk([1, 1]));
    snapshot("attention_max_logit", (&attention(), 1), bf16, elements.clone());
    snapshot("attention_grad_delta", (&attention_grad(), 0), bf16, elements);
    snapshot("attention_grad_queries", (&attention_grad(), 1), bf16, walk([1, 2]));
    snapshot("attention_grad_keys", (&attention_grad(), 2), bf16, walk([1, 2]));
}

#[test]
fn a_copy() {
    let copy = StepOp::Copy { src: 0, dst: 1 };
    snapshot("copy", (&copy, 0), DType::bf16, Schedule::Elements { threads: 64, vector: 8 });
}
