//! k2-nano in bf16: what the compiled step computes against the same step in f64.
//!
//! The measure is relative to a plain bf16 evaluation, which computes each node exactly and rounds
//! its result: the compiled step may be at most twice as far from the truth. Router, statistics and
//! loss are f32 in both, as trained models have them.

use std::collections::BTreeMap;

use perilune::library::Library;
use perilune_compiler::compile::compile;
use perilune_compiler::elaborate::{Elaborated, load_train};
use perilune_compiler::graph::Graph;
use perilune_compiler::interpret;
use perilune_compiler::lower::Target;
use perilune_compiler::program::{ArgKind, ResultTarget};
use perilune_compiler::source::Loader;
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::DType;
use perilune_runtime::{HostTensor, Options, Session};

/// How much farther from the truth than the plain evaluation the compiled step may be.
const FACTOR: f64 = 2.0;

/// What is compared.
const METRICS: &str =
    r#"metrics: { "grad": Grad("*"), "logits": "logits", "per_token": "ce.per_token","#;

/// Of the loss, relative: one number's distance is luck, so its per-token parts stand for it above.
const LOSS_BOUND: f64 = 1.0 / 256.0;

/// A shipped step that also gives logits, losses of tokens and every gradient.
fn with_gradients(path: &str) -> Elaborated {
    changed(path, &[("metrics: {", METRICS)])
}

/// A shipped step with other text in some places.
fn changed(path: &str, changes: &[(&str, &str)]) -> Elaborated {
    let mut text = Library::default().load(path).expect("shipped");
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let library = Library::default().with(path, text);
    let (spec, told, _) = load_train(&library, path, &[]);
    spec.unwrap_or_else(|| panic!("{:?}", told.list()))
}

fn session(spec: &Elaborated) -> Session {
    let plan = compile(spec, Target::Cpu).expect("compiles").plan;
    let options = Options { threads: Some(2), poison: true, ..Options::default() };
    let mut session = Session::new(plan, options).expect("binds");
    session.run("init", &[("seed", &HostTensor::scalar_i32(1))]).expect("initialises");
    session
}

/// Tokens and targets of a batch; the last target of a row is to be ignored.
fn batch() -> [HostTensor; 2] {
    let id = |i: i32| (i * i * 7 + i * 3 + 5) % 64;
    let tokens: Vec<i32> = (0..22).map(id).collect();
    let targets: Vec<i32> = (0..22).map(|i| if i % 11 == 10 { -1 } else { id(i + 1) }).collect();
    [tokens, targets].map(|ids| HostTensor::from_i32(&[2, 11], &ids).expect("two rows"))
}

/// Loss and gradients of one step, by name.
fn step(session: &mut Session, number: u32) -> BTreeMap<String, Vec<f64>> {
    let [tokens, targets] = batch();
    let number = HostTensor::scalar_f32(number as f32);
    let feeds = [("tokens", &tokens), ("targets", &targets), ("step", &number)];
    let fetched = session.run("train_step", &feeds).expect("runs");
    let floats = fetched.iter().filter(|(_, v)| v.dtype().is_float());
    floats
        .map(|(name, value)| {
            let values = value.to_f32().expect("floats");
            (name.to_owned(), values.into_iter().map(f64::from).collect())
        })
        .collect()
}

/// The step's loss and gradients without the optimizer.
fn gradient_graph(spec: &Elaborated) -> Graph {
    let mut graph = spec.train_step.clone().expect("a step");
    graph.outputs.retain(|(_, target)| {
        let wanted = |name: &str| ["loss", "logits", "per_token"].contains(&name);
        matches!(target, ResultTarget::Fetch(n) if wanted(n) || n.starts_with("grad/"))
    });
    graph.cleaned()
}

fn inputs(graph: &Graph, weights: &Session) -> Vec<Tensor> {
    let of = |input: &perilune_compiler::graph::Input| {
        let value = match (input.kind, input.name.as_str()) {
            (ArgKind::Feed, "tokens") => batch()[0].clone(),
            (ArgKind::Feed, "targets") => batch()[1].clone(),
            (ArgKind::Feed, _) => HostTensor::scalar_f32(1.0),
            (_, name) => weights.tensor(name).expect("persistent"),
        };
        let data: Vec<f64> = match value.dtype() {
            DType::i32 => value.to_i32().expect("ids").into_iter().map(f64::from).collect(),
            _ => value.to_f32().expect("floats").into_iter().map(f64::from).collect(),
        };
        Tensor { shape: graph.ty(input.value).shape.clone(), data }
    };
    graph.inputs.iter().map(of).collect()
}

