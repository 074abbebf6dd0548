//! `cvt`: between formats, between floats and integers, and packed conversions.

use super::exact::{Overflow, decode, encode};
use super::format::{FloatFormat, Rounding};
use super::half::{Half, pack, unpack};
use super::integer::IntType;
use super::single::flush;

/// The modifiers of a conversion to a floating-point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mode {
    /// `.rn`, `.rz`, `.rm`, `.rp`, `.rna`; exact conversions ignore it.
    pub rounding: Rounding,
    /// `.ftz`: f32 arguments and results that are subnormal become zero of their sign.
    pub ftz: bool,
    /// `.sat`: results are clamped to [0, 1]; NaN becomes +0.
    pub sat: bool,
    /// `.satfinite`: what is too large becomes the largest finite value.
    pub satfinite: bool,
    /// `.relu`: negative results become +0; NaN becomes canonical.
    pub relu: bool,
}

impl Mode {
    /// A rounding and nothing else.
    #[must_use]
    pub const fn rounded(rounding: Rounding) -> Self {
        Self { rounding, ftz: false, sat: false, satfinite: false, relu: false }
    }
}

/// The bits of `value`, of format `from`, as a value of format `to`.
#[must_use]
#[inline]
pub fn float_to_float(from: FloatFormat, to: FloatFormat, bits: u64, mode: Mode) -> u64 {
    if from == FloatFormat::F32 && mode == Mode::rounded(Rounding::NearestEven) {
        let value = f32::from_bits(bits as u32);
        match to {
            FloatFormat::F16 => return Half::F16.narrow(value).into(),
            FloatFormat::Bf16 => return Half::Bf16.narrow(value).into(),
            _ => {}
        }
    }
    encode_with(to, decode(from, flush_f32(from, bits, mode.ftz)), mode)
}

/// `value` rounded to `to` under the modifiers of `mode`.
#[must_use]
pub fn encode_with(to: FloatFormat, value: f64, mode: Mode) -> u64 {
    let value = if mode.relu && value <= 0.0 { 0.0 } else { value };
    let value = match mode.sat {
        true if value > 0.0 => value.min(1.0),
        true => 0.0,
        false => value,
    };
    let overflow = if mode.satfinite { Overflow::Finite } else { Overflow::Ieee };
    flush_f32(to, encode(to, value, mode.rounding, overflow), mode.ftz)
}

fn flush_f32(format: FloatFormat, bits: u64, ftz: bool) -> u64 {
    if ftz && format == FloatFormat::F32 { flush(bits as u32).into() } else { bits }
}

/// A float rounded to an integral value of the same format (`cvt.rni.f32.f32` and its like);
/// infinities and zeros stay.
#[must_use]
pub fn to_integral(format: FloatFormat, bits: u64, mode: Mode) -> u64 {
    let value = integral(decode(format, flush_f32(format, bits, mode.ftz)), mode.rounding);
    encode_with(format, value, mode)
}

fn integral(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::NearestEven => value.round_ties_even(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
        Rounding::NearestAway => value.round(),
    }
}

/// A float rounded to an integer and clamped to its type.
///
/// NaN becomes 0, or, when one side has 64 bits, only the top bit set.
#[must_use]
#[inline]
pub fn float_to_int(
    from: FloatFormat,
    to: IntType,
    bits: u64,
    rounding: Rounding,
    ftz: bool,
) -> u64 {
    let value = decode(from, flush_f32(from, bits, ftz));
    if value.is_nan() {
        let wide = from == FloatFormat::F64 || to.bits() == 64;
        return if wide { 1 << (to.bits() - 1) } else { 0 };
    }
    // `as` clamps: every integral f64 in range converts exactly.
    to.clamp(integral(value, rounding) as i128)
}

