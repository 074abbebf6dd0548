//! Reading typed pieces out of a [`Tree`], reporting every mistake on the way.
//!
//! # Invariants
//! - A reader that returns `None` has reported why.
//! - One place is blamed once per code, however often it is elaborated; at most [`MAX_ERRORS`].

use std::collections::BTreeSet;

use super::suggest::nearest;
use super::syntax::{Call, Name, Text, Tree, TreeKind};
use crate::codes;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Severity};
use crate::ops::form::{ConstForm, TextSpan};
use crate::scalar::parse::{Expr, ExprKind, parse};
use crate::source::Span;

/// Errors reported in one run.
pub const MAX_ERRORS: usize = 50;

/// Where mistakes go.
#[derive(Debug, Default)]
pub struct Sink {
    /// What was reported.
    pub diagnostics: Diagnostics,
    seen: BTreeSet<(Code, Span)>,
    errors: usize,
}

impl Sink {
    /// Adds a message, unless its place was blamed for the same thing or there are too many.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        let error = diagnostic.severity == Severity::Error;
        if (error && self.full()) || !self.seen.insert((diagnostic.code, diagnostic.primary.span)) {
            return;
        }
        self.errors += usize::from(error);
        self.diagnostics.push(diagnostic);
    }

    /// Whether no further error is taken.
    pub fn full(&self) -> bool {
        self.errors >= MAX_ERRORS
    }

    /// Number of errors so far.
    pub fn errors(&self) -> usize {
        self.errors
    }
}

/// Adds the nearest candidate as help and patch.
pub fn did_you_mean<'a>(
    diagnostic: Diagnostic,
    written: (&str, Span),
    candidates: impl IntoIterator<Item = &'a str>,
) -> Diagnostic {
    match nearest(written.0, candidates) {
        Some(name) => diagnostic.help(format!("did you mean `{name}`?")).patch(written.1, name),
        None => diagnostic,
    }
}

/// Reports a value of the wrong kind.
pub fn wrong_kind(sink: &mut Sink, tree: &Tree, wanted: &str) {
    let headline = format!("expected {wanted}, found {}", tree.describe());
    sink.push(Diagnostic::error(
        codes::WRONG_KIND,
        headline,
        tree.span,
        format!("this is {}", tree.describe()),
    ));
}

/// The fields of a value with named fields, checked against those known.
pub struct Fields<'a> {
    call: &'a Call,
    span: Span,
    /// Fields that some unknown field probably stands for.
    misspelt: Vec<String>,
}

impl<'a> Fields<'a> {
    /// Checks names, repeats and forgotten names.
    pub fn new(sink: &mut Sink, tree: &'a Tree, what: &str, known: &[&str]) -> Option<Fields<'a>> {
        let TreeKind::Call(call) = &tree.kind else {
            wrong_kind(sink, tree, &format!("`{what}(..)`"));
            return None;
        };
        check_repeats(sink, call);
        let mut misspelt = Vec::new();
        for item in &call.items {
            match &item.field {
                Some(f) if !known.contains(&f.text.as_str()) => {
                    misspelt.extend(nearest(&f.text, known.iter().copied()).map(str::to_owned));
                    sink.push(unknown_field(f, what, known));
                }
                Some(_) => {}
                None => {
                    let headline = format!("a value in `{what}` has no field name");
                    let error = Diagnostic::error(
                        codes::UNKNOWN_FIELD,
                        headline,
                        item.value.span,
                        "which field is this?",
                    );
                    sink.push(error.help(format!("fields: {}", known.join(", "))));
                }
            }
        }
        Some(Fields { call, span: tree.head_span(), misspelt })
    }

    /// A field's value.
    pub fn get(&self, name: &str) -> Option<&'a Tree> {
        self.call
            .items
            .iter()
            .find(|i| i.field.as_ref().is_some_and(|f| f.text == name))
            .map(|i| &i.value)
    }

    /// A field that must be there.
    pub fn need(&self, sink: &mut Sink, what: &str, name: &str) -> Option<&'a Tree> {
        let found = self.get(name);
        if found.is_none() && !self.misspelt.iter().any(|m| m == name) {
            let headline = format!("`{what}` has no `{name}`");
            sink.push(Diagnostic::error(
                codes::MISSING_FIELD,
                headline,
                self.span,
                format!("`{name}` is missing here"),
            ));
        }
        found
    }
}

/// An unknown field with the nearest known one.
pub fn unknown_field(field: &Name, what: &str, known: &[&str]) -> Diagnostic {
    let headline = format!("`{what}` has no field `{}`", field.text);
    let error = Diagnostic::error(codes::UNKNOWN_FIELD, headline, field.span, "unknown field");
    let error = error.help(format!("fields: {}", known.join(", ")));
    did_you_mean(error, (&field.text, field.span), known.iter().copied())
}

