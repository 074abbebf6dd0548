//! The memory of devices that work in the host's.
//!
//! # Invariants
//! - One region for each storage; none moves while a session lives.

use super::cpu::memory::{Region, Span};
use super::{Piece, Storage};
use crate::RuntimeError;
use crate::session::MemoryUse;

/// A session's three storages.
pub(crate) struct HostMemory {
    tensors: Region,
    feeds: Region,
    arena: Region,
}

impl HostMemory {
    /// Zeroed memory.
    ///
    /// # Errors
    /// [`RuntimeError::Memory`] when the system refuses.
    pub(crate) fn new(sizes: MemoryUse) -> Result<Self, RuntimeError> {
        Ok(HostMemory {
            tensors: Region::new(sizes.tensors)?,
            feeds: Region::new(sizes.feeds)?,
            arena: Region::new(sizes.arena)?,
        })
    }

    fn region(&self, storage: Storage) -> &Region {
        match storage {
            Storage::Tensors => &self.tensors,
            Storage::Feeds => &self.feeds,
            Storage::Arena => &self.arena,
        }
    }

    fn region_mut(&mut self, storage: Storage) -> &mut Region {
        match storage {
            Storage::Tensors => &mut self.tensors,
            Storage::Feeds => &mut self.feeds,
            Storage::Arena => &mut self.arena,
        }
    }

    /// The bytes of a piece.
    pub(crate) fn get(&self, piece: Piece) -> &[u8] {
        self.region(piece.storage).get(piece.offset, piece.bytes).unwrap_or_default()
    }

    /// Sets the first bytes of a piece.
    pub(crate) fn set(&mut self, piece: Piece, bytes: &[u8]) {
        let len = piece.bytes.min(bytes.len() as u64);
        if let Some(target) = self.region_mut(piece.storage).get_mut(piece.offset, len) {
            target.copy_from_slice(&bytes[..len as usize]);
        }
    }

    /// A piece by address; `None` outside memory.
    pub(crate) fn span(&mut self, piece: Piece) -> Option<Span> {
        Span::of(self.region_mut(piece.storage), piece.offset, piece.bytes)
    }

    /// Fills the first bytes of the arena with NaN.
    pub(crate) fn poison(&mut self, bytes: u64) {
        self.arena.poison(bytes);
    }
}
