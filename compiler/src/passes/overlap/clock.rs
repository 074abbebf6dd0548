//! The time on the two lanes of a rank while its calls are put in order.

use super::unit::Unit;

/// Nanoseconds from the entry's start.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Now, on the lane that computes.
    pub(super) now: u64,
    /// When the lane that communicates is free.
    free: u64,
}

impl Clock {
    /// Starts a unit now; gives when its results are there.
    pub(super) fn run(&mut self, unit: &Unit) -> u64 {
        self.now += unit.compute_ns;
        match unit.lane_ns {
            None => self.now,
            Some(lane) => {
                self.free = self.free.max(self.now) + lane;
                self.free
            }
        }
    }
}
