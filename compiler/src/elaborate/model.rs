//! The root of a spec: a model with its dims set, its feeds made, its block expanded.
//!
//! # Invariants
//! - `--set` wins over a train step's `set`, which wins over the model's `dims`.

use std::rc::Rc;

use super::block::{Given, Site};
use super::context::Cx;
use super::prune::extract;
use super::scope::{Const, Env};
use super::{Elaborated, init, mesh};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::ops::Value;
use crate::program::{ArgKind, ResultTarget};
use crate::source::{SourceMap, Span};
use crate::spec::block::{BlockSpec, Constant, InputSpec};
use crate::spec::files::{File, FileSpec, Files};
use crate::spec::read::{Sink, did_you_mean};
use crate::spec::syntax::{self, Name};
use crate::types::Type;
use perilune_plan::Mesh;

/// A model expanded at the root of the graph.
pub(super) struct Root {
    /// Its constants.
    pub env: Rc<Env>,
    /// Its feeds: name, value, place.
    pub feeds: Vec<(String, Value, Span)>,
    /// Its outputs.
    pub outputs: Vec<(String, Value)>,
}

/// Loads and elaborates a root file: the model alone, the training step, or what the file holds.
pub(super) fn elaborate(
    files: &mut Files,
    sink: &mut Sink,
    path: &str,
    sets: &[(String, String)],
    (train, mesh): super::Asked<'_>,
) -> Option<Elaborated> {
    let root = files.load_root(sink, path)?;
    let is_model = |spec: &FileSpec| matches!(spec, FileSpec::Block(b) if b.what == "Model");
    let train = train.unwrap_or(!is_model(&root.spec));
    let commands = read_sets(files, sink, sets);
    let mesh = mesh.map(|text| mesh::read(files, sink, text));
    let name = root.path.trim_end_matches(".ron").to_owned();
    match &root.spec {
        FileSpec::Block(spec) if is_model(&root.spec) && !train => {
            mesh::refuse(sink, mesh.as_deref());
            let mut cx = Cx::new(files, sink);
            let model = expand_model(&mut cx, &root, spec, &commands)?;
            cx.warn_unused();
            finish(&cx, name, &model)
        }
        FileSpec::Train(spec) => {
            let spec = Rc::clone(spec);
            let model = files.load_named(sink, &root.path, &spec.model)?;
            let FileSpec::Block(block) = &model.spec else {
                sink.push(not_a_model(&spec.model, &model));
                return None;
            };
            if block.what != "Model" {
                sink.push(not_a_model(&spec.model, &model));
                return None;
            }
            let mut overrides = spec.set.clone();
            overrides.extend(commands);
            let mut cx = Cx::new(files, sink);
            let expanded = expand_model(&mut cx, &model, block, &overrides)?;
            if train {
                let axes = mesh.as_ref().unwrap_or(&spec.mesh);
                return super::train::elaborate(cx, name, &root, (&spec, axes), &expanded);
            }
            finish(&cx, name, &expanded)
        }
        other => {
            let wanted = if train { "Train" } else { "Model" };
            sink.push(wrong_file(&root.path, other, wanted, &files.sources));
            None
        }
    }
}

fn not_a_model(named: &Name, file: &File) -> Diagnostic {
    let headline = format!("`model` names a {}, not a model", file.spec.word());
    Diagnostic::error(
        codes::WRONG_FILE_KIND,
        headline,
        named.span,
        "a `Model(..)` file is needed here",
    )
}

/// A root file that holds another value than asked for.
pub(super) fn wrong_file(
    path: &str,
    found: &FileSpec,
    wanted: &str,
    sources: &SourceMap,
) -> Diagnostic {
    let at = sources.files().iter().position(|f| f.path == path).unwrap_or_default();
    let source = crate::source::SourceId(at as u32);
    let span = match found {
        FileSpec::Block(b) => b.span,
        FileSpec::Optimizer(o) => o.span,
        FileSpec::Train(t) => t.span,
        FileSpec::Names(_) => Span { source, start: 0, end: 0 },
    };
    let headline = format!("the file holds a {}, not a {wanted}", found.word());
    Diagnostic::error(
        codes::WRONG_FILE_KIND,
        headline,
        span,
        format!("`{wanted}(..)` is needed here"),
    )
}

/// `--set` arguments as constants, with places in a text of their own.
fn read_sets(
    files: &mut Files,
    sink: &mut Sink,
    sets: &[(String, String)],
) -> Vec<(Name, Constant)> {
    let mut out = Vec::new();
    for (name, value) in sets {
        let text = format!("{name}={value}");
        let source = files.sources.add("--set", text);
        let at = |start: usize, end: usize| Span { source, start: start as u32, end: end as u32 };
        let name_span = at(0, name.len());
        // The value alone, where it stands in the text: spans fit as they are.
        let value = format!("{}{value}", " ".repeat(name.len() + 1));
        match syntax::parse(source, &value) {
            Ok(tree) => {
                let constant = crate::spec::block::read_constant(sink, &tree);
                out.extend(constant.map(|c| (Name { text: name.clone(), span: name_span }, c)));
            }
            Err(error) => sink.push(*error),
        }
    }
    out
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
            let headline =
                format!("the model has no dim `{}`", super::context::shorten(&name.text));
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
            Some(Const::Number(v)) if v.is_finite() && v.abs() > super::context::MAX_DIM => {
                let headline =
                    format!("the dim `{}` cannot be {v:e}", super::context::shorten(&name.text));
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

/// Graphs of a model alone.
fn finish(cx: &Cx, name: String, model: &Root) -> Option<Elaborated> {
    if cx.sink.errors() > 0 {
        return None;
    }
    let forward = forward_graph(cx, model);
    Some(Elaborated {
        name,
        init: init::graph(&cx.tensors.iter().map(|(t, _)| t.clone()).collect::<Vec<_>>()),
        forward,
        eval: None,
        train_step: None,
        tensors: cx.tensors.iter().map(|(t, _)| t.clone()).collect(),
        dims: model.env.own.clone(),
        mesh: Mesh::default(),
        train: None,
    })
}

/// The model's outputs as an entry.
pub(super) fn forward_graph(cx: &Cx, model: &Root) -> crate::graph::Graph {
    let fetch = |(n, v): &(String, Value)| (*v, ResultTarget::Fetch(n.clone()));
    extract(&cx.graph, "forward", model.outputs.iter().map(fetch).collect())
}
