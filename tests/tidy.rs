//! What the repository promises about itself: who knows whom, how files look, what is not there.
//!
//! # Invariants
//! - Reads files only; needs no build product but itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const MAX_FILE_LINES: usize = 1000;
const MAX_ARCHITECTURE_LINES: usize = 250;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the repository as (path from the root with `/`, full path).
fn files() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
            let name = name.expect("entries have names");
            if path.is_dir() {
                let skipped = [
                    ".git",
                    "target",
                    "runs",
                    "node_modules",
                    "__pycache__",
                    "results",
                    "corpus",
                    "artifacts",
                ];
                if !skipped.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else {
                let below = path.strip_prefix(root()).expect("below the root");
                found.push((below.to_string_lossy().into_owned(), path.clone()));
            }
        }
    }
    found.sort();
    found
}

fn texts(suffix: &str) -> Vec<(String, String)> {
    let wanted = files().into_iter().filter(|(name, _)| name.ends_with(suffix));
    wanted.map(|(name, path)| (name, fs::read_to_string(path).expect("text"))).collect()
}

fn assert_none(problems: &[String], rule: &str) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

#[test]
fn crates_know_only_what_they_may() {
    let may = BTreeMap::from([
        ("runtime/plan", &[][..]),
        ("runtime/ptx-vm", &[]),
        ("runtime/ptx-vm/fuzz", &["perilune-ptx-vm"]),
        ("runtime", &["perilune-plan", "perilune-ptx-vm"]),
        ("kernels-gen", &["perilune-plan"]),
        ("compiler", &["perilune-plan", "perilune-kernels"]),
    ]);
    // What tests may use beside: the machine runs what the compiler emits.
    let tests_may = BTreeMap::from([("compiler", &["perilune-ptx-vm"][..])]);
    let manifests: Vec<(String, String)> = texts("Cargo.toml");
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for (path, text) in &manifests {
        let folder = path.trim_end_matches("Cargo.toml").trim_end_matches('/');
        if folder.is_empty() {
            continue;
        }
        seen.insert(folder);
        let Some(allowed) = may.get(folder) else {
            problems.push(format!("`{folder}` is a crate without a place in the directions"));
            continue;
        };
        let beside = tests_may.get(folder).copied().unwrap_or_default();
        let ours = dependencies(text).filter(|(_, name)| name.starts_with("perilune"));
        for (kind, dependency) in ours {
            let in_tests = kind == "dev-dependencies" && beside.contains(&dependency);
            if !allowed.contains(&dependency) && !in_tests {
                problems.push(format!("`{folder}` must not depend on `{dependency}`"));
            }
        }
    }
    let expected: BTreeSet<&str> = may.keys().copied().collect();
    assert_eq!(seen, expected, "the crates of the workspace");
    assert_none(&problems, "plan ← runtime, plan ← kernels-gen ← compiler, and nothing else");
}

/// Table and name of every dependency, from the tables of a manifest whose title ends in `dependencies`.
fn dependencies(manifest: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut table = "";
    manifest.lines().filter_map(move |line| {
        if let Some(title) = line.trim().strip_prefix('[') {
            table = title.trim_end_matches(']');
            return None;
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        let is_one = table.ends_with("dependencies") && !name.is_empty() && !name.starts_with('#');
        is_one.then_some((table, name))
    })
}

/// The order of the compiler's modules, as ARCHITECTURE.md draws it: module → its group.
fn module_order() -> BTreeMap<String, usize> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let start = page.find("source, diagnostic").expect("the order of the compiler's modules");
    let drawing = page[start..].split("```").next().expect("the end of the block");
    let groups = drawing.split('→').enumerate();
    groups
        .flat_map(|(group, names)| {
            names.split(',').map(move |name| (name.trim().to_owned(), group))
        })
        .collect()
}

#[test]
fn compiler_modules_use_only_what_stands_to_their_left() {
    let order = module_order();
    let mut problems = Vec::new();
    for (path, text) in texts(".rs") {
        let Some(inner) = path.strip_prefix("compiler/src/") else { continue };
        let module = inner.split(['/', '.']).next().expect("a first part");
        if module == "lib" {
            continue;
        }
        let Some(own) = order.get(module) else {
            problems.push(format!("`{module}` has no place in ARCHITECTURE.md's order"));
            continue;
        };
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.trim_start();
            if line.starts_with("//") {
                continue;
            }
            for used in line.match_indices("crate::").map(|(at, m)| &line[at + m.len()..]) {
                let used = used.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
                let Some(group) = used.and_then(|name| order.get(name)) else { continue };
                if group > own {
                    let at = number + 1;
                    problems.push(format!("{path}:{at}: `{module}` uses `{}`", used.unwrap_or("")));
                }
            }
        }
    }
    assert_none(&problems, "a compiler module uses what stands to its right");
}

