//! Exact values and their one rounding: the mechanism under every other file of this room.
//!
//! A finite value is `sign · magnitude · 2^exponent` with an integer magnitude; digits that did not fit are
//! remembered in the lowest bit ("jammed"), which is enough for every rounding mode as long as two bits more
//! than the result's precision are kept.

use super::format::{FloatFormat, Rounding};

/// What a value beyond the largest finite one becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Overflow {
    /// As IEEE 754: infinity or the largest finite value by direction; NaN where a format has no infinity.
    Ieee,
    /// `.satfinite`: the largest finite value of the sign, also for infinities.
    Finite,
}

/// The exact value of `bits` in `format`; a NaN becomes a NaN.
/// Bits above the format's width are ignored, as are the lower 13 of a tf32.
#[must_use]
pub fn decode(format: FloatFormat, bits: u64) -> f64 {
    match format {
        FloatFormat::F64 => f64::from_bits(bits),
        FloatFormat::F32 => f64::from(f32::from_bits(bits as u32)),
        FloatFormat::Tf32 => f64::from(f32::from_bits(bits as u32 & 0xffff_e000)),
        FloatFormat::Bf16 => f64::from(f32::from_bits((bits as u32) << 16)),
        FloatFormat::Ue8m0 if bits as u8 == 0xff => f64::NAN,
        FloatFormat::Ue8m0 => power_of_two((bits & 0xff) as i32 - 127),
        _ => decode_narrow(format, bits),
    }
}

fn decode_narrow(format: FloatFormat, bits: u64) -> f64 {
    let magnitude = bits & (format.sign_mask() - 1);
    let negative = bits & format.sign_mask() != 0;
    if magnitude > format.max_finite() {
        let infinite = format.infinity() == Some(magnitude);
        let value = if infinite { f64::INFINITY } else { f64::NAN };
        return if negative { -value } else { value };
    }
    let fraction_bits = format.fraction_bits();
    let fraction = magnitude & ((1 << fraction_bits) - 1);
    let stored = (magnitude >> fraction_bits) as i32;
    let lowest = 1 - format.bias() - fraction_bits as i32;
    let value = if stored == 0 {
        fraction as f64 * power_of_two(lowest)
    } else {
        (fraction | (1 << fraction_bits)) as f64 * power_of_two(lowest + stored - 1)
    };
    if negative { -value } else { value }
}

/// `2^exponent` for exponents of normal f64 values.
#[inline]
pub(super) fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// The bits of `value` rounded once to `format`.
///
/// Formats without NaN turn a NaN into their largest positive value, as `.satfinite` does.
/// The unsigned scale format keeps the magnitude's exponent; zero becomes its smallest value.
#[must_use]
pub fn encode(format: FloatFormat, value: f64, rounding: Rounding, overflow: Overflow) -> u64 {
    if value.is_nan() {
        return format.canonical_nan().unwrap_or(format.max_finite());
    }
    let negative = value.is_sign_negative();
    let sign = if negative { format.sign_mask() } else { 0 };
    if value.is_infinite() {
        return sign | infinite(format, overflow);
    }
    let (exponent, magnitude) = split(value);
    if magnitude == 0 {
        return sign;
    }
    round(format, Exact { negative, exponent, magnitude }, rounding, overflow)
}

fn infinite(format: FloatFormat, overflow: Overflow) -> u64 {
    match overflow {
        Overflow::Finite => format.max_finite(),
        Overflow::Ieee => {
            format.infinity().or(format.canonical_nan()).unwrap_or(format.max_finite())
        }
    }
}

/// `|value| = magnitude · 2^exponent` for a finite value.
#[inline]
pub(super) fn split(value: f64) -> (i32, u64) {
    let bits = value.to_bits();
    let stored = ((bits >> 52) & 0x7ff) as i32;
    let fraction = bits & ((1 << 52) - 1);
    if stored == 0 { (-1074, fraction) } else { (stored - 1075, fraction | 1 << 52) }
}

/// A finite value other than zero: `± magnitude · 2^exponent`, the lowest bit jammed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exact {
    pub(super) negative: bool,
    pub(super) exponent: i32,
    pub(super) magnitude: u64,
}

