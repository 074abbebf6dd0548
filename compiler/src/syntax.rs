//! RON as a tree in which every value knows where it was written.
//!
//! `ron` itself gives positions only for syntax errors and silently keeps the last of two equal map
//! keys; a spec needs the place of every value and every mistake in one run. This reader accepts the
//! subset of RON that specs are written in (no chars, bytes or extensions).
//!
//! # Invariants
//! - What it accepts `ron` accepts too (tested on every spec of the repository).
//! - Nesting is at most [`MAX_DEPTH`]; no input makes it panic or recurse deeper.

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{SourceId, Span};

/// Deepest nesting of brackets.
pub const MAX_DEPTH: u32 = 64;

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Tree {
    /// What.
    pub kind: TreeKind,
    /// Where, brackets and quotes included.
    pub span: Span,
}

/// A RON value.
#[derive(Clone, Debug)]
pub enum TreeKind {
    /// `-1.5e-3`, `4_096`; integers are exact up to 2^53.
    Number(f64),
    /// `true`, `false`.
    Bool(bool),
    /// `"text"`.
    Text(Text),
    /// A bare word: a dim, an enum case without fields, `None`.
    Word(String),
    /// `[a, b]`.
    List(Vec<Tree>),
    /// `{ "k": v }`.
    Map(Vec<(Tree, Tree)>),
    /// `Name(a, field: b)` or `(a, b)`.
    Call(Call),
}

/// A string literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Its value.
    pub value: String,
    /// Byte offset of the first character after the quote.
    pub start: u32,
    /// Whether the value is the source text unchanged, so that offsets into it are offsets into the file.
    pub verbatim: bool,
}

/// `Name(...)`.
#[derive(Clone, Debug)]
pub struct Call {
    /// Name, absent for a tuple.
    pub name: Option<Name>,
    /// What stands between the parentheses.
    pub items: Vec<Item>,
}

/// A name and its place.
#[derive(Clone, Debug)]
pub struct Name {
    /// The name.
    pub text: String,
    /// Where.
    pub span: Span,
}

/// One item between parentheses.
#[derive(Clone, Debug)]
pub struct Item {
    /// `field:` in front, if any.
    pub field: Option<Name>,
    /// The value.
    pub value: Tree,
}

impl Tree {
    /// What it is, for messages: `a list`.
    pub fn describe(&self) -> &'static str {
        match &self.kind {
            TreeKind::Number(_) => "a number",
            TreeKind::Bool(_) => "a truth value",
            TreeKind::Text(_) => "a string",
            TreeKind::Word(_) => "a name",
            TreeKind::List(_) => "a list",
            TreeKind::Map(_) => "a map",
            TreeKind::Call(c) if c.name.is_none() => "a tuple",
            TreeKind::Call(_) => "a value with fields",
        }
    }

    /// The word or the callee: `Causal` of `Causal` and of `Causal(..)`.
    pub fn head(&self) -> Option<&str> {
        match &self.kind {
            TreeKind::Word(w) => Some(w),
            TreeKind::Call(c) => c.name.as_ref().map(|n| n.text.as_str()),
            _ => None,
        }
    }

    /// Place of [`Tree::head`], else of the whole.
    pub fn head_span(&self) -> Span {
        match &self.kind {
            TreeKind::Call(Call { name: Some(n), .. }) => n.span,
            _ => self.span,
        }
    }
}

/// Reads a whole file.
///
/// # Errors
/// E0101 at the first syntax error, E0106 when brackets nest too deep.
pub fn parse(source: SourceId, text: &str) -> Result<Tree, Box<Diagnostic>> {
    let mut p = Parser { source, text, at: 0, depth: 0 };
    p.space()?;
    let tree = p.value()?;
    p.space()?;
    if p.at < text.len() {
        return Err(p.unexpected("the end of the file"));
    }
    Ok(tree)
}

struct Parser<'a> {
    source: SourceId,
    text: &'a str,
    at: usize,
    depth: u32,
}

