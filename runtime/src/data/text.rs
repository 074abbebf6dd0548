//! A text as a stream of bytes.
//!
//! # Invariants
//! - A token is a byte; the whole text is valid UTF-8.

use super::{DataError, Tokens};

/// Fewest bytes that make a text.
pub const MIN_TEXT_BYTES: usize = 1024;

/// A text in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteText {
    bytes: Vec<u8>,
}

impl ByteText {
    /// Takes a text.
    ///
    /// # Errors
    /// [`DataError::ShortText`] below [`MIN_TEXT_BYTES`], [`DataError::NotUtf8`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, DataError> {
        if bytes.len() < MIN_TEXT_BYTES {
            return Err(DataError::ShortText { bytes: bytes.len() as u64 });
        }
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(ByteText { bytes }),
            Err(error) => Err(DataError::NotUtf8 { at: error.valid_up_to() }),
        }
    }

    /// The text.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Tokens for ByteText {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn vocab(&self) -> u32 {
        256
    }

    fn read(&self, start: u64, out: &mut [i32]) -> Result<(), DataError> {
        let end = start.saturating_add(out.len() as u64);
        let len = self.len();
        let window = if end <= len { self.bytes.get(start as usize..end as usize) } else { None };
        let window = window.ok_or(DataError::OutOfRange { start, end, len })?;
        for (id, byte) in out.iter_mut().zip(window) {
            *id = i32::from(*byte);
        }
        Ok(())
    }
}
