//! The exponential, and the row operations of softmax, on the widest vectors of the processor.
//!
//! # Numerics
//! [`exp`] is within 2 units in the last place of e^x for results that are normal numbers,
//! 0 below them, infinite above the largest f32, and NaN for NaN. The polynomial is the Taylor
//! series in Horner form on |r| ≤ ln 2 / 2, with r reduced in two parts.
//!
//! # Invariants
//! - Sums of a row go over 16 lanes, lane `i` taking elements `i, i + 16, …`, then over the lanes
//!   in order: the same on every processor with fused multiply-add.

use pulp::{Arch, Simd, WithSimd};

/// Lanes of a row sum.
const LANES: usize = 16;

/// e^x.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to an integer
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > 89.0 { 89.0 } else { x };
    let clamped = if clamped < -89.0 { -89.0 } else { clamped };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_HIGH, clamped);
    let r = n.mul_add(-LN2_LOW, r);
    let p = 1.0f32 / 5040.0;
    let p = p.mul_add(r, 1.0 / 720.0);
    let p = p.mul_add(r, 1.0 / 120.0);
    let p = p.mul_add(r, 1.0 / 24.0);
    let p = p.mul_add(r, 1.0 / 6.0);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    // 2ⁿ in two factors: n reaches 128.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let y = p * power_of_two(half) * power_of_two(n - half);
    if x < -87.336_54 { 0.0 } else { y }
}

/// 2ⁿ for n in −126..=127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

/// Replaces each x by e^(x − shift) and returns the sum.
pub fn exp_row(arch: Arch, row: &mut [f32], shift: f32) -> f32 {
    arch.dispatch(ExpRow { row, shift })
}

/// The largest element; −∞ for an empty row. NaN is passed over (it stays in the row).
pub fn max_row(arch: Arch, row: &[f32]) -> f32 {
    arch.dispatch(MaxRow { row })
}

/// Multiplies a row.
pub fn scale_row(arch: Arch, row: &mut [f32], factor: f32) {
    arch.dispatch(ScaleRow { row, factor });
}

/// The inner product of two rows of one length.
pub fn dot(arch: Arch, a: &[f32], b: &[f32]) -> f32 {
    arch.dispatch(Dot { a, b })
}

/// Softmax's backward on one row: `p ← e^(s − lse)`, `ds ← p · (dp − delta)`, where `s` and `dp`
/// come in and `p` and `ds` go out.
pub fn softmax_grad_row(arch: Arch, s: &mut [f32], dp: &mut [f32], lse: f32, delta: f32) {
    arch.dispatch(SoftmaxGradRow { s, dp, lse, delta });
}

// One struct an operation, not a closure: its body is sure to be compiled for the processor found.

struct ExpRow<'a> {
    row: &'a mut [f32],
    shift: f32,
}

impl WithSimd for ExpRow<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        let ExpRow { row, shift } = self;
        for x in row.iter_mut() {
            *x = exp(*x - shift);
        }
        let (chunks, rest) = row.as_chunks::<LANES>();
        let mut lanes = [0f32; LANES];
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += chunk[i];
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += *x;
        }
        lanes.iter().sum()
    }
}

struct MaxRow<'a> {
    row: &'a [f32],
}

impl WithSimd for MaxRow<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        let (chunks, rest) = self.row.as_chunks::<LANES>();
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
            }
        }
        let mut max = f32::NEG_INFINITY;
        for x in lanes.iter().chain(rest) {
            max = if *x > max { *x } else { max };
        }
        max
    }
}

struct ScaleRow<'a> {
    row: &'a mut [f32],
    factor: f32,
}

impl WithSimd for ScaleRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for x in self.row {
            *x *= self.factor;
        }
    }
}

struct Dot<'a> {
    a: &'a [f32],
    b: &'a [f32],
}

impl WithSimd for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        let (a, a_rest) = self.a.as_chunks::<LANES>();
        let (b, b_rest) = self.b.as_chunks::<LANES>();
        let mut lanes = [0f32; LANES];
        for (x, y) in a.iter().zip(b) {
            for i in 0..LANES {
                lanes[i] = x[i].mul_add(y[i], lanes[i]);
            }
        }
        for ((x, y), lane) in a_rest.iter().zip(b_rest).zip(&mut lanes) {
            *lane = x.mul_add(*y, *lane);
        }
        lanes.iter().sum()
    }
}

struct SoftmaxGradRow<'a> {
    s: &'a mut [f32],
    dp: &'a mut [f32],
    lse: f32,
    delta: f32,
}

impl WithSimd for SoftmaxGradRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let SoftmaxGradRow { s, dp, lse, delta } = self;
        for (s, dp) in s.iter_mut().zip(dp) {
            *s = exp(*s - lse);
            *dp = *s * (*dp - delta);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance in units in the last place of the correctly rounded value.
    fn ulps(x: f32) -> f64 {
        let truth = f64::from(x).exp();
        let near = truth as f32;
        let unit = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
        ((f64::from(exp(x)) - truth) / unit).abs()
    }

    #[test]
    fn exp_is_within_two_ulp_of_the_truth() {
        let mut worst = 0f64;
        for i in 0..2_000_000u32 {
            let x = -87.3 + f32::from_bits(0x3f80_0000 + i * 4) - 1.0 + (i % 1760) as f32 * 0.1;
            if x < 88.7 {
                worst = worst.max(ulps(x));
            }
        }
        assert!(worst <= 2.0, "{worst} ulp");
    }

    #[test]
    fn exp_keeps_its_special_values() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(90.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn row_operations_agree_with_plain_loops_at_odd_lengths() {
        let arch = Arch::new();
        for len in [0usize, 1, 15, 16, 17, 100] {
            let row: Vec<f32> = (0..len).map(|i| ((i * 37) % 11) as f32 * 0.25 - 1.0).collect();
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max_row(arch, &row), max);
            let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
            assert!((f64::from(dot(arch, &row, &row)) - square).abs() < 1e-4);
            let mut out = row.clone();
            let sum = exp_row(arch, &mut out, 1.5);
            let truth: f64 = row.iter().map(|x| f64::from(x - 1.5).exp()).sum();
            assert!((f64::from(sum) - truth).abs() < 1e-4);
        }
    }
}
