//! Ranks whose bytes NCCL carries between the memory of GPUs.
//!
//! An exchange is two groups of sends and receives: envelopes first, then, when all ranks are in the
//! same collective, the bytes. Both pass through a staging area on the device.
//!
//! # Invariants
//! - What the communicator asks of NCCL and the device is [`Fabric`], so its order of calls is tested
//!   without either.
//! - No call waits: the device is asked whether it is done until the deadline, then the communicator
//!   is aborted.

mod library;

use std::time::Duration;

pub use library::{LEAST, Library, LibraryError, UNIQUE_ID_BYTES, Version};

use super::envelope::{Envelope, key, mismatch};
use super::flight::Flight;
use super::{Cause, CommError, Communicator, Site, Traffic, place_in_group};

/// Pieces start at multiples of this in the staging area.
const ALIGNMENT: u64 = 256;
/// Rounds of asking before a rank that waits gives its processor to others for longer.
const EAGER_ROUNDS: u32 = 200;

/// What NCCL and the device do for a communicator. Errors are their words.
pub trait Fabric: Send {
    /// Makes the staging area at least so large; what was in it is lost.
    ///
    /// # Errors
    /// Too little memory.
    fn reserve(&mut self, bytes: u64) -> Result<(), String>;

    /// Copies from the host into the staging area.
    ///
    /// # Errors
    /// The device's.
    fn upload(&mut self, at: u64, bytes: &[u8]) -> Result<(), String>;

    /// Copies from the staging area to the host, after all that was started is done.
    ///
    /// # Errors
    /// The device's.
    fn download(&mut self, at: u64, bytes: &mut [u8]) -> Result<(), String>;

    /// `ncclGroupStart`.
    ///
    /// # Errors
    /// NCCL's.
    fn group_start(&mut self) -> Result<(), String>;

    /// `ncclGroupEnd`.
    ///
    /// # Errors
    /// NCCL's.
    fn group_end(&mut self) -> Result<(), String>;

    /// `ncclSend` of bytes in the staging area.
    ///
    /// # Errors
    /// NCCL's.
    fn send(&mut self, at: u64, bytes: u64, peer: u32) -> Result<(), String>;

    /// `ncclRecv` into the staging area.
    ///
    /// # Errors
    /// NCCL's.
    fn receive(&mut self, at: u64, bytes: u64, peer: u32) -> Result<(), String>;

    /// Whether all that was started is done: the stream's state, and `ncclCommGetAsyncError`.
    ///
    /// # Errors
    /// The device's, and what NCCL found meanwhile.
    fn done(&mut self) -> Result<bool, String>;

    /// `ncclCommAbort`: gives up what is under way; nothing else is called afterwards.
    fn abort(&mut self);
}

/// A rank of an NCCL job.
#[derive(Debug)]
pub struct Nccl<F> {
    rank: u32,
    size: u32,
    timeout: Duration,
    traffic: Traffic,
    flight: Flight,
    fabric: F,
    failed: bool,
}

/// A piece of the staging area.
#[derive(Clone, Copy, Debug)]
struct Piece {
    at: u64,
    bytes: u64,
}

/// Pieces of these lengths one after the other from `at` on, and where they end.
fn lay_out(at: u64, lengths: impl Iterator<Item = usize>) -> (Vec<Piece>, u64) {
    let mut end = at;
    let place = |bytes: usize| {
        let piece = Piece { at: end, bytes: bytes as u64 };
        end = (end + piece.bytes).next_multiple_of(ALIGNMENT);
        piece
    };
    let pieces = lengths.map(place).collect();
    (pieces, end)
}

impl<F: Fabric> Nccl<F> {
    /// A rank that is connected by `fabric`.
    pub fn new((rank, size): (u32, u32), fabric: F, flight: Flight, timeout: Duration) -> Nccl<F> {
        let traffic = Traffic::default();
        Nccl { rank, size, timeout, traffic, flight, fabric, failed: false }
    }

