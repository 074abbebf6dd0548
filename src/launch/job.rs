//! What a job on this machine is made of: mpirun's command line, and the folder in which its ranks
//! say who they are and how they ended.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use perilune_runtime::comm::bootstrap;
use perilune_runtime::io::atomic;
use rustix::process::{Pid, Signal, kill_process};

use super::{End, Request};
use crate::exit::Failure;

/// The folder of a job; it goes with the job.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A new folder that nobody else may read.
    pub(super) fn make() -> std::io::Result<Folder> {
        let path = std::env::temp_dir().join(format!("perilune-launch-{}", bootstrap::token()?));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder { path })
    }

    /// Its name, another one for each job.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The process of a rank, once it runs.
    pub(super) fn process(&self, rank: u32) -> Option<u32> {
        fs::read_to_string(process_path(&self.path, rank)).ok()?.trim().parse().ok()
    }

    /// How a rank ended, once it has.
    pub(super) fn end(&self, rank: u32) -> Option<End> {
        parse_end(&fs::read_to_string(end_path(&self.path, rank)).ok()?)
    }

    /// Lets the watchers go.
    pub(super) fn close(&self) {
        // Where the file cannot be written, mpirun is ended after a while instead.
        let _ = fs::write(over_path(&self.path), "");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn process_path(folder: &Path, rank: u32) -> PathBuf {
    folder.join(format!("process-{rank}"))
}

fn end_path(folder: &Path, rank: u32) -> PathBuf {
    folder.join(format!("end-{rank}"))
}

/// A file that is there once all ranks have ended.
pub(super) fn over_path(folder: &Path) -> PathBuf {
    folder.join("over")
}

/// A rank says which process it is.
pub(super) fn write_process(folder: &Path, rank: u32, process: u32) -> std::io::Result<()> {
    atomic::write(&process_path(folder, rank), process.to_string().as_bytes())
}

/// A rank's watcher says how it ended.
pub(super) fn write_end(folder: &Path, rank: u32, end: End) -> std::io::Result<()> {
    let text = match end {
        End::Exit(code) => format!("exit {code}"),
        End::Signal(signal) => format!("signal {signal}"),
        End::Unknown => "unknown".to_owned(),
    };
    atomic::write(&end_path(folder, rank), text.as_bytes())
}

fn parse_end(text: &str) -> Option<End> {
    match text.trim().split_once(' ') {
        Some(("exit", code)) => code.parse().ok().map(End::Exit),
        Some(("signal", signal)) => signal.parse().ok().map(End::Signal),
        _ => (text.trim() == "unknown").then_some(End::Unknown),
    }
}

/// mpirun for the ranks of a job, each behind its watcher.
pub(super) fn mpirun(request: &Request<'_>, folder: &Folder) -> Result<Command, Failure> {
    let program = std::env::current_exe().map_err(|error| cannot("find this program", &error))?;
    let mut mpirun = Command::new("mpirun");
    // A group of its own: the keyboard's interrupt reaches the ranks through us, in order.
    mpirun.process_group(0);
    if rustix::process::geteuid().is_root() {
        mpirun.arg("--allow-run-as-root");
    }
    mpirun.args(["--oversubscribe", "--bind-to", "none", "-n", &request.ranks.to_string()]);
    // One machine: shared memory, copied, which needs no right to read other processes.
    for (name, value) in
        [("pml", "ob1"), ("btl", "self,vader"), ("btl_vader_single_copy_mechanism", "none")]
    {
        mpirun.args(["--mca", name, value]);
    }
    mpirun.arg(program).args(["launch-rank", "--folder"]).arg(&folder.path);
    mpirun.arg("--").args(request.command);
    Ok(mpirun)
}

/// Sends a signal to a process, which may be gone already.
pub(super) fn send(process: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The machine does not let us do something.
pub(super) fn cannot(what: &str, error: &std::io::Error) -> Failure {
    Failure::environment(format!("cannot {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_written_and_read() {
        let folder = Folder::make().expect("a folder");
        assert_eq!((folder.end(3), folder.process(3)), (None, None));
        for end in [End::Exit(0), End::Exit(130), End::Signal(9), End::Unknown] {
            write_end(&folder.path, 3, end).expect("written");
            assert_eq!(folder.end(3), Some(end));
        }
        write_process(&folder.path, 3, 4711).expect("written");
        assert_eq!(folder.process(3), Some(4711));
        let path = folder.path.clone();
        drop(folder);
        assert!(!path.exists());
    }
}
