//! Serial kernels against plain Rust, run through LLVM's JIT, with both grains.

use melior::ExecutionEngine;
use proptest::prelude::*;

use super::*;
use crate::mlir::Mlir;
use crate::program::V;
use crate::types::DType;

const TO_LLVM: &str = "builtin.module(canonicalize,cse,convert-scf-to-cf,convert-cf-to-llvm,\
    finalize-memref-to-llvm,convert-arith-to-llvm,\
    convert-func-to-llvm{use-bare-ptr-memref-call-conv=true},reconcile-unrealized-casts)";

/// A value passed to a kernel or read from it.
#[derive(Clone, Debug, PartialEq)]
enum Data {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Data {
    fn address(&mut self) -> *mut () {
        match self {
            Data::F32(v) => v.as_mut_ptr().cast(),
            Data::I32(v) => v.as_mut_ptr().cast(),
        }
    }

    /// Memory full of what no kernel writes by itself.
    fn dirty(ty: &Type) -> Data {
        let n = ty.elems() as usize;
        match ty.dtype {
            DType::f32 => Data::F32(vec![-123.25; n]),
            _ => Data::I32(vec![-77_777; n]),
        }
    }

    fn ints(&self) -> &[i32] {
        match self {
            Data::I32(v) => v,
            Data::F32(_) => panic!("floats where integers are expected"),
        }
    }

    fn floats(&self) -> &[f32] {
        match self {
            Data::F32(v) => v,
            Data::I32(_) => panic!("integers where floats are expected"),
        }
    }
}

fn f32s(shape: &[u64]) -> Type {
    Type::new(DType::f32, shape)
}

fn i32s(shape: &[u64]) -> Type {
    Type::new(DType::i32, shape)
}

fn kernel(op: DialectOp, params: &[Type], results: &[Type]) -> Kernel {
    let n = params.len() as u32;
    Kernel {
        name: "kernel".into(),
        params: params.to_vec(),
        results: (n..n + results.len() as u32).map(V).collect(),
        ops: vec![KernelOp {
            kind: OpKind::Dialect(op),
            operands: (0..n).map(V).collect(),
            results: results.to_vec(),
        }],
    }
}

/// Runs every unit, last range first, and yields the results.
fn run(kernel: &Kernel, grain: Grain, mut inputs: Vec<Data>) -> Vec<Data> {
    let loops = emit(kernel, grain).expect("the kernel is serial");
    let mlir = Mlir::new();
    let text = loops.as_func("kernel");
    let mut module = mlir.parse("serial", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    mlir.run("serial", &mut module, TO_LLVM).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let engine = ExecutionEngine::new(&module, 1, &[], false, false);
    let entry = engine.lookup("_mlir_kernel");
    assert!(!entry.is_null());
    let mut results: Vec<Data> = kernel.result_types().iter().map(Data::dirty).collect();
    let mut pointers: Vec<*mut ()> =
        inputs.iter_mut().chain(&mut results).map(Data::address).collect();
    let middle = loops.units as i64 / 2;
    for (mut begin, mut end) in [(middle, loops.units as i64), (0, middle)] {
        let mut packed: Vec<*mut ()> =
            pointers.iter_mut().map(|p| std::ptr::from_mut(p).cast()).collect();
        packed.push(std::ptr::from_mut(&mut begin).cast());
        packed.push(std::ptr::from_mut(&mut end).cast());
        // SAFETY: the engine's packed entry takes the addresses of the arguments; the memories
        // have the sizes of the kernel's argument types and outlive the call.
        unsafe {
            let call: extern "C" fn(*mut *mut ()) = std::mem::transmute(entry);
            call(packed.as_mut_ptr());
        }
    }
    results
}

/// Indices in the order of top-k.
fn ranked(row: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| match (row[*a].is_nan(), row[*b].is_nan()) {
        (false, false) => row[*b].partial_cmp(&row[*a]).expect("numbers"),
        (a, b) => a.cmp(&b),
    });
    order
}

fn check_top_k(rows: usize, n: usize, k: usize, x: Vec<f32>) {
    let (inp, out) = ([rows as u64, n as u64], [rows as u64, k as u64]);
    let op = DialectOp::TopK { k: k as u64 };
    let kernel = kernel(op, &[f32s(&inp)], &[f32s(&out), i32s(&out)]);
    let expected: Vec<i32> = x
        .chunks(n.max(1))
        .take(rows)
        .flat_map(|row| ranked(row).into_iter().take(k).map(|i| i as i32))
        .collect();
    for grain in [Grain::Core, Grain::Thread] {
        let got = run(&kernel, grain, vec![Data::F32(x.clone())]);
        assert_eq!(got[1].ints(), expected, "{x:?}");
        for (j, (value, index)) in got[0].floats().iter().zip(&expected).enumerate() {
            let from = x[j / k * n + *index as usize];
            assert_eq!(value.to_bits(), from.to_bits());
        }
    }
}

/// Few distinct values, so that ties are common, and every special one.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => (-3i8..3).prop_map(f32::from),
        1 => Just(f32::NAN),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(-0.0),
        1 => Just(f32::INFINITY),
    ]
}

