//! `linalg.generic` in f64, its shapes, its canonical form and its derivative: what `Map`, `Reduce`
//! and every op that lowers to loops stand on.
//!
//! # Invariants
//! - Canonical: result dimensions come first, in order; then the reduced ones. Every argument of
//!   the body is read, and no two operands are the same tensor read the same way.

use super::support::{TypeError, checked, expect_iterable};
use super::{Builder, Op, Value, codes};
use crate::program::evaluate::{combine, identity};
use crate::program::{Combine, Generic};
use crate::scalar::eval::Evaluator;
use crate::scalar::{Body, S, ScalarOp, derive};
use crate::tensor::{Tensor, for_each_index};
use crate::types::{DType, Type};

/// The result in f64. Operands: one per map, then the tensors that `Load` reads.
pub fn evaluate(g: &Generic, operands: &[&Tensor], dtypes: &[DType]) -> Tensor {
    let (args, loads) = operands.split_at(g.maps.len());
    let (arg_types, load_types) = dtypes.split_at(g.maps.len());
    let shape: Vec<u64> = g.out.iter().map(|d| g.extents[*d as usize]).collect();
    let yielded = g.body.dtypes(arg_types, load_types)[g.body.results[0].0 as usize];
    let mut result = Tensor::full(&shape, g.combine.map_or(0.0, |c| identity(c, yielded)));
    let mut body = Evaluator::new(&g.body, arg_types, load_types);
    let load = |n: u32, at: &[i64]| {
        let at: Vec<u64> = at
            .iter()
            .zip(&loads[n as usize].shape)
            .map(|(i, d)| (*i).min(*d as i64 - 1).max(0) as u64)
            .collect();
        let tensor = loads[n as usize];
        if tensor.data.is_empty() { 0.0 } else { tensor.at(&at) }
    };
    for_each_index(&g.extents, |index| {
        let values: Vec<f64> =
            args.iter().zip(&g.maps).map(|(t, map)| t.at(&read_index(map, index))).collect();
        let y = body.run(&values, index, &load)[0];
        let at: Vec<u64> = g.out.iter().map(|d| index[*d as usize]).collect();
        let at = result.offset(&at);
        let slot = &mut result.data[at];
        *slot = g.combine.map_or(y, |c| combine(c, yielded, *slot, y));
    });
    result
}

fn read_index(map: &[Option<u32>], index: &[u64]) -> Vec<u64> {
    map.iter().map(|d| d.map_or(0, |d| index[d as usize])).collect()
}

/// The result's type.
///
/// # Errors
/// When an operand does not have the dimensions its map says, or the body's types do not fit.
pub fn infer(g: &Generic, operands: &[Type]) -> Result<Type, TypeError> {
    if operands.len() < g.maps.len() {
        let headline = format!("expected {} operands, found {}", g.maps.len(), operands.len());
        return Err(TypeError::new(codes::OPERAND_COUNT, headline));
    }
    for (i, (map, ty)) in g.maps.iter().zip(operands).enumerate() {
        if map.len() != ty.ndim() {
            let headline = format!("expected {} dimensions, found {}", map.len(), ty.ndim());
            return Err(TypeError::new(codes::WRONG_NDIM, headline).operand(i, ty));
        }
        for (dim, extent) in map.iter().zip(&ty.shape) {
            let want = dim.map_or(1, |d| g.extents[d as usize]);
            if want != *extent {
                let headline = format!("extents differ: {want} vs {extent}");
                return Err(TypeError::new(codes::EXTENTS_DIFFER, headline).operand(i, ty));
            }
        }
    }
    expect_iterable(&g.extents)?;
    let dtypes: Vec<DType> = operands.iter().map(|t| t.dtype).collect();
    let (args, loads) = dtypes.split_at(g.maps.len());
    g.body.verify(args, loads).map_err(|e| TypeError::new(codes::EXPR_TYPE, e))?;
    let dtype = g.body.dtypes(args, loads)[g.body.results[0].0 as usize];
    checked(dtype, g.out.iter().map(|d| g.extents[*d as usize]).collect())
}

/// Floating-point operations: each operation of the body once per iteration.
pub fn flops(g: &Generic) -> u64 {
    let per_element = g
        .body
        .ops
        .iter()
        .filter(|op| {
            matches!(
                op,
                ScalarOp::Unary(..)
                    | ScalarOp::Binary(..)
                    | ScalarOp::Cmp(..)
                    | ScalarOp::Select(..)
                    | ScalarOp::Cast(..)
            )
        })
        .count() as u64;
    let combine = u64::from(g.combine.is_some());
    g.extents.iter().fold(per_element + combine, |n, d| n.saturating_mul(*d))
}

/// An elementwise function of tensors of one shape.
pub fn elementwise(shape: &[u64], n_args: usize, body: Body) -> Generic {
    let all: Vec<u32> = (0..shape.len() as u32).collect();
    let map: Vec<Option<u32>> = all.iter().copied().map(Some).collect();
    Generic { extents: shape.to_vec(), maps: vec![map; n_args], out: all, combine: None, body }
}

