//! The training step: forward, backward, clipping, optimizer, updates, metrics in one graph.
//!
//! # Invariants
//! - Every persistent tensor is written at most once per step; with `skip_nonfinite` either all are
//!   or none is.
//! - Mistakes in the optimizer are found even when those before it stop differentiation.

use std::collections::BTreeMap;
use std::rc::Rc;

use indexmap::IndexMap;

use super::accumulate::widen_feeds;
use super::context::{Cx, MAX_NODES};
use super::micro::Micro;
use super::prune::extract;
use super::root::{Root, add_feed, forward_graph};
use super::scope::{Binding, Env, Scope};
use super::step::Step;
use super::{Elaborated, TrainSettings, init, mesh, metrics, precision, recompute};
use crate::autodiff;
use crate::codes;
use crate::diagnostic::{Diagnostic, Severity};
use crate::graph::{Graph, Origin};
use crate::ops::{Op, Value};
use crate::program::ResultTarget;
use crate::spec::block::duplicate_name;
use crate::spec::files::File;
use crate::spec::syntax::Name;
use crate::spec::train::TrainSpec;
use crate::types::{DType, Type};
use cranelift_entity::SecondaryMap;
use perilune_plan::{Machine, TensorKind};

/// Elaborates a training step over an expanded model.
pub(super) fn elaborate(
    mut cx: Cx,
    name: String,
    root: &Rc<File>,
    (spec, axes): (&TrainSpec, &[(Name, u64)]),
    model: &Root,
) -> Option<Elaborated> {
    precision::check(&mut cx, spec);
    let mut scope = train_scope(&mut cx, root, spec, model);
    cx.elaborate_nodes(&mut scope, &spec.nodes);
    let loss = find_loss(&mut cx, &scope, spec);
    precision::apply(&mut cx, spec);
    let loss = loss.map(|value| precision::widened(&mut cx, value));
    let forward = forward_graph(&cx, model);
    let eval = loss.map(|loss| {
        let mut outputs = vec![(loss, ResultTarget::Fetch("loss".into()))];
        outputs.extend(metrics::of_loss(&cx, &scope, spec, loss));
        extract(&cx.graph, "eval", outputs)
    });
    let mut step =
        Step { scope, grads: BTreeMap::new(), new: BTreeMap::new(), backward: Vec::new() };
    let model_updates = std::mem::take(&mut cx.updates);
    let named = cx.named.len();
    match loss.filter(|_| cx.sink.errors() == 0) {
        Some(loss) => differentiate(&mut cx, &mut step, spec, loss),
        // Parameters stand in for their gradients, so that the optimizer is checked all the same.
        None => step.grads = params(&cx).into_iter().collect(),
    }
    let mut outputs = Vec::new();
    let loss_fetch = loss.map(|v| cx.over_micro_batches(v));
    outputs.extend(loss_fetch.map(|v| (v, ResultTarget::Fetch("loss".into()))));
    metrics::gradients(&mut cx, &step, spec, &mut outputs);
    let norm = clip(&mut cx, &mut step, spec);
    outputs.extend(norm.map(|v| (v, ResultTarget::Fetch("grad_norm".into()))));
    super::optimizer::apply(&mut cx, &mut step, spec);
    for (index, value, span) in model_updates {
        let value = cx.update_over_micro_batches(value);
        step.new.insert(index, (value, span));
    }
    let state_updates = std::mem::take(&mut cx.updates);
    step.new.extend(state_updates.into_iter().map(|(i, v, s)| (i, (v, s))));
    metrics::values(&mut cx, &step, spec, named, &mut outputs);
    let repeated = recompute::matching(&mut cx, spec);
    let mesh = mesh::check(&mut cx, axes);
    mesh::check_zero(&mut cx, spec);
    mesh::check_slices(&mut cx, spec, &mesh);
    cx.warn_unused();
    if cx.sink.errors() > 0 {
        return None;
    }
    write_back(&mut cx, &step, spec, (loss_fetch?, norm), &mut outputs);
    let graph = recompute::apply(&cx.graph, &repeated, &step.backward, &mut outputs);
    let train_step = extract(&graph, "train_step", outputs);
    let tensors: Vec<_> = cx.tensors.iter().map(|(t, _)| t.clone()).collect();
    Some(Elaborated {
        name,
        init: init::graph(&tensors),
        forward,
        eval,
        train_step: Some(train_step),
        tensors,
        dims: model.env.own.clone(),
        mesh,
        machine: Some(Machine::default()),
        train: Some(settings(spec, axes)),
    })
}

