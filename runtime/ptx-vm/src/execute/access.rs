//! Loads and stores.
//!
//! # Invariants
//! - Every access is bounded and aligned whatever is checked; what is not is a finding that stops the
//!   cluster.

use super::cluster::{Engine, lanes, shared_place};
use super::state::Warp;
use super::warp::{At, Flow};
use crate::check::{Access, finding};
use crate::memory::address_of;
use crate::module::{Address, Lanes, Order, Row, Space, Transfer, WINDOW_BITS};

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

    pub(super) fn load(&mut self, warp: &mut Warp, at: &At, transfer: &Transfer) -> Flow {
        let setup = self.setup;
        let regs = setup.module.list(transfer.regs);
        if !CHECK && self.load_at_once(warp, at, transfer, regs) {
            return Flow::Next;
        }
        let bytes = usize::from(transfer.bytes);
        let total = (bytes * regs.len()) as u64;
        let base = *warp.row(at, transfer.at.base);
        for lane in lanes(at.active) {
            let address = base.0[lane].wrapping_add(transfer.at.offset as u64);
            let space = transfer.at.space;
            let place = match self.locate(warp, lane, (space, address), total) {
                Ok(place) => place,
                Err(fault) => return self.fault(warp, at, lane, fault),
            };
            if CHECK {
                let access =
                    Access::of(place, total, Touch::Read, (transfer.order, transfer.scope));
                self.touch(warp, at, lane, access);
            }
            for (index, reg) in regs.iter().enumerate() {
                let bits = self.read(warp, lane, place.behind((index * bytes) as u64), bytes);
                let bits = extended(bits, transfer);
                warp.rows[at.rows + *reg as usize].0[lane] = bits;
            }
        }
        Flow::Next
    }

    /// Loads from one buffer, shared memory or the parameters; false if any lane needs a closer look.
    fn load_at_once(
        &mut self,
        warp: &mut Warp,
        at: &At,
        transfer: &Transfer,
        regs: &[u32],
    ) -> bool {
        if transfer.extend != 0 {
            return false;
        }
        match transfer.bytes {
            1 => self.load_wide::<1>(warp, at, transfer, regs),
            2 => self.load_wide::<2>(warp, at, transfer, regs),
            4 => self.load_wide::<4>(warp, at, transfer, regs),
            8 => self.load_wide::<8>(warp, at, transfer, regs),
            _ => false,
        }
    }

    fn load_wide<const N: usize>(
        &mut self,
        warp: &mut Warp,
        at: &At,
        transfer: &Transfer,
        regs: &[u32],
    ) -> bool {
        let offset = transfer.at.offset as u64;
        let base = transfer.at.base;
        match transfer.at.space {
            Space::Global => {
                let memory = self.setup.memory;
                let first = warp.first(at, base).wrapping_add(offset);
                let Some((index, _)) = memory.find(first) else { return false };
                let shift = offset.wrapping_sub(address_of(index));
                let source = &memory.buffers[index].bytes;
                each_load::<N>(warp, at, (base, regs), (shift, source.len()), |place| {
                    source.load(place, N).unwrap_or(0)
                })
            }
            Space::Shared => {
                let source = &self.ctas[warp.cta as usize].shared;
                each_load::<N>(warp, at, (base, regs), (offset, source.len()), |place| {
                    little_endian(source, place, N)
                })
            }
            Space::Param => {
                let source = &self.setup.params;
                each_load::<N>(warp, at, (base, regs), (offset, source.len()), |place| {
                    little_endian(source, place, N)
                })
            }
            _ => false,
        }
    }

    pub(super) fn store(&mut self, warp: &mut Warp, at: &At, transfer: &Transfer) -> Flow {
        let setup = self.setup;
        let regs = setup.module.list(transfer.regs);
        if !CHECK && self.store_at_once(warp, at, transfer, regs) {
            return Flow::Next;
        }
        let bytes = usize::from(transfer.bytes);
        let total = (bytes * regs.len()) as u64;
        for lane in lanes(at.active) {
            let address = self.address(warp, at, &transfer.at, lane);
            let place = match self.locate(warp, lane, (transfer.at.space, address), total) {
                Ok(place) => place,
                Err(fault) => return self.fault(warp, at, lane, fault),
            };
            if CHECK {
                let order = (transfer.order, transfer.scope);
                let mut access = Access::of(place, total, Touch::Write, order);
                access.same_value = regs.iter().enumerate().all(|(index, reg)| {
                    let new = warp.row(at, *reg).0[lane] & mask_of(bytes);
                    self.read(warp, lane, place.behind((index * bytes) as u64), bytes) == new
                });
                self.touch(warp, at, lane, access);
            }
            for (index, reg) in regs.iter().enumerate() {
                let bits = warp.row(at, *reg).0[lane];
                let place = place.behind((index * bytes) as u64);
                if !self.write(warp, lane, place, (bytes, bits)) {
                    let message = "this memory cannot be written".to_owned();
                    return self.fault(warp, at, lane, Fault { code: finding::ADDRESS, message });
                }
            }
        }
        Flow::Next
    }

    fn store_at_once(&mut self, warp: &Warp, at: &At, transfer: &Transfer, regs: &[u32]) -> bool {
        match transfer.bytes {
            1 => self.store_wide::<1>(warp, at, transfer, regs),
            2 => self.store_wide::<2>(warp, at, transfer, regs),
            4 => self.store_wide::<4>(warp, at, transfer, regs),
            8 => self.store_wide::<8>(warp, at, transfer, regs),
            _ => false,
        }
    }

    fn store_wide<const N: usize>(
        &mut self,
        warp: &Warp,
        at: &At,
        transfer: &Transfer,
        regs: &[u32],
    ) -> bool {
        let offset = transfer.at.offset as u64;
        let base = transfer.at.base;
        match transfer.at.space {
            Space::Global => {
                let memory = self.setup.memory;
                let first = warp.first(at, base).wrapping_add(offset);
                let Some((index, _)) = memory.find(first) else { return false };
                let shift = offset.wrapping_sub(address_of(index));
                let into = &memory.buffers[index].bytes;
                let len = into.len();
                each_store::<N>(warp, at, (base, regs), (shift, len), |place, bits| {
                    into.store(place, N, bits);
                })
            }
            Space::Shared => {
                let into = &mut self.ctas[warp.cta as usize].shared;
                let len = into.len();
                each_store::<N>(warp, at, (base, regs), (offset, len), |place, bits| {
                    put(into, place, N, bits);
                })
            }
            _ => false,
        }
    }

    pub(crate) fn fault(&mut self, warp: &Warp, at: &At, lane: usize, fault: Fault) -> Flow {
        self.fail(fault.code, (warp, 1 << lane), at.pc, fault.message);
        Flow::Stop
    }

    /// Tells the checks of an access.
    pub(crate) fn touch(&mut self, warp: &mut Warp, at: &At, lane: usize, access: Access) {
        if access.touch != Touch::Read {
            self.check_overwrite(warp, (at, lane), (access.place, access.bytes));
        }
        if let Some(found) = self.checker.touch(warp, (at, lane), access) {
            self.report_raw(warp, found);
        }
    }
}

