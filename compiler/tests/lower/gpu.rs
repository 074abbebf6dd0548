//! Kernels for GPUs: their PTX, and what it computes in the virtual machine.

use perilune_compiler::lower::{Lowered, Target, lower_kernel};
use perilune_compiler::mlir::Mlir;
use perilune_compiler::program::{DialectOp, Kernel, KernelOp, OpKind, V};
use perilune_compiler::types::{DType, Type};

use crate::kernels::{column_sum, gather, rms_norm, rope, softmax, swiglu, top_k};
use crate::make::{arguments, compare};
use crate::{models, ptxas, random, vm};

fn lower(kernel: &Kernel, target: Target) -> Lowered {
    lower_kernel(&Mlir::new(), kernel, target).unwrap_or_else(|e| panic!("{e}\n{}", e.reproducer))
}

/// PTX for both chips: the same bytes twice, calling nothing, accepted by ptxas.
fn check_ptx(kernel: &Kernel) -> Lowered {
    let lowered = lower(kernel, Target::Sm90a);
    assert_eq!(lowered, lower(kernel, Target::Sm90a));
    let older = lower(kernel, Target::Sm80);
    assert_eq!(older.loops, lowered.loops);
    for (target, text) in [(Target::Sm90a, &lowered.text), (Target::Sm80, &older.text)] {
        assert!(text.contains(&format!(".target {}", target.name())));
        assert!(text.contains(&format!(".visible .entry {}(", kernel.name)));
        assert!(!text.contains(".extern"), "{text}");
        ptxas::check(&kernel.name, text, target.name());
    }
    lowered
}

/// What the PTX computes against the evaluation in f64.
fn check_run(kernel: &Kernel, seed: u64) {
    let lowered = lower(kernel, Target::Sm90a);
    let args = arguments(kernel, seed);
    let got = vm::run(kernel, &lowered, &args);
    compare(kernel, &args, &got, &lowered.loops);
}

#[test]
fn common_kernels_become_ptx() {
    let kernels = [
        swiglu(64, 256),
        rms_norm(64, 256),
        rms_norm(16, 7168),
        softmax(64, 250),
        column_sum(64, 256),
        rope(64, 4, 16, 8),
        gather(64, 100, 32),
        top_k(64, 16, 4),
    ];
    for (i, kernel) in kernels.iter().enumerate() {
        let lowered = check_ptx(kernel);
        insta::assert_snapshot!(format!("{i}_{}_ptx", kernel.name), lowered.text);
    }
}

fn serial(name: &str, op: DialectOp, params: &[Type], result: Type) -> Kernel {
    let n = params.len() as u32;
    Kernel {
        name: name.into(),
        params: params.to_vec(),
        results: vec![V(n)],
        ops: vec![KernelOp {
            kind: OpKind::Dialect(op),
            operands: (0..n).map(V).collect(),
            results: vec![result],
        }],
    }
}

#[test]
fn serial_kernels_become_ptx_and_match() {
    let ints = |shape: &[u64]| Type::new(DType::i32, shape);
    let floats = |shape: &[u64]| Type::new(DType::f32, shape);
    let narrow = |shape: &[u64]| Type::new(DType::bf16, shape);
    let kernels = [
        serial("order", DialectOp::ArgSort { bound: 8 }, &[ints(&[300])], ints(&[300])),
        serial("counts", DialectOp::Histogram { bound: 130 }, &[ints(&[300])], ints(&[130])),
        serial("offsets", DialectOp::CumSum { exclusive: true }, &[ints(&[33])], ints(&[34])),
        serial(
            "sums",
            DialectOp::CumSum { exclusive: false },
            &[narrow(&[6, 10])],
            narrow(&[6, 10]),
        ),
        serial(
            "scatter",
            DialectOp::ScatterAdd { extent: 9 },
            &[floats(&[40, 130]), ints(&[40])],
            floats(&[9, 130]),
        ),
    ];
    for kernel in kernels {
        let text = check_ptx(&kernel).text;
        assert!(!text.contains(".local"), "no stack: {text}");
        check_run(&kernel, 5);
    }
}

#[test]
fn wide_accesses_and_approximate_instructions_are_used() {
    let text = check_ptx(&swiglu(64, 256)).text;
    assert!(text.contains("ld.global.v4.b32") && text.contains("st.global.v4.b32"), "{text}");
    assert!(text.contains("ex2.approx.ftz.f32") && text.contains("rcp.approx.ftz.f32"), "{text}");
    let text = check_ptx(&rms_norm(64, 256)).text;
    assert!(text.contains("shfl.sync.bfly") && !text.contains("bar.sync"), "{text}");
    let text = check_ptx(&rms_norm(4, 7168)).text;
    assert!(text.contains("shfl.sync.bfly") && text.contains("bar.sync"), "{text}");
}

#[test]
fn elements_of_odd_and_zero_sizes_match() {
    for (rows, cols) in [(0, 4), (5, 1), (1, 3), (5, 16), (7, 33), (11, 100), (5, 257)] {
        check_run(&swiglu(rows, cols), 7);
        check_run(&column_sum(rows, cols), 3);
        check_run(&gather(rows, 6, cols), 3);
    }
    for (nope, half) in [(0, 4), (8, 4), (5, 3), (128, 32), (3, 0)] {
        check_run(&rope(9, 2, nope, half), 3);
    }
    check_run(&top_k(70, 33, 8), 3);
    check_run(&top_k(5, 40, 12), 3);
}

#[test]
fn rows_of_a_warp_match() {
    for (rows, cols) in [(0, 4), (1, 1), (5, 3), (9, 16), (3, 100), (2, 257), (2, 1024)] {
        check_run(&rms_norm(rows, cols), 7);
        check_run(&softmax(rows, cols), 3);
    }
}

#[test]
fn rows_of_a_block_match() {
    for (rows, cols) in [(1, 1025), (2, 1100)] {
        check_run(&rms_norm(rows, cols), 7);
        check_run(&softmax(rows, cols), 3);
    }
}

#[test]
fn random_kernels_match_in_the_virtual_machine() {
    let mut seed = 1u64;
    for _ in 0..120 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        check_run(&random::kernel(seed), seed);
    }
}

#[test]
fn the_kernels_of_k2_nano_match_in_the_virtual_machine() {
    let program = models::program("k2-nano");
    let mut checked = 0;
    for kernel in program.kernels.iter().filter(|k| models::has_loops(k)) {
        let lowered = lower(kernel, Target::Sm90a);
        let args = models::fitting(kernel);
        compare(kernel, &args, &vm::run(kernel, &lowered, &args), &lowered.loops);
        checked += 1;
    }
    assert!(checked > 50, "{checked} kernels");
}
