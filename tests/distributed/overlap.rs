//! Collectives beside kernels: the same results to the bit, and time that is hidden.

use perilune::schedule::Times;
use perilune_compiler::compile::compile;
use perilune_compiler::elaborate::Elaborated;
use perilune_compiler::lower::Target;
use perilune_plan::{Entry, Link, Machine, Plan, StepOp};

use crate::job::{Case, Outcome};

fn plan(case: &Case, mesh: &str, machine: Option<Machine>) -> Plan {
    let spec = Elaborated { machine, ..case.elaborated(mesh) };
    compile(&spec, Target::Cpu).expect("compiles").plan
}

/// k2-nano in two micro-batches.
fn case() -> Case {
    let mut case = Case::shipped("k2-nano/train.ron", &[("batch", "8")], 3);
    case.edit("k2-nano/train.ron", "accumulate: 1", "accumulate: 2");
    case
}

fn step(plan: &Plan) -> &Entry {
    plan.entries.iter().find(|e| e.name == "train_step").expect("a step")
}

/// Collectives that run beside other steps of the training step.
fn beside(plan: &Plan) -> usize {
    let flies = |op: &StepOp| matches!(op, StepOp::Collective(c) if c.until.is_some());
    step(plan).steps.iter().filter(|step| flies(&step.op)).count()
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
    for (mesh, zero) in [("dp=2,ep=2", 0), ("ep=4", 2), ("dp=2", 1)] {
        let mut case = case();
        case.edit("k2-nano/train.ron", "Train(", &format!("Train(\n    zero: {zero},"));
        let (with, without) =
            (plan(&case, mesh, Some(Machine::default())), plan(&case, mesh, None));
        assert!(beside(&with) > 10, "{mesh}: {} beside kernels", beside(&with));
        assert_eq!(beside(&without), 0);
        equal(&case.run_plan(&with), &case.run_plan(&without), mesh);
    }
}

#[test]
fn an_order_takes_the_room_that_the_machine_gives_it() {
    // So large a batch that activations take more than the update.
    let mut case = case();
    case.sets = vec![("batch".to_owned(), "64".to_owned())];
    let arena = |machine| step(&plan(&case, "ep=2", machine)).arena_bytes as f64;
    let room = |room| Some(Machine { room, ..Machine::default() });
    let (without, tight, wide) = (arena(None), arena(room(1.1)), arena(room(100.0)));
    // A buffer more may be alive when room runs out, and between buffers are gaps.
    assert!(tight <= 1.3 * without, "{tight} of {without}");
    assert!(tight < wide, "{tight} of {wide}");
}

#[test]
fn an_overlapped_step_is_predicted_to_be_faster() {
    let plan = plan(&case(), "ep=2", Some(Machine::default()));
    let times = Times::of(&plan, step(&plan), &Machine::default());
    assert!(times.step_ns < times.in_order_ns && times.hidden() > 0.3, "{times}");
    assert!(times.compute_ns <= times.step_ns);
}

#[test]
fn a_micro_batch_hides_what_the_other_exchanges() {
    let mut case = Case::shipped("k2-tiny/train.ron", &[], 1);
    case.edit("k2-tiny/train.ron", "accumulate: 1", "accumulate: 2");
    let link = Link { latency_ns: 5e5, bytes: 2e8 };
    let machine = Machine { room: 2.0, link, ..Machine::default() };
    let plan = plan(&case, "ep=2", Some(machine.clone()));
    let times = Times::of(&plan, step(&plan), &machine);
    assert!(times.communication_ns > 0.2 * times.compute_ns, "{times}");
    assert!(times.hidden() > 0.9, "{times}");
}
