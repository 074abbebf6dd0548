//! Checks that follow every access: initialisation and happens-before.
//!
//! # Invariants
//! - Checking changes no result: it only adds findings.
//! - Clusters are checked one after the other, in the order of the grid; what global memory went
//!   through is handed from one to the next.

pub(crate) mod finding;
mod clock;
mod flight;
mod product;
mod race;
mod release;
mod shadow;
mod wide;

use crate::execute::{At, Copied, Engine, Frame, Place, Setup, Touch, Warp, unravel};
use crate::module::{Function, Op, Order, PRED_BIT, Scope};
use clock::{Clocks, Snapshot};
pub use finding::{Checks, Finding};
pub(crate) use finding::{RawFinding, step_limit};
pub(crate) use flight::{AsyncAccess, MAX_GROUPS};
pub(crate) use shadow::History;
use std::collections::{BTreeMap, HashMap};
pub(crate) use wide::WideAccess;

/// The access was atomic, relaxed, acquire or release: two such are no race within their scope.
const STRONG: u16 = 1;
/// By a copy that nobody has waited for.
const IN_FLIGHT: u16 = 2;
/// By an asynchronous copy.
const ASYNC: u16 = 4;
/// Through the async proxy.
const PROXY: u16 = 8;
/// By a wgmma.
const PRODUCT: u16 = 16;
/// By a reduction of the copy engine: several may meet.
const REDUCES: u16 = 32;
/// The scope of a strong access, in the two bits from here.
const SCOPE_SHIFT: u32 = 8;
/// Which bytes of its granule a bulk copy touches, in the four bits from here; none for all.
const BYTES_SHIFT: u32 = 12;

/// An access as the checks see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) place: Place,
    pub(crate) bytes: u64,
    pub(crate) touch: Touch,
    pub(crate) order: Order,
    pub(crate) scope: Scope,
    /// A store of what is there already.
    pub(crate) same_value: bool,
    in_flight: bool,
}

impl Access {
    pub(crate) fn of(
        place: Place,
        bytes: u64,
        touch: Touch,
        (order, scope): (Order, Scope),
    ) -> Self {
        Self { place, bytes, touch, order, scope, same_value: false, in_flight: false }
    }

    /// By an asynchronous copy.
    pub(crate) fn in_flight(self) -> Self {
        Self { in_flight: true, ..self }
    }

    fn flags(&self) -> u16 {
        let strong = self.order != Order::Weak || self.touch == Touch::Atomic;
        let scope = (self.scope as u16) << SCOPE_SHIFT;
        let flight = if self.in_flight { IN_FLIGHT | ASYNC } else { 0 };
        flight | if strong { STRONG | scope } else { 0 }
    }
}

/// A place that strong accesses synchronise through.
type Location = (u32, u64);

/// What the threads that arrived at the cluster barrier know.
#[derive(Debug, Default)]
struct Meeting {
    /// Lanes that do nothing between their arrival and their wait, by CTA and warp.
    waiting: BTreeMap<(u32, u32), u32>,
    /// What the others knew when they arrived.
    known: Snapshot,
    /// Whether there are others.
    partly: bool,
    /// What was known at the phase that ended last, unless everything was.
    ended: Snapshot,
}

/// The state of the checks of a cluster.
#[derive(Debug)]
pub(crate) struct Checker {
    checks: Checks,
    clocks: Vec<Clocks>,
    history: History,
    releases: release::Releases,
    /// What non-waiting arrivals at a barrier know, per CTA and barrier.
    arrivals: HashMap<(u32, usize), Snapshot>,
    meeting: Meeting,
    /// Threads of a CTA; the copy engine and the tensor cores follow them in the clocks.
    threads: usize,
    engines: flight::Engines,
}

impl Checker {
    pub(crate) fn new(setup: &Setup<'_>, cluster_id: [u32; 3]) -> Self {
        let checks = setup.options.checks;
        let threads: u32 = setup.block.iter().product();
        let ranks: u32 = if checks.any() { setup.cluster.iter().product() } else { 0 };
        let clock = |rank: u32| {
            let within = unravel(rank.into(), setup.cluster);
            let id = [0, 1, 2].map(|d| cluster_id[d] * setup.cluster[d] + within[d]);
            let row = u64::from(id[2]) * u64::from(setup.grid[1]) + u64::from(id[1]);
            // Beyond 2³² CTAs two may share a number; nobody waits for that many.
            let linear = row.wrapping_mul(setup.grid[0].into()).wrapping_add(id[0].into());
            Clocks::new(linear as u32 & (u32::MAX >> 1), threads as usize + 2)
        };
        let mut clocks: Vec<Clocks> = (0..ranks).map(clock).collect();
        let peers: Vec<u32> = clocks.iter().map(|clocks| clocks.cta).collect();
        clocks.iter_mut().for_each(|clocks| clocks.peers.clone_from(&peers));
        let mut history = if checks.any() {
            let taken = setup.history.lock().map(|mut held| held.take()).ok().flatten();
            let mut history = taken.unwrap_or_else(|| History::new(setup));
            history.begin_cluster(ranks as usize, setup.shared_bytes as usize);
            history
        } else {
            History::default()
        };
        let releases = std::mem::take(&mut history.releases).begin_cluster(ranks as usize);
        Self {
            checks,
            clocks,
            history,
            releases,
            arrivals: HashMap::new(),
            meeting: Meeting::default(),
            threads: threads as usize,
            engines: flight::Engines::default(),
        }
    }