fn round_bf16(x: f64) -> f64 {
    let bits = (x as f32).to_bits();
    let even = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    f64::from(f32::from_bits(even & 0xffff_0000))
}

/// Nodes that a bf16 model keeps in f32.
fn stays_wide(path: &str) -> bool {
    let statistic = path.ends_with(".mean_square") || path.contains(".mean_square/");
    let prefixes = ["ce.", "loss", "model.rope."];
    statistic || path.contains(".router.") || prefixes.iter().any(|p| path.starts_with(p))
}

/// The graph's outputs by name: each node exact, its result rounded if asked for.
fn evaluate(graph: &Graph, inputs: &[Tensor], rounded: bool) -> BTreeMap<String, Vec<f64>> {
    let values = match rounded {
        false => interpret::values(graph, inputs),
        true => interpret::values_with(graph, inputs, &mut |path, tensor| {
            if !stays_wide(path) {
                tensor.data.iter_mut().for_each(|x| *x = round_bf16(*x));
            }
        }),
    };
    let outputs = graph.outputs.iter();
    outputs
        .map(|(value, target)| {
            let (ResultTarget::Fetch(name) | ResultTarget::Update(name)) = target;
            (name.clone(), values[*value].clone().expect("made").data)
        })
        .collect()
}

/// Relative distance in the 2-norm.
fn distance(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied())
}

#[test]
fn nano_in_bf16_is_as_close_to_f64_as_a_plain_bf16_evaluation() {
    let (wide, narrow) =
        (with_gradients("k2-nano/train.ron"), with_gradients("k2-nano/train_bf16.ron"));
    let (mut in_f32, mut in_bf16) = (session(&wide), session(&narrow));
    let graph = gradient_graph(&wide);
    let fed = inputs(&graph, &in_f32);
    let truth = evaluate(&graph, &fed, false);
    let plain = evaluate(&graph, &fed, true);
    let (f32s, bf16s) = (step(&mut in_f32, 1), step(&mut in_bf16, 1));
    assert!(truth.len() > 20 && truth.contains_key("logits") && truth.contains_key("per_token"));
    let mut table = String::new();
    let mut bad = Vec::new();
    for (name, want) in &truth {
        let of = |found: &BTreeMap<String, Vec<f64>>| distance(&found[name], want);
        let (a, b, c) = (of(&f32s), of(&bf16s), of(&plain));
        table += &format!("{name:60} f32 {a:.2e} bf16 {b:.2e} plain {c:.2e}\n");
        let bound = if name == "loss" { LOSS_BOUND } else { FACTOR * c };
        let is_good = b <= bound && a <= 1e-4 && a <= b;
        if !is_good {
            bad.push(name);
        }
    }
    assert!(bad.is_empty(), "{bad:?}\n{table}");
}

#[test]
fn every_pair_of_types_goes_with_micro_batches_recompute_and_loss_scaling() {
    let settings = [
        ("accumulate: 1", "accumulate: 2"),
        ("recompute: []", "recompute: [\"*norm\", \"*.mlp.hidden\", \"*.attn.q_flat\"]"),
        ("clip_grad_norm: None", "clip_grad_norm: Some(1.0)"),
        ("skip_nonfinite: true", "skip_nonfinite: true, loss_scale: 1024.0"),
    ];
    let [tokens, targets] = batch().map(|half| {
        let ids = half.to_i32().expect("ids");
        HostTensor::from_i32(&[4, 11], &[ids.clone(), ids].concat()).expect("four rows")
    });
    let losses: Vec<f32> = [
        "Precision()",
        "Precision(storage: bf16)",
        "Precision(storage: bf16, compute: bf16, exempt: [\"*.router\"])",
    ]
    .iter()
    .map(|policy| {
        let precision = "Precision(storage: f32, compute: f32, accumulate: f32)";
        let changes: Vec<(&str, &str)> =
            settings.iter().copied().chain([(precision, *policy)]).collect();
        let mut session = session(&changed("k2-nano/train.ron", &changes));
        let mut loss = f32::NAN;
        for number in [1.0, 2.0] {
            let number = HostTensor::scalar_f32(number);
            let feeds = [("tokens", &tokens), ("targets", &targets), ("step", &number)];
            let fetched = session.run("train_step", &feeds).expect("runs");
            let norm = fetched.scalar("grad_norm").expect("a norm");
            assert!(norm.is_finite() && norm > 0.0, "{policy}: {norm}");
            loss = fetched.scalar("loss").expect("a loss");
        }
        loss
    })
    .collect();
    for loss in &losses[1..] {
        let apart = (loss - losses[0]).abs() / losses[0];
        assert!(apart > 0.0 && apart < 0.01, "{losses:?}");
    }
}

