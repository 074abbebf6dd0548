//! A session's tensors go to disk and come back, or nothing is set.

use perilune_plan::{DType, FORMAT_VERSION, Mesh, Plan, TensorDecl, TensorKind};
use perilune_runtime::io::checkpoint::{DataCursor, Snapshot, Store};
use perilune_runtime::{HostTensor, Options, RuntimeError, Session};

/// A session that only keeps tensors, `w` with the given extent.
fn session(w: u64) -> Session {
    let decl = |name: &str, dtype, shape: &[u64], kind| TensorDecl {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        kind,
        shard: None,
        owner: None,
    };
    let plan = Plan {
        format: FORMAT_VERSION,
        name: "test".to_owned(),
        target: "cpu".to_owned(),
        mesh: Mesh::default(),
        machine: None,
        tensors: vec![
            decl("bias", DType::f32, &[2], TensorKind::Buffer),
            decl("w", DType::bf16, &[w, 2], TensorKind::Param),
            decl("w/momentum", DType::f32, &[w, 2], TensorKind::State),
        ],
        kernels: Vec::new(),
        entries: Vec::new(),
        nodes: Vec::new(),
    };
    Session::new(plan, Options::default()).expect("a plan without entries")
}

fn filled(value: f32) -> Session {
    let mut session = session(3);
    for (name, dtype, shape) in [
        ("bias", DType::f32, &[2][..]),
        ("w", DType::bf16, &[3, 2]),
        ("w/momentum", DType::f32, &[3, 2]),
    ] {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: u64| value + i as f32).collect();
        let tensor = HostTensor::from_f32(shape, &values).and_then(|t| t.cast(dtype));
        session.set_tensor(name, &tensor.expect("fills")).expect("the plan's type");
    }
    session
}

fn tensors(session: &Session) -> Vec<HostTensor> {
    let names = session.plan().tensors.iter();
    names.map(|decl| session.tensor(&decl.name).expect("the plan has it")).collect()
}

#[test]
fn a_session_resumes_from_the_newest_checkpoint() {
    let folder = tempfile::tempdir().expect("temp dir");
    let mut store = Store::new(folder.path(), 2).expect("a store");
    for step in 1..=3 {
        let data = DataCursor { source: "text".to_owned(), seed: 5, step: step + 1 };
        let snapshot = Snapshot::of(&filled(step as f32), step, "hash", data).expect("taken");
        assert!(snapshot.weights.keys().eq(["bias", "w"]) && snapshot.state.len() == 1);
        store.save(&snapshot).expect("saved");
    }
    let loaded = store.load_newest().expect("valid").expect("there is one");
    loaded.snapshot.expect_plan("hash").expect("the same plan");
    assert_eq!((loaded.snapshot.step, loaded.snapshot.data.step), (3, 4));
    let mut resumed = session(3);
    loaded.snapshot.restore(&mut resumed).expect("restored");
    assert_eq!(tensors(&resumed), tensors(&filled(3.0)));
}

#[test]
fn a_snapshot_that_does_not_fit_sets_nothing() {
    let snapshot = Snapshot::of(&filled(1.0), 1, "hash", DataCursor::default()).expect("taken");
    let mut wider = session(4);
    let before = tensors(&wider);
    let error = snapshot.restore(&mut wider).expect_err("`w` has another shape");
    assert!(matches!(&error, RuntimeError::TensorType { name, .. } if name == "w"), "{error}");
    assert_eq!(tensors(&wider), before);
    let mut lacking = snapshot;
    lacking.state.clear();
    let mut session = session(3);
    let error = lacking.restore(&mut session).expect_err("the momentum is lost");
    assert!(matches!(&error, RuntimeError::UnknownTensor { name } if name == "w/momentum"));
}

#[test]
fn a_cleared_store_has_no_checkpoint_and_takes_new_ones() {
    let folder = tempfile::tempdir().expect("temp dir");
    let mut store = Store::new(folder.path(), 2).expect("a store");
    store.clear().expect("nothing to do");
    for value in [1.0, 2.0] {
        let snapshot = Snapshot::of(&filled(value), 4, "hash", DataCursor::default());
        store.save(&snapshot.expect("taken")).expect("saved");
        assert_eq!(store.steps().expect("listed"), [4]);
        store.clear().expect("cleared");
        assert!(store.steps().expect("listed").is_empty());
        assert!(store.load_newest().expect("no damage").is_none());
    }
}
