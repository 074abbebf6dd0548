//! Asynchronous copies and products in flight: when they touch memory, and when who learns that they are done.
//!
//! # How
//! - Copies and products have a thread of their own in the clocks of each CTA ([`Engines`]).
//! - An access in flight is known to nobody: whoever touches the same bytes races with it.
//! - It lands when a thread sees the end that was announced: an mbarrier's phase, a bulk group, a wgmma group.
//!   From then on it is an access of the engine's thread that the seeing thread has been told of.
//! - A fence between proxies keeps what its thread knew. What the generic proxy wrote may be read through
//!   the async proxy if a fence of a thread that knew of the write lies between, and came before the read.
//!
//! # Invariants
//! - What nobody waited for stays in flight.

use super::clock::{Clocks, Snapshot, Stamp};
use super::race::{conflict_message, follow, race_code};
use super::{
    ASYNC, Access, BYTES_SHIFT, Checker, IN_FLIGHT, PRODUCT, PROXY, REDUCES, RawFinding, finding,
    raw, threads_of,
};
use crate::execute::{At, Ending, Object, Place, Touch, Warp};
use crate::module::{Order, ProxyFence, Scope};
use std::collections::{BTreeMap, VecDeque};

/// One end of a copy, or an operand of a product, that is in flight: runs of bytes at equal distances.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    place: Place,
    bytes: u64,
    distance: u64,
    runs: u64,
    reads: bool,
    pub(super) pc: u32,
    /// What the cells know it by.
    id: u32,
    /// Of a product, the how-manieth of its warp.
    pub(super) product: u64,
}

impl Flight {
    /// Takes up `next`, which lands at the same time, if it goes on where this one ends or repeats a run
    /// of it.
    fn takes_up(&mut self, next: &Self) -> bool {
        let kind = |flight: &Self| (flight.bytes, flight.reads, flight.pc, flight.product);
        let Some(distance) =
            next.place.distance_from(self.place).filter(|_| kind(self) == kind(next))
        else {
            return false;
        };
        match (self.runs, distance) {
            (1, 0) => return true,
            (1, _) => self.distance = distance,
            (runs, _)
                if distance.is_multiple_of(self.distance) && distance < runs * self.distance =>
            {
                return true;
            }
            _ if distance != self.runs * self.distance => return false,
            _ => {}
        }
        self.runs += 1;
        true
    }
}

/// What the checks know of an mbarrier.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// What the threads that arrived at the current phase knew.
    arriving: Snapshot,
    /// The same of all phases that ended.
    done: Snapshot,
    /// Copies of the current phase, and those of phases that ended unseen.
    flights: Vec<Flight>,
    ended: Vec<Flight>,
}

/// Bulk copies of a thread that complete in groups.
#[derive(Debug, Default)]
struct Groups {
    open: Vec<Flight>,
    committed: VecDeque<Vec<Flight>>,
    /// Of how many committed groups, from the first on, the sources have been read.
    read: usize,
}

impl Groups {
    fn commit(&mut self) {
        self.committed.push_back(std::mem::take(&mut self.open));
        if self.committed.len() > MAX_GROUPS {
            // The oldest takes up the next: it may be long, and stays where it is.
            let mut oldest = self.committed.pop_front().unwrap_or_default();
            oldest.extend(self.committed.pop_front().unwrap_or_default());
            self.committed.push_front(oldest);
            self.read = self.read.saturating_sub(1);
        }
        self.drop_done();
    }

    /// What lands when all but `pending` groups have ended, or with `read` have read their sources.
    fn land(&mut self, pending: usize, read: bool) -> Vec<Flight> {
        let done = self.committed.len().saturating_sub(pending);
        if !read {
            self.read = self.read.saturating_sub(done);
            return self.committed.drain(..done).flatten().collect();
        }
        let mut landed = Vec::new();
        for group in self.committed.iter_mut().take(done).skip(self.read) {
            landed.extend(group.iter().filter(|flight| flight.reads));
            group.retain(|flight| !flight.reads);
        }
        self.read = self.read.max(done);
        self.drop_done();
        landed
    }

    /// The oldest groups are forgotten when nothing of them is in flight.
    fn drop_done(&mut self) {
        while self.committed.front().is_some_and(Vec::is_empty) {
            self.committed.pop_front();
            self.read = self.read.saturating_sub(1);
        }
    }
}

/// Fences between the proxies of a thread: when, and what it knew.
type Fences = VecDeque<(Stamp, Snapshot)>;