type Parsed<T> = Result<T, Box<Diagnostic>>;

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn span(&self, start: usize) -> Span {
        Span { source: self.source, start: start as u32, end: self.at as u32 }
    }

    fn eat(&mut self, c: char) -> bool {
        let hit = self.peek() == Some(c);
        if hit {
            self.at += c.len_utf8();
        }
        hit
    }

    fn error(&self, start: usize, end: usize, headline: &str, label: &str) -> Box<Diagnostic> {
        let span = Span { source: self.source, start: start as u32, end: end as u32 };
        Box::new(Diagnostic::error(codes::SYNTAX, headline, span, label))
    }

    fn unexpected(&self, wanted: &str) -> Box<Diagnostic> {
        match self.peek() {
            None => {
                let end = self.text.trim_end().len();
                let last = self.text[..end].char_indices().last().map_or(0, |(i, _)| i);
                let headline = format!("expected {wanted}, found the end of the file");
                self.error(last, end, &headline, "the file ends here")
            }
            Some(c) => {
                let word = self.word_end(self.at);
                let end = if word > self.at { word } else { self.at + c.len_utf8() };
                let found = &self.text[self.at..end];
                let short: String = found.chars().take(24).collect();
                self.error(
                    self.at,
                    end,
                    &format!("expected {wanted}, found `{short}`"),
                    "unexpected here",
                )
            }
        }
    }

    fn word_end(&self, from: usize) -> usize {
        let word = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
        from + self.text[from..].chars().take_while(word).map(char::len_utf8).sum::<usize>()
    }

    /// Skips blanks and comments; block comments nest.
    fn space(&mut self) -> Parsed<()> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with("//") {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if trimmed.starts_with("/*") {
                self.block_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn block_comment(&mut self) -> Parsed<()> {
        let start = self.at;
        let mut open = 0u32;
        loop {
            let rest = self.rest();
            if rest.starts_with("/*") {
                open += 1;
                self.at += 2;
            } else if rest.starts_with("*/") {
                open -= 1;
                self.at += 2;
                if open == 0 {
                    return Ok(());
                }
            } else if let Some(c) = self.peek() {
                self.at += c.len_utf8();
            } else {
                return Err(self.error(start, start + 2, "comment is never closed", "opened here"));
            }
        }
    }

    fn value(&mut self) -> Parsed<Tree> {
        let start = self.at;
        let kind = match self.peek() {
            Some('[') => self.nested(Self::list)?,
            Some('{') => self.nested(Self::map)?,
            Some('(') => self.nested(|p| p.call(None))?,
            Some('"') => self.string()?,
            Some('r') if self.rest().starts_with("r\"") || self.rest().starts_with("r#") => {
                self.raw_string()?
            }
            Some(c) if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => self.number()?,
            Some(c) if c.is_ascii_alphabetic() || c == '_' => self.word()?,
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Tree { kind, span: self.span(start) })
    }

    fn nested(&mut self, f: impl FnOnce(&mut Self) -> Parsed<TreeKind>) -> Parsed<TreeKind> {
        if self.depth == MAX_DEPTH {
            let span = Span { source: self.source, start: self.at as u32, end: self.at as u32 + 1 };
            let headline = format!("values nest deeper than {MAX_DEPTH} levels");
            let error = Diagnostic::error(codes::TOO_DEEP, headline, span, "this one is too deep");
            return Err(Box::new(error.help("move inner parts into a block of their own")));
        }
        self.depth += 1;
        let kind = f(self);
        self.depth -= 1;
        kind
    }

    fn list(&mut self) -> Parsed<TreeKind> {
        let open = self.at;
        self.at += 1;
        let mut items = Vec::new();
        while !self.closed(open, ']')? {
            items.push(self.value()?);
            self.comma(open, ']')?;
        }
        Ok(TreeKind::List(items))
    }

    fn map(&mut self) -> Parsed<TreeKind> {
        let open = self.at;
        self.at += 1;
        let mut entries = Vec::new();
        while !self.closed(open, '}')? {
            let key = self.value()?;
            self.space()?;
            if !self.eat(':') {
                return Err(self.unexpected("`:` after a map key"));
            }
            self.space()?;
            entries.push((key, self.value()?));
            self.comma(open, '}')?;
        }
        Ok(TreeKind::Map(entries))
    }

    fn call(&mut self, name: Option<Name>) -> Parsed<TreeKind> {
        let open = self.at;
        self.at += 1;
        let mut items = Vec::new();
        while !self.closed(open, ')')? {
            let field = self.field_name()?;
            items.push(Item { field, value: self.value()? });
            self.comma(open, ')')?;
        }
        Ok(TreeKind::Call(Call { name, items }))
    }

    fn field_name(&mut self) -> Parsed<Option<Name>> {
        let start = self.at;
        if !self.peek().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') {
            return Ok(None);
        }
        let len =
            self.rest().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').count();
        self.at += len;
        let span = self.span(start);
        self.space()?;
        if self.eat(':') {
            let text = self.text[start..start + len].to_owned();
            self.space()?;
            return Ok(Some(Name { text, span }));
        }
        self.at = start;
        Ok(None)
    }

    /// Skips blanks; true when the bracket opened at `open` closes here.
    fn closed(&mut self, open: usize, close: char) -> Parsed<bool> {
        self.space()?;
        if self.peek().is_none() {
            let headline = format!("`{}` is never closed", &self.text[open..=open]);
            return Err(self.error(open, open + 1, &headline, &format!("no `{close}` follows")));
        }
        Ok(self.eat(close))
    }

    fn comma(&mut self, open: usize, close: char) -> Parsed<()> {
        self.space()?;
        if self.eat(',') || self.peek() == Some(close) {
            return Ok(());
        }
        if self.peek().is_none() {
            self.closed(open, close)?;
        }
        Err(self.unexpected(&format!("`,` or `{close}`")))
    }

    fn number(&mut self) -> Parsed<TreeKind> {
        let start = self.at;
        self.at = self.word_end(start);
        let text: String = self.text[start..self.at].chars().filter(|c| *c != '_').collect();
        let plain = text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
        let value = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok().map(|v| v as f64),
            None if plain => text.parse::<f64>().ok().filter(|v| v.is_finite()),
            None => None,
        };
        let written = &self.text[start..self.at];
        value.map(TreeKind::Number).ok_or_else(|| {
            let short: String = written.chars().take(24).collect();
            self.error(
                start,
                self.at.max(start + 1),
                &format!("`{short}` is not a number"),
                "not a number",
            )
        })
    }

    fn word(&mut self) -> Parsed<TreeKind> {
        let start = self.at;
        let len =
            self.rest().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').count();
        self.at += len;
        let text = self.text[start..self.at].to_owned();
        match text.as_str() {
            "true" => return Ok(TreeKind::Bool(true)),
            "false" => return Ok(TreeKind::Bool(false)),
            _ => {}
        }
        let name = Name { text, span: self.span(start) };
        let end = self.at;
        self.space()?;
        if self.peek() == Some('(') {
            return self.nested(|p| p.call(Some(name)));
        }
        self.at = end;
        Ok(TreeKind::Word(name.text))
    }

    fn string(&mut self) -> Parsed<TreeKind> {
        let open = self.at;
        self.at += 1;
        let start = self.at as u32;
        let mut value = String::new();
        let mut verbatim = true;
        loop {
            match self.peek() {
                None => return Err(self.unclosed_string(open)),
                Some('"') => {
                    self.at += 1;
                    return Ok(TreeKind::Text(Text { value, start, verbatim }));
                }
                Some('\\') => {
                    verbatim = false;
                    value.extend(self.escape()?);
                }
                Some(c) => {
                    value.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
    }

    fn unclosed_string(&self, open: usize) -> Box<Diagnostic> {
        let line = self.text[open..].lines().next().map_or(0, str::len);
        self.error(open, open + line.max(1), "string is never closed", "opened here")
    }

    /// One escape; a backslash before a line end joins the lines and gives nothing.
    fn escape(&mut self) -> Parsed<Option<char>> {
        let start = self.at;
        self.at += 1;
        let c = self.peek();
        self.at += c.map_or(0, char::len_utf8);
        match c {
            Some('n') => Ok(Some('\n')),
            Some('t') => Ok(Some('\t')),
            Some('r') => Ok(Some('\r')),
            Some('0') => Ok(Some('\0')),
            Some(c @ ('"' | '\\' | '\'')) => Ok(Some(c)),
            Some('\n') => {
                let rest = self.rest();
                self.at += rest.len() - rest.trim_start().len();
                Ok(None)
            }
            Some('u') => self.unicode_escape(start).map(Some),
            _ => Err(self.error(start, self.at, "unknown escape in a string", "not an escape")),
        }
    }

    fn unicode_escape(&mut self, start: usize) -> Parsed<char> {
        let digits = self.rest().strip_prefix('{').and_then(|r| r.split_once('}')).map(|(d, _)| d);
        let value = digits
            .filter(|d| d.len() <= 6)
            .and_then(|d| u32::from_str_radix(d, 16).ok())
            .and_then(char::from_u32);
        match (value, digits.map(str::len)) {
            (Some(c), Some(len)) => {
                self.at += len + 2;
                Ok(c)
            }
            _ => Err(self.error(start, self.at, "unknown escape in a string", "not an escape")),
        }
    }

    fn raw_string(&mut self) -> Parsed<TreeKind> {
        let open = self.at;
        let hashes = self.rest()[1..].chars().take_while(|c| *c == '#').count();
        self.at += 1 + hashes;
        if !self.eat('"') {
            return Err(self.unexpected("a raw string"));
        }
        let start = self.at as u32;
        let close = format!("\"{}", "#".repeat(hashes));
        let Some(len) = self.rest().find(&close) else {
            return Err(self.unclosed_string(open));
        };
        let value = self.rest()[..len].to_owned();
        self.at += len + close.len();
        Ok(TreeKind::Text(Text { value, start, verbatim: true }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        match parse(SourceId(0), text) {
            Ok(tree) => format!("{} {:?}", tree.describe(), (tree.span.start, tree.span.end)),
            Err(d) => {
                let s = d.primary.span;
                format!("{} {} `{}`", d.code, d.headline, &text[s.start as usize..s.end as usize])
            }
        }
    }

    #[test]
    fn values_carry_their_place() {
        assert_eq!(show(" [1, 2.5e-3, /* c */ a] // end"), "a list (1, 23)");
        assert_eq!(show("Block(a: {\"k\": (1, x: 2)}, )"), "a value with fields (0, 28)");
    }

    #[test]
    fn syntax_errors_point_at_the_token() {
        assert_eq!(show("[1, 2"), "E0101 `[` is never closed `[`");
        assert_eq!(show("[1 2]"), "E0101 expected `,` or `]`, found `2` `2`");
        assert_eq!(show("(\"a)"), "E0101 string is never closed `\"a)`");
        assert_eq!(show("1.2.3"), "E0101 `1.2.3` is not a number `1.2.3`");
        assert_eq!(show(""), "E0101 expected a value, found the end of the file ``");
        assert!(show(&"[".repeat(1_000_000)).starts_with("E0106"));
    }
}
