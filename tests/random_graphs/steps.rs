//! The ops a random graph is made of, each with the bound on its result's error.

use perilune_compiler::ops::generic::{body_of, canonical, dims};
use perilune_compiler::ops::{
    Cast, Concat, CumSum, Einsum, Gather, LogSumExp, Map, Pad, Reduce, Reduction, Reshape,
    ScatterAdd, Slice, Softmax, TakeAlong,
};
use perilune_compiler::program::{Combine, Generic};
use perilune_compiler::scalar::{Binary, Body, Cmp, S, Unary};
use perilune_compiler::types::{DType, Type};

use crate::grow::{Growing, Picks, U};

type Step = fn(&mut Growing, Picks) -> Option<usize>;

/// Steps and how often each is taken.
const STEPS: &[(u16, Step)] = &[
    (60, Growing::unary),
    (60, Growing::binary),
    (80, Growing::broadcast),
    (80, Growing::reduce),
    (20, Growing::softmax),
    (15, Growing::log_sum_exp),
    (30, Growing::permute),
    (25, Growing::slice),
    (20, Growing::pad),
    (20, Growing::concat),
    (30, Growing::reshape),
    (20, Growing::gather),
    (10, Growing::take_along),
    (60, Growing::contract),
    (20, Growing::cast),
    (20, Growing::integers),
    (10, Growing::gate),
    (8, Growing::cum_sum),
    (8, Growing::scatter_add),
    (3, Growing::many_operands),
    (3, Growing::many_ops),
    (2, Growing::far_apart),
];

/// Operations between the ends of [`Growing::far_apart`]: more than fusion looks across.
const FAR: usize = 410;

/// A function of one value whose slope is at most 1.1.
fn one(b: &mut Body, which: u16, x: S, ty: DType) -> S {
    let (half, one) = (b.float(0.5, ty), b.float(1.0, ty));
    match which % 10 {
        0 => b.apply(Unary::Neg, x),
        1 => b.apply(Unary::Tanh, x),
        2 => b.apply(Unary::Sigmoid, x),
        3 => b.apply(Unary::Abs, x),
        4 => b.apply(Unary::Sin, x),
        5 => b.mul(x, half),
        6 => {
            let gate = b.apply(Unary::Sigmoid, x);
            b.mul(x, gate)
        }
        7 => {
            let size = b.apply(Unary::Abs, x);
            let size = b.apply(Unary::Neg, size);
            b.apply(Unary::Exp, size)
        }
        8 => {
            let size = b.apply(Unary::Abs, x);
            let size = b.add(size, one);
            b.apply(Unary::Log, size)
        }
        _ => b.apply(Unary::Cos, x),
    }
}

/// A function of two values whose slope in one is at most one more than the size of the other.
fn two(b: &mut Body, which: u16, x: S, y: S, ty: DType) -> S {
    let one = b.float(1.0, ty);
    match which % 7 {
        0 => b.add(x, y),
        1 => b.sub(x, y),
        2 => b.mul(x, y),
        3 => b.combine(Binary::Max, x, y),
        4 => b.combine(Binary::Min, x, y),
        5 => {
            let square = b.mul(y, y);
            let square = b.add(square, one);
            let scale = b.apply(Unary::Rsqrt, square);
            b.mul(x, scale)
        }
        _ => {
            let size = b.apply(Unary::Abs, y);
            let size = b.add(size, one);
            b.div(x, size)
        }
    }
}

impl Growing {
    /// Takes a step, if it fits.
    pub(crate) fn step(&mut self, picks: Picks) {
        let total: u16 = STEPS.iter().map(|(weight, _)| weight).sum();
        let mut at = picks[0] % total;
        for (weight, step) in STEPS {
            if at < *weight {
                step(self, picks);
                return;
            }
            at -= weight;
        }
    }

    /// Error of a function of [`one`] or [`two`] values.
    fn slack(&self, x: usize, y: Option<usize>) -> f64 {
        let x = &self.known[x];
        let (e, s) = y.map_or((0.0, 0.0), |y| (self.known[y].bound, self.known[y].size));
        let carried = 1.1 * x.bound * (1.0 + s) + e * (1.0 + x.size) + x.bound * e;
        // Inside a bf16 body every operation may round to bf16.
        let unit = if x.ty.dtype == DType::bf16 { 1.0 / 256.0 } else { U };
        carried + 16.0 * unit * (1.0 + x.size) * (1.0 + s)
    }

