//! mbarriers, bulk and tensor copies, asynchronous stores, tensor maps in memory and fences between proxies.

use super::super::op::{Op, Order, Row, Scope};
use super::super::tensor::{
    BulkCopy, BulkOp, Completion, Direction, MbarrierAction, MbarrierOp, Phase, ProxyFence,
    StoreAsync, TensorCopy,
};
use super::super::types::{Space, Type};
use super::context::{Context, SINK};
use super::memory::{elements, literal, without_policy};
use super::modifiers::Modifiers;
use crate::parse::ast::{Instruction, Operand};
use crate::source::LoadError;
use crate::tensor_map::{Field, Reduction, TensorType};

type Decoded = Result<Op, LoadError>;

const COMPLETE: &str = "mbarrier::complete_tx::bytes";

/// `mbarrier`.
pub(super) fn mbarrier<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let name = mods.pick(|word| ACTIONS.iter().find(|known| **known == word).copied());
    let Some(name) = name else { return Err(cx.unknown("no such `mbarrier`")) };
    let expects = name.starts_with("arrive") && mods.flag("expect_tx");
    let no_complete = mods.flag("noComplete");
    let parity = mods.flag("parity");
    let order = mods.order();
    mods.scope();
    let space = mods.space();
    if !mods.flag("b64") {
        return Err(cx.unknown("an mbarrier is a `.b64` object"));
    }
    if name == "pending_count" {
        let [d, token] = cx.operands::<2>(inst)?;
        let token = cx.src(token, Type::B64)?;
        let d = cx.dst(d, Type::B32)?;
        return Ok(Op::Map1 { f: super::super::op::lanes1(pending_count), d, a: token });
    }
    let (at, what, usual) = match name {
        "init" => {
            let [at, count] = cx.operands::<2>(inst)?;
            let count = cx.src(count, Type::U32)?;
            (at, MbarrierAction::Init { count }, Order::Weak)
        }
        "inval" => {
            let [at] = cx.operands::<1>(inst)?;
            (at, MbarrierAction::Invalidate, Order::Weak)
        }
        "expect_tx" | "complete_tx" => {
            let [at, bytes] = cx.operands::<2>(inst)?;
            let bytes = cx.src(bytes, Type::U32)?;
            let expect = MbarrierAction::Expect { bytes };
            let complete = MbarrierAction::Complete { bytes };
            (at, if name == "expect_tx" { expect } else { complete }, Order::Relaxed)
        }
        "arrive" | "arrive_drop" => {
            let flags = (expects, name == "arrive_drop", no_complete);
            let (at, what) = arrival(cx, inst, flags)?;
            (at, what, Order::Release)
        }
        _ => {
            let (at, what) = wait(cx, inst, parity, name == "try_wait")?;
            (at, what, Order::Acquire)
        }
    };
    let at = cx.address(at, space)?;
    let order = order.unwrap_or(usual);
    Ok(Op::Mbarrier(Box::new(MbarrierOp { at, what, order })))
}

const ACTIONS: [&str; 9] = [
    "init",
    "inval",
    "arrive",
    "arrive_drop",
    "expect_tx",
    "complete_tx",
    "test_wait",
    "try_wait",
    "pending_count",
];

/// The pending arrivals in a token, or 0 for what is none.
fn pending_count(token: u64) -> u64 {
    crate::mbarrier::Mbarrier::decode(token).map_or(0, |object| object.pending.into())
}

fn arrival<'i, 'a>(
    cx: &mut Context<'_, 'a>,
    inst: &'i Instruction<'a>,
    (expects, drop, no_complete): (bool, bool, bool),
) -> Result<(&'i Operand<'a>, MbarrierAction), LoadError> {
    // The token may be left out where it has no use.
    let (token, rest) = match &inst.operands[..] {
        [first @ Operand::Address { .. }, rest @ ..] => (None, (first, rest)),
        [token, at, rest @ ..] => (Some(token), (at, rest)),
        _ => return Err(cx.bad_operand("an arrival takes the object's address")),
    };
    let (at, rest) = rest;
    let number = match rest {
        [] if !expects && !no_complete => None,
        [number] => Some(cx.src(number, Type::U32)?),
        _ => return Err(cx.bad_operand("not the operands of this arrival")),
    };
    let one = cx.bits(1);
    let (count, expect) = if expects { (one, number) } else { (number.unwrap_or(one), None) };
    let token = match token {
        Some(token) => cx.dst(token, Type::B64)?,
        None => SINK,
    };
    Ok((at, MbarrierAction::Arrive { token, count, expect, drop, no_complete }))
}

