//! `cargo +nightly fuzz run load`: [`perilune_ptx_vm_fuzz::load`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| perilune_ptx_vm_fuzz::load(data));
