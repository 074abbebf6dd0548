//! Contractions against plain f64 loops, at odd and zero sizes.

use crate::support::{PlanBuilder, add_one, assert_close, noise_tensor, values, whole};
use perilune_plan::{Contract, DType, Epilogue, Launch, Loop, StepOp};
use perilune_runtime::HostTensor;
use proptest::prelude::*;

fn l(extent: u64, a: i64, b: i64, c: i64) -> Loop {
    Loop { extent, a, b, c }
}

/// `batch × [m, k] · [k, n]`, all row-major.
fn dense(batch: u64, m: u64, n: u64, k: u64) -> Contract {
    let (mi, ni, ki) = (m as i64, n as i64, k as i64);
    Contract {
        a: whole(0),
        b: whole(1),
        c: whole(2),
        batch: vec![l(batch, mi * ki, ki * ni, mi * ni)],
        sum: Vec::new(),
        m: l(m, ki, 0, ni),
        n: l(n, 0, 1, 1),
        k: l(k, 1, ni, 0),
        alpha: 1.0,
        accumulate: false,
        symmetric: false,
        epilogue: None,
    }
}

/// Every loop, in f64, onto `c`.
fn truth(contract: &Contract, a: &[f64], b: &[f64], c: &mut [f64]) {
    let mut loops = contract.batch.clone();
    loops.extend([contract.m, contract.n]);
    let outer = loops.len();
    loops.extend(&contract.sum);
    loops.push(contract.k);
    let count = |ls: &[Loop]| ls.iter().map(|l| l.extent).product::<u64>();
    let at = |ls: &[Loop], index: u64| {
        let mut rest = index;
        ls.iter().rev().fold([0i64; 3], |[x, y, z], l| {
            let i = (rest % l.extent) as i64;
            rest /= l.extent;
            [x + i * l.a, y + i * l.b, z + i * l.c]
        })
    };
    for i in 0..count(&loops[..outer]) {
        let [x, y, z] = at(&loops[..outer], i);
        let mut sum = 0.0;
        for j in 0..count(&loops[outer..]) {
            let [dx, dy, _] = at(&loops[outer..], j);
            sum += a[(x + dx) as usize] * b[(y + dy) as usize];
        }
        let start = if contract.accumulate { c[z as usize] } else { 0.0 };
        c[z as usize] = start + f64::from(contract.alpha) * sum;
    }
}

