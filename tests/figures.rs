//! Parameters and FLOPs of the published models, read off their graphs, against published figures;
//! and every model's training step, compiled to a plan.

use std::path::Path;

use perilune::summary::{Summary, summarize};
use perilune_compiler::compile::compile;
use perilune_compiler::elaborate::load_train;
use perilune_compiler::lower::Target;
use perilune_compiler::source::Loader;

struct Models;

impl Loader for Models {
    fn load(&self, path: &str) -> Result<String, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        std::fs::read_to_string(root.join(path)).map_err(|e| e.to_string())
    }
}

fn figures(name: &str, seq: &str) -> Summary {
    let sets = [("seq".to_owned(), seq.to_owned())];
    let (elaborated, diagnostics, _) = load_train(&Models, &format!("{name}/train.ron"), &sets);
    let messages: Vec<&str> = diagnostics.list().iter().map(|d| d.headline.as_str()).collect();
    summarize(&elaborated.unwrap_or_else(|| panic!("{name}: {messages:?}")).forward)
}

/// Within 0.1 %.
fn near(what: &str, found: f64, published: f64) {
    assert!((found / published - 1.0).abs() < 1e-3, "{what}: {found:e} against {published:e}");
}

/// A configuration of the family, as its `config.json` says.
struct Config {
    vocab: f64,
    hidden: f64,
    layers: f64,
    dense_layers: f64,
    dense: f64,
    expert: f64,
    experts: f64,
    top_k: f64,
    shared: f64,
    heads: f64,
    /// 0 without a query latent.
    q_rank: f64,
}

/// Ranks and widths that all of the family have: latent of keys and values, dimensions of a head
/// without position, with position, and of its value.
const KV_RANK: f64 = 512.0;
const NOPE: f64 = 128.0;
const ROPE: f64 = 64.0;
const VALUE: f64 = 128.0;

impl Config {
    /// Weights of a layer's attention that are matrices.
    fn attention(&self) -> f64 {
        let query = self.heads * (NOPE + ROPE);
        let query = match self.q_rank {
            0.0 => self.hidden * query,
            rank => self.hidden * rank + rank * query,
        };
        query
            + self.hidden * (KV_RANK + ROPE)
            + KV_RANK * self.heads * (NOPE + VALUE)
            + self.heads * VALUE * self.hidden
    }

    /// Matrices of all layers where each has so many routed experts.
    fn matrices(&self, experts: f64) -> f64 {
        let expert = 3.0 * self.hidden * self.expert;
        let router = self.experts * self.hidden;
        self.layers * self.attention()
            + self.dense_layers * 3.0 * self.hidden * self.dense
            + (self.layers - self.dense_layers) * ((experts + self.shared) * expert + router)
    }

    /// Parameters where each layer has so many routed experts: two embeddings, matrices, norms.
    fn params(&self, experts: f64) -> f64 {
        let norms = self.layers * (2.0 * self.hidden + self.q_rank + KV_RANK) + self.hidden;
        2.0 * self.vocab * self.hidden + self.matrices(experts) + norms
    }

    /// FLOPs of a training step for a token: 6 for each matrix element it meets, the output
    /// embedding included, and causal attention over half the context on average.
    fn flops(&self, seq: f64) -> f64 {
        let met = self.matrices(self.top_k) + self.vocab * self.hidden;
        let attention = 2.0 * self.heads * (NOPE + ROPE + VALUE) * seq / 2.0;
        6.0 * met + 3.0 * self.layers * attention
    }

    fn check(&self, name: &str, seq: u32) -> Summary {
        let found = figures(name, &seq.to_string());
        near("parameters", found.params_total as f64, self.params(self.experts));
        near("active parameters", found.params_active as f64, self.params(self.top_k));
        near("FLOPs per token", found.train_flops_per_token, self.flops(f64::from(seq)));
        found
    }
}

#[test]
fn kimi_k2_has_its_published_size() {
    let config = Config {
        vocab: 163_840.0,
        hidden: 7168.0,
        layers: 61.0,
        dense_layers: 1.0,
        dense: 18_432.0,
        expert: 2048.0,
        experts: 384.0,
        top_k: 8.0,
        shared: 1.0,
        heads: 64.0,
        q_rank: 1536.0,
    };
    let k2 = config.check("kimi-k2", 4096);
    near("parameters", k2.params_total as f64, 1026.4e9);
    near("active parameters", k2.params_active as f64, 32.86e9);
    near("FLOPs per token", k2.train_flops_per_token, 205.5e9);
}

#[test]
fn deepseek_v3_has_its_published_size() {
    let config = Config {
        vocab: 129_280.0,
        hidden: 7168.0,
        layers: 61.0,
        dense_layers: 3.0,
        dense: 18_432.0,
        expert: 2048.0,
        experts: 256.0,
        top_k: 8.0,
        shared: 1.0,
        heads: 128.0,
        q_rank: 1536.0,
    };
    let v3 = config.check("deepseek-v3", 4096);
    near("parameters", v3.params_total as f64, 671.03e9);
    near("active parameters", v3.params_active as f64, 37.55e9);
    near("FLOPs per token", v3.train_flops_per_token, 250.5e9);
}

#[test]
fn moonlight_has_its_published_size() {
    let config = Config {
        vocab: 163_840.0,
        hidden: 2048.0,
        layers: 27.0,
        dense_layers: 1.0,
        dense: 11_264.0,
        expert: 1408.0,
        experts: 64.0,
        top_k: 6.0,
        shared: 2.0,
        heads: 16.0,
        q_rank: 0.0,
    };
    let moonlight = config.check("moonlight-16b", 8192);
    let embeddings = 2.0 * config.vocab * config.hidden;
    near("without embeddings", moonlight.params_total as f64 - embeddings, 15.29e9);
    near("FLOPs per token", moonlight.train_flops_per_token, 18.87e9);
}

#[test]
fn every_training_step_compiles_to_a_plan() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let mut found = 0;
    for folder in std::fs::read_dir(models).expect("models/").map(|e| e.expect("entry")) {
        if !folder.path().join("train.ron").exists() {
            continue;
        }
        let name = folder.file_name().into_string().expect("UTF-8");
        let (spec, told, _) = load_train(&Models, &format!("{name}/train.ron"), &[]);
        let spec = spec.unwrap_or_else(|| panic!("{name}: {:?}", told.list()));
        let compiled = compile(&spec, Target::Cpu).unwrap_or_else(|e| panic!("{name}: {e}"));
        compiled.plan.verify().unwrap_or_else(|e| panic!("{name}: {e}"));
        found += 1;
    }
    assert!(found >= 8, "only {found} models found");
}
