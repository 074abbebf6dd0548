//! Every pass keeps the meaning of a program: k2-nano's entries in f64, as graphs and after import
//! and each pass. A failure names the first pass whose result departs.

use std::collections::BTreeMap;
use std::path::Path;

use perilune::loader::FolderLoader;
use perilune_compiler::elaborate::load_train;
use perilune_compiler::graph::Graph;
use perilune_compiler::import::import;
use perilune_compiler::interpret;
use perilune_compiler::ops::Rng;
use perilune_compiler::program::{ArgKind, ResultTarget};
use perilune_compiler::stages::{self, STAGES, Stage};
use perilune_compiler::tensor::Tensor;

/// A pass may add in another order.
const PASS_BOUND: f64 = 1e-9;

/// The graph's constants are f64; a program rounds them to their type.
const CONSTANTS_BOUND: f64 = 1e-5;

/// Inputs of a graph: persistent tensors from `init`, feeds at random.
fn inputs(graph: &Graph, persistent: &BTreeMap<String, Tensor>, vocab: i64) -> Vec<Tensor> {
    let mut rng = Rng::new(11);
    let of = |input: &perilune_compiler::graph::Input| {
        let ty = graph.ty(input.value);
        match (input.kind, ty.dtype.is_float()) {
            (ArgKind::Feed, true) => Tensor::full(&ty.shape, 3.0),
            (ArgKind::Feed, false) => rng.integers(&ty.shape, 0, vocab),
            _ => match persistent.get(&input.name) {
                Some(tensor) => tensor.clone(),
                // `init` declares what it writes and reads none of it.
                None if graph.name == "init" => Tensor::full(&ty.shape, f64::NAN),
                None => panic!("`{}` of {} has no first value", input.name, graph.name),
            },
        }
    };
    graph.inputs.iter().map(of).collect()
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape, b.shape);
    let apart = |(x, y): (&f64, &f64)| match (x - y).abs() {
        _ if x == y || (x.is_nan() && y.is_nan()) => 0.0,
        d if d.is_nan() => f64::INFINITY,
        d => d / (1.0 + x.abs()),
    };
    a.data.iter().zip(&b.data).map(apart).fold(0.0, f64::max)
}

#[test]
fn every_pass_keeps_the_meaning_of_nano() {
    let loader = FolderLoader::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("models"));
    let (spec, told, _) = load_train(&loader, "k2-nano/train.ron", &[]);
    let spec = spec.unwrap_or_else(|| panic!("{:?}", told.list()));
    let graphs = spec.graphs();

    let first = interpret::outputs(&spec.init, &inputs(&spec.init, &BTreeMap::new(), 64));
    let persistent: BTreeMap<String, Tensor> = spec
        .init
        .outputs
        .iter()
        .zip(first)
        .map(|((_, target), tensor)| match target {
            ResultTarget::Update(name) | ResultTarget::Fetch(name) => (name.clone(), tensor),
        })
        .collect();

    let fed: Vec<Vec<Tensor>> = graphs.iter().map(|g| inputs(g, &persistent, 64)).collect();
    let mut wanted: Vec<Vec<Tensor>> =
        graphs.iter().zip(&fed).map(|(g, inputs)| interpret::outputs(g, inputs)).collect();

    let mut program = import("k2-nano/train", &graphs);
    for (at, Stage { name, .. }) in STAGES.iter().enumerate() {
        stages::advance(&mut program, at.saturating_sub(1), at);
        for (e, entry) in program.entries.iter().enumerate() {
            let got = interpret::entry(&program, entry, &fed[e]);
            assert_eq!(got.len(), wanted[e].len(), "{name}: results of {}", entry.name);
            let bound = if at == 0 { CONSTANTS_BOUND } else { PASS_BOUND };
            for (i, (got, want)) in got.iter().zip(&wanted[e]).enumerate() {
                let apart = distance(want, got);
                let target = &entry.results[i].target;
                assert!(apart < bound, "{name}: {} {target:?} is off by {apart:e}", entry.name);
            }
            wanted[e] = got;
        }
    }
    assert!(wanted.iter().flatten().any(|t| t.data.iter().any(|x| *x != 0.0 && x.is_finite())));
}
