//! Arithmetic on f32 registers: `add`, `mul`, `fma`, `div`, `rcp`, `sqrt`, `min`, `max` with rounding, `.ftz`, `.sat`.
//!
//! Exactness: sums and products of f32 values are formed in f64, rounded to odd where they do not fit
//! (53 ≥ 24 + 2 digits), and then rounded once; round-to-nearest uses the host's IEEE operation.

use super::double::{divide, square_root};
use super::exact::{Overflow, add_to_odd, encode};
use super::format::{FloatFormat, Rounding};

/// The canonical NaN of f32 results.
pub const NAN: u32 = 0x7fff_ffff;

/// The modifiers of an f32 instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mode {
    /// `.rn`, `.rz`, `.rm`, `.rp`.
    pub rounding: Rounding,
    /// `.ftz`: subnormal arguments and results (after rounding) become zero of their sign.
    pub ftz: bool,
    /// `.sat`: results are clamped to [0, 1]; NaN becomes +0.
    pub sat: bool,
}

impl Mode {
    /// `.rn` and nothing else.
    pub const NEAREST: Self = Self { rounding: Rounding::NearestEven, ftz: false, sat: false };
}

/// `bits` with a subnormal replaced by zero of its sign.
#[must_use]
#[inline]
pub fn flush(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

#[inline]
fn argument(bits: u32, mode: Mode) -> f32 {
    f32::from_bits(if mode.ftz { flush(bits) } else { bits })
}

/// Applies `.ftz` and `.sat` to a rounded result and makes a NaN canonical.
#[must_use]
#[inline]
pub fn finish(value: f32, mode: Mode) -> u32 {
    let bits = if value.is_nan() { NAN } else { value.to_bits() };
    let bits = if mode.ftz { flush(bits) } else { bits };
    if mode.sat { saturate(bits) } else { bits }
}

/// `bits` clamped to [0, 1]; NaN and -0 become +0.
#[must_use]
#[inline]
pub fn saturate(bits: u32) -> u32 {
    let value = f32::from_bits(bits);
    if value > 0.0 { value.min(1.0).to_bits() } else { 0 }
}

/// `a + b`.
#[must_use]
#[inline]
pub fn add(a: u32, b: u32, mode: Mode) -> u32 {
    let (a, b) = (argument(a, mode), argument(b, mode));
    let sum = match mode.rounding {
        Rounding::NearestEven => a + b,
        rounding => sum_rounded(a.into(), b.into(), rounding),
    };
    finish(sum, mode)
}

/// `a - b`.
#[must_use]
#[inline]
pub fn sub(a: u32, b: u32, mode: Mode) -> u32 {
    add(a, b ^ 0x8000_0000, mode)
}

/// `a · b`.
#[must_use]
#[inline]
pub fn mul(a: u32, b: u32, mode: Mode) -> u32 {
    let (a, b) = (argument(a, mode), argument(b, mode));
    let product = match mode.rounding {
        Rounding::NearestEven => a * b,
        rounding => rounded(f64::from(a) * f64::from(b), rounding),
    };
    finish(product, mode)
}

/// `a · b + c`, rounded once.
#[must_use]
#[inline]
pub fn fma(a: u32, b: u32, c: u32, mode: Mode) -> u32 {
    let (a, b, c) = (argument(a, mode), argument(b, mode), argument(c, mode));
    let sum = match mode.rounding {
        Rounding::NearestEven => fma_nearest(a, b, c),
        rounding => sum_rounded(f64::from(a) * f64::from(b), c.into(), rounding),
    };
    finish(sum, mode)
}

/// `a · b + c` rounded once to nearest: the product is exact in f64, the sum is rounded to odd.
/// Without a branch, so that a loop over lanes vectorises on a host without fused multiply-add.
#[must_use]
#[inline]
pub fn fma_nearest(a: f32, b: f32, c: f32) -> f32 {
    add_to_odd(f64::from(a) * f64::from(b), f64::from(c)) as f32
}

/// `div.rnd`: `a / b` rounded once.
#[must_use]
#[inline]
pub fn div(a: u32, b: u32, mode: Mode) -> u32 {
    let (a, b) = (argument(a, mode), argument(b, mode));
    let quotient = match mode.rounding {
        Rounding::NearestEven => a / b,
        rounding => from_bits(divide(FloatFormat::F32, a.into(), b.into(), rounding)),
    };
    finish(quotient, mode)
}

/// `rcp.rnd`: `1 / a` rounded once.
#[must_use]
#[inline]
pub fn rcp(a: u32, mode: Mode) -> u32 {
    div(1f32.to_bits(), a, mode)
}

/// `sqrt.rnd`: `√a` rounded once.
#[must_use]
#[inline]
pub fn sqrt(a: u32, mode: Mode) -> u32 {
    let a = argument(a, mode);
    let root = match mode.rounding {
        Rounding::NearestEven => a.sqrt(),
        rounding => from_bits(square_root(FloatFormat::F32, a.into(), rounding)),
    };
    finish(root, mode)
}

/// What `min` and `max` do beside comparing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extremum {
    /// `.ftz`.
    pub ftz: bool,
    /// `.NaN`: one NaN argument makes the result NaN; else the other argument is the result.
    pub nan: bool,
    /// `.xorsign.abs`: magnitudes are compared and the result's sign is the product of the signs.
    pub xorsign_abs: bool,
}

