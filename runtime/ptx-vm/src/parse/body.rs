//! Statements and operands of a function's body.

use super::MAX_NESTING;
use super::ast::{Instruction, Number, Operand, Statement};
use super::cursor::Cursor;
use super::declaration::{parameters, variables};
use super::lexer::Token;
use crate::source::{LoadError, Span, code};

/// Registers that one name may stand for.
const MAX_REGISTERS: u64 = 1 << 20;

/// The statements between `{` and `}`; the `{` is next.
pub(super) fn body<'a>(cursor: &mut Cursor<'a>) -> Result<Vec<Statement<'a>>, LoadError> {
    cursor.expect('{')?;
    let mut statements = Vec::new();
    let mut depth = 1;
    while depth > 0 {
        match cursor.peek() {
            Token::Sign('{') => {
                cursor.next();
                depth += 1;
                if depth > MAX_NESTING {
                    return Err(cursor.too_deep());
                }
                statements.push(Statement::Open);
            }
            Token::Sign('}') => {
                cursor.next();
                depth -= 1;
                if depth > 0 {
                    statements.push(Statement::Close);
                }
            }
            Token::Sign(';') => {
                cursor.next();
            }
            Token::Dotted(_) => directive(cursor, &mut statements)?,
            Token::Name(_) if cursor.peek_second() == Token::Sign(':') => {
                label(cursor, &mut statements)?;
            }
            Token::Name(_) | Token::Sign('@') => statements.push(instruction(cursor)?),
            _ => return Err(cursor.expected("a statement or `}`")),
        }
    }
    Ok(statements)
}

fn label<'a>(
    cursor: &mut Cursor<'a>,
    statements: &mut Vec<Statement<'a>>,
) -> Result<(), LoadError> {
    let span = cursor.span();
    let name = cursor.name()?;
    cursor.expect(':')?;
    if cursor.eat_dotted("branchtargets") || cursor.eat_dotted("calltargets") {
        let mut names = vec![cursor.name()?];
        while cursor.eat(',') {
            names.push(cursor.name()?);
        }
        cursor.expect(';')?;
        statements.push(Statement::Targets { label: name, names });
    } else if cursor.eat_dotted("callprototype") {
        parameters(cursor)?;
        cursor.name()?;
        parameters(cursor)?;
        while !cursor.is_sign(';') {
            cursor.dotted()?;
        }
        cursor.expect(';')?;
    } else {
        statements.push(Statement::Label { name, span });
    }
    Ok(())
}

fn directive<'a>(
    cursor: &mut Cursor<'a>,
    statements: &mut Vec<Statement<'a>>,
) -> Result<(), LoadError> {
    let span = cursor.span();
    match cursor.dotted()? {
        "reg" => statements.push(registers(cursor, span)?),
        space @ ("local" | "shared" | "param" | "global" | "const") => {
            let found = variables(cursor, space, false)?;
            statements.extend(found.into_iter().map(Statement::Variable));
            cursor.expect(';')?;
        }
        "loc" => statements.push(location(cursor)?),
        "pragma" => {
            while !cursor.is_sign(';') && cursor.peek() != Token::End {
                cursor.next();
            }
            cursor.expect(';')?;
        }
        other => {
            let message = format!("unknown directive `.{other}` in a body");
            return Err(cursor.source.error(code::UNKNOWN_INSTRUCTION, span, message));
        }
    }
    Ok(())
}

/// `.loc file line column [, function_name label[+n], inlined_at file line column]`.
fn location<'a>(cursor: &mut Cursor<'a>) -> Result<Statement<'a>, LoadError> {
    let (file, line) = (cursor.int()?, cursor.int()?);
    cursor.int()?;
    while cursor.eat(',') {
        match cursor.name()? {
            "function_name" => {
                cursor.name()?;
                cursor.offset()?;
            }
            "inlined_at" => {
                for _ in 0..3 {
                    cursor.int()?;
                }
            }
            other => return Err(cursor.error(format!("`{other}` does not belong into `.loc`"))),
        }
    }
    Ok(Statement::Location { file, line })
}

fn registers<'a>(cursor: &mut Cursor<'a>, span: Span) -> Result<Statement<'a>, LoadError> {
    let mut word = cursor.dotted()?;
    let mut vector = 1;
    if let "v2" | "v4" = word {
        vector = if word == "v2" { 2 } else { 4 };
        word = cursor.dotted()?;
    }
    let mut names = Vec::new();
    loop {
        let name = cursor.name()?;
        let mut count = None;
        if cursor.eat('<') {
            let declared = cursor.int()?;
            if declared > MAX_REGISTERS {
                let message = format!("more than {MAX_REGISTERS} registers");
                return Err(cursor.source.error(code::LIMIT, span, message));
            }
            count = Some(declared);
            cursor.expect('>')?;
        }
        names.push((name, count));
        if !cursor.eat(',') {
            cursor.expect(';')?;
            return Ok(Statement::Registers { type_name: word, vector, names, span });
        }
    }
}

