//! A folder for runs of `perilune train`: a shipped Kimi-K2, a text, and what runs leave.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder; gone with the value.
pub(crate) struct Bench(tempfile::TempDir);

impl Bench {
    /// A k2-nano over bytes whose router has a bias and a balance loss, and a text of so many words.
    pub(crate) fn nano(words: u32) -> Self {
        let bench = Bench::of("k2-nano", words);
        bench.edit("k2-nano/model.ron", r#""vocab": 64"#, r#""vocab": 256"#);
        bench
    }

    /// A shipped Kimi-K2 whose router has a bias and a balance loss, and a text of so many words.
    pub(crate) fn of(model: &str, words: u32) -> Self {
        let bench = Bench(tempfile::tempdir().expect("temp dir"));
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        for folder in ["blocks", "optim", model] {
            fs::create_dir_all(bench.path(folder)).expect("a folder");
            for file in fs::read_dir(models.join(folder)).expect("models") {
                let file = file.expect("a file");
                fs::copy(file.path(), bench.path(folder).join(file.file_name())).expect("copied");
            }
        }
        let stateful = r#""first_k_dense": 1, "bias_update_rate": 0.01, "aux_alpha": 0.01"#;
        bench.edit(&format!("{model}/model.ron"), r#""first_k_dense": 1"#, stateful);
        let text: String = (0..words).map(|i| format!("{} sheep, ", i * i % 977)).collect();
        fs::write(bench.path("text"), text).expect("written");
        bench
    }

    /// The folder itself.
    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder().join(path)
    }

    pub(crate) fn edit(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(path)).expect("a text");
        assert!(text.contains(from), "{path} has no `{from}`");
        fs::write(self.path(path), text.replace(from, to)).expect("written");
    }
}
