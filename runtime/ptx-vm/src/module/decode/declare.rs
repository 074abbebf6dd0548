//! What is declared: functions, variables, registers, and the frame they lie in.

use super::super::layout::{Relocation, RelocationTarget, VariableDef};
use super::super::op::{Address, Op, Place, Target};
use super::super::scope::Symbol;
use super::super::types::{Space, Type};
use super::super::{Function, Module, Variables};
use super::MAX_FRAME_BYTES;
use super::context::{CONSTANT_BIT, Context};
use crate::parse::ast::{self, Initial, Number, Statement, Unit, Variable};
use crate::source::{LoadError, Source, Span, code};
use std::collections::HashMap;

/// The largest variable, in bytes.
const MAX_VARIABLE_BYTES: u64 = 1 << 30;

/// Size and alignment of a variable in bytes.
pub(super) fn extent(variable: &Variable<'_>) -> Option<(u32, u32)> {
    let ty = Type::named(variable.type_name)?;
    let element = u64::from(ty.bytes()) * u64::from(variable.vector);
    let bytes = element.checked_mul(variable.elems)?;
    let align = variable.align.unwrap_or(element).max(1);
    let good = align.is_power_of_two() && align <= 1 << 16 && bytes <= MAX_VARIABLE_BYTES;
    good.then_some((bytes as u32, align as u32))
}

fn checked_extent(source: &Source, variable: &Variable<'_>) -> Result<(u32, u32), LoadError> {
    if Type::named(variable.type_name).is_none() {
        let message = format!("unknown type `.{}`", variable.type_name);
        return Err(source.error(code::UNKNOWN_INSTRUCTION, variable.span, message));
    }
    extent(variable).ok_or_else(|| {
        let message = format!("`{}` is too large or oddly aligned", variable.name);
        source.error(code::LIMIT, variable.span, message)
    })
}

fn twice(source: &Source, name: &str, span: Span) -> LoadError {
    source.error(code::SYNTAX, span, format!("`{name}` is defined twice"))
}

/// The functions of a text: of a name declared and defined, the definition.
pub(super) fn definitions<'u, 'a>(unit: &'u Unit<'a>) -> Vec<&'u ast::Function<'a>> {
    let mut found: Vec<&ast::Function<'a>> = Vec::new();
    let mut places = HashMap::new();
    for function in &unit.functions {
        let place = *places.entry(function.name).or_insert(found.len());
        match found.get_mut(place) {
            Some(known) if known.body.is_none() => *known = function,
            Some(_) => {}
            None => found.push(function),
        }
    }
    found
}

/// Names every function.
pub(super) fn functions<'a>(
    source: &Source,
    unit: &Unit<'a>,
    globals: &mut HashMap<&'a str, Symbol>,
) -> Result<(), LoadError> {
    let mut defined = HashMap::new();
    for function in unit.functions.iter().filter(|function| function.body.is_some()) {
        if defined.insert(function.name, ()).is_some() {
            return Err(twice(source, function.name, function.span));
        }
    }
    for (index, function) in definitions(unit).iter().enumerate() {
        globals.insert(function.name, Symbol::Function(index as u32));
    }
    Ok(())
}

/// Names and lays out the module's variables.
pub(super) fn variables<'a>(
    source: &Source,
    declared: &[Variable<'a>],
    globals: &mut HashMap<&'a str, Symbol>,
    variables: &mut Variables,
) -> Result<(), LoadError> {
    for variable in declared {
        let index = variables.all.len() as u32;
        variables.all.push(definition(source, variable)?);
        if globals.insert(variable.name, Symbol::Variable(index)).is_some() {
            return Err(twice(source, variable.name, variable.span));
        }
    }
    Ok(())
}

fn definition(source: &Source, variable: &Variable<'_>) -> Result<VariableDef, LoadError> {
    let (bytes, align) = checked_extent(source, variable)?;
    let space = Space::named(variable.space).unwrap_or(Space::Global);
    let dynamic = space == Space::Shared && variable.unsized_array;
    if variable.is_extern && !dynamic {
        let message = format!("`{}` is defined elsewhere", variable.name);
        return Err(source.error(code::UNKNOWN_SYMBOL, variable.span, message));
    }
    let initial = match space {
        Space::Global | Space::Const => initial_bytes(source, variable, bytes)?,
        _ if variable.initial.is_empty() => Vec::new(),
        _ => {
            let message = format!("`{}` lies in memory without initial values", variable.name);
            return Err(source.error(code::OPERAND, variable.span, message));
        }
    };
    let name = variable.name.to_owned();
    Ok(VariableDef { name, space, align, bytes, initial, relocations: Vec::new(), dynamic })
}

