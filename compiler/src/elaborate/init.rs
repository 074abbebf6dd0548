//! The `init` entry: first values of every persistent tensor from one seed.
//!
//! Random numbers are counter-based ([`Random`]), keyed by the seed and the tensor's path: a value
//! depends on seed, path and index, so sharding, order and thread count cannot change it.
//!
//! The keys are nodes of their own, all in front: a random tensor reads its key as an operand, so
//! tensors of one shape and distribution are drawn by one kernel, and fusion makes few kernels of
//! the keys, which all read the seed.
//!
//! # Invariants
//! - Renaming or adding a tensor leaves all others as they were.

use super::scope::{Init, Persistent};
use crate::graph::{Graph, Origin};
use crate::ops::Distribution;
use crate::ops::{Fill, Map, Op, Random, Value, generic};
use crate::program::{ArgKind, ResultTarget};
use crate::scalar::{Binary, Body, S};
use crate::types::{DType, Type};

/// The entry: feed `seed` (i32), one update per tensor.
pub(super) fn graph(tensors: &[Persistent]) -> Graph {
    let mut graph = Graph::new("init");
    let seed = graph.input("seed", ArgKind::Feed, Type::new(DType::i32, []));
    let sources: Vec<Source> = tensors.iter().map(|t| source(&mut graph, t, seed)).collect();
    for (tensor, source) in tensors.iter().zip(sources) {
        // Declared so that the new value can be written in place of the old.
        graph.input(&tensor.name, ArgKind::of(tensor.kind), tensor.ty.clone());
        let origin = Origin { path: tensor.name.clone(), span: Some(tensor.span) };
        let value = match source {
            Source::Constant(v) => add(&mut graph, Fill::new(v, &tensor.ty).into(), &[], origin),
            Source::Drawn(key, dist, scale) => random(&mut graph, tensor, key, (dist, scale)),
        };
        graph.outputs.push((value, ResultTarget::Update(tensor.name.clone())));
    }
    graph
}

/// What a tensor's first value is made of.
enum Source {
    /// A constant.
    Constant(f64),
    /// Random numbers under a key, times a factor, plus an offset.
    Drawn(Value, Distribution, [f64; 2]),
}

fn source(graph: &mut Graph, tensor: &Persistent, seed: Value) -> Source {
    let (dist, scale) = match tensor.init {
        Init::Constant(v) => return Source::Constant(v),
        Init::Normal(std) => (Distribution::Normal, [std, 0.0]),
        Init::Uniform(b) => (Distribution::Uniform, [2.0 * b, -b]),
    };
    Source::Drawn(key(graph, tensor, seed), dist, scale)
}

fn add(graph: &mut Graph, op: Op, operands: &[Value], origin: Origin) -> Value {
    let path = origin.path.clone();
    match graph.push(op, operands, origin) {
        Ok(values) if values.len() == 1 => values[0],
        other => panic!("internal error in init: `{path}`: {other:?}"),
    }
}

/// `seed ^ stream`: what a tensor's numbers are keyed by.
fn key(graph: &mut Graph, tensor: &Persistent, seed: Value) -> Value {
    let origin = Origin { path: tensor.name.clone(), span: Some(tensor.span) }.derived("key");
    let mix = |b: &mut Body, a: &[S]| {
        let stream = b.int(i64::from(stream(&tensor.name) as i32));
        b.combine(Binary::Xor, a[0], stream)
    };
    let generic = generic::elementwise(&[], 1, generic::body_of(1, mix));
    add(graph, Map { generic }.into(), &[seed], origin)
}

/// `random * factor + offset` in the tensor's type.
fn random(
    graph: &mut Graph,
    tensor: &Persistent,
    key: Value,
    (dist, [factor, offset]): (Distribution, [f64; 2]),
) -> Value {
    let shape = tensor.ty.shape.clone();
    let origin = Origin { path: tensor.name.clone(), span: Some(tensor.span) };
    let op = Random { dist, shape: shape.clone(), dtype: DType::f32, stream: 0 };
    let drawn = add(graph, op.into(), &[key], origin.derived("random"));
    let scale = |b: &mut Body, a: &[S]| {
        let (factor, offset) = (b.number(factor, DType::f32), b.number(offset, DType::f32));
        let scaled = b.mul(a[0], factor);
        let shifted = b.add(scaled, offset);
        b.cast(shifted, DType::f32, tensor.ty.dtype)
    };
    let generic = generic::elementwise(&shape, 1, generic::body_of(1, scale));
    add(graph, Map { generic }.into(), &[drawn], origin)
}

/// FNV-1a over the path.
fn stream(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interpret;
    use crate::ops::OpDef;
    use crate::source::{SourceId, Span};
    use crate::tensor::Tensor;
    use perilune_plan::TensorKind;

    fn values(name: &str, init: Init, seed: f64) -> Vec<f64> {
        let tensor = Persistent {
            name: name.to_owned(),
            ty: Type::new(DType::f32, [40, 50]),
            kind: TensorKind::Param,
            init,
            group: String::new(),
            shard: Vec::new(),
            span: Span { source: SourceId(0), start: 0, end: 0 },
        };
        let graph = graph(&[tensor]);
        let old = Tensor::full(&[40, 50], f64::NAN);
        interpret::outputs(&graph, &[Tensor::full(&[], seed), old]).remove(0).data
    }

    #[test]
    fn a_tensor_is_keyed_by_the_seed_and_its_path() {
        let (shape, dtype) = (vec![40, 50], DType::f32);
        let op = Random { dist: Distribution::Uniform, shape, dtype, stream: stream("w") };
        let types = [Type::new(DType::i32, [])];
        let drawn = op.reference(&[&Tensor::full(&[], 9.0)], &types, &[]).remove(0).data;
        let scaled: Vec<f64> = drawn.iter().map(|u| u * 2.0 - 1.0).collect();
        assert_eq!(values("w", Init::Uniform(1.0), 9.0), scaled);
    }

    #[test]
    fn gaussians_have_the_stated_moments_and_depend_on_seed_and_name() {
        let x = values("w", Init::Normal(0.5), 1.0);
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.04 && (variance - 0.25).abs() < 0.03, "{mean} {variance}");
        assert_eq!(x, values("w", Init::Normal(0.5), 1.0));
        assert_ne!(x, values("w", Init::Normal(0.5), 2.0));
        assert_ne!(x, values("v", Init::Normal(0.5), 1.0));
        let u = values("w", Init::Uniform(0.1), 3.0);
        assert!(u.iter().all(|v| v.abs() <= 0.1) && u.iter().any(|v| *v > 0.09));
        assert!(u.iter().any(|v| *v < -0.09));
    }
}
