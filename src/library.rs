//! The models shipped inside the binary, with an overlay of specs made in memory.
//!
//! # Invariants
//! - Same paths as under `models/` in the repository; nothing on disk is read.

use std::collections::BTreeMap;

use include_dir::{Dir, include_dir};
use perilune_compiler::source::Loader;

static SHIPPED: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/models");

/// Reads the shipped models; a file added with [`Library::with`] hides a shipped one.
#[derive(Clone, Debug, Default)]
pub struct Library {
    overlay: BTreeMap<String, String>,
}

impl Library {
    /// Adds a file.
    pub fn with(mut self, path: impl Into<String>, text: impl Into<String>) -> Self {
        self.overlay.insert(path.into(), text.into());
        self
    }
}

impl Loader for Library {
    fn load(&self, path: &str) -> Result<String, String> {
        let shipped = || SHIPPED.get_file(path).and_then(|f| f.contents_utf8());
        let text = self.overlay.get(path).map(String::as_str).or_else(shipped);
        text.map(str::to_owned).ok_or_else(|| "there is no such file".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_models_are_found_and_an_overlay_hides_them() {
        let files = Library::default();
        assert!(files.load("blocks/mla.ron").is_ok_and(|t| t.starts_with("Block(")));
        assert_eq!(files.with("blocks/mla.ron", "x").load("blocks/mla.ron").as_deref(), Ok("x"));
    }
}
