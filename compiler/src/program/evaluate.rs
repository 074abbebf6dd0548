//! A kernel in f64, op by op: the oracle of fusion and of code generation.
//!
//! # Invariants
//! - Nothing is rounded to a storage type; integers are exact.
//! - Computed indices outside a tensor are clamped into it, as generated code does.

use super::{Combine, ContractDims, DialectOp, Generic, Kernel, KernelOp, OpKind, V};
use crate::diagnostic::InternalError;
use crate::scalar::eval::Evaluator;
use crate::tensor::{Tensor, for_each_index};
use crate::types::{DType, Type};

/// Results of a kernel for given arguments.
///
/// # Errors
/// When the kernel holds attention or a ragged product, whose references are with their graph ops.
pub fn evaluate(kernel: &Kernel, args: &[Tensor]) -> Result<Vec<Tensor>, InternalError> {
    let mut values: Vec<Tensor> = args.to_vec();
    let mut types: Vec<Type> = kernel.params.clone();
    for op in &kernel.ops {
        let operands: Vec<&Tensor> = op.operands.iter().map(|v| &values[v.0 as usize]).collect();
        let dtypes: Vec<DType> = op.operands.iter().map(|v| types[v.0 as usize].dtype).collect();
        let out = evaluate_op(op, &operands, &dtypes)?;
        values.extend(out);
        types.extend(op.results.iter().cloned());
    }
    Ok(kernel.results.iter().map(|v: &V| values[v.0 as usize].clone()).collect())
}

fn evaluate_op(
    op: &KernelOp,
    operands: &[&Tensor],
    dtypes: &[DType],
) -> Result<Vec<Tensor>, InternalError> {
    let out = &op.results[0].shape;
    Ok(match &op.kind {
        OpKind::Generic(g) => vec![generic(g, operands, dtypes, out)],
        OpKind::Slice(first) => {
            let from = |idx: &[u64]| idx.iter().zip(first).map(|(i, f)| i + f).collect::<Vec<_>>();
            vec![Tensor::from_fn(out, |idx| operands[0].at(&from(idx)))]
        }
        OpKind::Concat(dim) => vec![concat(operands, *dim as usize, out)],
        OpKind::Pad { low, value, .. } => vec![pad(operands[0], low, f64::from_bits(*value), out)],
        OpKind::Reshape => vec![Tensor { shape: out.clone(), data: operands[0].data.clone() }],
        OpKind::Constant(bits) => {
            let data = bits.iter().map(|b| f64::from_bits(*b)).collect();
            vec![Tensor { shape: out.clone(), data }]
        }
        OpKind::Contract(dims) => vec![contract(dims, operands, out)],
        OpKind::Dialect(d) => dialect(d, operands, op)?,
    })
}

/// The identity of a combiner for an element type.
pub(crate) fn identity(combine: Combine, dtype: DType) -> f64 {
    match (combine, dtype) {
        (Combine::Sum, _) => 0.0,
        (Combine::Max, DType::i32) => f64::from(i32::MIN),
        (Combine::Min, DType::i32) => f64::from(i32::MAX),
        (Combine::Max, DType::i1) => 0.0,
        (Combine::Min, DType::i1) => 1.0,
        (Combine::Max, _) => f64::NEG_INFINITY,
        (Combine::Min, _) => f64::INFINITY,
    }
}

/// What was combined so far with one more element. i32 sums wrap; NaN stays.
pub(crate) fn combine(how: Combine, dtype: DType, old: f64, value: f64) -> f64 {
    match how {
        Combine::Sum if dtype == DType::i32 => f64::from((old as i32).wrapping_add(value as i32)),
        Combine::Sum => old + value,
        Combine::Max if value > old || value.is_nan() => value,
        Combine::Min if value < old || value.is_nan() => value,
        Combine::Max | Combine::Min => old,
    }
}

fn generic(g: &Generic, operands: &[&Tensor], dtypes: &[DType], out: &[u64]) -> Tensor {
    let (args, loads) = dtypes.split_at(g.maps.len());
    let yielded = g.body.dtypes(args, loads)[g.body.results[0].0 as usize];
    let start = g.combine.map_or(0.0, |c| identity(c, yielded));
    let mut result = Tensor::full(out, start);
    let mut body = Evaluator::new(&g.body, args, loads);
    for_each_index(&g.extents, |iter| {
        let read = |(tensor, map): (&&Tensor, &Vec<Option<u32>>)| {
            let at: Vec<u64> = map.iter().map(|d| d.map_or(0, |d| iter[d as usize])).collect();
            tensor.at(&at)
        };
        let args: Vec<f64> = operands.iter().zip(&g.maps).map(read).collect();
        let load = |n: u32, at: &[i64]| {
            let tensor = operands[g.maps.len() + n as usize];
            let clamp = |(i, n): (&i64, &u64)| (*i).clamp(0, (*n as i64 - 1).max(0)) as u64;
            tensor.at(&at.iter().zip(&tensor.shape).map(clamp).collect::<Vec<_>>())
        };
        let value = body.run(&args, iter, &load)[0];
        let at: Vec<u64> = g.out.iter().map(|d| iter[*d as usize]).collect();
        let place = result.offset(&at);
        let old = result.data[place];
        result.data[place] = g.combine.map_or(value, |c| combine(c, yielded, old, value));
    });
    result
}

