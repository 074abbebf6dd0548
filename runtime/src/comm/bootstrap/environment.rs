//! Which rank a process is, from the variables that launchers set.
//!
//! | launcher | rank | ranks | on this machine |
//! |---|---|---|---|
//! | mpirun (Open MPI) | `OMPI_COMM_WORLD_RANK` | `OMPI_COMM_WORLD_SIZE` | `OMPI_COMM_WORLD_LOCAL_RANK` |
//! | torchrun | `RANK` | `WORLD_SIZE` | `LOCAL_RANK` |
//! | srun | `SLURM_PROCID` | `SLURM_NTASKS` | `SLURM_LOCALID` |
//!
//! Within a Slurm job, mpirun and torchrun are started by Slurm, whose variables then tell of them
//! and not of their ranks; so Slurm's count only where there are no others, and only in a step.
//!
//! # Invariants
//! - Pure: the variables come from the caller.

use super::{CommError, JOB, Obstacle, RENDEZVOUS, TOKEN};
use crate::comm::rendezvous::Meeting;

/// Most ranks of a job.
const MAX_RANKS: u32 = 1 << 16;
/// Slurm numbers the steps that are not started by srun from here on.
const FIRST_SPECIAL_STEP: u32 = 0xffff_fff0;

/// What started a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// Nothing: a job of one rank.
    None,
    /// Open MPI's mpirun.
    Mpirun,
    /// torchrun, or what sets its variables.
    Torchrun,
    /// Slurm's srun.
    Slurm,
}

impl std::fmt::Display for Launcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Launcher::None => "nothing",
            Launcher::Mpirun => "mpirun",
            Launcher::Torchrun => "torchrun",
            Launcher::Slurm => "srun",
        })
    }
}

/// A process's place in its job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its rank, from 0.
    pub rank: u32,
    /// Ranks of the job.
    pub size: u32,
    /// Its place among the ranks of its machine, where the launcher says.
    pub local_rank: Option<u32>,
    /// What started it.
    pub launcher: Launcher,
    /// Name of the job, the same on all ranks, another for each start.
    pub id: String,
    /// Where its ranks meet first.
    pub meeting: Option<Meeting>,
}

