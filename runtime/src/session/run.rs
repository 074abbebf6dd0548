//! One run of an entry: its steps in order, its collectives on a lane beside them.
//!
//! # Invariants
//! - A collective's results are in their buffers before the step that it is to be done before.
//! - A step that other ranks run is passed over.

use std::collections::BTreeMap;
use std::time::Instant;

use perilune_plan::{Collective, Entry, Plan, StepOp, timeline};

use super::collective::{Bytes, Failed};
use super::failed;
use super::lane::{Job, Lane};
use crate::RuntimeError;
use crate::device::{Device, Piece, StepFailure};
use crate::profile::{Profile, Slice};

/// A run of an entry.
pub(super) struct Run<'a> {
    pub(super) device: &'a mut dyn Device,
    pub(super) lane: Lane<'a>,
    pub(super) plan: &'a Plan,
    pub(super) entry: &'a Entry,
    /// The entry's index.
    pub(super) index: usize,
    pub(super) rank: u32,
    /// Where each buffer lies.
    pub(super) places: &'a [Piece],
    /// Collectives under way, by the step before which they are to be done, in the order of their
    /// start.
    pub(super) flying: BTreeMap<usize, Vec<usize>>,
    /// Where times go, and from when they count.
    pub(super) profile: Option<(&'a mut Profile, Instant)>,
}

impl Run<'_> {
    /// Runs every step.
    pub(super) fn all(mut self) -> Result<(), RuntimeError> {
        for step in 0..self.entry.steps.len() {
            self.arrive(step)?;
            let only = self.entry.steps[step].only.as_ref();
            if !self.plan.mesh.among(self.rank, only) {
                continue;
            }
            match &self.entry.steps[step].op {
                StepOp::Collective(collective) => self.start(step, collective)?,
                StepOp::Launch(_)
                | StepOp::Contract(_)
                | StepOp::Ragged(_)
                | StepOp::Attention(_)
                | StepOp::AttentionGrad(_)
                | StepOp::Copy { .. } => self.compute(step)?,
            }
        }
        self.arrive(self.entry.steps.len())
    }

    fn compute(&mut self, step: usize) -> Result<(), RuntimeError> {
        let (begin, measure) = (Instant::now(), self.profile.is_some());
        let counts = self.device.run(self.index, step, measure);
        let counts = counts.map_err(|failure| failed(self.plan, (self.entry, step), failure))?;
        self.record(step, (begin, Instant::now()), |slice| slice.counts = counts);
        Ok(())
    }

    /// Hands a collective to the lane, with a copy of what it sends that has a meaning.
    fn start(&mut self, step: usize, collective: &Collective) -> Result<(), RuntimeError> {
        let place = |n: &u32| self.places[*n as usize];
        let at = self.plan.mesh.coordinate(self.rank, &collective.axes);
        let bytes = |(value, n): (usize, &u32)| -> Result<Bytes, RuntimeError> {
            let dtype = self.entry.buffers[*n as usize].dtype;
            let data = match collective.gives(at, value) {
                true => self.device.read(place(n))?,
                false => vec![0; place(n).bytes as usize],
            };
            Ok(Bytes { dtype, data })
        };
        let send = collective.send.iter().enumerate().map(bytes).collect::<Result<_, _>>()?;
        let lengths = collective.receive.iter().map(|n| place(n).bytes as usize).collect();
        self.lane.start(Job { step, send, lengths });
        let until = collective.until.map_or(step + 1, |until| until as usize);
        self.flying.entry(until).or_default().push(step);
        Ok(())
    }

    /// Waits for the collectives that are to be done before a step.
    fn arrive(&mut self, step: usize) -> Result<(), RuntimeError> {
        for collective in self.flying.remove(&step).unwrap_or_default() {
            self.finish(collective)?;
        }
        Ok(())
    }

    /// Waits for a collective and puts what it gives where it belongs.
    fn finish(&mut self, step: usize) -> Result<(), RuntimeError> {
        let begin = Instant::now();
        let fail = |failure| failed(self.plan, (self.entry, step), failure);
        let done = self.lane.finish(step).ok_or_else(|| fail(StepFailure::Panic))?;
        let received = done.received.map_err(|reason| match reason {
            Failed::Data(what) => fail(StepFailure::Data(what)),
            Failed::Comm(source) => source.into(),
        })?;
        if let StepOp::Collective(collective) = &self.entry.steps[step].op {
            for (n, bytes) in collective.receive.iter().zip(received) {
                self.device.write(self.places[*n as usize], &bytes)?;
            }
        }
        self.record(step, (done.begin, done.end), |slice| {
            slice.lane = timeline::Lane::Communication;
        });
        self.record(step, (begin, Instant::now()), Slice::await_it);
        Ok(())
    }

    fn record(
        &mut self,
        step: usize,
        (begin, end): (Instant, Instant),
        edit: impl FnOnce(&mut Slice),
    ) {
        let Some((profile, start)) = &mut self.profile else { return };
        let mut slice = Slice::of(self.plan, self.entry, step);
        slice.start_ns = begin.duration_since(*start).as_nanos() as u64;
        slice.duration_ns = end.duration_since(begin).as_nanos() as u64;
        edit(&mut slice);
        profile.push(slice);
    }
}
