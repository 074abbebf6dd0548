//! Copies, reductions and mbarriers that no compiled kernel of the corpus uses, against element-wise definitions.

use perilune_ptx_vm::{Checks, Launch, Machine, Module, Options, Outcome};

fn run(text: &str, launch: &str) -> Outcome {
    let module = Module::parse_named("kernel.ptx", text).expect("the text is good");
    let launch = Launch::parse(launch).expect("the launch is good");
    let options = Options { checks: Checks::all(), step_limit: 100_000, ..Options::default() };
    let outcome = Machine::run(&module, &launch, &options).expect("it fits");
    let found: Vec<String> = outcome.findings.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(outcome.completed);
    outcome
}

fn words(outcome: &Outcome, buffer: &str) -> Vec<u32> {
    let bytes = outcome.buffer(buffer).expect("a buffer");
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// A tensor of words, its box, and where the box is taken.
struct Case {
    dims: Vec<u64>,
    box_dims: Vec<u32>,
    steps: Vec<u32>,
    start: Vec<i32>,
    /// Bytes of a swizzled row, or 0.
    swizzle: u32,
}

impl Case {
    fn strides(&self) -> Vec<u64> {
        let rows = self.dims[..self.dims.len() - 1].iter();
        rows.scan(4, |bytes, dim| {
            *bytes *= dim;
            Some(*bytes)
        })
        .collect()
    }

    fn box_words(&self) -> usize {
        let extents = self.box_dims.iter().zip(&self.steps).enumerate();
        extents.map(|(dim, (b, s))| if dim == 0 { *b } else { b.div_ceil(*s) } as usize).product()
    }

    /// The linear index in the tensor of each word of the box, and its place in shared memory in words.
    fn elements(&self) -> Vec<(Option<u64>, usize)> {
        (0..self.box_words())
            .map(|index| {
                let (mut rest, mut linear, mut pitch) = (index as i64, 0i64, 1i64);
                let mut inside = true;
                for dim in 0..self.dims.len() {
                    let step = if dim == 0 { 1 } else { i64::from(self.steps[dim]) };
                    let extent = (i64::from(self.box_dims[dim]) + step - 1) / step;
                    let at = i64::from(self.start[dim]) + rest % extent * step;
                    rest /= extent;
                    inside &= (0..self.dims[dim] as i64).contains(&at);
                    linear += at * pitch;
                    pitch *= self.dims[dim] as i64;
                }
                let byte = index * 4;
                let chunks = (self.swizzle / 16).max(1) as usize;
                let swizzled = byte ^ ((byte / 128 % chunks) * 16);
                (inside.then_some(linear as u64), swizzled / 4)
            })
            .collect()
    }

    fn launch(&self, fill: &str) -> String {
        let words: u64 = self.dims.iter().product();
        let content: Vec<String> = (0..words)
            .flat_map(|word| (word as u32 + 1).to_le_bytes())
            .map(|byte| byte.to_string())
            .collect();
        let swizzle =
            if self.swizzle == 0 { "None".to_owned() } else { format!("B{}", self.swizzle) };
        let (dims, strides) = (&self.dims, self.strides());
        let (box_dims, steps) = (&self.box_dims, &self.steps);
        let bytes = self.box_words() * 4;
        format!(
            "Launch(entry: \"kernel\", grid: (1, 1, 1), block: (32, 1, 1), params: [
                Buffer(name: \"x\", bytes: {}, init: Bytes([{}])),
                TensorMap(name: \"map\", over: \"x\", dtype: {fill}, dims: {dims:?}, strides: {strides:?},
                    box: {box_dims:?}, element_strides: {steps:?}, swizzle: {swizzle}),
                Buffer(name: \"y\", bytes: {bytes}, init: Zeros),
            ])",
            words * 4,
            content.join(","),
        )
    }

    /// A kernel that brings the box to shared memory with `load` and writes shared memory to `y`.
    fn kernel(&self, body: &str) -> String {
        let coordinates: Vec<String> = self.start.iter().map(ToString::to_string).collect();
        let bytes = self.box_words() * 4;
        body.replace("COORDINATES", &coordinates.join(", "))
            .replace("RANK", &format!("{}d", self.dims.len()))
            .replace("BYTES", &bytes.to_string())
    }
}

const PROLOGUE: &str = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry kernel(.param .u64 x, .param .align 64 .b8 map[128], .param .u64 y)
{
    .shared .align 1024 .b8 s[BYTES];
    .shared .align 8 .b8 bar[8];
    .reg .pred %p<3>;
    .reg .b32 %r<12>;
    .reg .b64 %rd<8>;
    mov.b64 %rd1, map;
    cvta.param.u64 %rd1, %rd1;
    ld.param.u64 %rd2, [y];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, s;
    mov.u32 %r3, bar;
    setp.ne.u32 %p1, %r1, 0;
    shl.b32 %r4, %r1, 2;
";

/// Writes shared memory to `y`, a word per lane and step.
const EPILOGUE: &str = "
$copy:
    setp.ge.u32 %p2, %r4, BYTES;
    @%p2 bra $end;
    add.u32 %r5, %r2, %r4;
    ld.shared.u32 %r6, [%r5];
    cvt.u64.u32 %rd3, %r4;
    add.u64 %rd4, %rd2, %rd3;
    st.global.u32 [%rd4], %r6;
    add.u32 %r4, %r4, 128;
    bra $copy;
$end:
    ret;
}
";

const LOAD: &str = "
    @%p1 bra $wait;
    mbarrier.init.shared::cta.b64 [%r3], 1;
    fence.mbarrier_init.release.cluster;
    fence.proxy.async;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], BYTES;
    cp.async.bulk.tensor.RANK.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1, {COORDINATES}], [%r3];
