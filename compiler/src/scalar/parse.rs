//! Scalar expressions as written: text to a small tree with byte ranges.
//!
//! ```text
//! or     = and ("||" and)*            and  = cmp ("&&" cmp)*
//! cmp    = sum (("==" | "!=" | "<" | "<=" | ">" | ">=") sum)?
//! sum    = product (("+" | "-") product)*
//! product = prefix (("*" | "/" | "%") prefix)*
//! prefix = ("-" | "!") prefix | power     power = atom ("^" prefix)?
//! atom   = number | "(" or ")" | name | name "[" index* "]" | name "(" or ("," or)* ")"
//! ```
//!
//! # Invariants
//! - Ranges are byte ranges of the parsed text, on character boundaries.
//! - Nesting is bounded by [`MAX_DEPTH`], so no input overflows the stack.

use std::ops::Range;

use super::{Binary, Cmp};

/// Deepest nesting of an expression.
pub const MAX_DEPTH: u32 = 64;

/// An expression and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Bytes of the text it covers.
    pub range: Range<u32>,
}

/// A word and where it stands: an index letter, an output dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word.
    pub text: String,
    /// Bytes of the text it covers.
    pub range: Range<u32>,
}

/// The forms of an expression.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// A literal.
    Number(f64),
    /// An operand or a constant, with index words if brackets follow.
    Name {
        /// The name; may contain dots.
        name: String,
        /// `x[b s d]`: the words between the brackets.
        index: Option<Vec<Word>>,
    },
    /// `-x`.
    Neg(Box<Expr>),
    /// `!x`.
    Not(Box<Expr>),
    /// An arithmetic or logical operator.
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// A comparison.
    Cmp(Cmp, Box<Expr>, Box<Expr>),
    /// `f(x, y)`.
    Call(Word, Vec<Expr>),
}

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Bytes of the text to blame.
    pub range: Range<u32>,
    /// What is wrong, as a headline.
    pub message: String,
}

/// An expression with the dimensions of its result: `x[b s] * y[s] -> b s`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// The element.
    pub expr: Expr,
    /// The words after `->`, if there is an arrow.
    pub out: Option<Vec<Word>>,
}

/// Parses an expression.
///
/// # Errors
/// The first place where the text departs from the grammar.
pub fn parse(text: &str) -> Result<Expr, ParseError> {
    let mut p = Parser::new(text);
    let expr = p.or()?;
    p.end()?;
    Ok(expr)
}

/// Parses a list of dimension words: `b s d`, `... d`.
///
/// # Errors
/// The first place where the text departs from the grammar.
pub fn parse_words(text: &str) -> Result<Vec<Word>, ParseError> {
    let mut p = Parser::new(text);
    let words = p.words(None)?;
    p.end()?;
    Ok(words)
}

/// Parses an expression with an optional `-> b s d`.
///
/// # Errors
/// The first place where the text departs from the grammar.
pub fn parse_mapping(text: &str) -> Result<Mapping, ParseError> {
    let mut p = Parser::new(text);
    let expr = p.or()?;
    let out = if p.eat("->") { Some(p.words(None)?) } else { None };
    p.end()?;
    Ok(Mapping { expr, out })
}

/// What [`Expr::names`] calls: a name, its index words, its range.
pub type NameFn<'f, 'a> = dyn FnMut(&'a str, Option<&'a [Word]>, &Range<u32>) + 'f;

