//! Serial kernels: top-k, sorting, counting, running sums and scattered sums as scalar loops.
//!
//! Their results depend on an order that lanes would break, so they are written as scalar loops
//! over independent *units* (a row, a range of keys, a range of columns). On the CPU a unit is a
//! block; on a GPU it is a thread, and units are cut finer.
//!
//! # Invariants
//! - Arguments are flat memories: the kernel's parameters, then its results.
//! - Units are independent, and what they are depends on shapes and the [`Grain`] alone.
//! - No key or index read from memory leads to an access outside an argument.
//! - Only scf, memref and arith appear, on scalars.

mod argsort;
mod code;
mod cumsum;
mod scatter;
mod topk;

#[cfg(test)]
mod tests;

use code::{Code, Memory};

use crate::diagnostic::InternalError;
use crate::program::{DialectOp, Kernel, KernelOp, OpKind};
use crate::types::Type;

/// How finely a serial kernel is cut into units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grain {
    /// A unit is a block of work for a CPU core.
    Core,
    /// A unit is one GPU thread; no stack memory.
    Thread,
}

/// A serial kernel as loops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SerialLoops {
    /// Parameters as MLIR writes them, without the range of units.
    pub(crate) parameters: Vec<String>,
    /// Operations over the units `%block_begin .. %block_end`, without a terminator.
    pub(crate) body: String,
    /// Number of independent units.
    pub(crate) units: u64,
    /// Additions or comparisons of one launch.
    pub(crate) flops: u64,
    /// Order and accumulation type, in words.
    pub(crate) numerics: String,
}

impl SerialLoops {
    /// As a `func.func` over a range of blocks, one unit each.
    pub(crate) fn as_func(&self, name: &str) -> String {
        let mut parameters = self.parameters.clone();
        parameters.push("%block_begin: index, %block_end: index".to_string());
        format!("func.func @{name}({}) {{\n{}return\n}}\n", parameters.join(", "), self.body)
    }
}

/// The op of a serial kernel, if the kernel is one.
pub(crate) fn serial_op(kernel: &Kernel) -> Option<&DialectOp> {
    match kernel.ops.as_slice() {
        [KernelOp { kind: OpKind::Dialect(op), .. }] => match op {
            DialectOp::TopK { .. }
            | DialectOp::ArgSort { .. }
            | DialectOp::Histogram { .. }
            | DialectOp::CumSum { .. }
            | DialectOp::ScatterAdd { .. } => Some(op),
            DialectOp::Attention { .. }
            | DialectOp::AttentionGrad { .. }
            | DialectOp::RaggedRows { .. }
            | DialectOp::RaggedOuter
            | DialectOp::Collective(_) => None,
        },
        _ => None,
    }
}

/// Writes the loops of a serial kernel.
///
/// # Errors
/// When the kernel is not one serial op on its own parameters.
pub(crate) fn emit(kernel: &Kernel, grain: Grain) -> Result<SerialLoops, InternalError> {
    let Some(op) = serial_op(kernel) else {
        return Err(InternalError::new("serial", format!("`{}` is not serial", kernel.name)));
    };
    let mut cx = Cx::new(kernel, grain)?;
    let (units, flops, numerics) = match op {
        DialectOp::TopK { k } => topk::emit(&mut cx, *k)?,
        DialectOp::ArgSort { bound } => argsort::emit(&mut cx, *bound)?,
        DialectOp::Histogram { bound } => argsort::emit_histogram(&mut cx, *bound)?,
        DialectOp::CumSum { exclusive } => cumsum::emit(&mut cx, *exclusive)?,
        DialectOp::ScatterAdd { extent } => scatter::emit(&mut cx, *extent)?,
        DialectOp::Attention { .. }
        | DialectOp::AttentionGrad { .. }
        | DialectOp::RaggedRows { .. }
        | DialectOp::RaggedOuter
        | DialectOp::Collective(_) => {
            return Err(InternalError::new("serial", "a plan step has no loops"));
        }
    };
    let parameters = cx.arguments.iter().map(Memory::parameter).collect();
    let body = cx.code.finish();
    Ok(SerialLoops { parameters, body, units, flops, numerics: numerics.to_string() })
}

/// Units, operations and numerics of what was written.
type Written = (u64, u64, &'static str);

/// A kernel being written.
struct Cx<'k> {
    grain: Grain,
    code: Code,
    arguments: Vec<Memory>,
    /// Argument behind each operand.
    operands: Vec<(Memory, &'k Type)>,
    /// Arguments that each result of the op goes to.
    results: Vec<Vec<Memory>>,
}

impl<'k> Cx<'k> {
    fn new(kernel: &'k Kernel, grain: Grain) -> Result<Self, InternalError> {
        let broken = |what: &str| InternalError::new("serial", format!("`{}` {what}", kernel.name));
        let op = kernel.ops.first().ok_or_else(|| broken("is empty"))?;
        let n = kernel.params.len();
        let mut arguments: Vec<Memory> =
            kernel.params.iter().enumerate().map(|(i, ty)| Memory::argument(i, ty)).collect();
        let mut operands = Vec::new();
        for v in &op.operands {
            let i = v.0 as usize;
            let ty = kernel.params.get(i).ok_or_else(|| broken("reads its own result"))?;
            operands.push((arguments[i].clone(), ty));
        }
        let mut results = vec![Vec::new(); op.results.len()];
        for v in &kernel.results {
            let made = (v.0 as usize).checked_sub(n).filter(|r| *r < op.results.len());
            let made = made.ok_or_else(|| broken("returns a parameter"))?;
            let memory = Memory::argument(arguments.len(), &op.results[made]);
            arguments.push(memory.clone());
            results[made].push(memory);
        }
        Ok(Cx { grain, code: Code::default(), arguments, operands, results })
    }

    /// An operand and its type.
    fn operand(&self, n: usize) -> Result<(Memory, &'k Type), InternalError> {
        let found = self.operands.get(n).cloned();
        found.ok_or_else(|| InternalError::new("serial", "an operand is missing"))
    }
}

/// Rows and row length of a tensor cut along its last dimension.
fn rows(ty: &Type) -> Result<(u64, u64), InternalError> {
    let (last, outer) = ty
        .shape
        .split_last()
        .ok_or_else(|| InternalError::new("serial", "a scalar where rows are needed"))?;
    Ok((outer.iter().product(), *last))
}
