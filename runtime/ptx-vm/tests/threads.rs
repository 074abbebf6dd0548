//! Results do not depend on the number of host threads, and limits hold for every shape of launch.

use perilune_ptx_vm::{Checks, Launch, Machine, Module, Options, Outcome};
use std::time::{Duration, Instant};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// Every thread writes its number, adds to a sum and counts in a histogram.
const BUSY: &str = r"
.entry busy(.param .u64 out, .param .u64 sum)
{
    .reg .pred %p<2>;
    .reg .b32 %r<12>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [sum];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.u32 %r4, %r1, %r2, %r3;
    mul.wide.u32 %rd3, %r4, 4;
    add.s64 %rd4, %rd1, %rd3;
    mov.u32 %r5, 0;
    mov.u32 %r6, 1;
$loop:
    mad.lo.u32 %r6, %r6, 1664525, %r4;
    add.u32 %r5, %r5, 1;
    and.b32 %r7, %r3, 7;
    setp.le.u32 %p1, %r5, %r7;
    @%p1 bra $loop;
    st.global.u32 [%rd4], %r6;
    red.global.add.u32 [%rd2], %r6;
    and.b32 %r8, %r6, 15;
    mul.wide.u32 %rd5, %r8, 4;
    add.s64 %rd6, %rd2, %rd5;
    red.global.add.u32 [%rd6+64], 1;
    ret;
}";

/// The sum of floats depends on the order in which threads come.
const ORDER: &str = r"
.entry order(.param .u64 out, .param .u64 sum)
{
    .reg .b32 %r<8>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd2, [sum];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.u32 %r4, %r1, 77, %r3;
    cvt.rn.f32.u32 %f1, %r4;
    rcp.rn.f32 %f2, %f1;
    red.global.add.f32 [%rd2], %f2;
    ret;
}";

fn outcome(text: &str, entry: &str, threads: usize, checks: Checks) -> Outcome {
    let module = Module::parse(&format!("{HEAD}{text}")).expect("PTX");
    let launch = format!(
        r#"Launch(entry: "{entry}", grid: (33, 1, 1), block: (96, 1, 1), params: [
            Buffer(name: "out", bytes: 12672, init: Zeros), Buffer(name: "sum", bytes: 128, init: Zeros)])"#
    );
    let launch = Launch::parse(&launch).expect("a launch");
    let options = Options { checks, threads, ..Options::default() };
    Machine::run(&module, &launch, &options).expect("it fits")
}

#[test]
fn any_number_of_threads_gives_the_same_buffers_and_counts() {
    for (text, entry) in [(BUSY, "busy"), (ORDER, "order")] {
        let alone = outcome(text, entry, 1, Checks::none());
        assert!(alone.completed && alone.findings.is_empty());
        for threads in [2, 3, 8] {
            for checks in [Checks::none(), Checks::all()] {
                let several = outcome(text, entry, threads, checks);
                for buffer in ["out", "sum"] {
                    assert_eq!(several.buffer(buffer), alone.buffer(buffer), "{entry}: {buffer}");
                }
                assert_eq!(several.counters.total(), alone.counters.total());
                assert_eq!(several.findings, []);
            }
        }
    }
}

/// Runs a kernel without parameters; the codes of its findings.
fn codes(body: &str, grid: &str, steps: u64) -> Vec<&'static str> {
    let module = Module::parse(&format!("{HEAD}.entry k() {{ {body} }}")).expect("PTX");
    let launch = format!(r#"Launch(entry: "k", grid: {grid}, block: (64, 1, 1))"#);
    let launch = Launch::parse(&launch).expect("a launch");
    let options = Options { step_limit: steps, threads: 2, ..Options::default() };
    let start = Instant::now();
    let outcome = Machine::run(&module, &launch, &options).expect("it fits");
    assert!(!outcome.completed);
    assert!(start.elapsed() < Duration::from_secs(20), "a limit that does not hold");
    outcome.findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn endless_loops_and_giant_grids_end_at_the_step_limit() {
    assert_eq!(codes("$l: bra $l;", "(4, 1, 1)", 10_000), ["V1302"]);
    assert_eq!(codes("$l: nanosleep.u32 1; bra $l;", "(4, 1, 1)", 10_000), ["V1302"]);
    assert_eq!(codes("ret;", "(2147483647, 65535, 65535)", 10_000), ["V1302"]);
}

#[test]
fn endless_recursion_ends_at_the_depth_of_calls() {
    let text = format!(
        "{HEAD}.func f() {{ .local .b8 a[1024]; call f; ret; }} .entry k() {{ call f; ret; }}"
    );
    let module = Module::parse(&text).expect("PTX");
    let launch = Launch::parse(r#"Launch(entry: "k", grid: (1, 1, 1), block: (1024, 1, 1))"#);
    let outcome = Machine::run(&module, &launch.expect("a launch"), &Options::default());
    let outcome = outcome.expect("it fits");
    assert_eq!(outcome.findings[0].code, "V1302");
}

#[test]
fn lanes_of_a_warp_that_wait_for_each_other_all_make_progress() {
    // Lane 0 holds a lock that the others spin on; a warp that ran one side only would hang.
    let text = format!(
        "{HEAD}
.entry k(.param .u64 sum)
{{
    .reg .pred %p<3>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<2>;
    .shared .align 4 .b32 lock;
    ld.param.u64 %rd1, [sum];
    mov.u32 %r1, %tid.x;
    setp.eq.u32 %p1, %r1, 0;
    @%p1 st.shared.u32 [lock], 0;
    bar.sync 0;
$spin:
    atom.shared.cas.b32 %r2, [lock], 0, 1;
    setp.ne.u32 %p2, %r2, 0;
    @%p2 bra $spin;
    ld.global.u32 %r3, [%rd1];
    add.u32 %r3, %r3, 1;
    st.global.u32 [%rd1], %r3;
    atom.shared.exch.b32 %r4, [lock], 0;
    ret;
}}"
    );
    let module = Module::parse(&text).expect("PTX");
    let launch = Launch::parse(
        r#"Launch(entry: "k", grid: (1, 1, 1), block: (64, 1, 1),
            params: [Buffer(name: "sum", bytes: 4, init: Zeros)])"#,
    );
    let options = Options { step_limit: 10_000_000, ..Options::default() };
    let outcome = Machine::run(&module, &launch.expect("a launch"), &options).expect("it fits");
    assert_eq!(outcome.findings, []);
    assert_eq!(outcome.buffer("sum").expect("the sum"), 64u32.to_le_bytes());
}
