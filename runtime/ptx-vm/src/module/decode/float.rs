//! Floating-point arithmetic: f32, f64, f16, bf16 and pairs of halves.

use super::super::op::{Fn1, Fn2, Fn3, Op, lanes1, lanes2, lanes3};
use super::super::types::Type;
use super::context::Context;
use super::integer::{three, two};
use super::modifiers::Modifiers;
use crate::number::half::{self, Half};
use crate::number::single::{self, Extremum};
use crate::number::{Rounding, approx, double};
use crate::parse::ast::Instruction;
use crate::source::LoadError;

type Decoded = Result<Op, LoadError>;

const FTZ: single::Mode = single::Mode { ftz: true, ..single::Mode::NEAREST };

/// Evaluates `$body` with `$mode` a constant for the modes that occur most.
macro_rules! for_mode {
    ($found:expr, $mode:ident => $body:expr) => {
        match $found {
            single::Mode::NEAREST => {
                #[allow(non_upper_case_globals, reason = "a variable in the last arm")]
                const $mode: single::Mode = single::Mode::NEAREST;
                $body
            }
            FTZ => {
                #[allow(non_upper_case_globals, reason = "a variable in the last arm")]
                const $mode: single::Mode = FTZ;
                $body
            }
            $mode => $body,
        }
    };
}

/// The half format of a type, and whether it is a pair.
pub(super) fn half_of(ty: Type) -> Option<(Half, bool)> {
    Some(match ty {
        Type::F16 => (Half::F16, false),
        Type::F16x2 => (Half::F16, true),
        Type::Bf16 => (Half::Bf16, false),
        Type::Bf16x2 => (Half::Bf16, true),
        _ => return None,
    })
}

pub(super) fn is_float(ty: Type) -> bool {
    half_of(ty).is_some() || matches!(ty, Type::F32 | Type::F64 | Type::F32x2)
}

fn mode_of(mods: &mut Modifiers<'_>) -> single::Mode {
    let rounding = mods.rounding().unwrap_or(Rounding::NearestEven);
    single::Mode { rounding, ftz: mods.flag("ftz"), sat: mods.flag("sat") }
}

fn half_mode(mods: &mut Modifiers<'_>, half: Half) -> half::Mode {
    mods.flag("rn");
    let (ftz, sat, relu) = (mods.flag("ftz"), mods.flag("sat"), mods.flag("relu"));
    half::Mode { half, ftz, sat, relu }
}

/// `add`, `sub`, `mul`.
pub(super) fn arithmetic<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    ty: Type,
) -> Decoded {
    let f = if let Some((half, pair)) = half_of(ty) {
        let mode = half_mode(mods, half);
        let one = match inst.name {
            "add" => half::add,
            "sub" => half::sub,
            _ => half::mul,
        };
        halves2(pair, move |a, b| one(a, b, mode))
    } else if ty == Type::F64 {
        let rounding = mods.rounding().unwrap_or(Rounding::NearestEven);
        match inst.name {
            "add" => lanes2(move |a, b| double::add(a, b, rounding)),
            "sub" => lanes2(move |a, b| double::sub(a, b, rounding)),
            _ => lanes2(move |a, b| double::mul(a, b, rounding)),
        }
    } else {
        let mode = mode_of(mods);
        let name = inst.name;
        if ty == Type::F32x2 {
            pairs2(single2(name), mode)
        } else {
            match name {
                "add" => for_mode!(mode, m => lanes2(move |a, b| {
                    single::add(a as u32, b as u32, m).into()
                })),
                "sub" => for_mode!(mode, m => lanes2(move |a, b| {
                    single::sub(a as u32, b as u32, m).into()
                })),
                _ => for_mode!(mode, m => lanes2(move |a, b| {
                    single::mul(a as u32, b as u32, m).into()
                })),
            }
        }
    };
    two(cx, inst, [ty; 3], f)
}

fn single2(name: &str) -> fn(u32, u32, single::Mode) -> u32 {
    match name {
        "add" => single::add,
        "sub" => single::sub,
        _ => single::mul,
    }
}

fn pairs2(f: fn(u32, u32, single::Mode) -> u32, mode: single::Mode) -> Fn2 {
    lanes2(move |a, b| {
        let high = f((a >> 32) as u32, (b >> 32) as u32, mode);
        u64::from(high) << 32 | u64::from(f(a as u32, b as u32, mode))
    })
}

