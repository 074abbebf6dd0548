//! A whole text: directives, variables and functions.

use super::ast::{Function, Tuning, Unit};
use super::body::body;
use super::cursor::Cursor;
use super::declaration::{parameters, variables};
use super::lexer::Token;
use super::{MAX_NESTING, MAX_TEXT_BYTES};
use crate::source::{LoadError, Source, Span, code};

/// Parses a text.
///
/// # Errors
/// V0001 with the place of what does not belong there, V0005 for what is too long or too deep.
pub(crate) fn parse_unit(source: &Source) -> Result<Unit<'_>, LoadError> {
    if source.text().len() > MAX_TEXT_BYTES {
        let message = format!("a text of more than {MAX_TEXT_BYTES} bytes");
        return Err(source.error(code::LIMIT, Span::default(), message));
    }
    let mut cursor = Cursor::new(source)?;
    let mut unit = Unit::default();
    if cursor.peek() != Token::Dotted("version") {
        return Err(cursor.expected("`.version` at the beginning"));
    }
    while cursor.peek() != Token::End {
        item(&mut cursor, &mut unit)?;
    }
    if unit.target.is_empty() {
        return Err(cursor.expected("a `.target`"));
    }
    Ok(unit)
}

fn item<'a>(cursor: &mut Cursor<'a>, unit: &mut Unit<'a>) -> Result<(), LoadError> {
    let mut is_extern = false;
    loop {
        let span = cursor.span();
        match cursor.dotted()? {
            "version" => return version(cursor),
            "target" => return target(cursor, unit),
            "address_size" => return address_size(cursor),
            "file" => return file(cursor, unit),
            "section" => return section(cursor),
            "extern" => is_extern = true,
            "visible" | "weak" | "common" => {}
            "entry" => return function(cursor, unit, true),
            "func" => return function(cursor, unit, false),
            space @ ("global" | "const" | "shared") => {
                unit.variables.extend(variables(cursor, space, is_extern)?);
                return cursor.expect(';');
            }
            other => {
                let message = format!("unknown directive `.{other}`");
                return Err(cursor.source.error(code::UNKNOWN_INSTRUCTION, span, message));
            }
        }
    }
}

fn version(cursor: &mut Cursor<'_>) -> Result<(), LoadError> {
    match cursor.next() {
        Token::F64(_) | Token::Int(_) => Ok(()),
        _ => Err(cursor.expected("a version")),
    }
}

fn target<'a>(cursor: &mut Cursor<'a>, unit: &mut Unit<'a>) -> Result<(), LoadError> {
    unit.target = cursor.name()?;
    while cursor.eat(',') {
        cursor.name()?;
    }
    Ok(())
}

fn address_size(cursor: &mut Cursor<'_>) -> Result<(), LoadError> {
    let span = cursor.span();
    if cursor.int()? != 64 {
        let message = "only 64-bit addresses are supported".to_owned();
        return Err(cursor.source.error(code::UNKNOWN_INSTRUCTION, span, message));
    }
    Ok(())
}

fn file<'a>(cursor: &mut Cursor<'a>, unit: &mut Unit<'a>) -> Result<(), LoadError> {
    let index = cursor.int()?;
    let Token::Text(name) = cursor.next() else { return Err(cursor.expected("a file name")) };
    while cursor.eat(',') {
        cursor.int()?;
    }
    unit.files.push((index, name));
    Ok(())
}

/// Debug sections are stepped over.
fn section(cursor: &mut Cursor<'_>) -> Result<(), LoadError> {
    while !cursor.is_sign('{') {
        if cursor.next() == Token::End {
            return Err(cursor.expected("`{`"));
        }
    }
    let mut depth = 0;
    loop {
        match cursor.next() {
            Token::Sign('{') => depth += 1,
            Token::Sign('}') => depth -= 1,
            Token::End => return Err(cursor.expected("`}`")),
            _ => {}
        }
        if depth > MAX_NESTING {
            return Err(cursor.too_deep());
        }
        if depth == 0 {
            return Ok(());
        }
    }
}

fn function<'a>(
    cursor: &mut Cursor<'a>,
    unit: &mut Unit<'a>,
    is_entry: bool,
) -> Result<(), LoadError> {
    if cursor.eat_dotted("attribute") {
        while !cursor.eat(')') {
            if cursor.next() == Token::End {
                return Err(cursor.expected("`)`"));
            }
        }
    }
    let returns = if is_entry { Vec::new() } else { parameters(cursor)? };
    let span = cursor.span();
    let name = cursor.name()?;
    let params = parameters(cursor)?;
    let tuning = tuning(cursor)?;
    let body = if cursor.is_sign('{') { Some(body(cursor)?) } else { None };
    if body.is_none() {
        cursor.expect(';')?;
    }
    unit.functions.push(Function { name, is_entry, returns, params, tuning, body, span });
    Ok(())
}

fn tuning(cursor: &mut Cursor<'_>) -> Result<Tuning, LoadError> {
    let mut found = Tuning::default();
    while let Token::Dotted(word) = cursor.peek() {
        cursor.next();
        match word {
            "maxntid" => found.max_ntid = Some(extents(cursor)?),
            "reqntid" => found.req_ntid = Some(extents(cursor)?),
            "reqnctapercluster" => found.cluster = Some(extents(cursor)?),
            "maxnreg" => found.max_nreg = Some(small(cursor)?),
            "minnctapersm" | "maxnctapersm" | "maxclusterrank" => {
                small(cursor)?;
            }
            "explicitcluster" | "noreturn" | "blocksareclusters" => {}
            "abi_preserve" | "abi_preserve_control" => {
                small(cursor)?;
            }
            "pragma" => {
                while !cursor.eat(';') {
                    if cursor.next() == Token::End {
                        return Err(cursor.expected("`;`"));
                    }
                }
            }
            other => return Err(cursor.error(format!("unknown tuning directive `.{other}`"))),
        }
    }
    Ok(found)
}

fn small(cursor: &mut Cursor<'_>) -> Result<u32, LoadError> {
    let at = cursor.span();
    let value = cursor.int()?;
    u32::try_from(value).map_err(|_| {
        cursor.source.error(code::LIMIT, at, format!("{value} is more than 32 bits hold"))
    })
}

fn extents(cursor: &mut Cursor<'_>) -> Result<[u32; 3], LoadError> {
    let mut found = [1; 3];
    found[0] = small(cursor)?;
    for extent in &mut found[1..] {
        if cursor.eat(',') {
            *extent = small(cursor)?;
        }
    }
    Ok(found)
}
