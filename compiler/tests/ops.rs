//! What holds of every op: the table is complete, `lower` means what `reference` says, and `vjp` is
//! the derivative. Cases come from each op's own `sample`.

use std::collections::BTreeSet;

use perilune_compiler::autodiff;
use perilune_compiler::graph::{Graph, Origin};
use perilune_compiler::interpret;
use perilune_compiler::ops::{OPS, Op, OpInfo, Rng, Sample, Value, lower_alone};
use perilune_compiler::program::verify::verify;
use perilune_compiler::program::{ArgKind, Program, ResultTarget};
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::{DType, Type};
use proptest::prelude::*;

#[test]
fn every_op_is_documented_and_has_an_example() {
    let names: BTreeSet<&str> = OPS.iter().map(|op| op.name).collect();
    assert_eq!(names.len(), OPS.len(), "names are unique");
    for op in OPS {
        assert!(op.summary.ends_with('.') && op.summary.len() > 15, "{}: summary", op.name);
        assert!(op.example.starts_with("Block(") && op.example.contains("doc:"), "{}", op.name);
        assert!(op.example.contains(&format!("{}(", op.name)), "{}: example uses it", op.name);
        assert!(!op.results.is_empty(), "{}: results have names", op.name);
    }
}

/// How far apart two tensors are, relative to their size.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape, b.shape);
    let worst = |x: f64, y: f64| match (x - y).abs() {
        _ if x == y || (x.is_nan() && y.is_nan()) => 0.0,
        d if d.is_nan() => f64::INFINITY,
        d => d / (1.0 + x.abs().max(y.abs())),
    };
    a.data.iter().zip(&b.data).map(|(x, y)| worst(*x, *y)).fold(0.0, f64::max)
}

fn check_lowering(info: &OpInfo, sample: &Sample<Op>) {
    let results = sample.op.infer(&sample.types).expect("a sample fits its op");
    assert_eq!(results.len(), info.results.len(), "{}: one name per result", info.name);
    let operands: Vec<&Tensor> = sample.operands.iter().collect();
    let oracle = sample.op.reference(&operands, &sample.types, &results);
    let kernel = lower_alone(&sample.op, "k", &sample.types, &results);
    let program = Program { kernels: vec![kernel.clone()], ..Program::default() };
    verify(&program).unwrap_or_else(|e| panic!("{}: {e}", info.name));
    let lowered = interpret::kernel(&kernel, &sample.operands);
    assert_eq!(lowered.len(), results.len());
    for ((ty, want), got) in results.iter().zip(&oracle).zip(&lowered) {
        assert_eq!(ty.shape, want.shape, "{}: reference has the inferred shape", info.name);
        assert!(distance(want, got) < 1e-9, "{}: {want:?} vs {got:?}", info.name);
    }
    let cost = sample.op.cost(&sample.types, &results);
    assert!(cost.bytes < 1 << 30 && cost.flops < 1 << 30, "{}: {cost:?}", info.name);
}

/// `loss = Σ_r Σ weight_r ∘ result_r` over the results that carry gradient.
struct LossGraph {
    graph: Graph,
    inputs: Vec<Tensor>,
    operands: Vec<Value>,
    loss: Value,
}