    fn unary(&mut self, [_, a, f, ..]: Picks) -> Option<usize> {
        let x = self.float(a, 0)?;
        let ty = self.known[x].ty.clone();
        let map = dims(0..ty.ndim() as u32);
        let body = body_of(1, |b, v| one(b, f, v[0], ty.dtype));
        self.map(&ty.shape, vec![map], body, &[x])
    }

    fn binary(&mut self, [_, a, b, f, _]: Picks) -> Option<usize> {
        let x = self.float(a, 0)?;
        let ty = self.known[x].ty.clone();
        let y = self.of_type(b, &ty);
        let map = dims(0..ty.ndim() as u32);
        let body = body_of(2, |b, v| two(b, f, v[0], v[1], ty.dtype));
        self.map(&ty.shape, vec![map.clone(), map], body, &[x, y])
    }

    /// A value for each row, a value for each column, or a single one, met by a whole tensor.
    fn broadcast(&mut self, [_, a, b, f, how]: Picks) -> Option<usize> {
        let x = self.float(a, 1)?;
        let ty = self.known[x].ty.clone();
        let n = ty.ndim();
        let all = dims(0..n as u32);
        let (shape, map) = match how % 4 {
            0 | 1 => (ty.shape[..n - 1].to_vec(), all[..n - 1].to_vec()),
            2 => (ty.shape[n - 1..].to_vec(), all[n - 1..].to_vec()),
            _ => {
                let kept = [&ty.shape[..n - 1], &[1]].concat();
                (kept, [&all[..n - 1], &[None]].concat())
            }
        };
        let y = self.of_type(b, &Type::new(ty.dtype, shape));
        let body = body_of(2, |b, v| two(b, f, v[0], v[1], ty.dtype));
        self.map(&ty.shape, vec![all, map], body, &[x, y])
    }

    /// A map of one or two values.
    fn map(
        &mut self,
        extents: &[u64],
        maps: Vec<Vec<Option<u32>>>,
        body: Body,
        operands: &[usize],
    ) -> Option<usize> {
        let out = (0..extents.len() as u32).collect();
        let slack = self.slack(operands[0], operands.get(1).copied());
        let g = Generic { extents: extents.to_vec(), maps, out, combine: None, body };
        let (generic, kept) = canonical(g);
        let operands: Vec<usize> = kept.into_iter().map(|k| operands[k]).collect();
        self.push(Map { generic }, &operands, slack)
    }

    /// Along rows, down columns, over the last two dimensions or over all.
    fn reduce(&mut self, [_, a, b, f, how]: Picks) -> Option<usize> {
        let x = self.float(a, 1)?;
        let ty = self.known[x].ty.clone();
        let n = ty.ndim() as u32;
        let out: Vec<u32> = match how % 6 {
            0 | 1 => (0..n - 1).collect(),
            2 | 3 => (1..n).collect(),
            4 => (0..n.saturating_sub(2)).collect(),
            _ => Vec::new(),
        };
        let y = (f & 1 == 1).then(|| self.of_type(b, &ty));
        let reductions = [Reduction::Sum, Reduction::Mean, Reduction::Max, Reduction::Min];
        let reduction = reductions[usize::from(f / 2 % 4)];
        let operands: Vec<usize> = [x].into_iter().chain(y).collect();
        let (terms, slack) = (self.terms(&ty, &out), self.slack(x, y));
        let largest = self.known[x].size * y.map_or(1.0, |y| self.known[y].size);
        let rounding = terms * U * largest;
        let (combine, slack) = match reduction {
            Reduction::Sum => (Combine::Sum, terms * (slack + rounding)),
            Reduction::Mean => (Combine::Sum, slack + rounding),
            Reduction::Max => (Combine::Max, slack),
            Reduction::Min => (Combine::Min, slack),
        };
        let body = body_of(operands.len(), |b, v| {
            v.iter().copied().reduce(|x, y| b.mul(x, y)).unwrap_or(v[0])
        });
        let maps = vec![dims(0..n); operands.len()];
        let g = Generic { extents: ty.shape.clone(), maps, out, combine: Some(combine), body };
        let (generic, kept) = canonical(g);
        let operands: Vec<usize> = kept.into_iter().map(|k| operands[k]).collect();
        self.push(Reduce { reduction, generic }, &operands, slack)
    }

