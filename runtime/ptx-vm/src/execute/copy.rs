//! `cp.async`: copies from global to shared memory that a thread waits for in groups.
//!
//! # Invariants
//! - The bytes are there at once; until the wait the checks treat them as in flight.

use super::access::{Place, Touch, WEAK};
use super::cluster::{Engine, lanes};
use super::state::{Copied, Warp};
use super::warp::{At, Flow};
use crate::check::Access;
use crate::module::CopyAsync;

impl<const CHECK: bool> Engine<'_, CHECK> {
    pub(super) fn copy_async(&mut self, warp: &mut Warp, at: &At, copy: &CopyAsync) -> Flow {
        let size = u64::from(copy.bytes);
        let ignored = copy.ignore.map_or(0, |literal| warp.holds(at, literal));
        for lane in lanes(at.active) {
            let to = self.address(warp, at, &copy.to, lane);
            let from = self.address(warp, at, &copy.from, lane);
            let wanted = copy.source_bytes.map_or(size, |row| warp.row(at, row).0[lane].min(size));
            let wanted = if ignored >> lane & 1 != 0 { 0 } else { wanted };
            let to = match self.locate(warp, lane, (copy.to.space, to), size) {
                Ok(place) => place,
                Err(fault) => return self.fault(warp, at, lane, fault),
            };
            let mut bytes = [0u8; 16];
            if wanted > 0 {
                // The address is aligned to the whole copy; only what is wanted must exist.
                let from =
                    match self.locate_part(warp, lane, (copy.from.space, from), (size, wanted)) {
                        Ok(place) => place,
                        Err(fault) => return self.fault(warp, at, lane, fault),
                    };
                if CHECK {
                    self.touch(warp, at, lane, Access::of(from, wanted, Touch::Read, WEAK));
                }
                for (index, byte) in bytes[..wanted as usize].iter_mut().enumerate() {
                    *byte = self.read(warp, lane, from.behind(index as u64), 1) as u8;
                }
            }
            self.land(warp, at, lane, to, &bytes[..size as usize]);
        }
        Flow::Next
    }

    fn land(&mut self, warp: &mut Warp, at: &At, lane: usize, to: Place, bytes: &[u8]) {
        if CHECK {
            let access = Access::of(to, bytes.len() as u64, Touch::Write, WEAK).in_flight();
            self.touch(warp, at, lane, access);
        }
        for (index, byte) in bytes.iter().enumerate() {
            self.write(warp, lane, to.behind(index as u64), (1, (*byte).into()));
        }
        if CHECK && let Place::Shared(_, offset) = to {
            let (lane, bytes) = (lane as u8, bytes.len() as u8);
            warp.open_copies.push(Copied { lane, at: offset as u32, bytes, pc: at.pc });
        }
    }

    /// `cp.async.commit_group`.
    pub(super) fn copy_commit(&mut self, warp: &mut Warp, at: &At) -> Flow {
        if CHECK {
            let mine = |copied: &Copied| at.active >> copied.lane & 1 != 0;
            let (group, left) = std::mem::take(&mut warp.open_copies).into_iter().partition(mine);
            warp.open_copies = left;
            warp.copy_groups.push_back((at.active, group));
        }
        Flow::Next
    }

    /// All copies of a lane have landed, as an arrival behind them says.
    pub(super) fn land_copies_of(&mut self, warp: &mut Warp, lane: usize) {
        let mine = |copied: &Copied| usize::from(copied.lane) == lane;
        let groups = warp.copy_groups.iter().flat_map(|(_, group)| group);
        let copies: Vec<Copied> =
            warp.open_copies.iter().chain(groups).filter(|copied| mine(copied)).copied().collect();
        for copied in copies {
            self.checker.landed(warp, copied);
        }
    }

    /// `cp.async.wait_group` and `wait_all`.
    pub(super) fn copy_wait(&mut self, warp: &mut Warp, at: &At, pending: Option<u32>) -> Flow {
        if !CHECK {
            return Flow::Next;
        }
        if pending.is_none() {
            self.copy_commit(warp, at);
        }
        let mut arrived = Vec::new();
        for lane in lanes(at.active) {
            let bit = 1u32 << lane;
            let committed = warp.copy_groups.iter().filter(|(lanes, _)| lanes & bit != 0).count();
            let mut done = committed.saturating_sub(pending.unwrap_or(0) as usize);
            for (lanes, group) in &mut warp.copy_groups {
                if done == 0 {
                    break;
                }
                if *lanes & bit == 0 {
                    continue;
                }
                done -= 1;
                *lanes &= !bit;
                arrived.extend(group.iter().filter(|copied| usize::from(copied.lane) == lane));
            }
        }
        warp.copy_groups.retain(|(lanes, _)| *lanes != 0);
        for copied in &arrived {
            self.checker.landed(warp, *copied);
        }
        Flow::Next
    }
}
