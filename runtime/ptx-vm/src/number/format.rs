//! The floating-point formats of PTX as data, and the rounding modes.

/// A rounding mode of a PTX instruction.
/// The integer roundings of `cvt` (`.rni`, `.rzi`, `.rmi`, `.rpi`) are the same four directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rounding {
    /// `.rn`: to nearest, ties to the even fraction.
    NearestEven,
    /// `.rz`: towards zero.
    Zero,
    /// `.rm`: towards negative infinity.
    Down,
    /// `.rp`: towards positive infinity.
    Up,
    /// `.rna`: to nearest, ties away from zero.
    NearestAway,
}

impl Rounding {
    /// Whether a magnitude with fraction bit `odd` moves up, given what was cut off:
    /// `half` is the first bit below the kept ones, `rest` says whether any later bit is set.
    #[must_use]
    #[inline]
    pub fn moves_up(self, negative: bool, odd: bool, half: bool, rest: bool) -> bool {
        match self {
            Self::NearestEven => half && (rest || odd),
            Self::NearestAway => half,
            Self::Zero => false,
            Self::Down => negative && (half || rest),
            Self::Up => !negative && (half || rest),
        }
    }

    /// Whether an overflow in this mode ends at infinity rather than at the largest finite value.
    #[must_use]
    pub fn overflows_to_infinity(self, negative: bool) -> bool {
        match self {
            Self::NearestEven | Self::NearestAway => true,
            Self::Zero => false,
            Self::Down => negative,
            Self::Up => !negative,
        }
    }
}

/// A floating-point format of PTX registers and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FloatFormat {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// 8 exponent and 10 fraction bits in the upper 19 bits of a 32-bit register; the lower 13 are not read.
    Tf32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// 5 exponent and 2 fraction bits with infinities and NaNs.
    E5m2,
    /// 4 exponent and 3 fraction bits; no infinity, one NaN pattern per sign.
    E4m3,
    /// 3 exponent and 2 fraction bits; neither infinity nor NaN.
    E3m2,
    /// 2 exponent and 3 fraction bits; neither infinity nor NaN.
    E2m3,
    /// 2 exponent and 1 fraction bits; neither infinity nor NaN.
    E2m1,
    /// A scale: 8 exponent bits, no sign, no zero; `0xff` is NaN.
    Ue8m0,
}

impl FloatFormat {
    /// Bits that the exponent takes.
    #[must_use]
    pub const fn exponent_bits(self) -> u32 {
        match self {
            Self::F64 => 11,
            Self::F32 | Self::Tf32 | Self::Bf16 | Self::Ue8m0 => 8,
            Self::F16 | Self::E5m2 => 5,
            Self::E4m3 => 4,
            Self::E3m2 => 3,
            Self::E2m3 | Self::E2m1 => 2,
        }
    }

    /// Bits of the stored fraction, without the implicit leading one.
    #[must_use]
    pub const fn fraction_bits(self) -> u32 {
        match self {
            Self::F64 => 52,
            Self::F32 => 23,
            Self::Tf32 | Self::F16 => 10,
            Self::Bf16 => 7,
            Self::E4m3 | Self::E2m3 => 3,
            Self::E5m2 | Self::E3m2 => 2,
            Self::E2m1 => 1,
            Self::Ue8m0 => 0,
        }
    }

    /// What is added to an exponent before it is stored.
    #[must_use]
    pub const fn bias(self) -> i32 {
        (1 << (self.exponent_bits() - 1)) - 1
    }

    /// Bits that a value takes in a register: a tf32 takes 32.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::F64 => 64,
            Self::F32 | Self::Tf32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::E5m2 | Self::E4m3 | Self::Ue8m0 => 8,
            Self::E3m2 | Self::E2m3 => 6,
            Self::E2m1 => 4,
        }
    }

    /// How far the value's own bits stand above bit 0 of the register: 13 for tf32, else 0.
    #[must_use]
    pub const fn shift(self) -> u32 {
        match self {
            Self::Tf32 => 13,
            _ => 0,
        }
    }

    /// The sign bit of the register; 0 for the unsigned format.
    #[must_use]
    pub const fn sign_mask(self) -> u64 {
        match self {
            Self::Ue8m0 => 0,
            _ => 1 << (self.bits() - 1),
        }
    }

    /// Positive infinity, where the format has one.
    #[must_use]
    pub const fn infinity(self) -> Option<u64> {
        match self {
            Self::F64 => Some(0x7ff0_0000_0000_0000),
            Self::F32 | Self::Tf32 => Some(0x7f80_0000),
            Self::F16 => Some(0x7c00),
            Self::Bf16 => Some(0x7f80),
            Self::E5m2 => Some(0x7c),
            Self::E4m3 | Self::E3m2 | Self::E2m3 | Self::E2m1 | Self::Ue8m0 => None,
        }
    }

    /// The NaN that instructions produce, where the format has one.
    #[must_use]
    pub const fn canonical_nan(self) -> Option<u64> {
        match self {
            Self::F64 => Some(0x7ff8_0000_0000_0000),
            Self::F32 => Some(0x7fff_ffff),
            Self::Tf32 => Some(0x7fff_e000),
            Self::F16 | Self::Bf16 => Some(0x7fff),
            Self::E5m2 | Self::E4m3 => Some(0x7f),
            Self::Ue8m0 => Some(0xff),
            Self::E3m2 | Self::E2m3 | Self::E2m1 => None,
        }
    }

    /// The bits of the largest finite value.
    #[must_use]
    pub const fn max_finite(self) -> u64 {
        match self {
            Self::F64 => 0x7fef_ffff_ffff_ffff,
            Self::F32 => 0x7f7f_ffff,
            Self::Tf32 => 0x7f7f_e000,
            Self::F16 => 0x7bff,
            Self::Bf16 => 0x7f7f,
            Self::E5m2 => 0x7b,
            Self::E4m3 => 0x7e,
            Self::E3m2 | Self::E2m3 => 0x1f,
            Self::E2m1 => 0x7,
            Self::Ue8m0 => 0xfe,
        }
    }
}
