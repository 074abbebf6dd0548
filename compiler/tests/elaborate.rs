//! Every model of the repository elaborates; figures of `check` against the references.

use std::path::Path;

use perilune_compiler::elaborate::{Elaborated, load_model};
use perilune_compiler::source::Loader;

struct Disk;

impl Loader for Disk {
    fn load(&self, path: &str) -> Result<String, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        std::fs::read_to_string(root.join(path)).map_err(|e| e.to_string())
    }
}

fn model(path: &str) -> Elaborated {
    let (elaborated, diagnostics, sources) = load_model(&Disk, path, &[]);
    for d in diagnostics.list() {
        let span = d.primary.span;
        let file = &sources.file(span.source).path;
        let (line, column) = sources.line_column(span.source, span.start);
        eprintln!("{} {file}:{line}:{column} {} [{}] {:?}", d.code, d.headline, d.primary.text, d.help);
    }
    elaborated.unwrap_or_else(|| panic!("{path} has errors"))
}

#[test]
fn every_model_elaborates_without_a_message() {
    for name in ["llama-gqa", "k2-nano", "k2-tiny", "k2-small", "k2-bytes", "moonlight-16b", "deepseek-v3", "kimi-k2"] {
        let e = model(&format!("{name}/model.ron"));
        eprintln!("{name}: {} nodes", e.forward.nodes.len());
    }
}
