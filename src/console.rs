//! Where a command writes: data to stdout, messages to stderr.
//!
//! # Invariants
//! - With `--json`, stdout holds exactly one JSON document (or JSON lines where the command says so).
//! - Without a terminal, or with NO_COLOR set, nothing coloured and no moving line is written.
//! - A closed pipe ends the output silently, as other tools do; data that is lost for any other
//!   reason makes the command fail.

use std::cell::Cell;
use std::io::{ErrorKind, IsTerminal, Write};

use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::render;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The two streams and how to use them.
#[derive(Clone, Debug)]
pub struct Console {
    /// Data as JSON.
    pub json: bool,
    /// No messages but errors.
    pub quiet: bool,
    /// Colour on stderr.
    pub color: bool,
    /// stderr is a terminal, so a line may move.
    pub live: bool,
    /// Data could not be written.
    lost: Cell<bool>,
}

impl Console {
    /// Decides from the flags, the environment and what stderr is.
    pub fn new(json: bool, quiet: bool, color: ColorChoice) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !no_color,
        };
        Console { json, quiet, color, live: terminal && !quiet, lost: Cell::new(false) }
    }

    /// The console of a rank: only rank 0 writes messages that are no errors.
    pub fn of_rank(&self, rank: u32) -> Self {
        let silent = rank > 0;
        Console { quiet: self.quiet || silent, live: self.live && !silent, ..self.clone() }
    }

    /// Writes data to stdout, ending it with a newline.
    pub fn data(&self, text: &str) {
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        let mut stdout = std::io::stdout().lock();
        let written = write!(stdout, "{text}{newline}").and_then(|()| stdout.flush());
        // A reader that went away (`| head`) is no failure of ours.
        let Err(error) = written else { return };
        if error.kind() != ErrorKind::BrokenPipe && !self.lost.replace(true) {
            let _ = writeln!(std::io::stderr().lock(), "error: cannot write the output: {error}");
        }
    }

    /// Writes a JSON document to stdout.
    pub fn json(&self, value: &Value) {
        self.data(&format!("{value:#}"));
    }

    /// Writes a message to stderr unless quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }

    /// Writes a message to stderr that is never left out.
    pub fn error(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// How the command ends: as it would, unless its data was lost.
    pub fn end(&self, exit: Exit) -> Exit {
        if self.lost.get() && exit == Exit::Ok { Exit::Environment } else { exit }
    }

    /// Reports a failure on the right streams and gives its exit code.
    pub fn failure(&self, failure: &Failure) -> Exit {
        if self.json {
            self.json(&failure_json(failure));
        } else {
            let text = failure_text(failure, self.color);
            let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end());
        }
        failure.exit()
    }
}

fn failure_text(failure: &Failure, color: bool) -> String {
    match failure {
        Failure::Spec { diagnostics, sources } => render::text(diagnostics, sources, color),
        Failure::Plain(problem) => {
            let code = problem.code.map(|code| format!("[{code}]")).unwrap_or_default();
            let (on, off) = if color { ("\u{1b}[31m", "\u{1b}[0m") } else { ("", "") };
            let mut text = format!("{on}error{code}:{off} {}", problem.headline);
            if let Some(help) = &problem.help {
                text.push_str(&format!("\n  help: {help}"));
            }
            text
        }
    }
}

fn failure_json(failure: &Failure) -> Value {
    let mut value = match failure {
        Failure::Spec { diagnostics, sources } => render::json(diagnostics, sources),
        Failure::Plain(problem) => serde_json::json!({
            "version": render::JSON_VERSION,
            "ok": false,
            "diagnostics": [{
                "code": problem.code.map(|code| code.to_string()),
                "severity": "error",
                "headline": problem.headline,
                "help": problem.help,
            }],
        }),
    };
    value["exit"] = serde_json::json!(failure.exit() as u8);
    value
}
