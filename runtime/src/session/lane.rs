//! The lane that communicates: collectives of an entry, one after the other, beside its kernels.
//!
//! # Invariants
//! - Collectives run in the order in which they are started, which is the plan's and so every rank's.
//! - What is sent is a copy made at the start; what comes is handed over when it is asked for. So
//!   the lane never touches memory of the device.
//! - After a failure nothing that was started is run any more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;
use std::time::Instant;

use perilune_plan::{Collective, Entry, Plan, StepOp};

use super::collective::{Bytes, Exchange, Failed};
use super::first_node;
use crate::comm::{Communicator, Site};

/// A collective to run.
pub(super) struct Job {
    pub(super) step: usize,
    pub(super) send: Vec<Bytes>,
    /// Bytes of each buffer that it gives.
    pub(super) lengths: Vec<usize>,
}

/// What a collective gave, and when it ran.
pub(super) struct Done {
    pub(super) step: usize,
    pub(super) received: Result<Vec<Vec<u8>>, Failed>,
    pub(super) begin: Instant,
    pub(super) end: Instant,
}

/// Runs the collectives of one entry.
pub(super) struct Runner<'a> {
    pub(super) comm: &'a mut dyn Communicator,
    pub(super) plan: &'a Plan,
    pub(super) entry: &'a Entry,
}

impl Runner<'_> {
    fn run(&mut self, job: Job) -> Done {
        let (begin, step) = (Instant::now(), job.step);
        let received = match &self.entry.steps[job.step].op {
            StepOp::Collective(collective) => self.exchange(collective, job),
            _ => Ok(Vec::new()),
        };
        Done { step, received, begin, end: Instant::now() }
    }

    fn exchange(&mut self, collective: &Collective, job: Job) -> Result<Vec<Vec<u8>>, Failed> {
        let node = first_node(self.plan, self.entry, job.step);
        let (entry, step, name) = (&self.entry.name, job.step, collective.kind.name());
        let site = Site { entry, step, name, node: &node };
        let group = self.plan.mesh.group(self.comm.rank(), &collective.axes);
        let mut exchange = Exchange { comm: self.comm, site, group: &group };
        exchange.run(collective, job.send, &job.lengths)
    }
}

/// The lane of a run.
pub(super) enum Lane<'a> {
    /// Collectives run where they are waited for: nothing in the entry runs beside them.
    Inline { runner: Runner<'a>, started: Option<Job> },
    /// Collectives run on a thread of their own.
    Thread {
        jobs: Sender<Job>,
        done: Receiver<Done>,
        early: BTreeMap<usize, Done>,
        stop: &'a AtomicBool,
    },
}

impl<'a> Lane<'a> {
    /// The lane of an entry's collectives; `stop` is theirs alone.
    pub(super) fn new<'scope>(
        runner: Runner<'a>,
        (scope, stop): (&'scope Scope<'scope, 'a>, &'a AtomicBool),
    ) -> Lane<'a> {
        let flies = |op: &StepOp| matches!(op, StepOp::Collective(c) if c.until.is_some());
        if !runner.entry.steps.iter().any(|step| flies(&step.op)) {
            return Lane::Inline { runner, started: None };
        }
        let (jobs, todo) = channel();
        let (finished, done) = channel();
        scope.spawn(move || serve(runner, &todo, &finished, stop));
        Lane::Thread { jobs, done, early: BTreeMap::new(), stop }
    }

    /// Starts a collective.
    pub(super) fn start(&mut self, job: Job) {
        match self {
            Lane::Inline { started, .. } => *started = Some(job),
            // A thread that is gone has left the reason behind: `finish` finds none of its results.
            Lane::Thread { jobs, .. } => drop(jobs.send(job)),
        }
    }

    /// What a collective that was started gives, once it is done; nothing if the lane broke down.
    pub(super) fn finish(&mut self, step: usize) -> Option<Done> {
        match self {
            Lane::Inline { runner, started } => started.take().map(|job| runner.run(job)),
            Lane::Thread { done, early, .. } => loop {
                if let Some(found) = early.remove(&step) {
                    return Some(found);
                }
                let next = done.recv().ok()?;
                early.insert(next.step, next);
            },
        }
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        if let Lane::Thread { stop, .. } = self {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Runs what is started until there is no more, or something fails.
fn serve(mut runner: Runner<'_>, todo: &Receiver<Job>, finished: &Sender<Done>, stop: &AtomicBool) {
    while let Ok(job) = todo.recv() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let done = runner.run(job);
        let failed = done.received.is_err();
        if finished.send(done).is_err() || failed {
            break;
        }
    }
}
