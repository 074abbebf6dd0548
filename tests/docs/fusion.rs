//! The reference of fusion decisions: the rules and reasons as documented in the pass, and what it
//! decided about the training step of k2-nano.

use std::collections::BTreeMap;
use std::fmt::Write;

use perilune_compiler::compile::compile;
use perilune_compiler::lower::Target;
use perilune_compiler::passes::fuse::Decision;

use crate::committed::heading;
use crate::source::Source;
use crate::stages::nano;

/// The page.
pub(crate) fn page() -> String {
    let source = Source::read("compiler/src/passes/fuse.rs");
    let mut out = heading("Fusion decisions", "compiler/src/passes/fuse.rs");
    out.push_str(
        "Every pair of kernels that could become one is decided by a rule, and every decision has \
         a reason with a code.\n\
         `perilune explain NODE --spec SPEC` prints the decisions about a node, \
         `perilune explain decisions --spec SPEC` all of them, with the bytes that need not go \
         through memory if the two merge.\n",
    );
    let _ = writeln!(out, "\n## How the pass works\n\n{}", prose(&source.header()));
    out.push_str("\n## Rules\n\n| rule | what it is about |\n|---|---|\n");
    for rule in source.members("Rule") {
        let _ = writeln!(out, "| {} | {} |", rule.name, one_line(&rule.doc));
    }
    let compiled = compile(&nano(), Target::Cpu).expect("k2-nano compiles");
    let mut by_reason: BTreeMap<&str, Vec<&Decision>> = BTreeMap::new();
    for decision in &compiled.decisions {
        by_reason.entry(decision.reason.code()).or_default().push(decision);
    }
    out.push_str("\n## Reasons\n\n`k2-nano` is how often each was given in its four entries.\n\n");
    out.push_str("| code | meaning | k2-nano |\n|---|---|---:|\n");
    for reason in source.members("Reason") {
        let (code, text) = reason.doc.split_once(": ").expect("`F00: text`");
        let n = by_reason.get(code).map_or(0, Vec::len);
        let _ = writeln!(out, "| {code} | {} | {n} |", one_line(text));
    }
    out.push_str("\nOne decision of each kind, as `explain` prints it:\n\n```text\n");
    for decisions in by_reason.values() {
        let d = decisions[0];
        let (code, words) = (d.reason.code(), d.reason.words());
        let (entry, rule, from, to, bytes) = (&d.entry, d.rule, &d.from, &d.to, d.bytes);
        let _ = writeln!(out, "{code} {entry} {rule:?}: {from} -> {to}: {words} ({bytes} bytes)");
    }
    out.push_str("```\n");
    out
}

/// A comment on one line, fit for a table.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// A file's header as paragraphs of a page: its own headings become bold lines.
pub(crate) fn prose(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(title) => format!("**{title}**"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}
