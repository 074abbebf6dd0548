//! Text to tokens.
//!
//! # Invariants
//! - Never fails at a character boundary: a character that starts no token is an error with its place.

use crate::source::{LoadError, Source, Span, code};

/// One token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A name: `add`, `%r1`, `$L__BB0_1`, `_`.
    Name(&'a str),
    /// A dot and a name, without the dot: `shared::cta` of `.shared::cta`.
    Dotted(&'a str),
    /// A whole number.
    Int(u64),
    /// `0f3F800000`.
    F32(u32),
    /// `0d…` or a decimal fraction.
    F64(u64),
    /// The inside of a string.
    Text(&'a str),
    /// One character of punctuation.
    Sign(char),
    /// The end of the text.
    End,
}

/// A token and its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spanned<'a> {
    pub(super) token: Token<'a>,
    pub(super) span: Span,
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%')
}

struct Lexer<'a> {
    source: &'a Source,
    text: &'a str,
    at: usize,
}

/// All tokens of `source`, the last one [`Token::End`].
pub(super) fn tokens(source: &Source) -> Result<Vec<Spanned<'_>>, LoadError> {
    let mut lexer = Lexer { source, text: source.text(), at: 0 };
    let mut found = Vec::with_capacity(lexer.text.len() / 4);
    loop {
        lexer.skip_blank()?;
        let start = lexer.at;
        let token = lexer.token()?;
        found.push(Spanned { token, span: span(start, lexer.at) });
        if token == Token::End {
            return Ok(found);
        }
    }
}

fn span(start: usize, end: usize) -> Span {
    Span { start: start as u32, end: end as u32 }
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn error(&self, start: usize, message: &str) -> LoadError {
        self.source.error(code::SYNTAX, span(start, self.at), message.to_owned())
    }

    fn skip_blank(&mut self) -> Result<(), LoadError> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b' ' | b'\t' | b'\r' | b'\n', _) => self.at += 1,
                (b'/', b'/') => {
                    let rest = &self.text[self.at..];
                    self.at += rest.find('\n').unwrap_or(rest.len());
                }
                (b'/', b'*') => {
                    let Some(end) = self.text[self.at + 2..].find("*/") else {
                        return Err(self.error(self.at, "a comment without an end"));
                    };
                    self.at += end + 4;
                }
                _ => return Ok(()),
            }
        }
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.at < self.text.len() && keep(self.peek(0)) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn token(&mut self) -> Result<Token<'a>, LoadError> {
        let Some(first) = self.text[self.at..].chars().next() else { return Ok(Token::End) };
        match first {
            '0'..='9' => self.number(),
            '"' => self.string(),
            '.' => self.dotted(),
            _ if first.is_ascii() && is_name(first as u8) => {
                Ok(Token::Name(self.take_while(is_name)))
            }
            '{' | '}' | '(' | ')' | '[' | ']' | ',' | ';' | ':' | '|' | '!' | '@' | '+' | '-'
            | '*' | '/' | '<' | '>' | '=' | '&' | '^' | '~' | '?' => {
                self.at += 1;
                Ok(Token::Sign(first))
            }
            _ => Err(self.error(self.at, &format!("`{}` starts nothing", first.escape_debug()))),
        }
    }

    fn dotted(&mut self) -> Result<Token<'a>, LoadError> {
        let start = self.at;
        self.at += 1;
        loop {
            if is_name(self.peek(0)) {
                self.at += 1;
            } else if self.peek(0) == b':' && self.peek(1) == b':' && is_name(self.peek(2)) {
                self.at += 2;
            } else {
                break;
            }
        }
        if self.at == start + 1 {
            return Err(self.error(start, "a dot without a name"));
        }
        Ok(Token::Dotted(&self.text[start + 1..self.at]))
    }

    fn string(&mut self) -> Result<Token<'a>, LoadError> {
        let start = self.at;
        let Some(length) = self.text[start + 1..].find(['"', '\n']) else {
            return Err(self.error(start, "a string without an end"));
        };
        let end = start + 1 + length;
        if self.text.as_bytes()[end] != b'"' {
            return Err(self.error(start, "a string without an end"));
        }
        self.at = end + 1;
        Ok(Token::Text(&self.text[start + 1..end]))
    }

    fn number(&mut self) -> Result<Token<'a>, LoadError> {
        let start = self.at;
        match (self.peek(0), self.peek(1)) {
            (b'0', b'f' | b'F') => return self.float_bits(start, 8),
            (b'0', b'd' | b'D') => return self.float_bits(start, 16),
            (b'0', b'x' | b'X') => return self.radix(start, 16),
            (b'0', b'b' | b'B') => return self.radix(start, 2),
            _ => {}
        }
        let whole = self.take_while(|byte| byte.is_ascii_digit());
        if self.peek(0) == b'.' || matches!(self.peek(0), b'e' | b'E') {
            return self.fraction(start);
        }
        let digits = if whole.len() > 1 { whole.trim_start_matches('0') } else { whole };
        let octal = whole.len() > 1 && whole.starts_with('0');
        let digits = if digits.is_empty() { "0" } else { digits };
        let value = u64::from_str_radix(digits, if octal { 8 } else { 10 });
        self.finish_int(start, value.ok())
    }

    fn finish_int(&mut self, start: usize, value: Option<u64>) -> Result<Token<'a>, LoadError> {
        if self.peek(0) == b'U' {
            self.at += 1;
        }
        if is_name(self.peek(0)) {
            return Err(self.error(start, "a number with letters in it"));
        }
        value.map(Token::Int).ok_or_else(|| self.error(start, "a number beyond 64 bits"))
    }

    fn radix(&mut self, start: usize, radix: u32) -> Result<Token<'a>, LoadError> {
        self.at += 2;
        let digits = self.take_while(|byte| char::from(byte).is_digit(radix));
        let value = u64::from_str_radix(digits, radix);
        self.finish_int(start, value.ok())
    }

    fn float_bits(&mut self, start: usize, digits: usize) -> Result<Token<'a>, LoadError> {
        self.at += 2;
        let text = self.take_while(|byte| byte.is_ascii_hexdigit());
        let value = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == digits);
        let Some(bits) = value else {
            return Err(self.error(start, &format!("a float written in bits has {digits} digits")));
        };
        Ok(if digits == 8 { Token::F32(bits as u32) } else { Token::F64(bits) })
    }

    fn fraction(&mut self, start: usize) -> Result<Token<'a>, LoadError> {
        if self.peek(0) == b'.' {
            self.at += 1;
            self.take_while(|byte| byte.is_ascii_digit());
        }
        if matches!(self.peek(0), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(0), b'+' | b'-') {
                self.at += 1;
            }
            self.take_while(|byte| byte.is_ascii_digit());
        }
        let value: Option<f64> = self.text[start..self.at].parse().ok();
        let value = value.filter(|_| !is_name(self.peek(0)));
        value.map(|v| Token::F64(v.to_bits())).ok_or_else(|| self.error(start, "not a number"))
    }
}
