//! Matrix products of strided blocks: the one place that calls the GEMM library.
//!
//! # Invariants
//! - A product runs on the calling thread alone; `k` is summed in f32, in ascending panels.
//! - A row of a product is the same whatever the number of rows, from two on, where `k` is at most
//!   512: ranks that share rows out compute what one rank does.
//! - bf16 operands are widened block by block; a bf16 result is rounded once, at the end.

use std::cell::RefCell;

use perilune_plan::DType;

use super::memory::Span;
use super::transpose::{Rows, transpose};
use crate::tensor::{round_bf16, widen_bf16};

/// Contracted elements widened at a time.
const WIDEN_K: usize = 1024;
/// Contracted elements transposed at a time.
const TRANSPOSE_K: usize = 512;
/// Rows of a result from which a transposed copy of `b` pays.
const TRANSPOSE_ROWS: usize = 32;

/// Elements of a result up to which the library takes dot products.
const SMALL_PRODUCT: usize = 256;

/// A strided matrix in memory: element `(i, j)` lies `i·rs + j·cs` elements after `base`.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    base: *mut u8,
    dtype: DType,
    /// Elements between rows.
    pub rs: isize,
    /// Elements between columns.
    pub cs: isize,
}

// SAFETY: an operand is an address and strides; `multiply` states what its caller answers for.
unsafe impl Send for Operand {}
// SAFETY: as above.
unsafe impl Sync for Operand {}

impl Operand {
    /// The matrix that starts `offset` elements into a span of `dtype` elements.
    pub fn new(span: Span, dtype: DType, offset: u64, strides: [i64; 2]) -> Operand {
        let base = span.base().wrapping_add((offset * dtype.bytes()) as usize);
        Operand { base, dtype, rs: strides[0] as isize, cs: strides[1] as isize }
    }

    /// A scratch matrix of f32, row-major.
    pub fn scratch(values: &mut [f32], columns: usize) -> Operand {
        Operand { base: values.as_mut_ptr().cast(), dtype: DType::f32, rs: columns as isize, cs: 1 }
    }

    /// Whether the product can work on this type.
    pub fn supports(dtype: DType) -> bool {
        matches!(dtype, DType::f32 | DType::bf16)
    }

    /// Whether sums can be kept in the elements themselves.
    pub fn is_wide(self) -> bool {
        self.dtype == DType::f32
    }

    /// The same matrix, moved by a number of elements.
    pub fn shifted(self, elems: isize) -> Operand {
        let bytes = elems.wrapping_mul(self.dtype.bytes() as isize);
        Operand { base: self.base.wrapping_offset(bytes), ..self }
    }

    /// The block that starts at a row and a column.
    pub fn at(self, row: usize, column: usize) -> Operand {
        self.shifted(row as isize * self.rs + column as isize * self.cs)
    }

    /// Rows and columns exchanged.
    pub fn transposed(self) -> Operand {
        Operand { rs: self.cs, cs: self.rs, ..self }
    }

    /// Reads one element.
    ///
    /// # Safety
    /// The element lies in live memory that nobody writes meanwhile.
    pub unsafe fn load(self, row: usize, column: usize) -> f32 {
        let at = self.at(row, column).base;
        // SAFETY: the caller's promise; unaligned reads ask nothing of the address.
        unsafe {
            match self.dtype {
                DType::bf16 => widen_bf16(at.cast::<u16>().read_unaligned()),
                _ => at.cast::<f32>().read_unaligned(),
            }
        }
    }

    /// Writes one element.
    ///
    /// # Safety
    /// The element lies in live memory that nobody else uses meanwhile.
    pub unsafe fn store(self, row: usize, column: usize, value: f32) {
        let at = self.at(row, column).base;
        // SAFETY: the caller's promise; unaligned writes ask nothing of the address.
        unsafe {
            match self.dtype {
                DType::bf16 => at.cast::<u16>().write_unaligned(round_bf16(value)),
                _ => at.cast::<f32>().write_unaligned(value),
            }
        }
    }

    /// Copies `rows × columns` elements into a row-major buffer.
    ///
    /// # Safety
    /// The block lies in live memory that nobody writes meanwhile.
    pub unsafe fn read_into(self, out: &mut [f32], columns: usize) {
        if columns == 0 {
            return;
        }
        for (i, row) in out.chunks_exact_mut(columns).enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                // SAFETY: the caller's promise covers the block.
                *value = unsafe { self.load(i, j) };
            }
        }
    }

    /// Writes a row-major buffer of `rows × columns` elements here.
    ///
    /// # Safety
    /// The block lies in live memory that nobody else uses meanwhile.
    pub unsafe fn write_from(self, values: &[f32], columns: usize) {
        if columns == 0 {
            return;
        }
        for (i, row) in values.chunks_exact(columns).enumerate() {
            for (j, value) in row.iter().enumerate() {
                // SAFETY: the caller's promise covers the block.
                unsafe { self.store(i, j, *value) };
            }
        }
    }
}

/// Copies `rows × columns` of `source` to `target`, elements in their places.
///
/// # Safety
/// Both blocks lie in live memory and do not overlap; nobody writes `source`, and nobody else uses
/// `target`, meanwhile.
pub unsafe fn copy(source: Operand, target: Operand, rows: usize, columns: usize) {
    let all_f32 = source.dtype == DType::f32 && target.dtype == DType::f32;
    if all_f32 && source.cs == 1 && target.rs == 1 {
        let from = Rows { first: source.base.cast(), stride: source.rs };
        let to = Rows { first: target.base.cast(), stride: target.cs };
        // SAFETY: the caller's promise.
        return unsafe { transpose(from, to, rows, columns) };
    }
    for i in 0..rows {
        for j in 0..columns {
            // SAFETY: the caller's promise.
            unsafe { target.store(i, j, source.load(i, j)) };
        }
    }
}

