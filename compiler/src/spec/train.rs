//! `Train(..)`: a training step over a model.
//!
//! # Invariants
//! - Run settings do not reach the compiled program.

use super::block::{
    Constant, InputSpec, read_constant, read_doc, read_dtype, read_imports, read_inputs,
};
use super::nodes::{ApplySpec, NodeSpec, optional, quoted_names, read_call, read_nodes};
use super::read::{self, Fields, Sink, wrong_kind};
use super::syntax::{Name, Tree, TreeKind};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::Span;
use crate::types::DType;

/// A training step.
#[derive(Clone, Debug)]
pub struct TrainSpec {
    /// Place of the word `Train`.
    pub span: Span,
    /// What it is.
    pub doc: Option<String>,
    /// Alias and path.
    pub imports: Vec<(Name, Name)>,
    /// The model's file.
    pub model: Name,
    /// Dims of the model that are set here.
    pub set: Vec<(Name, Constant)>,
    /// Inputs beside the model's.
    pub inputs: Vec<InputSpec>,
    /// From the model's outputs to the loss.
    pub nodes: Vec<NodeSpec>,
    /// The scalar that is minimised.
    pub loss: Name,
    /// The optimizer.
    pub optimizer: ApplySpec,
    /// Micro-batches per step.
    pub accumulate: u64,
    /// Place of that number.
    pub accumulate_span: Option<Span>,
    /// Bound of the gradient's global norm.
    pub clip_grad_norm: Option<f64>,
    /// Factor on the loss while differentiating.
    pub loss_scale: f64,
    /// Keep everything when the loss or the gradient norm is not finite.
    pub skip_nonfinite: bool,
    /// Storage, compute and accumulation types.
    pub precision: Precision,
    /// Place of that.
    pub precision_span: Option<Span>,
    /// Globs of node paths that are computed again in the backward pass.
    pub recompute: Vec<Name>,
    /// Mesh axes and their extents.
    pub mesh: Vec<(Name, u64)>,
    /// Stage of ZeRO: what replicas divide instead of all having it.
    pub zero: u64,
    /// Place of that number.
    pub zero_span: Option<Span>,
    /// Parts of the batch that sums are taken over before they are added up; 0: as the mesh cuts it.
    pub reduction_slices: u64,
    /// Place of that number.
    pub reduction_slices_span: Option<Span>,
    /// Fetch name and what is behind it.
    pub metrics: Vec<(Name, MetricSpec)>,
    /// Settings of a run.
    pub run: Vec<(Name, f64)>,
    /// Names whose declarations could not be read; that was reported.
    pub broken: Vec<Name>,
}

/// What a metric shows.
#[derive(Clone, Debug)]
pub struct MetricSpec {
    /// `Grad(..)`: gradients of parameters, not values.
    pub grad: bool,
    /// Path or glob.
    pub pattern: Name,
}

/// Element types of a training step.
#[derive(Clone, Debug)]
pub struct Precision {
    /// Of activations and of their gradients between nodes. Parameters (the master weights), their
    /// gradients, optimizer state and the results of reductions are f32 whatever it is.
    pub storage: DType,
    /// Of the operands of matrix products and attention.
    pub compute: DType,
    /// Of sums.
    pub accumulate: DType,
    /// Globs of node paths that stay f32: a router, say.
    pub exempt: Vec<Name>,
}

impl Default for Precision {
    /// f32 throughout.
    fn default() -> Self {
        let (storage, compute, accumulate) = (DType::f32, DType::f32, DType::f32);
        Precision { storage, compute, accumulate, exempt: Vec::new() }
    }
}

const FIELDS: &[&str] = &[
    "doc",
    "imports",
    "model",
    "set",
    "inputs",
    "nodes",
    "loss",
    "optimizer",
    "accumulate",
    "clip_grad_norm",
    "loss_scale",
    "skip_nonfinite",
    "precision",
    "recompute",
    "mesh",
    "zero",
    "reduction_slices",
    "metrics",
    "run",
];

/// Reads `Train(..)`.
pub fn read_train(sink: &mut Sink, tree: &Tree) -> Option<TrainSpec> {
    let f = Fields::new(sink, tree, "Train", FIELDS)?;
    let model =
        f.need(sink, "Train", "model").and_then(|t| read::quoted_name(sink, t, "a path in quotes"));
    let loss = f
        .need(sink, "Train", "loss")
        .and_then(|t| read::quoted_name(sink, t, "a node's name in quotes"));
    let optimizer = f.need(sink, "Train", "optimizer");
    let optimizer =
        optimizer.and_then(|t| read_call(sink, t, "an optimizer, as in `MuonClip(lr: \"lr\")`"));
    let accumulate = f.get("accumulate").and_then(|t| at_least_one(sink, t));
    let zero = f.get("zero").and_then(|t| read::whole(sink, t, "0, 1 or 2"));
    let slices = f.get("reduction_slices").and_then(|t| at_least_one(sink, t));
    let mesh = f.get("mesh").map(|t| read_mesh(sink, t)).unwrap_or_default();
    let mut broken = Vec::new();
    Some(TrainSpec {
        span: tree.head_span(),
        doc: read_doc(sink, &f),
        imports: read_imports(sink, &f),
        model: model?,
        set: read_set(sink, f.get("set")),
        inputs: read_inputs(sink, f.get("inputs"), &mut broken),
        nodes: f.get("nodes").map(|t| read_nodes(sink, t)).unwrap_or_default(),
        loss: loss?,
        optimizer: optimizer?,
        accumulate: accumulate.unwrap_or(1),
        accumulate_span: f.get("accumulate").map(|t| t.span),
        clip_grad_norm: f
            .get("clip_grad_norm")
            .and_then(|t| optional(sink, t))
            .and_then(|t| positive(sink, t)),
        loss_scale: f.get("loss_scale").and_then(|t| positive(sink, t)).unwrap_or(1.0),
        skip_nonfinite: f.get("skip_nonfinite").and_then(|t| read::truth(sink, t)).unwrap_or(false),
        precision: read_precision(sink, f.get("precision")),
        precision_span: f.get("precision").map(|t| t.span),
        recompute: f.get("recompute").map(|t| quoted_names(sink, t)).unwrap_or_default(),
        mesh,
        zero: zero.unwrap_or(0),
        zero_span: f.get("zero").map(|t| t.span),
        reduction_slices: slices.unwrap_or(0),
        reduction_slices_span: f.get("reduction_slices").map(|t| t.span),
        metrics: f.get("metrics").map(|t| read_metrics(sink, t)).unwrap_or_default(),
        run: read_run(sink, f.get("run")),
        broken,
    })
}

