//! From a spec to graphs: blocks expanded, dims bound, every node typed.
//!
//! # Invariants
//! - Deterministic: nodes, inputs and outputs come in the order of the spec.
//! - Every mistake is reported; graphs are returned only when there is none.

mod accumulate;
mod block;
mod context;
mod form_error;
mod glob;
mod init;
mod mesh;
mod metrics;
mod micro;
mod model;
mod nodes;
mod optimizer;
mod precision;
mod prune;
mod recompute;
mod root;
mod scope;
mod step;
mod train;

use indexmap::IndexMap;
use perilune_plan::{Machine, Mesh};

pub use scope::{Const, Init, Persistent};

use crate::diagnostic::Diagnostics;
use crate::graph::Graph;
use crate::source::{Loader, SourceMap};
use crate::spec::files::{FileSpec, Files};
use crate::spec::names::NamesSpec;
use crate::spec::read::Sink;
use crate::spec::train::Precision;

/// What a spec means.
#[derive(Clone, Debug)]
pub struct Elaborated {
    /// Path of the root file without `.ron`: `kimi-k2/train`.
    pub name: String,
    /// First values of every persistent tensor; feed `seed`.
    pub init: Graph,
    /// The model's outputs.
    pub forward: Graph,
    /// The loss and those metrics that need no gradient.
    pub eval: Option<Graph>,
    /// One training step.
    pub train_step: Option<Graph>,
    /// Persistent tensors, in the order declared.
    pub tensors: Vec<Persistent>,
    /// The model's dims.
    pub dims: IndexMap<String, Const>,
    /// The ranks that run it together: axes of more than one rank. The graphs say what all of them
    /// compute together.
    pub mesh: Mesh,
    /// What a rank of many runs on; absent: collectives do not run beside kernels.
    pub machine: Option<Machine>,
    /// What only a training step has.
    pub train: Option<TrainSettings>,
}

/// Settings of a training step.
#[derive(Clone, Debug)]
pub struct TrainSettings {
    /// Run settings: `steps`, `eval_every`, `eval_batches`, `seed`, `checkpoint_every`, `keep`.
    pub run: IndexMap<String, u64>,
    /// Mesh axes.
    pub mesh: IndexMap<String, u64>,
    /// Stage of ZeRO: 0 to 2.
    pub zero: u64,
    /// Parts of the batch that sums are taken over before they are added up; 0: as the mesh cuts it.
    pub reduction_slices: u64,
    /// Element types.
    pub precision: Precision,
    /// Micro-batches per step.
    pub accumulate: u64,
    /// Whether a step whose loss or gradient norm is not finite changes nothing.
    pub skip_nonfinite: bool,
}

impl Elaborated {
    /// Graphs in the order of entries.
    pub fn graphs(&self) -> Vec<&Graph> {
        [Some(&self.init), Some(&self.forward), self.eval.as_ref(), self.train_step.as_ref()]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Elaborates a `Model(..)` file, or the model part of a `Train(..)` file. `sets` overrides dims:
/// `("batch", "8")`.
pub fn load_model(
    loader: &dyn Loader,
    path: &str,
    sets: &[(String, String)],
) -> (Option<Elaborated>, Diagnostics, SourceMap) {
    load(loader, path, sets, (Some(false), None))
}

/// Elaborates a `Model(..)` or a `Train(..)` file, whichever it is.
pub fn load_spec(
    loader: &dyn Loader,
    path: &str,
    sets: &[(String, String)],
) -> (Option<Elaborated>, Diagnostics, SourceMap) {
    load_spec_on(loader, path, sets, None)
}

/// Elaborates a `Train(..)` file with its model and optimizer.
pub fn load_train(
    loader: &dyn Loader,
    path: &str,
    sets: &[(String, String)],
) -> (Option<Elaborated>, Diagnostics, SourceMap) {
    load(loader, path, sets, (Some(true), None))
}

/// Elaborates a `Model(..)` or a `Train(..)` file, whichever it is, as it runs on another mesh than
/// it says, if one is given: `dp=2,ep=2`.
pub fn load_spec_on(
    loader: &dyn Loader,
    path: &str,
    sets: &[(String, String)],
    mesh: Option<&str>,
) -> (Option<Elaborated>, Diagnostics, SourceMap) {
    load(loader, path, sets, (None, mesh))
}

/// Reads a `Names(..)` file.
pub fn load_names(loader: &dyn Loader, path: &str) -> (Option<NamesSpec>, Diagnostics, SourceMap) {
    let mut sink = Sink::default();
    let mut files = Files::new(loader);
    let file = files.load_root(&mut sink, path);
    let names = file.and_then(|file| match &file.spec {
        FileSpec::Names(names) => Some((**names).clone()),
        other => {
            sink.push(model::wrong_file(&file.path, other, "Names", &files.sources));
            None
        }
    });
    (names, sink.diagnostics, files.sources)
}

/// Whether a training step is asked for, the model alone, or what the file holds; and on which other
/// mesh than the file's.
type Asked<'a> = (Option<bool>, Option<&'a str>);

fn load(
    loader: &dyn Loader,
    path: &str,
    sets: &[(String, String)],
    asked: Asked<'_>,
) -> (Option<Elaborated>, Diagnostics, SourceMap) {
    let mut sink = Sink::default();
    let mut files = Files::new(loader);
    let elaborated = model::elaborate(&mut files, &mut sink, path, sets, asked);
    let elaborated = elaborated.filter(|_| !sink.diagnostics.has_errors());
    (elaborated, sink.diagnostics, files.sources)
}
