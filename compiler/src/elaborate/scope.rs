//! What names mean while a block is elaborated: constants and tensors.
//!
//! # Invariants
//! - A block's expressions see its own constants only; an argument that a call leaves out is looked
//!   up through the enclosing blocks, out to the model's dims.
//! - A binding without values is poisoned: its mistake was reported, its users stay silent.

use std::collections::BTreeMap;
use std::rc::Rc;

use indexmap::IndexMap;

use crate::ops::Value;
use crate::source::Span;
use crate::spec::files::File;
use crate::types::Type;

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Const {
    /// A number; truth is 1 or 0.
    Number(f64),
    /// A list.
    List(Vec<Const>),
}

/// Constants of a block, inside those of its callers.
#[derive(Clone, Debug, Default)]
pub(super) struct Env {
    /// The block's own.
    pub own: IndexMap<String, Const>,
    /// The caller's.
    pub parent: Option<Rc<Env>>,
}

impl Env {
    /// A constant of the block itself.
    pub(super) fn get(&self, name: &str) -> Option<&Const> {
        self.own.get(name)
    }

    /// A constant of the block or of any block around it.
    pub(super) fn find(&self, name: &str) -> Option<&Const> {
        self.own.get(name).or_else(|| self.parent.as_ref().and_then(|p| p.find(name)))
    }
}

/// What a node, input or tensor name stands for.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    /// Where it is declared.
    pub span: Span,
    /// Results by name, the first being meant by the bare name; `None` if poisoned.
    pub values: Option<Vec<(String, Value)>>,
}

impl Binding {
    /// A name for one value.
    pub(super) fn one(span: Span, value: Value) -> Self {
        Binding { span, values: Some(vec![(String::new(), value)]) }
    }

    /// A name whose mistake was reported.
    pub(super) fn poisoned(span: Span) -> Self {
        Binding { span, values: None }
    }
}

/// A block being elaborated.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// Path of the instance; empty for the root.
    pub path: String,
    /// Its file, for imports.
    pub file: Rc<File>,
    /// Its constants.
    pub env: Rc<Env>,
    /// Its tensors and nodes so far.
    pub names: IndexMap<String, Binding>,
    /// Names of nodes that stand further down.
    pub later: BTreeMap<String, Span>,
}

impl Scope {
    /// An empty scope.
    pub(super) fn new(path: String, file: Rc<File>, env: Rc<Env>) -> Self {
        Scope { path, file, env, names: IndexMap::new(), later: BTreeMap::new() }
    }

    /// Path of a node of this block.
    pub(super) fn node_path(&self, name: &str) -> String {
        join(&self.path, name)
    }
}

/// `layers.3` and `attn` to `layers.3.attn`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A finished instance of a block, kept for rules that run over instances and for metrics.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    /// Its path.
    pub path: String,
    /// File of its block.
    pub file: String,
    /// Its constants.
    pub env: Rc<Env>,
    /// Its tensors and nodes.
    pub names: IndexMap<String, Binding>,
}

/// A persistent tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Persistent {
    /// Path: `layers.0.attn.q_a_proj`, or for optimizer state `layers.0.attn.q_a_proj/momentum`.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// What it is.
    pub kind: perilune_plan::TensorKind,
    /// First value.
    pub init: Init,
    /// Parameter group; empty for buffers and state.
    pub group: String,
    /// Mesh axis and the dimension it cuts.
    pub shard: Vec<(String, u64)>,
    /// Where it is declared.
    pub span: Span,
}

/// First value of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All the same.
    Constant(f64),
    /// Gaussian of this standard deviation.
    Normal(f64),
    /// Uniform in ±bound.
    Uniform(f64),
}