fn read_set(sink: &mut Sink, tree: Option<&Tree>) -> Vec<(Name, Constant)> {
    let entries = tree.map(|t| read::map(sink, t, "a map of dims to values")).unwrap_or_default();
    entries.into_iter().filter_map(|(n, t)| Some((n, read_constant(sink, t)?))).collect()
}

fn positive(sink: &mut Sink, tree: &Tree) -> Option<f64> {
    match tree.kind {
        TreeKind::Number(v) if v > 0.0 => Some(v),
        TreeKind::Number(_) => {
            bad_setting(sink, tree, "must be more than 0");
            None
        }
        _ => {
            wrong_kind(sink, tree, "a number");
            None
        }
    }
}

fn at_least_one(sink: &mut Sink, tree: &Tree) -> Option<u64> {
    let value = read::whole(sink, tree, "a whole number")?;
    if value == 0 || value > 4096 {
        bad_setting(sink, tree, "must lie in 1..=4096");
        return None;
    }
    Some(value)
}

fn bad_setting(sink: &mut Sink, tree: &Tree, why: &str) {
    let headline = format!("the setting {why}");
    sink.push(Diagnostic::error(codes::BAD_SETTING, headline, tree.span, why));
}

fn read_precision(sink: &mut Sink, tree: Option<&Tree>) -> Precision {
    let known: &[&str] = &["storage", "compute", "accumulate", "exempt"];
    let Some(f) = tree.and_then(|t| Fields::new(sink, t, "Precision", known)) else {
        return Precision::default();
    };
    let mut dtype =
        |name: &str| f.get(name).and_then(|t| read_dtype(sink, t)).unwrap_or(DType::f32);
    Precision {
        storage: dtype("storage"),
        compute: dtype("compute"),
        accumulate: dtype("accumulate"),
        exempt: f.get("exempt").map(|t| quoted_names(sink, t)).unwrap_or_default(),
    }
}

fn read_mesh(sink: &mut Sink, tree: &Tree) -> Vec<(Name, u64)> {
    let axes = match &tree.kind {
        TreeKind::Call(c) if tree.head() == Some("Mesh") && c.items.len() == 1 => {
            c.items.first().map(|i| &i.value)
        }
        _ => None,
    };
    let Some(axes) = axes else {
        wrong_kind(sink, tree, "`Mesh({\"dp\": 1})`");
        return Vec::new();
    };
    let entries = read::map(sink, axes, "a map of axes to extents");
    entries.into_iter().filter_map(|(n, t)| Some((n, at_least_one(sink, t)?))).collect()
}

/// Names that every step gives by itself.
const RESERVED: [&str; 2] = ["loss", "grad_norm"];

fn read_metrics(sink: &mut Sink, tree: &Tree) -> Vec<(Name, MetricSpec)> {
    let entries = read::map(sink, tree, "a map of names to values");
    entries
        .into_iter()
        .filter_map(|(name, t)| {
            if RESERVED.contains(&name.text.as_str()) {
                let headline = format!("a metric cannot be named `{}`", name.text);
                let label = "every step gives this by itself";
                let error = Diagnostic::error(codes::RESERVED_METRIC, headline, name.span, label);
                let help = format!("give it another name: `\"my_{}\"`", name.text);
                sink.push(error.help(help));
                return None;
            }
            let (grad, inner) = match &t.kind {
                TreeKind::Call(c) if t.head() == Some("Grad") && c.items.len() == 1 => {
                    (true, c.items.first().map(|i| &i.value)?)
                }
                _ => (false, t),
            };
            let pattern = read::quoted_name(sink, inner, "a path in quotes, or `Grad(\"path\")`")?;
            Some((name, MetricSpec { grad, pattern }))
        })
        .collect()
}

fn read_run(sink: &mut Sink, tree: Option<&Tree>) -> Vec<(Name, f64)> {
    const KNOWN: &[&str] =
        &["steps", "eval_every", "eval_batches", "seed", "checkpoint_every", "keep"];
    let Some(tree) = tree else { return Vec::new() };
    let Some(f) = Fields::new(sink, tree, "Run", KNOWN) else { return Vec::new() };
    let read = |k: &&str| f.get(k).map(|t| ((*k).to_owned(), t));
    let found: Vec<(String, &Tree)> = KNOWN.iter().filter_map(read).collect();
    found
        .into_iter()
        .filter_map(|(text, t)| {
            let value = read::whole(sink, t, "a whole number")?;
            Some((Name { text, span: t.span }, value as f64))
        })
        .collect()
}
