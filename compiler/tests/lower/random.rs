//! Random loop kernels against their evaluation in f64.

use perilune_compiler::mlir::Mlir;
use perilune_compiler::program::{Combine, Kernel, OpKind, V};
use perilune_compiler::scalar::{Binary, ScalarOp, Unary};
use perilune_compiler::types::DType;
use proptest::prelude::{Strategy, any};
use proptest::test_runner::{Config, TestRunner};

use crate::make::{Make, arguments, check};

/// A small generator of choices.
struct Choice(u64);

impl Choice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n.max(1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

const LETTERS: [&str; 3] = ["a", "b", "c"];

/// One random op on the values so far; `None` if the choice does not fit.
fn grow(m: &mut Make, c: &mut Choice, values: &[V], keys: V) -> Option<V> {
    let x = c.pick(values);
    let shape = m.ty(x).shape.clone();
    let n = shape.len();
    let all: String = LETTERS[..n].concat();
    match c.below(9) {
        0 | 1 => {
            let like: Vec<V> = values.iter().copied().filter(|v| m.ty(*v).shape == shape).collect();
            let y = c.pick(&like);
            let f = c.pick(&[Binary::Add, Binary::Sub, Binary::Mul, Binary::Max, Binary::Min]);
            let g = c.pick(&[Unary::Neg, Unary::Sigmoid, Unary::Tanh, Unary::Abs, Unary::Sin]);
            Some(m.generic((&shape, &[&all, &all], &all, None), &[x, y], |b| {
                let (x, y) = (b.arg(0), b.arg(1));
                let z = b.binary(f, x, y);
                b.unary(g, z)
            }))
        }
        2 | 3 if n > 0 => {
            let kept: Vec<usize> = (0..n).filter(|_| c.below(2) == 0).collect();
            if kept.len() == n {
                return None;
            }
            let out: String = kept.iter().map(|d| LETTERS[*d]).collect();
            let combine = c.pick(&[Combine::Sum, Combine::Max, Combine::Min]);
            let total: u64 = shape.iter().product();
            let scale = 1.0 / total.max(1) as f64;
            Some(m.generic((&shape, &[&all], &out, Some(combine)), &[x], |b| {
                let (x, scale) = (b.arg(0), b.float(scale, DType::f32));
                b.binary(Binary::Mul, x, scale)
            }))
        }
        4 if n == 2 => Some(m.generic((&shape, &["ab"], "ba", None), &[x], |b| b.arg(0))),
        5 if n > 0 => {
            let d = c.below(n as u64) as usize;
            let (first, width) = (c.below(shape[d] + 1), shape[d]);
            let mut to = shape.clone();
            to[d] = width - first;
            let mut start = vec![0; n];
            start[d] = first;
            Some(m.op(OpKind::Slice(start), &[x], DType::f32, &to))
        }
        6 if n > 0 => {
            let d = c.below(n as u64) as usize;
            let fits = |v: &V| {
                let s = &m.ty(*v).shape;
                s.len() == n && (0..n).all(|k| k == d || s[k] == shape[k])
            };
            let like: Vec<V> = values.iter().copied().filter(fits).collect();
            let y = c.pick(&like);
            let mut to = shape.clone();
            to[d] += m.ty(y).shape[d];
            Some(m.op(OpKind::Concat(d as u64), &[x, y], DType::f32, &to))
        }
        7 if n > 0 => {
            let (low, high): (Vec<u64>, Vec<u64>) =
                (0..n).map(|_| (c.below(3), c.below(3))).unzip();
            let to: Vec<u64> = (0..n).map(|d| low[d] + shape[d] + high[d]).collect();
            let kind = OpKind::Pad { low, high, value: 0.5f64.to_bits() };
            Some(m.op(kind, &[x], DType::f32, &to))
        }
        8 if n >= 2 => {
            let mut to = shape[..n - 2].to_vec();
            to.push(shape[n - 2] * shape[n - 1]);
            Some(m.op(OpKind::Reshape, &[x], DType::f32, &to))
        }
        8 if n == 1 && shape[0].is_multiple_of(2) => {
            Some(m.op(OpKind::Reshape, &[x], DType::f32, &[shape[0] / 2, 2]))
        }
        3 if n > 0 && shape[0] > 0 => {
            // A gather along the first dimension by computed keys.
            let count = m.ty(keys).shape[0];
            let mut extents = shape.clone();
            extents[0] = count;
            Some(m.generic((&extents, &["a"], &all, None), &[keys, x], |b| {
                let key = b.arg(0);
                let mut at = vec![key];
                at.extend((1..n as u32).map(|d| b.push(ScalarOp::Index(d))));
                b.push(ScalarOp::Load(0, at))
            }))
        }
        _ => None,
    }
}

/// A kernel grown from a seed.
pub(crate) fn kernel(seed: u64) -> Kernel {
    let mut c = Choice(seed);
    let mut m = Make::default();
    let extents: Vec<u64> = (0..3).map(|_| c.pick(&[0, 1, 2, 3, 5, 8, 12, 17, 40])).collect();
    let keys = m.param(DType::i32, &[extents[1]]);
    let mut values: Vec<V> = Vec::new();
    for _ in 0..2 {
        let n = 1 + c.below(3) as usize;
        values.push(m.param(DType::f32, &extents[..n]));
    }
    values.push(m.param(DType::f32, &extents[..2]));
    for _ in 0..1 + c.below(9) {
        if let Some(v) = grow(&mut m, &mut c, &values, keys)
            && m.ty(v).elems() <= 20_000
        {
            values.push(v);
        }
    }
    let mut results = vec![*values.last().expect("there are parameters")];
    if c.below(3) == 0 {
        results.push(c.pick(&values));
    }
    m.kernel("random", &results)
}

#[test]
fn random_kernels_match_their_evaluation() {
    let mlir = Mlir::new();
    let mut runner =
        TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&any::<u64>().no_shrink(), |seed| {
        let kernel = kernel(seed);
        check(&mlir, &kernel, &arguments(&kernel, seed));
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}