fn settings(spec: &TrainSpec, axes: &[(Name, u64)]) -> TrainSettings {
    TrainSettings {
        run: spec.run.iter().map(|(n, v)| (n.text.clone(), *v as u64)).collect(),
        mesh: axes.iter().map(|(n, v)| (n.text.clone(), *v)).collect(),
        zero: spec.zero,
        reduction_slices: spec.reduction_slices,
        precision: spec.precision.clone(),
        accumulate: spec.accumulate,
        skip_nonfinite: spec.skip_nonfinite,
    }
}

/// The model's outputs and inputs, its dims, and the step's own inputs by name.
fn train_scope(cx: &mut Cx, root: &Rc<File>, spec: &TrainSpec, model: &Root) -> Scope {
    let env = Env { own: model.env.own.clone(), parent: None };
    let mut scope = Scope::new(String::new(), Rc::clone(root), Rc::new(env));
    let mut names: IndexMap<String, Binding> = IndexMap::new();
    for (name, value, span) in &model.feeds {
        names.insert(name.clone(), Binding::one(*span, *value));
    }
    for (name, value) in &model.outputs {
        names.insert(name.clone(), Binding::one(spec.model.span, *value));
    }
    for input in &spec.inputs {
        if let Some(first) = names.get(&input.name.text) {
            cx.sink.push(duplicate_name(&input.name.text, input.name.span, first.span));
            continue;
        }
        let env = Rc::clone(&scope.env);
        let binding = match add_feed(cx, &env, input) {
            Some((_, value, span)) => Binding::one(span, value),
            None => Binding::poisoned(input.name.span),
        };
        names.insert(input.name.text.clone(), binding);
    }
    for name in &spec.broken {
        names.insert(name.text.clone(), Binding::poisoned(name.span));
    }
    scope.names = names;
    scope
}

fn find_loss(cx: &mut Cx, scope: &Scope, spec: &TrainSpec) -> Option<Value> {
    let loss = cx.lookup(scope, &spec.loss.text, spec.loss.span)?;
    let ty = cx.ty(loss).clone();
    if ty == Type::new(DType::f32, []) {
        return Some(loss);
    }
    let headline = format!("the loss is {ty}, not one f32 number");
    let mut error = Diagnostic::error(
        codes::LOSS_NOT_SCALAR,
        headline,
        spec.loss.span,
        format!("this is {ty}"),
    );
    if let Some(span) = cx.definition(loss) {
        error = error.label(span, "it comes from here");
    }
    cx.sink.push(error.help("reduce it first: `Reduce(Mean, …)`"));
    None
}

/// Parameters: tensor index and value.
fn params(cx: &Cx) -> Vec<(usize, Value)> {
    let all = cx.tensors.iter().enumerate();
    all.filter(|(_, (t, _))| t.kind == TensorKind::Param).map(|(i, (_, v))| (i, *v)).collect()
}

