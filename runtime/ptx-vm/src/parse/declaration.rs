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
    let (mut elems, mut unsized_array) = (1u64, false);
    while cursor.eat('[') {
        if cursor.eat(']') {
            unsized_array = true;
            continue;
        }
        let extent = cursor.int()?;
        let product = elems.checked_mul(extent);
        elems = product.ok_or_else(|| {
            cursor.source.error(code::LIMIT, span, format!("`{name}` is too large"))
        })?;
        cursor.expect(']')?;
    }
    let mut initial = Vec::new();
    if cursor.eat('=') {
        initialiser(cursor, &mut initial)?;
    }
    let Attributes { align, type_name, vector } = *attributes;
    // `[]` with values has as many elements as values.
    if unsized_array && !initial.is_empty() {
        (elems, unsized_array) = (initial.len() as u64, false);
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

/// A value, or values in nested braces, flattened.
fn initialiser<'a>(
    cursor: &mut Cursor<'a>,
    values: &mut Vec<Initial<'a>>,
) -> Result<(), LoadError> {
    let mut depth = 0;
    loop {
        while cursor.eat('{') {
            depth += 1;
            if depth > MAX_NESTING {
                return Err(cursor.too_deep());
            }
        }
        if !cursor.is_sign('}') {
            values.push(initial_value(cursor)?);
        }
        loop {
            if depth == 0 {
                return Ok(());
            }
            if cursor.eat(',') {
                break;
            }
            cursor.expect('}')?;
            depth -= 1;
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
