//! What is fuzzed: a text is loaded, and a launch of it runs within small limits.
//!
//! The targets of cargo-fuzz call these functions, and so does the driver among the crate's tests,
//! which needs no nightly compiler. What must hold is asserted here; a panic is a defect.
//!
//! # Invariants
//! - A refusal has a code, and a place within the text.
//! - Checks watch: a launch in which they find nothing leaves the same memory without them.

use perilune_ptx_vm::{Checks, Launch, LaunchParam, LoadError, Machine, Module, Options, Outcome};

/// Between the PTX and the LAUNCH.ron of an input.
pub const SEPARATOR: u8 = 0;

/// Launches with more threads are loaded but not run.
const MAX_THREADS: u64 = 4096;
/// Launches with larger buffers, in bytes, are loaded but not run.
const MAX_BUFFER_BYTES: u64 = 4 << 20;
/// Warp instructions of a run at most.
const STEP_LIMIT: u64 = 3000;

/// How far an input came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// The text was refused.
    Nothing,
    /// The text was loaded, and the launch refused or too large.
    Load,
    /// The launch ran, and something was found or it did not come to its end.
    Run,
    /// The launch ran to its end, and nothing was found.
    End,
}

/// Loads a text, whatever its bytes are.
pub fn load(data: &[u8]) {
    let _ = loaded(&String::from_utf8_lossy(data));
}

/// Loads the text before the first [`SEPARATOR`], and launches it as the RON behind it says.
pub fn launch(data: &[u8]) -> Reached {
    let split = data.iter().position(|byte| *byte == SEPARATOR);
    let (ptx, ron) = data.split_at(split.unwrap_or(data.len()));
    let Some(module) = loaded(&String::from_utf8_lossy(ptx)) else { return Reached::Nothing };
    let ron = String::from_utf8_lossy(ron.get(1..).unwrap_or_default());
    match Launch::parse(&ron) {
        Ok(launch) if is_small(&launch) => run_twice(&module, &launch),
        Ok(_) => Reached::Load,
        Err(error) => {
            examine(&error, &ron);
            Reached::Load
        }
    }
}

fn loaded(text: &str) -> Option<Module> {
    Module::parse_named("input.ptx", text).map_err(|error| examine(&error, text)).ok()
}

/// Asserts that an error has a code and a place in its text.
fn examine(error: &LoadError, text: &str) {
    assert!(error.code.starts_with("V000") && !error.message.is_empty(), "{error}");
    let lines = text.lines().count() as u32 + 1;
    assert!((1..=lines).contains(&error.position.line), "{error} of {lines} lines");
    assert!(error.position.column >= 1, "{error}");
}

fn is_small(launch: &Launch) -> bool {
    let extents = [launch.grid, launch.block].map(|(x, y, z)| [x, y, z]);
    let threads = extents.iter().flatten().try_fold(1u64, |n, e| n.checked_mul((*e).into()));
    let bytes = buffers(launch).try_fold(0u64, |n, (_, bytes)| n.checked_add(bytes));
    threads.is_some_and(|n| n <= MAX_THREADS) && bytes.is_some_and(|n| n <= MAX_BUFFER_BYTES)
}

/// Names and sizes of a launch's buffers.
fn buffers(launch: &Launch) -> impl Iterator<Item = (&str, u64)> {
    let params = launch.params.iter().filter_map(|param| match param {
        LaunchParam::Buffer(buffer) => Some(buffer),
        _ => None,
    });
    launch.buffers.iter().chain(params).map(|buffer| (buffer.name.as_str(), buffer.bytes))
}

fn run(module: &Module, launch: &Launch, options: &Options) -> Option<Outcome> {
    let text = module.source().text();
    let outcome =
        Machine::run(module, launch, options).map_err(|error| match error.file.as_str() {
            "input.ptx" => examine(&error, text),
            _ => assert!(error.code.starts_with("V000"), "{error}"),
        });
    let outcome = outcome.ok()?;
    for finding in &outcome.findings {
        assert!(finding.code.starts_with("V1") && !finding.to_string().is_empty());
        assert!(finding.position.line as usize <= text.lines().count() + 1, "{finding}");
    }
    Some(outcome)
}

fn run_twice(module: &Module, launch: &Launch) -> Reached {
    let checked =
        Options { checks: Checks::all(), threads: 1, step_limit: STEP_LIMIT, profile: true };
    let plain = Options { checks: Checks::none(), profile: false, ..checked.clone() };
    let (checked, plain) = (run(module, launch, &checked), run(module, launch, &plain));
    assert_eq!(checked.is_some(), plain.is_some(), "checks decide whether a launch fits");
    let Some((checked, plain)) = checked.zip(plain) else { return Reached::Load };
    if !checked.findings.is_empty() || !checked.completed {
        return Reached::Run;
    }
    assert!(plain.completed && plain.findings.is_empty(), "{:?}", plain.findings);
    assert_eq!(checked.counters.total(), plain.counters.total());
    for (name, _) in buffers(launch) {
        assert!(checked.buffer(name) == plain.buffer(name), "`{name}` depends on the checks");
    }
    Reached::End
}
