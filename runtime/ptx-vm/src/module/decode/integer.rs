//! Integer and bit instructions.

use super::super::op::{Carry, Op, lanes1, lanes2, lanes3};
use super::super::types::Type;
use super::context::Context;
use super::modifiers::Modifiers;
use crate::number::{IntType, integer};
use crate::parse::ast::Instruction;
use crate::source::LoadError;

type Decoded = Result<Op, LoadError>;

/// Evaluates `$body` with `$of` a constant, so that the lane loop is compiled for the type.
macro_rules! for_type {
    ($ty:expr, $of:ident => $body:expr) => {
        for_type!(@ $ty, $of, $body, U8 S8 U16 S16 U32 S32 U64 S64)
    };
    (@ $ty:expr, $of:ident, $body:expr, $($name:ident)*) => {
        match $ty {
            $(IntType::$name => { const $of: IntType = IntType::$name; $body })*
        }
    };
}

/// Evaluates `$body` with `$mask` the constant ones of a width.
macro_rules! for_width {
    ($bits:expr, $mask:ident => $body:expr) => {
        match $bits {
            8 => {
                const $mask: u64 = 0xff;
                $body
            }
            16 => {
                const $mask: u64 = 0xffff;
                $body
            }
            32 => {
                const $mask: u64 = 0xffff_ffff;
                $body
            }
            _ => {
                const $mask: u64 = u64::MAX;
                $body
            }
        }
    };
}

pub(super) fn int_type(cx: &Context<'_, '_>, ty: Type) -> Result<IntType, LoadError> {
    ty.integer().ok_or_else(|| cx.unknown(format!("`{}` does not take `.{}`", cx.name, ty.name())))
}

fn map1<'a>(
    cx: &mut Context<'_, 'a>,
    inst: &Instruction<'a>,
    types: (Type, Type),
    f: impl Fn(u64) -> u64 + Send + Sync + 'static,
) -> Decoded {
    let [d, a] = cx.operands::<2>(inst)?;
    Ok(Op::Map1 { a: cx.src(a, types.1)?, d: cx.dst(d, types.0)?, f: lanes1(f) })
}

/// `add` and its like: two arguments and a result of one width, carried out modulo that width.
pub(super) fn two<'a>(
    cx: &mut Context<'_, 'a>,
    inst: &Instruction<'a>,
    types: [Type; 3],
    f: super::super::op::Fn2,
) -> Decoded {
    let [d, a, b] = cx.operands::<3>(inst)?;
    let (a, b) = (cx.src(a, types[1])?, cx.src(b, types[2])?);
    Ok(Op::Map2 { f, d: cx.dst(d, types[0])?, a, b })
}

pub(super) fn three<'a>(
    cx: &mut Context<'_, 'a>,
    inst: &Instruction<'a>,
    types: [Type; 4],
    f: super::super::op::Fn3,
) -> Decoded {
    let [d, a, b, c] = cx.operands::<4>(inst)?;
    let (a, b, c) = (cx.src(a, types[1])?, cx.src(b, types[2])?, cx.src(c, types[3])?);
    Ok(Op::Map3 { f, d: cx.dst(d, types[0])?, a, b, c })
}

fn wide(ty: Type) -> Option<Type> {
    Some(match ty {
        Type::U16 => Type::U32,
        Type::S16 => Type::S32,
        Type::U32 => Type::U64,
        Type::S32 => Type::S64,
        _ => return None,
    })
}

