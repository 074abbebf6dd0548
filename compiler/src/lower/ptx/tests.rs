//! Kernel names in PTX, and the parts a kernel falls into.

use super::mapping::{Mapping, decide};
use super::*;
use crate::program::{Combine, Generic, KernelOp, OpKind, V};
use crate::scalar::Body;
use crate::types::{DType, Type};

/// The row sums and the column sums of a matrix, as asked for.
fn sums(shape: [u64; 2], which: &[u32]) -> Kernel {
    let mut body = Body::default();
    let arg = body.arg(0);
    body.results.push(arg);
    let ops: Vec<KernelOp> = which
        .iter()
        .map(|kept| KernelOp {
            kind: OpKind::Generic(Generic {
                extents: shape.to_vec(),
                maps: vec![vec![Some(0), Some(1)]],
                out: vec![*kept],
                combine: Some(Combine::Sum),
                body: body.clone(),
            }),
            operands: vec![V(0)],
            results: vec![Type::new(DType::f32, [shape[*kept as usize]])],
        })
        .collect();
    let results = (1..=ops.len() as u32).map(V).collect();
    Kernel { name: "sums".into(), params: vec![Type::new(DType::f32, shape)], ops, results }
}

#[test]
fn short_rows_go_to_warps_and_long_rows_to_blocks() {
    for (columns, threads, blocks) in [(1024, WARP, 13), (1025, mapping::THREADS, 100)] {
        let parts = decide(&sums([100, columns], &[0]));
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].mapping, Mapping::Rows { rows: vec![100], threads });
        assert_eq!(parts[0].blocks, blocks);
    }
}

#[test]
fn row_sums_and_column_sums_are_parts_of_their_own() {
    let parts = decide(&sums([100, 600], &[0, 1]));
    let mappings: Vec<&Mapping> = parts.iter().map(|p| &p.mapping).collect();
    let rows = Mapping::Rows { rows: vec![100], threads: WARP };
    assert_eq!(mappings, [&rows, &Mapping::Elements { elems: 600, vectors: false }]);
    assert_eq!(parts[1].blocks, 3);
}

#[test]
fn results_of_one_shape_are_one_part_whatever_stands_between_them() {
    // The row sums, a copy of the matrix, and each element less the sum of its row.
    let mut kernel = sums([16, 24], &[0]);
    let mut less = Body::default();
    let (x, sum) = (less.arg(0), less.arg(1));
    let difference = less.sub(x, sum);
    less.results.push(difference);
    let mut copy = Body::default();
    let arg = copy.arg(0);
    copy.results.push(arg);
    let all = || vec![Some(0), Some(1)];
    for (body, maps, operands) in
        [(copy, vec![all()], vec![V(0)]), (less, vec![all(), vec![Some(0)]], vec![V(0), V(1)])]
    {
        let (extents, out) = (vec![16, 24], vec![0, 1]);
        let kind = OpKind::Generic(Generic { extents, maps, out, combine: None, body });
        let results = vec![Type::new(DType::f32, [16, 24])];
        kernel.ops.push(KernelOp { kind, operands, results });
    }
    kernel.results = vec![V(1), V(2), V(3)];
    let parts = decide(&kernel);
    let of = |k: usize| parts.iter().position(|p| p.results.contains(&k));
    assert_eq!(of(1), of(2), "{parts:?}");
}

#[test]
fn a_name_ptx_would_mangle_is_refused() {
    let mut kernel = sums([2, 2], &[0]);
    assert!(map(&kernel).is_ok());
    kernel.name = "layer.0".into();
    assert!(map(&kernel).is_err());
}
