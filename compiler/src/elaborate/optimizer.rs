//! The optimizer: an update rule for every parameter, then rules over instances of blocks.
//!
//! # Invariants
//! - A parameter belongs to exactly one group.
//! - Nodes have paths `optimizer.<parameter or instance>.<node>`; state is named `<parameter>/<state>`.

use std::rc::Rc;

use super::block::{Given, Site};
use super::context::{Cx, shorten};
use super::glob;
use super::scope::{Env, Instance, Scope, join};
use super::step::Step;
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::ops::Value;
use crate::source::Span;
use crate::spec::block::BlockSpec;
use crate::spec::files::{File, FileSpec};
use crate::spec::nodes::ApplySpec;
use crate::spec::optimizer::{ForEachSpec, GroupSpec, OptimizerSpec};
use crate::spec::read::did_you_mean;
use crate::spec::syntax::Name;
use crate::spec::train::TrainSpec;
use perilune_plan::TensorKind;

/// Applies the optimizer of a train step.
pub(super) fn apply(cx: &mut Cx, step: &mut Step, train: &TrainSpec) {
    let Some((file, spec)) = find(cx, &step.scope, &train.optimizer) else { return };
    let instances = cx.instances.clone();
    let block = as_block(&spec);
    let given = cx.given(&step.scope, &block, &train.optimizer, &[]);
    if given.poisoned {
        return;
    }
    let site = Site {
        path: "optimizer".into(),
        tensors: ("optimizer".into(), '/'),
        file: Rc::clone(&file),
        spec: Rc::new(block),
        span: train.optimizer.head.span,
        env: Rc::clone(&step.scope.env),
    };
    let Some(mut scope) = cx.open(&site, &given) else { return };
    cx.elaborate_nodes(&mut scope, &spec.nodes);
    check_patterns(cx, &spec);
    apply_groups(cx, step, &scope, &spec);
    for rule in &spec.after {
        apply_rule(cx, step, &scope, rule, &instances);
    }
}

fn find(cx: &mut Cx, scope: &Scope, call: &ApplySpec) -> Option<(Rc<File>, Rc<OptimizerSpec>)> {
    let declared = match &scope.file.spec {
        FileSpec::Train(t) => t.imports.iter().any(|(n, _)| n.text == call.head.text),
        _ => false,
    };
    let file = scope.file.imports.get(&call.head.text).and_then(|p| cx.files.get(p));
    match file {
        Some(file) => match &file.spec {
            FileSpec::Optimizer(spec) => Some((Rc::clone(&file), Rc::clone(spec))),
            other => {
                let headline =
                    format!("`{}` is a {}, not an optimizer", call.head.text, other.word());
                let error = Diagnostic::error(
                    codes::WRONG_FILE_KIND,
                    headline,
                    call.head.span,
                    "an optimizer is needed here",
                );
                cx.sink.push(error.help(format!("it is imported from `{}`", file.path)));
                None
            }
        },
        None if declared => None,
        None => {
            let error = cx.unknown_op(scope, &call.head);
            cx.sink.push(error);
            None
        }
    }
}

/// An optimizer's constants, inputs and nodes are those of a block.
fn as_block(spec: &OptimizerSpec) -> BlockSpec {
    BlockSpec {
        what: "Optimizer",
        span: spec.span,
        doc: spec.doc.clone(),
        imports: spec.imports.clone(),
        args: spec.args.clone(),
        defaults: spec.defaults.clone(),
        lets: spec.lets.clone(),
        inputs: spec.inputs.clone(),
        params: Vec::new(),
        buffers: Vec::new(),
        state: Vec::new(),
        nodes: Vec::new(),
        updates: Vec::new(),
        outputs: Vec::new(),
        broken: spec.broken.clone(),
    }
}

fn is_param(cx: &Cx, index: usize) -> bool {
    cx.tensors[index].0.kind == TensorKind::Param
}

/// Every pattern of a group must match some parameter.
fn check_patterns(cx: &mut Cx, spec: &OptimizerSpec) {
    let paths: Vec<String> = cx
        .tensors
        .iter()
        .filter(|(t, _)| t.kind == TensorKind::Param)
        .map(|(t, _)| t.name.clone())
        .collect();
    for pattern in spec.groups.iter().flat_map(|g| g.matches.iter().chain(&g.not)) {
        if !paths.iter().any(|p| glob::matches(&pattern.text, p)) {
            let error = glob::no_match(pattern, "parameter", paths.iter().map(String::as_str));
            cx.sink.push(error);
        }
    }
}

