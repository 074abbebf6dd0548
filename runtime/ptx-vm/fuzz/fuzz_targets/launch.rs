//! `cargo +nightly fuzz run launch`: [`perilune_ptx_vm_fuzz::launch`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    perilune_ptx_vm_fuzz::launch(data);
});
