//! PTX that this compiler emits runs in the virtual machine and means what the kernel says.
//!
//! # Invariants
//! - The texts are the reviewed snapshots of the compiler's own tests.

use std::path::{Path, PathBuf};

use perilune_ptx_vm::{Checks, Extents, Machine, Memory, Module, Options};

/// The snapshots of whole kernels as PTX: name and text.
fn emitted() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("compiler/tests/lower/snapshots");
    let entries = std::fs::read_dir(folder).expect("the compiler's snapshots");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().ends_with("_ptx.snap"))
        .collect();
    paths.sort();
    let text = |path: &PathBuf| {
        let snapshot = std::fs::read_to_string(path).expect("a snapshot");
        snapshot.splitn(3, "---\n").nth(2).expect("a text below the header").to_owned()
    };
    paths.iter().map(|path| (path.display().to_string(), text(path))).collect()
}

#[test]
fn every_kernel_of_the_compiler_is_understood() {
    let all = emitted();
    assert!(all.len() >= 8, "{} snapshots", all.len());
    for (name, text) in all {
        let module = Module::parse_named(&name, &text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(module.kernels().len(), 1, "{name}");
    }
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    let (words, _) = bytes.as_chunks::<4>();
    words.iter().map(|word| f64::from(f32::from_le_bytes(*word))).collect()
}

#[test]
fn the_emitted_softmax_gives_probabilities_and_the_logarithm_of_their_sum() {
    const ROWS: usize = 64;
    const COLUMNS: usize = 250;
    let (name, text) =
        emitted().into_iter().find(|(name, _)| name.contains("softmax")).expect("a softmax");
    let module = Module::parse_named(&name, &text).unwrap_or_else(|error| panic!("{error}"));
    let x: Vec<f32> = (0..ROWS * COLUMNS).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut memory = Memory::default();
    let addresses = [
        memory.allocate("x", &bytes).expect("room"),
        memory.allocate_uninitialised("y", bytes.len() as u64).expect("room"),
        memory.allocate_uninitialised("lse", ROWS as u64 * 4).expect("room"),
    ];
    let params = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
    let extents = Extents { grid: [8, 1, 1], block: [256, 1, 1], cluster: None, shared_bytes: 0 };
    let options = Options { checks: Checks::all(), ..Options::default() };
    let outcome = Machine::run_with(&module, "softmax", extents, (params, memory), &options);
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.completed);
    assert_eq!(outcome.findings, []);
    let y = floats(&outcome.buffer("y").expect("the probabilities"));
    let lse = floats(&outcome.buffer("lse").expect("the logarithms"));
    for row in 0..ROWS {
        let values: Vec<f64> =
            x[row * COLUMNS..][..COLUMNS].iter().map(|x| f64::from(*x)).collect();
        let sum: f64 = values.iter().map(|value| value.exp()).sum();
        assert!((lse[row] - sum.ln()).abs() < 1e-5, "row {row}: {} and {}", lse[row], sum.ln());
        for (column, value) in values.iter().enumerate() {
            let (got, want) = (y[row * COLUMNS + column], value.exp() / sum);
            assert!((got - want).abs() <= 2e-6 * want, "[{row}, {column}]: {got} and {want}");
        }
    }
}