/// An integer as a float, rounded once.
#[must_use]
#[inline]
pub fn int_to_float(from: IntType, to: FloatFormat, bits: u64, mode: Mode) -> u64 {
    let value = from.value(bits);
    let magnitude = value.unsigned_abs() as u64;
    if to == FloatFormat::F64 {
        return wide_to_f64(value < 0, magnitude, mode);
    }
    // To odd: digits beyond the 53 of f64 are remembered in the last one.
    let lost = 11u32.saturating_sub(magnitude.leading_zeros());
    let sticky = magnitude & ((1 << lost) - 1) != 0;
    let kept = (magnitude >> lost | u64::from(sticky)) << lost;
    let value = if value < 0 { -(kept as f64) } else { kept as f64 };
    encode_with(to, value, mode)
}

/// The only integers that f64 has to round have more than 53 digits.
fn wide_to_f64(negative: bool, magnitude: u64, mode: Mode) -> u64 {
    let lost = 11u32.saturating_sub(magnitude.leading_zeros());
    let below = magnitude & ((1 << lost) - 1);
    let half = if lost == 0 { 0 } else { 1 << (lost - 1) };
    let mut digits = magnitude >> lost;
    let at_half = half != 0 && below & half != 0;
    if mode.rounding.moves_up(negative, digits & 1 == 1, at_half, below & !half != 0) {
        digits += 1;
    }
    // At most 54 digits, and 54 only for a power of two: exact.
    let value = digits as f64 * (1u64 << lost) as f64;
    encode_with(FloatFormat::F64, if negative { -value } else { value }, mode)
}

/// An integer as another type: extended or cut, or with `.sat` clamped.
#[must_use]
#[inline]
pub fn int_to_int(from: IntType, to: IntType, bits: u64, sat: bool) -> u64 {
    let value = from.value(bits);
    if sat { to.clamp(value) } else { to.wrap(value) }
}

/// Two f32 values in one register of a narrow format, `high` in the upper half
/// (`cvt.rn.bf16x2.f32 d, high, low`, `cvt.rn.satfinite.e4m3x2.f32 d, high, low`).
#[must_use]
#[inline]
pub fn pack_pair(to: FloatFormat, high: u32, low: u32, mode: Mode) -> u32 {
    let one = |bits: u32| float_to_float(FloatFormat::F32, to, bits.into(), mode) as u32;
    one(high) << to.bits().next_power_of_two() | one(low)
}

/// The two halves of a register as two eight-bit values (`cvt.rn.satfinite.e4m3x2.f16x2`).
#[must_use]
pub fn narrow_pair(from: Half, to: FloatFormat, register: u32, mode: Mode) -> u16 {
    let one = |bits: u16| float_to_float(from.format(), to, bits.into(), mode) as u16;
    let [low, high] = unpack(register).map(one);
    high << 8 | low
}