/// `add`, `sub`, `mul`, `min` … on integers.
pub(super) fn arithmetic<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    ty: Type,
) -> Decoded {
    if matches!(ty, Type::U16x2 | Type::S16x2) {
        return packed(cx, mods, inst, ty);
    }
    let of = int_type(cx, ty)?;
    if mods.flag("cc") || matches!(inst.name, "addc" | "subc" | "madc") {
        return carry(cx, mods, inst, (ty, of));
    }
    let sat = mods.flag("sat");
    let f = match (inst.name, sat) {
        ("add", true) => lanes2(|a, b| integer::add_sat(a as u32, b as u32).into()),
        ("sub", true) => lanes2(|a, b| integer::sub_sat(a as u32, b as u32).into()),
        (_, true) => return Err(cx.unknown("`.sat` does not belong here")),
        ("add", _) => for_width!(of.bits(), M => lanes2(|a, b| a.wrapping_add(b) & M)),
        ("sub", _) => for_width!(of.bits(), M => lanes2(|a, b| a.wrapping_sub(b) & M)),
        ("mul", _) => return multiply(cx, mods, inst, (ty, of)),
        ("div", _) => for_type!(of, T => lanes2(|a, b| integer::div(T, a, b))),
        ("rem", _) => for_type!(of, T => lanes2(|a, b| integer::rem(T, a, b))),
        ("min", _) => return extremum(cx, mods, inst, (ty, of)),
        ("max", _) => return extremum(cx, mods, inst, (ty, of)),
        _ => return Err(cx.unknown(format!("`{}` does not take integers", inst.name))),
    };
    if sat && ty != Type::S32 {
        return Err(cx.unknown("`.sat` needs `.s32`"));
    }
    two(cx, inst, [ty; 3], f)
}

fn extremum<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    (ty, of): (Type, IntType),
) -> Decoded {
    let relu = mods.flag("relu");
    if relu && ty != Type::S32 {
        return Err(cx.unknown("`.relu` needs `.s32` or `.s16x2`"));
    }
    let f = match (inst.name == "min", relu) {
        (true, false) => for_type!(of, T => lanes2(|a, b| T.wrap(T.value(a).min(T.value(b))))),
        (false, false) => for_type!(of, T => lanes2(|a, b| T.wrap(T.value(a).max(T.value(b))))),
        (true, true) => lanes2(|a, b| (a as i32).min(b as i32).max(0) as u64),
        (false, true) => lanes2(|a, b| (a as i32).max(b as i32).max(0) as u64),
    };
    two(cx, inst, [ty; 3], f)
}

fn packed<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    ty: Type,
) -> Decoded {
    let relu = mods.flag("relu");
    let signed = ty == Type::S16x2;
    let one: fn(u16, u16) -> u16 = match (inst.name, signed) {
        ("add", _) => u16::wrapping_add,
        ("min", true) => |a, b| (a as i16).min(b as i16) as u16,
        ("max", true) => |a, b| (a as i16).max(b as i16) as u16,
        ("min", false) => u16::min,
        ("max", false) => u16::max,
        _ => return Err(cx.unknown(format!("`{}` does not take pairs of integers", inst.name))),
    };
    if relu && (!signed || inst.name == "add") {
        return Err(cx.unknown("`.relu` does not belong here"));
    }
    let f = lanes2(move |a, b| {
        let half = |a: u16, b: u16| {
            let found = one(a, b);
            if relu { (found as i16).max(0) as u16 } else { found }
        };
        crate::number::half::pairwise(a as u32, b as u32, half).into()
    });
    two(cx, inst, [ty; 3], f)
}

fn multiply<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    (ty, of): (Type, IntType),
) -> Decoded {
    if mods.flag("wide") {
        let Some(wide) = wide(ty) else { return Err(cx.unknown("`.wide` needs 16 or 32 bits")) };
        let f = for_type!(of, T => lanes2(|a, b| product(T, a, b)));
        return two(cx, inst, [wide, ty, ty], f);
    }
    let f = if mods.flag("hi") {
        for_type!(of, T => lanes2(|a, b| integer::mul_hi(T, a, b)))
    } else if mods.flag("lo") {
        for_width!(of.bits(), M => lanes2(|a, b| a.wrapping_mul(b) & M))
    } else {
        return Err(cx.unknown("a product of integers is `.lo`, `.hi` or `.wide`"));
    };
    two(cx, inst, [ty; 3], f)
}