$wait:
    bar.sync 0;
$again:
    mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0;
    @!%p2 bra $again;
";

fn check_load(case: &Case) {
    let text = case.kernel(&format!("{PROLOGUE}{LOAD}{EPILOGUE}"));
    let outcome = run(&text, &case.launch("u32"));
    let found = words(&outcome, "y");
    for (index, place) in case.elements() {
        let expected = index.map_or(0, |linear| linear as u32 + 1);
        assert_eq!(found[place], expected, "{:?} at {:?}", case.dims, case.start);
    }
}

fn case(dims: &[u64], box_dims: &[u32], start: &[i32], swizzle: u32) -> Case {
    let steps = vec![1; dims.len()];
    Case { dims: dims.to_vec(), box_dims: box_dims.to_vec(), steps, start: start.to_vec(), swizzle }
}

#[test]
fn boxes_of_one_to_five_dimensions_arrive_with_zeros_outside() {
    check_load(&case(&[64], &[32], &[48], 0));
    check_load(&case(&[64], &[32], &[-8], 0));
    check_load(&case(&[16, 8], &[8, 4], &[12, 6], 0));
    check_load(&case(&[8, 4, 3], &[8, 2, 2], &[0, 3, -1], 0));
    check_load(&case(&[8, 4, 3, 2], &[4, 2, 2, 2], &[4, 1, 1, 1], 0));
    check_load(&case(&[4, 3, 3, 2, 2], &[4, 2, 2, 2, 2], &[0, 2, -1, 0, 1], 0));
    let mut stepped = case(&[8, 9, 5], &[8, 5, 4], &[0, 1, 0], 0);
    stepped.steps = vec![1, 2, 3];
    check_load(&stepped);
}

#[test]
fn boxes_are_swizzled_in_rows_of_32_64_and_128_bytes() {
    for swizzle in [32, 64, 128] {
        let row = swizzle / 4;
        check_load(&case(&[32, 24], &[row, 20], &[0, 2], swizzle));
        check_load(&case(&[32, 24], &[row, 20], &[24, 10], swizzle));
    }
}

/// Doubles every word in shared memory and stores or adds the box back.
const STORE: &str = "
$double:
    setp.ge.u32 %p2, %r4, BYTES;
    @%p2 bra $store;
    add.u32 %r5, %r2, %r4;
    ld.shared.u32 %r6, [%r5];
    add.u32 %r6, %r6, %r6;
    st.shared.u32 [%r5], %r6;
    add.u32 %r4, %r4, 128;
    bra $double;
$store:
    fence.proxy.async.shared::cta;
    bar.sync 0;
    @%p1 bra $end;
    HOW.tensor.RANK.global.shared::ctaOP.bulk_group [%rd1, {COORDINATES}], [%r2];
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
$end:
    ret;
}
";

