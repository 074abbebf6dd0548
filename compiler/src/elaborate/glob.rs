//! Path patterns: `*` stands for any text, dots included; everything else is literal.
//!
//! # Invariants
//! - Matching takes at most pattern × text steps.

use super::context::shorten;
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::spec::read::did_you_mean;
use crate::spec::syntax::Name;

/// Whether a path matches a pattern.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.as_bytes(), path.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < path.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&path[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Whether a path or a path around it matches: a pattern for an instance takes all its nodes.
pub(super) fn matches_within(pattern: &str, path: &str) -> bool {
    matches(pattern, path) || path.match_indices('.').any(|(at, _)| matches(pattern, &path[..at]))
}

/// A pattern without a match.
pub(super) fn no_match<'a>(
    pattern: &Name,
    what: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Diagnostic {
    let headline = format!("`{}` matches no {what}", shorten(&pattern.text));
    let error = Diagnostic::error(
        codes::EMPTY_MATCH,
        headline,
        pattern.span,
        format!("no {what} has such a path"),
    );
    let error = error.help("`*` stands for any text, dots included; paths start at the model");
    did_you_mean(error, (&pattern.text, pattern.span), known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_any_text() {
        assert!(matches("*embed_tokens", "model.embed_tokens"));
        assert!(matches("model.layers.*.attn.max", "model.layers.12.attn.max"));
        assert!(!matches("model.layers.*.attn", "model.layers.12.attn.max"));
        assert!(matches("a*b*c", "axxbyyc") && !matches("a*b*c", "axxbyy"));
        assert!(matches("*", "") && matches("x", "x") && !matches("x", "xy"));
        assert!(
            matches_within("*norm", "layers.0.attn_norm.y")
                && !matches_within("*norm", "layers.0.normal")
        );
    }
}
