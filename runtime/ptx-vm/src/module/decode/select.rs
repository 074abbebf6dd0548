//! Comparisons, selections, predicates and moves.

use super::super::op::{FnTest, Literal, Logic, Op, SetPredHalves, Ticking, lanes3, test2};
use super::super::types::Type;
use super::SINK_PRED;
use super::context::Context;
use super::float::{half_of, is_float};
use super::integer::int_type;
use super::modifiers::Modifiers;
use crate::number::IntType;
use crate::number::compare::{self, Comparison, FloatClass};
use crate::number::half::Half;
use crate::parse::ast::{Instruction, Operand};
use crate::source::LoadError;

type Decoded = Result<Op, LoadError>;

fn comparison(mods: &mut Modifiers<'_>) -> Option<Comparison> {
    mods.pick(|word| {
        Some(match word {
            "eq" => Comparison::Eq,
            "ne" => Comparison::Ne,
            "lt" | "lo" => Comparison::Lt,
            "le" | "ls" => Comparison::Le,
            "gt" | "hi" => Comparison::Gt,
            "ge" | "hs" => Comparison::Ge,
            "equ" => Comparison::Equ,
            "neu" => Comparison::Neu,
            "ltu" => Comparison::Ltu,
            "leu" => Comparison::Leu,
            "gtu" => Comparison::Gtu,
            "geu" => Comparison::Geu,
            "num" => Comparison::Num,
            "nan" => Comparison::Nan,
            _ => return None,
        })
    })
}

/// Whether a comparison goes with a type: `.b` types are equal or not, words for unsigned numbers compare those.
fn fits(
    cx: &Context<'_, '_>,
    inst: &Instruction<'_>,
    (how, ty): (Comparison, Type),
) -> Result<(), LoadError> {
    let unsigned = inst.modifiers.iter().any(|word| matches!(*word, "lo" | "ls" | "hi" | "hs"));
    let is_unsigned = matches!(ty, Type::U16 | Type::U32 | Type::U64);
    let bits = matches!(ty, Type::B16 | Type::B32 | Type::B64);
    let equality = matches!(how, Comparison::Eq | Comparison::Ne);
    if unsigned && !is_unsigned || bits && !equality {
        return Err(cx.unknown(format!("no such comparison of `.{}`", ty.name())));
    }
    Ok(())
}

fn logic_of(mods: &mut Modifiers<'_>) -> Option<Logic> {
    mods.pick(|word| {
        Some(match word {
            "and" => Logic::And,
            "or" => Logic::Or,
            "xor" => Logic::Xor,
            _ => return None,
        })
    })
}

/// Evaluates `$body` with `$how` a constant.
macro_rules! for_comparison {
    ($found:expr, $how:ident => $body:expr) => {
        for_comparison!(@ $found, $how, $body,
            Eq Ne Lt Le Gt Ge Equ Neu Ltu Leu Gtu Geu Num Nan)
    };
    (@ $found:expr, $how:ident, $body:expr, $($name:ident)*) => {
        match $found {
            $(Comparison::$name => { const $how: Comparison = Comparison::$name; $body })*
        }
    };
}

fn int_test(how: Comparison, of: IntType) -> FnTest {
    match of {
        IntType::U32 => for_comparison!(how, H => test2(|a, b| {
            compare::compare_integers(H, IntType::U32, a, b)
        })),
        IntType::S32 => for_comparison!(how, H => test2(|a, b| {
            compare::compare_integers(H, IntType::S32, a, b)
        })),
        IntType::U64 => for_comparison!(how, H => test2(|a, b| {
            compare::compare_integers(H, IntType::U64, a, b)
        })),
        IntType::S64 => for_comparison!(how, H => test2(|a, b| {
            compare::compare_integers(H, IntType::S64, a, b)
        })),
        _ => test2(move |a, b| compare::compare_integers(how, of, a, b)),
    }
}

fn half_test(how: Comparison, half: Half, ftz: bool, shift: u32) -> FnTest {
    let wide = move |bits: u64| {
        let bits = (bits >> shift) as u16;
        let bits = if ftz { crate::number::half::flush(half, bits) } else { bits };
        f64::from(half.widen(bits))
    };
    test2(move |a, b| compare::compare_floats(how, wide(a), wide(b)))
}

fn test(cx: &Context<'_, '_>, how: Comparison, ty: Type, ftz: bool) -> Result<FnTest, LoadError> {
    if let Some((half, false)) = half_of(ty) {
        return Ok(half_test(how, half, ftz, 0));
    }
    Ok(match ty {
        Type::F32 if ftz => test2(move |a, b| {
            let wide = |a: u64| f64::from(f32::from_bits(crate::number::single::flush(a as u32)));
            compare::compare_floats(how, wide(a), wide(b))
        }),
        Type::F32 => for_comparison!(how, H => test2(|a, b| {
            let wide = |a: u64| f64::from(f32::from_bits(a as u32));
            compare::compare_floats(H, wide(a), wide(b))
        })),
        Type::F64 => for_comparison!(how, H => test2(|a, b| {
            compare::compare_floats(H, f64::from_bits(a), f64::from_bits(b))
        })),
        _ => int_test(how, int_type(cx, ty)?),
    })
}

