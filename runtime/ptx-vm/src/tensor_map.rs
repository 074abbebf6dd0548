//! Tensor maps: how TMA finds a box of a tensor in global memory and lays it out in shared memory.
//!
//! A map is what `cuTensorMapEncodeTiled` makes, as a plain struct with the innermost dimension first.
//! A kernel sees 128 opaque bytes; [`TensorMap::encode`] defines ours, [`Field`] the parts that
//! `tensormap.replace` writes in them.
//!
//! # Invariants
//! - Pure: coordinates in, addresses and offsets out; the executor copies.
//! - 128 zero bytes with every field replaced are a map, as kernels that build maps in memory need it.
//! - Tiled mode without interleave; the im2col and interleaved modes are refused.

mod bytes;
mod reduce;

pub use bytes::{BYTES, DecodeError, Field};
pub use reduce::Reduction;

use crate::matrix::Swizzle;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of PTX")]
pub enum TensorType {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    /// f32 whose subnormals a reduction flushes; copies keep the bits.
    F32Ftz,
    F64,
    Bf16,
    Tf32,
    /// tf32 whose subnormals are flushed; copies here keep the bits.
    Tf32Ftz,
}

impl TensorType {
    /// Bytes of an element.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::S32 | Self::F32 | Self::F32Ftz | Self::Tf32 | Self::Tf32Ftz => 4,
            Self::U64 | Self::S64 | Self::F64 => 8,
        }
    }

    /// Whether elements are floating-point numbers.
    #[must_use]
    pub const fn is_float(self) -> bool {
        !matches!(self, Self::U8 | Self::U16 | Self::U32 | Self::S32 | Self::U64 | Self::S64)
    }

    /// The bits of NaN in a floating-point type.
    #[must_use]
    pub const fn nan(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 0x7fff,
            Self::F64 => 0x7ff8_0000_0000_0000,
            _ => 0x7fff_ffff,
        }
    }
}

/// What elements outside the tensor read as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fill {
    /// Zero.
    #[default]
    Zeros,
    /// NaN, in floating-point tensors.
    Nan,
}

/// A map of a tensor of 1 to 5 dimensions, the innermost first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorMap {
    /// The element type.
    pub dtype: TensorType,
    /// The first element's address.
    pub address: u64,
    /// Elements of each dimension.
    pub dims: Vec<u64>,
    /// Bytes from an element to the next along each dimension but the innermost.
    pub strides: Vec<u64>,
    /// Extent of the box along each dimension.
    pub box_dims: Vec<u32>,
    /// Step within the box along each dimension; the innermost is not read.
    pub element_strides: Vec<u32>,
    /// The swizzle of the box in shared memory.
    pub swizzle: Swizzle,
    /// What elements outside the tensor read as.
    pub fill: Fill,
}

/// Why a map is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The dimensions' number is not 1 to 5, or the lists differ in length.
    #[error(
        "a tensor map has 1 to 5 dimensions, a stride less, and as many box dimensions and element strides"
    )]
    Rank,
    /// The address is not a multiple of 16.
    #[error("the tensor's address {0:#x} is not a multiple of 16")]
    Address(u64),
    /// A dimension is 0 or more than 2³².
    #[error("a dimension of {0} elements is not 1 to 2^32")]
    Dim(u64),
    /// A stride is not a multiple of 16 or not below 2⁴⁰.
    #[error("a stride of {0} bytes is not a multiple of 16 below 2^40")]
    Stride(u64),
    /// A box extent is 0 or more than 256.
    #[error("a box extent of {0} is not 1 to 256")]
    Box(u32),
    /// A box row is not a multiple of 16 bytes.
    #[error("a box row of {0} bytes is not a multiple of 16")]
    BoxRow(u32),
    /// A box row is longer than the swizzle's row.
    #[error("a box row of {row} bytes is longer than the swizzle's {limit}")]
    SwizzledRow {
        /// Bytes of a box row.
        row: u32,
        /// Bytes of a swizzled row.
        limit: u32,
    },
    /// An element stride is not 1 to 8.
    #[error("an element stride of {0} is not 1 to 8")]
    ElementStride(u32),
    /// NaN fill in a tensor of integers.
    #[error("integers cannot be filled with NaN")]
    Fill,
}

