//! The reading side of a ring.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::line::{now_ns, parse_ranks};
use super::{HEAD_LINES, LINE_BYTES, SLOTS, VERSION};
use crate::comm::host::Process;
use crate::comm::{Cause, Lost, OwnedSite};

/// Most ranks of a job whose rings are read.
const MAX_RANKS: usize = 1 << 16;

/// The head of a rank's ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// The rank.
    pub rank: u32,
    /// Ranks of its job.
    pub size: u32,
    /// Name of its job.
    pub job: String,
    pub(crate) process: Process,
    /// How it went on.
    pub state: State,
    /// Collectives it has entered.
    pub begun: u64,
    /// Whom it blames, if it has given up.
    pub verdict: Option<Lost>,
    beat_ns: u64,
}

/// How a rank went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, or ended without a word.
    Running,
    /// It ended by itself.
    Left {
        /// Exit code of its process.
        exit: u8,
    },
    /// It gave up because of another rank.
    Lost,
}

/// One collective in a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number on this rank, from 1.
    pub number: u64,
    /// When it was entered, in ns since 1970.
    pub begin_ns: u64,
    /// When it was left; 0: never.
    pub end_ns: u64,
    /// Bytes sent to others.
    pub bytes: u64,
    /// Its number among this rank's collectives of the same group, from 0.
    pub number_in_group: u64,
    /// Its ranks.
    pub group: Vec<u32>,
    /// Ranks that were still waited for, when last looked at.
    pub missing: Vec<u32>,
    /// Where it stands.
    pub site: OwnedSite,
}

impl Ring {
    /// Reads the head; `None` for what is no ring.
    pub fn head(path: &Path) -> Option<Ring> {
        let file = File::open(path).ok()?;
        let (who, state, verdict) = (line(&file, 0)?, line(&file, 1)?, line(&file, 2)?);
        parse_head([&who, &state, &verdict])
    }

    /// Reads what a rank tells of itself: the head of its ring and the collective entered last.
    pub fn parse(told: &[u8]) -> Option<(Ring, Option<Record>)> {
        let mut lines = std::str::from_utf8(told).ok()?.split('\n');
        let ring = parse_head([lines.next()?, lines.next()?, lines.next()?])?;
        Some((ring, lines.next().and_then(parse_record)))
    }

    /// The machine the rank runs on.
    pub fn host(&self) -> &str {
        &self.process.host
    }

    /// The rank's process id on its machine.
    pub fn process_id(&self) -> u32 {
        self.process.id
    }

    /// How long nothing has been heard of the rank.
    pub fn silent_for(&self) -> Duration {
        Duration::from_nanos(now_ns().saturating_sub(self.beat_ns))
    }

    /// The collective entered last.
    pub fn last(&self, path: &Path) -> Option<Record> {
        let slot = self.begun.checked_sub(1)? % SLOTS;
        let file = File::open(path).ok()?;
        parse_record(&line(&file, HEAD_LINES + slot)?)
    }

    /// All collectives that the ring still holds, oldest first.
    pub fn records(&self, path: &Path) -> Vec<Record> {
        let Ok(bytes) = std::fs::read(path) else { return Vec::new() };
        let lines = bytes.chunks_exact(LINE_BYTES).skip(HEAD_LINES as usize).take(SLOTS as usize);
        let texts = lines.filter_map(|line| std::str::from_utf8(line).ok());
        let mut records: Vec<Record> = texts.filter_map(parse_record).collect();
        records.sort_by_key(|record| record.number);
        records
    }
}

/// The head of a ring from its three lines.
fn parse_head([who, state, verdict]: [&str; 3]) -> Option<Ring> {
    let who: Vec<&str> = fields(who);
    let [magic, version, rank, size, host, namespace, id, started, job] = who.as_slice() else {
        return None;
    };
    if *magic != "perilune-flight" || version.parse() != Ok(VERSION) {
        return None;
    }
    let process = Process {
        host: (*host).to_owned(),
        namespace: (*namespace).to_owned(),
        id: id.parse().ok()?,
        started: started.parse().ok()?,
    };
    let state: Vec<&str> = fields(state);
    let [beat, state, exit, begun] = state.as_slice() else { return None };
    let state = match *state {
        "left" => State::Left { exit: exit.parse().ok()? },
        "lost" => State::Lost,
        _ => State::Running,
    };
    Some(Ring {
        rank: rank.parse().ok()?,
        size: size.parse().ok()?,
        job: (*job).to_owned(),
        process,
        state,
        begun: begun.parse().ok()?,
        verdict: parse_verdict(verdict),
        beat_ns: beat.parse().ok()?,
    })
}

fn line(file: &File, index: u64) -> Option<String> {
    let mut bytes = [0; LINE_BYTES];
    file.read_exact_at(&mut bytes, index * LINE_BYTES as u64).ok()?;
    String::from_utf8(bytes.to_vec()).ok()
}

fn fields(line: &str) -> Vec<&str> {
    line.trim_end_matches(['\n', ' ']).split('\t').collect()
}

fn parse_site(step: &str, name: &str, entry: &str, node: &str) -> Option<OwnedSite> {
    let step = step.parse().ok()?;
    Some(OwnedSite { entry: entry.to_owned(), step, name: name.to_owned(), node: node.to_owned() })
}

fn parse_record(line: &str) -> Option<Record> {
    let line = fields(line);
    let [number, begin, end, bytes, in_group, group, missing, step, name, entry, node] =
        line.as_slice()
    else {
        return None;
    };
    Some(Record {
        number: number.parse().ok()?,
        begin_ns: begin.parse().ok()?,
        end_ns: end.parse().ok()?,
        bytes: bytes.parse().ok()?,
        number_in_group: in_group.parse().ok()?,
        group: parse_ranks(group, MAX_RANKS)?,
        missing: parse_ranks(missing, MAX_RANKS)?,
        site: parse_site(step, name, entry, node)?,
    })
}

fn parse_verdict(line: &str) -> Option<Lost> {
    let line = fields(line);
    let [rank, host, cause, first, second, waited, step, name, entry, node, rest @ ..] =
        line.as_slice()
    else {
        return None;
    };
    let (first, second): (u64, u64) = (first.parse().ok()?, second.parse().ok()?);
    let cause = match *cause {
        "gone" => Cause::Gone,
        "ended" => Cause::Ended { exit: u8::try_from(first).ok()? },
        "stopped" => Cause::Stopped,
        "elsewhere" => Cause::Elsewhere { entered: rest.first().unwrap_or(&"").to_string() },
        "length" => Cause::Length { expected: first, found: second },
        "late" => Cause::Late,
        "silent" => Cause::Silent,
        _ => return None,
    };
    Some(Lost {
        rank: rank.parse().ok()?,
        host: (*host).to_owned(),
        cause,
        site: parse_site(step, name, entry, node)?,
        waited: Duration::from_nanos(waited.parse().ok()?),
    })
}