fn wait<'i, 'a>(
    cx: &mut Context<'_, 'a>,
    inst: &'i Instruction<'a>,
    parity: bool,
    blocks: bool,
) -> Result<(&'i Operand<'a>, MbarrierAction), LoadError> {
    let (done, at, phase) = match &inst.operands[..] {
        [done, at, phase] => (done, at, phase),
        [done, at, phase, hint] if blocks => {
            cx.src(hint, Type::U32)?;
            (done, at, phase)
        }
        _ => {
            return Err(
                cx.bad_operand("a wait takes a predicate, the object's address and a phase")
            );
        }
    };
    let phase = if parity {
        Phase::Parity(cx.src(phase, Type::U32)?)
    } else {
        Phase::Token(cx.src(phase, Type::B64)?)
    };
    let done = cx.dst_pred(done)?;
    Ok((at, MbarrierAction::Wait { done, phase, blocks }))
}

/// `cp.async.mbarrier.arrive`, `cp.async.bulk` and `cp.reduce.async.bulk`; `None` for other copies.
pub(super) fn copy<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Result<Option<Op>, LoadError> {
    let has = |word: &str| inst.modifiers.contains(&word);
    if has("mbarrier") && has("arrive") {
        return arrive_after_copies(cx, mods, inst).map(Some);
    }
    if !has("bulk") || !mods.flag("async") {
        return Ok(None);
    }
    mods.flag("bulk");
    if mods.flag("commit_group") {
        cx.operands::<0>(inst)?;
        return Ok(Some(Op::Bulk(Box::new(BulkOp::Commit))));
    }
    if mods.flag("wait_group") {
        let read = mods.flag("read");
        let [pending] = cx.operands::<1>(inst)?;
        let pending = literal(cx, pending)?.min(u32::MAX.into()) as u32;
        return Ok(Some(Op::Bulk(Box::new(BulkOp::Wait { pending, read }))));
    }
    if mods.flag("tensor") {
        return tensor_copy(cx, mods, inst).map(Some);
    }
    bulk_copy(cx, mods, inst).map(Some)
}

fn arrive_after_copies<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    for word in ["async", "mbarrier", "arrive", "b64"] {
        if !mods.flag(word) {
            return Err(cx.unknown("`cp.async.mbarrier.arrive` acts on a `.b64` object"));
        }
    }
    let counted = mods.flag("noinc");
    let space = mods.space();
    let [at] = cx.operands::<1>(inst)?;
    let at = cx.address(at, space)?;
    let what = MbarrierAction::ArriveAfterCopies { counted };
    Ok(Op::Mbarrier(Box::new(MbarrierOp { at, what, order: Order::Release })))
}

fn reduction(word: &str) -> Option<Reduction> {
    Some(match word {
        "add" => Reduction::Add,
        "min" => Reduction::Min,
        "max" => Reduction::Max,
        "inc" => Reduction::Inc,
        "dec" => Reduction::Dec,
        "and" => Reduction::And,
        "or" => Reduction::Or,
        "xor" => Reduction::Xor,
        _ => return None,
    })
}

fn reduced_type(ty: Type) -> Option<TensorType> {
    Some(match ty {
        Type::U32 | Type::B32 => TensorType::U32,
        Type::S32 => TensorType::S32,
        Type::U64 | Type::B64 => TensorType::U64,
        Type::S64 => TensorType::S64,
        Type::F16 => TensorType::F16,
        Type::Bf16 => TensorType::Bf16,
        // Without a map to say so, sums of f32 flush subnormals.
        Type::F32 => TensorType::F32Ftz,
        Type::F64 => TensorType::F64,
        _ => return None,
    })
}

/// The reduction and its type, where the instruction is one.
fn typed_reduction(
    cx: &Context<'_, '_>,
    mods: &mut Modifiers<'_>,
) -> Result<Option<(Reduction, TensorType)>, LoadError> {
    let Some(how) = mods.pick(reduction) else { return Ok(None) };
    let no_flush = mods.flag("noftz");
    let ty = mods.ty().and_then(reduced_type);
    let found = ty.filter(|ty| how.exists_for(*ty));
    let half = matches!(found, Some(TensorType::F16 | TensorType::Bf16));
    // Sums of halves keep subnormals, and say so.
    if found.is_none() || no_flush != (half && how == Reduction::Add) {
        return Err(cx.unknown("no such reduction for this type"));
    }
    Ok(found.map(|ty| (how, ty)))
}

