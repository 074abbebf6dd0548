//! From a checkpoint's `config.json` to the dims of the model that reads it.
//!
//! # Invariants
//! - Which key gives which dim is said in `models/hf/*.ron`, not here.
//! - A key that is missing and has no default is an error that names every spelling tried.

use anyhow::{Context, Result, anyhow, bail};
use perilune_compiler::spec::names::NamesSpec;
use serde_json::Value;

/// Dims in the order of the name table, as RON literals.
pub(super) type Dims = Vec<(String, String)>;

/// Reads every dim the name table asks for.
///
/// # Errors
/// When the model type is not one of the table's, or a key is missing or not a number.
pub(super) fn dims(names: &NamesSpec, config: &Value) -> Result<Dims> {
    let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
    if !names.model_types.iter().any(|t| t == kind) {
        bail!(
            "config.json has model_type `{kind}`; this table reads {}",
            names.model_types.join(", ")
        );
    }
    names
        .config
        .iter()
        .map(|key| {
            let found = key.keys.iter().find_map(|p| lookup(config, p));
            let text = match (found, key.default) {
                (Some(v), _) => {
                    literal(v).with_context(|| format!("`{}` in config.json", key.keys[0]))?
                }
                (None, Some(d)) => ron_float(d),
                (None, None) => bail!("config.json lacks `{}`", key.keys.join("` or `")),
            };
            Ok((key.dim.clone(), text))
        })
        .collect()
}

/// The value at a dotted path; JSON null counts as absent.
fn lookup<'a>(config: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(config, |v, key| v.get(key)).filter(|v| !v.is_null())
}

fn literal(value: &Value) -> Result<String> {
    match value {
        Value::Bool(b) => Ok(u8::from(*b).to_string()),
        Value::Number(n) => match n.as_u64() {
            Some(i) => Ok(i.to_string()),
            None => n.as_f64().map(ron_float).ok_or_else(|| anyhow!("not a finite number")),
        },
        other => bail!("is {other}, not a number"),
    }
}

fn ron_float(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        format!("{value:.0}")
    } else {
        format!("{value:e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_keep_their_value() {
        assert_eq!(ron_float(1e-6), "1e-6");
        assert_eq!(ron_float(50000.0), "50000");
        assert_eq!(literal(&Value::Bool(true)).ok().as_deref(), Some("1"));
        assert!(literal(&Value::String("x".into())).is_err());
    }
}
