//! Truncated and hostile PTX never panics; `fuzz` has what mutations find.

use perilune_ptx_vm::{Checks, Launch, Machine, Module, Options};

const SAMPLE: &str = r#".version 8.0
.target sm_90a
.address_size 64
.const .align 4 .b32 table[4] = {1, 2, {3}, 4};
.global .align 8 .u64 where[2] = {generic(table), table+4};
.extern .shared .align 16 .b8 dynamic[];
.func (.param .b32 out) half(.param .b32 in) {
    .reg .b32 %r<3>;
    ld.param.b32 %r1, [in];
    shr.u32 %r2, %r1, 1;
    st.param.b32 [out], %r2;
    ret;
}
.visible .entry sample(.param .u64 .ptr .global .align 4 x, .param .u32 n)
.maxntid 64, 1, 1
{
    .reg .pred %p<4>;
    .reg .b16 %h<3>;
    .reg .b32 %r<12>;
    .reg .b64 %rd<8>;
    .shared .align 4 .b8 tile[256];
    ld.param.u64 %rd1, [x];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %tid.x;
    setp.ge.u32 %p1|%p2, %r2, %r1;
    @%p1 bra $done;
    mad.wide.u32 %rd2, %r2, 4, %rd1;
    ld.global.L1::no_allocate.v2.u16 {%h1, %h2}, [%rd2+0];
    mov.b32 %r3, {%h1, %h2};
    {
        .param .b32 a;
        .param .b32 b;
        st.param.b32 [a], %r3;
        call.uni (b), half, (a);
        ld.param.b32 %r4, [b];
    }
    shl.b32 %r5, %r2, 2;
    mov.u32 %r6, tile;
    add.u32 %r5, %r5, %r6;
    st.shared.u32 [%r5], %r4;
    bar.sync 0;
    shfl.sync.bfly.b32 %r7|%p3, %r4, 1, 31, -1;
    lop3.b32 %r8, %r7, %r4, %r3, 0x96;
    atom.global.add.u32 %r9, [%rd2], %r8;
    fma.rn.ftz.f32 %r10, %r9, 0f3F800000, %r8;
    st.global.b32 [%rd2], %r10;
$done:
    ret;
}
"#;

/// Runs whatever still parses, for a few steps; nothing may panic.
fn survives(text: &str) {
    let Ok(module) = Module::parse(text) else { return };
    let Some(kernel) = module.kernels().first() else { return };
    let params = match kernel.params.len() {
        2 => {
            "Buffer(name: \"x\", bytes: 256, init: Random(seed: 1, dtype: u32, low: 0, high: 9)), U32(40)"
        }
        _ => "",
    };
    let name = kernel.name.escape_default();
    let launch = format!(
        "Launch(entry: \"{name}\", grid: (2, 1, 1), block: (64, 1, 1), shared_bytes: 64, params: [{params}])"
    );
    let Ok(launch) = Launch::parse(&launch) else { return };
    let options =
        Options { checks: Checks::all(), threads: 1, step_limit: 2000, ..Options::default() };
    let _ = Machine::run(&module, &launch, &options);
}

#[test]
fn the_sample_runs_without_a_finding() {
    let module = Module::parse(SAMPLE).expect("the sample is PTX");
    let launch = Launch::parse(
        r#"Launch(entry: "sample", grid: (1, 1, 1), block: (64, 1, 1), params: [
            Buffer(name: "x", bytes: 256, init: Random(seed: 1, dtype: u32, low: 0, high: 9)), U32(64)])"#,
    )
    .expect("a launch");
    let options = Options { checks: Checks::all(), ..Options::default() };
    let outcome = Machine::run(&module, &launch, &options).expect("it fits");
    assert_eq!(outcome.findings, []);
    assert!(outcome.completed);
}

#[test]
fn a_text_cut_off_at_any_byte_never_panics() {
    for end in 0..SAMPLE.len() {
        if let Some(text) = SAMPLE.get(..end) {
            survives(text);
        }
    }
}

#[test]
fn deep_nesting_is_refused_at_once() {
    let head = ".version 8.0\n.target sm_80\n.address_size 64\n";
    let many = 100_000;
    let blocks = format!("{head}.entry k() {{ {} ret; }}", "{".repeat(many));
    let vectors =
        format!("{head}.entry k() {{ .reg .b32 %r<2>; mov.b32 %r1, {}; }}", "{".repeat(many));
    let nots =
        format!("{head}.entry k() {{ .reg .pred %p<2>; mov.pred %p1, {}%p1; }}", "!".repeat(many));
    let values = format!("{head}.const .b32 c[4] = {}1;", "{".repeat(many));
    let addresses = format!("{head}.entry k() {{ ld.global.b32 %r1, {}; }}", "[".repeat(many));
    for text in [blocks, vectors, nots, values, addresses] {
        let error = Module::parse(&text).expect_err("too deep");
        assert_eq!(error.code, "V0005", "{error}");
    }
}