fn concat(operands: &[&Tensor], dim: usize, out: &[u64]) -> Tensor {
    Tensor::from_fn(out, |idx| {
        let mut at = idx.to_vec();
        for t in operands {
            if at[dim] < t.shape[dim] {
                return t.at(&at);
            }
            at[dim] -= t.shape[dim];
        }
        f64::NAN
    })
}

fn pad(x: &Tensor, low: &[u64], value: f64, out: &[u64]) -> Tensor {
    Tensor::from_fn(out, |idx| {
        let inside = idx.iter().zip(low).zip(&x.shape).all(|((i, l), n)| i >= l && i - l < *n);
        if !inside {
            return value;
        }
        x.at(&idx.iter().zip(low).map(|(i, l)| i - l).collect::<Vec<_>>())
    })
}

fn contract(dims: &ContractDims, operands: &[&Tensor], out: &[u64]) -> Tensor {
    let ids = dims.lhs.iter().chain(&dims.rhs).chain(&dims.out);
    let count = ids.max().map_or(0, |d| *d as usize + 1);
    let mut extents = vec![1u64; count];
    for (ids, tensor) in [(&dims.lhs, operands[0]), (&dims.rhs, operands[1])] {
        for (d, n) in ids.iter().zip(&tensor.shape) {
            extents[*d as usize] = *n;
        }
    }
    let mut result = Tensor::full(out, 0.0);
    for_each_index(&extents, |iter| {
        let at = |ids: &[u32]| ids.iter().map(|d| iter[*d as usize]).collect::<Vec<u64>>();
        let product = operands[0].at(&at(&dims.lhs)) * operands[1].at(&at(&dims.rhs));
        let place = result.offset(&at(&dims.out));
        result.data[place] += product;
    });
    result
}

fn dialect(
    d: &DialectOp,
    operands: &[&Tensor],
    op: &KernelOp,
) -> Result<Vec<Tensor>, InternalError> {
    let shape = |i: usize| op.results[i].shape.clone();
    Ok(match d {
        DialectOp::TopK { k } => top_k(operands[0], *k as usize, [shape(0), shape(1)]),
        DialectOp::ArgSort { .. } => {
            let mut order: Vec<usize> = (0..operands[0].data.len()).collect();
            order.sort_by_key(|i| operands[0].data[*i] as i64);
            vec![Tensor { shape: shape(0), data: order.into_iter().map(|i| i as f64).collect() }]
        }
        DialectOp::Histogram { bound } => {
            let mut counts = Tensor::full(&[*bound], 0.0);
            for key in &operands[0].data {
                if *key >= 0.0 && (*key as u64) < *bound {
                    counts.data[*key as usize] += 1.0;
                }
            }
            vec![counts]
        }
        DialectOp::CumSum { exclusive } => vec![cum_sum(operands[0], *exclusive, shape(0))],
        DialectOp::ScatterAdd { extent } => {
            vec![scatter_add(operands[0], operands[1], *extent, shape(0))]
        }
        DialectOp::Attention { .. }
        | DialectOp::AttentionGrad { .. }
        | DialectOp::RaggedRows { .. }
        | DialectOp::RaggedOuter => {
            return Err(InternalError::new(
                "evaluate",
                "a plan step; see the reference of its graph op",
            ));
        }
    })
}

/// The `k` largest of each row, descending; ties and NaN: lower index first, NaN above everything.
fn top_k(x: &Tensor, k: usize, shapes: [Vec<u64>; 2]) -> Vec<Tensor> {
    let n = x.shape.last().map_or(1, |n| *n as usize);
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for row in x.data.chunks(n.max(1)) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| {
            let nan = row[*b].is_nan().cmp(&row[*a].is_nan());
            nan.then(row[*b].partial_cmp(&row[*a]).unwrap_or(std::cmp::Ordering::Equal))
        });
        for i in &order[..k] {
            values.push(row[*i]);
            indices.push(*i as f64);
        }
    }
    let [v, i] = shapes;
    vec![Tensor { shape: v, data: values }, Tensor { shape: i, data: indices }]
}

fn cum_sum(x: &Tensor, exclusive: bool, out: Vec<u64>) -> Tensor {
    let n = x.shape.last().map_or(1, |n| *n as usize);
    let rows: usize = x.shape[..x.shape.len().saturating_sub(1)].iter().product::<u64>() as usize;
    let mut data = Vec::new();
    for r in 0..rows {
        let mut sum = 0.0;
        if exclusive {
            data.push(sum);
        }
        for v in &x.data[r * n..(r + 1) * n] {
            sum += v;
            data.push(sum);
        }
    }
    Tensor { shape: out, data }
}

fn scatter_add(updates: &Tensor, indices: &Tensor, extent: u64, out: Vec<u64>) -> Tensor {
    let mut result = Tensor::full(&out, 0.0);
    let width: usize = out[1..].iter().product::<u64>() as usize;
    for (i, at) in indices.data.iter().enumerate() {
        if *at < 0.0 || *at >= extent as f64 {
            continue;
        }
        for c in 0..width {
            result.data[*at as usize * width + c] += updates.data[i * width + c];
        }
    }
    result
}