    /// How many elements come together where only the dimensions `out` stay.
    fn terms(&self, ty: &Type, out: &[u32]) -> f64 {
        let gone = (0..ty.ndim() as u32).filter(|d| !out.contains(d));
        gone.map(|d| ty.shape[d as usize]).product::<u64>() as f64
    }

    fn softmax(&mut self, [_, a, ..]: Picks) -> Option<usize> {
        let x = self.float(a, 1)?;
        let n = self.known[x].ty.shape.last().map_or(0.0, |n| *n as f64);
        let slack = 2.0 * self.slack(x, None) + n * U;
        self.push(Softmax, &[x], slack)
    }

    fn log_sum_exp(&mut self, [_, a, ..]: Picks) -> Option<usize> {
        let x = self.float(a, 1)?;
        let n = self.known[x].ty.shape.last().map_or(0.0, |n| *n as f64);
        let slack = self.slack(x, None) + n * U;
        self.push(LogSumExp, &[x], slack)
    }

    /// The bound of a value that only moves.
    fn moved(&self, x: usize) -> f64 {
        self.known[x].bound
    }

    fn permute(&mut self, [_, a, by, ..]: Picks) -> Option<usize> {
        let x = self.float(a, 2)?;
        let ids: Vec<u32> = (0..self.known[x].ty.ndim() as u32).collect();
        let mut out = ids.clone();
        out.rotate_left(1 + usize::from(by) % (ids.len() - 1));
        self.push(Einsum::new(&[&ids], &out), &[x], self.moved(x))
    }

    fn slice(&mut self, [_, a, d, start, len]: Picks) -> Option<usize> {
        let x = self.pick(a, |k| k.ty.ndim() > 0)?;
        let shape = &self.known[x].ty.shape;
        let dim = usize::from(d) % shape.len();
        let start = u64::from(start) % (shape[dim] + 1);
        let len = shape[dim] - start - u64::from(len) % (shape[dim] - start + 1).min(8);
        self.push(Slice { dim: dim as u64, start, len }, &[x], self.moved(x))
    }

    fn pad(&mut self, [_, a, d, before, after]: Picks) -> Option<usize> {
        let x = self.float(a, 1)?;
        let dim = u64::from(d) % self.known[x].ty.ndim() as u64;
        let (before, after) = (u64::from(before % 4), u64::from(after % 4));
        let op = Pad { dim, before, after, value: 0.5f64.to_bits() };
        self.push(op, &[x], self.moved(x))
    }

    fn concat(&mut self, [_, a, b, d, _]: Picks) -> Option<usize> {
        let x = self.pick(a, |k| k.ty.ndim() > 0)?;
        let ty = self.known[x].ty.clone();
        let dim = usize::from(d) % ty.ndim();
        let fits = |shape: &[u64]| {
            shape.len() == ty.ndim() && (0..ty.ndim()).all(|k| k == dim || shape[k] == ty.shape[k])
        };
        let y = self.pick(b, |k| k.ty.dtype == ty.dtype && fits(&k.ty.shape))?;
        let slack = self.moved(x).max(self.moved(y));
        self.push(Concat { dim: dim as u64 }, &[x, y], slack)
    }

    /// Joins two dimensions, splits one, adds one of extent 1 or makes a row of everything.
    fn reshape(&mut self, [_, a, d, how, _]: Picks) -> Option<usize> {
        let x = self.pick(a, |k| k.ty.ndim() > 0)?;
        let mut shape = self.known[x].ty.shape.clone();
        let dim = usize::from(d) % shape.len();
        match how % 4 {
            0 if dim + 1 < shape.len() => {
                let inner = shape.remove(dim + 1);
                shape[dim] *= inner;
            }
            1 if shape[dim].is_multiple_of(2) => {
                shape[dim] /= 2;
                shape.insert(dim + usize::from(how / 4 % 2), 2);
            }
            2 => shape.insert(dim, 1),
            3 => shape = vec![shape.iter().product()],
            _ => return None,
        }
        self.push(Reshape { shape }, &[x], self.moved(x))
    }

    fn gather(&mut self, [_, a, wide, ..]: Picks) -> Option<usize> {
        let x = self.float(a, 1)?;
        let (rows, width) = (self.known[x].ty.shape[0], self.extents[2]);
        let shape = if wide % 3 == 0 { vec![width, 2] } else { vec![self.extents[0]] };
        let indices = self.indices(&shape, rows);
        self.push(Gather, &[x, indices], self.moved(x))
    }

