//! Contractions and copies.

use perilune_plan::{Contract, DType, Loop, StepOp, View};

use crate::machine::{Buffer, Schedules, check};
use crate::reference;

fn view(buffer: u32) -> View {
    View { buffer, offset: 0 }
}

/// A product of matrices, row-major unless a letter of `order` says `t`.
fn product(m: u64, n: u64, k: u64, order: &str) -> Contract {
    let (rows, columns, depth) = (m as i64, n as i64, k as i64);
    let a = if order.starts_with('t') { (1, rows) } else { (depth, 1) };
    let b = if order.ends_with('t') { (1, depth) } else { (columns, 1) };
    Contract {
        a: view(0),
        b: view(1),
        c: view(2),
        batch: Vec::new(),
        sum: Vec::new(),
        m: Loop { extent: m, a: a.0, b: 0, c: columns },
        n: Loop { extent: n, a: 0, b: b.1, c: 1 },
        k: Loop { extent: k, a: a.1, b: b.0, c: 0 },
        alpha: 1.0,
        accumulate: false,
        symmetric: false,
        epilogue: None,
    }
}

/// One past the last element an operand's loops reach.
fn reach(c: &Contract, offset: u64, stride: fn(&Loop) -> i64) -> u64 {
    let loops = c.batch.iter().chain(&c.sum).chain([&c.m, &c.n, &c.k]);
    let last = |l: &Loop| l.extent.saturating_sub(1) * stride(l).unsigned_abs();
    offset + loops.map(last).sum::<u64>() + 1
}

fn run(c: &Contract, [a, b, to]: [DType; 3], schedules: Schedules) {
    let before = [
        Buffer::random(a, reach(c, c.a.offset, |l| l.a), 1),
        Buffer::random(b, reach(c, c.b.offset, |l| l.b), 2),
        Buffer::untouched(to, reach(c, c.c.offset, |l| l.c)),
    ];
    let mut expected = before.clone();
    reference::contract(c, &mut expected);
    let tolerance = if to == DType::f32 { 1e-5 } else { 1e-2 };
    check(&StepOp::Contract(c.clone()), &before, &expected, (schedules, tolerance));
}

const F32: [DType; 3] = [DType::f32; 3];
const BF16: [DType; 3] = [DType::bf16; 3];

#[test]
fn products_of_odd_sizes_in_every_order_match() {
    for types in [F32, BF16] {
        for order in ["nn", "nt", "tn", "tt"] {
            run(&product(33, 47, 13, order), types, Schedules::Chosen);
        }
        for (m, n, k) in [(1, 1, 1), (64, 40, 96), (37, 130, 8), (16, 8, 0), (0, 5, 4), (5, 0, 4)] {
            run(&product(m, n, k, "nt"), types, Schedules::Chosen);
        }
    }
}

#[test]
fn every_tile_computes_the_same_product() {
    for types in [F32, BF16] {
        run(&product(140, 264, 72, "nn"), types, Schedules::EveryTile);
        run(&product(131, 67, 41, "tn"), types, Schedules::EveryTile);
    }
}

#[test]
fn operands_of_mixed_types_match() {
    use DType::{bf16, f16, f32};
    for types in [[bf16, bf16, f32], [f16, f16, f16], [f32, bf16, f32], [bf16, f32, bf16]] {
        run(&product(50, 34, 24, "nn"), types, Schedules::Chosen);
    }
}

#[test]
fn batches_outer_sums_scales_and_sums_into_the_result_match() {
    let mut c = product(20, 24, 16, "nt");
    c.batch = vec![
        Loop { extent: 2, a: 20 * 16 * 3, b: 0, c: 20 * 24 * 3 },
        Loop { extent: 3, a: 20 * 16, b: 24 * 16, c: 20 * 24 },
    ];
    c.alpha = -0.5;
    c.accumulate = true;
    c.a.offset = 5;
    for types in [F32, BF16] {
        run(&c, types, Schedules::Chosen);
    }
    let mut c = product(20, 24, 16, "nn");
    c.sum = vec![Loop { extent: 3, a: 400, b: 400, c: 0 }, Loop { extent: 2, a: 1300, b: 0, c: 0 }];
    for types in [F32, BF16] {
        run(&c, types, Schedules::Chosen);
    }
}

#[test]
fn strides_in_no_order_leave_the_rest_of_the_result_alone() {
    let mut c = product(19, 18, 17, "nn");
    c.m = Loop { extent: 19, a: 3, b: 0, c: 2 };
    c.n = Loop { extent: 18, a: 0, b: 5, c: 41 };
    c.k = Loop { extent: 17, a: 60, b: 101, c: 0 };
    for types in [F32, BF16] {
        run(&c, types, Schedules::Chosen);
    }
}

#[test]
fn symmetric_products_are_mirrored_to_the_bit() {
    for (types, m, k) in [(F32, 75, 40), (BF16, 100, 24), (F32, 32, 8), (BF16, 161, 33)] {
        let mut c = product(m, m, k, "nt");
        c.b = c.a;
        c.symmetric = true;
        run(&c, types, Schedules::EveryTile);
    }
}

#[test]
fn copies_of_every_width_match() {
    for (dtype, elems) in [(DType::f32, 1000), (DType::f32, 3), (DType::bf16, 7), (DType::bf16, 72)]
    {
        let before = [Buffer::random(dtype, elems, 3), Buffer::untouched(dtype, elems)];
        let expected = [before[0].clone(), before[0].clone()];
        let op = StepOp::Copy { src: 0, dst: 1 };
        check(&op, &before, &expected, (Schedules::Chosen, 0.0));
    }
}
