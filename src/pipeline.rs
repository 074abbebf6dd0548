//! The road from a spec on disk to a session, with what can go wrong as one kind of failure.
//!
//! # Invariants
//! - The compiler sees a [`Loader`], never a path of this machine.

use std::borrow::Cow;
use std::path::Path;

use perilune_compiler::codes;
use perilune_compiler::diagnostic::{Diagnostics, InternalError};
use perilune_compiler::elaborate::{self, Elaborated};
use perilune_compiler::lower::Target;
use perilune_compiler::lower::text::{self, KernelStage};
use perilune_compiler::mlir::{Mlir, REPLAY};
use perilune_compiler::program::Program;
use perilune_compiler::sharding;
use perilune_compiler::source::{Loader, SourceMap};
use perilune_compiler::spec::names::NamesSpec;
use perilune_plan::Plan;
use perilune_runtime::comm::{CommError, Obstacle};
use perilune_runtime::io::safetensors::SafetensorsError;
use perilune_runtime::{DeviceKind, KernelFindings, Options, RuntimeError, Session};

use crate::exit::{Exit, Failure};
use crate::loader::FolderLoader;

/// A spec that holds, with its files and what was found to warn about.
#[derive(Debug)]
pub struct Checked {
    /// What it means.
    pub elaborated: Elaborated,
    /// Its files.
    pub sources: SourceMap,
    /// Warnings.
    pub warnings: Diagnostics,
}

/// Elaborates a spec, `Model(..)` or `Train(..)`; `sets` overrides dims.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(
    loader: &dyn Loader,
    path: &str,
    sets: &[(String, String)],
) -> Result<Checked, Failure> {
    check_on(loader, path, sets, None)
}

/// As [`check`], on another mesh than the spec's: `dp=2,ep=2`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_on(
    loader: &dyn Loader,
    path: &str,
    sets: &[(String, String)],
    mesh: Option<&str>,
) -> Result<Checked, Failure> {
    let (elaborated, diagnostics, sources) = elaborate::load_spec_on(loader, path, sets, mesh);
    match elaborated {
        Some(elaborated) => Ok(Checked { elaborated, sources, warnings: diagnostics }),
        None if diagnostics.has_errors() => Err(Failure::Spec { diagnostics, sources }),
        None => Err(Failure::internal("the spec was refused without a reason")),
    }
}

/// Elaborates a spec given by its path on disk.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_file(path: &Path, sets: &[(String, String)]) -> Result<Checked, Failure> {
    check_file_on(path, sets, None)
}

/// As [`check_file`], on another mesh than the spec's.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_file_on(
    path: &Path,
    sets: &[(String, String)],
    mesh: Option<&str>,
) -> Result<Checked, Failure> {
    let (loader, below) = FolderLoader::for_spec(path);
    check_on(&loader, &below, sets, mesh)
}

impl Checked {
    /// The spec with the graphs of one rank of its mesh.
    ///
    /// # Errors
    /// A bug of ours.
    pub fn local(&self) -> Result<Cow<'_, Elaborated>, Failure> {
        sharding::shard(&self.elaborated).map_err(internal)
    }
}

/// The plan of a spec before anything is lowered: every step, buffer and collective, no kernel
/// texts.
///
/// # Errors
/// A bug of ours.
pub fn sketch(checked: &Checked) -> Result<Plan, Failure> {
    let local = checked.local()?;
    let mut program = perilune_compiler::import::import(&local.name, &local.graphs());
    perilune_compiler::compile::optimize(&mut program);
    let sketch = perilune_compiler::compile::sketch(&program, Target::Cpu);
    Ok(sketch.map_err(internal)?.0)
}

/// Elaborates and compiles for the CPU.
///
/// # Errors
/// Everything that is wrong with the spec, or a bug of ours.
pub fn plan(loader: &dyn Loader, path: &str, sets: &[(String, String)]) -> Result<Plan, Failure> {
    compile(&check(loader, path, sets)?.elaborated, DeviceKind::Cpu)
}

