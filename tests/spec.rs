//! Specs that are right and specs that are wrong.
//!
//! Every `tests/spec/err/*.ron` holds one planted mistake; its first line says what must be found:
//! ``// E0206 covers `upp` number 2 in parts/x.ron`` (the second `upp` of that file; the first and
//! the file itself if not said). What the author sees is the snapshot beside it.
//!
//! # Invariants
//! - Every error code has an explanation and at least one spec here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use perilune::render;
use perilune_compiler::codes;
use perilune_compiler::diagnostic::{Diagnostic, Diagnostics, Severity};
use perilune_compiler::elaborate::{Elaborated, load_model, load_train};
use perilune_compiler::source::{Loader, SourceMap};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spec").join(name)
}

struct Disk(PathBuf);

impl Loader for Disk {
    fn load(&self, path: &str) -> Result<String, String> {
        let bytes = std::fs::read(self.0.join(path)).map_err(|_| "no such file".to_owned())?;
        let mut text = String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
        if path.ends_with("huge.ron") {
            // Too large to keep in the repository.
            text.push_str(&" ".repeat(5 << 20));
        }
        Ok(text)
    }
}

type Loaded = (Option<Elaborated>, Diagnostics, SourceMap);

fn load(path: &Path) -> Loaded {
    let disk = Disk(path.parent().expect("in a folder").to_path_buf());
    let name = path.file_name().expect("a file").to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).expect("a text");
    match text.lines().any(|l| l.starts_with("Train(")) {
        true => load_train(&disk, &name, &[]),
        false => load_model(&disk, &name, &[]),
    }
}

fn files(name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder(name)).expect("a folder");
    let paths = entries.map(|e| e.expect("an entry").path());
    let mut found: Vec<PathBuf> =
        paths.filter(|p| p.extension().is_some_and(|e| e == "ron")).collect();
    found.sort();
    found
}

/// What the first line of a broken spec promises.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Planted {
    code: String,
    covers: String,
    number: usize,
    file: String,
}

fn planted(path: &Path) -> Planted {
    let text = std::fs::read_to_string(path).expect("a text");
    let line = text.lines().next().expect("a first line");
    let (code, rest) = line.trim_start_matches("// ").split_once(" covers `").expect("a code");
    let (covers, rest) = rest.rsplit_once('`').expect("a text in backticks");
    let words: Vec<&str> = rest.split_whitespace().collect();
    let after = |word: &str| words.iter().position(|w| *w == word).map(|i| words[i + 1]);
    Planted {
        code: code.to_owned(),
        covers: covers.to_owned(),
        number: after("number").map_or(1, |n| n.parse().expect("a number")),
        file: after("in").map_or_else(
            || path.file_name().expect("a file").to_string_lossy().into_owned(),
            str::to_owned,
        ),
    }
}

/// Which of the equal texts of its file a diagnostic points at, from 1.
fn number_of(d: &Diagnostic, sources: &SourceMap) -> usize {
    let span = d.primary.span;
    let text = &sources.file(span.source).text;
    let body = if text.starts_with("// E") { text.find('\n').unwrap_or(0) } else { 0 };
    let covered = sources.text(span);
    let starts = text
        .char_indices()
        .map(|(i, _)| i)
        .filter(|i| *i >= body && text[*i..].starts_with(covered));
    starts.take_while(|i| *i <= span.start as usize).count()
}

/// Why what was found is not what was planted: exactly one message, of that code, at exactly that
/// text, that refuses the spec if it is an error.
fn departure(planted: &Planted, loaded: &Loaded) -> Option<String> {
    let (elaborated, diagnostics, sources) = loaded;
    let Some(d) = diagnostics.list().first() else { return Some("nothing found".to_owned()) };
    let span = d.primary.span;
    let found = Planted {
        code: d.code.to_string(),
        covers: sources.text(span).to_owned(),
        number: number_of(d, sources),
        file: sources.file(span.source).path.clone(),
    };
    let one = diagnostics.list().len() == 1;
    let refused = elaborated.is_none() == (d.severity == Severity::Error);
    if found == *planted && one && refused {
        return None;
    }
    let all: Vec<String> =
        diagnostics.list().iter().map(|d| format!("{} {}", d.code, d.headline)).collect();
    Some(format!("{found:?} instead of {planted:?}; {all:?}"))
}

