//! Ranks that are killed, stopped, or go astray: the others end in time and name the right one.
//!
//! A few of each kind run by default; `PERILUNE_FAULTS=100` runs so many kills, and half as many
//! stops and astray ranks.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::launched::{Job, has_mpi, perilune, signal, text};

const RANKS: u32 = 4;
/// A collective's deadline.
const TIMEOUT: Duration = Duration::from_secs(2);
/// What the survivors have on top of it.
const SLACK: Duration = Duration::from_secs(5);

/// Numbers that look random, the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }
}

fn count(of_hundred: usize, few: usize) -> usize {
    let asked = std::env::var("PERILUNE_FAULTS").ok().and_then(|text| text.parse::<usize>().ok());
    asked.map_or(few, |kills| (kills * of_hundred).div_ceil(100))
}

/// A fault from outside (a signal) or inside (an argument of `comm-check`), on a rank.
struct Fault {
    rank: u32,
    signal: Option<&'static str>,
    argument: Option<String>,
    after: Duration,
}

/// What survivors said.
#[derive(Default)]
struct Verdicts {
    right: usize,
    wrong: Vec<String>,
}

/// Runs a job with one fault. Survivors end with exit code 11 within the deadline.
fn run(fault: &Fault, verdicts: &mut Verdicts) {
    let folder = tempfile::tempdir().expect("temp dir");
    let flight = folder.path().display().to_string();
    let rounds = if fault.signal.is_some() { "100000000" } else { "200" };
    let mut command = vec!["comm-check", "--rounds", rounds, "--elems", "300"];
    command.extend(["--flight", &flight]);
    command.extend(fault.argument.iter().flat_map(|argument| ["--fault", argument]));
    let job = Job::launch(RANKS, &TIMEOUT.as_secs().to_string(), &command);
    let processes = job.running(folder.path(), (RANKS, 10));
    std::thread::sleep(fault.after);
    if let Some(name) = fault.signal {
        signal(name, processes[fault.rank as usize]);
    }
    let begin = Instant::now();
    let output = job.output();
    let err = text(&output.stderr);
    let most = TIMEOUT + SLACK;
    assert!(begin.elapsed() < most, "{:?} after the fault:\n{err}", begin.elapsed());
    assert_eq!(output.status.code(), Some(11), "{err}");
    let named = format!("error: rank {} on `", fault.rank);
    for rank in (0..RANKS).filter(|rank| *rank != fault.rank) {
        let said = err.lines().find_map(|line| line.strip_prefix(&format!("{rank}| ")));
        let said = said.unwrap_or_default();
        let site = said.contains("of `comm_check`, step ") && said.contains("(`rounds`)");
        match said.starts_with(&named) && site {
            true => verdicts.right += 1,
            false => verdicts.wrong.push(format!("rank {rank} says `{said}`:\n{err}")),
        }
    }
    // Afterwards the recorders tell the same.
    let report = perilune(&["hang-report", &flight]).output().expect("the program starts");
    let report = text(&report.stdout);
    let suspect = format!("suspect: rank {} ", fault.rank);
    if !report.contains(&suspect) {
        verdicts.wrong.push(format!("hang-report does not say `{suspect}`:\n{report}"));
    }
}

fn run_all(faults: impl Iterator<Item = Fault>) {
    if !has_mpi() {
        return;
    }
    // One job at a time: deadlines are measured.
    static ONE: Mutex<()> = Mutex::new(());
    let _turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut verdicts = Verdicts::default();
    for fault in faults {
        run(&fault, &mut verdicts);
    }
    let all = verdicts.right + verdicts.wrong.len();
    let wrong = verdicts.wrong.len();
    assert!(wrong * 100 <= all * 2, "{wrong} of {all} wrong:\n{}", verdicts.wrong.join("\n"));
}

#[test]
fn a_killed_rank_is_named_by_all_others() {
    let mut draw = Draw(1);
    run_all((0..count(100, 4)).map(|_| Fault {
        rank: draw.below(RANKS.into()) as u32,
        signal: Some("KILL"),
        argument: None,
        after: Duration::from_millis(draw.below(300)),
    }));
}

#[test]
fn a_stopped_rank_is_named_by_all_others_within_the_deadline() {
    let mut draw = Draw(2);
    run_all((0..count(50, 2)).map(|_| Fault {
        rank: draw.below(RANKS.into()) as u32,
        signal: Some("STOP"),
        argument: None,
        after: Duration::from_millis(draw.below(300)),
    }));
}

#[test]
fn a_rank_that_goes_astray_is_named_by_all_others() {
    let mut draw = Draw(3);
    let kinds = ["skip", "mismatch", "length", "sleep"];
    run_all((0..count(50, 4)).map(|i| {
        let (rank, round) = (draw.below(RANKS.into()) as u32, draw.below(30) + 5);
        let argument = format!("{}:{rank}:{round}", kinds[i % kinds.len()]);
        Fault { rank, signal: None, argument: Some(argument), after: Duration::ZERO }
    }));
}
