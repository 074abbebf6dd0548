//! Long and hostile kernels take no more memory than their text explains, whatever is checked.
//!
//! # Invariants
//! - The peak of the process's memory is measured, so all cases are one test, alone in its process.
//! - The bounds are far above what the machine needs and far below what one piece of state per step, copy, group
//!   or CTA would take.

#![cfg(target_os = "linux")]

use perilune_ptx_vm::{Checks, Launch, Machine, Module, Options, Outcome};
use std::fs;
use std::time::{Duration, Instant};

const HEAD: &str = ".version 8.6\n.target sm_90a\n.address_size 64\n";

/// A field of the process's status, in MiB.
fn status(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = text.lines().find(|line| line.starts_with(field)).expect("a field");
    let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib >> 10
}

struct Case {
    name: &'static str,
    body: String,
    grid: u32,
    block: u32,
    checks: Checks,
    threads: usize,
    steps: u64,
    mib: u64,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            name: "",
            body: String::new(),
            grid: 1,
            block: 32,
            checks: Checks::all(),
            threads: 1,
            steps: 4_000_000,
            mib: 64,
        }
    }
}

/// Runs a case within its memory and in bounded time.
fn run(case: &Case) -> Outcome {
    let text = format!(
        "{HEAD}.entry k(.param .u64 x) {{ .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<8>;
         .shared .align 128 .b8 s[4096]; ld.param.u64 %rd1, [x]; mov.u32 %r1, %tid.x; {} ret; }}",
        case.body
    );
    let module = Module::parse(&text).expect("PTX");
    let launch = format!(
        r#"Launch(entry: "k", grid: ({}, 1, 1), block: ({}, 1, 1),
            params: [Buffer(name: "x", bytes: 1600000, init: Zeros)])"#,
        case.grid, case.block
    );
    let launch = Launch::parse(&launch).expect("a launch");
    let (checks, threads, step_limit) = (case.checks, case.threads, case.steps);
    let options = Options { checks, threads, step_limit, ..Options::default() };
    fs::write("/proc/self/clear_refs", "5").expect("the peak begins anew");
    let (before, start) = (status("VmRSS"), Instant::now());
    let outcome = Machine::run(&module, &launch, &options).expect("it fits");
    let took = status("VmHWM").saturating_sub(before);
    assert!(took <= case.mib, "{}: {took} MiB where {} are explained", case.name, case.mib);
    assert!(start.elapsed() < Duration::from_secs(60), "{}: without end", case.name);
    outcome
}

fn codes(outcome: &Outcome) -> Vec<&'static str> {
    outcome.findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn memory_stays_bounded_while_kernels_run_on() {
    assert_eq!(codes(&groups_without_an_end(Checks::none(), 20_000_000)), ["V1302"]);
    assert_eq!(codes(&groups_without_an_end(Checks::all(), 2_000_000)), ["V1302"]);
    copies_without_a_wait();
    assert_eq!(codes(&stores_that_wait_for_reads_only()), [""; 0]);
    assert_eq!(codes(&a_counter_of_many_ctas()), [""; 0]);
    assert_eq!(codes(&a_lock_taken_often()), [""; 0]);
    assert_eq!(codes(&a_first_cta_that_ends_last()), [""; 0]);
}

fn groups_without_an_end(checks: Checks, steps: u64) -> Outcome {
    let body = "$l: wgmma.commit_group.sync.aligned; cp.async.commit_group;
        cp.async.bulk.commit_group; bra $l;";
    let name = "groups without an end";
    run(&Case { name, body: body.into(), block: 128, checks, steps, ..Case::default() })
}

fn copies_without_a_wait() {
    let body = "mul.wide.u32 %rd3, %r1, 16; add.u64 %rd2, %rd1, %rd3;
        mov.u32 %r2, s; mad.lo.u32 %r2, %r1, 16, %r2;
        $l: cp.async.cg.shared.global [%r2], [%rd2], 16; bra $l;";
    let outcome =
        run(&Case { name: "copies without a wait", body: body.into(), ..Case::default() });
    assert!(codes(&outcome).contains(&"V1302"), "{:?}", codes(&outcome));
}

fn stores_that_wait_for_reads_only() -> Outcome {
    let body = "mov.u32 %r2, s; st.shared.v4.b32 [%r2], {%r1, %r1, %r1, %r1};
        fence.proxy.async.shared::cta; mov.u32 %r3, 0;
        $l: cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r2], 16;
        cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;
        add.u64 %rd1, %rd1, 16; add.u32 %r3, %r3, 1;
        setp.lt.u32 %p1, %r3, 100000; @%p1 bra $l;";
    let name = "stores that wait for reads only";
    // What each granule went through takes twenty times the bytes that are touched.
    run(&Case { name, body: body.into(), block: 1, mib: 80, ..Case::default() })
}

fn a_counter_of_many_ctas() -> Outcome {
    let body = "bar.sync 0; setp.ne.u32 %p1, %r1, 0; @%p1 bra $end;
        atom.acq_rel.gpu.global.add.u32 %r2, [%rd1], 1; $end:";
    run(&Case { name: "a counter", body: body.into(), grid: 2000, block: 256, ..Case::default() })
}

fn a_lock_taken_often() -> Outcome {
    let body = "mov.u32 %r3, 0; $l: atom.acq_rel.gpu.global.add.u32 %r2, [%rd1], 1;
        add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, 20000; @%p1 bra $l;";
    run(&Case { name: "a lock", body: body.into(), grid: 2, block: 32, ..Case::default() })
}

/// The reports of the others wait for that of the first.
fn a_first_cta_that_ends_last() -> Outcome {
    let much = "add.u32 %r3, %r3, 1;".repeat(20_000);
    let body = format!(
        "mov.u32 %r2, %ctaid.x; setp.ne.u32 %p1, %r2, 0; @%p1 bra $end; mov.u32 %r3, 0;
        $l: add.u32 %r3, %r3, 1; setp.lt.u32 %p2, %r3, 5000000; @%p2 bra $l; bra $end;
        {much} $end:"
    );
    let (checks, steps) = (Checks::none(), 100_000_000);
    let name = "a first CTA that ends last";
    run(&Case { name, body, grid: 3000, checks, threads: 2, steps, ..Case::default() })
}
