//! A slower communicator: any other one, with a latency and a bandwidth put on top.
//!
//! An exchange that sends `n` bytes to other ranks takes `α + n / β`, the model by which schedules are
//! made, from when the last of its ranks has come; what the carrier itself needs is added to that.

use std::time::Duration;

use super::{CommError, Communicator, Site, Traffic};

/// A communicator that takes its time.
#[derive(Debug)]
pub struct Delayed<C> {
    inner: C,
    latency: Duration,
    bytes_per_second: f64,
}

impl<C: Communicator> Delayed<C> {
    /// Puts `latency` (α) and `bytes_per_second` (β) on top of `inner`.
    pub fn new(inner: C, latency: Duration, bytes_per_second: f64) -> Self {
        Delayed { inner, latency, bytes_per_second }
    }

    /// The time that is put on top of an exchange that sends `bytes` to other ranks.
    pub fn time(&self, bytes: u64) -> Duration {
        let transfer = Duration::try_from_secs_f64(bytes as f64 / self.bytes_per_second);
        self.latency + transfer.unwrap_or_default()
    }
}

impl<C: Communicator> Communicator for Delayed<C> {
    fn rank(&self) -> u32 {
        self.inner.rank()
    }

    fn size(&self) -> u32 {
        self.inner.size()
    }

    fn exchange(
        &mut self,
        site: &Site<'_>,
        group: &[u32],
        send: &[&[u8]],
        receive: &mut [&mut [u8]],
    ) -> Result<(), CommError> {
        let before = self.inner.traffic().bytes();
        self.inner.exchange(site, group, send, receive)?;
        if group.len() > 1 {
            std::thread::sleep(self.time(self.inner.traffic().bytes() - before));
        }
        Ok(())
    }

    fn traffic(&self) -> &Traffic {
        self.inner.traffic()
    }

    fn leave(&mut self, exit: u8) {
        self.inner.leave(exit);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::{barrier, in_process};
    use super::*;

    const SITE: Site<'static> = Site { entry: "e", step: 0, name: "barrier", node: "n" };

    #[test]
    fn an_exchange_takes_its_latency() {
        let latency = Duration::from_millis(20);
        let ranks = in_process::ranks(2);
        std::thread::scope(|scope| {
            for rank in ranks {
                scope.spawn(move || {
                    let mut slow = Delayed::new(rank, latency, 1e9);
                    let begin = Instant::now();
                    barrier(&mut slow, &SITE, &[0, 1]).expect("both are there");
                    assert!(begin.elapsed() >= latency);
                    barrier(&mut slow, &SITE, &[0, 1]).expect("both are there");
                    assert!(begin.elapsed() >= 2 * latency);
                });
            }
        });
    }

    #[test]
    fn a_bandwidth_of_nothing_adds_no_time() {
        let slow = Delayed::new(super::super::Single::new(), Duration::from_millis(3), 2e6);
        assert_eq!(slow.time(4000), Duration::from_millis(5));
        let broken = Delayed::new(super::super::Single::new(), Duration::from_millis(3), 0.0);
        assert_eq!(broken.time(4000), Duration::from_millis(3));
    }
}
