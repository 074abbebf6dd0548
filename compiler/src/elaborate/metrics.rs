//! Metrics: what a training step lets its caller read.
//!
//! # Invariants
//! - A fetch is named by its key; one per match, `key/path`, when the pattern has a `*`.

use cranelift_entity::EntitySet;

use super::context::Cx;
use super::glob;
use super::scope::Scope;
use super::step::Step;
use crate::ops::Value;
use crate::program::ResultTarget;
use crate::spec::syntax::Name;
use crate::spec::train::TrainSpec;

type Outputs = Vec<(Value, ResultTarget)>;

/// `Grad(..)` metrics: gradients before clipping.
pub(super) fn gradients(cx: &mut Cx, step: &Step, spec: &TrainSpec, outputs: &mut Outputs) {
    for (key, metric) in spec.metrics.iter().filter(|(_, m)| m.grad) {
        let mut found = Vec::new();
        for (index, grad) in &step.grads {
            let path = &cx.tensors[*index].0.name;
            if glob::matches(&metric.pattern.text, path) {
                found.push((path.clone(), *grad));
            }
        }
        if found.is_empty() {
            let paths: Vec<&str> = cx.tensors.iter().map(|(t, _)| t.name.as_str()).collect();
            let error = glob::no_match(&metric.pattern, "parameter", paths);
            cx.sink.push(error);
        }
        push_all(key, &metric.pattern, found, outputs);
    }
}

/// All other metrics. Names of the train file come first, then paths in the model.
pub(super) fn values(
    cx: &mut Cx,
    step: &Step,
    spec: &TrainSpec,
    model_names: usize,
    outputs: &mut Outputs,
) {
    for (key, metric) in spec.metrics.iter().filter(|(_, m)| !m.grad) {
        let pattern = &metric.pattern;
        let base = pattern.text.split('.').next().unwrap_or_default();
        if !pattern.text.contains('*') && step.scope.names.contains_key(base) {
            let value = cx.lookup(&step.scope, &pattern.text, pattern.span);
            outputs.extend(value.map(|v| (v, ResultTarget::Fetch(key.text.clone()))));
            continue;
        }
        let mut found: Vec<(String, Value)> = Vec::new();
        for (i, (path, value)) in cx.named.iter().enumerate() {
            let known = i < model_names || path.starts_with("optimizer");
            if known
                && glob::matches(&pattern.text, path)
                && found.last().is_none_or(|(p, _)| p != path)
            {
                found.push((path.clone(), *value));
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|(path, _)| seen.insert(path.clone()));
        if found.is_empty() {
            let paths: Vec<&str> = cx.named.iter().map(|(p, _)| p.as_str()).collect();
            let names = step.scope.names.keys().map(String::as_str);
            let error = glob::no_match(pattern, "node", names.chain(paths));
            cx.sink.push(error);
        }
        for (_, value) in &mut found {
            *value = cx.over_micro_batches(*value);
        }
        push_all(key, pattern, found, outputs);
    }
}

/// Scalar metrics that the loss is computed from: they are known without a gradient.
pub(super) fn of_loss(cx: &Cx, scope: &Scope, spec: &TrainSpec, loss: Value) -> Outputs {
    let mut reached = EntitySet::new();
    reached.insert(loss);
    for node in cx.graph.nodes.values().rev() {
        if node.results.iter().any(|r| reached.contains(*r)) {
            reached.extend(node.operands.iter().copied());
        }
    }
    let value = |pattern: &str| {
        let (base, output) = pattern.split_once('.').unwrap_or((pattern, ""));
        let values = scope.names.get(base)?.values.as_ref()?;
        let found = match output {
            "" => values.first(),
            output => values.iter().find(|(name, _)| name == output),
        };
        found.map(|(_, value)| *value)
    };
    let metrics = spec.metrics.iter().filter(|(_, m)| !m.grad);
    let found = metrics.filter_map(|(key, m)| Some((key, value(&m.pattern.text)?)));
    let wanted = found.filter(|(_, v)| reached.contains(*v) && cx.ty(*v).ndim() == 0);
    wanted.map(|(key, v)| (v, ResultTarget::Fetch(key.text.clone()))).collect()
}

fn push_all(key: &Name, pattern: &Name, found: Vec<(String, Value)>, outputs: &mut Outputs) {
    for (path, value) in found {
        let name = match pattern.text.contains('*') {
            true => format!("{}/{path}", key.text),
            false => key.text.clone(),
        };
        outputs.push((value, ResultTarget::Fetch(name)));
    }
}
