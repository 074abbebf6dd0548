//! `perilune doctor`: what this machine has, what it lacks, and the line that fixes it.
//!
//! # Invariants
//! - Looks, runs `--version`, never installs or changes anything.
//! - Only what the CPU road needs makes it fail (exit 3); a missing GPU, ptxas or MPI is a note.

use std::path::{Path, PathBuf};
use std::process::Command;

use perilune_runtime::comm::nccl::{Library, LibraryError};
use serde_json::{Value, json};

use crate::console::Console;
use crate::exit::{Exit, Failure};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Note,
    Missing,
}

struct Finding {
    name: &'static str,
    verdict: Verdict,
    detail: String,
    fix: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Finding { name, verdict: Verdict::Ok, detail: detail.into(), fix: None }
    }

    /// Something optional is not there.
    fn note(name: &'static str, detail: impl Into<String>, fix: &str) -> Self {
        let fix = Some(fix.to_owned());
        Finding { name, verdict: Verdict::Note, detail: detail.into(), fix }
    }

    fn to_json(&self) -> Value {
        let verdict = self.word();
        json!({"name": self.name, "verdict": verdict, "detail": self.detail, "fix": self.fix})
    }

    fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Missing => "missing",
        }
    }

    fn line(&self) -> String {
        let mut text = format!("{:<8}{:<13}{}", self.word(), self.name, self.detail);
        if let Some(fix) = &self.fix {
            text.push_str(&format!("\n{:21}fix: {fix}", ""));
        }
        text
    }
}

