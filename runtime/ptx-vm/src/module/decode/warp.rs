//! Instructions in which lanes of a warp or threads of a CTA meet.

use super::super::op::{Bar, Literal, Op, Order, Reduce, Shuffle, Vote};
use super::super::types::Type;
use super::SINK_PRED;
use super::context::Context;
use super::modifiers::Modifiers;
use crate::parse::ast::{Instruction, Operand};
use crate::source::LoadError;

type Decoded = Result<Op, LoadError>;

/// Without `.sync` the active lanes take part, which the machine cannot tell apart from a mistake.
fn needs_sync(cx: &Context<'_, '_>, mods: &mut Modifiers<'_>) -> Result<(), LoadError> {
    if mods.flag("sync") {
        return Ok(());
    }
    Err(cx.unknown(format!("`{}` without `.sync` is not supported since sm_70", cx.name)))
}

fn row_and_pred<'a>(
    cx: &mut Context<'_, 'a>,
    operand: &Operand<'a>,
    ty: Type,
) -> Result<(u32, u32), LoadError> {
    match operand {
        Operand::Pair(d, p) => Ok((cx.dst(d, ty)?, cx.dst_pred(p)?)),
        single => Ok((cx.dst(single, ty)?, SINK_PRED)),
    }
}

/// `shfl.sync`.
pub(super) fn shuffle<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    needs_sync(cx, mods)?;
    let how = mods.pick(|word| {
        Some(match word {
            "up" => Shuffle::Up,
            "down" => Shuffle::Down,
            "bfly" => Shuffle::Butterfly,
            "idx" => Shuffle::Index,
            _ => return None,
        })
    });
    let Some(how) = how else { return Err(cx.unknown("no such shuffle")) };
    let ty = mods.ty().filter(|ty| ty.bits() == 32).unwrap_or(Type::B32);
    let [d, a, b, c, members] = cx.operands::<5>(inst)?;
    let a = cx.src(a, ty)?;
    let (b, c) = (cx.src(b, Type::B32)?, cx.src(c, Type::B32)?);
    let members = cx.src(members, Type::B32)?;
    let (d, p) = row_and_pred(cx, d, ty)?;
    Ok(Op::Shuffle { how, d, p, a, b, c, members })
}

/// `vote.sync`.
pub(super) fn vote<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    needs_sync(cx, mods)?;
    let how = mods.pick(|word| {
        Some(match word {
            "all" => Vote::All,
            "any" => Vote::Any,
            "uni" => Vote::Uniform,
            "ballot" => Vote::Ballot,
            _ => return None,
        })
    });
    let Some(how) = how else { return Err(cx.unknown("no such vote")) };
    mods.ty();
    let [d, a, members] = cx.operands::<3>(inst)?;
    let a = cx.literal(a)?;
    let members = cx.src(members, Type::B32)?;
    if how == Vote::Ballot {
        return Ok(Op::Ballot { d: cx.dst(d, Type::B32)?, a, members });
    }
    Ok(Op::VotePred { how, d: cx.dst_pred(d)?, a, members })
}

/// `match.sync`.
pub(super) fn match_lanes<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    needs_sync(cx, mods)?;
    let all = mods.flag("all");
    if !all && !mods.flag("any") {
        return Err(cx.unknown("`match` is `.any` or `.all`"));
    }
    let Some(ty) = mods.ty() else { return Err(cx.unknown("no type is named")) };
    let [d, a, members] = cx.operands::<3>(inst)?;
    let (a, members) = (cx.src(a, ty)?, cx.src(members, Type::B32)?);
    let (d, p) = row_and_pred(cx, d, Type::B32)?;
    Ok(if all { Op::MatchAll { d, p, a, members } } else { Op::MatchAny { d, a, members } })
}

/// `redux.sync`.
pub(super) fn reduce<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    needs_sync(cx, mods)?;
    let name = mods.pick(|word| {
        ["add", "min", "max", "and", "or", "xor"].into_iter().find(|known| *known == word)
    });
    let (abs, nan) = (mods.flag("abs"), mods.flag("NaN"));
    let Some(ty) = mods.ty().filter(|ty| ty.bits() == 32) else {
        return Err(cx.unknown("`redux` takes 32-bit types"));
    };
    let how = match (name, ty) {
        (Some("add"), Type::U32 | Type::S32) => Reduce::Add,
        (Some("min"), Type::U32) => Reduce::MinU,
        (Some("max"), Type::U32) => Reduce::MaxU,
        (Some("min"), Type::S32) => Reduce::MinS,
        (Some("max"), Type::S32) => Reduce::MaxS,
        (Some("min"), Type::F32) => Reduce::MinF { abs, nan },
        (Some("max"), Type::F32) => Reduce::MaxF { abs, nan },
        (Some("and"), Type::B32) => Reduce::And,
        (Some("or"), Type::B32) => Reduce::Or,
        (Some("xor"), Type::B32) => Reduce::Xor,
        _ => return Err(cx.unknown("no such `redux`")),
    };
    let [d, a, members] = cx.operands::<3>(inst)?;
    let (a, members) = (cx.src(a, ty)?, cx.src(members, Type::B32)?);
    Ok(Op::Reduce { how, d: cx.dst(d, ty)?, a, members })
}

