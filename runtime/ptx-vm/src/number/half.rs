//! Arithmetic on f16 and bf16 values and on pairs of them in a 32-bit register.
//!
//! Exactness: values widen to f32 or f64 without loss; a sum that does not fit f64 is rounded to odd,
//! so that the final rounding is the only one.

use super::exact::{Overflow, add_to_odd, encode};
use super::format::{FloatFormat, Rounding};
use super::single::{self, Extremum};

/// The canonical NaN of both formats.
pub const NAN: u16 = 0x7fff;

/// The two 16-bit formats that have arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Half {
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl Half {
    /// The format as a [`FloatFormat`].
    #[must_use]
    pub const fn format(self) -> FloatFormat {
        match self {
            Self::F16 => FloatFormat::F16,
            Self::Bf16 => FloatFormat::Bf16,
        }
    }

    /// The value of `bits`, exactly.
    #[must_use]
    #[inline]
    pub fn widen(self, bits: u16) -> f32 {
        match self {
            Self::F16 => f16_to_f32(bits),
            Self::Bf16 => bf16_to_f32(bits),
        }
    }

    /// `value` rounded to nearest even.
    #[must_use]
    #[inline]
    pub fn narrow(self, value: f32) -> u16 {
        match self {
            Self::F16 => f32_to_f16(value),
            Self::Bf16 => f32_to_bf16(value),
        }
    }
}

/// The value of an f16, exactly.
#[must_use]
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // Scaling by 2^112 moves the exponent's bias and normalises subnormals, both exactly.
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = magnitude | 0x7f80_0000;
    f32::from_bits(sign | if magnitude >= 0x0f80_0000 { special } else { finite })
}

/// `value` as f16, to nearest even.
#[must_use]
#[inline]
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude >= 0x4780_0000 {
        return if magnitude > 0x7f80_0000 { NAN } else { sign | 0x7c00 };
    }
    if magnitude < 0x3880_0000 {
        // The spacing of f32 at one half is that of the subnormals of f16.
        let shifted = f32::from_bits(magnitude) + 0.5;
        return sign | (shifted.to_bits() - 0x3f00_0000) as u16;
    }
    let rounded = magnitude - 0x3800_0000 + 0xfff + (magnitude >> 13 & 1);
    sign | (rounded >> 13) as u16
}

/// The value of a bf16, exactly.
#[must_use]
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// `value` as bf16, to nearest even.
#[must_use]
#[inline]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() { NAN } else { ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16 }
}

/// The modifiers of an f16 or bf16 instruction; the rounding is always to nearest even.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mode {
    /// The format of arguments and result.
    pub half: Half,
    /// `.ftz`: subnormal arguments and results become zero of their sign.
    pub ftz: bool,
    /// `.sat`: results are clamped to [0, 1]; NaN becomes +0.
    pub sat: bool,
    /// `.relu`: negative results become +0; NaN becomes canonical.
    pub relu: bool,
}

impl Mode {
    /// No modifiers.
    #[must_use]
    pub const fn plain(half: Half) -> Self {
        Self { half, ftz: false, sat: false, relu: false }
    }

    fn argument(self, bits: u16) -> f64 {
        self.half.widen(if self.ftz { flush(self.half, bits) } else { bits }).into()
    }

    fn finish(self, value: f64) -> u16 {
        let format = self.half.format();
        let bits = encode(format, value, Rounding::NearestEven, Overflow::Ieee) as u16;
        let bits = if self.ftz { flush(self.half, bits) } else { bits };
        if self.relu {
            return relu(bits);
        }
        if !self.sat {
            return bits;
        }
        let value = self.half.widen(bits);
        if value > 0.0 { self.half.narrow(value.min(1.0)) } else { 0 }
    }
}

/// `bits` with a subnormal replaced by zero of its sign.
#[must_use]
#[inline]
pub fn flush(half: Half, bits: u16) -> u16 {
    let exponent = match half {
        Half::F16 => 0x7c00,
        Half::Bf16 => 0x7f80,
    };
    if bits & exponent == 0 { bits & 0x8000 } else { bits }
}

/// A negative value becomes +0; a canonical NaN stays.
fn relu(bits: u16) -> u16 {
    if bits & 0x8000 != 0 { 0 } else { bits }
}

/// `a + b`.
#[must_use]
pub fn add(a: u16, b: u16, mode: Mode) -> u16 {
    mode.finish(add_to_odd(mode.argument(a), mode.argument(b)))
}

/// `a - b`.
#[must_use]
pub fn sub(a: u16, b: u16, mode: Mode) -> u16 {
    mode.finish(add_to_odd(mode.argument(a), -mode.argument(b)))
}

/// `a · b`.
#[must_use]
pub fn mul(a: u16, b: u16, mode: Mode) -> u16 {
    mode.finish(mode.argument(a) * mode.argument(b))
}

/// `a · b + c`, rounded once.
#[must_use]
pub fn fma(a: u16, b: u16, c: u16, mode: Mode) -> u16 {
    mode.finish(add_to_odd(mode.argument(a) * mode.argument(b), mode.argument(c)))
}

/// The smaller argument, with the rules of [`single::min`].
#[must_use]
pub fn min(half: Half, a: u16, b: u16, how: Extremum) -> u16 {
    extremum(half, a, b, how, single::min)
}

/// The larger argument, with the rules of [`single::max`].
#[must_use]
pub fn max(half: Half, a: u16, b: u16, how: Extremum) -> u16 {
    extremum(half, a, b, how, single::max)
}

