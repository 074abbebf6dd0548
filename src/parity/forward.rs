//! Forward, gradients, long positions and greedy decoding against the oracle.
//!
//! # Invariants
//! - Bounds are several times what torch differs from itself or from float64 on the same folder,
//!   and orders below what a modelling mistake costs (0.1 to 5 on a logit).

use perilune_runtime::{Fetches, HostTensor};
use serde_json::Value;

use super::Report;
use super::compare::{Check, Measure};
use super::oracle::{Expected, Oracle, tensor};
use super::runner::{Family, Runner, floats};
use super::spec::Recipe;
use crate::exit::{Exit, Failure};
use crate::pipeline;

/// Logits where the folder does not say how far float32 is from float64.
const LOGITS: f64 = 1e-4;
/// Where it does (`truth64.json`), this many times torch's own distance.
const LOGITS_OVER_TORCH: f64 = 4.5;
/// Mean cross-entropy, nats.
const LOSS: f64 = 2e-6;
/// Per-head maximum logits.
const SMAX: f64 = 1e-4;
/// Relative L2 of a gradient.
const GRADIENT: f64 = 3e-5;
/// Relative L2 of an activation.
const ACTIVATION: f64 = 1e-5;
/// cos, sin and rotary frequencies at short positions.
const ROPE: f64 = 1e-5;
/// Router logits and weights.
const ROUTER: f64 = 2e-5;
/// Logits at position 4096: a float32 angle there is good to 2⁻¹³, so torch is off by this much too.
const LONG_POSITION: f64 = 2e-3;

/// Checks the forward pass and the gradients.
///
/// # Errors
/// When the model cannot be compiled or run.
pub(super) fn check(oracle: &Oracle, family: &Family, report: &mut Report) -> Result<(), Failure> {
    let weights = oracle.need("model.safetensors")?;
    let inputs = oracle.need("inputs.safetensors")?;
    let ids = tensor(&inputs, "input_ids")?;
    let labels = tensor(&inputs, "labels")?;
    let shape = batch_shape(ids)?;
    let mut runner = family.trainer(shape, &Recipe::default(), &weights)?;
    let fetches = runner.run("train_step", &feeds(ids, labels, 1.0, 0.0)?)?;
    if let Some(expected) = oracle.tensors("forward.safetensors")? {
        let truth = oracle.json("truth64.json")?;
        forward(&expected, truth.as_ref(), family, &fetches, report)?;
    }
    if let Some(expected) = oracle.tensors("grads.safetensors")? {
        gradients(&expected, &runner, &fetches, report)?;
    }
    if oracle.path("debug_qkv.safetensors").is_file() {
        let why = "debug_qkv: q and k in transformers' internal order; attn_out covers them";
        report.skipped.push(why.into());
    }
    Ok(())
}

fn forward(
    expected: &Expected,
    truth: Option<&Value>,
    family: &Family,
    fetches: &Fetches,
    report: &mut Report,
) -> Result<(), Failure> {
    let torch = truth.and_then(|t| t.get("logits_max_abs_err_f32")).and_then(Value::as_f64);
    let logits = torch.map_or(LOGITS, |e| e * LOGITS_OVER_TORCH);
    let plain = [
        ("logits", Measure::MaxAbs, logits),
        ("loss", Measure::MaxAbs, LOSS),
        ("ce_per_token", Measure::MaxAbs, logits),
        ("inv_freq", Measure::RelativeL2, ROPE),
        ("cos", Measure::MaxAbs, ROPE),
        ("sin", Measure::MaxAbs, ROPE),
        ("final_norm", Measure::RelativeL2, ACTIVATION),
    ];
    for (name, measure, bound) in plain {
        let Some(theirs) = expected.get(name) else { continue };
        let mut ours = fetched(fetches, name)?;
        if name == "ce_per_token" {
            ours = drop_last_column(&ours, theirs);
        }
        report.checks.push(Check::new(
            format!("forward.{name}"),
            measure,
            &ours,
            &floats(theirs)?,
            bound,
        ));
    }
    per_head_maxima(expected, family, fetches, report)?;
    for layer in 0..family.dim("n_layers").unwrap_or(0) {
        for (name, node) in [("hidden_out", "y"), ("attn_out", "attn.y"), ("mlp_out", "mlp.y")] {
            let Some(theirs) = expected.get(&format!("layer{layer}.{name}")) else { continue };
            let ours =
                fetched(fetches, &format!("{name}/{}.layers.{layer}.{node}", family.prefix()))?;
            let name = format!("forward.layer{layer}.{name}");
            report.checks.push(Check::new(
                name,
                Measure::RelativeL2,
                &ours,
                &floats(theirs)?,
                ACTIVATION,
            ));
        }
        if expected.contains_key(&format!("layer{layer}.router.indices")) {
            router(expected, family, layer, fetches, report)?;
        }
    }
    Ok(())
}

