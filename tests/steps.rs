//! What the settings of a training step and the knobs of the shipped blocks mean, in numbers.
//!
//! # Invariants
//! - Everything is evaluated in f64 by the reference interpreter and compared with the formula of the
//!   block's own documentation, written out here.

use std::collections::BTreeMap;

use perilune::library::Library;
use perilune_compiler::compile::compile;
use perilune_compiler::elaborate::{Elaborated, load_model, load_train};
use perilune_compiler::graph::Graph;
use perilune_compiler::interpret;
use perilune_compiler::lower::Target;
use perilune_compiler::ops::Rng;
use perilune_compiler::program::ResultTarget;
use perilune_compiler::source::Loader;
use perilune_compiler::tensor::Tensor;
use perilune_plan::StepOp;

type Values = BTreeMap<String, Tensor>;

const BOUND: f64 = 1e-12;

/// Stochastic gradient descent: what a step gives is easy to say.
const SGD: &str = r#"Optimizer(
    imports: { "Sgd": "sgd_update.ron" },
    inputs: { "lr": [] },
    groups: [Group(name: "all", update: Sgd(lr: "lr"))],
)"#;

const SGD_UPDATE: &str = r#"Block(
    inputs: { "w": ["..."], "g": ["..."], "lr": [] },
    state: { "sum": State(like: "w") },
    nodes: [("sum_new", Map("sum + g")), ("w_new", Map("w - lr * g"))],
    updates: { "sum": "sum_new" },
    outputs: { "w": "w_new" },
)"#;

/// Muon on everything, its knobs given by the step.
const MUON: &str = r#"Optimizer(
    imports: { "Muon": "../optim/muon_update.ron" },
    args: [nesterov, ns_coefficients],
    inputs: { "lr": [] },
    groups: [Group(name: "all", update: Muon(lr: "lr"))],
)"#;

/// `mean((tanh(x wᵀ) - 1)²)`, with the largest activation and a count beside it.
const MODEL: &str = r#"Model(
    dims: { "batch": 3, "dim": 4, "out": 5 },
    inputs: { "x": [batch, dim] },
    params: { "w": Param([out, dim]) },
    nodes: [
        ("h", Einsum("b d, o d -> b o", ["x", "w"])),
        ("y", Map("tanh(h)")),
        ("peak", Reduce(Max, "y[b o]", over: "b o")),
        ("positive", Reduce(Sum, "i32(y[b o] > 0)", over: "b o")),
        ("sharp", Map("y * y + h")),
        ("error", Map("(sharp - 1) * (sharp - 1)")),
        ("loss", Reduce(Mean, "error[b o]", over: "b o")),
    ],
    outputs: { "loss": "loss", "peak": "peak", "positive": "positive" },
)"#;

fn library() -> Library {
    Library::default()
        .with("t/sgd.ron", SGD)
        .with("t/sgd_update.ron", SGD_UPDATE)
        .with("t/model.ron", MODEL)
}

/// A step of plain descent over `t/model.ron`, with some settings.
fn descent(settings: &str) -> String {
    format!(
        r#"Train(
            imports: {{ "Optim": "sgd.ron" }},
            model: "model.ron",
            nodes: [("lr", Fill(0.5, []))],
            loss: "loss",
            optimizer: Optim(lr: "lr"),
            {settings}
        )"#
    )
}

/// The step over [`MODEL`] with some settings.
fn small(settings: &str) -> Elaborated {
    let metrics = r#"metrics: { "grad": Grad("*"), "peak": "peak", "positive": "positive" },"#;
    train(library().with("t/train.ron", descent(&format!("{metrics} {settings}"))))
}

fn train(library: Library) -> Elaborated {
    let (spec, told, _) = load_train(&library, "t/train.ron", &[]);
    spec.unwrap_or_else(|| panic!("{:?}", told.list()))
}

/// A model over one shipped block: its forward, and its step's updates under plain descent.
fn model(text: &str) -> Elaborated {
    let (spec, told, _) =
        load_model(&Library::default().with("t/model.ron", text), "t/model.ron", &[]);
    spec.unwrap_or_else(|| panic!("{:?}", told.list()))
}

