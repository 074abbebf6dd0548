//! The `.approx` functions, computed in f64 and rounded once.
//!
//! PTX documents a largest error for each; these results are correctly rounded but for cases closer to a
//! rounding boundary than about 10⁻¹³ relative, so they lie well inside.
//! They use additions, multiplications, divisions and square roots of f64 only, in a fixed order: every
//! host computes the same bits.
//!
//! | function | documented error of the hardware | here, before rounding |
//! |---|---|---|
//! | `rcp`, `div`, `sqrt`, `rsqrt` | 1 ulp, 2 ulp, 1 ulp, 2⁻²²·⁹ relative | exact |
//! | `ex2` | 2⁻²² relative | 10⁻¹⁵ relative |
//! | `lg2` | 2⁻²² absolute near 1, relative elsewhere | 10⁻¹⁴ relative |
//! | `sin`, `cos` | 2⁻²⁰·⁵ absolute in [-π, π] | 10⁻¹⁵ absolute, any argument |
//! | `tanh` | 2⁻¹¹ relative | 10⁻¹² relative |

use super::exact::{power_of_two, split};
use super::half::Half;
use super::single::{NAN, flush};

/// A function of one argument that PTX has in an `.approx` form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Function {
    /// `1 / x`.
    Rcp,
    /// `√x`.
    Sqrt,
    /// `1 / √x`.
    Rsqrt,
    /// `2^x`.
    Ex2,
    /// `log₂ x`.
    Lg2,
    /// `sin x`.
    Sin,
    /// `cos x`.
    Cos,
    /// `tanh x`.
    Tanh,
}

impl Function {
    /// The value for an f32 argument, before it is rounded.
    #[must_use]
    #[inline]
    pub fn of(self, x: f32) -> f64 {
        let wide = f64::from(x);
        match self {
            Self::Rcp => 1.0 / wide,
            Self::Sqrt => wide.sqrt(),
            Self::Rsqrt => 1.0 / wide.sqrt(),
            Self::Ex2 => exp2(wide),
            Self::Lg2 => log2(wide),
            Self::Sin => sine(x, 0),
            Self::Cos => sine(x, 1),
            Self::Tanh => tanh(wide),
        }
    }
}

/// `function.approx{.ftz}.f32`.
#[must_use]
#[inline]
pub fn single(function: Function, x: u32, ftz: bool) -> u32 {
    let x = if ftz { flush(x) } else { x };
    finish(function.of(f32::from_bits(x)) as f32, ftz)
}

fn finish(value: f32, ftz: bool) -> u32 {
    let bits = if value.is_nan() { NAN } else { value.to_bits() };
    if ftz { flush(bits) } else { bits }
}

/// `function.approx{.ftz}` on f16 or bf16 (`ex2`, `tanh`).
#[must_use]
pub fn half(function: Function, half: Half, x: u16, ftz: bool) -> u16 {
    use super::half::flush;
    let x = if ftz { flush(half, x) } else { x };
    // The f64 value is rounded to f32 on the way; a half has fewer than half of f32's digits, and the values
    // of these functions are not that close to a midpoint unless they are exact.
    let result = half.narrow(function.of(half.widen(x)) as f32);
    if ftz { flush(half, result) } else { result }
}

/// `div.approx{.ftz}.f32`: a divisor of magnitude above 2¹²⁶ gives zero, or NaN under an infinity.
#[must_use]
#[inline]
pub fn div(a: u32, b: u32, ftz: bool) -> u32 {
    let (a, b) = if ftz { (flush(a), flush(b)) } else { (a, b) };
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    let huge = y.abs() > f32::from_bits(0x7e80_0000) && y.is_finite();
    // The hardware multiplies by a reciprocal that is flushed to zero there.
    let quotient = if huge { x * (0f32).copysign(y) } else { x / y };
    finish(quotient, ftz)
}

