//! Loads, stores, atomics, address conversions, `cp.async` and fences.

use super::super::op::{Atomic, CopyAsync, FnAtom, Op, Order, Transfer};
use super::super::types::{Space, Type};
use super::context::{Context, SINK};
use super::float::half_of;
use super::modifiers::Modifiers;
use crate::number::half;
use crate::number::single::{self, Extremum};
use crate::number::{Rounding, double};
use crate::parse::ast::{Instruction, Operand};
use crate::source::LoadError;
use std::sync::Arc;

type Decoded = Result<Op, LoadError>;

/// Operands without a cache policy at their end, which is read and has no effect.
pub(super) fn without_policy<'i, 'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &'i Instruction<'a>,
) -> Result<&'i [Operand<'a>], LoadError> {
    if !mods.cache_hints() {
        return Ok(&inst.operands);
    }
    let Some((policy, rest)) = inst.operands.split_last() else {
        return Err(cx.bad_operand("a cache policy is missing"));
    };
    cx.src(policy, Type::B64)?;
    Ok(rest)
}

pub(super) fn elements<'i, 'a>(
    cx: &Context<'_, 'a>,
    operand: &'i Operand<'a>,
    count: usize,
) -> Result<&'i [Operand<'a>], LoadError> {
    let found = match operand {
        Operand::Vector(parts) => &parts[..],
        single => std::slice::from_ref(single),
    };
    if found.len() == count {
        return Ok(found);
    }
    Err(cx.bad_operand(format!("{} registers where the instruction has {count}", found.len())))
}

fn access_type(cx: &Context<'_, '_>, mods: &mut Modifiers<'_>) -> Result<Type, LoadError> {
    let ty = mods.ty().filter(|ty| !matches!(ty, Type::Pred | Type::B128));
    ty.ok_or_else(|| cx.unknown(format!("`{}` has no type it can take", cx.name)))
}

/// `ld` and `ldu`.
pub(super) fn load<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let order = mods.order().unwrap_or(Order::Weak);
    let scope = mods.scope();
    let space = mods.space();
    let operands = without_policy(cx, mods, inst)?;
    let count = mods.vector();
    let ty = access_type(cx, mods)?;
    let [d, at] = operands else { return Err(cx.bad_operand("`ld` takes two operands")) };
    let at = cx.address(at, space)?;
    let mut extend = 0;
    let mut regs = Vec::with_capacity(count);
    for register in elements(cx, d, count)? {
        let (row, bits) = cx.dst_wide(register, ty)?;
        if ty.is_signed() && bits > ty.bits() {
            extend = bits as u8;
        }
        regs.push(row);
    }
    let regs = cx.list(&regs);
    Ok(Op::Load(Transfer { at, bytes: ty.bytes() as u8, regs, extend, order, scope }))
}

/// `st`.
pub(super) fn store<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let order = mods.order().unwrap_or(Order::Weak);
    let scope = mods.scope();
    let space = mods.space();
    let operands = without_policy(cx, mods, inst)?;
    let count = mods.vector();
    let ty = access_type(cx, mods)?;
    let [at, a] = operands else { return Err(cx.bad_operand("`st` takes two operands")) };
    let at = cx.address(at, space)?;
    let mut regs = Vec::with_capacity(count);
    for register in elements(cx, a, count)? {
        regs.push(cx.src_wide(register, ty)?);
    }
    let regs = cx.list(&regs);
    Ok(Op::Store(Transfer { at, bytes: ty.bytes() as u8, regs, extend: 0, order, scope }))
}

/// `prefetch`, `prefetchu`, `applypriority`, `discard`: read their operands and do nothing.
pub(super) fn prefetch<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let space = mods.space();
    mods.cache_hints();
    mods.pick(|word| matches!(word, "L1" | "L2" | "tensormap").then_some(()));
    for operand in &inst.operands {
        match operand {
            Operand::Number(_) => {}
            _ => {
                cx.address(operand, space)?;
            }
        }
    }
    Ok(Op::Nop)
}

/// `createpolicy`: a policy changes no result, so it is any number.
pub(super) fn cache_policy<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    mods.cache_hints();
    let range = mods.flag("range");
    let converts = mods.flag("cvt") && mods.flag("L2");
    let space = mods.space();
    if !(range || converts || mods.flag("fractional")) || !mods.flag("b64") {
        return Err(cx.unknown("no such cache policy"));
    }
    let Some((d, rest)) = inst.operands.split_first() else {
        return Err(cx.bad_operand("a cache policy takes a register"));
    };
    for operand in rest {
        match operand {
            Operand::Address { .. } => {
                cx.address(operand, space)?;
            }
            Operand::Number(_) => {}
            _ => {
                cx.src(operand, if converts { Type::B64 } else { Type::B32 })?;
            }
        }
    }
    let a = cx.bits(0);
    Ok(Op::Mov { d: cx.dst(d, Type::B64)?, a })
}