/// Compiles for a device.
///
/// # Errors
/// A bug of ours.
pub fn compile(elaborated: &Elaborated, device: DeviceKind) -> Result<Plan, Failure> {
    let target = match device {
        DeviceKind::Cpu => Target::Cpu,
        DeviceKind::PtxVm { .. } => Target::Sm90a,
    };
    let compiled = perilune_compiler::compile::compile(elaborated, target);
    Ok(compiled.map_err(internal)?.plan)
}

/// The kernels of a program after its last pass, at a stage; for Hopper where they are a GPU's,
/// unless a target is given.
///
/// # Errors
/// When the target has no such stage, or a bug of ours.
pub fn kernel_texts(
    mlir: &Mlir,
    program: &Program,
    stage: KernelStage,
    target: Option<Target>,
) -> Result<String, Failure> {
    let gpu = stage.comes_from(KernelStage::Gpu);
    let target = target.unwrap_or(if gpu { Target::Sm90a } else { Target::Cpu });
    if gpu == (target == Target::Cpu) {
        let headline = format!("`{}` has no stage `{}`", target.name(), stage.name());
        let help = match gpu {
            true => "give --target sm_90a or sm_80, or ask for loops or clif",
            false => "ask for gpu, nvvm or ptx, or leave --target out",
        };
        return Err(Failure::new(Exit::Usage, headline).help(help));
    }
    let (_, generated) = perilune_compiler::compile::sketch(program, target).map_err(internal)?;
    text::write(mlir, (program, &generated), (stage, target)).map_err(internal)
}

/// Reads a table of checkpoint names.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_names(loader: &dyn Loader, path: &str) -> Result<NamesSpec, Failure> {
    let (names, diagnostics, sources) = elaborate::load_names(loader, path);
    names.ok_or(Failure::Spec { diagnostics, sources })
}

/// A session on the CPU.
///
/// # Errors
/// When the plan cannot be bound.
pub fn session(plan: Plan) -> Result<Session, Failure> {
    Session::new(plan, Options::default()).map_err(runtime)
}

/// Elaborates a spec, compiles it for a device and binds it there.
///
/// # Errors
/// Everything that is wrong with the spec, or a bug of ours.
pub fn session_on(device: DeviceKind, loader: &dyn Loader, path: &str) -> Result<Session, Failure> {
    let plan = compile(&check(loader, path, &[])?.elaborated, device)?;
    Session::new(plan, Options { device, ..Options::default() }).map_err(runtime)
}

/// A broken invariant of the compiler as a failure. The text that shows it goes to a file of its own
/// in the folder that Perilune runs in.
pub fn internal(error: InternalError) -> Failure {
    internal_below(Path::new(""), &error)
}

fn internal_below(folder: &Path, error: &InternalError) -> Failure {
    let report = "this is a bug in Perilune; please report it with the spec";
    let failure = Failure::internal(error.to_string());
    if error.reproducer.is_empty() {
        return failure.help(report);
    }
    let path = folder.join(format!("perilune-bug-{}.mlir", error.pass));
    match std::fs::write(&path, &error.reproducer) {
        Ok(()) => {
            let path = path.display();
            let first = error.reproducer.lines().next().unwrap_or_default();
            let replay = first.strip_prefix(REPLAY).map(|rest| format!("\nreplay: {rest} {path}"));
            failure.help(format!("{report} and `{path}`{}", replay.unwrap_or_default()))
        }
        Err(_) => failure.help(format!("{report} and this text:\n{}", error.reproducer)),
    }
}

