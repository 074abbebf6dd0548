//! The reference interpreter: graphs and kernels in f64, by definition and without optimisation.
//!
//! # Invariants
//! - A graph runs through each op's own `reference`, a kernel through the meaning of the closed
//!   tensor-level set: the two agree for `lower` to be right (tested for every op).

use cranelift_entity::SecondaryMap;

use crate::graph::Graph;
use crate::ops::{Op, Value, generic};
use crate::program::{ContractDims, DialectOp, EntryFn, Kernel, KernelOp, OpKind, Program, V};
use crate::tensor::{Tensor, for_each_index};
use crate::types::{DType, Type};

/// Every value of a graph, given its inputs in order.
///
/// # Panics
/// If inputs are missing or do not have their declared shapes.
pub fn values(graph: &Graph, inputs: &[Tensor]) -> SecondaryMap<Value, Option<Tensor>> {
    values_with(graph, inputs, &mut |_, _| {})
}

/// Every value of a graph, given its inputs in order; `made` sees each float that a node makes,
/// with the node's path, and may change it (round it, say).
///
/// # Panics
/// As [`values`].
pub fn values_with(
    graph: &Graph,
    inputs: &[Tensor],
    made: &mut dyn FnMut(&str, &mut Tensor),
) -> SecondaryMap<Value, Option<Tensor>> {
    assert_eq!(graph.inputs.len(), inputs.len(), "one tensor per input");
    let mut values: SecondaryMap<Value, Option<Tensor>> = SecondaryMap::new();
    for (input, tensor) in graph.inputs.iter().zip(inputs) {
        assert_eq!(graph.ty(input.value).shape, tensor.shape, "shape of input `{}`", input.name);
        values[input.value] = Some(tensor.clone());
    }
    for (id, node) in graph.nodes.iter() {
        let operands: Vec<&Tensor> = node
            .operands
            .iter()
            .map(|v| values[*v].as_ref().expect("operands come first"))
            .collect();
        let results =
            node.op.reference(&operands, &graph.operand_types(id), &graph.result_types(id));
        for (value, mut tensor) in node.results.iter().zip(results) {
            if graph.ty(*value).dtype.is_float() {
                made(&node.origin.path, &mut tensor);
            }
            values[*value] = Some(tensor);
        }
    }
    values
}

/// The outputs of a graph, given its inputs in order.
///
/// # Panics
/// If inputs are missing or do not have their declared shapes.
pub fn outputs(graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
    let values = values(graph, inputs);
    graph.outputs.iter().map(|(v, _)| values[*v].clone().expect("outputs are made")).collect()
}

/// The results of an entry of a program, given its arguments in order.
///
/// # Panics
/// If the entry is not well-formed.
pub fn entry(program: &Program, entry: &EntryFn, args: &[Tensor]) -> Vec<Tensor> {
    let mut slots: Vec<Option<Tensor>> = args.iter().cloned().map(Some).collect();
    for call in &entry.calls {
        let operands: Vec<Tensor> = call
            .args
            .iter()
            .map(|s| slots[s.0 as usize].clone().expect("arguments come first"))
            .collect();
        let results = kernel(&program.kernels[call.kernel as usize], &operands);
        let first = call.first_result.0 as usize;
        slots.resize(slots.len().max(first + results.len()), None);
        for (i, tensor) in results.into_iter().enumerate() {
            slots[first + i] = Some(tensor);
        }
    }
    let take = |r: &crate::program::EntryResult| slots[r.value.0 as usize].clone();
    entry.results.iter().map(|r| take(r).expect("results are made")).collect()
}

/// The results of a kernel.
///
/// # Panics
/// If the kernel is not well-formed.
pub fn kernel(kernel: &Kernel, params: &[Tensor]) -> Vec<Tensor> {
    assert_eq!(kernel.params.len(), params.len(), "one tensor per parameter");
    let mut types = kernel.params.clone();
    let mut values = params.to_vec();
    for op in &kernel.ops {
        let operands: Vec<&Tensor> = op.operands.iter().map(|v| &values[v.0 as usize]).collect();
        let operand_types: Vec<Type> =
            op.operands.iter().map(|v| types[v.0 as usize].clone()).collect();
        let results = kernel_op(op, &operands, &operand_types);
        types.extend(op.results.iter().cloned());
        values.extend(results);
    }
    kernel.results.iter().map(|V(v)| values[*v as usize].clone()).collect()
}

