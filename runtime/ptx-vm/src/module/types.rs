//! The types and state spaces of PTX, and where each space lies among generic addresses.

use crate::number::{FloatFormat, IntType};

/// A type of an instruction or a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of PTX")]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    U16x2,
    S16x2,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F32x2,
    F64,
    E4m3x2,
    E5m2x2,
}

/// Every type with the word that names it.
const NAMES: [(&str, Type); 26] = [
    ("pred", Type::Pred),
    ("b8", Type::B8),
    ("b16", Type::B16),
    ("b32", Type::B32),
    ("b64", Type::B64),
    ("b128", Type::B128),
    ("u8", Type::U8),
    ("u16", Type::U16),
    ("u32", Type::U32),
    ("u64", Type::U64),
    ("s8", Type::S8),
    ("s16", Type::S16),
    ("s32", Type::S32),
    ("s64", Type::S64),
    ("u16x2", Type::U16x2),
    ("s16x2", Type::S16x2),
    ("f16", Type::F16),
    ("f16x2", Type::F16x2),
    ("bf16", Type::Bf16),
    ("bf16x2", Type::Bf16x2),
    ("tf32", Type::Tf32),
    ("f32", Type::F32),
    ("f32x2", Type::F32x2),
    ("f64", Type::F64),
    ("e4m3x2", Type::E4m3x2),
    ("e5m2x2", Type::E5m2x2),
];

impl Type {
    /// The type a modifier names.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        NAMES.iter().find(|(name, _)| *name == word).map(|(_, ty)| *ty)
    }

    /// The word without its dot.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, ty)| *ty == self).map_or("", |(name, _)| name)
    }

    /// Width in bits; a predicate has 1.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Pred => 1,
            Self::B8 | Self::U8 | Self::S8 => 8,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 16,
            Self::E4m3x2 | Self::E5m2x2 => 16,
            Self::B32 | Self::U32 | Self::S32 | Self::F32 | Self::Tf32 => 32,
            Self::U16x2 | Self::S16x2 | Self::F16x2 | Self::Bf16x2 => 32,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 | Self::F32x2 => 64,
            Self::B128 => 128,
        }
    }

    /// Width in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    /// Whether loads and conversions extend it by its sign.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// The integer type with the same bits; `.b` types are unsigned.
    #[must_use]
    pub const fn integer(self) -> Option<IntType> {
        Some(match self {
            Self::U8 | Self::B8 => IntType::U8,
            Self::S8 => IntType::S8,
            Self::U16 | Self::B16 => IntType::U16,
            Self::S16 => IntType::S16,
            Self::U32 | Self::B32 => IntType::U32,
            Self::S32 => IntType::S32,
            Self::U64 | Self::B64 => IntType::U64,
            Self::S64 => IntType::S64,
            _ => return None,
        })
    }

    /// The floating-point format of a scalar.
    #[must_use]
    pub const fn float(self) -> Option<FloatFormat> {
        Some(match self {
            Self::F16 => FloatFormat::F16,
            Self::Bf16 => FloatFormat::Bf16,
            Self::Tf32 => FloatFormat::Tf32,
            Self::F32 => FloatFormat::F32,
            Self::F64 => FloatFormat::F64,
            _ => return None,
        })
    }
}

/// A state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Decided by the address.
    Generic,
    /// Device memory.
    Global,
    /// Shared memory of the CTA.
    Shared,
    /// Shared memory of any CTA of the cluster.
    SharedCluster,
    /// A thread's own memory.
    Local,
    /// Constant memory of the module.
    Const,
    /// The kernel's parameters.
    Param,
}

impl Space {
    /// The space a modifier names.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Some(match word {
            "global" => Self::Global,
            "shared" | "shared::cta" => Self::Shared,
            "shared::cluster" => Self::SharedCluster,
            "local" => Self::Local,
            "const" => Self::Const,
            "param" | "param::entry" | "param::func" => Self::Param,
            _ => return None,
        })
    }

    /// The word of PTX.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Global => "global",
            Self::Shared => "shared",
            Self::SharedCluster => "shared::cluster",
            Self::Local => "local",
            Self::Const => "const",
            Self::Param => "param",
        }
    }

    /// Where the space begins among generic addresses.
    #[must_use]
    pub const fn window(self) -> u64 {
        match self {
            Self::Generic | Self::Global => 0,
            Self::Shared | Self::SharedCluster => 1 << WINDOW_BITS,
            Self::Local => 2 << WINDOW_BITS,
            Self::Const => 3 << WINDOW_BITS,
            Self::Param => 4 << WINDOW_BITS,
        }
    }
}

/// Address bits below the number of a window; each global buffer has a window of its own.
pub(crate) const WINDOW_BITS: u32 = 40;
/// The window of the first global buffer.
pub(crate) const FIRST_BUFFER_WINDOW: u64 = 16;
/// Where a buffer begins in its window, so that a small negative offset is noticed.
pub(crate) const BUFFER_START: u64 = 1 << 16;
/// Addresses of functions begin here.
pub(crate) const FUNCTION_WINDOW: u64 = 5 << WINDOW_BITS;
/// In a shared-memory address, the bits above these hold 1 + the rank of a CTA in its cluster, or 0
/// for the executing CTA itself.
pub(crate) const SHARED_RANK_SHIFT: u32 = 24;
