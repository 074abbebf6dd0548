//! A kernel from its function.
//!
//! # Invariants
//! - Helpers (`tensor.empty`, fills, scalar constants, the middle of a reshape) make no op.

use std::collections::HashMap;

use melior::ir::attribute::{AttributeLike, BoolAttribute};
use melior::ir::operation::OperationLike;
use melior::ir::{Attribute, BlockLike};

use super::super::normal::canonical_bits;
use super::super::{
    Collective, CollectiveKind, Combine, ContractDims, DialectOp, Generic, Kernel, KernelOp,
    MAX_CONSTANT_ELEMS, OpKind, V,
};
use super::body;
use super::{
    Op, ReadError, Result, array, attribute, block, key, name, operand_key, refuse, result_key,
    results, scalar, tensor, unsigned,
};
use crate::types::{DType, Type};

/// Reads a kernel.
pub(super) fn read(op: Op<'_, '_>, name: String) -> Result<Kernel> {
    let block = block(op)?;
    let mut cx = Reader::default();
    let mut kernel = Kernel { name, params: Vec::new(), ops: Vec::new(), results: Vec::new() };
    for i in 0..block.argument_count() {
        let value = block.argument(i).map_err(|e| ReadError { message: e.to_string() })?;
        cx.values.insert(key(value), V(i as u32));
        cx.types.push(tensor(value)?);
    }
    kernel.params = cx.types.clone();
    for inner in super::operations(block) {
        if super::name(inner)? == "func.return" {
            kernel.results = cx.operands(inner)?;
        } else if let Some((kind, operands)) = cx.op(inner)? {
            let results = results(inner)?;
            for n in 0..results.len() {
                cx.values.insert(result_key(inner, n)?, V((cx.types.len() + n) as u32));
            }
            cx.types.extend(results.iter().cloned());
            kernel.ops.push(KernelOp { kind, operands, results });
        }
    }
    Ok(kernel)
}

/// Values of the kernel being read.
#[derive(Default)]
pub(super) struct Reader {
    /// Tensor values by MLIR value.
    pub(super) values: HashMap<usize, V>,
    /// Type of each tensor value.
    pub(super) types: Vec<Type>,
    /// Bits of scalar constants by MLIR value.
    constants: HashMap<usize, u64>,
    /// Results of `tensor.empty`.
    empty: std::collections::HashSet<usize>,
}

impl Reader {
    fn operands(&self, op: Op<'_, '_>) -> Result<Vec<V>> {
        (0..op.operand_count()).map(|n| self.operand(op, n)).collect()
    }

    fn operand(&self, op: Op<'_, '_>, n: usize) -> Result<V> {
        match self.values.get(&operand_key(op, n)?) {
            Some(v) => Ok(*v),
            None => refuse(format!("operand {n} of `{}` is not a tensor of the kernel", name(op)?)),
        }
    }

    /// The kernel op an MLIR op is; `None` for a helper.
    fn op(&mut self, op: Op<'_, '_>) -> Result<Option<(OpKind, Vec<V>)>> {
        let name = name(op)?;
        Ok(Some(match name.as_str() {
            "tensor.empty" => {
                self.empty.insert(result_key(op, 0)?);
                return Ok(None);
            }
            "linalg.fill" => return Ok(None),
            "arith.constant" => match self.constant(op)? {
                Some(elements) => (OpKind::Constant(elements), Vec::new()),
                None => return Ok(None),
            },
            "tensor.collapse_shape" if op.has_attribute("perilune.middle") => {
                let v = self.operand(op, 0)?;
                self.values.insert(result_key(op, 0)?, v);
                return Ok(None);
            }
            "tensor.collapse_shape" | "tensor.expand_shape" | "tensor.cast" => {
                (OpKind::Reshape, vec![self.operand(op, 0)?])
            }
            "linalg.generic" => self.generic(op)?,
            "linalg.contract" => self.contract(op)?,
            "tensor.extract_slice" => {
                if numbers(op, "static_strides")?.iter().any(|s| *s != 1) {
                    return refuse("a slice with strides");
                }
                (OpKind::Slice(numbers(op, "static_offsets")?), vec![self.operand(op, 0)?])
            }
            "tensor.concat" => {
                (OpKind::Concat(unsigned(attribute(op, "dim")?)?), self.operands(op)?)
            }
            "tensor.pad" => self.pad(op)?,
            _ => match name.strip_prefix("perilune.") {
                Some(short) => (OpKind::Dialect(dialect(op, short)?), self.operands(op)?),
                None => return refuse(format!("`{name}` in a kernel")),
            },
        }))
    }

