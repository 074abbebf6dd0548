//! A job that `perilune launch` starts and a test watches.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use perilune_runtime::comm::flight::{Ring, ring_path};

/// The program with arguments, without what the surroundings say about ranks.
pub(crate) fn perilune(args: &[&str]) -> Command {
    let mut command = alone(env!("CARGO_BIN_EXE_perilune"));
    command.args(args);
    command
}

/// A program in the repository's root, without what the surroundings say about ranks.
pub(crate) fn alone(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("NO_COLOR");
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let rank = ["RANK", "WORLD_SIZE", "LOCAL_RANK"].contains(&name.as_str());
        let prefixes = ["OMPI_", "PMIX_", "SLURM_", "PERILUNE_COMM", "PERILUNE_RENDEZVOUS"];
        if rank || prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether ranks can be processes here; says so where not.
pub(crate) fn has_mpi() -> bool {
    let built = cfg!(feature = "mpi");
    let there = built && Command::new("mpirun").arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: no MPI");
    }
    there
}

/// A job that runs.
pub(crate) struct Job {
    child: Option<Child>,
    begin: Instant,
}

impl Job {
    /// Starts `command` on some ranks.
    pub(crate) fn launch(ranks: u32, timeout: &str, command: &[&str]) -> Job {
        let ranks = ranks.to_string();
        let mut args = vec!["launch", "--ranks", &ranks, "--timeout", timeout, "--"];
        args.extend(command);
        Job::start(perilune(&args))
    }

    /// Starts a command that runs ranks.
    pub(crate) fn start(mut command: Command) -> Job {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Job { child: Some(child.expect("the program starts")), begin: Instant::now() }
    }

    /// Waits until every rank has passed `collectives`; gives the ranks' processes.
    pub(crate) fn running(&self, flight: &Path, (ranks, collectives): (u32, u64)) -> Vec<u32> {
        loop {
            let rings = (0..ranks).map(|rank| Ring::head(&ring_path(flight, rank)));
            let going = |ring: &Ring| ring.begun >= collectives;
            let processes: Option<Vec<u32>> =
                rings.map(|ring| ring.filter(going).map(|ring| ring.process_id())).collect();
            if let Some(processes) = processes {
                return processes;
            }
            assert!(self.begin.elapsed() < Duration::from_secs(60), "the job does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether a rank has passed so many collectives.
    pub(crate) fn has_passed(&self, flight: &Path, (rank, collectives): (u32, u64)) -> bool {
        assert!(self.begin.elapsed() < Duration::from_secs(60), "the job does not start");
        Ring::head(&ring_path(flight, rank)).is_some_and(|ring| ring.begun >= collectives)
    }

    /// Whether the process that launches has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut().expect("it has not been waited for");
        child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// The process that launches.
    pub(crate) fn process(&self) -> u32 {
        self.child.as_ref().expect("it has not been waited for").id()
    }

    /// Waits for the end of the job.
    pub(crate) fn output(mut self) -> Output {
        let child = self.child.take().expect("it has not been waited for");
        child.wait_with_output().expect("it ends")
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // launch ends its ranks when it is asked to.
            let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
            let _ = child.wait();
        }
    }
}

/// Sends a signal to a process, by name.
pub(crate) fn signal(name: &str, process: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "{process} is there to get {name}");
}

/// What a program wrote.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