/// The canonical form and, for each operand kept, its old number.
pub fn canonical(g: Generic) -> (Generic, Vec<usize>) {
    let mut order: Vec<u32> = g.out.clone();
    order.extend((0..g.extents.len() as u32).filter(|d| !g.out.contains(d)));
    let mut new_dim = vec![0u32; order.len()];
    order.iter().enumerate().for_each(|(new, old)| new_dim[*old as usize] = new as u32);

    let n_args = g.maps.len();
    let body = g.body.pruned(&g.body.results);
    let kept: Vec<usize> =
        (0..n_args).filter(|n| body.ops.contains(&ScalarOp::Arg(*n as u32))).collect();
    let rename = |op: ScalarOp| match op {
        ScalarOp::Index(d) => ScalarOp::Index(new_dim[d as usize]),
        ScalarOp::Arg(n) => {
            ScalarOp::Arg(kept.iter().position(|k| *k == n as usize).unwrap_or(0) as u32)
        }
        op => op,
    };
    let body = Body { ops: body.ops.into_iter().map(rename).collect(), results: body.results };
    let maps = kept
        .iter()
        .map(|k| g.maps[*k].iter().map(|d| d.map(|d| new_dim[d as usize])).collect())
        .collect();
    let extents = order.iter().map(|d| g.extents[*d as usize]).collect();
    let out = (0..g.out.len() as u32).collect();
    (Generic { extents, maps, out, combine: g.combine, body }, kept)
}

/// Adds the op of a generic without loads: `Map` if nothing is reduced, else `Reduce`.
pub fn push(cx: &mut dyn Builder, g: Generic, operands: &[Value]) -> Value {
    let (generic, kept) = canonical(g);
    let operands: Vec<Value> = kept.iter().map(|k| operands[*k]).collect();
    let op: Op = match generic.combine {
        None => super::Map { generic }.into(),
        Some(_) => super::Reduce::plain(generic).into(),
    };
    cx.push(op, &operands)[0]
}

/// Gradients of the operands of an elementwise map or a sum, from that of its result.
pub fn vjp(
    cx: &mut dyn Builder,
    g: &Generic,
    operands: &[Value],
    grad: Value,
) -> Vec<Option<Value>> {
    let dtypes: Vec<DType> = operands.iter().map(|v| cx.ty(*v).dtype).collect();
    let mut all = operands.to_vec();
    all.push(grad);
    (0..operands.len() as u32)
        .map(|wrt| {
            let body = derive::derivative(&g.body, &dtypes, &[], wrt)?;
            let mut maps = g.maps.clone();
            maps.push(g.out.iter().copied().map(Some).collect());
            let out: Vec<u32> = g.maps[wrt as usize].iter().flatten().copied().collect();
            let reduced = out.len() < g.extents.len();
            let combine = reduced.then_some(Combine::Sum);
            let d =
                push(cx, Generic { extents: g.extents.clone(), maps, out, combine, body }, &all);
            Some(reshaped(cx, d, operands[wrt as usize]))
        })
        .collect()
}

/// A value in the shape of another of as many elements.
pub fn reshaped(cx: &mut dyn Builder, value: Value, like: Value) -> Value {
    let shape = cx.ty(like).shape.clone();
    if cx.ty(value).shape == shape {
        return value;
    }
    cx.push(super::Reshape { shape }.into(), &[value])[0]
}

/// An elementwise map under construction: `map(cx, &[x, y], |b, a| b.mul(a[0], a[1]))`.
pub fn map(
    cx: &mut dyn Builder,
    operands: &[Value],
    f: impl FnOnce(&mut Body, &[S]) -> S,
) -> Value {
    let shape = cx.ty(operands[0]).shape.clone();
    let g = elementwise(&shape, operands.len(), body_of(operands.len(), f));
    push(cx, g, operands)
}

/// A body of `n` arguments.
pub fn body_of(n: usize, f: impl FnOnce(&mut Body, &[S]) -> S) -> Body {
    let mut body = Body::default();
    let args: Vec<S> = (0..n as u32).map(|i| body.arg(i)).collect();
    let result = f(&mut body, &args);
    body.results = vec![result];
    body
}

/// `Some` of each dimension.
pub fn dims(ids: impl IntoIterator<Item = u32>) -> Vec<Option<u32>> {
    ids.into_iter().map(Some).collect()
}

/// The f32 type an operand read through a map has.
pub(super) fn operand_type(g: &Generic, map: &[Option<u32>]) -> Type {
    let shape: Vec<u64> = map.iter().map(|d| d.map_or(1, |d| g.extents[d as usize])).collect();
    Type::new(DType::f32, shape)
}

/// Attributes as text: `a0[d0 d1] a1[d1] -> d0 d1: (a0 * a1)`.
pub(super) fn describe(g: &Generic) -> String {
    let word = |d: &Option<u32>| d.map_or("1".to_string(), |d| format!("d{d}"));
    let mut text = String::new();
    for (i, map) in g.maps.iter().enumerate() {
        let words: Vec<String> = map.iter().map(word).collect();
        text += &format!("a{i}[{}] ", words.join(" "));
    }
    let out: Vec<String> = g.out.iter().map(|d| format!("d{d}")).collect();
    let extents: Vec<String> = g.extents.iter().map(u64::to_string).collect();
    text + &format!("-> [{}] of [{}]: {}", out.join(" "), extents.join(", "), g.body)
}
