//! Where an address leads: windows of state spaces, bounds, alignment; bytes there.
//!
//! # Invariants
//! - Every access is bounded and aligned whatever is checked; what is not is a finding that stops the
//!   cluster.

use super::engine::Engine;
use super::lanes::{At, Flow};
use super::state::Warp;
use crate::check::finding;
use crate::module::{Address, Order, SHARED_RANK_SHIFT, Scope, Space, WINDOW_BITS};

/// Where an address leads, and the offset there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Buffer(u32, u64),
    /// Rank of the CTA.
    Shared(u32, u64),
    Local(u64),
    Const(u64),
    Param(u64),
}

/// Why an address leads nowhere.
pub(crate) struct Fault {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

/// What an instruction does to memory, for the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Write,
    Atomic,
}

impl Place {
    /// The place `bytes` further on.
    pub(crate) fn behind(self, bytes: u64) -> Self {
        match self {
            Self::Buffer(index, at) => Self::Buffer(index, at + bytes),
            Self::Shared(rank, at) => Self::Shared(rank, at + bytes),
            Self::Local(at) => Self::Local(at + bytes),
            Self::Const(at) => Self::Const(at + bytes),
            Self::Param(at) => Self::Param(at + bytes),
        }
    }

    /// Bytes from the beginning of its memory.
    pub(crate) fn offset(self) -> u64 {
        match self {
            Self::Buffer(_, at)
            | Self::Shared(_, at)
            | Self::Local(at)
            | Self::Const(at)
            | Self::Param(at) => at,
        }
    }

