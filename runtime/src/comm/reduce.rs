//! Combining the pieces of several ranks, elementwise, in one declared order.
//!
//! Pieces `p0 … pn` are combined by a pairwise tree: neighbours first (`p0·p1`, `p2·p3`, …), then
//! neighbours among the results, until one is left; a piece without a neighbour goes up unchanged.
//! The tree over `2^k · n` pieces is the tree over `n` results of the trees over `2^k` of them, so
//! a rank may combine its own slices first.
//!
//! # Invariants
//! - The order depends on the number of pieces alone.
//! - 16-bit floats are combined in f32 and rounded once, at the end; f32, f64 and i32 in their own
//!   type. Sums of i32 wrap.
//! - `Max` and `Min` give NaN where any piece has NaN, and the earlier of two equal values.

use perilune_plan::DType;

use super::CommError;
use crate::tensor::{round_bf16, widen_bf16};

/// How elements are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// `a + b`.
    Sum,
    /// The larger one.
    Max,
    /// The smaller one.
    Min,
}

/// An element type that is combined in itself.
trait Element: Copy + PartialOrd {
    const BYTES: usize;

    fn load(bytes: &[u8]) -> Self;

    fn store(self, bytes: &mut [u8]);

    fn add(self, other: Self) -> Self;
}

macro_rules! element {
    ($type:ty, $add:expr) => {
        impl Element for $type {
            const BYTES: usize = size_of::<$type>();

            fn load(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$type>()];
                array.copy_from_slice(bytes);
                <$type>::from_le_bytes(array)
            }

            fn store(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }

            fn add(self, other: Self) -> Self {
                $add(self, other)
            }
        }
    };
}

element!(f32, |a, b| a + b);
element!(f64, |a, b| a + b);
element!(i32, i32::wrapping_add);

/// Combines pieces of one length by the pairwise tree; the result is in the first one, what is in
/// the others is lost.
///
/// # Errors
/// [`CommError::Use`] for a type that cannot be combined, pieces of different length, or a length
/// that is no multiple of the element's.
pub fn reduce_pairwise(
    combine: Combine,
    dtype: DType,
    pieces: &mut [&mut [u8]],
) -> Result<(), CommError> {
    let length = pieces.first().map_or(0, |piece| piece.len());
    if pieces.iter().any(|piece| piece.len() != length) {
        let what = "pieces of different length are combined".to_owned();
        return Err(CommError::Use { what });
    }
    if !(length as u64).is_multiple_of(dtype.bytes()) {
        let what = format!("{length} bytes are no whole number of {dtype}");
        return Err(CommError::Use { what });
    }
    match dtype {
        DType::f32 => tree::<f32>(combine, pieces),
        DType::f64 => tree::<f64>(combine, pieces),
        DType::i32 => tree::<i32>(combine, pieces),
        DType::bf16 => tree_bf16(combine, pieces),
        DType::f16 | DType::i1 => {
            let what = format!("{dtype} is not combined across ranks");
            return Err(CommError::Use { what });
        }
    }
    Ok(())
}

/// The tree: at each level, piece `i` takes in its neighbour `i + stride`.
fn tree<T: Element>(combine: Combine, pieces: &mut [&mut [u8]]) {
    let mut stride = 1;
    while stride < pieces.len() {
        for left in (0..pieces.len() - stride).step_by(2 * stride) {
            let (head, tail) = pieces.split_at_mut(left + stride);
            if let (Some(a), Some(b)) = (head.get_mut(left), tail.first()) {
                fold::<T>(combine, a, b);
            }
        }
        stride *= 2;
    }
}

fn fold<T: Element>(combine: Combine, left: &mut [u8], right: &[u8]) {
    let pairs = left.chunks_exact_mut(T::BYTES).zip(right.chunks_exact(T::BYTES));
    match combine {
        Combine::Sum => pairs.for_each(|(a, b)| T::load(a).add(T::load(b)).store(a)),
        Combine::Max => pairs.for_each(|(a, b)| pick(a, T::load(b), |a: T, b| b > a)),
        Combine::Min => pairs.for_each(|(a, b)| pick(a, T::load(b), |a: T, b| b < a)),
    }
}

