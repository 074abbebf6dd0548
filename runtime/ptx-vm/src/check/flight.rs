//! Asynchronous copies and products in flight: when they touch memory, and when who learns that they are done.
//!
//! # How
//! - Copies and products have a thread of their own in the clocks of each CTA ([`Engines`]).
//! - An access in flight is known to nobody: whoever touches the same bytes races with it.
//! - It lands when a thread sees the end that was announced: an mbarrier's phase, a bulk group, a wgmma group.
//!   From then on it is an access of the engine's thread that the seeing thread has been told of.
//! - A fence between proxies keeps what its thread knew. What the generic proxy wrote may be read through
//!   the async proxy if a fence of the writer, or of another thread that knew of the write, lies between.
//!
//! # Invariants
//! - What nobody waited for stays in flight.

use super::clock::{Snapshot, Stamp};
use super::{ASYNC, Access, Checker, IN_FLIGHT, PRODUCT, PROXY, REDUCES, RawFinding, finding, raw};
use super::{conflict_message, follow, threads_of};
use crate::execute::{At, Ending, Object, Place, Touch, Warp};
use crate::module::{Order, ProxyFence, Scope};
use std::collections::{BTreeMap, VecDeque};

/// One end of a copy, or an operand of a product, that is in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) place: Place,
    pub(super) bytes: u64,
    pub(super) reads: bool,
    pub(super) pc: u32,
    /// Of a product, the how-manieth of its warp.
    pub(super) number: u64,
}

/// What the checks know of an mbarrier.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// What the threads that arrived at the current phase knew, by CTA.
    arriving: BTreeMap<u32, Snapshot>,
    /// The same of all phases that ended.
    done: BTreeMap<u32, Snapshot>,
    /// Copies of the current phase, and those of phases that ended unseen.
    flights: Vec<Flight>,
    ended: Vec<Flight>,
}

/// Bulk copies of a thread that complete in groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    open: Vec<Flight>,
    committed: VecDeque<Vec<Flight>>,
}

/// What is in flight in a cluster.
#[derive(Debug, Default)]
pub(crate) struct Engines {
    pub(super) objects: BTreeMap<Object, Watched>,
    groups: BTreeMap<(u32, usize), Groups>,
    /// Operands of products, by CTA and warpgroup.
    pub(super) products: BTreeMap<(u32, u32), Vec<Flight>>,
    /// What each thread knew at its last fence between the proxies.
    fenced: BTreeMap<(u32, usize), Snapshot>,
}

/// Accesses in flight that are remembered of one mbarrier, group or warpgroup; more never land.
const MAX_FLIGHTS: usize = 1 << 18;

fn note(flights: &mut Vec<Flight>, flight: Flight) {
    if flights.len() < MAX_FLIGHTS {
        flights.push(flight);
    }
}

