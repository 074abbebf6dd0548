//! A model at the root of the graph: its dims set, its feeds made, its block expanded.
//!
//! # Invariants
//! - Every problem with its dims and feeds is reported before the block is expanded.

use std::rc::Rc;

use super::block::{Given, Site};
use super::context::{Cx, MAX_DIM, shorten};
use super::prune::extract;
use super::scope::{Const, Env};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::graph::Graph;
use crate::ops::Value;
use crate::program::{ArgKind, ResultTarget};
use crate::source::Span;
use crate::spec::block::{BlockSpec, Constant, InputSpec};
use crate::spec::files::File;
use crate::spec::read::did_you_mean;
use crate::spec::syntax::Name;
use crate::types::Type;

/// A model expanded at the root of the graph.
pub(super) struct Root {
    /// Its constants.
    pub env: Rc<Env>,
    /// Its feeds: name, value, place.
    pub feeds: Vec<(String, Value, Span)>,
    /// Its outputs.
    pub outputs: Vec<(String, Value)>,
}

/// Expands a model with some of its dims set.
pub(super) fn expand_model(
    cx: &mut Cx,
    file: &Rc<File>,
    spec: &Rc<BlockSpec>,
    overrides: &[(Name, Constant)],
) -> Option<Root> {
    let mut env = Env::default();
    let mut good = true;
    for (name, _) in overrides {
        if !spec.defaults.iter().any(|(n, _)| n.text == name.text) {
            let headline = format!("the model has no dim `{}`", shorten(&name.text));
            let error = Diagnostic::error(
                codes::UNKNOWN_SETTING,
                headline,
                name.span,
                "not one of its `dims`",
            );
            let known = spec.defaults.iter().map(|(n, _)| n.text.as_str());
            let error = did_you_mean(error, (&name.text, name.span), known);
            cx.sink.push(error);
            good = false;
        }
    }
    let mut args = Vec::new();
    for (name, default) in &spec.defaults {
        let set = overrides.iter().rev().find(|(n, _)| n.text == name.text);
        let (constant, span) = set.map_or((default, name.span), |(n, c)| (c, n.span));
        match cx.constant(&env, constant) {
            Some(Const::Number(v)) if v.is_finite() && v.abs() > MAX_DIM => {
                let headline = format!("the dim `{}` cannot be {v:e}", shorten(&name.text));
                let place = match constant {
                    Constant::Scalar(form) => form.text.span,
                    Constant::List(_) => span,
                };
                cx.sink.push(Diagnostic::error(
                    codes::NOT_AN_EXTENT,
                    headline,
                    place,
                    "more than 2^40",
                ));
                good = false;
            }
            Some(value) => {
                env.own.insert(name.text.clone(), value.clone());
                args.push((name.text.clone(), value, span));
            }
            None => good = false,
        }
    }
    if !good {
        return None;
    }
    for (name, form) in &spec.lets {
        match cx.number(&env, form) {
            Some(v) => drop(env.own.insert(name.text.clone(), Const::Number(v))),
            None => good = false,
        }
    }
    let feeds: Vec<_> = spec.inputs.iter().map(|i| add_feed(cx, &env, i)).collect();
    let feeds: Vec<_> = feeds.into_iter().flatten().collect();
    if !good || feeds.len() < spec.inputs.len() {
        return None;
    }
    let given = Given { inputs: feeds.clone(), args, poisoned: false };
    let site = Site {
        path: String::new(),
        tensors: (String::new(), '.'),
        file: Rc::clone(file),
        spec: Rc::clone(spec),
        span: spec.span,
        env: Rc::new(Env::default()),
    };
    let outputs = cx.instantiate(site, given, spec.span).values?;
    Some(Root { env: Rc::new(env), feeds, outputs })
}

/// A feed: an input at the root, its dims known.
pub(super) fn add_feed(cx: &mut Cx, env: &Env, input: &InputSpec) -> Option<(String, Value, Span)> {
    if input.leading {
        let headline = "the shape of a feed must be known";
        cx.sink.push(Diagnostic::error(
            codes::INPUT_SHAPE,
            headline,
            input.span,
            "`...` stands for any dims",
        ));
        return None;
    }
    let shape: Option<Vec<u64>> = input.dims.iter().map(|d| cx.extent(env, d)).collect();
    let shape = shape.filter(|s| cx.check_elems(s, input.span))?;
    let name = input.name.text.clone();
    let value = cx.add_input(&name, ArgKind::Feed, Type::new(input.dtype, shape));
    cx.declare("input", &input.name);
    cx.feeds.push((value, input.name.span));
    Some((name, value, input.name.span))
}

/// The model's outputs as an entry.
pub(super) fn forward_graph(cx: &Cx, model: &Root) -> Graph {
    let fetch = |(n, v): &(String, Value)| (*v, ResultTarget::Fetch(n.clone()));
    extract(&cx.graph, "forward", model.outputs.iter().map(fetch).collect())
}