#[test]
fn top_k_of_nothing_but_nan_and_minus_infinity_takes_ascending_indices() {
    let nan = f32::NAN;
    let low = f32::NEG_INFINITY;
    check_top_k(1, 5, 5, vec![nan, low, nan, low, nan]);
    check_top_k(1, 12, 12, [nan, low, nan, low, nan, low].repeat(2));
}

#[test]
fn serial_kernels_of_nothing_write_nothing() {
    check_top_k(0, 4, 2, vec![]);
    check_top_k(3, 4, 0, vec![0.0; 12]);
    check_sort(&[], 7);
    check_histogram(&[], 5);
    check_histogram(&[1, 2], 0);
    check_scatter(0, 3, 2, &[], vec![]);
    check_scatter(2, 0, 2, &[0, 1], vec![1.0; 4]);
    check_scatter(2, 3, 0, &[0, 1], vec![]);
    check_cumsum(2, 0, vec![]);
}

fn check_sort(keys: &[i32], bound: u64) {
    let n = keys.len() as u64;
    let kernel = kernel(DialectOp::ArgSort { bound }, &[i32s(&[n])], &[i32s(&[n])]);
    let mut expected: Vec<i32> = (0..keys.len() as i32).collect();
    expected.sort_by_key(|i| keys[*i as usize].clamp(0, bound as i32 - 1));
    for grain in [Grain::Core, Grain::Thread] {
        let got = run(&kernel, grain, vec![Data::I32(keys.to_vec())]);
        assert_eq!(got[0].ints(), expected);
    }
}

fn check_histogram(keys: &[i32], bound: u64) {
    let n = keys.len() as u64;
    let kernel = kernel(DialectOp::Histogram { bound }, &[i32s(&[n])], &[i32s(&[bound])]);
    let expected: Vec<i32> =
        (0..bound as i32).map(|b| keys.iter().filter(|k| **k == b).count() as i32).collect();
    for grain in [Grain::Core, Grain::Thread] {
        let got = run(&kernel, grain, vec![Data::I32(keys.to_vec())]);
        assert_eq!(got[0].ints(), expected);
    }
}

fn check_scatter(n: u64, extent: u64, width: u64, indices: &[i32], rows: Vec<f32>) {
    let kernel = kernel(
        DialectOp::ScatterAdd { extent },
        &[f32s(&[n, width]), i32s(&[n])],
        &[f32s(&[extent, width])],
    );
    let mut expected = vec![0f32; (extent * width) as usize];
    for (i, index) in indices.iter().enumerate() {
        if (0..extent as i32).contains(index) {
            for c in 0..width as usize {
                expected[*index as usize * width as usize + c] += rows[i * width as usize + c];
            }
        }
    }
    for grain in [Grain::Core, Grain::Thread] {
        let inputs = vec![Data::F32(rows.clone()), Data::I32(indices.to_vec())];
        assert_eq!(run(&kernel, grain, inputs)[0].floats(), expected);
    }
}

