//! Building, running and checking kernels.

use perilune_compiler::interpret;
use perilune_compiler::lower::{Lowered, Target, lower_kernel};
use perilune_compiler::mlir::Mlir;
use perilune_compiler::program::{Combine, Generic, Kernel, KernelOp, OpKind, V};
use perilune_compiler::scalar::{Body, S};
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::{DType, Type};

use crate::jit::{Jit, from_bytes, to_bytes};

/// Builds kernels.
#[derive(Default)]
pub(crate) struct Make {
    params: Vec<Type>,
    ops: Vec<KernelOp>,
}

impl Make {
    pub(crate) fn param(&mut self, dtype: DType, shape: &[u64]) -> V {
        assert!(self.ops.is_empty(), "parameters come first");
        self.params.push(Type::new(dtype, shape));
        V(self.params.len() as u32 - 1)
    }

    pub(crate) fn ty(&self, v: V) -> &Type {
        let i = v.0 as usize;
        self.params.get(i).unwrap_or_else(|| &self.ops[i - self.params.len()].results[0])
    }

    pub(crate) fn op(&mut self, kind: OpKind, operands: &[V], dtype: DType, shape: &[u64]) -> V {
        let results = vec![Type::new(dtype, shape)];
        self.ops.push(KernelOp { kind, operands: operands.to_vec(), results });
        V((self.params.len() + self.ops.len()) as u32 - 1)
    }

    /// A generic over `extents`; letters of `maps` and `out` are iteration dimensions, `_` none.
    pub(crate) fn generic(
        &mut self,
        (extents, maps, out, combine): (&[u64], &[&str], &str, Option<Combine>),
        operands: &[V],
        body: impl FnOnce(&mut Body) -> S,
    ) -> V {
        let id = |c: char| (c as u8).checked_sub(b'a').map(u32::from).filter(|_| c != '_');
        let mut b = Body::default();
        let result = body(&mut b);
        b.results.push(result);
        let out: Vec<u32> = out.chars().filter_map(id).collect();
        let shape: Vec<u64> = out.iter().map(|d| extents[*d as usize]).collect();
        let dtypes: Vec<DType> = operands.iter().map(|v| self.ty(*v).dtype).collect();
        let (args, loads) = dtypes.split_at(maps.len());
        let dtype = b.dtypes(args, loads)[result.0 as usize];
        let g = Generic {
            extents: extents.to_vec(),
            maps: maps.iter().map(|m| m.chars().map(id).collect()).collect(),
            out,
            combine,
            body: b,
        };
        self.op(OpKind::Generic(g), operands, dtype, &shape)
    }

    pub(crate) fn kernel(self, name: &str, results: &[V]) -> Kernel {
        Kernel { name: name.into(), params: self.params, ops: self.ops, results: results.to_vec() }
    }
}

pub(crate) fn random(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*seed >> 40) as f64 / f64::from(1u32 << 23) - 1.0
}

pub(crate) fn arguments(kernel: &Kernel, seed: u64) -> Vec<Tensor> {
    let mut seed = seed;
    kernel
        .params
        .iter()
        .map(|ty| {
            Tensor::from_fn(&ty.shape, |_| match ty.dtype {
                DType::i32 => (random(&mut seed) * 4.0 + 4.0).floor(),
                DType::i1 => f64::from(u8::from(random(&mut seed) > 0.0)),
                DType::f32 => f64::from(random(&mut seed) as f32),
                DType::bf16 => half::bf16::from_f64(random(&mut seed)).to_f64(),
                DType::f16 => half::f16::from_f64(random(&mut seed)).to_f64(),
                DType::f64 => random(&mut seed),
            })
        })
        .collect()
}

pub(crate) fn result_type(kernel: &Kernel, v: V) -> &Type {
    kernel.ty(v)
}

/// Runs a kernel over every block, in two uneven ranges.
pub(crate) fn run(kernel: &Kernel, lowered: &Lowered, args: &[Tensor]) -> Vec<Tensor> {
    let jit = Jit::new(&lowered.text);
    let mut buffers: Vec<Vec<u8>> =
        args.iter().zip(&kernel.params).map(|(t, ty)| to_bytes(t, ty.dtype)).collect();
    for v in &kernel.results {
        buffers.push(vec![0xaa; result_type(kernel, *v).bytes() as usize]);
    }
    let middle = (lowered.blocks / 3) as i64;
    jit.run(&mut buffers, 0, middle);
    jit.run(&mut buffers, middle, lowered.blocks as i64);
    let results = &buffers[kernel.params.len()..];
    results
        .iter()
        .zip(&kernel.results)
        .map(|(b, v)| from_bytes(b, result_type(kernel, *v)))
        .collect()
}

/// Lowers for the CPU.
pub(crate) fn lower(mlir: &Mlir, kernel: &Kernel) -> Lowered {
    lower_kernel(mlir, kernel, Target::Cpu).unwrap_or_else(|e| panic!("{e}\n{}", e.reproducer))
}

/// Lowers, runs and compares with the evaluation in f64.
pub(crate) fn check(mlir: &Mlir, kernel: &Kernel, args: &[Tensor]) -> Lowered {
    let lowered =
        lower_kernel(mlir, kernel, Target::Cpu).unwrap_or_else(|e| panic!("{e}\n{}", e.reproducer));
    let got = run(kernel, &lowered, args);
    compare(kernel, args, &got, &lowered.loops);
    lowered
}

/// Compares results with the evaluation in f64.
pub(crate) fn compare(kernel: &Kernel, args: &[Tensor], got: &[Tensor], loops: &str) {
    let want = interpret::kernel(kernel, args);
    for (k, (got, want)) in got.iter().zip(&want).enumerate() {
        let tolerance = match result_type(kernel, kernel.results[k]).dtype {
            DType::bf16 => 1e-2,
            DType::f16 => 2e-3,
            DType::f64 => 1e-12,
            DType::f32 | DType::i32 | DType::i1 => 2e-5,
        };
        for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
            let close =
                (g - w).abs() <= tolerance * w.abs().max(1.0) || g == w || g.is_nan() && w.is_nan();
            assert!(close, "{} result {k} element {i}: {g} instead of {w}\n{loops}", kernel.name);
        }
    }
}
