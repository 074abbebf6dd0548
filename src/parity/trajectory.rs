//! The MuonClip trajectory: losses, per-head maxima, clip factors, expert counts and weights.
//!
//! # Invariants
//! - Variants whose Newton–Schulz runs in float32 are compared; torch's bf16 one is not, and said so.

use std::collections::BTreeMap;

use perilune_runtime::{Fetches, HostTensor};
use serde_json::Value;

use super::Report;
use super::compare::{Check, Measure};
use super::forward::{batch_shape, feeds, fetched, smax};
use super::oracle::{Oracle, tensor};
use super::runner::{Family, Runner, floats};
use super::spec::Recipe;
use crate::exit::{Exit, Failure};
use crate::pipeline;

/// Loss, absolute, over the first 5 steps and over all.
const LOSS: [f64; 2] = [1e-5, 1e-4];
/// Weights, relative L2, after up to 5 steps and later.
const WEIGHTS: [f64; 2] = [1e-5, 2e-4];
/// Per-head maxima over the first 5 steps and over all.
const SMAX: [f64; 2] = [1e-4, 1e-3];
/// Clip factors, likewise.
const GAMMA: [f64; 2] = [1e-5, 1e-4];
/// A threshold that no logit reaches.
const NEVER: f64 = 1e30;
/// Steps that the tight bounds cover.
const EARLY: usize = 5;

/// Checks every variant under `optim/`.
///
/// # Errors
/// When the model cannot be compiled or run.
pub fn check(oracle: &Oracle, family: &Family, report: &mut Report) -> Result<(), Failure> {
    let Some(batches) = oracle.tensors("optim/batches.safetensors")? else { return Ok(()) };
    let batches = tensor(&batches, "input_ids")?;
    let meta = oracle.json("optim/meta.json")?.unwrap_or(Value::Null);
    for (variant, clip) in [("f32ns", true), ("f32ns_noclip", false)] {
        if let Some(trace) = oracle.json(&format!("optim/{variant}/trace.json"))? {
            let recipe = recipe(&meta, clip)?;
            Variant { oracle, family, name: variant, trace: &trace }.check(&recipe, batches, report)?;
        }
    }
    for (variant, why) in [
        ("bf16ns", "Newton–Schulz in bf16 is torch's own, up to 42 % off on rank-8 gradients"),
        ("f32ns_sdpa_t2", "f32ns again on other torch kernels: it measures torch's noise"),
    ] {
        if oracle.path(&format!("optim/{variant}/trace.json")).is_file() {
            report.skipped.push(format!("optim/{variant}: {why}"));
        }
    }
    Ok(())
}

struct Variant<'a> {
    oracle: &'a Oracle,
    family: &'a Family,
    name: &'a str,
    trace: &'a Value,
}

/// What a trajectory is compared by, step after step.
#[derive(Default)]
struct Trace {
    loss: Vec<f64>,
    smax: Vec<f64>,
    gamma: Vec<f64>,
    counts: Vec<f64>,
}

