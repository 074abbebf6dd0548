//! Collectives beside kernels: the order of calls on many ranks, and how long each collective may
//! run.
//!
//! A rank has two lanes, one that computes and one that communicates. Calls are put in order as a
//! rank would run them whose every time is known: it starts each collective as soon as it has what
//! is sent, and of the kernels that are ready runs the one with the longest way to the end of the
//! entry behind it (list scheduling by critical path). So the dispatch of one micro-batch runs beside
//! the experts of the other, a shared expert beside the routed ones, and the reduction of gradients
//! beside the rest of the backward pass. Times come from the program's [`Machine`].
//!
//! # Invariants
//! - Dependency order holds; a call and the epilogue marked on the next one stay together.
//! - Every rank starts the same collectives in the same order.
//! - Once the values that are alive take [`Machine::room`] times the memory of the order before, ready calls
//!   run in that order until they take less.
//! - Deterministic: ties keep the order before.

mod clock;
mod unit;
mod work;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use perilune_plan::Machine;
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};

use self::clock::Clock;
use self::unit::Unit;
use super::bufferise::is_alias;
use super::renumber;
use crate::program::{Call, EntryFn, Kernel, Program, Slot};

/// Runs the pass: on programs of many ranks that say what they run on.
pub fn run(program: &mut Program) {
    let Some(machine) = program.overlaps_on().cloned() else { return };
    for entry in &mut program.entries {
        let kernels = &program.kernels;
        if entry.calls.iter().any(|call| is_collective(kernels, call)) {
            order(entry, kernels, &machine);
            renumber(entry, kernels);
            extend(entry, kernels);
        }
    }
}

fn is_collective(kernels: &[Kernel], call: &Call) -> bool {
    kernels[call.kernel as usize].collective().is_some()
}

/// Puts an entry's calls in the order in which a rank would run them.
fn order(entry: &mut EntryFn, kernels: &[Kernel], machine: &Machine) {
    let graph = unit::graph(entry, kernels, machine);
    let memory = unit::Memory::new((entry, kernels), &graph, machine.room);
    let sequence = Scheduler::new(&graph, memory).run();
    let mut calls: Vec<_> = std::mem::take(&mut entry.calls).into_iter().map(Some).collect();
    let sorted = sequence.iter().flat_map(|u| graph[NodeIndex::new(*u)].calls.clone());
    entry.calls = sorted.filter_map(|c| calls[c].take()).collect();
}

/// Lets every collective run until the first call that reads what it gives.
fn extend(entry: &mut EntryFn, kernels: &[Kernel]) {
    let slots = entry.slot_count(kernels);
    // The collective behind a slot, as long as nothing has read it.
    let mut source: Vec<Option<usize>> = vec![None; slots];
    let mut until = vec![entry.calls.len(); entry.calls.len()];
    for (i, call) in entry.calls.iter().enumerate() {
        let from = |slot: &Slot| source[slot.0 as usize];
        if is_alias(&kernels[call.kernel as usize]) {
            source[call.first_result.0 as usize] = from(&call.args[0]);
            continue;
        }
        for collective in call.args.iter().filter_map(from) {
            until[collective] = until[collective].min(i);
        }
        if is_collective(kernels, call) {
            call.results(kernels).for_each(|slot| source[slot.0 as usize] = Some(i));
        }
    }
    // An epilogue runs with the call before it, which so waits for what it reads.
    let follows = |call: &Call| call.epilogue.is_some();
    let start = |call: usize| call - usize::from(entry.calls.get(call).is_some_and(follows));
    let until: Vec<usize> = until.into_iter().map(start).collect();
    for (i, call) in entry.calls.iter_mut().enumerate() {
        let beside = is_collective(kernels, call) && until[i] > i + 1;
        call.until = beside.then_some(until[i] as u32);
    }
}

/// A ready unit: the longest way to the end first, then the order before.
type Ready = (u64, Reverse<usize>);

