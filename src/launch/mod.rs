//! The ranks of a job on one machine: started together, watched, and ended together.
//!
//! ```text
//! launch ──mpirun──► launch-rank 0 ──► perilune train …   rank 0
//!   │                launch-rank 1 ──► perilune train …   rank 1
//!   └─ rendezvous, folder with each rank's process and end
//! ```
//!
//! mpirun ends a whole job when one of its processes ends badly, before the others can say what
//! happened. So it starts watchers ([`rank`]), one for each rank, that stay until all ranks have
//! ended.
//!
//! # Invariants
//! - When a rank fails, the others have the time of a collective's deadline to notice and say so;
//!   then they are asked to end, then they are ended.
//! - Signals that ask to leave are passed on to every rank.
//! - The exit code is that of the first rank that ended badly by itself; ranks that were killed
//!   count as lost.

mod job;
pub mod rank;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use perilune_runtime::comm::{bootstrap, rendezvous};
use rustix::process::Signal;

use crate::exit::{Exit, Failure};
use crate::signals::Forwarded;
use job::{Folder, send};

/// Variable with a collective's deadline in seconds, for the ranks.
pub const TIMEOUT: &str = "PERILUNE_COMM_TIMEOUT";
/// Time between looks at the ranks.
const LOOK_EVERY: Duration = Duration::from_millis(30);
/// What survivors get on top of a deadline to notice, write and end.
const GRACE: Duration = Duration::from_secs(5);
/// How long a rank may live on alone, after all others have ended.
const ALONE: Duration = Duration::from_secs(1);
/// How long a rank that is asked to end may take for it.
const LAST: Duration = Duration::from_secs(2);
/// How long mpirun may take to end after the last rank.
const CLOSING: Duration = Duration::from_secs(10);

/// What is to be started.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Ranks.
    pub ranks: u32,
    /// A collective's deadline.
    pub timeout: Duration,
    /// Arguments of the program in every rank.
    pub command: &'a [OsString],
}

/// A line that a rank wrote, its number in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// To stdout.
    Out(String),
    /// To stderr.
    Err(String),
}

/// How a rank ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an exit code.
    Exit(u8),
    /// By a signal.
    Signal(i32),
    /// Nobody saw it.
    Unknown,
}

/// A rank that has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ended {
    /// The rank.
    pub rank: u32,
    /// How.
    pub end: End,
    /// Since the start of the job.
    pub seconds: f64,
}

/// How a job ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Its ranks, in the order in which they were seen to have ended.
    pub ended: Vec<Ended>,
}

impl Outcome {
    /// The exit code of the job.
    pub fn exit(&self) -> Exit {
        let bad = || self.ended.iter().filter(|ended| ended.end != End::Exit(0));
        let by_itself = bad().find_map(|ended| match ended.end {
            End::Exit(code) => Some(Exit::from_code(code).unwrap_or(Exit::Internal)),
            End::Signal(_) | End::Unknown => None,
        });
        match by_itself {
            Some(exit) => exit,
            None if bad().next().is_some() => Exit::RankLost,
            None => Exit::Ok,
        }
    }

    fn has(&self, rank: u32) -> bool {
        self.ended.iter().any(|ended| ended.rank == rank)
    }
}

/// Starts a job and waits for its end.
///
/// # Errors
/// A build without MPI, no mpirun, an mpirun that does not start the ranks.
pub fn launch(request: &Request<'_>, show: &mut dyn FnMut(Line)) -> Result<Outcome, Failure> {
    if cfg!(not(feature = "mpi")) {
        let headline = "this build connects no processes: it has no MPI";
        return Err(Failure::environment(headline)
            .help("build with `--features mpi` (Debian: libopenmpi-dev, openmpi-bin)"));
    }
    let folder = Folder::make().map_err(|error| job::cannot("make a folder", &error))?;
    let token = bootstrap::token().map_err(|error| job::cannot("draw a token", &error))?;
    let server = rendezvous::Server::start("127.0.0.1:0", &token, (None, request.ranks))
        .map_err(|error| job::cannot("serve a rendezvous", &error))?;
    let forwarded = Forwarded::watch().map_err(|error| job::cannot("watch signals", &error))?;
    let address = server.address().to_string();
    let mut mpirun = job::mpirun(request, &folder)?;
    mpirun
        .env(bootstrap::RENDEZVOUS, address)
        .env(bootstrap::TOKEN, &token)
        .env(bootstrap::JOB, folder.name())
        .env(TIMEOUT, request.timeout.as_secs_f64().to_string());
    let child = start(&mut mpirun)?;
    let begin = Instant::now();
    let watch = Watch { request, folder: &folder, begin, outcome: Outcome::default(), asked: None };
    watch.until_all_end(child, &forwarded, show)
}

fn start(mpirun: &mut Command) -> Result<Child, Failure> {
    mpirun.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    mpirun.spawn().map_err(|error| {
        Failure::environment(format!("cannot start mpirun: {error}"))
            .help("apt-get install openmpi-bin")
    })
}

/// A job that runs.
struct Watch<'a> {
    request: &'a Request<'a>,
    folder: &'a Folder,
    begin: Instant,
    outcome: Outcome,
    /// When the rest was last asked to end.
    asked: Option<Instant>,
}

