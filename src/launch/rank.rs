//! The watcher of one rank: starts its program, puts the rank's number before what it writes, and
//! says how it ended.
//!
//! # Invariants
//! - The watcher stays until the job is over, so that mpirun does not end the others first.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use perilune_runtime::comm::bootstrap::Job;

use super::End;
use super::job::{cannot, over_path, send, write_end, write_process};
use crate::exit::{Exit, Failure};
use crate::pipeline;
use crate::signals::Forwarded;

/// What stands between a rank's number and its line.
pub(super) const MARK: &str = "| ";
/// Time between looks at the program.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs the program with `command` as this process's rank, and waits for the end of the job.
///
/// # Errors
/// A process that is no rank, a program that does not start, a folder that cannot be written.
pub fn watch(folder: &Path, command: &[OsString]) -> Result<Exit, Failure> {
    let job = Job::from_environment().map_err(|error| pipeline::comm(&error))?;
    let forwarded = Forwarded::watch().map_err(|error| cannot("watch signals", &error))?;
    let parent = rustix::process::getppid();
    let program = std::env::current_exe().map_err(|error| cannot("find this program", &error))?;
    let mut child = Command::new(program)
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot("start a rank", &error))?;
    let noted = write_process(folder, job.rank, child.id());
    let streams = [
        child.stdout.take().map(|out| number(job.rank, out, std::io::stdout)),
        child.stderr.take().map(|err| number(job.rank, err, std::io::stderr)),
    ];
    let status = wait(&mut child, &forwarded);
    for stream in streams.into_iter().flatten() {
        let _ = stream.join();
    }
    let written = noted.and_then(|()| write_end(folder, job.rank, end(status)));
    written.map_err(|error| cannot("say how a rank ended", &error))?;
    while !over_path(folder).exists() && folder.exists() && rustix::process::getppid() == parent {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(Exit::Ok)
}

/// Waits for the program, passing on what it is asked.
fn wait(child: &mut Child, forwarded: &Forwarded) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => {}
            Err(_) => return None,
        }
        for signal in forwarded.take() {
            send(child.id(), signal);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn end(status: Option<ExitStatus>) -> End {
    let exit = |code: i32| End::Exit(u8::try_from(code).unwrap_or(u8::MAX));
    let signal = || status.and_then(|status| status.signal()).map(End::Signal);
    status.and_then(|status| status.code()).map(exit).or_else(signal).unwrap_or(End::Unknown)
}

/// Copies a stream line by line, the rank's number in front.
fn number<W: Write>(
    rank: u32,
    stream: impl Read + Send + 'static,
    out: impl Fn() -> W + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let mut text = format!("{rank}{MARK}").into_bytes();
            text.append(&mut line);
            if !text.ends_with(b"\n") {
                text.push(b'\n');
            }
            let mut out = out();
            // Nobody reads any more: the program goes on.
            let _ = out.write_all(&text).and_then(|()| out.flush());
        }
    })
}
