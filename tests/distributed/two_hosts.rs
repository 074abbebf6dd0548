//! Two hosts that share no folder: two network namespaces of this machine, as `examples/08_two_hosts`
//! makes them. Where that is not allowed, a test says why and is skipped.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::workbench::Bench;

use super::job::worst;
use super::launched::{Job, alone, has_mpi, perilune, signal, text};

const SCRIPT: &str = "examples/08_two_hosts/two_hosts.sh";
/// What the script says where it may not do what it is asked.
const NOT_HERE: i32 = 77;
/// A collective's deadline in the tests of faults.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The example's script with its options and what the ranks run.
fn two_hosts(options: &[&str], command: &[&str]) -> Command {
    let mut script = alone(SCRIPT);
    script.env("PERILUNE", env!("CARGO_BIN_EXE_perilune")).args(options).args(command);
    script
}

/// One pair of hosts at a time: deadlines are measured.
fn turn() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the script refused because of the machine; says why.
fn skipped(output: &Output) -> bool {
    let not_here = output.status.code() == Some(NOT_HERE);
    if not_here {
        eprintln!("skipped: {}", text(&output.stderr).trim());
    }
    not_here
}

/// What a run of k2-nano is told.
fn training(bench: &Bench, out: &str, more: &[&str]) -> Vec<String> {
    let path = |name: &str| bench.path(name).display().to_string();
    let run = ["train".to_owned(), path("k2-nano/train.ron"), "--data".to_owned(), path("text")];
    let out = ["--out".to_owned(), path(out)];
    let same = ["--set", "batch=8", "--threads", "1", "--seed", "3", "--steps", "6"];
    let same = same.iter().chain(&["--eval-every", "3", "--checkpoint-every", "0"]).chain(more);
    run.into_iter().chain(out).chain(same.map(|word| (*word).to_owned())).collect()
}

/// Losses in the order of a run's records.
fn losses(bench: &Bench, out: &str) -> Vec<f64> {
    let records = fs::read_to_string(bench.path(out).join("metrics.jsonl")).unwrap_or_default();
    let records = records.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let losses = records.filter(|r| ["step", "eval"].contains(&r["kind"].as_str().unwrap_or("")));
    losses.filter_map(|record| record["loss"].as_f64()).collect()
}

#[test]
fn two_hosts_learn_what_one_rank_learns_however_slow_the_cable_is() {
    if !has_mpi() {
        return;
    }
    let _turn = turn();
    let bench = Bench::nano(900);
    let run = training(&bench, "one", &[]);
    let run: Vec<&str> = run.iter().map(String::as_str).collect();
    let output = perilune(&run).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let expected = losses(&bench, "one");
    assert_eq!(expected.len(), 8, "six steps and two looks");
    let mut first = None;
    for (out, slow) in
        [("plain", &[][..]), ("narrow", &["--rate", "100mbit"]), ("far", &["--delay", "1ms"])]
    {
        let own = bench.path(out).display().to_string();
        let options = [&["--own", &own], slow].concat();
        let run = training(&bench, out, &["--mesh", "dp=2,ep=2"]);
        let run: Vec<&str> = run.iter().map(String::as_str).collect();
        let output = two_hosts(&options, &run).output().expect("the script starts");
        if skipped(&output) {
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{out}: {}", text(&output.stderr));
        let found = losses(&bench, out);
        let off = |(x, y): (&f64, &f64)| (x - y).abs() / y.abs();
        let off = worst(found.iter().zip(&expected).map(off));
        assert!(found.len() == expected.len() && off < 2e-4, "{out}: {found:?} {expected:?}");
        assert_eq!(first.get_or_insert_with(|| found.clone()), &found, "{out}: to the bit");
    }
}

/// The process of a rank of a job, as its surroundings say.
fn process_of(job: &str, rank: u32) -> Option<u32> {
    let wanted = [format!("PERILUNE_JOB={job}"), format!("OMPI_COMM_WORLD_RANK={rank}")];
    let is_it = |path: &Path| {
        let program = fs::read_link(path.join("exe")).is_ok_and(|exe| exe.ends_with("perilune"));
        let variables = fs::read(path.join("environ")).unwrap_or_default();
        let set = |one: &String| variables.split(|byte| *byte == 0).any(|v| v == one.as_bytes());
        program && wanted.iter().all(set)
    };
    let all = fs::read_dir("/proc").ok()?.filter_map(Result::ok).map(|entry| entry.path());
    all.filter(|path| is_it(path)).find_map(|path| path.file_name()?.to_str()?.parse().ok())
}

/// Runs `comm-check` on two hosts and does something to a rank; gives what was said about it.
/// `None` where the machine has no such hosts.
fn fault(name: &str, rank: u32) -> Option<String> {
    let folder = tempfile::tempdir().expect("temp dir");
    let own = folder.path().display().to_string();
    let job = format!("two-hosts-{}-{name}-{rank}", std::process::id());
    let timeout = TIMEOUT.as_secs().to_string();
    let check = ["comm-check", "--rounds", "100000000", "--elems", "300"];
    let check = [&check[..], &["--comm-timeout", &timeout, "--flight", &own]].concat();
    let mut script = two_hosts(&["--own", &own], &check);
    script.env("PERILUNE_JOB", &job);
    // Every line says whose it is.
    script.env("OMPI_MCA_orte_tag_output", "1");
    let mut running = Job::start(script);
    let process = loop {
        // The ring of rank 0 is on the first host, which has this machine's folder.
        let going = running.has_passed(folder.path(), (0, 20));
        if let Some(process) = process_of(&job, rank).filter(|_| going) {
            break process;
        }
        if running.has_ended() {
            let output = running.output();
            assert!(skipped(&output), "{}", text(&output.stderr));
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    signal(name, process);
    let begin = Instant::now();
    let output = running.output();
    let err = text(&output.stderr);
    let took = begin.elapsed();
    assert!(took < TIMEOUT + Duration::from_secs(5), "{took:?} after the fault:\n{err}");
    Some(err)
}

#[test]
fn a_rank_lost_on_either_host_is_named_without_a_shared_folder() {
    if !has_mpi() {
        return;
    }
    let _turn = turn();
    // Rank 0 serves the rendezvous; 2 and 3 are on the second host.
    for (name, rank, host) in
        [("KILL", 3, "two"), ("KILL", 0, "one"), ("STOP", 2, "two"), ("STOP", 0, "one")]
    {
        let Some(err) = fault(name, rank) else { return };
        // A stopped rank that mpirun wakes to end it finds the others gone: it is no survivor.
        let own = format!("[1,{rank}]<");
        let of_survivors = err.lines().filter(|line| !line.starts_with(&own));
        let said: Vec<&str> = of_survivors.filter(|line| line.contains("error: rank ")).collect();
        assert!(
            said.iter().all(|line| line.starts_with("[1,")),
            "lines say whose they are:\n{err}"
        );
        // mpirun ends the others as soon as the first one has said why, so not all of them do.
        assert!(!said.is_empty(), "{name} {rank}: nobody is named:\n{err}");
        let right = format!("error: rank {rank} on `{host}` ");
        let site = "of `comm_check`, step ";
        let wrong = said.iter().find(|line| !(line.contains(&right) && line.contains(site)));
        assert_eq!(wrong, None, "{name} {rank}:\n{err}");
    }
}
