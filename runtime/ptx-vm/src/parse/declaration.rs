//! Variables, parameters and their initialisers.

use super::MAX_NESTING;
use super::ast::{Initial, Variable};
use super::cursor::Cursor;
use super::lexer::Token;
use crate::source::{LoadError, code};

/// What stands between the space and the name.
struct Attributes<'a> {
    align: Option<u64>,
    type_name: &'a str,
    vector: u32,
}

fn attributes<'a>(cursor: &mut Cursor<'a>) -> Result<Attributes<'a>, LoadError> {
    let mut found = Attributes { align: None, type_name: "", vector: 1 };
    let mut pointer = false;
    while let Token::Dotted(word) = cursor.peek() {
        cursor.next();
        match word {
            "align" => {
                let bytes = cursor.int()?;
                // `.ptr .align` speaks of what a parameter points to.
                found.align = if pointer { found.align } else { Some(bytes) };
            }
            "v2" => found.vector = 2,
            "v4" => found.vector = 4,
            "v8" => found.vector = 8,
            "ptr" => pointer = true,
            "global" | "shared" | "const" | "local" if pointer => {}
            "attribute" => skip_group(cursor)?,
            _ if found.type_name.is_empty() => found.type_name = word,
            _ => return Err(cursor.error(format!("`.{word}` does not belong here"))),
        }
    }
    if found.type_name.is_empty() {
        return Err(cursor.expected("a type"));
    }
    Ok(found)
}

fn skip_group(cursor: &mut Cursor<'_>) -> Result<(), LoadError> {
    cursor.expect('(')?;
    while !cursor.is_sign(')') {
        if cursor.next() == Token::End {
            return Err(cursor.expected("`)`"));
        }
    }
    cursor.expect(')')
}

/// `.align 4 .b8 name[16] = {…}` behind the word of its `space`, for all names up to the `;`.
pub(super) fn variables<'a>(
    cursor: &mut Cursor<'a>,
    space: &'a str,
    is_extern: bool,
) -> Result<Vec<Variable<'a>>, LoadError> {
    let attributes = attributes(cursor)?;
    let mut found = Vec::new();
    loop {
        found.push(declared(cursor, space, is_extern, &attributes)?);
        if !cursor.eat(',') {
            return Ok(found);
        }
    }
}

/// A parameter: `.param .u64 .ptr .align 1 name` or `.reg .b32 name`.
pub(super) fn parameter<'a>(cursor: &mut Cursor<'a>) -> Result<Variable<'a>, LoadError> {
    let space = cursor.dotted()?;
    if space != "param" && space != "reg" {
        return Err(cursor.error(format!("a parameter is `.param` or `.reg`, not `.{space}`")));
    }
    let attributes = attributes(cursor)?;
    declared(cursor, space, false, &attributes)
}

/// `(parameter, parameter)`, if there is a `(`.
pub(super) fn parameters<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<Variable<'a>>, LoadError> {
    let mut found = Vec::new();
    if !cursor.eat('(') || cursor.eat(')') {
        return Ok(found);
    }
    loop {
        found.push(parameter(cursor)?);
        if !cursor.eat(',') {
            cursor.expect(')')?;
            return Ok(found);
        }
    }
}

fn declared<'a>(
    cursor: &mut Cursor<'a>,
    space: &'a str,
    is_extern: bool,
    attributes: &Attributes<'a>,
) -> Result<Variable<'a>, LoadError> {
    let span = cursor.span();
    let name = cursor.name()?;
    let Attributes { align, type_name, vector } = *attributes;
    let source = cursor.source;
    let too_large = || source.error(code::LIMIT, span, format!("`{name}` is too large"));
    let mut extents = Vec::new();
    let mut unsized_array = false;
    while cursor.eat('[') {
        if cursor.eat(']') {
            if !extents.is_empty() || unsized_array {
                return Err(cursor.error("only the first extent can be left out".to_owned()));
            }
            unsized_array = true;
            continue;
        }
        extents.push(cursor.int()?);
        cursor.expect(']')?;
    }
    // Values of what braces can hold: the whole, then what is inside its first extent, and so on.
    let mut sizes = vec![u64::from(vector)];
    for extent in extents.iter().rev() {
        let product = sizes[sizes.len() - 1].checked_mul(*extent);
        sizes.push(product.ok_or_else(too_large)?);
    }
    let mut elems = sizes[sizes.len() - 1] / u64::from(vector);
    if vector == 1 {
        sizes.remove(0);
    }
    let inner = sizes.last().copied().unwrap_or(1);
    if unsized_array {
        sizes.push(u64::MAX);
    }
    sizes.reverse();
    let mut initial = Vec::new();
    if cursor.eat('=') {
        let end = Braces { sizes, open: Vec::new(), at: 0 }.read(cursor, &mut initial)?;
        // `[]` with values has as many elements as they fill.
        if unsized_array {
            elems = end.div_ceil(inner.max(1)).checked_mul(elems).ok_or_else(too_large)?;
            unsized_array = false;
        }
    }
    let elems = if unsized_array { 0 } else { elems };
    let align = align.filter(|a| *a > 0);
    Ok(Variable {
        name,
        space,
        is_extern,
        align,
        type_name,
        vector,
        elems,
        unsized_array,
        initial,
        span,
    })
}