    /// Gives `send` to the others of the group and takes `receive` from them.
    fn pass(
        &mut self,
        (group, own): (&[u32], usize),
        send: &[&[u8]],
        receive: &mut [&mut [u8]],
    ) -> Result<(), CommError> {
        let (out, end) = lay_out(0, send.iter().map(|piece| piece.len()));
        let (back, end) = lay_out(end, receive.iter().map(|piece| piece.len()));
        self.fabric.reserve(end).map_err(carrier)?;
        let others = || group.iter().enumerate().filter(|(i, _)| *i != own);
        for (i, _) in others() {
            self.fabric.upload(out[i].at, send[i]).map_err(carrier)?;
        }
        self.fabric.group_start().map_err(carrier)?;
        for (i, &peer) in others() {
            // An empty message is none to NCCL.
            if out[i].bytes > 0 {
                self.fabric.send(out[i].at, out[i].bytes, peer).map_err(carrier)?;
            }
            if back[i].bytes > 0 {
                self.fabric.receive(back[i].at, back[i].bytes, peer).map_err(carrier)?;
            }
        }
        self.fabric.group_end().map_err(carrier)?;
        let missing: Vec<u32> = others().map(|(_, peer)| *peer).collect();
        self.wait(&missing)?;
        for (i, _) in others() {
            self.fabric.download(back[i].at, receive[i]).map_err(carrier)?;
        }
        Ok(())
    }

    fn wait(&mut self, missing: &[u32]) -> Result<(), CommError> {
        let mut rounds = 0u32;
        while !self.fabric.done().map_err(carrier)? {
            let lost = match self.flight.waited() >= self.timeout {
                true => Some(self.flight.judge(missing)),
                false => self.flight.look(missing),
            };
            if let Some(lost) = lost {
                return Err(Box::new(lost).into());
            }
            rounds = rounds.saturating_add(1);
            if rounds < EAGER_ROUNDS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        Ok(())
    }

    fn envelopes(
        &mut self,
        (group, own): (&[u32], usize),
        key: u64,
        (send, receive): (&[&[u8]], &[&mut [u8]]),
    ) -> Result<(), CommError> {
        let mine: Vec<[u8; Envelope::BYTES]> =
            send.iter().map(|p| Envelope { key, bytes: p.len() as u64 }.encode()).collect();
        let mut theirs = mine.clone();
        let out: Vec<&[u8]> = mine.iter().map(<[u8; 16]>::as_slice).collect();
        let mut back: Vec<&mut [u8]> = theirs.iter_mut().map(<[u8; 16]>::as_mut_slice).collect();
        self.pass((group, own), &out, &mut back)?;
        let envelopes: Vec<Envelope> = theirs.iter().map(|b| Envelope::decode(b)).collect();
        let expected: Vec<usize> = receive.iter().map(|piece| piece.len()).collect();
        let Some((place, cause)) = mismatch(&envelopes, &expected, own) else { return Ok(()) };
        let rank = group[place];
        let cause =
            cause.unwrap_or_else(|| Cause::Elsewhere { entered: self.flight.entered(rank) });
        Err(Box::new(self.flight.lost(rank, cause)).into())
    }
}

impl<F: Fabric> Communicator for Nccl<F> {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn exchange(
        &mut self,
        site: &Site<'_>,
        group: &[u32],
        send: &[&[u8]],
        receive: &mut [&mut [u8]],
    ) -> Result<(), CommError> {
        let own = place_in_group((self.rank, self.size), group, send, receive)?;
        if self.failed {
            return Err(carrier("it is of no use after a failure".to_owned()));
        }
        let bytes = self.traffic.count(site, own, send);
        self.flight.begin(site, group, bytes);
        let key = key(site, group);
        let done = self
            .envelopes((group, own), key, (send, receive))
            .and_then(|()| self.pass((group, own), send, receive));
        if let Err(error) = done {
            self.failed = true;
            self.fabric.abort();
            if let CommError::Lost(lost) = &error {
                self.flight.give_up(lost);
            }
            return Err(error);
        }
        receive[own].copy_from_slice(send[own]);
        self.flight.end();
        Ok(())
    }

    fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn leave(&mut self, exit: u8) {
        self.flight.leave(exit);
    }
}

fn carrier(what: String) -> CommError {
    CommError::Carrier { carrier: "NCCL", what }
}

#[cfg(test)]
mod tests;