/// The smaller argument; -0 is smaller than +0.
#[must_use]
#[inline]
pub fn min(a: u32, b: u32, how: Extremum) -> u32 {
    extremum(a, b, how, |a, b| a < b || a == b && a.is_sign_negative())
}

/// The larger argument; +0 is larger than -0.
#[must_use]
#[inline]
pub fn max(a: u32, b: u32, how: Extremum) -> u32 {
    extremum(a, b, how, |a, b| a > b || a == b && a.is_sign_positive())
}

#[inline]
fn extremum(a: u32, b: u32, how: Extremum, first: impl Fn(f32, f32) -> bool) -> u32 {
    let (a, b) = if how.ftz { (flush(a), flush(b)) } else { (a, b) };
    let mask = if how.xorsign_abs { 0x7fff_ffff } else { u32::MAX };
    let sign = if how.xorsign_abs { (a ^ b) & 0x8000_0000 } else { 0 };
    let (left, right) = (f32::from_bits(a & mask), f32::from_bits(b & mask));
    let chosen = match (left.is_nan(), right.is_nan()) {
        (true, true) => return NAN,
        (true, false) | (false, true) if how.nan => return NAN,
        (true, false) => right,
        (false, true) => left,
        (false, false) if first(left, right) => left,
        (false, false) => right,
    };
    chosen.to_bits() | sign
}

