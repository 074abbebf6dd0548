//! The device `ptx-vm`: launches of small PTX kernels, what its checks find, and what it refuses.

use perilune_plan::{DType, KernelDecl, KernelParam, Launch, SharedMemory, StepOp};
use perilune_runtime::profile::Counts;
use perilune_runtime::{Checks, DeviceKind, Finding, HostTensor, Options, RuntimeError, Session};

use crate::support::PlanBuilder;

/// `y[i] = 2 · x[i]`.
const DOUBLE: &str = ".version 8.0
.target sm_90a
.address_size 64
.visible .entry double(.param .u64 x, .param .u64 y)
{
    .reg .b32 %r<5>;
    .reg .f32 %f<3>;
    .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mad.lo.s32 %r4, %r2, %r3, %r1;
    mul.wide.u32 %rd3, %r4, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.f32 %f1, [%rd4];
    add.f32 %f2, %f1, %f1;
    st.global.f32 [%rd5], %f2;
    ret;
}
";
/// Instructions of a thread.
const INSTRUCTIONS: u64 = 13;
/// Lines of the load and of the store.
const LOAD: u32 = 18;
const STORE: u32 = 20;
/// Elements of a whole operand: two blocks of four threads.
const WHOLE: u64 = 8;

/// [`DOUBLE`] with other text in a place.
fn changed(from: &str, to: &str) -> String {
    assert!(DOUBLE.contains(from), "{from}");
    DOUBLE.replace(from, to)
}

fn decl(text: &str, blocks: u64) -> KernelDecl {
    let param = |written| KernelParam { dtype: DType::f32, elems: WHOLE, written };
    KernelDecl {
        name: "double".to_owned(),
        text: text.to_owned(),
        params: vec![param(false), param(true)],
        blocks,
        threads: 4,
        shared: SharedMemory::default(),
        flops: 0,
        bytes: 0,
        numerics: String::new(),
    }
}

/// A plan for a GPU with one feed, `f0`.
fn gpu_plan() -> PlanBuilder {
    let mut builder = PlanBuilder::new();
    builder.plan.target = "sm_90a".to_owned();
    builder.feed(DType::f32, &[WHOLE]);
    builder
}

/// A launch of a kernel of its own: `double`, `double_1`, …
fn launch(builder: &mut PlanBuilder, mut kernel: KernelDecl, args: [u32; 2]) {
    if let n @ 1.. = builder.plan.kernels.len() {
        kernel.name = format!("double_{n}");
        kernel.text = kernel.text.replace("entry double", &format!("entry {}", kernel.name));
    }
    let kernel = builder.kernel(kernel);
    builder.step(StepOp::Launch(Launch { kernel, args: args.to_vec() }));
}

/// `f0` doubled into a result by this text.
fn once(text: &str) -> PlanBuilder {
    let mut builder = gpu_plan();
    let y = builder.result(DType::f32, &[WHOLE]);
    launch(&mut builder, decl(text, 2), [0, y]);
    builder
}

fn open(builder: &PlanBuilder, checks: Checks) -> Result<Session, RuntimeError> {
    let device = DeviceKind::ptx_vm(checks);
    Session::new(builder.plan.clone(), Options { device, profile: true, ..Options::default() })
}

fn run(builder: &PlanBuilder, checks: Checks) -> Result<Vec<f32>, RuntimeError> {
    let values: Vec<f32> = (0..WHOLE).map(|i| i as f32 + 1.0).collect();
    let x = HostTensor::from_f32(&[WHOLE], &values)?;
    let fetches = open(builder, checks)?.run("main", &[("f0", &x)])?;
    fetches.get("r0").expect("a result").to_f32()
}

/// What all checks find, with the step they stop at.
fn found(builder: &PlanBuilder) -> (usize, Vec<Finding>) {
    match run(builder, Checks::all()) {
        Err(RuntimeError::Findings(found)) => {
            let place = (found.entry.as_str(), found.node.as_str(), found.kernel.as_str());
            assert_eq!(place, ("main", "test.node", "double"));
            let line = format!("double:{}:", found.findings[0].position.line);
            assert!(found.to_string().contains(&line), "{found}");
            (found.step, found.findings)
        }
        other => panic!("nothing found: {other:?}"),
    }
}

fn doubled(times: i32) -> Vec<f32> {
    (0..WHOLE).map(|i| (i as f32 + 1.0) * 2f32.powi(times)).collect()
}

#[test]
fn launches_run_in_order_over_shared_and_separate_storage() {
    let mut builder = gpu_plan();
    let between = builder.temporary(DType::f32, WHOLE);
    let y = builder.result(DType::f32, &[WHOLE]);
    let kernel = builder.kernel(decl(DOUBLE, 2));
    for args in [[0, between], [between, y], [y, y]] {
        builder.step(StepOp::Launch(Launch { kernel, args: args.to_vec() }));
    }
    for checks in [Checks::none(), Checks::all()] {
        assert_eq!(run(&builder, checks).expect("it runs"), doubled(3));
    }
}

#[test]
fn a_profile_counts_instructions_and_bytes() {
    let builder = once(DOUBLE);
    let mut session = open(&builder, Checks::none()).expect("it binds");
    let x = HostTensor::from_f32(&[WHOLE], &[1.0; WHOLE as usize]).expect("the shape fits");
    session.run("main", &[("f0", &x)]).expect("it runs");
    let counts = session.profile().slices()[0].counts;
    let expected = Counts {
        warp_instructions: 2 * INSTRUCTIONS,
        lane_instructions: WHOLE * INSTRUCTIONS,
        global_bytes: WHOLE * 8,
    };
    assert_eq!(counts, Some(expected));
}

