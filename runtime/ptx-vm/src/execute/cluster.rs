//! A cluster's CTAs and warps, taken in turn until all have exited.

use super::engine::Engine;
use super::setup::Setup;
use super::state::Cta;
use crate::check::RawFinding;
use crate::count::Counters;

/// Instructions a warp may execute before others get a turn.
const TURN: u64 = 1 << 14;
/// Turns after which a `mbarrier.try_wait` gives up.
const TIME_LIMIT: u64 = 64;
/// How often all waits give up, without a thread that arrives or exits, before it is a deadlock.
const PATIENCE: u32 = 8;
/// What a cluster left behind.
pub(crate) struct Report {
    pub(crate) findings: Vec<RawFinding>,
    pub(crate) counters: Counters,
    pub(crate) steps: u64,
    pub(crate) completed: bool,
    pub(crate) out_of_steps: bool,
    pub(crate) last_pc: u32,
}

impl<'m> Engine<'m, false> {
    /// Runs the cluster `index` of the grid.
    pub(crate) fn run(setup: &'m Setup<'m>, index: u64) -> Report {
        if setup.options.checks.any() {
            Engine::<true>::new(setup, index).finish()
        } else {
            Engine::<false>::new(setup, index).finish()
        }
    }
}

impl<'m, const CHECK: bool> Engine<'m, CHECK> {
    fn finish(mut self) -> Report {
        let mut out_of_steps = false;
        let mut turns = 0u64;
        loop {
            let before = self.steps;
            let alive = self.turn();
            if self.stopped || !alive {
                break;
            }
            if self.steps >= self.setup.options.step_limit {
                out_of_steps = true;
                break;
            }
            turns += 1;
            if self.steps == before && !self.arrivals {
                // A wait may give up, and what its thread then does may let others go on.
                self.timed_out += 1;
                if self.timed_out > PATIENCE || !self.time_out_waits() {
                    self.report_hang();
                    break;
                }
            } else if turns.is_multiple_of(TIME_LIMIT) {
                self.time_out_waits();
            }
        }
        let completed = !out_of_steps && !self.stopped && self.ctas.iter().all(is_done);
        if CHECK {
            self.checker.finish(self.setup);
        }
        Report {
            findings: self.findings,
            counters: self.counters,
            steps: self.steps,
            completed,
            out_of_steps,
            last_pc: self.last_pc,
        }
    }

    /// Gives every warp a turn; whether any thread is left.
    fn turn(&mut self) -> bool {
        let mut alive = false;
        for cta in 0..self.ctas.len() {
            for index in 0..self.ctas[cta].warps.len() {
                if self.ctas[cta].warps[index].groups.is_empty() {
                    continue;
                }
                alive = true;
                let mut warp = std::mem::take(&mut self.ctas[cta].warps[index]);
                let left = self.setup.options.step_limit.saturating_sub(self.steps);
                self.run_warp(&mut warp, TURN.min(left));
                self.ctas[cta].warps[index] = warp;
                if self.stopped {
                    return alive;
                }
                if self.arrivals {
                    self.release_barriers(cta);
                }
            }
        }
        self.arrivals = false;
        self.release_cluster();
        self.settle();
        alive
    }
}

fn is_done(cta: &Cta) -> bool {
    cta.warps.iter().all(|warp| warp.groups.is_empty())
}
