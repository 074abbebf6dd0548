//! What RON says about an op's form, as a message to the author.
//!
//! # Invariants
//! - Names of Rust types do not appear.

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::ops::form::FormError;
use crate::source::{SourceMap, Span};
use crate::spec::read::did_you_mean;

/// The message for a form that the op `op` does not have.
pub(super) fn diagnostic(op: &str, error: &FormError, sources: &SourceMap) -> Diagnostic {
    let span = error.span;
    if let Some(code) = error.code {
        return Diagnostic::error(code, headline_of(&error.error), visible(span, sources), "here");
    }
    match &error.error {
        ron::Error::NoSuchStructField { expected, found, .. } => {
            let d = Diagnostic::error(
                codes::UNKNOWN_FIELD,
                format!("`{op}` has no field `{found}`"),
                span,
                "unknown field",
            );
            let d = d.help(format!("fields: {}", expected.join(", ")));
            did_you_mean(d, (found, span), expected.iter().copied())
        }
        ron::Error::NoSuchEnumVariant { expected, found, .. } => {
            let d = Diagnostic::error(
                codes::UNKNOWN_CASE,
                format!("`{found}` is none of the known words"),
                span,
                "unknown word",
            );
            let d = d.help(format!("one of {}", expected.join(", ")));
            did_you_mean(d, (found, span), expected.iter().copied())
        }
        ron::Error::MissingStructField { field, .. } => Diagnostic::error(
            codes::MISSING_FIELD,
            format!("`{op}` has no `{field}`"),
            span,
            format!("`{field}` is missing here"),
        ),
        ron::Error::DuplicateStructField { field, .. } => Diagnostic::error(
            codes::DUPLICATE_KEY,
            format!("`{field}` is given twice"),
            span,
            "again here",
        ),
        ron::Error::ExpectedDifferentLength { expected, found } => {
            let headline = format!("`{op}` takes {expected}, found {found}");
            Diagnostic::error(crate::ops::codes::OPERAND_COUNT, headline, span, "one too many")
        }
        other => {
            let d = Diagnostic::error(
                codes::WRONG_KIND,
                format!("this is not the form of `{op}`"),
                visible(span, sources),
                headline_of(other),
            );
            d.help(format!("`perilune explain {op}` shows how it is written"))
        }
    }
}

/// RON's words, shortened to a headline.
fn headline_of(error: &ron::Error) -> String {
    let text = error.to_string();
    let text = text.trim_end_matches('.');
    let mut lower: String = text.chars().take(72).collect();
    if let Some(first) = lower.get(..1) {
        let small = first.to_lowercase();
        lower.replace_range(..1, &small);
    }
    lower
}

/// A place of at least one character, so that a reader sees it: the token that starts there, or
/// the character before.
fn visible(span: Span, sources: &SourceMap) -> Span {
    if span.end > span.start {
        return span;
    }
    let text = &sources.file(span.source).text;
    let rest = &text[span.start as usize..];
    let quoted = rest.strip_prefix('"').and_then(|r| r.find('"')).map(|n| n + 2);
    let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|n| *n > 0);
    if let Some(len) = quoted.or(word) {
        return Span { end: span.start + len as u32, ..span };
    }
    let back = text[..span.start as usize].chars().next_back().map_or(0, char::len_utf8) as u32;
    Span { start: span.start - back, ..span }
}