type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The job that a set of variables tells of.
///
/// # Errors
/// [`CommError::Refused`] when they contradict each other, are there by half, or are no numbers.
pub fn discover(variables: Variables<'_>) -> Result<Job, CommError> {
    let names = |names: [&'static str; 3]| place(variables, names);
    let mpirun =
        names(["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"])?;
    let torchrun = names(["RANK", "WORLD_SIZE", "LOCAL_RANK"])?;
    if let (Some(mpi), Some(torch)) = (&mpirun, &torchrun)
        && (mpi.rank, mpi.size) != (torch.rank, torch.size)
    {
        return Err(contradiction(mpi, torch));
    }
    let (launcher, place) = match (mpirun, torchrun) {
        (Some(place), _) => (Launcher::Mpirun, place),
        (None, Some(place)) => (Launcher::Torchrun, place),
        (None, None) => match slurm(variables)? {
            Some(place) => (Launcher::Slurm, place),
            None => (Launcher::None, Place { rank: 0, size: 1, local: Some(0), names: [""; 3] }),
        },
    };
    if let (Launcher::Mpirun | Launcher::Slurm, Some(pmix)) =
        (launcher, number(variables, "PMIX_RANK")?)
        && pmix != place.rank
    {
        let other = Place { rank: pmix, names: ["PMIX_RANK", place.names[1], ""], ..place };
        return Err(contradiction(&place, &other));
    }
    Ok(Job {
        rank: place.rank,
        size: place.size,
        local_rank: place.local,
        launcher,
        id: job_id(variables, launcher),
        meeting: meeting(variables)?,
    })
}

/// What one launcher's variables say.
struct Place {
    rank: u32,
    size: u32,
    local: Option<u32>,
    names: [&'static str; 3],
}

/// Reads rank, size and local rank; `None` where neither of the first two is set.
fn place(variables: Variables<'_>, names: [&'static str; 3]) -> Result<Option<Place>, CommError> {
    let (rank, size) = match (number(variables, names[0])?, number(variables, names[1])?) {
        (None, None) => return Ok(None),
        (Some(rank), Some(size)) => (rank, size),
        (rank, _) => {
            let (there, absent) = if rank.is_some() { (0, 1) } else { (1, 0) };
            let what = format!("`{}` is set, but `{}` is not", names[there], names[absent]);
            let help = "a launcher sets both; unset it to run on one rank".to_owned();
            return Err(CommError::Refused { why: Obstacle::Launcher, what, help });
        }
    };
    if rank >= size || size > MAX_RANKS {
        let what = format!("`{}` is {rank} and `{}` is {size}", names[0], names[1]);
        let help = format!("ranks count from 0, and there are {MAX_RANKS} at most");
        return Err(CommError::Refused { why: Obstacle::Launcher, what, help });
    }
    Ok(Some(Place { rank, size, local: number(variables, names[2])?, names }))
}

/// Slurm's variables, inside a step that srun started.
fn slurm(variables: Variables<'_>) -> Result<Option<Place>, CommError> {
    match number(variables, "SLURM_STEP_ID")? {
        Some(step) if step < FIRST_SPECIAL_STEP => {
            place(variables, ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"])
        }
        _ => Ok(None),
    }
}

fn number(variables: Variables<'_>, name: &str) -> Result<Option<u32>, CommError> {
    let Some(text) = variables(name) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| CommError::Refused {
        why: Obstacle::Launcher,
        what: format!("`{name}` is `{text}`, which is no number"),
        help: "a launcher sets it; unset it to run on one rank".to_owned(),
    })
}

fn contradiction(one: &Place, other: &Place) -> CommError {
    let says = |place: &Place| {
        let [rank, size, _] = place.names;
        format!("`{rank}` and `{size}` say rank {} of {}", place.rank, place.size)
    };
    CommError::Refused {
        why: Obstacle::Launcher,
        what: format!("{}, but {}", says(one), says(other)),
        help: "start the job with one launcher, and unset what another one left".to_owned(),
    }
}

/// A name that tells one start of a job from others.
fn job_id(variables: Variables<'_>, launcher: Launcher) -> String {
    let named = |name: &str| variables(name).filter(|value| !value.is_empty());
    let own = named(JOB);
    let other = || match launcher {
        Launcher::None => None,
        Launcher::Mpirun => named("PMIX_NAMESPACE").or_else(|| named("PMIX_ID")),
        Launcher::Torchrun => named("TORCHELASTIC_RUN_ID"),
        Launcher::Slurm => {
            let step = named("SLURM_STEP_ID").unwrap_or_default();
            named("SLURM_JOB_ID").map(|job| format!("{job}.{step}"))
        }
    };
    own.or_else(other).unwrap_or_else(|| "job".to_owned())
}

fn meeting(variables: Variables<'_>) -> Result<Option<Meeting>, CommError> {
    let Some(address) = variables(RENDEZVOUS) else { return Ok(None) };
    match variables(TOKEN).filter(|token| !token.is_empty()) {
        Some(token) => Ok(Some(Meeting { address, token })),
        None => Err(CommError::Refused {
            why: Obstacle::Launcher,
            what: format!("`{RENDEZVOUS}` is set, but `{TOKEN}` is not"),
            help: "give every rank the token of the job".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(set: &[(&str, &str)]) -> Result<Job, String> {
        let value = |name: &str| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        discover(&value).map_err(|error| error.to_string())
    }

    fn place_of(set: &[(&str, &str)]) -> (Launcher, u32, u32, Option<u32>) {
        let job = job(set).expect("a job");
        (job.launcher, job.rank, job.size, job.local_rank)
    }

    const MPIRUN: [(&str, &str); 5] = [
        ("OMPI_COMM_WORLD_RANK", "5"),
        ("OMPI_COMM_WORLD_SIZE", "8"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ("PMIX_RANK", "5"),
        ("PMIX_NAMESPACE", "3217"),
    ];
    const SRUN: [(&str, &str); 5] = [
        ("SLURM_PROCID", "3"),
        ("SLURM_NTASKS", "4"),
        ("SLURM_LOCALID", "0"),
        ("SLURM_JOB_ID", "77"),
        ("SLURM_STEP_ID", "2"),
    ];

    #[test]
    fn every_launcher_is_known_by_its_variables() {
        assert_eq!(place_of(&[]), (Launcher::None, 0, 1, Some(0)));
        assert_eq!(place_of(&MPIRUN), (Launcher::Mpirun, 5, 8, Some(1)));
        assert_eq!(job(&MPIRUN).expect("a job").id, "3217");
        assert_eq!(place_of(&SRUN), (Launcher::Slurm, 3, 4, Some(0)));
        assert_eq!(job(&SRUN).expect("a job").id, "77.2");
        let torchrun = [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")];
        assert_eq!(place_of(&torchrun), (Launcher::Torchrun, 1, 2, Some(1)));
    }

    #[test]
    fn what_slurm_started_to_start_ranks_is_no_rank_itself() {
        let both: Vec<_> = MPIRUN.iter().chain(&SRUN).copied().collect();
        assert_eq!(place_of(&both), (Launcher::Mpirun, 5, 8, Some(1)));
        let batch: Vec<_> = SRUN[..4].to_vec();
        assert_eq!(place_of(&batch), (Launcher::None, 0, 1, Some(0)));
        let interactive: Vec<_> =
            SRUN[..4].iter().copied().chain([("SLURM_STEP_ID", "4294967290")]).collect();
        assert_eq!(place_of(&interactive), (Launcher::None, 0, 1, Some(0)));
    }

    #[test]
    fn contradictions_and_halves_are_refused_by_name() {
        let other: Vec<_> =
            MPIRUN.iter().copied().chain([("RANK", "0"), ("WORLD_SIZE", "8")]).collect();
        let refused = job(&other).expect_err("two ranks");
        assert!(refused.contains("`RANK`") && refused.contains("rank 5 of 8"), "{refused}");
        let pmix: Vec<_> = SRUN.iter().copied().chain([("PMIX_RANK", "0")]).collect();
        let refused = job(&pmix).expect_err("two ranks");
        assert!(refused.contains("`PMIX_RANK`"), "{refused}");
        let refused = job(&[("WORLD_SIZE", "2")]).expect_err("half");
        assert!(refused.contains("`RANK` is not"), "{refused}");
        for (rank, size) in [("2", "2"), ("0", "0"), ("-1", "2"), ("0", "70000"), ("a", "1")] {
            let refused = job(&[("RANK", rank), ("WORLD_SIZE", size)]);
            assert!(refused.is_err(), "{rank} of {size}");
        }
    }

    #[test]
    fn a_rendezvous_needs_its_token() {
        let address = (RENDEZVOUS, "10.0.0.1:4000");
        assert!(job(&[address]).is_err());
        assert!(job(&[address, (TOKEN, "")]).is_err());
        let met = job(&[address, (TOKEN, "t"), (JOB, "mine")]).expect("a job");
        assert_eq!(met.id, "mine");
        let expected = Meeting { address: "10.0.0.1:4000".to_owned(), token: "t".to_owned() };
        assert_eq!(met.meeting, Some(expected));
    }
}