impl Expr {
    /// Calls `f` with every name, its index words and its range, in reading order.
    pub fn names<'a>(&'a self, f: &mut NameFn<'_, 'a>) {
        match &self.kind {
            ExprKind::Number(_) => {}
            ExprKind::Name { name, index } => f(name, index.as_deref(), &self.range),
            ExprKind::Neg(x) | ExprKind::Not(x) => x.names(f),
            ExprKind::Binary(_, x, y) | ExprKind::Cmp(_, x, y) => {
                x.names(f);
                y.names(f);
            }
            ExprKind::Call(_, args) => args.iter().for_each(|a| a.names(f)),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    pos: usize,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Parser { text, pos: 0, depth: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.pos..]
    }

    fn skip_space(&mut self) {
        self.pos = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes a token if it comes next. `-` is not taken from `->`, nor `<` from `<=`.
    fn eat(&mut self, token: &str) -> bool {
        self.skip_space();
        let longer = match token {
            "-" => "->",
            "<" => "<=",
            ">" => ">=",
            "!" => "!=",
            _ => "",
        };
        let rest = self.rest();
        if !rest.starts_with(token) || (!longer.is_empty() && rest.starts_with(longer)) {
            return false;
        }
        self.pos += token.len();
        true
    }

    /// The range of the next token-like thing, for messages.
    fn here(&mut self) -> Range<u32> {
        self.skip_space();
        let width = match self.rest().chars().next() {
            Some(c) if is_name_start(c) => name_len(self.rest()),
            Some(c) => c.len_utf8(),
            None => 0,
        };
        self.pos as u32..(self.pos + width) as u32
    }

    fn error<T>(&mut self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError { range: self.here(), message: message.into() })
    }

    fn expect(&mut self, token: &str) -> Result<(), ParseError> {
        if self.eat(token) { Ok(()) } else { self.error(format!("expected `{token}` here")) }
    }

    fn end(&mut self) -> Result<(), ParseError> {
        self.skip_space();
        if self.rest().is_empty() {
            return Ok(());
        }
        self.error("expected an operator or the end of the expression")
    }

    fn nested<T>(
        &mut self,
        f: impl FnOnce(&mut Self) -> Result<T, ParseError>,
    ) -> Result<T, ParseError> {
        if self.depth == MAX_DEPTH {
            return self.error(format!("expression nests deeper than {MAX_DEPTH} levels"));
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    fn or(&mut self) -> Result<Expr, ParseError> {
        self.nested(|p| p.left_assoc(&[("||", Binary::Or)], Self::and))
    }

    fn and(&mut self) -> Result<Expr, ParseError> {
        self.left_assoc(&[("&&", Binary::And)], Self::cmp)
    }

    fn cmp(&mut self) -> Result<Expr, ParseError> {
        let lhs = self.sum()?;
        let table = [
            ("==", Cmp::Eq),
            ("!=", Cmp::Ne),
            ("<=", Cmp::Le),
            (">=", Cmp::Ge),
            ("<", Cmp::Lt),
            (">", Cmp::Gt),
        ];
        let Some((_, cmp)) = table.into_iter().find(|(t, _)| self.eat(t)) else { return Ok(lhs) };
        let rhs = self.sum()?;
        let range = lhs.range.start..rhs.range.end;
        Ok(Expr { kind: ExprKind::Cmp(cmp, Box::new(lhs), Box::new(rhs)), range })
    }

    fn sum(&mut self) -> Result<Expr, ParseError> {
        self.left_assoc(&[("+", Binary::Add), ("-", Binary::Sub)], Self::product)
    }

    fn product(&mut self) -> Result<Expr, ParseError> {
        let table = [("*", Binary::Mul), ("/", Binary::Div), ("%", Binary::Rem)];
        self.left_assoc(&table, Self::prefix)
    }

    fn left_assoc(
        &mut self,
        table: &[(&str, Binary)],
        operand: fn(&mut Self) -> Result<Expr, ParseError>,
    ) -> Result<Expr, ParseError> {
        let mut lhs = operand(self)?;
        while let Some((_, op)) = table.iter().find(|(t, _)| self.eat(t)) {
            let rhs = operand(self)?;
            let range = lhs.range.start..rhs.range.end;
            lhs = Expr { kind: ExprKind::Binary(*op, Box::new(lhs), Box::new(rhs)), range };
        }
        Ok(lhs)
    }

    fn prefix(&mut self) -> Result<Expr, ParseError> {
        self.skip_space();
        let start = self.pos as u32;
        let wrap: fn(Box<Expr>) -> ExprKind = if self.eat("-") {
            ExprKind::Neg
        } else if self.eat("!") {
            ExprKind::Not
        } else {
            return self.power();
        };
        let x = self.nested(Self::prefix)?;
        let range = start..x.range.end;
        Ok(Expr { kind: wrap(Box::new(x)), range })
    }

    fn power(&mut self) -> Result<Expr, ParseError> {
        let base = self.atom()?;
        if !self.eat("^") {
            return Ok(base);
        }
        let exponent = self.nested(Self::prefix)?;
        let range = base.range.start..exponent.range.end;
        let kind = ExprKind::Binary(Binary::Pow, Box::new(base), Box::new(exponent));
        Ok(Expr { kind, range })
    }

    fn atom(&mut self) -> Result<Expr, ParseError> {
        self.skip_space();
        let start = self.pos;
        if self.eat("(") {
            let mut inner = self.or()?;
            self.expect(")")?;
            inner.range = start as u32..self.pos as u32;
            return Ok(inner);
        }
        match self.rest().chars().next() {
            Some(c) if c.is_ascii_digit() || c == '.' => self.number(),
            Some(c) if is_name_start(c) => self.name(),
            Some(c) => self.error(format!("expected a value, found `{c}`")),
            None => self.error("expected a value, found the end of the expression"),
        }
    }

    fn number(&mut self) -> Result<Expr, ParseError> {
        let start = self.pos;
        let len = number_len(self.rest());
        let literal: String = self.rest()[..len].chars().filter(|c| *c != '_').collect();
        let range = start as u32..(start + len.max(1)) as u32;
        match literal.parse::<f64>() {
            Ok(value) if value.is_finite() => {
                self.pos += len;
                Ok(Expr { kind: ExprKind::Number(value), range })
            }
            _ => Err(ParseError { range, message: format!("`{literal}` is not a number") }),
        }
    }

    fn name(&mut self) -> Result<Expr, ParseError> {
        let start = self.pos;
        let len = name_len(self.rest());
        let name = self.rest()[..len].to_string();
        let word = Word { text: name.clone(), range: start as u32..(start + len) as u32 };
        self.pos += len;
        let kind = if self.rest().starts_with('[') {
            self.pos += 1;
            let index = self.words(Some(']'))?;
            self.expect("]")?;
            ExprKind::Name { name, index: Some(index) }
        } else if self.rest().starts_with('(') {
            self.pos += 1;
            ExprKind::Call(word, self.arguments()?)
        } else {
            ExprKind::Name { name, index: None }
        };
        Ok(Expr { kind, range: start as u32..self.pos as u32 })
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, ParseError> {
        let mut args = Vec::new();
        if self.eat(")") {
            return Ok(args);
        }
        loop {
            args.push(self.or()?);
            if self.eat(")") {
                return Ok(args);
            }
            self.expect(",")?;
        }
    }

    /// Words (`d`, `1` or `...`) up to a closing character or the end of the text.
    fn words(&mut self, close: Option<char>) -> Result<Vec<Word>, ParseError> {
        let mut words = Vec::new();
        loop {
            self.skip_space();
            let len = match self.rest().chars().next() {
                None => return Ok(words),
                c if c == close => return Ok(words),
                Some('1') => 1,
                Some('.') if self.rest().starts_with("...") => 3,
                Some(c) if is_name_start(c) => name_len(self.rest()),
                Some(c) => return self.error(format!("expected a dimension, found `{c}`")),
            };
            let text = self.rest()[..len].to_string();
            words.push(Word { text, range: self.pos as u32..(self.pos + len) as u32 });
            self.pos += len;
        }
    }
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

/// Bytes of the name at the start of `text`: word characters, and dots between words.
fn name_len(text: &str) -> usize {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let dot = c == '.' && chars.peek().is_some_and(|(_, next)| is_name_start(*next));
        if !(c.is_alphanumeric() || c == '_' || dot) {
            return at;
        }
    }
    text.len()
}

/// Bytes of the number at the start of `text`: digits, `_`, a fraction and an exponent.
fn number_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |mut i: usize| {
        while i < bytes.len() && (bytes[i].is_ascii_digit() || bytes[i] == b'_') {
            i += 1;
        }
        i
    };
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        fn go(e: &Expr) -> String {
            match &e.kind {
                ExprKind::Number(x) => format!("{x}"),
                ExprKind::Name { name, index: None } => name.clone(),
                ExprKind::Name { name, index: Some(i) } => {
                    let words: Vec<_> = i.iter().map(|w| w.text.as_str()).collect();
                    format!("{name}[{}]", words.join(" "))
                }
                ExprKind::Neg(x) => format!("(neg {})", go(x)),
                ExprKind::Not(x) => format!("(not {})", go(x)),
                ExprKind::Binary(f, x, y) => format!("({f:?} {} {})", go(x), go(y)),
                ExprKind::Cmp(f, x, y) => format!("({f:?} {} {})", go(x), go(y)),
                ExprKind::Call(f, a) => {
                    format!("({} {})", f.text, a.iter().map(go).collect::<Vec<_>>().join(" "))
                }
            }
        }
        parse(text).map_or_else(|e| format!("{:?} {}", e.range, e.message), |e| go(&e))
    }

    #[test]
    fn operators_bind_as_in_arithmetic() {
        assert_eq!(shown("a + b * c - d"), "(Sub (Add a (Mul b c)) d)");
        assert_eq!(shown("-x^2"), "(neg (Pow x 2))");
        assert_eq!(shown("2^-3"), "(Pow 2 (neg 3))");
        assert_eq!(
            shown("a < b && !c || d >= 1e-6"),
            "(Or (And (Lt a b) (not c)) (Ge d 0.000001))"
        );
        assert_eq!(shown("silu(gate[t f]) * up[t f]"), "(Mul (silu gate[t f]) up[t f])");
        assert_eq!(shown("where(attn.max > 1_000, a, b)"), "(where (Gt attn.max 1000) a b)");
    }

    #[test]
    fn errors_point_at_the_offending_bytes() {
        assert_eq!(shown("a + "), "4..4 expected a value, found the end of the expression");
        assert_eq!(shown("a b"), "2..3 expected an operator or the end of the expression");
        assert_eq!(shown("(a"), "2..2 expected `)` here");
        assert_eq!(shown("x[b ,]"), "4..5 expected a dimension, found `,`");
        assert_eq!(shown("."), "0..1 `.` is not a number");
        assert_eq!(shown("1e999"), "0..5 `1e999` is not a number");
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        for text in ["(".repeat(100_000), "-".repeat(100_000), "2^".repeat(100_000)] {
            assert!(parse(&text).is_err_and(|e| e.message.contains("deeper")));
        }
    }

    #[test]
    fn an_arrow_names_the_result_dimensions() {
        let m = parse_mapping("x[b s] - y[s] -> s b").expect("valid");
        let out: Vec<_> = m.out.expect("arrow").into_iter().map(|w| w.text).collect();
        assert_eq!(out, ["s", "b"]);
        assert!(parse_mapping("x").is_ok_and(|m| m.out.is_none()));
    }
}
