//! Communicators: what carries bytes between the ranks of a job.
//!
//! ```text
//! collective  all_reduce, all_gather, broadcast, barrier   deterministic, made of exchanges
//!     └─► Communicator::exchange                           one primitive per carrier
//!           Single · InProcess · Mpi · Nccl                 (Delayed: any of them, slower)
//! ```
//!
//! A rank that waits in vain looks at where the others stand ([`Standing`]) and follows who waits
//! for whom to the one to blame.
//!
//! # Invariants
//! - Every collective is made of [`Communicator::exchange`]; its result does not depend on what
//!   carries it, nor on when a rank's bytes arrive.
//! - No call waits without a deadline. Who is to blame for a wait in vain is told by rank, host,
//!   step, collective and RON node ([`Lost`]).
//! - After an error a communicator is of no further use: what its peers saw is unknown.

mod error;
mod host;
mod traffic;
mod reduce;
mod collective;
mod blame;
mod envelope;
pub mod rendezvous;
pub mod bootstrap;
mod single;
pub mod in_process;
#[cfg(feature = "mpi")]
mod mpi;
pub mod nccl;
mod delayed;
mod pulse;
pub mod flight;

#[cfg(feature = "mpi")]
pub use self::mpi::{Mpi, Started};
pub use blame::{Inside, Life, Standing};
pub use collective::{all_gather, all_reduce, barrier, broadcast};
pub use delayed::Delayed;
pub use error::{Cause, CommError, Lost, Obstacle};
pub use in_process::InProcess;
pub use reduce::{Combine, reduce_pairwise};
pub use single::Single;
pub use traffic::{Sent, Traffic};

use std::time::Duration;

/// How long a collective waits for its ranks, unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Where in a step a collective stands; what a failure and the flight recorder name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site<'a> {
    /// Entry of the plan, `train_step`.
    pub entry: &'a str,
    /// Index of the step in the entry.
    pub step: usize,
    /// Kind of collective, `all_reduce`; [`Traffic`] counts by it.
    pub name: &'a str,
    /// Path of the RON node that caused it.
    pub node: &'a str,
}

impl Site<'_> {
    /// The same, owning its words.
    pub fn to_owned(&self) -> OwnedSite {
        OwnedSite {
            entry: self.entry.to_owned(),
            step: self.step,
            name: self.name.to_owned(),
            node: self.node.to_owned(),
        }
    }
}

impl std::fmt::Display for Site<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Site { entry, step, name, node } = self;
        write!(f, "`{name}` of `{entry}`, step {step} (`{node}`)")
    }
}

/// A [`Site`] that owns its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedSite {
    /// Entry of the plan.
    pub entry: String,
    /// Index of the step in the entry.
    pub step: usize,
    /// Kind of collective.
    pub name: String,
    /// Path of the RON node that caused it.
    pub node: String,
}

impl OwnedSite {
    /// The same, borrowed.
    pub fn borrowed(&self) -> Site<'_> {
        Site { entry: &self.entry, step: self.step, name: &self.name, node: &self.node }
    }
}

impl std::fmt::Display for OwnedSite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.borrowed().fmt(f)
    }
}

/// Carries bytes between the ranks of a job. One primitive; everything else is made of it.
pub trait Communicator: Send {
    /// This process's or thread's place in the job, from 0.
    fn rank(&self) -> u32;

    /// Ranks of the job.
    fn size(&self) -> u32;

    /// Sends `send[i]` to `group[i]` and fills `receive[i]` with what that rank sends here.
    ///
    /// `group` holds ascending ranks, this one among them, whose piece is copied. Every rank of the
    /// group calls with the same group and the same site. Both sides know all lengths; a carrier
    /// that sees them differ says so. Empty pieces are carried too: the call returns only after
    /// every rank of the group has entered it.
    ///
    /// # Errors
    /// [`CommError::Use`] for a wrong group or wrong own pieces, before anything is sent;
    /// [`CommError::Lost`] when a rank does not take part as it should within the deadline;
    /// [`CommError::Carrier`] when the carrier itself fails. `receive` may then be half-filled.
    fn exchange(
        &mut self,
        site: &Site<'_>,
        group: &[u32],
        send: &[&[u8]],
        receive: &mut [&mut [u8]],
    ) -> Result<(), CommError>;

    /// Bytes sent so far.
    fn traffic(&self) -> &Traffic;

    /// Says that this rank ends by itself and why, so that nobody takes it for lost.
    ///
    /// Called once, with the exit code of the process, before a rank leaves a job in which others
    /// may still wait; a communicator that is dropped without it counts as lost.
    fn leave(&mut self, _exit: u8) {}
}

impl<C: Communicator + ?Sized> Communicator for Box<C> {
    fn rank(&self) -> u32 {
        (**self).rank()
    }

    fn size(&self) -> u32 {
        (**self).size()
    }

    fn exchange(
        &mut self,
        site: &Site<'_>,
        group: &[u32],
        send: &[&[u8]],
        receive: &mut [&mut [u8]],
    ) -> Result<(), CommError> {
        (**self).exchange(site, group, send, receive)
    }

    fn traffic(&self) -> &Traffic {
        (**self).traffic()
    }

    fn leave(&mut self, exit: u8) {
        (**self).leave(exit);
    }
}

/// Checks an exchange before anything is sent; gives this rank's place in the group.
pub(crate) fn place_in_group(
    (rank, size): (u32, u32),
    group: &[u32],
    send: &[&[u8]],
    receive: &[&mut [u8]],
) -> Result<usize, CommError> {
    let wrong = |what: String| Err(CommError::Use { what });
    if group.windows(2).any(|pair| pair[0] >= pair[1]) {
        return wrong(format!("the group {group:?} is not ascending"));
    }
    if group.last().is_some_and(|&last| last >= size) {
        return wrong(format!("the group {group:?} reaches beyond {size} ranks"));
    }
    if send.len() != group.len() || receive.len() != group.len() {
        let (out, back) = (send.len(), receive.len());
        return wrong(format!("{out} pieces to send and {back} to receive, {} ranks", group.len()));
    }
    let Ok(own) = group.binary_search(&rank) else {
        return wrong(format!("rank {rank} is not in the group {group:?}"));
    };
    if send[own].len() != receive[own].len() {
        let (out, back) = (send[own].len(), receive[own].len());
        return wrong(format!("rank {rank} gives itself {out} bytes, but expects {back}"));
    }
    Ok(own)
}
