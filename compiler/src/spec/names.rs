//! `Names(..)`: how another framework calls a model's dims and tensors.
//!
//! # Invariants
//! - A pattern holds `{i}` (layer) and `{e}` (expert) at most once each.

use super::block::read_doc;
use super::nodes::quoted_names;
use super::read::{self, Fields, Sink, wrong_kind};
use super::syntax::{Name, Tree, TreeKind};
use crate::codes;
use crate::diagnostic::Diagnostic;

/// A name table.
#[derive(Clone, Debug)]
pub struct NamesSpec {
    /// What it is.
    pub doc: Option<String>,
    /// Block the tensors belong to.
    pub model: Name,
    /// Path of that block in a model, in front of every tensor's path.
    pub prefix: String,
    /// `model_type`s of config.json it serves.
    pub model_types: Vec<String>,
    /// Where each dim stands in config.json.
    pub config: Vec<ConfigKey>,
    /// Tensor path here and name there, in order of preference.
    pub tensors: Vec<TensorName>,
}

/// One dim in config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigKey {
    /// The dim.
    pub dim: String,
    /// Dotted keys; the first that exists and is not null.
    pub keys: Vec<String>,
    /// Value if none exists; without one the key is required.
    pub default: Option<f64>,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorName {
    /// Path inside the block.
    pub path: String,
    /// Name in the checkpoint; `{e}` is stacked on dimension 0.
    pub name: String,
}

/// Reads `Names(..)`.
pub fn read_names(sink: &mut Sink, tree: &Tree) -> Option<NamesSpec> {
    let known = &["doc", "model", "prefix", "model_types", "config", "tensors"];
    let f = Fields::new(sink, tree, "Names", known)?;
    let model =
        f.need(sink, "Names", "model").and_then(|t| read::quoted_name(sink, t, "a path in quotes"));
    let prefix = f.get("prefix").and_then(|t| read::text(sink, t, "a path in quotes"));
    let prefix = prefix.map(|t| t.value.clone()).unwrap_or_default();
    let types = f.get("model_types").map(|t| quoted_names(sink, t)).unwrap_or_default();
    let config =
        f.get("config").map(|t| read::map(sink, t, "a map of dims to keys")).unwrap_or_default();
    let config = config.into_iter().filter_map(|(n, t)| read_key(sink, n, t)).collect();
    let tensors = f.need(sink, "Names", "tensors");
    let tensors =
        tensors.and_then(|t| read::list(sink, t, "a list of tensors")).unwrap_or_default();
    let tensors = tensors.iter().filter_map(|t| read_tensor_name(sink, t)).collect();
    let model_types = types.into_iter().map(|n| n.text).collect();
    Some(NamesSpec { doc: read_doc(sink, &f), model: model?, prefix, model_types, config, tensors })
}

fn read_key(sink: &mut Sink, dim: Name, tree: &Tree) -> Option<ConfigKey> {
    let TreeKind::Call(call) = &tree.kind else {
        wrong_kind(sink, tree, "`Key([\"name\"])`");
        return None;
    };
    let mut key = ConfigKey { dim: dim.text, keys: Vec::new(), default: None };
    for item in &call.items {
        match (&item.field, &item.value.kind) {
            (None, TreeKind::List(_)) => {
                key.keys = quoted_names(sink, &item.value).into_iter().map(|n| n.text).collect();
            }
            (Some(f), TreeKind::Number(v)) if f.text == "default" => key.default = Some(*v),
            (Some(f), TreeKind::Bool(v)) if f.text == "default" => {
                key.default = Some(f64::from(u8::from(*v)))
            }
            (Some(f), _) if f.text != "default" => {
                sink.push(read::unknown_field(f, "Key", &["default"]))
            }
            _ => wrong_kind(sink, &item.value, "`Key([\"name\"], default: 1)`"),
        }
    }
    Some(key)
}

fn read_tensor_name(sink: &mut Sink, tree: &Tree) -> Option<TensorName> {
    let items = match &tree.kind {
        TreeKind::Call(c) if tree.head() == Some("Tensor") => c.items.as_slice(),
        _ => &[],
    };
    let [path, name] = items else {
        wrong_kind(sink, tree, "`Tensor(\"path\", \"name\")`");
        return None;
    };
    let path = read::quoted_name(sink, &path.value, "a path in quotes")?;
    let name = read::quoted_name(sink, &name.value, "a name in quotes")?;
    for pattern in [&path, &name] {
        check_pattern(sink, pattern);
    }
    Some(TensorName { path: path.text, name: name.text })
}

fn check_pattern(sink: &mut Sink, pattern: &Name) {
    let rest = pattern.text.replacen("{i}", "", 1).replacen("{e}", "", 1);
    if rest.contains(['{', '}']) {
        let headline =
            format!("`{}` is not a pattern", pattern.text.chars().take(40).collect::<String>());
        let error = Diagnostic::error(
            codes::BAD_NAME,
            headline,
            pattern.span,
            "only `{i}` and `{e}`, each once",
        );
        sink.push(error.help("`{i}` stands for a layer, `{e}` for an expert"));
    }
}
