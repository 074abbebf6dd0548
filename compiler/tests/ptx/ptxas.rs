//! NVIDIA's assembler, where there is one.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What ptxas says of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) registers: u32,
    pub(crate) barriers: u32,
    pub(crate) stack_bytes: u32,
    pub(crate) spill_bytes: u32,
    pub(crate) shared_bytes: u32,
}

impl std::fmt::Display for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:3} registers {} barriers", self.registers, self.barriers)?;
        if self.stack_bytes > 0 {
            write!(f, " {} bytes of stack", self.stack_bytes)?;
        }
        if self.spill_bytes > 0 {
            write!(f, " {} BYTES SPILLED", self.spill_bytes)?;
        }
        Ok(())
    }
}

/// `$PTXAS`, `$CUDA_HOME/bin`, a Python environment in target/ptxas-venv, or the path.
pub(crate) fn find() -> Option<PathBuf> {
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

/// Assembles a text. Panics when it is refused or spills; says so without ptxas.
pub(crate) fn check(name: &str, ptx: &str, chip: &str) {
    let Some(ptxas) = find() else {
        #[allow(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: no ptxas");
        }
        return;
    };
    let found = assemble(&ptxas, (name, ptx), chip);
    assert_eq!(found.spill_bytes, 0, "{name} on {chip}: {found}\n{ptx}");
}

/// Assembles a text. Panics when it is refused.
pub(crate) fn assemble(ptxas: &Path, (name, ptx): (&str, &str), chip: &str) -> Resources {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let input = dir.path().join("kernel.ptx");
    std::fs::write(&input, ptx).expect("the text is written");
    let run = Command::new(ptxas)
        .arg(format!("-arch={chip}"))
        .arg("-v")
        .arg(&input)
        .arg("-o")
        .arg(dir.path().join("kernel.cubin"))
        .output()
        .expect("ptxas starts");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{name}: {said}\n{ptx}");
    // `… 8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads`,
    // `… Used 40 registers, used 1 barriers, 19456 bytes smem`
    let before = |what: &str| {
        let number = said.split(what).next().filter(|rest| rest.len() < said.len());
        let word = number.and_then(|rest| rest.split_whitespace().last());
        word.and_then(|w| w.parse::<u32>().ok())
    };
    Resources {
        registers: before(" registers").unwrap_or_else(|| panic!("{name}: {said}")),
        barriers: before(" barriers").unwrap_or(0),
        stack_bytes: before(" bytes stack frame").unwrap_or_else(|| panic!("{name}: {said}")),
        spill_bytes: before(" bytes spill stores").unwrap_or_else(|| panic!("{name}: {said}")),
        shared_bytes: before(" bytes smem").unwrap_or(0),
    }
}
