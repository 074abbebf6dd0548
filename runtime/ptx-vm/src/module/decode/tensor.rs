//! `mma`, `ldmatrix`, `stmatrix`, `movmatrix`, `wgmma`, `setmaxnreg`, `griddepcontrol`.

use super::super::op::{List, Op, Row};
use super::super::tensor::{Left, MatrixOp, Multiply, WgmmaOp};
use super::super::types::{Space, Type};
use super::context::Context;
use super::memory::{elements, literal};
use super::modifiers::Modifiers;
use crate::matrix::product::MmaTypes;
use crate::matrix::{Accumulator, Element, Major, Mma, Wgmma};
use crate::parse::ast::{Instruction, Number, Operand};
use crate::source::LoadError;

type Decoded = Result<Op, LoadError>;

fn element(word: &str) -> Option<Element> {
    Some(match word {
        "f64" => Element::F64,
        "tf32" => Element::Tf32,
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        "e4m3" => Element::E4m3,
        "e5m2" => Element::E5m2,
        "s8" => Element::S8,
        "u8" => Element::U8,
        _ => return None,
    })
}

fn accumulator(word: &str) -> Option<Accumulator> {
    Some(match word {
        "f64" => Accumulator::F64,
        "f32" => Accumulator::F32,
        "f16" => Accumulator::F16,
        "s32" => Accumulator::S32,
        _ => return None,
    })
}

/// The extents of `m16n8k16`.
fn shape(word: &str) -> Option<(usize, usize, usize)> {
    let (m, rest) = word.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
}

/// The types of an `mma`, which must stand in the text in the order of the manual: d, a, b, c.
fn types(cx: &Context<'_, '_>, mods: &mut Modifiers<'_>) -> Result<MmaTypes, LoadError> {
    let known = |word: &str| accumulator(word).is_some() || element(word).is_some();
    let mut next = || mods.pick(|word| known(word).then(|| word.to_owned()));
    let words = [next(), next(), next(), next()];
    let [Some(d), Some(a), Some(b), Some(c)] = &words else {
        return Err(cx.unknown("`mma` names four types"));
    };
    match (accumulator(d), element(a), element(b), accumulator(c)) {
        (Some(d), Some(a), Some(b), Some(c)) => Ok(MmaTypes { d, a, b, c }),
        _ => Err(cx.unknown("these types do not go together")),
    }
}

/// `mma.sync`.
pub(super) fn mma<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    collective(cx, mods)?;
    let Some(shape) = mods.pick(shape) else { return Err(cx.unknown("`mma` names a shape")) };
    let mut layout = || mods.pick(|word| matches!(word, "row" | "col").then_some(word == "row"));
    if (layout(), layout()) != (Some(true), Some(false)) {
        return Err(cx.unknown("`mma` multiplies `.row` by `.col`"));
    }
    let saturate = mods.flag("satfinite");
    let types = types(cx, mods)?;
    let mma = Mma::new(shape, types, saturate).map_err(|error| cx.unknown(error.to_string()))?;
    let [d, a, b, c] = cx.operands::<4>(inst)?;
    let [n_a, n_b, n_c, n_d] = mma.registers();
    let ty = if mma.is_double() { Type::B64 } else { Type::B32 };
    let (a, b) = (sources(cx, a, (n_a, ty))?, sources(cx, b, (n_b, ty))?);
    let c = sources(cx, c, (n_c, ty))?;
    let d = destinations(cx, d, (n_d, ty))?;
    Ok(Op::Matrix(Box::new(MatrixOp::Mma { mma, d, a, b, c })))
}

fn collective(cx: &Context<'_, '_>, mods: &mut Modifiers<'_>) -> Result<(), LoadError> {
    if mods.flag("sync") && mods.flag("aligned") {
        return Ok(());
    }
    Err(cx.unknown(format!("`{}` is `.sync.aligned`", cx.name)))
}