    /// Hands what global memory went through to the next cluster.
    pub(crate) fn finish(mut self, setup: &Setup<'_>) {
        self.history.releases = self.releases;
        if let Ok(mut held) = setup.history.lock() {
            *held = Some(self.history);
        }
    }

    /// A frame's registers and local memory hold nothing yet.
    pub(crate) fn enter_frame(
        &mut self,
        warp: &mut Warp,
        function: &Function,
        at: Frame,
        mask: u32,
    ) {
        let rows = warp.rows.len();
        warp.row_known.resize(rows, 0);
        warp.pred_known.resize(warp.preds.len(), 0);
        let first = at.rows as usize;
        for known in &mut warp.row_known[first..first + function.registers as usize] {
            *known &= !mask;
        }
        let first = at.preds as usize;
        for known in &mut warp.pred_known[first..first + function.preds as usize] {
            *known &= !mask;
        }
        let (start, end) = (at.local as usize, (at.local + function.frame_bytes) as usize);
        warp.local_known.resize(32, Vec::new());
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let known = &mut warp.local_known[lane];
            known.resize(known.len().max(end), false);
            known[start..end].fill(false);
        }
    }

    /// Bytes of a parameter keep whether they were written.
    pub(crate) fn copy_local(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        (a, b): (usize, usize),
        n: usize,
    ) {
        warp.local_known[lane].copy_within(a..a + n, b);
    }

    /// Follows one access of one lane.
    pub(crate) fn touch(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        access: Access,
    ) -> Option<RawFinding> {
        let mut found = None;
        if self.checks.uninitialised {
            found = self.initialisation(warp, (at, lane), access);
        }
        if self.checks.races
            && !matches!(access.place, Place::Local(_) | Place::Const(_) | Place::Param(_))
        {
            found = found.or(self.race(warp, (at, lane), access));
        }
        found
    }

    fn initialisation(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        access: Access,
    ) -> Option<RawFinding> {
        let known = match access.place {
            Place::Local(_) => &mut warp.local_known[lane],
            place => self.history.region(place)?.known.as_mut()?,
        };
        let offset = access.place.offset();
        let (start, end) = (offset as usize, (offset + access.bytes) as usize);
        let bytes = known.get_mut(start..end)?;
        if access.touch == Touch::Write {
            bytes.fill(true);
            return None;
        }
        let missing = bytes.iter().position(|known| !known)?;
        bytes.fill(true);
        let message = format!("byte {} of {} bytes was never written", missing, access.bytes);
        Some(raw(finding::UNINITIALISED, (warp, lane), at.pc, None, message))
    }

    /// Threads that meet, all told what each of them knows.
    fn meet(&mut self, rank: u32, threads: &[usize], mut known: Snapshot) {
        let clocks = &mut self.clocks[rank as usize];
        for thread in threads {
            known.merge(&clocks.release(*thread));
        }
        for thread in threads {
            clocks.acquire(*thread, &known);
        }
    }

    /// `bar.warp.sync`.
    pub(crate) fn warp_barrier(&mut self, warp: &Warp, active: u32) {
        if self.checks.races {
            let threads: Vec<usize> = threads_of(warp.index, active).collect();
            self.meet(warp.cta, &threads, Snapshot::default());
        }
    }

    /// Threads arrive at a barrier and do not wait.
    pub(crate) fn arrive(&mut self, warp: &Warp, active: u32, id: usize) {
        if !self.checks.races {
            return;
        }
        for thread in threads_of(warp.index, active) {
            let released = self.clocks[warp.cta as usize].release(thread);
            self.arrivals.entry((warp.cta, id)).or_default().merge(&released);
        }
    }

    /// A barrier opens for those that wait at it.
    pub(crate) fn release(&mut self, rank: u32, id: usize, waiting: &[u32], everyone: bool) {
        if !self.checks.races {
            return;
        }
        let known = self.arrivals.remove(&(rank, id)).unwrap_or_default();
        if everyone {
            self.clocks[rank as usize].next_generation();
            return;
        }
        let each = waiting.iter().enumerate();
        let threads: Vec<usize> =
            each.flat_map(|(warp, mask)| threads_of(warp as u32, *mask)).collect();
        self.meet(rank, &threads, known);
    }

    /// Lanes arrive at the cluster barrier; `at_once` if they wait at the next instruction.
    pub(crate) fn cluster_arrive(
        &mut self,
        warp: &Warp,
        active: u32,
        (release, at_once): (bool, bool),
    ) {
        if !self.checks.races {
            return;
        }
        let meeting = &mut self.meeting;
        if release && at_once {
            *meeting.waiting.entry((warp.cta, warp.index)).or_default() |= active;
            return;
        }
        meeting.partly = true;
        for thread in threads_of(warp.index, active) {
            if release {
                meeting.known.merge(&self.clocks[warp.cta as usize].release(thread));
            } else if let Some(fenced) = self.releases.fenced_for_cluster(warp.cta, thread) {
                meeting.known.merge(fenced);
            }
        }
    }

    /// A phase of the cluster barrier ends.
    pub(crate) fn open_cluster(&mut self) {
        if !self.checks.races {
            return;
        }
        let Meeting { waiting, mut known, partly, .. } = std::mem::take(&mut self.meeting);
        if !partly {
            return self.meet_cluster();
        }
        for ((rank, warp), lanes) in waiting {
            for thread in threads_of(warp, lanes) {
                known.merge(&self.clocks[rank as usize].release(thread));
            }
        }
        self.meeting.ended = known;
    }

    /// Lanes go on behind the cluster barrier.
    pub(crate) fn cluster_wait(&mut self, rank: u32, warp: u32, lanes: u32) {
        if !self.meeting.ended.is_empty() {
            for thread in threads_of(warp, lanes) {
                self.clocks[rank as usize].acquire(thread, &self.meeting.ended);
            }
        }
    }

    /// Everything that any thread of the cluster did is known to all.
    fn meet_cluster(&mut self) {
        let all: Vec<(u32, u32)> = self.clocks.iter().map(|c| (c.cta, c.generation + 1)).collect();
        for clocks in &mut self.clocks {
            clocks.next_generation();
            for (cta, generation) in &all {
                if *cta != clocks.cta {
                    clocks.tell_all(*cta, *generation);
                }
            }
        }
    }

    /// A copy that its thread waited for is a write of that thread from now on.
    pub(crate) fn landed(&mut self, warp: &Warp, copied: Copied) {
        if !self.checks.races {
            return;
        }
        let thread = (warp.index * 32 + u32::from(copied.lane)) as u16;
        let stamp = self.clocks[warp.cta as usize].stamp(thread, copied.pc, ASYNC);
        let place = Place::Shared(warp.cta, copied.at.into());
        self.history.visit(place, copied.bytes.into(), |mut cell| {
            let write = cell.write();
            let own = write.thread == thread && write.pc == copied.pc;
            if own && write.flags & IN_FLIGHT != 0 {
                cell.set_write(stamp);
            }
        });
    }
}