/// Rounds to `format` and packs.
pub(super) fn round(
    format: FloatFormat,
    value: Exact,
    rounding: Rounding,
    overflow: Overflow,
) -> u64 {
    debug_assert!(value.magnitude != 0, "zero has no leading digit");
    let fraction_bits = format.fraction_bits();
    let leading = value.exponent + 63 - value.magnitude.leading_zeros() as i32;
    let smallest = 1 - format.bias();
    // The exponent of the last kept digit, not below the subnormals' spacing.
    let kept = leading.max(smallest) - fraction_bits as i32;
    let cut = kept - value.exponent;
    let (mut digits, half, rest) = cut_digits(value.magnitude, cut);
    if rounding.moves_up(value.negative, digits & 1 == 1, half, rest) {
        digits += 1;
    }
    let stored = (kept + fraction_bits as i32 - smallest) as u64;
    // The implicit one of a normal value adds the missing 1 to the stored exponent; a carry does as well.
    let magnitude = ((stored << fraction_bits) + digits) << format.shift();
    let sign = if value.negative { format.sign_mask() } else { 0 };
    if magnitude <= format.max_finite() {
        return sign | magnitude;
    }
    let reaches_infinity =
        overflow == Overflow::Ieee && rounding.overflows_to_infinity(value.negative);
    sign | if reaches_infinity { infinite(format, overflow) } else { format.max_finite() }
}

/// `magnitude` without its lowest `cut` digits, and what was cut off: its first digit and whether more is set.
fn cut_digits(magnitude: u64, cut: i32) -> (u64, bool, bool) {
    match cut {
        ..=0 => (magnitude << -cut, false, false),
        1..=63 => {
            let half = magnitude >> (cut - 1) & 1 == 1;
            (magnitude >> cut, half, magnitude & ((1 << (cut - 1)) - 1) != 0)
        }
        64 => (0, magnitude >> 63 == 1, magnitude << 1 != 0),
        _ => (0, false, magnitude != 0),
    }
}

/// Packs a wide magnitude: the digits below the upper 64 are jammed.
pub(super) fn narrow(magnitude: u128) -> (i32, u64) {
    let above = (128 - magnitude.leading_zeros() as i32) - 64;
    if above <= 0 {
        return (0, magnitude as u64);
    }
    let lost = magnitude & ((1 << above) - 1) != 0;
    (above, (magnitude >> above) as u64 | u64::from(lost))
}