fn bulk_copy<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    if mods.flag("prefetch") {
        return prefetch(cx, mods, inst);
    }
    let reduces = mods.flag("reduce");
    let (to_space, from_space) = (mods.space(), mods.space());
    let (grouped, barrier) = (mods.flag("bulk_group"), mods.flag(COMPLETE));
    let multicast = mods.flag("multicast::cluster");
    let masked = mods.flag("cp_mask");
    let reduce = typed_reduction(cx, mods)?;
    let known = match (to_space, from_space) {
        (Space::SharedCluster | Space::Shared, Space::Global) => barrier && !reduces,
        (Space::SharedCluster, Space::Shared) => barrier && !multicast,
        (Space::Global, Space::Shared) => grouped && !multicast,
        _ => false,
    };
    if !known || grouped == barrier || reduces != reduce.is_some() {
        return Err(cx.unknown("no such bulk copy"));
    }
    let operands = without_policy(cx, mods, inst)?;
    let [to, from, bytes, rest @ ..] = operands else {
        return Err(cx.bad_operand("a bulk copy takes two addresses and a size"));
    };
    let mut rest = rest.iter();
    let to = cx.address(to, to_space)?;
    let from = cx.address(from, from_space)?;
    let bytes = cx.src(bytes, Type::U32)?;
    let completion = if barrier {
        let mbarrier = rest.next().ok_or_else(|| cx.bad_operand("the mbarrier is missing"))?;
        Completion::Mbarrier(cx.address(mbarrier, to_space)?)
    } else {
        Completion::Group
    };
    let multicast = if multicast { Some(mask(cx, rest.next())?) } else { None };
    let byte_mask = if masked { Some(mask(cx, rest.next())?) } else { None };
    if rest.next().is_some() {
        return Err(cx.bad_operand("too many operands"));
    }
    let copy = BulkCopy { to, from, bytes, completion, multicast, reduce, byte_mask };
    Ok(Op::Bulk(Box::new(BulkOp::Copy(copy))))
}

/// A mask of CTAs or of bytes.
fn mask<'a>(cx: &mut Context<'_, 'a>, mask: Option<&Operand<'a>>) -> Result<Row, LoadError> {
    match mask {
        Some(mask) => cx.src(mask, Type::U16),
        None => Err(cx.bad_operand("a mask is missing")),
    }
}

/// Prefetches read their operands and do nothing.
fn prefetch<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let to_cache = mods.flag("L2");
    let operands = without_policy(cx, mods, inst)?;
    let [from, bytes] = operands else {
        return Err(cx.bad_operand("a bulk prefetch takes an address and a size"));
    };
    if !to_cache || mods.space() != Space::Global {
        return Err(cx.unknown("a bulk prefetch goes from `.global` to `.L2`"));
    }
    cx.address(from, Space::Global)?;
    cx.src(bytes, Type::U32)?;
    Ok(Op::Nop)
}

/// The address and the coordinates of `[map, {x, y}]`.
fn tensor_operand<'a>(
    cx: &mut Context<'_, 'a>,
    operand: &Operand<'a>,
    rank: usize,
) -> Result<(super::super::op::Address, super::super::op::List), LoadError> {
    let Operand::Address { base, offset, more } = operand else {
        return Err(cx.bad_operand("expected a tensor map and coordinates in brackets"));
    };
    let [coordinates] = &more[..] else {
        return Err(cx.bad_operand("expected coordinates behind the tensor map"));
    };
    let map = cx.address_parts(base, *offset, Space::Generic)?;
    let parts = elements(cx, coordinates, rank)?;
    let rows = parts.iter().map(|part| cx.src(part, Type::S32)).collect::<Result<Vec<_>, _>>()?;
    Ok((map, cx.list(&rows)))
}

