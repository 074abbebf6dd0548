//! From a process to a rank: who started it, which rank it is, and what connects it to the others.
//!
//! ```text
//! discover  environment of mpirun, torchrun, srun ──► Job
//! meet      all ranks of the job reach the rendezvous, which launch or rank 0 serves
//! connect   Job ──► Communicator
//! agree     all ranks have the same plan
//! ```
//!
//! # Invariants
//! - Variables that contradict each other, or that are there by half, are refused: a job must not
//!   fall apart into runs of one rank that nobody notices.
//! - Nothing waits without a deadline, except MPI's own start: before it where the job has a
//!   rendezvous, and through it where rank 0 makes one, every rank is met.
//! - A rank stays connected to the rendezvous as long as it lives.

mod agree;
#[cfg(any(feature = "mpi", test))]
mod announce;
mod environment;
mod serve;

use std::path::PathBuf;
use std::time::Duration;

pub use agree::agree;
pub use environment::{Job, Launcher, discover};
pub use serve::token;

use super::rendezvous::{Client, Meeting, Met, Server};
use super::{CommError, Communicator, DEFAULT_TIMEOUT, Obstacle, Single, host};

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
        let met = match &self.meeting {
            Some(meeting) if self.size > 1 => Some(self.meet(meeting, settings)?),
            _ => None,
        };
        match self.launcher {
            Launcher::None => Ok(Box::new(Single::new())),
            Launcher::Mpirun | Launcher::Slurm => self.connect_mpi(settings, met),
            Launcher::Torchrun if self.size == 1 => Ok(Box::new(Single::new())),
            Launcher::Torchrun => Err(CommError::Refused {
                why: Obstacle::Launcher,
                what: format!("nothing connects the {} processes that torchrun started", self.size),
                help: "start the job with `perilune launch`, mpirun or srun".to_owned(),
            }),
        }
    }

    /// Comes to the rendezvous that this job was told of, and waits for all ranks.
    fn meet(&self, meeting: &Meeting, settings: &Settings) -> Result<Met, CommError> {
        let server = if self.rank == 0 { serve::at(meeting, self.size)? } else { None };
        self.join(meeting, settings, server)
    }

    fn join(
        &self,
        meeting: &Meeting,
        settings: &Settings,
        server: Option<Server>,
    ) -> Result<Met, CommError> {
        let mut client = Client::join(meeting, (self.rank, self.size), settings.timeout)?;
        let hosts = client.gather("host", host::name().as_bytes(), settings.timeout)?;
        let hosts = hosts.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        Ok(Met { client, server, hosts })
    }

    #[cfg(feature = "mpi")]
    fn connect_mpi(
        &self,
        settings: &Settings,
        met: Option<Met>,
    ) -> Result<Box<dyn Communicator>, CommError> {
        let started = super::mpi::Started::new()?;
        if (started.rank, started.size) != (self.rank, self.size) {
            return Err(CommError::Refused {
                why: Obstacle::Launcher,
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
            why: Obstacle::Environment,
            what: format!("cannot record in `{}`: {error}", settings.flight.display()),
            help: "name a folder that may be written".to_owned(),
        })?;
        let mut comm = started.into_communicator(flight, settings.timeout);
        if self.size > 1 {
            let met = match met {
                Some(met) => met,
                None => self.meet_over(&mut comm, settings)?,
            };
            comm.attach(met).map_err(|error| CommError::Refused {
                why: Obstacle::Environment,
                what: format!("cannot stay with the rendezvous: {error}"),
                help: "allow this job more threads, and look whether rank 0 lives".to_owned(),
            })?;
        }
        Ok(Box::new(comm))
    }

    /// Comes to a rendezvous that rank 0 serves and tells the others of through `comm`.
    #[cfg(feature = "mpi")]
    fn meet_over(
        &self,
        comm: &mut dyn Communicator,
        settings: &Settings,
    ) -> Result<Met, CommError> {
        let served = if self.rank == 0 { Some(announce::anywhere(self.size)?) } else { None };
        let mut said = [0; announce::ANNOUNCED];
        if let Some((_, meeting)) = &served {
            said = announce::announce(meeting);
        }
        let site = super::Site { entry: "start", step: 0, name: "meet", node: "rendezvous" };
        let all: Vec<u32> = (0..self.size).collect();
        super::broadcast(comm, &site, (&all, 0), &mut said)?;
        let meeting = announce::announced(&said).ok_or_else(|| CommError::Refused {
            why: Obstacle::Environment,
            what: "rank 0 does not say where the rendezvous is".to_owned(),
            help: "start the same version of perilune on every rank".to_owned(),
        })?;
        self.join(&meeting, settings, served.map(|(server, _)| server))
    }

    #[cfg(not(feature = "mpi"))]
    fn connect_mpi(
        &self,
        _settings: &Settings,
        _met: Option<Met>,
    ) -> Result<Box<dyn Communicator>, CommError> {
        if self.size == 1 {
            return Ok(Box::new(Single::new()));
        }
        Err(CommError::Refused {
            why: Obstacle::Environment,
            what: format!(
                "{} started {} ranks, but this build has no MPI",
                self.launcher, self.size
            ),
            help: "build with `--features mpi` (Debian: libopenmpi-dev, openmpi-bin)".to_owned(),
        })
    }
}