/// What is in flight in a cluster.
#[derive(Debug, Default)]
pub(crate) struct Engines {
    pub(super) objects: BTreeMap<Object, Watched>,
    groups: BTreeMap<(u32, usize), Groups>,
    /// Operands of products, by CTA and warpgroup.
    pub(super) products: BTreeMap<(u32, u32), Vec<Flight>>,
    /// The last fences between the proxies of each thread and what it knew, for shared and for global memory.
    fenced: [BTreeMap<(u32, usize), Fences>; 2],
    /// Copies that were started so far.
    started: u32,
    /// Flights in all lists, and `cp.async` copies.
    pub(super) flying: usize,
}

/// Accesses in flight of a cluster at most.
const MAX_FLIGHTS: usize = 1 << 20;

/// Fences between proxies that are remembered of a thread.
const MAX_FENCES: usize = 4;

/// Groups of a thread that are told apart at most; beyond it the oldest two are one.
pub(crate) const MAX_GROUPS: usize = 1 << 12;

/// An access through the async proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsyncAccess {
    pub(crate) place: Place,
    pub(crate) bytes: u64,
    pub(crate) touch: Touch,
    pub(crate) ending: Ending,
}

/// Whether a fence that came before a thread's read knew of the write.
fn is_fenced(
    clocks: &Clocks,
    fenced: &BTreeMap<(u32, usize), Fences>,
    (rank, issuer): (u32, u16),
    write: &Stamp,
) -> bool {
    let counts = |fences: &Fences| {
        let first_known = fences.front().is_some_and(|(at, _)| clocks.knows(issuer, at));
        // Of a thread that fenced often, an older one may have come before.
        let forgotten = fences.len() == MAX_FENCES && !first_known;
        let before = |at: &Stamp| forgotten || clocks.knows(issuer, at);
        fences.iter().any(|(at, knew)| knew.covers(write) && before(at))
    };
    let of = |thread: u16| fenced.get(&(rank, thread.into())).is_some_and(counts);
    // Who wrote, or reads, is the one that fences nearly always.
    of(write.thread) || of(issuer) || fenced.values().any(counts)
}

impl Checker {
    /// The thread of the copy engine in the clocks of a CTA.
    fn copies(&self) -> u16 {
        self.threads as u16
    }

    /// The thread of the tensor cores.
    pub(super) fn products(&self) -> u16 {
        self.threads as u16 + 1
    }

    /// Follows an asynchronous access that a lane starts.
    pub(crate) fn touch_async(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        access: AsyncAccess,
    ) -> Vec<RawFinding> {
        let order = (Order::Weak, Scope::Device);
        let plain = Access::of(access.place, access.bytes, access.touch, order);
        let mut found = Vec::new();
        if self.checks.uninitialised {
            found.extend(self.initialisation(warp, (at, lane), plain));
        }
        if self.checks.races {
            let flags = IN_FLIGHT
                | PROXY
                | if access.ending.is_product() { PRODUCT } else { ASYNC }
                | if access.touch == Touch::Atomic { REDUCES } else { 0 };
            let id = self.depart(warp, (at, lane), access);
            found.extend(self.race_async(warp, (at, lane), (&plain, flags, id)));
            if access.touch == Touch::Read {
                found.extend(self.unfenced(warp, (at, lane), &plain));
            }
        }
        found
    }

    fn race_async(
        &mut self,
        warp: &Warp,
        (at, lane): (&At, usize),
        (access, flags, id): (&Access, u16, u32),
    ) -> Option<RawFinding> {
        let issuer = (warp.index * 32 + lane as u32) as u16;
        let product = flags & PRODUCT != 0;
        let thread = if product { self.products() } else { self.copies() };
        let cta = self.clocks[warp.cta as usize].cta;
        // Known to nobody until it lands, so that the epoch is free to say which flight it is.
        let stamp = Stamp { cta, thread, flags, generation: u32::MAX, epoch: id, pc: at.pc };
        let clocks = &self.clocks[warp.cta as usize];
        let mut conflict = None;
        self.history.visit(access.place, access.bytes, |cell| {
            let stamp = Stamp { flags: flags | cell.touched << BYTES_SHIFT, ..stamp };
            let other = follow(clocks, issuer, cell, (&stamp, access));
            conflict = conflict.or(other);
        });
        let other = conflict?;
        let code = race_code(access.place, other.flags | flags);
        let message = conflict_message(&other, &Stamp { thread: issuer, ..stamp }, access.touch);
        Some(raw(code, (warp, lane), at.pc, Some(other.pc), message))
    }

