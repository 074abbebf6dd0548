//! Values of a kernel that are strided views of a parameter.
//!
//! # Invariants
//! - A view's element at an index is the parameter's element at `offset + Σ index·stride`; nothing
//!   is computed.

use crate::program::{Generic, Kernel, OpKind, V};
use crate::scalar::ScalarOp;
use crate::types::Type;

/// A strided view of a kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Strided {
    /// Which parameter.
    pub(crate) param: usize,
    /// Element of the first index.
    pub(crate) offset: u64,
    /// Extents.
    pub(crate) shape: Vec<u64>,
    /// Elements between neighbours in each dimension; 0 where it is broadcast.
    pub(crate) strides: Vec<i64>,
}

/// Row-major strides of a shape.
pub(crate) fn contiguous(shape: &[u64]) -> Vec<i64> {
    let mut strides = vec![1i64; shape.len()];
    for d in (0..shape.len().saturating_sub(1)).rev() {
        strides[d] = strides[d + 1] * shape[d + 1] as i64;
    }
    strides
}

/// The view a value is, if it is one.
pub(crate) fn trace(kernel: &Kernel, value: V) -> Option<Strided> {
    let Some((_, op)) = kernel.def(value) else {
        let shape = kernel.params[value.0 as usize].shape.clone();
        let strides = contiguous(&shape);
        return Some(Strided { param: value.0 as usize, offset: 0, shape, strides });
    };
    let inner = trace(kernel, *op.operands.first()?)?;
    let ty = op.results.first()?;
    match &op.kind {
        OpKind::Slice(starts) => Some(slice(inner, starts, ty)),
        OpKind::Reshape => reshape(inner, ty),
        OpKind::Generic(generic) => permute(inner, generic, ty),
        OpKind::Concat(_)
        | OpKind::Pad { .. }
        | OpKind::Contract(_)
        | OpKind::Constant(_)
        | OpKind::Dialect(_) => None,
    }
}

fn slice(inner: Strided, starts: &[u64], ty: &Type) -> Strided {
    let skipped: i64 = starts.iter().zip(&inner.strides).map(|(s, t)| *s as i64 * t).sum();
    Strided { offset: inner.offset + skipped as u64, shape: ty.shape.clone(), ..inner }
}

/// A generic that only moves dimensions about: `result[i…] = operand[some of i…]`.
fn permute(inner: Strided, generic: &Generic, ty: &Type) -> Option<Strided> {
    let [result] = generic.body.results[..] else { return None };
    let copies = generic.body.ops.get(result.0 as usize) == Some(&ScalarOp::Arg(0));
    if generic.combine.is_some() || generic.maps.len() != 1 || !copies {
        return None;
    }
    let strides = generic.out.iter().map(|dim| {
        let read = generic.maps[0].iter().zip(&inner.strides).filter(|(m, _)| **m == Some(*dim));
        read.map(|(_, s)| *s).sum()
    });
    Some(Strided { strides: strides.collect(), shape: ty.shape.clone(), ..inner })
}

/// Other extents over the same elements, where strides can say it.
fn reshape(inner: Strided, ty: &Type) -> Option<Strided> {
    if ty.elems() == 0 {
        return Some(Strided { strides: contiguous(&ty.shape), shape: ty.shape.clone(), ..inner });
    }
    let mut strides = vec![0i64; ty.ndim()];
    // Runs of inner dimensions that one stride covers, from the innermost out.
    let mut runs: Vec<(u64, i64)> = Vec::new();
    for (extent, stride) in inner.shape.iter().zip(&inner.strides).rev().filter(|(e, _)| **e > 1) {
        match runs.last_mut() {
            Some((covered, s)) if *stride == *s * *covered as i64 => *covered *= extent,
            _ => runs.push((*extent, *stride)),
        }
    }
    let mut runs = runs.into_iter();
    let mut run = runs.next();
    for (d, extent) in ty.shape.iter().enumerate().rev().filter(|(_, e)| **e > 1) {
        let (left, stride) = run?;
        if left % extent != 0 {
            return None;
        }
        strides[d] = stride;
        run = match left / extent {
            1 => runs.next(),
            rest => Some((rest, stride * *extent as i64)),
        };
    }
    Some(Strided { strides, shape: ty.shape.clone(), ..inner })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DType;

    fn view(shape: &[u64], strides: &[i64]) -> Strided {
        Strided { param: 0, offset: 3, shape: shape.to_vec(), strides: strides.to_vec() }
    }

    fn reshaped(v: Strided, shape: &[u64]) -> Option<Vec<i64>> {
        reshape(v, &Type::new(DType::f32, shape)).map(|v| v.strides)
    }

    #[test]
    fn a_reshape_of_a_slice_splits_and_merges_where_strides_allow() {
        // The first 64 columns of [8, 96] rows, seen as 4 heads of 16.
        assert_eq!(reshaped(view(&[8, 64], &[96, 1]), &[8, 4, 16]), Some(vec![96, 16, 1]));
        assert_eq!(reshaped(view(&[8, 64], &[96, 1]), &[2, 4, 64]), Some(vec![384, 96, 1]));
        assert_eq!(reshaped(view(&[8, 64], &[96, 1]), &[512]), None);
        assert_eq!(reshaped(view(&[2, 4, 6], &[24, 6, 1]), &[48]), Some(vec![1]));
        assert_eq!(reshaped(view(&[1, 5], &[999, 1]), &[5, 1]), Some(vec![1, 0]));
    }
}
