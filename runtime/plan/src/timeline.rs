//! When each step of an entry runs on a machine, by its rates: the predicted trace.
//!
//! A rank has two lanes: one computes, the other communicates, one collective after the other. A
//! collective starts where it stands among the steps; what it sends is copied then, what it gives is
//! copied when it is waited for.
//!
//! # Invariants
//! - The runtime runs steps as this says, in this order; only times differ.

use crate::{Entry, Machine, Plan, StepOp};

/// What runs beside what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Kernels, and waiting for collectives.
    Compute,
    /// Collectives.
    Communication,
}

impl Lane {
    /// Its name in a trace.
    pub fn name(self) -> &'static str {
        match self {
            Lane::Compute => "compute",
            Lane::Communication => "communication",
        }
    }
}

/// What happens in a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happens {
    /// The step runs.
    Runs,
    /// The step's result is waited for.
    Awaited,
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Index of the step.
    pub step: usize,
    /// Where.
    pub lane: Lane,
    /// What.
    pub happens: Happens,
    /// Nanoseconds from the entry's start.
    pub start_ns: f64,
    /// Nanoseconds.
    pub duration_ns: f64,
}

/// The spans of an entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// In the order in which they begin on their lane.
    pub spans: Vec<Span>,
    /// When the last one ends.
    pub end_ns: f64,
}

impl Timeline {
    /// Time of a lane's spans of one kind.
    pub fn total_ns(&self, lane: Lane, happens: Happens) -> f64 {
        let of = self.spans.iter().filter(|s| s.lane == lane && s.happens == happens);
        of.fold(0.0, |sum, span| sum + span.duration_ns)
    }

    /// Time in which collectives run while kernels do.
    pub fn hidden_ns(&self) -> f64 {
        let communicating = self.total_ns(Lane::Communication, Happens::Runs);
        (communicating - self.total_ns(Lane::Compute, Happens::Awaited)).max(0.0)
    }
}

impl Entry {
    /// When its steps run; with `overlap`, collectives beside what does not need them, else each is
    /// waited for at once.
    pub fn timeline(&self, plan: &Plan, machine: &Machine, overlap: bool) -> Timeline {
        let mut clock = Clock::default();
        // Collectives under way: the step, when it is done, and the step before which it must be.
        let mut flying: Vec<(usize, f64, usize)> = Vec::new();
        for (i, step) in self.steps.iter().enumerate() {
            self.arrive(&mut clock, &mut flying, (i, machine));
            let StepOp::Collective(collective) = &step.op else {
                clock.compute(i, machine.compute_ns(&step.work(plan, self)));
                continue;
            };
            clock.now += machine.step_ns + self.copy_ns(&collective.send, machine);
            let exchange = collective.exchange(self, &plan.mesh);
            let done = clock.communicate(i, machine.exchange_ns(&exchange));
            let until = collective.until.filter(|_| overlap).map_or(i + 1, |step| step as usize);
            flying.push((i, done, until));
        }
        self.arrive(&mut clock, &mut flying, (usize::MAX, machine));
        Timeline { end_ns: clock.now, spans: clock.spans }
    }

    /// Waits for what a step needs.
    fn arrive(
        &self,
        clock: &mut Clock,
        flying: &mut Vec<(usize, f64, usize)>,
        (step, machine): (usize, &Machine),
    ) {
        flying.retain(|&(collective, done, until)| {
            if until > step {
                return true;
            }
            clock.await_until(collective, done);
            if let StepOp::Collective(c) = &self.steps[collective].op {
                clock.now += self.copy_ns(&c.receive, machine);
            }
            false
        });
    }

    fn copy_ns(&self, buffers: &[u32], machine: &Machine) -> f64 {
        let found = buffers.iter().filter_map(|n| self.buffers.get(*n as usize));
        let bytes = found.map(|b| b.elems.saturating_mul(b.dtype.bytes())).sum::<u64>();
        1e9 * bytes as f64 / machine.memory_bytes
    }
}

/// The time on both lanes.
#[derive(Default)]
struct Clock {
    now: f64,
    /// When the communication lane is free.
    free: f64,
    spans: Vec<Span>,
}

impl Clock {
    fn compute(&mut self, step: usize, duration_ns: f64) {
        let (lane, happens, start_ns) = (Lane::Compute, Happens::Runs, self.now);
        self.spans.push(Span { step, lane, happens, start_ns, duration_ns });
        self.now += duration_ns;
    }

    /// Gives when it is done.
    fn communicate(&mut self, step: usize, duration_ns: f64) -> f64 {
        let (lane, happens) = (Lane::Communication, Happens::Runs);
        let start_ns = self.free.max(self.now);
        self.spans.push(Span { step, lane, happens, start_ns, duration_ns });
        self.free = start_ns + duration_ns;
        self.free
    }

    fn await_until(&mut self, step: usize, done: f64) {
        if done > self.now {
            let (lane, happens, start_ns) = (Lane::Compute, Happens::Awaited, self.now);
            let duration_ns = done - self.now;
            self.spans.push(Span { step, lane, happens, start_ns, duration_ns });
            self.now = done;
        }
    }
}
