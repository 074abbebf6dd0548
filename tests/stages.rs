//! The stages of k2-nano's training step as text: stock `mlir-opt` verifies each, `opt` leads from
//! each to the next, and the same bytes come out wherever and however often it is compiled.
//!
//! # Invariants
//! - Runs the built binary, a process for each compilation: every one has its own hash seeds, as
//!   the standard library draws them anew for each process.

#![allow(clippy::print_stderr, reason = "a skipped check says so")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use perilune_compiler::lower::Target;
use perilune_compiler::lower::text::KernelStage;
use perilune_compiler::mlir::DIALECT;
use perilune_compiler::stages::STAGES;

const SPEC: &str = "models/k2-nano/train.ron";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the program in a folder with so many threads offered.
fn perilune(folder: &Path, threads: &str, args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_perilune"))
        .args(args)
        .current_dir(folder)
        .env("RAYON_NUM_THREADS", threads)
        .output()
        .expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Each stage with the one it is made from.
fn steps() -> Vec<(&'static str, &'static str)> {
    let last = STAGES[STAGES.len() - 1].name;
    let program = STAGES.windows(2).map(|pair| (pair[0].name, pair[1].name));
    let kernels = KernelStage::ALL.into_iter();
    let kernels = kernels.map(|s| (s.before().map_or(last, KernelStage::name), s.name()));
    program.chain(kernels).collect()
}

/// Stock `mlir-opt`, where it is installed.
fn mlir_opt() -> Option<PathBuf> {
    let prefix = std::env::var("MLIR_SYS_220_PREFIX").unwrap_or("/usr/lib/llvm-22".into());
    Some(Path::new(&prefix).join("bin/mlir-opt")).filter(|path| path.exists())
}

fn is_mlir(stage: &str) -> bool {
    KernelStage::named(stage).is_none_or(KernelStage::is_mlir)
}

#[test]
fn opt_leads_from_each_stage_to_what_build_writes_for_the_next() {
    let folder = tempfile::tempdir().expect("temp dir");
    let at = |name: &str| folder.path().join(name);
    let mut texts: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let stages = [STAGES[0].name].into_iter().chain(steps().into_iter().map(|(_, to)| to));
    for stage in stages {
        let emit = if is_mlir(stage) { format!("mlir:{stage}") } else { stage.to_owned() };
        let file = at(stage);
        perilune(root(), "2", &["build", SPEC, "--emit", &emit, "-o", &file.display().to_string()]);
        texts.insert(stage, read(&file));
    }
    assert_eq!(texts.len(), STAGES.len() + KernelStage::ALL.len());
    for (from, to) in steps() {
        let (file, out) = (at(from).display().to_string(), at("out").display().to_string());
        perilune(root(), "2", &["opt", &file, "--from", from, "--to", to, "-o", &out]);
        assert!(read(&at("out")) == texts[to], "from `{from}` to `{to}`");
    }
    // A pass may find nothing to do in this model; most must. One rank has no collectives to overlap.
    let steps: Vec<_> = steps().into_iter().filter(|(_, to)| *to != "overlap").collect();
    let changed = steps.iter().filter(|(from, to)| texts[from] != texts[to]).count();
    assert!(changed + 2 >= steps.len(), "only {changed} stages differ from the one before");

    let Some(mlir_opt) = mlir_opt() else {
        eprintln!("skipped: no mlir-opt");
        return;
    };
    let dialect = at("perilune.irdl.mlir");
    std::fs::write(&dialect, DIALECT).expect("written");
    for stage in texts.keys().filter(|stage| is_mlir(stage)) {
        let mut command = Command::new(&mlir_opt);
        command.arg(format!("--irdl-file={}", dialect.display())).arg(at(stage));
        let output = command.output().expect("mlir-opt starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !output.stdout.is_empty(), "{stage}: {stderr}");
    }
}

#[test]
fn what_is_no_text_of_a_stage_is_refused() {
    let folder = tempfile::tempdir().expect("temp dir");
    let file = folder.path().join("text");
    let nested = "module { ".repeat(100_000);
    let cases = [
        ("not MLIR", "loops", "clif", 1),
        ("module { module { } }", "loops", "clif", 1),
        ("func.func @f() { return }", "gpu", "ptx", 1),
        (nested.as_str(), "nvvm", "ptx", 1),
        ("module { }", "gpu", "clif", 2),
        ("module { }", "loops", "import", 2),
        ("module { }", "bufferise", "fuse", 2),
    ];
    for (text, from, to, exit) in cases {
        std::fs::write(&file, text).expect("written");
        let output = Command::new(env!("CARGO_BIN_EXE_perilune"))
            .args(["opt", &file.display().to_string(), "--from", from, "--to", to])
            .output()
            .expect("the program starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{from} to {to}: {stderr}");
        assert!(output.stdout.is_empty() && !stderr.contains("panicked"), "{stderr}");
    }
}

/// Copies the specs of a folder.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, &target).expect("copied")),
        }
    }
}

#[test]
fn processes_threads_and_folders_leave_no_trace_in_a_plan() {
    let folder = tempfile::tempdir().expect("temp dir");
    let elsewhere = folder.path().join("another/deeper place");
    copy(&root().join("models"), &elsewhere.join("models"));
    let plan = folder.path().join("plan").display().to_string();
    for target in [Target::Cpu, Target::Sm90a] {
        let compiled = |folder: &Path, spec: &str, threads: &str| {
            let args = ["build", spec, "--target", target.name(), "--emit", "plan", "-o", &plan];
            perilune(folder, threads, &args);
            read(Path::new(&plan))
        };
        let here = compiled(root(), SPEC, "1");
        let absolute = elsewhere.join(SPEC).display().to_string();
        for (folder, spec) in [(elsewhere.as_path(), SPEC), (Path::new("/"), absolute.as_str())] {
            let there = compiled(folder, spec, "7");
            assert!(here == there, "{}: {spec} from {}", target.name(), folder.display());
        }
    }
}
