//! Barriers of a CTA and of a cluster.
//!
//! # Invariants
//! - Without a count a barrier waits for the threads that have not exited; with one, for that many.
//! - A warp that arrives whole counts as 32 threads, however many it has.

use super::engine::{BARRIERS, Engine};
use super::lanes::{At, Flow, lanes};
use super::state::{Cta, State, Warp};
use crate::check::finding;
use crate::module::{Bar, Inst, Op};

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// `bar` and `barrier`.
    pub(super) fn bar(&mut self, warp: &mut Warp, at: &At, op: &Op) -> Flow {
        let Op::Bar { how, id, threads, input, aligned } = op else { return Flow::Next };
        let missing = warp.live & !at.active;
        if *aligned && missing != 0 {
            return Flow::Wait(State::Converge { missing });
        }
        let number = warp.first(at, *id);
        let count = threads.map(|row| warp.first(at, row) as u32);
        let most = self.setup.block.iter().product::<u32>().next_multiple_of(32);
        let wrong = match count {
            _ if number >= BARRIERS as u64 => Some(format!("barrier {number} of {BARRIERS}")),
            Some(count) if count == 0 || count % 32 != 0 => {
                Some(format!("a barrier for {count} threads, no multiple of 32"))
            }
            Some(count) if count > most => {
                Some(format!("a barrier for {count} threads in a CTA of {most}"))
            }
            _ => {
                let barrier = &self.ctas[warp.cta as usize].barriers[number as usize];
                let (here, there) = (count.unwrap_or(most), barrier.threads.unwrap_or(most));
                (barrier.is_open() && here != there)
                    .then(|| format!("a barrier for {here} threads, where others wait for {there}"))
            }
        };
        if let Some(message) = wrong {
            self.fail(finding::BARRIER_COUNT, (warp, at.active), at.pc, message);
            return Flow::Stop;
        }
        let votes = (warp.holds(at, *input) & at.active).count_ones();
        let barrier = &mut self.ctas[warp.cta as usize].barriers[number as usize];
        if !barrier.is_open() {
            (barrier.votes, barrier.against, barrier.threads, barrier.pc) = (0, 0, None, at.pc);
        }
        barrier.threads = barrier.threads.or(count);
        barrier.arrived[warp.index as usize] |= at.active;
        barrier.votes += votes;
        barrier.against += at.active.count_ones() - votes;
        self.something_moved();
        match how {
            Bar::Arrive => {
                if CHECK {
                    self.checker.arrive(warp, at.active, number as usize);
                }
                Flow::Pause
            }
            _ => self.wait(warp, at, State::Barrier { id: number as u8, how: *how }),
        }
    }

    /// The active lanes wait behind this instruction; the others go on.
    fn wait(&mut self, warp: &mut Warp, at: &At, state: State) -> Flow {
        let group = if at.active == at.mask {
            at.group
        } else {
            warp.groups[at.group].pc = at.pc + 1;
            warp.split(at.group, at.active, at.pc)
        };
        warp.groups[group].pc = at.pc + 1;
        warp.groups[group].state = state;
        Flow::Changed
    }

    /// Opens the barriers of a CTA that are complete.
    pub(super) fn release_barriers(&mut self, cta: usize) {
        for id in 0..BARRIERS {
            let owner = &mut self.ctas[cta];
            let barrier = &owner.barriers[id];
            if !barrier.is_open() || !is_complete(owner, id) {
                continue;
            }
            let (votes, against) = (barrier.votes, barrier.against);
            owner.barriers[id].arrived.iter_mut().for_each(|lanes| *lanes = 0);
            owner.barriers[id].threads = None;
            let mut woken = Vec::with_capacity(owner.warps.len());
            for warp in &mut owner.warps {
                woken.push(wake(warp, id, votes, against));
            }
            if CHECK {
                let everyone = woken == owner.live;
                self.checker.release(cta as u32, id, &woken, everyone);
            }
        }
    }

    /// `barrier.cluster.arrive`.
    pub(super) fn cluster_arrive(
        &mut self,
        warp: &mut Warp,
        at: &At,
        (release, aligned): (bool, bool),
    ) -> Flow {
        let missing = warp.live & !at.active;
        if aligned && missing != 0 {
            return Flow::Wait(State::Converge { missing });
        }
        let cta = &mut self.ctas[warp.cta as usize];
        cta.cluster_arrived[warp.index as usize] |= at.active;
        self.something_moved();
        if CHECK {
            let next = self.setup.module.code.get(at.pc as usize + 1);
            let waits = |inst: &Inst| matches!(inst.op, Op::ClusterWait { .. });
            let at_once = next.is_some_and(|inst| waits(inst) && inst.guard.is_none());
            self.checker.cluster_arrive(warp, at.active, (release, at_once));
        }
        Flow::Next
    }

    /// `barrier.cluster.wait`: lanes whose phase has ended go on, the others wait.
    pub(super) fn cluster_wait(&mut self, warp: &mut Warp, at: &At, aligned: bool) -> Flow {
        let missing = warp.live & !at.active;
        if aligned && missing != 0 {
            return Flow::Wait(State::Converge { missing });
        }
        let passed = &mut self.ctas[warp.cta as usize].cluster_passed[warp.index as usize];
        let ready = *passed & at.active;
        *passed &= !ready;
        if CHECK {
            self.checker.cluster_wait(warp.cta, warp.index, ready);
        }
        let active = at.active & !ready;
        if active == 0 {
            return Flow::Next;
        }
        self.arrivals = true;
        self.wait(warp, &At { active, ..*at }, State::Cluster)
    }

    /// Ends the phase of the cluster barrier when every thread that has not exited has arrived.
    pub(super) fn release_cluster(&mut self) {
        let arrived = |cta: &Cta| {
            let mut pairs = cta.cluster_arrived.iter().zip(&cta.live);
            pairs.all(|(arrived, live)| arrived & live == *live)
        };
        let any = self.ctas.iter().flat_map(|cta| &cta.live).any(|live| *live != 0);
        if !any || !self.ctas.iter().all(arrived) {
            return;
        }
        self.arrivals = true;
        if CHECK {
            self.checker.open_cluster();
        }
        for (rank, cta) in self.ctas.iter_mut().enumerate() {
            for warp in &mut cta.warps {
                let index = warp.index as usize;
                let mut passed = std::mem::take(&mut cta.cluster_arrived[index]) & warp.live;
                for group in warp.groups.iter_mut().filter(|g| g.state == State::Cluster) {
                    group.state = State::Ready;
                    let woken = group.mask & passed;
                    passed &= !woken;
                    if CHECK {
                        self.checker.cluster_wait(rank as u32, warp.index, woken);
                    }
                }
                cta.cluster_passed[index] = passed;
            }
        }
    }

    /// Lanes for which others wait at an aligned barrier have exited without it.
    pub(super) fn awaited_exit(&mut self, warp: &Warp, pc: u32, waiting: u32) {
        let op = &self.setup.module.code[pc as usize].op;
        if is_barrier(op) {
            let message = "a barrier that only a part of the warp executes".to_owned();
            self.fail(finding::DIVERGENT_BARRIER, (warp, waiting), pc, message);
        }
    }
}

