//! Branches, calls and ends.

use super::super::op::{Call, Op, Place, Target};
use super::super::types::Type;
use super::context::Context;
use super::modifiers::Modifiers;
use crate::parse::ast::{Instruction, Operand};
use crate::source::{LoadError, code};

type Decoded = Result<Op, LoadError>;

fn label(cx: &Context<'_, '_>, name: &str) -> Result<u32, LoadError> {
    let found = cx.scopes.blocks().find_map(|block| cx.labels.get(&(block, name)).copied());
    found.ok_or_else(|| cx.error(code::UNKNOWN_SYMBOL, format!("no label is called `{name}`")))
}

/// `bra`.
pub(super) fn branch<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    mods.flag("uni");
    let [target] = cx.operands::<1>(inst)?;
    let Operand::Name { name, offset: 0 } = target else {
        return Err(cx.bad_operand("a branch goes to a label"));
    };
    Ok(Op::Branch { target: label(cx, name)? })
}

/// `brx.idx`.
pub(super) fn branch_index<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    mods.flag("uni");
    if !mods.flag("idx") {
        return Err(cx.unknown("`brx` is `.idx`"));
    }
    let [index, list] = cx.operands::<2>(inst)?;
    let index = cx.src(index, Type::U32)?;
    let Operand::Name { name, offset: 0 } = list else {
        return Err(cx.bad_operand("`brx.idx` takes a list of labels"));
    };
    let found = cx.scopes.blocks().find_map(|block| cx.targets.get(&(block, *name)).cloned());
    let Some(names) = found else {
        return Err(cx.error(code::UNKNOWN_SYMBOL, format!("no list is called `{name}`")));
    };
    let targets: Vec<u32> = names.iter().map(|name| label(cx, name)).collect::<Result<_, _>>()?;
    let targets = cx.list(&targets);
    Ok(Op::BranchIndex { index, targets })
}

/// `call` with its optional results, arguments and prototype.
pub(super) fn call<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    mods.flag("uni");
    let (returns, rest) = match &inst.operands[..] {
        [Operand::Group(returns), rest @ ..] => (&returns[..], rest),
        rest => (&[][..], rest),
    };
    let (target, args) = match rest {
        [target] => (target, &[][..]),
        [target, Operand::Group(args)] => (target, &args[..]),
        // The last operand of an indirect call is its prototype or list of targets.
        [target, Operand::Group(args), Operand::Name { .. }] => (target, &args[..]),
        [target, Operand::Name { .. }] => (target, &[][..]),
        _ => return Err(cx.bad_operand("not the operands of a call")),
    };
    let Operand::Name { name, offset: 0 } = target else {
        return Err(cx.bad_operand("a call goes to a function or a register"));
    };
    let target = match cx.function(name) {
        Some(index) => Target::Function(index),
        None => Target::Pointer(cx.src(target, Type::U64)?),
    };
    let args = args.iter().map(|arg| place(cx, arg, false)).collect::<Result<_, _>>()?;
    let returns = returns.iter().map(|arg| place(cx, arg, true)).collect::<Result<_, _>>()?;
    Ok(Op::Call(Box::new(Call { target, args, returns })))
}

fn place<'a>(
    cx: &mut Context<'_, 'a>,
    operand: &Operand<'a>,
    written: bool,
) -> Result<Place, LoadError> {
    if let Operand::Name { name, offset: 0 } = operand {
        if let Some((offset, bytes)) = cx.frame_symbol(name) {
            return Ok(Place::Bytes { offset, bytes });
        }
        match (cx.register_type(operand), written) {
            (Some(Type::Pred), true) => return Ok(Place::Pred(cx.dst_pred(operand)?)),
            (Some(Type::Pred), false) => return Ok(Place::Pred(cx.literal(operand)?.pred)),
            (Some(ty), true) => return Ok(Place::Row(cx.dst(operand, ty)?)),
            (Some(ty), false) => return Ok(Place::Row(cx.src(operand, ty)?)),
            (None, _) => {}
        }
    }
    if written {
        return Err(cx.bad_operand("a result goes to a register or a `.param` variable"));
    }
    Ok(Place::Row(cx.src(operand, Type::B64)?))
}