/// The whole product of values of up to 32 bits, in twice the width.
#[inline]
fn product(of: IntType, a: u64, b: u64) -> u64 {
    match of {
        IntType::U32 => (a & 0xffff_ffff) * (b & 0xffff_ffff),
        IntType::S32 => (i64::from(a as i32) * i64::from(b as i32)) as u64,
        _ => integer::mul_wide(of, a, b),
    }
}

/// `mad` on integers.
pub(super) fn multiply_add<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    ty: Type,
) -> Decoded {
    let of = int_type(cx, ty)?;
    if mods.flag("cc") || inst.name == "madc" {
        return carry(cx, mods, inst, (ty, of));
    }
    if mods.flag("wide") {
        let Some(wide) = wide(ty) else { return Err(cx.unknown("`.wide` needs 16 or 32 bits")) };
        let f = match wide.bits() {
            32 => for_type!(of, T => lanes3(|a, b, c| {
                product(T, a, b).wrapping_add(c) & 0xffff_ffff
            })),
            _ => for_type!(of, T => lanes3(|a, b, c| product(T, a, b).wrapping_add(c))),
        };
        return three(cx, inst, [wide, ty, ty, wide], f);
    }
    let f = if mods.flag("hi") {
        match mods.flag("sat") {
            true if ty == Type::S32 => {
                lanes3(|a, b, c| integer::mad_hi_sat(a as u32, b as u32, c as u32).into())
            }
            true => return Err(cx.unknown("`.sat` needs `.s32`")),
            false => for_type!(of, T => lanes3(|a, b, c| {
                integer::mul_hi(T, a, b).wrapping_add(c) & T.mask()
            })),
        }
    } else if mods.flag("lo") {
        for_width!(of.bits(), M => lanes3(|a, b, c| a.wrapping_mul(b).wrapping_add(c) & M))
    } else {
        return Err(cx.unknown("a product of integers is `.lo`, `.hi` or `.wide`"));
    };
    three(cx, inst, [ty; 4], f)
}

fn carry<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    (ty, of): (Type, IntType),
) -> Decoded {
    let with = matches!(inst.name, "addc" | "subc" | "madc");
    mods.flag("cc");
    let writes_carry = inst.modifiers.contains(&"cc");
    let hi = mods.flag("hi");
    mods.flag("lo");
    let f: super::super::op::FnCarry = match inst.name {
        "add" | "addc" => {
            std::sync::Arc::new(move |a, b, _, c| integer::add_carry(of, a, b, c && with))
        }
        "sub" | "subc" => {
            std::sync::Arc::new(move |a, b, _, c| integer::sub_borrow(of, a, b, c && with))
        }
        "mad" | "madc" => std::sync::Arc::new(move |a, b, addend, c| {
            let low = || of.wrap((a.wrapping_mul(b)).into());
            let product = if hi { integer::mul_hi(of, a, b) } else { low() };
            integer::add_carry(of, product, addend, c && with)
        }),
        _ => return Err(cx.unknown("`.cc` does not belong here")),
    };
    let zero = cx.bits(0);
    let (d, args) = if inst.name.starts_with("mad") {
        let [d, a, b, c] = cx.operands::<4>(inst)?;
        (d, [cx.src(a, ty)?, cx.src(b, ty)?, cx.src(c, ty)?])
    } else {
        let [d, a, b] = cx.operands::<3>(inst)?;
        (d, [cx.src(a, ty)?, cx.src(b, ty)?, zero])
    };
    Ok(Op::Carry(Box::new(Carry { f, d: cx.dst(d, ty)?, args, writes_carry })))
}

/// `abs` and `neg` on integers.
pub(super) fn sign<'a>(cx: &mut Context<'_, 'a>, inst: &Instruction<'a>, ty: Type) -> Decoded {
    let of = int_type(cx, ty)?;
    match inst.name {
        "neg" => for_width!(of.bits(), M => map1(cx, inst, (ty, ty), |a| a.wrapping_neg() & M)),
        _ => for_type!(of, T => map1(cx, inst, (ty, ty), |a| T.wrap(T.value(a).abs()))),
    }
}