fn initial_bytes(
    source: &Source,
    variable: &Variable<'_>,
    bytes: u32,
) -> Result<Vec<(u32, Vec<u8>)>, LoadError> {
    let element = Type::named(variable.type_name).map_or(1, Type::bytes).min(16);
    let mut found: Vec<(u32, Vec<u8>)> = Vec::new();
    for (index, value) in &variable.initial {
        let at = index.saturating_mul(element.into());
        if at.saturating_add(element.into()) > bytes.into() {
            let message = format!("more values than `{}` holds", variable.name);
            return Err(source.error(code::OPERAND, variable.span, message));
        }
        let bits = match (value, variable.type_name) {
            (Initial::Address { .. }, _) => 0,
            (Initial::Number(Number::Int(value)), "f32") => (*value as i64 as f32).to_bits().into(),
            (Initial::Number(Number::Int(value)), "f64") => (*value as i64 as f64).to_bits(),
            (Initial::Number(Number::Int(value)), _) => *value,
            (Initial::Number(Number::F32(bits)), "f64") => {
                f64::from(f32::from_bits(*bits)).to_bits()
            }
            (Initial::Number(Number::F32(bits)), _) => u64::from(*bits),
            (Initial::Number(Number::F64(bits)), "f32") => {
                (f64::from_bits(*bits) as f32).to_bits().into()
            }
            (Initial::Number(Number::F64(bits)), _) => *bits,
        };
        let wide = u128::from(bits).to_le_bytes();
        let value = &wide[..element as usize];
        match found.last_mut() {
            Some((first, bytes)) if u64::from(*first) + bytes.len() as u64 == at => {
                bytes.extend_from_slice(value);
            }
            _ => found.push((at as u32, value.to_vec())),
        }
    }
    Ok(found)
}

/// Resolves the addresses in the initialisers of a module's variables, once every name is known.
pub(super) fn relocations(
    source: &Source,
    declared: &[Variable<'_>],
    globals: &HashMap<&str, Symbol>,
    variables: &mut Variables,
) -> Result<(), LoadError> {
    for (index, variable) in declared.iter().enumerate() {
        let named = |name: &str| globals.get(name).copied();
        variables.all[index].relocations = addresses(source, variable, variables, named)?;
    }
    Ok(())
}

/// The addresses in an initialiser.
fn addresses(
    source: &Source,
    variable: &Variable<'_>,
    variables: &Variables,
    named: impl Fn(&str) -> Option<Symbol>,
) -> Result<Vec<Relocation>, LoadError> {
    let element = Type::named(variable.type_name).map_or(1, Type::bytes);
    let mut found = Vec::new();
    for (at, value) in &variable.initial {
        let Initial::Address { symbol, offset, generic, span } = value else { continue };
        let fails = |code, message: String| Err(source.error(code, *span, message));
        let target = match named(symbol) {
            Some(Symbol::Variable(index)) => RelocationTarget::Variable(index),
            Some(Symbol::Function(index)) => RelocationTarget::Function(index),
            Some(_) => {
                let message = format!("`{symbol}` has no address while nothing runs");
                return fails(code::OPERAND, message);
            }
            None => return fails(code::UNKNOWN_SYMBOL, format!("nothing is called `{symbol}`")),
        };
        if let RelocationTarget::Variable(index) = target
            && !matches!(variables.all[index as usize].space, Space::Global | Space::Const)
        {
            let message = format!("`{symbol}` lies neither in `.global` nor in `.const`");
            return fails(code::OPERAND, message);
        }
        if element != 8 {
            return fails(code::OPERAND, "an address has 64 bits".to_owned());
        }
        // The values were found to fit the variable.
        let (at, addend, generic) = (*at as u32 * element, *offset, *generic);
        found.push(Relocation { at, bytes: 8, target, addend, generic });
    }
    Ok(found)
}

/// Takes room in the frame.
fn frame_room(
    cx: &mut Context<'_, '_>,
    (bytes, align): (u32, u32),
    span: Span,
) -> Result<u32, LoadError> {
    let offset = super::super::layout::aligned(cx.frame_bytes, align);
    cx.frame_bytes = offset.saturating_add(bytes);
    if cx.frame_bytes > MAX_FRAME_BYTES {
        let message = format!("more than {MAX_FRAME_BYTES} bytes of local memory");
        return Err(cx.source.error(code::LIMIT, span, message));
    }
    Ok(offset)
}

/// A parameter or result of a device function: a register or a place in the frame.
pub(super) fn place<'a>(
    cx: &mut Context<'_, 'a>,
    variable: &Variable<'a>,
) -> Result<Place, LoadError> {
    if variable.space == "reg" {
        let ty = Type::named(variable.type_name).unwrap_or(Type::B32);
        if !cx.scopes.declare(variable.name, ty, 1, None) {
            return Err(twice(cx.source, variable.name, variable.span));
        }
        let register = cx.scopes.register(variable.name, None);
        return Ok(match register {
            Some(register) if register.ty == Type::Pred => Place::Pred(register.row),
            Some(register) => Place::Row(register.row),
            None => Place::Row(super::context::SINK),
        });
    }
    let (bytes, align) = checked_extent(cx.source, variable)?;
    let offset = frame_room(cx, (bytes, align), variable.span)?;
    cx.scopes.define(variable.name, Symbol::Frame { offset, bytes });
    Ok(Place::Bytes { offset, bytes })
}