fn halves2(pair: bool, f: impl Fn(u16, u16) -> u16 + Copy + Send + Sync + 'static) -> Fn2 {
    if pair {
        lanes2(move |a, b| half::pairwise(a as u32, b as u32, f).into())
    } else {
        lanes2(move |a, b| f(a as u16, b as u16).into())
    }
}

fn halves3(pair: bool, f: impl Fn(u16, u16, u16) -> u16 + Copy + Send + Sync + 'static) -> Fn3 {
    if pair {
        lanes3(move |a, b, c| half::pairwise3(a as u32, b as u32, c as u32, f).into())
    } else {
        lanes3(move |a, b, c| f(a as u16, b as u16, c as u16).into())
    }
}

/// `fma`, and `mad` on floats, which is the same.
pub(super) fn multiply_add<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    ty: Type,
) -> Decoded {
    let f = if let Some((half, pair)) = half_of(ty) {
        let mode = half_mode(mods, half);
        halves3(pair, move |a, b, c| half::fma(a, b, c, mode))
    } else if ty == Type::F64 {
        let rounding = mods.rounding().unwrap_or(Rounding::NearestEven);
        lanes3(move |a, b, c| double::fma(a, b, c, rounding))
    } else if ty == Type::F32 {
        let mode = mode_of(mods);
        for_mode!(mode, m => lanes3(move |a, b, c| {
            single::fma(a as u32, b as u32, c as u32, m).into()
        }))
    } else {
        let mode = mode_of(mods);
        lanes3(move |a, b, c| {
            let one = |shift: u32| {
                single::fma((a >> shift) as u32, (b >> shift) as u32, (c >> shift) as u32, mode)
            };
            u64::from(one(32)) << 32 | u64::from(one(0))
        })
    };
    three(cx, inst, [ty; 4], f)
}

/// `div` on floats.
pub(super) fn divide<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    ty: Type,
) -> Decoded {
    let (approximate, full) = (mods.flag("approx"), mods.flag("full"));
    let f = match ty {
        Type::F32 if approximate || full => {
            let ftz = mods.flag("ftz");
            let f = if full { approx::div_full } else { approx::div };
            lanes2(move |a, b| f(a as u32, b as u32, ftz).into())
        }
        Type::F32 => {
            let mode = mode_of(mods);
            for_mode!(mode, m => lanes2(move |a, b| single::div(a as u32, b as u32, m).into()))
        }
        Type::F64 => {
            let rounding = mods.rounding().unwrap_or(Rounding::NearestEven);
            lanes2(move |a, b| double::div(a, b, rounding))
        }
        _ => return Err(cx.unknown(format!("`div` does not take `.{}`", ty.name()))),
    };
    two(cx, inst, [ty; 3], f)
}

/// `min` and `max` of two or three floats.
pub(super) fn extremum<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    ty: Type,
) -> Decoded {
    let xorsign_abs = mods.flag("xorsign");
    let abs = mods.flag("abs");
    if xorsign_abs != abs && inst.operands.len() == 3 {
        return Err(cx.unknown("`.xorsign` and `.abs` come together"));
    }
    let how = Extremum { ftz: mods.flag("ftz"), nan: mods.flag("NaN"), xorsign_abs };
    let is_min = inst.name == "min";
    if let Some((half, pair)) = half_of(ty) {
        let one = if is_min { half::min } else { half::max };
        return two(cx, inst, [ty; 3], halves2(pair, move |a, b| one(half, a, b, how)));
    }
    if ty == Type::F64 && how != Extremum::default() {
        return Err(cx.unknown(format!("`{}.f64` takes no modifier", inst.name)));
    }
    let f = match (ty, is_min) {
        (Type::F64, true) => lanes2(double::min),
        (Type::F64, false) => lanes2(double::max),
        (Type::F32, true) => lanes2(move |a, b| single::min(a as u32, b as u32, how).into()),
        (Type::F32, false) => lanes2(move |a, b| single::max(a as u32, b as u32, how).into()),
        _ => return Err(cx.unknown(format!("`{}` does not take `.{}`", inst.name, ty.name()))),
    };
    if inst.operands.len() == 4 && ty == Type::F32 {
        let one = if is_min { single::min } else { single::max };
        let magnitude = if abs { 0x7fff_ffff } else { u64::from(u32::MAX) };
        let f = lanes3(move |a, b, c| {
            let first = one((a & magnitude) as u32, (b & magnitude) as u32, how);
            one(first, (c & magnitude) as u32, how).into()
        });
        return three(cx, inst, [ty; 4], f);
    }
    two(cx, inst, [ty; 3], f)
}

