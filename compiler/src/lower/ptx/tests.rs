//! PTX of kernels: accepted by ptxas where there is one, the same bytes twice, calling nothing.

use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::program::{DialectOp, KernelOp, OpKind, V};
use crate::types::{DType, Type};

/// NVIDIA's assembler, wherever it is.
fn ptxas() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(std::env::var_os("PTXAS").map(PathBuf::from));
    places.extend(std::env::var_os("CUDA_HOME").map(|d| PathBuf::from(d).join("bin/ptxas")));
    let venv = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/ptxas-venv/lib");
    for python in std::fs::read_dir(venv).into_iter().flatten().flatten() {
        places.push(python.path().join("site-packages/nvidia/cuda_nvcc/bin/ptxas"));
    }
    for dir in std::env::var_os("PATH").iter().flat_map(std::env::split_paths) {
        places.push(dir.join("ptxas"));
    }
    places.into_iter().find(|p| p.is_file())
}

/// Assembles a text; `None` without ptxas. Panics when it is refused or spills.
fn check_with_ptxas(name: &str, ptx: &str, chip: &Chip) -> Option<()> {
    let Some(ptxas) = ptxas() else {
        eprintln!("skipped: no ptxas");
        return None;
    };
    let dir = std::env::temp_dir().join(format!("perilune-ptx-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a scratch folder");
    let (input, output) = (dir.join("kernel.ptx"), dir.join("kernel.cubin"));
    std::fs::write(&input, ptx).expect("the text is written");
    let run = Command::new(ptxas)
        .arg(format!("-arch={}", chip.name))
        .arg("-v")
        .arg(&input)
        .arg("-o")
        .arg(&output)
        .output()
        .expect("ptxas starts");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    std::fs::remove_dir_all(&dir).expect("the scratch folder goes");
    assert!(run.status.success(), "{name}: {said}\n{ptx}");
    assert!(said.contains("0 bytes spill stores, 0 bytes spill loads"), "{name}: {said}");
    Some(())
}

/// PTX for both chips, checked; yields Hopper's.
fn check(kernel: &Kernel) -> String {
    let mlir = Mlir::new();
    let mapped = map(kernel).expect("the kernel maps to threads");
    let mut texts = Vec::new();
    for chip in [SM_90A, SM_80] {
        let ptx =
            assemble(&mlir, &mapped, &chip).unwrap_or_else(|e| panic!("{e}\n{}", e.reproducer));
        let again = assemble(&Mlir::new(), &mapped, &chip).expect("it did once");
        assert_eq!(ptx, again);
        assert!(ptx.contains(&format!(".target {}", chip.name)));
        assert!(ptx.contains(&format!(".visible .entry {}(", kernel.name)));
        check_with_ptxas(&kernel.name, &ptx, &chip);
        texts.push(ptx);
    }
    texts.swap_remove(0)
}

fn f32s(shape: &[u64]) -> Type {
    Type::new(DType::f32, shape)
}

fn i32s(shape: &[u64]) -> Type {
    Type::new(DType::i32, shape)
}

fn serial_kernel(name: &str, op: DialectOp, params: &[Type], results: &[Type]) -> Kernel {
    let n = params.len() as u32;
    Kernel {
        name: name.into(),
        params: params.to_vec(),
        results: (n..n + results.len() as u32).map(V).collect(),
        ops: vec![KernelOp {
            kind: OpKind::Dialect(op),
            operands: (0..n).map(V).collect(),
            results: results.to_vec(),
        }],
    }
}

#[test]
fn serial_kernels_become_ptx() {
    let order = DialectOp::ArgSort { bound: 384 };
    check(&serial_kernel("order", order, &[i32s(&[8192])], &[i32s(&[8192])]));
    let counts = DialectOp::Histogram { bound: 384 };
    check(&serial_kernel("counts", counts, &[i32s(&[8192])], &[i32s(&[384])]));
    let offsets = DialectOp::CumSum { exclusive: true };
    check(&serial_kernel("offsets", offsets, &[i32s(&[384])], &[i32s(&[385])]));
    let bf16 = |shape: &[u64]| Type::new(DType::bf16, shape);
    let sums = DialectOp::CumSum { exclusive: false };
    check(&serial_kernel("sums", sums, &[bf16(&[6, 10])], &[bf16(&[6, 10])]));
    let rows = [f32s(&[1024, 256]), i32s(&[1024])];
    let scatter = DialectOp::ScatterAdd { extent: 257 };
    check(&serial_kernel("scatter", scatter, &rows, &[f32s(&[257, 256])]));
    for (name, k) in [("top_8", 8), ("top_12", 12)] {
        let out = [1024, k];
        let op = DialectOp::TopK { k };
        let ptx = check(&serial_kernel(name, op, &[f32s(&[1024, 384])], &[f32s(&out), i32s(&out)]));
        assert!(!ptx.contains(".local"), "no stack: {ptx}");
    }
}

#[test]
fn a_name_ptx_would_mangle_is_refused() {
    let op = DialectOp::Histogram { bound: 3 };
    let kernel = serial_kernel("layer.0", op, &[i32s(&[4])], &[i32s(&[3])]);
    assert!(map(&kernel).is_err());
}
