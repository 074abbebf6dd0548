//! The reference of the forms a file is made of: blocks, models, optimizers, training steps.
//!
//! # Invariants
//! - The fields are those that the reader accepts, in its order; the words are those of the types
//!   they are read into.

use std::fmt::Write;

use crate::committed::heading;
use crate::fusion::one_line;
use crate::source::{Member, Source};

/// A form: its title, where it is read, the list of its fields there (or all of the type's), and the
/// type it is read into.
struct Form {
    title: &'static str,
    file: &'static str,
    fields: Fields,
    ty: &'static str,
}

/// Which fields a form has.
enum Fields {
    /// Those of a constant list of strings.
    Listed(&'static str),
    /// Those of the type, but for the ones named.
    Of(&'static [&'static str]),
}

const FORMS: [Form; 14] = [
    form("Block", "block", Fields::Listed("BLOCK_FIELDS"), "BlockSpec"),
    form("Model", "block", Fields::Listed("MODEL_FIELDS"), "BlockSpec"),
    form("Param, Buffer, State", "block", Fields::Of(&["name", "span"]), "TensorSpec"),
    form("Initialisers", "block", Fields::Of(&[]), "InitSpec"),
    form("Node", "nodes", Fields::Of(&["Broken"]), "NodeSpec"),
    form("When", "nodes", Fields::Of(&[]), "WhenSpec"),
    form("Stack", "nodes", Fields::Of(&["span"]), "StackSpec"),
    form("A layer of a Stack", "nodes", Fields::Of(&[]), "LayerSpec"),
    form("Repeat", "nodes", Fields::Of(&["span"]), "RepeatSpec"),
    form("Optimizer", "optimizer", Fields::Listed("FIELDS"), "OptimizerSpec"),
    form("Group", "optimizer", Fields::Of(&[]), "GroupSpec"),
    form("ForEach", "optimizer", Fields::Of(&[]), "ForEachSpec"),
    form("Train", "train", Fields::Listed("FIELDS"), "TrainSpec"),
    form("Precision", "train", Fields::Of(&[]), "Precision"),
];

const fn form(title: &'static str, file: &'static str, fields: Fields, ty: &'static str) -> Form {
    Form { title, file, fields, ty }
}

/// The page.
pub(crate) fn page() -> String {
    let mut out = heading("Forms", "compiler/src/spec");
    out.push_str(
        "What the files of a spec may hold, field by field.\n\
         Unknown fields and repeated keys are errors.\n\
         [The spec language](../spec-language.md) introduces them with examples, \
         [Training steps](../training.md) those of `Train`.\n",
    );
    for form in &FORMS {
        let source = Source::read(&format!("compiler/src/spec/{}.rs", form.file));
        let members = source.members(form.ty);
        let _ = writeln!(out, "\n## {}\n", form.title);
        if matches!(form.fields, Fields::Of(_)) {
            let _ = writeln!(out, "{}\n", one_line(&source.doc(form.ty)));
        }
        out.push_str("| | |\n|---|---|\n");
        for (name, doc) in rows(form, &source, &members) {
            let _ = writeln!(out, "| `{name}` | {} |", one_line(&doc));
        }
    }
    out
}

fn rows(form: &Form, source: &Source, members: &[Member]) -> Vec<(String, String)> {
    let doc = |name: &str| {
        let found = members.iter().find(|m| m.name == in_rust(name));
        found.unwrap_or_else(|| panic!("{}: no field for `{name}`", form.ty)).doc.clone()
    };
    match form.fields {
        Fields::Listed(list) => {
            source.list(list).into_iter().map(|name| (name.clone(), doc(&name))).collect()
        }
        Fields::Of(hidden) => members
            .iter()
            .filter(|m| !hidden.contains(&m.name.as_str()))
            .map(|m| (in_ron(&m.name).to_owned(), m.doc.clone()))
            .collect(),
    }
}

/// A field's name in Rust where it is another than in RON.
fn in_rust(name: &str) -> &str {
    match name {
        "dims" => "defaults",
        other => other,
    }
}

/// A field's name in RON where it is another than in Rust.
fn in_ron(name: &str) -> &str {
    match name {
        "matches" => "match",
        other => other,
    }
}