/// Gradients of the mean loss over the micro-batches.
fn differentiate(cx: &mut Cx, step: &mut Step, spec: &TrainSpec, loss: Value) {
    let n = spec.accumulate;
    let mut sums: BTreeMap<usize, Value> = BTreeMap::new();
    if n == 1 {
        backward(cx, step, spec, loss, &mut sums);
    } else {
        let (batched, feeds) = widen_feeds(&mut cx.graph, n);
        let template = cx.graph.nodes.len();
        let mut micro = Micro::new(batched);
        backward(cx, step, spec, loss, &mut sums);
        for k in 1..n {
            let before = cx.graph.nodes.len();
            let map = cx.add_micro_batch(&mut micro, &feeds, k, template);
            backward(cx, step, spec, *map.get(&loss).unwrap_or(&loss), &mut sums);
            let each = cx.graph.nodes.len() - before;
            // All others add as many nodes as this one.
            if before + each.saturating_mul((n - k) as usize) > MAX_NODES {
                too_many_micro_batches(cx, spec, each);
                break;
            }
        }
        cx.micro = Some(micro);
    }
    let scale = 1.0 / (n as f64 * spec.loss_scale);
    for (index, value) in &mut sums {
        if scale != 1.0 {
            let origin = grad_origin(cx, *index);
            *value = cx.synth(&format!("Map(\"g * {scale:e}\")"), &[("g", *value)], &origin);
        }
    }
    step.grads = sums;
    let missing: Vec<usize> =
        params(cx).into_iter().map(|p| p.0).filter(|i| !step.grads.contains_key(i)).collect();
    for index in missing {
        let tensor = &cx.tensors[index].0;
        let headline = format!("no gradient reaches `{}`", super::context::shorten(&tensor.name));
        let mut warning = Diagnostic::error(
            codes::NO_GRADIENT,
            headline,
            tensor.span,
            "the loss does not depend on it",
        );
        warning.severity = Severity::Warning;
        cx.sink.push(warning);
    }
}

/// Reports that micro-batches of so many nodes each do not fit into a graph.
fn too_many_micro_batches(cx: &mut Cx, spec: &TrainSpec, each: usize) {
    let headline = format!("the step unrolls to more than {MAX_NODES} nodes");
    let label = format!("each micro-batch takes {each}");
    let span = spec.accumulate_span.unwrap_or(spec.span);
    let error = Diagnostic::error(codes::TOO_MANY_NODES, headline, span, label);
    cx.sink.push(error.help("take fewer micro-batches of more rows"));
}

fn grad_origin(cx: &Cx, index: usize) -> Origin {
    let tensor = &cx.tensors[index].0;
    Origin { path: format!("{}/grad", tensor.name), span: Some(tensor.span) }
}

/// Values that a value is computed from.
fn reached_from(graph: &Graph, value: Value) -> SecondaryMap<Value, bool> {
    let mut reached = SecondaryMap::new();
    reached[value] = true;
    for node in graph.nodes.values().rev() {
        let passes = !matches!(node.op, Op::StopGradient(_));
        if passes && node.results.iter().any(|r| reached[*r]) {
            node.operands.iter().for_each(|v| reached[*v] = true);
        }
    }
    reached
}

/// One backward pass; adds its gradients to the sums.
fn backward(
    cx: &mut Cx,
    step: &mut Step,
    spec: &TrainSpec,
    loss: Value,
    sums: &mut BTreeMap<usize, Value>,
) {
    let start = cx.graph.nodes.len();
    let origin = Origin { path: "loss/scaled".into(), span: Some(spec.loss.span) };
    let root = match spec.loss_scale {
        1.0 => loss,
        scale => cx.synth(&format!("Map(\"l * {scale:e}\")"), &[("l", loss)], &origin),
    };
    let params = params(cx);
    let wrt: Vec<Value> = params.iter().map(|p| p.1).collect();
    let reached = reached_from(&cx.graph, root);
    let grads = autodiff::differentiate(&mut cx.graph, root, &wrt);
    step.backward.push(start..cx.graph.nodes.len());
    for ((index, param), grad) in params.into_iter().zip(grads) {
        if !reached[param] {
            continue;
        }
        let sum = match sums.get(&index) {
            None => grad,
            Some(sum) => {
                let origin = grad_origin(cx, index);
                cx.synth("Map(\"a + b\")", &[("a", *sum), ("b", grad)], &origin)
            }
        };
        sums.insert(index, sum);
    }
}

