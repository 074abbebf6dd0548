//! mbarrier objects in shared memory: arrivals, bytes, phases, and who waits for them.
//!
//! # Invariants
//! - Bytes of copies complete between turns of the warps, so that what does not wait for them is noticed.
//! - A `try_wait` that cannot succeed yet lets its lanes wait; it gives up after a number of turns, or when
//!   nobody can go on. A `test_wait` never waits.

use super::engine::Engine;
use super::lanes::{At, Flow, lanes};
use super::place::{Fault, Place};
use super::state::{Awaited, Group, Object, State, Warp};
use crate::check::finding;
use crate::mbarrier::{Mbarrier, MbarrierError};
use crate::module::{Address, MbarrierAction, MbarrierOp, Op, Phase};

/// The finding's code of an error.
fn code_of(error: MbarrierError) -> &'static str {
    match error {
        MbarrierError::Uninitialised => finding::MBARRIER_STATE,
        MbarrierError::Count(_) | MbarrierError::Underflow { .. } | MbarrierError::Completes => {
            finding::MBARRIER_COUNT
        }
        MbarrierError::Bytes(_) => finding::MBARRIER_BYTES,
    }
}

impl From<MbarrierError> for Fault {
    fn from(error: MbarrierError) -> Self {
        Self { code: code_of(error), message: error.to_string() }
    }
}

