//! Bytes on the wire: what the communicators count is what the plan says.

use std::collections::BTreeMap;

use perilune_plan::{CollectiveKind, Plan, Sent, StepOp};

use crate::job::{Case, Outcome};

const STEPS: u64 = 3;
/// Experts of a rank, and choices of a token.
const EXPERTS: i32 = 2;
const TOP_K: usize = 2;

/// What leaves a rank for another: rows, and tokens that have some of them.
#[derive(Clone, Copy, Debug, Default)]
struct Leaving {
    rows: u64,
    tokens: u64,
}

/// Bytes that a rank sends in one step, by kind.
fn predicted(
    plan: &Plan,
    rank: u32,
    leaving: &dyn Fn(CollectiveKind) -> Leaving,
) -> BTreeMap<String, u64> {
    let entry = plan.entries.iter().find(|e| e.name == "train_step").expect("a step");
    let mut sent: BTreeMap<String, u64> = BTreeMap::new();
    for step in &entry.steps {
        let StepOp::Collective(collective) = &step.op else { continue };
        let Leaving { rows, tokens } = leaving(collective.kind);
        let bytes = match collective.sent(entry, &plan.mesh, rank) {
            Sent::Bytes(bytes) => bytes,
            Sent::Rows { row, most } => {
                assert!(rows <= most, "{rows} of {most} rows");
                row * rows
            }
            Sent::Tokens { fixed, row, place, most } => {
                assert!(rows <= most && tokens <= rows, "{tokens} tokens, {rows} of {most} rows");
                fixed + row * tokens + place * rows
            }
        };
        *sent.entry(collective.kind.name().to_owned()).or_default() += bytes;
    }
    sent
}

/// What rank `from` has for the experts of the ranks at `to` along `ep`.
fn between(ranks: &[Outcome], step: usize, (from, to): (u32, u32)) -> Leaving {
    let name = "indices/model.layers.1.mlp.router.top.indices";
    let indices = ranks[from as usize].steps[step][name].to_i32().expect("indices");
    let there = |i: &&i32| **i / EXPERTS == to as i32;
    let rows = indices.iter().filter(there).count() as u64;
    let tokens = indices.chunks(TOP_K).filter(|choices| choices.iter().any(|i| there(&i)));
    Leaving { rows, tokens: tokens.count() as u64 }
}

#[test]
fn bytes_counted_are_bytes_predicted() {
    let mut case = Case::shipped("k2-nano/train.ron", &[("batch", "8")], STEPS);
    let metric = r#""indices": "model.layers.*.mlp.router.top.indices","#;
    case.edit("k2-nano/train.ron", "metrics: {", &format!("metrics: {{ {metric}"));
    let (mesh, ep) = ("dp=2,ep=2", 2);
    let plan = case.plan(mesh);
    let ranks = case.run(mesh);
    let mut all = Leaving::default();
    for (rank, outcome) in ranks.iter().enumerate() {
        let rank = rank as u32;
        let other = rank / ep * ep + 1 - rank % ep;
        let mut want: BTreeMap<String, u64> = BTreeMap::new();
        for step in 0..STEPS as usize {
            let out = between(&ranks, step, (rank, other % ep));
            let back = between(&ranks, step, (other, rank % ep));
            let leaving = |kind| match kind {
                CollectiveKind::Combine { .. } => back,
                _ => out,
            };
            all.rows += out.rows;
            all.tokens += out.tokens;
            for (name, bytes) in predicted(&plan, rank, &leaving) {
                *want.entry(name).or_default() += bytes;
            }
        }
        assert_eq!(outcome.sent, want, "rank {rank}");
        assert!(["dispatch", "dispatch_tokens", "combine"].iter().all(|name| want[*name] > 0));
    }
    assert!(all.tokens < all.rows, "no token has two experts on one rank: {all:?}");
}
