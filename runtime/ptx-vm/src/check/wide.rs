//! Plain accesses of a warp's lanes, as long as a glance at the last accesses settles each.
//!
//! # How
//! - A glance is enough where memory is divided finely enough, every byte that is read has a value, and the
//!   last accesses are the thread's own or older than the last barrier of the whole CTA.
//! - At the first lane where it is not, the walk stops; that lane's access is followed in full.
//!
//! # Invariants
//! - A glance notes what following the access in full would note, and finds nothing.

use super::clock::Stamp;
use super::shadow::Page;
use super::{Checker, IN_FLIGHT};
use crate::execute::{At, Place, Warp, lanes};
use crate::module::Lanes;

/// An access of all active lanes to one memory.
pub(crate) struct WideAccess {
    /// The memory, whatever the offset in it.
    pub(crate) memory: Place,
    /// By lane; with `shift` added, the offset of its access.
    pub(crate) base: Lanes,
    pub(crate) shift: u64,
    /// Bytes that each lane accesses, and a power of two that its offset is a multiple of.
    pub(crate) bytes: u64,
}

impl WideAccess {
    /// The offset of a lane's access.
    #[inline]
    pub(crate) fn offset(&self, lane: usize) -> u64 {
        self.base.0[lane].wrapping_add(self.shift)
    }
}

/// Whether an access was the stamp's thread's own, or is older than the CTA's last barrier.
#[inline]
fn is_past(other: &Stamp, now: &Stamp) -> bool {
    let own = other.cta == now.cta && other.flags & IN_FLIGHT == 0;
    other.cta == 0 || (own && (other.generation < now.generation || other.thread == now.thread))
}

/// Notes the access `now` in a page, if all accesses before are past; else it may stay unnoted.
#[inline]
fn note<const WRITES: bool>(page: &mut Page, offset: u64, bytes: u64, now: &Stamp) -> Option<()> {
    for index in page.granules(offset, bytes)? {
        if page.seconds.get(index).is_some_and(|second| second.cta != 0) {
            return None;
        }
        if WRITES {
            let write = page.writes.get_mut(index).filter(|write| is_past(write, now))?;
            if let Some(read) = page.reads.get_mut(index) {
                if !is_past(read, now) {
                    return None;
                }
                *read = Stamp::default();
            }
            *write = *now;
        } else {
            if page.writes.get(index).is_some_and(|write| !is_past(write, now)) {
                return None;
            }
            *page.reads.get_mut(index).filter(|read| is_past(read, now))? = *now;
        }
    }
    Some(())
}

/// Whether every byte that is read has a value, or all that are written get one.
#[inline]
fn initialised<const WRITES: bool>(known: &mut [bool], offset: u64, bytes: u64) -> Option<()> {
    let known = known.get_mut(offset as usize..(offset + bytes) as usize)?;
    if WRITES {
        known.iter_mut().for_each(|known| *known = true);
        return Some(());
    }
    known.iter().all(|known| *known).then_some(())
}