fn loss_graph(sample: &Sample<Op>, rng: &mut Rng) -> Option<LossGraph> {
    let mut graph = Graph::new("loss");
    let mut inputs = sample.operands.clone();
    let operands: Vec<Value> = sample
        .types
        .iter()
        .enumerate()
        .map(|(i, ty)| graph.input(format!("x{i}"), ArgKind::Param, ty.clone()))
        .collect();
    let origin = || Origin::new("y", None);
    let results = graph.push(sample.op.clone(), &operands, origin()).expect("fits");
    let mut terms = Vec::new();
    for (r, value) in results.iter().enumerate() {
        let ty = graph.ty(*value).clone();
        if !ty.dtype.is_float() || !sample.op.differentiable(r) {
            continue;
        }
        let weight_type = ty.with_dtype(DType::f64);
        let weight = graph.input(format!("w{r}"), ArgKind::Feed, weight_type.clone());
        inputs.push(rng.tensor(&weight_type));
        let cast = Op::from(perilune_compiler::ops::Cast { to: DType::f64 });
        let value = graph.push(cast, &[*value], origin()).expect("fits")[0];
        let ids: Vec<u32> = (0..ty.ndim() as u32).collect();
        let product = perilune_compiler::ops::Einsum::new(&[&ids, &ids], &[]);
        terms.push(graph.push(product.into(), &[value, weight], origin()).expect("fits")[0]);
    }
    let zero = perilune_compiler::ops::Reshape { shape: vec![1] };
    let parts: Vec<Value> = terms
        .iter()
        .map(|t| graph.push(zero.clone().into(), &[*t], origin()).expect("fits")[0])
        .collect();
    if parts.is_empty() {
        return None;
    }
    let all = perilune_compiler::ops::Concat { dim: 0 };
    let all = graph.push(all.into(), &parts, origin()).expect("fits")[0];
    let sum = perilune_compiler::ops::Einsum::new(&[&[0]], &[]);
    let loss = graph.push(sum.into(), &[all], origin()).expect("fits")[0];
    graph.output(loss, ResultTarget::Fetch("loss".into()));
    Some(LossGraph { graph, inputs, operands, loss })
}

fn check_gradient(info: &OpInfo, sample: &Sample<Op>, rng: &mut Rng) {
    let Some(LossGraph { graph, inputs, operands, loss }) = loss_graph(sample, rng) else { return };
    let mut with_grads = graph.clone();
    let grads = autodiff::differentiate(&mut with_grads, loss, &operands);
    for (i, grad) in grads.iter().enumerate() {
        with_grads.output(*grad, ResultTarget::Fetch(format!("d_x{i}")));
    }
    with_grads.verify().expect("verifies");
    let cleaned = with_grads.cleaned();
    cleaned.verify().expect("verifies after cleaning");
    let analytic = interpret::outputs(&cleaned, &inputs);
    if !analytic[0].data[0].is_finite() {
        // The maximum over nothing, the log of nothing: no derivative to compare with.
        return;
    }
    for (i, ty) in sample.types.iter().enumerate().filter(|(_, ty)| ty.dtype.is_float()) {
        for e in 0..inputs[i].data.len() {
            let numeric = finite_difference(&graph, &inputs, i, e);
            let got = analytic[i + 1].data[e];
            assert!(
                (numeric - got).abs() < 1e-5 * (1.0 + numeric.abs()),
                "{} operand {i} ({ty}) element {e}: finite difference {numeric}, vjp {got}\n{with_grads}",
                info.name
            );
        }
    }
}

fn finite_difference(graph: &Graph, inputs: &[Tensor], operand: usize, element: usize) -> f64 {
    let step = 1e-5;
    let at = |delta: f64| {
        let mut inputs = inputs.to_vec();
        inputs[operand].data[element] += delta;
        interpret::outputs(graph, &inputs)[0].data[0]
    };
    (at(step) - at(-step)) / (2.0 * step)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lowering_means_what_the_reference_says(seed in any::<u64>()) {
        for (i, info) in OPS.iter().enumerate() {
            let mut rng = Rng::new(seed.wrapping_add(i as u64));
            check_lowering(info, &(info.sample)(&mut rng));
        }
    }

    #[test]
    fn gradients_match_finite_differences(seed in any::<u64>()) {
        for (i, info) in OPS.iter().enumerate() {
            let mut rng = Rng::new(seed.wrapping_add(i as u64));
            let sample = (info.sample)(&mut rng);
            check_gradient(info, &sample, &mut rng);
        }
    }
}

#[test]
fn samples_reach_zero_one_and_odd_extents() {
    for info in OPS {
        let mut rng = Rng::new(7);
        let types: Vec<Type> = (0..200)
            .flat_map(|_| {
                let sample = (info.sample)(&mut rng);
                let results = sample.op.infer(&sample.types).expect("fits");
                sample.types.into_iter().chain(results)
            })
            .collect();
        for extent in [0, 1, 3] {
            assert!(types.iter().any(|ty| ty.shape.contains(&extent)), "{}: {extent}", info.name);
        }
    }
}
