//! Runs a line of a page as its reader would, in a folder that looks like the repository.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::markdown::root;

/// What readers have beside them; everything else that a command writes goes with the folder.
const LINKED: [&str; 3] = ["models", "examples", "tests"];

/// A folder in which commands run.
pub(crate) struct Console {
    folder: tempfile::TempDir,
}

impl Console {
    /// A folder with the repository's models, examples and tests in it.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp dir");
        for name in LINKED {
            symlink(root().join(name), folder.path().join(name)).expect("link");
        }
        Console { folder }
    }

    /// Puts a file there.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let full = self.folder.path().join(path);
        fs::create_dir_all(full.parent().expect("a file has a folder")).expect("mkdir");
        fs::write(full, text).expect("write");
    }

    /// Runs a line; gives its exit code and everything it wrote, messages before data.
    pub(crate) fn run(&self, line: &str) -> (Option<i32>, String) {
        finish(&mut self.command(line))
    }

    fn command(&self, line: &str) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_perilune"));
        let folder = program.parent().expect("the program's folder").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command.args(["-euc", line]).current_dir(self.folder.path());
        command.env("PATH", format!("{folder}:{path}"));
        command
    }

    /// What a line that must succeed writes as data.
    pub(crate) fn data(&self, line: &str) -> String {
        let output = self.command(line).output().expect("a shell");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{line}`: {told}");
        String::from_utf8(output.stdout).expect("data is UTF-8")
    }

    /// Runs an example of this package as the tests are built: nothing is compiled twice.
    pub(crate) fn cargo_run(&self, args: &str) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO"));
        command.args(["run", "--quiet", "--locked"]).args(args.split_whitespace());
        finish(command.current_dir(root()))
    }
}

fn finish(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().expect("the program starts");
    let text = [output.stderr, output.stdout].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// Whether a text is as shown. `…` stands for any characters within a line, a line of `…` alone for
/// any lines; spaces at the end of a line do not count.
pub(crate) fn as_shown(shown: &str, text: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        text.trim_end().lines().map(|line| line.trim_end().to_owned()).collect()
    };
    lines_match(&lines(shown), &lines(text))
}

fn lines_match(shown: &[String], text: &[String]) -> bool {
    match (shown.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "…" => {
            (0..=text.len()).any(|skipped| lines_match(rest, &text[skipped..]))
        }
        (Some((first, rest)), Some((line, after))) => {
            line_matches(first, line) && lines_match(rest, after)
        }
        _ => false,
    }
}

fn line_matches(shown: &str, line: &str) -> bool {
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    // The last part must reach the end, wherever it was found first.
    rest.is_empty() || last.is_some_and(|last| last.is_empty() || rest.ends_with(last))
}

#[test]
fn an_output_is_compared_with_what_is_shown() {
    assert!(as_shown("a\n…\nd", "a\nb\nc\nd\n"));
    assert!(as_shown("took … s", "took 1.25 s  "));
    assert!(as_shown("…", ""));
    assert!(!as_shown("a\n…\nd", "a\nb"));
    assert!(!as_shown("took … s", "took 1.25 ms, then 3"));
    assert!(!as_shown("a", "ab"));
    assert!(as_shown("… s", "1 s 2 s"));
}