impl Checker {
    /// Follows reads or, with `WRITES`, writes of the lanes `left`, lowest first, and calls `done` for
    /// each of them; gives the lanes from the first on that a glance does not settle.
    #[inline]
    pub(crate) fn glance<const WRITES: bool>(
        &mut self,
        warp: &Warp,
        (at, left): (&At, u32),
        wide: &WideAccess,
        mut done: impl FnMut(usize),
    ) -> u32 {
        let Some(region) = self.history.region(wide.memory) else { return left };
        let (checks, clocks) = (self.checks, &self.clocks[warp.cta as usize]);
        for lane in lanes(left) {
            let offset = wide.offset(lane);
            let now = clocks.stamp((warp.index * 32 + lane as u32) as u16, at.pc, 0);
            let (page, inside, known) = region.page(offset);
            let has_value = match known.filter(|_| checks.uninitialised) {
                Some(known) => initialised::<WRITES>(known, offset, wide.bytes),
                None => Some(()),
            };
            let noted = match page.filter(|_| checks.races) {
                Some(page) => note::<WRITES>(page, inside, wide.bytes, &now),
                None => Some(()),
            };
            if has_value.and(noted).is_none() {
                return left & u32::MAX << lane;
            }
            done(lane);
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::clock::Clocks;
    use super::super::race::follow;
    use super::super::shadow::History;
    use super::*;
    use crate::execute::Touch;
    use crate::module::{Order, Scope};
    use proptest::prelude::*;

    const BYTES: u64 = 96;
    const MEMORY: Place = Place::Buffer(0, 0);

    /// Something that happens to a CTA of 64 threads.
    #[derive(Clone, Debug)]
    enum Event {
        Access {
            thread: u16,
            offset: u64,
            bytes: u64,
            writes: bool,
        },
        /// A barrier for all.
        Meet,
        /// One thread hands to another what it knows.
        Tell {
            from: usize,
            to: usize,
        },
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let access =
            (0u16..6, 0..BYTES, 0u32..5, any::<bool>()).prop_map(|(thread, at, wide, writes)| {
                let bytes = 1 << wide;
                Event::Access { thread: 11 * thread, offset: at / bytes * bytes, bytes, writes }
            });
        let tell = (0usize..6, 0usize..6)
            .prop_map(|(from, to)| Event::Tell { from: 11 * from, to: 11 * to });
        let event = prop_oneof![12 => access, 2 => Just(Event::Meet), 3 => tell];
        proptest::collection::vec(event, 1..60)
    }

    /// What an access races with, followed in full.
    fn in_full(
        history: &mut History,
        clocks: &Clocks,
        now: &Stamp,
        access: Access,
    ) -> Option<Stamp> {
        let mut conflict = None;
        history.visit(access.place, access.bytes, |cell| {
            let other = follow(clocks, now.thread, cell, (now, &access));
            conflict = conflict.or(other);
        });
        conflict
    }

    /// The same, but only where a glance does not do.
    fn at_a_glance(
        history: &mut History,
        clocks: &Clocks,
        now: &Stamp,
        access: Access,
    ) -> Option<Stamp> {
        let region = history.region(access.place).expect("the buffer is there");
        let (page, inside, _) = region.page(access.place.offset());
        let page = page.expect("the access lies inside");
        let noted = match access.touch {
            Touch::Read => note::<false>(page, inside, access.bytes, now),
            _ => note::<true>(page, inside, access.bytes, now),
        };
        match noted {
            Some(()) => None,
            None => in_full(history, clocks, now, access),
        }
    }

    proptest! {
        #[test]
        fn a_glance_and_the_full_look_tell_of_the_same_races(
            events in events(),
            granule in prop_oneof![Just(1), Just(2), Just(4)],
            exact in any::<bool>(),
        ) {
            let mut clocks = Clocks::new(0, 66);
            let mut histories = [0, 1].map(|_| History::of_one_buffer(granule, exact, BYTES));
            for (pc, event) in events.iter().enumerate() {
                match *event {
                    Event::Meet => clocks.next_generation(),
                    Event::Tell { from, to } => {
                        let known = clocks.release(from);
                        clocks.acquire(to, &known);
                    }
                    Event::Access { thread, offset, bytes, writes } => {
                        // A store is as wide as a granule at least.
                        let (bytes, offset) = match writes {
                            true => (bytes.max(granule), offset / granule * granule),
                            false => (bytes, offset),
                        };
                        let offset = offset / bytes * bytes;
                        let touch = if writes { Touch::Write } else { Touch::Read };
                        let weak = (Order::Weak, Scope::Device);
                        let access = Access::of(MEMORY.behind(offset), bytes, touch, weak);
                        let now = clocks.stamp(thread, pc as u32, 0);
                        let [one, two] = &mut histories;
                        let full = in_full(one, &clocks, &now, access);
                        let glance = at_a_glance(two, &clocks, &now, access);
                        prop_assert_eq!(full, glance, "event {}", pc);
                    }
                }
            }
        }
    }
}
