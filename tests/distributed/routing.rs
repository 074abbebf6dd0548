//! Random mixtures of experts on random meshes: one rank's numbers, however rows are spread.
//!
//! # Invariants
//! - The cases follow from a fixed seed; `PROPTEST_RNG_SEED` chooses others.

use perilune::library::Library;
use perilune_compiler::source::Loader;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::job::{Case, compare};

/// Sums of a few dozen terms in another order.
const BOUND: f64 = 1e-4;

/// Where the router's choices fall.
#[derive(Clone, Copy, Debug)]
enum Routing {
    /// Over all experts, roughly.
    Even,
    /// Mostly to a few.
    Uneven,
    /// All scores are equal, so the first experts get every row and the others none.
    FirstOnly,
}

#[derive(Clone, Debug)]
struct Recipe {
    dp: u64,
    ep: u64,
    /// Sequences of a rank, tokens of a sequence.
    batch: u64,
    seq: u64,
    /// Experts of a rank.
    experts: u64,
    top_k: u64,
    shared: u64,
    routing: Routing,
    accumulate: u64,
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let small = vec![(1, 2), (2, 1), (1, 3), (2, 2), (3, 2), (1, 4), (2, 3)];
    let large = vec![(1, 7), (1, 8), (2, 4), (4, 2), (8, 1)];
    let mesh = prop::sample::select([small, large].concat());
    let routing = prop::sample::select(vec![Routing::Even, Routing::Uneven, Routing::FirstOnly]);
    (mesh, 1..3u64, 1..8u64, 1..4u64, 1..4u64, 0..2u64, routing, 1..3u64).prop_map(
        |((dp, ep), batch, seq, experts, top_k, shared, routing, accumulate)| Recipe {
            dp,
            ep,
            batch,
            seq,
            experts,
            top_k: top_k.min(experts * ep),
            shared,
            routing,
            accumulate,
        },
    )
}

/// A layer of experts between an embedding and a head, under plain descent.
fn case(recipe: &Recipe) -> Case {
    let Recipe { dp, ep, batch, seq, experts, top_k, shared, routing, accumulate } = recipe;
    let (batch, experts) = (batch * dp * ep, experts * ep);
    let model = format!(
        r#"Model(
            imports: {{ "Moe": "../blocks/moe.ron" }},
            dims: {{
                "batch": {batch}, "seq": {seq}, "vocab": 64, "d_model": 7, "n_experts": {experts},
                "top_k": {top_k}, "d_expert": 5, "n_shared_experts": {shared},
                "routed_scaling_factor": 1.5, "aux_alpha": 0.05, "bias_update_rate": 0.01,
                "init_std": 0.5,
            }},
            inputs: {{ "tokens": Input([batch, seq], i32) }},
            params: {{ "embed": Param([vocab, d_model]), "head": Param([vocab, d_model]) }},
            nodes: [
                ("x", Gather("embed", "tokens")),
                ("moe", Moe(x: "x")),
                ("h", Map("x + moe")),
                ("logits", Einsum("b s d, v d -> b s v", ["h", "head"])),
            ],
            outputs: {{ "logits": "logits", "aux_loss": "moe.aux_loss" }},
        )"#
    );
    let train = format!(
        r#"Train(
            imports: {{ "CrossEntropy": "../blocks/cross_entropy.ron", "Optim": "sgd.ron" }},
            model: "model.ron",
            inputs: {{ "targets": Input([batch, seq], i32) }},
            nodes: [
                ("ce", CrossEntropy(logits: "logits", targets: "targets")),
                ("loss", Map("ce + aux_loss")),
                ("lr", Fill(0.3, [])),
            ],
            loss: "loss",
            optimizer: Optim(lr: "lr"),
            accumulate: {accumulate},
            clip_grad_norm: Some(0.7),
            metrics: {{ "load": "moe.load" }},
        )"#
    );
    let init = match routing {
        Routing::Even => "init: Normal(0.5)",
        Routing::Uneven => "init: Normal(8.0)",
        Routing::FirstOnly => "init: Zeros",
    };
    let router = Library::default().load("blocks/router.ron").expect("shipped");
    let param = r#""weight": Param([n_experts, d_model])"#;
    assert!(router.contains(param));
    let drawn = format!(r#""weight": Param([n_experts, d_model], {init})"#);
    let files = Library::default()
        .with("t/model.ron", model)
        .with("t/train.ron", train)
        .with("t/sgd.ron", SGD)
        .with("t/sgd_update.ron", SGD_UPDATE)
        .with("blocks/router.ron", router.replace(param, &drawn));
    Case { files, path: "t/train.ron".into(), sets: Vec::new(), steps: 3 }
}

pub(crate) const SGD: &str = r#"Optimizer(
    imports: { "Sgd": "sgd_update.ron" },
    inputs: { "lr": [] },
    groups: [Group(name: "all", update: Sgd(lr: "lr"))],
)"#;

pub(crate) const SGD_UPDATE: &str = r#"Block(
    inputs: { "w": ["..."], "g": ["..."], "lr": [] },
    nodes: [("w_new", Map("w - lr * g"))],
    outputs: { "w": "w_new" },
)"#;

#[test]
fn experts_anywhere_compute_what_experts_on_one_rank_do() {
    let config = Config { cases: 14, rng_seed: RngSeed::Fixed(7), ..Config::default() };
    TestRunner::new(Config { failure_persistence: None, ..config })
        .run(&recipes(), |recipe| {
            let case = case(&recipe);
            let one = case.run("").remove(0);
            let mesh = format!("dp={},ep={}", recipe.dp, recipe.ep);
            compare(&one, &case.run(&mesh), BOUND, &format!("{recipe:?}"));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn ranks_that_get_no_row_take_part() {
    let skewed = Recipe {
        dp: 1,
        ep: 3,
        batch: 1,
        seq: 5,
        experts: 1,
        top_k: 1,
        shared: 0,
        routing: Routing::FirstOnly,
        accumulate: 1,
    };
    let case = case(&skewed);
    let ranks = case.run("ep=3");
    let load = ranks[0].steps[0]["load"].to_i32().expect("counts");
    assert_eq!(load, [15, 0, 0]);
    compare(&case.run("")[0], &ranks, BOUND, "all rows to one rank");
}