/// Reports fields written twice.
pub fn check_repeats(sink: &mut Sink, call: &Call) {
    let names: Vec<&Name> = call.items.iter().filter_map(|i| i.field.as_ref()).collect();
    for (i, name) in names.iter().enumerate() {
        if let Some(first) = names[..i].iter().find(|n| n.text == name.text) {
            sink.push(duplicate_key(&name.text, name.span, first.span));
        }
    }
}

fn duplicate_key(name: &str, again: Span, first: Span) -> Diagnostic {
    Diagnostic::error(codes::DUPLICATE_KEY, format!("`{name}` is given twice"), again, "again here")
        .label(first, "first here")
        .help("remove one of the two")
}

/// A string.
pub fn text<'a>(sink: &mut Sink, tree: &'a Tree, wanted: &str) -> Option<&'a Text> {
    match &tree.kind {
        TreeKind::Text(t) => Some(t),
        _ => {
            wrong_kind(sink, tree, wanted);
            None
        }
    }
}

/// A string as a name with the place inside the quotes.
pub fn quoted_name(sink: &mut Sink, tree: &Tree, wanted: &str) -> Option<Name> {
    text(sink, tree, wanted).map(|t| Name { text: t.value.clone(), span: inside(tree, t) })
}

/// The place between the quotes.
pub fn inside(tree: &Tree, text: &Text) -> Span {
    if !text.verbatim {
        return tree.span;
    }
    Span { start: text.start, end: text.start + text.value.len() as u32, ..tree.span }
}

/// A list.
pub fn list<'a>(sink: &mut Sink, tree: &'a Tree, wanted: &str) -> Option<&'a [Tree]> {
    match &tree.kind {
        TreeKind::List(items) => Some(items),
        _ => {
            wrong_kind(sink, tree, wanted);
            None
        }
    }
}

/// A map from names to values; repeated keys are reported and dropped.
pub fn map<'a>(sink: &mut Sink, tree: &'a Tree, wanted: &str) -> Vec<(Name, &'a Tree)> {
    let TreeKind::Map(entries) = &tree.kind else {
        wrong_kind(sink, tree, wanted);
        return Vec::new();
    };
    let mut out: Vec<(Name, &Tree)> = Vec::new();
    for (key, value) in entries {
        let Some(name) = quoted_name(sink, key, "a name in quotes") else { continue };
        match out.iter().find(|(n, _)| n.text == name.text) {
            Some((first, _)) => {
                let diagnostic = duplicate_key(&name.text, name.span, first.span);
                sink.push(diagnostic);
            }
            None => out.push((name, value)),
        }
    }
    out
}

/// A whole number that is no expression.
pub fn whole(sink: &mut Sink, tree: &Tree, wanted: &str) -> Option<u64> {
    match tree.kind {
        TreeKind::Number(v) if v >= 0.0 && v.fract() == 0.0 && v < 9e15 => Some(v as u64),
        _ => {
            wrong_kind(sink, tree, wanted);
            None
        }
    }
}

/// A truth value.
pub fn truth(sink: &mut Sink, tree: &Tree) -> Option<bool> {
    match tree.kind {
        TreeKind::Bool(b) => Some(b),
        _ => {
            wrong_kind(sink, tree, "`true` or `false`");
            None
        }
    }
}

/// A constant expression: a number, a bare name, or a string.
pub fn constant(sink: &mut Sink, tree: &Tree) -> Option<ConstForm> {
    let whole = TextSpan { span: tree.span, exact: false };
    let literal =
        |v: f64| ConstForm { expr: Expr { kind: ExprKind::Number(v), range: 0..0 }, text: whole };
    match &tree.kind {
        TreeKind::Number(v) => Some(literal(*v)),
        TreeKind::Bool(b) => Some(literal(f64::from(u8::from(*b)))),
        TreeKind::Word(w) => expression(sink, w, TextSpan { span: tree.span, exact: true }),
        TreeKind::Text(t) => {
            expression(sink, &t.value, TextSpan { span: inside(tree, t), exact: t.verbatim })
        }
        _ => {
            wrong_kind(sink, tree, "a number, a name or an expression in quotes");
            None
        }
    }
}

fn expression(sink: &mut Sink, text: &str, place: TextSpan) -> Option<ConstForm> {
    match parse(text) {
        Ok(expr) => Some(ConstForm { expr, text: place }),
        Err(e) => {
            let headline = e.message.clone();
            let mut span = place.at(&e.range);
            if span.start == span.end {
                span = place.span;
            }
            sink.push(Diagnostic::error(crate::ops::codes::EXPR_SYNTAX, headline, span, "here"));
            None
        }
    }
}