fn tensor_copy<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    let rank = mods.pick(|word| match word {
        "1d" => Some(1),
        "2d" => Some(2),
        "3d" => Some(3),
        "4d" => Some(4),
        "5d" => Some(5),
        _ => None,
    });
    let Some(rank) = rank else { return Err(cx.unknown("a tensor copy names its dimensions")) };
    mods.flag("tile");
    let reduces = mods.flag("reduce");
    if mods.flag("prefetch") {
        let to_cache = mods.flag("L2");
        let operands = without_policy(cx, mods, inst)?;
        let ([source], true, Space::Global) = (operands, to_cache, mods.space()) else {
            return Err(cx.unknown("a tensor prefetch goes from `.global` to `.L2`"));
        };
        tensor_operand(cx, source, rank)?;
        return Ok(Op::Nop);
    }
    let (to, from) = (mods.space(), mods.space());
    let multicast = mods.flag("multicast::cluster");
    let operands = without_policy(cx, mods, inst)?;
    let copy = match (to, from, operands) {
        (
            Space::SharedCluster | Space::Shared,
            Space::Global,
            [shared, source, mbarrier, rest @ ..],
        ) if mods.flag(COMPLETE) && !reduces && rest.len() == usize::from(multicast) => {
            let shared = cx.address(shared, to)?;
            let (map, coordinates) = tensor_operand(cx, source, rank)?;
            let mbarrier = cx.address(mbarrier, to)?;
            let multicast = if multicast { Some(mask(cx, rest.first())?) } else { None };
            TensorCopy {
                map,
                coordinates,
                shared,
                direction: Direction::Load { mbarrier, multicast },
            }
        }
        (Space::Global, Space::Shared, [target, shared])
            if mods.flag("bulk_group") && !multicast =>
        {
            let reduce = mods.pick(reduction);
            if reduces != reduce.is_some() {
                return Err(cx.unknown("a tensor reduction names what it does"));
            }
            let (map, coordinates) = tensor_operand(cx, target, rank)?;
            let shared = cx.address(shared, from)?;
            TensorCopy { map, coordinates, shared, direction: Direction::Store { reduce } }
        }
        _ => return Err(cx.unknown("no such tensor copy")),
    };
    Ok(Op::Bulk(Box::new(BulkOp::Tensor(copy))))
}

/// `st.async` and `red.async`.
pub(super) fn store_async<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    mods.flag("async");
    mods.order();
    mods.scope();
    if mods.space() != Space::SharedCluster || !mods.flag(COMPLETE) {
        return Err(
            cx.unknown(format!("`.async` stores go to `.shared::cluster` with `.{COMPLETE}`"))
        );
    }
    let count = mods.vector();
    let how = if inst.name == "red" { mods.pick(reduction) } else { None };
    let ty = mods.ty().filter(|ty| matches!(ty.bits(), 32 | 64));
    let Some(ty) = ty else { return Err(cx.unknown("`.async` stores have 32 or 64 bits")) };
    let reduce = match (inst.name, how, reduced_type(ty)) {
        ("st", _, _) => None,
        (_, Some(how), Some(of)) if how.exists_for(of) && !of.is_float() => Some((how, of)),
        _ => return Err(cx.unknown("no such reduction for this type")),
    };
    let [to, values, mbarrier] = cx.operands::<3>(inst)?;
    let to = cx.address(to, Space::SharedCluster)?;
    let parts = elements(cx, values, count)?;
    let rows = parts.iter().map(|part| cx.src(part, ty)).collect::<Result<Vec<_>, _>>()?;
    let values = cx.list(&rows);
    let mbarrier = cx.address(mbarrier, Space::SharedCluster)?;
    let store = StoreAsync { to, mbarrier, values, bytes: ty.bytes() as u8, reduce };
    Ok(Op::Bulk(Box::new(BulkOp::Store(store))))
}