/// A statement that is no instruction.
pub(super) fn statement<'a>(
    cx: &mut Context<'_, 'a>,
    statement: &Statement<'a>,
    variables: &mut Variables,
) -> Result<(), LoadError> {
    match statement {
        Statement::Open => cx.scopes.open(),
        Statement::Close => cx.scopes.close(),
        Statement::Registers { type_name, vector, names, span } => {
            let Some(ty) = Type::named(type_name).filter(|ty| *ty != Type::B128) else {
                let message = format!("no registers of type `.{type_name}`");
                return Err(cx.source.error(code::UNKNOWN_INSTRUCTION, *span, message));
            };
            for (name, count) in names {
                if !cx.scopes.declare(name, ty, *vector, *count) {
                    return Err(twice(cx.source, name, *span));
                }
            }
        }
        Statement::Variable(variable) => local_variable(cx, variable, variables)?,
        Statement::Label { .. }
        | Statement::Location { .. }
        | Statement::Targets { .. }
        | Statement::Instruction(_) => {}
    }
    Ok(())
}

fn local_variable<'a>(
    cx: &mut Context<'_, 'a>,
    variable: &Variable<'a>,
    variables: &mut Variables,
) -> Result<(), LoadError> {
    if matches!(variable.space, "local" | "param") {
        let (bytes, align) = checked_extent(cx.source, variable)?;
        let offset = frame_room(cx, (bytes, align), variable.span)?;
        cx.scopes.define(variable.name, Symbol::Frame { offset, bytes });
        return Ok(());
    }
    let index = variables.all.len() as u32;
    let mut definition = definition(cx.source, variable)?;
    definition.relocations = addresses(cx.source, variable, variables, |name| cx.symbol(name))?;
    cx.variable_spaces.push(definition.space);
    variables.all.push(definition);
    cx.scopes.define(variable.name, Symbol::Variable(index));
    Ok(())
}

/// Moves constant rows behind the registers, whose number is now known.
pub(super) fn settle_rows(module: &mut Module, function: &Function) {
    let settle = |row: &mut u32| {
        if *row & CONSTANT_BIT != 0 {
            *row = (*row & !CONSTANT_BIT) + function.registers;
        }
    };
    let first = function.first as usize;
    for at in first..module.code.len() {
        let pool = &mut module.pool;
        rows(&mut module.code[at].op, &mut |row| settle(row), &mut |list| {
            pool[list.start as usize..(list.start + list.len) as usize].iter_mut().for_each(settle);
        });
    }
}

pub(super) type OnRow<'f> = &'f mut dyn FnMut(&mut u32);
pub(super) type OnList<'f> = &'f mut dyn FnMut(super::super::op::List);

