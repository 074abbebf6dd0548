//! wgmma's 64-bit descriptors of a matrix in shared memory.
//!
//! | bits | field |
//! |---|---|
//! | 0–13 | start address / 16 |
//! | 16–29 | leading-dimension byte offset / 16 |
//! | 32–45 | stride-dimension byte offset / 16 |
//! | 49–51 | base offset |
//! | 62–63 | swizzle: 0 none, 1 128 bytes, 2 64 bytes, 3 32 bytes |
//!
//! An operand is made of core matrices of 8 × 16 bytes.
//! With `T` elements in 16 bytes, element `(mn, k)` lies, before the swizzle, at start plus
//!
//! - K-major, no swizzle: `mn mod 8 · 16 + mn div 8 · stride + k div T · leading + k mod T`;
//! - K-major, swizzled rows of W bytes: `mn mod 8 · W + mn div 8 · stride + k` (k in bytes; leading is not read);
//! - MN-major, no swizzle: `mn mod T + mn div T · stride + k mod 8 · 16 + k div 8 · leading`;
//! - MN-major, swizzled rows of W bytes: `mn mod W + mn div W · leading + k mod 8 · W + k div 8 · stride`
//!   (mn in bytes).
//!
//! The swizzle then exchanges 16-byte chunks by the address bits 7 to 9.

use super::swizzle::Swizzle;

/// Along which dimension an operand's elements are neighbours in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Major {
    /// Along k: the plain form of both operands.
    K,
    /// Along m or n: the form that `imm-trans` selects, for 16-bit elements only.
    Mn,
}

/// A decoded matrix descriptor; offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Start in shared memory.
    pub start: u32,
    /// Leading-dimension byte offset.
    pub leading: u32,
    /// Stride-dimension byte offset.
    pub stride: u32,
    /// Rows of 128 bytes by which the swizzle pattern starts after an aligned address.
    pub base_offset: u32,
    /// The swizzle.
    pub swizzle: Swizzle,
}

impl Descriptor {
    /// Reads the 64 bits of a register.
    #[must_use]
    pub fn decode(bits: u64) -> Self {
        let field = |low: u32| ((bits >> low & 0x3fff) as u32) << 4;
        Self {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base_offset: (bits >> 49 & 7) as u32,
            swizzle: match bits >> 62 {
                0 => Swizzle::None,
                1 => Swizzle::B128,
                2 => Swizzle::B64,
                _ => Swizzle::B32,
            },
        }
    }

