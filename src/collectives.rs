//! What a plan's ranks exchange, as lines and as data: for `explain`, `check` and `plan`.
//!
//! # Invariants
//! - Bytes are those that the busiest rank sends to others: what the communicators count.

use perilune_plan::{Collective, Entry, Plan, Sent, Step, StepOp};
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
