//! CLIF: the loops stage as text for Cranelift 0.135.
//!
//! # Invariants
//! - The set of MLIR operations is closed; an unknown one is an internal error that names it.
//! - Vectors are 128 bits. `index` is i64, i1 is i8 (a vector of i1 is an i32x4 mask), bf16 and
//!   f16 are i32 holding the bits.
//! - A contractible product under a contractible sum becomes `fma`, the left product first.

mod builder;
mod math;
mod ops;
mod pow;

use melior::ir::operation::OperationLike;
use melior::ir::{BlockLike, Module, OperationRef, RegionLike};

use crate::diagnostic::InternalError;
use builder::Builder;

/// The CLIF text of a module's only function.
///
/// # Errors
/// When the module holds an operation outside the closed set.
pub(crate) fn emit_clif(module: &Module<'_>, name: &str) -> Result<String, InternalError> {
    let function = first_op(module)?;
    let region = function.region(0).map_err(|e| error(e.to_string()))?;
    let entry = region.first_block().ok_or_else(|| error("a function without a body"))?;
    // The last two arguments are the range of blocks.
    let args = entry.argument_count().checked_sub(2);
    let args = args.ok_or_else(|| error("a function without a range of blocks"))?;
    let mut b = Builder::new();
    let (table, begin, end) = (b.fresh(), b.fresh(), b.fresh());
    b.open_entry(&[&table, &begin, &end]);
    for i in 0..args {
        let arg = entry.argument(i).map_err(|e| error(e.to_string()))?;
        let base = b.def(&format!("load.i64 notrap aligned {table}+{}", 8 * i));
        b.bind(arg, base);
    }
    for (k, val) in [begin, end].into_iter().enumerate() {
        let arg = entry.argument(args + k).map_err(|e| error(e.to_string()))?;
        b.bind(arg, val);
    }
    ops::block(&mut b, entry)?;
    Ok(b.finish(name))
}

fn first_op<'c, 'a>(module: &'a Module<'c>) -> Result<OperationRef<'c, 'a>, InternalError> {
    module.body().first_operation().ok_or_else(|| error("an empty module"))
}

/// An internal error of this pass.
fn error(message: impl Into<String>) -> InternalError {
    InternalError::new("clif", message)
}
