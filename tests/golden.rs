//! Parity with other people's code, on the oracle folders of `tests/golden`.
//!
//! `k2-tiny` is too large to commit: it is checked where `PERILUNE_GOLDEN` points to it.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::path::{Path, PathBuf};

use perilune::parity::{self, Settings};
use perilune_runtime::{Checks, DeviceKind};

fn committed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Checks a folder and names every quantity that is off.
fn holds(dir: &Path) {
    holds_on(dir, &Settings::default());
}

fn holds_on(dir: &Path, settings: &Settings) {
    let report = parity::run(dir, settings).unwrap_or_else(|e| panic!("{}: {e:?}", dir.display()));
    let off: Vec<_> = report.checks.iter().filter(|c| !c.ok).collect();
    assert!(report.ok, "{} of {} checks fail: {off:#?}", off.len(), report.checks.len());
}

#[test]
fn k2_nano_matches_torch() {
    holds(&committed("k2-nano"));
}

#[test]
fn k2_nano_in_the_ptx_vm_matches_torch_and_no_check_finds_anything() {
    let device = DeviceKind::ptx_vm(Checks::all());
    holds_on(&committed("k2-nano"), &Settings { device, steps: Some(5) });
}

#[test]
fn expert_groups_and_two_shared_experts_match_torch() {
    holds(&committed("v3-nano"));
}

#[test]
fn no_query_latent_and_plain_rope_match_torch() {
    holds(&committed("moonlight-nano"));
}

#[test]
fn k2_tiny_matches_torch() {
    let Some(golden) = std::env::var_os("PERILUNE_GOLDEN").map(PathBuf::from) else {
        eprintln!("skipped: PERILUNE_GOLDEN is not set");
        return;
    };
    holds(&golden.join("k2-tiny"));
}
