//! The normal form of a program: what its text says, and nothing that its text does not say.
//!
//! # Invariants
//! - Two programs that print alike have one normal form; [`read`](super::read) gives it.
//! - It computes the same.
//! - No two kernels differ in name only.

use indexmap::IndexMap;

use super::literal::rounded;
use super::{ContractDims, Generic, Kernel, KernelOp, OpKind, Program, V};
use crate::scalar::{Body, S, ScalarOp};
use crate::types::DType;

/// Brings every kernel into normal form.
pub fn normalise(program: &mut Program) {
    for op in program.kernels.iter_mut().flat_map(|k| &mut k.ops) {
        normalise_op(op);
    }
    for call in program.entries.iter_mut().flat_map(|e| &mut e.calls) {
        let mut seen = std::collections::HashSet::new();
        call.nodes.retain(|n| seen.insert(n.clone()));
    }
    merge_equal_kernels(program);
}

/// Kernels that differ in name only become the first of them.
fn merge_equal_kernels(program: &mut Program) {
    let mut known: IndexMap<Kernel, String> = IndexMap::new();
    let mut numbers = Vec::with_capacity(program.kernels.len());
    for mut kernel in std::mem::take(&mut program.kernels) {
        let name = std::mem::take(&mut kernel.name);
        let entry = known.entry(kernel);
        numbers.push(entry.index() as u32);
        entry.or_insert(name);
    }
    program.kernels = known.into_iter().map(|(k, name)| Kernel { name, ..k }).collect();
    for call in program.entries.iter_mut().flat_map(|e| &mut e.calls) {
        call.kernel = numbers[call.kernel as usize];
    }
}

fn normalise_op(op: &mut KernelOp) {
    let dtype = op.results.first().map_or(DType::f32, |t| t.dtype);
    let constant = |bits: &mut u64| *bits = canonical_bits(f64::from_bits(*bits), dtype);
    match &mut op.kind {
        OpKind::Generic(generic) => {
            let (body, loads) = body(generic, &op.operands[generic.maps.len()..]);
            generic.body = body;
            op.operands.truncate(generic.maps.len());
            op.operands.extend(loads);
        }
        OpKind::Contract(dims) => *dims = dense(dims),
        OpKind::Constant(bits) => bits.iter_mut().for_each(constant),
        OpKind::Pad { value, .. } => constant(value),
        OpKind::Slice(_) if op.results[0].elems() == 0 => {
            op.kind = OpKind::Constant(Vec::new());
            op.operands.clear();
        }
        OpKind::Slice(_) | OpKind::Concat(_) | OpKind::Reshape | OpKind::Dialect(_) => {}
    }
}

/// Bits of a constant as its type holds it; one NaN, integers and truth values exact.
pub(super) fn canonical_bits(value: f64, ty: DType) -> u64 {
    let value = match ty {
        DType::i32 => f64::from(value as i32),
        DType::i1 => f64::from(u8::from(value != 0.0)),
        _ if value.is_nan() => f64::NAN,
        _ => rounded(value, ty),
    };
    value.to_bits()
}

/// Iteration dimensions numbered by first appearance.
pub(super) fn dense(dims: &ContractDims) -> ContractDims {
    let mut order: Vec<u32> = Vec::new();
    let mut number = |ids: &[u32]| -> Vec<u32> {
        let mut out = Vec::with_capacity(ids.len());
        for id in ids {
            let at = order.iter().position(|o| o == id).unwrap_or_else(|| {
                order.push(*id);
                order.len() - 1
            });
            out.push(at as u32);
        }
        out
    };
    ContractDims { lhs: number(&dims.lhs), rhs: number(&dims.rhs), out: number(&dims.out) }
}

/// The body with arguments and loads numbered and placed by first use, and the loaded tensors.
fn body(generic: &Generic, loads: &[V]) -> (Body, Vec<V>) {
    let mut new = Rewriter::default();
    let old = &generic.body;
    let mut renamed: Vec<Option<S>> = vec![None; old.ops.len()];
    for (i, op) in old.ops.iter().enumerate() {
        if matches!(op, ScalarOp::Arg(_)) {
            continue;
        }
        op.operands(&mut |s| new.touch(old, &mut renamed, s));
        let at = |s: S| renamed[s.0 as usize].unwrap_or(s);
        let op = match op.clone().map(&mut |s| at(s)) {
            ScalarOp::Float(bits, ty) => {
                ScalarOp::Float(canonical_bits(f64::from_bits(bits), ty), ty)
            }
            ScalarOp::Int(n, DType::i1) => ScalarOp::Int(i64::from(n != 0), DType::i1),
            ScalarOp::Load(n, index) => ScalarOp::Load(new.load(loads[n as usize]), index),
            op => op,
        };
        renamed[i] = Some(new.body.push(op));
    }
    for result in &old.results {
        new.touch(old, &mut renamed, *result);
        new.body.results.extend(renamed[result.0 as usize]);
    }
    (new.body, new.loads)
}

/// A body being written in normal form.
#[derive(Default)]
struct Rewriter {
    body: Body,
    loads: Vec<V>,
}

impl Rewriter {
    /// Places an argument at its first use.
    fn touch(&mut self, old: &Body, renamed: &mut [Option<S>], s: S) {
        if let ScalarOp::Arg(n) = old.ops[s.0 as usize] {
            renamed[s.0 as usize] = Some(self.body.arg(n));
        }
    }

    fn load(&mut self, v: V) -> u32 {
        let at = self.loads.iter().position(|l| *l == v).unwrap_or_else(|| {
            self.loads.push(v);
            self.loads.len() - 1
        });
        at as u32
    }
}
