//! Every check reports the defects that were planted for it, at their lines, and is silent without them;
//! every code has its explanation.

mod corpus;

use perilune_ptx_vm::{CODES, Checks, Launch, Machine, Module, Options, Outcome, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Marked lines: line → (is it the defect's own line, code).
type Marks = BTreeMap<u32, (bool, String)>;

fn marks(text: &str) -> Marks {
    let mark = |(index, line): (usize, &str)| {
        let (_, mark) = line.split_once("; // ").or_else(|| line.split_once(": // "))?;
        let (kind, code) = mark.split_once(": ")?;
        Some((u32::try_from(index).ok()? + 1, (kind == "BUG", code.trim().to_owned())))
    };
    text.lines().enumerate().filter_map(mark).collect()
}

/// Runs a file with every check; `launch` is its name without `.clean`.
fn run(path: &Path, text: &str) -> Result<Outcome, String> {
    let name = corpus::stem(path);
    let module = Module::parse_named(name, text).map_err(|error| error.to_string())?;
    let launch = path.with_file_name(format!("{}.launch.ron", name.trim_end_matches(".clean")));
    let launch = Launch::read(launch).map_err(|error| error.to_string())?;
    let options =
        Options { checks: Checks::all(), threads: 1, step_limit: 50_000, ..Options::default() };
    Machine::run(&module, &launch, &options).map_err(|error| error.to_string())
}

fn expect_defect(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let marks = marks(&text);
    let outcome = run(path, &text)?;
    let shown: Vec<String> = outcome.findings.iter().map(ToString::to_string).collect();
    let wanted = |line: u32, code: &str| marks.get(&line).is_some_and(|(_, c)| c == code);
    let at_bug = |line: u32| marks.get(&line).is_some_and(|(bug, _)| *bug);
    if !outcome.findings.iter().any(|finding| at_bug(finding.position.line)) {
        return Err(format!(
            "nothing at its line; marked are {marks:?}, found\n{}",
            shown.join("\n")
        ));
    }
    for finding in &outcome.findings {
        if !wanted(finding.position.line, finding.code) {
            return Err(format!("marked are {marks:?}, found\n{}", shown.join("\n")));
        }
        let astray = |(at, _): &(Position, String)| !wanted(at.line, finding.code);
        if finding.other.as_ref().is_some_and(astray) {
            return Err(format!("the other party of {marks:?}, found\n{}", shown.join("\n")));
        }
    }
    Ok(())
}

fn expect_silence(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let outcome = run(path, &text)?;
    let shown: Vec<String> = outcome.findings.iter().map(ToString::to_string).collect();
    match (shown.is_empty(), outcome.completed) {
        (true, true) => Ok(()),
        (true, false) => Err("did not come to its end".to_owned()),
        (false, _) => Err(shown.join("\n")),
    }
}

fn planted() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let files = corpus::ptx_files("planted");
    files.into_iter().partition(|path| !corpus::stem(path).ends_with(".clean"))
}

#[test]
fn every_planted_file_has_one_defect_a_twin_and_a_launch() {
    let (defects, twins) = planted();
    assert!(defects.len() >= 40);
    assert_eq!(defects.len(), twins.len());
    corpus::assert_all(&defects, |path| {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let marks = marks(&text);
        let code = corpus::stem(path)[..5].to_uppercase();
        let bugs = marks.values().filter(|(bug, _)| *bug).count();
        if bugs != 1 || marks.values().any(|(_, marked)| *marked != code) {
            return Err(format!("marked are {marks:?}"));
        }
        let beside = |suffix: &str| path.with_extension(suffix).exists();
        (beside("clean.ptx") && beside("launch.ron")).then_some(()).ok_or("no twin".to_owned())
    });
}

#[test]
fn every_code_of_the_checks_has_a_planted_defect() {
    let (defects, _) = planted();
    let found: BTreeSet<String> =
        defects.iter().map(|path| corpus::stem(path)[..5].to_uppercase()).collect();
    let spans = [(1001, 1005), (1101, 1107), (1201, 1206), (1301, 1302), (1401, 1403)];
    let codes = spans.iter().flat_map(|(first, last)| *first..=*last);
    let missing: Vec<String> =
        codes.map(|code| format!("V{code}")).filter(|code| !found.contains(code)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_code_is_explained_once_in_ascending_order() {
    assert!(CODES.windows(2).all(|pair| pair[0].code < pair[1].code));
    let names: BTreeSet<&str> = CODES.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), CODES.len());
    let mut reported = BTreeSet::new();
    for file in ["src/source.rs", "src/check/finding.rs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = fs::read_to_string(path).expect("the source");
        let constants =
            text.lines().filter(|line| line.contains("const ") && line.contains("&str"));
        reported.extend(constants.filter_map(|line| line.split('"').nth(1).map(str::to_owned)));
    }
    let explained: BTreeSet<String> = CODES.iter().map(|row| row.code.to_owned()).collect();
    assert_eq!(reported, explained);
}

#[test]
fn every_planted_defect_is_reported_at_its_line() {
    corpus::assert_all(&planted().0, expect_defect);
}

#[test]
fn every_clean_twin_is_silent() {
    corpus::assert_all(&planted().1, expect_silence);
}
