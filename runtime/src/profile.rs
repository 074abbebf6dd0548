//! Where a run's time went: per step, summed per kernel and per RON node, and as a trace.
//!
//! # Invariants
//! - Every slice names the RON nodes that it computes.
//!
//! # Units
//! Times are nanoseconds; a trace's are microseconds, as its format wants.

use std::collections::BTreeMap;
use std::io::Write;

use perilune_plan::timeline::{Happens, Lane};
use perilune_plan::{Entry, Machine, Plan};

/// One timed step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Entry that was run.
    pub entry: String,
    /// Index of the step.
    pub step: usize,
    /// Kernel's name, or the kind and extents of a built-in step.
    pub kernel: String,
    /// RON nodes that the step computes.
    pub nodes: Vec<String>,
    /// Start, from the session's start.
    pub start_ns: u64,
    /// Duration.
    pub duration_ns: u64,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes touched if every operand is touched once.
    pub bytes: u64,
    /// What it runs beside.
    pub lane: Lane,
    /// What was executed, where the device counts it.
    pub counts: Option<Counts>,
}

impl Slice {
    /// A step's name and work, with no time yet.
    pub(crate) fn of(plan: &Plan, entry: &Entry, index: usize) -> Slice {
        let step = &entry.steps[index];
        let work = step.work(plan, entry);
        let named = step.nodes.iter().filter_map(|node| plan.nodes.get(*node as usize));
        Slice {
            entry: entry.name.clone(),
            step: index,
            kernel: step.title(plan),
            nodes: named.cloned().collect(),
            start_ns: 0,
            duration_ns: 0,
            flops: work.flops.saturating_add(work.epilogue_flops),
            bytes: work.bytes,
            lane: Lane::Compute,
            counts: None,
        }
    }

    /// The time in which kernels wait for a collective, in place of the collective.
    pub(crate) fn await_it(&mut self) {
        self.kernel = format!("{WAIT}{}", self.kernel);
        (self.flops, self.bytes) = (0, 0);
    }

    /// Whether kernels wait for a collective.
    pub fn is_wait(&self) -> bool {
        self.kernel.starts_with(WAIT)
    }
}

/// How a slice of waiting is called, before the name of the collective.
const WAIT: &str = "wait for ";

/// What a device counted while a step ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions of warps.
    pub warp_instructions: u64,
    /// Instructions of their active lanes.
    pub lane_instructions: u64,
    /// Bytes that lanes asked of global memory, each access counted.
    pub global_bytes: u64,
}

/// The slices of the runs since profiling was switched on.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    slices: Vec<Slice>,
}

/// The sum over all slices with one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Total {
    /// Kernel or node.
    pub name: String,
    /// Slices.
    pub calls: u64,
    /// Sum of the durations.
    pub total_ns: u64,
    /// Median duration.
    pub median_ns: u64,
    /// Sum of the floating-point operations.
    pub flops: u64,
    /// Sum of the bytes.
    pub bytes: u64,
}

impl Total {
    /// Floating-point operations per nanosecond, that is GFLOP/s.
    pub fn gflops(&self) -> f64 {
        self.flops as f64 / self.total_ns.max(1) as f64
    }

    /// Bytes per nanosecond, that is GB/s.
    pub fn gbytes(&self) -> f64 {
        self.bytes as f64 / self.total_ns.max(1) as f64
    }
}

impl Profile {
    /// The profile that an entry is predicted to have on a machine; with `overlap`, with collectives
    /// beside kernels as the plan lets them.
    pub fn predicted(plan: &Plan, entry: &Entry, (machine, overlap): (&Machine, bool)) -> Profile {
        let spans = entry.timeline(plan, machine, overlap).spans;
        let slices = spans.into_iter().map(|span| {
            let mut slice = Slice::of(plan, entry, span.step);
            slice.start_ns = span.start_ns as u64;
            slice.duration_ns = span.duration_ns as u64;
            slice.lane = span.lane;
            if span.happens == Happens::Awaited {
                slice.await_it();
            }
            slice
        });
        Profile { slices: slices.collect() }
    }

    /// All slices, in the order they ran.
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    /// Adds a slice.
    pub fn push(&mut self, slice: Slice) {
        self.slices.push(slice);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.slices.clear();
    }

    /// Totals per kernel, the longest first.
    pub fn by_kernel(&self) -> Vec<Total> {
        totals(self.slices.iter().map(|slice| (slice.kernel.as_str(), slice)))
    }

    /// Totals per RON node, the longest first; a fused step counts for each of its nodes.
    pub fn by_node(&self) -> Vec<Total> {
        let named = self.slices.iter();
        totals(named.flat_map(|slice| slice.nodes.iter().map(move |node| (node.as_str(), slice))))
    }