impl<const CHECK: bool> Engine<'_, CHECK> {
    pub(super) fn mbarrier(&mut self, warp: &mut Warp, at: &At, op: &MbarrierOp) -> Flow {
        if let MbarrierAction::Wait { .. } = op.what {
            return self.mbarrier_wait(warp, at, op);
        }
        for lane in lanes(at.active) {
            let done = self
                .object(warp, at, &op.at, lane)
                .and_then(|object| self.act(warp, (at, lane), object, op));
            if let Err(fault) = done {
                return self.fault(warp, at, lane, fault);
            }
        }
        Flow::Next
    }

    /// The object an address names.
    pub(super) fn object(
        &self,
        warp: &Warp,
        at: &At,
        address: &Address,
        lane: usize,
    ) -> Result<Object, Fault> {
        let bytes = self.address(warp, at, address, lane);
        match self.locate(warp, lane, (address.space, bytes), 8)? {
            Place::Shared(rank, offset) => Ok((rank, offset as u32)),
            _ => {
                let message = "an mbarrier lies in shared memory".to_owned();
                Err(Fault { code: finding::ADDRESS, message })
            }
        }
    }

    /// The state of an object that was initialised.
    pub(super) fn state_of(&self, object: Object) -> Result<Mbarrier, MbarrierError> {
        if !self.objects.contains_key(&object) {
            return Err(MbarrierError::Uninitialised);
        }
        Mbarrier::decode(self.bits_of(object))
    }

    fn bits_of(&self, (rank, offset): Object) -> u64 {
        let shared = &self.ctas[rank as usize].shared;
        super::place::little_endian(shared, offset as usize, 8)
    }

    fn put_bits(&mut self, (rank, offset): Object, bits: u64) {
        self.timed_out = 0;
        let shared = &mut self.ctas[rank as usize].shared;
        super::place::put(shared, offset as usize, 8, bits);
    }

    /// Writes a changed state, and lets go on who waited for its phase.
    fn put_state(&mut self, object: Object, before: Mbarrier, after: Mbarrier) {
        self.put_bits(object, after.encode());
        if before.parity != after.parity {
            self.arrivals = true;
            if CHECK {
                self.checker.phase_completed(object);
            }
        }
    }

    fn act(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        object: Object,
        op: &MbarrierOp,
    ) -> Result<(), Fault> {
        let value = |warp: &Warp, row| warp.row(at, row).0[lane] as u32;
        match op.what {
            MbarrierAction::Init { count } => {
                self.init_object(at, object, value(warp, count))?;
            }
            MbarrierAction::Invalidate => {
                self.state_of(object)?;
                self.objects.remove(&object);
                self.put_bits(object, 0);
                if CHECK {
                    self.checker.object_ended(object);
                }
            }
            MbarrierAction::Expect { bytes } => {
                let mut state = self.state_of(object)?;
                state.expect_bytes(value(warp, bytes))?;
                self.put_bits(object, state.encode());
            }
            MbarrierAction::Complete { bytes } => {
                self.complete_bytes(object, value(warp, bytes))?;
            }
            MbarrierAction::Arrive { .. } | MbarrierAction::ArriveAfterCopies { .. } => {
                self.arrive(warp, (at, lane), object, op)?;
            }
            MbarrierAction::Wait { .. } => {}
        }
        Ok(())
    }

    fn init_object(&mut self, at: &At, object: Object, count: u32) -> Result<(), Fault> {
        let state = Mbarrier::init(count)?;
        let in_use = |old: &Mbarrier| old.pending != old.expected || old.pending_bytes != 0;
        if let Some(old) = self.state_of(object).ok().filter(in_use) {
            let pending = old.pending;
            let message =
                format!("the mbarrier here is in use: its phase waits for {pending} arrivals");
            return Err(Fault { code: finding::MBARRIER_STATE, message });
        }
        self.objects.insert(object, at.pc);
        self.put_bits(object, state.encode());
        if CHECK {
            self.checker.object_begun(object);
        }
        Ok(())
    }

    fn arrive(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        object: Object,
        op: &MbarrierOp,
    ) -> Result<(), Fault> {
        let before = self.state_of(object)?;
        let mut state = before;
        if CHECK {
            if let MbarrierAction::ArriveAfterCopies { .. } = op.what {
                self.land_copies_of(warp, lane);
            }
            self.checker.arrive_at(warp, lane, object, op.order);
        }
        match op.what {
            MbarrierAction::Arrive { token, count, expect, drop, no_complete } => {
                if let Some(bytes) = expect {
                    state.expect_bytes(warp.row(at, bytes).0[lane] as u32)?;
                }
                let count = warp.row(at, count).0[lane] as u32;
                let bits = if no_complete {
                    state.arrive_no_complete(count, drop)?
                } else {
                    state.arrive(count, drop)?
                };
                warp.rows[at.rows + token as usize].0[lane] = bits;
            }
            // Without `.noinc` the arrival is added before it is taken away.
            MbarrierAction::ArriveAfterCopies { counted: false } => {}
            _ => {
                state.arrive(1, false)?;
            }
        }
        self.put_state(object, before, state);
        Ok(())
    }

    /// `complete_tx`.
    fn complete_bytes(&mut self, object: Object, bytes: u32) -> Result<(), MbarrierError> {
        let before = self.state_of(object)?;
        let mut state = before;
        state.complete_bytes(bytes)?;
        self.put_state(object, before, state);
        Ok(())
    }

    /// Between turns: the bytes of copies arrive, and who waited for what is there now goes on.
    pub(super) fn settle(&mut self) {
        self.complete_copies();
        if !self.stopped {
            self.wake();
        }
    }

    /// Tells mbarriers of the bytes that have arrived.
    pub(super) fn complete_copies(&mut self) {
        for completing in std::mem::take(&mut self.completing) {
            self.arrivals = true;
            let Err(error) = self.complete_bytes(completing.object, completing.bytes) else {
                continue;
            };
            let warp = Warp { index: completing.warp, cta: completing.cta, ..Warp::default() };
            let message = format!("when this copy ended: {error}");
            self.fail(code_of(error), (&warp, 1 << completing.lane), completing.pc, message);
            return;
        }
    }

    /// Lets go on who waits for a phase or a warpgroup that has come.
    fn wake(&mut self) {
        for cta in 0..self.ctas.len() {
            for warp in 0..self.ctas[cta].warps.len() {
                for group in 0..self.ctas[cta].warps[warp].groups.len() {
                    let State::Await(awaited) = self.ctas[cta].warps[warp].groups[group].state
                    else {
                        continue;
                    };
                    let here = match awaited {
                        Awaited::Phase { object, parity } => {
                            self.state_of(object).map_or(true, |state| state.has_completed(parity))
                        }
                        Awaited::Warpgroup { target } => {
                            self.warpgroup_has_issued(cta as u32, warp as u32, target)
                        }
                    };
                    if here {
                        self.ctas[cta].warps[warp].groups[group].state = State::Ready;
                        self.arrivals = true;
                    }
                }
            }
        }
    }

    /// Lets every `try_wait` give up, as it may after some time; whether one did.
    pub(super) fn time_out_waits(&mut self) -> bool {
        let code = &self.setup.module.code;
        let mut any = false;
        for warp in self.ctas.iter_mut().flat_map(|cta| &mut cta.warps) {
            for group in 0..warp.groups.len() {
                let Group { mask, pc, state, .. } = warp.groups[group];
                let frame = warp.groups[group].frame();
                let (State::Await(Awaited::Phase { .. }), Op::Mbarrier(op)) =
                    (state, &code[pc as usize].op)
                else {
                    continue;
                };
                let MbarrierAction::Wait { done, .. } = op.what else { continue };
                warp.preds[(frame.preds + done) as usize] &= !mask;
                warp.groups[group].pc = pc + 1;
                warp.groups[group].state = State::Ready;
                any = true;
            }
        }
        any
    }

    fn mbarrier_wait(&mut self, warp: &mut Warp, at: &At, op: &MbarrierOp) -> Flow {
        let MbarrierAction::Wait { done, phase, blocks } = op.what else { return Flow::Next };
        let mut completed = 0;
        let mut awaited = None;
        for lane in lanes(at.active) {
            let found = self.object(warp, at, &op.at, lane).and_then(|object| {
                let parity = match phase {
                    Phase::Parity(row) => warp.row(at, row).0[lane] & 1 != 0,
                    Phase::Token(row) => Mbarrier::decode(warp.row(at, row).0[lane])?.parity,
                };
                Ok((object, parity, self.state_of(object)?.has_completed(parity)))
            });
            match found {
                Ok((object, _, true)) => {
                    completed |= 1 << lane;
                    if CHECK {
                        self.checker.phase_seen(warp, lane, object, op.order);
                    }
                }
                Ok((object, parity, false)) => {
                    awaited = awaited.or(Some(Awaited::Phase { object, parity }));
                }
                Err(fault) => return self.fault(warp, at, lane, fault),
            }
        }
        match awaited.filter(|_| blocks) {
            None => {
                warp.write_pred(at, done, completed);
                Flow::Next
            }
            Some(awaited) => self.wait_here(warp, at, (completed, done), awaited),
        }
    }

    /// The lanes that have to wait stay at the instruction, the others go on behind it.
    fn wait_here(
        &mut self,
        warp: &mut Warp,
        at: &At,
        (completed, done): (u32, u32),
        awaited: Awaited,
    ) -> Flow {
        warp.write_pred(&At { active: completed, ..*at }, done, completed);
        let waiting = at.active & !completed;
        if waiting == at.mask {
            return Flow::Wait(State::Await(awaited));
        }
        let group = warp.split(at.group, waiting, at.pc);
        warp.groups[group].state = State::Await(awaited);
        warp.groups[at.group].pc = at.pc + 1;
        Flow::Changed
    }

    /// Why a group waits, for the report of a hang, and the code that fits.
    pub(super) fn awaits(&self, warp: &Warp, group: &Group) -> Option<(&'static str, String)> {
        let State::Await(awaited) = group.state else { return None };
        Some(match awaited {
            Awaited::Warpgroup { target } => {
                let first = warp.index / 4 * 4;
                let message = format!(
                    "waits for warps {first} to {} to come to {target} wgmma, and one of them cannot",
                    first + 3
                );
                (finding::PARTIAL_WARP, message)
            }
            Awaited::Phase { object: (rank, offset), parity } => {
                let Ok(state) = self.state_of((rank, offset)) else {
                    return Some((
                        finding::MBARRIER_STATE,
                        "waits for an mbarrier that ended".to_owned(),
                    ));
                };
                let message = format!(
                    "waits for phase {} of the mbarrier at {offset} of CTA {rank}, \
                     which still waits for {} arrivals of {} and {} bytes",
                    u8::from(parity),
                    state.pending,
                    state.expected,
                    state.pending_bytes
                );
                let code = match state.pending_bytes {
                    0 => finding::MBARRIER_PHASE,
                    _ => finding::MBARRIER_BYTES,
                };
                (code, message)
            }
        })
    }
}