/// `and`, `or`, `xor`, `not`, `cnot` on registers.
pub(super) fn logic<'a>(cx: &mut Context<'_, 'a>, inst: &Instruction<'a>, ty: Type) -> Decoded {
    int_type(cx, ty)?;
    let f = match inst.name {
        "and" => lanes2(|a, b| a & b),
        "or" => lanes2(|a, b| a | b),
        "xor" => lanes2(|a, b| a ^ b),
        "not" => return for_width!(ty.bits(), M => map1(cx, inst, (ty, ty), |a| !a & M)),
        _ => return for_width!(ty.bits(), M => map1(cx, inst, (ty, ty), |a| u64::from(a & M == 0))),
    };
    two(cx, inst, [ty; 3], f)
}

/// `shl` and `shr`; the amount is 32 bits wide.
pub(super) fn shift<'a>(cx: &mut Context<'_, 'a>, inst: &Instruction<'a>, ty: Type) -> Decoded {
    let of = int_type(cx, ty)?;
    let f = match inst.name {
        "shl" => for_width!(of.bits(), M => lanes2(|a, b| {
            let amount = b as u32;
            if amount >= M.count_ones() { 0 } else { (a << amount) & M }
        })),
        _ => for_type!(of, T => lanes2(|a, b| integer::shr(T, a, b as u32))),
    };
    two(cx, inst, [ty, ty, Type::U32], f)
}

/// `shf.l` and `shf.r`: a double word shifted.
pub(super) fn funnel<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    mods.ty();
    let left = mods.flag("l");
    if !left && !mods.flag("r") {
        return Err(cx.unknown("`shf` is `.l` or `.r`"));
    }
    let clamp = mods.flag("clamp");
    mods.flag("wrap");
    let f = lanes3(move |a, b, c| {
        let (a, b, c) = (a as u32, b as u32, c as u32);
        let shift = if left { integer::shf_left } else { integer::shf_right };
        shift(clamp, a, b, c).into()
    });
    three(cx, inst, [Type::B32; 4], f)
}

/// `popc`, `clz`, `bfind`, `brev`, `fns`, `bmsk`, `szext`.
pub(super) fn bits<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    ty: Type,
) -> Decoded {
    let of = int_type(cx, ty)?;
    let width = ty.bits();
    let u32s = Type::U32;
    match inst.name {
        "popc" => map1(cx, inst, (u32s, ty), |a| a.count_ones().into()),
        "clz" => map1(cx, inst, (u32s, ty), move |a| integer::clz(width, a).into()),
        "brev" => map1(cx, inst, (ty, ty), move |a| integer::brev(width, a)),
        "bfind" => {
            let amount = mods.flag("shiftamt");
            map1(cx, inst, (u32s, ty), move |a| integer::bfind(of, a, amount).into())
        }
        "fns" => three(
            cx,
            inst,
            [u32s, u32s, u32s, Type::S32],
            lanes3(|mask, base, offset| {
                integer::fns(mask as u32, base as u32, offset as i32).into()
            }),
        ),
        "bmsk" => {
            let clamp = mods.flag("clamp");
            mods.flag("wrap");
            let f = lanes2(move |a, b| integer::bmsk(clamp, a as u32, b as u32).into());
            two(cx, inst, [ty, u32s, u32s], f)
        }
        _ => {
            let clamp = mods.flag("clamp");
            mods.flag("wrap");
            let signed = ty.is_signed();
            let f = lanes2(move |a, b| integer::szext(clamp, signed, a as u32, b as u32).into());
            two(cx, inst, [ty, ty, u32s], f)
        }
    }
}

