//! Error of the transcendental functions, over all exponents.

use perilune_compiler::mlir::Mlir;
use perilune_compiler::scalar::{Binary, Unary};
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::DType;

use crate::make::{Make, lower, run};

/// Results of a function over inputs, through the JIT.
fn apply(f: Unary, inputs: &[f32]) -> Vec<f32> {
    let mlir = Mlir::new();
    let mut m = Make::default();
    let n = inputs.len() as u64;
    let x = m.param(DType::f32, &[n]);
    let y = m.generic((&[n], &["a"], "a", None), &[x], |b| {
        let x = b.arg(0);
        b.unary(f, x)
    });
    let kernel = m.kernel("f", &[y]);
    let arg = Tensor { shape: vec![n], data: inputs.iter().map(|x| f64::from(*x)).collect() };
    let out = run(&kernel, &lower(&mlir, &kernel), &[arg]);
    out[0].data.iter().map(|y| *y as f32).collect()
}

/// Distance in units in the last place.
fn ulps(got: f32, want: f64) -> f64 {
    let near = want as f32;
    if got == near || got.is_nan() && near.is_nan() {
        return 0.0;
    }
    let spacing = (f64::from(near.abs().next_up()) - f64::from(near.abs())).abs();
    (f64::from(got) - want).abs() / spacing
}

/// Worst error of a function over inputs, in ulps.
fn worst(f: Unary, exact: fn(f64) -> f64, inputs: &[f32]) -> f64 {
    let mut worst = (0.0, 0.0, 0.0);
    for (x, y) in inputs.iter().zip(apply(f, inputs)) {
        let error = ulps(y, exact(f64::from(*x)));
        if error > worst.0 || error.is_nan() {
            worst = (error, *x, y);
        }
    }
    worst.0
}

/// Floats spread evenly over their bit patterns between two values of one sign.
pub(crate) fn spread(from: f32, to: f32, count: u32) -> Vec<f32> {
    let (a, b) = (from.to_bits(), to.to_bits());
    (0..count)
        .map(|i| f32::from_bits(a + (u64::from(b - a) * u64::from(i) / u64::from(count)) as u32))
        .collect()
}

#[test]
fn exp_is_within_one_ulp_and_a_half() {
    let mut inputs = spread(1e-10, 88.7, 400_000);
    inputs.extend(spread(-1e-10, -87.0, 400_000));
    assert!(worst(Unary::Exp, f64::exp, &inputs) <= 1.5);
    let y = apply(
        Unary::Exp,
        &[0.0, -0.0, 89.0, 1e30, f32::INFINITY, -110.0, f32::NEG_INFINITY, f32::NAN],
    );
    assert_eq!(y[..7], [1.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY, 0.0, 0.0]);
    assert!(y[7].is_nan());
    assert!(worst(Unary::Exp, f64::exp, &spread(-87.0, -103.0, 50_000)) <= 2.0);
}

#[test]
fn log_is_within_one_ulp_and_a_half() {
    let inputs = spread(f32::from_bits(1), f32::MAX, 800_000);
    assert!(worst(Unary::Log, f64::ln, &inputs) <= 1.5);
    assert!(worst(Unary::Log, f64::ln, &spread(0.5, 2.0, 400_000)) <= 1.5);
    let y = apply(Unary::Log, &[0.0, -0.0, 1.0, f32::INFINITY, -1.0, f32::NAN, f32::NEG_INFINITY]);
    assert_eq!(y[..4], [f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0, f32::INFINITY]);
    assert!(y[4..].iter().all(|y| y.is_nan()));
}

#[test]
fn tanh_is_within_two_ulps() {
    let mut inputs = spread(1e-20, 20.0, 400_000);
    inputs.extend(spread(-1e-20, -20.0, 400_000));
    assert!(worst(Unary::Tanh, f64::tanh, &inputs) <= 2.0);
    let y = apply(Unary::Tanh, &[0.0, 1e30, f32::NEG_INFINITY, f32::NAN]);
    assert_eq!(y[..3], [0.0, 1.0, -1.0]);
    assert!(y[3].is_nan());
}

