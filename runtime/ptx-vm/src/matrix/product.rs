//! The products: `mma.sync` on fragments and `wgmma` on tiles. Numerics: see the room's page.

use super::fragment::{LANES, a_index, b_index, c_index};
use crate::number::{FloatFormat, Overflow, Rounding, decode, encode, half};
use std::sync::Arc;

/// What an operand's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of PTX")]
pub enum Element {
    F64,
    Tf32,
    F16,
    Bf16,
    E4m3,
    E5m2,
    S8,
    U8,
}

impl Element {
    /// Bits of an element in a register or in memory.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::F64 => 64,
            Self::Tf32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::E4m3 | Self::E5m2 | Self::S8 | Self::U8 => 8,
        }
    }

    /// Elements in a register: 32 bits, or 64 for f64.
    #[must_use]
    pub const fn per_register(self) -> usize {
        match self {
            Self::F64 => 1,
            _ => (32 / self.bits()) as usize,
        }
    }

    /// Elements whose order along k in memory is one wgmma: 32 bytes.
    #[must_use]
    pub const fn wgmma_depth(self) -> usize {
        (256 / self.bits()) as usize
    }

    const fn is_integer(self) -> bool {
        matches!(self, Self::S8 | Self::U8)
    }

    /// The value of the low bits.
    #[must_use]
    #[inline]
    pub fn value(self, bits: u64) -> f64 {
        match self {
            Self::F64 => f64::from_bits(bits),
            Self::Tf32 => f32::from_bits(bits as u32 & 0xffff_e000).into(),
            Self::F16 => half::f16_to_f32(bits as u16).into(),
            Self::Bf16 => half::bf16_to_f32(bits as u16).into(),
            Self::E4m3 => decode(FloatFormat::E4m3, bits),
            Self::E5m2 => decode(FloatFormat::E5m2, bits),
            Self::S8 => f64::from(bits as u8 as i8),
            Self::U8 => f64::from(bits as u8),
        }
    }
}

/// What accumulator and result are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of PTX")]
pub enum Accumulator {
    F64,
    F32,
    F16,
    S32,
}

impl Accumulator {
    /// Values in a register: two for f16.
    #[must_use]
    pub const fn per_register(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F64 | Self::F32 | Self::S32 => 1,
        }
    }

    #[inline]
    fn value(self, bits: u64) -> f64 {
        match self {
            Self::F64 => f64::from_bits(bits),
            Self::F32 => f32::from_bits(bits as u32).into(),
            Self::F16 => half::f16_to_f32(bits as u16).into(),
            Self::S32 => f64::from(bits as u32 as i32),
        }
    }

    /// The sum rounded once. Integer sums below 2⁵³ are exact in f64; they wrap or clamp.
    #[inline]
    fn finish(self, sum: f64, saturate: bool) -> u64 {
        match self {
            Self::F64 if sum.is_nan() => 0x7ff8_0000_0000_0000,
            Self::F64 => sum.to_bits(),
            Self::F32 if sum.is_nan() => 0x7fff_ffff,
            Self::F32 => (sum as f32).to_bits().into(),
            Self::F16 => encode(FloatFormat::F16, sum, Rounding::NearestEven, Overflow::Ieee),
            Self::S32 if saturate => (sum as i32) as u32 as u64,
            Self::S32 => (sum as i64) as u32 as u64,
        }
    }
}

/// Why a shape or a combination of types is no instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The shape does not exist for the element type.
    #[error("m{m}n{n}k{k} does not exist for these elements")]
    Shape {
        /// Rows of the result.
        m: usize,
        /// Columns of the result.
        n: usize,
        /// Depth of the product.
        k: usize,
    },
    /// The operand, accumulator and result types do not go together.
    #[error("these operand, accumulator and result types do not go together")]
    Types,
}

fn types_agree(a: Element, b: Element, c: Accumulator, d: Accumulator) -> bool {
    let fp8 = |e| matches!(e, Element::E4m3 | Element::E5m2);
    let operands = a == b || a.is_integer() && b.is_integer() || fp8(a) && fp8(b);
    let results = match a {
        Element::F64 => c == Accumulator::F64 && d == Accumulator::F64,
        Element::S8 | Element::U8 => c == Accumulator::S32 && d == Accumulator::S32,
        Element::Tf32 | Element::Bf16 => c == Accumulator::F32 && d == Accumulator::F32,
        Element::F16 => [c, d].iter().all(|t| matches!(t, Accumulator::F16 | Accumulator::F32)),
        Element::E4m3 | Element::E5m2 => c == d && matches!(c, Accumulator::F16 | Accumulator::F32),
    };
    operands && results
}