/// `bfe` and `bfi`.
pub(super) fn field<'a>(cx: &mut Context<'_, 'a>, inst: &Instruction<'a>, ty: Type) -> Decoded {
    let of = int_type(cx, ty)?;
    if inst.name == "bfe" {
        let f = lanes3(move |a, b, c| integer::bfe(of, a, b as u32, c as u32));
        return three(cx, inst, [ty, ty, Type::U32, Type::U32], f);
    }
    let [d, a, b, position, length] = cx.operands::<5>(inst)?;
    let (a, b) = (cx.src(a, ty)?, cx.src(b, ty)?);
    let (position, length) = (cx.src(position, Type::U32)?, cx.src(length, Type::U32)?);
    let d = cx.dst(d, ty)?;
    let width = ty.bits();
    let f = std::sync::Arc::new(move |args: [u64; 4]| {
        integer::bfi(width, args[0], args[1], args[2] as u32, args[3] as u32)
    });
    Ok(Op::Map4 { f, d, args: [a, b, position, length] })
}

/// `prmt`.
pub(super) fn permute<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    use integer::Permute;
    mods.ty();
    let mode = mods.pick(|word| {
        Some(match word {
            "f4e" => Permute::F4e,
            "b4e" => Permute::B4e,
            "rc8" => Permute::Rc8,
            "ecl" => Permute::Ecl,
            "ecr" => Permute::Ecr,
            "rc16" => Permute::Rc16,
            _ => return None,
        })
    });
    let mode = mode.unwrap_or(Permute::Bytes);
    let f = lanes3(move |a, b, c| integer::prmt(mode, a as u32, b as u32, c as u32).into());
    three(cx, inst, [Type::B32; 4], f)
}

/// `lop3`: any function of three bits.
pub(super) fn lookup<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    mods.ty();
    let [d, a, b, c, table] = cx.operands::<5>(inst)?;
    let crate::parse::ast::Operand::Number(crate::parse::ast::Number::Int(table)) = table else {
        return Err(cx.bad_operand("the table of `lop3` is a constant"));
    };
    let table = *table as u8;
    let b32 = Type::B32;
    let (a, b, c) = (cx.src(a, b32)?, cx.src(b, b32)?, cx.src(c, b32)?);
    let f = lanes3(move |a, b, c| integer::lop3(a as u32, b as u32, c as u32, table).into());
    Ok(Op::Map3 { f, d: cx.dst(d, b32)?, a, b, c })
}

/// `mul24`, `mad24`, `sad`.
pub(super) fn special<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    ty: Type,
) -> Decoded {
    let of = int_type(cx, ty)?;
    if inst.name == "sad" {
        return three(cx, inst, [ty; 4], lanes3(move |a, b, c| integer::sad(of, a, b, c)));
    }
    let (signed, hi) = (ty.is_signed(), mods.flag("hi"));
    mods.flag("lo");
    let product = move |a: u64, b: u64| integer::mul24(signed, hi, a as u32, b as u32);
    if inst.name == "mul24" {
        return two(cx, inst, [ty; 3], lanes2(move |a, b| product(a, b).into()));
    }
    let f = lanes3(move |a, b, c| product(a, b).wrapping_add(c as u32).into());
    three(cx, inst, [ty; 4], f)
}

/// `dp4a` and `dp2a`.
pub(super) fn dot<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let both = mods.ty().zip(mods.ty());
    let Some((a, b)) = both else { return Err(cx.unknown("a dot product names two types")) };
    let (a, b) = (a.is_signed(), b.is_signed());
    let f = if inst.name == "dp4a" {
        lanes3(move |x, y, c| integer::dp4a(a, b, x as u32, y as u32, c as u32).into())
    } else {
        let hi = mods.flag("hi");
        mods.flag("lo");
        lanes3(move |x, y, c| integer::dp2a(hi, (a, b), x as u32, y as u32, c as u32).into())
    };
    three(cx, inst, [Type::B32; 4], f)
}
