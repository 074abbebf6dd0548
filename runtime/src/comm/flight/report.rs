//! The rings of a job put together: where every rank stands, and where they first went apart.
//!
//! # Invariants
//! - Only rings of one job are compared: that of the ring written last.
//! - What a ring has already overwritten is unknown, and nobody is blamed for it.

use std::collections::BTreeMap;
use std::path::Path;

use super::read::{Record, Ring, State};
use super::{ring_path, standing};
use crate::comm::blame::{Standing, Verdict, blame};
use crate::comm::host::Process;
use crate::comm::{Life, OwnedSite};

/// What the rings of a folder tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The job.
    pub job: String,
    /// Its ranks, as many as it has; `None` for one without a ring.
    pub ranks: Vec<Option<Rank>>,
    /// Where the ranks first went apart.
    pub divergence: Option<Divergence>,
    /// Whom the ranks blame, or whom their rings tell on: the rank and what became of it, in words.
    pub suspect: Option<(u32, String)>,
}

/// One rank, as its ring tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rank {
    /// The head of its ring.
    pub ring: Ring,
    /// What its process does now, as far as can be seen from here.
    pub life: Life,
    /// The collective it entered last.
    pub last: Option<Record>,
}

/// One collective that its ranks did not take part in alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Its ranks.
    pub group: Vec<u32>,
    /// Its number among the group's collectives, from 0.
    pub number: u64,
    /// What was entered, by whom, in the order of the lowest rank.
    pub entered: Vec<(OwnedSite, Vec<u32>)>,
    /// Ranks that have not entered it.
    pub absent: Vec<u32>,
}

/// A rank's records of one group, by their number in it.
type History = BTreeMap<u64, Record>;

impl Report {
    /// Reads the rings of a folder; `None` where there are none.
    pub fn read(folder: &Path) -> Option<Report> {
        let names = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
        let mut paths: Vec<_> = names.map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "ring"));
        paths.sort();
        let mut rings: Vec<Ring> = paths.iter().filter_map(|path| Ring::head(path)).collect();
        let newest = rings.iter().min_by_key(|ring| ring.silent_for())?;
        let (job, size) = (newest.job.clone(), newest.size);
        rings.retain(|ring| ring.job == job && ring.size == size && ring.rank < size);
        let mut ranks: Vec<Option<Rank>> = (0..size).map(|_| None).collect();
        let mut histories = BTreeMap::new();
        let observer = Process::this();
        for ring in rings {
            let rank = ring.rank;
            let records = ring.records(&ring_path(folder, rank));
            let last = records.last().cloned();
            let life = standing(&ring, last.as_ref(), &observer).life;
            histories.insert(rank, by_group(records));
            ranks[rank as usize] = Some(Rank { ring, life, last });
        }
        let divergence = divergence(&histories);
        let suspect = suspect(&ranks, &observer);
        Some(Report { job, ranks, divergence, suspect })
    }
}

fn by_group(records: Vec<Record>) -> BTreeMap<Vec<u32>, History> {
    let mut groups: BTreeMap<Vec<u32>, History> = BTreeMap::new();
    for record in records {
        groups.entry(record.group.clone()).or_default().insert(record.number_in_group, record);
    }
    groups
}

/// The earliest collective that not all of its ranks entered alike.
fn divergence(ranks: &BTreeMap<u32, BTreeMap<Vec<u32>, History>>) -> Option<Divergence> {
    let groups: std::collections::BTreeSet<&Vec<u32>> =
        ranks.values().flat_map(BTreeMap::keys).collect();
    let first = |group: &&Vec<u32>| {
        let of = |rank: &u32| ranks.get(rank).map(|groups| groups.get(*group));
        // A rank without a ring is unknown; one that never was in the group has an empty history.
        let histories: Vec<(u32, Option<&History>)> =
            group.iter().filter_map(|rank| Some((*rank, of(rank)?))).collect();
        let numbers: std::collections::BTreeSet<u64> =
            histories.iter().filter_map(|(_, h)| *h).flat_map(|h| h.keys().copied()).collect();
        numbers.into_iter().find_map(|number| apart(group, number, &histories))
    };
    let found = groups.iter().filter_map(first).min_by_key(|(begin, _)| *begin);
    found.map(|(_, divergence)| divergence)
}

/// Whether a group went apart in one of its collectives, and when that was entered first.
fn apart(
    group: &[u32],
    number: u64,
    histories: &[(u32, Option<&History>)],
) -> Option<(u64, Divergence)> {
    let mut entered: Vec<(OwnedSite, Vec<u32>)> = Vec::new();
    let mut absent = Vec::new();
    let mut begin = u64::MAX;
    for (rank, history) in histories {
        let Some(record) = history.and_then(|history| history.get(&number)) else {
            let newest = history.and_then(|history| history.keys().next_back());
            if newest.is_none_or(|newest| *newest < number) {
                absent.push(*rank);
            }
            continue;
        };
        begin = begin.min(record.begin_ns);
        match entered.iter_mut().find(|(site, _)| *site == record.site) {
            Some((_, ranks)) => ranks.push(*rank),
            None => entered.push((record.site.clone(), vec![*rank])),
        }
    }
    let differs = entered.len() > 1 || !absent.is_empty();
    let divergence = Divergence { group: group.to_vec(), number, entered, absent };
    differs.then_some((begin, divergence))
}

/// Whom most ranks blame; where none has given up, whom the one that waits longest would blame.
fn suspect(ranks: &[Option<Rank>], observer: &Process) -> Option<(u32, String)> {
    let mut votes: BTreeMap<(u32, String), usize> = BTreeMap::new();
    for lost in ranks.iter().flatten().filter_map(|rank| rank.ring.verdict.as_ref()) {
        *votes.entry((lost.rank, lost.cause.to_string())).or_default() += 1;
    }
    if let Some((suspect, _)) = votes.into_iter().rev().max_by_key(|(_, count)| *count) {
        return Some(suspect);
    }
    let standings: Vec<Standing> = ranks
        .iter()
        .map(|rank| match rank {
            Some(rank) => standing(&rank.ring, rank.last.as_ref(), observer),
            None => Standing::default(),
        })
        .collect();
    let inside = ranks.iter().flatten().filter_map(|rank| {
        let last = rank.last.as_ref().filter(|record| record.end_ns == 0)?;
        let waits = rank.ring.state == State::Running && !last.missing.is_empty();
        waits.then_some((rank.ring.rank, last))
    });
    let (rank, last) = inside.min_by_key(|(_, record)| record.begin_ns)?;
    match blame(&standings, (rank, &last.site), &last.missing)? {
        Verdict::Told(lost) => Some((lost.rank, lost.cause.to_string())),
        Verdict::Found { rank, cause } => Some((rank, cause.to_string())),
    }
}