/// An `mma.sync` instruction: `d = a · b + c`, `a` m × k by row, `b` k × 8 by column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mma {
    /// Where the elements of A, B and C belong in dense matrices, by register, lane and element.
    places: [Arc<[u16]>; 3],
    m: usize,
    k: usize,
    a: Element,
    b: Element,
    c: Accumulator,
    d: Accumulator,
    saturate: bool,
}

/// The operand types of an [`Mma`] in the order of PTX's suffixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MmaTypes {
    /// `.dtype`.
    pub d: Accumulator,
    /// `.atype`.
    pub a: Element,
    /// `.btype`.
    pub b: Element,
    /// `.ctype`.
    pub c: Accumulator,
}

impl Mma {
    /// The instruction of a shape `(m, n, k)` and types; `saturate` is `.satfinite` of integers.
    ///
    /// # Errors
    /// When PTX has no such instruction up to sm_90, or it is one of m8n8k4 of f16, sub-byte or sparse.
    pub fn new(
        shape: (usize, usize, usize),
        types: MmaTypes,
        saturate: bool,
    ) -> Result<Self, ShapeError> {
        let (m, n, k) = shape;
        let MmaTypes { d, a, b, c } = types;
        let exists = match a {
            Element::F64 => matches!(shape, (8, 8, 4) | (16, 8, 4 | 8 | 16)),
            Element::Tf32 => matches!(shape, (16, 8, 4 | 8)),
            Element::F16 | Element::Bf16 => matches!(shape, (16, 8, 8 | 16)),
            Element::E4m3 | Element::E5m2 => matches!(shape, (16, 8, 16 | 32)),
            Element::S8 | Element::U8 => matches!(shape, (8, 8, 16) | (16, 8, 16 | 32)),
        };
        if !exists {
            return Err(ShapeError::Shape { m, n, k });
        }
        if !types_agree(a, b, c, d) || saturate && !a.is_integer() {
            return Err(ShapeError::Types);
        }
        let (e, f) = (a.per_register(), b.per_register());
        let places = [
            places(m * k, e, |lane, register, element| {
                let (row, column) = a_index(m, e, lane, register, element);
                row * k + column
            }),
            places(k * 8, f, |lane, register, element| {
                let (row, column) = b_index(f, lane, register, element);
                row * 8 + column
            }),
            places(m * 8, 1, |lane, value, _| {
                let (row, column) = c_index(m, lane, value);
                row * 8 + column
            }),
        ];
        Ok(Self { places, m, k, a, b, c, d, saturate })
    }

    /// What the elements of A are.
    #[must_use]
    pub fn element(&self) -> Element {
        self.a
    }

    /// Whether registers are 64 bits wide.
    #[must_use]
    pub fn is_double(&self) -> bool {
        self.a == Element::F64
    }

    /// Registers per lane of `a`, `b`, `c` and `d`.
    #[must_use]
    pub fn registers(&self) -> [usize; 4] {
        let per_lane = |elements: usize, per_register: usize| elements / LANES / per_register;
        [
            per_lane(self.m * self.k, self.a.per_register()),
            per_lane(self.k * 8, self.b.per_register()),
            per_lane(self.m * 8, self.c.per_register()),
            per_lane(self.m * 8, self.d.per_register()),
        ]
    }

    /// Multiplications of one instruction.
    #[must_use]
    pub fn products(&self) -> u64 {
        (self.m * self.k * 8) as u64
    }

    /// The result's registers from those of the operands, each as register × lane.
    ///
    /// # Panics
    /// When a slice does not have the length that [`Self::registers`] says.
    #[must_use]
    pub fn execute<R: Register>(
        &self,
        a: &[[R; LANES]],
        b: &[[R; LANES]],
        c: &[[R; LANES]],
    ) -> Vec<[R; LANES]> {
        assert_eq!([a.len(), b.len(), c.len()], self.registers()[..3], "registers of the operands");
        let left = gather(a, self.a, &self.places[0]);
        let right = gather(b, self.b, &self.places[1]);
        let mut sums = vec![0f64; self.m * 8];
        for_each_value(c, self.c, |lane, value, bits| {
            sums[self.place(value, lane)] = self.c.value(bits);
        });
        for (sums, left) in sums.chunks_exact_mut(8).zip(left.chunks_exact(self.k)) {
            if self.is_double() {
                accumulate_fused(sums, left, &right);
            } else {
                accumulate(sums, left, &right);
            }
        }
        self.scatter(&sums)
    }

