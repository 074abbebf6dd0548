//! Sessions: persistent tensors, feeds, bad plans.

use perilune_plan::{
    Attention, AttentionShape, Buffer, Contract, DType, FeedDecl, FetchDecl, HeadsView, KernelDecl,
    KernelParam, Launch, Loop, Place, Plan, StepOp, TensorDecl, TensorKind,
};
use perilune_runtime::{HostTensor, Options, RuntimeError, Session};

use crate::support::{PlanBuilder, noise_tensor, whole};

/// `state ← x`, and `x` is fetched as `r0`.
fn keeper() -> PlanBuilder {
    let mut builder = PlanBuilder::new();
    let x = builder.feed(DType::f32, &[3]);
    builder.plan.tensors.push(TensorDecl {
        name: "state".to_owned(),
        dtype: DType::f32,
        shape: vec![3],
        kind: TensorKind::State,
        shard: None,
        owner: None,
    });
    builder.entry().buffers.push(Buffer { dtype: DType::f32, elems: 3, place: Place::Tensor(0) });
    let state = builder.entry().buffers.len() as u32 - 1;
    builder.step(StepOp::Copy { src: x, dst: state });
    builder.fetch(state, &[3]);
    let mut reader = builder.plan.entries[0].clone();
    reader.name = "read".to_owned();
    reader.steps.clear();
    reader.feeds.clear();
    reader.buffers.remove(0);
    reader.fetches[0].buffer = 0;
    builder.plan.entries.push(reader);
    builder
}

fn open(plan: Plan) -> Result<Session, RuntimeError> {
    Session::new(plan, Options { threads: Some(2), profile: true, ..Options::default() })
}

#[test]
fn persistent_tensors_are_shared_by_entries_and_set_by_name() {
    let mut session = open(keeper().plan).expect("the plan is valid");
    let x = noise_tensor(1, &[3]);
    let zeros = session.tensor("state").and_then(|t| t.to_f32());
    assert_eq!(zeros.ok(), Some(vec![0.0; 3]));
    session.run("main", &[("f0", &x)]).expect("it runs");
    assert_eq!(session.tensor("state").ok(), Some(x.clone()));
    let read = session.run("read", &[]).expect("it runs");
    assert_eq!(read.get("r0"), Some(&x));
    let y = noise_tensor(2, &[3]);
    session.set_tensor("state", &y).expect("the type fits");
    assert_eq!(session.run("read", &[]).expect("it runs").get("r0"), Some(&y));
    assert_eq!(session.profile().by_node()[0].name, "test.node");
    assert_eq!(session.memory().tensors, 64);
}

#[test]
fn wrong_feeds_and_names_are_typed_errors() {
    let mut session = open(keeper().plan).expect("the plan is valid");
    let x = noise_tensor(1, &[3]);
    let wide = noise_tensor(1, &[4]);
    let ints = HostTensor::from_i32(&[3], &[1, 2, 3]).expect("the shape fits");
    let run = |session: &mut Session, feeds: &[(&str, &HostTensor)]| session.run("main", feeds);
    use RuntimeError as E;
    assert!(matches!(run(&mut session, &[]), Err(E::MissingFeed { .. })));
    assert!(matches!(run(&mut session, &[("f0", &wide)]), Err(E::FeedType { .. })));
    assert!(matches!(run(&mut session, &[("f0", &ints)]), Err(E::FeedType { .. })));
    let twice = [("f0", &x), ("f0", &x)];
    assert!(matches!(run(&mut session, &twice), Err(E::RepeatedFeed { .. })));
    let more = [("f0", &x), ("f9", &x)];
    assert!(matches!(run(&mut session, &more), Err(E::UnknownFeed { .. })));
    assert!(matches!(session.run("none", &[]), Err(E::UnknownEntry { .. })));
    assert!(matches!(session.tensor("none"), Err(E::UnknownTensor { .. })));
    assert!(matches!(session.set_tensor("state", &wide), Err(E::TensorType { .. })));
    let untouched = session.tensor("state").and_then(|t| t.to_f32());
    assert_eq!(untouched.ok(), Some(vec![0.0; 3]));
}

#[test]
fn a_fetch_that_must_be_finite_is_checked() {
    let options = Options { check_finite: vec!["r0".to_owned()], ..Options::default() };
    let mut session = Session::new(keeper().plan, options).expect("the plan is valid");
    let bad = HostTensor::from_f32(&[3], &[0.0, f32::NAN, 1.0]).expect("the shape fits");
    let error = session.run("main", &[("f0", &bad)]).err();
    assert!(matches!(error, Some(RuntimeError::NonFinite { index: 1, .. })), "{error:?}");
}

fn product(plan: &mut PlanBuilder, extent: u64) -> Contract {
    let c = plan.result(DType::f32, &[9]);
    let edge = |a, b, c| Loop { extent, a, b, c };
    Contract {
        a: whole(0),
        b: whole(0),
        c: whole(c),
        batch: Vec::new(),
        sum: Vec::new(),
        m: edge(3, 0, 3),
        n: edge(0, 1, 1),
        k: edge(1, 3, 0),
        alpha: 1.0,
        accumulate: false,
        symmetric: false,
        epilogue: None,
    }
}

