//! The driver that runs launches on a GPU, as far as it can be tested without one.
//!
//! It reads LAUNCH.ron files, lays out buffers and compares results in Python, with no code of the
//! virtual machine's, so the two must agree about every committed launch. Without Python there is
//! nothing to test: the tests say `skipped: no python3`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use perilune_ptx_vm::{Launch, LaunchParam, Machine, Module, OutOfBounds, SwizzleMode};
use serde_json::{Value, json};

const FOLDERS: [&str; 3] =
    ["runtime/ptx-vm/tests/foreign", "runtime/ptx-vm/tests/planted", "examples/07_your_own_ptx"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[allow(clippy::print_stderr, reason = "a test that is left out says so")]
fn python(args: &[&str]) -> Option<(bool, String)> {
    let mut command = Command::new("python3");
    command.args(["-B"]).args(args).current_dir(root().join("runtime/ptx-vm/tests/gpu"));
    let Ok(output) = command.output() else {
        eprintln!("skipped: no python3");
        return None;
    };
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!told.contains("Traceback"), "{told}");
    Some((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &told))
}

fn driver(args: &[&str]) -> Option<(bool, String)> {
    let with_program = ["run_launch.py", "--perilune", env!("CARGO_BIN_EXE_perilune")];
    python(&[&with_program[..], args].concat())
}

/// Kernels of a folder that have a launch beside them.
fn launched(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder of kernels");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "ptx") && launch_of(path).exists());
    paths.sort();
    paths
}

fn launch_of(ptx: &Path) -> PathBuf {
    ptx.with_extension("launch.ron")
}

/// A launch as the driver shows it, and the first content of its buffers, as the machine sees both.
fn seen(ptx: &Path) -> (Value, BTreeMap<String, Vec<u8>>) {
    let text = fs::read_to_string(ptx).expect("a kernel");
    let module = Module::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", ptx.display()));
    let launch = Launch::read(launch_of(ptx)).expect("a launch");
    let (block, memory) = Machine::prepare(&module, &launch).expect("a launch that fits");
    let kernel = module.kernels().iter().find(|k| k.name == launch.entry).expect("the kernel");
    let places = kernel.params.iter().map(|p| &block[p.offset as usize..][..p.bytes as usize]);
    let params: Vec<Value> = launch.params.iter().zip(places).map(|(p, b)| shown(p, b)).collect();
    let declared = launch.params.iter().filter_map(|param| match param {
        LaunchParam::Buffer(buffer) => Some(buffer),
        _ => None,
    });
    let names = launch.buffers.iter().chain(declared).map(|buffer| buffer.name.clone());
    let content: BTreeMap<String, Vec<u8>> =
        names.map(|name| (name.clone(), memory.read(&name).expect("a buffer"))).collect();
    let sizes: BTreeMap<&String, usize> = content.iter().map(|(n, c)| (n, c.len())).collect();
    let value = json!({
        "entry": launch.entry, "grid": launch.grid, "block": launch.block,
        "cluster": launch.cluster, "shared_bytes": launch.shared_bytes, "buffers": sizes,
        "params": params,
    });
    (value, content)
}

fn shown(param: &LaunchParam, bytes: &[u8]) -> Value {
    match param {
        LaunchParam::Buffer(buffer) => json!({"pointer": {"buffer": buffer.name, "offset": 0}}),
        LaunchParam::BufferOffset { name, bytes } => {
            json!({"pointer": {"buffer": name, "offset": bytes}})
        }
        LaunchParam::TensorMap {
            over,
            dtype,
            dims,
            strides,
            box_dims,
            element_strides,
            swizzle,
            oob,
            ..
        } => {
            let steps = if element_strides.is_empty() {
                vec![1; dims.len()]
            } else {
                element_strides.clone()
            };
            let swizzle = match swizzle {
                SwizzleMode::None => "None",
                SwizzleMode::B32 => "B32",
                SwizzleMode::B64 => "B64",
                SwizzleMode::B128 => "B128",
            };
            let oob = match oob {
                OutOfBounds::Zeros => "Zeros",
                OutOfBounds::Nan => "Nan",
            };
            json!({"map": {
                "over": over, "dtype": dtype, "dims": dims, "strides": strides, "box": box_dims,
                "element_strides": steps, "swizzle": swizzle, "oob": oob,
            }})
        }
        _ => Value::String(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}

#[test]
fn the_driver_reads_every_committed_launch_as_the_machine_does() {
    let written = tempfile::tempdir().expect("temp dir");
    let mut compared = 0;
    for folder in FOLDERS {
        let into = written.path().join(folder);
        let (folder_path, into_path) = (root().join(folder), into.display().to_string());
        let folder_path = folder_path.display().to_string();
        let Some((_, told)) = driver(&["--dry-run", "--all", &folder_path, "--write", &into_path])
        else {
            return;
        };
        let mut lines = told.lines();
        for ptx in launched(folder) {
            let (want, content) = seen(&ptx);
            let line = lines.next().unwrap_or_else(|| panic!("nothing about {}", ptx.display()));
            let got: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert_eq!(got, want, "{}", ptx.display());
            let stem = ptx.file_stem().expect("a name");
            for (name, want) in content {
                let got = fs::read(into.join(stem).join(&name)).expect("a written buffer");
                assert!(got == want, "`{name}` of {}", ptx.display());
            }
            compared += 1;
        }
    }
    assert!(compared > 200, "{compared} launches");
}

#[test]
fn the_drivers_comparison_agrees_with_what_the_launches_expect() {
    let folder = tempfile::tempdir().expect("temp dir");
    let from = root().join("examples/07_your_own_ptx");
    for entry in fs::read_dir(from).expect("the example") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("copy");
    }
    let all = folder.path().display().to_string();
    let Some((good, told)) = driver(&["--side", "expect", "--all", &all]) else { return };
    assert!(good && told.contains("2 of 2 launches agree"), "{told}");
    // A bit of the largest sum, far beyond the tolerance.
    let expected = folder.path().join("y.expected.bin");
    let mut bytes = fs::read(&expected).expect("the expected sums");
    bytes[14] ^= 0x40;
    fs::write(&expected, bytes).expect("write");
    let (good, told) = driver(&["--side", "expect", "--all", &all]).expect("there was a python3");
    assert!(!good && told.contains("`y` differs in 1 elements, first [3]"), "{told}");
}

#[test]
fn the_drivers_own_tests_pass() {
    let Some((good, told)) = python(&["-m", "unittest", "test_launch"]) else { return };
    assert!(good && told.contains("OK"), "{told}");
}
