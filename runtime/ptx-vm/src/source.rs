//! PTX text with positions, and the errors that point into it.
//!
//! # Invariants
//! - Lines and columns count from 1; a column counts characters, not bytes.
//! - Every error shows the text of its line.

use std::fmt;

/// Codes of what refuses a text or a launch, before anything runs.
pub mod code {
    /// The text is not PTX.
    pub const SYNTAX: &str = "V0001";
    /// An instruction, directive or modifier the machine does not know.
    pub const UNKNOWN_INSTRUCTION: &str = "V0002";
    /// A name nothing declares.
    pub const UNKNOWN_SYMBOL: &str = "V0003";
    /// An operand of the wrong kind, type or number.
    pub const OPERAND: &str = "V0004";
    /// More of something than the machine accepts.
    pub const LIMIT: &str = "V0005";
    /// A launch that does not fit the kernel.
    pub const LAUNCH: &str = "V0006";
}

/// A byte range of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Byte behind the last.
    pub end: u32,
}

/// Where something stands: line and column from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// A PTX text, its name, and where its lines begin.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
    line_starts: Vec<u32>,
}

impl Source {
    /// Takes `text` under the name shown in messages.
    #[must_use]
    pub fn new(name: &str, text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let mut line_starts = vec![0];
        line_starts.extend(breaks.map(|(at, _)| u32::try_from(at + 1).unwrap_or(u32::MAX)));
        Self { name: name.to_owned(), text: text.to_owned(), line_starts }
    }

    /// The name shown in messages, usually a path.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Line and column of a byte.
    #[must_use]
    pub fn position(&self, byte: u32) -> Position {
        let line = self.line_starts.partition_point(|start| *start <= byte).max(1) - 1;
        let before = self.text.get(self.line_starts[line] as usize..byte as usize);
        let column = before.map_or(0, |text| text.chars().count());
        Position { line: line as u32 + 1, column: column as u32 + 1 }
    }

    /// The text of a line (from 1), without its end and surrounding blanks; long lines are cut.
    #[must_use]
    pub fn line(&self, line: u32) -> String {
        const SHOWN: usize = 160;
        let text = self.text.lines().nth(line.saturating_sub(1) as usize).unwrap_or_default();
        text.trim().chars().take(SHOWN).collect()
    }

    /// The error `code` at `span`.
    pub(crate) fn error(&self, code: &'static str, span: Span, message: String) -> LoadError {
        let position = self.position(span.start);
        let text = self.line(position.line);
        LoadError { code, file: self.name.clone(), position, text, message }
    }
}

/// Why a text was refused: code, place, the line, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// One of [`code`].
    pub code: &'static str,
    /// Name of the text.
    pub file: String,
    /// Where.
    pub position: Position,
    /// The line it stands on.
    pub text: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.position;
        writeln!(f, "{}: {}", self.code, self.message)?;
        write!(f, "  --> {}:{line}:{column}\n   | {}", self.file, self.text)
    }
}

impl std::error::Error for LoadError {}