impl TensorMap {
    /// The conditions of `cuTensorMapEncodeTiled`.
    ///
    /// # Errors
    /// The first condition that does not hold.
    pub fn validate(&self) -> Result<(), MapError> {
        let rank = self.dims.len();
        let lengths = [self.strides.len() + 1, self.box_dims.len(), self.element_strides.len()];
        if !(1..=5).contains(&rank) || lengths.iter().any(|length| *length != rank) {
            return Err(MapError::Rank);
        }
        if !self.address.is_multiple_of(16) {
            return Err(MapError::Address(self.address));
        }
        if let Some(dim) = self.dims.iter().find(|dim| !(1..=1 << 32).contains(*dim)) {
            return Err(MapError::Dim(*dim));
        }
        let fits = |stride: &u64| stride.is_multiple_of(16) && *stride < 1 << 40;
        if let Some(stride) = self.strides.iter().find(|stride| !fits(stride)) {
            return Err(MapError::Stride(*stride));
        }
        if let Some(extent) = self.box_dims.iter().find(|extent| !(1..=256).contains(*extent)) {
            return Err(MapError::Box(*extent));
        }
        if let Some(step) = self.element_strides.iter().find(|step| !(1..=8).contains(*step)) {
            return Err(MapError::ElementStride(*step));
        }
        self.validate_row()
    }

    fn validate_row(&self) -> Result<(), MapError> {
        let row = self.row_bytes();
        if !row.is_multiple_of(16) {
            return Err(MapError::BoxRow(row));
        }
        let limit = self.swizzle.row_bytes();
        if self.swizzle != Swizzle::None && row > limit {
            return Err(MapError::SwizzledRow { row, limit });
        }
        if self.fill == Fill::Nan && !self.dtype.is_float() {
            return Err(MapError::Fill);
        }
        Ok(())
    }

    /// Bytes of the box's innermost rows.
    #[must_use]
    pub fn row_bytes(&self) -> u32 {
        self.box_dims[0] * self.dtype.bytes()
    }

    /// Elements that the box takes along `dim`: with a step s, every s-th.
    #[must_use]
    pub fn box_extent(&self, dim: usize) -> u32 {
        match dim {
            0 => self.box_dims[0],
            _ => self.box_dims[dim].div_ceil(self.element_strides[dim]),
        }
    }

    /// Bytes of the box in shared memory: what a copy adds to its mbarrier, filled elements included.
    #[must_use]
    pub fn box_bytes(&self) -> u64 {
        let rows = (1..self.dims.len()).map(|dim| u64::from(self.box_extent(dim)));
        rows.product::<u64>() * u64::from(self.row_bytes())
    }

    /// The rows of the box whose first element has the given coordinates, innermost coordinate first,
    /// in the order in which they lie in shared memory.
    ///
    /// # Panics
    /// When there are not as many coordinates as dimensions.
    pub fn rows(&self, coordinates: &[i32]) -> impl Iterator<Item = BoxRow> + '_ {
        assert_eq!(coordinates.len(), self.dims.len(), "a coordinate for each dimension");
        let start: Vec<i64> = coordinates.iter().copied().map(i64::from).collect();
        let count = self.box_bytes() / u64::from(self.row_bytes());
        // Whoever asks for rows has room for the box: their number fits.
        (0..count as u32).map(move |index| self.row(&start, index))
    }

    /// Row `index` of the box at `start`.
    fn row(&self, start: &[i64], index: u32) -> BoxRow {
        let bytes = self.dtype.bytes();
        let mut rest = index;
        let mut address = self.address;
        let mut inside = true;
        for (dim, first) in start.iter().enumerate().skip(1) {
            let extent = self.box_extent(dim);
            let step = i64::from(self.element_strides[dim]);
            let at = first + i64::from(rest % extent) * step;
            rest /= extent;
            match u64::try_from(at) {
                Ok(at) if at < self.dims[dim] => {
                    address = address.wrapping_add(at.wrapping_mul(self.strides[dim - 1]));
                }
                _ => inside = false,
            }
        }
        // The elements of the row with coordinates from 0 to the innermost extent.
        let (first, extent) = (start[0], i64::from(self.box_dims[0]));
        let low = (-first).clamp(0, extent);
        let high = (self.dims[0] as i64 - first).clamp(low, extent);
        let (low, high) = if inside { (low, high) } else { (0, 0) };
        BoxRow {
            shared: index.wrapping_mul(self.row_bytes()),
            skipped: low as u32 * bytes,
            bytes: (high - low) as u32 * bytes,
            global: address.wrapping_add_signed((first + low) * i64::from(bytes)),
        }
    }

    /// The bytes of one element outside the tensor, in the low bits.
    #[must_use]
    pub fn fill_element(&self) -> u64 {
        match self.fill {
            Fill::Zeros => 0,
            Fill::Nan => self.dtype.nan(),
        }
    }
}

