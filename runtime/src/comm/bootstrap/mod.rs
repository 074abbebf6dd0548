//! From a process to a rank: who started it, which rank it is, and what connects it to the others.
//!
//! ```text
//! discover  environment of mpirun, torchrun, srun ──► Job
//! meet      all ranks of the job reach the rendezvous, if it has one
//! connect   Job ──► Communicator
//! agree     all ranks have the same plan
//! ```
//!
//! # Invariants
//! - Variables that contradict each other, or that are there by half, are refused: a job must not
//!   fall apart into runs of one rank that nobody notices.
//! - Nothing waits without a deadline, except MPI's own start, after all ranks have met.

mod agree;
mod environment;
mod rendezvous;

use std::path::PathBuf;
use std::time::Duration;

pub use agree::agree;
pub use environment::{Job, Launcher, Meeting, discover};
pub use rendezvous::{Client, Server};

use super::{CommError, Communicator, DEFAULT_TIMEOUT, Single};

/// Variable that says where the ranks of a job meet, `host:port`.
pub const RENDEZVOUS: &str = "PERILUNE_RENDEZVOUS";
/// Variable with the word that lets a process into a rendezvous.
pub const TOKEN: &str = "PERILUNE_TOKEN";
/// Variable with the name of a job.
pub const JOB: &str = "PERILUNE_JOB";

/// How ranks are connected.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of the flight recorders, shared by the ranks of a machine at least.
    pub flight: PathBuf,
    /// How long a collective waits for its ranks.
    pub timeout: Duration,
}

impl Settings {
    /// The default deadline.
    pub fn new(flight: impl Into<PathBuf>) -> Self {
        Settings { flight: flight.into(), timeout: DEFAULT_TIMEOUT }
    }
}

impl Job {
    /// The job that this process's environment tells of.
    ///
    /// # Errors
    /// [`CommError::Refused`] for variables that contradict each other.
    pub fn from_environment() -> Result<Job, CommError> {
        discover(&|name| std::env::var(name).ok())
    }

    /// Connects this rank with the others.
    ///
    /// # Errors
    /// A rendezvous that is not reached or refuses, a carrier that does not start, a job of several
    /// ranks that nothing of this build connects.
    pub fn connect(&self, settings: &Settings) -> Result<Box<dyn Communicator>, CommError> {
        if let Some(meeting) = &self.meeting {
            let mut client = Client::join(meeting, (self.rank, self.size), settings.timeout)?;
            client.gather("here", &[], settings.timeout)?;
        }
        match self.launcher {
            Launcher::None => Ok(Box::new(Single::new())),
            Launcher::Mpirun | Launcher::Slurm => self.connect_mpi(settings),
            Launcher::Torchrun if self.size == 1 => Ok(Box::new(Single::new())),
            Launcher::Torchrun => Err(CommError::Refused {
                what: format!("nothing connects the {} processes that torchrun started", self.size),
                help: "start the job with `perilune launch`, mpirun or srun".to_owned(),
            }),
        }
    }

    #[cfg(feature = "mpi")]
    fn connect_mpi(&self, settings: &Settings) -> Result<Box<dyn Communicator>, CommError> {
        let started = super::mpi::Started::new()?;
        if (started.rank, started.size) != (self.rank, self.size) {
            return Err(CommError::Refused {
                what: format!(
                    "{} says rank {} of {}, MPI says rank {} of {}",
                    self.launcher, self.rank, self.size, started.rank, started.size
                ),
                help: "start the job with the launcher of the MPI that this build uses".to_owned(),
            });
        }
        let flight =
            super::flight::Flight::start(&settings.flight, &self.id, (self.rank, self.size));
        let flight = flight.map_err(|error| CommError::Refused {
            what: format!("cannot record in `{}`: {error}", settings.flight.display()),
            help: "name a folder that may be written".to_owned(),
        })?;
        Ok(Box::new(started.into_communicator(flight, settings.timeout)))
    }

    #[cfg(not(feature = "mpi"))]
    fn connect_mpi(&self, _settings: &Settings) -> Result<Box<dyn Communicator>, CommError> {
        if self.size == 1 {
            return Ok(Box::new(Single::new()));
        }
        Err(CommError::Refused {
            what: format!(
                "{} started {} ranks, but this build has no MPI",
                self.launcher, self.size
            ),
            help: "build with `--features mpi` (Debian: libopenmpi-dev, openmpi-bin)".to_owned(),
        })
    }
}