fn instruction<'a>(cursor: &mut Cursor<'a>) -> Result<Statement<'a>, LoadError> {
    let start = cursor.span();
    let mut guard = None;
    if cursor.eat('@') {
        let negated = cursor.eat('!');
        guard = Some((cursor.name()?, negated));
    }
    let first = cursor.span().start;
    if !matches!(cursor.peek(), Token::Name(name) if name.starts_with(|c: char| c.is_alphabetic()))
    {
        return Err(cursor.expected("an instruction"));
    }
    let name = cursor.name()?;
    let mut modifiers = Vec::new();
    while let Token::Dotted(word) = cursor.peek() {
        cursor.next();
        modifiers.push(word);
    }
    let opcode = Span { start: first, end: cursor.previous_end() };
    let mut operands = Vec::new();
    if !cursor.is_sign(';') {
        loop {
            operands.push(operand(cursor, 0)?);
            if !cursor.eat(',') {
                break;
            }
        }
    }
    let span = Span { start: start.start, end: cursor.span().end };
    cursor.expect(';')?;
    Ok(Statement::Instruction(Instruction { guard, name, modifiers, operands, opcode, span }))
}

fn operand<'a>(cursor: &mut Cursor<'a>, depth: usize) -> Result<Operand<'a>, LoadError> {
    let first = single(cursor, depth)?;
    if cursor.eat('|') {
        let second = single(cursor, depth)?;
        return Ok(Operand::Pair(Box::new(first), Box::new(second)));
    }
    Ok(first)
}

fn single<'a>(cursor: &mut Cursor<'a>, depth: usize) -> Result<Operand<'a>, LoadError> {
    if depth > MAX_NESTING {
        return Err(cursor.too_deep());
    }
    match cursor.peek() {
        Token::Sign('[') => address(cursor, depth),
        Token::Sign('{') => {
            cursor.next();
            Ok(Operand::Vector(list(cursor, '}', depth)?))
        }
        Token::Sign('(') => {
            cursor.next();
            Ok(Operand::Group(list(cursor, ')', depth)?))
        }
        Token::Sign('!') => {
            cursor.next();
            Ok(Operand::Not(Box::new(single(cursor, depth + 1)?)))
        }
        Token::Sign('-' | '+') | Token::Int(_) | Token::F32(_) | Token::F64(_) => constant(cursor),
        Token::Name(name) => {
            cursor.next();
            if let Token::Dotted(member) = cursor.peek() {
                cursor.next();
                return Ok(Operand::Member { name, member });
            }
            Ok(Operand::Name { name, offset: cursor.offset()? })
        }
        _ => Err(cursor.expected("an operand")),
    }
}

/// A number, or a sum of whole numbers.
fn constant<'a>(cursor: &mut Cursor<'a>) -> Result<Operand<'a>, LoadError> {
    let number = cursor.number()?;
    let Number::Int(value) = number else { return Ok(Operand::Number(number)) };
    let more = cursor.offset()? as u64;
    Ok(Operand::Number(Number::Int(value.wrapping_add(more))))
}

fn list<'a>(
    cursor: &mut Cursor<'a>,
    end: char,
    depth: usize,
) -> Result<Vec<Operand<'a>>, LoadError> {
    let mut found = Vec::new();
    if cursor.eat(end) {
        return Ok(found);
    }
    loop {
        found.push(operand(cursor, depth + 1)?);
        if !cursor.eat(',') {
            cursor.expect(end)?;
            return Ok(found);
        }
    }
}

fn address<'a>(cursor: &mut Cursor<'a>, depth: usize) -> Result<Operand<'a>, LoadError> {
    cursor.expect('[')?;
    let base = single(cursor, depth + 1)?;
    let (base, offset) = match base {
        Operand::Name { name, offset } => (Operand::Name { name, offset: 0 }, offset),
        other => (other, 0),
    };
    let offset = offset.wrapping_add(cursor.offset()?);
    let mut more = Vec::new();
    while cursor.eat(',') {
        more.push(operand(cursor, depth + 1)?);
    }
    cursor.expect(']')?;
    Ok(Operand::Address { base: Box::new(base), offset, more })
}
