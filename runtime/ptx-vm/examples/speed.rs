//! Measures lane-instructions per second of an elementwise and a reduction kernel on one core.
//!
//! `cargo run --release -p perilune-ptx-vm --example speed`

use perilune_ptx_vm::{Checks, Launch, Machine, Module, Options};
use std::time::Instant;

const ELEMENTWISE: &str = r"
.version 8.0
.target sm_80
.address_size 64
.entry kernel(.param .u64 x, .param .u64 y, .param .u32 n)
{
    .reg .pred %p<3>;
    .reg .b32 %r<20>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    mov.u32 %r6, %nctaid.x;
    mul.lo.s32 %r7, %r6, %r3;
    setp.ge.s32 %p1, %r5, %r1;
    @%p1 bra $done;
$loop:
    mul.wide.s32 %rd3, %r5, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.f32 %r8, [%rd4];
    neg.f32 %r9, %r8;
    mul.f32 %r10, %r9, 0f3FB8AA3B;
    ex2.approx.ftz.f32 %r11, %r10;
    add.f32 %r12, %r11, 0f3F800000;
    rcp.approx.ftz.f32 %r13, %r12;
    mul.f32 %r14, %r8, %r13;
    fma.rn.f32 %r15, %r14, %r8, %r12;
    max.f32 %r16, %r15, 0f00000000;
    st.global.f32 [%rd5], %r16;
    add.s32 %r5, %r5, %r7;
    setp.lt.s32 %p2, %r5, %r1;
    @%p2 bra $loop;
$done:
    ret;
}";

const REDUCTION: &str = r"
.version 8.0
.target sm_80
.address_size 64
.entry kernel(.param .u64 x, .param .u64 y, .param .u32 n)
{
    .reg .pred %p<4>;
    .reg .b32 %r<24>;
    .reg .b64 %rd<8>;
    .shared .align 4 .b8 tile[1024];
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    mov.u32 %r6, %nctaid.x;
    mul.lo.s32 %r7, %r6, %r3;
    mov.b32 %r8, 0f00000000;
$loop:
    mul.wide.s32 %rd3, %r5, 4;
    add.s64 %rd4, %rd1, %rd3;
    ld.global.f32 %r9, [%rd4];
    fma.rn.f32 %r8, %r9, %r9, %r8;
    add.s32 %r5, %r5, %r7;
    setp.lt.s32 %p1, %r5, %r1;
    @%p1 bra $loop;
    shl.b32 %r10, %r4, 2;
    mov.u32 %r11, tile;
    add.s32 %r12, %r11, %r10;
    st.shared.f32 [%r12], %r8;
    bar.sync 0;
    mov.u32 %r13, 128;
$fold:
    setp.ge.u32 %p2, %r4, %r13;
    @%p2 bra $skip;
    shl.b32 %r14, %r13, 2;
    add.s32 %r15, %r12, %r14;
    ld.shared.f32 %r16, [%r15];
    ld.shared.f32 %r17, [%r12];
    add.f32 %r18, %r17, %r16;
    st.shared.f32 [%r12], %r18;
$skip:
    bar.sync 0;
    shr.u32 %r13, %r13, 1;
    setp.ne.u32 %p3, %r13, 0;
    @%p3 bra $fold;
    setp.ne.u32 %p2, %r4, 0;
    @%p2 bra $done;
    mul.wide.u32 %rd5, %r2, 4;
    add.s64 %rd6, %rd2, %rd5;
    ld.shared.f32 %r19, [tile];
    st.global.f32 [%rd6], %r19;
$done:
    ret;
}";

fn launch(bytes: u64) -> String {
    let elems = bytes / 4;
    format!(
        r#"Launch(entry: "kernel", grid: (64, 1, 1), block: (256, 1, 1), params: [
            Buffer(name: "x", bytes: {bytes}, init: Random(seed: 1, dtype: f32, low: -2.0, high: 2.0)),
            Buffer(name: "y", bytes: {bytes}, init: Zeros), U32({elems})])"#
    )
}

#[allow(clippy::print_stdout, reason = "a measurement is for reading")]
fn main() -> Result<(), perilune_ptx_vm::LoadError> {
    let launch = Launch::parse(&launch(16 << 20))?;
    for (name, text) in [("elementwise", ELEMENTWISE), ("reduction", REDUCTION)] {
        let module = Module::parse(text)?;
        for (what, checks) in [("off", Checks::none()), ("on", Checks::all())] {
            let options = Options { checks, threads: 1, ..Options::default() };
            let mut best = f64::INFINITY;
            let mut lanes = 0;
            for _ in 0..3 {
                let start = Instant::now();
                let outcome = Machine::run(&module, &launch, &options)?;
                best = best.min(start.elapsed().as_secs_f64());
                lanes = outcome.counters.total().lanes;
                assert!(outcome.findings.is_empty(), "{}", outcome.findings[0]);
            }
            let rate = lanes as f64 / best / 1e6;
            println!("{name}, checks {what}: {rate:.0} million lane-instructions per second");
        }
    }
    Ok(())
}
