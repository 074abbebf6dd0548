//! Small kernels whose results follow from the manual alone.

use perilune_ptx_vm::{Checks, Launch, Machine, Module, Options};

/// Runs one thread and gives the words it left in `y`, without a finding.
fn words(globals: &str, body: &str) -> Vec<u32> {
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n{globals}
        .entry k(.param .u64 y) {{
            .reg .pred %p<4>; .reg .b32 %r<10>; .reg .f32 %f<10>; .reg .b64 %rd<10>;
            ld.param.u64 %rd1, [y];
            {body}
            ret;
        }}"
    );
    let module = Module::parse(&text).expect("PTX");
    let launch = r#"Launch(entry: "k", grid: (1, 1, 1), block: (1, 1, 1),
        params: [Buffer(name: "y", bytes: 32, init: Zeros)])"#;
    let launch = Launch::parse(launch).expect("a launch");
    let options = Options { checks: Checks::all(), threads: 1, ..Options::default() };
    let outcome = Machine::run(&module, &launch, &options).expect("it fits");
    assert_eq!(outcome.findings, []);
    let bytes = outcome.buffer("y").expect("a buffer");
    bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("a word"))).collect()
}

/// Copies the first six words of a constant to `y`.
fn constants(declaration: &str) -> Vec<u32> {
    let copy: String = (0..6)
        .map(|i| format!("ld.const.u32 %r1, [c+{0}]; st.global.u32 [%rd1+{0}], %r1;", 4 * i))
        .collect();
    words(declaration, &copy)[..6].to_vec()
}

#[test]
fn what_inner_braces_leave_out_is_zero() {
    assert_eq!(constants(".const .s32 c[3][2] = {{1}, {2, 3}};"), [1, 0, 2, 3, 0, 0]);
    assert_eq!(constants(".const .s32 c[3][2] = {1, 2, {3}};"), [1, 2, 3, 0, 0, 0]);
    assert_eq!(constants(".const .s32 c[][2] = {{1}, {2}, {3, 4}};"), [1, 0, 2, 0, 3, 4]);
    assert_eq!(constants(".const .s32 c[][3] = {1, 2, 3, 4};"), [1, 2, 3, 4, 0, 0]);
    assert_eq!(constants(".const .v2 .s32 c[3] = {{1}, {2, 3}};"), [1, 0, 2, 3, 0, 0]);
    assert_eq!(constants(".const .s32 c[2][1][3] = {{{1}}, {{2, 3}}};"), [1, 0, 0, 2, 3, 0]);
}

#[test]
fn a_variable_of_a_function_can_hold_an_address() {
    let body = "
        .global .align 8 .u64 there = generic(c)+4;
        .const .align 8 .u64 here[2] = {0, c+8};
        ld.global.u64 %rd2, [there]; ld.u32 %r1, [%rd2]; st.global.u32 [%rd1], %r1;
        ld.const.u64 %rd2, [here+8]; ld.const.u32 %r1, [%rd2]; st.global.u32 [%rd1+4], %r1;";
    assert_eq!(words(".const .u32 c[3] = {5, 6, 7};", body)[..2], [6, 7]);
}

#[test]
fn a_destination_of_a_vector_atomic_may_be_an_operand_of_a_later_element() {
    let body = "
        mov.f32 %f1, 0f3F800000; mov.f32 %f2, 0f40000000;
        st.global.v2.f32 [%rd1], {%f2, %f2};
        atom.global.v2.f32.add {%f1, %f2}, [%rd1], {%f2, %f1};";
    let found = words("", body);
    assert_eq!(found[..2].iter().map(|bits| f32::from_bits(*bits)).collect::<Vec<_>>(), [4.0, 3.0]);
}

#[test]
fn zeros_are_normal_numbers() {
    let body = "
        mov.f32 %f1, 0f80000000; testp.normal.f32 %p1, %f1; selp.u32 %r1, 1, 0, %p1;
        testp.subnormal.f32 %p2, %f1; selp.u32 %r2, 1, 0, %p2;
        st.global.v2.u32 [%rd1], {%r1, %r2};";
    assert_eq!(words("", body)[..2], [1, 0]);
}

#[test]
fn a_wait_that_gives_up_lets_its_thread_arrive() {
    let body = "
        .shared .align 8 .b64 bar;
        mbarrier.init.shared::cta.b64 [bar], 1;
        mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], 0;
        selp.u32 %r1, 1, 0, %p1;
        @!%p1 mbarrier.arrive.shared::cta.b64 %rd2, [bar];
        mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], 0;
        selp.u32 %r2, 1, 0, %p2;
        st.global.v2.u32 [%rd1], {%r1, %r2};";
    assert_eq!(words("", body)[..2], [0, 1]);
}
