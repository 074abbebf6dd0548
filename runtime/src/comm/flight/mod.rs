//! The flight recorder: what every rank has done last, in a file that outlives it.
//!
//! Each rank writes a ring of its last [`SLOTS`] collectives into a file of its own, `rank-0003.ring`
//! in the run's folder. What is written is in the system's hands at once, so it survives any end of
//! the process. Ranks that wait in vain read the files of the others to find whom to blame;
//! `perilune hang-report` merges them afterwards.
//!
//! A ring is text: lines of [`LINE_BYTES`] bytes, padded with blanks, fields between tabs.
//!
//! | line | fields |
//! |---|---|
//! | 0, who | `perilune-flight`, version, rank, size, host, namespace, process id, its start, job |
//! | 1, state | heartbeat (ns since 1970), `running`, `left` or `lost`, exit code, collectives begun |
//! | 2, verdict | rank, host, cause, its two numbers, waited (ns), step, name, entry, node, entered |
//! | 3 … | sequence number, begin (ns), end (ns, 0 inside), step, bytes, number in group, group, missing, name, entry, node |
//!
//! # Invariants
//! - Writing fails silently: a full disk must not end a run that goes well.
//! - Reading never trusts a line: what does not parse is not there.

mod line;
mod read;
mod recorder;
mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use read::{Record, Ring, State};
pub use recorder::Recorder;
pub use report::{Divergence, Rank, Report};

use super::blame::{Inside, Life, Standing, Verdict, blame};
use super::host::Process;
use super::{Cause, Lost, Site};

/// Collectives that a ring holds.
pub const SLOTS: u64 = 4096;
/// Bytes of a line, its newline included.
pub const LINE_BYTES: usize = 512;
/// Lines before the ring.
const HEAD_LINES: u64 = 3;
/// Format of the file.
const VERSION: u32 = 1;
/// Time between looks at the others while a rank waits.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A rank elsewhere that waits, but has not been heard of for so long, does not answer.
const SILENT: Duration = Duration::from_secs(5);

/// The ring of a rank.
pub fn ring_path(folder: &Path, rank: u32) -> PathBuf {
    folder.join(format!("rank-{rank:04}.ring"))
}

/// A rank's recorder, and its eyes on the others.
#[derive(Debug)]
pub struct Flight {
    folder: PathBuf,
    recorder: Recorder,
    observer: Process,
    begin: Instant,
    next_look: Instant,
}

impl Flight {
    /// Starts the ring of a rank in `folder`, which is made. `job` tells this job's rings from
    /// those that an earlier one left behind.
    ///
    /// # Errors
    /// When the folder or the file cannot be made.
    pub fn start(folder: &Path, job: &str, (rank, size): (u32, u32)) -> std::io::Result<Flight> {
        let observer = Process::this();
        let recorder = Recorder::create(folder, job, (rank, size), &observer)?;
        let now = Instant::now();
        Ok(Flight { folder: folder.to_owned(), recorder, observer, begin: now, next_look: now })
    }

    /// A collective is entered, to send `bytes` to others.
    pub fn begin(&mut self, site: &Site<'_>, group: &[u32], bytes: u64) {
        self.begin = Instant::now();
        self.next_look = self.begin + LOOK_EVERY;
        self.recorder.begin(site, group, bytes);
    }

    /// The collective is left.
    pub fn end(&mut self) {
        self.recorder.end();
    }

    /// How long the collective has lasted.
    pub fn waited(&self) -> Duration {
        self.begin.elapsed()
    }

    /// To be called again and again while `missing` are waited for: shows that this rank lives, and
    /// every now and then looks whether the others do. A rank that cannot come any more is lost.
    pub fn look(&mut self, missing: &[u32]) -> Option<Lost> {
        let now = Instant::now();
        if now < self.next_look {
            return None;
        }
        self.next_look = now + LOOK_EVERY;
        self.recorder.wait_for(missing);
        let over = missing.iter().any(|&rank| {
            let standing = self.standing(rank);
            let ended = matches!(standing.life, Life::Gone | Life::Ended { .. });
            ended || standing.verdict.is_some()
        });
        over.then(|| self.judge(missing))
    }

    /// Whom to blame for the wait for `missing`.
    pub fn judge(&mut self, missing: &[u32]) -> Lost {
        self.recorder.wait_for(missing);
        let size = self.recorder.size();
        let standings: Vec<Standing> = (0..size).map(|rank| self.standing(rank)).collect();
        let me = self.recorder.rank();
        let site = self.recorder.site().clone();
        match blame(&standings, (me, &site), missing) {
            Some(Verdict::Told(lost)) => lost,
            Some(Verdict::Found { rank, cause }) => self.lost(rank, cause),
            None => self.lost(me, Cause::Silent),
        }
    }

    /// A loss in the collective that is under way.
    pub fn lost(&self, rank: u32, cause: Cause) -> Lost {
        let ring = self.ring(rank);
        let host = ring.map_or_else(|| "unknown host".to_owned(), |ring| ring.process.host);
        Lost { rank, host, cause, site: self.recorder.site().clone(), waited: self.waited() }
    }

    /// The collective that `rank` entered last, in words.
    pub fn entered(&self, rank: u32) -> String {
        let record = self.ring(rank).and_then(|ring| ring.last(&ring_path(&self.folder, rank)));
        record.map_or_else(|| "another collective".to_owned(), |record| record.site.to_string())
    }

    /// Writes down whom this rank blames before it gives up.
    pub fn give_up(&mut self, lost: &Lost) {
        self.recorder.give_up(lost);
    }

    /// Writes down that this rank ends by itself.
    pub fn leave(&mut self, exit: u8) {
        self.recorder.leave(exit);
    }

    /// The head of a rank's ring, if it is of this job.
    fn ring(&self, rank: u32) -> Option<Ring> {
        let ring = Ring::head(&ring_path(&self.folder, rank))?;
        (ring.rank == rank && ring.job == self.recorder.job()).then_some(ring)
    }

    /// Where a rank stands; one without a ring has not started yet.
    fn standing(&self, rank: u32) -> Standing {
        let Some(ring) = self.ring(rank) else { return Standing::default() };
        let last = ring.last(&ring_path(&self.folder, rank));
        standing(&ring, last.as_ref(), &self.observer)
    }
}

/// Where a rank stands, by its ring.
fn standing(ring: &Ring, last: Option<&Record>, observer: &Process) -> Standing {
    let inside = last.filter(|record| record.end_ns == 0);
    let life = match ring.state {
        State::Left { exit } => Life::Ended { exit },
        State::Running | State::Lost => match ring.process.life(observer) {
            Life::Alive if inside.is_some() && ring.silent_for() > SILENT => Life::Silent,
            life => life,
        },
    };
    let inside = inside.map(|record| Inside {
        site: record.site.clone(),
        group: record.group.clone(),
        missing: record.missing.clone(),
    });
    Standing { life, inside, verdict: ring.verdict.clone() }
}

#[cfg(test)]
mod tests;
