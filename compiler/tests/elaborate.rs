//! Every model of the repository elaborates; a small training step has the parts it should have.

use std::collections::BTreeMap;
use std::path::Path;

use perilune_compiler::diagnostic::Diagnostics;
use perilune_compiler::elaborate::{Elaborated, load_model, load_spec, load_train};
use perilune_compiler::graph::Graph;
use perilune_compiler::program::ResultTarget;
use perilune_compiler::source::{Loader, SourceMap};

/// The repository's models, with some files laid over them.
#[derive(Default)]
struct Disk(BTreeMap<String, String>);

impl Loader for Disk {
    fn load(&self, path: &str) -> Result<String, String> {
        if let Some(text) = self.0.get(path) {
            return Ok(text.clone());
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        std::fs::read_to_string(root.join(path)).map_err(|e| e.to_string())
    }
}

fn must(
    what: &str,
    (elaborated, diagnostics, sources): (Option<Elaborated>, Diagnostics, SourceMap),
) -> Elaborated {
    let shown: Vec<String> = diagnostics
        .list()
        .iter()
        .map(|d| {
            let span = d.primary.span;
            let (line, column) = sources.line_column(span.source, span.start);
            let file = &sources.file(span.source).path;
            format!(
                "{} {file}:{line}:{column} {} [{}] {:?}",
                d.code, d.headline, d.primary.text, d.help
            )
        })
        .collect();
    assert!(shown.is_empty(), "{what}:\n{}", shown.join("\n"));
    elaborated.expect("no message, no result")
}

const MODELS: [&str; 8] = [
    "llama-gqa",
    "k2-nano",
    "k2-tiny",
    "k2-small",
    "k2-bytes",
    "moonlight-16b",
    "deepseek-v3",
    "kimi-k2",
];

#[test]
fn every_model_elaborates_without_a_message() {
    for name in MODELS {
        let path = format!("{name}/model.ron");
        let e = must(&path, load_model(&Disk::default(), &path, &[]));
        e.forward.verify().expect("forward is sound");
        e.init.verify().expect("init is sound");
    }
}

#[test]
fn every_training_step_elaborates_without_a_message() {
    for name in MODELS {
        let path = format!("{name}/train.ron");
        let e = must(&path, load_train(&Disk::default(), &path, &[]));
        let step = e.train_step.expect("a step");
        step.verify().expect("the step is sound");
        e.eval.expect("eval").verify().expect("eval is sound");
    }
}

fn small(train: &str) -> Disk {
    let model = r#"Model(
        imports: { "RmsNorm": "../blocks/rmsnorm.ron" },
        dims: { "batch": 4, "dim": 8 },
        inputs: { "x": [batch, dim] },
        params: { "w": Param([dim, dim]) },
        nodes: [
            ("h", Einsum("b d, e d -> b e", ["x", "w"])),
            ("n", RmsNorm(x: "h")),
            ("peak", Reduce(Max, "n[b d]", over: "b d")),
            ("y", Map("n + x")),
        ],
        outputs: { "y": "y", "peak": "peak" },
    )"#;
    let train = format!(
        r#"Train(
            imports: {{ "Optim": "../optim/adamw.ron" }},
            model: "model.ron",
            inputs: {{ "step": Input([], f32) }},
            nodes: [("loss", Reduce(Mean, "y[b d] * y[b d]", over: "b d")), ("lr", Map("0.1 / step"))],
            loss: "loss",
            optimizer: Optim(lr: "lr", step: "step"),
            {train}
        )"#
    );
    Disk([("t/model.ron".to_owned(), model.to_owned()), ("t/train.ron".to_owned(), train)].into())
}

fn targets(graph: &Graph) -> Vec<String> {
    let target = |t: &ResultTarget| match t {
        ResultTarget::Fetch(n) => format!("fetch {n}"),
        ResultTarget::Update(n) => format!("update {n}"),
    };
    graph.outputs.iter().map(|(_, t)| target(t)).collect()
}

