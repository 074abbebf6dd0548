//! From a spec to graphs: blocks expanded, dims bound, every node typed.
//!
//! # Invariants
//! - Deterministic: nodes, inputs and outputs come in the order of the spec.
//! - Every mistake is reported; graphs are returned only when there is none.

mod block;
mod context;
mod form_error;
mod nodes;
mod prune;
mod scope;

use std::rc::Rc;

pub use scope::{Init, Persistent};

use crate::codes;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::graph::Graph;
use crate::ops::Value;
use crate::program::{ArgKind, ResultTarget};
use crate::source::{Loader, SourceMap, Span};
use crate::spec::block::{BlockSpec, Constant};
use crate::spec::files::{File, FileSpec, Files};
use crate::spec::names::NamesSpec;
use crate::spec::read::{Sink, did_you_mean};
use crate::spec::syntax::Name;
use crate::types::Type;
use block::{Given, Site};
use context::Cx;
use scope::{Binding, Const, Env, Instance, Scope};
