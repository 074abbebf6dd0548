//! Plain accesses of a warp's lanes, as long as a glance at the last accesses settles each.
//!
//! # How
//! - A glance is enough where memory is divided finely enough, every byte that is read has a value, the
//!   thread has been told of the accesses that it must come after, and no list of readers is in the way.
//! - At the first lane where it is not, the walk stops; that lane's access is followed in full.
//!
//! # Invariants
//! - A glance notes what following the access in full would note, and finds nothing.

use super::clock::{Clocks, Stamp};
use super::shadow::{LIST, Page};
use super::{Checker, IN_FLIGHT};
use crate::execute::{At, Place, Warp, lanes};

/// An access of all active lanes to one memory.
#[derive(Clone, Copy)]
pub(crate) struct WideAccess {
    /// The memory, whatever the offset in it.
    pub(crate) memory: Place,
    /// The row of the warp that holds, by lane, what makes an offset when `shift` is added.
    pub(crate) row: usize,
    pub(crate) shift: u64,
    /// Bytes that each lane accesses, and a power of two that its offset is a multiple of.
    pub(crate) bytes: u64,
}

impl WideAccess {
    /// The offset of a lane's access.
    #[inline]
    pub(crate) fn offset(&self, warp: &Warp, lane: usize) -> u64 {
        warp.rows[self.row].0[lane].wrapping_add(self.shift)
    }
}

/// How an access sees those before it.
struct Sight<'c> {
    clocks: &'c Clocks,
    now: Stamp,
    /// Whether all readers are kept that nothing orders, or two.
    exact: bool,
}

impl Sight<'_> {
    /// Whether `other` is none, or one that the thread has been told of.
    #[inline]
    fn knows(&self, other: &Stamp) -> bool {
        let own = other.cta == self.now.cta && other.flags & IN_FLIGHT == 0;
        let told = other.generation < self.now.generation || other.thread == self.now.thread;
        other.cta == 0 || (own && told) || self.was_told(other)
    }

    /// As [`Self::knows`], for what is neither the thread's own nor older than the CTA's last barrier.
    #[inline(never)]
    fn was_told(&self, other: &Stamp) -> bool {
        self.clocks.knows(self.now.thread, other)
    }

    fn is_own(&self, other: &Stamp) -> bool {
        let thread = other.cta == self.now.cta && other.thread == self.now.thread;
        thread && other.flags & IN_FLIGHT == 0
    }

    /// Notes the access in a page; none, and maybe some of it, if more has to be looked at.
    #[inline]
    fn note<const WRITES: bool>(&self, page: &mut Page, offset: u64, bytes: u64) -> Option<()> {
        for index in page.granules(offset, bytes)? {
            if WRITES {
                self.note_write(page, index)?;
            } else {
                self.note_read(page, index)?;
            }
        }
        Some(())
    }

    #[inline]
    fn note_write(&self, page: &mut Page, index: usize) -> Option<()> {
        let write = page.writes.get_mut(index).filter(|write| self.knows(write))?;
        let (read, second) = (page.reads.get_mut(index), page.seconds.get_mut(index));
        if second.as_ref().is_some_and(|second| second.cta == LIST || !self.knows(second)) {
            return None;
        }
        if let Some(read) = read {
            if !self.knows(read) {
                return None;
            }
            *read = Stamp::default();
        }
        if let Some(second) = second {
            *second = Stamp::default();
        }
        *write = self.now;
        Some(())
    }

    #[inline]
    fn note_read(&self, page: &mut Page, index: usize) -> Option<()> {
        if page.writes.get(index).is_some_and(|write| !self.knows(write)) {
            return None;
        }
        let read = page.reads.get_mut(index)?;
        let second = page.seconds.get_mut(index);
        if second.as_ref().is_none_or(|second| second.cta == 0) && self.knows(read) {
            *read = self.now;
            return Some(());
        }
        self.note_second(read, second?)
    }

    /// Notes a read where two read before, in the order of [`Cell::add_reader`](super::shadow::Cell).
    #[inline(never)]
    fn note_second(&self, read: &mut Stamp, second: &mut Stamp) -> Option<()> {
        if second.cta == LIST {
            return None;
        }
        if self.is_own(read) {
            *read = self.now;
        } else if second.cta == 0 || self.is_own(second) {
            *second = self.now;
        } else if self.knows(read) {
            *read = self.now;
        } else if self.knows(second) {
            *second = self.now;
        } else if self.exact {
            return None;
        }
        Some(())
    }
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
    // Apart, so that a profile tells it from the loads and stores.
    #[inline(never)]
    pub(crate) fn glance<const WRITES: bool>(
        &mut self,
        warp: &Warp,
        (at, left): (&At, u32),
        wide: &WideAccess,
        mut done: impl FnMut(usize),
    ) -> u32 {
        let exact = self.history.is_exact();
        let Some(region) = self.history.region(wide.memory) else { return left };
        let (checks, clocks) = (self.checks, &self.clocks[warp.cta as usize]);
        for lane in lanes(left) {
            let offset = wide.offset(warp, lane);
            let now = clocks.stamp((warp.index * 32 + lane as u32) as u16, at.pc, 0);
            let (page, inside, known) = region.page(offset);
            let has_value = match known.filter(|_| checks.uninitialised) {
                Some(known) => initialised::<WRITES>(known, offset, wide.bytes),
                None => Some(()),
            };
            let noted = match page.filter(|_| checks.races) {
                Some(page) => Sight { clocks, now, exact }.note::<WRITES>(page, inside, wide.bytes),
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
    use super::super::race::follow;
    use super::super::shadow::History;
    use super::*;
    use crate::execute::Touch;
    use crate::module::{Order, Scope};
    use proptest::prelude::*;

    const BYTES: u64 = 32;
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
        let access = (0u16..6, 0..BYTES, 0u32..5, proptest::bool::weighted(0.2)).prop_map(
            |(thread, at, wide, writes)| {
                let bytes = 1 << wide;
                Event::Access { thread: 11 * thread, offset: at / bytes * bytes, bytes, writes }
            },
        );
        let tell = (0usize..6, 0usize..6)
            .prop_map(|(from, to)| Event::Tell { from: 11 * from, to: 11 * to });
        let event = prop_oneof![10 => access, 1 => Just(Event::Meet), 6 => tell];
        proptest::collection::vec(event, 1..150)
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
        let sight = Sight { clocks, now: *now, exact: history.is_exact() };
        let region = history.region(access.place).expect("the buffer is there");
        let (page, inside, _) = region.page(access.place.offset());
        let page = page.expect("the access lies inside");
        let noted = match access.touch {
            Touch::Read => sight.note::<false>(page, inside, access.bytes),
            _ => sight.note::<true>(page, inside, access.bytes),
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