    /// Elements of a tensor constant; a scalar is remembered.
    fn constant(&mut self, op: Op<'_, '_>) -> Result<Option<Vec<u64>>> {
        let value = attribute(op, "value")?;
        let ty = op.result(0).map_err(|e| ReadError { message: e.to_string() })?;
        let Ok(ty) = tensor(ty) else {
            self.constants.insert(result_key(op, 0)?, scalar(value)?);
            return Ok(None);
        };
        elements(value, &ty).map(Some)
    }

    fn pad(&self, op: Op<'_, '_>) -> Result<(OpKind, Vec<V>)> {
        let Some(end) = block(op)?.terminator() else { return refuse("a pad without a value") };
        let Some(value) = self.constants.get(&operand_key(end, 0)?) else {
            return refuse("a pad with a computed value");
        };
        let (low, high) = (numbers(op, "static_low")?, numbers(op, "static_high")?);
        Ok((OpKind::Pad { low, high, value: *value }, vec![self.operand(op, 0)?]))
    }

    fn contract(&self, op: Op<'_, '_>) -> Result<(OpKind, Vec<V>)> {
        let plain = |(_, map): (usize, Vec<Option<u32>>)| -> Result<Vec<u32>> {
            map.into_iter()
                .map(|d| d.ok_or_else(|| ReadError { message: "a constant index".into() }))
                .collect()
        };
        let maps = maps(op)?.into_iter().map(plain).collect::<Result<Vec<_>>>()?;
        let Ok([lhs, rhs, out]) = <[Vec<u32>; 3]>::try_from(maps) else {
            return refuse("a contraction takes three maps");
        };
        let operands = vec![self.operand(op, 0)?, self.operand(op, 1)?];
        Ok((OpKind::Contract(ContractDims { lhs, rhs, out }), operands))
    }

    fn generic(&self, op: Op<'_, '_>) -> Result<(OpKind, Vec<V>)> {
        let maps = maps(op)?;
        let Some(((dims, out), inputs)) = maps.split_last() else { return refuse("no maps") };
        let mut extents = vec![0u64; *dims];
        let mut operands = Vec::new();
        let mut read = Vec::new();
        for (n, (_, map)) in inputs.iter().enumerate() {
            let value = super::operand(op, n)?;
            let ty = tensor(value)?;
            for (d, extent) in map.iter().zip(&ty.shape) {
                if let Some(d) = d {
                    extents[*d as usize] = *extent;
                }
            }
            if self.empty.contains(&key(value)) {
                continue;
            }
            operands.push(self.operand(op, n)?);
            read.push(map.clone());
        }
        let Some(out) = out.iter().copied().collect::<Option<Vec<u32>>>() else {
            return refuse("a result at a constant index");
        };
        let result = results(op)?;
        let Some(result) = result.first() else { return refuse("a generic without a result") };
        for (d, extent) in out.iter().zip(&result.shape) {
            extents[*d as usize] = *extent;
        }
        let reduces = out.len() < extents.len();
        let region = body::read(op, (read.len(), inputs.len()), reduces, &self.values)?;
        operands.extend(region.loads);
        let (combine, body) = (region.combine, region.body);
        Ok((OpKind::Generic(Generic { extents, maps: read, out, combine, body }), operands))
    }
}

