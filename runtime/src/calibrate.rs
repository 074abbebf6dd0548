//! A machine's rates, found from a profile of steps that it ran.
//!
//! # Invariants
//! - For every class of work, the time that the rates predict for the profiled kernels is the time
//!   that they took.

use perilune_plan::timeline::Lane;
use perilune_plan::{Class, Entry, Link, Machine, Plan, StepOp, Work};

use crate::profile::{Profile, Slice};

/// Kernels that move fewer bytes say nothing of the memory's bandwidth.
const ENOUGH_BYTES: u64 = 1 << 16;
/// Rounds in which rates are brought to what was measured.
const ROUNDS: usize = 20;

/// The rates of the machine that a profile is from; `None` where it has no kernels.
pub fn fit(plan: &Plan, profile: &Profile) -> Option<Machine> {
    let work: Vec<(Work, f64)> =
        kernels(plan, profile).map(|(work, slice)| (work, slice.duration_ns as f64)).collect();
    let shortest = quantile(work.iter().map(|(_, ns)| *ns).collect(), 0.02)?;
    let rates = work.iter().filter(|(w, _)| w.class == Class::Loops && w.bytes >= ENOUGH_BYTES);
    let rates = rates.map(|(w, ns)| 1e9 * w.bytes as f64 / (ns - shortest).max(1.0));
    let mut machine =
        Machine { name: "calibrated".to_owned(), step_ns: shortest, ..Machine::default() };
    if let Some(fast) = quantile(rates.collect(), 0.9) {
        machine.memory_bytes = fast;
    }
    for _ in 0..ROUNDS {
        for class in [Class::Loops, Class::Contract, Class::Ragged, Class::Attention] {
            adjust(&mut machine, class, &work);
        }
    }
    machine.link = link(plan, profile).unwrap_or(machine.link);
    Some(machine)
}

/// Scales the rate of a class so that what it predicts comes nearer to what was measured.
fn adjust(machine: &mut Machine, class: Class, work: &[(Work, f64)]) {
    let of = || work.iter().filter(|(w, _)| w.class == class);
    let measured: f64 = of().map(|(_, ns)| ns).sum();
    let predicted: f64 = of().map(|(w, _)| machine.compute_ns(w)).sum();
    if measured <= 0.0 || predicted <= 0.0 {
        return;
    }
    let factor = predicted / measured;
    match class {
        Class::Contract => machine.contract_flops *= factor,
        Class::Ragged => machine.ragged_flops *= factor,
        Class::Attention => machine.attention_flops *= factor,
        Class::Loops | Class::Exchange => {
            machine.loop_flops *= factor;
            machine.memory_bytes *= factor;
        }
    }
}

fn entry<'p>(plan: &'p Plan, slice: &Slice) -> Option<&'p Entry> {
    plan.entries.iter().find(|entry| entry.name == slice.entry)
}

/// What the profiled kernels had to do.
fn kernels<'p>(plan: &'p Plan, profile: &'p Profile) -> impl Iterator<Item = (Work, &'p Slice)> {
    profile.slices().iter().filter_map(|slice| {
        let entry = entry(plan, slice)?;
        let work = entry.steps.get(slice.step)?.work(plan, entry);
        (work.class != Class::Exchange).then_some((work, slice))
    })
}

/// The link that carried the collectives: the quickest exchange is all latency, and the rest of the
/// median of all is bandwidth.
fn link(plan: &Plan, profile: &Profile) -> Option<Link> {
    let exchanged = profile.slices().iter().filter(|s| s.lane == Lane::Communication);
    let times = exchanged.filter_map(|slice| {
        let entry = entry(plan, slice)?;
        let StepOp::Collective(c) = &entry.steps.get(slice.step)?.op else { return None };
        let exchange = c.exchange(entry, &plan.mesh);
        let ns = slice.duration_ns as f64;
        (exchange.ranks > 1).then(|| (exchange.exchanges() as f64, exchange.expected_bytes(), ns))
    });
    let times: Vec<(f64, f64, f64)> = times.collect();
    let latency_ns = quantile(times.iter().map(|(n, _, ns)| ns / n).collect(), 0.05)?;
    let rest = times.iter().map(|(n, bytes, ns)| 1e9 * bytes / (ns - n * latency_ns).max(1.0));
    let bytes = quantile(rest.filter(|rate| *rate > 0.0).collect(), 0.5)?;
    Some(Link { latency_ns, bytes })
}

/// The value below which a part of the values lie.
fn quantile(mut values: Vec<f64>, part: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    values.get((part * last as f64).round() as usize).copied()
}