/// The gradient's global norm, if anything asks for it; scales the gradients down to the bound.
fn clip(cx: &mut Cx, step: &mut Step, spec: &TrainSpec) -> Option<Value> {
    if spec.clip_grad_norm.is_none() && !spec.skip_nonfinite {
        return None;
    }
    let origin = Origin { path: "grad_norm".into(), span: Some(spec.span) };
    let mut squares = Vec::new();
    for (index, grad) in &step.grads {
        let text = match cx.ty(*grad).ndim() {
            0 => "Map(\"f32(g) * f32(g)\")",
            _ => "Reduce(Sum, \"f32(g[...]) * f32(g[...])\", over: \"...\")",
        };
        let origin = grad_origin(cx, *index).derived("square");
        squares.push(cx.synth(text, &[("g", *grad)], &origin));
    }
    let total = add_up(cx, squares, &origin);
    let norm = cx.synth("Map(\"sqrt(s)\")", &[("s", total)], &origin);
    if let Some(bound) = spec.clip_grad_norm {
        let text = format!("Map(\"min(1.0, {bound:e} / (n + 1e-6))\")");
        let origin = Origin { path: "grad_norm/factor".into(), span: Some(spec.span) };
        let factor = cx.synth(&text, &[("n", norm)], &origin);
        let grads: Vec<(usize, Value)> = step.grads.iter().map(|(i, v)| (*i, *v)).collect();
        for (index, grad) in grads {
            let origin = grad_origin(cx, index).derived("clipped");
            let dtype = cx.ty(grad).dtype;
            let wide = if dtype == DType::f64 { DType::f64 } else { DType::f32 };
            let text = format!("Map(\"{dtype}({wide}(g) * {wide}(f))\")");
            let clipped = cx.synth(&text, &[("g", grad), ("f", factor)], &origin);
            step.grads.insert(index, clipped);
        }
    }
    Some(norm)
}

/// Sum of many scalars, sixteen at a time.
fn add_up(cx: &mut Cx, mut parts: Vec<Value>, origin: &Origin) -> Value {
    const NAMES: [&str; 16] =
        ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
    while parts.len() > 1 {
        parts = parts
            .chunks(NAMES.len())
            .map(|chunk| {
                let names: Vec<(&str, Value)> =
                    NAMES.iter().copied().zip(chunk.iter().copied()).collect();
                let text = format!("Map(\"{}\")", NAMES[..chunk.len()].join(" + "));
                if chunk.len() == 1 { chunk[0] } else { cx.synth(&text, &names, origin) }
            })
            .collect();
    }
    match parts.first() {
        Some(v) => *v,
        None => cx.synth("Fill(0.0, [])", &[], origin),
    }
}

/// Outputs that replace persistent tensors.
fn write_back(
    cx: &mut Cx,
    step: &Step,
    spec: &TrainSpec,
    (loss, norm): (Value, Option<Value>),
    outputs: &mut Vec<(Value, ResultTarget)>,
) {
    let origin = Origin { path: "step_is_finite".into(), span: Some(spec.span) };
    let finite = norm.filter(|_| spec.skip_nonfinite).map(|norm| {
        let text = "Map(\"where(abs(l) <= 3.4e38 && abs(n) <= 3.4e38, 1.0, 0.0)\")";
        cx.synth(text, &[("l", loss), ("n", norm)], &origin)
    });
    for (index, (new, _)) in &step.new {
        let (tensor, old) = cx.tensors[*index].clone();
        let value = match finite {
            None => *new,
            Some(ok) => {
                let origin =
                    Origin { path: format!("{}/kept", tensor.name), span: Some(tensor.span) };
                let names = [("ok", ok), ("new", *new), ("old", old)];
                cx.synth("Map(\"where(ok > 0.5, new, old)\")", &names, &origin)
            }
        };
        outputs.push((value, ResultTarget::Update(tensor.name)));
    }
}