/// The oracle has no value for the last position, which has no target.
fn drop_last_column(ours: &[f64], theirs: &HostTensor) -> Vec<f64> {
    let columns = theirs.shape().last().map_or(1, |c| *c as usize);
    ours.chunks(columns + 1).flat_map(|row| row.iter().take(columns).copied()).collect()
}

fn per_head_maxima(
    expected: &Expected,
    family: &Family,
    fetches: &Fetches,
    report: &mut Report,
) -> Result<(), Failure> {
    let Some(theirs) = expected.get("smax") else { return Ok(()) };
    let ours = smax(family, fetches)?;
    report.checks.push(Check::new("forward.smax", Measure::MaxAbs, &ours, &floats(theirs)?, SMAX));
    if expected.contains_key("smax_unmasked") {
        report.skipped.push("smax_unmasked: QK-clip reads the causal maximum".into());
    }
    Ok(())
}

/// Per-head maximum logits of every layer, layer by layer.
pub(super) fn smax(family: &Family, fetches: &Fetches) -> Result<Vec<f64>, Failure> {
    let layers = 0..family.dim("n_layers").unwrap_or(0);
    let name = |l| format!("smax/{}.layers.{l}.attn.attn.max_logit", family.prefix());
    let per_layer = layers.map(|l| fetched(fetches, &name(l))).collect::<Result<Vec<_>, _>>()?;
    Ok(per_layer.concat())
}

fn router(
    expected: &Expected,
    family: &Family,
    layer: u64,
    fetches: &Fetches,
    report: &mut Report,
) -> Result<(), Failure> {
    let base = format!("{}.layers.{layer}.mlp.router", family.prefix());
    let theirs = |what: &str| floats(tensor(expected, &format!("layer{layer}.router.{what}"))?);
    let logits = fetched(fetches, &format!("router.logits/{base}.logits"))?;
    let indices = fetched(fetches, &format!("router.indices/{base}.top.indices"))?;
    let weights = fetched(fetches, &format!("router.weights/{base}.weights"))?;
    let top_k = family.dim("top_k").unwrap_or(1) as usize;
    let (indices, weights) = by_expert(&indices, &weights, top_k);
    let name = |what: &str| format!("forward.layer{layer}.router.{what}");
    let checks = [
        Check::new(name("logits"), Measure::MaxAbs, &logits, &theirs("logits")?, ROUTER),
        Check::new(name("indices"), Measure::Differing, &indices, &theirs("indices")?, 0.0),
        Check::new(name("weights"), Measure::MaxAbs, &weights, &theirs("weights")?, ROUTER),
    ];
    report.checks.extend(checks);
    Ok(())
}

/// Each token's choices in ascending order of expert, as the oracle lists them.
fn by_expert(indices: &[f64], weights: &[f64], top_k: usize) -> (Vec<f64>, Vec<f64>) {
    let mut sorted = (Vec::new(), Vec::new());
    for (i, w) in indices.chunks(top_k).zip(weights.chunks(top_k)) {
        let mut pairs: Vec<_> = i.iter().copied().zip(w.iter().copied()).collect();
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        sorted.0.extend(pairs.iter().map(|p| p.0));
        sorted.1.extend(pairs.iter().map(|p| p.1));
    }
    sorted
}

fn gradients(
    expected: &Expected,
    runner: &Runner,
    fetches: &Fetches,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut ours = std::collections::BTreeMap::new();
    for (name, values) in fetches.iter() {
        if let Some(param) = name.strip_prefix("grad/") {
            ours.extend(runner.by_checkpoint_name(param, &floats(values)?));
        }
    }
    for (name, theirs) in expected {
        let mine = ours.get(name).map(Vec::as_slice).unwrap_or_default();
        let name = format!("grad.{name}");
        report.checks.push(Check::new(name, Measure::RelativeL2, mine, &floats(theirs)?, GRADIENT));
    }
    Ok(())
}

/// Checks logits with positions that start far out (`longpos.safetensors`: `logits_pos{N}`).
///
/// # Errors
/// When the model cannot be compiled or run.
pub(super) fn check_long_positions(
    oracle: &Oracle,
    family: &Family,
    report: &mut Report,
) -> Result<(), Failure> {
    let Some(expected) = oracle.tensors("longpos.safetensors")? else { return Ok(()) };
    let weights = oracle.need("model.safetensors")?;
    let inputs = oracle.need("inputs.safetensors")?;
    let ids = tensor(&inputs, "input_ids")?;
    for (name, theirs) in &expected {
        let offset = name.strip_prefix("logits_pos").and_then(|n| n.parse().ok());
        let Some(offset) = offset else {
            report.skipped.push(format!("longpos.{name}: not of the form logits_pos<N>"));
            continue;
        };
        let mut runner = family.predictor(batch_shape(ids)?, offset, &weights)?;
        let fetches = runner.run("forward", &[("tokens", ids.clone())])?;
        let ours = fetched(&fetches, "logits")?;
        let name = format!("longpos.{name}");
        report.checks.push(Check::new(
            name,
            Measure::MaxAbs,
            &ours,
            &floats(theirs)?,
            LONG_POSITION,
        ));
    }
    Ok(())
}

