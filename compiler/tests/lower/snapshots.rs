//! What the loops and the CLIF of a few kernels look like.

use perilune_compiler::mlir::Mlir;

use crate::kernels::{column_sum, gather, rms_norm, rope, softmax, swiglu, top_k};
use crate::make::lower;

#[test]
fn loops_and_clif_of_common_kernels() {
    let mlir = Mlir::new();
    let kernels = [
        swiglu(64, 256),
        rms_norm(64, 256),
        softmax(64, 250),
        column_sum(64, 256),
        rope(64, 4, 16, 8),
        gather(64, 100, 32),
        top_k(64, 16, 4),
    ];
    for kernel in kernels {
        let lowered = lower(&mlir, &kernel);
        insta::assert_snapshot!(format!("{}_loops", kernel.name), lowered.loops);
    }
    let lowered = lower(&mlir, &swiglu(64, 256));
    insta::assert_snapshot!("swiglu_clif", lowered.text);
}

#[test]
fn lowering_twice_gives_the_same_bytes() {
    let kernel = softmax(33, 70);
    let (a, b) = (lower(&Mlir::new(), &kernel), lower(&Mlir::new(), &kernel));
    assert_eq!(a, b);
}
