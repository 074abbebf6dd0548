//! What a plan's steps are predicted to take on the machine that their order was made for: for
//! `explain schedule` and `plan`.
//!
//! # Invariants
//! - Predictions follow from the plan alone.

use perilune_plan::timeline::{Happens, Lane, Timeline};
use perilune_plan::{Entry, Machine, Plan};
use serde_json::{Value, json};

/// An entry's times, in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// The entry.
    pub entry: String,
    /// From its start to its end, with collectives beside kernels.
    pub step_ns: f64,
    /// Where every collective is waited for at once.
    pub in_order_ns: f64,
    /// Kernels.
    pub compute_ns: f64,
    /// Collectives.
    pub communication_ns: f64,
    /// Waiting for collectives.
    pub exposed_ns: f64,
}

impl Times {
    /// Those of an entry on a machine.
    pub fn of(plan: &Plan, entry: &Entry, machine: &Machine) -> Times {
        let beside = entry.timeline(plan, machine, true);
        let in_order = entry.timeline(plan, machine, false);
        let total = |t: &Timeline, lane, happens| t.total_ns(lane, happens);
        Times {
            entry: entry.name.clone(),
            step_ns: beside.end_ns,
            in_order_ns: in_order.end_ns,
            compute_ns: total(&beside, Lane::Compute, Happens::Runs),
            communication_ns: total(&beside, Lane::Communication, Happens::Runs),
            exposed_ns: total(&beside, Lane::Compute, Happens::Awaited),
        }
    }

    /// The part of the collectives' time in which kernels run.
    pub fn hidden(&self) -> f64 {
        match self.communication_ns > 0.0 {
            true => 1.0 - (self.exposed_ns / self.communication_ns).min(1.0),
            false => 0.0,
        }
    }

    /// The same as data.
    pub fn json(&self) -> Value {
        let Times { entry, step_ns, in_order_ns, compute_ns, communication_ns, exposed_ns } = self;
        json!({
            "entry": entry, "step_ns": step_ns, "in_order_ns": in_order_ns,
            "compute_ns": compute_ns, "communication_ns": communication_ns,
            "exposed_ns": exposed_ns, "hidden": self.hidden(),
        })
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |ns: f64| ns / 1e6;
        write!(
            f,
            "{}: {:.3} ms predicted, {:.3} ms if every collective were waited for at once: kernels \
             {:.3} ms, collectives {:.3} ms, of which {:.0} % beside kernels",
            self.entry,
            ms(self.step_ns),
            ms(self.in_order_ns),
            ms(self.compute_ns),
            ms(self.communication_ns),
            100.0 * self.hidden()
        )
    }
}

/// The times of every entry of a plan that has some, as lines and as data.
pub fn describe(plan: &Plan) -> (String, Value) {
    let machine = plan.machine.clone().unwrap_or_default();
    let times: Vec<Times> =
        plan.entries.iter().map(|entry| Times::of(plan, entry, &machine)).collect();
    let mut text = format!("machine: {}\n", machine.name);
    for line in &times {
        text += &format!("{line}\n");
    }
    let entries: Vec<Value> = times.iter().map(Times::json).collect();
    (text, json!({"version": 1, "machine": machine.name, "entries": entries}))
}
