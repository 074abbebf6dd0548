//! Which lane and register holds which element of a matrix: `mma`, `ldmatrix`, `stmatrix`, `movmatrix`, `wgmma`.
//!
//! With `g = lane / 4`, `t = lane % 4` and `e` elements per register, every layout of `mma.sync` and of
//! wgmma's register operands is one formula:
//!
//! - A (m × k): register `r`, element `j` is row `g + 8·(r mod m/8)`, column `e·t + j + 4e·(r div m/8)`.
//! - B (k × 8): row `e·t + j + 4e·r`, column `g`.
//! - C and D (m × n): value `i` is row `g + 8·(i/2 mod m/8)`, column `2t + i mod 2 + 8·(i div 2m/8)`.
//!
//! In a warpgroup, warp `w` holds rows `16w` to `16w + 15` of the 64.

/// Lanes of a warp.
pub const LANES: usize = 32;

/// Row and column of an element of A held by `lane` in `register` at position `element`.
#[must_use]
#[inline]
pub const fn a_index(
    rows: usize,
    per_register: usize,
    lane: usize,
    register: usize,
    element: usize,
) -> (usize, usize) {
    let row_blocks = rows / 8;
    let row = lane / 4 + 8 * (register % row_blocks);
    let column = per_register * (lane % 4) + element + 4 * per_register * (register / row_blocks);
    (row, column)
}

/// Row (along k) and column of an element of B held by `lane` in `register` at position `element`.
#[must_use]
#[inline]
pub const fn b_index(
    per_register: usize,
    lane: usize,
    register: usize,
    element: usize,
) -> (usize, usize) {
    (per_register * (lane % 4) + element + 4 * per_register * register, lane / 4)
}

/// Row and column of value `value` of C or D held by `lane`.
#[must_use]
#[inline]
pub const fn c_index(rows: usize, lane: usize, value: usize) -> (usize, usize) {
    let row_blocks = rows / 8;
    let row = lane / 4 + 8 * (value / 2 % row_blocks);
    (row, 2 * (lane % 4) + value % 2 + 8 * (value / (2 * row_blocks)))
}

/// Eight rows of eight 16-bit elements, as `ldmatrix` reads and `stmatrix` writes them.
pub type Rows = [[u8; 16]; 8];

/// The register that each lane gets from a matrix of eight rows (`ldmatrix`, one of its matrices):
/// two neighbours of a row, or with `transposed` two neighbours of a column.
#[must_use]
pub fn load(rows: &Rows, transposed: bool) -> [u32; LANES] {
    std::array::from_fn(|lane| {
        let half = |element: usize| {
            let (row, column) = (lane / 4, 2 * (lane % 4) + element);
            let (row, column) = if transposed { (column, row) } else { (row, column) };
            u32::from(u16::from_le_bytes([rows[row][2 * column], rows[row][2 * column + 1]]))
        };
        half(0) | half(1) << 16
    })
}

/// The eight rows that the lanes' registers make up (`stmatrix`, one of its matrices): the inverse of [`load`].
#[must_use]
pub fn store(registers: &[u32; LANES], transposed: bool) -> Rows {
    let mut rows = Rows::default();
    for (lane, register) in registers.iter().enumerate() {
        for element in 0..2 {
            let (row, column) = (lane / 4, 2 * (lane % 4) + element);
            let (row, column) = if transposed { (column, row) } else { (row, column) };
            let bytes = ((register >> (16 * element)) as u16).to_le_bytes();
            rows[row][2 * column..2 * column + 2].copy_from_slice(&bytes);
        }
    }
    rows
}

/// `movmatrix.trans`: the fragment of the transposed matrix.
#[must_use]
pub fn transpose(registers: &[u32; LANES]) -> [u32; LANES] {
    load(&store(registers, false), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layouts as the PTX manual writes them, one by one.
    #[test]
    fn a_layouts_are_the_manuals() {
        for lane in 0..LANES {
            let (g, t) = (lane >> 2, lane % 4);
            for i in 0..8 {
                // .f16 and .bf16, m16n8k16.
                let row = if i < 2 || (4..6).contains(&i) { g } else { g + 8 };
                let column = if i < 4 { t * 2 + (i & 1) } else { t * 2 + (i & 1) + 8 };
                assert_eq!(a_index(16, 2, lane, i / 2, i % 2), (row, column));
            }
            for i in 0..4 {
                // .f16, m16n8k8.
                let row = if i < 2 { g } else { g + 8 };
                assert_eq!(a_index(16, 2, lane, i / 2, i % 2), (row, t * 2 + (i & 1)));
                // .tf32, m16n8k8.
                let row = if i == 0 || i == 2 { g } else { g + 8 };
                let column = if i < 2 { t } else { t + 4 };
                assert_eq!(a_index(16, 1, lane, i, 0), (row, column));
            }
            for i in 0..16 {
                // .s8 and .e4m3, m16n8k32.
                let row = if i < 4 || (8..12).contains(&i) { g } else { g + 8 };
                let column = if i < 8 { t * 4 + (i & 3) } else { t * 4 + (i & 3) + 16 };
                assert_eq!(a_index(16, 4, lane, i / 4, i % 4), (row, column));
            }
            for i in 0..8 {
                // .f64, m16n8k16.
                let row = if i % 2 == 0 { g } else { g + 8 };
                assert_eq!(a_index(16, 1, lane, i, 0), (row, i / 2 * 4 + t));
            }
            // .f64, m8n8k4.
            assert_eq!(a_index(8, 1, lane, 0, 0), (g, t));
        }
    }

    #[test]
    fn b_and_c_layouts_are_the_manuals() {
        for lane in 0..LANES {
            let (g, t) = (lane >> 2, lane % 4);
            for i in 0..4 {
                let row = if i < 2 { t * 2 + (i & 1) } else { t * 2 + (i & 1) + 8 };
                assert_eq!(b_index(2, lane, i / 2, i % 2), (row, g));
                let row = if i < 2 { g } else { g + 8 };
                assert_eq!(c_index(16, lane, i), (row, t * 2 + (i & 1)));
            }
            for i in 0..2 {
                assert_eq!(b_index(1, lane, i, 0), (t + 4 * i, g));
                assert_eq!(c_index(8, lane, i), (g, t * 2 + i));
            }
            for i in 0..8 {
                let row = if i < 4 { t * 4 + (i & 3) } else { t * 4 + (i & 3) + 16 };
                assert_eq!(b_index(4, lane, i / 4, i % 4), (row, g));
            }
            // wgmma's D: d0, d1 at column 2t of row g, d2, d3 of row g + 8, then eight columns on.
            for i in 0..128 {
                let (row, column) = (g + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * t + i % 2);
                assert_eq!(c_index(16, lane, i), (row, column));
            }
        }
    }

    #[test]
    fn stored_fragments_load_back_and_transposing_is_exchanging_indices() {
        let rows: Rows = std::array::from_fn(|r| std::array::from_fn(|c| (16 * r + c) as u8));
        for transposed in [false, true] {
            assert_eq!(store(&load(&rows, transposed), transposed), rows);
        }
        // Lane 5 is row 1, columns 2 and 3: bytes 4 to 7 of row 1.
        assert_eq!(load(&rows, false)[5], 0x1716_1514);
        // Transposed: column 1 of rows 2 and 3.
        assert_eq!(load(&rows, true)[5], 0x3332_2322);
        let fragment = load(&rows, false);
        assert_eq!(transpose(&fragment), load(&rows, true));
        assert_eq!(transpose(&transpose(&fragment)), fragment);
    }
}
