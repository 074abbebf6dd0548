//! Error of the elementary functions as GPUs compute them.
//!
//! The virtual machine's approximate instructions are nearly exact, so what is measured is the error
//! of the formulas around them; a GPU's instructions add at most 2^-22.

use perilune_compiler::lower::{Target, lower_kernel};
use perilune_compiler::mlir::Mlir;
use perilune_compiler::scalar::{Binary, Unary};
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::DType;

use crate::make::Make;
use crate::math::spread;
use crate::vm;

/// Results of a function over inputs, through the PTX of a kernel.
fn apply(f: Unary, inputs: &[f32]) -> Vec<f64> {
    let mut m = Make::default();
    let n = inputs.len() as u64;
    let x = m.param(DType::f32, &[n]);
    let y = m.generic((&[n], &["a"], "a", None), &[x], |b| {
        let x = b.arg(0);
        b.unary(f, x)
    });
    let kernel = m.kernel("f", &[y]);
    let lowered = lower_kernel(&Mlir::new(), &kernel, Target::Sm90a).expect("lowers");
    let arg = Tensor { shape: vec![n], data: inputs.iter().map(|x| f64::from(*x)).collect() };
    vm::run(&kernel, &lowered, &[arg]).remove(0).data
}

/// Checks each result against a bound that depends on the input and the exact value.
fn check(f: Unary, exact: fn(f64) -> f64, inputs: &[f32], bound: fn(f64, f64) -> f64) {
    for (x, y) in inputs.iter().zip(apply(f, inputs)) {
        let x = f64::from(*x);
        let want = exact(x);
        let error = (y - want).abs();
        assert!(error <= bound(x, want), "{f:?}({x:e}) = {y:e} instead of {want:e}");
    }
}

/// 2^-23.
const ULP: f64 = 1.0 / 8_388_608.0;

fn both_signs(from: f32, to: f32, count: u32) -> Vec<f32> {
    let mut inputs = spread(from, to, count);
    inputs.extend(spread(-from, -to, count));
    inputs
}

#[test]
fn exp_and_sigmoid_lose_as_many_bits_as_their_argument_has() {
    let inputs = both_signs(1e-10, 80.0, 20_000);
    check(Unary::Exp, f64::exp, &inputs, |x, y| (2.0 + x.abs()) * ULP * y);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    check(Unary::Sigmoid, sigmoid, &inputs, |x, y| (2.0 + x.abs()) * ULP * y);
    let y = apply(Unary::Exp, &[0.0, 100.0, f32::INFINITY, -110.0, f32::NEG_INFINITY, f32::NAN]);
    assert_eq!(y[..5], [1.0, f64::INFINITY, f64::INFINITY, 0.0, 0.0]);
    assert!(y[5].is_nan());
}

#[test]
fn log_is_within_two_ulps_of_the_larger_of_itself_and_its_argument() {
    let inputs = spread(f32::from_bits(1), f32::MAX, 40_000);
    check(Unary::Log, f64::ln, &inputs, |_, y| 2.0 * ULP * y.abs());
    check(Unary::Log, f64::ln, &spread(0.5, 2.0, 40_000), |_, y| 2.0 * ULP * y.abs());
    let y = apply(Unary::Log, &[0.0, -0.0, 1.0, f32::INFINITY, -1.0, f32::NAN, f32::NEG_INFINITY]);
    assert_eq!(y[..4], [f64::NEG_INFINITY, f64::NEG_INFINITY, 0.0, f64::INFINITY]);
    assert!(y[4..].iter().all(|y| y.is_nan()));
}

#[test]
fn tanh_is_within_four_ulps() {
    check(Unary::Tanh, f64::tanh, &both_signs(1e-20, 20.0, 40_000), |_, y| 4.0 * ULP * y.abs());
    let y = apply(Unary::Tanh, &[0.0, 1e30, f32::NEG_INFINITY, f32::NAN]);
    assert_eq!(y[..3], [0.0, 1.0, -1.0]);
    assert!(y[3].is_nan());
}

#[test]
fn sin_and_cos_are_within_2e7_up_to_100000() {
    let inputs = both_signs(1e-10, 1e5, 40_000);
    check(Unary::Sin, f64::sin, &inputs, |_, _| 2e-7);
    check(Unary::Cos, f64::cos, &inputs, |_, _| 2e-7);
}

#[test]
fn square_roots_floors_and_signs_are_exact() {
    let inputs = both_signs(1e-3, 1e6, 5_000);
    check(Unary::Floor, f64::floor, &inputs, |_, _| 0.0);
    check(Unary::Abs, f64::abs, &inputs, |_, _| 0.0);
    let positive = spread(1e-30, 1e30, 5_000);
    check(Unary::Sqrt, f64::sqrt, &positive, |_, y| 0.5 * ULP * y);
    check(Unary::Rsqrt, |x| 1.0 / x.sqrt(), &positive, |_, y| 2.0 * ULP * y);
}

#[test]
fn powers_and_remainders_match() {
    let n = 4_001u64;
    let mut m = Make::default();
    let (x, y) = (m.param(DType::f32, &[n]), m.param(DType::f32, &[n]));
    let both = [Binary::Pow, Binary::Rem].map(|f| {
        m.generic((&[n], &["a", "a"], "a", None), &[x, y], |b| {
            let (x, y) = (b.arg(0), b.arg(1));
            b.binary(f, x, y)
        })
    });
    let kernel = m.kernel("two", &both);
    let lowered = lower_kernel(&Mlir::new(), &kernel, Target::Sm90a).expect("lowers");
    let bases = spread(1e-3, 1e3, n as u32);
    let args = [
        Tensor { shape: vec![n], data: bases.iter().map(|x| f64::from(*x)).collect() },
        Tensor {
            shape: vec![n],
            data: (0..n).map(|i| (i * 7919 % 97) as f64 / 8.0 + 0.5).collect(),
        },
    ];
    let got = vm::run(&kernel, &lowered, &args);
    for (i, (x, y)) in args[0].data.iter().zip(&args[1].data).enumerate() {
        let (want, size) = (x.powf(*y), (x.ln() * y).abs());
        let error = (got[0].data[i] - want).abs();
        let finite = want.is_normal() && want < f64::from(f32::MAX) && want > 1e-37;
        assert!(
            !finite || error <= (4.0 + 3.0 * size) * ULP * want,
            "{x}^{y} = {}",
            got[0].data[i]
        );
        assert_eq!(got[1].data[i], x % y, "{x} mod {y}");
    }
}
