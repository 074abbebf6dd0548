//! Reductions and broadcasts of one group taken together: one exchange for many values.
//!
//! Such an exchange may start as soon as its operand is there and is needed when its result is first
//! read. Between the two it waits for others of its kind and group.
//!
//! # Invariants
//! - A bucket holds whole values of one type, as the dialect has it; none is larger than the limit but by its only value.
//! - The order of other nodes stays.

use std::collections::BTreeMap;

use cranelift_entity::EntitySet;
use perilune_plan::Only;

use crate::graph::{Graph, Node, NodeId, Origin, ValueDef};
use crate::ops::{Exchange, Op, Value};
use crate::program::Collective;
use crate::types::Type;

/// Exchanges that wait together.
struct Bucket {
    /// The ranks that run it.
    only: Option<Only>,
    collective: Collective,
    ty: Type,
    operands: Vec<Value>,
    results: Vec<Value>,
    origins: Vec<Origin>,
    bytes: u64,
}

/// A graph being put together anew.
struct Buckets<'a> {
    graph: &'a Graph,
    limit: u64,
    /// Exchanges that can wait, by what they read.
    of_operand: BTreeMap<Value, Vec<NodeId>>,
    waiting: Vec<Bucket>,
    /// Values that exist.
    made: EntitySet<Value>,
    out: Graph,
}

/// The graph with exchanges in buckets of at most `limit` bytes, and without dead nodes.
pub(super) fn bucket(graph: &Graph, limit: u64) -> Graph {
    let live = graph.live_values();
    let alive = |node: &Node| node.results.iter().any(|r| live[*r]);
    let mut of_operand: BTreeMap<Value, Vec<NodeId>> = BTreeMap::new();
    for (id, node) in graph.nodes.iter().filter(|(_, node)| alive(node) && waits(node)) {
        of_operand.entry(node.operands[0]).or_default().push(id);
    }
    let out = Graph {
        name: graph.name.clone(),
        inputs: graph.inputs.clone(),
        outputs: graph.outputs.clone(),
        placement: graph.placement.clone(),
        values: graph.values.clone(),
        ..Graph::default()
    };
    let (waiting, made) = (Vec::new(), EntitySet::new());
    let mut buckets = Buckets { graph, limit, of_operand, waiting, made, out };
    for node in graph.nodes.values().filter(|node| alive(node) && !waits(node)) {
        node.operands.iter().for_each(|value| buckets.need(*value));
        buckets.add(node.clone());
    }
    graph.outputs.iter().for_each(|(value, _)| buckets.need(*value));
    buckets.out
}

/// Whether a node is an exchange of one value that others can join.
fn waits(node: &Node) -> bool {
    let Op::Exchange(Exchange(collective)) = &node.op else { return false };
    collective.kind.is_each_by_itself() && node.operands.len() == 1
}

impl Buckets<'_> {
    /// Makes a value that is about to be read, if it waits.
    fn need(&mut self, value: Value) {
        let maker = self.graph.maker(value).map(|id| &self.graph.nodes[id]);
        let Some(node) = maker.filter(|node| waits(node)) else { return };
        if !self.made.contains(value) {
            self.need(node.operands[0]);
            self.flush(&|bucket| bucket.results.contains(&value));
        }
    }

    /// Adds a node whose operands exist; exchanges of its results begin to wait.
    fn add(&mut self, node: Node) {
        let results = node.results.clone();
        let id = self.out.nodes.next_key();
        for (n, result) in results.iter().enumerate() {
            self.out.values[*result].1 = ValueDef::Result(id, n as u32);
        }
        self.out.nodes.push(node);
        self.made.extend(results.iter().copied());
        let next: Vec<NodeId> =
            results.iter().flat_map(|r| self.of_operand.get(r)).flatten().copied().collect();
        next.into_iter().for_each(|id| self.wait(id));
    }

    /// Puts an exchange into a bucket.
    fn wait(&mut self, id: NodeId) {
        let Node { op, operands, results, origin } = &self.graph.nodes[id];
        let Op::Exchange(Exchange(collective)) = op else { return };
        let ty = self.graph.ty(operands[0]);
        let only = results.first().and_then(|v| self.graph.placement.only.get(v));
        let fits = |b: &Bucket| {
            let (a, b_c) = (&b.collective, collective);
            let group = (a.kind, &a.axes, a.ranks) == (b_c.kind, &b_c.axes, b_c.ranks);
            group && b.ty == *ty && b.only.as_ref() == only
        };
        if self.waiting.iter().any(|b| fits(b) && b.bytes + ty.bytes() > self.limit) {
            self.flush(&fits);
        }
        let at = self.waiting.iter().position(fits).unwrap_or_else(|| {
            self.waiting.push(Bucket {
                only: only.cloned(),
                collective: Collective { roots: Vec::new(), ..collective.clone() },
                ty: ty.clone(),
                operands: Vec::new(),
                results: Vec::new(),
                origins: Vec::new(),
                bytes: 0,
            });
            self.waiting.len() - 1
        });
        let bucket = &mut self.waiting[at];
        bucket.collective.roots.extend(&collective.roots);
        bucket.operands.extend(operands);
        bucket.results.extend(results);
        bucket.origins.push(origin.clone());
        bucket.bytes += ty.bytes();
    }

    /// Adds the buckets for which it is time.
    fn flush(&mut self, due: &dyn Fn(&Bucket) -> bool) {
        let (ready, rest): (Vec<Bucket>, Vec<Bucket>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|b| due(b));
        self.waiting = rest;
        for Bucket { collective, operands, results, origins, only, .. } in ready {
            let (Some(origin), Some(first)) = (origins.first().cloned(), results.first()) else {
                continue;
            };
            if let Some(only) = only {
                self.out.placement.only.insert(*first, only);
            }
            if origins.len() > 1 {
                let nodes = origins.into_iter().map(|origin| origin.path).collect();
                self.out.placement.nodes.insert(*first, nodes);
            }
            self.add(Node { op: Exchange(collective).into(), operands, results, origin });
        }
    }
}
