//! What a plan's ranks exchange and hold, as lines and as data: for `explain`, `check` and `plan`.
//!
//! # Invariants
//! - Bytes sent are those that the busiest rank sends to others: what the communicators count.
//! - Bytes held are those of the rank that holds most.

use std::collections::BTreeMap;

use perilune_plan::{Collective, Entry, Plan, RankMemory, Sent, Step, StepOp};
use serde_json::{Value, json};

use crate::number::bytes;

/// One collective of an entry.
#[derive(Clone, Debug)]
pub struct Line {
    /// Entry of the plan.
    pub entry: String,
    /// Index of the step.
    pub step: usize,
    /// Kind: `all_reduce`.
    pub name: &'static str,
    /// Axes of its group: `dp,ep`.
    pub group: String,
    /// What the busiest rank sends.
    pub sent: Sent,
    /// Paths of the nodes that caused it.
    pub nodes: Vec<String>,
}

/// The collectives of an entry, in the order they run.
pub fn of_entry(plan: &Plan, entry: &Entry) -> Vec<Line> {
    let steps = entry.steps.iter().enumerate();
    let found = steps.filter_map(|(at, step)| match &step.op {
        StepOp::Collective(collective) => Some(line(plan, entry, (at, step, collective))),
        _ => None,
    });
    found.collect()
}

fn line(plan: &Plan, entry: &Entry, (at, step, c): (usize, &Step, &Collective)) -> Line {
    let axes = c.axes.iter().filter_map(|axis| plan.mesh.axes.get(*axis as usize));
    let names: Vec<&str> = axes.map(|axis| axis.name.as_str()).collect();
    let nodes = step.nodes.iter().filter_map(|n| plan.nodes.get(*n as usize)).cloned();
    Line {
        entry: entry.name.clone(),
        step: at,
        name: c.kind.name(),
        group: names.join(","),
        // The first rank of a group has the largest slice.
        sent: c.sent(entry, &plan.mesh, 0),
        nodes: nodes.collect(),
    }
}

/// Bytes that the busiest rank sends at most in an entry.
pub fn most_bytes(lines: &[Line]) -> u64 {
    lines.iter().fold(0, |sum, line| sum.saturating_add(line.sent.most()))
}

/// What the ranks of a plan share, hold and exchange, all collectives of a kind together.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Ranks; one plan serves all of them.
    pub ranks: u64,
    /// The mesh: `dp=8,ep=16`.
    pub mesh: String,
    /// Bytes of the persistent tensors of a rank: parameters, buffers, state of the optimizer.
    pub held: [u64; 3],
    /// Entries with the bytes of their temporaries.
    pub arenas: Vec<(String, u64)>,
    /// Entry, collective and axes of its group, with how many there are and the bytes they send.
    pub totals: BTreeMap<(String, &'static str, String), (u64, u64)>,
}

impl Summary {
    /// The summary of a plan.
    pub fn of(plan: &Plan) -> Summary {
        let mut totals = BTreeMap::new();
        for line in plan.entries.iter().flat_map(|entry| of_entry(plan, entry)) {
            let (count, bytes): &mut (u64, u64) =
                totals.entry((line.entry, line.name, line.group)).or_default();
            *count += 1;
            *bytes = bytes.saturating_add(line.sent.most());
        }
        let ranks = plan.mesh.ranks();
        let of_ranks: Vec<RankMemory> =
            (0..ranks as u32).map(|rank| plan.memory(rank, &|_| false)).collect();
        let most = |of: &dyn Fn(&RankMemory) -> u64| of_ranks.iter().map(of).max().unwrap_or(0);
        Summary {
            ranks,
            mesh: plan.mesh.to_string(),
            held: [most(&|m| m.params), most(&|m| m.buffers), most(&|m| m.state)],
            arenas: plan.entries.iter().map(|e| (e.name.clone(), e.arena_bytes)).collect(),
            totals,
        }
    }

    /// The same as data.
    pub fn json(&self) -> Value {
        let total = |((entry, name, group), (count, bytes)): (&_, &_)| json!({"entry": entry, "collective": name, "group": group, "count": count, "bytes": bytes});
        let arena = |(entry, bytes): &(String, u64)| json!({"entry": entry, "bytes": bytes});
        let [params, buffers, state] = self.held;
        json!({
            "ranks": self.ranks, "plans": 1, "mesh": self.mesh,
            "param_bytes": params, "buffer_bytes": buffers, "state_bytes": state,
            "arenas": self.arenas.iter().map(arena).collect::<Vec<_>>(),
            "totals": self.totals.iter().map(total).collect::<Vec<_>>(),
        })
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} ranks ({}), one plan for all", self.ranks, self.mesh)?;
        let [params, buffers, state] = self.held.map(bytes);
        writeln!(f, "a rank holds {params} of parameters, {buffers} of buffers, {state} of state")?;
        let arenas: Vec<String> = self
            .arenas
            .iter()
            .map(|(entry, size)| format!("{} in {entry}", bytes(*size)))
            .collect();
        writeln!(f, "temporaries of a rank: {}", arenas.join(", "))?;
        for ((entry, name, group), (count, sent)) in &self.totals {
            let sent = bytes(*sent);
            writeln!(f, "{entry}: {count} × {name} over {group}, {sent} sent by a rank at most")?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Line { entry, name, group, sent, nodes, .. } = self;
        let sent = match sent {
            Sent::Bytes(n) => bytes(*n),
            Sent::Rows { row, most } => {
                format!("{} a row, {} at most", bytes(*row), bytes(row.saturating_mul(*most)))
            }
            Sent::Tokens { row, .. } => {
                format!("{} a token and rank, {} at most", bytes(*row), bytes(sent.most()))
            }
        };
        let first = nodes.first().map_or("", String::as_str);
        let more = match nodes.len() {
            0 | 1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        write!(f, "{entry} {name} over {group}: {sent}: {first}{more}")
    }
}

impl Line {
    /// The same as data.
    pub fn json(&self) -> Value {
        let Line { entry, step, name, group, sent, nodes } = self;
        let row = match sent {
            Sent::Bytes(_) => None,
            Sent::Rows { row, .. } | Sent::Tokens { row, .. } => Some(row),
        };
        json!({
            "entry": entry, "step": step, "collective": name, "group": group,
            "bytes": sent.most(), "row_bytes": row, "nodes": nodes,
        })
    }
}
