//! Kernels that Triton and clang compiled from sources of our own give the expected results, with no finding.

mod corpus;

use perilune_ptx_vm::{Checks, Launch, Machine, Module, Options};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn run(path: &Path, checks: Checks) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let module = Module::parse_named(corpus::stem(path), &text).map_err(|e| e.to_string())?;
    let launch = path.with_extension("launch.ron");
    let launch = Launch::read(launch).map_err(|error| error.to_string())?;
    // A kernel of this corpus takes some 10⁵ warp instructions; one that hangs ends soon.
    let options = Options { checks, threads: 1, step_limit: 20_000_000, ..Options::default() };
    let outcome = Machine::run(&module, &launch, &options).map_err(|error| error.to_string())?;
    let mut complaints: Vec<String> = outcome.findings.iter().map(ToString::to_string).collect();
    if !outcome.completed {
        complaints.push("did not come to its end".to_owned());
    }
    let mismatches = launch.compare(|name| outcome.buffer(name)).map_err(|e| e.to_string())?;
    complaints.extend(mismatches.iter().map(|mismatch| format!("{mismatch:?}")));
    if launch.expect.is_empty() {
        complaints.push("expects nothing".to_owned());
    }
    for expect in &launch.expect {
        let want = launch.file(&expect.file, u64::MAX).map_err(|error| error.to_string())?;
        if outcome.buffer(&expect.buffer).is_some_and(|got| got.len() != want.len()) {
            complaints.push(format!("`{}` is not all of `{}`", expect.file, expect.buffer));
        }
    }
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n")) }
}

#[test]
fn the_corpus_has_thirty_kernels_for_each_of_two_targets() {
    let files = corpus::ptx_files("foreign");
    for (target, least) in [("sm_80", 30), ("sm_90a", 30)] {
        let names: BTreeSet<&str> =
            files.iter().filter_map(|path| corpus::stem(path).strip_suffix(target)).collect();
        assert!(names.len() >= least, "{target}: {}", names.len());
    }
}

#[test]
fn foreign_kernels_give_the_expected_results() {
    corpus::assert_all(&corpus::ptx_files("foreign"), |path| run(path, Checks::none()));
}

#[test]
fn foreign_kernels_pass_every_check() {
    corpus::assert_all(&corpus::ptx_files("foreign"), |path| run(path, Checks::all()));
}
