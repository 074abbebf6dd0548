//! Orders of small entries whose best order is known.

use perilune_plan::{Link, Machine};

use super::*;
use crate::ops::generic::{body_of, elementwise};
use crate::program::{
    ArgKind, Collective, CollectiveKind, Combine, DialectOp, EntryArg, EntryResult, KernelOp,
    OpKind, ResultTarget, Slot, V,
};
use crate::scalar::Unary;
use crate::types::{DType, Type};

/// A machine on which loops over `n` floats take `8 n` nanoseconds, and an exchange 1000.
fn machine() -> Machine {
    Machine {
        step_ns: 0.0,
        loop_flops: 1e12,
        memory_bytes: 1e9,
        link: Link { latency_ns: 1000.0, bytes: 1e12 },
        ..Machine::default()
    }
}

const N: u64 = 16;

fn kernel(kind: OpKind) -> Kernel {
    let ty = Type::new(DType::f32, [N]);
    let op = KernelOp { kind, operands: vec![V(0)], results: vec![ty.clone()] };
    Kernel { name: "k".into(), params: vec![ty], ops: vec![op], results: vec![V(1)] }
}

/// Two kernels: loops, and a maximum over two ranks.
fn kernels() -> Vec<Kernel> {
    let body = body_of(1, |b, x| b.apply(Unary::Exp, x[0]));
    let kind = CollectiveKind::AllReduce(Combine::Max);
    let collective = Collective { kind, axes: vec![0], ranks: 2, roots: Vec::new() };
    let exchange = OpKind::Dialect(DialectOp::Collective(collective));
    vec![kernel(OpKind::Generic(elementwise(&[N], 1, body))), kernel(exchange)]
}

const LOOPS: u32 = 0;
const EXCHANGE: u32 = 1;

/// An entry of calls, each a kernel and the call whose result it reads (the argument, if none); all
/// results that no call reads are given.
fn entry(calls: &[(u32, Option<usize>)]) -> EntryFn {
    let slot = |from: &Option<usize>| Slot(from.map_or(0, |call| call as u32 + 1));
    let call = |(i, (kernel, from)): (usize, &(u32, Option<usize>))| Call {
        kernel: *kernel,
        args: vec![slot(from)],
        first_result: Slot(i as u32 + 1),
        nodes: vec![format!("n{i}")],
        epilogue: None,
        until: None,
        only: None,
        decisions: Vec::new(),
    };
    let ty = Type::new(DType::f32, [N]);
    let read = |i: usize| calls.iter().any(|(_, from)| *from == Some(i));
    let result = |i: usize| EntryResult {
        value: Slot(i as u32 + 1),
        target: ResultTarget::Fetch(format!("r{i}")),
        shard: None,
    };
    EntryFn {
        args: vec![EntryArg {
            name: "x".into(),
            ty,
            kind: ArgKind::Feed,
            shard: None,
            owner: None,
        }],
        calls: calls.iter().enumerate().map(call).collect(),
        results: (0..calls.len()).filter(|i| !read(*i)).map(result).collect(),
        ..EntryFn::default()
    }
}

/// The order of calls by their old number, and until which position each collective runs.
fn ordered(calls: &[(u32, Option<usize>)]) -> (Vec<usize>, Vec<(usize, u32)>) {
    let (mut entry, kernels) = (entry(calls), kernels());
    order(&mut entry, &kernels, &machine());
    renumber(&mut entry, &kernels);
    extend(&mut entry, &kernels);
    let number = |call: &Call| call.nodes[0][1..].parse().expect("a number");
    let flights = entry.calls.iter().enumerate();
    let flights = flights.filter_map(|(i, call)| Some((i, call.until?))).collect();
    (entry.calls.iter().map(number).collect(), flights)
}

#[test]
fn what_does_not_need_a_collective_runs_beside_it() {
    // 0 → exchange 1 → 2, and 3, 4 on their own.
    let calls =
        [(LOOPS, None), (EXCHANGE, Some(0)), (LOOPS, Some(1)), (LOOPS, None), (LOOPS, Some(3))];
    let (order, flights) = ordered(&calls);
    assert_eq!(order, [0, 1, 3, 4, 2]);
    assert_eq!(flights, [(1, 4)], "it is waited for by the call that reads it");
}

#[test]
fn two_chains_of_exchanges_take_turns() {
    let calls = [
        (LOOPS, None),
        (EXCHANGE, Some(0)),
        (LOOPS, Some(1)),
        (EXCHANGE, Some(2)),
        (LOOPS, None),
        (EXCHANGE, Some(4)),
        (LOOPS, Some(5)),
        (EXCHANGE, Some(6)),
    ];
    let (order, flights) = ordered(&calls);
    assert_eq!(order, [0, 1, 4, 5, 2, 3, 6, 7]);
    assert_eq!(
        flights,
        [(1, 4), (3, 6), (5, 8), (7, 8)]
            .into_iter()
            .filter(|(i, u)| *u as usize > i + 1)
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_collective_whose_result_is_given_runs_to_the_end() {
    let (order, flights) = ordered(&[(EXCHANGE, None), (LOOPS, None), (LOOPS, Some(1))]);
    assert_eq!((order, flights), (vec![0, 1, 2], vec![(0, 3)]));
}
