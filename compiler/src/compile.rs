//! The pipeline from graphs to a plan, in the order it runs.
//!
//! # Invariants
//! - A function of the graphs and the target: same input, same plan.

use perilune_kernels as kernels;
use perilune_kernels::Problem;
use perilune_plan::{KernelDecl, Plan, SharedMemory};

use crate::diagnostic::InternalError;
use crate::elaborate::Elaborated;
use crate::graph::Graph;
use crate::import::import;
use crate::lower::{Generated, Lowered, Target, lower_as, lower_generated, named};
use crate::mlir::Mlir;
use crate::plan;
use crate::program::{Kernel, Program};
use crate::sharding;
use crate::stages;

/// What the pipeline made on the way to a plan.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The program after the last pass; its calls carry what fusion decided.
    pub program: Program,
    /// The kernels that `kernels-gen` wrote, with their schedules; none for the CPU.
    pub generated: Vec<Generated>,
    /// The plan.
    pub plan: Plan,
}

/// Compiles every entry of a spec: `init`, `train_step`, `eval`, `forward`; on a mesh, those of one
/// rank, which are those of every rank.
///
/// # Errors
/// A broken invariant: a bug of the compiler, not of the spec.
pub fn compile(spec: &Elaborated, target: Target) -> Result<Compiled, InternalError> {
    let spec = &*sharding::shard(spec)?;
    let graphs: Vec<&Graph> =
        [Some(&spec.init), spec.train_step.as_ref(), spec.eval.as_ref(), Some(&spec.forward)]
            .into_iter()
            .flatten()
            .collect();
    compile_graphs(&spec.name, &graphs, target)
}

/// Compiles graphs, each an entry of the plan.
///
/// # Errors
/// A broken invariant: a bug of the compiler, not of the spec.
pub fn compile_graphs(
    name: &str,
    graphs: &[&Graph],
    target: Target,
) -> Result<Compiled, InternalError> {
    let mut program = import(name, graphs);
    optimize(&mut program);
    let (plan, generated) = emit(&program, target)?;
    Ok(Compiled { program, generated, plan })
}

/// Lowers the kernels of a program after its last pass; gives its plan and, on a GPU, the schedules
/// of the generated ones.
///
/// # Errors
/// A broken invariant: a bug of the compiler, not of the spec.
pub fn emit(program: &Program, target: Target) -> Result<(Plan, Vec<Generated>), InternalError> {
    let mlir = Mlir::new();
    let mut text =
        |kernel: &Kernel, rows: Option<u64>| lower_as(&mlir, kernel, rows, target).map(declare);
    let mut all = Vec::new();
    let plan = match kernels::Target::named(target.name()) {
        None => plan::build(program, target, &mut text)?,
        Some(chip) => {
            let mut generate = |problem: &Problem, name: String| {
                let generated = scheduled(problem, name, chip)?;
                let lowered = lower_generated(&mlir, &generated, target)?;
                all.push(generated.clone());
                Ok(declare(lowered))
            };
            plan::build_gpu(program, target, &mut text, &mut generate)?
        }
    };
    Ok((plan, all))
}

/// The passes between import and lowering.
pub fn optimize(program: &mut Program) {
    stages::advance(program, 0, stages::STAGES.len() - 1);
}

/// The plan of a program after its last pass before anything is lowered: its kernels have names and
/// no texts. With it, on a GPU, the kernels that `kernels-gen` is to write.
///
/// # Errors
/// A broken invariant: a bug of the compiler, not of the spec.
pub fn sketch(program: &Program, target: Target) -> Result<(Plan, Vec<Generated>), InternalError> {
    let blank = |name: String, blocks| KernelDecl {
        name,
        text: String::new(),
        params: Vec::new(),
        blocks,
        threads: 1,
        shared: SharedMemory::default(),
        flops: 0,
        bytes: 0,
        numerics: String::new(),
    };
    let mut text =
        |kernel: &Kernel, rows: Option<u64>| Ok(blank(named(kernel, rows).name.clone(), 1));
    let mut all = Vec::new();
    let plan = match kernels::Target::named(target.name()) {
        None => plan::build(program, target, &mut text)?,
        Some(chip) => {
            let mut generate = |problem: &Problem, name: String| {
                let generated = scheduled(problem, name.clone(), chip)?;
                let blocks = generated.kernel()?.blocks;
                all.push(generated);
                Ok(blank(name, blocks))
            };
            plan::build_gpu(program, target, &mut text, &mut generate)?
        }
    };
    Ok((plan, all))
}

/// A problem with the schedule that is chosen for it.
fn scheduled(
    problem: &Problem,
    name: String,
    chip: &kernels::Target,
) -> Result<Generated, InternalError> {
    let choice = kernels::choose(problem, chip)
        .map_err(|e| InternalError::new("schedule", format!("{name}: {e}")))?;
    Ok(Generated { name, problem: problem.clone(), choice })
}

fn declare(lowered: Lowered) -> KernelDecl {
    let Lowered { name, text, blocks, threads, shared, params, flops, bytes, numerics, .. } =
        lowered;
    KernelDecl { name, text, params, blocks, threads, shared, flops, bytes, numerics }
}
