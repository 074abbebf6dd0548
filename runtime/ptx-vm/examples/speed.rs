//! Measures lane-instructions per second of an elementwise and a reduction kernel on one core.
//!
//! `cargo run --release -p perilune-ptx-vm --example speed`

use perilune_ptx_vm::{Checks, Extents, Machine, Memory, Module, Options};
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

/// Bytes of each buffer.
const BYTES: usize = 16 << 20;

/// Nanoseconds that this thread has run, where the system says so, else those that went by.
fn nanoseconds(start: Instant) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let on_cpu = text.split(' ').next().and_then(|first| first.parse().ok());
    on_cpu.unwrap_or_else(|| start.elapsed().as_nanos() as u64)
}

/// A module's best time in nanoseconds, and the lane-instructions it executes.
fn measure(module: &Module, checks: Checks) -> Result<(u64, u64), perilune_ptx_vm::LoadError> {
    let data: Vec<u8> =
        (0..BYTES / 4).flat_map(|i| ((i % 4096) as f32 / 1024.0 - 2.0).to_le_bytes()).collect();
    let extents = Extents { grid: [64, 1, 1], block: [256, 1, 1], cluster: None, shared_bytes: 0 };
    let options = Options { checks, threads: 1, ..Options::default() };
    let (mut best, mut lanes) = (u64::MAX, 0);
    for _ in 0..3 {
        let mut memory = Memory::default();
        let x = memory.allocate("x", &data).unwrap_or_default();
        let y = memory.allocate("y", &data).unwrap_or_default();
        let mut params = [x.to_le_bytes(), y.to_le_bytes()].concat();
        params.extend((BYTES as u32 / 4).to_le_bytes());
        let start = Instant::now();
        let before = nanoseconds(start);
        let outcome = Machine::run_with(module, "kernel", extents, (params, memory), &options)?;
        best = best.min(nanoseconds(start) - before);
        lanes = outcome.counters.total().lanes;
        assert!(outcome.findings.is_empty(), "{}", outcome.findings[0]);
    }
    Ok((best, lanes))
}

#[allow(clippy::print_stdout, reason = "a measurement is for reading")]
fn main() -> Result<(), perilune_ptx_vm::LoadError> {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for (name, text) in [("elementwise", ELEMENTWISE), ("reduction", REDUCTION)] {
        let module = Module::parse(text)?;
        for (what, checks) in [("off", Checks::none()), ("on", Checks::all())] {
            let title = format!("{name}, checks {what}");
            if !title.contains(&wanted) {
                continue;
            }
            let (nanoseconds, lanes) = measure(&module, checks)?;
            let rate = lanes as f64 / nanoseconds as f64 * 1e3;
            println!("{title}: {rate:.0} million lane-instructions per second");
        }
    }
    Ok(())
}
