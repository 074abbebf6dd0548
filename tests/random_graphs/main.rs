//! Random graphs, fused and unfused on the CPU, against their reference in f64.
//!
//! Every fusion rule must have merged something and every reason must have been given by the end:
//! what never happens here is not tested.
//!
//! # Invariants
//! - The cases follow from a fixed seed; `PROPTEST_RNG_SEED` chooses others.

mod found;
mod grow;
mod run;
mod steps;

use std::collections::BTreeMap;
use std::sync::Mutex;

use perilune_compiler::program::{Decision, Reason, Rule};
use perilune_compiler::tensor::Tensor;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use grow::{EXTENTS, Grown, Recipe, grow};
use run::{compile, run};

/// Graphs in each of two halves, which run side by side.
const HALF: u32 = 260;

/// How often each rule merged and each reason was given.
#[derive(Default)]
struct Counts {
    graphs: usize,
    rules: BTreeMap<Rule, usize>,
    reasons: BTreeMap<Reason, usize>,
}

impl Counts {
    fn add(&mut self, decisions: &[Decision]) {
        self.graphs += 1;
        for d in decisions {
            *self.reasons.entry(d.reason).or_default() += 1;
            if d.reason == Reason::Fused {
                *self.rules.entry(d.rule).or_default() += 1;
            }
        }
    }
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let extents = prop::array::uniform3(0..EXTENTS.len());
    let steps = prop::collection::vec(any::<grow::Picks>(), 1..28);
    (extents, any::<u64>(), steps).prop_map(|(extents, seed, steps)| Recipe {
        extents,
        seed,
        steps,
    })
}

/// What is off in a result, if anything.
fn difference(case: &Grown, got: &[Tensor]) -> Option<String> {
    for (i, (got, (want, bound))) in got.iter().zip(&case.wanted).enumerate() {
        if got.shape != want.shape {
            return Some(format!("output {i} is {:?}", got.shape));
        }
        for (at, (x, y)) in got.data.iter().zip(&want.data).enumerate() {
            let same = x == y || x.is_nan() && y.is_nan();
            let close = (x - y).abs() <= *bound;
            if !same && !close {
                let target = &case.graph.outputs[i].1;
                return Some(format!(
                    "element {at} of {target:?} is {x:e} instead of {y:e}, bound {bound:e}"
                ));
            }
        }
    }
    None
}

/// Runs a graph fused and unfused; gives the decisions.
fn check(case: &Grown) -> Result<Vec<Decision>, String> {
    let mut all = Vec::new();
    for (how, fused) in [("unfused", false), ("fused", true)] {
        let outcome = compile(&case.graph, fused).and_then(|(plan, decisions)| {
            all = decisions;
            run(plan, &case.graph, &case.inputs)
        });
        let off = outcome.map_or_else(Some, |got| difference(case, &got));
        if let Some(off) = off {
            return Err(format!("{how}: {off}\n{}", case.graph));
        }
    }
    Ok(all)
}

fn explore(half: u64, counts: &Mutex<Counts>) {
    let mut config = Config {
        cases: HALF,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    config.rng_seed = match config.rng_seed {
        RngSeed::Fixed(seed) => RngSeed::Fixed(2 * seed + half),
        RngSeed::Random => RngSeed::Fixed(half),
    };
    let outcome = TestRunner::new(config).run(&recipes(), |recipe| {
        let decisions = check(&grow(&recipe)).map_err(TestCaseError::fail)?;
        counts.lock().unwrap_or_else(|e| e.into_inner()).add(&decisions);
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn random_graphs_mean_the_same_fused_and_unfused() {
    let counts = Mutex::new(Counts::default());
    std::thread::scope(|scope| {
        for half in 0..2 {
            let counts = &counts;
            scope.spawn(move || explore(half, counts));
        }
    });
    let counts = counts.into_inner().expect("no half failed");
    assert!(counts.graphs >= 500, "{} graphs", counts.graphs);
    // A prologue is judged and never taken; its reason is among those below. Sharding has its own
    // tests, in tests/distributed.
    let merging = |rule: &&Rule| !matches!(rule, Rule::Prologue | Rule::Sharding);
    for rule in Rule::ALL.iter().filter(merging) {
        assert!(counts.rules.contains_key(rule), "{rule:?} never merged: {:?}", counts.rules);
    }
    for reason in Reason::ALL.iter().filter(|reason| reason.code().starts_with('F')) {
        let code = reason.code();
        assert!(
            counts.reasons.contains_key(reason),
            "{code} was never given: {:?}",
            counts.reasons
        );
    }
}