fn sources<'a>(
    cx: &mut Context<'_, 'a>,
    operand: &Operand<'a>,
    (count, ty): (usize, Type),
) -> Result<List, LoadError> {
    let parts = elements(cx, operand, count)?;
    let rows = parts.iter().map(|part| cx.src(part, ty)).collect::<Result<Vec<Row>, _>>()?;
    Ok(cx.list(&rows))
}

fn destinations<'a>(
    cx: &mut Context<'_, 'a>,
    operand: &Operand<'a>,
    (count, ty): (usize, Type),
) -> Result<List, LoadError> {
    let parts = elements(cx, operand, count)?;
    let rows = parts.iter().map(|part| cx.dst(part, ty)).collect::<Result<Vec<Row>, _>>()?;
    Ok(cx.list(&rows))
}

/// `ldmatrix` and `stmatrix`.
pub(super) fn move_matrices<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    collective(cx, mods)?;
    let count = mods.pick(|word| match word {
        "x1" => Some(1),
        "x2" => Some(2),
        "x4" => Some(4),
        _ => None,
    });
    let transposed = mods.flag("trans");
    let space = mods.space();
    let (Some(count), true, true) = (count, mods.flag("m8n8"), mods.flag("b16")) else {
        return Err(cx.unknown("only `.m8n8` matrices of `.b16`, one, two or four"));
    };
    if !matches!(space, Space::Shared | Space::Generic) {
        return Err(cx.unknown("matrices move from and to shared memory"));
    }
    let [first, second] = cx.operands::<2>(inst)?;
    let op = if inst.name == "ldmatrix" {
        let at = cx.address(second, space)?;
        MatrixOp::Load { at, transposed, d: destinations(cx, first, (count, Type::B32))? }
    } else {
        let at = cx.address(first, space)?;
        MatrixOp::Store { at, transposed, a: sources(cx, second, (count, Type::B32))? }
    };
    Ok(Op::Matrix(Box::new(op)))
}

/// `movmatrix`.
pub(super) fn transpose<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    collective(cx, mods)?;
    if !(mods.flag("m8n8") && mods.flag("trans") && mods.flag("b16")) {
        return Err(cx.unknown("`movmatrix` is `.m8n8.trans.b16`"));
    }
    let [d, a] = cx.operands::<2>(inst)?;
    let a = cx.src(a, Type::B32)?;
    Ok(Op::Matrix(Box::new(MatrixOp::Transpose { d: cx.dst(d, Type::B32)?, a })))
}

/// `wgmma`.
pub(super) fn wgmma<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    collective(cx, mods)?;
    if mods.flag("mma_async") {
        return multiply(cx, mods, inst);
    }
    if mods.flag("wait_group") {
        let [pending] = cx.operands::<1>(inst)?;
        let pending = literal(cx, pending)?.min(u32::MAX.into()) as u32;
        return Ok(Op::Wgmma(WgmmaOp::Wait { pending }));
    }
    cx.operands::<0>(inst)?;
    if mods.flag("fence") {
        return Ok(Op::Wgmma(WgmmaOp::Fence));
    }
    if mods.flag("commit_group") {
        return Ok(Op::Wgmma(WgmmaOp::Commit));
    }
    Err(cx.unknown("no such `wgmma`"))
}