/// Runs a contraction whose result is first copied from a feed, and checks it.
fn check(contract: Contract, dtype: DType, elems: [u64; 3], tolerance: f64) {
    let mut builder = PlanBuilder::new();
    let feeds: Vec<_> = (0..3u64)
        .map(|i| noise_tensor(i + 1, &[elems[i as usize]]).cast(dtype).expect("a float type"))
        .collect();
    let inputs = elems.map(|count| builder.feed(dtype, &[count]));
    let c = builder.result(dtype, &[elems[2]]);
    builder.step(StepOp::Copy { src: inputs[2], dst: c });
    let mut bound = contract.clone();
    (bound.a.buffer, bound.b.buffer, bound.c.buffer) = (inputs[0], inputs[1], c);
    builder.step(StepOp::Contract(bound));
    let found = builder.run_all(&feeds);
    let mut expected = values(&feeds[2]);
    truth(&contract, &values(&feeds[0]), &values(&feeds[1]), &mut expected);
    assert_close(&values(&found[0]), &expected, tolerance, &format!("{contract:?}"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_strided_batched_product_equals_plain_loops(
        (batch, m, n, k) in (0u64..4, 0u64..40, 0u64..40, 0u64..40),
        transposed in any::<[bool; 3]>(),
        alpha in prop_oneof![Just(1.0f32), Just(-0.5)],
        accumulate in any::<bool>(),
        sum in 0u64..3,
        bf16 in any::<bool>(),
    ) {
        let mut c = dense(batch, m, n, k);
        let (mi, ki) = (m as i64, k as i64);
        if transposed[0] { (c.m.a, c.k.a) = (1, mi) }
        if transposed[1] { (c.k.b, c.n.b) = (1, ki) }
        if transposed[2] { (c.m.c, c.n.c) = (1, mi) }
        (c.alpha, c.accumulate) = (alpha, accumulate);
        // The sum runs over whole matrices beside each other.
        c.sum = vec![l(sum, mi * ki * batch as i64, 0, 0)];
        let elems = [batch * m * k * sum.max(1), batch * k * n, batch * m * n];
        let (dtype, tolerance) = if bf16 { (DType::bf16, 1e-2) } else { (DType::f32, 1e-5) };
        check(c, dtype, elems, tolerance);
    }
}

#[test]
fn products_larger_than_a_tile_equal_plain_loops() {
    for (batch, m, n, k) in [(1, 300, 275, 33), (2, 1, 700, 260), (1, 700, 1, 260), (700, 3, 5, 7)]
    {
        check(
            dense(batch, m, n, k),
            DType::f32,
            [batch * m * k, batch * k * n, batch * m * n],
            3e-5,
        );
    }
    check(dense(1, 70, 50, 2100), DType::bf16, [70 * 2100, 2100 * 50, 70 * 50], 2e-2);
}

#[test]
fn a_narrow_result_is_rounded_once_after_all_outer_sums() {
    // 300 terms of one: bf16 counts to 256 and no further if each sum is stored.
    let mut c = dense(1, 2, 3, 1);
    c.sum = vec![l(300, 0, 0, 0)];
    let mut builder = PlanBuilder::new();
    let (a, b) = (builder.feed(DType::bf16, &[2]), builder.feed(DType::bf16, &[3]));
    let result = builder.result(DType::bf16, &[6]);
    (c.a.buffer, c.b.buffer, c.c.buffer) = (a, b, result);
    builder.step(StepOp::Contract(c));
    let ones = |n: u64| {
        let ones = HostTensor::from_f32(&[n], &vec![1.0; n as usize]);
        ones.and_then(|t| t.cast(DType::bf16)).expect("ones")
    };
    assert_eq!(values(&builder.run_all(&[ones(2), ones(3)])[0]), [300.0; 6]);
}

#[test]
fn a_symmetric_product_is_mirrored() {
    for (batch, n, k) in [(2u64, 17u64, 5u64), (1, 517, 301), (3, 300, 64)] {
        let (ni, ki) = (n as i64, k as i64);
        let mut c = dense(batch, n, n, k);
        c.batch = vec![l(batch, ni * ki, ni * ki, ni * ni)];
        (c.k.b, c.n.b) = (1, ki);
        c.symmetric = true;
        let mut builder = PlanBuilder::new();
        let a = builder.feed(DType::f32, &[batch * n * k]);
        let result = builder.result(DType::f32, &[batch * n * n]);
        let mut bound = c.clone();
        (bound.a.buffer, bound.b.buffer, bound.c.buffer) = (a, a, result);
        builder.step(StepOp::Contract(bound));
        let feed = noise_tensor(7, &[batch * n * k]);
        let found = values(&builder.run_all(std::slice::from_ref(&feed))[0]);
        let (input, mut expected) = (values(&feed), vec![0.0; (batch * n * n) as usize]);
        truth(&c, &input, &input, &mut expected);
        assert_close(&found, &expected, 3e-5, "symmetric");
    }
}

/// The contraction with an epilogue that adds 1 to each element of its result, row by row.
fn check_epilogue(mut contract: Contract, elems: [u64; 3], row: u64, tolerance: f64) {
    let mut builder = PlanBuilder::new();
    let a = builder.feed(DType::f32, &[elems[0]]);
    let b = if contract.symmetric { a } else { builder.feed(DType::f32, &[elems[1]]) };
    let c = builder.result(DType::f32, &[elems[2]]);
    let kernel = builder.kernel(add_one(elems[2], row));
    (contract.a.buffer, contract.b.buffer, contract.c.buffer) = (a, b, c);
    contract.epilogue = Some(Epilogue { launch: Launch { kernel, args: vec![c] }, row });
    builder.step(StepOp::Contract(contract.clone()));
    let mut feeds = vec![noise_tensor(3, &[elems[0]])];
    if !contract.symmetric {
        feeds.push(noise_tensor(4, &[elems[1]]));
    }
    let found = values(&builder.run_all(&feeds)[0]);
    let mut expected = vec![0.0; found.len()];
    let last = feeds.last().expect("there is one");
    truth(&contract, &values(&feeds[0]), &values(last), &mut expected);
    expected.iter_mut().for_each(|x| *x += 1.0);
    assert_close(&found, &expected, tolerance, &format!("{contract:?}"));
}

#[test]
fn an_epilogue_sees_every_row_once_and_finished() {
    // Whole products, tiles of rows and columns, odd sizes, one row each, no rows, no sum.
    for (batch, m, n, k) in [
        (5, 8, 6, 4),
        (40, 4, 4, 4),
        (1, 600, 520, 90),
        (3, 517, 261, 70),
        (700, 1, 5, 3),
        (1, 3, 700, 260),
        (4, 0, 8, 2),
        (0, 4, 8, 2),
        (4, 5, 8, 0),
    ] {
        let elems = [batch * m * k, batch * k * n, batch * m * n];
        check_epilogue(dense(batch, m, n, k), elems, n, 3e-5);
    }
}

#[test]
fn an_epilogue_waits_for_every_item_that_shares_its_rows() {
    // `b s d, h d e -> b s h e`: a row holds every head.
    for (b, s, h, e, d) in
        [(2u64, 130u64, 3u64, 70u64, 40u64), (3, 5, 7, 1, 2), (1, 300, 2, 130, 90)]
    {
        let [si, hi, ei, di] = [s, h, e, d].map(|n| n as i64);
        let mut c = dense(1, b * s, e, d);
        c.batch = vec![l(h, 0, di * ei, ei)];
        c.m.c = hi * ei;
        let elems = [b * s * d, h * d * e, b * s * h * e];
        check_epilogue(c.clone(), elems, h * e, 3e-5);
        // With the sequences as a batch of their own, and the heads outside them.
        c.m.extent = s;
        c.batch = vec![l(h, 0, di * ei, ei), l(b, si * di, 0, si * hi * ei)];
        check_epilogue(c, elems, h * e, 3e-5);
    }
}

#[test]
fn an_epilogue_waits_for_both_sides_of_the_diagonal() {
    for (batch, n, k) in [(1u64, 517u64, 301u64), (3, 300, 64), (2, 17, 5)] {
        let (ni, ki) = (n as i64, k as i64);
        let mut c = dense(batch, n, n, k);
        c.batch = vec![l(batch, ni * ki, ni * ki, ni * ni)];
        (c.k.b, c.n.b, c.symmetric) = (1, ki, true);
        check_epilogue(c, [batch * n * k, 0, batch * n * n], n, 3e-5);
    }
}

#[test]
fn an_epilogue_of_rows_across_tiles_runs_after_the_contraction() {
    // The result transposed: its rows run down the product's columns.
    let mut c = dense(1, 300, 275, 33);
    (c.m.c, c.n.c) = (1, 300);
    check_epilogue(c, [300 * 33, 33 * 275, 300 * 275], 300, 3e-5);
    // Rows of half a step, and of two.
    for row in [10, 40] {
        check_epilogue(dense(1, 300, 20, 33), [300 * 33, 33 * 20, 300 * 20], row, 3e-5);
    }
}

#[test]
fn an_epilogue_that_does_not_fit_is_refused() {
    let refused = |change: fn(&mut Epilogue)| {
        let mut builder = PlanBuilder::new();
        let feeds = [builder.feed(DType::f32, &[24]), builder.feed(DType::f32, &[24])];
        let (a, c) = (builder.temporary(DType::f32, 24), builder.result(DType::f32, &[16]));
        builder.step(StepOp::Copy { src: feeds[0], dst: a });
        let kernel = builder.kernel(add_one(16, 4));
        let mut epilogue = Epilogue { launch: Launch { kernel, args: vec![c] }, row: 4 };
        change(&mut epilogue);
        let mut contract = dense(1, 4, 4, 6);
        (contract.a.buffer, contract.b.buffer, contract.c.buffer) = (a, feeds[1], c);
        contract.epilogue = Some(epilogue);
        builder.step(StepOp::Contract(contract));
        let feed = noise_tensor(1, &[24]);
        builder.run(1, &[feed.clone(), feed]).err().map(|e| e.to_string())
    };
    assert_eq!(refused(|_| ()), None);
    type Change = fn(&mut Epilogue);
    let cases: [(Change, &str); 4] = [
        (|e| e.row = 0, "4 blocks, 0 elements a row"),
        (|e| e.row = 2, "4 blocks, 2 elements a row"),
        (|e| e.launch.kernel = 7, "kernel 7 does not exist"),
        // Over what the contraction still reads.
        (|e| e.launch.args = vec![2], "which is read"),
    ];
    for (change, reason) in cases {
        let message = refused(change).unwrap_or_default();
        assert!(message.contains(reason), "`{message}` for `{reason}`");
    }
}

#[test]
fn a_launch_runs_every_block_once() {
    for (blocks, size) in [(1, 3), (7, 5), (10_000, 4)] {
        let mut builder = PlanBuilder::new();
        let feed = builder.feed(DType::f32, &[blocks * size]);
        let out = builder.result(DType::f32, &[blocks * size]);
        let kernel = builder.kernel(add_one(blocks * size, size));
        builder.step(StepOp::Copy { src: feed, dst: out });
        builder.step(StepOp::Launch(Launch { kernel, args: vec![out] }));
        let input = noise_tensor(9, &[blocks * size]);
        let found = values(&builder.run_all(std::slice::from_ref(&input))[0]);
        let expected: Vec<f64> = values(&input).iter().map(|x| x + 1.0).collect();
        assert_close(&found, &expected, 1e-6, "add one");
    }
}