/// Two eight-bit values as the two halves of a register (`cvt.rn.f16x2.e4m3x2`).
#[must_use]
pub fn widen_pair(from: FloatFormat, to: Half, register: u16, mode: Mode) -> u32 {
    let [low, high] = register.to_le_bytes();
    let one = |bits: u8| float_to_float(from, to.format(), bits.into(), mode) as u16;
    pack([one(low), one(high)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RN: Mode = Mode::rounded(Rounding::NearestEven);

    #[test]
    fn every_eight_bit_value_goes_to_f16_and_back() {
        let satfinite = Mode { satfinite: true, ..RN };
        for format in [FloatFormat::E4m3, FloatFormat::E5m2] {
            for bits in 0..=u8::MAX {
                let pair = u16::from(bits) << 8 | 0x38;
                let wide = widen_pair(format, Half::F16, pair, RN);
                let value = decode(format, bits.into());
                let upper = decode(FloatFormat::F16, u64::from(wide >> 16));
                assert!(upper == value || upper.is_nan() && value.is_nan());
                let back = narrow_pair(Half::F16, format, wide, satfinite);
                let infinite = value.is_infinite();
                let expected = match bits {
                    _ if value.is_nan() => 0x7f,
                    _ if infinite => format.max_finite() as u8 | bits & 0x80,
                    _ => bits,
                };
                assert_eq!(back, u16::from(expected) << 8 | 0x38, "{format:?} {bits:#x}");
            }
        }
    }

    #[test]
    fn every_f16_becomes_the_nearest_eight_bit_value() {
        let satfinite = Mode { satfinite: true, ..RN };
        for format in [FloatFormat::E4m3, FloatFormat::E5m2] {
            let values: Vec<f64> = (0..=format.max_finite()).map(|b| decode(format, b)).collect();
            for bits in 0..=u16::MAX {
                let value = decode(FloatFormat::F16, bits.into());
                let result = float_to_float(FloatFormat::F16, format, bits.into(), satfinite);
                if value.is_nan() {
                    assert_eq!(result, 0x7f);
                    continue;
                }
                let magnitude = value.abs().min(1e9);
                let distance = |b: usize| (values[b] - magnitude).abs();
                let at = values.partition_point(|v| *v < magnitude).min(values.len() - 1);
                let below = at.saturating_sub(1);
                let nearest = match distance(below).total_cmp(&distance(at)) {
                    std::cmp::Ordering::Less => below,
                    std::cmp::Ordering::Greater => at,
                    std::cmp::Ordering::Equal => {
                        if at % 2 == 0 {
                            at
                        } else {
                            below
                        }
                    }
                };
                let sign = if value.is_sign_negative() { 0x80 } else { 0 };
                assert_eq!(result, nearest as u64 | sign, "{format:?} {value}");
            }
        }
    }

    #[test]
    fn floats_become_integers_by_direction_and_clamp() {
        let to = |value: f32, to, rounding| {
            float_to_int(FloatFormat::F32, to, value.to_bits().into(), rounding, false)
        };
        let (even, zero) = (Rounding::NearestEven, Rounding::Zero);
        assert_eq!(to(2.5, IntType::S32, even), 2);
        assert_eq!(to(-2.5, IntType::S32, Rounding::Down), -3i32 as u32 as u64);
        assert_eq!(to(2.1, IntType::S32, Rounding::Up), 3);
        assert_eq!(to(-2.9, IntType::S32, zero), -2i32 as u32 as u64);
        assert_eq!(to(-1.0, IntType::U32, zero), 0);
        assert_eq!(to(1e20, IntType::S32, zero), i32::MAX as u64);
        assert_eq!(to(f32::NEG_INFINITY, IntType::S64, zero), 1 << 63);
        assert_eq!(to(f32::INFINITY, IntType::U64, zero), u64::MAX);
        assert_eq!(to(300.0, IntType::U8, zero), 255);
        assert_eq!(to(f32::NAN, IntType::S32, zero), 0);
        assert_eq!(to(f32::NAN, IntType::S64, zero), 1 << 63);
        let nan = f64::NAN.to_bits();
        assert_eq!(float_to_int(FloatFormat::F64, IntType::U32, nan, zero, false), 1 << 31);
    }

    proptest! {
        #[test]
        fn integers_become_floats_as_the_host_rounds(x in any::<u64>(), cut in 0u32..64) {
            let x = x >> cut;
            let f32_of = |from| int_to_float(from, FloatFormat::F32, x, RN) as u32;
            let f64_of = |from| int_to_float(from, FloatFormat::F64, x, RN);
            prop_assert_eq!(f32_of(IntType::U64), (x as f32).to_bits());
            prop_assert_eq!(f32_of(IntType::S64), (x as i64 as f32).to_bits());
            prop_assert_eq!(f32_of(IntType::S32), (x as i32 as f32).to_bits());
            prop_assert_eq!(f64_of(IntType::U64), (x as f64).to_bits());
            prop_assert_eq!(f64_of(IntType::S64), (x as i64 as f64).to_bits());
        }

        #[test]
        fn directed_integers_bracket_the_value(x in any::<i64>(), cut in 0u32..64) {
            let x = x >> cut;
            for to in [FloatFormat::F32, FloatFormat::F64] {
                let as_integer = |rounding| {
                    let bits = int_to_float(IntType::S64, to, x as u64, Mode::rounded(rounding));
                    decode(to, bits) as i128
                };
                let x = i128::from(x);
                let (down, up) = (as_integer(Rounding::Down), as_integer(Rounding::Up));
                prop_assert!(down <= x && x <= up);
                let near = as_integer(Rounding::NearestEven);
                prop_assert!(near == down || near == up);
                prop_assert_eq!(as_integer(Rounding::Zero), if x < 0 { up } else { down });
                prop_assert!((down == x) == (up == x));
            }
        }

        #[test]
        fn doubles_become_floats_as_the_host_rounds(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            let ours = float_to_float(FloatFormat::F64, FloatFormat::F32, bits, RN) as u32;
            let expected = if value.is_nan() { 0x7fff_ffff } else { (value as f32).to_bits() };
            prop_assert_eq!(ours, expected);
        }

        #[test]
        fn tf32_keeps_ten_fraction_bits_of_the_nearest_value(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            if !value.is_finite() { return Ok(()) }
            let away = Mode::rounded(Rounding::NearestAway);
            let result = float_to_float(FloatFormat::F32, FloatFormat::Tf32, bits.into(), away) as u32;
            prop_assert_eq!(result & 0x1fff, 0);
            prop_assert_eq!(result, bits.wrapping_add(0x1000) & 0xffff_e000);
        }
    }

    #[test]
    fn modifiers_clamp_rectify_and_flush() {
        let f32_to = |to, value: f32, mode| {
            float_to_float(FloatFormat::F32, to, value.to_bits().into(), mode)
        };
        let relu = Mode { relu: true, ..RN };
        assert_eq!(f32_to(FloatFormat::Bf16, -3.0, relu), 0);
        assert_eq!(f32_to(FloatFormat::Bf16, -0.0, relu), 0);
        assert_eq!(f32_to(FloatFormat::Bf16, f32::NAN, relu), 0x7fff);
        let satfinite = Mode { satfinite: true, ..RN };
        assert_eq!(f32_to(FloatFormat::F16, 1e9, satfinite), 0x7bff);
        assert_eq!(f32_to(FloatFormat::F16, f32::NAN, satfinite), 0x7fff);
        assert_eq!(f32_to(FloatFormat::E2m1, f32::NAN, satfinite), 7);
        let sat = Mode { sat: true, ..RN };
        assert_eq!(f32_to(FloatFormat::F32, 7.0, sat), u64::from(1f32.to_bits()));
        assert_eq!(f32_to(FloatFormat::F32, f32::NAN, sat), 0);
        let ftz = Mode { ftz: true, ..RN };
        assert_eq!(f32_to(FloatFormat::F64, -1e-40, ftz), (-0f64).to_bits());
        let tiny = 1e-40f64.to_bits();
        assert_eq!(float_to_float(FloatFormat::F64, FloatFormat::F32, tiny, ftz), 0);
        assert_eq!(f32_to(FloatFormat::Bf16, 1.0, ftz), 0x3f80);
        let pair = pack_pair(FloatFormat::Bf16, 2f32.to_bits(), 1f32.to_bits(), RN);
        assert_eq!(pair, 0x4000_3f80);
        let pair = pack_pair(FloatFormat::E4m3, 2f32.to_bits(), 1f32.to_bits(), satfinite);
        assert_eq!(pair, 0x4038);
        let down = Mode::rounded(Rounding::Down);
        assert_eq!(
            to_integral(FloatFormat::F32, (-0.5f32).to_bits().into(), down),
            u64::from((-1f32).to_bits())
        );
        assert_eq!(int_to_int(IntType::S32, IntType::U8, -5i32 as u64, true), 0);
        assert_eq!(int_to_int(IntType::S8, IntType::S32, 0xff, false), 0xffff_ffff);
    }
}