#[test]
fn tensor_stores_and_reductions_touch_what_lies_inside() {
    for (how, op, factor) in [("cp.async.bulk", "", 2), ("cp.reduce.async.bulk", ".add", 3)] {
        for swizzle in [0, 64] {
            let case = case(&[32, 6], &[16, 4], &[20, 3], swizzle);
            let body = STORE.replace("HOW", how).replace("OP", op);
            let text = case.kernel(&format!("{PROLOGUE}{LOAD}{body}"));
            let outcome = run(&text, &case.launch("u32"));
            let mut expected: Vec<u32> = (1..=32 * 6).collect();
            for linear in case.elements().into_iter().filter_map(|(index, _)| index) {
                expected[linear as usize] *= factor;
            }
            assert_eq!(words(&outcome, "x"), expected, "{how}");
        }
    }
}

#[test]
fn stores_and_reductions_in_another_cta_complete_its_mbarrier() {
    let text = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry kernel(.param .u64 y)
{
    .shared .align 16 .b8 s[48];
    .shared .align 8 .b8 bar[8];
    .reg .pred %p<3>;
    .reg .b32 %r<16>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd2, [y];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, s;
    mov.u32 %r3, bar;
    mov.u32 %r7, %cluster_ctarank;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra $ready;
    mov.u32 %r6, 0;
    st.shared.v4.u32 [%r2], {%r6, %r6, %r6, %r6};
    st.shared.v4.u32 [%r2+16], {%r6, %r6, %r6, %r6};
    st.shared.v4.u32 [%r2+32], {%r6, %r6, %r6, %r6};
    mbarrier.init.shared::cta.b64 [%r3], 1;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 36;
    fence.mbarrier_init.release.cluster;
$ready:
    barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.acquire.aligned;
    @%p1 bra $wait;
    xor.b32 %r8, %r7, 1;
    mapa.shared::cluster.u32 %r9, %r2, %r8;
    mapa.shared::cluster.u32 %r10, %r3, %r8;
    add.u32 %r11, %r7, 10;
    add.u32 %r12, %r7, 20;
    st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r9], {%r11, %r12, %r11, %r12}, [%r10];
    cvt.u64.u32 %rd5, %r12;
    st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.u64 [%r9+16], {%rd5, %rd5}, [%r10];
    red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r9+32], %r12, [%r10];
$wait:
    mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0;
    @!%p2 bra $wait;
    setp.ge.u32 %p2, %r1, 12;
    @%p2 bra $end;
    shl.b32 %r4, %r1, 2;
    add.u32 %r5, %r2, %r4;
    ld.shared.u32 %r6, [%r5];
    mad.lo.u32 %r4, %r7, 48, %r4;
    cvt.u64.u32 %rd3, %r4;
    add.u64 %rd4, %rd2, %rd3;
    st.global.u32 [%rd4], %r6;
