//! gpu-dialect text to PTX text, through upstream's NVVM lowering.
//!
//! # Invariants
//! - The PTX calls nothing: NVIDIA's device library is never needed.
//! - Same module, same bytes: nothing measured or placed by the machine reaches the text.

use melior::ir::BlockLike as _;
use melior::ir::attribute::{ArrayAttribute, Attribute, AttributeLike as _};
use melior::ir::operation::OperationLike as _;
use melior::ir::{Module, OperationRef};

use super::Chip;
use crate::diagnostic::InternalError;
use crate::mlir::Mlir;

const PASS: &str = "ptx";

/// Passes from gpu, scf, memref, vector and arith to nvvm and llvm for a chip.
fn to_nvvm_pipeline(chip: &Chip) -> String {
    format!(
        "builtin.module(canonicalize,cse,loop-invariant-code-motion,convert-scf-to-cf,\
         gpu.module(convert-gpu-to-nvvm{{use-bare-ptr-memref-call-conv=true}},\
         convert-vector-to-llvm,convert-arith-to-llvm,convert-index-to-llvm,\
         canonicalize,cse,reconcile-unrealized-casts),\
         nvvm-attach-target{{chip={} features={} O=3}})",
        chip.name, chip.features
    )
}

/// From nvvm to a `gpu.binary` of PTX.
const TO_BINARY: &str = "builtin.module(gpu-module-to-binary{format=isa})";

/// Lowers the only `gpu.module` of a module to nvvm, the chip attached.
///
/// # Errors
/// When a pass fails.
pub(crate) fn to_nvvm(
    mlir: &Mlir,
    module: &mut Module<'_>,
    chip: &Chip,
) -> Result<(), InternalError> {
    mlir.run(PASS, module, &to_nvvm_pipeline(chip))
}

/// PTX of a module that holds one `gpu.module` in nvvm.
///
/// # Errors
/// When the pass fails, or the PTX would call a function.
pub(crate) fn to_ptx(mlir: &Mlir, module: &mut Module<'_>) -> Result<String, InternalError> {
    let text = module.as_operation().to_string();
    let broken = |message: &str| InternalError {
        pass: PASS,
        message: message.to_string(),
        reproducer: text.clone(),
    };
    mlir.run(PASS, module, TO_BINARY)?;
    let ptx = object(module).ok_or_else(|| broken("no PTX came out"))?;
    if ptx.contains(".extern .func") {
        return Err(broken("the PTX calls a function"));
    }
    Ok(ptx)
}

/// The text of the only object of the only `gpu.binary`.
fn object(module: &Module<'_>) -> Option<String> {
    let mut next: Option<OperationRef<'_, '_>> = module.body().first_operation();
    while let Some(op) = next {
        if op.name().as_string_ref().as_str() == Ok("gpu.binary") {
            let objects = op.attribute("objects").ok()?;
            let objects = ArrayAttribute::try_from(objects).ok()?;
            return object_text(objects.element(0).ok()?);
        }
        next = op.next_in_block();
    }
    None
}

fn object_text(object: Attribute<'_>) -> Option<String> {
    let raw = object.to_raw();
    // SAFETY: `raw` is a live attribute; it is asked whether it is a GPU object before it is read
    // as one.
    let bytes = unsafe {
        if !mlir_sys::mlirAttributeIsAGPUObjectAttr(raw) {
            return None;
        }
        let text = mlir_sys::mlirGPUObjectAttrGetObject(raw);
        if text.data.is_null() {
            return None;
        }
        std::slice::from_raw_parts(text.data.cast::<u8>(), text.length)
    };
    let text = std::str::from_utf8(bytes).ok()?;
    Some(text.trim_end_matches('\0').to_string())
}