fn takes(group: &GroupSpec, tensor: &super::Persistent) -> bool {
    let any = |globs: &[Name]| globs.iter().any(|g| glob::matches(&g.text, &tensor.name));
    (group.matches.is_empty() || any(&group.matches))
        && !any(&group.not)
        && (group.ndim.is_empty() || group.ndim.contains(&(tensor.ty.ndim() as u64)))
        && (group.group.is_empty() || group.group.iter().any(|g| g.text == tensor.group))
}

/// An update rule with what its call gives, read once for all its parameters.
type Rule = (Rc<File>, Rc<BlockSpec>, Given);

fn apply_groups(cx: &mut Cx, step: &mut Step, scope: &Scope, spec: &OptimizerSpec) {
    let rules: Vec<Option<Rule>> =
        spec.groups.iter().map(|g| rule(cx, scope, &g.update, &["w", "g"])).collect();
    for index in 0..cx.tensors.len() {
        if !is_param(cx, index) {
            continue;
        }
        let Some(at) = spec.groups.iter().position(|g| takes(g, &cx.tensors[index].0)) else {
            no_group(cx, spec, index);
            continue;
        };
        let (Some((file, block, given)), Some(&grad)) = (&rules[at], step.grads.get(&index)) else {
            continue;
        };
        let update = &spec.groups[at].update;
        let (tensor, value) = cx.tensors[index].clone();
        let mut given = given.clone();
        given.inputs.push(("w".into(), value, update.head.span));
        given.inputs.push(("g".into(), grad, update.head.span));
        let site = Site {
            path: join("optimizer", &tensor.name),
            tensors: (tensor.name.clone(), '/'),
            file: Rc::clone(file),
            spec: Rc::clone(block),
            span: update.head.span,
            env: Rc::clone(&scope.env),
        };
        let Some(outputs) = cx.instantiate(site, given, update.head.span).values else { continue };
        take_output(cx, step, index, ("w", block, &outputs), update.head.span);
    }
}

/// Reads the call of an update rule.
fn rule(cx: &mut Cx, scope: &Scope, update: &ApplySpec, supplied: &[&str]) -> Option<Rule> {
    let (file, block) = cx.block_named(scope, &update.head)?;
    for name in supplied {
        if !block.inputs.iter().any(|i| i.name.text == *name) {
            let headline = format!("the update rule `{}` has no input `{name}`", update.head.text);
            let error = Diagnostic::error(
                codes::UPDATE_TYPE,
                headline,
                update.head.span,
                "not an update rule",
            );
            cx.sink.push(
                error
                    .label(block.span, "this block")
                    .help("an update rule has the inputs `w` and `g`"),
            );
            return None;
        }
    }
    let given = cx.given(scope, &block, update, supplied);
    Some((file, block, given))
}

fn no_group(cx: &mut Cx, spec: &OptimizerSpec, index: usize) {
    let tensor = &cx.tensors[index].0;
    let headline = format!("no optimizer group takes `{}`", shorten(&tensor.name));
    let label = format!("{} in group `{}`", tensor.ty, tensor.group);
    let error = Diagnostic::error(codes::NO_GROUP, headline, tensor.span, label)
        .label(spec.span, "none of the groups here")
        .help("add a last `Group(name: \"rest\", update: …)` without conditions");
    cx.sink.push(error);
}