    /// How many bytes further on than `first` it lies, if that is in the same memory.
    pub(crate) fn distance_from(self, first: Self) -> Option<u64> {
        match (first, self) {
            (Self::Buffer(a, from), Self::Buffer(b, to))
            | (Self::Shared(a, from), Self::Shared(b, to))
                if a == b =>
            {
                to.checked_sub(from)
            }
            _ => None,
        }
    }
}

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// The address of an operand for one lane.
    #[inline]
    pub(crate) fn address(&self, warp: &Warp, at: &At, address: &Address, lane: usize) -> u64 {
        warp.row(at, address.base).0[lane].wrapping_add(address.offset as u64)
    }

    /// Resolves `bytes` bytes at an address for one lane, aligned to `bytes`.
    pub(crate) fn locate(
        &self,
        warp: &Warp,
        lane: usize,
        (space, address): (Space, u64),
        bytes: u64,
    ) -> Result<Place, Fault> {
        self.locate_part(warp, lane, (space, address), (bytes, bytes))
    }

    /// As [`Engine::locate`], but of the aligned `bytes` only the first `wanted` must exist.
    pub(crate) fn locate_part(
        &self,
        warp: &Warp,
        lane: usize,
        (space, address): (Space, u64),
        (bytes, wanted): (u64, u64),
    ) -> Result<Place, Fault> {
        let window = address >> WINDOW_BITS;
        let inside = address & ((1 << WINDOW_BITS) - 1);
        let index = |space: Space| space.window() >> WINDOW_BITS;
        let (place, offset, len) = match space {
            Space::Generic if window == index(Space::Shared) => self.shared(warp, inside)?,
            Space::Generic if window == index(Space::Local) => local(warp, lane, inside),
            Space::Generic if window == index(Space::Const) => self.constant(inside),
            Space::Generic if window == index(Space::Param) => self.param(inside),
            Space::Generic | Space::Global => self.global(space, address)?,
            Space::Shared => self.own_shared(warp, address)?,
            Space::SharedCluster => self.shared(warp, address)?,
            Space::Local => local(warp, lane, address),
            Space::Const => self.constant(address),
            Space::Param => self.param(address),
        };
        if offset.checked_add(wanted).is_none_or(|end| end > len) {
            return Err(self.outside(place, offset, len, wanted));
        }
        if !(address % bytes == 0 && offset % bytes == 0) {
            let message = format!("{bytes} bytes at address {address:#x}, no multiple of {bytes}");
            return Err(Fault { code: finding::ALIGNMENT, message });
        }
        Ok(place)
    }

    fn global(&self, space: Space, address: u64) -> Result<(Place, u64, u64), Fault> {
        let memory = self.setup.memory;
        let Some((index, offset)) = memory.find(address) else {
            let name = space.name();
            let message = match address {
                0 => "address 0".to_owned(),
                _ => format!("{address:#x} is no {name} address"),
            };
            return Err(Fault { code: finding::ADDRESS, message });
        };
        Ok((Place::Buffer(index as u32, offset), offset, memory.buffers[index].bytes.len() as u64))
    }

    fn shared(&self, warp: &Warp, address: u64) -> Result<(Place, u64, u64), Fault> {
        // A small negative number is an address before the window, not a foreign one.
        if (address as i64).unsigned_abs() > u64::from(u32::MAX) {
            let message = format!("{address:#x} is no shared address");
            return Err(Fault { code: finding::ADDRESS, message });
        }
        let (rank, offset) = shared_place(address, warp.cta);
        let Some(cta) = self.ctas.get(rank as usize) else {
            let message =
                format!("the shared address {address:#x} names CTA {rank} of the cluster");
            return Err(Fault { code: finding::BOUNDS, message });
        };
        if rank != warp.cta && cta.live.iter().all(|live| *live == 0) {
            let message = format!("shared memory of CTA {rank} of the cluster, which has exited");
            return Err(Fault { code: finding::ADDRESS, message });
        }
        Ok((Place::Shared(rank, offset.into()), offset.into(), cta.shared.len() as u64))
    }

    /// `.shared` is the memory of the own CTA.
    fn own_shared(&self, warp: &Warp, address: u64) -> Result<(Place, u64, u64), Fault> {
        let found = self.shared(warp, address)?;
        match found.0 {
            Place::Shared(rank, _) if rank != warp.cta => {
                let message =
                    format!("{address:#x} is shared memory of CTA {rank}, not of the own CTA");
                Err(Fault { code: finding::ADDRESS, message })
            }
            _ => Ok(found),
        }
    }

    fn constant(&self, address: u64) -> (Place, u64, u64) {
        (Place::Const(address), address, self.setup.constants.len() as u64)
    }

    fn param(&self, address: u64) -> (Place, u64, u64) {
        (Place::Param(address), address, self.setup.params.len() as u64)
    }

    fn outside(&self, place: Place, offset: u64, len: u64, bytes: u64) -> Fault {
        let what = match place {
            Place::Buffer(index, _) => {
                format!("buffer `{}`", self.setup.memory.buffers[index as usize].name)
            }
            Place::Shared(..) => "shared memory".to_owned(),
            Place::Local(_) => "local memory".to_owned(),
            Place::Const(_) => "constant memory".to_owned(),
            Place::Param(_) => "the parameters".to_owned(),
        };
        let offset = offset as i64;
        let message = format!("{bytes} bytes at offset {offset} of {what}, which has {len} bytes");
        Fault { code: finding::BOUNDS, message }
    }

    /// Ends the cluster for an access that leads nowhere.
    pub(crate) fn fault(&mut self, warp: &Warp, at: &At, lane: usize, fault: Fault) -> Flow {
        self.fail(fault.code, (warp, 1 << lane), at.pc, fault.message);
        Flow::Stop
    }

    /// Little-endian bits at a place that was located.
    #[inline]
    pub(crate) fn read(&self, warp: &Warp, lane: usize, place: Place, bytes: usize) -> u64 {
        let (memory, at) = match place {
            Place::Buffer(index, at) => {
                let buffer = &self.setup.memory.buffers[index as usize];
                return buffer.bytes.load(at as usize, bytes).unwrap_or(0);
            }
            Place::Shared(rank, at) => (&self.ctas[rank as usize].shared[..], at),
            Place::Local(at) => (&warp.local[lane][..], at),
            Place::Const(at) => (&self.setup.constants[..], at),
            Place::Param(at) => (&self.setup.params[..], at),
        };
        little_endian(memory, at as usize, bytes)
    }

    /// Writes the low bytes of `bits` to a place that was located; whether it can be written.
    #[inline]
    pub(crate) fn write(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        place: Place,
        (bytes, bits): (usize, u64),
    ) -> bool {
        let (memory, at) = match place {
            Place::Buffer(index, at) => {
                let buffer = &self.setup.memory.buffers[index as usize];
                return buffer.bytes.store(at as usize, bytes, bits).is_some();
            }
            Place::Shared(rank, at) => (&mut self.ctas[rank as usize].shared[..], at),
            Place::Local(at) => (&mut warp.local[lane][..], at),
            Place::Const(_) | Place::Param(_) => return false,
        };
        put(memory, at as usize, bytes, bits);
        true
    }
}

/// The rank and the offset of a shared-memory address, as seen by the CTA `own`.
#[inline]
pub(crate) fn shared_place(address: u64, own: u32) -> (u32, u32) {
    let rank = (address as u32) >> SHARED_RANK_SHIFT;
    let offset = address as u32 & ((1 << SHARED_RANK_SHIFT) - 1);
    (if rank == 0 { own } else { rank - 1 }, offset)
}

fn local(warp: &Warp, lane: usize, address: u64) -> (Place, u64, u64) {
    (Place::Local(address), address, warp.local[lane].len() as u64)
}

/// Ones in the low `bytes` bytes.
pub(crate) fn mask_of(bytes: usize) -> u64 {
    u64::MAX >> (64 - 8 * bytes.clamp(1, 8))
}

/// Up to eight bytes of a slice, which holds them.
#[inline]
pub(crate) fn little_endian(memory: &[u8], at: usize, bytes: usize) -> u64 {
    let found = &memory[at..at + bytes];
    match *found {
        [a] => a.into(),
        [a, b] => u16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => found.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte)),
    }
}

/// Writes up to eight bytes into a slice, which has them.
#[inline]
pub(crate) fn put(memory: &mut [u8], at: usize, bytes: usize, bits: u64) {
    memory[at..at + bytes].copy_from_slice(&bits.to_le_bytes()[..bytes]);
}

/// A weak access, to the widest scope.
pub(crate) const WEAK: (Order, Scope) = (Order::Weak, Scope::Device);
