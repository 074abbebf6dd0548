//! The reference of ops, from the op table, the ops' own documentation, and their examples as the
//! compiler sees them.

use std::fmt::Write;

use perilune::library::Library;
use perilune_compiler::elaborate::load_model;
use perilune_compiler::graph::Graph;
use perilune_compiler::ops::{OPS, OpInfo};
use perilune_compiler::types::Type;

use crate::committed::heading;
use crate::fusion::one_line;
use crate::plan::plain;
use crate::source::{Member, Source, head};

/// The dims that examples leave open.
const DIMS: &str =
    "\"batch\": 4, \"seq\": 8, \"dim\": 16, \"heads\": 2, \"head_dim\": 8, \"vocab\": 32";

/// The page.
pub(crate) fn page() -> String {
    let mut out = heading("Ops", "the table of ops in compiler/src/ops");
    out.push_str(
        "What a block is made of.\n\
         An op is written by position or by name, `Slice(\"x\", 2, 0, 8)` or \
         `Slice(x: \"x\", dim: 2, start: 0, len: 8)`, and a result beyond the first goes by \
         `node.result`.\n\
         `perilune explain Einsum` shows an op in the terminal; \
         [Add an op](../../compiler/src/ops/README.md) says how to write one.\n\n\
         Norms, activations, rotary embeddings, losses and optimizers are no ops: they are blocks \
         made of these, under [models/blocks](../../models/blocks) and \
         [models/optim](../../models/optim).\n\n",
    );
    let _ = writeln!(out, "Shapes and costs are those of the example with {{ {} }}.\n", dims());
    out.push_str("| op | |\n|---|---|\n");
    for op in OPS {
        let anchor = op.name.to_lowercase();
        let _ = writeln!(out, "| [{}](#{anchor}) | {} |", op.name, one_line(op.summary));
    }
    OPS.iter().for_each(|op| out.push_str(&section(op)));
    out
}

fn dims() -> String {
    DIMS.replace('"', "")
}

fn section(op: &OpInfo) -> String {
    let source = Source::read(&format!("compiler/src/ops/{}.rs", file_name(op.name)));
    let header = source.header();
    let (first, rest) = header.split_once("\n\n").unwrap_or((&header, ""));
    let first = first.split_once(": ").map_or(first, |(_, text)| text);
    let mut out = format!("\n## {}\n\n{}\n", op.name, capital(&plain(first)));
    if !rest.is_empty() {
        let _ = writeln!(out, "\n{}", plain(rest));
    }
    let forms = source.doc("Form");
    let _ = writeln!(out, "\nWritten {}\n", one_line(&forms));
    out.push_str("| field | | |\n|---|---|---|\n");
    for field in source.members("Form") {
        let (kind, needed) = kind(&field);
        let needed = if needed { "" } else { "Optional. " };
        let _ = writeln!(out, "| `{}` | {kind} | {needed}{} |", field.name, one_line(&field.doc));
    }
    let results: Vec<String> = op.results.iter().map(|r| format!("`{r}`")).collect();
    let _ = writeln!(out, "\nResults: {}.", results.join(", "));
    let _ = write!(out, "\n```ron\n{}\n```\n\n{}", op.example.trim_end(), figures(op));
    out
}

/// What a field holds, and whether it must be given.
fn kind(field: &Member) -> (&'static str, bool) {
    let ty = field.ty.as_ref().expect("a field has a type");
    let (outer, inner) = head(ty);
    let (name, argument, optional) = match (outer.as_str(), inner) {
        ("Option", Some(inner)) => (head(inner).0, head(inner).1, true),
        _ => (outer, inner, field.has_default),
    };
    let of_lists = |of: Option<&syn::Type>| of.is_some_and(|of| head(of).0 == "Spanned");
    let text = match name.as_str() {
        "Spanned" if field.name == "equation" => "words in quotes",
        "Spanned" => "a tensor",
        "Vec" if of_lists(argument) => "tensors",
        "Vec" => "extents",
        "DimForm" => "a whole number or an expression of dims",
        "ScalarForm" => "a number or an expression of constants",
        "MappingForm" => "an element expression",
        "SpannedMap" => "words and their extents",
        "WordsForm" => "words in quotes",
        "DType" => "an element type",
        "Reduction" | "Distribution" => "a word",
        "bool" => "true or false",
        other => panic!("no words for a field of type `{other}`"),
    };
    (text, !optional)
}

/// Types and costs of the op's nodes in its example.
fn figures(op: &OpInfo) -> String {
    let text = op.example.replacen("Block(", &format!("Model(\n    dims: {{ {DIMS} }},"), 1);
    let files = Library::default().with("example.ron", text);
    let (elaborated, told, _) = load_model(&files, "example.ron", &[]);
    let elaborated = elaborated.unwrap_or_else(|| panic!("{}: {:?}", op.name, told.list()));
    let mut out =
        String::from("| node | operands | results | FLOPs | bytes |\n|---|---|---|---:|---:|\n");
    let rows = rows(&elaborated.forward, op.name);
    assert!(!rows.is_empty(), "{}: its example does not use it", op.name);
    rows.iter().for_each(|row| out.push_str(row));
    out
}

fn rows(graph: &Graph, op: &str) -> Vec<String> {
    let list = |types: &[Type]| {
        let shown: Vec<String> = types.iter().map(|ty| format!("`{ty}`")).collect();
        if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
    };
    let nodes = graph.nodes.iter().filter(|(_, node)| node.op.name() == op);
    let row = |(id, node): (_, &perilune_compiler::graph::Node)| {
        let (operands, results) = (graph.operand_types(id), graph.result_types(id));
        let cost = node.op.cost(&operands, &results);
        let (from, to) = (list(&operands), list(&results));
        format!("| `{}` | {from} | {to} | {} | {} |\n", node.origin.path, cost.flops, cost.bytes)
    };
    nodes.map(row).collect()
}

/// `RaggedEinsum` as `ragged_einsum`.
fn file_name(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// With a capital first letter.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
}