/// A dialect op by its name.
fn dialect(op: Op<'_, '_>, name: &str) -> Result<DialectOp> {
    let flag = |name: &str| -> Result<bool> {
        let value = BoolAttribute::try_from(attribute(op, name)?);
        value.map(|b| b.value()).map_err(|e| ReadError { message: e.to_string() })
    };
    let count = |name: &str| unsigned(attribute(op, name)?);
    let scale = || scalar(attribute(op, "scale")?);
    Ok(match name {
        "attention" => DialectOp::Attention { scale: scale()?, causal: flag("causal")? },
        "attention_grad" => DialectOp::AttentionGrad { scale: scale()?, causal: flag("causal")? },
        "ragged_rows" => DialectOp::RaggedRows { transposed: flag("transposed")? },
        "ragged_outer" => DialectOp::RaggedOuter,
        "top_k" => DialectOp::TopK { k: count("k")? },
        "arg_sort" => DialectOp::ArgSort { bound: count("bound")? },
        "histogram" => DialectOp::Histogram { bound: count("bound")? },
        "cum_sum" => DialectOp::CumSum { exclusive: flag("exclusive")? },
        "scatter_add" => DialectOp::ScatterAdd { extent: count("extent")? },
        _ => DialectOp::Collective(collective(op, name)?),
    })
}

/// A collective by its name.
fn collective(op: Op<'_, '_>, name: &str) -> Result<Collective> {
    let count = |name: &str| unsigned(attribute(op, name)?);
    let kind = match name {
        "all_reduce" | "reduce" => {
            let combine = super::string(attribute(op, "combine")?)?;
            let known = [Combine::Sum, Combine::Max, Combine::Min];
            match known.into_iter().find(|c| c.name() == combine) {
                Some(combine) if name == "reduce" => CollectiveKind::Reduce(combine),
                Some(combine) => CollectiveKind::AllReduce(combine),
                None => return refuse(format!("ranks do not combine by `{combine}`")),
            }
        }
        "all_gather" => CollectiveKind::AllGather { dim: count("dim")? },
        "broadcast" => CollectiveKind::Broadcast,
        "exchange_counts" => CollectiveKind::ExchangeCounts,
        "dispatch" => CollectiveKind::Dispatch { rows: count("rows")? },
        "dispatch_tokens" => {
            let (rows, per_token) = (count("rows")?, count("per_token")?);
            CollectiveKind::DispatchTokens { rows, per_token }
        }
        "combine" => CollectiveKind::Combine { rows: count("rows")? },
        _ => return refuse(format!("`perilune.{name}` in a kernel")),
    };
    let axes = listed(&super::string(attribute(op, "axes")?)?)?;
    let roots = match op.attribute("roots") {
        Ok(roots) => listed(&super::string(roots)?)?,
        Err(_) => Vec::new(),
    };
    Ok(Collective { kind, axes, ranks: count("ranks")?, roots })
}

/// Numbers separated by commas.
fn listed<T: std::str::FromStr>(text: &str) -> Result<Vec<T>> {
    let numbers = text.split(", ").map(|number| number.parse().ok()).collect::<Option<_>>();
    numbers.ok_or_else(|| ReadError { message: format!("`{text}` is no list of numbers") })
}

/// A dense array of non-negative numbers.
fn numbers(op: Op<'_, '_>, name: &str) -> Result<Vec<u64>> {
    let text = attribute(op, name)?.to_string();
    let inner = text.strip_prefix("array<i64").and_then(|t| t.strip_suffix('>'));
    let Some(inner) = inner else { return refuse(format!("`{name}` is not an array")) };
    let items = inner.trim_start_matches(':').split(',').map(str::trim).filter(|t| !t.is_empty());
    let number = |t: &str| {
        t.parse::<u64>().map_err(|_| ReadError { message: format!("`{name}` is not static") })
    };
    items.map(number).collect()
}

