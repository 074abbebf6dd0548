//! Collectives beside kernels: the same results to the bit, and time that is hidden.

use perilune_compiler::compile::compile;
use perilune_compiler::lower::Target;
use perilune_plan::{Plan, StepOp};

use crate::job::{Case, Outcome};

fn plan(case: &Case, mesh: &str, overlap: bool) -> Plan {
    let mut spec = case.elaborated(mesh);
    if !overlap {
        spec.machine = None;
    }
    compile(&spec, Target::Cpu).expect("compiles").plan
}

/// Collectives that run beside other steps of the training step.
fn beside(plan: &Plan) -> usize {
    let entry = plan.entries.iter().find(|e| e.name == "train_step").expect("a step");
    let flies = |op: &StepOp| matches!(op, StepOp::Collective(c) if c.until.is_some());
    entry.steps.iter().filter(|step| flies(&step.op)).count()
}

fn equal(a: &[Outcome], b: &[Outcome], what: &str) {
    for (rank, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(a.steps == b.steps, "{what}, rank {rank}: fetches differ");
        assert!(a.tensors == b.tensors, "{what}, rank {rank}: tensors differ");
        assert_eq!(a.sent, b.sent, "{what}, rank {rank}: bytes differ");
    }
}

#[test]
fn collectives_beside_kernels_change_no_bit() {
    let mut case = Case::shipped("k2-nano/train.ron", &[("batch", "8")], 3);
    case.edit("k2-nano/train.ron", "accumulate: 1", "accumulate: 2");
    for (mesh, zero) in [("dp=2,ep=2", 0), ("ep=4", 2), ("dp=2", 1)] {
        let mut case = case.clone();
        case.edit("k2-nano/train.ron", "Train(", &format!("Train(\n    zero: {zero},"));
        let (with, without) = (plan(&case, mesh, true), plan(&case, mesh, false));
        assert!(beside(&with) > 10, "{mesh}: {} beside kernels", beside(&with));
        assert_eq!(beside(&without), 0);
        equal(&case.run_plan(&with), &case.run_plan(&without), mesh);
    }
}
