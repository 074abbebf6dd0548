//! The writing side of a ring.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::line::{Line, now_ns};
use super::{HEAD_LINES, LINE_BYTES, SLOTS, STANDING_LINES, VERSION, ring_path};
use crate::comm::host::Process;
use crate::comm::{Cause, Lost, OwnedSite, Site};

/// Writes what a rank does into its ring.
#[derive(Debug)]
pub struct Recorder {
    file: File,
    rank: u32,
    size: u32,
    /// Collectives begun.
    begun: u64,
    /// Collectives begun in each group.
    by_group: BTreeMap<Vec<u32>, u64>,
    current: Current,
    /// The rank because of which this one has given up.
    blamed: Option<u32>,
    /// The lines that say where this rank stands, as last written.
    standing: [String; STANDING_LINES],
}

/// The collective entered last.
#[derive(Debug)]
struct Current {
    site: OwnedSite,
    group: Vec<u32>,
    number_in_group: u64,
    bytes: u64,
    begin_ns: u64,
    end_ns: u64,
    missing: Vec<u32>,
}

impl Recorder {
    /// A new ring for a rank, in place of any that is there.
    ///
    /// # Errors
    /// When the folder or the file cannot be made.
    pub(crate) fn create(
        folder: &Path,
        job: &str,
        (rank, size): (u32, u32),
        process: &Process,
    ) -> std::io::Result<Recorder> {
        fs::create_dir_all(folder)?;
        let path = ring_path(folder, rank);
        // Written beside and moved, so that nobody ever reads half a head.
        let beside = path.with_extension("new");
        let file = File::create(&beside)?;
        let who = Line::default()
            .text("perilune-flight", 32)
            .number(VERSION.into())
            .number(rank.into())
            .number(size.into())
            .text(&process.host, 64)
            .text(&process.namespace, 64)
            .number(process.id.into())
            .number(process.started)
            .text(job, 64);
        let nothing = || OwnedSite {
            entry: String::new(),
            step: 0,
            name: "start".to_owned(),
            node: String::new(),
        };
        let current = Current {
            site: nothing(),
            group: Vec::new(),
            number_in_group: 0,
            bytes: 0,
            begin_ns: 0,
            end_ns: 0,
            missing: Vec::new(),
        };
        let by_group = BTreeMap::new();
        let mut recorder = Recorder {
            file,
            rank,
            size,
            begun: 0,
            by_group,
            current,
            blamed: None,
            standing: Default::default(),
        };
        recorder.put(0, who)?;
        recorder.state("running", 0);
        recorder.put(2, Line::default())?;
        fs::rename(beside, path)?;
        Ok(recorder)
    }

    pub(super) fn rank(&self) -> u32 {
        self.rank
    }

    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// The rank because of which this one has given up.
    pub(super) fn blamed(&self) -> Option<u32> {
        self.blamed
    }

    /// Where this rank stands, for [`Ring::parse`](super::Ring::parse).
    pub(super) fn standing(&self) -> Vec<u8> {
        self.standing.join("\n").into_bytes()
    }

    /// The collective entered last.
    pub(super) fn site(&self) -> &OwnedSite {
        &self.current.site
    }

    pub(super) fn begin(&mut self, site: &Site<'_>, group: &[u32], bytes: u64) {
        let number = match self.by_group.get_mut(group) {
            Some(number) => {
                *number += 1;
                *number
            }
            None => {
                self.by_group.insert(group.to_vec(), 0);
                0
            }
        };
        self.begun += 1;
        self.current = Current {
            site: site.to_owned(),
            group: group.to_vec(),
            number_in_group: number,
            bytes,
            begin_ns: now_ns(),
            end_ns: 0,
            missing: group.iter().copied().filter(|rank| *rank != self.rank).collect(),
        };
        self.record();
        self.state("running", 0);
    }

    pub(super) fn end(&mut self) {
        self.current.missing.clear();
        self.current.end_ns = now_ns();
        self.record();
    }

    /// Says whom the collective under way waits for, and that this rank lives.
    pub(super) fn wait_for(&mut self, missing: &[u32]) {
        if self.current.missing != missing {
            self.current.missing = missing.to_vec();
            self.record();
        }
        self.state("running", 0);
    }

    pub(super) fn give_up(&mut self, lost: &Lost) {
        self.blamed = Some(lost.rank);
        let (cause, numbers, entered) = match &lost.cause {
            Cause::Gone => ("gone", [0, 0], ""),
            Cause::Ended { exit } => ("ended", [u64::from(*exit), 0], ""),
            Cause::Stopped => ("stopped", [0, 0], ""),
            Cause::Elsewhere { entered } => ("elsewhere", [0, 0], entered.as_str()),
            Cause::Length { expected, found } => ("length", [*expected, *found], ""),
            Cause::Late => ("late", [0, 0], ""),
            Cause::Silent => ("silent", [0, 0], ""),
        };
        let line = Line::default()
            .number(lost.rank.into())
            .text(&lost.host, 64)
            .text(cause, 16)
            .number(numbers[0])
            .number(numbers[1])
            .number(u64::try_from(lost.waited.as_nanos()).unwrap_or(u64::MAX));
        self.keep(2, site_fields(line, &lost.site).text(entered, 160));
        self.state("lost", 0);
    }

    pub(super) fn leave(&mut self, exit: u8) {
        self.state("left", exit);
    }

    fn state(&mut self, state: &str, exit: u8) {
        let line = Line::default().number(now_ns()).text(state, 16).number(exit.into());
        self.keep(1, line.number(self.begun));
    }

    /// Writes the current collective into its slot.
    fn record(&mut self) {
        let current = &self.current;
        let line = Line::default()
            .number(self.begun)
            .number(current.begin_ns)
            .number(current.end_ns)
            .number(current.bytes)
            .number(current.number_in_group)
            .ranks(&current.group, 80)
            .ranks(&current.missing, 80);
        let slot = (self.begun - 1) % SLOTS;
        let line = site_fields(line, &current.site);
        self.keep(HEAD_LINES + slot, line);
    }

    /// Writes a line if that is possible: a run that goes well does not end because its recorder
    /// cannot write.
    fn keep(&mut self, index: u64, line: Line) {
        let _ = self.put(index, line);
    }

    fn put(&mut self, index: u64, line: Line) -> std::io::Result<()> {
        let bytes = line.bytes();
        let place = index.min(HEAD_LINES) as usize;
        let text = String::from_utf8_lossy(&bytes);
        text.trim_end_matches(['\n', ' ']).clone_into(&mut self.standing[place]);
        self.file.write_all_at(&bytes, index * LINE_BYTES as u64)
    }
}

/// Step, name, entry and node.
fn site_fields(line: Line, site: &OwnedSite) -> Line {
    line.number(site.step as u64).text(&site.name, 24).text(&site.entry, 32).text(&site.node, 96)
}