/// `abs`, `neg`, `copysign`.
pub(super) fn sign<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    ty: Type,
) -> Decoded {
    let mask: u64 = match ty {
        Type::F64 => 1 << 63,
        Type::F32 => 1 << 31,
        Type::F16 | Type::Bf16 => 1 << 15,
        Type::F16x2 | Type::Bf16x2 => 1 << 31 | 1 << 15,
        _ => return Err(cx.unknown(format!("`{}` does not take `.{}`", inst.name, ty.name()))),
    };
    if inst.name == "copysign" {
        return two(cx, inst, [ty; 3], lanes2(move |a, b| (b & !mask) | (a & mask)));
    }
    let ftz = mods.flag("ftz");
    let negate = inst.name == "neg";
    let flush = move |bits: u64| match half_of(ty) {
        _ if !ftz => bits,
        Some((half, true)) => {
            half::pack(half::unpack(bits as u32).map(|bits| half::flush(half, bits))).into()
        }
        Some((half, false)) => half::flush(half, bits as u16).into(),
        None => single::flush(bits as u32).into(),
    };
    let [d, a] = cx.operands::<2>(inst)?;
    let f = lanes1(move |a| if negate { flush(a) ^ mask } else { flush(a) & !mask });
    Ok(Op::Map1 { f, a: cx.src(a, ty)?, d: cx.dst(d, ty)? })
}

/// An `.approx` function of f32, compiled for the function.
fn approximate_lanes(which: approx::Function, ftz: bool) -> Fn1 {
    use approx::Function;
    macro_rules! compiled {
        ($($name:ident)*) => {
            match (which, ftz) {
                $(
                    (Function::$name, true) => {
                        lanes1(|a| approx::single(Function::$name, a as u32, true).into())
                    }
                    (Function::$name, false) => {
                        lanes1(|a| approx::single(Function::$name, a as u32, false).into())
                    }
                )*
            }
        };
    }
    compiled!(Rcp Sqrt Rsqrt Ex2 Lg2 Sin Cos Tanh)
}

/// `rcp`, `sqrt`, `rsqrt`, `ex2`, `lg2`, `sin`, `cos`, `tanh`.
pub(super) fn function<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    ty: Type,
) -> Decoded {
    use approx::Function;
    let which = match inst.name {
        "rcp" => Function::Rcp,
        "sqrt" => Function::Sqrt,
        "rsqrt" => Function::Rsqrt,
        "ex2" => Function::Ex2,
        "lg2" => Function::Lg2,
        "sin" => Function::Sin,
        "cos" => Function::Cos,
        _ => Function::Tanh,
    };
    let approximate = mods.flag("approx");
    let mode = mode_of(mods);
    let ftz = mode.ftz;
    let f = match (ty, which, approximate) {
        (Type::F32, _, true) => approximate_lanes(which, ftz),
        (Type::F32, Function::Rcp, _) => lanes1(move |a| single::rcp(a as u32, mode).into()),
        (Type::F32, Function::Sqrt, _) => lanes1(move |a| single::sqrt(a as u32, mode).into()),
        (Type::F64, Function::Rcp | Function::Rsqrt, true) => {
            lanes1(move |a| approx::double(which, a))
        }
        (Type::F64, Function::Rcp, _) => lanes1(move |a| double::rcp(a, mode.rounding)),
        (Type::F64, Function::Sqrt, _) => lanes1(move |a| double::sqrt(a, mode.rounding)),
        (_, Function::Ex2 | Function::Tanh, true) => {
            let Some((half, pair)) = half_of(ty) else {
                return Err(cx.unknown(format!("`{}` does not take this type", inst.name)));
            };
            let one = move |a: u16| approx::half(which, half, a, ftz);
            match pair {
                true => lanes1(move |a| half::pack(half::unpack(a as u32).map(one)).into()),
                false => lanes1(move |a| one(a as u16).into()),
            }
        }
        _ => return Err(cx.unknown(format!("`{}` has no such form", inst.name))),
    };
    let [d, a] = cx.operands::<2>(inst)?;
    Ok(Op::Map1 { f, a: cx.src(a, ty)?, d: cx.dst(d, ty)? })
}
