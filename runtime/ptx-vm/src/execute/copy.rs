//! `cp.async`: copies from global to shared memory that a thread waits for in groups.
//!
//! # Invariants
//! - The bytes are there at once; until the wait the checks treat them as in flight.

use super::engine::Engine;
use super::lanes::{At, Flow, lanes};
use super::place::{Place, Touch, WEAK};
use super::state::{Copied, Warp};
use crate::check::{Access, MAX_GROUPS, finding};
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
        if CHECK && let Some(message) = self.checker.overflow() {
            self.fail(finding::STEPS, (warp, at.active), at.pc, message);
            return Flow::Stop;
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
            self.checker.count_copies(1, 0);
        }
    }

    /// `cp.async.commit_group`.
    pub(super) fn copy_commit(&mut self, warp: &mut Warp, at: &At) -> Flow {
        if CHECK {
            let mine = |copied: &Copied| at.active >> copied.lane & 1 != 0;
            let (group, left) = std::mem::take(&mut warp.open_copies).into_iter().partition(mine);
            warp.open_copies = left;
            warp.copy_groups.push_back((at.active, group));
            // Of too many groups the oldest two are one.
            if warp.copy_groups.len() > MAX_GROUPS
                && let Some(mut oldest) = warp.copy_groups.pop_front()
                && let Some((lanes, copies)) = warp.copy_groups.pop_front()
            {
                oldest.0 |= lanes;
                oldest.1.extend(copies);
                warp.copy_groups.push_front(oldest);
            }
            drop_done(warp);
        }
        Flow::Next
    }

    /// All copies of a lane have landed, as an arrival behind them says.
    pub(super) fn land_copies_of(&mut self, warp: &mut Warp, lane: usize) {
        let mine = |copied: &mut Copied| usize::from(copied.lane) == lane;
        let mut landed: Vec<Copied> = warp.open_copies.extract_if(.., mine).collect();
        for (_, group) in &mut warp.copy_groups {
            landed.extend(group.extract_if(.., mine));
        }
        drop_done(warp);
        self.land_all(warp, &landed);
    }

    fn land_all(&mut self, warp: &mut Warp, landed: &[Copied]) {
        self.checker.count_copies(0, landed.len());
        for copied in landed {
            self.checker.landed(warp, *copied);
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
                arrived.extend(group.extract_if(.., |copied| usize::from(copied.lane) == lane));
            }
        }
        drop_done(warp);
        self.land_all(warp, &arrived);
        Flow::Next
    }
}

/// Forgets groups that every lane has waited for, and the oldest ones without a copy in flight.
fn drop_done(warp: &mut Warp) {
    warp.copy_groups.retain(|(lanes, _)| *lanes != 0);
    while warp.copy_groups.front().is_some_and(|(_, group)| group.is_empty()) {
        warp.copy_groups.pop_front();
    }
}
