//! The pipeline from graphs to a plan, in the order it runs.
//!
//! # Invariants
//! - A function of the graphs and the target: same input, same plan.

use perilune_plan::{KernelDecl, Plan};

use crate::diagnostic::InternalError;
use crate::elaborate::Elaborated;
use crate::graph::Graph;
use crate::import::import;
use crate::lower::{Lowered, Target, lower_kernel};
use crate::mlir::Mlir;
use crate::passes::fuse::Decision;
use crate::plan;
use crate::program::{Kernel, Program};
use crate::stages;

/// What the pipeline made on the way to a plan.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The program after the last pass.
    pub program: Program,
    /// Every fusion tried, with its outcome.
    pub decisions: Vec<Decision>,
    /// The plan.
    pub plan: Plan,
}

/// Compiles every entry of a spec: `init`, `train_step`, `eval`, `forward`.
///
/// # Errors
/// A broken invariant: a bug of the compiler, not of the spec.
pub fn compile(spec: &Elaborated, target: Target) -> Result<Compiled, InternalError> {
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
    let decisions = optimize(&mut program);
    let plan = emit(&program, target)?;
    Ok(Compiled { program, decisions, plan })
}

/// Lowers the kernels of a program after its last pass; gives its plan.
///
/// # Errors
/// A broken invariant: a bug of the compiler, not of the spec.
pub fn emit(program: &Program, target: Target) -> Result<Plan, InternalError> {
    let mlir = Mlir::new();
    let mut text =
        |kernel: &Kernel| lower_kernel(&mlir, kernel, target).map(|l| declare(kernel, l));
    plan::build(program, target.name(), &mut text)
}

/// The passes between import and lowering.
pub fn optimize(program: &mut Program) -> Vec<Decision> {
    stages::advance(program, 0, stages::STAGES.len() - 1)
}

fn declare(kernel: &Kernel, lowered: Lowered) -> KernelDecl {
    let Lowered { text, blocks, threads, params, flops, bytes, numerics, .. } = lowered;
    KernelDecl { name: kernel.name.clone(), text, params, blocks, threads, flops, bytes, numerics }
}
