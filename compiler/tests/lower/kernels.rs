//! Kernels of a transformer's long tail, odd and zero sizes included.

use perilune_compiler::mlir::Mlir;
use perilune_compiler::program::{Combine, DialectOp, Kernel, KernelOp, OpKind, V};
use perilune_compiler::scalar::{Binary, Cmp, ScalarOp, Unary};
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::{DType, Type};

use crate::make::{Make, arguments, check};

const SIZES: [u64; 9] = [0, 1, 3, 4, 7, 16, 33, 100, 257];

pub(crate) fn swiglu(rows: u64, cols: u64) -> Kernel {
    let mut m = Make::default();
    let (gate, up) = (m.param(DType::f32, &[rows, cols]), m.param(DType::f32, &[rows, cols]));
    let y = m.generic((&[rows, cols], &["ab", "ab"], "ab", None), &[gate, up], |b| {
        let (x, up) = (b.arg(0), b.arg(1));
        let s = b.unary(Unary::Sigmoid, x);
        let silu = b.binary(Binary::Mul, x, s);
        b.binary(Binary::Mul, silu, up)
    });
    m.kernel("swiglu", &[y])
}

pub(crate) fn rms_norm(rows: u64, cols: u64) -> Kernel {
    let mut m = Make::default();
    let (x, w) = (m.param(DType::f32, &[rows, cols]), m.param(DType::f32, &[cols]));
    let sum = m.generic((&[rows, cols], &["ab"], "a", Some(Combine::Sum)), &[x], |b| {
        let x = b.arg(0);
        b.binary(Binary::Mul, x, x)
    });
    let r = m.generic((&[rows], &["a"], "a", None), &[sum], |b| {
        let s = b.arg(0);
        let n = b.float(1.0 / cols.max(1) as f64, DType::f32);
        let mean = b.binary(Binary::Mul, s, n);
        let eps = b.float(1e-6, DType::f32);
        let sum = b.binary(Binary::Add, mean, eps);
        b.unary(Unary::Rsqrt, sum)
    });
    let y = m.generic((&[rows, cols], &["ab", "a", "b"], "ab", None), &[x, r, w], |b| {
        let (x, r, w) = (b.arg(0), b.arg(1), b.arg(2));
        let n = b.binary(Binary::Mul, x, r);
        b.binary(Binary::Mul, n, w)
    });
    m.kernel("rms_norm", &[y, r])
}

#[test]
fn an_elementwise_kernel_matches_for_odd_and_zero_sizes() {
    let mlir = Mlir::new();
    for rows in [0, 1, 5] {
        for cols in SIZES {
            let kernel = swiglu(rows, cols);
            check(&mlir, &kernel, &arguments(&kernel, 7));
        }
    }
}

#[test]
fn a_row_norm_matches_for_odd_and_zero_sizes() {
    let mlir = Mlir::new();
    for rows in [0, 1, 5, 70] {
        for cols in SIZES {
            let kernel = rms_norm(rows, cols);
            check(&mlir, &kernel, &arguments(&kernel, 7));
        }
    }
}

/// `exp(x - max) / sum` and the log-sum-exp of each row.
pub(crate) fn softmax(rows: u64, cols: u64) -> Kernel {
    let mut m = Make::default();
    let x = m.param(DType::f32, &[rows, cols]);
    let (all, one) = ([rows, cols], [rows]);
    let max = m.generic((&all, &["ab"], "a", Some(Combine::Max)), &[x], |b| b.arg(0));
    let shifted_exp = |b: &mut perilune_compiler::scalar::Body| {
        let (x, max) = (b.arg(0), b.arg(1));
        let d = b.binary(Binary::Sub, x, max);
        b.unary(Unary::Exp, d)
    };
    let sum = m.generic((&all, &["ab", "a"], "a", Some(Combine::Sum)), &[x, max], shifted_exp);
    let y = m.generic((&all, &["ab", "a", "a"], "ab", None), &[x, max, sum], |b| {
        let e = shifted_exp(b);
        let sum = b.arg(2);
        b.binary(Binary::Div, e, sum)
    });
    let lse = m.generic((&one, &["a", "a"], "a", None), &[max, sum], |b| {
        let (max, sum) = (b.arg(0), b.arg(1));
        let log = b.unary(Unary::Log, sum);
        b.binary(Binary::Add, max, log)
    });
    m.kernel("softmax", &[y, lse])
}

