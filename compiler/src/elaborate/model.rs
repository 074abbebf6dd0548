//! The root file of a spec: a model alone, or the model of a training step.
//!
//! # Invariants
//! - `--set` wins over a train step's `set`, which wins over the model's `dims`.

use std::rc::Rc;

use super::context::Cx;
use super::root::{Root, expand_model, forward_graph};
use super::{Elaborated, init, mesh};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{SourceMap, Span};
use crate::spec::block::Constant;
use crate::spec::files::{File, FileSpec, Files};
use crate::spec::read::Sink;
use crate::spec::syntax::{self, Name};
use perilune_plan::Mesh;

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
        machine: None,
        train: None,
    })
}