/// Takes `right` where it is better, or not a number.
fn pick<T: Element>(place: &mut [u8], right: T, better: impl Fn(T, T) -> bool) {
    let left = T::load(place);
    let is_number = |value: T| value.partial_cmp(&value).is_some();
    if is_number(left) && (better(left, right) || !is_number(right)) {
        right.store(place);
    }
}

/// As [`tree`], widened to f32 between first and last.
fn tree_bf16(combine: Combine, pieces: &mut [&mut [u8]]) {
    let widen = |piece: &[u8]| -> Vec<u8> {
        let bits = piece.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        bits.flat_map(|bits| widen_bf16(bits).to_le_bytes()).collect()
    };
    let mut wide: Vec<Vec<u8>> = pieces.iter().map(|piece| widen(piece)).collect();
    let mut views: Vec<&mut [u8]> = wide.iter_mut().map(Vec::as_mut_slice).collect();
    tree::<f32>(combine, &mut views);
    if let (Some(first), Some(sum)) = (pieces.first_mut(), views.first()) {
        for (out, value) in first.chunks_exact_mut(2).zip(sum.chunks_exact(4)) {
            out.copy_from_slice(&round_bf16(f32::load(value)).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduced(combine: Combine, values: &[f32]) -> f32 {
        let mut bytes: Vec<[u8; 4]> = values.iter().map(|v| v.to_le_bytes()).collect();
        let mut pieces: Vec<&mut [u8]> = bytes.iter_mut().map(<[u8; 4]>::as_mut_slice).collect();
        reduce_pairwise(combine, DType::f32, &mut pieces).expect("f32 is combined");
        f32::from_le_bytes(bytes[0])
    }

    #[test]
    fn sums_go_up_a_tree_of_neighbours() {
        let v = [1e8f32, 3.0, -1e8, 5.0, 0.25];
        assert_eq!(reduced(Combine::Sum, &v), ((v[0] + v[1]) + (v[2] + v[3])) + v[4]);
        assert_eq!(reduced(Combine::Sum, &v[..3]), (v[0] + v[1]) + v[2]);
        assert_eq!(reduced(Combine::Sum, &v[..1]), v[0]);
    }

    #[test]
    fn a_rank_may_combine_its_slices_first() {
        let v: Vec<f32> = (0..12).map(|i| 1.0 / (i as f32 - 4.7)).collect();
        let parts: Vec<f32> = v.chunks(4).map(|four| reduced(Combine::Sum, four)).collect();
        assert_eq!(reduced(Combine::Sum, &v).to_bits(), reduced(Combine::Sum, &parts).to_bits());
    }

    #[test]
    fn extremes_keep_what_is_not_a_number() {
        for at in 0..5 {
            let mut v = [2.0f32, -7.0, 9.0, 9.0, 1.0];
            assert_eq!(reduced(Combine::Max, &v), 9.0);
            assert_eq!(reduced(Combine::Min, &v), -7.0);
            v[at] = f32::NAN;
            assert!(reduced(Combine::Max, &v).is_nan(), "{at}");
            assert!(reduced(Combine::Min, &v).is_nan(), "{at}");
        }
    }

    #[test]
    fn bf16_is_rounded_once() {
        // 256 + 1 is not a bf16; three of the ones together are.
        let mut bytes: Vec<[u8; 2]> =
            [256.0, 1.0, 1.0, 1.0].iter().map(|v| round_bf16(*v).to_le_bytes()).collect();
        let mut pieces: Vec<&mut [u8]> = bytes.iter_mut().map(<[u8; 2]>::as_mut_slice).collect();
        reduce_pairwise(Combine::Sum, DType::bf16, &mut pieces).expect("bf16 is combined");
        assert_eq!(widen_bf16(u16::from_le_bytes(bytes[0])), 260.0);
    }

    #[test]
    fn what_cannot_be_combined_is_refused() {
        let (mut a, mut b) = ([0u8; 4], [0u8; 6]);
        let odd = reduce_pairwise(Combine::Sum, DType::f32, &mut [&mut b]);
        assert!(odd.is_err());
        let uneven = reduce_pairwise(Combine::Sum, DType::bf16, &mut [&mut a, &mut b]);
        assert!(uneven.is_err());
        assert!(reduce_pairwise(Combine::Sum, DType::i1, &mut [&mut a]).is_err());
    }
}
