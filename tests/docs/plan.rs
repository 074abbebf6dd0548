//! The reference of the plan format, from the types that are written.

use std::fmt::Write;

use crate::committed::heading;
use crate::fusion::{one_line, prose};
use crate::source::Source;

/// The page.
pub(crate) fn page() -> String {
    let container = Source::read("runtime/plan/src/container.rs");
    let types = Source::read("runtime/plan/src/lib.rs");
    let mut out = heading("Plan format", "runtime/plan/src");
    let _ = writeln!(
        out,
        "{}\n\n## The file\n\n{}",
        plain(&types.header()),
        plain(&container.header())
    );
    for name in types.types() {
        let _ = writeln!(out, "\n## {name}\n\n{}\n\n| | |\n|---|---|", plain(&types.doc(&name)));
        for member in types.members(&name) {
            let _ = writeln!(out, "| `{}` | {} |", member.name, one_line(&plain(&member.doc)));
        }
    }
    out
}

/// A comment without rustdoc's links, which lead nowhere outside it, and without its pointers.
pub(crate) fn plain(text: &str) -> String {
    let text = text.split("\n# See also").next().unwrap_or_default();
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('[') {
        let (before, link) = rest.split_at(at);
        out.push_str(before);
        rest = &link[1..];
        let Some((shown, after)) = rest.split_once(']') else { break };
        match (after.strip_prefix('(').and_then(|a| a.split_once(')')), shown) {
            (Some((_, after)), shown) => {
                out.push_str(shown);
                rest = after;
            }
            (None, shown) if shown.starts_with('`') => {
                out.push_str(&shown.replace("super::", ""));
                rest = after;
            }
            (None, _) => out.push('['),
        }
    }
    out.push_str(rest);
    prose(out.trim_end())
}

#[test]
fn links_of_rustdoc_become_words() {
    let text = "See [`super::Map`] and [verify](Plan::verify), not `x[b s]` or [2, 3].";
    assert_eq!(plain(text), "See `Map` and verify, not `x[b s]` or [2, 3].");
}