    /// Where value `value` of a lane belongs in C and D.
    #[inline]
    fn place(&self, value: usize, lane: usize) -> usize {
        self.places[2][value * LANES + lane].into()
    }

    fn scatter<R: Register>(&self, sums: &[f64]) -> Vec<[R; LANES]> {
        let per_register = self.d.per_register();
        let mut result = vec![[R::default(); LANES]; self.registers()[3]];
        for (register, lanes) in result.iter_mut().enumerate() {
            for (lane, out) in lanes.iter_mut().enumerate() {
                let bits = (0..per_register).fold(0, |bits, element| {
                    let sum = sums[self.place(register * per_register + element, lane)];
                    bits | self.d.finish(sum, self.saturate) << (16 * element)
                });
                *out = R::from_bits(bits);
            }
        }
        result
    }
}

/// A register of 32 or of 64 bits.
pub trait Register: Copy + Default {
    /// The bits, zeros above.
    fn bits(self) -> u64;
    /// The low bits.
    fn from_bits(bits: u64) -> Self;
}

impl Register for u32 {
    fn bits(self) -> u64 {
        self.into()
    }
    fn from_bits(bits: u64) -> Self {
        bits as Self
    }
}

impl Register for u64 {
    fn bits(self) -> u64 {
        self
    }
    fn from_bits(bits: u64) -> Self {
        bits
    }
}

/// Where each element of `count` belongs in a dense matrix, by register, lane and element.
fn places(
    count: usize,
    per_register: usize,
    place: impl Fn(usize, usize, usize) -> usize,
) -> Arc<[u16]> {
    let element = |index: usize| {
        let (register, rest) = (index / (LANES * per_register), index % (LANES * per_register));
        place(rest / per_register, register, rest % per_register) as u16
    };
    (0..count).map(element).collect()
}

/// The operand as a dense matrix; `places` says where each element belongs.
fn gather<R: Register>(registers: &[[R; LANES]], element: Element, places: &[u16]) -> Vec<f64> {
    // One loop for each type: the conversion is then part of it.
    macro_rules! each {
        ($($name:ident),*) => {
            match element {
                $(Element::$name => gather_as(registers, element, places, |bits| {
                    Element::$name.value(bits)
                }),)*
            }
        };
    }
    each!(F64, Tf32, F16, Bf16, E4m3, E5m2, S8, U8)
}

fn gather_as<R: Register>(
    registers: &[[R; LANES]],
    element: Element,
    places: &[u16],
    value: impl Fn(u64) -> f64,
) -> Vec<f64> {
    let mut matrix = vec![0.0; places.len()];
    let held = registers.iter().flatten();
    for (held, places) in held.zip(places.chunks_exact(element.per_register())) {
        let mut bits = held.bits();
        for place in places {
            matrix[usize::from(*place)] = value(bits);
            bits >>= element.bits() % 64;
        }
    }
    matrix
}

#[inline]
fn for_each_value<R: Register>(
    registers: &[[R; LANES]],
    of: Accumulator,
    mut see: impl FnMut(usize, usize, u64),
) {
    for (register, lanes) in registers.iter().enumerate() {
        for (lane, held) in lanes.iter().enumerate() {
            for part in 0..of.per_register() {
                see(lane, register * of.per_register() + part, held.bits() >> (16 * part));
            }
        }
    }
}

/// `sums[j] += Σ left[k] · right[k][j]` in f64, k ascending; rows have the length of `sums`.
#[inline]
fn accumulate(sums: &mut [f64], left: &[f64], right: &[f64]) {
    for (factor, row) in left.iter().zip(right.chunks_exact(sums.len())) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += factor * value;
        }
    }
}

/// As [`accumulate`], with fused multiply-adds: the products of f64 values are not exact otherwise.
fn accumulate_fused(sums: &mut [f64], left: &[f64], right: &[f64]) {
    for (factor, row) in left.iter().zip(right.chunks_exact(sums.len())) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum = factor.mul_add(*value, *sum);
        }
    }
}

