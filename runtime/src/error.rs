//! What can go wrong when a plan is bound or run.
//!
//! # Invariants
//! - Every variant names the place in the plan that it is about: kernel, entry, step, RON node.

use perilune_plan::{DType, PlanError};
use perilune_ptx_vm::Finding;

use crate::comm::CommError;

/// An error of [`crate::Session`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The plan breaks its own rules.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The plan was compiled for something else.
    #[error(
        "the plan is for `{found}`, which the device `{device}` does not run: {}",
        way_out(found)
    )]
    Target {
        /// The plan's target.
        found: String,
        /// The device asked for.
        device: &'static str,
    },
    /// The plan is for another number of ranks.
    #[error("the plan is for {ranks} ranks ({}), this job has {found}", mesh_text(mesh))]
    Mesh {
        /// The plan's mesh.
        mesh: String,
        /// Its ranks.
        ranks: u64,
        /// Ranks of the job.
        found: u32,
    },
    /// A tensor that cannot be cut, or parts that do not fit together.
    #[error("a tensor and its parts do not fit: {what}")]
    Shard {
        /// What does not.
        what: String,
    },
    /// The host processor cannot be used.
    #[error("this processor cannot be used: {what}")]
    Host {
        /// Why.
        what: String,
    },
    /// A kernel's text does not compile.
    #[error("kernel `{kernel}` does not compile: {what}")]
    Kernel {
        /// Name of the kernel.
        kernel: String,
        /// The compiler's words.
        what: String,
    },
    /// A step of the plan cannot be run.
    #[error("entry `{entry}`, step {step} (`{node}`): {what}")]
    Step {
        /// Name of the entry.
        entry: String,
        /// Index of the step.
        step: usize,
        /// First RON node that the step computes.
        node: String,
        /// What is wrong.
        what: String,
    },
    /// A worker panicked: a defect of this crate or of a kernel.
    #[error("entry `{entry}`, step {step} (`{node}`): a worker panicked")]
    Worker {
        /// Name of the entry.
        entry: String,
        /// Index of the step.
        step: usize,
        /// First RON node that the step computes.
        node: String,
    },
    /// Checks found something in a kernel while it ran.
    #[error(transparent)]
    Findings(#[from] Box<KernelFindings>),
    /// A collective failed.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// No entry has this name.
    #[error("the plan has no entry `{name}`; it has {known}")]
    UnknownEntry {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// No persistent tensor has this name.
    #[error("the plan has no tensor `{name}`")]
    UnknownTensor {
        /// The name asked for.
        name: String,
    },
    /// This rank holds nothing of the tensor.
    #[error("rank {rank} does not hold the tensor `{name}`")]
    Elsewhere {
        /// The tensor.
        name: String,
        /// The rank.
        rank: u32,
    },
    /// A value for a persistent tensor has another type.
    #[error("tensor `{name}` is {expected}, got {found}")]
    TensorType {
        /// The tensor.
        name: String,
        /// Type in the plan, `f32[4, 8]`.
        expected: String,
        /// Type given.
        found: String,
    },
    /// A feed that the entry needs is absent.
    #[error("entry `{entry}` needs the feed `{feed}`")]
    MissingFeed {
        /// Name of the entry.
        entry: String,
        /// Name of the feed.
        feed: String,
    },
    /// The entry has no such feed.
    #[error("entry `{entry}` has no feed `{feed}`")]
    UnknownFeed {
        /// Name of the entry.
        entry: String,
        /// Name of the feed.
        feed: String,
    },
    /// A feed is given twice.
    #[error("entry `{entry}`: the feed `{feed}` is given twice")]
    RepeatedFeed {
        /// Name of the entry.
        entry: String,
        /// Name of the feed.
        feed: String,
    },
    /// A feed has another type.
    #[error("entry `{entry}`: the feed `{feed}` is {expected}, got {found}")]
    FeedType {
        /// Name of the entry.
        entry: String,
        /// Name of the feed.
        feed: String,
        /// Type in the plan.
        expected: String,
        /// Type given.
        found: String,
    },
    /// A fetch that was to be finite is not.
    #[error("entry `{entry}`: `{fetch}` is not finite at element {index}")]
    NonFinite {
        /// Name of the entry.
        entry: String,
        /// Name of the fetch.
        fetch: String,
        /// First element that is not finite.
        index: usize,
    },
    /// A host tensor was read as another type.
    #[error("the tensor holds {found}, not {expected}")]
    DType {
        /// The type asked for.
        expected: DType,
        /// The type it holds.
        found: DType,
    },
    /// A host tensor's data does not fill its shape.
    #[error("{found} bytes do not fill {expected}")]
    Bytes {
        /// Type and shape.
        expected: String,
        /// Bytes given.
        found: usize,
    },
    /// Memory could not be had.
    #[error("cannot get {bytes} bytes of memory")]
    Memory {
        /// How much.
        bytes: u64,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// What checks found in a kernel while it ran.
#[derive(Debug, thiserror::Error)]
#[error(
    "entry `{entry}`, step {step} (`{node}`), kernel `{kernel}`: {} findings\n{}",
    findings.len(),
    list(findings)
)]
pub struct KernelFindings {
    /// Name of the entry.
    pub entry: String,
    /// Index of the step.
    pub step: usize,
    /// First RON node that the step computes.
    pub node: String,
    /// Name of the kernel, which is that of its text too.
    pub kernel: String,
    /// What was found, each with its line of the text.
    pub findings: Vec<Finding>,
}

/// What to do with a plan for `target`.
fn way_out(target: &str) -> &'static str {
    match target {
        "cpu" => "run it on `cpu`, or compile for `sm_90a`",
        _ if target.starts_with("sm_") => "run it on `ptx-vm`, or compile for `cpu`",
        _ => "compile for `cpu` or `sm_90a`",
    }
}

/// A mesh in words.
fn mesh_text(mesh: &str) -> &str {
    if mesh.is_empty() { "no mesh" } else { mesh }
}

fn list(findings: &[Finding]) -> String {
    let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
    texts.join("\n")
}