/// Checks greedy decoding: tokens exactly, logits of each step. The model is causal, so one
/// compiled length serves every step: positions not yet decoded hold token 0.
///
/// # Errors
/// When the model cannot be compiled or run.
pub(super) fn check_decoding(
    oracle: &Oracle,
    family: &Family,
    report: &mut Report,
) -> Result<(), Failure> {
    let Some(expected) = oracle.tensors("decode.safetensors")? else { return Ok(()) };
    let (prompt, tokens) = (tensor(&expected, "prompt")?, tensor(&expected, "tokens")?);
    let ([batch, start], [_, steps]) = (batch_shape(prompt)?, batch_shape(tokens)?);
    let vocab = family.dim("vocab").unwrap_or(1) as usize;
    let (batch, start, steps) = (batch as usize, start as usize, steps as usize);
    let length = start + steps;
    let weights = oracle.need("model.safetensors")?;
    let mut runner = family.predictor([batch as u64, length as u64], 0, &weights)?;

    let prompt = prompt.to_i32().map_err(pipeline::runtime)?;
    let mut ids = vec![0i32; batch * length];
    for (row, given) in ids.chunks_mut(length).zip(prompt.chunks(start)) {
        row[..start].copy_from_slice(given);
    }
    let mut decoded = vec![0.0; batch * steps];
    let mut logits = vec![0.0; batch * steps * vocab];
    for step in 0..steps {
        let feed = HostTensor::from_i32(&[batch as u64, length as u64], &ids)
            .map_err(pipeline::runtime)?;
        let all = fetched(&runner.run("forward", &[("tokens", feed)])?, "logits")?;
        for b in 0..batch {
            let at = start + step - 1;
            let row = &all[(b * length + at) * vocab..][..vocab];
            let best = argmax(row);
            decoded[b * steps + step] = best as f64;
            logits[(b * steps + step) * vocab..][..vocab].copy_from_slice(row);
            ids[b * length + at + 1] = best as i32;
        }
    }
    let theirs = floats(tokens)?;
    report.checks.push(Check::new("decode.tokens", Measure::Differing, &decoded, &theirs, 0.0));
    let theirs = floats(tensor(&expected, "logits")?)?;
    report.checks.push(Check::new("decode.logits", Measure::MaxAbs, &logits, &theirs, LOGITS));
    Ok(())
}

/// Index of the largest value; the lowest on a tie.
fn argmax(row: &[f64]) -> usize {
    let better = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (0..row.len()).reduce(better).unwrap_or(0)
}

/// Feeds of a training step. Targets are the labels moved one to the left; the last has none.
pub(super) fn feeds(
    ids: &HostTensor,
    labels: &HostTensor,
    step: f32,
    lr: f32,
) -> Result<Vec<(&'static str, HostTensor)>, Failure> {
    let [_, seq] = batch_shape(ids)?;
    let labels = labels.to_i32().map_err(pipeline::runtime)?;
    let shifted = labels.chunks(seq as usize).flat_map(|row| row[1..].iter().copied().chain([-1]));
    let targets: Vec<i32> = shifted.collect();
    Ok(vec![
        ("tokens", ids.clone()),
        ("targets", HostTensor::from_i32(ids.shape(), &targets).map_err(pipeline::runtime)?),
        ("step", HostTensor::scalar_f32(step)),
        ("lr", HostTensor::scalar_f32(lr)),
    ])
}

/// `[batch, seq]` of a batch of token ids.
pub(super) fn batch_shape(ids: &HostTensor) -> Result<[u64; 2], Failure> {
    let found = <[u64; 2]>::try_from(ids.shape()).ok().filter(|s| !s.contains(&0));
    let wrong =
        || Failure::new(Exit::Spec, format!("token ids are {}, not [batch, seq]", ids.type_name()));
    found.ok_or_else(wrong)
}

/// A fetched tensor's values.
pub(super) fn fetched(fetches: &Fetches, name: &str) -> Result<Vec<f64>, Failure> {
    let missing = || Failure::new(Exit::Internal, format!("the derived spec fetches no `{name}`"));
    floats(fetches.get(name).ok_or_else(missing)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_listed_by_expert() {
        let (i, w) = by_expert(&[3.0, 1.0, 0.0, 2.0], &[0.3, 0.1, 0.0, 0.2], 2);
        assert_eq!((i, w), (vec![1.0, 3.0, 0.0, 2.0], vec![0.1, 0.3, 0.0, 0.2]));
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