/// `cvta`.
pub(super) fn convert_address<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let from_generic = mods.flag("to");
    let space = mods.space();
    let Some(ty) = mods.ty().filter(|ty| ty.bits() == 64) else {
        return Err(cx.unknown("addresses have 64 bits"));
    };
    let [d, a] = cx.operands::<2>(inst)?;
    let a = cx.src(a, ty)?;
    let d = cx.dst(d, ty)?;
    // In device functions parameters lie in the frame.
    let space = if space == Space::Param && !cx.is_entry { Space::Local } else { space };
    Ok(match (space, from_generic) {
        (Space::Global, _) => Op::Mov { d, a },
        (Space::Generic, _) => return Err(cx.unknown("`cvta` names a state space")),
        (_, true) => Op::FromGeneric { d, a, space },
        (_, false) => Op::ToGeneric { d, a, space },
    })
}

/// `isspacep`.
pub(super) fn is_space<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let space = mods.space();
    let [p, a] = cx.operands::<2>(inst)?;
    let a = cx.src(a, Type::B64)?;
    Ok(Op::IsSpace { p: cx.dst_pred(p)?, a, space })
}

/// `mapa` and `getctarank`.
pub(super) fn map_shared<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let generic = mods.space() == Space::Generic;
    let Some(ty) = mods.ty() else { return Err(cx.unknown("no type is named")) };
    if inst.name == "mapa" {
        let [d, a, rank] = cx.operands::<3>(inst)?;
        let (a, rank) = (cx.src(a, ty)?, cx.src(rank, Type::U32)?);
        return Ok(Op::MapShared { d: cx.dst(d, ty)?, a, rank, generic });
    }
    let [d, a] = cx.operands::<2>(inst)?;
    let a = cx.src(a, ty)?;
    Ok(Op::SharedRank { d: cx.dst(d, Type::U32)?, a })
}

/// `membar`, `fence` and `fence.proxy`.
pub(super) fn fence<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    if inst.name == "membar" {
        return Ok(Op::Fence(Order::AcquireRelease, mods.scope()));
    }
    if let Some(op) = super::bulk::fence(cx, mods, inst)? {
        return Ok(op);
    }
    let order = mods.order().unwrap_or(Order::AcquireRelease);
    let scopes = ["cta", "cluster", "gpu", "sys"];
    if !matches!(order, Order::AcquireRelease | Order::Acquire | Order::Release)
        || !inst.modifiers.iter().any(|word| scopes.contains(word))
    {
        return Err(cx.unknown("a fence has an order and a scope"));
    }
    Ok(Op::Fence(order, mods.scope()))
}

/// `atom` and `red`.
pub(super) fn atomic<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let order = mods.order().unwrap_or(Order::Relaxed);
    let scope = mods.scope();
    let space = mods.space();
    let operands = without_policy(cx, mods, inst)?;
    let count = mods.vector();
    mods.flag("noftz");
    let name = mods.pick(|word| OPERATIONS.iter().find(|known| **known == word).copied());
    let Some(name) = name else { return Err(cx.unknown("no such atomic operation")) };
    let ty = access_type(cx, mods)?;
    let f = function(cx, name, ty)?;
    let (dst, rest) = if inst.name == "red" {
        (Vec::new(), operands)
    } else {
        let Some((d, rest)) = operands.split_first() else {
            return Err(cx.bad_operand("`atom` takes a destination"));
        };
        let mut dst = Vec::with_capacity(count);
        for register in elements(cx, d, count)? {
            dst.push(cx.dst(register, ty)?);
        }
        (dst, rest)
    };
    let (at, b, c) = match (rest, name) {
        ([at, b, c], "cas") => (at, b, cx.src(c, ty)?),
        ([at, b], _) if name != "cas" => (at, b, SINK),
        _ => return Err(cx.bad_operand("not the operands of this atomic operation")),
    };
    let at = cx.address(at, space)?;
    let mut rows = Vec::with_capacity(count);
    for register in elements(cx, b, count)? {
        rows.push(cx.src(register, ty)?);
    }
    let (dst, b) = (cx.list(&dst), cx.list(&rows));
    let bytes = ty.bytes() as u8;
    let sums = ty.integer().is_some() && name == "add";
    let commutes = sums || matches!(name, "min" | "max" | "and" | "or" | "xor");
    let flushed = single::Mode { ftz: true, ..single::Mode::NEAREST };
    let on_global = (ty == Type::F32 && name == "add").then(|| f32_sum(flushed));
    let atomic = Atomic { at, bytes, f, on_global, dst, b, c, order, scope, commutes };
    Ok(Op::Atomic(Box::new(atomic)))
}

const OPERATIONS: [&str; 10] =
    ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"];