    fn take_along(&mut self, [_, a, ..]: Picks) -> Option<usize> {
        let x = self.float(a, 1)?;
        let mut shape = self.known[x].ty.shape.clone();
        let last = shape.len() - 1;
        let extent = std::mem::replace(&mut shape[last], self.extents[2].min(5));
        let indices = self.indices(&shape, extent);
        self.push(TakeAlong, &[x, indices], self.moved(x))
    }

    /// With weights `[n, k]` or `[k, n]`, with itself transposed, in batches, over rows.
    fn contract(&mut self, [_, a, b, how, _]: Picks) -> Option<usize> {
        let x = self.float(a, 2)?;
        let ty = self.known[x].ty.clone();
        let (n, width) = (ty.ndim() as u32, self.extents[2]);
        let ids: Vec<u32> = (0..n).collect();
        let (k, new) = (n - 1, n);
        let batch = &ids[..ids.len() - 1];
        let extent = |id: u32| ty.shape[id as usize];
        let (shape, rhs, out, y) = match how % 5 {
            0 => (vec![width, extent(k)], vec![new, k], [batch, &[new]].concat(), None),
            1 => (vec![extent(k), width], vec![k, new], [batch, &[new]].concat(), None),
            2 if n == 2 => (ty.shape.clone(), vec![new, k], vec![0, new], Some(x)),
            3 if n == 3 => {
                let shape = vec![extent(0), width, extent(2)];
                (shape, vec![0, new, 2], vec![0, 1, new], None)
            }
            _ => {
                let shape = [&ty.shape[..ids.len() - 1], &[width]].concat();
                (shape, [batch, &[new]].concat(), vec![k, new], None)
            }
        };
        let y = y.unwrap_or_else(|| self.of_type(b, &Type::new(ty.dtype, shape)));
        let gone = ids.iter().filter(|id| !out.contains(id));
        let terms = gone.map(|id| extent(*id)).product::<u64>() as f64;
        let (p, q) = (&self.known[x], &self.known[y]);
        let carried = p.size * q.bound + q.size * p.bound + p.bound * q.bound;
        let slack = terms * (carried + terms * U * p.size * q.size);
        self.push(Einsum::new(&[&ids, &rhs], &out), &[x, y], slack)
    }

    fn cast(&mut self, [_, a, ..]: Picks) -> Option<usize> {
        let x = self.pick(a, |k| k.ty.dtype != DType::f64)?;
        let to = match self.known[x].ty.dtype {
            DType::f32 => DType::bf16,
            _ => DType::f32,
        };
        self.push(Cast { to }, &[x], self.moved(x))
    }

    /// Integer arithmetic, and sums, maxima and minima of integers.
    fn integers(&mut self, [_, a, b, f, how]: Picks) -> Option<usize> {
        let any = self.pick(a, |k| k.ty.dtype == DType::i32);
        let shape = self.extents[..2].to_vec();
        let x = any.unwrap_or_else(|| self.input(DType::i32, &shape));
        let ty = self.known[x].ty.clone();
        let all = dims(0..ty.ndim() as u32);
        let mut out: Vec<u32> = (0..ty.ndim() as u32).collect();
        if how % 3 < 2 || out.is_empty() {
            let y = self.of_type(b, &ty);
            let f = [Binary::Add, Binary::Sub, Binary::Max, Binary::Min][usize::from(f % 4)];
            let body = body_of(2, |b, v| b.combine(f, v[0], v[1]));
            let g = Generic { extents: ty.shape, maps: vec![all; 2], out, combine: None, body };
            let (generic, kept) = canonical(g);
            let operands: Vec<usize> = kept.into_iter().map(|k| [x, y][k]).collect();
            return self.push(Map { generic }, &operands, 0.0);
        }
        out.remove(usize::from(f) % out.len());
        let (reduction, combine) = [
            (Reduction::Sum, Combine::Sum),
            (Reduction::Max, Combine::Max),
            (Reduction::Min, Combine::Min),
        ][usize::from(f / 8 % 3)];
        let body = body_of(1, |_, v| v[0]);
        let combine = Some(combine);
        let g = Generic { extents: ty.shape, maps: vec![all], out, combine, body };
        self.push(Reduce { reduction, generic: canonical(g).0 }, &[x], 0.0)
    }