/// `Σ_t g[t, c] · x[t, c]`.
pub(crate) fn column_sum(rows: u64, cols: u64) -> Kernel {
    let mut m = Make::default();
    let (g, x) = (m.param(DType::f32, &[rows, cols]), m.param(DType::f32, &[rows, cols]));
    let y = m.generic((&[rows, cols], &["ab", "ab"], "b", Some(Combine::Sum)), &[g, x], |b| {
        let (g, x) = (b.arg(0), b.arg(1));
        b.binary(Binary::Mul, g, x)
    });
    m.kernel("column_sum", &[y])
}

/// Rotates the last `2 * half` columns by position and puts the first `nope` in front.
pub(crate) fn rope(seq: u64, heads: u64, nope: u64, half: u64) -> Kernel {
    let mut m = Make::default();
    let q = m.param(DType::f32, &[seq, heads, nope + 2 * half]);
    let freq = m.param(DType::f32, &[half]);
    let slice = |m: &mut Make, first: u64, width: u64| {
        let kind = OpKind::Slice(vec![0, 0, first]);
        m.op(kind, &[q], DType::f32, &[seq, heads, width])
    };
    let still = slice(&mut m, 0, nope);
    let (a, b) = (slice(&mut m, nope, half), slice(&mut m, nope + half, half));
    let turn = |m: &mut Make, sign: f64, x: V, y: V| {
        m.generic((&[seq, heads, half], &["abc", "abc", "c"], "abc", None), &[x, y, freq], |b| {
            let (x, y, freq) = (b.arg(0), b.arg(1), b.arg(2));
            let index = b.push(ScalarOp::Index(0));
            let position = b.push(ScalarOp::Cast(index, DType::f32));
            let angle = b.binary(Binary::Mul, position, freq);
            let (cos, sin) = (b.unary(Unary::Cos, angle), b.unary(Unary::Sin, angle));
            let sign = b.float(sign, DType::f32);
            let (c, s) = (b.binary(Binary::Mul, x, cos), b.binary(Binary::Mul, y, sin));
            let s = b.binary(Binary::Mul, s, sign);
            b.binary(Binary::Add, c, s)
        })
    };
    let first = turn(&mut m, -1.0, a, b);
    let second = turn(&mut m, 1.0, b, a);
    let width = nope + 2 * half;
    let y = m.op(OpKind::Concat(2), &[still, first, second], DType::f32, &[seq, heads, width]);
    m.kernel("rope", &[y])
}

/// Rows of a table picked by token.
pub(crate) fn gather(tokens: u64, vocab: u64, width: u64) -> Kernel {
    let mut m = Make::default();
    let at = m.param(DType::i32, &[tokens]);
    let table = m.param(DType::bf16, &[vocab, width]);
    let y = m.generic((&[tokens, width], &["a"], "ab", None), &[at, table], |b| {
        let token = b.arg(0);
        let column = b.push(ScalarOp::Index(1));
        let x = b.push(ScalarOp::Load(0, vec![token, column]));
        b.push(ScalarOp::Cast(x, DType::f32))
    });
    m.kernel("gather", &[y])
}

/// The `k` largest of each row.
pub(crate) fn top_k(rows: u64, cols: u64, k: u64) -> Kernel {
    let x = Type::new(DType::f32, [rows, cols]);
    let results = vec![Type::new(DType::f32, [rows, k]), Type::new(DType::i32, [rows, k])];
    let kind = OpKind::Dialect(DialectOp::TopK { k });
    Kernel {
        name: "top_k".into(),
        params: vec![x],
        ops: vec![KernelOp { kind, operands: vec![V(0)], results }],
        results: vec![V(1), V(2)],
    }
}

#[test]
fn softmax_and_its_log_sum_exp_match() {
    let mlir = Mlir::new();
    for rows in [0, 1, 5] {
        for cols in &SIZES[1..] {
            let kernel = softmax(rows, *cols);
            check(&mlir, &kernel, &arguments(&kernel, 3));
        }
    }
}

#[test]
fn a_reduction_down_columns_matches() {
    let mlir = Mlir::new();
    for rows in [0, 1, 50] {
        for cols in SIZES {
            let kernel = column_sum(rows, cols);
            check(&mlir, &kernel, &arguments(&kernel, 3));
        }
    }
}

#[test]
fn rotary_embedding_with_a_concatenation_matches() {
    let mlir = Mlir::new();
    for (nope, half) in [(0, 4), (8, 4), (5, 3), (128, 32), (3, 0)] {
        let kernel = rope(9, 2, nope, half);
        check(&mlir, &kernel, &arguments(&kernel, 3));
    }
}

