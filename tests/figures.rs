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

#[test]
fn kimi_k2_has_its_published_size() {
    let k2 = figures("kimi-k2", "4096");
    near("parameters", k2.params_total as f64, 1026.4e9);
    near("active parameters", k2.params_active as f64, 32.86e9);
    near("FLOPs per token", k2.train_flops_per_token, 205.5e9);
}

#[test]
fn deepseek_v3_has_its_published_size() {
    let v3 = figures("deepseek-v3", "4096");
    near("parameters", v3.params_total as f64, 671.03e9);
    near("FLOPs per token", v3.train_flops_per_token, 250.5e9);
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
