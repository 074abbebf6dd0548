//! Shipped training steps on meshes of data and expert parallel ranks.

use crate::job::{Case, compare};

/// How far a value may be from that of one rank after twenty steps: sums are taken in another
/// order, and Newton–Schulz carries the difference on.
pub(crate) const BOUND: f64 = 5e-4;

/// k2-nano with every mechanism of Kimi-K2 that crosses ranks: the router's bias, the balance loss,
/// a clip that fires, QK-clip with memory.
pub(crate) fn nano(sets: &[(&str, &str)], edits: &[(&str, &str)], steps: u64) -> Case {
    let mut case = Case::shipped("k2-nano/train.ron", sets, steps);
    let stateful = r#""d_ff": 48, "bias_update_rate": 0.01, "aux_alpha": 0.01"#;
    case.edit("k2-nano/model.ron", r#""d_ff": 48"#, stateful);
    case.edit("k2-nano/train.ron", "tau: 7.0", "smoothing: 0.9, tau: 0.01");
    case.edit("k2-nano/train.ron", "clip_grad_norm: None", "clip_grad_norm: Some(0.5)");
    for (from, to) in edits {
        case.edit("k2-nano/train.ron", from, to);
    }
    case
}

#[test]
fn data_parallel_ranks_take_the_steps_of_one_rank() {
    let case = nano(&[("batch", "8")], &[], 20);
    let one = case.run("").remove(0);
    assert_eq!(one.steps.len(), 20);
    for mesh in ["dp=2", "dp=4"] {
        compare(&one, &case.run(mesh), BOUND, mesh);
    }
}

#[test]
fn expert_parallel_ranks_take_the_steps_of_one_rank() {
    let case = nano(&[("batch", "8")], &[], 20);
    let one = case.run("").remove(0);
    for mesh in ["ep=2", "ep=4", "dp=2,ep=2", "dp=2,ep=4", "dp=4,ep=2"] {
        compare(&one, &case.run(mesh), BOUND, mesh);
    }
}

#[test]
fn micro_batches_are_cut_over_the_ranks_each_by_itself() {
    let case = nano(&[("batch", "4")], &[("accumulate: 1", "accumulate: 3")], 6);
    let one = case.run("").remove(0);
    for mesh in ["dp=2", "dp=2,ep=2"] {
        compare(&one, &case.run(mesh), BOUND, mesh);
    }
}

#[test]
fn a_rank_holds_its_experts_and_their_state_alone() {
    let case = nano(&[("batch", "4")], &[], 1);
    let bytes = |mesh: &str| case.run(mesh).remove(0).tensor_bytes;
    let (one, four) = (bytes(""), bytes("ep=4"));
    // Gate, up and down, and a momentum for each: 4 experts of 16 × 32, three of which are elsewhere.
    let experts = 2 * 3 * 4 * 16 * 32 * 4;
    assert_eq!(one - four, experts / 4 * 3);
}
