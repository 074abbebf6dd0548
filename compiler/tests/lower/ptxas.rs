//! NVIDIA's assembler, where there is one.

use std::path::PathBuf;
use std::process::Command;

/// `$PTXAS`, `$CUDA_HOME/bin`, a Python environment in target/ptxas-venv, or the path.
fn find() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(std::env::var_os("PTXAS").map(PathBuf::from));
    places.extend(std::env::var_os("CUDA_HOME").map(|d| PathBuf::from(d).join("bin/ptxas")));
    let venv = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/ptxas-venv/lib");
    for python in std::fs::read_dir(venv).into_iter().flatten().flatten() {
        places.push(python.path().join("site-packages/nvidia/cuda_nvcc/bin/ptxas"));
    }
    for dir in std::env::var_os("PATH").iter().flat_map(std::env::split_paths) {
        places.push(dir.join("ptxas"));
    }
    places.into_iter().find(|p| p.is_file())
}

/// Assembles a text. Panics when it is refused or spills; does nothing without ptxas.
pub(crate) fn check(name: &str, ptx: &str, chip: &str) {
    let Some(ptxas) = find() else {
        #[allow(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: no ptxas");
        }
        return;
    };
    let dir = tempfile::tempdir().expect("a scratch folder");
    let (input, output) = (dir.path().join("kernel.ptx"), dir.path().join("kernel.cubin"));
    std::fs::write(&input, ptx).expect("the text is written");
    let run = Command::new(ptxas)
        .arg(format!("-arch={chip}"))
        .arg("-v")
        .arg(&input)
        .arg("-o")
        .arg(&output)
        .output()
        .expect("ptxas starts");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{name}: {said}\n{ptx}");
    assert!(said.contains("0 bytes spill stores, 0 bytes spill loads"), "{name}: {said}");
}
