//! Kernels without products of tiles: copies, and reductions of rows by warps.
//!
//! # Invariants
//! - A warp reduces a row: element `i` goes to lane `i mod 32`, then a butterfly in fixed order.

use perilune_plan::{AttentionGrad, DType, HeadsView};

use crate::builder::{Builder, Compare, Ty, Val};
use crate::problem::{Problem, Work};
use crate::schedule::Schedule;
use crate::{Body, KernelError};

/// Lanes of a warp.
const WARP: u32 = 32;

/// Writes a kernel.
pub(crate) fn write(problem: &Problem, schedule: &Schedule) -> Result<Body, KernelError> {
    let Schedule::Elements { threads, vector } = schedule else {
        return Err(KernelError::Schedule("elements take a schedule of elements"));
    };
    if *threads == 0 || !threads.is_multiple_of(WARP) {
        return Err(KernelError::Schedule("a block has whole warps"));
    }
    match &problem.work {
        Work::Copy { elems } => copy(problem, *elems, (*threads, *vector)),
        Work::MaxLogit { heads, each, offset } => Ok(max_logit([*heads, *each, *offset], *threads)),
        Work::GradDelta(a) => delta(problem, a, *threads),
        Work::Contract(_)
        | Work::Ragged(_)
        | Work::Attention(_)
        | Work::GradQueries(_)
        | Work::GradKeys(_) => Err(KernelError::Schedule("not a kernel of elements")),
    }
}

/// Bytes are moved in units of up to 16 by as many threads as there are units.
fn copy(problem: &Problem, elems: u64, (threads, vector): (u32, u32)) -> Result<Body, KernelError> {
    let bytes = elems * problem.dtypes[0].bytes();
    let each = u64::from(vector) * problem.dtypes[0].bytes();
    let words = match each {
        16 => 4,
        8 => 2,
        4 => 1,
        2 | 1 => 0,
        _ => return Err(KernelError::Schedule("an access has 1, 2, 4, 8 or 16 bytes")),
    };
    if !bytes.is_multiple_of(each) {
        return Err(KernelError::Schedule("accesses do not divide the elements"));
    }
    let units = bytes / each;
    if units + u64::from(threads) > i32::MAX as u64 {
        return Err(KernelError::TooLarge("a copy"));
    }
    let mut b = Builder::default();
    let parameters = [b.parameter(), b.parameter()];
    let (thread, block) = (b.thread(), b.block());
    let first = b.mul(block, i64::from(threads));
    let unit = b.add(first, thread);
    let all = b.i32(units as i64);
    let exists = b.less(unit, all);
    b.when(exists, |b| {
        let wide = b.wide(unit);
        let offset = b.mul(wide, each as i64);
        let [from, to] = parameters.map(|p| b.at(p, offset));
        let ty = match each {
            1 => Ty::I8,
            2 => Ty::I16,
            _ => Ty::I32,
        };
        let values = b.load_vector(from, ty, words.max(1));
        b.store_vector(&values, to);
    });
    Ok(Body { text: b.finish(), blocks: units.div_ceil(u64::from(threads)), shared_bytes: 0 })
}

/// A block's warps, each with a row: the row, the lane, and whether the row exists.
fn warp_rows(b: &mut Builder, threads: u32, rows: u64) -> (Val, Val, Val) {
    let (thread, block) = (b.thread(), b.block());
    let (warp, lane) = (b.div(thread, i64::from(WARP)), b.rem(thread, i64::from(WARP)));
    let first = b.mul(block, i64::from(threads / WARP));
    let row = b.add(first, warp);
    let all = b.i32(rows as i64);
    let exists = b.less(row, all);
    (row, lane, exists)
}

/// Folds the elements of a row over the lanes: `element(i)` for `i = lane, lane + 32, …`.
fn fold(
    b: &mut Builder,
    (lane, extent): (Val, u64),
    start: f32,
    step: impl Fn(&mut Builder, Val, Val) -> Val,
) -> Val {
    let trips = b.i32(extent.div_ceil(u64::from(WARP)) as i64);
    let (zero, start, limit) = (b.i32(0), b.f32(start), b.i32(extent as i64));
    let folded = b.repeat((zero, trips), &[start], |b, trip, acc| {
        let first = b.mul(trip, i64::from(WARP));
        let i = b.add(first, lane);
        let exists = b.less(i, limit);
        let acc = acc[0];
        b.replace_when(exists, &[acc], |b| vec![step(b, i, acc)])
    });
    folded[0]
}