/// Values of every input: those given, others at random.
fn inputs(graph: &Graph, given: &[(&str, Tensor)]) -> Vec<Tensor> {
    let mut rng = Rng::new(3);
    let of = |input: &perilune_compiler::graph::Input| {
        let random = rng.tensor(graph.ty(input.value));
        let given = given.iter().find(|(name, _)| *name == input.name);
        given.map_or(random, |(_, value)| value.clone())
    };
    graph.inputs.iter().map(of).collect()
}

/// A graph's results, by name; an update has `new ` before it.
fn results(graph: &Graph, given: &[(&str, Tensor)]) -> Values {
    let values = interpret::outputs(graph, &inputs(graph, given));
    let name = |target: &ResultTarget| match target {
        ResultTarget::Fetch(name) => name.clone(),
        ResultTarget::Update(name) => format!("new {name}"),
    };
    graph.outputs.iter().map(|(_, t)| name(t)).zip(values).collect()
}

fn step(spec: &Elaborated, given: &[(&str, Tensor)]) -> Values {
    results(spec.train_step.as_ref().expect("a step"), given)
}

fn scalar(value: f64) -> Tensor {
    Tensor::full(&[], value)
}

fn vector(values: &[f64]) -> Tensor {
    Tensor { shape: vec![values.len() as u64], data: values.to_vec() }
}

fn close(what: &str, got: &Tensor, want: &[f64]) {
    assert_eq!(got.data.len(), want.len(), "{what}");
    for (a, b) in got.data.iter().zip(want) {
        assert!((a - b).abs() <= BOUND * (1.0 + b.abs()), "{what}: {a} instead of {b}");
    }
}

fn same(got: &Values, want: &Values, names: &[&str]) {
    names.iter().for_each(|name| close(name, &got[*name], &want[*name].data));
}

fn random(seed: u64, shape: &[u64]) -> Tensor {
    let mut rng = Rng::new(seed);
    Tensor::from_fn(shape, |_| rng.float())
}

#[test]
fn accumulation_takes_the_mean_gradient_the_highest_maximum_and_the_sum_of_counts() {
    let (w, halves) = (random(1, &[5, 4]), [random(2, &[3, 4]), random(4, &[3, 4])]);
    let whole = Tensor { shape: vec![6, 4], data: [&halves[0].data[..], &halves[1].data].concat() };
    let parts: Vec<Values> =
        halves.iter().map(|x| step(&small(""), &[("w", w.clone()), ("x", x.clone())])).collect();
    let both = step(&small("accumulate: 2"), &[("w", w), ("x", whole)]);
    let joined = |name: &str, f: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
        let pairs = parts[0][name].data.iter().zip(&parts[1][name].data);
        pairs.map(|(a, b)| f(*a, *b)).collect()
    };
    for name in ["grad/w", "loss", "new w"] {
        close(name, &both[name], &joined(name, &|a, b| (a + b) / 2.0));
    }
    close("peak", &both["peak"], &joined("peak", &f64::max));
    close("positive", &both["positive"], &joined("positive", &|a, b| a + b));
}

#[test]
fn a_loss_scale_and_recomputation_change_no_gradient() {
    let names = ["loss", "grad/w", "new w", "new w/sum", "peak"];
    let plain = step(&small(""), &[]);
    for settings in ["loss_scale: 4096.0", r#"recompute: ["y", "h", "sharp"]"#] {
        let spec = small(settings);
        same(&step(&spec, &[]), &plain, &names);
        let graph = spec.train_step.expect("a step");
        let copies = graph.nodes.values().filter(|n| n.origin.path.ends_with("/recompute")).count();
        assert_eq!(copies > 0, settings.starts_with("recompute"));
    }
}

/// [`MODEL`] with other text in a place.
fn changed_model(from: &str, to: &str) -> String {
    assert!(MODEL.contains(from), "{from}");
    MODEL.replace(from, to)
}