    /// Writes the trace in the Chrome event format, which Perfetto reads.
    ///
    /// # Errors
    /// What the writer says.
    pub fn write_trace(&self, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(b"{\"traceEvents\":[")?;
        for lane in [Lane::Compute, Lane::Communication] {
            let name = serde_json::json!({
                "name": "thread_name", "ph": "M", "pid": 0, "tid": lane as u32,
                "args": { "name": lane.name() },
            });
            let comma = if lane == Lane::Compute { "" } else { "," };
            write!(out, "{comma}\n{name}")?;
        }
        for slice in &self.slices {
            out.write_all(b",")?;
            let mut event = serde_json::json!({
                "name": slice.kernel,
                "cat": slice.entry,
                "ph": "X",
                "pid": 0,
                "tid": slice.lane as u32,
                "ts": slice.start_ns as f64 / 1e3,
                "dur": slice.duration_ns as f64 / 1e3,
                "args": {
                    "nodes": slice.nodes,
                    "step": slice.step,
                    "flops": slice.flops,
                    "bytes": slice.bytes,
                },
            });
            if let Some(counts) = slice.counts {
                let args = &mut event["args"];
                args["warp_instructions"] = counts.warp_instructions.into();
                args["lane_instructions"] = counts.lane_instructions.into();
                args["global_bytes"] = counts.global_bytes.into();
            }
            write!(out, "\n{event}")?;
        }
        out.write_all(b"\n],\"displayTimeUnit\":\"ms\"}\n")
    }
}

fn totals<'a>(named: impl Iterator<Item = (&'a str, &'a Slice)>) -> Vec<Total> {
    let mut groups: BTreeMap<&str, Vec<&Slice>> = BTreeMap::new();
    for (name, slice) in named {
        groups.entry(name).or_default().push(slice);
    }
    let mut totals: Vec<Total> = groups
        .into_iter()
        .map(|(name, slices)| {
            let mut durations: Vec<u64> = slices.iter().map(|slice| slice.duration_ns).collect();
            durations.sort_unstable();
            Total {
                name: name.to_owned(),
                calls: slices.len() as u64,
                total_ns: durations.iter().sum(),
                median_ns: durations[durations.len() / 2],
                flops: slices.iter().map(|slice| slice.flops).sum(),
                bytes: slices.iter().map(|slice| slice.bytes).sum(),
            }
        })
        .collect();
    totals.sort_by(|a, b| b.total_ns.cmp(&a.total_ns).then_with(|| a.name.cmp(&b.name)));
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(kernel: &str, nodes: &[&str], duration_ns: u64) -> Slice {
        Slice {
            entry: "forward".to_owned(),
            step: 0,
            kernel: kernel.to_owned(),
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            start_ns: 1500,
            duration_ns,
            flops: 10,
            bytes: 20,
            lane: Lane::Compute,
            counts: None,
        }
    }

    #[test]
    fn totals_add_up_per_kernel_and_per_node() {
        let mut profile = Profile::default();
        profile.push(slice("norm", &["a", "b"], 5));
        profile.push(slice("norm", &["b"], 7));
        profile.push(slice("product", &["c"], 100));
        let kernels = profile.by_kernel();
        assert_eq!(kernels[0].name, "product");
        assert_eq!((kernels[1].calls, kernels[1].total_ns, kernels[1].median_ns), (2, 12, 7));
        let nodes: Vec<_> =
            profile.by_node().iter().map(|t| (t.name.clone(), t.total_ns)).collect();
        assert_eq!(nodes, [("c".into(), 100), ("b".into(), 12), ("a".into(), 5)]);
    }

    #[test]
    fn a_trace_is_valid_json_with_node_names() {
        let mut profile = Profile::default();
        profile.push(slice("norm", &["layers.0.\"x\""], 2000));
        let counts = Counts { warp_instructions: 3, lane_instructions: 96, global_bytes: 128 };
        profile.push(Slice { counts: Some(counts), ..slice("norm", &["y"], 2000) });
        let mut out = Vec::new();
        profile.write_trace(&mut out).expect("writing to memory");
        let trace: serde_json::Value = serde_json::from_slice(&out).expect("valid JSON");
        assert_eq!(trace["traceEvents"][1]["args"]["name"], "communication");
        assert_eq!(trace["traceEvents"][2]["args"]["nodes"][0], "layers.0.\"x\"");
        assert_eq!(trace["traceEvents"][2]["dur"], 2.0);
        assert_eq!(trace["traceEvents"][2]["args"]["lane_instructions"], serde_json::Value::Null);
        assert_eq!(trace["traceEvents"][3]["args"]["lane_instructions"], 96);
    }
}