impl Watch<'_> {
    fn until_all_end(
        mut self,
        mut mpirun: Child,
        forwarded: &Forwarded,
        show: &mut dyn FnMut(Line),
    ) -> Result<Outcome, Failure> {
        let lines = read_lines(&mut mpirun);
        let mut own = Vec::new();
        let mut gone = false;
        while self.outcome.ended.len() < self.request.ranks as usize && !gone {
            gone = mpirun.try_wait().is_ok_and(|status| status.is_some());
            pass_lines(&lines, LOOK_EVERY, show, &mut own);
            for signal in forwarded.take() {
                self.signal_all(signal);
            }
            self.collect();
            self.end_if_due();
        }
        if self.outcome.ended.is_empty() {
            let said = own.join("\n");
            return Err(Failure::environment(format!("mpirun started no ranks:\n{said}")));
        }
        let unseen: Vec<u32> =
            (0..self.request.ranks).filter(|rank| !self.outcome.has(*rank)).collect();
        if !unseen.is_empty() {
            own.drain(..).for_each(|text| show(Line::Err(text)));
        }
        for rank in unseen {
            self.note(rank, End::Unknown);
        }
        self.folder.close();
        let closing = Instant::now();
        while mpirun.try_wait().is_ok_and(|status| status.is_none()) {
            if closing.elapsed() > CLOSING {
                let _ = mpirun.kill();
            }
            pass_lines(&lines, LOOK_EVERY, show, &mut own);
        }
        while pass_lines(&lines, LOOK_EVERY, show, &mut own) {}
        Ok(self.outcome)
    }

    /// Notes the ranks that have ended since.
    fn collect(&mut self) {
        for rank in 0..self.request.ranks {
            if !self.outcome.has(rank)
                && let Some(end) = self.folder.end(rank)
            {
                self.note(rank, end);
            }
        }
    }

    fn note(&mut self, rank: u32, end: End) {
        let seconds = self.begin.elapsed().as_secs_f64();
        self.outcome.ended.push(Ended { rank, end, seconds });
    }

    /// Ends the rest some time after a rank has failed.
    fn end_if_due(&mut self) {
        let failed = self.outcome.ended.iter().find(|ended| ended.end != End::Exit(0));
        let Some(failed) = failed else { return };
        let now = self.begin.elapsed();
        let since = |seconds: f64| now.saturating_sub(Duration::from_secs_f64(seconds));
        let last = self.outcome.ended.last().map_or(0.0, |ended| ended.seconds);
        let alone = self.outcome.ended.len() + 1 >= self.request.ranks as usize;
        let due =
            since(failed.seconds) > self.request.timeout + GRACE || (alone && since(last) > ALONE);
        match self.asked {
            None if due => {
                self.signal_all(Signal::TERM);
                // One that is stopped ends when it goes on.
                self.signal_all(Signal::CONT);
                self.asked = Some(Instant::now());
            }
            Some(at) if at.elapsed() > LAST => {
                self.signal_all(Signal::KILL);
                self.asked = Some(Instant::now());
            }
            _ => {}
        }
    }

    fn signal_all(&self, signal: Signal) {
        for rank in (0..self.request.ranks).filter(|rank| !self.outcome.has(*rank)) {
            if let Some(process) = self.folder.process(rank) {
                send(process, signal);
            }
        }
    }
}

/// Reads both streams of mpirun on threads of their own.
fn read_lines(mpirun: &mut Child) -> Receiver<Line> {
    let (sender, lines) = channel();
    if let Some(out) = mpirun.stdout.take() {
        read_stream(out, Line::Out, sender.clone());
    }
    if let Some(err) = mpirun.stderr.take() {
        read_stream(err, Line::Err, sender);
    }
    lines
}

fn read_stream(
    stream: impl Read + Send + 'static,
    line: impl Fn(String) -> Line + Send + 'static,
    sender: Sender<Line>,
) {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut bytes = Vec::new();
        while stream.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&bytes);
            if sender.send(line(text.trim_end_matches('\n').to_owned())).is_err() {
                return;
            }
            bytes.clear();
        }
    });
}

/// Shows the lines of ranks and keeps those of mpirun itself; false when there will be no more.
fn pass_lines(
    lines: &Receiver<Line>,
    wait: Duration,
    show: &mut dyn FnMut(Line),
    own: &mut Vec<String>,
) -> bool {
    let mut wait = wait;
    loop {
        let line = match lines.recv_timeout(wait) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(wait);
                return false;
            }
        };
        let (Line::Out(text) | Line::Err(text)) = &line;
        let number = text.split_once(rank::MARK).map(|(number, _)| number);
        match number.is_some_and(|number| number.parse::<u32>().is_ok()) {
            true => show(line),
            false => own.push(text.clone()),
        }
        wait = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ends: &[End]) -> Exit {
        let ended =
            |(rank, end): (usize, &End)| Ended { rank: rank as u32, end: *end, seconds: 0.0 };
        Outcome { ended: ends.iter().enumerate().map(ended).collect() }.exit()
    }

    #[test]
    fn the_first_rank_that_fails_by_itself_gives_the_exit_code() {
        assert_eq!(outcome(&[End::Exit(0), End::Exit(0)]), Exit::Ok);
        assert_eq!(outcome(&[End::Exit(0), End::Exit(12), End::Exit(11)]), Exit::NonFinite);
        assert_eq!(outcome(&[End::Signal(9), End::Exit(11), End::Exit(11)]), Exit::RankLost);
        assert_eq!(outcome(&[End::Signal(9), End::Exit(0)]), Exit::RankLost);
        assert_eq!(outcome(&[End::Unknown]), Exit::RankLost);
        assert_eq!(outcome(&[End::Exit(101), End::Exit(11)]), Exit::Internal);
    }
}
