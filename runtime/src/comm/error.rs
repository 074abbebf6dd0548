//! What goes wrong between ranks.
//!
//! # Invariants
//! - A lost rank is named with its host, and with the place in the step where it was missed.

use std::time::Duration;

use super::OwnedSite;

/// An error of a communicator or of the bootstrap that makes one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommError {
    /// A rank did not take part in a collective as it should.
    #[error(transparent)]
    Lost(#[from] Box<Lost>),
    /// A collective is called in a way that cannot be right.
    #[error("a collective is called wrongly: {what}")]
    Use {
        /// What is wrong.
        what: String,
    },
    /// The ranks of a job cannot come together: what started them, or where they meet, is wrong.
    #[error("{what}")]
    Refused {
        /// Which kind of thing is wrong.
        why: Obstacle,
        /// What is wrong.
        what: String,
        /// What to do.
        help: String,
    },
    /// The ranks do not run the same thing.
    #[error("{} another {what} than most ({most})", named(ranks))]
    Disagree {
        /// `plan`.
        what: &'static str,
        /// The ranks that differ from most.
        ranks: Vec<u32>,
        /// How many agree.
        most: usize,
    },
    /// What carries the bytes failed by itself.
    #[error("{carrier} failed: {what}")]
    Carrier {
        /// `MPI`, `NCCL`.
        carrier: &'static str,
        /// Its words.
        what: String,
    },
}

/// What keeps the ranks of a job from coming together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// What launchers set contradicts itself, or is there by half.
    Launcher,
    /// The rendezvous is not reached, or not all ranks come to it in time.
    Unreachable,
    /// The rendezvous does not let a rank in.
    KeptOut,
    /// The build or the machine lacks something.
    Environment,
}

fn named(ranks: &[u32]) -> String {
    match ranks {
        [one] => format!("rank {one} has"),
        _ => {
            let list: Vec<String> = ranks.iter().map(u32::to_string).collect();
            format!("ranks {} have", list.join(", "))
        }
    }
}

/// A rank that others waited for in vain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rank {rank} on `{host}` {cause}: {site} was not completed after {:.1} s", waited.as_secs_f64())]
pub struct Lost {
    /// The rank to blame.
    pub rank: u32,
    /// The machine it runs on.
    pub host: String,
    /// What became of it.
    pub cause: Cause,
    /// The collective in which it was missed.
    pub site: OwnedSite,
    /// Since when the reporting rank waited.
    pub waited: Duration,
}

/// What became of a lost rank.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Its process or thread ended without a word.
    #[error("is gone")]
    Gone,
    /// It ended by itself.
    #[error("has ended with exit code {exit}")]
    Ended {
        /// Exit code of its process.
        exit: u8,
    },
    /// Its process is stopped (SIGSTOP, a debugger).
    #[error("is stopped")]
    Stopped,
    /// It has entered another collective.
    #[error("has entered {entered}")]
    Elsewhere {
        /// The collective, in words.
        entered: String,
    },
    /// It sent another number of bytes.
    #[error("sent {found} bytes instead of {expected}")]
    Length {
        /// Bytes that were to come.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// It is alive, but has not entered the collective.
    #[error("has not entered the collective")]
    Late,
    /// It entered, but nothing comes from it.
    #[error("does not answer")]
    Silent,
}