fn threads_of(warp: u32, mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |lane| mask >> lane & 1 != 0).map(move |lane| (warp * 32 + lane) as usize)
}

fn raw(
    code: &'static str,
    (warp, lane): (&Warp, usize),
    instruction: u32,
    other: Option<u32>,
    message: String,
) -> RawFinding {
    let (warp, lane, cta) = (warp.index, lane as u32, [0; 3]);
    RawFinding { code, instruction, other, cta, warp, lane, count: 1, message }
}

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// Every register an instruction reads has a value, for the lanes that execute it.
    pub(crate) fn check_read_registers(&mut self, warp: &mut Warp, at: &At) {
        if !self.setup.options.checks.uninitialised {
            return;
        }
        let module = self.setup.module;
        let meta = &module.meta[at.pc as usize];
        let mut unknown = 0;
        for read in module.list(meta.reads) {
            let (known, mask) = match read & PRED_BIT {
                0 => (&mut warp.row_known[at.rows + *read as usize], at.active),
                _ => {
                    let pred = read & !PRED_BIT;
                    let guard = module.code[at.pc as usize].guard.is_some_and(|g| g.pred == pred);
                    let mask = if guard { at.mask } else { at.active };
                    (&mut warp.pred_known[at.preds + pred as usize], mask)
                }
            };
            unknown |= mask & !*known;
            *known |= mask;
        }
        if unknown != 0 {
            let message = "a register that was never written".to_owned();
            self.report(finding::REGISTER, (warp, unknown), at.pc, message);
        }
        // What waits for other lanes has written nothing yet, and comes here again.
        for written in module.list(meta.writes) {
            match written & PRED_BIT {
                0 => warp.row_known[at.rows + *written as usize] |= at.active,
                _ => warp.pred_known[at.preds + (written & !PRED_BIT) as usize] |= at.active,
            }
        }
    }
}

/// Whether threads of this module meet in other ways than at barriers for the whole CTA.
fn meets_partly(setup: &Setup<'_>) -> bool {
    setup.module.code.iter().any(|inst| match &inst.op {
        Op::BarWarp { .. } | Op::Fence(..) | Op::ClusterWait { .. } => true,
        Op::Mbarrier(_) | Op::Bulk(_) | Op::Wgmma(_) => true,
        Op::Bar { threads, .. } => threads.is_some(),
        Op::Atomic(atomic) => atomic.order.acquires() || atomic.order.releases(),
        Op::Load(transfer) | Op::Store(transfer) => transfer.order != Order::Weak,
        _ => false,
    })
}