/// `tensormap.replace` and `tensormap.cp_fenceproxy`.
pub(super) fn tensor_map<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Decoded {
    if mods.flag("cp_fenceproxy") {
        let spaces = (mods.space(), mods.space());
        let proxies = mods.flag("tensormap::generic") && mods.flag("release");
        mods.scope();
        let whole = mods.flag("sync") && mods.flag("aligned");
        let [to, from, bytes] = cx.operands::<3>(inst)?;
        if spaces != (Space::Global, Space::Shared)
            || !proxies
            || !whole
            || literal(cx, bytes)? != 128
        {
            return Err(cx.unknown("no such copy of a tensor map"));
        }
        let (to, from) = (cx.address(to, Space::Global)?, cx.address(from, Space::Shared)?);
        return Ok(Op::Bulk(Box::new(BulkOp::Publish { to, from })));
    }
    if !(mods.flag("replace") && mods.flag("tile") && mods.flag("b1024")) {
        return Err(cx.unknown("no such `tensormap`"));
    }
    let name = mods.pick(|word| FIELDS.iter().find(|known| **known == word).copied());
    let space = mods.space();
    let ty = mods.ty().filter(|ty| matches!(ty, Type::B32 | Type::B64));
    let (Some(name), Some(ty)) = (name, ty) else {
        return Err(cx.unknown("`tensormap.replace` names a field and its type"));
    };
    let (at, index, value) = match &inst.operands[..] {
        [at, value] => (at, None, value),
        [at, index, value] => (at, Some(literal(cx, index)?.min(255) as u8), value),
        _ => return Err(cx.bad_operand("not the operands of `tensormap.replace`")),
    };
    let field = match (name, index) {
        ("global_address", None) => Field::GlobalAddress,
        ("rank", None) => Field::Rank,
        ("box_dim", Some(dim)) => Field::BoxDim(dim),
        ("global_dim", Some(dim)) => Field::GlobalDim(dim),
        ("global_stride", Some(dim)) => Field::GlobalStride(dim),
        ("element_stride", Some(dim)) => Field::ElementStride(dim),
        ("elemtype", None) => Field::ElementType,
        ("interleave_layout", None) => Field::Interleave,
        ("swizzle_mode", None) => Field::Swizzle,
        ("fill_mode", None) => Field::Fill,
        _ => return Err(cx.bad_operand(format!("not the operands of the field `{name}`"))),
    };
    if field.place().is_none() {
        return Err(cx.bad_operand("a tensor has at most five dimensions"));
    }
    let at = cx.address(at, space)?;
    let value = cx.src(value, ty)?;
    Ok(Op::Bulk(Box::new(BulkOp::Replace { at, field, value })))
}

const FIELDS: [&str; 10] = [
    "global_address",
    "rank",
    "box_dim",
    "global_dim",
    "global_stride",
    "element_stride",
    "elemtype",
    "interleave_layout",
    "swizzle_mode",
    "fill_mode",
];

/// `fence.proxy` and `fence.mbarrier_init`; `None` for other fences.
pub(super) fn fence<'a>(
    cx: &mut Context<'_, 'a>,
    mods: &mut Modifiers<'a>,
    inst: &Instruction<'a>,
) -> Result<Option<Op>, LoadError> {
    if mods.flag("mbarrier_init") {
        if mods.order() != Some(Order::Release) || mods.scope() != Scope::Cluster {
            return Err(cx.unknown("`fence.mbarrier_init` is `.release.cluster`"));
        }
        cx.operands::<0>(inst)?;
        return Ok(Some(Op::FenceProxy(ProxyFence::Generic(Order::Release, Scope::Cluster))));
    }
    if !mods.flag("proxy") {
        return Ok(None);
    }
    if mods.flag("async") {
        cx.operands::<0>(inst)?;
        return Ok(Some(Op::FenceProxy(match mods.space() {
            Space::Generic => ProxyFence::Async,
            Space::Global => ProxyFence::AsyncGlobal,
            Space::Shared | Space::SharedCluster => ProxyFence::AsyncShared,
            _ => return Err(cx.unknown("`fence.proxy.async` is for `.global` or `.shared`")),
        })));
    }
    if mods.flag("alias") {
        cx.operands::<0>(inst)?;
        let all = ProxyFence::Generic(Order::AcquireRelease, Scope::Device);
        return Ok(Some(Op::FenceProxy(all)));
    }
    if !mods.flag("tensormap::generic") {
        return Err(cx.unknown("no fence for these proxies"));
    }
    let order = mods.order();
    let scope = mods.scope();
    match (order, &inst.operands[..]) {
        (Some(Order::Release), []) => {}
        (Some(Order::Acquire), [at, bytes]) if literal(cx, bytes)? == 128 => {
            cx.address(at, Space::Generic)?;
        }
        _ => return Err(cx.bad_operand("not the operands of this fence")),
    }
    let order = order.unwrap_or(Order::AcquireRelease);
    Ok(Some(Op::FenceProxy(ProxyFence::Generic(order, scope))))
}