/// Extents of a product: `C[m, n] = Σ_k A[m, k] B[k, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Contracted.
    pub k: usize,
}

impl Extents {
    /// Floating-point operations.
    pub fn flops(self) -> u64 {
        2 * self.m as u64 * self.n as u64 * self.k as u64
    }
}

/// `C = alpha · A · B`, plus what `C` holds where `keep`.
///
/// # Safety
/// The three blocks lie in live memory; nobody writes `a` or `b`, and nobody else uses `c`,
/// meanwhile.
pub unsafe fn multiply(c: Operand, a: Operand, b: Operand, extents: Extents, scale: Scale) {
    if [a.dtype, b.dtype, c.dtype].iter().all(|dtype| *dtype == DType::f32) {
        // SAFETY: the caller's promise.
        unsafe { multiply_f32(c, a, b, extents, scale) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { multiply_widened(c, a, b, extents, scale) }
    }
}

/// How a product meets what the result holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Factor on the product.
    pub alpha: f32,
    /// Add to what the result holds.
    pub keep: bool,
}

thread_local! {
    static PANEL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// # Safety
/// As [`multiply`]; all three are f32.
unsafe fn multiply_f32(c: Operand, a: Operand, b: Operand, extents: Extents, scale: Scale) {
    let Extents { m, n, k } = extents;
    if c.cs != 1 && c.rs == 1 {
        // Cᵀ = Bᵀ Aᵀ: from here on the result is row-major where it can be.
        let swapped = Extents { m: n, n: m, k };
        let (a, b) = (b.transposed(), a.transposed());
        // SAFETY: the same elements under other names.
        return unsafe { multiply_row_major(c.transposed(), a, b, swapped, scale) };
    }
    // SAFETY: the caller's promise.
    unsafe { multiply_row_major(c, a, b, extents, scale) }
}

/// # Safety
/// As [`multiply`]; all three are f32.
unsafe fn multiply_row_major(c: Operand, a: Operand, b: Operand, extents: Extents, scale: Scale) {
    let Extents { m, n, k } = extents;
    // The library sums small products of contiguous rows in another order. A copy keeps an element
    // of a small product what it is in a large one.
    let small = a.cs == 1 && m.min(n) > 1 && m * n <= SMALL_PRODUCT && k > 0;
    let pays = m >= TRANSPOSE_ROWS && k >= 8 && n >= 8;
    if b.cs == 1 || b.rs != 1 || !(small || pays) {
        // SAFETY: the caller's promise.
        return unsafe { call_gemm(c, a, b, extents, scale) };
    }
    PANEL.with_borrow_mut(|panel| {
        let mut scale = scale;
        for begin in (0..k).step_by(TRANSPOSE_K) {
            let part = TRANSPOSE_K.min(k - begin);
            panel.resize(n * part, 0.0);
            let from = Rows { first: b.at(begin, 0).base.cast(), stride: b.cs };
            let to = Rows { first: panel.as_mut_ptr(), stride: n as isize };
            // SAFETY: the caller's promise; the panel belongs to this thread.
            unsafe {
                transpose(from, to, n, part);
                let b = Operand::scratch(panel, n);
                call_gemm(c, a.at(0, begin), b, Extents { m, n, k: part }, scale);
            }
            scale.keep = true;
        }
    });
}

/// # Safety
/// As [`multiply`]; all three are f32.
unsafe fn call_gemm(c: Operand, a: Operand, b: Operand, extents: Extents, scale: Scale) {
    let Extents { m, n, k } = extents;
    if m == 0 || n == 0 || (k == 0 && scale.keep) {
        return;
    }
    // SAFETY: the caller's promise covers every element that the strides reach. `f32` accesses
    // are aligned: offsets are in elements and buffers start at multiples of 64 bytes.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.base.cast::<f32>(),
            c.cs,
            c.rs,
            scale.keep,
            a.base.cast::<f32>(),
            a.cs,
            a.rs,
            b.base.cast::<f32>(),
            b.cs,
            b.rs,
            1.0,
            scale.alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

thread_local! {
    static WIDENED: RefCell<[Vec<f32>; 3]> = const { RefCell::new([const { Vec::new() }; 3]) };
}

/// # Safety
/// As [`multiply`].
unsafe fn multiply_widened(c: Operand, a: Operand, b: Operand, extents: Extents, scale: Scale) {
    let Extents { m, n, k } = extents;
    WIDENED.with_borrow_mut(|[wide_a, wide_b, wide_c]| {
        wide_c.clear();
        wide_c.resize(m * n, 0.0);
        if scale.keep {
            // SAFETY: the caller's promise.
            unsafe { c.read_into(wide_c, n) };
        }
        let result = Operand::scratch(wide_c, n);
        for begin in (0..k).step_by(WIDEN_K) {
            let part = WIDEN_K.min(k - begin);
            wide_a.resize(m * part, 0.0);
            wide_b.resize(part * n, 0.0);
            // SAFETY: the caller's promise; the scratch belongs to this thread.
            unsafe {
                a.at(0, begin).read_into(wide_a, part);
                b.at(begin, 0).read_into(wide_b, n);
                let a = Operand::scratch(wide_a, part);
                let b = Operand::scratch(wide_b, n);
                let scale = Scale { alpha: scale.alpha, keep: true };
                multiply_f32(result, a, b, Extents { m, n, k: part }, scale);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { c.write_from(wide_c, n) };
    });
}
