//! The body of a generic as the region of `linalg.generic`.
//!
//! # Invariants
//! - Each scalar operation but `Arg` is one MLIR op (`Index` is two), in order.
//! - A reduction's last op combines the accumulator (first operand) with the element.

use std::fmt::Write as _;

use super::super::literal::typed;
use super::super::scalar_names;
use super::super::{Combine, Generic, V};
use super::{list, tensor};
use crate::scalar::{Binary, ScalarOp};
use crate::types::{DType, Type};

/// The region's text: `args` are the types of all `ins`, `loads` the tensors read whole.
pub(super) fn print(
    g: &Generic,
    args: &[DType],
    loads: &[(V, &Type)],
    accumulator: DType,
) -> String {
    let mut out = String::new();
    let block = list(args.iter().enumerate(), |(i, ty)| format!("%a{i}: {ty}"));
    let comma = if args.is_empty() { "" } else { ", " };
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(out, "    ^bb0({block}{comma}%acc: {accumulator}):");
    let load_types: Vec<DType> = loads.iter().map(|l| l.1.dtype).collect();
    let types = g.body.dtypes(&args[..g.maps.len()], &load_types);
    let mut names: Vec<String> = Vec::with_capacity(types.len());
    for (i, op) in g.body.ops.iter().enumerate() {
        names.push(match op {
            ScalarOp::Arg(n) => format!("%a{n}"),
            ScalarOp::Binary(Binary::MulHiU, ..) => format!("%x{i}#1"),
            _ => format!("%x{i}"),
        });
        let line = line(i, op, &Cx { names: &names, types: &types, loads });
        if !line.is_empty() {
            let _ = writeln!(out, "      {line}");
        }
    }
    let mut result = g.body.results.first().map_or("%acc".into(), |r| names[r.0 as usize].clone());
    if let Some(combine) = g.combine {
        let f = match combine {
            Combine::Sum => Binary::Add,
            Combine::Max => Binary::Max,
            Combine::Min => Binary::Min,
        };
        let name = scalar_names::binary(f, accumulator);
        let _ = writeln!(out, "      %sum = {name} %acc, {result} : {accumulator}");
        result = "%sum".to_owned();
    }
    let _ = writeln!(out, "      linalg.yield {result} : {accumulator}");
    out
}

/// What a line refers to.
struct Cx<'a> {
    names: &'a [String],
    types: &'a [DType],
    loads: &'a [(V, &'a Type)],
}

fn line(i: usize, op: &ScalarOp, cx: &Cx<'_>) -> String {
    let name = |s: &crate::scalar::S| cx.names[s.0 as usize].as_str();
    let ty = |s: &crate::scalar::S| cx.types[s.0 as usize];
    match op {
        ScalarOp::Arg(_) => String::new(),
        ScalarOp::Float(bits, t) => constant(i, f64::from_bits(*bits), *t),
        ScalarOp::Int(n, t) => constant(i, *n as f64, *t),
        ScalarOp::Index(d) => format!(
            "%d{i} = linalg.index {d} : index\n      %x{i} = arith.index_cast %d{i} : index to i32"
        ),
        ScalarOp::Load(n, at) => {
            let (v, t) = cx.loads[*n as usize];
            let indices: String = at.iter().map(|s| format!(", {}", name(s))).collect();
            let types: String = at.iter().map(|_| ", i32").collect();
            let (from, to) = (tensor(t), t.dtype);
            format!("%x{i} = \"perilune.load\"(%v{}{indices}) : ({from}{types}) -> {to}", v.0)
        }
        ScalarOp::Unary(f, x) => one(i, scalar_names::unary(*f, ty(x)), name(x), (ty(x), ty(x))),
        ScalarOp::Binary(Binary::MulHiU, x, y) => {
            format!("%x{i}:2 = arith.mului_extended {}, {} : {}", name(x), name(y), ty(x))
        }
        ScalarOp::Binary(f, x, y) => {
            let op = scalar_names::binary(*f, ty(x));
            format!("%x{i} = {op} {}, {} : {}", name(x), name(y), ty(x))
        }
        ScalarOp::Cmp(f, x, y) => {
            let (op, predicate, _) = scalar_names::comparison(*f, ty(x));
            format!("%x{i} = {op} {predicate}, {}, {} : {}", name(x), name(y), ty(x))
        }
        ScalarOp::Select(c, x, y) => {
            format!("%x{i} = arith.select {}, {}, {} : {}", name(c), name(x), name(y), ty(x))
        }
        ScalarOp::Cast(x, to) => {
            let op = scalar_names::cast(ty(x), *to);
            match op.starts_with("perilune.") {
                true => one(i, op, name(x), (ty(x), *to)),
                false => format!("%x{i} = {op} {} : {} to {to}", name(x), ty(x)),
            }
        }
    }
}

fn constant(i: usize, value: f64, ty: DType) -> String {
    let value = super::super::literal::rounded(value, ty);
    format!("%x{i} = arith.constant {}", typed(value, ty))
}

fn one(i: usize, op: &str, x: &str, (from, to): (DType, DType)) -> String {
    match op.starts_with("perilune.") {
        true => format!("%x{i} = \"{op}\"({x}) : ({from}) -> {to}"),
        false => format!("%x{i} = {op} {x} : {from}"),
    }
}
