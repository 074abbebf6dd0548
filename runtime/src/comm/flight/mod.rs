//! The flight recorder: what every rank has done last, in a file that outlives it.
//!
//! Each rank writes a ring of its last [`SLOTS`] collectives into a file of its own, `rank-0003.ring`
//! in the run's folder. What is written is in the system's hands at once, so it survives any end of
//! the process; `perilune hang-report` merges the files afterwards. What its head and its last line
//! say, a rank also tells the others through the rendezvous, so that those who wait in vain find whom
//! to blame, on whatever machine it is.
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
use super::pulse::Pulse;
use super::rendezvous::{Heard, Met};
use super::{Cause, Lost, Site};

/// Collectives that a ring holds.
pub const SLOTS: u64 = 4096;
/// Bytes of a line, its newline included.
pub const LINE_BYTES: usize = 512;
/// Lines before the ring.
const HEAD_LINES: u64 = 3;
/// Lines that say where a rank stands: the head, and the collective entered last.
const STANDING_LINES: usize = HEAD_LINES as usize + 1;
/// Format of the file.
const VERSION: u32 = 1;
/// Time between looks at the others while a rank waits.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A rank that waits, but has not written to its ring for so long, does not answer.
const SILENT: Duration = Duration::from_secs(5);
/// How long a rank that has given up stays for the others at most.
const LINGER: Duration = Duration::from_secs(1);
/// A rank that has not beaten for half a deadline does not answer; at least and at most so long.
const SILENT_LIMITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// The ring of a rank.
pub fn ring_path(folder: &Path, rank: u32) -> PathBuf {
    folder.join(format!("rank-{rank:04}.ring"))
}

