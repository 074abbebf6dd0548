//! Transposing a block of f32 into a contiguous buffer, at the speed of the cache.
//!
//! The GEMM library packs its streamed operand fast only when the operand's columns are
//! contiguous; `x · Wᵀ` is not that. A transposed copy of a panel costs less than it saves.

/// Edge of the blocks that are transposed in registers.
const BLOCK: usize = 16;

/// A block of f32 whose rows are contiguous: its first element and the elements between rows.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) first: *mut f32,
    pub(crate) stride: isize,
}

/// Copies the transpose of `rows × columns` elements of `source` to `target`.
///
/// # Safety
/// Every element of both blocks lies in live, aligned memory; nobody writes the source's, and
/// nobody else uses the target's, meanwhile; they do not overlap.
pub(crate) unsafe fn transpose(source: Rows, target: Rows, rows: usize, columns: usize) {
    let wide = has_wide_vectors();
    for row in (0..rows).step_by(BLOCK) {
        for column in (0..columns).step_by(BLOCK) {
            let from = source.first.wrapping_offset(row as isize * source.stride + column as isize);
            let to = target.first.wrapping_offset(column as isize * target.stride + row as isize);
            let (height, width) = (BLOCK.min(rows - row), BLOCK.min(columns - column));
            if wide && height == BLOCK && width == BLOCK {
                // SAFETY: the processor has AVX-512; the caller's promise covers the full block.
                unsafe { transpose_block(from, source.stride, to, target.stride) };
                continue;
            }
            for i in 0..height as isize {
                for j in 0..width as isize {
                    // SAFETY: `i` and `j` stay inside the block.
                    unsafe {
                        *to.offset(j * target.stride + i) = *from.offset(i * source.stride + j);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_wide_vectors() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_wide_vectors() -> bool {
    false
}

/// # Safety
/// AVX-512; 16 readable elements at 16 rows `stride` apart; 16 writable at 16 rows `to_stride`
/// apart.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_block(from: *const f32, stride: isize, to: *mut f32, to_stride: isize) {
    use std::arch::x86_64::*;
    let mut r = [_mm512_setzero_ps(); BLOCK];
    for (i, register) in r.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *register = unsafe { _mm512_loadu_ps(from.offset(i as isize * stride)) };
    }
    // Pairs, then quadruples within 128-bit lanes.
    let mut t = r;
    for i in 0..BLOCK / 2 {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for i in 0..BLOCK / 4 {
        let [a, b, c, d] =
            [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]].map(|v| _mm512_castps_pd(v));
        r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    // Then the lanes: r[4q + j] holds, in lane p, column 4p + j of rows 4q..4q + 4.
    for j in 0..4 {
        let low = _mm512_shuffle_f32x4::<0x88>(r[j], r[4 + j]);
        let high = _mm512_shuffle_f32x4::<0xdd>(r[j], r[4 + j]);
        let low2 = _mm512_shuffle_f32x4::<0x88>(r[8 + j], r[12 + j]);
        let high2 = _mm512_shuffle_f32x4::<0xdd>(r[8 + j], r[12 + j]);
        let columns = [
            (j, _mm512_shuffle_f32x4::<0x88>(low, low2)),
            (4 + j, _mm512_shuffle_f32x4::<0x88>(high, high2)),
            (8 + j, _mm512_shuffle_f32x4::<0xdd>(low, low2)),
            (12 + j, _mm512_shuffle_f32x4::<0xdd>(high, high2)),
        ];
        for (column, register) in columns {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_ps(to.offset(column as isize * to_stride), register) };
        }
    }
}

/// # Safety
/// Never called: there are no wide vectors.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn transpose_block(_: *const f32, _: isize, _: *mut f32, _: isize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_lands_in_its_place() {
        for (rows, columns, stride) in
            [(0, 3, 3), (1, 1, 1), (16, 16, 16), (35, 50, 61), (64, 17, 20)]
        {
            let mut source: Vec<f32> = (0..rows * stride).map(|i| i as f32).collect();
            let mut out = vec![-1.0; rows * columns];
            let from = Rows { first: source.as_mut_ptr(), stride: stride as isize };
            let to = Rows { first: out.as_mut_ptr(), stride: rows as isize };
            // SAFETY: the blocks lie in `source` and `out`.
            unsafe { transpose(from, to, rows, columns) };
            for i in 0..rows {
                for j in 0..columns {
                    assert_eq!(out[j * rows + i], source[i * stride + j], "{i} {j}");
                }
            }
        }
    }
}
