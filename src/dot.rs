//! A graph as Graphviz text, one box per node, block or layer.
//!
//! # Invariants
//! - Nodes below the chosen depth are merged into the block that holds them; edges inside a box and
//!   repeated edges are left out.
//! - The same graph gives the same text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use perilune_compiler::graph::Graph;
use perilune_compiler::ops::{Exchange, Op, Value};

/// What a box stands for.
#[derive(Default)]
struct Shape {
    nodes: usize,
    op: &'static str,
    /// Type of the last result.
    ty: String,
    /// Exchanges between ranks in it, by kind.
    exchanges: BTreeMap<&'static str, usize>,
    /// Type of the first value that another box reads.
    passed_on: Option<String>,
}

/// The part of a graph below a path, merged to `depth` path parts (a layer and its number are one).
/// Nothing below the path gives an empty drawing.
pub fn dot(graph: &Graph, under: &str, depth: usize) -> String {
    let mut boxes: BTreeMap<String, Shape> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    let mut made: BTreeMap<Value, String> = BTreeMap::new();
    let mut edges: BTreeSet<(String, String)> = BTreeSet::new();
    for input in &graph.inputs {
        made.insert(input.value, String::new());
    }
    for node in graph.nodes.values() {
        let path = node.origin.path.split('/').next().unwrap_or_default();
        let inside = path
            .strip_prefix(under)
            .filter(|rest| under.is_empty() || rest.is_empty() || rest.starts_with('.'));
        let name = inside.map(|rest| merged(under, rest, depth));
        for value in &node.results {
            made.insert(*value, name.clone().unwrap_or_default());
        }
        let Some(name) = name else { continue };
        if !boxes.contains_key(&name) {
            order.push(name.clone());
        }
        let shape = boxes.entry(name.clone()).or_default();
        shape.nodes += 1;
        if let Op::Exchange(Exchange(collective)) = &node.op {
            *shape.exchanges.entry(collective.name()).or_default() += 1;
        }
        shape.op = node.op.name();
        shape.ty = node.results.first().map(|&v| graph.ty(v).to_string()).unwrap_or_default();
        for &value in &node.operands {
            let Some(from) = made.get(&value).filter(|from| !from.is_empty() && **from != name)
            else {
                continue;
            };
            let from_box = boxes.entry(from.clone()).or_default();
            from_box.passed_on.get_or_insert_with(|| graph.ty(value).to_string());
            edges.insert((from.clone(), name.clone()));
        }
    }
    draw((&graph.name, under), &order, &boxes, &edges)
}

fn draw(
    (title, under): (&str, &str),
    order: &[String],
    boxes: &BTreeMap<String, Shape>,
    edges: &BTreeSet<(String, String)>,
) -> String {
    let mut out = format!(
        "digraph {} {{\n  rankdir=TB;\n  node [shape=box, style=rounded, fontname=\"sans-serif\", fontsize=11];\n",
        quoted(title)
    );
    if !under.is_empty() {
        let _ = writeln!(out, "  labelloc=t; fontname=\"sans-serif\"; label={};", quoted(under));
    }
    for name in order {
        let shape = &boxes[name];
        let short =
            name.strip_prefix(under).map_or(name.as_str(), |rest| rest.trim_start_matches('.'));
        let short = if short.is_empty() { name } else { short };
        let what = match shape.nodes {
            1 => shape.op.to_owned(),
            n => format!("{n} nodes"),
        };
        let exchanges = shape.exchanges.iter().map(|(name, count)| format!("\n{count} {name}"));
        let exchanges: String = exchanges.collect();
        let ty = shape.passed_on.as_ref().unwrap_or(&shape.ty);
        let label = format!("{short}\n{what}\n{ty}{exchanges}");
        let _ = writeln!(out, "  {} [label={}];", quoted(name), quoted(&label));
    }
    for (from, to) in edges {
        let _ = writeln!(out, "  {} -> {};", quoted(from), quoted(to));
    }
    out.push_str("}\n");
    out
}

/// The box of a node: its path down to `depth` parts below `under`.
fn merged(under: &str, rest: &str, depth: usize) -> String {
    let mut name = under.to_owned();
    let mut left = depth;
    for part in rest.split('.').filter(|part| !part.is_empty()) {
        let is_number = part.bytes().all(|b| b.is_ascii_digit());
        if left == 0 && !is_number {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(part);
        left = if is_number { left } else { left - 1 };
    }
    name
}

fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_compiler::graph::Origin;
    use perilune_compiler::ops::StopGradient;
    use perilune_compiler::program::ArgKind;
    use perilune_compiler::types::{DType, Type};

    fn graph() -> Graph {
        let mut graph = Graph::new("forward");
        let mut value = graph.input("x", ArgKind::Feed, Type::new(DType::f32, [2]));
        for path in ["m.in", "m.layers.0.a.q", "m.layers.0.a.k", "m.layers.1.a.q", "m.out"] {
            let op = StopGradient {}.into();
            value = graph.push(op, &[value], Origin::new(path, None)).expect("fits")[0];
        }
        graph
    }

    #[test]
    fn layers_are_boxes_of_their_own() {
        let text = dot(&graph(), "", 2);
        assert!(
            text.contains("\"m.layers.0\" [label=\"m.layers.0\\n2 nodes\\nf32[2]\"]"),
            "{text}"
        );
        assert!(text.contains("\"m.layers.0\" -> \"m.layers.1\""), "{text}");
        assert!(!text.contains("\"m.layers.0\" -> \"m.layers.0\""));
    }

    #[test]
    fn a_box_shows_the_type_of_what_leaves_it() {
        let mut graph = Graph::new("forward");
        let wide = graph.input("x", ArgKind::Feed, Type::new(DType::f32, [2, 3]));
        let narrow = graph.input("s", ArgKind::Feed, Type::new(DType::f32, []));
        let mut push = |path: &str, value| {
            let op = StopGradient {}.into();
            graph.push(op, &[value], Origin::new(path, None)).expect("fits")[0]
        };
        let kept = push("m.router.weights", wide);
        push("m.router.aux", narrow);
        push("m.out", kept);
        let text = dot(&graph, "", 2);
        assert!(text.contains("label=\"m.router\\n2 nodes\\nf32[2, 3]\""), "{text}");
    }

    #[test]
    fn a_path_shows_its_nodes_only() {
        let text = dot(&graph(), "m.layers.0", 9);
        assert!(text.contains("\"m.layers.0.a.q\" -> \"m.layers.0.a.k\""), "{text}");
        assert!(!text.contains("m.layers.1") && !text.contains("m.in"), "{text}");
        assert!(text.contains("label=\"m.layers.0\"") && text.contains("label=\"a.q\\n"), "{text}");
        assert!(!dot(&graph(), "m.lay", 9).contains("[label"));
    }
}