/// `div.full{.ftz}.f32`: as `div.approx`, but right for every divisor.
#[must_use]
#[inline]
pub fn div_full(a: u32, b: u32, ftz: bool) -> u32 {
    let (a, b) = if ftz { (flush(a), flush(b)) } else { (a, b) };
    finish(f32::from_bits(a) / f32::from_bits(b), ftz)
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: the upper 32 bits of the result; the lower are zero.
/// Only the upper 32 bits of the argument count; subnormals flush.
#[must_use]
pub fn double(function: Function, x: u64) -> u64 {
    let flush = |bits: u64| if bits >> 52 & 0x7ff == 0 { bits & 1 << 63 } else { bits };
    let x = f64::from_bits(flush(x & 0xffff_ffff_0000_0000));
    let value = if function == Function::Rsqrt { 1.0 / x.sqrt() } else { 1.0 / x };
    if value.is_nan() {
        return 0x7fff_ffff_0000_0000;
    }
    // To nearest in 20 fraction bits; infinities have no lower bits to carry.
    flush((value.to_bits() + 0x8000_0000) & 0xffff_ffff_0000_0000)
}

/// `Σ coefficients[i] · x^i`, by Horner's rule.
#[inline]
fn polynomial<const N: usize>(coefficients: [f64; N], x: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, c| sum * x + c)
}

/// `1/0!, 1/1!, …`.
const fn inverse_factorials<const N: usize>() -> [f64; N] {
    let mut table = [1.0; N];
    let mut i = 1;
    while i < N {
        table[i] = table[i - 1] / i as f64;
        i += 1;
    }
    table
}

/// `e^x` for |x| ≤ ½: the Taylor polynomial of degree 14, cut off below 10⁻¹⁷.
#[inline]
fn exp_small(x: f64) -> f64 {
    polynomial(const { inverse_factorials::<15>() }, x)
}

fn exp2(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    // Beyond these the result as f32 is infinite or rounds to zero.
    let x = x.clamp(-400.0, 400.0);
    // Adding and taking away 1.5 · 2⁵² rounds to a whole number without a call.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let whole = (x + ROUND) - ROUND;
    exp_small((x - whole) * std::f64::consts::LN_2) * power_of_two(whole as i32)
}

fn log2(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 || x.is_infinite() {
        return if x == 0.0 { f64::NEG_INFINITY } else { x };
    }
    // x = 2^exponent · m with m in [√½, √2); every positive f32 is a normal f64.
    let bits = x.to_bits();
    let above = bits & ((1 << 52) - 1) > 0x6_a09e_667f_3bcd;
    let exponent = (bits >> 52) as i32 - 1023 + i32::from(above);
    let m = x * power_of_two(-exponent);
    // log m = 2 artanh s with s = (m - 1) / (m + 1), |s| < 0.172.
    let s = (m - 1.0) / (m + 1.0);
    let series = polynomial(ODD_RECIPROCALS, s * s);
    f64::from(exponent) + 2.0 * s * series * std::f64::consts::LOG2_E
}

/// `1/1, 1/3, 1/5, …`: artanh s / s in powers of s².
const ODD_RECIPROCALS: [f64; 12] = {
    let mut table = [1.0; 12];
    let mut i = 1;
    while i < 12 {
        table[i] = 1.0 / (2 * i + 1) as f64;
        i += 1;
    }
    table
};

fn tanh(x: f64) -> f64 {
    let a = x.abs();
    if a.is_nan() {
        return x;
    }
    if a < 2f64.powi(-12) {
        return x * (1.0 - x * x / 3.0);
    }
    // Beyond 20 the distance from 1 is below the spacing of f64.
    let decay = exp2(-2.0 * a.min(20.0) * std::f64::consts::LOG2_E);
    ((1.0 - decay) / (1.0 + decay)).copysign(x)
}