/// Combines the lanes' values; every lane gets the result.
pub(crate) fn over_lanes(
    b: &mut Builder,
    mut value: Val,
    masks: &[i64],
    combine: impl Fn(&mut Builder, Val, Val) -> Val,
) -> Val {
    for mask in masks {
        let other = b.butterfly(value, *mask);
        value = combine(b, value, other);
    }
    value
}

const ALL_LANES: [i64; 5] = [16, 8, 4, 2, 1];

fn store_by_first_lane(b: &mut Builder, (base, lane): (Val, Val), index: Val, value: Val) {
    let zero = b.i32(0);
    let first = b.compare(Compare::Equal, lane, zero);
    b.when(first, |b| {
        let bytes = b.mul(index, 4);
        let to = b.at(base, bytes);
        b.store(value, to);
    });
}

fn max_logit([heads, each, offset]: [u64; 3], threads: u32) -> Body {
    let mut b = Builder::default();
    let (parts, result) = (b.parameter(), b.parameter());
    let (head, lane, exists) = warp_rows(&mut b, threads, heads);
    b.when(exists, |b| {
        let head = b.wide(head);
        let first = b.mul(head, each as i64);
        let max = fold(b, (lane, each), f32::NEG_INFINITY, |b, i, acc| {
            let i = b.wide(i);
            let index = b.add(first, i);
            let bytes = b.mul(index, 4);
            let from = b.at(parts, bytes);
            let part = b.load(from, Ty::F32);
            b.maximum(acc, part)
        });
        let max = over_lanes(b, max, &ALL_LANES, Builder::maximum);
        let index = b.add_const(head, offset as i64);
        store_by_first_lane(b, (result, lane), index, max);
    });
    let blocks = heads.div_ceil(u64::from(threads / WARP));
    Body { text: b.finish(), blocks, shared_bytes: 0 }
}

fn delta(problem: &Problem, a: &AttentionGrad, threads: u32) -> Result<Body, KernelError> {
    let s = a.shape;
    let ty = |d: DType| Ty::of(d).ok_or(KernelError::DType(d));
    let types = [ty(problem.dtypes[0])?, ty(problem.dtypes[1])?];
    let mut b = Builder::default();
    let parameters = [b.parameter(), b.parameter(), b.parameter()];
    let rows = s.batch * s.heads * s.seq_q;
    let (row, lane, exists) = warp_rows(&mut b, threads, rows);
    b.when(exists, |b| {
        let position = b.rem(row, (s.seq_q as i64).max(1));
        let matrix = b.div(row, (s.seq_q as i64).max(1));
        let head = b.rem(matrix, (s.heads as i64).max(1));
        let batch = b.div(matrix, (s.heads as i64).max(1));
        let place = [batch, position, head].map(|v| b.wide(v));
        let starts = [&a.o, &a.d_o].map(|view| row_start(b, view, place));
        let sum = fold(b, (lane, s.v_dim), 0.0, |b, i, acc| {
            let i = b.wide(i);
            let mut loaded = Vec::with_capacity(2);
            for n in 0..2 {
                let index = b.add(starts[n], i);
                let bytes = b.mul(index, i64::from(types[n].bytes()));
                let from = b.at(parameters[n], bytes);
                let raw = b.load(from, types[n]);
                loaded.push(b.widen(raw));
            }
            b.fma(loaded[0], loaded[1], acc)
        });
        let sum = over_lanes(b, sum, &ALL_LANES, |b, x, y| b.float("addf", x, y));
        let index = b.wide(row);
        store_by_first_lane(b, (parameters[2], lane), index, sum);
    });
    let blocks = rows.div_ceil(u64::from(threads / WARP));
    Ok(Body { text: b.finish(), blocks, shared_bytes: 0 })
}

/// Element offset of a position's row; `place` is batch, position and head.
pub(crate) fn row_start(b: &mut Builder, view: &HeadsView, place: [Val; 3]) -> Val {
    let mut start = b.int(Ty::I64, view.view.offset as i64);
    for (index, stride) in place.into_iter().zip([view.batch, view.seq, view.head]) {
        let moved = b.mul(index, stride);
        start = b.add(start, moved);
    }
    start
}