fn multiply<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let Some((64, n, k)) = mods.pick(shape) else {
        return Err(cx.unknown("`wgmma.mma_async` names a shape of 64 rows"));
    };
    let saturate = mods.flag("satfinite");
    let (d, a, b) = (mods.pick(accumulator), mods.pick(element), mods.pick(element));
    let (Some(d), Some(a), Some(b)) = (d, a, b) else {
        return Err(cx.unknown("`wgmma.mma_async` names three types"));
    };
    let wgmma = Wgmma::new(n, k, (d, a, b), saturate);
    let wgmma = wgmma.map_err(|error| cx.unknown(error.to_string()))?;
    let [into, left, right, accumulate, rest @ ..] = &inst.operands[..] else {
        return Err(cx.bad_operand("`wgmma.mma_async` takes at least four operands"));
    };
    let in_registers = matches!(left, Operand::Vector(_));
    let [negate_a, negate_b, transposed_a, transposed_b] = switches(cx, rest, a, in_registers)?;
    let major = |transposed: bool| if transposed { Major::Mn } else { Major::K };
    let a = if in_registers {
        Left::Registers(sources(cx, left, (wgmma.operand_registers(), Type::B32))?)
    } else {
        Left::Descriptor(cx.src(left, Type::B64)?, major(transposed_a))
    };
    let b = cx.src(right, Type::B64)?;
    // With `scale-d` the accumulator is read; a predicate says so only when it runs.
    if matches!(accumulate, Operand::Number(Number::Int(1..))) {
        sources(cx, into, (wgmma.accumulator_registers(), Type::B32))?;
    }
    let accumulate = cx.literal(accumulate)?;
    let d = destinations(cx, into, (wgmma.accumulator_registers(), Type::B32))?;
    let b_major = major(transposed_b);
    let multiply = Multiply { wgmma, d, a, b, b_major, accumulate, negate_a, negate_b };
    Ok(Op::Wgmma(WgmmaOp::Multiply(Box::new(multiply))))
}

/// The immediates of a wgmma: signs of A and B, and for 16-bit elements whether they are transposed.
fn switches(
    cx: &Context<'_, '_>,
    operands: &[Operand<'_>],
    of: Element,
    in_registers: bool,
) -> Result<[bool; 4], LoadError> {
    let half = matches!(of, Element::F16 | Element::Bf16);
    let expected = match of {
        Element::S8 | Element::U8 => 0,
        _ if half && in_registers => 3,
        _ if half => 4,
        _ => 2,
    };
    if operands.len() != expected {
        let have = operands.len();
        return Err(
            cx.bad_operand(format!("{have} immediates where the instruction has {expected}"))
        );
    }
    let sign = |operand: &Operand<'_>| match literal(cx, operand)? as u32 as i32 {
        1 => Ok(false),
        -1 => Ok(true),
        other => Err(cx.bad_operand(format!("a scale is 1 or -1, not {other}"))),
    };
    let transposed = |operand: &Operand<'_>| match literal(cx, operand)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(cx.bad_operand(format!("a transposition is 0 or 1, not {other}"))),
    };
    Ok(match operands {
        [a, b, a_major, b_major] => {
            [sign(a)?, sign(b)?, transposed(a_major)?, transposed(b_major)?]
        }
        [a, b, b_major] => [sign(a)?, sign(b)?, false, transposed(b_major)?],
        [a, b] => [sign(a)?, sign(b)?, false, false],
        _ => [false; 4],
    })
}

/// `setmaxnreg`: registers are not a limit here, but the count must be possible.
pub(super) fn registers_limit<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    collective(cx, mods)?;
    if !(mods.flag("inc") || mods.flag("dec")) || mods.ty() != Some(Type::U32) {
        return Err(cx.unknown("`setmaxnreg` is `.inc` or `.dec` of `.u32`"));
    }
    let [count] = cx.operands::<1>(inst)?;
    let count = literal(cx, count)?;
    if !(24..=256).contains(&count) || count % 8 != 0 {
        return Err(
            cx.bad_operand(format!("{count} registers are no multiple of 8 from 24 to 256"))
        );
    }
    Ok(Op::Nop)
}

/// `griddepcontrol`: a launch here depends on no other.
pub(super) fn grid_dependency<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    cx.operands::<0>(inst)?;
    if mods.flag("launch_dependents") || mods.flag("wait") {
        return Ok(Op::Nop);
    }
    Err(cx.unknown("`griddepcontrol` is `.launch_dependents` or `.wait`"))
}