/// `a + b` in f64, rounded to odd: when digits are lost the last kept one is 1.
/// Rounded again to a format of at most 51 digits, this is `a + b` rounded once.
/// Infinities and NaNs follow IEEE; finite arguments must not overflow.
#[must_use]
#[inline]
pub(super) fn add_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let b_seen = sum - a;
    let error = (a - (sum - b_seen)) + (b - b_seen);
    // The error is NaN, and so gives no step, where the sum is not finite. An even sum moves one step towards
    // the error; a sum that was rounded is not zero. Without a branch, loops over lanes vectorise.
    let step = i64::from(error > 0.0) - i64::from(error < 0.0);
    let step = if sum < 0.0 { -step } else { step };
    let bits = sum.to_bits();
    let step = if bits & 1 == 1 { 0 } else { step };
    f64::from_bits(bits.wrapping_add_signed(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: [FloatFormat; 7] = [
        FloatFormat::F16,
        FloatFormat::Bf16,
        FloatFormat::E5m2,
        FloatFormat::E4m3,
        FloatFormat::E3m2,
        FloatFormat::E2m3,
        FloatFormat::E2m1,
    ];
    const ROUNDINGS: [Rounding; 5] = [
        Rounding::NearestEven,
        Rounding::Zero,
        Rounding::Down,
        Rounding::Up,
        Rounding::NearestAway,
    ];

    #[test]
    fn every_narrow_value_survives_decoding_and_encoding() {
        for format in NARROW {
            for bits in 0..1u64 << format.bits() {
                let value = decode(format, bits);
                for rounding in ROUNDINGS {
                    let back = encode(format, value, rounding, Overflow::Ieee);
                    if value.is_nan() {
                        assert_eq!(Some(back), format.canonical_nan(), "{format:?} {bits:#x}");
                    } else {
                        assert_eq!(back, bits, "{format:?} {rounding:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_half_decodes_as_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let same = |a: f64, b: f64| a == b && a.is_sign_negative() == b.is_sign_negative();
            let f16 = half::f16::from_bits(bits).to_f64();
            let ours = decode(FloatFormat::F16, bits.into());
            assert!(same(f16, ours) || f16.is_nan() && ours.is_nan(), "f16 {bits:#x}");
            let bf16 = half::bf16::from_bits(bits).to_f64();
            let ours = decode(FloatFormat::Bf16, bits.into());
            assert!(same(bf16, ours) || bf16.is_nan() && ours.is_nan(), "bf16 {bits:#x}");
        }
    }

    #[test]
    fn published_values_of_the_eight_bit_formats_hold() {
        assert_eq!(decode(FloatFormat::E4m3, 0x7e), 448.0);
        assert_eq!(decode(FloatFormat::E4m3, 0x01), 2f64.powi(-9));
        assert!(decode(FloatFormat::E4m3, 0x7f).is_nan());
        assert_eq!(decode(FloatFormat::E5m2, 0x7b), 57344.0);
        assert_eq!(decode(FloatFormat::E5m2, 0x01), 2f64.powi(-16));
        assert_eq!(decode(FloatFormat::E5m2, 0x7c), f64::INFINITY);
        assert_eq!(decode(FloatFormat::E3m2, 0x1f), 28.0);
        assert_eq!(decode(FloatFormat::E2m3, 0x1f), 7.5);
        assert_eq!(decode(FloatFormat::E2m1, 0x7), 6.0);
        assert_eq!(decode(FloatFormat::Ue8m0, 127), 1.0);
        assert_eq!(decode(FloatFormat::Ue8m0, 0), 2f64.powi(-127));
    }

    /// Between two neighbours of a format, every rounding mode is decided by comparing with the midpoint.
    #[test]
    fn values_between_neighbours_round_by_the_definition_of_the_mode() {
        for format in NARROW {
            for lower in 0..format.max_finite() {
                let (low, high) = (decode(format, lower), decode(format, lower + 1));
                let middle = (low + high) / 2.0;
                let quarter = (low + middle) / 2.0;
                let even = lower + (lower & 1);
                for (value, near, away) in [
                    (quarter, lower, lower),
                    (middle, even, lower + 1),
                    ((middle + high) / 2.0, lower + 1, lower + 1),
                ] {
                    let at = |rounding, value| encode(format, value, rounding, Overflow::Ieee);
                    let minus = |bits: u64| bits | format.sign_mask();
                    assert_eq!(at(Rounding::NearestEven, value), near, "{format:?} {value}");
                    assert_eq!(at(Rounding::NearestAway, value), away, "{format:?} {value}");
                    assert_eq!(at(Rounding::Zero, value), lower);
                    assert_eq!(at(Rounding::Down, value), lower);
                    assert_eq!(at(Rounding::Up, value), lower + 1);
                    assert_eq!(at(Rounding::NearestEven, -value), minus(near));
                    assert_eq!(at(Rounding::Down, -value), minus(lower + 1));
                    assert_eq!(at(Rounding::Up, -value), minus(lower));
                }
            }
        }
    }

    #[test]
    fn overflow_follows_the_mode_and_satfinite() {
        let e4m3 =
            |value, overflow| encode(FloatFormat::E4m3, value, Rounding::NearestEven, overflow);
        assert_eq!(e4m3(1e9, Overflow::Finite), 0x7e);
        assert_eq!(e4m3(f64::NEG_INFINITY, Overflow::Finite), 0xfe);
        assert_eq!(e4m3(464.0, Overflow::Finite), 0x7e);
        assert_eq!(e4m3(1e9, Overflow::Ieee), 0x7f);
        let f16 = |value, rounding| encode(FloatFormat::F16, value, rounding, Overflow::Ieee);
        assert_eq!(f16(65519.0, Rounding::NearestEven), 0x7bff);
        assert_eq!(f16(65520.0, Rounding::NearestEven), 0x7c00);
        assert_eq!(f16(1e9, Rounding::Zero), 0x7bff);
        assert_eq!(f16(1e9, Rounding::Down), 0x7bff);
        assert_eq!(f16(-1e9, Rounding::Down), 0xfc00);
        assert_eq!(f16(-1e9, Rounding::Up), 0xfbff);
    }
}
