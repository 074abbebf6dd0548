//! The `init` entry: first values of every persistent tensor from one seed.
//!
//! Random numbers are counter-based (Philox2x32-10, Salmon et al., SC 2011), keyed by the seed and
//! the tensor's path and counted by the element's index: a value depends on nothing else, so
//! sharding, order and thread count cannot change it. Gaussians come from Box and Muller.
//!
//! # Invariants
//! - Renaming or adding a tensor leaves all others as they were.

use super::scope::{Init, Persistent};
use crate::graph::{Graph, Origin};
use crate::ops::{Fill, Map, Op, Value, generic};
use crate::program::{ArgKind, Generic, ResultTarget};
use crate::scalar::{Binary, Body, S, Unary};
use crate::types::{DType, Type};

const ROUNDS: u32 = 10;
const MULTIPLIER: i64 = 0xD256_D193;
const WEYL: u32 = 0x9E37_79B9;

/// The entry: feed `seed` (i32), one update per tensor.
pub(super) fn graph(tensors: &[Persistent]) -> Graph {
    let mut graph = Graph::new("init");
    let seed = graph.input("seed", ArgKind::Feed, Type::new(DType::i32, []));
    for tensor in tensors {
        // Declared so that the new value can be written in place of the old.
        graph.input(&tensor.name, ArgKind::of(tensor.kind), tensor.ty.clone());
        let origin = Origin { path: tensor.name.clone(), span: Some(tensor.span) };
        let value = match tensor.init {
            Init::Constant(v) => add(&mut graph, Fill::new(v, &tensor.ty).into(), &[], origin),
            Init::Normal(std) => random(&mut graph, tensor, seed, origin, |b, x| gaussian(b, x, std)),
            Init::Uniform(bound) => random(&mut graph, tensor, seed, origin, |b, x| uniform(b, x, bound)),
        };
        graph.outputs.push((value, ResultTarget::Update(tensor.name.clone())));
    }
    graph
}

fn add(graph: &mut Graph, op: Op, operands: &[Value], origin: Origin) -> Value {
    let path = origin.path.clone();
    match graph.push(op, operands, origin) {
        Ok(values) if values.len() == 1 => values[0],
        other => panic!("internal error in init: `{path}`: {other:?}"),
    }
}

fn random(
    graph: &mut Graph,
    tensor: &Persistent,
    seed: Value,
    origin: Origin,
    distribution: impl FnOnce(&mut Body, [S; 2]) -> S,
) -> Value {
    let shape = &tensor.ty.shape;
    let mut body = Body::default();
    let seed_arg = body.arg(0);
    let bits = philox(&mut body, seed_arg, shape, &tensor.name);
    let value = distribution(&mut body, bits);
    let value = body.cast(value, DType::f32, tensor.ty.dtype);
    body.results = vec![value];
    let out = (0..shape.len() as u32).collect();
    let map = Generic { extents: shape.clone(), maps: vec![vec![]], out, combine: None, body };
    let (generic, _) = generic::canonical(map);
    add(graph, Map { generic }.into(), &[seed], origin)
}

fn int(body: &mut Body, value: u32) -> S {
    body.int(i64::from(value as i32))
}

/// 64 random bits per element, as two i32.
fn philox(body: &mut Body, seed: S, shape: &[u64], name: &str) -> [S; 2] {
    let weyl = int(body, WEYL);
    let spread = body.binary(Binary::Mul, seed, weyl);
    let salt = int(body, fnv(name));
    let mut key = body.binary(Binary::Xor, spread, salt);
    let (mut left, mut right) = counters(body, shape);
    let multiplier = int(body, MULTIPLIER as u32);
    for _ in 0..ROUNDS {
        let high = body.binary(Binary::MulHiU, left, multiplier);
        let low = body.binary(Binary::Mul, left, multiplier);
        let mixed = body.binary(Binary::Xor, high, key);
        left = body.binary(Binary::Xor, mixed, right);
        right = low;
        key = body.binary(Binary::Add, key, weyl);
    }
    [left, right]
}

/// The element's index: along the last dimension, and over all before it (both modulo 2^32).
fn counters(body: &mut Body, shape: &[u64]) -> (S, S) {
    let zero = body.int(0);
    let Some((_, leading)) = shape.split_last() else { return (zero, zero) };
    let mut row = zero;
    for (d, extent) in leading.iter().enumerate() {
        let extent = int(body, *extent as u32);
        let scaled = body.binary(Binary::Mul, row, extent);
        let index = body.index(d as u32);
        row = body.binary(Binary::Add, scaled, index);
    }
    (body.index(leading.len() as u32), row)
}

/// FNV-1a over the path.
fn fnv(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

/// A number in (0, 1] from the high 24 bits.
fn unit(body: &mut Body, bits: S) -> S {
    let eight = body.int(8);
    let high = body.binary(Binary::Shr, bits, eight);
    let float = body.cast(high, DType::i32, DType::f32);
    let half = body.float(0.5, DType::f32);
    let shifted = body.binary(Binary::Add, float, half);
    let scale = body.float(f64::from(1u32 << 24).recip(), DType::f32);
    body.binary(Binary::Mul, shifted, scale)
}

fn gaussian(body: &mut Body, bits: [S; 2], std: f64) -> S {
    let (u, v) = (unit(body, bits[0]), unit(body, bits[1]));
    let log = body.unary(Unary::Log, u);
    let minus_two = body.float(-2.0, DType::f32);
    let square = body.binary(Binary::Mul, log, minus_two);
    let radius = body.unary(Unary::Sqrt, square);
    let turn = body.float(2.0 * std::f64::consts::PI, DType::f32);
    let angle = body.binary(Binary::Mul, v, turn);
    let cos = body.unary(Unary::Cos, angle);
    let unit = body.binary(Binary::Mul, radius, cos);
    let std = body.float(std, DType::f32);
    body.binary(Binary::Mul, unit, std)
}

fn uniform(body: &mut Body, bits: [S; 2], bound: f64) -> S {
    let u = unit(body, bits[0]);
    let two = body.float(2.0 * bound, DType::f32);
    let bound = body.float(bound, DType::f32);
    let wide = body.binary(Binary::Mul, u, two);
    body.binary(Binary::Sub, wide, bound)
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let node = graph.nodes.values().next().expect("one node");
        let types = [Type::new(DType::i32, [])];
        let results = [Type::new(DType::f32, [40, 50])];
        node.op.reference(&[&Tensor::full(&[], seed)], &types, &results)[0].data.clone()
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
    }
}