/// Runs units on two lanes as soon as they can, and notes in which order.
struct Scheduler<'a> {
    graph: &'a DiGraph<Unit, ()>,
    /// Nanoseconds from a unit's start to the end of the entry.
    way: Vec<u64>,
    /// Units that a unit waits for.
    missing: Vec<usize>,
    /// When everything that a unit reads is there.
    ready_at: Vec<u64>,
    /// Units that will be ready, by time.
    coming: BinaryHeap<Reverse<(u64, usize)>>,
    /// Kernels that are ready, and again in the order before.
    kernels: BinaryHeap<Ready>,
    in_order: BinaryHeap<Reverse<usize>>,
    /// Collectives that are ready.
    collectives: BinaryHeap<Ready>,
    done: Vec<bool>,
    memory: unit::Memory,
    clock: Clock,
}

impl<'a> Scheduler<'a> {
    fn new(graph: &'a DiGraph<Unit, ()>, memory: unit::Memory) -> Self {
        let count = graph.node_count();
        let mut way = vec![0u64; count];
        for u in (0..count).rev() {
            let behind = graph.neighbors(NodeIndex::new(u)).map(|next| way[next.index()]);
            way[u] = behind.max().unwrap_or(0) + graph[NodeIndex::new(u)].time_ns();
        }
        let needs = |u| graph.neighbors_directed(NodeIndex::new(u), Direction::Incoming).count();
        let missing: Vec<usize> = (0..count).map(needs).collect();
        let first = (0..count).filter(|u| missing[*u] == 0);
        Scheduler {
            coming: first.map(|u| Reverse((0, u))).collect(),
            graph,
            way,
            missing,
            ready_at: vec![0; count],
            kernels: BinaryHeap::new(),
            in_order: BinaryHeap::new(),
            collectives: BinaryHeap::new(),
            done: vec![false; count],
            memory,
            clock: Clock::default(),
        }
    }

    /// Every unit, in the order in which it starts.
    fn run(mut self) -> Vec<usize> {
        let mut sequence = Vec::with_capacity(self.graph.node_count());
        loop {
            self.arrive();
            if let Some((_, Reverse(u))) = self.collectives.pop() {
                sequence.push(u);
                self.finish(u);
            } else if let Some(u) = self.next_kernel() {
                sequence.push(u);
                self.finish(u);
            } else if let Some(Reverse((time, _))) = self.coming.peek() {
                self.clock.now = *time;
            } else {
                return sequence;
            }
        }
    }

    /// Takes up what is ready by now.
    fn arrive(&mut self) {
        while let Some(Reverse((time, u))) = self.coming.peek().copied() {
            if time > self.clock.now {
                break;
            }
            self.coming.pop();
            let ready = (self.way[u], Reverse(u));
            if self.graph[NodeIndex::new(u)].lane_ns.is_some() {
                self.collectives.push(ready);
            } else {
                self.kernels.push(ready);
                self.in_order.push(Reverse(u));
            }
        }
    }

    /// The ready kernel with the longest way behind it; where memory is short, the first.
    fn next_kernel(&mut self) -> Option<usize> {
        let first = loop {
            let Reverse(first) = self.in_order.peek().copied()?;
            if !self.done[first] {
                break first;
            }
            self.in_order.pop();
        };
        if self.memory.is_short() {
            return Some(first);
        }
        loop {
            let (_, Reverse(u)) = self.kernels.pop()?;
            if !self.done[u] {
                return Some(u);
            }
        }
    }

    fn finish(&mut self, u: usize) {
        self.done[u] = true;
        self.memory.run(u, self.graph);
        let unit = &self.graph[NodeIndex::new(u)];
        let end = self.clock.run(unit);
        for next in self.graph.neighbors(NodeIndex::new(u)).map(NodeIndex::index) {
            self.ready_at[next] = self.ready_at[next].max(end);
            self.missing[next] -= 1;
            if self.missing[next] == 0 {
                self.coming.push(Reverse((self.ready_at[next], next)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