/// One op of a kernel.
fn kernel_op(op: &KernelOp, operands: &[&Tensor], types: &[Type]) -> Vec<Tensor> {
    let shape = &op.results[0].shape;
    match &op.kind {
        OpKind::Generic(g) => {
            let dtypes: Vec<DType> = types.iter().map(|t| t.dtype).collect();
            vec![generic::evaluate(g, operands, &dtypes)]
        }
        OpKind::Slice(first) => vec![Tensor::from_fn(shape, |index| {
            operands[0].at(&index.iter().zip(first).map(|(i, f)| i + f).collect::<Vec<_>>())
        })],
        OpKind::Concat(dim) => vec![concat(operands, shape, *dim as usize)],
        OpKind::Pad { low, value, .. } => {
            vec![pad(operands[0], shape, low, f64::from_bits(*value))]
        }
        OpKind::Reshape => vec![Tensor { shape: shape.clone(), data: operands[0].data.clone() }],
        OpKind::Contract(dims) => vec![contract(dims, operands, shape)],
        OpKind::Constant(elems) => {
            let data = elems.iter().map(|e| f64::from_bits(*e)).collect();
            vec![Tensor { shape: shape.clone(), data }]
        }
        OpKind::Dialect(d) => dialect_op(d).reference(operands, types, &op.results),
    }
}

fn concat(parts: &[&Tensor], shape: &[u64], dim: usize) -> Tensor {
    Tensor::from_fn(shape, |index| {
        let mut index = index.to_vec();
        for part in parts {
            if index[dim] < part.shape[dim] {
                return part.at(&index);
            }
            index[dim] -= part.shape[dim];
        }
        f64::NAN
    })
}

fn pad(x: &Tensor, shape: &[u64], low: &[u64], value: f64) -> Tensor {
    Tensor::from_fn(shape, |index| {
        let at: Option<Vec<u64>> = index.iter().zip(low).map(|(i, l)| i.checked_sub(*l)).collect();
        match at {
            Some(at) if at.iter().zip(&x.shape).all(|(i, d)| i < d) => x.at(&at),
            _ => value,
        }
    })
}

fn contract(dims: &ContractDims, operands: &[&Tensor], shape: &[u64]) -> Tensor {
    let n = dims.lhs.iter().chain(&dims.rhs).max().map_or(0, |m| m + 1);
    let mut extents = vec![1; n as usize];
    for (ids, t) in [(&dims.lhs, operands[0]), (&dims.rhs, operands[1])] {
        ids.iter().zip(&t.shape).for_each(|(id, d)| extents[*id as usize] = *d);
    }
    let mut y = Tensor::full(shape, 0.0);
    for_each_index(&extents, |index| {
        let pick = |ids: &[u32]| -> Vec<u64> { ids.iter().map(|d| index[*d as usize]).collect() };
        let at = y.offset(&pick(&dims.out));
        y.data[at] += operands[0].at(&pick(&dims.lhs)) * operands[1].at(&pick(&dims.rhs));
    });
    y
}

/// The graph op of a dialect op: their meaning is one.
fn dialect_op(op: &DialectOp) -> Op {
    use crate::ops;
    match *op {
        DialectOp::Collective(ref collective) => ops::Exchange(collective.clone()).into(),
        DialectOp::Attention { scale, causal } => ops::Attention { scale, causal }.into(),
        DialectOp::AttentionGrad { scale, causal } => ops::AttentionGrad { scale, causal }.into(),
        DialectOp::RaggedRows { transposed } => {
            ops::RaggedEinsum { form: ops::Ragged::Rows { transposed } }.into()
        }
        DialectOp::RaggedOuter => ops::RaggedEinsum { form: ops::Ragged::Outer }.into(),
        DialectOp::TopK { k } => ops::TopK { k }.into(),
        DialectOp::ArgSort { bound } => ops::ArgSort { bound }.into(),
        DialectOp::Histogram { bound } => ops::Histogram { bound }.into(),
        DialectOp::CumSum { exclusive } => ops::CumSum { exclusive }.into(),
        DialectOp::ScatterAdd { extent } => ops::ScatterAdd { extent }.into(),
    }
}