/// Shows every row operand of an operation that may be a constant.
fn rows(op: &mut Op, row: OnRow<'_>, list: OnList<'_>) {
    let address = |at: &mut Address, row: OnRow<'_>| row(&mut at.base);
    match op {
        Op::Nop
        | Op::Ticking { .. }
        | Op::CopyCommit
        | Op::CopyWait { .. }
        | Op::Fence(..)
        | Op::PredLogic { .. }
        | Op::PredMove { .. }
        | Op::ActiveMask { .. }
        | Op::ClusterArrive { .. }
        | Op::FenceProxy(_)
        | Op::ClusterWait { .. }
        | Op::Branch { .. }
        | Op::Return
        | Op::Exit
        | Op::Trap
        | Op::Yield => {}
        Op::Mov { a, .. }
        | Op::Map1 { a, .. }
        | Op::Unpack { a, .. }
        | Op::ToGeneric { a, .. }
        | Op::FromGeneric { a, .. }
        | Op::IsSpace { a, .. }
        | Op::SharedRank { a, .. } => row(a),
        Op::Map2 { a, b, .. }
        | Op::SetPred { a, b, .. }
        | Op::Set { a, b, .. }
        | Op::Select { a, b, .. }
        | Op::MapShared { a, rank: b, .. }
        | Op::MatchAny { a, members: b, .. }
        | Op::MatchAll { a, members: b, .. }
        | Op::Reduce { a, members: b, .. } => [a, b].into_iter().for_each(row),
        Op::Map3 { a, b, c, .. } => [a, b, c].into_iter().for_each(row),
        Op::Map4 { args, .. } => args.iter_mut().for_each(row),
        Op::Carry(carry) => carry.args.iter_mut().for_each(row),
        Op::SetPredHalves(halves) => halves.args.iter_mut().for_each(row),
        Op::Pack { parts, .. } => list(*parts),
        Op::Load(transfer) => address(&mut transfer.at, row),
        Op::Store(transfer) => {
            address(&mut transfer.at, row);
            list(transfer.regs);
        }
        Op::Atomic(atomic) => {
            row(&mut atomic.at.base);
            row(&mut atomic.c);
            list(atomic.b);
        }
        Op::CopyAsync(copy) => {
            row(&mut copy.to.base);
            row(&mut copy.from.base);
            copy.source_bytes.iter_mut().for_each(row);
        }
        Op::Shuffle { a, b, c, members, .. } => [a, b, c, members].into_iter().for_each(row),
        Op::VotePred { members, .. }
        | Op::Ballot { members, .. }
        | Op::Elect { members, .. }
        | Op::BarWarp { members } => row(members),
        Op::Bar { id, threads, .. } => {
            row(id);
            threads.iter_mut().for_each(row);
        }
        Op::Matrix(_) | Op::Wgmma(_) | Op::Mbarrier(_) | Op::Bulk(_) => {
            super::tensor_rows::visit(op, row, list);
        }
        Op::BranchIndex { index, .. } => row(index),
        Op::Call(call) => {
            if let Target::Pointer(pointer) = &mut call.target {
                row(pointer);
            }
            for place in &mut call.args {
                if let Place::Row(argument) = place {
                    row(argument);
                }
            }
        }
    }
}

/// Every direct call goes to a body and passes what it expects.
pub(super) fn check_calls(module: &Module) -> Result<(), LoadError> {
    for (inst, meta) in module.code.iter().zip(&module.meta) {
        let Op::Call(call) = &inst.op else { continue };
        let Target::Function(index) = call.target else { continue };
        let function = &module.functions[index as usize];
        if !function.has_body {
            let message = format!("`{}` is declared but has no body", function.name);
            return Err(module.source.error(code::UNKNOWN_SYMBOL, meta.span, message));
        }
        let fits = same_places(&call.args, &function.params)
            && same_places(&call.returns, &function.returns);
        if !fits {
            let message = format!("`{}` takes other parameters or results", function.name);
            return Err(module.source.error(code::OPERAND, meta.span, message));
        }
    }
    Ok(())
}

/// Whether arguments can be copied to parameters.
pub(crate) fn same_places(from: &[Place], to: &[Place]) -> bool {
    let fit = |(a, b): (&Place, &Place)| match (a, b) {
        (Place::Row(_), Place::Row(_)) | (Place::Pred(_), Place::Pred(_)) => true,
        (Place::Bytes { bytes: a, .. }, Place::Bytes { bytes: b, .. }) => a == b,
        _ => false,
    };
    from.len() == to.len() && from.iter().zip(to).all(fit)
}
