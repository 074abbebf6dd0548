//! What the compiler tells an author: a coded, spanned message with a way out.
//!
//! # Invariants
//! - Headlines are at most 72 characters, lower-case, without a final period; names in backticks.
//! - Every [`Code`] has an explanation (`perilune explain E0203`) and a snapshot; tests enforce it.
//! - Internal type names never appear in a message.

use crate::source::Span;

/// An error code, `E0203`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u16);

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "E{:04}", self.0)
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The spec is accepted.
    Warning,
    /// The spec is refused.
    Error,
}

/// A span and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What this side is: `lhs is f32[512, 7168]`.
    pub text: String,
}

/// A replacement that would fix the problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// What to replace.
    pub span: Span,
    /// With what.
    pub replacement: String,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Its code.
    pub code: Code,
    /// Error or warning.
    pub severity: Severity,
    /// One line: what is wrong.
    pub headline: String,
    /// The place to look at first.
    pub primary: Label,
    /// Other places involved.
    pub secondary: Vec<Label>,
    /// What to do.
    pub help: Option<String>,
    /// The edit that does it, where there is one.
    pub patch: Option<Patch>,
}

impl Diagnostic {
    /// An error with its primary label.
    pub fn error(
        code: Code,
        headline: impl Into<String>,
        span: Span,
        label: impl Into<String>,
    ) -> Self {
        Diagnostic {
            code,
            severity: Severity::Error,
            headline: headline.into(),
            primary: Label { span, text: label.into() },
            secondary: Vec::new(),
            help: None,
            patch: None,
        }
    }

    /// Adds another place.
    pub fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.secondary.push(Label { span, text: text.into() });
        self
    }

    /// Says what to do.
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// Offers an edit.
    pub fn patch(mut self, span: Span, replacement: impl Into<String>) -> Self {
        self.patch = Some(Patch { span, replacement: replacement.into() });
        self
    }
}

/// Everything found in one run, in the order found.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds a message; an exact repeat is dropped.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if !self.list.contains(&diagnostic) {
            self.list.push(diagnostic);
        }
    }

    /// Whether any message is an error.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    /// The messages.
    pub fn list(&self) -> &[Diagnostic] {
        &self.list
    }
}

/// A broken invariant: our bug, never the author's. Names the pass and carries a reproducer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalError {
    /// The pass that found it.
    pub pass: &'static str,
    /// What is broken.
    pub message: String,
    /// Text that shows it again (usually MLIR); may be empty.
    pub reproducer: String,
}

impl InternalError {
    /// An error without a reproducer.
    pub fn new(pass: &'static str, message: impl Into<String>) -> Self {
        InternalError { pass, message: message.into(), reproducer: String::new() }
    }
}

impl std::fmt::Display for InternalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "internal error in pass `{}`: {}", self.pass, self.message)
    }
}

impl std::error::Error for InternalError {}
