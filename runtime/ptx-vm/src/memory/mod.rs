//! Global memory as buffers, each in an address window of its own.
//!
//! # Invariants
//! - An address belongs to at most one buffer, and an offset from a buffer never reaches another one.

mod bytes;

use crate::module::{BUFFER_START, FIRST_BUFFER_WINDOW, WINDOW_BITS};
pub(crate) use bytes::SharedBytes;

/// The most bytes that all buffers may take together.
pub const MAX_MEMORY_BYTES: u64 = 16 << 30;

/// A buffer in global memory.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) name: String,
    pub(crate) bytes: SharedBytes,
    /// Which bytes have a value; `None` where all have.
    pub(crate) known: Option<Vec<bool>>,
}

/// Global memory.
///
/// # Examples
/// ```
/// let mut memory = perilune_ptx_vm::Memory::default();
/// let address = memory.allocate("x", &[1, 2, 3, 4]).expect("it is small");
/// assert_eq!(memory.read("x").as_deref(), Some(&[1, 2, 3, 4][..]));
/// assert_eq!(address % 256, 0);
/// ```
#[derive(Debug, Default)]
pub struct Memory {
    pub(crate) buffers: Vec<Buffer>,
    total: u64,
}

impl Memory {
    /// A new buffer with these bytes; its generic address, or `None` beyond [`MAX_MEMORY_BYTES`].
    pub fn allocate(&mut self, name: &str, bytes: &[u8]) -> Option<u64> {
        let address = self.reserve(name, bytes.len() as u64)?;
        if let Some(buffer) = self.buffers.last() {
            buffer.bytes.fill(0, bytes);
        }
        Some(address)
    }

    /// A new buffer with these bytes, of which those have a value that `known` says, one for one;
    /// reading others before they are written is a finding. `None` also if the lengths differ.
    pub fn allocate_known(&mut self, name: &str, bytes: &[u8], known: Vec<bool>) -> Option<u64> {
        if bytes.len() != known.len() {
            return None;
        }
        let address = self.allocate(name, bytes)?;
        self.buffers.last_mut()?.known = Some(known);
        Some(address)
    }

    /// A new buffer of `bytes` bytes that nothing wrote yet; reading it before is a finding.
    pub fn allocate_uninitialised(&mut self, name: &str, bytes: u64) -> Option<u64> {
        let address = self.reserve(name, bytes)?;
        let buffer = self.buffers.last_mut()?;
        buffer.known = Some(vec![false; buffer.bytes.len()]);
        Some(address)
    }

    /// A new buffer of zeros.
    pub fn allocate_zeros(&mut self, name: &str, bytes: u64) -> Option<u64> {
        self.reserve(name, bytes)
    }

    fn reserve(&mut self, name: &str, bytes: u64) -> Option<u64> {
        self.total = self.total.checked_add(bytes).filter(|total| *total <= MAX_MEMORY_BYTES)?;
        let index = self.buffers.len();
        let bytes = SharedBytes::zeros(usize::try_from(bytes).ok()?);
        self.buffers.push(Buffer { name: name.to_owned(), bytes, known: None });
        Some(address_of(index))
    }

    /// The index of the buffer `name`.
    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.buffers.iter().position(|buffer| buffer.name == name)
    }

    /// The generic address of a buffer.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        self.index(name).map(address_of)
    }

    /// A copy of a buffer's bytes.
    #[must_use]
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        self.index(name).map(|index| self.buffers[index].bytes.to_vec())
    }

    /// Which bytes of a buffer have a value: after a launch that checked it, also those it wrote.
    /// `None` for a buffer all of whose bytes had one from the start.
    #[must_use]
    pub fn known(&self, name: &str) -> Option<&[bool]> {
        self.buffers[self.index(name)?].known.as_deref()
    }

    /// Overwrites the beginning of a buffer; `None` if it does not exist or is shorter.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Option<()> {
        let buffer = &self.buffers[self.index(name)?];
        if bytes.len() > buffer.bytes.len() {
            return None;
        }
        buffer.bytes.fill(0, bytes);
        Some(())
    }

    /// The buffer that the window of `address` belongs to, and the offset in it, which may lie outside.
    #[inline]
    pub(crate) fn find(&self, address: u64) -> Option<(usize, u64)> {
        let window = address >> WINDOW_BITS;
        let index = usize::try_from(window.checked_sub(FIRST_BUFFER_WINDOW)?).ok()?;
        let start = (window << WINDOW_BITS) + BUFFER_START;
        (index < self.buffers.len()).then(|| (index, address.wrapping_sub(start)))
    }
}

/// The generic address of the buffer `index`.
pub(crate) fn address_of(index: usize) -> u64 {
    ((index as u64 + FIRST_BUFFER_WINDOW) << WINDOW_BITS) + BUFFER_START
}
