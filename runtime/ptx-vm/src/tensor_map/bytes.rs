//! The 128 bytes of a tensor map, and the fields that `tensormap.replace` writes.
//!
//! | bytes | field |
//! |---|---|
//! | 0–7 | address |
//! | 8–47 | five dimensions |
//! | 48–79 | four strides |
//! | 80–89 | five box extents, 16 bits each |
//! | 90–94 | five element strides |
//! | 95–99 | rank less one, element type, interleave, swizzle, fill |
//! | 100–127 | zero |
//!
//! Numbers are little-endian; element type, interleave, swizzle and fill have the numbers of PTX.

use super::{Fill, MapError, TensorMap, TensorType};
use crate::matrix::Swizzle;

/// Bytes of a tensor map.
pub const BYTES: usize = 128;

const DIMS: usize = 8;
const STRIDES: usize = 48;
const BOX: usize = 80;
const ELEMENT_STRIDES: usize = 90;
const RANK: usize = 95;

/// The element types by PTX's numbers.
const TYPES: [TensorType; 13] = [
    TensorType::U8,
    TensorType::U16,
    TensorType::U32,
    TensorType::S32,
    TensorType::U64,
    TensorType::S64,
    TensorType::F16,
    TensorType::F32,
    TensorType::F32Ftz,
    TensorType::F64,
    TensorType::Bf16,
    TensorType::Tf32,
    TensorType::Tf32Ftz,
];
const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];
const FILLS: [Fill; 2] = [Fill::Zeros, Fill::Nan];

/// Why 128 bytes are no tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A field holds a number without a meaning.
    #[error("byte {at} of the tensor map holds {value}, which means nothing")]
    Number {
        /// The byte.
        at: usize,
        /// What it holds.
        value: u8,
    },
    /// The interleaved layouts are not supported.
    #[error("interleaved tensor maps are not supported")]
    Interleave,
    /// The fields are readable but do not go together.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// A part of a map that `tensormap.replace` sets; those with an index take the dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of PTX")]
pub enum Field {
    GlobalAddress,
    /// The number of dimensions less one.
    Rank,
    BoxDim(u8),
    GlobalDim(u8),
    /// In bytes; index 0 is the stride of dimension 1.
    GlobalStride(u8),
    ElementStride(u8),
    ElementType,
    Interleave,
    Swizzle,
    Fill,
}

impl Field {
    /// Where the field lies in the 128 bytes, and how many bytes it has; `None` for an index that is too large.
    #[must_use]
    pub const fn place(self) -> Option<(usize, usize)> {
        Some(match self {
            Self::GlobalAddress => (0, 8),
            Self::GlobalDim(dim) if dim < 5 => (DIMS + 8 * dim as usize, 8),
            Self::GlobalStride(dim) if dim < 4 => (STRIDES + 8 * dim as usize, 8),
            Self::BoxDim(dim) if dim < 5 => (BOX + 2 * dim as usize, 2),
            Self::ElementStride(dim) if dim < 5 => (ELEMENT_STRIDES + dim as usize, 1),
            Self::Rank => (RANK, 1),
            Self::ElementType => (RANK + 1, 1),
            Self::Interleave => (RANK + 2, 1),
            Self::Swizzle => (RANK + 3, 1),
            Self::Fill => (RANK + 4, 1),
            _ => return None,
        })
    }

    /// Writes the low bits of `value`; a value too large for the field becomes the field's largest,
    /// which no map accepts.
    pub fn replace(self, bytes: &mut [u8; BYTES], value: u64) {
        let Some((at, width)) = self.place() else { return };
        let largest = u64::MAX >> (64 - 8 * width);
        let value = value.min(largest).to_le_bytes();
        bytes[at..at + width].copy_from_slice(&value[..width]);
    }
}