/// A row of a box: contiguous in global memory, and before the swizzle in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxRow {
    /// Offset of the row in the box, before the swizzle.
    pub shared: u32,
    /// Bytes at its start that lie outside the tensor.
    pub skipped: u32,
    /// Bytes after them that lie inside; what follows is outside again.
    pub bytes: u32,
    /// The global address of the first byte inside.
    pub global: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(dims: &[u64], box_dims: &[u32]) -> TensorMap {
        let mut strides = Vec::new();
        let mut bytes = dims[0] * 4;
        for dim in &dims[1..] {
            strides.push(bytes);
            bytes *= dim;
        }
        TensorMap {
            dtype: TensorType::F32,
            address: 0x1000,
            dims: dims.to_vec(),
            strides,
            box_dims: box_dims.to_vec(),
            element_strides: vec![1; dims.len()],
            swizzle: Swizzle::None,
            fill: Fill::Zeros,
        }
    }

    proptest! {
        /// Element by element: the definition, against the rows.
        #[test]
        fn rows_hold_the_elements_of_the_box(
            dims in proptest::collection::vec(1u64..9, 1..=5),
            extents in proptest::collection::vec(1u32..5, 5),
            steps in proptest::collection::vec(1u32..4, 5),
            start in proptest::collection::vec(-6i32..10, 5),
        ) {
            let rank = dims.len();
            let dims: Vec<u64> = dims.iter().map(|d| d * 4).collect();
            let mut extents = extents[..rank].to_vec();
            extents[0] *= 4;
            let mut map = plain(&dims, &extents);
            map.element_strides = steps[..rank].to_vec();
            prop_assert_eq!(map.validate(), Ok(()));
            let mut seen = 0;
            for (index, row) in map.rows(&start[..rank]).enumerate() {
                for element in 0..extents[0] {
                    let mut rest = index as u32;
                    let first = i64::from(start[0]) + i64::from(element);
                    let mut inside = (0..dims[0] as i64).contains(&first);
                    let mut offset = first * 4;
                    for dim in 1..rank {
                        let extent = extents[dim].div_ceil(steps[dim]);
                        let at = i64::from(start[dim]) + i64::from(rest % extent * steps[dim]);
                        rest /= extent;
                        inside &= (0..dims[dim] as i64).contains(&at);
                        offset += at * map.strides[dim - 1] as i64;
                    }
                    let byte = element * 4;
                    let held = (row.skipped..row.skipped + row.bytes).contains(&byte);
                    prop_assert_eq!(held, inside);
                    if inside {
                        let address = row.global + u64::from(byte - row.skipped);
                        prop_assert_eq!(address, 0x1000 + offset as u64);
                    }
                    prop_assert_eq!(row.shared + byte, seen);
                    seen += 4;
                }
            }
            prop_assert_eq!(u64::from(seen), map.box_bytes());
        }
    }

    #[test]
    fn boxes_over_an_edge_keep_their_bytes() {
        let map = plain(&[8, 3], &[4, 2]);
        let rows: Vec<BoxRow> = map.rows(&[6, 2]).collect();
        let edge = BoxRow { shared: 0, skipped: 0, bytes: 8, global: 0x1000 + 64 + 24 };
        assert_eq!(rows[0], edge);
        assert_eq!((rows[1].shared, rows[1].bytes), (16, 0));
        let rows: Vec<BoxRow> = map.rows(&[-2, -1]).collect();
        assert_eq!(rows[0].bytes, 0);
        assert_eq!(rows[1], BoxRow { shared: 16, skipped: 8, bytes: 8, global: 0x1000 });
        assert_eq!(map.box_bytes(), 32);
    }

    #[test]
    fn conditions_of_the_driver_are_checked() {
        let good = plain(&[64, 8], &[16, 4]);
        assert_eq!(good.validate(), Ok(()));
        let broken = |change: fn(&mut TensorMap)| {
            let mut map = good.clone();
            change(&mut map);
            map.validate()
        };
        assert_eq!(broken(|m| m.address += 8), Err(MapError::Address(0x1008)));
        assert_eq!(broken(|m| m.dims[1] = 0), Err(MapError::Dim(0)));
        assert_eq!(broken(|m| m.strides[0] = 20), Err(MapError::Stride(20)));
        assert_eq!(broken(|m| m.box_dims[1] = 257), Err(MapError::Box(257)));
        assert_eq!(broken(|m| m.box_dims[0] = 3), Err(MapError::BoxRow(12)));
        assert_eq!(broken(|m| m.element_strides[1] = 9), Err(MapError::ElementStride(9)));
        assert_eq!(broken(|m| m.strides.clear()), Err(MapError::Rank));
        let swizzled = broken(|m| m.swizzle = Swizzle::B32);
        assert_eq!(swizzled, Err(MapError::SwizzledRow { row: 64, limit: 32 }));
        assert_eq!(broken(|m| m.swizzle = Swizzle::B64), Ok(()));
        let integers = broken(|m| (m.dtype, m.fill) = (TensorType::S32, Fill::Nan));
        assert_eq!(integers, Err(MapError::Fill));
    }
}