#[test]
fn every_rust_file_says_what_it_is_and_stays_short() {
    let mut problems = Vec::new();
    for (path, text) in texts(".rs") {
        if !text.starts_with("//! ") {
            problems.push(format!("{path}: does not open with `//!`"));
        }
        let lines = text.lines().count();
        if lines > MAX_FILE_LINES {
            problems.push(format!("{path}: {lines} lines, more than {MAX_FILE_LINES}"));
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        if ["utils.rs", "util.rs", "misc.rs", "common.rs", "helpers.rs"].contains(&name) {
            problems.push(format!("{path}: the name says nothing"));
        }
    }
    assert_none(&problems, "files open with their purpose, fit their budget and have a name");
}

#[test]
fn nothing_is_left_undone_and_nothing_outside_is_named() {
    // Put together from parts, so that this file does not hold them.
    let outside =
        [["/wo", "rk/"], ["../", "shared"], [".", "library/"], ["farm", "-"], ["issue", " 2"]];
    let undone = [["TO", "DO"], ["FIX", "ME"], ["todo", "!("], ["unimplemented", "!("]];
    let needles: Vec<String> = outside.iter().chain(&undone).map(|p| p.concat()).collect();
    let kinds = [".rs", ".md", ".toml", ".ron", ".py", ".css", "/x"];
    let mut problems = Vec::new();
    for (path, full) in files() {
        let is_text = kinds.iter().any(|k| format!("/{path}").ends_with(k));
        if !is_text {
            continue;
        }
        // One broken spec is not UTF-8, on purpose.
        let text = String::from_utf8_lossy(&fs::read(full).expect("readable")).into_owned();
        for (number, line) in text.lines().enumerate() {
            for needle in needles.iter().filter(|n| line.contains(n.as_str())) {
                problems.push(format!("{path}:{}: `{needle}`", number + 1));
            }
        }
    }
    assert_none(&problems, "left undone, or names what is outside the project");
}

#[test]
fn error_codes_are_declared_where_they_are_explained() {
    let mut problems = Vec::new();
    for (path, text) in texts(".rs") {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let outside = !path.starts_with("compiler/src/codes") && path.contains("src/");
        for (number, line) in code.lines().enumerate().filter(|_| outside) {
            let literal = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
            if line.split("Code(").skip(1).any(literal) {
                problems.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(&problems, "an error code that `explain` does not know");
}

#[test]
fn architecture_stays_readable() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let lines = page.lines().count();
    assert!(lines <= MAX_ARCHITECTURE_LINES, "{lines} lines, more than {MAX_ARCHITECTURE_LINES}");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut problems = Vec::new();
    for (path, text) in texts(".md") {
        let folder = root().join(&path);
        let folder = folder.parent().expect("a file has a folder");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let local = !file.is_empty() && !file.contains("://") && !file.contains(' ');
            if local && !folder.join(file).exists() {
                problems.push(format!("{path}: `{target}`"));
            }
        }
    }
    assert_none(&problems, "a link leads nowhere");
}

#[test]
fn every_snapshot_belongs_to_a_test_and_none_waits_for_review() {
    let mut problems: Vec<String> =
        texts(".snap.new").into_iter().map(|(path, _)| format!("{path}: not reviewed")).collect();
    for (path, text) in texts(".snap") {
        let header = text.split("---").nth(1).unwrap_or_default();
        let field = |name: &str| {
            let line = header.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().trim_matches('"').to_owned())
        };
        let Some(source) = field("source:") else {
            problems.push(format!("{path}: has no source"));
            continue;
        };
        let test = fs::read_to_string(root().join(&source));
        let input_gone = field("input_file:").is_some_and(|input| !root().join(input).exists());
        let stem = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".snap");
        let stem = stem.split('@').next().unwrap_or_default();
        let name = stem.rsplit("__").next().unwrap_or_default();
        let name = name.trim_matches(|c: char| c.is_ascii_digit()).trim_matches(['-', '_']);
        // A name may be put together from a case and what is shown of it, or be that of an input.
        let beside = root().join(&path).with_extension("");
        let has_input = beside.is_dir() || beside.with_extension("ron").exists();
        let words = || name.rsplit_once('_').map_or(name, |(case, _)| case);
        match test {
            Err(_) => problems.push(format!("{path}: its test file `{source}` is gone")),
            Ok(_) if input_gone => problems.push(format!("{path}: its input is gone")),
            Ok(test)
                if !has_input
                    && !test.contains(name)
                    && !test.contains(words())
                    && !test.contains("set_snapshot_suffix") =>
            {
                problems.push(format!("{path}: no test `{name}` in `{source}`"));
            }
            Ok(_) => {}
        }
    }
    assert_none(&problems, "orphaned or pending snapshots");
}
