//! Every planted defect is reported at its line, and its clean twin is silent.
//!
//! # Invariants
//! - A line that ends in `// BUG: code` or `// WITH: code` is where findings of that code may point.

use perilune_ptx_vm::{Checks, Finding, Launch, LoadError, Machine, Module, Options};
use std::path::{Path, PathBuf};

fn defects() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/planted");
    let entries = std::fs::read_dir(folder).expect("the folder of defects");
    let only = std::env::var("PTX_VM_ONLY").unwrap_or_default();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with(".ptx"))
        .filter(|path| !path.to_string_lossy().ends_with(".clean.ptx"))
        .filter(|path| path.to_string_lossy().contains(&only))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no defects");
    found
}

fn findings(ptx: &Path, launch: &Path) -> Result<Vec<Finding>, LoadError> {
    let text = std::fs::read_to_string(ptx).expect("a kernel");
    let name = ptx.file_name().expect("a name").to_string_lossy().into_owned();
    let module = Module::parse_named(&name, &text)?;
    let launch = Launch::read(launch)?;
    let options = Options { checks: Checks::all(), threads: 1, step_limit: 1_000_000 / 32 };
    Ok(Machine::run(&module, &launch, &options)?.findings)
}

/// The marked lines of a text and their codes, and whether a mark is a bug.
fn marks(text: &str) -> Vec<(u32, String, bool)> {
    let mark = |(number, line): (usize, &str)| {
        let (_, comment) = line.rsplit_once("// ")?;
        let (kind, code) = comment.split_once(": ")?;
        let bug = kind == "BUG";
        (bug || kind == "WITH").then(|| (number as u32 + 1, code.trim().to_owned(), bug))
    };
    text.lines().enumerate().filter_map(mark).collect()
}

/// What is wrong with the report of a defect, or nothing.
fn misreported(ptx: &Path, launch: &Path) -> Option<String> {
    let text = std::fs::read_to_string(ptx).expect("a kernel");
    let marks = marks(&text);
    assert!(marks.iter().any(|(_, _, bug)| *bug), "{}: no mark", ptx.display());
    let found = match findings(ptx, launch) {
        Ok(found) => found,
        Err(error) => return Some(error.to_string()),
    };
    if found.is_empty() {
        return Some(format!("{}: nothing found", ptx.display()));
    }
    let marked = |line: u32, code: &str| marks.iter().any(|(at, c, _)| *at == line && c == code);
    let good = |finding: &Finding| {
        let other =
            finding.other.as_ref().is_none_or(|(place, _)| marked(place.line, finding.code));
        marked(finding.position.line, finding.code) && other
    };
    let wrong = found.iter().find(|finding| !good(finding))?;
    Some(format!("{}: {wrong}", ptx.display()))
}

#[test]
fn every_defect_is_reported_at_its_line() {
    let all = defects();
    let report = |ptx: &PathBuf| misreported(ptx, &ptx.with_extension("launch.ron"));
    let wrong: Vec<String> = all.iter().filter_map(report).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}

#[test]
fn every_clean_twin_is_silent() {
    let all = defects();
    let report = |ptx: &PathBuf| match findings(
        &ptx.with_extension("clean.ptx"),
        &ptx.with_extension("launch.ron"),
    ) {
        Ok(found) => found.first().map(|finding| format!("{}: {finding}", ptx.display())),
        Err(error) => Some(error.to_string()),
    };
    let wrong: Vec<String> = all.iter().filter_map(report).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
}
