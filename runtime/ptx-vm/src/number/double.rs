//! Arithmetic on f64 registers with every rounding mode.
//!
//! Round-to-nearest is the host's IEEE operation; the directed modes work on 128-bit integers.
//! The payload of a NaN result is not specified by PTX; here it is always the canonical one.

use super::exact::{Exact, Overflow, encode, narrow, round, split};
use super::format::{FloatFormat, Rounding};
use super::single::is_plus_zero;

const NEGATIVE: u64 = 1 << 63;

fn finish(value: f64) -> u64 {
    encode(FloatFormat::F64, value, Rounding::NearestEven, Overflow::Ieee)
}

/// `a + b`.
#[must_use]
#[inline]
pub fn add(a: u64, b: u64, rounding: Rounding) -> u64 {
    let (a, b) = (f64::from_bits(a), f64::from_bits(b));
    if rounding == Rounding::NearestEven || !a.is_finite() || !b.is_finite() {
        return finish(a + b);
    }
    sum(Wide::of(a), Wide::of(b), is_plus_zero(a) && is_plus_zero(b), rounding)
}

/// `a - b`.
#[must_use]
#[inline]
pub fn sub(a: u64, b: u64, rounding: Rounding) -> u64 {
    add(a, b ^ NEGATIVE, rounding)
}

/// `a · b`.
#[must_use]
#[inline]
pub fn mul(a: u64, b: u64, rounding: Rounding) -> u64 {
    let (a, b) = (f64::from_bits(a), f64::from_bits(b));
    if rounding == Rounding::NearestEven || !a.is_finite() || !b.is_finite() {
        return finish(a * b);
    }
    Wide::of(a).times(Wide::of(b)).round(rounding)
}

/// `a · b + c`, rounded once.
#[must_use]
pub fn fma(a: u64, b: u64, c: u64, rounding: Rounding) -> u64 {
    let (a, b, c) = (f64::from_bits(a), f64::from_bits(b), f64::from_bits(c));
    let finite = a.is_finite() && b.is_finite() && c.is_finite();
    if rounding == Rounding::NearestEven || !finite {
        return finish(a.mul_add(b, c));
    }
    let plus_zeros = a * b == 0.0 && is_plus_zero(a * b) && is_plus_zero(c);
    sum(Wide::of(a).times(Wide::of(b)), Wide::of(c), plus_zeros, rounding)
}

/// `div.rnd`: `a / b` rounded once.
#[must_use]
#[inline]
pub fn div(a: u64, b: u64, rounding: Rounding) -> u64 {
    divide(FloatFormat::F64, f64::from_bits(a), f64::from_bits(b), rounding)
}

/// `rcp.rnd`: `1 / a` rounded once.
#[must_use]
#[inline]
pub fn rcp(a: u64, rounding: Rounding) -> u64 {
    div(1f64.to_bits(), a, rounding)
}

/// `sqrt.rnd`: `√a` rounded once.
#[must_use]
#[inline]
pub fn sqrt(a: u64, rounding: Rounding) -> u64 {
    square_root(FloatFormat::F64, f64::from_bits(a), rounding)
}

/// The smaller argument; -0 is smaller than +0; a NaN argument yields to the other.
#[must_use]
#[inline]
pub fn min(a: u64, b: u64) -> u64 {
    let (x, y) = (f64::from_bits(a), f64::from_bits(b));
    let first = y.is_nan() || x < y || x == y && x.is_sign_negative();
    finish(if first { x } else { y })
}

/// The larger argument; +0 is larger than -0; a NaN argument yields to the other.
#[must_use]
#[inline]
pub fn max(a: u64, b: u64) -> u64 {
    let (x, y) = (f64::from_bits(a), f64::from_bits(b));
    let first = y.is_nan() || x > y || x == y && x.is_sign_positive();
    finish(if first { x } else { y })
}

/// `a / b` rounded once to `format`.
pub(super) fn divide(format: FloatFormat, a: f64, b: f64, rounding: Rounding) -> u64 {
    let special = !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0;
    if special || rounding == Rounding::NearestEven && format == FloatFormat::F64 {
        return encode(format, a / b, rounding, Overflow::Ieee);
    }
    let ((a_exponent, a_digits), (b_exponent, b_digits)) = (split(a), split(b));
    let up = a_digits.leading_zeros();
    let dividend = u128::from(a_digits << up) << 64;
    let quotient = dividend / u128::from(b_digits);
    let rest = dividend % u128::from(b_digits) != 0;
    let (above, digits) = narrow(quotient);
    let exponent = a_exponent - up as i32 - 64 - b_exponent + above;
    let negative = a.is_sign_negative() != b.is_sign_negative();
    let magnitude = digits | u64::from(rest);
    round(format, Exact { negative, exponent, magnitude }, rounding, Overflow::Ieee)
}