/// The new value of a tensor: the rule's output `name`.
fn take_output(
    cx: &mut Cx,
    step: &mut Step,
    index: usize,
    (name, block, outputs): (&str, &BlockSpec, &[(String, Value)]),
    span: Span,
) {
    let Some((_, value)) = outputs.iter().find(|(n, _)| n == name) else {
        let headline = format!("the update rule has no output `{name}`");
        let error = Diagnostic::error(codes::UPDATE_TYPE, headline, span, "called here");
        cx.sink.push(
            error
                .label(block.span, "this block")
                .help(format!("its output `{name}` is the new value")),
        );
        return;
    };
    let (tensor, _) = &cx.tensors[index];
    let ty = cx.ty(*value);
    if *ty != tensor.ty {
        let headline = format!("the parameter is {}, its new value {ty}", tensor.ty);
        let place =
            block.outputs.iter().find(|(n, _)| n.text == name).map_or(block.span, |(_, s)| s.span);
        let error = Diagnostic::error(codes::UPDATE_TYPE, headline, place, format!("this is {ty}"))
            .label(tensor.span, format!("this is {}", tensor.ty));
        cx.sink.push(error);
        return;
    }
    step.new.insert(index, (*value, span));
}

/// `ForEach`: one rule over all instances of a block.
fn apply_rule(
    cx: &mut Cx,
    step: &mut Step,
    scope: &Scope,
    rule_spec: &ForEachSpec,
    all: &[Instance],
) {
    let Some((file, _)) = cx.block_named(scope, &rule_spec.instance) else { return };
    let instances: Vec<&Instance> = all.iter().filter(|i| i.file == file.path).collect();
    if instances.is_empty() {
        let headline = format!("the model has no instance of `{}`", rule_spec.instance.text);
        let error = Diagnostic::error(
            codes::NO_INSTANCE,
            headline,
            rule_spec.instance.span,
            "nothing to run over",
        );
        cx.sink.push(error.help(format!("no block of the model calls `{}`", file.path)));
        return;
    }
    let supplied: Vec<&str> = rule_spec.params.iter().map(|(n, _)| n.text.as_str()).collect();
    for instance in instances {
        let inner = inside(scope, instance);
        let Some((file, block, mut given)) = rule(cx, &inner, &rule_spec.update, &supplied) else {
            return;
        };
        let mut targets = Vec::new();
        for (input, names) in &rule_spec.params {
            let Some(index) = find_param(cx, instance, input, names) else { return };
            let value = step.new.get(&index).map_or(cx.tensors[index].1, |(v, _)| *v);
            given.inputs.push((input.text.clone(), value, input.span));
            targets.push((input.text.clone(), index));
        }
        let site = Site {
            path: join("optimizer", &instance.path),
            tensors: (instance.path.clone(), '/'),
            file,
            spec: Rc::clone(&block),
            span: rule_spec.update.head.span,
            env: Rc::clone(&inner.env),
        };
        let Some(outputs) = cx.instantiate(site, given, rule_spec.update.head.span).values else {
            return;
        };
        for (name, index) in targets {
            take_output(cx, step, index, (&name, &block, &outputs), rule_spec.update.head.span);
        }
    }
}

/// A scope that sees an instance first and the optimizer behind it.
fn inside(scope: &Scope, instance: &Instance) -> Scope {
    let mut own = scope.env.own.clone();
    own.extend(instance.env.own.iter().map(|(k, v)| (k.clone(), v.clone())));
    let env = Env { own, parent: Some(Rc::clone(&instance.env)) };
    let mut inner = Scope::new(scope.path.clone(), Rc::clone(&scope.file), Rc::new(env));
    inner.names = scope.names.clone();
    inner.names.extend(instance.names.iter().map(|(k, v)| (k.clone(), v.clone())));
    inner
}

/// The first of some parameters that an instance has.
fn find_param(cx: &mut Cx, instance: &Instance, input: &Name, names: &[Name]) -> Option<usize> {
    let index = |n: &Name| {
        let path = join(&instance.path, &n.text);
        cx.tensors.iter().position(|(t, _)| t.kind == TensorKind::Param && t.name == path)
    };
    if let Some(found) = names.iter().find_map(index) {
        return Some(found);
    }
    let span = names.first().map_or(input.span, |n| n.span);
    let headline = format!("`{}` has no such parameter", shorten(&instance.path));
    let error =
        Diagnostic::error(codes::NO_INSTANCE, headline, span, "not a parameter of the block");
    let prefix = format!("{}.", instance.path);
    let known: Vec<&str> =
        cx.tensors.iter().filter_map(|(t, _)| t.name.strip_prefix(&prefix)).collect();
    let written = names.first().map_or("", |n| n.text.as_str());
    let error = did_you_mean(error, (written, span), known);
    cx.sink.push(error);
    None
}