fn function(cx: &Context<'_, '_>, name: &str, ty: Type) -> Result<FnAtom, LoadError> {
    let refused = || cx.unknown(format!("no atomic `.{name}` on `.{}`", ty.name()));
    let float = float_function(name, ty);
    if let Some(found) = float {
        return Ok(found);
    }
    let of = match name {
        // Bits are moved whatever they mean.
        "exch" | "cas" => match ty.bits() {
            16 => crate::number::IntType::U16,
            32 => crate::number::IntType::U32,
            _ => crate::number::IntType::U64,
        },
        _ => ty.integer().ok_or_else(refused)?,
    };
    Ok(match name {
        "add" => Arc::new(move |old, b, _| old.wrapping_add(b) & of.mask()),
        "min" => Arc::new(move |old, b, _| of.wrap(of.value(old).min(of.value(b)))),
        "max" => Arc::new(move |old, b, _| of.wrap(of.value(old).max(of.value(b)))),
        "and" => Arc::new(|old, b, _| old & b),
        "or" => Arc::new(|old, b, _| old | b),
        "xor" => Arc::new(|old, b, _| old ^ b),
        "exch" => Arc::new(|_, b, _| b),
        "cas" => Arc::new(|old, b, c| if old == b { c } else { old }),
        "inc" => Arc::new(|old, b, _| if old >= b { 0 } else { old + 1 }),
        "dec" => Arc::new(|old, b, _| if old == 0 || old > b { b } else { old - 1 }),
        _ => return Err(refused()),
    })
}

fn float_function(name: &str, ty: Type) -> Option<FnAtom> {
    if let Some((half, pair)) = half_of(ty) {
        let mode = half::Mode::plain(half);
        let one: fn(u16, u16, half::Mode) -> u16 = match name {
            "add" => half::add,
            "min" => |a, b, mode| half::min(mode.half, a, b, Extremum::default()),
            "max" => |a, b, mode| half::max(mode.half, a, b, Extremum::default()),
            _ => return None,
        };
        return Some(if pair {
            Arc::new(move |old, b, _| {
                half::pairwise(old as u32, b as u32, |x, y| one(x, y, mode)).into()
            })
        } else {
            Arc::new(move |old, b, _| one(old as u16, b as u16, mode).into())
        });
    }
    match (ty, name) {
        (Type::F32, "add") => Some(f32_sum(single::Mode::NEAREST)),
        (Type::F64, "add") => {
            Some(Arc::new(|old, b, _| double::add(old, b, Rounding::NearestEven)))
        }
        _ => None,
    }
}

/// A sum of f32 under the modifiers of `mode`.
fn f32_sum(mode: single::Mode) -> FnAtom {
    Arc::new(move |old, b, _| single::add(old as u32, b as u32, mode).into())
}

/// `cp.async` in its non-bulk forms.
pub(super) fn copy_async<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    if let Some(op) = super::bulk::copy(cx, mods, inst)? {
        return Ok(op);
    }
    if !mods.flag("async") {
        return Err(cx.unknown("no such `cp`"));
    }
    if mods.flag("commit_group") {
        cx.operands::<0>(inst)?;
        return Ok(Op::CopyCommit);
    }
    if mods.flag("wait_all") {
        cx.operands::<0>(inst)?;
        return Ok(Op::CopyWait { pending: None });
    }
    if mods.flag("wait_group") {
        let [pending] = cx.operands::<1>(inst)?;
        let pending = literal(cx, pending)? as u32;
        return Ok(Op::CopyWait { pending: Some(pending) });
    }
    if !mods.flag("ca") && !mods.flag("cg") {
        return Err(cx.unknown("`cp.async` is `.ca` or `.cg` here"));
    }
    let operands = without_policy(cx, mods, inst)?;
    if mods.space() != Space::Shared || mods.space() != Space::Global {
        return Err(cx.unknown("`cp.async` goes from `.global` to `.shared`"));
    }
    let [to, from, bytes, rest @ ..] = operands else {
        return Err(cx.bad_operand("`cp.async` takes two addresses and a number of bytes"));
    };
    let to = cx.address(to, Space::Shared)?;
    let from = cx.address(from, Space::Global)?;
    let bytes = literal(cx, bytes)? as u8;
    if !matches!(bytes, 4 | 8 | 16) || (bytes != 16 && inst.modifiers.contains(&"cg")) {
        return Err(cx.bad_operand("`cp.async` copies 4, 8 or 16 bytes, `.cg` only 16"));
    }
    let (mut source_bytes, mut ignore) = (None, None);
    match rest {
        [] => {}
        [Operand::Not(_)] => ignore = Some(cx.literal(&rest[0])?),
        [one] if cx.register_type(one) == Some(Type::Pred) => ignore = Some(cx.literal(one)?),
        [one] => source_bytes = Some(cx.src(one, Type::U32)?),
        _ => return Err(cx.bad_operand("too many operands")),
    }
    let copy = CopyAsync { to, from, bytes, source_bytes, ignore };
    Ok(Op::CopyAsync(Box::new(copy)))
}

/// A whole number typed as an operand.
pub(super) fn literal(cx: &Context<'_, '_>, operand: &Operand<'_>) -> Result<u64, LoadError> {
    match operand {
        Operand::Number(crate::parse::ast::Number::Int(value)) => Ok(*value),
        _ => Err(cx.bad_operand("expected a whole number")),
    }
}
