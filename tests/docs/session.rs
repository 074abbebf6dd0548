//! A page as a session: its specs are files, its commands run in order, its outputs are compared.
//!
//! # What a page may show
//! - ` ```ron ` opening with `// path/of/file.ron`: a file. If the repository has it, the block is an
//!   excerpt that must stand in it (`// …` leaves lines out); if not, it is written for the commands
//!   that follow.
//! - ` ```sh `: lines that run. `perilune …` and lines that handle files must end with exit code 0, or with the one in a comment
//!   `# exit 1` behind it. `cargo run --release` runs, as the tests are built. Other `cargo`, `./x` and
//!   `python` lines are not run, but what they name must exist.
//! - ` ```sh slow `: `perilune` lines that take too long for a test; they must parse, and the files
//!   they name must exist.
//! - ` ```text ` right after ` ```sh `: what those commands print, as compared by
//!   [`as_shown`](crate::console::as_shown).

use std::fs;

use crate::committed::updating;
use crate::console::{Console, as_shown};
use crate::markdown::{Fence, fences, read, root};

/// Programs whose lines are run.
const RUN: [&str; 5] = ["perilune", "mkdir", "cp", "cmp", "ls"];

/// Runs every page and reports all problems at once.
pub(crate) fn run_pages(pages: &[String]) {
    let problems: Vec<String> = pages.iter().flat_map(|page| run_page(page)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Runs one page. Generated pages are excerpts by construction.
fn run_page(page: &str) -> Vec<String> {
    let text = read(page);
    if text.starts_with("<!-- Generated") {
        return Vec::new();
    }
    let console = Console::new();
    let mut session = Session { page, console, output: None, shown: Vec::new(), found: Vec::new() };
    for fence in fences(&text) {
        session.fence(&fence);
    }
    session.rewrite(&text);
    session.found
}

struct Session<'a> {
    page: &'a str,
    console: Console,
    /// What the block of commands just before printed.
    output: Option<String>,
    /// Outputs to be written into the page: line of the fence, old and new text.
    shown: Vec<(usize, String, String)>,
    found: Vec<String>,
}

impl Session<'_> {
    fn problem(&mut self, line: usize, what: impl std::fmt::Display) {
        self.found.push(format!("{}:{line}: {what}", self.page));
    }

    fn fence(&mut self, fence: &Fence) {
        let before = self.output.take();
        match fence.info.as_str() {
            "sh" => self.commands(fence),
            "sh slow" => self.slow_commands(fence),
            "ron" => self.spec(fence),
            "text" => {
                if let Some(output) = before.filter(|_| fence.follows) {
                    self.compare(fence, &output);
                }
            }
            "rust" | "json" | "mlir" | "toml" => {}
            other => self.problem(fence.line, format!("no rule for a block of `{other}`")),
        }
    }

    fn commands(&mut self, fence: &Fence) {
        let mut printed = String::new();
        for (number, line) in (fence.line + 1..).zip(fence.body.lines()) {
            let (command, comment) = line.split_once(" # ").unwrap_or((line, ""));
            let first = command.split_whitespace().next().unwrap_or_default();
            let example = command.strip_prefix("cargo run --release ");
            if !RUN.contains(&first) && example.is_none() {
                self.named(number, command);
                continue;
            }
            let wanted = comment.trim().strip_prefix("exit ").map_or(Some(0), |n| n.parse().ok());
            let (code, text) = match example {
                Some(args) => self.console.cargo_run(args),
                None => self.console.run(command),
            };
            if code != wanted {
                self.problem(number, format!("`{command}` ends with {code:?}\n{text}"));
            }
            printed.push_str(&text);
        }
        self.output = Some(printed);
    }

    /// A line that is not run: what it names must be there.
    fn named(&mut self, number: usize, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let exists = |path: &str| root().join(path).exists();
        let fine = match words.as_slice() {
            [] => true,
            ["#", ..] => true,
            ["./x", command, ..] => read("x").contains(&format!("\n  {command} ")),
            ["cargo", ..] => words.windows(2).filter(|pair| pair[0] == "--test").all(|pair| {
                let test = format!("tests/{}", pair[1]);
                ["", "compiler/", "runtime/"].iter().any(|folder| {
                    exists(&format!("{folder}{test}.rs"))
                        || exists(&format!("{folder}{test}/main.rs"))
                })
            }),
            ["mlir-opt", irdl, ..] => irdl.strip_prefix("--irdl-file=").is_some_and(exists),
            ["python", script, ..] | ["python3", script, ..] => exists(script),
            _ => false,
        };
        if !fine {
            self.problem(number, format!("`{line}` names what is not there, or has no rule here"));
        }
    }

    fn slow_commands(&mut self, fence: &Fence) {
        for (number, line) in (fence.line + 1..).zip(fence.body.lines()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.first() != Some(&"perilune") {
                self.named(number, line);
                continue;
            }
            if let Err(error) = perilune::commands::command().try_get_matches_from(&words) {
                self.problem(number, error);
            }
            let files =
                words.iter().filter(|w| w.starts_with("models/") || w.starts_with("tests/"));
            let gone: Vec<&&str> = files.filter(|w| !root().join(w).exists()).collect();
            if !gone.is_empty() {
                self.problem(number, format!("there is no {gone:?}"));
            }
        }
    }

    /// A spec: an excerpt of a file of the repository, or a file of the page's own.
    fn spec(&mut self, fence: &Fence) {
        let Some((path, rest)) = fence.body.strip_prefix("// ").and_then(|b| b.split_once('\n'))
        else {
            return self.problem(fence.line, "a spec says its path in its first line, `// a.ron`");
        };
        let Ok(whole) = fs::read_to_string(root().join(path)) else {
            return self.console.write(path, rest);
        };
        let stripped = |text: &str| -> Vec<String> {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.map(str::to_owned).collect()
        };
        let whole = stripped(&whole);
        for part in rest.split("// …") {
            let part = stripped(part);
            if !part.is_empty() && !whole.windows(part.len()).any(|window| window == part) {
                self.problem(fence.line, format!("this does not stand in {path}"));
            }
        }
    }

    fn compare(&mut self, fence: &Fence, output: &str) {
        if as_shown(&fence.body, output) {
            return;
        }
        if updating() && !fence.body.contains('…') {
            self.shown.push((fence.line, fence.body.clone(), output.to_owned()));
            return;
        }
        self.problem(fence.line, format!("the commands above print\n{output}"));
    }

    /// Writes outputs that changed into the page.
    fn rewrite(&mut self, text: &str) {
        if self.shown.is_empty() {
            return;
        }
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        while let Some((line, old, new)) = self.shown.pop() {
            let new = new.trim_end().lines().map(|l| l.trim_end().to_owned());
            lines.splice(line..line + old.lines().count(), new);
        }
        fs::write(root().join(self.page), lines.join("\n") + "\n").expect("write");
    }
}