/// `elect.sync`.
pub(super) fn elect<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    needs_sync(cx, mods)?;
    let [d, members] = cx.operands::<2>(inst)?;
    let members = cx.src(members, Type::B32)?;
    let (d, p) = row_and_pred(cx, d, Type::B32)?;
    Ok(Op::Elect { d, p, members })
}

/// `activemask`.
pub(super) fn active_mask<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    mods.ty();
    let [d] = cx.operands::<1>(inst)?;
    Ok(Op::ActiveMask { d: cx.dst(d, Type::B32)? })
}

/// `bar`, `barrier` and `barrier.cluster`.
pub(super) fn barrier<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    if mods.flag("cluster") {
        return cluster_barrier(cx, mods, inst);
    }
    if mods.flag("warp") {
        mods.flag("sync");
        let [members] = cx.operands::<1>(inst)?;
        return Ok(Op::BarWarp { members: cx.src(members, Type::B32)? });
    }
    mods.flag("cta");
    // `bar` is `barrier` with `.aligned`.
    let aligned = mods.flag("aligned") || inst.name == "bar";
    let always = Literal { pred: 0, negated: true };
    if mods.flag("red") {
        return reduction(cx, mods, inst, aligned);
    }
    let how = if mods.flag("arrive") {
        Bar::Arrive
    } else if mods.flag("sync") {
        Bar::Sync
    } else {
        return Err(cx.unknown("a barrier is `.sync`, `.arrive` or `.red`"));
    };
    let (id, threads) = match &inst.operands[..] {
        [id] if how == Bar::Sync => (cx.src(id, Type::U32)?, None),
        [id, threads] => (cx.src(id, Type::U32)?, Some(cx.src(threads, Type::U32)?)),
        _ => return Err(cx.bad_operand("a barrier takes its number and a count of threads")),
    };
    Ok(Op::Bar { how, id, threads, input: always, aligned })
}

fn cluster_barrier<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let aligned = mods.flag("aligned");
    let (arrives, waits) = (mods.flag("arrive"), mods.flag("wait"));
    cx.operands::<0>(inst)?;
    match (arrives, waits, mods.order()) {
        (true, false, None | Some(Order::Release)) => {
            Ok(Op::ClusterArrive { release: true, aligned })
        }
        (true, false, Some(Order::Relaxed)) => Ok(Op::ClusterArrive { release: false, aligned }),
        (false, true, None | Some(Order::Acquire)) => Ok(Op::ClusterWait { aligned }),
        _ => Err(cx.unknown(
            "`barrier.cluster` is `.arrive`, with `.release` or `.relaxed`, or `.wait`, with `.acquire`",
        )),
    }
}

fn reduction<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
    aligned: bool,
) -> Decoded {
    let name = mods.pick(|word| ["popc", "and", "or"].into_iter().find(|known| *known == word));
    mods.ty();
    let [d, id, rest @ ..] = &inst.operands[..] else {
        return Err(cx.bad_operand("`bar.red` takes a destination, a number and a predicate"));
    };
    let id = cx.src(id, Type::U32)?;
    let (threads, input) = match rest {
        [input] => (None, cx.literal(input)?),
        [threads, input] => (Some(cx.src(threads, Type::U32)?), cx.literal(input)?),
        _ => return Err(cx.bad_operand("`bar.red` takes a predicate")),
    };
    let how = match name {
        Some("popc") => Bar::Popc(cx.dst(d, Type::U32)?),
        Some("and") => Bar::And(cx.dst_pred(d)?),
        Some("or") => Bar::Or(cx.dst_pred(d)?),
        _ => return Err(cx.unknown("`bar.red` is `.popc`, `.and` or `.or`")),
    };
    Ok(Op::Bar { how, id, threads, input, aligned })
}

/// `nanosleep`, `pmevent` and what else only takes time.
pub(super) fn pause<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    mods.ty();
    for operand in &inst.operands {
        cx.src(operand, Type::U32)?;
    }
    Ok(Op::Yield)
}