#[test]
fn broken_specs_are_explained_at_the_planted_mistake() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let files = files("err");
    assert!(files.len() >= 80, "{} broken specs", files.len());
    for path in &files {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let planted = planted(path);
        let loaded = load(path);
        wrong.extend(departure(&planted, &loaded).map(|why| format!("{name}: {why}")));
        let (_, diagnostics, sources) = &loaded;
        for d in diagnostics.list() {
            check_style(&name, d, &mut wrong);
        }
        let shown = render::text(diagnostics, sources, false);
        if shown.contains(&format!("[{}]", planted.code)) {
            seen.insert(planted.code);
        }
        insta::with_settings!({
            snapshot_path => folder("err"), prepend_module_to_snapshot => false, omit_expression => true,
        }, {
            insta::assert_snapshot!(name, shown);
        });
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), files.len(), wrong.join("\n"));
    // From E0601 on they are about jobs, not specs.
    let of_specs = codes::all().into_iter().map(|e| e.code).filter(|code| code.0 < 600);
    let declared: BTreeSet<String> = of_specs.map(|code| code.to_string()).collect();
    assert_eq!(seen, declared, "codes that are shown, and codes that are explained");
}

#[test]
fn a_message_that_misses_the_planted_mistake_is_noticed() {
    for path in files("err") {
        let (right, loaded) = (planted(&path), load(&path));
        let misplaced = [
            Planted { code: "E0999".to_owned(), ..right.clone() },
            Planted { covers: format!("{} ", right.covers), ..right.clone() },
            Planted { covers: right.covers.chars().skip(1).collect(), ..right.clone() },
            Planted { number: right.number + 1, ..right.clone() },
            Planted { file: "elsewhere.ron".to_owned(), ..right.clone() },
        ];
        for wrong in misplaced {
            assert!(departure(&wrong, &loaded).is_some(), "{}: {wrong:?}", path.display());
        }
        let silent = (None, Diagnostics::default(), SourceMap::default());
        assert!(departure(&right, &silent).is_some(), "{}", path.display());
    }
}

/// Headlines are short, lower-case, without a final period; messages name no types of ours.
fn check_style(name: &str, d: &Diagnostic, wrong: &mut Vec<String>) {
    let headline = &d.headline;
    let upper = headline.chars().next().is_none_or(char::is_uppercase);
    let long = headline.chars().count() > 72;
    let inner = ["Spanned", "ConstForm", "DimForm", "MappingForm", "Raw", "perilune"];
    let texts = format!("{headline} {} {}", d.primary.text, d.help.clone().unwrap_or_default());
    let leaks = inner.iter().any(|w| texts.contains(w) && !texts.contains("perilune explain"));
    if upper || long || leaks || headline.ends_with('.') || headline.is_empty() {
        wrong.push(format!("{name}: not the style of a headline: `{headline}`"));
    }
}

#[test]
fn several_mistakes_are_found_in_one_run() {
    let (_, diagnostics, _) = load(&folder("several/model.ron"));
    let codes: Vec<String> = diagnostics.list().iter().map(|d| d.code.to_string()).collect();
    assert_eq!(codes, ["E0203", "E0214", "E0205", "E0206", "E0201"]);
}

#[test]
fn right_specs_have_no_message() {
    for path in files("ok") {
        let (elaborated, diagnostics, sources) = load(&path);
        assert!(diagnostics.list().is_empty(), "{}", render::text(&diagnostics, &sources, false));
        let e = elaborated.expect("no message, no result");
        for graph in e.graphs() {
            graph.verify().expect("a sound graph");
        }
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        insta::with_settings!({
            snapshot_path => folder("ok"), prepend_module_to_snapshot => false, omit_expression => true,
        }, {
            insta::assert_snapshot!(name, e.forward.to_string());
        });
    }
}