/// The predicate that a comparison is combined with: the last operand of `count + 1`.
fn combined<'a>(
    cx: &mut Context<'_, 'a>,
    logic: Option<Logic>,
    inst: &Instruction<'a>,
) -> Result<Option<(Logic, Literal)>, LoadError> {
    match (logic, inst.operands.get(3..).unwrap_or_default()) {
        (Some(logic), [operand]) => Ok(Some((logic, cx.literal(operand)?))),
        (None, []) => Ok(None),
        _ => Err(cx.bad_operand("a combined comparison takes one predicate more")),
    }
}

/// `setp`.
pub(super) fn set_predicate<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let Some(how) = comparison(mods) else { return Err(cx.unknown("no comparison is named")) };
    let logic = logic_of(mods);
    let ftz = mods.flag("ftz");
    let Some(ty) = mods.ty() else { return Err(cx.unknown("no type is named")) };
    fits(cx, inst, (how, ty))?;
    let [d, a, b] =
        inst.operands.get(..3).map_or([None; 3], |ops| [ops.first(), ops.get(1), ops.get(2)]);
    let (Some(d), Some(a), Some(b)) = (d, a, b) else {
        return Err(cx.bad_operand("`setp` takes a predicate and two values"));
    };
    let with = combined(cx, logic, inst)?;
    let (a, b) = (cx.src(a, ty)?, cx.src(b, ty)?);
    let (p, q) = match d {
        Operand::Pair(p, q) => (cx.dst_pred(p)?, cx.dst_pred(q)?),
        _ => (cx.dst_pred(d)?, SINK_PRED),
    };
    if let Some((half, true)) = half_of(ty) {
        let tests = [half_test(how, half, ftz, 0), half_test(how, half, ftz, 16)];
        let halves = SetPredHalves { tests, preds: [p, q], args: [a, b], with };
        return Ok(Op::SetPredHalves(Box::new(halves)));
    }
    Ok(Op::SetPred { f: test(cx, how, ty, ftz)?, p, q, a, b, with })
}

/// `set`: all ones, or 1.0, where the comparison holds.
pub(super) fn set<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let Some(how) = comparison(mods) else { return Err(cx.unknown("no comparison is named")) };
    let logic = logic_of(mods);
    let ftz = mods.flag("ftz");
    let Some((to, from)) = mods.ty().zip(mods.ty()) else {
        return Err(cx.unknown("`set` names two types"));
    };
    fits(cx, inst, (how, from))?;
    let with = combined(cx, logic, inst)?;
    let (Some(d), Some(a), Some(b)) =
        (inst.operands.first(), inst.operands.get(1), inst.operands.get(2))
    else {
        return Err(cx.bad_operand("`set` takes two values"));
    };
    let (a, b) = (cx.src(a, from)?, cx.src(b, from)?);
    let d = cx.dst(d, to)?;
    if let Some((half, true)) = half_of(from) {
        let one = half.narrow(1.0);
        let one = if half_of(to).is_some() { one } else { 0xffff };
        let wide = move |bits: u64, shift: u32| f64::from(half.widen((bits >> shift) as u16));
        let half = move |a: u64, b: u64, shift: u32| {
            let holds = compare::compare_floats(how, wide(a, shift), wide(b, shift));
            u64::from(if holds { one } else { 0 }) << shift
        };
        if with.is_some() || ftz {
            return Err(cx.unknown("`set` on pairs takes neither a predicate nor `.ftz` here"));
        }
        let f = super::super::op::lanes2(move |a, b| half(a, b, 0) | half(a, b, 16));
        return Ok(Op::Map2 { f, d, a, b });
    }
    let if_true = match to {
        Type::F32 => 1f32.to_bits().into(),
        Type::F16 => u64::from(Half::F16.narrow(1.0)),
        Type::Bf16 => u64::from(Half::Bf16.narrow(1.0)),
        _ => u64::MAX >> (64 - to.bits()),
    };
    Ok(Op::Set { f: test(cx, how, from, ftz)?, d, a, b, if_true, with })
}

/// `selp` and `slct`.
pub(super) fn select<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let ftz = mods.flag("ftz");
    let Some(ty) = mods.ty() else { return Err(cx.unknown("no type is named")) };
    let [d, a, b, c] = cx.operands::<4>(inst)?;
    let (a, b) = (cx.src(a, ty)?, cx.src(b, ty)?);
    if inst.name == "selp" {
        let p = cx.literal(c)?;
        return Ok(Op::Select { d: cx.dst(d, ty)?, a, b, p });
    }
    let by = mods.ty().filter(|by| matches!(by, Type::S32 | Type::F32));
    let Some(by) = by else { return Err(cx.unknown("`slct` chooses by `.s32` or `.f32`")) };
    let c = cx.src(c, by)?;
    let f = lanes3(move |a, b, c| {
        let c = c as u32;
        let first = match by {
            Type::S32 => c as i32 >= 0,
            _ if ftz => f32::from_bits(crate::number::single::flush(c)) >= 0.0,
            _ => f32::from_bits(c) >= 0.0,
        };
        if first { a } else { b }
    });
    Ok(Op::Map3 { f, d: cx.dst(d, ty)?, a, b, c })
}