/// Plans that reach outside their buffers, each with what is wrong.
fn bad_plans() -> Vec<(&'static str, PlanBuilder)> {
    type Edit = fn(&mut PlanBuilder);
    let edits: [(&'static str, Edit); 16] = [
        ("copy to nowhere", |p| p.step(StepOp::Copy { src: 0, dst: 99 })),
        ("copy of another length", |p| {
            let out = p.result(DType::f32, &[8]);
            p.step(StepOp::Copy { src: 0, dst: out });
        }),
        ("no such kernel", |p| p.step(StepOp::Launch(Launch { kernel: 5, args: Vec::new() }))),
        ("product too large", |p| {
            let c = product(p, 4);
            p.step(StepOp::Contract(c));
        }),
        ("stride overflow", |p| {
            let mut c = product(p, 3);
            c.m.a = i64::MAX;
            p.step(StepOp::Contract(c));
        }),
        ("writes one element twice", |p| {
            let mut c = product(p, 3);
            c.m.c = 0;
            p.step(StepOp::Contract(c));
        }),
        ("rows that overlap", |p| {
            let mut c = product(p, 3);
            (c.m.c, c.n.c) = (1, 1);
            p.step(StepOp::Contract(c));
        }),
        ("result among its operand", |p| {
            let mut c = product(p, 3);
            c.c = c.a;
            p.step(StepOp::Contract(c));
        }),
        ("stride in a foreign operand", |p| {
            let mut c = product(p, 3);
            c.m.b = 1;
            p.step(StepOp::Contract(c));
        }),
        ("offset outside", |p| {
            let mut c = product(p, 0);
            c.a.offset = 10;
            p.step(StepOp::Contract(c));
        }),
        ("integer product", |p| {
            let mut c = product(p, 3);
            let ints = p.temporary(DType::i32, 9);
            c.b = whole(ints);
            p.step(StepOp::Contract(c));
        }),
        ("arena too small", |p| {
            p.result(DType::f32, &[1 << 20]);
            p.entry().arena_bytes = 64;
        }),
        ("arena overflow", |p| {
            let place = Place::Arena(u64::MAX - 3);
            p.entry().buffers.push(Buffer { dtype: DType::f32, elems: 9, place });
        }),
        ("feed of another size", |p| {
            p.entry().buffers.push(Buffer { dtype: DType::f32, elems: 10, place: Place::Feed(0) });
        }),
        ("fetch of another size", |p| {
            p.entry().fetches.push(FetchDecl {
                name: "x".into(),
                shape: vec![10],
                buffer: 0,
                shard: None,
            });
        }),
        ("heads that do not divide", |p| {
            let view = HeadsView { view: whole(0), batch: 0, seq: 0, head: 0 };
            let shape = AttentionShape {
                batch: 1,
                seq_q: 1,
                seq_kv: 1,
                heads: 3,
                kv_heads: 2,
                qk_dim: 1,
                v_dim: 1,
                scale: 1.0,
                causal: true,
            };
            let (lse, max_logit) = (None, None);
            let (q, k, v, o) = (view, view, view, view);
            p.step(StepOp::Attention(Attention { shape, q, k, v, o, lse, max_logit }));
        }),
    ];
    let base = || {
        let mut builder = PlanBuilder::new();
        builder.feed(DType::f32, &[9]);
        builder
    };
    let edited = edits.into_iter().map(|(what, edit)| {
        let mut builder = base();
        edit(&mut builder);
        (what, builder)
    });
    edited.collect()
}

#[test]
fn plans_that_reach_outside_their_buffers_are_refused() {
    for (what, builder) in bad_plans() {
        let error = open(builder.plan).err();
        let typed = matches!(&error, Some(RuntimeError::Step { entry, .. }) if entry == "main");
        assert!(typed, "{what}: {error:?}");
    }
}

#[test]
fn arguments_must_match_a_kernels_parameters() {
    let text =
        "function %k(i64, i64, i64) system_v {\nblock0(v0: i64, v1: i64, v2: i64):\n    return\n}";
    let decl = KernelDecl {
        name: "k".to_owned(),
        text: text.to_owned(),
        params: vec![KernelParam { dtype: DType::f32, elems: 9, written: false }],
        blocks: 1,
        threads: 1,
        shared: perilune_plan::SharedMemory::default(),
        flops: 0,
        bytes: 0,
        numerics: String::new(),
    };
    for (args, fits) in [(vec![0], true), (vec![], false), (vec![1], false), (vec![2], false)] {
        let mut builder = PlanBuilder::new();
        builder.feed(DType::f32, &[9]);
        builder.feed(DType::f32, &[8]);
        builder.feed(DType::i32, &[9]);
        let kernel = builder.kernel(decl.clone());
        builder.step(StepOp::Launch(Launch { kernel, args: args.clone() }));
        assert_eq!(open(builder.plan).is_ok(), fits, "{args:?}");
    }
}

#[test]
fn a_plan_for_another_device_or_beyond_memory_is_refused() {
    let mut plan = keeper().plan;
    plan.target = "sm_90a".to_owned();
    assert!(matches!(open(plan).err(), Some(RuntimeError::Target { .. })));
    for shape in [vec![1 << 60], vec![u64::MAX, u64::MAX]] {
        let mut plan = keeper().plan;
        let name = "huge".to_owned();
        plan.entries[0].feeds.push(FeedDecl { name, dtype: DType::f32, shape, shard: None });
        assert!(matches!(open(plan).err(), Some(RuntimeError::Memory { .. })));
    }
}