/// `sin(x + quarter · π/2)`.
fn sine(x: f32, quarter: u32) -> f64 {
    if !x.is_finite() {
        return f64::NAN;
    }
    if x == 0.0 {
        return if quarter == 0 { x.into() } else { 1.0 };
    }
    let within = x.abs() <= std::f32::consts::FRAC_PI_4;
    let (quadrant, rest) = if within { (0, x.into()) } else { reduce(x) };
    match (quadrant + quarter) % 4 {
        0 => sine_small(rest),
        1 => cosine_small(rest),
        2 => -sine_small(rest),
        _ => -cosine_small(rest),
    }
}

/// `sin r` for |r| ≤ π/4.
fn sine_small(r: f64) -> f64 {
    let f = const { inverse_factorials::<18>() };
    let odd = [f[1], -f[3], f[5], -f[7], f[9], -f[11], f[13], -f[15], f[17]];
    r * polynomial(odd, r * r)
}

/// `cos r` for |r| ≤ π/4.
fn cosine_small(r: f64) -> f64 {
    let f = const { inverse_factorials::<17>() };
    let even = [f[0], -f[2], f[4], -f[6], f[8], -f[10], f[12], -f[14], f[16]];
    polynomial(even, r * r)
}

/// 2/π in binary, 64 digits a word: digits 1–64 after the point first.
const TWO_OVER_PI: [u64; 4] =
    [0xa2f9_836e_4e44_1529, 0xfc27_57d1_f534_ddc0, 0xdb62_9599_3c43_9041, 0xfe51_63ab_debb_c561];

/// `x = (4n + quadrant) · π/2 + rest` with |rest| ≤ π/4, exactly reduced (Payne and Hanek).
///
/// The fraction of x · 2/π is taken with at least 100 digits; an f32 is never closer to a multiple of π/2
/// than about 2⁻³¹, so that rest keeps more digits than f64 has.
fn reduce(x: f32) -> (u32, f64) {
    // x = digits · 2^exponent with digits below 2^24.
    let (exponent, digits) = split(f64::from(x));
    let (exponent, digits) = (exponent + 29, digits >> 29);
    // The product's digits above 2^2 do not matter: skip words of 2/π that only reach those.
    // A window of 128 digits of 2/π from digit `first` on, whose top has the weight 2^(-first).
    let first = (exponent - 2).max(0) as u32;
    let window = window(first);
    // digits · window / 2^(128 + first) · 2^exponent; the window is cut to 104 digits to leave room.
    let product = u128::from(digits) * (window >> 24);
    // product has the weight 2^(exponent - first - 104); move its point to 2 digits below the top.
    let point = 104 + first as i32 - exponent;
    let turned = match 126 - point {
        up @ 0.. => product << up,
        down => product.checked_shr(-down as u32).unwrap_or(0),
    };
    // turned = (x · 2/π mod 4) · 2^126.
    let quadrant = (turned >> 126) as u32;
    let fraction = turned << 2;
    let (quadrant, fraction) = if fraction >> 127 == 1 {
        (quadrant + 1, -signed_fraction(fraction.wrapping_neg()))
    } else {
        (quadrant, signed_fraction(fraction))
    };
    let rest = fraction * std::f64::consts::FRAC_PI_2;
    if x < 0.0 { ((4 - quadrant % 4) % 4, -rest) } else { (quadrant % 4, rest) }
}

/// `fraction / 2^128`.
fn signed_fraction(fraction: u128) -> f64 {
    fraction as f64 * power_of_two(-128)
}