/// `√a` rounded once to `format`.
pub(super) fn square_root(format: FloatFormat, a: f64, rounding: Rounding) -> u64 {
    let special = a.is_nan() || a <= 0.0 || a.is_infinite();
    if special || rounding == Rounding::NearestEven && format == FloatFormat::F64 {
        return encode(format, a.sqrt(), rounding, Overflow::Ieee);
    }
    let (exponent, digits) = split(a);
    // 126 or 127 digits below an even exponent: the root has 63 or 64.
    let up = digits.leading_zeros() as i32 + 62;
    let up = up + ((exponent - up) & 1);
    let radicand = u128::from(digits) << up;
    let root = radicand.isqrt();
    let magnitude = root as u64 | u64::from(root * root != radicand);
    let exact = Exact { negative: false, exponent: (exponent - up) / 2, magnitude };
    round(format, exact, rounding, Overflow::Ieee)
}

/// `± magnitude · 2^exponent`, possibly zero; at most 106 digits.
#[derive(Clone, Copy)]
struct Wide {
    negative: bool,
    exponent: i32,
    magnitude: u128,
}

impl Wide {
    fn of(value: f64) -> Self {
        let (exponent, magnitude) = split(value);
        Self { negative: value.is_sign_negative(), exponent, magnitude: magnitude.into() }
    }

    /// The exact product of two values of 53 digits.
    fn times(self, other: Self) -> Self {
        Self {
            negative: self.negative != other.negative,
            exponent: self.exponent + other.exponent,
            magnitude: self.magnitude * other.magnitude,
        }
    }

    /// The same value with its first digit at bit 125.
    fn normal(self) -> Self {
        let up = self.magnitude.leading_zeros() as i32 - 2;
        Self { exponent: self.exponent - up, magnitude: self.magnitude << up, ..self }
    }

    fn round(self, rounding: Rounding) -> u64 {
        if self.magnitude == 0 {
            return if self.negative { NEGATIVE } else { 0 };
        }
        let (above, magnitude) = narrow(self.magnitude);
        let exact = Exact { negative: self.negative, exponent: self.exponent + above, magnitude };
        round(FloatFormat::F64, exact, rounding, Overflow::Ieee)
    }
}