fn check_cumsum(rows: u64, n: u64, x: Vec<i32>) {
    for exclusive in [false, true] {
        let width = n + u64::from(exclusive);
        let op = DialectOp::CumSum { exclusive };
        let ints = kernel(op.clone(), &[i32s(&[rows, n])], &[i32s(&[rows, width])]);
        let floats = kernel(op, &[f32s(&[rows, n])], &[f32s(&[rows, width])]);
        let mut expected = Vec::new();
        for r in 0..rows as usize {
            let mut sum = 0;
            for v in &x[r * n as usize..(r + 1) * n as usize] {
                expected.push(if exclusive { sum } else { sum + v });
                sum += v;
            }
            if exclusive {
                expected.push(sum);
            }
        }
        for grain in [Grain::Core, Grain::Thread] {
            let got = run(&ints, grain, vec![Data::I32(x.clone())]);
            assert_eq!(got[0].ints(), expected);
            let as_floats = |v: &[i32]| v.iter().map(|v| *v as f32).collect::<Vec<_>>();
            let got = run(&floats, grain, vec![Data::F32(as_floats(&x))]);
            assert_eq!(got[0].floats(), as_floats(&expected));
        }
    }
}

#[test]
fn sorting_more_keys_than_a_unit_counts() {
    let keys: Vec<i32> = (0..5000).map(|i: i32| i.wrapping_mul(7919) % 3001 - 3).collect();
    check_sort(&keys, 2990);
}

#[test]
fn a_result_nobody_reads_is_not_stored() {
    let x = f32s(&[2, 3]);
    let mut only = kernel(DialectOp::TopK { k: 2 }, &[x], &[f32s(&[2, 2]), i32s(&[2, 2])]);
    only.results = vec![V(2)];
    let got = run(&only, Grain::Core, vec![Data::F32(vec![1.0, 3.0, 2.0, 0.0, 0.0, 5.0])]);
    assert_eq!(got, [Data::I32(vec![1, 2, 2, 0])]);
}

#[test]
fn narrow_floats_widen_to_count_and_round_to_store() {
    let bf16 = |shape: &[u64]| Type::new(DType::bf16, shape);
    let cumsum = kernel(DialectOp::CumSum { exclusive: true }, &[bf16(&[2, 3])], &[bf16(&[2, 4])]);
    let top = kernel(DialectOp::TopK { k: 2 }, &[bf16(&[2, 3])], &[bf16(&[2, 2]), i32s(&[2, 2])]);
    for kernel in [cumsum, top] {
        let text = emit(&kernel, Grain::Core).expect("serial").as_func("kernel");
        Mlir::new().parse("serial", &text).expect("verifies");
        assert!(text.contains("arith.extf") && text.contains("arith.truncf"));
    }
}

#[test]
fn more_places_than_elements_is_a_broken_invariant() {
    let bad = kernel(DialectOp::TopK { k: 4 }, &[f32s(&[3])], &[f32s(&[4]), i32s(&[4])]);
    assert!(emit(&bad, Grain::Core).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn top_k_takes_the_largest_first_and_of_equals_the_first(
        (rows, n, k, x) in (1usize..4, 1usize..40).prop_flat_map(|(rows, n)| {
            (Just(rows), Just(n), 1..=n.min(12), prop::collection::vec(value(), rows * n))
        })
    ) {
        check_top_k(rows, n, k, x);
    }

    #[test]
    fn sorting_is_stable_and_a_permutation(
        bound in 1u64..40,
        keys in prop::collection::vec(-4i32..44, 0..200),
    ) {
        check_sort(&keys, bound);
    }

    #[test]
    fn counting_skips_what_is_out_of_bounds(
        bound in 0u64..40,
        keys in prop::collection::vec(prop_oneof![9 => -4i32..44, 1 => Just(i32::MIN), 1 => Just(i32::MAX)], 0..200),
    ) {
        check_histogram(&keys, bound);
    }

    #[test]
    fn running_sums_add_in_order(
        (rows, n, x) in (1usize..4, 0usize..40).prop_flat_map(|(rows, n)| {
            (Just(rows), Just(n), prop::collection::vec(-1000i32..1000, rows * n))
        })
    ) {
        check_cumsum(rows as u64, n as u64, x);
    }

    #[test]
    fn scattered_rows_add_in_ascending_order(
        (extent, width, indices, rows) in (1u64..6, 1u64..40, 0usize..20).prop_flat_map(|(e, w, n)| {
            (
                Just(e),
                Just(w),
                prop::collection::vec(-2i32..e as i32 + 2, n),
                prop::collection::vec(-1e3f32..1e3, n * w as usize),
            )
        })
    ) {
        check_scatter(indices.len() as u64, extent, width, &indices, rows);
    }
}