#[test]
fn a_gather_of_rows_matches_and_clamps() {
    let mlir = Mlir::new();
    for width in SIZES {
        let kernel = gather(13, 6, width);
        let mut args = arguments(&kernel, 3);
        args[0].data[0] = -5.0;
        args[0].data[1] = 1e6;
        check(&mlir, &kernel, &args);
    }
}

#[test]
fn top_k_takes_the_lower_index_of_a_tie() {
    let mlir = Mlir::new();
    for (rows, cols, k) in [(0, 4, 2), (5, 16, 4), (3, 7, 7), (70, 33, 8)] {
        let kernel = top_k(rows, cols, k);
        let mut seed = 0;
        let x = Tensor::from_fn(&[rows, cols], |_| {
            seed = (seed * 5 + 3) % 11;
            f64::from(seed)
        });
        check(&mlir, &kernel, &[x]);
    }
}

#[test]
fn top_k_puts_nan_last_and_takes_both_zeros_for_equal() {
    let mlir = Mlir::new();
    let special =
        [f64::NAN, -0.0, 0.0, f64::NEG_INFINITY, -1.0, f64::INFINITY, 0.0, f64::NAN, -0.0];
    for k in [1, 4, 8, 9] {
        let kernel = top_k(1, 9, k);
        check(&mlir, &kernel, &[Tensor { shape: vec![1, 9], data: special.to_vec() }]);
    }
}

#[test]
fn integers_and_comparisons_match() {
    let mlir = Mlir::new();
    for n in SIZES {
        let mut m = Make::default();
        let (x, y) = (m.param(DType::i32, &[n]), m.param(DType::i32, &[n]));
        let z = m.generic((&[n], &["a", "a"], "a", None), &[x, y], |b| {
            let (x, y) = (b.arg(0), b.arg(1));
            let three = b.int(3);
            let less = b.binary(Binary::Sub, y, three);
            let (q, r) = (b.binary(Binary::Div, x, less), b.binary(Binary::Rem, x, less));
            let big = b.int(0x7654_3211);
            let (hash, high) = (b.binary(Binary::Mul, x, big), b.binary(Binary::MulHiU, y, big));
            let mixed = b.binary(Binary::Xor, hash, high);
            let (left, right) = (b.binary(Binary::Shl, mixed, y), b.binary(Binary::Shr, mixed, x));
            let all = b.binary(Binary::Or, left, right);
            let divided = b.binary(Binary::Add, q, r);
            let ge = b.push(ScalarOp::Cmp(Cmp::Ge, x, y));
            b.push(ScalarOp::Select(ge, all, divided))
        });
        let t = m.generic((&[n], &["a", "a"], "a", None), &[x, y], |b| {
            let (x, y) = (b.arg(0), b.arg(1));
            let (lt, ne) =
                (b.push(ScalarOp::Cmp(Cmp::Lt, x, y)), b.push(ScalarOp::Cmp(Cmp::Ne, x, y)));
            let not = b.unary(Unary::Not, lt);
            b.binary(Binary::And, not, ne)
        });
        let kernel = m.kernel("integers", &[z, t]);
        check(&mlir, &kernel, &arguments(&kernel, 11));
    }
}

#[test]
fn narrow_floats_round_to_nearest_even() {
    let mlir = Mlir::new();
    for dtype in [DType::bf16, DType::f16] {
        for n in SIZES {
            let mut m = Make::default();
            let x = m.param(dtype, &[n]);
            let y = m.generic((&[n], &["a"], "a", None), &[x], |b| {
                let x = b.arg(0);
                let wide = b.push(ScalarOp::Cast(x, DType::f32));
                let sum = b.float(1.0009765625, DType::f32);
                let sum = b.binary(Binary::Mul, wide, sum);
                b.push(ScalarOp::Cast(sum, dtype))
            });
            let kernel = m.kernel("narrow", &[y]);
            let args = arguments(&kernel, 5);
            let got = crate::make::run(&kernel, &crate::make::lower(&mlir, &kernel), &args);
            for (x, y) in args[0].data.iter().zip(&got[0].data) {
                let exact = (*x as f32 * 1.000_976_6_f32).into();
                let want = match dtype {
                    DType::bf16 => half::bf16::from_f64(exact).to_f64(),
                    _ => half::f16::from_f64(exact).to_f64(),
                };
                assert_eq!(*y, want, "{dtype} of {exact}");
            }
        }
    }
}
