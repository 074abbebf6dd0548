//! A position in the tokens, and the small steps every parsing function takes.

use super::ast::Number;
use super::lexer::{Spanned, Token, tokens};
use crate::source::{LoadError, Source, Span, code};

/// Tokens of one text and a position in them.
pub(super) struct Cursor<'a> {
    pub(super) source: &'a Source,
    tokens: Vec<Spanned<'a>>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a Source) -> Result<Self, LoadError> {
        Ok(Self { source, tokens: tokens(source)?, at: 0 })
    }

    fn nth(&self, ahead: usize) -> Spanned<'a> {
        self.tokens[(self.at + ahead).min(self.tokens.len() - 1)]
    }

    pub(super) fn peek(&self) -> Token<'a> {
        self.nth(0).token
    }

    pub(super) fn peek_second(&self) -> Token<'a> {
        self.nth(1).token
    }

    pub(super) fn span(&self) -> Span {
        self.nth(0).span
    }

    /// The byte behind the token stepped over last.
    pub(super) fn previous_end(&self) -> u32 {
        self.tokens[self.at.saturating_sub(1).min(self.tokens.len() - 1)].span.end
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    pub(super) fn text_of(&self, span: Span) -> &'a str {
        &self.source.text()[span.start as usize..span.end as usize]
    }

    /// An error at the next token.
    pub(super) fn expected(&self, what: &str) -> LoadError {
        let found = match self.peek() {
            Token::End => "the end of the text".to_owned(),
            _ => format!("`{}`", self.text_of(self.span()).escape_debug()),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    pub(super) fn error(&self, message: String) -> LoadError {
        self.source.error(code::SYNTAX, self.span(), message)
    }

    pub(super) fn too_deep(&self) -> LoadError {
        let message = format!("nested deeper than {} levels", super::MAX_NESTING);
        self.source.error(code::LIMIT, self.span(), message)
    }

    pub(super) fn is_sign(&self, sign: char) -> bool {
        self.peek() == Token::Sign(sign)
    }

    /// Steps over `sign` if it is next.
    pub(super) fn eat(&mut self, sign: char) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, sign: char) -> Result<(), LoadError> {
        if self.eat(sign) { Ok(()) } else { Err(self.expected(&format!("`{sign}`"))) }
    }

    /// Steps over `.word` if it is next.
    pub(super) fn eat_dotted(&mut self, word: &str) -> bool {
        let found = self.peek() == Token::Dotted(word);
        self.at += usize::from(found);
        found
    }

    pub(super) fn name(&mut self) -> Result<&'a str, LoadError> {
        match self.peek() {
            Token::Name(name) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.expected("a name")),
        }
    }

    pub(super) fn dotted(&mut self) -> Result<&'a str, LoadError> {
        match self.peek() {
            Token::Dotted(word) => {
                self.at += 1;
                Ok(word)
            }
            _ => Err(self.expected("a directive")),
        }
    }

    pub(super) fn int(&mut self) -> Result<u64, LoadError> {
        match self.peek() {
            Token::Int(value) => {
                self.at += 1;
                Ok(value)
            }
            _ => Err(self.expected("a whole number")),
        }
    }

    /// A number with signs before it.
    pub(super) fn number(&mut self) -> Result<Number, LoadError> {
        let mut negative = false;
        while self.is_sign('-') || self.is_sign('+') {
            negative ^= self.next() == Token::Sign('-');
        }
        let value = match self.peek() {
            Token::Int(value) if negative => Number::Int(value.wrapping_neg()),
            Token::Int(value) => Number::Int(value),
            Token::F32(bits) => Number::F32(bits ^ (u32::from(negative) << 31)),
            Token::F64(bits) => Number::F64(bits ^ (u64::from(negative) << 63)),
            _ => return Err(self.expected("a number")),
        };
        self.at += 1;
        Ok(value)
    }

    /// A number, or whole numbers in an expression of `+`, `-`, `*`, `/` and parentheses.
    pub(super) fn expression(&mut self, depth: usize) -> Result<Number, LoadError> {
        let mut sum = self.product(depth)?;
        while self.is_sign('+') || self.is_sign('-') {
            let minus = self.next() == Token::Sign('-');
            let (Number::Int(a), Number::Int(b)) = (sum, self.product(depth)?) else {
                return Err(self.expected("whole numbers in an expression"));
            };
            sum = Number::Int(if minus { a.wrapping_sub(b) } else { a.wrapping_add(b) });
        }
        Ok(sum)
    }

    fn product(&mut self, depth: usize) -> Result<Number, LoadError> {
        let mut product = self.factor(depth)?;
        while self.is_sign('*') || self.is_sign('/') {
            let times = self.next() == Token::Sign('*');
            let (Number::Int(a), Number::Int(b)) = (product, self.factor(depth)?) else {
                return Err(self.expected("whole numbers in an expression"));
            };
            let quotient = (a as i64).checked_div(b as i64);
            let quotient = quotient.ok_or_else(|| self.error("a division by zero".to_owned()));
            product = Number::Int(if times { a.wrapping_mul(b) } else { quotient? as u64 });
        }
        Ok(product)
    }

    fn factor(&mut self, depth: usize) -> Result<Number, LoadError> {
        if !self.eat('(') {
            return self.number();
        }
        if depth >= super::MAX_NESTING {
            return Err(self.too_deep());
        }
        let inside = self.expression(depth + 1)?;
        self.expect(')')?;
        Ok(inside)
    }

    /// `+ 4`, `+-8`, `- 2 + 1` behind a base: the sum, in bytes.
    pub(super) fn offset(&mut self) -> Result<i64, LoadError> {
        let mut sum = 0i64;
        while self.is_sign('+') || self.is_sign('-') {
            let Number::Int(value) = self.number()? else {
                return Err(self.expected("a whole number of bytes"));
            };
            sum = sum.wrapping_add(value as i64);
        }
        Ok(sum)
    }
}
