//! `cvt` between all scalar types and into pairs, and `cvt.pack`.

use super::super::op::{Op, lanes1, lanes2};
use super::super::types::Type;
use super::context::Context;
use super::float::half_of;
use super::modifiers::Modifiers;
use crate::number::convert::{self, Mode};
use crate::number::{FloatFormat, IntType, Rounding};
use crate::parse::ast::Instruction;
use crate::source::LoadError;

type Decoded = Result<Op, LoadError>;

/// `.rni` and its like.
fn integral_rounding(mods: &mut Modifiers<'_>) -> Option<Rounding> {
    mods.pick(|word| {
        Some(match word {
            "rni" => Rounding::NearestEven,
            "rzi" => Rounding::Zero,
            "rmi" => Rounding::Down,
            "rpi" => Rounding::Up,
            _ => return None,
        })
    })
}

/// `cvt`.
pub(super) fn convert<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    if mods.flag("pack") {
        return pack(cx, mods, inst);
    }
    let integral = integral_rounding(mods);
    let rounding = mods.rounding();
    let mode = Mode {
        rounding: rounding.unwrap_or(Rounding::NearestEven),
        ftz: mods.flag("ftz"),
        sat: mods.flag("sat"),
        satfinite: mods.flag("satfinite"),
        relu: mods.flag("relu"),
    };
    let Some((to, from)) = mods.ty().zip(mods.ty()) else {
        return Err(cx.unknown("a conversion names two types"));
    };
    if let Some(op) = pair(cx, inst, (to, from), mode)? {
        return Ok(op);
    }
    let [d, a] = cx.operands::<2>(inst)?;
    let a = cx.src_wide(a, from)?;
    let (d, width) = cx.dst_wide(d, to)?;
    let f = scalar(cx, (to, from), (integral, rounding), mode)?;
    if !to.is_signed() || width <= to.bits() {
        return Ok(Op::Map1 { f: lanes1(f), d, a });
    }
    let (up, mask) = (64 - to.bits(), u64::MAX >> (64 - width));
    Ok(Op::Map1 { f: lanes1(move |a| ((f(a) << up) as i64 >> up) as u64 & mask), d, a })
}

type Scalar = Box<dyn Fn(u64) -> u64 + Send + Sync>;

fn scalar(
    cx: &Context<'_, '_>,
    (to, from): (Type, Type),
    (integral, rounding): (Option<Rounding>, Option<Rounding>),
    mode: Mode,
) -> Result<Scalar, LoadError> {
    let refused =
        || cx.unknown(format!("no conversion from `.{}` to `.{}`", from.name(), to.name()));
    match (from.integer(), from.float(), to.integer(), to.float()) {
        (Some(from), _, Some(to), _) => Ok(ints(from, to, mode.sat)),
        (Some(from), _, _, Some(to)) if rounding.is_some() => {
            Ok(Box::new(move |a| convert::int_to_float(from, to, a, mode)))
        }
        (_, Some(from), Some(to), _) => {
            let rounding = integral.ok_or_else(refused)?;
            Ok(Box::new(move |a| convert::float_to_int(from, to, a, rounding, mode.ftz)))
        }
        (_, Some(from), _, Some(to)) => match integral {
            Some(rounding) if from == to => {
                let mode = Mode { rounding, ..mode };
                Ok(Box::new(move |a| convert::to_integral(from, a, mode)))
            }
            Some(_) => Err(refused()),
            None => floats(from, to, rounding, mode).ok_or_else(refused),
        },
        _ => Err(refused()),
    }
}

fn floats(
    from: FloatFormat,
    to: FloatFormat,
    rounding: Option<Rounding>,
    mode: Mode,
) -> Option<Scalar> {
    let widens =
        from.fraction_bits() <= to.fraction_bits() && from.exponent_bits() <= to.exponent_bits();
    if !widens && rounding.is_none() {
        return None;
    }
    Some(Box::new(move |a| convert::float_to_float(from, to, a, mode)))
}

fn ints(from: IntType, to: IntType, sat: bool) -> Scalar {
    match (from.signed(), from.bits()) {
        _ if sat => Box::new(move |a| convert::int_to_int(from, to, a, true)),
        (false, bits) => {
            let mask = u64::MAX >> (64 - bits.min(to.bits()));
            Box::new(move |a| a & mask)
        }
        (true, bits) => {
            let (up, mask) = (64 - bits, to.mask());
            Box::new(move |a| ((a << up) as i64 >> up) as u64 & mask)
        }
    }
}

/// Conversions with pairs; `None` if neither type is one.
fn pair<'a>(
    cx: &mut Context<'_, 'a>,
    inst: &Instruction<'a>,
    (to, from): (Type, Type),
    mode: Mode,
) -> Result<Option<Op>, LoadError> {
    let eight = |ty: Type| match ty {
        Type::E4m3x2 => Some(FloatFormat::E4m3),
        Type::E5m2x2 => Some(FloatFormat::E5m2),
        _ => None,
    };
    if eight(to).is_some() && !mode.satfinite {
        return Err(cx.unknown("a conversion to eight bits is `.satfinite`"));
    }
    let narrow = eight(to).or(half_of(to).filter(|(_, pair)| *pair).map(|(half, _)| half.format()));
    if let (Some(format), Type::F32) = (narrow, from) {
        let [d, high, low] = cx.operands::<3>(inst)?;
        let (high, low) = (cx.src(high, from)?, cx.src(low, from)?);
        let f = lanes2(move |a, b| convert::pack_pair(format, a as u32, b as u32, mode).into());
        return Ok(Some(Op::Map2 { f, d: cx.dst(d, to)?, a: high, b: low }));
    }
    let f = match (eight(to), half_of(from), eight(from), half_of(to)) {
        (Some(format), Some((half, true)), ..) => {
            lanes1(move |a| convert::narrow_pair(half, format, a as u32, mode).into())
        }
        (_, _, Some(format), Some((half, true))) => {
            lanes1(move |a| convert::widen_pair(format, half, a as u16, mode).into())
        }
        _ => return Ok(None),
    };
    let [d, a] = cx.operands::<2>(inst)?;
    Ok(Some(Op::Map1 { f, a: cx.src(a, from)?, d: cx.dst(d, to)? }))
}

/// `cvt.pack.sat.u16.s32 d, a, b`: both saturated, `a` above `b`; the eight-bit forms shift `c` up.
fn pack<'a>(cx: &mut Context<'_, 'a>, mods: &mut Modifiers<'a>, inst: &Instruction<'a>) -> Decoded {
    mods.flag("sat");
    let (to, from, with) = (mods.ty(), mods.ty(), mods.ty());
    let to = to.and_then(Type::integer).filter(|to| to.bits() <= 16);
    let (Some(to), Some(Type::S32)) = (to, from) else {
        return Err(cx.unknown("no such `cvt.pack`"));
    };
    let bits = to.bits();
    let one = move |a: u64| convert::int_to_int(IntType::S32, to, a, true);
    let both = move |a: u64, b: u64| one(a) << bits | one(b);
    if with.is_none() && bits == 16 {
        return super::integer::two(
            cx,
            inst,
            [Type::B32, from.unwrap_or(Type::S32), Type::S32],
            lanes2(both),
        );
    }
    if bits == 16 || with != Some(Type::B32) {
        return Err(cx.unknown("no such `cvt.pack`"));
    }
    let f = super::super::op::lanes3(move |a, b, c| (c << 16 | both(a, b)) & 0xffff_ffff);
    super::integer::three(cx, inst, [Type::B32, Type::S32, Type::S32, Type::B32], f)
}
