//! The swizzles of shared memory that TMA writes and wgmma reads.
//!
//! A swizzle exchanges 16-byte chunks within a row of 32, 64 or 128 bytes: the chunk's number is xor-ed with
//! the row's number modulo the chunks of a row. On byte addresses that is: bits 4 and up, as many as the mode
//! has, are xor-ed with the same number of bits from bit 7 up.

/// A swizzle mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Swizzle {
    /// Addresses stay.
    #[default]
    None,
    /// Rows of 32 bytes; the pattern repeats after 256 bytes.
    B32,
    /// Rows of 64 bytes; the pattern repeats after 512 bytes.
    B64,
    /// Rows of 128 bytes; the pattern repeats after 1,024 bytes.
    B128,
}

impl Swizzle {
    /// Bytes of a swizzled row; without a swizzle, of a chunk.
    #[must_use]
    pub const fn row_bytes(self) -> u32 {
        match self {
            Self::None => 16,
            Self::B32 => 32,
            Self::B64 => 64,
            Self::B128 => 128,
        }
    }

    /// Bytes after which the pattern repeats, and to which a swizzled tile is aligned.
    #[must_use]
    pub const fn pattern_bytes(self) -> u32 {
        self.row_bytes() * 8
    }

    const fn mask(self) -> u32 {
        self.row_bytes() / 16 - 1
    }

    /// Where the byte that would lie at the shared-memory address `address` lies.
    /// The mapping is its own inverse.
    #[must_use]
    #[inline]
    pub const fn apply(self, address: u32) -> u32 {
        self.apply_from(address, 0)
    }

    /// As [`Self::apply`], for a pattern that starts `base` rows of 128 bytes after an aligned address.
    #[must_use]
    #[inline]
    pub const fn apply_from(self, address: u32, base: u32) -> u32 {
        address ^ (((address >> 7).wrapping_sub(base) & self.mask()) << 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_swizzle_is_the_published_eight_by_eight_pattern() {
        // Row r of eight chunks holds chunk c at position c ^ r.
        for row in 0..8 {
            for chunk in 0..8 {
                let at = Swizzle::B128.apply(1024 + row * 128 + chunk * 16 + 5);
                assert_eq!(at, 1024 + row * 128 + (chunk ^ row) * 16 + 5);
            }
        }
    }

    #[test]
    fn narrow_swizzles_change_every_second_or_fourth_row() {
        // Rows of 64 bytes: pairs of rows share a pattern. Rows of 32 bytes: groups of four do.
        let b64: Vec<u32> = (0..8).map(|row| Swizzle::B64.apply(row * 64) / 16 % 4).collect();
        assert_eq!(b64, [0, 0, 1, 1, 2, 2, 3, 3]);
        let b32: Vec<u32> = (0..8).map(|row| Swizzle::B32.apply(row * 32) / 16 % 2).collect();
        assert_eq!(b32, [0, 0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn a_swizzle_permutes_its_pattern_and_undoes_itself() {
        for mode in [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128] {
            let bytes = mode.pattern_bytes();
            let mut seen = vec![false; bytes as usize];
            for address in 0..bytes {
                let moved = mode.apply(address);
                assert_eq!(mode.apply(moved), address);
                assert!(!std::mem::replace(&mut seen[moved as usize], true));
            }
        }
    }
}