    /// The 64 bits that [`Self::decode`] reads; offsets lose their lower four bits.
    #[must_use]
    pub fn encode(self) -> u64 {
        let field = |bytes: u32, low: u32| ((bytes >> 4) as u64 & 0x3fff) << low;
        let swizzle: u64 = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::B128 => 1,
            Swizzle::B64 => 2,
            Swizzle::B32 => 3,
        };
        let base = (self.base_offset as u64 & 7) << 49;
        field(self.start, 0)
            | field(self.leading, 16)
            | field(self.stride, 32)
            | base
            | swizzle << 62
    }

    /// The bits of a register that no field uses and that are not zero: a sign of a descriptor that is none.
    #[must_use]
    pub const fn stray_bits(bits: u64) -> u64 {
        let field = 0x3fff;
        bits & !(field | field << 16 | field << 32 | 7 << 49 | 3 << 62)
    }

    /// The shared-memory address of the first byte of element `(mn, k)` with `element_bytes` bytes,
    /// wrapped to the 18 bits that a descriptor can name.
    #[must_use]
    #[inline]
    pub const fn address(self, major: Major, element_bytes: u32, mn: u32, k: u32) -> u32 {
        let row = self.swizzle.row_bytes();
        let offset = match (major, self.swizzle) {
            (Major::K, Swizzle::None) => {
                let k = k * element_bytes;
                mn % 8 * 16 + mn / 8 * self.stride + k / 16 * self.leading + k % 16
            }
            (Major::K, _) => mn % 8 * row + mn / 8 * self.stride + k * element_bytes,
            (Major::Mn, Swizzle::None) => {
                let mn = mn * element_bytes;
                mn % 16 + mn / 16 * self.stride + k % 8 * 16 + k / 8 * self.leading
            }
            (Major::Mn, _) => {
                let mn = mn * element_bytes;
                mn % row + mn / row * self.leading + k % 8 * row + k / 8 * self.stride
            }
        };
        self.swizzle.apply_from(self.start + offset, self.base_offset) & 0x3_ffff
    }

    /// Whether the pattern of a swizzled operand starts where the base offset says: the start, without what it
    /// was advanced inside a row, is aligned to the pattern or stands as many rows of 128 bytes after it as
    /// the base offset.
    #[must_use]
    pub const fn pattern_is_aligned(self) -> bool {
        let phase = self.start % self.swizzle.pattern_bytes() / 128;
        matches!(self.swizzle, Swizzle::None)
            || phase == self.base_offset % (self.swizzle.pattern_bytes() / 128)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Offsets by the shape-and-stride notation in which CUTLASS writes the canonical layouts:
    /// `((8,m),(T,2)):((…),(…))` in elements, strides by hand.
    fn nested(shape: &[u32], stride: &[u32], mut index: u32) -> u32 {
        let mut offset = 0;
        for (extent, step) in shape.iter().zip(stride) {
            offset += index % extent * step;
            index /= extent;
        }
        offset
    }

    #[test]
    fn addresses_are_those_of_the_canonical_layouts() {
        for (swizzle, chunks) in
            [(Swizzle::None, 1), (Swizzle::B32, 2), (Swizzle::B64, 4), (Swizzle::B128, 8)]
        {
            let d = Descriptor {
                start: 0x4000,
                leading: 0x2000,
                stride: 0x800,
                base_offset: 0,
                swizzle,
            };
            for bytes in [1, 2, 4] {
                let t = 16 / bytes;
                let leading_k = if chunks == 1 { d.leading } else { 16 };
                for mn in 0..64 {
                    for k in 0..32 / bytes {
                        let rows = nested(&[8, 8], &[chunks * 16, d.stride], mn);
                        let columns = nested(&[t, 2], &[bytes, leading_k], k);
                        let expected = swizzle.apply(d.start + rows + columns);
                        assert_eq!(d.address(Major::K, bytes, mn, k), expected);
                    }
                }
            }
            let (block, depth) =
                if chunks == 1 { (d.stride, d.leading) } else { (d.leading, d.stride) };
            for mn in 0..128 {
                for k in 0..16 {
                    let rows = nested(&[8, chunks, 16], &[2, 16, block], mn);
                    let columns = nested(&[8, 2], &[chunks * 16, depth], k);
                    let expected = swizzle.apply(d.start + rows + columns);
                    assert_eq!(d.address(Major::Mn, 2, mn, k), expected & 0x3_ffff);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn descriptors_survive_encoding(bits in any::<u64>()) {
            let clean = bits & !Descriptor::stray_bits(bits);
            prop_assert_eq!(Descriptor::decode(bits).encode(), clean);
        }
    }

    #[test]
    fn a_descriptor_of_a_real_kernel_decodes() {
        // Start 0x400, stride 1,024 bytes, 128-byte swizzle: (64 << 32) | (1 << 62) | (0x400 >> 4).
        let d = Descriptor::decode(0x4000_0040_0000_0040);
        let expected = Descriptor {
            start: 0x400,
            leading: 0,
            stride: 1024,
            base_offset: 0,
            swizzle: Swizzle::B128,
        };
        assert_eq!(d, expected);
        assert!(d.pattern_is_aligned());
        assert!(Descriptor { start: 0x420, ..d }.pattern_is_aligned());
        assert!(!Descriptor { start: 0x480, ..d }.pattern_is_aligned());
        assert!(Descriptor { start: 0x480, base_offset: 1, ..d }.pattern_is_aligned());
    }
}
