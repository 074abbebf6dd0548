//! The reference of fusion decisions: the rules and reasons as documented in the pass, and what it
//! decided about the training step of k2-nano.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::committed::heading;
use crate::console::Console;
use crate::source::Source;

/// Where rules and reasons are documented.
const DECISIONS: &str = "compiler/src/passes/fuse.rs";

/// The page.
pub(crate) fn page() -> String {
    let pass = Source::read("compiler/src/passes/fuse.rs");
    let source = Source::read(DECISIONS);
    let mut out = heading("Fusion decisions", DECISIONS);
    out.push_str(
        "Every pair of kernels that could become one is decided by a rule, and every decision has \
         a reason with a code.\n\
         `perilune explain NODE --spec SPEC` prints the decisions about a node, \
         `perilune explain decisions --spec SPEC` all of them, with the bytes that need not go \
         through memory if the two merge.\n",
    );
    let _ = writeln!(out, "\n## How the pass works\n\n{}", prose(&pass.header()));
    out.push_str("\n## Rules\n\n| rule | what it is about |\n|---|---|\n");
    for rule in source.members("Rule") {
        let _ = writeln!(out, "| {} | {} |", rule.name, one_line(&rule.doc));
    }
    let by_code = decisions();
    out.push_str("\n## Reasons\n\n`k2-nano` is how often each was given in its four entries.\n\n");
    out.push_str("| code | meaning | k2-nano |\n|---|---|---:|\n");
    for reason in source.members("Reason") {
        let (code, text) = reason.doc.split_once(": ").expect("`F00: text`");
        let n = by_code.get(code).map_or(0, Vec::len);
        let _ = writeln!(out, "| {code} | {} | {n} |", one_line(text));
    }
    out.push_str("\nOne decision of each kind, as `explain` prints it:\n\n```text\n");
    by_code.values().for_each(|lines| {
        let _ = writeln!(out, "{}", lines[0]);
    });
    out.push_str("```\n");
    out
}

/// What `explain` prints about the training step of k2-nano, by code.
fn decisions() -> BTreeMap<String, Vec<String>> {
    let printed = Console::new().data("perilune explain decisions --spec models/k2-nano/train.ron");
    let mut by_code: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in printed.lines() {
        let code = line.split(' ').next().unwrap_or_default().to_owned();
        by_code.entry(code).or_default().push(line.to_owned());
    }
    by_code
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
