//! ZeRO: what replicas divide, they compute as before.

use perilune_plan::{CollectiveKind, Plan, StepOp, TensorKind};

use crate::job::{Case, compare};
use crate::meshes::{BOUND, nano};

/// How often a step of a plan exchanges in some way.
fn count(plan: &Plan, wanted: impl Fn(CollectiveKind) -> bool) -> usize {
    let entry = plan.entries.iter().find(|e| e.name == "train_step").expect("a step");
    let kinds = entry.steps.iter().filter_map(|step| match &step.op {
        StepOp::Collective(collective) => Some(collective.kind),
        _ => None,
    });
    kinds.filter(|kind| wanted(*kind)).count()
}

#[test]
fn state_and_updates_on_one_replica_each_give_the_steps_of_one_rank() {
    for (stage, steps) in [("zero: 1,", 8), ("zero: 2,", 8)] {
        let case =
            nano(&[("batch", "8")], &[("metrics: {", &format!("{stage} metrics: {{"))], steps);
        let one = case.run("").remove(0);
        for mesh in ["dp=2", "dp=2,ep=2", "dp=4,ep=2"] {
            compare(&one, &case.run(mesh), BOUND, &format!("{stage} on {mesh}"));
        }
    }
}

#[test]
fn stage_two_sums_gradients_on_their_owners_alone() {
    let plan = |stage: &str| {
        let edit = format!("{stage} metrics: {{");
        nano(&[("batch", "8")], &[("metrics: {", &edit)], 1).plan("dp=4")
    };
    let reduces = |plan: &Plan| count(plan, |kind| matches!(kind, CollectiveKind::Reduce(_)));
    let broadcasts = |plan: &Plan| count(plan, |kind| kind == CollectiveKind::Broadcast);
    let [none, one, two] = ["", "zero: 1,", "zero: 2,"].map(plan);
    assert_eq!((reduces(&none), broadcasts(&none), reduces(&one)), (0, 0, 0));
    assert!(broadcasts(&one) > 0 && reduces(&two) > 0 && broadcasts(&two) > 0);
}

#[test]
fn state_is_divided_evenly_and_whole_matrices_stay_whole() {
    let edit = ("metrics: {", "zero: 1, metrics: {");
    let case = nano(&[("batch", "8")], &[edit], 1);
    let plan = case.plan("dp=4");
    let state = plan.tensors.iter().filter(|t| t.kind == TensorKind::State);
    let bytes = |rank: u32| -> u64 {
        let held = state.clone().filter(|t| plan.mesh.among(rank, t.owner.as_ref()));
        held.map(|t| t.elems() * t.dtype.bytes()).sum()
    };
    let all: u64 = state.clone().map(|t| t.elems() * t.dtype.bytes()).sum();
    for rank in 0..4 {
        assert!(bytes(rank) < all * 2 / 5, "rank {rank} holds {} of {all} bytes", bytes(rank));
    }
    assert!(state.clone().all(|t| t.shard.is_none()), "no matrix is cut");
    let owned = state.clone().filter(|t| t.owner.is_some()).count();
    // QK-clip's memory belongs to no parameter: every rank keeps it.
    assert_eq!(owned + 2, state.count());
}

#[test]
fn state_falls_with_the_number_of_replicas() {
    let edit = ("metrics: {", "zero: 1, metrics: {");
    let mut case = Case::shipped("k2-tiny/train.ron", &[("batch", "8"), ("seq", "32")], 1);
    case.edit("k2-tiny/train.ron", edit.0, edit.1);
    let held = |mesh: &str| -> Vec<u64> {
        let plan = case.sketch(mesh);
        (0..plan.mesh.ranks() as u32).map(|rank| plan.memory(rank, &|_| true).state).collect()
    };
    let alone = held("dp=1")[0];
    for (mesh, replicas) in [("dp=2", 2), ("dp=4", 4), ("dp=2,ep=2", 4)] {
        let held = held(mesh);
        let most = held.iter().max().expect("ranks") * replicas;
        // Matrices stay whole, so that a share is not exact.
        assert!(most < alone * 23 / 20, "{mesh}: {held:?} of {alone}");
        assert!(held.iter().sum::<u64>() >= alone, "{mesh}: nothing is lost");
    }
}
