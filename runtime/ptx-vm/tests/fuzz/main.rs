//! Fuzzes the machine: mutated kernels and launches never panic, and stay within bounds of time and memory.
//!
//! Without further wishes a fixed number of inputs is tried. `PERILUNE_FUZZ_SECONDS` goes on for as
//! long, from the input `PERILUNE_FUZZ_SEED`; what fails names the seed that makes it again.
//! `PERILUNE_FUZZ_CORPUS` names a folder that the unchanged kernels are written to, for cargo-fuzz.

mod mutate;
#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "it is a crate of its own too")]
mod target;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mutate::Corpus;
use target::Reached;

/// Inputs that are tried without further wishes.
const INPUTS: u64 = 10_000;
/// Of these, at least one in this many must come to its end: what is refused at once tests little.
const ONE_ENDS_IN: u64 = 20;
/// An input that takes longer hangs; it executes some thousand warp instructions at most.
const LONGEST: Duration = Duration::from_secs(30);
/// The most memory that the process may have needed.
const MAX_MEMORY_BYTES: u64 = 1 << 30;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Runs an input on a thread that is named after its seed, so that a panic and an overflow of the
/// stack name it too.
fn outcome(seed: u64, input: &Arc<Vec<u8>>) -> Result<Reached, &'static str> {
    let (done, waiting) = channel();
    let name = format!("input {seed}");
    let input = Arc::clone(input);
    let run = move || {
        target::load(&input);
        let reached = target::launch(&input);
        // A driver that gave up no longer listens.
        let _ = done.send(reached);
    };
    std::thread::Builder::new().name(name).spawn(run).expect("a thread");
    match waiting.recv_timeout(LONGEST) {
        Ok(reached) => Ok(reached),
        Err(RecvTimeoutError::Disconnected) => Err("panicked"),
        Err(RecvTimeoutError::Timeout) => Err("did not end"),
    }
}

/// Leaves an input behind as a file.
fn saved(seed: u64, input: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{seed}.input"));
    std::fs::write(&path, input).expect("the folder for temporary files");
    path
}

/// The most memory that this process has needed so far, where the system says it.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[test]
#[allow(clippy::print_stderr, reason = "what was tried is for the log")]
fn mutated_kernels_and_launches_never_panic_and_stay_within_their_bounds() {
    let corpus = Corpus::committed();
    if let Some(folder) = std::env::var_os("PERILUNE_FUZZ_CORPUS") {
        corpus.write(Path::new(&folder)).expect("a folder for the corpus");
    }
    let first = number("PERILUNE_FUZZ_SEED").unwrap_or(1);
    let budget = number("PERILUNE_FUZZ_SECONDS").map(Duration::from_secs);
    let (begin, next, all) = (Instant::now(), AtomicU64::new(0), Mutex::new(Vec::new()));
    let over = |index: u64| match budget {
        Some(budget) => index > 0 && begin.elapsed() >= budget,
        None => index >= INPUTS,
    };
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if over(index) {
                return;
            }
            let seed = first.wrapping_add(index);
            let input = Arc::new(corpus.input(seed));
            let outcome = outcome(seed, &input).map_err(|what| {
                let path = saved(seed, &input).display().to_string();
                format!("input {seed} {what}, see {path}; `./x fuzz 0 {seed}`")
            });
            all.lock().expect("drivers do not panic").push(outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let all = all.into_inner().expect("drivers do not panic");
    let reached = |least| all.iter().flatten().filter(|r| **r >= least).count() as u64;
    let (tried, ended) = (all.len() as u64, reached(Reached::End));
    eprintln!(
        "{tried} inputs from seed {first} in {:.1} s: {} loaded, {} ran, {ended} to their end with nothing found",
        begin.elapsed().as_secs_f64(),
        reached(Reached::Load),
        reached(Reached::Run),
    );
    let complaints: Vec<&str> =
        all.iter().filter_map(|r| r.as_ref().err().map(String::as_str)).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(
        budget.is_some() || ended * ONE_ENDS_IN >= tried,
        "{ended} of {tried} came to their end"
    );
    if let Some(peak) = peak_bytes() {
        assert!(peak <= MAX_MEMORY_BYTES, "{peak} bytes of memory were needed");
    }
}

#[test]
fn an_input_depends_on_its_seed_alone_and_changes_its_kernel() {
    let (one, other) = (Corpus::committed(), Corpus::committed());
    for seed in 0..50 {
        assert_eq!(one.input(seed), other.input(seed));
    }
    let distinct: std::collections::BTreeSet<Vec<u8>> = (0..50).map(|s| one.input(s)).collect();
    assert_eq!(distinct.len(), 50);
}
