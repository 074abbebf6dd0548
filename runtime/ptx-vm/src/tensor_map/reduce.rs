//! The reductions of `cp.reduce.async.bulk` and of its tensor form, element by element.

use super::TensorType;
use crate::number::{double, half, single};

/// How a copied element meets the one in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reduction {
    /// Sum; floating-point sums are rounded to nearest even and keep subnormals, but for the flushing type.
    Add,
    /// The smaller.
    Min,
    /// The larger.
    Max,
    /// Increment that wraps to zero at the operand.
    Inc,
    /// Decrement that wraps to the operand at zero.
    Dec,
    /// Bitwise and.
    And,
    /// Bitwise or.
    Or,
    /// Bitwise exclusive or.
    Xor,
}

impl Reduction {
    /// Whether PTX has the reduction for the type.
    #[must_use]
    pub const fn exists_for(self, dtype: TensorType) -> bool {
        use TensorType::{Bf16, F16, F32, F32Ftz, F64, S32, S64, U32, U64};
        match self {
            Self::Add => matches!(dtype, U32 | S32 | U64 | F16 | Bf16 | F32 | F32Ftz | F64),
            Self::Min | Self::Max => matches!(dtype, U32 | S32 | U64 | S64 | F16 | Bf16),
            Self::Inc | Self::Dec => matches!(dtype, U32),
            Self::And | Self::Or | Self::Xor => matches!(dtype, U32 | S32 | U64 | S64),
        }
    }

    /// The element that replaces `old`, or `None` where PTX has no such reduction.
    #[must_use]
    pub fn apply(self, dtype: TensorType, old: u64, new: u64) -> Option<u64> {
        if !self.exists_for(dtype) {
            return None;
        }
        Some(match self {
            Self::Add => add(dtype, old, new),
            Self::Min => extremum(dtype, old, new, true),
            Self::Max => extremum(dtype, old, new, false),
            Self::Inc => {
                if old >= new {
                    0
                } else {
                    old + 1
                }
            }
            Self::Dec => {
                if old == 0 || old > new {
                    new
                } else {
                    old - 1
                }
            }
            Self::And => old & new,
            Self::Or => old | new,
            Self::Xor => old ^ new,
        })
    }
}

fn half_of(dtype: TensorType) -> Option<half::Half> {
    match dtype {
        TensorType::F16 => Some(half::Half::F16),
        TensorType::Bf16 => Some(half::Half::Bf16),
        _ => None,
    }
}

fn add(dtype: TensorType, old: u64, new: u64) -> u64 {
    if let Some(format) = half_of(dtype) {
        return half::add(old as u16, new as u16, half::Mode::plain(format)).into();
    }
    match dtype {
        TensorType::F32 | TensorType::F32Ftz => {
            let ftz = dtype == TensorType::F32Ftz;
            let mode = single::Mode { ftz, ..single::Mode::NEAREST };
            single::add(old as u32, new as u32, mode).into()
        }
        TensorType::F64 => double::add(old, new, crate::number::Rounding::NearestEven),
        TensorType::U64 | TensorType::S64 => old.wrapping_add(new),
        _ => u64::from((old as u32).wrapping_add(new as u32)),
    }
}

fn extremum(dtype: TensorType, old: u64, new: u64, smaller: bool) -> u64 {
    if let Some(format) = half_of(dtype) {
        let choose = if smaller { half::min } else { half::max };
        return choose(format, old as u16, new as u16, single::Extremum::default()).into();
    }
    let old_first = match dtype {
        TensorType::S32 => (old as u32 as i32) < (new as u32 as i32),
        TensorType::S64 => (old as i64) < (new as i64),
        _ => old < new,
    };
    if old_first == smaller { old } else { new }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_combine_by_their_type() {
        let apply = |how: Reduction, dtype, old, new| how.apply(dtype, old, new);
        let minus = u64::from(-1i32 as u32);
        assert_eq!(apply(Reduction::Min, TensorType::S32, 3, minus), Some(minus));
        assert_eq!(apply(Reduction::Min, TensorType::U32, 3, minus), Some(3));
        assert_eq!(apply(Reduction::Max, TensorType::S64, u64::MAX, 5), Some(5));
        assert_eq!(apply(Reduction::Add, TensorType::U32, minus, 2), Some(1));
        let float = |x: f32| u64::from(x.to_bits());
        let sum = apply(Reduction::Add, TensorType::F32, float(1.5), float(2.0));
        assert_eq!(sum, Some(float(3.5)));
        let subnormal = |dtype| apply(Reduction::Add, dtype, 1, 1);
        assert_eq!(subnormal(TensorType::F32), Some(2));
        assert_eq!(subnormal(TensorType::F32Ftz), Some(0));
        assert_eq!(apply(Reduction::Add, TensorType::Bf16, 0x3f80, 0x3f80), Some(0x4000));
        assert_eq!(apply(Reduction::Max, TensorType::F16, 0xbc00, 0x3c00), Some(0x3c00));
        assert_eq!(apply(Reduction::Inc, TensorType::U32, 7, 7), Some(0));
        assert_eq!(apply(Reduction::Dec, TensorType::U32, 0, 7), Some(7));
        assert_eq!(apply(Reduction::Xor, TensorType::U64, 0b1100, 0b1010), Some(0b0110));
        assert_eq!(apply(Reduction::Xor, TensorType::F32, 0, 0), None);
    }
}
