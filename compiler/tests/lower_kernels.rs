//! Kernels through loops, CLIF and the JIT, against their evaluation in f64.

mod jit;

use jit::{Jit, from_bytes, to_bytes};
use perilune_compiler::lower::{Lowered, Target, lower_kernel};
use perilune_compiler::mlir::Mlir;
use perilune_compiler::program::evaluate::evaluate;
use perilune_compiler::program::{Combine, Generic, Kernel, KernelOp, OpKind, V};
use perilune_compiler::scalar::{Binary, Body, Unary};
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::{DType, Type};

/// Builds kernels.
#[derive(Default)]
struct Make {
    params: Vec<Type>,
    ops: Vec<KernelOp>,
}

impl Make {
    fn param(&mut self, dtype: DType, shape: &[u64]) -> V {
        assert!(self.ops.is_empty(), "parameters come first");
        self.params.push(Type::new(dtype, shape));
        V(self.params.len() as u32 - 1)
    }

    fn ty(&self, v: V) -> &Type {
        let i = v.0 as usize;
        self.params.get(i).unwrap_or_else(|| &self.ops[i - self.params.len()].results[0])
    }

    fn op(&mut self, kind: OpKind, operands: &[V], dtype: DType, shape: &[u64]) -> V {
        let results = vec![Type::new(dtype, shape)];
        self.ops.push(KernelOp { kind, operands: operands.to_vec(), results });
        V((self.params.len() + self.ops.len()) as u32 - 1)
    }

    /// A generic over `extents`; letters of `maps` and `out` are iteration dimensions, `_` none.
    fn generic(
        &mut self,
        (extents, maps, out, combine): (&[u64], &[&str], &str, Option<Combine>),
        operands: &[V],
        body: impl FnOnce(&mut Body) -> perilune_compiler::scalar::S,
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

    fn kernel(self, name: &str, results: &[V]) -> Kernel {
        Kernel { name: name.into(), params: self.params, ops: self.ops, results: results.to_vec() }
    }
}

fn random(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*seed >> 40) as f64 / f64::from(1u32 << 23) - 1.0
}

fn arguments(kernel: &Kernel, seed: u64) -> Vec<Tensor> {
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

fn result_type(kernel: &Kernel, v: V) -> &Type {
    kernel.ty(v)
}

/// Runs a kernel over every block, in two uneven ranges.
fn run(kernel: &Kernel, lowered: &Lowered, args: &[Tensor]) -> Vec<Tensor> {
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

/// Lowers, runs and compares with the evaluation in f64.
fn check(mlir: &Mlir, kernel: &Kernel, args: &[Tensor]) -> Lowered {
    let lowered =
        lower_kernel(mlir, kernel, Target::Cpu).unwrap_or_else(|e| panic!("{e}\n{}", e.reproducer));
    if std::env::var_os("SHOW").is_some() {
        eprintln!("{}\n{}", lowered.loops, lowered.text);
    }
    let got = run(kernel, &lowered, args);
    let want = evaluate(kernel, args).expect("evaluates");
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
            assert!(
                close,
                "{} result {k} element {i}: {g} instead of {w}\n{}",
                kernel.name, lowered.loops
            );
        }
    }
    lowered
}

const SIZES: [u64; 9] = [0, 1, 3, 4, 7, 16, 33, 100, 257];

fn swiglu(rows: u64, cols: u64) -> Kernel {
    let mut m = Make::default();
    let (gate, up) = (m.param(DType::f32, &[rows, cols]), m.param(DType::f32, &[rows, cols]));
    let y = m.generic((&[rows, cols], &["ab", "ab"], "ab", None), &[gate, up], |b| {
        let (x, up) = (b.arg(0), b.arg(1));
        let s = b.unary(Unary::Sigmoid, x);
        let silu = b.binary(Binary::Mul, x, s);
        b.binary(Binary::Mul, silu, up)
    });
    m.kernel("swiglu", &[y])
}

fn rms_norm(rows: u64, cols: u64) -> Kernel {
    let mut m = Make::default();
    let (x, w) = (m.param(DType::f32, &[rows, cols]), m.param(DType::f32, &[cols]));
    let sum = m.generic((&[rows, cols], &["ab"], "a", Some(Combine::Sum)), &[x], |b| {
        let x = b.arg(0);
        b.binary(Binary::Mul, x, x)
    });
    let r = m.generic((&[rows], &["a"], "a", None), &[sum], |b| {
        let s = b.arg(0);
        let n = b.float(1.0 / cols.max(1) as f64, DType::f32);
        let mean = b.binary(Binary::Mul, s, n);
        let eps = b.float(1e-6, DType::f32);
        let sum = b.binary(Binary::Add, mean, eps);
        b.unary(Unary::Rsqrt, sum)
    });
    let y = m.generic((&[rows, cols], &["ab", "a", "b"], "ab", None), &[x, r, w], |b| {
        let (x, r, w) = (b.arg(0), b.arg(1), b.arg(2));
        let n = b.binary(Binary::Mul, x, r);
        b.binary(Binary::Mul, n, w)
    });
    m.kernel("rms_norm", &[y, r])
}

#[test]
fn an_elementwise_kernel_matches_for_odd_and_zero_sizes() {
    let mlir = Mlir::new();
    for rows in [0, 1, 5] {
        for cols in SIZES {
            let kernel = swiglu(rows, cols);
            check(&mlir, &kernel, &arguments(&kernel, 7));
        }
    }
}

#[test]
fn a_row_norm_matches_for_odd_and_zero_sizes() {
    let mlir = Mlir::new();
    for rows in [0, 1, 5, 70] {
        for cols in SIZES {
            let kernel = rms_norm(rows, cols);
            check(&mlir, &kernel, &arguments(&kernel, 7));
        }
    }
}
