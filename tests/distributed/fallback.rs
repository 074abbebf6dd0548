//! Specs that work across the batch: parts are put together where they must be, and it is said why.

use perilune::library::Library;
use perilune_compiler::elaborate::Elaborated;
use perilune_compiler::program::Rule;
use perilune_compiler::sharding;

use crate::job::{Case, compare};

/// A step over a model whose node `y` is made of `x`, both `[batch, 4]`.
fn case(node: &str) -> Case {
    let model = format!(
        r#"Model(
            dims: {{ "batch": 8, "vocab": 64, "d": 4, "init_std": 0.5 }},
            inputs: {{ "tokens": Input([batch], i32) }},
            params: {{ "embed": Param([vocab, d]), "w": Param([d, d]) }},
            nodes: [
                ("embedded", Gather("embed", "tokens")),
                ("x", Einsum("b d, e d -> b e", ["embedded", "w"])),
                {node}
                ("error", Map("(y[b d] - 1) * (y[b d] - 1)")),
                ("loss", Reduce(Mean, "error[b d]", over: "b d")),
            ],
            outputs: {{ "loss": "loss", "x": "x" }},
        )"#
    );
    let train = r#"Train(
        imports: { "Optim": "sgd.ron" },
        model: "model.ron",
        nodes: [("lr", Fill(0.3, []))],
        loss: "loss",
        optimizer: Optim(lr: "lr"),
        metrics: { "x": "x" },
    )"#;
    let files = Library::default()
        .with("t/model.ron", model)
        .with("t/train.ron", train)
        .with("t/sgd.ron", crate::routing::SGD)
        .with("t/sgd_update.ron", crate::routing::SGD_UPDATE);
    Case { files, path: "t/train.ron".into(), sets: Vec::new(), steps: 3 }
}

/// Codes of why values are put together in the step, each once.
fn reasons(spec: &Elaborated) -> Vec<&'static str> {
    let local = sharding::shard(spec).expect("shards");
    let step = local.train_step.as_ref().expect("a step");
    let decisions = step.placement.decisions.values();
    assert!(decisions.clone().all(|d| d.rule == Rule::Sharding && !d.to.is_empty()));
    let mut codes: Vec<&str> = decisions.map(|d| d.reason.code()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[test]
fn what_no_rule_cuts_is_put_together_and_the_reason_is_kept() {
    let cases = [
        ("by index", r#"("y", Map("x[b d] * f32(index(b) + 1) * 0.2")),"#, "S01"),
        (
            "every pair of rows",
            r#"("gram", Einsum("b d, c d -> b c", ["x", "x"])),
               ("pairs", Einsum("b c, c d -> b d", ["gram", "x"])),
               ("y", Map("x + 0.01 * pairs")),"#,
            "S02",
        ),
        (
            "reversed in halves",
            r#"("a", Slice("x", dim: 0, start: 0, len: 4)),
               ("b", Slice("x", dim: 0, start: 4, len: 4)),
               ("y", Concat(["b", "a"], dim: 0)),"#,
            "S03",
        ),
        (
            "sorted rows",
            r#"("keys", Reduce(Sum, "i32(x[b d] > 0)", over: "d")),
               ("order", ArgSort("keys", bound: 5)),
               ("place", Map("f32(order[b])")),
               ("y", Map("x[b d] + 0.1 * place[b]")),"#,
            "S04",
        ),
    ];
    for (what, node, code) in cases {
        let case = case(node);
        let one = case.run("").remove(0);
        let found = reasons(&case.elaborated("dp=2"));
        assert!(found.contains(&code), "{what}: {found:?}");
        for mesh in ["dp=2", "dp=2,ep=2"] {
            compare(&one, &case.run(mesh), 1e-4, &format!("{what} on {mesh}"));
        }
    }
}

#[test]
fn maxima_and_means_over_the_batch_are_those_of_all_ranks() {
    let node = r#"("peak", Reduce(Max, "x[b d]", over: "b")),
                  ("low", Reduce(Min, "x[b d]", over: "b")),
                  ("mean", Reduce(Mean, "x[b d]", over: "b")),
                  ("y", Map("x[b d] * mean[d] + peak[d] - low[d]")),"#;
    let case = case(node);
    let one = case.run("").remove(0);
    assert_eq!(reasons(&case.elaborated("dp=4")), [] as [&str; 0]);
    for mesh in ["dp=4", "dp=2,ep=2"] {
        compare(&one, &case.run(mesh), 1e-4, mesh);
    }
}