fn extremum(
    half: Half,
    a: u16,
    b: u16,
    how: Extremum,
    choose: impl Fn(u32, u32, Extremum) -> u32,
) -> u16 {
    let (a, b) = if how.ftz { (flush(half, a), flush(half, b)) } else { (a, b) };
    let how = Extremum { ftz: false, ..how };
    let chosen = choose(half.widen(a).to_bits(), half.widen(b).to_bits(), how);
    half.narrow(f32::from_bits(chosen))
}

/// The lower and the upper half of a register.
#[must_use]
#[inline]
pub fn unpack(register: u32) -> [u16; 2] {
    [register as u16, (register >> 16) as u16]
}

/// A register from its lower and its upper half.
#[must_use]
#[inline]
pub fn pack(halves: [u16; 2]) -> u32 {
    u32::from(halves[0]) | u32::from(halves[1]) << 16
}

/// Applies a function of two values to both halves.
#[must_use]
#[inline]
pub fn pairwise(a: u32, b: u32, function: impl Fn(u16, u16) -> u16) -> u32 {
    let ([a0, a1], [b0, b1]) = (unpack(a), unpack(b));
    pack([function(a0, b0), function(a1, b1)])
}

/// Applies a function of three values to both halves.
#[must_use]
#[inline]
pub fn pairwise3(a: u32, b: u32, c: u32, function: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let ([a0, a1], [b0, b1], [c0, c1]) = (unpack(a), unpack(b), unpack(c));
    pack([function(a0, b0, c0), function(a1, b1, c1)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    #[test]
    fn every_half_widens_and_narrows_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
            let back = f32_to_f16(ours);
            assert_eq!(back, if ours.is_nan() { NAN } else { bits });
            let (ours, theirs) = (bf16_to_f32(bits), bf16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan());
            let back = f32_to_bf16(ours);
            assert_eq!(back, if ours.is_nan() { NAN } else { bits });
        }
    }

    #[test]
    fn values_around_every_half_narrow_to_nearest_even() {
        for high in 0..=u16::MAX {
            for low in [0u16, 1, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(high) << 16 | u32::from(low));
                let expected = if value.is_nan() { NAN } else { f16::from_f32(value).to_bits() };
                assert_eq!(f32_to_f16(value), expected, "{value:e}");
                let expected = if value.is_nan() { NAN } else { bf16::from_f32(value).to_bits() };
                assert_eq!(f32_to_bf16(value), expected, "{value:e}");
                for (half, fast) in
                    [(FloatFormat::F16, f32_to_f16(value)), (FloatFormat::Bf16, f32_to_bf16(value))]
                {
                    let rn = Rounding::NearestEven;
                    let slow = encode(half, value.into(), rn, Overflow::Ieee);
                    assert_eq!(u64::from(fast), slow);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn f16_sums_and_products_are_rounded_once(a in any::<u16>(), b in any::<u16>()) {
            let (x, y) = (f16::from_bits(a), f16::from_bits(b));
            let mode = Mode::plain(Half::F16);
            // Both are exact in f64.
            for (ours, exact) in [
                (add(a, b, mode), x.to_f64() + y.to_f64()),
                (sub(a, b, mode), x.to_f64() - y.to_f64()),
                (mul(a, b, mode), x.to_f64() * y.to_f64()),
            ] {
                let expected = if exact.is_nan() { NAN } else { f16::from_f64(exact).to_bits() };
                prop_assert_eq!(ours, expected);
            }
        }

        #[test]
        fn bf16_sums_are_rounded_once(a in any::<u16>(), b in any::<u16>(), c in any::<u16>()) {
            // A value of at most 60 digits above 2^-66 in integers: exact, then compared with both neighbours.
            let limit = |x: u16| x & 0x8000 | (0x3f80u16.wrapping_add((x & 0x7fff) % 0x700));
            let (a, b, c) = (limit(a), limit(b), limit(c));
            let fixed = |x: u16| (f64::from(bf16_to_f32(x)) * 2f64.powi(14)) as i128;
            let mode = Mode::plain(Half::Bf16);
            let exact = fixed(a) * fixed(b) + (fixed(c) << 14);
            let result = fma(a, b, c, mode);
            let off = |x: u16| ((f64::from(bf16_to_f32(x)) * 2f64.powi(28)) as i128 - exact).abs();
            prop_assert!(off(result) <= off(result + 1) && off(result) <= off(result.wrapping_sub(1)));
        }
    }

    #[test]
    fn modifiers_flush_saturate_and_rectify() {
        let one = f16::ONE.to_bits();
        let plain = Mode::plain(Half::F16);
        assert_eq!(add(one, one, Mode { sat: true, ..plain }), one);
        assert_eq!(sub(0, one, Mode { relu: true, ..plain }), 0);
        assert_eq!(add(NAN, one, Mode { relu: true, ..plain }), NAN);
        assert_eq!(add(NAN, one, Mode { sat: true, ..plain }), 0);
        assert_eq!(add(1, 0, Mode { ftz: true, ..plain }), 0);
        assert_eq!(add(1, 0, plain), 1);
        let pair = pack([one, f16::from_f32(2.0).to_bits()]);
        let sum = pairwise(pair, pair, |a, b| add(a, b, plain));
        assert_eq!(unpack(sum).map(|h| f16::from_bits(h).to_f32()), [2.0, 4.0]);
    }
}
