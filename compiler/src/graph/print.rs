//! Graphs as text, one node a line.
//!
//! ```text
//! graph forward {
//!   v0: f32[2, 3] = feed x
//!   v1: f32[2, 3] = Map a0[d0 d1] -> [d0 d1] of [2, 3]: exp(a0) (v0)  # y
//!   fetch y = v1
//! }
//! ```
//!
//! # Invariants
//! - Text depends on the graph alone.

use super::{Graph, Node};
use crate::program::{ArgKind, ResultTarget};

impl std::fmt::Display for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.placement.mesh.ranks() {
            1 => writeln!(f, "graph {} {{", self.name)?,
            _ => writeln!(f, "graph {} on {} {{", self.name, self.placement.mesh)?,
        }
        for input in &self.inputs {
            let kind = match input.kind {
                ArgKind::Param => "param",
                ArgKind::Buffer => "buffer",
                ArgKind::State => "state",
                ArgKind::Feed => "feed",
            };
            let cut = self.placement.inputs.get(&input.name);
            let cut = cut.map_or(String::new(), |shard| format!(" cut {shard}"));
            let owner = self.placement.owners.get(&input.name);
            let cut = cut + &owner.map_or(String::new(), |only| format!(" on {only}"));
            let (value, ty, name) = (input.value, self.ty(input.value), &input.name);
            writeln!(f, "  {value}: {ty} = {kind} {name}{cut}")?;
        }
        for node in self.nodes.values() {
            self.write_node(f, node)?;
        }
        for (value, target) in &self.outputs {
            match target {
                ResultTarget::Update(name) => writeln!(f, "  update {name} = {value}")?,
                ResultTarget::Fetch(name) => {
                    let cut = self.placement.fetches.get(name);
                    let cut = cut.map_or(String::new(), |shard| format!(" cut {shard}"));
                    writeln!(f, "  fetch {name} = {value}{cut}")?;
                }
            }
        }
        writeln!(f, "}}")
    }
}

impl Graph {
    fn write_node(&self, f: &mut std::fmt::Formatter<'_>, node: &Node) -> std::fmt::Result {
        let results: Vec<String> =
            node.results.iter().map(|v| format!("{v}: {}", self.ty(*v))).collect();
        let operands: Vec<String> = node.operands.iter().map(ToString::to_string).collect();
        let attributes = node.op.attributes();
        let space = if attributes.is_empty() { "" } else { " " };
        let only = node.results.first().and_then(|v| self.placement.only.get(v));
        let only = only.map_or(String::new(), |only| format!(" on {only}"));
        writeln!(
            f,
            "  {} = {}{space}{attributes} ({}){only}  # {}",
            results.join(", "),
            node.op.name(),
            operands.join(", "),
            node.origin.path
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Origin;
    use crate::ops::Map;
    use crate::ops::generic::{body_of, elementwise};
    use crate::scalar::Unary;
    use crate::types::{DType, Type};

    #[test]
    fn a_graph_is_printed_as_the_head_of_this_file_shows() {
        let mut graph = Graph::new("forward");
        let x = graph.input("x", ArgKind::Feed, Type::new(DType::f32, [2, 3]));
        let generic = elementwise(&[2, 3], 1, body_of(1, |b, x| b.apply(Unary::Exp, x[0])));
        let origin = Origin::new("y", None);
        let y = graph.push(Map { generic }.into(), &[x], origin).expect("the operand fits")[0];
        graph.output(y, ResultTarget::Fetch("y".into()));
        let lines = include_str!("print.rs").lines().filter_map(|line| line.strip_prefix("//! "));
        let shown = lines.skip_while(|line| *line != "```text").skip(1);
        let shown: Vec<&str> = shown.take_while(|line| *line != "```").collect();
        assert_eq!(graph.to_string().lines().collect::<Vec<_>>(), shown);
    }
}