/// A runtime error as a failure: what data can cause is the user's, the rest is ours.
pub fn runtime(error: RuntimeError) -> Failure {
    let exit = match &error {
        RuntimeError::Target { .. } | RuntimeError::Mesh { .. } => Exit::Integrity,
        RuntimeError::Host { .. } | RuntimeError::Memory { .. } => Exit::Environment,
        RuntimeError::NonFinite { .. } => Exit::NonFinite,
        RuntimeError::MissingFeed { .. }
        | RuntimeError::UnknownFeed { .. }
        | RuntimeError::RepeatedFeed { .. }
        | RuntimeError::FeedType { .. }
        | RuntimeError::TensorType { .. }
        | RuntimeError::UnknownTensor { .. }
        | RuntimeError::UnknownEntry { .. } => Exit::Spec,
        RuntimeError::Findings(found) if is_limit(found) => Exit::Environment,
        RuntimeError::Comm(error) => return comm(error),
        _ => Exit::Internal,
    };
    let help = match &error {
        RuntimeError::Findings(found) if is_limit(found) => Some(
            "the virtual machine stops a launch at a limit: raise `--vm-steps`, run less data, or run the plan on a GPU",
        ),
        RuntimeError::Findings(_) => {
            Some("this is a bug in Perilune's kernels; please report it with the spec")
        }
        _ => None,
    };
    let mut headline = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        headline.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    let failure = Failure::new(exit, headline);
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// Whether the virtual machine stopped a kernel at a limit and found nothing wrong with it.
fn is_limit(found: &KernelFindings) -> bool {
    found.findings.iter().all(|finding| finding.code == "V1302")
}

/// An error between ranks as a failure: a lost rank is worth another start, a job that cannot come
/// together is the machine's, ranks that run different things are the user's.
pub fn comm(error: &CommError) -> Failure {
    let exit = match error {
        CommError::Lost(_) => Exit::RankLost,
        CommError::Refused { .. } | CommError::Carrier { .. } => Exit::Environment,
        CommError::Disagree { .. } => Exit::Spec,
        _ => Exit::Internal,
    };
    let failure = Failure::new(exit, error.to_string());
    match error {
        CommError::Lost(_) => failure.help(
            "`perilune hang-report` on the run's `flight` folder shows what every rank did last",
        ),
        CommError::Refused { why, help, .. } => {
            let failure = failure.help(help.clone());
            match why {
                Obstacle::Launcher => failure.code(codes::LAUNCHER_VARIABLES),
                Obstacle::Unreachable => failure.code(codes::RENDEZVOUS_UNREACHABLE),
                Obstacle::KeptOut => failure.code(codes::RENDEZVOUS_REFUSED),
                Obstacle::Environment => failure,
            }
        }
        CommError::Disagree { .. } => failure
            .help("start every rank with the same spec, settings and version")
            .code(codes::RANKS_DIFFER),
        _ => failure,
    }
}

/// A weights file's error as a failure: the system's refusals are the machine's, damage the file's.
pub fn io(error: &SafetensorsError) -> Failure {
    let exit = match error {
        SafetensorsError::Io { .. } => Exit::Environment,
        _ => Exit::Integrity,
    };
    Failure::new(exit, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_job_from_starting_has_a_code() {
        let code = |error: CommError| match comm(&error) {
            Failure::Plain(problem) => problem.code,
            Failure::Spec { .. } => panic!("it is no mistake in a spec"),
        };
        let refused = |why| code(CommError::Refused { why, what: "x".into(), help: "y".into() });
        assert_eq!(refused(Obstacle::Launcher), Some(codes::LAUNCHER_VARIABLES));
        assert_eq!(refused(Obstacle::Unreachable), Some(codes::RENDEZVOUS_UNREACHABLE));
        assert_eq!(refused(Obstacle::KeptOut), Some(codes::RENDEZVOUS_REFUSED));
        assert_eq!(refused(Obstacle::Environment), None);
        let differ = CommError::Disagree { what: "plan", ranks: vec![1], most: 3 };
        assert_eq!(code(differ), Some(codes::RANKS_DIFFER));
    }

    #[test]
    fn what_shows_a_bug_is_a_file_and_a_command() {
        let folder = tempfile::tempdir().expect("a folder");
        let mlir = Mlir::new();
        let refused = mlir.parse("loops", "module { nonsense }").map(drop).expect_err("refused");
        let Failure::Plain(problem) = internal_below(folder.path(), &refused) else {
            panic!("it is no mistake in a spec");
        };
        let help = problem.help.expect("what to do");
        let path = folder.path().join("perilune-bug-loops.mlir");
        let text = std::fs::read_to_string(&path).expect("the file");
        assert!(text.ends_with("module { nonsense }"), "{text}");
        assert!(help.ends_with(&format!("replay: mlir-opt {}", path.display())), "{help}");
    }
}