#[test]
fn a_truth_value_holds_for_a_step_where_it_holds_for_any_micro_batch() {
    let model = changed_model(r#"("sharp","#, r#"("hot", Map("h > 0.0")), ("sharp","#);
    let model = model.replace(r#""peak": "peak","#, r#""peak": "peak", "hot": "hot","#);
    let of = |setting: &str, x: &Tensor| {
        let text = descent(&format!(r#"metrics: {{ "hot": "hot" }}, {setting}"#));
        let spec = train(library().with("t/model.ron", &model).with("t/train.ron", text));
        step(&spec, &[("w", random(1, &[5, 4])), ("x", x.clone())]).remove("hot").expect("fetched")
    };
    let halves = [random(2, &[3, 4]), random(4, &[3, 4])];
    let whole = Tensor { shape: vec![6, 4], data: [&halves[0].data[..], &halves[1].data].concat() };
    let parts = halves.map(|x| of("", &x).data);
    let any: Vec<f64> = parts[0].iter().zip(&parts[1]).map(|(a, b)| a.max(*b)).collect();
    assert!(any.contains(&0.0) && parts[0] != any, "both kinds, and not those of the first part");
    close("hot", &of("accumulate: 2,", &whole), &any);
}

#[test]
fn a_norm_is_taken_over_parameters_of_several_types() {
    let model =
        changed_model("Param([out, dim])", "Param([out, dim]), \"v\": Param([out], dtype: bf16)");
    let model = model.replace(r#"Map("tanh(h)")"#, r#"Map("tanh(h[b o] + f32(v[o]))")"#);
    let spec = |settings: &str| {
        let text = descent(&format!(r#"metrics: {{ "grad": Grad("*") }}, {settings}"#));
        load_train(
            &library().with("t/model.ron", &model).with("t/train.ron", text),
            "t/train.ron",
            &[],
        )
    };
    let (none, told, _) = spec("clip_grad_norm: Some(1.0),");
    let codes: Vec<String> = told.list().iter().map(|d| d.code.to_string()).collect();
    assert!(none.is_none() && !codes.is_empty());
    assert!(codes.iter().all(|c| c == "E0404"), "the optimizer takes f32: {codes:?}");
}

#[test]
fn micro_batches_that_do_not_fit_a_graph_are_refused() {
    let text = Library::default().load("k2-nano/train.ron").expect("shipped");
    let text = text.replace("accumulate: 1,", "accumulate: 4096,");
    let path = "k2-nano/train.ron";
    let (none, told, _) = load_train(&Library::default().with(path, text), path, &[]);
    let told: Vec<String> =
        told.list().iter().map(|d| format!("{} {}", d.code, d.headline)).collect();
    assert!(none.is_none());
    assert_eq!(told, ["E0406 the step unrolls to more than 200000 nodes"]);
}

#[test]
fn recomputation_takes_memory_from_the_step() {
    let layer = |n: usize| {
        format!(
            r#"("u{n}", Einsum("b d, e d -> b e", ["h{n}", "up"])),
               ("a{n}", Map("tanh(u{n}) * u{n}")),
               ("h{}", Einsum("b e, d e -> b d", ["a{n}", "down"])),"#,
            n + 1
        )
    };
    let layers: String = (0..4).map(layer).collect();
    let model = format!(
        r#"Model(
            dims: {{ "batch": 64, "dim": 16, "wide": 256 }},
            inputs: {{ "h0": [batch, dim] }},
            params: {{ "up": Param([wide, dim]), "down": Param([dim, wide]) }},
            nodes: [{layers} ("loss", Reduce(Mean, "h4[b d] * h4[b d]", over: "b d"))],
            outputs: {{ "loss": "loss" }},
        )"#
    );
    let arena = |recompute: &str| {
        let text = descent(&format!(r#"recompute: [{recompute}],"#));
        let spec = train(library().with("t/model.ron", &model).with("t/train.ron", text));
        let program = compile(&spec, Target::Cpu).expect("it compiles").program;
        let step = program.entries.iter().find(|e| e.name == "train_step").expect("a step");
        step.layout.as_ref().expect("bufferised").arena_bytes
    };
    let (kept, again, activation) = (arena(""), arena(r#""a*""#), 64 * 256 * 4);
    assert!(again + 2 * activation <= kept, "{again} bytes instead of {kept}");
}

#[test]
fn clipping_scales_all_gradients_by_the_bound_over_their_norm() {
    let plain = step(&small(""), &[]);
    let grad = &plain["grad/w"].data;
    let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
    for (bound, factor) in [(norm / 3.0, norm / 3.0 / (norm + 1e-6)), (norm * 3.0, 1.0)] {
        let clipped = step(&small(&format!("clip_grad_norm: Some({bound:e})")), &[]);
        close("norm", &clipped["grad_norm"], &[norm]);
        close("unclipped", &clipped["grad/w"], grad);
        let want: Vec<f64> = grad.iter().map(|g| g * factor).collect();
        close("state", &Tensor { shape: vec![20], data: difference(&clipped, &[]) }, &want);
    }
}

/// What a step added to the sum of gradients.
fn difference(found: &Values, given: &[(&str, Tensor)]) -> Vec<f64> {
    let spec = small("");
    let graph = spec.train_step.expect("a step");
    let at = graph.inputs.iter().position(|i| i.name == "w/sum").expect("state");
    let before = &inputs(&graph, given)[at];
    found["new w/sum"].data.iter().zip(&before.data).map(|(a, b)| a - b).collect()
}

#[test]
fn a_step_that_is_not_finite_changes_nothing_where_it_is_to_be_skipped() {
    let x = Tensor::full(&[3, 4], f64::INFINITY);
    let given = [("x", x), ("w", random(1, &[5, 4])), ("w/sum", random(5, &[5, 4]))];
    let kept = step(&small("skip_nonfinite: true"), &given);
    close("w", &kept["new w"], &given[1].1.data);
    close("sum", &kept["new w/sum"], &given[2].1.data);
    assert!(!kept["grad_norm"].data[0].is_finite());
    let poisoned = step(&small(""), &given);
    assert!(poisoned["new w"].data.iter().any(|v| !v.is_finite()));
}

#[test]
fn schedules_warm_up_hold_and_decay() {
    let curve = |block: &str, args: &str, step: f64| -> f64 {
        let spec = model(&format!(
            r#"Model(
                imports: {{ "Schedule": "../optim/{block}.ron" }},
                dims: {{}},
                inputs: {{ "step": [] }},
                nodes: [("lr", Schedule(step: "step", {args}))],
                outputs: {{ "lr": "lr" }},
            )"#
        ));
        results(&spec.forward, &[("step", scalar(step))])["lr"].data[0]
    };
    let wsd = "peak: 2.0, warmup_steps: 10, decay_start: 100, decay_steps: 50, final: 0.5";
    for (step, want) in [
        (1.0, 0.2),
        (5.0, 1.0),
        (10.0, 2.0),
        (99.0, 2.0),
        (125.0, 1.25),
        (150.0, 0.5),
        (999.0, 0.5),
    ] {
        close("wsd", &scalar(curve("wsd", wsd, step)), &[want]);
    }
    let cosine = "peak: 2.0, warmup_steps: 10, total_steps: 110, final: 0.5";
    let third = 0.5 + 1.5 * 0.5 * (1.0 + (std::f64::consts::PI * 0.3).cos());
    for (step, want) in
        [(1.0, 0.2), (10.0, 2.0), (40.0, third), (60.0, 1.25), (110.0, 0.5), (999.0, 0.5)]
    {
        close("cosine", &scalar(curve("cosine", cosine, step)), &[want]);
    }
}

#[test]
fn the_clip_threshold_moves_from_100_to_30() {
    let text = include_str!("../models/k2-nano/train.ron")
        .replace("tau: 7.0, tau_end: 7.0", "tau: 100.0, tau_end: 30.0, tau_steps: 1000")
        .replace("model: \"", "model: \"../k2-nano/")
        .replace("\"ce\": \"ce\",", "\"tau\": \"optimizer.threshold\",");
    let mut graph = train(library().with("t/train.ron", text)).train_step.expect("a step");
    graph.outputs.retain(|(_, t)| *t == ResultTarget::Fetch("tau".into()));
    let graph = graph.cleaned();
    for (step, tau) in [(0.0, 100.0), (500.0, 65.0), (1000.0, 30.0), (5000.0, 30.0)] {
        close("tau", &results(&graph, &[("step", scalar(step))])["tau"], &[tau]);
    }
}

#[test]
fn qk_clip_balances_by_alpha_smooths_by_eta_and_leaves_cold_heads_alone() {
    let (heads, nope, qk, kv, cols) = (3usize, 2usize, 4usize, 5usize, 3usize);
    let clip = |knobs: &str, eta: &[f64]| {
        let spec = model(&format!(
            r#"Model(
                imports: {{ "QkClip": "../optim/qk_clip.ron" }},
                dims: {{ "n_heads": {heads}, "qk_nope_dim": {nope}, "qk_dim": {qk}, "kv_dim": {kv} }},
                inputs: {{ "q": [12, {cols}], "kv_b": [15, {cols}], "max_logit": [{heads}], "tau": [] }},
                nodes: [("clip", QkClip(q: "q", kv_b: "kv_b", max_logit: "max_logit", tau: "tau", {knobs}))],
                outputs: {{ "q": "clip.q", "kv_b": "clip.kv_b", "gamma": "clip.gamma" }},
            )"#
        ));
        // One head too hot, one below the threshold, one whose maximum is negative.
        let given = [
            ("q", Tensor::full(&[12, 3], 1.0)),
            ("kv_b", Tensor::full(&[15, 3], 1.0)),
            ("max_logit", vector(&[120.0, 20.0, -300.0])),
            ("tau", scalar(30.0)),
            ("clip.eta", vector(eta)),
        ];
        results(&spec.forward, &given)
    };
    let rows = |scale: &dyn Fn(usize, usize) -> f64, n: usize| -> Vec<f64> {
        let row = |r: usize| vec![scale(r / n, r % n); cols];
        (0..heads * n).flat_map(row).collect()
    };
    for (knobs, alpha, factors) in [
        ("", 0.5, [0.25, 1.0, 1.0]),
        ("alpha: 0.3", 0.3, [0.25, 1.0, 1.0]),
        ("alpha: 0.5, smoothing: 0.9", 0.5, [0.9 * 0.5 + 0.1 * 0.25, 0.9 * 0.8 + 0.1, 1.0]),
    ] {
        let found = clip(knobs, &[0.5, 0.8, 1.0]);
        close("gamma", &found["gamma"], &[0.25, 1.0, 1.0]);
        let f = |h: usize, power: f64| f64::powf(factors[h], power);
        let q = rows(&|h, j| if j < nope { f(h, alpha) } else { f(h, 1.0) }, qk);
        let k = rows(&|h, j| if j < nope { f(h, 1.0 - alpha) } else { 1.0 }, kv);
        close(knobs, &found["q"], &q);
        close(knobs, &found["kv_b"], &k);
    }
}

/// `M ← μM + G; u = G + μM or M; one step of Newton–Schulz; W ← W − lr·(0.2·√max·O + 0.1·W)`.
#[test]
fn muon_takes_nesterov_and_the_newton_schulz_coefficients_as_data() {
    for (nesterov, coefficients) in
        [(1, "[(1.5, -0.5, 0.25)]"), (0, "[(2.0, -1.0, 0.5), (1.5, -0.5, 0.0)]")]
    {
        let text = format!(
            r#"Train(
                imports: {{ "Optim": "muon.ron" }},
                model: "model.ron",
                nodes: [("lr", Fill(0.5, []))],
                loss: "loss",
                optimizer: Optim(lr: "lr", nesterov: {nesterov}, ns_coefficients: {coefficients}),
                metrics: {{ "grad": Grad("*") }},
            )"#
        );
        let spec = train(library().with("t/muon.ron", MUON).with("t/train.ron", text));
        let (w, m) = (random(1, &[5, 4]), random(7, &[5, 4]));
        let found = step(&spec, &[("w", w.clone()), ("w/momentum_buffer", m.clone())]);
        let g = &found["grad/w"].data;
        let m: Vec<f64> = m.data.iter().zip(g).map(|(m, g)| 0.95 * m + g).collect();
        close("momentum", &found["new w/momentum_buffer"], &m);
        let u: Vec<f64> = match nesterov {
            1 => m.iter().zip(g).map(|(m, g)| g + 0.95 * m).collect(),
            _ => m,
        };
        let norm = u.iter().map(|x| x * x).sum::<f64>().sqrt();
        let mut z: Vec<f64> = u.iter().map(|x| x / norm).collect();
        let steps: &[(f64, f64, f64)] = match nesterov {
            1 => &[(1.5, -0.5, 0.25)],
            _ => &[(2.0, -1.0, 0.5), (1.5, -0.5, 0.0)],
        };
        for (a, b, c) in steps {
            let gram = product(&transposed(&z, 5, 4), &z, [4, 5, 4]);
            let square = product(&gram, &gram, [4, 4, 4]);
            let poly: Vec<f64> = gram.iter().zip(&square).map(|(x, y)| b * x + c * y).collect();
            let pz = product(&z, &poly, [5, 4, 4]);
            z = z.iter().zip(&pz).map(|(z, p)| a * z + p).collect();
        }
        let scale = 0.2 * 5f64.sqrt();
        let want: Vec<f64> =
            w.data.iter().zip(&z).map(|(w, o)| w - 0.5 * (scale * o + 0.1 * w)).collect();
        close("w", &found["new w"], &want);
    }
}

#[test]
fn muonclip_takes_as_many_newton_schulz_steps_as_there_are_coefficients() {
    let products = |coefficients: &str| {
        let text = include_str!("../models/k2-nano/train.ron")
            .replace("model: \"", "model: \"../k2-nano/")
            .replace("tau: 7.0,", &format!("tau: 7.0, {coefficients}"));
        let step = train(library().with("t/train.ron", text)).train_step.expect("a step");
        let ours = |path: &str| path.starts_with("optimizer.model.") && path.contains(".iterate.");
        let einsums = step.nodes.values().filter(|n| n.op.name() == "Einsum");
        einsums.filter(|n| ours(&n.origin.path)).count()
    };
    let one = products("ns_coefficients: [(1.5, -0.5, 0.0)],");
    assert!(one > 0);
    assert_eq!(products(""), 5 * one);
}

fn transposed(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| x[r * cols + c])).collect()
}

/// `[m, k] · [k, n]`
fn product(a: &[f64], b: &[f64], [m, k, n]: [usize; 3]) -> Vec<f64> {
    let at = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum();
    (0..m * n).map(|x| at(x / n, x % n)).collect()
}

#[test]
fn groups_take_parameters_by_pattern_and_by_number_of_dims() {
    let (spec, told, _) = load_train(&Library::default(), "k2-nano/train.ron", &[]);
    let spec = spec.unwrap_or_else(|| panic!("{:?}", told.list()));
    let has = |path: &str, state: &str| {
        let name = format!("{path}/{state}");
        spec.tensors.iter().any(|t| t.name == name)
    };
    for path in ["model.embed_tokens", "model.lm_head", "model.norm.weight"] {
        assert!(
            has(path, "mean") && has(path, "square") && !has(path, "momentum_buffer"),
            "{path}"
        );
    }
    let layer = "model.layers.1";
    for path in ["attn.q_b_proj", "mlp.gate_proj", "mlp.router.weight", "mlp.shared.up_proj"] {
        let path = format!("{layer}.{path}");
        assert!(has(&path, "momentum_buffer") && !has(&path, "mean"), "{path}");
    }
    assert!(has(&format!("{layer}.attn_norm.weight"), "mean"));
    let bias = format!("{layer}.mlp.router.bias");
    assert!(!has(&bias, "mean") && !has(&bias, "momentum_buffer"), "a buffer is not optimised");
    let train = spec.train.expect("a step");
    assert!(train.mesh.keys().eq(["dp", "ep"]) && train.mesh.values().all(|n| *n == 1));
}

/// The router over `x [2, 5, 6]`, eight experts, three chosen.
fn router(knobs: &str) -> Elaborated {
    model(&format!(
        r#"Model(
            imports: {{ "Router": "../blocks/router.ron" }},
            dims: {{ "batch": 2, "seq": 5, "d_model": 6, "n_experts": 8, "top_k": 3, "routed_scaling_factor": 2.5, {knobs} }},
            inputs: {{ "x": [batch, seq, d_model] }},
            nodes: [("router", Router(x: "x"))],
            outputs: {{ "indices": "router.indices", "weights": "router.weights", "load": "router.load", "aux": "router.aux_loss", "logits": "router.logits" }},
        )"#
    ))
}

/// Experts of one token, best first, ties to the lower index; groups of two experts each.
fn choose(choice: &[f64], groups: usize) -> Vec<usize> {
    let size = choice.len() / groups;
    let score = |g: usize| {
        let mut group = choice[g * size..(g + 1) * size].to_vec();
        group.sort_by(|a, b| b.total_cmp(a));
        group[0] + group[1]
    };
    let mut kept: Vec<usize> = (0..groups).collect();
    kept.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    kept.truncate(2);
    let mut experts: Vec<usize> =
        (0..choice.len()).filter(|e| groups == 1 || kept.contains(&(e / size))).collect();
    experts.sort_by(|a, b| choice[*b].total_cmp(&choice[*a]));
    experts.truncate(3);
    experts
}

#[test]
fn the_router_chooses_within_groups_and_its_balance_loss_is_per_sequence() {
    let bias = vector(&[0.3, -0.2, 0.1, 0.0, 0.4, -0.3, 0.2, 0.0]);
    for (groups, knobs) in
        [(1, r#""aux_alpha": 0.25"#), (4, r#""aux_alpha": 0.25, "n_group": 4, "topk_group": 2"#)]
    {
        let found = results(&router(knobs).forward, &[("router.bias", bias.clone())]);
        let (mut aux, mut load) = (0.0, vec![0.0; 8]);
        for b in 0..2 {
            let (mut fraction, mut share) = (vec![0.0; 8], vec![0.0; 8]);
            for s in 0..5 {
                let at = (b * 5 + s) * 8;
                let scores: Vec<f64> = found["logits"].data[at..at + 8]
                    .iter()
                    .map(|l| 1.0 / (1.0 + (-l).exp()))
                    .collect();
                let choice: Vec<f64> = scores.iter().zip(&bias.data).map(|(s, b)| s + b).collect();
                let experts = choose(&choice, groups);
                let row = (b * 5 + s) * 3;
                let want: Vec<f64> = experts.iter().map(|e| *e as f64).collect();
                let got = &found["indices"].data[row..row + 3];
                assert_eq!(got, want, "token {b} {s}");
                let total: f64 = experts.iter().map(|e| scores[*e]).sum();
                let weights: Vec<f64> = experts.iter().map(|e| scores[*e] / total * 2.5).collect();
                close("weights", &vector(&found["weights"].data[row..row + 3]), &weights);
                let all: f64 = scores.iter().sum();
                for e in 0..8 {
                    share[e] += scores[e] / all / 5.0;
                }
                for e in experts {
                    fraction[e] += 1.0 / 5.0;
                    load[e] += 1.0;
                }
            }
            // eq. 17–20: α Σ_e f_e P_e with f scaled by experts over choices, mean over sequences.
            let sum: f64 = fraction.iter().zip(&share).map(|(f, p)| f * p).sum();
            aux += 0.25 * 8.0 / 3.0 * sum / 2.0;
        }
        close("load", &found["load"], &load);
        close("aux", &found["aux"], &[aux]);
    }
}

#[test]
fn the_bias_moves_by_its_rate_towards_underloaded_experts() {
    let model = r#"Model(
        imports: { "Router": "../blocks/router.ron" },
        dims: { "batch": 2, "seq": 4, "d_model": 6, "n_experts": 8, "top_k": 3, "routed_scaling_factor": 2.5, "bias_update_rate": 0.01 },
        inputs: { "x": [batch, seq, d_model] },
        nodes: [("router", Router(x: "x")), ("loss", Reduce(Sum, "router.weights[b s k]", over: "b s k"))],
        outputs: { "loss": "loss", "load": "router.load" },
    )"#;
    let spec = |micro: u32| {
        let step = descent(&format!(r#"metrics: {{ "load": "load" }}, accumulate: {micro},"#));
        train(library().with("t/model.ron", model).with("t/train.ron", step))
    };
    let before = vector(&[0.0, 2.0, 0.1, 0.0, 0.0, -5.0, 0.2, 0.0]);
    // With several micro-batches the loads of the whole step count.
    for micro in [1, 2, 3] {
        let found = step(&spec(micro), &[("router.bias", before.clone())]);
        let mean = f64::from(micro) * 2.0 * 4.0 * 3.0 / 8.0;
        let load = &found["load"].data;
        let sign = |load: f64| if load == mean { 0.0 } else { (mean - load).signum() };
        let want: Vec<f64> =
            before.data.iter().zip(load).map(|(b, load)| b + 0.01 * sign(*load)).collect();
        close("bias", &found["new router.bias"], &want);
        assert!(load[1] > mean && load[5] < mean, "both signs are met: {load:?}");
    }
}

#[test]
fn negative_targets_are_ignored() {
    let spec = model(
        r#"Model(
            imports: { "CrossEntropy": "../blocks/cross_entropy.ron" },
            dims: { "batch": 2, "seq": 3, "vocab": 5 },
            inputs: { "logits": [batch, seq, vocab], "targets": Input([batch, seq], i32) },
            nodes: [("ce", CrossEntropy(logits: "logits", targets: "targets"))],
            outputs: { "loss": "ce.loss", "per_token": "ce.per_token" },
        )"#,
    );
    let logits = random(1, &[2, 3, 5]);
    let losses = |targets: &[f64]| -> (Vec<f64>, f64) {
        let rows = targets.iter().enumerate().map(|(row, target)| {
            let row = &logits.data[row * 5..row * 5 + 5];
            let lse = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            if *target < 0.0 { 0.0 } else { lse - row[*target as usize] }
        });
        let rows: Vec<f64> = rows.collect();
        let count = targets.iter().filter(|t| **t >= 0.0).count().max(1);
        let mean = rows.iter().sum::<f64>() / count as f64;
        (rows, mean)
    };
    for targets in [[1.0, -1.0, 4.0, 0.0, -100.0, 2.0], [-1.0; 6]] {
        let given = Tensor { shape: vec![2, 3], data: targets.to_vec() };
        let found = results(&spec.forward, &[("logits", logits.clone()), ("targets", given)]);
        let (rows, mean) = losses(&targets);
        close("rows", &found["per_token"], &rows);
        close("mean", &found["loss"], &[mean]);
    }
}

#[test]
fn a_metric_that_the_loss_is_made_of_is_known_without_a_gradient() {
    let spec = small("");
    let eval = spec.eval.expect("one");
    let names: Vec<&str> = eval
        .outputs
        .iter()
        .map(|(_, t)| match t {
            ResultTarget::Fetch(n) | ResultTarget::Update(n) => n.as_str(),
        })
        .collect();
    assert_eq!(names, ["loss"]);
    let text =
        include_str!("../models/k2-nano/train.ron").replace("model: \"", "model: \"../k2-nano/");
    let eval = train(library().with("t/train.ron", text)).eval.expect("one");
    assert!(eval.outputs.iter().any(|(_, t)| *t == ResultTarget::Fetch("ce".into())));
    assert!(!eval.inputs.iter().any(|i| i.name == "step"), "the schedule is not run");
}

/// The plan of k2-nano's step, changed in some places.
fn plan(changes: &[(&str, &str)]) -> perilune_plan::Plan {
    let mut text = include_str!("../models/k2-nano/train.ron")
        .replace("model: \"", "model: \"../k2-nano/")
        .replace("\"max_logit\": \"model.layers.*.attn.attn.max_logit\",", "");
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let spec = train(library().with("t/train.ron", text));
    compile(&spec, Target::Cpu).expect("compiles").plan
}

#[test]
fn maximum_logits_are_made_only_where_the_optimizer_demands_them() {
    let gives = |plan: &perilune_plan::Plan, entry: &str| -> Vec<bool> {
        let entry = plan.entries.iter().find(|e| e.name == entry).expect("an entry");
        let demanded = |step: &perilune_plan::Step| match &step.op {
            StepOp::Attention(a) => Some(a.max_logit.is_some()),
            _ => None,
        };
        entry.steps.iter().filter_map(demanded).collect()
    };
    let clipped = plan(&[]);
    assert_eq!(gives(&clipped, "train_step"), [true, true]);
    assert_eq!(gives(&clipped, "forward"), [false, false]);
    let muon = plan(&[
        ("muonclip.ron", "muon.ron"),
        ("tau: 7.0, tau_end: 7.0, norm_weight_decay: 0.0", "norm_weight_decay: 0.0"),
    ]);
    assert_eq!(gives(&muon, "train_step"), [false, false]);
}

#[test]
fn the_matrices_of_all_experts_are_orthogonalised_in_batched_products() {
    let plan = plan(&[]);
    let step = plan.entries.iter().find(|e| e.name == "train_step").expect("an entry");
    let batches = |tensor: &str| -> Vec<u64> {
        let path = format!("optimizer.model.layers.1.mlp.{tensor}.o.iterate.");
        // The product's own node comes first; an epilogue may work for another tensor.
        let ours = |s: &&perilune_plan::Step| {
            s.nodes.first().is_some_and(|n| plan.nodes[*n as usize].starts_with(&path))
        };
        let batch = |s: &perilune_plan::Step| match &s.op {
            StepOp::Contract(c) => Some(c.batch.iter().map(|l| l.extent).product()),
            _ => None,
        };
        step.steps.iter().filter(ours).filter_map(batch).collect()
    };
    // Three products in each of five steps, whatever the number of experts.
    for tensor in ["gate_proj", "up_proj", "down_proj"] {
        assert_eq!(batches(tensor), [4; 15], "{tensor}");
    }
    assert_eq!(batches("shared.gate_proj"), [1; 15]);
}
