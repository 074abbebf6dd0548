//! Every loop kernel of a model's training step, against its evaluation.

use std::path::Path;

use perilune_compiler::compile::optimize;
use perilune_compiler::elaborate::load_train;
use perilune_compiler::import::import;
use perilune_compiler::mlir::Mlir;
use perilune_compiler::program::{DialectOp, Kernel, OpKind, Program};
use perilune_compiler::source::Loader;
use perilune_compiler::tensor::Tensor;

use crate::make::{arguments, check};

/// The repository's models.
struct Disk;

impl Loader for Disk {
    fn load(&self, path: &str) -> Result<String, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        std::fs::read_to_string(root.join(path)).map_err(|e| e.to_string())
    }
}

/// The optimised program of a model's training run.
pub(crate) fn program(model: &str) -> Program {
    let (spec, messages, _) = load_train(&Disk, &format!("{model}/train.ron"), &[]);
    let spec = spec.unwrap_or_else(|| panic!("{messages:?}"));
    let graphs =
        [Some(&spec.init), spec.train_step.as_ref(), spec.eval.as_ref(), Some(&spec.forward)];
    let graphs: Vec<_> = graphs.into_iter().flatten().collect();
    let mut program = import(model, &graphs);
    optimize(&mut program);
    program
}

/// Whether a kernel is code rather than a plan step.
pub(crate) fn has_loops(kernel: &Kernel) -> bool {
    kernel.ops.iter().all(|op| match &op.kind {
        OpKind::Contract(_) => false,
        OpKind::Dialect(d) => !matches!(
            d,
            DialectOp::Attention { .. }
                | DialectOp::AttentionGrad { .. }
                | DialectOp::RaggedRows { .. }
                | DialectOp::RaggedOuter
        ),
        _ => true,
    })
}

/// Random arguments; keys within the bounds that sorting and counting declare.
pub(crate) fn fitting(kernel: &Kernel) -> Vec<Tensor> {
    let bound = kernel.ops.iter().find_map(|op| match &op.kind {
        OpKind::Dialect(DialectOp::ArgSort { bound } | DialectOp::Histogram { bound }) => {
            Some(*bound as f64)
        }
        _ => None,
    });
    let mut args = arguments(kernel, 1);
    if let Some(bound) = bound {
        args.iter_mut().flat_map(|t| &mut t.data).for_each(|x| *x = x.rem_euclid(bound));
    }
    args
}

#[test]
fn the_kernels_of_k2_nano_match_their_evaluation() {
    let mlir = Mlir::new();
    let program = program("k2-nano");
    let mut checked = 0;
    for kernel in program.kernels.iter().filter(|k| has_loops(k)) {
        check(&mlir, kernel, &fitting(kernel));
        checked += 1;
    }
    assert!(checked > 50, "{checked} kernels");
}