    /// A byte that the generic proxy wrote, in order, but without a fence between the proxies.
    fn unfenced(
        &mut self,
        warp: &Warp,
        (at, lane): (&At, usize),
        access: &Access,
    ) -> Option<RawFinding> {
        let issuer = (warp.index * 32 + lane as u32) as u16;
        let clocks = &self.clocks[warp.cta as usize];
        let fenced = &self.engines.fenced[usize::from(matches!(access.place, Place::Buffer(..)))];
        let mut unfenced = None;
        self.history.visit(access.place, access.bytes, |cell| {
            let write = cell.write();
            let generic = write.cta != 0 && write.flags & (PROXY | IN_FLIGHT) == 0;
            if unfenced.is_none() && generic && clocks.knows(issuer, &write) {
                let fenced = is_fenced(clocks, fenced, (warp.cta, issuer), &write);
                unfenced = (!fenced).then_some(write);
            }
        });
        let message = "reads through the async proxy what the generic proxy wrote, \
                       without a fence.proxy.async between them";
        let other = Some(unfenced?.pc);
        Some(raw(finding::PROXY, (warp, lane), at.pc, other, message.to_owned()))
    }

    /// Notes what is in flight, and where its end will be seen; gives the number that its cells know it by.
    fn depart(&mut self, warp: &Warp, (at, lane): (&At, usize), access: AsyncAccess) -> u32 {
        let AsyncAccess { place, bytes, touch, ending } = access;
        let engines = &mut self.engines;
        let (id, product) = match ending {
            // The four warps of a warpgroup do their parts of one product.
            Ending::Product(number) => (((number as u32) << 3) | ((warp.index / 4) % 8), number),
            _ => (engines.started, 0),
        };
        let reads = touch == Touch::Read;
        let flight = Flight { place, bytes, distance: 0, runs: 1, reads, pc: at.pc, id, product };
        let flights = match ending {
            Ending::Object(object) => &mut engines.objects.entry(object).or_default().flights,
            Ending::Group => {
                let thread = (warp.index * 32 + lane as u32) as usize;
                &mut engines.groups.entry((warp.cta, thread)).or_default().open
            }
            Ending::Product(_) => engines.products.entry((warp.cta, warp.index / 4)).or_default(),
        };
        // A copy has two ends, which take turns.
        if let Some(last) = flights.iter_mut().rev().take(2).find_map(|last| {
            let id = last.id;
            last.takes_up(&flight).then_some(id)
        }) {
            return last;
        }
        flights.push(flight);
        engines.flying += 1;
        engines.started = engines.started.wrapping_add(1);
        id
    }

    /// Why no more can be in flight, if that is so.
    pub(crate) fn overflow(&self) -> Option<String> {
        (self.engines.flying > MAX_FLIGHTS).then(|| {
            format!("more than {MAX_FLIGHTS} asynchronous accesses that nobody waited for")
        })
    }

    /// `cp.async` copies started, or landed, by their number.
    pub(crate) fn count_copies(&mut self, started: usize, landed: usize) {
        self.engines.flying = (self.engines.flying + started).saturating_sub(landed);
    }

    /// An access in flight becomes the access `stamp`.
    pub(super) fn land(&mut self, flight: &Flight, stamp: Stamp) {
        self.engines.flying = self.engines.flying.saturating_sub(1);
        let own = |other: &Stamp| {
            other.flags & IN_FLIGHT != 0 && (other.epoch, other.pc) == (flight.id, flight.pc)
        };
        let landed = |flags: u16| Stamp { flags: flags & !IN_FLIGHT, pc: flight.pc, ..stamp };
        for run in 0..flight.runs {
            let place = flight.place.behind(run * flight.distance);
            self.history.visit(place, flight.bytes, |mut cell| {
                let write = cell.write();
                if flight.reads {
                    cell.replace_readers(own, |old| landed(old.flags));
                } else if own(&write) {
                    cell.set_write(landed(write.flags));
                }
            });
        }
    }

    /// An mbarrier begins: nobody has arrived.
    pub(crate) fn object_begun(&mut self, object: Object) {
        if self.checks.races {
            self.object_ended(object);
            self.engines.objects.insert(object, Watched::default());
        }
    }

    /// An mbarrier ends.
    pub(crate) fn object_ended(&mut self, object: Object) {
        if let Some(watched) = self.engines.objects.remove(&object) {
            self.count_copies(0, watched.flights.len() + watched.ended.len());
        }
    }