impl Variant<'_> {
    fn check(&self, recipe: &Recipe, batches: &HostTensor, report: &mut Report) -> Result<(), Failure> {
        let steps = batches.shape().first().map_or(0, |s| *s as usize);
        let per_step = batches.elems() / steps.max(1);
        let ids = batches.to_i32().map_err(pipeline::runtime)?;
        let one = HostTensor::from_i32(&batches.shape()[1..], &ids[..per_step]).map_err(pipeline::runtime)?;
        let weights = self.oracle.need("model.safetensors")?;
        let mut runner = self.family.trainer(batch_shape(&one)?, recipe, &weights)?;
        let mut ours = Trace::default();
        for (step, ids) in (1..).zip(ids.chunks(per_step)) {
            let ids = HostTensor::from_i32(&batches.shape()[1..], ids).map_err(pipeline::runtime)?;
            let feeds = feeds(&ids, &ids, step as f32, recipe.lr as f32)?;
            let fetches = runner.run("train_step", &feeds)?;
            self.record(&fetches, &mut ours)?;
            self.check_weights(step, &runner, report)?;
        }
        self.compare(&ours, report);
        Ok(())
    }

    fn record(&self, fetches: &Fetches, ours: &mut Trace) -> Result<(), Failure> {
        ours.loss.extend(fetched(fetches, "loss")?);
        ours.smax.extend(smax(self.family, fetches)?);
        let prefix = self.family.prefix();
        for layer in 0..self.family.dim("n_layers").unwrap_or(0) {
            ours.gamma.extend(fetched(fetches, &format!("gamma/optimizer.{prefix}.layers.{layer}.attn.gamma"))?);
            let load = format!("load/{prefix}.layers.{layer}.mlp.load");
            if fetches.get(&load).is_some() {
                ours.counts.extend(fetched(fetches, &load)?);
            }
        }
        Ok(())
    }

    /// Expert counts are `[{layer: [count]}]`, one map a step.
    fn expected(&self, key: &str) -> Vec<f64> {
        let mut values = Vec::new();
        flatten(self.trace.get(key).unwrap_or(&Value::Null), &mut values);
        values
    }

    fn compare(&self, ours: &Trace, report: &mut Report) {
        let quantities = [
            ("loss", &ours.loss, LOSS),
            ("smax", &ours.smax, SMAX),
            ("gamma", &ours.gamma, GAMMA),
        ];
        let steps = ours.loss.len().max(1);
        for (key, values, bounds) in quantities {
            let theirs = self.expected(key);
            let early = (EARLY * values.len() / steps).min(values.len()).min(theirs.len());
            for (label, ours, theirs, bound) in [
                ("first 5 steps", &values[..early], &theirs[..early], bounds[0]),
                ("all steps", &values[..], &theirs[..], bounds[1]),
            ] {
                let name = format!("optim.{}.{key}, {label}", self.name);
                report.checks.push(Check::new(name, Measure::MaxAbs, ours, theirs, bound));
            }
        }
        let counts = self.expected("expert_counts");
        if !counts.is_empty() {
            let name = format!("optim.{}.expert_counts", self.name);
            report.checks.push(Check::new(name, Measure::Differing, &ours.counts, &counts, 0.0));
        }
    }

    fn check_weights(&self, step: usize, runner: &Runner, report: &mut Report) -> Result<(), Failure> {
        let file = format!("optim/{}/weights_step{step}.safetensors", self.name);
        let Some(expected) = self.oracle.tensors(&file)? else { return Ok(()) };
        let ours: BTreeMap<String, Vec<f64>> = runner.weights()?;
        let bound = WEIGHTS[usize::from(step > EARLY)];
        let mut worst: Option<Check> = None;
        for (name, theirs) in &expected {
            let mine = ours.get(name).map(Vec::as_slice).unwrap_or_default();
            let label = format!("optim.{}.weights after {step} steps, worst: {name}", self.name);
            let check = Check::new(label, Measure::RelativeL2, mine, &floats(theirs)?, bound);
            if worst.as_ref().is_none_or(|w| check.error > w.error) {
                worst = Some(check);
            }
        }
        report.checks.extend(worst);
        Ok(())
    }
}

/// Every number below a value, maps in key order.
fn flatten(value: &Value, out: &mut Vec<f64>) {
    match value {
        Value::Number(n) => out.extend(n.as_f64()),
        Value::Array(items) => items.iter().for_each(|v| flatten(v, out)),
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort_by_key(|k| k.parse::<u64>().unwrap_or(u64::MAX));
            keys.iter().for_each(|k| flatten(&map[k.as_str()], out));
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// Optimizer settings from `optim/meta.json`.
fn recipe(meta: &Value, clip: bool) -> Result<Recipe, Failure> {
    let number = |path: &str| {
        let found = meta.pointer(path).and_then(Value::as_f64);
        found.ok_or_else(|| Failure::new(Exit::Spec, format!("optim/meta.json lacks `{path}`")))
    };
    Ok(Recipe {
        lr: number("/hp/lr")?,
        tau: if clip { number("/tau")? } else { NEVER },
        momentum: number("/hp/momentum")?,
        nesterov: meta.pointer("/hp/nesterov").and_then(Value::as_bool).unwrap_or(true),
        weight_decay: number("/hp/weight_decay")?,
        norm_weight_decay: number("/adamw_norm_weight_decay")?,
        adam: [number("/adamw/betas/0")?, number("/adamw/betas/1")?, number("/adamw/eps")?],
    })
}