/// A rank's recorder, and what it hears of the others.
#[derive(Debug)]
pub struct Flight {
    recorder: Recorder,
    /// Its connection to what the others tell; a job of one rank has none.
    pulse: Option<Pulse>,
    /// The machine of every rank, once they have met.
    hosts: Vec<String>,
    /// Who is silent for so long does not answer.
    silent: Duration,
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
        let (now, silent) = (Instant::now(), SILENT_LIMITS.1);
        Ok(Flight {
            recorder,
            pulse: None,
            hosts: Vec::new(),
            silent,
            observer,
            begin: now,
            next_look: now,
        })
    }

    /// From now on this rank, which has met the others, tells them where it stands, and hears where
    /// they do. `timeout` is a collective's deadline.
    ///
    /// # Errors
    /// A rendezvous that is lost already; when no thread can be started.
    pub fn attach(&mut self, met: Met, timeout: Duration) -> std::io::Result<()> {
        let Met { client, server, hosts } = met;
        self.hosts = hosts;
        self.silent = (timeout / 2).clamp(SILENT_LIMITS.0, SILENT_LIMITS.1);
        self.pulse = Some(Pulse::start(client, server, self.recorder.standing())?);
        Ok(())
    }

    fn tell(&self) {
        if let Some(pulse) = &self.pulse {
            pulse.tell(self.recorder.standing());
        }
    }

    /// Waits until what the others told until now is known here; false where that cannot be.
    fn settle(&self) -> bool {
        self.pulse.as_ref().is_some_and(Pulse::settle)
    }

    fn tell_now(&self) {
        if let Some(pulse) = &self.pulse {
            pulse.tell_now(self.recorder.standing());
        }
    }

    /// A collective is entered, to send `bytes` to others.
    pub fn begin(&mut self, site: &Site<'_>, group: &[u32], bytes: u64) {
        self.begin = Instant::now();
        self.next_look = self.begin + LOOK_EVERY;
        self.recorder.begin(site, group, bytes);
        self.tell();
    }

    /// The collective is left.
    pub fn end(&mut self) {
        self.recorder.end();
        self.tell();
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
        self.tell();
        let over = missing.iter().any(|&rank| {
            let standing = self.standing(rank);
            let ended = matches!(standing.life, Life::Gone | Life::Ended { .. });
            ended || standing.verdict.is_some()
        });
        over.then(|| {
            // The end of a process may be seen here before what it said last is heard.
            self.settle();
            self.culprit(missing)
        })
    }

    /// Whom to blame for the wait for `missing`.
    pub fn judge(&mut self, missing: &[u32]) -> Lost {
        self.recorder.wait_for(missing);
        self.tell();
        self.settle();
        self.culprit(missing)
    }

    /// Whom to blame, by what has been heard until now.
    fn culprit(&self, missing: &[u32]) -> Lost {
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
        let host = self.hosts.get(rank as usize).map_or("unknown host", String::as_str).to_owned();
        Lost { rank, host, cause, site: self.recorder.site().clone(), waited: self.waited() }
    }

    /// The collective that `rank` has entered by now, in words.
    pub fn entered(&self, rank: u32) -> String {
        self.settle();
        let record = self.told(rank).and_then(|(_, _, record)| record);
        record.map_or_else(|| "another collective".to_owned(), |record| record.site.to_string())
    }

    /// Writes down and tells whom this rank blames before it gives up.
    pub fn give_up(&mut self, lost: &Lost) {
        self.recorder.give_up(lost);
        self.tell_now();
    }

    /// Writes down and tells that this rank ends by itself.
    ///
    /// One that gave up because of another rank stays until the others have given up, too: a launcher
    /// may end all ranks as soon as one has ended. One that serves the rendezvous stays until they have
    /// heard why.
    pub fn leave(&mut self, exit: u8) {
        self.recorder.leave(exit);
        self.tell_now();
        let Some(pulse) = self.pulse.as_ref().filter(|_| exit != 0) else { return };
        if let Some(blamed) = self.recorder.blamed() {
            let begin = Instant::now();
            let but = [blamed, self.recorder.rank()];
            let others = || (0..self.recorder.size()).filter(|rank| !but.contains(rank));
            let open = || others().any(|rank| self.is_open(rank));
            while open() && begin.elapsed() < LINGER && self.settle() {}
        } else if pulse.serves() {
            self.settle();
        }
    }

    /// Whether a rank may still have to say something.
    fn is_open(&self, rank: u32) -> bool {
        self.standing(rank).life == Life::Alive
            && self.told(rank).is_none_or(|(_, ring, _)| ring.state == State::Running)
    }

    /// What a rank told last, and what is known of its connection.
    fn told(&self, rank: u32) -> Option<(Heard, Ring, Option<Record>)> {
        let heard = self.pulse.as_ref()?.heard(rank)?;
        let (ring, record) = Ring::parse(&heard.told)?;
        (ring.rank == rank).then_some((heard, ring, record))
    }

    /// Where a rank stands; of one that has told nothing yet, only whether it is still there.
    fn standing(&self, rank: u32) -> Standing {
        let Some((heard, ring, record)) = self.told(rank) else {
            let heard = self.pulse.as_ref().and_then(|pulse| pulse.heard(rank));
            let life = if heard.is_none_or(|heard| heard.here) { Life::Alive } else { Life::Gone };
            return Standing { life, ..Standing::default() };
        };
        let life = match (ring.state, ring.process.life(&self.observer)) {
            (State::Left { exit }, _) => Life::Ended { exit },
            _ if !heard.here => Life::Gone,
            (_, Life::Alive) if heard.silent >= self.silent => Life::Silent,
            (_, life) => life,
        };
        Standing { life, inside: record.and_then(inside), verdict: ring.verdict }
    }
}

/// The collective that a record says its rank is in.
fn inside(record: Record) -> Option<Inside> {
    let Record { site, group, missing, end_ns, .. } = record;
    (end_ns == 0).then_some(Inside { site, group, missing })
}

/// Where a rank stands, by its file.
fn standing(ring: &Ring, last: Option<&Record>, observer: &Process) -> Standing {
    let inside = last.filter(|record| record.end_ns == 0);
    let life = match ring.state {
        State::Left { exit } => Life::Ended { exit },
        State::Running | State::Lost => match ring.process.life(observer) {
            Life::Alive if inside.is_some() && ring.silent_for() > SILENT => Life::Silent,
            life => life,
        },
    };
    Standing { life, inside: inside.cloned().and_then(self::inside), verdict: ring.verdict.clone() }
}

#[cfg(test)]
mod tests;