#[test]
fn a_step_updates_parameters_and_state_and_fetches_metrics() {
    let disk = small(
        r#"clip_grad_norm: Some(1.0), skip_nonfinite: true, metrics: { "peak": "peak", "grad": Grad("*"), "m": "optimizer.*.m" },"#,
    );
    let step = must("small", load_train(&disk, "t/train.ron", &[])).train_step.expect("a step");
    step.verify().expect("sound");
    let expected = [
        "fetch loss",
        "fetch grad/w",
        "fetch grad/n.weight",
        "fetch grad_norm",
        "fetch peak",
        "fetch m/optimizer.w.m",
        "fetch m/optimizer.n.weight.m",
        "update w",
        "update n.weight",
        "update w/mean",
        "update w/square",
        "update n.weight/mean",
        "update n.weight/square",
    ];
    assert_eq!(targets(&step), expected);
}

#[test]
fn accumulation_widens_feeds_and_joins_by_kind() {
    let plain =
        must("plain", load_train(&small(r#"metrics: { "peak": "peak" },"#), "t/train.ron", &[]));
    let disk = small(r#"accumulate: 3, metrics: { "peak": "peak" },"#);
    let step =
        must("accumulate", load_train(&disk, "t/train.ron", &[])).train_step.expect("a step");
    step.verify().expect("sound");
    let x = step.inputs.iter().find(|i| i.name == "x").expect("a feed");
    assert_eq!(step.ty(x.value).shape, [12, 8]);
    assert_eq!(targets(&step), targets(&plain.train_step.expect("a step")));
    let einsums =
        step.nodes.values().filter(|n| n.op.name() == "Einsum" && !n.origin.path.contains('/'));
    assert_eq!(einsums.count(), 3);
}

#[test]
fn recomputed_nodes_are_copied_before_their_backward_use() {
    let disk = small(r#"recompute: ["*n"],"#);
    let step = must("recompute", load_train(&disk, "t/train.ron", &[])).train_step.expect("a step");
    step.verify().expect("sound");
    let copies: Vec<&str> = step
        .nodes
        .values()
        .map(|n| n.origin.path.as_str())
        .filter(|p| p.ends_with("/recompute"))
        .collect();
    assert_eq!(copies, ["n.mean_square/recompute"]);
}

#[test]
fn settings_reach_the_dims() {
    let sets = [("batch".to_owned(), "2 * 3".to_owned())];
    let (none, diagnostics, _) = load_model(&small(""), "t/model.ron", &sets);
    assert!(none.is_none() && diagnostics.has_errors(), "an expression needs quotes");
    let sets = [("batch".to_owned(), "6".to_owned())];
    let e = must("set", load_model(&small(""), "t/model.ron", &sets));
    assert_eq!(e.forward.ty(e.forward.inputs[0].value).shape, [6, 8]);
}

#[test]
fn a_mistake_in_a_setting_is_shown_where_it_is() {
    for (value, blamed) in
        [("[(oops, 1)]", "oops"), ("\"2 + oops\"", "oops"), ("[1, \"é\"]", "é"), ("[1", "[")]
    {
        let sets = [("batch".to_owned(), value.to_owned())];
        let (none, diagnostics, sources) = load_model(&small(""), "t/model.ron", &sets);
        let found = diagnostics.list().first().expect("a message");
        assert!(none.is_none());
        assert_eq!(sources.text(found.primary.span), blamed, "{value}: {}", found.headline);
    }
}

#[test]
fn what_a_file_holds_is_told_by_its_value_and_not_by_its_first_line() {
    for (path, steps) in [("t/model.ron", false), ("t/train.ron", true)] {
        let mut disk = small("");
        let text = format!("/* A `Train(..)`, or a\nModel? */ {}", disk.0[path]);
        disk.0.insert(path.to_owned(), text);
        let e = must(path, load_spec(&disk, path, &[]));
        assert_eq!(e.train_step.is_some(), steps, "{path}");
    }
}
