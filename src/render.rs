//! Diagnostics as text for people and as JSON for programs.
//!
//! # Invariants
//! - Without colour the text holds no escape sequence; the same diagnostics give the same bytes.
//! - The JSON shape is versioned by [`JSON_VERSION`] and changes only with it.

use std::fmt::Write;

use ariadne::{CharSet, Color, Config, IndexType, LabelAttach, Report, ReportKind};
use perilune_compiler::diagnostic::{Diagnostic, Diagnostics, Label, Severity};
use perilune_compiler::source::{SourceMap, Span};
use serde_json::{Value, json};

/// Version of the JSON form.
pub const JSON_VERSION: u32 = 1;

/// Longest line that is shown, in characters; what follows is left out.
const MAX_LINE: usize = 240;

/// All diagnostics as text, each with its source lines, and a closing count.
pub fn text(diagnostics: &Diagnostics, sources: &SourceMap, color: bool) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics.list() {
        out.push_str(&one(diagnostic, sources, color));
        out.push('\n');
    }
    out.push_str(&summary(diagnostics));
    out
}

/// One diagnostic as text.
pub fn one(diagnostic: &Diagnostic, sources: &SourceMap, color: bool) -> String {
    let (kind, main_color) = match diagnostic.severity {
        Severity::Error => (ReportKind::Error, Color::Red),
        Severity::Warning => (ReportKind::Warning, Color::Yellow),
    };
    let config = Config::default()
        .with_color(color)
        .with_char_set(CharSet::Unicode)
        .with_index_type(IndexType::Byte)
        .with_label_attach(LabelAttach::Start);
    let primary = place(diagnostic.primary.span, sources);
    let mut report = Report::build(kind, primary)
        .with_config(config)
        .with_code(diagnostic.code.to_string())
        .with_message(&diagnostic.headline)
        .with_label(label(&diagnostic.primary, sources, main_color, 1));
    for secondary in &diagnostic.secondary {
        report = report.with_label(label(secondary, sources, Color::Blue, 0));
    }
    if let Some(help) = &diagnostic.help {
        report = report.with_help(help);
    }
    if let Some(patch) = patched_lines(diagnostic, sources) {
        report = report.with_note(patch);
    }
    let files = sources.files().iter().map(|file| (file.path.clone(), file.text.clone()));
    let mut bytes = Vec::new();
    if let Err(error) = report.finish().write(ariadne::sources(files), &mut bytes) {
        return format!("{}: {} (not rendered: {error})\n", diagnostic.code, diagnostic.headline);
    }
    let text = String::from_utf8_lossy(&bytes);
    // Trailing blanks would make snapshots and diffs noisy.
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let line = line.trim_end();
        match line.char_indices().nth(MAX_LINE) {
            // The place's line and column stand above in any case.
            Some((at, _)) => {
                out.push_str(&line[..at]);
                out.push_str(if color { "\u{1b}[0m…" } else { "…" });
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

fn place(span: Span, sources: &SourceMap) -> (String, std::ops::Range<usize>) {
    let file = sources.file(span.source);
    let len = file.text.len();
    let start = (span.start as usize).min(len);
    (file.path.clone(), start..(span.end as usize).clamp(start, len))
}

fn label(
    from: &Label,
    sources: &SourceMap,
    color: Color,
    priority: i32,
) -> ariadne::Label<(String, std::ops::Range<usize>)> {
    ariadne::Label::new(place(from.span, sources))
        .with_message(&from.text)
        .with_color(color)
        .with_priority(priority)
}

/// The lines a patch touches, before and after.
fn patched_lines(diagnostic: &Diagnostic, sources: &SourceMap) -> Option<String> {
    let patch = diagnostic.patch.as_ref()?;
    let text = &sources.file(patch.span.source).text;
    let (start, end) = (patch.span.start as usize, patch.span.end as usize);
    let from = text.get(..start)?.rfind('\n').map_or(0, |at| at + 1);
    let to = end + text.get(end..)?.find('\n').unwrap_or(text.len() - end);
    let before = text.get(from..to)?;
    let after = format!("{}{}{}", &text[from..start], patch.replacement, &text[end..to]);
    let mut out = String::from("change");
    for line in before.lines() {
        let _ = write!(out, "\n- {}", line.trim());
    }
    for line in after.lines() {
        let _ = write!(out, "\n+ {}", line.trim());
    }
    Some(out)
}

/// `2 errors, 1 warning`.
pub fn summary(diagnostics: &Diagnostics) -> String {
    let of = |severity| diagnostics.list().iter().filter(|d| d.severity == severity).count();
    let mut parts = Vec::new();
    for (n, word) in [(of(Severity::Error), "error"), (of(Severity::Warning), "warning")] {
        if n > 0 {
            parts.push(format!("{n} {word}{}", if n == 1 { "" } else { "s" }));
        }
    }
    let mut out = parts.join(", ");
    if let Some(first) = diagnostics.list().first() {
        let _ = write!(out, "; `perilune explain {}` says more", first.code);
    }
    out
}

/// All diagnostics as JSON.
pub fn json(diagnostics: &Diagnostics, sources: &SourceMap) -> Value {
    let list: Vec<Value> = diagnostics.list().iter().map(|d| json_one(d, sources)).collect();
    json!({
        "version": JSON_VERSION,
        "ok": !diagnostics.has_errors(),
        "diagnostics": list,
    })
}

fn json_one(diagnostic: &Diagnostic, sources: &SourceMap) -> Value {
    let secondary: Vec<Value> =
        diagnostic.secondary.iter().map(|l| json_label(l, sources)).collect();
    let patch = diagnostic.patch.as_ref().map(|patch| {
        let mut value = json_span(patch.span, sources);
        value["replacement"] = json!(patch.replacement);
        value
    });
    json!({
        "code": diagnostic.code.to_string(),
        "severity": match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        "headline": diagnostic.headline,
        "primary": json_label(&diagnostic.primary, sources),
        "secondary": secondary,
        "help": diagnostic.help,
        "patch": patch,
    })
}

fn json_label(label: &Label, sources: &SourceMap) -> Value {
    let mut value = json_span(label.span, sources);
    value["text"] = json!(label.text);
    value
}

fn json_span(span: Span, sources: &SourceMap) -> Value {
    let (line, column) = sources.line_column(span.source, span.start);
    json!({
        "file": sources.file(span.source).path,
        "start": span.start,
        "end": span.end,
        "line": line,
        "column": column,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_compiler::diagnostic::Code;

    fn sample() -> (Diagnostics, SourceMap) {
        let mut sources = SourceMap::default();
        let text = "Block(\n    nodes: [\n        (\"é\", Einsum(\"a b, b c -> a c\", [\"x\", \"w\"])),\n    ],\n)\n";
        let id = sources.add("blocks/a.ron", text);
        let span = |needle: &str| {
            let start = text.find(needle).expect("needle") as u32;
            Span { source: id, start, end: start + needle.len() as u32 }
        };
        let mut diagnostics = Diagnostics::default();
        diagnostics.push(
            Diagnostic::error(
                Code(203),
                "contraction extents differ: 1536 vs 512",
                span("\"w\""),
                "rhs is f32[512, 24576]",
            )
            .label(span("\"x\""), "lhs is f32[8, 1536]")
            .help("`b` must have one extent on both sides")
            .patch(span("b c"), "d c"),
        );
        (diagnostics, sources)
    }

    #[test]
    fn both_sides_the_help_and_the_patch_are_shown_without_escapes() {
        let (diagnostics, sources) = sample();
        let text = text(&diagnostics, &sources, false);
        assert!(!text.contains('\u{1b}'), "{text}");
        for part in [
            "E0203",
            "blocks/a.ron:3:",
            "rhs is f32[512, 24576]",
            "lhs is f32[8, 1536]",
            "Help: `b` must",
            "+ (\"é\", Einsum(\"a b, d c -> a c\"",
            "1 error; `perilune explain E0203` says more",
        ] {
            assert!(text.contains(part), "`{part}` is missing from\n{text}");
        }
    }

    #[test]
    fn colour_adds_escapes_and_nothing_else() {
        let (diagnostics, sources) = sample();
        let colored = text(&diagnostics, &sources, true);
        assert!(colored.contains('\u{1b}'));
    }

    #[test]
    fn json_has_lines_columns_and_byte_offsets() {
        let (diagnostics, sources) = sample();
        let value = json(&diagnostics, &sources);
        assert_eq!(value["ok"], json!(false));
        let primary = &value["diagnostics"][0]["primary"];
        assert_eq!(primary["line"], json!(3));
        assert_eq!(primary["file"], json!("blocks/a.ron"));
        assert_eq!(value["diagnostics"][0]["patch"]["replacement"], json!("d c"));
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut sources = SourceMap::default();
        let id = sources.add("a.ron", "[".repeat(100_000));
        let mut diagnostics = Diagnostics::default();
        let deep = Span { source: id, start: 64, end: 65 };
        diagnostics.push(Diagnostic::error(Code(106), "values nest too deep", deep, "here"));
        for color in [false, true] {
            let text = text(&diagnostics, &sources, color);
            assert!(text.len() < 4000 && text.contains('…'), "{} bytes", text.len());
            assert!(text.contains("a.ron:1:65") && text.contains("here"), "{text}");
        }
    }

    #[test]
    fn a_span_at_the_end_of_a_file_renders() {
        let mut sources = SourceMap::default();
        let id = sources.add("a.ron", "Block(");
        let mut diagnostics = Diagnostics::default();
        let end = Span { source: id, start: 6, end: 6 };
        diagnostics.push(Diagnostic::error(Code(1), "file ends early", end, "here"));
        assert!(text(&diagnostics, &sources, false).contains("file ends early"));
    }
}