/// 128 digits of 2/π after skipping `first`.
fn window(first: u32) -> u128 {
    let word = |i: u32| TWO_OVER_PI.get(i as usize).copied().unwrap_or(0);
    let (at, shift) = (first / 64, first % 64);
    let high = u128::from(word(at)) << 64 | u128::from(word(at + 1));
    if shift == 0 { high } else { high << shift | u128::from(word(at + 2) >> (64 - shift)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f32 values of every exponent and both signs, a few per binade.
    fn samples() -> impl Iterator<Item = f32> {
        (0..=u32::MAX >> 12)
            .map(|i| f32::from_bits((i << 12) | (i.wrapping_mul(2_654_435_761) >> 20)))
    }

    fn relative(ours: u32, exact: f64) -> f64 {
        let ours = f64::from(f32::from_bits(ours));
        if ours == exact { 0.0 } else { ((ours - exact) / exact).abs() }
    }

    /// Half a unit of f32, with a little room for the oracle's own error.
    const HALF_UNIT: f64 = 6.0e-8;

    #[test]
    fn powers_and_logarithms_are_rounded_from_nearly_exact_values() {
        for x in samples().filter(|x| x.is_finite()) {
            let exact = f64::from(x).exp2();
            let ours = single(Function::Ex2, x.to_bits(), false);
            if (1.2e-38..3.4e38).contains(&exact) {
                assert!(relative(ours, exact) < HALF_UNIT, "ex2 {x:e}");
            } else {
                assert_eq!(f32::from_bits(ours), exact as f32, "ex2 {x:e}");
            }
            if x > 0.0 {
                let exact = f64::from(x).log2();
                let ours = single(Function::Lg2, x.to_bits(), false);
                assert!(relative(ours, exact) < HALF_UNIT, "lg2 {x:e}");
            }
        }
    }

    #[test]
    fn logarithms_near_one_keep_their_relative_precision() {
        for step in -2000i32..2000 {
            let x = f32::from_bits(1f32.to_bits().wrapping_add_signed(step));
            let exact = (f64::from(x) - 1.0).ln_1p() / std::f64::consts::LN_2;
            let ours = single(Function::Lg2, x.to_bits(), false);
            assert!(relative(ours, exact) < HALF_UNIT, "lg2 {x:e}");
        }
    }

    #[test]
    fn sines_and_hyperbolic_tangents_are_rounded_from_nearly_exact_values() {
        for x in samples().filter(|x| x.is_finite() && *x != 0.0) {
            let wide = f64::from(x);
            for (function, exact) in [
                (Function::Sin, wide.sin()),
                (Function::Cos, wide.cos()),
                (Function::Tanh, wide.tanh()),
            ] {
                let ours = single(function, x.to_bits(), false);
                let error = relative(ours, exact);
                let subnormal = exact.abs() < 1.2e-38;
                assert!(subnormal || error < HALF_UNIT, "{function:?} {x:e}: {error:e}");
            }
        }
    }

    #[test]
    fn sines_survive_the_arguments_closest_to_multiples_of_a_quarter_turn() {
        // Among f32 values, these come closest to multiples of π/2 in their range.
        let turns = [std::f32::consts::FRAC_PI_2, std::f32::consts::PI, std::f32::consts::TAU];
        for x in turns.into_iter().chain([16_367_173.0 * 2f32.powi(72), f32::MAX]) {
            for (function, exact) in
                [(Function::Sin, f64::from(x).sin()), (Function::Cos, f64::from(x).cos())]
            {
                let ours = single(function, x.to_bits(), false);
                assert!(relative(ours, exact) < HALF_UNIT, "{function:?} {x:e}");
            }
        }
    }

    #[test]
    fn special_arguments_give_the_documented_results() {
        let of = |function, x: f32, ftz| f32::from_bits(single(function, x.to_bits(), ftz));
        let infinity = f32::INFINITY;
        assert_eq!(of(Function::Ex2, -infinity, false).to_bits(), 0);
        assert_eq!(of(Function::Ex2, infinity, false), infinity);
        assert_eq!(of(Function::Ex2, 0.0, false), 1.0);
        assert_eq!(of(Function::Ex2, 1e-40, true), 1.0);
        assert_eq!(of(Function::Ex2, -130.0, true).to_bits(), 0);
        assert_eq!(of(Function::Ex2, -130.0, false), 2f32.powi(-130));
        assert_eq!(of(Function::Lg2, 0.0, false), -infinity);
        assert_eq!(of(Function::Lg2, -0.0, false), -infinity);
        assert_eq!(of(Function::Lg2, 1e-40, true), -infinity);
        assert_eq!(of(Function::Lg2, infinity, false), infinity);
        assert_eq!(of(Function::Rcp, -0.0, false), -infinity);
        assert_eq!(of(Function::Rcp, -infinity, false).to_bits(), 0x8000_0000);
        assert_eq!(of(Function::Rcp, 1e-40, true), infinity);
        assert_eq!(of(Function::Rcp, 3e38, true).to_bits(), 0);
        assert_eq!(of(Function::Rsqrt, 0.0, false), infinity);
        assert_eq!(of(Function::Rsqrt, -0.0, false), -infinity);
        assert_eq!(of(Function::Rsqrt, infinity, false), 0.0);
        assert_eq!(of(Function::Sqrt, -0.0, false).to_bits(), 0x8000_0000);
        assert_eq!(of(Function::Sin, -0.0, false).to_bits(), 0x8000_0000);
        assert_eq!(of(Function::Cos, 1e-40, true), 1.0);
        assert_eq!(of(Function::Tanh, infinity, false), 1.0);
        assert_eq!(of(Function::Tanh, -infinity, false), -1.0);
        assert_eq!(of(Function::Tanh, -0.0, false).to_bits(), 0x8000_0000);
        for (function, x) in [
            (Function::Sqrt, -1.0),
            (Function::Rsqrt, -1.0),
            (Function::Lg2, -1.0),
            (Function::Sin, infinity),
            (Function::Cos, -infinity),
            (Function::Ex2, f32::NAN),
            (Function::Tanh, f32::NAN),
        ] {
            assert_eq!(single(function, x.to_bits(), false), NAN, "{function:?} {x}");
        }
    }

    #[test]
    fn approximate_division_vanishes_under_huge_divisors() {
        let huge = 2f32.powi(127).to_bits();
        assert_eq!(div(1f32.to_bits(), huge, false), 0);
        assert_eq!(div(f32::INFINITY.to_bits(), huge, false), NAN);
        assert_eq!(div(6f32.to_bits(), 3f32.to_bits(), false), 2f32.to_bits());
        assert_eq!(div_full(2f32.powi(100).to_bits(), huge, false), 2f32.powi(-27).to_bits());
    }

    #[test]
    fn every_half_has_the_nearest_power_and_tangent() {
        for bits in 0..=u16::MAX {
            for half_format in [Half::F16, Half::Bf16] {
                let x = f64::from(half_format.widen(bits));
                for (function, exact) in [(Function::Ex2, x.exp2()), (Function::Tanh, x.tanh())] {
                    let ours = half(function, half_format, bits, false);
                    let expected = match half_format {
                        Half::F16 => ::half::f16::from_f64(exact).to_bits(),
                        Half::Bf16 => ::half::bf16::from_f64(exact).to_bits(),
                    };
                    let expected = if exact.is_nan() { 0x7fff } else { expected };
                    assert_eq!(ours, expected, "{function:?} {x:e}");
                }
            }
        }
    }

    #[test]
    fn gross_double_approximations_have_empty_lower_words() {
        for x in [1.0, 3.0, -7.25, 1e300, 1e-300] {
            let ours = double(Function::Rcp, f64::to_bits(x));
            assert_eq!(ours & 0xffff_ffff, 0);
            assert!((f64::from_bits(ours) * x - 1.0).abs() < 2f64.powi(-19));
        }
        let ours = f64::from_bits(double(Function::Rsqrt, 2f64.to_bits()));
        assert!((ours - std::f64::consts::FRAC_1_SQRT_2).abs() < 2f64.powi(-20));
        assert_eq!(double(Function::Rcp, 0), f64::INFINITY.to_bits());
        assert_eq!(double(Function::Rcp, 1 << 63), f64::NEG_INFINITY.to_bits());
    }
}