/// Whether `total` bytes at every active lane's place lie within `len` bytes and are aligned.
#[inline]
fn all_fit(base: &Lanes, active: u32, shift: u64, (total, len): (u64, usize)) -> bool {
    let Some(last) = (len as u64).checked_sub(total) else { return false };
    let mut wrong = 0;
    for lane in 0..32 {
        let place = base.0[lane].wrapping_add(shift);
        let outside = (place & (total - 1)) | u64::from(place > last);
        wrong |= outside & 0u64.wrapping_sub(u64::from(active >> lane & 1));
    }
    wrong == 0
}

/// Loads for every active lane, if all of them fit.
#[inline]
fn each_load<const N: usize>(
    warp: &mut Warp,
    at: &At,
    (base, regs): (Row, &[u32]),
    (shift, len): (u64, usize),
    load: impl Fn(usize) -> u64,
) -> bool {
    let base = *warp.row(at, base);
    if !all_fit(&base, at.active, shift, ((N * regs.len()) as u64, len)) {
        return false;
    }
    for (step, reg) in regs.iter().enumerate() {
        let place = |lane: usize| base.0[lane].wrapping_add(shift) as usize + step * N;
        let into = &mut warp.rows[at.rows + *reg as usize];
        if at.active == u32::MAX {
            for lane in 0..32 {
                into.0[lane] = load(place(lane));
            }
        } else {
            for lane in lanes(at.active) {
                into.0[lane] = load(place(lane));
            }
        }
    }
    true
}

/// Stores for every active lane, if all of them fit.
#[inline]
fn each_store<const N: usize>(
    warp: &Warp,
    at: &At,
    (base, regs): (Row, &[u32]),
    (shift, len): (u64, usize),
    mut store: impl FnMut(usize, u64),
) -> bool {
    let base = warp.row(at, base);
    if !all_fit(base, at.active, shift, ((N * regs.len()) as u64, len)) {
        return false;
    }
    // Lane by lane, as the slow road goes: of two lanes at one place the later one stays.
    for lane in lanes(at.active) {
        let place = base.0[lane].wrapping_add(shift) as usize;
        for (step, reg) in regs.iter().enumerate() {
            store(place + step * N, warp.row(at, *reg).0[lane]);
        }
    }
    true
}

fn local(warp: &Warp, lane: usize, address: u64) -> (Place, u64, u64) {
    (Place::Local(address), address, warp.local[lane].len() as u64)
}

fn extended(bits: u64, transfer: &Transfer) -> u64 {
    if transfer.extend == 0 {
        return bits;
    }
    let up = 64 - 8 * u32::from(transfer.bytes);
    ((bits << up) as i64 >> up) as u64 & (u64::MAX >> (64 - u32::from(transfer.extend)))
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

/// A weak access, to the widest scope.
pub(crate) const WEAK: (Order, crate::module::Scope) = (Order::Weak, crate::module::Scope::Device);
