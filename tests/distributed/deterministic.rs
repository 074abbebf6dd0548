//! A declared order of sums: the same bits whatever the number of expert parallel ranks.

use perilune_runtime::shards;

use crate::job::{Case, Outcome};
use crate::meshes::nano;

/// Whether a rank saw and holds exactly what one rank does.
fn assert_same_bits(one: &Outcome, ranks: &[Outcome], what: &str) {
    for (rank, outcome) in ranks.iter().enumerate() {
        for (step, (want, got)) in one.steps.iter().zip(&outcome.steps).enumerate() {
            for (name, value) in want {
                let place = (&outcome.mesh, outcome.rank);
                let want = match outcome.cuts.get(name) {
                    None => value.clone(),
                    Some(shard) => shards::part(value, shard, place).expect("a part"),
                };
                assert!(want == got[name], "{what}, rank {rank}, step {step}: `{name}` differs");
            }
        }
        let differs = |(name, value): &(&String, &_)| **value != outcome.tensors[*name];
        let off: Vec<&String> = one.tensors.iter().filter(differs).map(|(name, _)| name).collect();
        assert!(off.is_empty(), "{what}, rank {rank}: {off:?} differ");
        assert_eq!(one.eval.to_bits(), outcome.eval.to_bits(), "{what}, rank {rank}: eval differs");
    }
}

#[test]
fn sums_over_declared_slices_are_equal_to_the_bit_over_expert_parallel_ranks() {
    let edit = ("metrics: {", "reduction_slices: 8, metrics: {");
    let case = nano(&[("batch", "8"), ("seq", "20")], &[edit], 6);
    let one = case.run("").remove(0);
    for mesh in ["ep=2", "ep=4"] {
        assert_same_bits(&one, &case.run(mesh), mesh);
    }
    assert_same_bits(&one, &case.run(""), "again");
    let two = case.run("dp=2").remove(0);
    for mesh in ["dp=2,ep=2", "dp=2,ep=4"] {
        assert_same_bits(&two, &case.run(mesh), mesh);
    }
}

#[test]
fn slices_and_micro_batches_and_zero_go_together() {
    let edits = [
        ("metrics: {", "reduction_slices: 4, zero: 2, metrics: {"),
        ("accumulate: 1", "accumulate: 2"),
    ];
    let case = nano(&[("batch", "4"), ("seq", "20")], &edits, 3);
    let two = case.run("dp=2").remove(0);
    assert_same_bits(&two, &case.run("dp=2,ep=2"), "dp=2,ep=2");
}

#[test]
fn norms_over_experts_are_summed_in_the_same_parts_whatever_ranks_hold_them() {
    let edits = [
        ("norm_weight_decay: 0.0", "norm_weight_decay: 0.0, tau: 0.25, tau_end: 0.25"),
        ("clip_grad_norm: None", "clip_grad_norm: Some(0.5)"),
        ("metrics: {", "reduction_slices: 4, metrics: {"),
    ];
    let mut case = Case::shipped("k2-tiny/train.ron", &[("batch", "4"), ("seq", "32")], 1);
    edits.iter().for_each(|(from, to)| case.edit("k2-tiny/train.ron", from, to));
    let one = case.run("").remove(0);
    assert_same_bits(&one, &case.run("ep=2"), "ep=2");
}