/// Whether threads of a CTA or a cluster wait for each other at an instruction.
pub(super) fn is_barrier(op: &Op) -> bool {
    matches!(op, Op::Bar { .. } | Op::ClusterArrive { .. } | Op::ClusterWait { .. })
}

fn is_complete(cta: &Cta, id: usize) -> bool {
    let barrier = &cta.barriers[id];
    let pairs = || barrier.arrived.iter().zip(&cta.live);
    let Some(threads) = barrier.threads else {
        return pairs().all(|(arrived, live)| arrived & live == *live);
    };
    let whole = |(arrived, live): (&u32, &u32)| {
        if *arrived != 0 && arrived & live == *live { 32 } else { arrived.count_ones() }
    };
    pairs().map(whole).sum::<u32>() >= threads
}

/// Lets those go on that wait at a barrier, with the result of its vote; gives their lanes.
fn wake(warp: &mut Warp, barrier: usize, votes: u32, against: u32) -> u32 {
    let mut woken = 0;
    for group in 0..warp.groups.len() {
        let State::Barrier { id, how } = warp.groups[group].state else { continue };
        if usize::from(id) != barrier {
            continue;
        }
        warp.groups[group].state = State::Ready;
        let (mask, frame) = (warp.groups[group].mask, warp.groups[group].frame());
        woken |= mask;
        match how {
            Bar::Sync | Bar::Arrive => {}
            Bar::Popc(row) => {
                for lane in lanes(mask) {
                    warp.rows[(frame.rows + row) as usize].0[lane] = votes.into();
                }
            }
            Bar::And(pred) | Bar::Or(pred) => {
                let holds = if how == Bar::And(pred) { against == 0 } else { votes > 0 };
                let bits = &mut warp.preds[(frame.preds + pred) as usize];
                *bits = if holds { *bits | mask } else { *bits & !mask };
            }
        }
    }
    woken
}
