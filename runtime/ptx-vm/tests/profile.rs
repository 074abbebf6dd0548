//! Profiles of kernels whose costs are known on paper.

use perilune_ptx_vm::{Extents, Launch, Limit, Machine, Module, Options, Outcome, Pipe, Profile};

/// Copies a 32 × 32 tile of words through shared memory, transposed; `ROW` bytes between its rows.
const TRANSPOSE: &str = "
.version 8.0
.target sm_90
.address_size 64
.visible .entry transpose(.param .u64 x, .param .u64 y)
{
    .shared .align 16 .b8 tile[4224];
    .reg .b32 %r<8>;
    .reg .f32 %f<3>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %tid.y;
    shl.b32 %r3, %r2, 5;
    add.u32 %r3, %r3, %r1;
    mul.wide.u32 %rd3, %r3, 4;
    add.u64 %rd4, %rd1, %rd3;
    add.u64 %rd5, %rd2, %rd3;
    ld.global.f32 %f1, [%rd4];
    mov.u32 %r4, tile;
    mad.lo.u32 %r5, %r2, ROW, %r4;
    shl.b32 %r6, %r1, 2;
    add.u32 %r5, %r5, %r6;
    st.shared.f32 [%r5], %f1;
    bar.sync 0;
    mad.lo.u32 %r5, %r1, ROW, %r4;
    shl.b32 %r6, %r2, 2;
    add.u32 %r5, %r5, %r6;
    ld.shared.f32 %f1, [%r5];
    add.f32 %f2, %f1, %f1;
    st.global.f32 [%rd5], %f2;
    ret;
}
";

const LAUNCH: &str = r#"Launch(
    entry: "transpose", grid: (1, 1, 1), block: (32, 32, 1),
    params: [
        Buffer(name: "x", bytes: 4096, init: Zeros),
        Buffer(name: "y", bytes: 4096, init: Zeros),
    ],
)"#;

fn extents() -> Extents {
    Extents { grid: [1, 1, 1], block: [32, 32, 1], cluster: None, shared_bytes: 0 }
}

fn run(row: &str) -> (Module, Outcome) {
    let module = Module::parse_named("transpose.ptx", &TRANSPOSE.replace("ROW", row));
    let module = module.expect("the text is good");
    let launch = Launch::parse(LAUNCH).expect("the launch is good");
    let options = Options { profile: true, ..Options::default() };
    let outcome = Machine::run(&module, &launch, &options).expect("it fits");
    assert!(outcome.findings.is_empty());
    (module, outcome)
}

fn profile(row: &str) -> Profile {
    let (module, outcome) = run(row);
    Profile::new(&module, "transpose", extents(), &outcome.counters, Some(16)).expect("a kernel")
}

#[test]
fn a_transposition_conflicts_unless_its_rows_are_padded() {
    let conflicts = |profile: &Profile| -> u64 {
        profile.memory.iter().map(|memory| memory.requests.conflicts).sum()
    };
    // 32 warps read a column of 32 words in one bank: 31 wavefronts too many each.
    assert_eq!(conflicts(&profile("128")), 32 * 31);
    assert_eq!(conflicts(&profile("132")), 0);
}

#[test]
fn a_profile_counts_sectors_operations_and_occupancy() {
    let profile = profile("128");
    let global = profile.memory.iter().find(|m| m.space == "global").expect("global requests");
    assert_eq!((global.requests.requests, global.requests.sectors), (64, 64 * 4));
    assert_eq!(global.requests.bytes, 2 * 4096);
    assert_eq!(profile.roofline.memory_bytes, 2 * 4096);
    assert_eq!((profile.work[0].pipe, profile.work[0].operations), (Pipe::F32, 1024));
    assert_eq!((profile.occupancy.ctas, profile.occupancy.limit), (2, Limit::Warps));
    assert_eq!(profile.roofline.bounds[0].what, "shared memory");
}

#[test]
fn a_profile_reads_as_text_json_and_ron() {
    let profile = profile("128");
    insta::assert_snapshot!(profile.to_string());
    let json: serde_json::Value = serde_json::from_str(&profile.to_json()).expect("JSON");
    assert_eq!(json["memory"][0]["space"], "global");
    assert_eq!(json["occupancy"]["limit"], "Warps");
    let ron: ron::Value = ron::from_str(&profile.to_ron()).expect("RON");
    assert!(matches!(ron, ron::Value::Map(_)));
}

#[test]
fn without_a_wish_for_it_no_request_is_counted() {
    let module = Module::parse(&TRANSPOSE.replace("ROW", "128")).expect("the text is good");
    let launch = Launch::parse(LAUNCH).expect("the launch is good");
    let outcome = Machine::run(&module, &launch, &Options::default()).expect("it fits");
    assert!(outcome.counters.memory().is_empty());
    assert_eq!(outcome.counters.footprint_bytes(), 0);
}