#[test]
fn sigmoid_is_within_four_ulps() {
    let mut inputs = spread(1e-10, 80.0, 200_000);
    inputs.extend(spread(-1e-10, -80.0, 200_000));
    assert!(worst(Unary::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()), &inputs) <= 4.0);
}

#[test]
fn sin_and_cos_are_within_1e7_up_to_200000() {
    let mut inputs = spread(1e-10, 2e5, 400_000);
    inputs.extend(spread(-1e-10, -2e5, 400_000));
    for (f, exact) in [(Unary::Sin, f64::sin as fn(f64) -> f64), (Unary::Cos, f64::cos)] {
        for (x, y) in inputs.iter().zip(apply(f, &inputs)) {
            let error = (f64::from(y) - exact(f64::from(*x))).abs();
            assert!(error <= 1e-7, "{f:?}({x:e}) = {y:e}, off by {error:e}");
        }
    }
}

/// A function of two values through the JIT.
fn both(f: Binary, first: &[f32], second: &[f32]) -> Vec<f32> {
    let mlir = Mlir::new();
    let mut m = Make::default();
    let n = first.len() as u64;
    let (x, y) = (m.param(DType::f32, &[n]), m.param(DType::f32, &[n]));
    let z = m.generic((&[n], &["a", "a"], "a", None), &[x, y], |b| {
        let (x, y) = (b.arg(0), b.arg(1));
        b.binary(f, x, y)
    });
    let kernel = m.kernel("both", &[z]);
    let args = [first, second]
        .map(|x| Tensor { shape: vec![n], data: x.iter().map(|x| f64::from(*x)).collect() });
    let out = run(&kernel, &lower(&mlir, &kernel), &args);
    out[0].data.iter().map(|z| *z as f32).collect()
}

#[test]
fn pow_is_within_one_ulp() {
    let bases = spread(1e-5, 1e6, 200_003);
    let exponents: Vec<f32> =
        (0..bases.len()).map(|i| ((i * 7919) % 2000) as f32 / 400.0 - 2.5).collect();
    for ((x, y), z) in bases.iter().zip(&exponents).zip(both(Binary::Pow, &bases, &exponents)) {
        let want = f64::from(*x).powf(f64::from(*y));
        assert!(ulps(z, want) <= 1.0, "{x}^{y} = {z}, not {want}");
    }
}

#[test]
fn pow_of_what_is_unknown_is_unknown() {
    let nan = f32::NAN;
    let bases = [nan, nan, 2.0, 0.0, f32::INFINITY, -1.0, 1.0];
    let exponents = [0.7, -2.5, nan, nan, nan, nan, nan];
    let found = both(Binary::Pow, &bases, &exponents);
    assert!(found.iter().all(|z| z.is_nan()), "{found:?}");
    assert_eq!(both(Binary::Pow, &[nan, 0.0, f32::INFINITY], &[0.0, 0.0, 0.0]), [1.0; 3]);
}

#[test]
fn remainders_are_exact_and_have_the_sign_of_what_is_divided() {
    let mut first = spread(1e-3, 1e3, 20_000);
    let mut second: Vec<f32> = (0..20_000).map(|i| (i * 7919 % 97) as f32 / 8.0 + 0.1).collect();
    first.extend([5.0, -5.0, 5.0, 6.0, -6.0, 3.0, 1e-30, f32::INFINITY, 1.0, f32::NAN]);
    second.extend([0.1, 0.1, -0.1, 3.0, 3.0, f32::INFINITY, 1.0, 2.0, 0.0, 1.0]);
    for ((x, y), r) in first.iter().zip(&second).zip(both(Binary::Rem, &first, &second)) {
        let want = x % y;
        assert!(r == want || r.is_nan() && want.is_nan(), "{x} mod {y} = {r}, not {want}");
    }
}