impl TensorMap {
    /// The map as a kernel's opaque bytes. The map is [valid](TensorMap::validate).
    #[must_use]
    pub fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let mut put = |field: Field, value: u64| field.replace(&mut bytes, value);
        put(Field::GlobalAddress, self.address);
        for (dim, at) in (0u8..5).zip(0..self.dims.len()) {
            put(Field::GlobalDim(dim), self.dims[at]);
            put(Field::BoxDim(dim), self.box_dims[at].into());
            put(Field::ElementStride(dim), self.element_strides[at].into());
        }
        for (dim, stride) in (0u8..4).zip(&self.strides) {
            put(Field::GlobalStride(dim), *stride);
        }
        put(Field::Rank, self.dims.len() as u64 - 1);
        put(Field::ElementType, number(&TYPES, self.dtype));
        put(Field::Swizzle, number(&SWIZZLES, self.swizzle));
        put(Field::Fill, number(&FILLS, self.fill));
        bytes
    }

    /// The map that a kernel's bytes hold.
    ///
    /// # Errors
    /// When a field has no meaning or the map is not [valid](TensorMap::validate).
    pub fn decode(bytes: &[u8; BYTES]) -> Result<Self, DecodeError> {
        let at = |field: Field| field.place().map_or(0, |(at, _)| at);
        let number_of = |field: Field| usize::from(bytes[at(field)]);
        let unknown = |field: Field| DecodeError::Number { at: at(field), value: bytes[at(field)] };
        let rank = number_of(Field::Rank) + 1;
        if rank > 5 {
            return Err(unknown(Field::Rank));
        }
        if number_of(Field::Interleave) != 0 {
            return Err(DecodeError::Interleave);
        }
        let pick = |field: Field| number_of(field);
        let word = |from: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[from + i]));
        let map = Self {
            dtype: *TYPES.get(pick(Field::ElementType)).ok_or(unknown(Field::ElementType))?,
            swizzle: *SWIZZLES.get(pick(Field::Swizzle)).ok_or(unknown(Field::Swizzle))?,
            fill: *FILLS.get(pick(Field::Fill)).ok_or(unknown(Field::Fill))?,
            address: word(0),
            dims: (0..rank).map(|dim| word(DIMS + 8 * dim)).collect(),
            strides: (1..rank).map(|dim| word(STRIDES + 8 * (dim - 1))).collect(),
            box_dims: (0..rank)
                .map(|dim| u16::from_le_bytes([bytes[BOX + 2 * dim], bytes[BOX + 2 * dim + 1]]))
                .map(u32::from)
                .collect(),
            element_strides: bytes[ELEMENT_STRIDES..ELEMENT_STRIDES + rank]
                .iter()
                .copied()
                .map(u32::from)
                .collect(),
        };
        map.validate()?;
        Ok(map)
    }
}

/// PTX's number of a value.
fn number<T: PartialEq>(table: &[T], value: T) -> u64 {
    table.iter().take_while(|entry| **entry != value).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(rank: usize) -> TensorMap {
        TensorMap {
            dtype: TensorType::Bf16,
            address: 0x7f00_1230,
            dims: [64, 128, 3, 1 << 32, 7][..rank].to_vec(),
            strides: [128, 16384, 1 << 39, 32][..rank - 1].to_vec(),
            box_dims: [64, 256, 1, 2, 3][..rank].to_vec(),
            element_strides: [1, 8, 2, 1, 1][..rank].to_vec(),
            swizzle: Swizzle::B128,
            fill: Fill::Nan,
        }
    }

    #[test]
    fn maps_of_every_rank_survive_their_bytes() {
        for rank in 1..=5 {
            let map = example(rank);
            assert_eq!(TensorMap::decode(&map.encode()), Ok(map));
        }
    }

    #[test]
    fn replacing_every_field_of_zero_bytes_makes_a_map() {
        let mut bytes = [0; BYTES];
        for (field, value) in [
            (Field::GlobalAddress, 0x2000),
            (Field::Rank, 1),
            (Field::BoxDim(0), 64),
            (Field::BoxDim(1), 32),
            (Field::GlobalDim(0), 100),
            (Field::GlobalDim(1), 50),
            (Field::GlobalStride(0), 208),
            (Field::ElementStride(0), 1),
            (Field::ElementStride(1), 1),
            (Field::ElementType, 10),
            (Field::Swizzle, 3),
        ] {
            field.replace(&mut bytes, value);
        }
        let map = TensorMap::decode(&bytes).expect("a map");
        assert_eq!((map.dtype, map.swizzle), (TensorType::Bf16, Swizzle::B128));
        assert_eq!((map.dims, map.strides), (vec![100, 50], vec![208]));
    }

    #[test]
    fn bytes_without_a_meaning_are_refused() {
        assert!(TensorMap::decode(&[0; BYTES]).is_err());
        assert!(TensorMap::decode(&[0xff; BYTES]).is_err());
        let mut bytes = example(2).encode();
        Field::Interleave.replace(&mut bytes, 1);
        assert_eq!(TensorMap::decode(&bytes), Err(DecodeError::Interleave));
        let mut bytes = example(2).encode();
        Field::BoxDim(1).replace(&mut bytes, 1 << 20);
        assert_eq!(TensorMap::decode(&bytes), Err(MapError::Box(0xffff).into()));
        assert_eq!(Field::GlobalStride(4).place(), None);
    }
}