    /// Half of each element whose integer is not positive.
    fn gate(&mut self, [_, a, b, ..]: Picks) -> Option<usize> {
        let x = self.float(a, 0)?;
        let ty = self.known[x].ty.clone();
        let keys = self.of_type(b, &ty.with_dtype(DType::i32));
        let map = dims(0..ty.ndim() as u32);
        let body = body_of(2, |b, v| {
            let (zero, half) = (b.int(0), b.float(0.5, ty.dtype));
            let positive = b.compare(Cmp::Gt, v[1], zero);
            let halved = b.mul(v[0], half);
            b.select(positive, v[0], halved)
        });
        let g = perilune_compiler::ops::generic::elementwise(&ty.shape, 2, body);
        let g = Generic { maps: vec![map.clone(), map], ..g };
        self.push(Map { generic: g }, &[x, keys], self.slack(x, None))
    }

    fn cum_sum(&mut self, [_, a, exclusive, ..]: Picks) -> Option<usize> {
        let x = self.float(a, 1)?;
        let known = &self.known[x];
        let n = known.ty.shape.last().map_or(0.0, |n| *n as f64);
        let slack = n * (known.bound + n * U * known.size);
        self.push(CumSum { exclusive: exclusive % 2 == 1 }, &[x], slack)
    }

    fn scatter_add(&mut self, [_, a, ..]: Picks) -> Option<usize> {
        let x = self.float(a, 1)?;
        let (rows, extent) = (self.known[x].ty.shape[0], self.extents[2]);
        let indices = self.indices(&[rows], extent);
        let (known, n) = (&self.known[x], rows as f64);
        let slack = n * (known.bound + n * U * known.size);
        self.push(ScatterAdd { extent }, &[x, indices], slack)
    }

    /// A running mean of more inputs than a kernel takes.
    fn many_operands(&mut self, [_, a, ..]: Picks) -> Option<usize> {
        let mut x = self.float(a, 0)?;
        let ty = self.known[x].ty.clone();
        for _ in 0..32 {
            let y = self.input(ty.dtype, &ty.shape);
            let map = dims(0..ty.ndim() as u32);
            let body = body_of(2, |b, v| {
                let (sum, half) = (b.add(v[0], v[1]), b.float(0.5, ty.dtype));
                b.mul(sum, half)
            });
            x = self.map(&ty.shape, vec![map.clone(), map], body, &[x, y])?;
        }
        Some(x)
    }

    /// A chain of more ops than a kernel holds.
    fn many_ops(&mut self, [_, a, f, ..]: Picks) -> Option<usize> {
        let mut x = self.float(a, 0)?;
        let ty = self.known[x].ty.clone();
        for n in 0..70 {
            let body = body_of(1, |b, v| one(b, f.wrapping_add(n), v[0], ty.dtype));
            let map = dims(0..ty.ndim() as u32);
            x = self.map(&ty.shape, vec![map], body, &[x])?;
        }
        Some(x)
    }

    /// A value read again after a long chain of products of small matrices.
    fn far_apart(&mut self, [_, a, f, ..]: Picks) -> Option<usize> {
        let x = self.unary([0, a, f, 0, 0]).filter(|x| self.known[*x].ty.dtype == DType::f32)?;
        let ty = self.known[x].ty.clone();
        let mut chain = self.input(ty.dtype, &[2, 2]);
        let weights = self.input(ty.dtype, &[2, 2]);
        let weights = self.push(Softmax, &[weights], self.slack(weights, None))?;
        for _ in 0..FAR {
            let (p, q) = (&self.known[chain], &self.known[weights]);
            // Each row of the weights sums to one.
            let carried = p.bound + 2.0 * q.bound * (p.size + p.bound);
            let slack = carried + 4.0 * U * p.size;
            chain =
                self.push(Einsum::new(&[&[0, 1], &[2, 1]], &[0, 2]), &[chain, weights], slack)?;
        }
        let body = body_of(1, |_, v| v[0]);
        let maps = vec![dims(0..2)];
        let (out, combine) = (Vec::new(), Some(Combine::Sum));
        let g = Generic { extents: vec![2, 2], maps, out, combine, body };
        let (reduction, generic) = (Reduction::Mean, canonical(g).0);
        let slack = self.known[chain].bound + 4.0 * U;
        let last = self.push(Reduce { reduction, generic }, &[chain], slack)?;
        let all = dims(0..ty.ndim() as u32);
        let body = body_of(2, |b, v| two(b, f, v[0], v[1], ty.dtype));
        self.map(&ty.shape, vec![all, Vec::new()], body, &[x, last])
    }
}