#[test]
fn weights_state_and_router_stay_in_f32() {
    let spec = with_gradients("k2-nano/train_bf16.ron");
    assert!(spec.tensors.iter().all(|t| t.ty.dtype == DType::f32));
    let graph = spec.train_step.expect("a step");
    let dtype = |path: &str| {
        let node = graph.nodes.values().find(|n| n.origin.path == path);
        graph.ty(node.unwrap_or_else(|| panic!("no `{path}`")).results[0]).dtype
    };
    for path in ["router.logits", "router.weights", "router.logits/grad"] {
        assert_eq!(dtype(&format!("model.layers.1.mlp.{path}")), DType::f32, "{path}");
    }
    for path in ["attn.q_flat", "attn.attn", "mlp.gate", "mid", "attn.q_flat/grad"] {
        assert_eq!(dtype(&format!("model.layers.1.{path}")), DType::bf16, "{path}");
    }
    assert_eq!(dtype("model.norm.mean_square"), DType::f32);
    assert_eq!(dtype("model.rope.angle"), DType::f32);
}

/// A model of one product with all that can be done to it, and its step in bf16.
const SUMS: [(&str, &str); 2] = [
    (
        "t/model.ron",
        r#"Model(
            dims: { "batch": 4, "seq": 3, "dim": 8 },
            inputs: { "x": [batch, seq, dim] },
            params: { "w": Param([dim, dim]) },
            nodes: [
                ("h", Einsum("b s d, e d -> b s e", ["x", "w"])),
                ("pooled", Einsum("b s e -> b e", ["h"])),
                ("summed", Reduce(Sum, "h[b s e] -> b e")),
                ("turned", Einsum("b s e -> s b e", ["h"])),
                ("loss", Reduce(Mean, "pooled[b e] * summed[b e] * turned[s b e]", over: "s b e")),
            ],
            outputs: { "loss": "loss" },
        )"#,
    ),
    (
        "t/train.ron",
        r#"Train(
            imports: { "Optim": "../optim/adamw.ron" },
            model: "model.ron",
            inputs: { "step": Input([], f32) },
            nodes: [("lr", Map("0.1 / step"))],
            loss: "loss",
            optimizer: Optim(lr: "lr", step: "step"),
            precision: Precision(storage: bf16, compute: bf16, accumulate: f32),
        )"#,
    ),
];

#[test]
fn sums_are_f32_however_they_are_written() {
    let library = SUMS.iter().fold(Library::default(), |l, (path, text)| l.with(*path, *text));
    let (spec, told, _) = load_train(&library, "t/train.ron", &[]);
    let spec = spec.unwrap_or_else(|| panic!("{:?}", told.list()));
    let graph = spec.train_step.expect("a step");
    let dtype = |path: &str| {
        let node = graph.nodes.values().rfind(|n| n.origin.path == path);
        graph.ty(node.unwrap_or_else(|| panic!("no `{path}`")).results[0]).dtype
    };
    for (path, wanted) in [
        ("h", DType::bf16),
        ("turned", DType::bf16),
        ("pooled", DType::f32),
        ("summed", DType::f32),
    ] {
        assert_eq!(dtype(path), wanted, "{path}");
    }
}

#[test]
fn nano_learns_a_batch_in_bf16_as_it_does_in_f32() {
    let losses = |path: &str| -> Vec<f64> {
        let mut session = session(&with_gradients(path));
        (1..=60).map(|n| step(&mut session, n)["loss"][0]).collect()
    };
    let (wide, narrow) = (losses("k2-nano/train.ron"), losses("k2-nano/train_bf16.ron"));
    assert_ne!(wide, narrow);
    assert!(narrow[59] < narrow[0] - 0.5, "{} to {}", narrow[0], narrow[59]);
    for (n, (a, b)) in wide.iter().zip(&narrow).enumerate() {
        assert!((a - b).abs() < 0.05 * a, "step {}: {a} in f32, {b} in bf16", n + 1);
    }
}