/// `and.pred` and its like.
pub(super) fn predicate_logic<'a>(cx: &mut Context<'_, 'a>, inst: &Instruction<'a>) -> Decoded {
    let how = match inst.name {
        "and" => Logic::And,
        "or" => Logic::Or,
        "xor" => Logic::Xor,
        "not" | "mov" => {
            let [d, a] = cx.operands::<2>(inst)?;
            let a = cx.literal(a)?;
            let negated = a.negated ^ (inst.name == "not");
            return Ok(Op::PredMove { d: cx.dst_pred(d)?, a: Literal { negated, ..a } });
        }
        _ => return Err(cx.unknown(format!("`{}` does not take predicates", inst.name))),
    };
    let [d, a, b] = cx.operands::<3>(inst)?;
    let (a, b) = (cx.literal(a)?, cx.literal(b)?);
    Ok(Op::PredLogic { how, d: cx.dst_pred(d)?, a, b })
}

/// `testp`.
pub(super) fn class<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let class = mods.pick(|word| {
        Some(match word {
            "finite" => FloatClass::Finite,
            "infinite" => FloatClass::Infinite,
            "number" => FloatClass::Number,
            "notanumber" => FloatClass::NotANumber,
            "normal" => FloatClass::Normal,
            "subnormal" => FloatClass::Subnormal,
            _ => return None,
        })
    });
    let Some(class) = class else { return Err(cx.unknown("no class is named")) };
    let ty = mods.ty().filter(|ty| is_float(*ty));
    let Some((ty, format)) = ty.and_then(|ty| Some((ty, ty.float()?))) else {
        return Err(cx.unknown("`testp` takes `.f32` or `.f64`"));
    };
    let [d, a] = cx.operands::<2>(inst)?;
    let a = cx.src(a, ty)?;
    let f = test2(move |a, _| compare::has_class(format, a, class));
    Ok(Op::SetPred { f, p: cx.dst_pred(d)?, q: SINK_PRED, a, b: a, with: None })
}

/// `mov`, with vectors as packing and unpacking.
pub(super) fn mov<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let Some(ty) = mods.ty() else { return Err(cx.unknown("no type is named")) };
    if ty == Type::Pred {
        return predicate_logic(cx, inst);
    }
    let [d, a] = cx.operands::<2>(inst)?;
    match (d, a) {
        (Operand::Vector(parts), _) => {
            let bits = part_bits(cx, ty, parts)?;
            let a = cx.src(a, ty)?;
            let part = part_type(cx, bits)?;
            let parts: Vec<u32> =
                parts.iter().map(|p| cx.dst(p, part)).collect::<Result<_, _>>()?;
            let parts = cx.list(&parts);
            Ok(Op::Unpack { a, parts, bits })
        }
        (_, Operand::Vector(parts)) => {
            let bits = part_bits(cx, ty, parts)?;
            let part = part_type(cx, bits)?;
            let parts: Vec<u32> =
                parts.iter().map(|p| cx.src(p, part)).collect::<Result<_, _>>()?;
            let parts = cx.list(&parts);
            Ok(Op::Pack { d: cx.dst(d, ty)?, parts, bits })
        }
        (_, Operand::Name { name, offset: 0 }) if ticking(name).is_some() => {
            let which = ticking(name).unwrap_or(Ticking::Clock);
            Ok(Op::Ticking { d: cx.dst(d, ty)?, which })
        }
        _ => {
            let a = cx.src(a, ty)?;
            Ok(Op::Mov { d: cx.dst(d, ty)?, a })
        }
    }
}

fn ticking(name: &str) -> Option<Ticking> {
    Some(match name {
        "%clock" | "%globaltimer_lo" => Ticking::Clock,
        "%clock_hi" | "%globaltimer_hi" => Ticking::ClockHigh,
        "%clock64" | "%globaltimer" => Ticking::Clock64,
        _ => return None,
    })
}

fn part_bits(cx: &Context<'_, '_>, ty: Type, parts: &[Operand<'_>]) -> Result<u8, LoadError> {
    let count = parts.len() as u32;
    if !matches!(count, 2 | 4 | 8) || ty.bits() > 64 || ty.bits() / count < 8 {
        return Err(cx.bad_operand("a vector of 2, 4 or 8 parts of a register"));
    }
    Ok((ty.bits() / count) as u8)
}

fn part_type(cx: &Context<'_, '_>, bits: u8) -> Result<Type, LoadError> {
    match bits {
        8 => Ok(Type::B8),
        16 => Ok(Type::B16),
        32 => Ok(Type::B32),
        _ => Err(cx.bad_operand("parts of 8, 16 or 32 bits")),
    }
}
