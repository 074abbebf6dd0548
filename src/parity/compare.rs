//! One comparison: a quantity, its error, its bound and the verdict.
//!
//! # Invariants
//! - A non-finite value on either side fails, whatever the bound.
//! - Quantities of different sizes fail with an infinite error; nothing is truncated.

use serde::Serialize;

/// A checked quantity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// `forward.logits`, `grad.model.layers.0.…`
    pub name: String,
    /// How far off; `null` in JSON when it is not finite.
    pub error: f64,
    /// How far off it may be.
    pub bound: f64,
    /// `error ≤ bound`.
    pub ok: bool,
}

/// How an error is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Largest absolute difference.
    MaxAbs,
    /// ‖ours − theirs‖₂ / ‖theirs‖₂; the absolute norm where theirs is zero.
    RelativeL2,
    /// Number of elements that differ at all.
    Differing,
}

impl Check {
    /// Compares two lists of values.
    pub fn new(
        name: impl Into<String>,
        measure: Measure,
        ours: &[f64],
        theirs: &[f64],
        bound: f64,
    ) -> Self {
        let error = error(measure, ours, theirs);
        Check { name: name.into(), error, bound, ok: error <= bound }
    }
}

fn error(measure: Measure, ours: &[f64], theirs: &[f64]) -> f64 {
    let finite = |v: &[f64]| v.iter().all(|x| x.is_finite());
    if ours.len() != theirs.len() || !finite(ours) || !finite(theirs) {
        return f64::INFINITY;
    }
    let pairs = ours.iter().zip(theirs);
    match measure {
        Measure::MaxAbs => pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max),
        Measure::Differing => pairs.filter(|(a, b)| a != b).count() as f64,
        Measure::RelativeL2 => {
            let off = pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
            let norm = theirs.iter().map(|b| b * b).sum::<f64>().sqrt();
            if norm > 0.0 { off / norm } else { off }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_measured_as_named() {
        let (a, b) = ([1.0, 2.0, 5.0], [1.0, 2.5, 4.0]);
        assert_eq!(error(Measure::MaxAbs, &a, &b), 1.0);
        assert_eq!(error(Measure::Differing, &a, &b), 2.0);
        let relative = error(Measure::RelativeL2, &a, &b);
        assert!((relative - (1.25f64 / 23.25).sqrt()).abs() < 1e-12, "{relative}");
    }

    #[test]
    fn sizes_and_non_finite_values_fail() {
        assert!(!Check::new("x", Measure::MaxAbs, &[1.0], &[1.0, 2.0], 1e9).ok);
        assert!(!Check::new("x", Measure::MaxAbs, &[f64::NAN], &[1.0], 1e9).ok);
        assert!(!Check::new("x", Measure::RelativeL2, &[1.0], &[f64::INFINITY], 1e9).ok);
    }
}
