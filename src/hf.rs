//! Hugging Face checkpoints: which of their tensors make up each of ours.
//!
//! # Invariants
//! - The correspondence is data (`models/hf/*.ron`), read in order: the first rule whose names the
//!   checkpoint has wins.
//! - Strict: a tensor of ours without a source, one of theirs without a use, or a shape that does
//!   not fit is an error that lists all of them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use perilune_compiler::spec::names::NamesSpec;

/// One of our tensors and the checkpoint tensors it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Our path, `model.layers.1.mlp.gate_proj`.
    pub ours: String,
    /// Our shape.
    pub shape: Vec<u64>,
    /// One name, or one per index of dimension 0.
    pub theirs: Vec<String>,
    /// Whether `theirs` are stacked on dimension 0.
    pub stacked: bool,
}

impl Mapped {
    /// Our values cut into those of each checkpoint tensor.
    pub fn split(&self, values: &[f64]) -> Vec<(String, Vec<f64>)> {
        let part = values.len() / self.theirs.len().max(1);
        let parts = values.chunks(part.max(1)).map(<[f64]>::to_vec);
        self.theirs.iter().cloned().zip(parts).collect()
    }

    /// Shape each of `theirs` must have.
    pub fn part_shape(&self) -> &[u64] {
        if self.stacked { &self.shape[1..] } else { &self.shape }
    }
}

/// Maps our tensors (path and shape) onto a checkpoint's (name and shape).
///
/// # Errors
/// Lists every tensor that does not fit.
pub fn map_tensors(
    names: &NamesSpec,
    ours: &[(String, Vec<u64>)],
    theirs: &BTreeMap<String, Vec<u64>>,
) -> Result<Vec<Mapped>> {
    let mut problems = Vec::new();
    let mut used = BTreeSet::new();
    let mut mapped = Vec::new();
    for (path, shape) in ours {
        let Some(found) = source_of(names, path, shape, theirs) else {
            problems.push(format!("`{path}` has no source in the checkpoint"));
            continue;
        };
        for name in &found.theirs {
            used.insert(name.clone());
            let have = &theirs[name];
            if have != found.part_shape() {
                problems
                    .push(format!("`{name}` is {have:?}, `{path}` needs {:?}", found.part_shape()));
            }
        }
        mapped.push(found);
    }
    let unused = theirs.keys().filter(|n| !used.contains(*n));
    problems.extend(unused.map(|n| format!("`{n}` in the checkpoint has no use in the model")));
    if problems.is_empty() {
        return Ok(mapped);
    }
    bail!("the checkpoint does not fit the model:\n  {}", problems.join("\n  "))
}

fn source_of(
    names: &NamesSpec,
    path: &str,
    shape: &[u64],
    theirs: &BTreeMap<String, Vec<u64>>,
) -> Option<Mapped> {
    let inner = path.strip_prefix(&names.prefix)?.strip_prefix('.')?;
    names.tensors.iter().find_map(|rule| {
        let layer = capture(&rule.path, inner)?;
        let name = rule.name.replace("{i}", layer);
        let stacked = name.contains("{e}");
        let parts: Vec<String> = match stacked {
            true => (0..*shape.first()?).map(|e| name.replace("{e}", &e.to_string())).collect(),
            false => vec![name],
        };
        let all = !parts.is_empty() && parts.iter().all(|p| theirs.contains_key(p));
        all.then(|| Mapped { ours: path.to_owned(), shape: shape.to_vec(), theirs: parts, stacked })
    })
}

/// What `{i}` of a pattern stands for in a path: digits, or nothing if the pattern has no `{i}`.
fn capture<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, after)) = pattern.split_once("{i}") else {
        return (pattern == path).then_some("");
    };
    let middle = path.strip_prefix(before)?.strip_suffix(after)?;
    (!middle.is_empty() && middle.bytes().all(|b| b.is_ascii_digit())).then_some(middle)
}

#[cfg(test)]
mod tests {
    use super::capture;

    #[test]
    fn a_layer_index_is_digits_only() {
        assert_eq!(capture("layers.{i}.attn.o_proj", "layers.12.attn.o_proj"), Some("12"));
        assert_eq!(capture("layers.{i}.mlp.down_proj", "layers.1.mlp.shared.down_proj"), None);
        assert_eq!(capture("norm.weight", "norm.weight"), Some(""));
        assert_eq!(capture("norm.weight", "layers.0.norm.weight"), None);
    }
}
