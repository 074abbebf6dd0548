//! Bytes that several host threads may read and write at once, as a GPU's memory may.
//!
//! # Invariants
//! - Every access is a relaxed atomic of its own width. Host threads reach the same bytes at once only where
//!   a kernel has a data race; where the widths of such accesses differ, Rust promises nothing, and it is
//!   the processors of today that make it a wrong number at worst.
//! - The allocation is aligned to 8 bytes and zero at first.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// Shared bytes.
#[derive(Debug)]
pub(crate) struct SharedBytes {
    words: Box<[AtomicU64]>,
    len: usize,
}

impl SharedBytes {
    /// `len` zero bytes.
    pub(crate) fn zeros(len: usize) -> Self {
        // Zeroed by the allocator, so that memory nobody touches costs nothing.
        let words: Box<[u64]> = vec![0; len.div_ceil(8)].into_boxed_slice();
        // SAFETY: `AtomicU64` has the size, alignment and bit validity of `u64`, and the box is the only
        // owner of the words.
        let words = unsafe { Box::from_raw(Box::into_raw(words) as *mut [AtomicU64]) };
        Self { words, len }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The place of `bytes` bytes at `at`, if they lie inside and `at` is a multiple of `bytes`.
    #[inline]
    fn place(&self, at: usize, bytes: usize) -> Option<*mut u8> {
        let inside = at.checked_add(bytes).is_some_and(|end| end <= self.len);
        if !inside || !at.is_multiple_of(bytes) {
            return None;
        }
        let first: *mut u8 = self.words.as_ptr().cast_mut().cast();
        // SAFETY: `at + bytes` lies within the allocation of `words`, which holds at least `len` bytes.
        Some(unsafe { first.add(at) })
    }

    /// Little-endian bits of 1, 2, 4 or 8 bytes; `None` outside or at a crooked place.
    #[inline]
    pub(crate) fn load(&self, at: usize, bytes: usize) -> Option<u64> {
        let place = self.place(at, bytes)?;
        // SAFETY: `place` is inside the allocation, aligned to the width, lives as long as `self`, and
        // is reached through atomics only.
        Some(unsafe {
            match bytes {
                1 => AtomicU8::from_ptr(place).load(Relaxed).into(),
                2 => u16::from_le(AtomicU16::from_ptr(place.cast()).load(Relaxed)).into(),
                4 => u32::from_le(AtomicU32::from_ptr(place.cast()).load(Relaxed)).into(),
                8 => u64::from_le(AtomicU64::from_ptr(place.cast()).load(Relaxed)),
                _ => return None,
            }
        })
    }

    /// Writes the low `bytes` bytes of `bits`; `None` outside or at a crooked place.
    #[inline]
    pub(crate) fn store(&self, at: usize, bytes: usize, bits: u64) -> Option<()> {
        let place = self.place(at, bytes)?;
        // SAFETY: as in `load`.
        unsafe {
            match bytes {
                1 => AtomicU8::from_ptr(place).store(bits as u8, Relaxed),
                2 => AtomicU16::from_ptr(place.cast()).store((bits as u16).to_le(), Relaxed),
                4 => AtomicU32::from_ptr(place.cast()).store((bits as u32).to_le(), Relaxed),
                8 => AtomicU64::from_ptr(place.cast()).store(bits.to_le(), Relaxed),
                _ => return None,
            }
        }
        Some(())
    }

    /// Replaces a value by `f` of it, in one step, and gives the old one.
    pub(crate) fn update(&self, at: usize, bytes: usize, f: impl Fn(u64) -> u64) -> Option<u64> {
        let place = self.place(at, bytes)?;
        // SAFETY: as in `load`.
        unsafe {
            match bytes {
                2 => {
                    let cell = AtomicU16::from_ptr(place.cast());
                    let step = |old: u16| Some((f(u16::from_le(old).into()) as u16).to_le());
                    cell.fetch_update(Relaxed, Relaxed, step)
                        .ok()
                        .map(|old| u16::from_le(old).into())
                }
                4 => {
                    let cell = AtomicU32::from_ptr(place.cast());
                    let step = |old: u32| Some((f(u32::from_le(old).into()) as u32).to_le());
                    cell.fetch_update(Relaxed, Relaxed, step)
                        .ok()
                        .map(|old| u32::from_le(old).into())
                }
                8 => {
                    let cell = AtomicU64::from_ptr(place.cast());
                    let step = |old: u64| Some(f(u64::from_le(old)).to_le());
                    cell.fetch_update(Relaxed, Relaxed, step).ok().map(u64::from_le)
                }
                _ => None,
            }
        }
    }

    /// Copies `from` to `at`; what does not fit is left out.
    pub(crate) fn fill(&self, at: usize, from: &[u8]) {
        let (words, rest) = from.as_chunks::<8>();
        if at.is_multiple_of(8) {
            for (index, word) in words.iter().enumerate() {
                if self.store(at + 8 * index, 8, u64::from_le_bytes(*word)).is_none() {
                    // The last word does not fit whole.
                    self.fill_bytes(at + 8 * index, word);
                }
            }
            self.fill_bytes(at + 8 * words.len(), rest);
        } else {
            self.fill_bytes(at, from);
        }
    }

    fn fill_bytes(&self, at: usize, from: &[u8]) {
        for (index, byte) in from.iter().enumerate() {
            self.store(at + index, 1, (*byte).into());
        }
    }

    /// A copy of all bytes.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let whole = self.words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes());
        whole.take(self.len).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::SharedBytes;

    #[test]
    fn what_is_stored_is_loaded_at_every_width_and_nothing_outside() {
        let bytes = SharedBytes::zeros(20);
        assert_eq!(bytes.store(8, 8, 0x1122_3344_5566_7788), Some(()));
        assert_eq!(bytes.load(8, 1), Some(0x88));
        assert_eq!(bytes.load(10, 2), Some(0x5566));
        assert_eq!(bytes.load(12, 4), Some(0x1122_3344));
        assert_eq!(bytes.load(13, 4), None, "crooked");
        assert_eq!(bytes.load(16, 8), None, "beyond the end");
        assert_eq!(bytes.load(usize::MAX - 3, 4), None);
        assert_eq!(bytes.update(16, 4, |old| old + 5), Some(0));
        assert_eq!(bytes.to_vec()[16..], [5, 0, 0, 0]);
    }
}