fn wrong_braces(cursor: &Cursor<'_>, message: &str) -> LoadError {
    cursor.source.error(code::OPERAND, cursor.span(), message.to_owned())
}

/// Values in nested braces. As in C, a pair of braces is one element of what is around it, and the values that
/// it leaves out are zero.
struct Braces {
    /// Values that fit into braces, from the outermost on; inside of the last are single values.
    sizes: Vec<u64>,
    /// Where the open ones begin.
    open: Vec<u64>,
    at: u64,
}

impl Braces {
    /// Reads an initialiser; how many values it has, with those left out.
    fn read<'a>(
        mut self,
        cursor: &mut Cursor<'a>,
        values: &mut Vec<(u64, Initial<'a>)>,
    ) -> Result<u64, LoadError> {
        loop {
            while cursor.eat('{') {
                self.enter(cursor)?;
            }
            if !cursor.is_sign('}') {
                if self.room(cursor)? == 0 {
                    return Err(wrong_braces(cursor, "more values than the braces hold"));
                }
                values.push((self.at, initial_value(cursor)?));
                self.at += 1;
            }
            loop {
                if self.open.is_empty() {
                    return Ok(self.at);
                }
                if cursor.eat(',') {
                    break;
                }
                cursor.expect('}')?;
                self.leave();
            }
        }
    }

    /// Values that fit into braces at a depth.
    fn size(&self, depth: usize) -> u64 {
        self.sizes.get(depth).copied().unwrap_or(1)
    }

    /// Values that still fit into the innermost braces.
    fn room(&self, cursor: &Cursor<'_>) -> Result<u64, LoadError> {
        let Some(first) = self.open.last() else { return Ok(1) };
        let end = first.saturating_add(self.size(self.open.len() - 1));
        end.checked_sub(self.at).ok_or_else(|| wrong_braces(cursor, "more values than they hold"))
    }

    fn enter(&mut self, cursor: &Cursor<'_>) -> Result<(), LoadError> {
        if self.open.len() >= MAX_NESTING {
            return Err(cursor.too_deep());
        }
        if self.room(cursor)? == 0 {
            return Err(wrong_braces(cursor, "more values than the braces hold"));
        }
        let first = self.open.last().copied().unwrap_or(0);
        let size = self.size(self.open.len()).max(1);
        if !(self.at - first).is_multiple_of(size) {
            return Err(wrong_braces(cursor, "braces in the middle of an element"));
        }
        self.open.push(self.at);
        Ok(())
    }

    fn leave(&mut self) {
        let depth = self.open.len().saturating_sub(1);
        if let Some(first) = self.open.pop()
            && depth > 0
        {
            // The outermost braces are the whole variable, whose end nobody asks for.
            self.at = first.saturating_add(self.size(depth));
        }
    }
}

fn initial_value<'a>(cursor: &mut Cursor<'a>) -> Result<Initial<'a>, LoadError> {
    let span = cursor.span();
    match cursor.peek() {
        Token::Name("generic") => {
            cursor.next();
            cursor.expect('(')?;
            let symbol = cursor.name()?;
            cursor.expect(')')?;
            let offset = cursor.offset()? as u64;
            Ok(Initial::Address { symbol, offset, generic: true, span })
        }
        Token::Name(symbol) => {
            cursor.next();
            let offset = cursor.offset()? as u64;
            Ok(Initial::Address { symbol, offset, generic: false, span })
        }
        _ => Ok(Initial::Number(cursor.expression(0)?)),
    }
}
