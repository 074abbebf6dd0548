//! What is put in order: calls that run together, what they wait for, and the memory they take.

use std::ops::Range;

use perilune_plan::Machine;
use petgraph::graph::{DiGraph, NodeIndex};

use super::work;
use crate::program::{EntryFn, Kernel};

/// A call, and its epilogue.
#[derive(Debug)]
pub(super) struct Unit {
    /// Indices in the order before.
    pub(super) calls: Range<usize>,
    /// Nanoseconds on the lane that computes; of a collective, to hand over what it sends.
    pub(super) compute_ns: u64,
    /// Of a collective, nanoseconds on the lane that communicates.
    pub(super) lane_ns: Option<u64>,
    /// Slots that it reads, each once.
    reads: Vec<usize>,
    /// Bytes of what it makes.
    makes: u64,
}

impl Unit {
    /// Nanoseconds from its start to its results.
    pub(super) fn time_ns(&self) -> u64 {
        self.compute_ns + self.lane_ns.unwrap_or(0)
    }
}

/// The units of an entry, in order, with an edge from what makes a value to what reads it.
pub(super) fn graph(entry: &EntryFn, kernels: &[Kernel], machine: &Machine) -> DiGraph<Unit, ()> {
    let types = entry.slot_types(kernels);
    let mut maker: Vec<Option<NodeIndex>> = vec![None; types.len()];
    let mut graph: DiGraph<Unit, ()> = DiGraph::new();
    for (i, call) in entry.calls.iter().enumerate() {
        let last = graph.node_indices().next_back();
        let unit = match last.filter(|_| call.epilogue.is_some()) {
            Some(unit) => unit,
            None => graph.add_node(Unit {
                calls: i..i,
                compute_ns: 0,
                lane_ns: None,
                reads: Vec::new(),
                makes: 0,
            }),
        };
        let kernel = &kernels[call.kernel as usize];
        let (compute_ns, lane_ns) = work::time_ns(kernel, machine);
        let own = &mut graph[unit];
        own.calls.end = i + 1;
        own.compute_ns += compute_ns;
        own.lane_ns = own.lane_ns.or(lane_ns);
        for slot in call.args.iter().map(|arg| arg.0 as usize) {
            if !graph[unit].reads.contains(&slot) {
                graph[unit].reads.push(slot);
            }
            if let Some(from) = maker[slot].filter(|from| *from != unit)
                && !graph.contains_edge(from, unit)
            {
                graph.add_edge(from, unit, ());
            }
        }
        for slot in call.results(kernels).map(|slot| slot.0 as usize) {
            maker[slot] = Some(unit);
            graph[unit].makes += types[slot].bytes();
        }
    }
    graph
}

/// Bytes of the values that are alive, as units run.
#[derive(Debug)]
pub(super) struct Memory {
    bytes: Vec<u64>,
    /// Units that are yet to read a slot; what outlives the entry is never done with.
    readers: Vec<u32>,
    alive: u64,
    most: u64,
}

impl Memory {
    /// Nothing has run yet; the most that is to be alive is `room` times what the units' own order
    /// has.
    pub(super) fn new(
        (entry, kernels): (&EntryFn, &[Kernel]),
        graph: &DiGraph<Unit, ()>,
        room: f64,
    ) -> Self {
        let bytes: Vec<u64> = entry.slot_types(kernels).iter().map(|t| t.bytes()).collect();
        let mut readers = vec![0u32; bytes.len()];
        for unit in graph.node_weights() {
            unit.reads.iter().for_each(|slot| readers[*slot] += 1);
        }
        (0..entry.args.len()).for_each(|slot| readers[slot] = u32::MAX / 2);
        entry.results.iter().for_each(|r| readers[r.value.0 as usize] = u32::MAX / 2);
        let new = || Memory { bytes: bytes.clone(), readers: readers.clone(), alive: 0, most: 0 };
        let mut before = new();
        let peak = (0..graph.node_count()).map(|u| {
            before.run(u, graph);
            before.alive
        });
        let most = (peak.max().unwrap_or(0) as f64 * room) as u64;
        Memory { most, ..new() }
    }

    /// Runs a unit.
    pub(super) fn run(&mut self, unit: usize, graph: &DiGraph<Unit, ()>) {
        let unit = &graph[NodeIndex::new(unit)];
        self.alive = self.alive.saturating_add(unit.makes);
        for slot in &unit.reads {
            self.readers[*slot] -= 1;
            if self.readers[*slot] == 0 {
                self.alive = self.alive.saturating_sub(self.bytes[*slot]);
            }
        }
    }

    /// Whether more is alive than is to be.
    pub(super) fn is_short(&self) -> bool {
        self.alive > self.most
    }
}