pub(crate) fn run(console: &Console, _args: &Args) -> Result<Exit, Failure> {
    let findings = [
        cpu_features(),
        threads(),
        memory(),
        mlir_opt(),
        ptxas(),
        cuda_driver(),
        mpi(),
        nccl(),
        work_folder(),
    ];
    let ok = findings.iter().all(|f| f.verdict != Verdict::Missing);
    if console.json {
        let list: Vec<Value> = findings.iter().map(Finding::to_json).collect();
        console.json(&json!({"version": 1, "ok": ok, "findings": list}));
    } else {
        let lines: Vec<String> = findings.iter().map(Finding::line).collect();
        console.data(&lines.join("\n"));
    }
    Ok(if ok { Exit::Ok } else { Exit::Environment })
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Finding {
    let features = [
        ("sse4.1", std::arch::is_x86_feature_detected!("sse4.1")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    let has: Vec<&str> = features.iter().filter(|f| f.1).map(|f| f.0).collect();
    let detail = format!("x86_64 with {}", has.join(", "));
    if features[..3].iter().all(|f| f.1) {
        Finding::ok("cpu", detail)
    } else {
        Finding::note("cpu", detail, "a processor with avx2 and fma is several times as fast")
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Finding {
    Finding::ok("cpu", std::env::consts::ARCH)
}

fn threads() -> Finding {
    match std::thread::available_parallelism() {
        Ok(n) => Finding::ok("threads", format!("{n}; results do not depend on it")),
        Err(error) => {
            Finding::note("threads", error.to_string(), "pass --threads N to `perilune train`")
        }
    }
}

fn memory() -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        let rest = line.strip_prefix("MemAvailable:")?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    let Some(kib) = kib else { return Finding::ok("memory", "unknown") };
    let detail = format!("{:.1} GiB available", kib as f64 / f64::from(1u32 << 20));
    if kib >= 1 << 20 {
        Finding::ok("memory", detail)
    } else {
        let fix = Some("close other programs or use a larger machine".to_owned());
        Finding { name: "memory", verdict: Verdict::Missing, detail, fix }
    }
}

/// The pipeline runs in-process; only cross-checks of the printed stages call mlir-opt.
fn mlir_opt() -> Finding {
    let fix = "apt-get install mlir-22-tools (only cross-checks of printed MLIR use it)";
    let fixed = PathBuf::from("/usr/lib/llvm-22/bin/mlir-opt");
    let program = if fixed.exists() { Some(fixed) } else { on_path("mlir-opt") };
    let Some(program) = program else { return Finding::note("mlir-opt", "not found", fix) };
    let shown = program.display();
    match version_line(&program, "LLVM version") {
        Some(version) if version.contains(" 22.") => {
            Finding::ok("mlir-opt", format!("{shown} ({version})"))
        }
        Some(version) => Finding::note("mlir-opt", format!("{shown} is {version}, not 22"), fix),
        None => Finding::note("mlir-opt", format!("{shown} does not run"), fix),
    }
}

fn ptxas() -> Finding {
    let fix = "pip install nvidia-cuda-nvcc-cu12, set PTXAS to its ptxas (checks PTX)";
    let set = std::env::var_os("PTXAS").map(PathBuf::from);
    let cuda = PathBuf::from("/usr/local/cuda/bin/ptxas");
    let found = set.or_else(|| on_path("ptxas")).or_else(|| cuda.exists().then_some(cuda));
    let Some(program) = found else { return Finding::note("ptxas", "not found", fix) };
    let shown = program.display();
    match version_line(&program, "release") {
        Some(version) => Finding::ok("ptxas", format!("{shown} ({version})")),
        None => Finding::note("ptxas", format!("{shown} does not run"), fix),
    }
}

fn cuda_driver() -> Finding {
    let name = "cuda driver";
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/wsl/lib"];
    let library = folders.iter().map(|f| Path::new(f).join("libcuda.so.1")).find(|p| p.exists());
    let module = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    match (module, library) {
        (Some(version), Some(library)) => {
            let first = version.lines().next().unwrap_or_default();
            Finding::ok(name, format!("{} ({first})", library.display()))
        }
        (Some(_), None) => Finding::note(
            name,
            "the kernel module is loaded, but there is no libcuda.so.1",
            "install the user-space driver of the same version (Debian: libcuda1)",
        ),
        (None, Some(library)) => Finding::note(
            name,
            format!("{} is there, but no kernel module", library.display()),
            "load the nvidia module; in a container, start it with the GPU passed through",
        ),
        (None, None) => {
            Finding::note(name, "none: plans run on the CPU", "install NVIDIA's driver")
        }
    }
}

/// Ranks as processes need a build with MPI, and mpirun to start them.
fn mpi() -> Finding {
    let fix = "apt-get install libopenmpi-dev openmpi-bin, then build with `--features mpi`";
    if cfg!(not(feature = "mpi")) {
        return Finding::note("mpi", "not in this build: ranks are threads of one process", fix);
    }
    let Some(program) = on_path("mpirun") else {
        return Finding::note("mpi", "no mpirun", "apt-get install openmpi-bin");
    };
    let shown = program.display();
    match version_line(&program, "Open MPI") {
        Some(version) => Finding::ok("mpi", format!("{shown} ({version})")),
        None => Finding::note("mpi", format!("{shown} is not Open MPI"), fix),
    }
}

/// Ranks on GPUs need NCCL, one copy of a version that is known.
fn nccl() -> Finding {
    let fix = "pip install nvidia-nccl-cu12, set PERILUNE_NCCL to its libnccl.so.2 (ranks on GPUs)";
    match Library::find() {
        Ok(library) => {
            let detail = format!("{} ({})", library.path().display(), library.version());
            Finding::ok("nccl", detail)
        }
        Err(LibraryError::Absent(_)) => Finding::note("nccl", "no libnccl.so.2", fix),
        Err(error) => Finding::note("nccl", error.to_string(), fix),
    }
}

fn work_folder() -> Finding {
    match writable(Path::new(".")) {
        Ok(()) => Finding::ok("work folder", "may be written"),
        Err(why) => {
            let fix = "pass --out a folder you may write";
            Finding::note("work folder", format!("the current folder {why}"), fix)
        }
    }
}

/// Whether files can be made in a folder, or in the nearest folder above it that exists.
fn writable(folder: &Path) -> Result<(), String> {
    let exists = folder.ancestors().find(|f| !f.as_os_str().is_empty() && f.exists());
    let place = exists.unwrap_or(Path::new("."));
    let meta = std::fs::metadata(place).map_err(|error| error.to_string())?;
    if !meta.is_dir() {
        return Err("is not a folder".into());
    }
    if meta.permissions().readonly() { Err("is read-only".into()) } else { Ok(()) }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|p| p.is_file())
}

fn version_line(program: &Path, containing: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find(|line| line.contains(containing)).map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lack_has_a_fix() {
        for finding in
            [cpu_features(), threads(), memory(), mlir_opt(), ptxas(), cuda_driver(), mpi(), nccl()]
        {
            assert_eq!(finding.verdict != Verdict::Ok, finding.fix.is_some(), "{}", finding.name);
        }
    }

    #[test]
    fn a_folder_that_does_not_exist_is_judged_by_the_one_above() {
        assert!(writable(Path::new("/nowhere/at/all")).is_ok());
        assert!(writable(Path::new("/proc/version")).is_err());
    }
}
