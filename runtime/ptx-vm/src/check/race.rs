//! Races: two accesses of the same bytes, not both reads, that nothing orders.
//!
//! # Invariants
//! - An access is compared with the last write and, where it writes, with the readers since.

use super::clock::{Clocks, Stamp};
use super::shadow::Cell;
use super::{
    ASYNC, Access, BYTES_SHIFT, Checker, IN_FLIGHT, PRODUCT, PROXY, REDUCES, RawFinding,
    SCOPE_SHIFT, STRONG, finding, raw,
};
use crate::execute::{At, Place, Touch, Warp};
use crate::module::Scope;

impl Checker {
    /// Follows an access of a lane, and what it hands on and takes up.
    pub(super) fn race(
        &mut self,
        warp: &Warp,
        (at, lane): (&At, usize),
        access: Access,
    ) -> Option<RawFinding> {
        let thread = (warp.index * 32 + lane as u32) as u16;
        let clocks = &self.clocks[warp.cta as usize];
        let stamp = clocks.stamp(thread, at.pc, access.flags());
        let mut conflict = None;
        self.history.visit(access.place, access.bytes, |cell| {
            let other = follow(clocks, thread, cell, (&stamp, &access));
            conflict = conflict.or(other);
        });
        if access.flags() & STRONG != 0 {
            self.synchronise(warp.cta, thread.into(), access);
        }
        let other = conflict?;
        let code = race_code(access.place, other.flags | stamp.flags);
        let message = conflict_message(&other, &stamp, access.touch);
        Some(raw(code, (warp, lane), at.pc, Some(other.pc), message))
    }
}

/// The code of a race between accesses with these flags.
pub(super) fn race_code(place: Place, flags: u16) -> &'static str {
    match place {
        _ if flags & PRODUCT != 0 => finding::WGMMA_RACE,
        _ if flags & ASYNC != 0 => finding::ASYNC_RACE,
        Place::Shared(..) => finding::SHARED_RACE,
        _ => finding::GLOBAL_RACE,
    }
}

pub(super) fn conflict_message(other: &Stamp, stamp: &Stamp, touch: Touch) -> String {
    let what = match touch {
        Touch::Read => "reads",
        Touch::Write => "writes",
        Touch::Atomic => "updates",
    };
    let who = match other.cta == stamp.cta {
        true => format!("thread {}", other.thread),
        false => format!("thread {} of CTA {}", other.thread, other.cta.wrapping_sub(1)),
    };
    if other.flags & PROXY != 0 {
        let engine = if other.flags & PRODUCT != 0 { "wgmma" } else { "bulk copy" };
        let state =
            if other.flags & IN_FLIGHT != 0 { "in flight" } else { "it has not waited for" };
        return format!("thread {} {what} what a {engine} {state} touches", stamp.thread);
    }
    if other.flags & IN_FLIGHT != 0 {
        return format!("thread {} {what} what a copy of {who} still moves", stamp.thread);
    }
    format!("thread {} {what} what {who} touches, and nothing orders them", stamp.thread)
}

/// Whether two strong accesses, one of them by the CTA of these clocks, include each other in their scopes.
fn morally_strong(clocks: &Clocks, other: &Stamp, own: &Stamp) -> bool {
    let scope = |stamp: &Stamp| stamp.flags >> SCOPE_SHIFT & 3;
    let (ours, theirs) = (scope(own), scope(other));
    let needed = if other.cta == own.cta {
        Scope::Cta
    } else if clocks.peers.contains(&other.cta) {
        Scope::Cluster
    } else {
        Scope::Device
    };
    own.flags & other.flags & STRONG != 0 && ours.min(theirs) >= needed as u16
}

/// Follows an access in one cell, and gives the access it races with.
pub(super) fn follow(
    clocks: &Clocks,
    thread: u16,
    mut cell: Cell<'_>,
    (stamp, access): (&Stamp, &Access),
) -> Option<Stamp> {
    let mut conflict = None;
    let ordered = |other: &Stamp| {
        let flying = other.flags & IN_FLIGHT != 0;
        let (ours, theirs) = (stamp.flags >> BYTES_SHIFT, other.flags >> BYTES_SHIFT);
        let apart = ours != 0 && theirs != 0 && ours & theirs == 0;
        apart
            || other.flags & stamp.flags & REDUCES != 0
            || !flying && (clocks.knows(thread, other) || morally_strong(clocks, other, stamp))
    };
    let benign = |other: &Stamp| {
        // Compilers let every thread of a replicated layout store its copy of a value.
        access.same_value && other.pc == stamp.pc && other.flags & IN_FLIGHT == 0
    };
    let write = cell.write();
    if write.cta != 0 && !ordered(&write) && !benign(&write) {
        conflict = Some(write);
    }
    if access.touch == Touch::Read {
        cell.add_reader(*stamp, |other| clocks.knows(thread, other));
        return conflict;
    }
    let read = cell.unordered_reader(|other| {
        let own = other.cta == clocks.cta && other.thread == thread;
        ordered(other) || (own && other.flags & IN_FLIGHT == 0)
    });
    cell.set_write(*stamp);
    cell.clear_readers();
    // The readers came after the writer.
    read.or(conflict)
}