/// Indexing maps: the number of iteration dimensions, and the dimension (or index 0) of each result.
fn maps(op: Op<'_, '_>) -> Result<Vec<(usize, Vec<Option<u32>>)>> {
    array(attribute(op, "indexing_maps")?)?.into_iter().map(|m| map(&m.to_string())).collect()
}

fn map(text: &str) -> Result<(usize, Vec<Option<u32>>)> {
    let unknown = || ReadError { message: format!("map `{text}` is not a projection") };
    let inner = text.strip_prefix("affine_map<").and_then(|t| t.strip_suffix('>'));
    let (dims, results) = inner.and_then(|t| t.split_once(" -> ")).ok_or_else(unknown)?;
    let items = |t: &str| -> Option<Vec<String>> {
        let inner = t.strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect())
    };
    let dims = items(dims).ok_or_else(unknown)?.len();
    let result = |t: &String| match t.strip_prefix('d').map(str::parse::<u32>) {
        Some(Ok(d)) if (d as usize) < dims => Ok(Some(d)),
        None if t == "0" => Ok(None),
        _ => Err(unknown()),
    };
    let results = items(results).ok_or_else(unknown)?.iter().map(result).collect::<Result<_>>()?;
    Ok((dims, results))
}

/// f64 bits of a dense constant's elements.
fn elements(value: Attribute<'_>, ty: &Type) -> Result<Vec<u64>> {
    let raw = value.to_raw();
    // SAFETY: `raw` is a live attribute of the module being read.
    if !unsafe { mlir_sys::mlirAttributeIsADenseElements(raw) } {
        return refuse("a tensor constant that is not dense");
    }
    // SAFETY: `raw` is a dense elements attribute, as checked above.
    let splat = unsafe { mlir_sys::mlirDenseElementsAttrIsSplat(raw) };
    if ty.elems() > MAX_CONSTANT_ELEMS {
        return refuse(format!("a constant of more than {MAX_CONSTANT_ELEMS} elements"));
    }
    let count = ty.elems() as usize;
    let one = |i: usize| {
        let i = if splat { 0 } else { i };
        canonical_bits(element(raw, i, ty.dtype), ty.dtype)
    };
    Ok((0..count).map(one).collect())
}

/// Element `i` of a dense attribute with elements of type `ty`; `i` is inside it (0 for a splat).
fn element(raw: mlir_sys::MlirAttribute, i: usize, ty: DType) -> f64 {
    if ty == DType::i1 {
        // SAFETY: the attribute holds truth values and `i` is one of its elements.
        let value = unsafe { mlir_sys::mlirDenseElementsAttrGetBoolValue(raw, i as isize) };
        return f64::from(u8::from(value));
    }
    let bytes = ty.bytes() as usize;
    let mut buffer = [0u8; 8];
    // SAFETY: elements of these types lie one after the other in the attribute's data, which lives
    // as long as its context; `i` is one of them (a splat holds element 0 only).
    unsafe {
        let data = mlir_sys::mlirDenseElementsAttrGetRawData(raw).cast::<u8>();
        std::ptr::copy_nonoverlapping(data.add(i * bytes), buffer.as_mut_ptr(), bytes);
    }
    let bits = u64::from_le_bytes(buffer);
    match ty {
        DType::f64 => f64::from_bits(bits),
        DType::f32 => f64::from(f32::from_bits(bits as u32)),
        DType::bf16 => f64::from(f32::from_bits((bits as u32) << 16)),
        DType::f16 => half_value(bits as u16),
        DType::i32 => f64::from(bits as u32 as i32),
        DType::i1 => f64::from(u8::from(bits != 0)),
    }
}

/// The value of binary16 bits.
fn half_value(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (1.0 + fraction / 1024.0) * 2f64.powi(e - 15),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}