/// An access through the async proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsyncAccess {
    pub(crate) place: Place,
    pub(crate) bytes: u64,
    pub(crate) touch: Touch,
    pub(crate) ending: Ending,
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
            found.extend(self.race_async(warp, (at, lane), (&plain, flags)));
            if access.touch == Touch::Read {
                found.extend(self.unfenced(warp, (at, lane), &plain));
            }
            self.depart(warp, (at, lane), access);
        }
        found
    }

    fn cells(&self, place: Place, bytes: u64) -> std::ops::RangeInclusive<u64> {
        let offset = match place {
            Place::Shared(_, offset) | Place::Buffer(_, offset) => offset,
            _ => 0,
        };
        let granule = self.history.granule;
        offset / granule..=(offset + bytes.max(1) - 1) / granule
    }

    fn race_async(
        &mut self,
        warp: &Warp,
        (at, lane): (&At, usize),
        (access, flags): (&Access, u16),
    ) -> Option<RawFinding> {
        let issuer = (warp.index * 32 + lane as u32) as u16;
        let product = flags & PRODUCT != 0;
        let thread = if product { self.products() } else { self.copies() };
        let cta = self.clocks[warp.cta as usize].cta;
        // Known to nobody until it lands.
        let (generation, epoch) = (u32::MAX, u32::MAX);
        let stamp = Stamp { cta, thread, flags, generation, epoch, pc: at.pc };
        let mut conflict = None;
        for index in self.cells(access.place, access.bytes) {
            let clocks = &self.clocks[warp.cta as usize];
            let (cell, readers) = match access.place {
                Place::Shared(rank, _) => self.history.shared_cell(rank, index),
                Place::Buffer(buffer, _) => self.history.global_cell(buffer, index),
                _ => return None,
            };
            let other = follow(clocks, issuer, cell, readers, (&stamp, access));
            conflict = conflict.or(other);
        }
        let other = conflict?;
        let code = super::race_code(access.place, other.flags | flags);
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
        for index in self.cells(access.place, access.bytes) {
            let cell = match access.place {
                Place::Shared(rank, _) => self.history.shared_cell(rank, index).0,
                Place::Buffer(buffer, _) => self.history.global_cell(buffer, index).0,
                _ => return None,
            };
            let write = cell.write;
            let generic = write.cta != 0 && write.flags & (PROXY | IN_FLIGHT) == 0;
            if !generic || !self.clocks[warp.cta as usize].knows(issuer, &write) {
                continue;
            }
            if !self.is_fenced(warp.cta, issuer.into(), &write) {
                let message = "reads through the async proxy what the generic proxy wrote, \
                               without a fence.proxy.async between them"
                    .to_owned();
                return Some(raw(finding::PROXY, (warp, lane), at.pc, Some(write.pc), message));
            }
        }
        None
    }

    fn is_fenced(&self, rank: u32, issuer: usize, write: &Stamp) -> bool {
        let covers = |snapshot: &Snapshot| snapshot.covers(write);
        let of = |thread: usize| self.engines.fenced.get(&(rank, thread)).is_some_and(covers);
        of(issuer) || of(write.thread.into()) || self.engines.fenced.values().any(covers)
    }

    /// Notes what is in flight, and where its end will be seen.
    fn depart(&mut self, warp: &Warp, (at, lane): (&At, usize), access: AsyncAccess) {
        let AsyncAccess { place, bytes, touch, ending } = access;
        let reads = touch == Touch::Read;
        let mut flight = Flight { place, bytes, reads, pc: at.pc, number: 0 };
        match ending {
            Ending::Object(object) => {
                note(&mut self.engines.objects.entry(object).or_default().flights, flight);
            }
            Ending::Group => {
                let thread = (warp.index * 32 + lane as u32) as usize;
                let groups = self.engines.groups.entry((warp.cta, thread)).or_default();
                note(&mut groups.open, flight);
            }
            Ending::Product(number) => {
                flight.number = number;
                let warpgroup = (warp.cta, warp.index / 4);
                note(self.engines.products.entry(warpgroup).or_default(), flight);
            }
        }
    }

    /// An access in flight becomes the access `stamp`.
    pub(super) fn land(&mut self, flight: &Flight, stamp: Stamp) {
        for index in self.cells(flight.place, flight.bytes) {
            let (cell, readers) = match flight.place {
                Place::Shared(rank, _) => self.history.shared_cell(rank, index),
                Place::Buffer(buffer, _) => self.history.global_cell(buffer, index),
                _ => return,
            };
            let own = |other: &Stamp| other.flags & IN_FLIGHT != 0 && other.pc == flight.pc;
            let landed = |flags: u16| Stamp { flags: flags & !IN_FLIGHT, ..stamp };
            if flight.reads {
                readers.replace(cell, own, |old| landed(old.flags));
            } else if own(&cell.write) {
                cell.write = landed(cell.write.flags);
            }
        }
    }

    /// An mbarrier begins: nobody has arrived.
    pub(crate) fn object_begun(&mut self, object: Object) {
        if self.checks.races {
            self.engines.objects.insert(object, Watched::default());
        }
    }

    /// An mbarrier ends.
    pub(crate) fn object_ended(&mut self, object: Object) {
        self.engines.objects.remove(&object);
    }

    /// A lane arrives at an mbarrier.
    pub(crate) fn arrive_at(&mut self, warp: &Warp, lane: usize, object: Object, order: Order) {
        if !self.checks.races || !order.releases() {
            return;
        }
        let thread = warp.index as usize * 32 + lane;
        let snapshot = self.clocks[warp.cta as usize].release(thread);
        let watched = self.engines.objects.entry(object).or_default();
        watched.arriving.entry(snapshot.cta).or_default().merge(&snapshot);
    }

    /// A phase of an mbarrier ends; nobody has seen it yet.
    pub(crate) fn phase_completed(&mut self, object: Object) {
        let watched = self.engines.objects.entry(object).or_default();
        for (cta, snapshot) in std::mem::take(&mut watched.arriving) {
            watched.done.entry(cta).or_default().merge(&snapshot);
        }
        let flights = std::mem::take(&mut watched.flights);
        for flight in flights {
            note(&mut watched.ended, flight);
        }
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
            watched.done.entry(snapshot.cta).or_default().merge(&snapshot);
            for flight in &ended {
                self.land(flight, Stamp { pc: flight.pc, ..stamp });
            }
        }
        if order.acquires() {
            let thread = warp.index as usize * 32 + lane;
            let clocks = &mut self.clocks[warp.cta as usize];
            for snapshot in self.engines.objects[&object].done.values() {
                clocks.acquire(thread, snapshot);
            }
        }
    }

    /// `cp.async.bulk.commit_group`.
    pub(crate) fn commit_bulk(&mut self, warp: &Warp, active: u32) {
        if !self.checks.races {
            return;
        }
        for thread in threads_of(warp.index, active) {
            let groups = self.engines.groups.entry((warp.cta, thread)).or_default();
            let open = std::mem::take(&mut groups.open);
            groups.committed.push_back(open);
        }
    }

    /// `cp.async.bulk.wait_group`: all but the last groups have landed, or with `read` their sources.
    pub(crate) fn land_bulk(&mut self, warp: &Warp, active: u32, (pending, read): (usize, bool)) {
        if !self.checks.races {
            return;
        }
        for thread in threads_of(warp.index, active) {
            let Some(groups) = self.engines.groups.get_mut(&(warp.cta, thread)) else { continue };
            let done = groups.committed.len().saturating_sub(pending);
            let mut landed = Vec::new();
            for group in groups.committed.iter_mut().take(done) {
                let (now, later) =
                    std::mem::take(group).into_iter().partition(|f| f.reads || !read);
                let now: Vec<Flight> = now;
                landed.extend(now);
                *group = later;
            }
            if !read {
                groups.committed.drain(..done);
            }
            let stamp = self.clocks[warp.cta as usize].stamp(thread as u16, 0, 0);
            for flight in &landed {
                self.land(flight, Stamp { pc: flight.pc, ..stamp });
            }
        }
    }

    /// A fence between proxies.
    pub(crate) fn fence_proxy(&mut self, warp: &Warp, active: u32, fence: ProxyFence) {
        if let ProxyFence::Generic(order, scope) = fence {
            return self.fence(warp, active, order, scope);
        }
        if !self.checks.races {
            return;
        }
        for thread in threads_of(warp.index, active) {
            let snapshot = self.clocks[warp.cta as usize].release(thread);
            self.engines.fenced.insert((warp.cta, thread), snapshot);
        }
    }
}