fn from_bits(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn rounded(value: f64, rounding: Rounding) -> f32 {
    from_bits(encode(FloatFormat::F32, value, rounding, Overflow::Ieee))
}

/// `a + b` of f64 values that hold f32 values or their products.
fn sum_rounded(a: f64, b: f64, rounding: Rounding) -> f32 {
    let sum = add_to_odd(a, b);
    if sum == 0.0 && rounding == Rounding::Down && !(is_plus_zero(a) && is_plus_zero(b)) {
        return -0.0;
    }
    rounded(sum, rounding)
}

pub(super) fn is_plus_zero(value: f64) -> bool {
    value == 0.0 && value.is_sign_positive()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIRECTED: [Rounding; 3] = [Rounding::Zero, Rounding::Down, Rounding::Up];

    fn mode(rounding: Rounding) -> Mode {
        Mode { rounding, ftz: false, sat: false }
    }

    /// Any bits, with the edges of the format more often than chance would bring them.
    pub(crate) fn any_f32() -> impl Strategy<Value = u32> {
        let edges =
            [0, 1, 0x7f_ffff, 0x80_0000, 0x7f7f_ffff, 0x7f80_0000, 0x7fc0_0000, 0x3f80_0000];
        prop_oneof![
            4 => any::<u32>(),
            2 => (any::<bool>(), 120u32..135, 0u32..1 << 23)
                .prop_map(|(s, e, f)| u32::from(s) << 31 | e << 23 | f),
            1 => (any::<bool>(), 0u32..1 << 23).prop_map(|(s, f)| u32::from(s) << 31 | f),
            1 => (any::<bool>(), proptest::sample::select(edges.to_vec()))
                .prop_map(|(s, e)| u32::from(s) << 31 | e),
        ]
    }

    /// An integer multiple of 2^-149·2^-149, exact for every sum and product of f32 values that are not large.
    fn check(
        result: u32,
        exact_le: impl Fn(f32) -> Option<std::cmp::Ordering>,
        rounding: Rounding,
    ) {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let value = f32::from_bits(result);
        // exact_le(x) compares x with the exact result.
        let Some(order) = exact_le(value) else { return };
        let next = |up: bool| if up { value.next_up() } else { value.next_down() };
        let below = |x: f32| exact_le(x) != Some(Greater);
        let above = |x: f32| exact_le(x) != Some(Less);
        match rounding {
            Rounding::Down => {
                assert!(order != Greater);
                assert!(order == Equal || exact_le(next(true)) == Some(Greater));
            }
            Rounding::Up => {
                assert!(order != Less);
                assert!(order == Equal || exact_le(next(false)) == Some(Less));
            }
            Rounding::Zero if value > 0.0 || result == 0 => {
                assert!(below(value) && (order == Equal || exact_le(next(true)) == Some(Greater)));
            }
            Rounding::Zero => {
                assert!(above(value) && (order == Equal || exact_le(next(false)) == Some(Less)));
            }
            _ => unreachable!("only directed modes"),
        }
    }

    /// An f32 as an integer times 2^-149, when it is at most 2^40: then a sum fits an i128 with room.
    fn fixed(value: f32) -> Option<i128> {
        let scaled = f64::from(value) * 2f64.powi(149);
        (value.abs() <= 2f32.powi(-30)).then_some(scaled as i128)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn directed_sums_bracket_the_exact_sum(a in any_f32(), b in any_f32(), shift in 0u32..100) {
            // Scaled down to a range in which integers of 2^-149 hold the sum exactly.
            let small = |x: u32| f32::from_bits(x & 0x83ff_ffff | (shift.min(64) << 23) & 0x0300_0000);
            let (a, b) = (small(a), small(b));
            let (Some(x), Some(y)) = (fixed(a), fixed(b)) else { return Ok(()) };
            for rounding in DIRECTED {
                let sum = add(a.to_bits(), b.to_bits(), mode(rounding));
                check(sum, |v| fixed(v).map(|v| v.cmp(&(x + y))), rounding);
            }
        }

        #[test]
        fn directed_products_bracket_the_exact_product(a in any_f32(), b in any_f32()) {
            let (x, y) = (f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b)));
            let exact = x * y;
            if !exact.is_finite() || exact.abs() > f64::from(f32::MAX) { return Ok(()) }
            for rounding in DIRECTED {
                let product = mul(a, b, mode(rounding));
                check(product, |v| f64::from(v).partial_cmp(&exact), rounding);
            }
        }

        #[test]
        fn the_branchless_fma_is_the_fused_one(a in any_f32(), b in any_f32(), c in any_f32()) {
            let (a, b, c) = (f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
            let (ours, fused) = (fma_nearest(a, b, c), a.mul_add(b, c));
            prop_assert!(ours.to_bits() == fused.to_bits() || ours.is_nan() && fused.is_nan());
        }

        #[test]
        fn the_fma_is_right_where_the_sum_nearly_cancels(a in any_f32(), b in any_f32(), ulps in -3i32..4) {
            let (a, b) = (f32::from_bits(a), f32::from_bits(b));
            let c = f32::from_bits((-(a * b)).to_bits().wrapping_add_signed(ulps));
            let (ours, fused) = (fma_nearest(a, b, c), a.mul_add(b, c));
            prop_assert!(ours.to_bits() == fused.to_bits() || ours.is_nan() && fused.is_nan());
        }

        #[test]
        fn directed_quotients_bracket_the_exact_quotient(a in any_f32(), b in any_f32()) {
            let (x, y) = (f64::from(f32::from_bits(a)), f64::from(f32::from_bits(b)));
            let quotient = x / y;
            if !quotient.is_finite() || quotient.abs() > f64::from(f32::MAX) { return Ok(()) }
            for rounding in DIRECTED {
                let result = div(a, b, mode(rounding));
                // v < x / y is v · y < x for positive y; the product of two f32 values is exact in f64.
                let flip = y.is_sign_negative();
                check(result, |v| {
                    let order = (f64::from(v) * y).partial_cmp(&x)?;
                    Some(if flip { order.reverse() } else { order })
                }, rounding);
            }
        }

        #[test]
        fn directed_roots_bracket_the_exact_root(a in any_f32()) {
            let x = f64::from(f32::from_bits(a & 0x7fff_ffff));
            if !x.is_finite() { return Ok(()) }
            for rounding in DIRECTED {
                let root = sqrt(a & 0x7fff_ffff, mode(rounding));
                check(root, |v| {
                    let square = f64::from(v) * f64::from(v);
                    if v < 0.0 { Some(std::cmp::Ordering::Less) } else { square.partial_cmp(&x) }
                }, rounding);
            }
        }
    }

    #[test]
    fn zeros_that_cancel_are_negative_only_when_rounding_down() {
        let (one, minus) = (1f32.to_bits(), (-1f32).to_bits());
        let negative_zero = (-0f32).to_bits();
        assert_eq!(add(one, minus, mode(Rounding::NearestEven)), 0);
        assert_eq!(add(one, minus, mode(Rounding::Down)), negative_zero);
        assert_eq!(add(0, 0, mode(Rounding::Down)), 0);
        assert_eq!(add(0, negative_zero, mode(Rounding::Down)), negative_zero);
        assert_eq!(fma(one, one, minus, mode(Rounding::Down)), negative_zero);
        assert_eq!(fma(one, one, minus, mode(Rounding::Up)), 0);
    }

    #[test]
    fn flushing_replaces_subnormal_arguments_and_results_by_signed_zeros() {
        let ftz = Mode { ftz: true, ..Mode::NEAREST };
        let smallest = f32::MIN_POSITIVE.to_bits();
        assert_eq!(add(1, 0, ftz), 0);
        assert_eq!(add(0x8000_0001, 0x8000_0000, ftz), 0x8000_0000);
        assert_eq!(mul(smallest, 0.5f32.to_bits(), ftz), 0);
        assert_eq!(mul(smallest, (-0.5f32).to_bits(), ftz), 0x8000_0000);
        assert_eq!(mul(smallest, 0.5f32.to_bits(), Mode::NEAREST), smallest / 2);
    }

    #[test]
    fn saturation_clamps_to_the_unit_interval_and_nan_to_zero() {
        let sat = Mode { sat: true, ..Mode::NEAREST };
        let one = 1f32.to_bits();
        assert_eq!(add(one, one, sat), one);
        assert_eq!(sub(0, one, sat), 0);
        assert_eq!(add(0x7fc0_0001, one, sat), 0);
        assert_eq!(mul(0.5f32.to_bits(), 0.5f32.to_bits(), sat), 0.25f32.to_bits());
    }

    #[test]
    fn results_that_are_not_a_number_are_canonical() {
        let infinity = f32::INFINITY.to_bits();
        assert_eq!(sub(infinity, infinity, Mode::NEAREST), NAN);
        assert_eq!(mul(0, infinity, mode(Rounding::Up)), NAN);
        assert_eq!(add(0xffc1_2345, 0, Mode::NEAREST), NAN);
        assert_eq!(sqrt((-1f32).to_bits(), mode(Rounding::Down)), NAN);
        assert_eq!(div(0, 0, mode(Rounding::Zero)), NAN);
    }

    #[test]
    fn extrema_order_zeros_and_treat_nan_as_their_modifier_says() {
        let plain = Extremum::default();
        let nan = Extremum { nan: true, ..plain };
        let (zero, negative_zero, one) = (0, 0x8000_0000, 1f32.to_bits());
        assert_eq!(min(zero, negative_zero, plain), negative_zero);
        assert_eq!(max(negative_zero, zero, plain), zero);
        assert_eq!(min(NAN, one, plain), one);
        assert_eq!(max(one, 0x7fc0_0000, nan), NAN);
        assert_eq!(min(0x7fc0_0000, 0xffc0_0000, plain), NAN);
        let xorsign = Extremum { xorsign_abs: true, ..plain };
        assert_eq!(max((-3f32).to_bits(), 2f32.to_bits(), xorsign), (-3f32).to_bits());
        assert_eq!(max((-2f32).to_bits(), (-3f32).to_bits(), xorsign), 3f32.to_bits());
    }
}
