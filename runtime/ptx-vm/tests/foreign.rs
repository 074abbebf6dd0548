//! PTX that other compilers made runs and gives what its sources say.
//!
//! # Invariants
//! - One test walks the folder; a kernel is a `.ptx` with a `.launch.ron` beside it.

use perilune_ptx_vm::{Checks, Launch, Machine, Module, Options};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The kernels of `tests/foreign`: PTX and launch.
fn kernels() -> Vec<(PathBuf, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign");
    let entries = std::fs::read_dir(folder).expect("the folder of kernels");
    let mut found: Vec<(PathBuf, PathBuf)> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "ptx"))
        .map(|ptx| (ptx.clone(), ptx.with_extension("launch.ron")))
        .collect();
    found.sort();
    found
}

/// What is wrong with a kernel's run, or nothing.
fn problems(ptx: &Path, launch: &Path, checks: Checks) -> String {
    let name = ptx.file_name().expect("a name").to_string_lossy().into_owned();
    let text = std::fs::read_to_string(ptx).expect("a kernel");
    let mut found = String::new();
    let module = match Module::parse_named(&name, &text) {
        Ok(module) => module,
        Err(error) => return format!("{error}\n"),
    };
    let launch = match Launch::read(launch) {
        Ok(launch) => launch,
        Err(error) => return format!("{error}\n"),
    };
    let options = Options { checks, threads: 1, step_limit: 1 << 24 };
    let outcome = match Machine::run(&module, &launch, &options) {
        Ok(outcome) => outcome,
        Err(error) => return format!("{error}\n"),
    };
    for finding in &outcome.findings {
        writeln!(found, "{finding}").expect("a string");
    }
    match launch.compare(|buffer| outcome.buffer(buffer)) {
        Ok(wrong) => {
            for wrong in wrong {
                writeln!(found, "{name}: {wrong:?}").expect("a string");
            }
        }
        Err(error) => writeln!(found, "{error}").expect("a string"),
    }
    found
}

fn all_run(checks: Checks) {
    let only = std::env::var("PTX_VM_ONLY").unwrap_or_default();
    let kernels: Vec<_> =
        kernels().into_iter().filter(|(ptx, _)| ptx.to_string_lossy().contains(&only)).collect();
    assert!(!kernels.is_empty(), "no kernels");
    let wrong: Vec<String> = kernels
        .iter()
        .map(|(ptx, launch)| problems(ptx, launch, checks))
        .filter(|problems| !problems.is_empty())
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), kernels.len(), wrong.join("\n"));
}

#[test]
fn every_foreign_kernel_gives_what_its_source_says() {
    all_run(Checks::none());
}

#[test]
fn no_check_finds_anything_in_a_foreign_kernel() {
    all_run(Checks::all());
}