/// A `wgmma.mma_async` instruction: `d = ±a · ±b (+ d)`, 64 × n from a depth of 32 bytes of k.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wgmma {
    /// Where the elements of a warp's part of A belong, by register, lane and element.
    places: Arc<[u16]>,
    n: usize,
    a: Element,
    b: Element,
    d: Accumulator,
    saturate: bool,
}

/// The signs and the accumulation of one wgmma.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scale {
    /// `scale-d`: whether the accumulator is added.
    pub accumulate: bool,
    /// `imm-scale-a` is -1.
    pub negate_a: bool,
    /// `imm-scale-b` is -1.
    pub negate_b: bool,
}

impl Wgmma {
    /// Rows of every wgmma.
    pub const ROWS: usize = 64;
    /// Warps that execute one together.
    pub const WARPS: usize = 4;

    /// The instruction of shape m64n`n`k`k`.
    ///
    /// # Errors
    /// When PTX has no such instruction, or it is one of sub-byte or sparse.
    pub fn new(
        n: usize,
        k: usize,
        types: (Accumulator, Element, Element),
        saturate: bool,
    ) -> Result<Self, ShapeError> {
        let (d, a, b) = types;
        let known_n = (8..=256).contains(&n) && n.is_multiple_of(8);
        let integer_n = n.is_multiple_of(16) || n == 8 || n == 24;
        let exists = known_n && k == a.wgmma_depth() && (!a.is_integer() || integer_n);
        if !exists || a == Element::F64 {
            return Err(ShapeError::Shape { m: Self::ROWS, n, k });
        }
        if !types_agree(a, b, d, d) || saturate && !a.is_integer() {
            return Err(ShapeError::Types);
        }
        let e = a.per_register();
        let places = places(16 * k, e, |lane, register, element| {
            let (row, column) = a_index(16, e, lane, register, element);
            row * k + column
        });
        Ok(Self { places, n, a, b, d, saturate })
    }

    /// Columns of the result.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.n
    }

    /// Depth of the product in elements.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.a.wgmma_depth()
    }

    /// Multiplications of one instruction.
    #[must_use]
    pub fn products(&self) -> u64 {
        (Self::ROWS * self.n * self.depth()) as u64
    }

    /// The elements of the operands.
    #[must_use]
    pub fn elements(&self) -> (Element, Element) {
        (self.a, self.b)
    }

    /// Registers per lane of the accumulator.
    #[must_use]
    pub fn accumulator_registers(&self) -> usize {
        self.n / 2 / self.d.per_register()
    }

    /// Registers per lane of an `a` that is held in registers.
    #[must_use]
    pub fn operand_registers(&self) -> usize {
        4
    }

    /// A warp's 16 × depth part of A, by rows, from its registers `[register][lane]`.
    #[must_use]
    pub fn operand_of_warp(&self, registers: &[[u32; LANES]; 4]) -> Vec<f64> {
        gather(registers, self.a, &self.places)
    }

    /// The new accumulator of one warp, in place: `registers[register][lane]`.
    ///
    /// `a` holds the warp's 16 rows of depth values; `b` holds depth rows of n values.
    pub fn execute_warp(&self, a: &[f64], b: &[f64], scale: Scale, registers: &mut [[u32; LANES]]) {
        let depth = self.depth();
        let mut sums = vec![0f64; 16 * self.n];
        if scale.accumulate {
            for_each_value(registers, self.d, |lane, value, bits| {
                let (row, column) = c_index(16, lane, value);
                sums[row * self.n + column] = self.d.value(bits);
            });
        }
        let negated: Vec<f64>;
        let a = if scale.negate_a == scale.negate_b {
            a
        } else {
            negated = a.iter().map(|value| -value).collect();
            &negated
        };
        for (sums, left) in sums.chunks_exact_mut(self.n).zip(a.chunks_exact(depth)) {
            accumulate(sums, left, b);
        }
        let per_register = self.d.per_register();
        for (register, lanes) in registers.iter_mut().enumerate() {
            for (lane, out) in lanes.iter_mut().enumerate() {
                *out = (0..per_register).fold(0, |bits, element| {
                    let (row, column) = c_index(16, lane, register * per_register + element);
                    let sum = sums[row * self.n + column];
                    bits | (self.d.finish(sum, self.saturate) as u32) << (16 * element)
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