    /// A lane arrives at an mbarrier.
    pub(crate) fn arrive_at(&mut self, warp: &Warp, lane: usize, object: Object, order: Order) {
        if !self.checks.races || !order.releases() {
            return;
        }
        let thread = warp.index as usize * 32 + lane;
        let snapshot = self.clocks[warp.cta as usize].release(thread);
        let watched = self.engines.objects.entry(object).or_default();
        watched.arriving.merge(&snapshot);
    }

    /// A phase of an mbarrier ends; nobody has seen it yet.
    pub(crate) fn phase_completed(&mut self, object: Object) {
        let watched = self.engines.objects.entry(object).or_default();
        watched.done.merge(&std::mem::take(&mut watched.arriving));
        watched.ended.append(&mut watched.flights);
    }

    /// A lane sees that a phase has ended.
    pub(crate) fn phase_seen(&mut self, warp: &Warp, lane: usize, object: Object, order: Order) {
        if !self.checks.races {
            return;
        }
        let copies = self.copies();
        let Some(watched) = self.engines.objects.get_mut(&object) else { return };
        let ended = std::mem::take(&mut watched.ended);
        if !ended.is_empty() {
            let clocks = &mut self.clocks[object.0 as usize];
            let stamp = clocks.stamp(copies, 0, 0);
            let snapshot = clocks.release(copies.into());
            watched.done.merge(&snapshot);
            for flight in &ended {
                self.land(flight, stamp);
            }
        }
        if order.acquires() {
            let thread = warp.index as usize * 32 + lane;
            let clocks = &mut self.clocks[warp.cta as usize];
            clocks.acquire(thread, &self.engines.objects[&object].done);
        }
    }

    /// `cp.async.bulk.commit_group`.
    pub(crate) fn commit_bulk(&mut self, warp: &Warp, active: u32) {
        if !self.checks.races {
            return;
        }
        for thread in threads_of(warp.index, active) {
            self.engines.groups.entry((warp.cta, thread)).or_default().commit();
        }
    }

    /// `cp.async.bulk.wait_group`: all but the last groups have landed, or with `read` their sources.
    pub(crate) fn land_bulk(&mut self, warp: &Warp, active: u32, (pending, read): (usize, bool)) {
        if !self.checks.races {
            return;
        }
        for thread in threads_of(warp.index, active) {
            let Some(groups) = self.engines.groups.get_mut(&(warp.cta, thread)) else { continue };
            let landed = groups.land(pending, read);
            let stamp = self.clocks[warp.cta as usize].stamp(thread as u16, 0, 0);
            for flight in &landed {
                self.land(flight, stamp);
            }
        }
    }

    /// A fence between proxies.
    pub(crate) fn fence_proxy(&mut self, warp: &Warp, active: u32, fence: ProxyFence) {
        let memories: &[usize] = match fence {
            ProxyFence::Generic(order, scope) => return self.fence(warp, active, order, scope),
            ProxyFence::Async => &[0, 1],
            ProxyFence::AsyncShared => &[0],
            ProxyFence::AsyncGlobal => &[1],
        };
        if !self.checks.races {
            return;
        }
        let clocks = &mut self.clocks[warp.cta as usize];
        for thread in threads_of(warp.index, active) {
            let at = clocks.stamp(thread as u16, 0, 0);
            let knew = clocks.release(thread);
            for memory in memories {
                let fences = self.engines.fenced[*memory].entry((warp.cta, thread)).or_default();
                if fences.len() == MAX_FENCES {
                    fences.pop_front();
                }
                fences.push_back((at, knew.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(at: u64) -> Flight {
        let place = Place::Shared(0, at);
        Flight { place, bytes: 64, distance: 0, runs: 1, reads: true, pc: 7, id: 1, product: 0 }
    }

    #[test]
    fn copies_of_the_same_runs_are_one_flight_however_often_they_start() {
        let mut all = flight(0);
        assert!(all.takes_up(&flight(64)) && all.takes_up(&flight(128)));
        for at in [0, 64, 128] {
            assert!(all.takes_up(&flight(at)), "{at} again");
        }
        assert_eq!((all.runs, all.distance), (3, 64));
        assert!(!all.takes_up(&flight(32)) && !all.takes_up(&flight(256)));
        assert!(!all.takes_up(&Flight { reads: false, ..flight(192) }));
        assert_eq!(all.runs, 3);
    }
}