#[test]
fn an_access_behind_an_argument_is_found_though_a_neighbour_lies_there() {
    let mut builder = gpu_plan();
    let x = builder.temporary(DType::f32, 2 * WHOLE);
    let y = builder.result(DType::f32, &[WHOLE]);
    let mut wide = decl(DOUBLE, 4);
    wide.params.iter_mut().for_each(|param| param.elems = 2 * WHOLE);
    builder.entry().feeds[0].shape = vec![2 * WHOLE];
    builder.entry().buffers[0].elems = 2 * WHOLE;
    launch(&mut builder, wide, [0, x]);
    // The operand holds 16 elements, of which the kernel declares 8 and reads the 9th.
    let reader = changed("ld.global.f32 %f1, [%rd4]", "ld.global.f32 %f1, [%rd4+4]");
    launch(&mut builder, decl(&reader, 2), [x, y]);
    let values: Vec<f32> = (0..2 * WHOLE).map(|i| i as f32).collect();
    let feed = HostTensor::from_f32(&[2 * WHOLE], &values).expect("the shape fits");
    let mut session = open(&builder, Checks::none()).expect("it binds");
    let error = session.run("main", &[("f0", &feed)]).err();
    let Some(RuntimeError::Findings(found)) = error else { panic!("nothing found: {error:?}") };
    let first = &found.findings[0];
    assert_eq!((found.step, first.code, first.position.line), (1, "V1001", LOAD));
}

#[test]
fn reading_what_no_launch_wrote_is_found_with_its_line() {
    let mut builder = gpu_plan();
    let x = builder.temporary(DType::f32, WHOLE);
    let y = builder.result(DType::f32, &[WHOLE]);
    launch(&mut builder, decl(DOUBLE, 2), [x, y]);
    let (step, findings) = found(&builder);
    assert_eq!((step, findings[0].code, findings[0].position.line), (0, "V1003", LOAD));
    assert!(run(&builder, Checks::none()).is_ok(), "unchecked, it reads what lies there");
}

#[test]
fn a_result_half_written_is_not_known_by_what_lay_there_before() {
    let mut builder = gpu_plan();
    let x = builder.temporary(DType::f32, WHOLE);
    let y = builder.result(DType::f32, &[WHOLE]);
    for (blocks, args) in [(2, [0, x]), (1, [0, x]), (2, [x, y])] {
        launch(&mut builder, decl(DOUBLE, blocks), args);
    }
    let error = run(&builder, Checks::all()).err();
    let Some(RuntimeError::Findings(found)) = error else { panic!("nothing found: {error:?}") };
    let first = &found.findings[0];
    assert_eq!((found.step, first.code, first.cta), (2, "V1003", [1, 0, 0]));
}

#[test]
fn threads_that_write_the_same_element_are_found() {
    let mut builder = gpu_plan();
    let y = builder.result(DType::f32, &[WHOLE]);
    // All threads store to the first element, each its own value.
    let text = changed("st.global.f32 [%rd5], %f2", "st.global.f32 [%rd2], %f2");
    launch(&mut builder, decl(&text, 2), [0, y]);
    let (step, findings) = found(&builder);
    assert_eq!((step, findings[0].code, findings[0].position.line), (0, "V1102", STORE));
}

#[test]
fn plans_and_devices_that_do_not_fit_are_refused_with_a_way_out() {
    let mut plan = once(DOUBLE);
    let cpu = Session::new(plan.plan.clone(), Options::default()).err().expect("not for the CPU");
    assert!(cpu.to_string().contains("run it on `ptx-vm`"), "{cpu}");
    plan.plan.target = "cpu".to_owned();
    let vm = open(&plan, Checks::none()).err().expect("not for the VM");
    assert!(vm.to_string().contains("compile for `sm_90a`"), "{vm}");
    assert!([cpu, vm].iter().all(|error| matches!(error, RuntimeError::Target { .. })));
}

#[test]
fn kernels_that_are_not_what_the_plan_says_are_refused() {
    let texts = [
        ("not PTX", "hello".to_owned()),
        ("an unknown instruction", changed("add.f32", "sum.f32")),
        ("another name", changed("entry double", "entry triple")),
        ("another number of parameters", changed(", .param .u64 y", "").replace("[y]", "[x]")),
        ("a parameter that is no pointer", changed(".param .u64 y", ".param .u32 y")),
        ("shared memory", changed("mov.u32 %r1, %tid.x;", ".shared .b8 s[16]; mov.u32 %r1, s;")),
    ];
    for (what, text) in texts {
        let error = open(&once(&text), Checks::none()).err();
        let named =
            matches!(&error, Some(RuntimeError::Kernel { kernel, .. }) if kernel == "double");
        assert!(named, "{what}: {error:?}");
    }
    let mut copies = gpu_plan();
    let y = copies.result(DType::f32, &[WHOLE]);
    copies.step(StepOp::Copy { src: 0, dst: y });
    let error = open(&copies, Checks::none()).err();
    assert!(matches!(error, Some(RuntimeError::Step { step: 0, .. })), "{error:?}");
}
