//! Barriers of a CTA and of a cluster.
//!
//! # Invariants
//! - Without a count a barrier waits for the threads that have not exited; with one, for that many.
//! - A warp that arrives whole counts as 32 threads, however many it has.

use super::cluster::{BARRIERS, Engine, lanes};
use super::state::{Cta, State, Warp};
use super::warp::{At, Flow};
use crate::check::finding;
use crate::module::{Bar, Op};

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
            _ => None,
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
        self.arrivals = true;
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
    pub(super) fn cluster_arrive(&mut self, warp: &mut Warp, at: &At) -> Flow {
        let missing = warp.live & !at.active;
        if missing != 0 {
            return Flow::Wait(State::Converge { missing });
        }
        let cta = &mut self.ctas[warp.cta as usize];
        cta.cluster_arrived[warp.index as usize] |= at.active;
        cta.cluster_pc = at.pc;
        self.arrivals = true;
        Flow::Next
    }

    /// `barrier.cluster.wait`.
    pub(super) fn cluster_wait(&mut self, warp: &mut Warp, at: &At) -> Flow {
        let missing = warp.live & !at.active;
        if missing != 0 {
            return Flow::Wait(State::Converge { missing });
        }
        self.arrivals = true;
        self.wait(warp, at, State::Cluster)
    }

    /// Opens the cluster barrier when every thread has arrived and those that arrived wait or left.
    pub(super) fn release_cluster(&mut self) {
        let complete = |cta: &Cta| {
            let pairs = cta.cluster_arrived.iter().zip(&cta.live);
            pairs.clone().all(|(arrived, live)| arrived & live == *live)
        };
        let waiting = |cta: &Cta| {
            let mut groups = cta.warps.iter().flat_map(|warp| &warp.groups);
            groups.any(|group| group.state == State::Cluster)
        };
        if !self.ctas.iter().any(waiting) || !self.ctas.iter().all(complete) {
            return;
        }
        // A thread that arrived and does not wait yet would take the next phase for this one.
        let all_wait = self.ctas.iter().flat_map(|cta| &cta.warps).flat_map(|warp| &warp.groups);
        if !all_wait.clone().all(|group| group.state == State::Cluster) {
            return;
        }
        for cta in &mut self.ctas {
            cta.cluster_arrived.iter_mut().for_each(|lanes| *lanes = 0);
            for group in cta.warps.iter_mut().flat_map(|warp| &mut warp.groups) {
                group.state = State::Ready;
            }
        }
        self.arrivals = true;
        if CHECK {
            self.checker.release_cluster();
        }
    }

    /// Lanes for which others wait at an aligned barrier have exited without it.
    pub(super) fn awaited_exit(&mut self, warp: &Warp, pc: u32, waiting: u32) {
        let op = &self.setup.module.code[pc as usize].op;
        if matches!(op, Op::Bar { .. } | Op::ClusterArrive | Op::ClusterWait) {
            let message = "a barrier that only a part of the warp executes".to_owned();
            self.fail(finding::DIVERGENT_BARRIER, (warp, waiting), pc, message);
        }
    }
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
