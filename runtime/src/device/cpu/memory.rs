//! Raw memory of a session, and bounded typed views of it.
//!
//! # Invariants
//! - A [`Region`] never moves or shrinks while it lives; its address is aligned to a page.
//! - A [`Span`] lies inside a live region: whoever makes one has checked that.

use memmap2::MmapMut;

use crate::RuntimeError;

/// Alignment of every buffer, in bytes.
pub const ALIGNMENT: u64 = 64;

/// One zeroed allocation; pages are committed when first touched.
pub struct Region {
    map: MmapMut,
    bytes: u64,
}

impl Region {
    /// Allocates `bytes` bytes, asking for huge pages where there are any.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`] when the system refuses.
    pub fn new(bytes: u64) -> Result<Region, RuntimeError> {
        let fail = |source| RuntimeError::Memory { bytes, source };
        let len = usize::try_from(bytes.max(1))
            .map_err(|_| fail(std::io::Error::from(std::io::ErrorKind::OutOfMemory)))?;
        let map = MmapMut::map_anon(len).map_err(fail)?;
        #[cfg(target_os = "linux")]
        if len >= 2 << 20 {
            // Advice: without it the pages are merely smaller.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Region { map, bytes })
    }

    /// Bytes of the region.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Start of the region; stable while it lives.
    pub fn base(&mut self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// The bytes `[offset, offset + len)`, or `None` outside the region.
    pub fn get(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let end = offset.checked_add(len).filter(|end| *end <= self.bytes)?;
        self.map.get(offset as usize..end as usize)
    }

    /// The bytes `[offset, offset + len)`, writable, or `None` outside the region.
    pub fn get_mut(&mut self, offset: u64, len: u64) -> Option<&mut [u8]> {
        let end = offset.checked_add(len).filter(|end| *end <= self.bytes)?;
        self.map.get_mut(offset as usize..end as usize)
    }

    /// Fills the first `bytes` bytes with 0xFF: NaN as f32, f64 and bf16, −1 as i32.
    pub fn poison(&mut self, bytes: u64) {
        if let Some(bytes) = self.get_mut(0, bytes.min(self.bytes)) {
            bytes.fill(0xff);
        }
    }
}

/// Where a buffer's elements lie: an address and a number of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    base: *mut u8,
    bytes: u64,
}

// SAFETY: a span is an address; every access to it is made by code that answers for races itself.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Span {
    /// The part `[offset, offset + len)` of a region, or `None` outside it.
    pub fn of(region: &mut Region, offset: u64, len: u64) -> Option<Span> {
        region.get(offset, len)?;
        // SAFETY: the range was just found inside the region.
        let base = unsafe { region.base().add(offset as usize) };
        Some(Span { base, bytes: len })
    }

    /// The part `[offset, offset + len)` of this span, or `None` outside it.
    pub fn part(self, offset: u64, len: u64) -> Option<Span> {
        offset.checked_add(len).filter(|end| *end <= self.bytes)?;
        Some(Span { base: self.base.wrapping_add(offset as usize), bytes: len })
    }

    /// Start address.
    pub fn base(self) -> *mut u8 {
        self.base
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// Copies all bytes of `source` here (`memmove`); the lengths must agree.
    pub fn copy_from(self, source: Span) {
        debug_assert_eq!(self.bytes, source.bytes);
        let bytes = self.bytes.min(source.bytes) as usize;
        // SAFETY: both ranges lie inside live regions; `copy` allows them to overlap.
        unsafe { std::ptr::copy(source.base, self.base, bytes) }
    }

    /// The elements as i32, copied out.
    pub fn read_i32(self) -> Vec<i32> {
        let count = (self.bytes / 4) as usize;
        // SAFETY: the range lies inside a live region and no step is running; reads are unaligned
        // so that the offset of a view does not matter.
        (0..count).map(|i| unsafe { self.base.cast::<i32>().add(i).read_unaligned() }).collect()
    }

    /// The bytes, copied out.
    pub fn read_bytes(self) -> Vec<u8> {
        // SAFETY: the range lies inside a live region and no step is running.
        unsafe { std::slice::from_raw_parts(self.base, self.bytes as usize) }.to_vec()
    }

    /// Writes f32 values from the start; values beyond the end are dropped.
    pub fn write_f32(self, values: &[f32]) {
        let count = values.len().min((self.bytes / 4) as usize);
        for (i, value) in values.iter().take(count).enumerate() {
            // SAFETY: `i` is below the number of f32 that fit; no step is running.
            unsafe { self.base.cast::<f32>().add(i).write_unaligned(*value) }
        }
    }
}
