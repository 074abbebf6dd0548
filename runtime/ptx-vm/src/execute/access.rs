//! Loads and stores.
//!
//! # How
//! - Where all lanes lie in one memory they go together, a *wide* access; else, and where a check needs a closer
//!   look, lane by lane.

use super::engine::Engine;
use super::lanes::{At, Flow, lanes};
use super::place::{Fault, Place, Touch, WEAK, little_endian, mask_of, put};
use super::state::{OBJECT_BYTES, Warp};
use crate::check::{Access, Checker, WideAccess, finding};
use crate::memory::address_of;
use crate::module::{Address, Lanes, Order, Space, Transfer, WINDOW_BITS};

impl<const CHECK: bool> Engine<'_, CHECK> {
    pub(super) fn load(&mut self, warp: &mut Warp, at: &At, transfer: &Transfer) -> Flow {
        let regs = self.setup.module.list(transfer.regs);
        let Some(wide) = self.wide(warp, at, transfer) else {
            return self.load_by_lane(warp, at, transfer, regs);
        };
        if CHECK {
            self.follow_loads(warp, at, &wide);
        }
        match transfer.bytes {
            1 => self.load_wide::<1>(warp, at, (&wide, regs)),
            2 => self.load_wide::<2>(warp, at, (&wide, regs)),
            4 => self.load_wide::<4>(warp, at, (&wide, regs)),
            _ => self.load_wide::<8>(warp, at, (&wide, regs)),
        }
        if transfer.extend != 0 {
            for reg in regs {
                let into = &mut warp.rows[at.rows + *reg as usize];
                lanes(at.active).for_each(|lane| into.0[lane] = extended(into.0[lane], transfer));
            }
        }
        Flow::Next
    }

    /// The memory that the accesses of all active lanes lie in, aligned, if there is one and nothing in
    /// the way of their going together.
    #[inline]
    fn wide(&self, warp: &Warp, at: &At, transfer: &Transfer) -> Option<WideAccess> {
        let Address { base, offset, space } = transfer.at;
        let first = warp.first(at, base).wrapping_add(offset as u64);
        let is = |space: Space| first >> WINDOW_BITS == space.window() >> WINDOW_BITS;
        let (memory, start, len) = match space {
            Space::Shared => {
                (Place::Shared(warp.cta, 0), 0, self.ctas[warp.cta as usize].shared.len())
            }
            Space::Param => (Place::Param(0), 0, self.setup.params.len()),
            Space::Const => (Place::Const(0), 0, self.setup.constants.len()),
            Space::Generic if is(Space::Shared) => {
                let len = self.ctas[warp.cta as usize].shared.len();
                (Place::Shared(warp.cta, 0), Space::Shared.window(), len)
            }
            Space::Global | Space::Generic => {
                let (index, _) = self.setup.memory.find(first)?;
                let len = self.setup.memory.buffers[index].bytes.len();
                (Place::Buffer(index as u32, 0), address_of(index), len)
            }
            Space::SharedCluster | Space::Local => return None,
        };
        let bytes = u64::from(transfer.bytes) * u64::from(transfer.regs.len);
        let strong = CHECK && transfer.order != Order::Weak;
        if strong || !matches!(transfer.bytes, 1 | 2 | 4 | 8) {
            return None;
        }
        let row = at.rows + base as usize;
        let wide = WideAccess { memory, row, shift: (offset as u64).wrapping_sub(start), bytes };
        all_fit(&warp.rows[row], wide, at.active, len).then_some(wide)
    }

    /// Tells the checks of the loads of a wide access.
    fn follow_loads(&mut self, warp: &mut Warp, at: &At, wide: &WideAccess) {
        if !matches!(wide.memory, Place::Buffer(..) | Place::Shared(..)) {
            return;
        }
        let mut left = self.checker.glance::<false>(warp, (at, at.active), wide, |_| ());
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            let place = wide.memory.behind(wide.offset(warp, lane));
            self.touch(warp, at, lane, Access::of(place, wide.bytes, Touch::Read, WEAK));
            left = self.checker.glance::<false>(warp, (at, left & (left - 1)), wide, |_| ());
        }
    }

    #[inline]
    fn load_wide<const N: usize>(
        &self,
        warp: &mut Warp,
        at: &At,
        (wide, regs): (&WideAccess, &[u32]),
    ) {
        let slice = match wide.memory {
            Place::Buffer(index, _) => {
                let source = &self.setup.memory.buffers[index as usize].bytes;
                let load = |place| source.load(place, N).unwrap_or(0);
                return each_load::<N>(warp, at, (wide, regs), load);
            }
            Place::Shared(rank, _) => &self.ctas[rank as usize].shared,
            Place::Param(_) => &self.setup.params,
            _ => &self.setup.constants,
        };
        each_load::<N>(warp, at, (wide, regs), |place| little_endian(slice, place, N));
    }

    fn load_by_lane(
        &mut self,
        warp: &mut Warp,
        at: &At,
        transfer: &Transfer,
        regs: &[u32],
    ) -> Flow {
        let bytes = usize::from(transfer.bytes);
        let total = (bytes * regs.len()) as u64;
        let base = *warp.row(at, transfer.at.base);
        for lane in lanes(at.active) {
            let address = base.0[lane].wrapping_add(transfer.at.offset as u64);
            let place = match self.locate(warp, lane, (transfer.at.space, address), total) {
                Ok(place) => place,
                Err(fault) => return self.fault(warp, at, lane, fault),
            };
            if CHECK {
                let order = (transfer.order, transfer.scope);
                self.touch(warp, at, lane, Access::of(place, total, Touch::Read, order));
            }
            for (index, reg) in regs.iter().enumerate() {
                let bits = self.read(warp, lane, place.behind((index * bytes) as u64), bytes);
                warp.rows[at.rows + *reg as usize].0[lane] = extended(bits, transfer);
            }
        }
        Flow::Next
    }

    pub(super) fn store(&mut self, warp: &mut Warp, at: &At, transfer: &Transfer) -> Flow {
        let regs = self.setup.module.list(transfer.regs);
        if let Some(wide) = self.wide(warp, at, transfer)
            && self.may_store(&wide)
        {
            match transfer.bytes {
                1 => self.store_wide::<1>(warp, at, (&wide, transfer)),
                2 => self.store_wide::<2>(warp, at, (&wide, transfer)),
                4 => self.store_wide::<4>(warp, at, (&wide, transfer)),
                _ => self.store_wide::<8>(warp, at, (&wide, transfer)),
            }
            return Flow::Next;
        }
        let total = u64::from(transfer.bytes) * regs.len() as u64;
        for lane in lanes(at.active) {
            let address = self.address(warp, at, &transfer.at, lane);
            let place = match self.locate(warp, lane, (transfer.at.space, address), total) {
                Ok(place) => place,
                Err(fault) => return self.fault(warp, at, lane, fault),
            };
            if !self.store_lane(warp, (at, lane), place, transfer) {
                let message = "this memory cannot be written".to_owned();
                return self.fault(warp, at, lane, Fault { code: finding::ADDRESS, message });
            }
        }
        Flow::Next
    }

    /// Whether a wide access can be written without looking for mbarriers in it.
    fn may_store(&self, wide: &WideAccess) -> bool {
        match wide.memory {
            Place::Buffer(..) => true,
            Place::Shared(..) => !CHECK || self.objects.is_empty(),
            _ => false,
        }
    }

    /// Lane by lane, in order: of two lanes at one place the later one stays.
    #[inline]
    fn store_wide<const N: usize>(
        &mut self,
        warp: &mut Warp,
        at: &At,
        (wide, transfer): (&WideAccess, &Transfer),
    ) {
        let regs = self.setup.module.list(transfer.regs);
        let mut left = at.active;
        while left != 0 {
            let checker = &mut self.checker;
            left = match wide.memory {
                Place::Buffer(index, _) => {
                    let into = &self.setup.memory.buffers[index as usize].bytes;
                    let store = |place, bits| _ = into.store(place, N, bits);
                    each_store::<CHECK, N>(checker, warp, (at, left), (wide, regs), store)
                }
                Place::Shared(rank, _) => {
                    let into = &mut self.ctas[rank as usize].shared;
                    let store = |place, bits| put(into, place, N, bits);
                    each_store::<CHECK, N>(checker, warp, (at, left), (wide, regs), store)
                }
                _ => return,
            };
            if left != 0 {
                let lane = left.trailing_zeros() as usize;
                let place = wide.memory.behind(wide.offset(warp, lane));
                self.store_lane(warp, (at, lane), place, transfer);
                left &= left - 1;
            }
        }
    }

    /// Stores for one lane, at a place that was located; whether it can be written.
    fn store_lane(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        place: Place,
        transfer: &Transfer,
    ) -> bool {
        let regs = self.setup.module.list(transfer.regs);
        let bytes = usize::from(transfer.bytes);
        let part = |index: usize| place.behind((index * bytes) as u64);
        if CHECK {
            let total = (bytes * regs.len()) as u64;
            let order = (transfer.order, transfer.scope);
            let mut access = Access::of(place, total, Touch::Write, order);
            access.same_value = regs.iter().enumerate().all(|(index, reg)| {
                let new = warp.row(at, *reg).0[lane] & mask_of(bytes);
                self.read(warp, lane, part(index), bytes) == new
            });
            self.touch(warp, at, lane, access);
        }
        regs.iter().enumerate().all(|(index, reg)| {
            let bits = warp.row(at, *reg).0[lane];
            self.write(warp, lane, part(index), (bytes, bits))
        })
    }

    /// Reports a write, other than by `mbarrier`, onto an object that was not ended.
    pub(super) fn check_overwrite(
        &mut self,
        warp: &Warp,
        (at, lane): (&At, usize),
        (place, bytes): (Place, u64),
    ) {
        let Place::Shared(rank, first) = place else { return };
        let first = (rank, (first as u32).saturating_sub(OBJECT_BYTES - 1));
        let end = (rank, (place.offset() + bytes) as u32);
        if !self.objects.is_empty()
            && let Some(((_, offset), _)) = self.objects.range(first..end).next()
        {
            let message = format!("overwrites the mbarrier at {offset} of CTA {rank}");
            self.report(finding::MBARRIER_STATE, (warp, 1 << lane), at.pc, message);
        }
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

/// Whether the places of all active lanes lie within `len` bytes and are aligned.
#[inline]
fn all_fit(base: &Lanes, wide: WideAccess, active: u32, len: usize) -> bool {
    let Some(last) = (len as u64).checked_sub(wide.bytes) else { return false };
    let mut wrong = 0;
    for lane in 0..32 {
        let place = base.0[lane].wrapping_add(wide.shift);
        let outside = (place & (wide.bytes - 1)) | u64::from(place > last);
        wrong |= outside & 0u64.wrapping_sub(u64::from(active >> lane & 1));
    }
    wrong == 0
}

/// Loads for every active lane.
#[inline]
fn each_load<const N: usize>(
    warp: &mut Warp,
    at: &At,
    (wide, regs): (&WideAccess, &[u32]),
    load: impl Fn(usize) -> u64,
) {
    // A register that is loaded may be the one that the addresses are in.
    let base = warp.rows[wide.row];
    for (step, reg) in regs.iter().enumerate() {
        let place = |lane: usize| base.0[lane].wrapping_add(wide.shift) as usize + step * N;
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
}

/// Stores for the lanes `left`, up to the first that the checks must look at closely; gives those from
/// there on.
#[inline]
fn each_store<const CHECK: bool, const N: usize>(
    checker: &mut Checker,
    warp: &Warp,
    (at, left): (&At, u32),
    (wide, regs): (&WideAccess, &[u32]),
    mut store: impl FnMut(usize, u64),
) -> u32 {
    let mut store = |lane: usize| {
        let place = wide.offset(warp, lane) as usize;
        for (step, reg) in regs.iter().enumerate() {
            store(place + step * N, warp.row(at, *reg).0[lane]);
        }
    };
    if CHECK {
        return checker.glance::<true>(warp, (at, left), wide, store);
    }
    for lane in lanes(left) {
        store(lane);
    }
    0
}

fn extended(bits: u64, transfer: &Transfer) -> u64 {
    if transfer.extend == 0 {
        return bits;
    }
    let up = 64 - 8 * u32::from(transfer.bytes);
    ((bits << up) as i64 >> up) as u64 & (u64::MAX >> (64 - u32::from(transfer.extend)))
}
