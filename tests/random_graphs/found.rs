//! The smallest graphs of what random ones have found.

use perilune_compiler::graph::{Graph, Origin};
use perilune_compiler::interpret;
use perilune_compiler::ops::{
    Cast, Einsum, Map, Op, Pad, Reduce, Reduction, Reshape, Value, generic,
};
use perilune_compiler::program::{ArgKind, Combine, Generic, ResultTarget};
use perilune_compiler::scalar::Unary;
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::{DType, Type};

use crate::check;
use crate::grow::Grown;

/// Adds an op of one result.
fn push(graph: &mut Graph, op: impl Into<Op>, operands: &[Value]) -> Value {
    let name = format!("n{}", graph.nodes.len());
    graph.push(op.into(), operands, Origin::new(name, None)).expect("the operands fit")[0]
}

/// Checks a graph on inputs that count from 1 to 7, again and again.
fn holds(graph: Graph, bound: f64) {
    let mut next = 0.0;
    let mut count = |_: &[u64]| {
        next = next % 7.0 + 1.0;
        next
    };
    let shapes: Vec<Vec<u64>> =
        graph.inputs.iter().map(|i| graph.ty(i.value).shape.clone()).collect();
    let inputs: Vec<Tensor> =
        shapes.iter().map(|shape| Tensor::from_fn(shape, &mut count)).collect();
    let wanted = interpret::outputs(&graph, &inputs).into_iter().map(|t| (t, bound)).collect();
    check(&Grown { graph, inputs, wanted }).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_constant_can_be_folded_to_bf16() {
    let mut graph = Graph::new("run");
    let x = graph.input("x", ArgKind::Feed, Type::new(DType::f32, [16, 3]));
    let value = 0.5f64.to_bits();
    let padded = push(&mut graph, Pad { dim: 0, before: 1, after: 0, value }, &[x]);
    let narrow = push(&mut graph, Cast { to: DType::bf16 }, &[padded]);
    graph.output(narrow, ResultTarget::Fetch("y".into()));
    holds(graph, 0.0);
}

#[test]
fn an_integer_can_become_a_16_bit_float_in_one_step() {
    let mut graph = Graph::new("run");
    for (name, shape) in [("x", vec![8]), ("y", vec![])] {
        let x = graph.input(name, ArgKind::Feed, Type::new(DType::i32, shape));
        let wide = push(&mut graph, Cast { to: DType::f32 }, &[x]);
        for to in [DType::bf16, DType::f16] {
            let narrow = push(&mut graph, Cast { to }, &[wide]);
            graph.output(narrow, ResultTarget::Fetch(format!("{name} as {to}")));
        }
    }
    holds(graph, 0.0);
}

#[test]
fn the_least_of_no_integers_is_the_largest_integer() {
    let mut graph = Graph::new("run");
    let x = graph.input("x", ArgKind::Feed, Type::new(DType::i32, [3, 0]));
    let body = generic::body_of(1, |_, x| x[0]);
    let (extents, maps) = (vec![3, 0], vec![generic::dims(0..2)]);
    let g = Generic { extents, maps, out: vec![0], combine: Some(Combine::Min), body };
    let least = push(&mut graph, Reduce { reduction: Reduction::Min, generic: g }, &[x]);
    graph.output(least, ResultTarget::Fetch("y".into()));
    holds(graph, 0.0);
}

#[test]
fn a_result_is_not_written_over_what_another_loop_still_reads() {
    let mut graph = Graph::new("run");
    let mut input = |name: &str, shape: [u64; 2]| {
        graph.input(name, ArgKind::Feed, Type::new(DType::f32, shape))
    };
    let (x, a, v, w) =
        (input("x", [16, 24]), input("a", [16, 8]), input("v", [8, 24]), input("w", [4, 6]));
    let z = push(&mut graph, Einsum::new(&[&[0, 1], &[1, 2]], &[0, 2]), &[a, v]);
    let all = || generic::dims(0..2);
    let body = generic::body_of(1, |b, x| b.mul(x[0], x[0]));
    let (extents, combine) = (vec![16, 24], Some(Combine::Sum));
    let g = Generic { extents, maps: vec![all()], out: vec![0], combine, body };
    let squares = push(&mut graph, Reduce { reduction: Reduction::Sum, generic: g }, &[x]);
    let body = generic::body_of(3, |b, v| {
        let scale = b.apply(Unary::Rsqrt, v[1]);
        let scaled = b.mul(v[0], scale);
        b.add(scaled, v[2])
    });
    let maps = vec![all(), generic::dims(0..1), all()];
    let g = Generic { extents: vec![16, 24], maps, out: vec![0, 1], combine: None, body };
    let normed = push(&mut graph, Map { generic: g }, &[x, squares, z]);
    let heads = push(&mut graph, Reshape { shape: vec![16, 4, 6] }, &[normed]);
    let body = generic::body_of(2, |b, v| b.mul(v[0], v[1]));
    let maps = vec![generic::dims(0..3), generic::dims(1..3)];
    let g = Generic { extents: vec![16, 4, 6], maps, out: vec![0, 1, 2], combine: None, body };
    let weighed = push(&mut graph, Map { generic: g }, &[heads, w]);
    graph.output(normed, ResultTarget::Fetch("normed".into()));
    graph.output(weighed, ResultTarget::Fetch("weighed".into()));
    holds(graph, 1e-3);
}

#[test]
fn a_mean_of_narrow_floats_is_in_range_where_their_sum_is_not() {
    let mut graph = Graph::new("run");
    for dtype in [DType::f16, DType::bf16] {
        let x = graph.input(dtype.name(), ArgKind::Feed, Type::new(dtype, [2, 20_000]));
        let body = generic::body_of(1, |_, x| x[0]);
        let (extents, maps) = (vec![2, 20_000], vec![generic::dims(0..2)]);
        let g = Generic { extents, maps, out: vec![0], combine: Some(Combine::Sum), body };
        let mean = push(&mut graph, Reduce { reduction: Reduction::Mean, generic: g }, &[x]);
        graph.output(mean, ResultTarget::Fetch(format!("mean of {dtype}")));
    }
    holds(graph, 0.02);
}

#[test]
fn a_product_of_a_tensor_with_itself_need_not_be_symmetric_item_by_item() {
    // `a b k, c d k -> a c b d` and, for each pair of heads, `s h k, t g k -> h g s t`.
    for (lhs, rhs, out) in
        [([0, 1, 4], [2, 3, 4], [0, 2, 1, 3]), ([0, 1, 4], [2, 3, 4], [1, 3, 0, 2])]
    {
        let mut graph = Graph::new("run");
        let x = graph.input("x", ArgKind::Feed, Type::new(DType::f32, [70, 3, 8]));
        let grams = push(&mut graph, Einsum::new(&[&lhs, &rhs], &out), &[x, x]);
        graph.output(grams, ResultTarget::Fetch("grams".into()));
        holds(graph, 0.0);
    }
}

/// Two parameters of four elements.
fn two_params() -> (Graph, Value, Value) {
    let mut graph = Graph::new("run");
    let ty = Type::new(DType::f32, [4]);
    let a = graph.input("a", ArgKind::Param, ty.clone());
    let b = graph.input("b", ArgKind::Param, ty);
    (graph, a, b)
}

#[test]
fn an_old_value_is_fetched_although_its_tensor_is_updated() {
    let (mut graph, a, b) = two_params();
    let shaped = push(&mut graph, Reshape { shape: vec![2, 2] }, &[a]);
    graph.output(a, ResultTarget::Fetch("old".into()));
    graph.output(shaped, ResultTarget::Fetch("shaped".into()));
    graph.output(b, ResultTarget::Update("a".into()));
    holds(graph, 0.0);
}

#[test]
fn two_tensors_can_take_each_others_value() {
    let (mut graph, a, b) = two_params();
    graph.output(a, ResultTarget::Update("b".into()));
    graph.output(b, ResultTarget::Update("a".into()));
    holds(graph, 0.0);
}