/// `a + b` rounded once; `plus_zeros` says that both are +0.
fn sum(a: Wide, b: Wide, plus_zeros: bool, rounding: Rounding) -> u64 {
    let zero = if rounding == Rounding::Down && !plus_zeros { NEGATIVE } else { 0 };
    match (a.magnitude == 0, b.magnitude == 0) {
        (true, true) if a.negative == b.negative => return a.round(rounding),
        (true, true) => return zero,
        (true, false) => return b.round(rounding),
        (false, true) => return a.round(rounding),
        (false, false) => {}
    }
    let (a, b) = (a.normal(), b.normal());
    let (high, low) = if a.exponent >= b.exponent { (a, b) } else { (b, a) };
    let distance = (high.exponent - low.exponent) as u32;
    // Digits are lost only beyond a distance of 20, where at most one leading digit can cancel.
    let (kept, lost) = match distance {
        0..=127 => (low.magnitude >> distance, low.magnitude & ((1 << distance) - 1) != 0),
        _ => (0, true),
    };
    let aligned = kept | u128::from(lost);
    let (negative, magnitude) = if high.negative == low.negative {
        (high.negative, high.magnitude + aligned)
    } else if high.magnitude >= aligned {
        (high.negative, high.magnitude - aligned)
    } else {
        (low.negative, aligned - high.magnitude)
    };
    if magnitude == 0 {
        return zero;
    }
    Wide { negative, exponent: high.exponent, magnitude }.round(rounding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_f64() -> impl Strategy<Value = f64> {
        prop_oneof![
            2 => any::<u64>().prop_map(f64::from_bits),
            3 => (any::<bool>(), 1000u64..1050, 0u64..1 << 52)
                .prop_map(|(s, e, f)| f64::from_bits(u64::from(s) << 63 | e << 52 | f)),
            1 => (any::<bool>(), 0u64..1 << 52)
                .prop_map(|(s, f)| f64::from_bits(u64::from(s) << 63 | f)),
        ]
    }

    /// The directed results that bracket a value which rounds to `nearest` with the error `error`.
    fn check(nearest: f64, error: f64, result: impl Fn(Rounding) -> u64) {
        let (down, up) =
            (f64::from_bits(result(Rounding::Down)), f64::from_bits(result(Rounding::Up)));
        let (low, high) = match error.partial_cmp(&0.0) {
            Some(std::cmp::Ordering::Less) => (nearest.next_down(), nearest),
            Some(std::cmp::Ordering::Greater) => (nearest, nearest.next_up()),
            _ => (nearest, nearest),
        };
        assert_eq!((down, up), (low, high));
        let zero = f64::from_bits(result(Rounding::Zero));
        assert_eq!(zero, if nearest > 0.0 || low >= 0.0 { low } else { high });
    }

    fn moderate(x: f64) -> bool {
        x.is_finite() && (x == 0.0 || (1e-200..1e200).contains(&x.abs()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn nearest_through_integers_is_the_hosts_operation(a in any_f64(), b in any_f64(), c in any_f64()) {
            let rn = Rounding::NearestEven;
            prop_assert_eq!(fma(a.to_bits(), b.to_bits(), c.to_bits(), rn), finish(a.mul_add(b, c)));
            if a.is_finite() && b.is_finite() && c.is_finite() {
                let product = Wide::of(a).times(Wide::of(b));
                let exact = sum(product, Wide::of(c), false, rn);
                let host = a.mul_add(b, c);
                if host != 0.0 { prop_assert_eq!(exact, host.to_bits()) }
                let exact = sum(Wide::of(a), Wide::of(c), false, rn);
                if a + c != 0.0 { prop_assert_eq!(exact, (a + c).to_bits()) }
                if a * b != 0.0 { prop_assert_eq!(product.round(rn), (a * b).to_bits()) }
            }
        }

        #[test]
        fn directed_sums_and_products_bracket_the_exact_value(a in any_f64(), b in any_f64()) {
            if !moderate(a) || !moderate(b) { return Ok(()) }
            let total = a + b;
            let seen = total - a;
            let error = (a - (total - seen)) + (b - seen);
            check(total, error, |r| add(a.to_bits(), b.to_bits(), r));
            if moderate(a * b) && (a * b).abs() > 1e-150 {
                check(a * b, a.mul_add(b, -(a * b)), |r| mul(a.to_bits(), b.to_bits(), r));
            }
        }

        #[test]
        fn directed_quotients_and_roots_bracket_the_exact_value(a in any_f64(), b in any_f64()) {
            if !moderate(a) || !moderate(b) || b == 0.0 { return Ok(()) }
            let quotient = a / b;
            if moderate(quotient) && a.abs() > 1e-150 && quotient.abs() > 1e-150 {
                let rest = (-quotient).mul_add(b, a);
                let error = if b < 0.0 { -rest } else { rest };
                check(quotient, error, |r| div(a.to_bits(), b.to_bits(), r));
            }
            let a = a.abs();
            if a > 1e-150 {
                let root = a.sqrt();
                check(root, (-root).mul_add(root, a), |r| sqrt(a.to_bits(), r));
            }
        }

        #[test]
        fn nearest_quotients_and_roots_of_floats_are_the_hosts(a in any::<u32>(), b in any::<u32>()) {
            let (a, b) = (f32::from_bits(a), f32::from_bits(b));
            let rn = Rounding::NearestEven;
            let quotient = divide(FloatFormat::F32, a.into(), b.into(), rn) as u32;
            prop_assert!(quotient == (a / b).to_bits() || (a / b).is_nan());
            let root = square_root(FloatFormat::F32, a.into(), rn) as u32;
            prop_assert!(root == a.sqrt().to_bits() || a.sqrt().is_nan());
        }
    }

    #[test]
    fn overflow_and_cancellation_follow_the_direction() {
        let max = f64::MAX.to_bits();
        assert_eq!(add(max, max, Rounding::Zero), max);
        assert_eq!(add(max, max, Rounding::Up), f64::INFINITY.to_bits());
        let one = 1f64.to_bits();
        assert_eq!(sub(one, one, Rounding::Down), NEGATIVE);
        assert_eq!(sub(one, one, Rounding::Up), 0);
        assert_eq!(add(0, 0, Rounding::Down), 0);
        assert_eq!(add(one, 1, Rounding::Up), one + 1);
        assert_eq!(mul(1, 1, Rounding::Up), 1);
    }
}