$end:
    barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.acquire.aligned;
    ret;
}
";
    let launch = "Launch(entry: \"kernel\", grid: (2, 1, 1), block: (32, 1, 1), cluster: (2, 1, 1),
        params: [Buffer(name: \"y\", bytes: 96, init: Zeros)])";
    let outcome = run(text, launch);
    let from = |rank: u32| {
        let (a, b) = (10 + rank, 20 + rank);
        [a, b, a, b, b, 0, b, 0, b, 0, 0, 0]
    };
    assert_eq!(words(&outcome, "y"), [from(1), from(0)].concat());
}

#[test]
fn bytes_of_an_mbarrier_may_be_expected_and_completed_by_hand() {
    let text = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry kernel(.param .u64 y)
{
    .shared .align 8 .b8 bar[8];
    .reg .pred %p<6>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [y];
    mov.u32 %r1, bar;
    mbarrier.init.shared.b64 [%r1], 3;
    mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r1], 64;
    mbarrier.arrive.shared.b64 %rd2, [%r1], 2;
    mbarrier.pending_count.b64 %r2, %rd2;
    mbarrier.arrive_drop.shared.b64 %rd3, [%r1];
    mbarrier.test_wait.shared.b64 %p1, [%r1], %rd2;
    mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r1], 64;
    mbarrier.test_wait.shared.b64 %p2, [%r1], %rd2;
    mbarrier.arrive.noComplete.shared.b64 %rd4, [%r1], 1;
    mbarrier.pending_count.b64 %r3, %rd4;
    mbarrier.test_wait.parity.shared.b64 %p3, [%r1], 1;
    mbarrier.arrive.shared.b64 %rd5, [%r1];
    mbarrier.test_wait.parity.shared.b64 %p4, [%r1], 1;
    selp.u32 %r4, 1, 0, %p1;
    selp.u32 %r5, 1, 0, %p2;
    selp.u32 %r6, 1, 0, %p3;
    selp.u32 %r7, 1, 0, %p4;
    mbarrier.inval.shared.b64 [%r1];
    st.global.v4.u32 [%rd1], {%r4, %r5, %r6, %r7};
    st.global.v2.u32 [%rd1+16], {%r2, %r3};
    ret;
}
";
    let launch = "Launch(entry: \"kernel\", grid: (1, 1, 1), block: (1, 1, 1),
        params: [Buffer(name: \"y\", bytes: 24, init: Zeros)])";
    // Three arrivals pend before the first; one is dropped, so the second phase waits for two.
    assert_eq!(words(&run(text, launch), "y"), [0, 1, 0, 1, 3, 2]);
}

#[test]
fn masked_bulk_stores_write_the_bytes_of_their_mask() {
    let text = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry kernel(.param .u64 y)
{
    .shared .align 16 .b8 s[32];
    .reg .b32 %r<4>;
    .reg .b16 %rs<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [y];
    mov.u32 %r1, s;
    mov.u32 %r2, 0x04030201;
    st.shared.v4.u32 [%r1], {%r2, %r2, %r2, %r2};
    st.shared.v4.u32 [%r1+16], {%r2, %r2, %r2, %r2};
    fence.proxy.async.shared::cta;
    mov.u16 %rs1, 0x00f1;
    cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%rd1], [%r1], 32, %rs1;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
    ret;
}
";
    let launch = "Launch(entry: \"kernel\", grid: (1, 1, 1), block: (1, 1, 1),
        params: [Buffer(name: \"y\", bytes: 32, init: Zeros)])";
    let half = [1, 0x0403_0201, 0, 0];
    assert_eq!(words(&run(text, launch), "y"), [half, half].concat());
}

/// Kernels of the corpus that use wgmma, TMA, mbarriers and clusters, each spoilt in one place at a time.
#[test]
fn kernels_of_the_asynchronous_engines_spoilt_anywhere_never_panic() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign");
    let mut state = 1u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for name in
        ["cuda_matmul_wgmma", "cuda_multicast", "cuda_bulk_reduce", "triton_matmul_tma_device"]
    {
        let ptx = folder.join(format!("{name}.sm_90a.ptx"));
        let text = std::fs::read_to_string(&ptx).expect("a kernel");
        let launch = Launch::read(ptx.with_extension("launch.ron")).expect("a launch");
        // Digits change, so that the text still parses: registers, offsets, sizes, descriptors, masks.
        let digits: Vec<usize> = text
            .bytes()
            .enumerate()
            .filter_map(|(at, byte)| byte.is_ascii_digit().then_some(at))
            .collect();
        for _ in 0..120 {
            let mut spoilt = text.clone().into_bytes();
            for _ in 0..=random(2) {
                spoilt[digits[random(digits.len())]] = b'0' + random(10) as u8;
            }
            let Ok(spoilt) = String::from_utf8(spoilt) else { continue };
            let Ok(module) = Module::parse(&spoilt) else { continue };
            let checks = if random(2) == 0 { Checks::all() } else { Checks::none() };
            let options = Options { checks, threads: 1, step_limit: 3000, profile: true };
            // Whatever is wrong is a finding or a refusal.
            let _ = Machine::run(&module, &launch, &options);
        }
    }
}

#[test]
fn sums_of_f32_flush_subnormals_in_global_memory_and_keep_them_in_shared_memory() {
    let text = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry kernel(.param .u64 y)
{
    .shared .align 16 .b8 s[16];
    .reg .b32 %r<8>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [y];
    mov.u32 %r1, s;
    mov.u32 %r2, 1;
    mov.b32 %f1, %r2;
    st.shared.v4.u32 [%r1], {%r2, %r2, %r2, %r2};
    st.global.v4.u32 [%rd1], {%r2, %r2, %r2, %r2};
    red.shared.add.f32 [%r1], %f1;
    red.global.add.f32 [%rd1], %f1;
    atom.add.f32 %f2, [%rd1+4], %f1;
    fence.proxy.async;
    cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%rd1+16], [%r1], 16;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
    ld.shared.u32 %r3, [%r1];
    st.global.u32 [%rd1+8], %r3;
    ret;
}
";
    let launch = "Launch(entry: \"kernel\", grid: (1, 1, 1), block: (1, 1, 1),
        params: [Buffer(name: \"y\", bytes: 32, init: Zeros)])";
    assert_eq!(words(&run(text, launch), "y"), [0, 0, 2, 1, 0, 0, 0, 0]);
}
