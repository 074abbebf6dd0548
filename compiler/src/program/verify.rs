//! What holds for every program.
//!
//! # Invariants
//! - Checked after reading a text and, in tests, after every pass: SSA order, operand and result
//!   types of every op, calls that fit their kernels, slots numbered in call order.

use std::collections::HashSet;

use super::dialect::results_of;
use super::rows::{finished_rows, row_aligned};
use super::{
    Call, ContractDims, DialectOp, EntryFn, Generic, Kernel, KernelOp, MAX_CONSTANT_ELEMS, OpKind,
    Place, Program, Slot, V,
};
use crate::diagnostic::InternalError;
use crate::types::{DType, Type};

type Check = Result<(), String>;

/// Checks a program.
///
/// # Errors
/// With the first thing found, and where.
pub fn verify(program: &Program) -> Result<(), InternalError> {
    let broken =
        |place: String| move |e: String| InternalError::new("verify", format!("{place}: {e}"));
    let mut names = HashSet::new();
    for kernel in &program.kernels {
        let place = || format!("kernel `{}`", kernel.name);
        if !names.insert(kernel.name.as_str()) {
            return Err(broken(place())("its name is taken".into()));
        }
        verify_kernel(kernel).map_err(broken(place()))?;
    }
    for entry in &program.entries {
        let place = || format!("entry `{}`", entry.name);
        if !names.insert(entry.name.as_str()) {
            return Err(broken(place())("its name is taken".into()));
        }
        verify_entry(entry, &program.kernels).map_err(broken(place()))?;
    }
    Ok(())
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(message()) }
}

fn verify_kernel(kernel: &Kernel) -> Check {
    let mut types: Vec<&Type> = kernel.params.iter().collect();
    for (i, op) in kernel.ops.iter().enumerate() {
        let operands = op.operands.iter().map(|v| types.get(v.0 as usize).copied());
        let operands: Option<Vec<&Type>> = operands.collect();
        let operands = operands.ok_or_else(|| format!("op {i} reads a later value"))?;
        verify_op(op, &operands).map_err(|e| format!("op {i}: {e}"))?;
        types.extend(&op.results);
    }
    let known = |v: &V| (v.0 as usize) < types.len();
    ensure(kernel.results.iter().all(known), || "a result that does not exist".into())
}

fn verify_op(op: &KernelOp, operands: &[&Type]) -> Check {
    let one = || -> Result<&Type, String> {
        match &op.results[..] {
            [ty] => Ok(ty),
            _ => Err("must make one value".into()),
        }
    };
    let takes = |n: usize| ensure(operands.len() == n, || format!("takes {n} operands"));
    match &op.kind {
        OpKind::Generic(generic) => verify_generic(generic, operands, one()?),
        OpKind::Slice(starts) => takes(1).and_then(|()| verify_slice(starts, operands[0], one()?)),
        OpKind::Concat(dim) => verify_concat(*dim as usize, operands, one()?),
        OpKind::Pad { low, high, .. } => {
            takes(1).and_then(|()| verify_pad((low, high), operands[0], one()?))
        }
        OpKind::Reshape => {
            takes(1)?;
            let (from, to) = (operands[0], one()?);
            ensure(from.elems() == to.elems() && from.dtype == to.dtype, || {
                format!("reshapes {from} to {to}")
            })
        }
        OpKind::Contract(dims) => takes(2).and_then(|()| verify_contract(dims, operands, one()?)),
        OpKind::Constant(bits) => {
            let ty = one()?;
            let count = bits.len() as u64;
            ensure(count == ty.elems() && count <= MAX_CONSTANT_ELEMS, || {
                format!("{count} elements of {ty}")
            })
        }
        OpKind::Dialect(dialect) => verify_dialect(dialect, operands, &op.results),
    }
}

fn verify_dialect(op: &DialectOp, operands: &[&Type], results: &[Type]) -> Check {
    ensure(results_of(op, operands).as_deref() == Some(results), || {
        let list = |types: &mut dyn Iterator<Item = &Type>| {
            types.map(Type::to_string).collect::<Vec<_>>().join(", ")
        };
        let (from, to) = (list(&mut operands.iter().copied()), list(&mut results.iter()));
        format!("{op:?} makes no {to} of {from}")
    })
}

fn verify_generic(g: &Generic, operands: &[&Type], result: &Type) -> Check {
    ensure(operands.len() >= g.maps.len(), || "fewer operands than maps".into())?;
    let extent = |d: u32| g.extents.get(d as usize).copied();
    for (map, ty) in g.maps.iter().zip(operands) {
        let shape: Option<Vec<u64>> = map.iter().map(|d| d.map_or(Some(1), extent)).collect();
        ensure(shape.as_ref() == Some(&ty.shape), || format!("a map does not fit {ty}"))?;
    }
    let out: Option<Vec<u64>> = g.out.iter().map(|d| extent(*d)).collect();
    ensure(out.as_ref() == Some(&result.shape), || format!("makes {result} of {:?}", g.extents))?;
    let each_once = g.out.iter().collect::<HashSet<_>>().len() == g.out.len();
    ensure(each_once, || "a result dimension twice".into())?;
    let reduces = g.out.len() < g.extents.len();
    ensure(reduces == g.combine.is_some(), || "a combiner without a reduction, or none".into())?;
    verify_body(g, operands, result.dtype)
}

fn verify_body(g: &Generic, operands: &[&Type], result: DType) -> Check {
    use crate::scalar::ScalarOp;
    let (args, loads) = operands.split_at(g.maps.len());
    for (i, op) in g.body.ops.iter().enumerate() {
        let mut later = false;
        op.operands(&mut |s| later |= s.0 as usize >= i);
        ensure(!later, || "a scalar reads a later one".into())?;
        match op {
            ScalarOp::Index(d) => {
                ensure((*d as usize) < g.extents.len(), || format!("no dimension {d}"))?;
            }
            ScalarOp::Arg(n) => ensure((*n as usize) < args.len(), || format!("no argument {n}"))?,
            ScalarOp::Load(n, at) => {
                let fits = loads.get(*n as usize).is_some_and(|t| t.ndim() == at.len());
                ensure(fits, || format!("load {n} does not fit"))?;
            }
            _ => {}
        }
    }
    let [yielded] = g.body.results[..] else { return Err("a body yields one value".into()) };
    let types = |list: &[&Type]| list.iter().map(|t| t.dtype).collect::<Vec<_>>();
    let (args, loads) = (types(args), types(loads));
    g.body.verify(&args, &loads)?;
    let yielded = g.body.dtypes(&args, &loads).get(yielded.0 as usize).copied();
    ensure(yielded == Some(result), || format!("a body yields {yielded:?}, not {result}"))
}

fn verify_slice(starts: &[u64], from: &Type, to: &Type) -> Check {
    let inside =
        |d: usize| starts[d].checked_add(to.shape[d]).is_some_and(|end| end <= from.shape[d]);
    let fits = starts.len() == from.ndim()
        && to.ndim() == from.ndim()
        && (0..starts.len()).all(inside)
        && from.dtype == to.dtype;
    ensure(fits, || format!("slices {to} from {from}"))
}

fn verify_concat(dim: usize, operands: &[&Type], to: &Type) -> Check {
    let mut total = 0u64;
    for ty in operands {
        let mut shape = ty.shape.clone();
        let extent = shape.get_mut(dim).ok_or_else(|| format!("no dimension {dim}"))?;
        total = total.checked_add(*extent).ok_or("too long")?;
        *extent = to.shape.get(dim).copied().unwrap_or(0);
        ensure(shape == to.shape && ty.dtype == to.dtype, || format!("joins {ty} into {to}"))?;
    }
    ensure(to.shape.get(dim) == Some(&total), || format!("joins to {total}, not {to}"))
}

fn verify_pad((low, high): (&[u64], &[u64]), from: &Type, to: &Type) -> Check {
    let padded = |d: usize| {
        low[d].checked_add(from.shape[d]).and_then(|n| n.checked_add(high[d])) == Some(to.shape[d])
    };
    let ndim = from.ndim();
    let fits = [low.len(), high.len(), to.ndim()] == [ndim; 3]
        && (0..ndim).all(padded)
        && from.dtype == to.dtype;
    ensure(fits, || format!("pads {from} to {to}"))
}

fn verify_contract(dims: &ContractDims, operands: &[&Type], to: &Type) -> Check {
    let mut extents = std::collections::BTreeMap::new();
    for (ids, ty) in [(&dims.lhs, operands[0]), (&dims.rhs, operands[1]), (&dims.out, to)] {
        ensure(ids.len() == ty.ndim(), || format!("{} dimensions on {ty}", ids.len()))?;
        for (id, extent) in ids.iter().zip(&ty.shape) {
            let known = *extents.entry(*id).or_insert(*extent);
            ensure(known == *extent, || format!("extents differ: {known} vs {extent}"))?;
        }
    }
    Ok(())
}

/// Whether a call can run on this many rows of the contraction called before it.
fn verify_epilogue(call: &Call, rows: u64, before: Option<&Call>, kernels: &[Kernel]) -> bool {
    let kernel = &kernels[call.kernel as usize];
    let Some(host) = before.filter(|host| host.epilogue.is_none()) else { return false };
    let Some(led) = finished_rows(&kernels[host.kernel as usize]) else { return false };
    let mut reads = call.args.iter().enumerate().filter(|(_, slot)| **slot == host.first_result);
    let aligned = |(param, _)| row_aligned(kernel, param, led.len());
    led.iter().product::<u64>() == rows
        && call.args.contains(&host.first_result)
        && reads.all(aligned)
        && kernel.result_types().iter().all(|ty| ty.shape.starts_with(led))
}

/// Whether what runs beside other calls is a collective, and ends before a call further on.
fn fits_flight(call: &Call, (i, entry): (usize, &EntryFn), kernel: &Kernel) -> bool {
    let Some(until) = call.until.map(|until| until as usize) else { return true };
    let ends = until > i + 1 && until <= entry.calls.len();
    ends && call.epilogue.is_none() && kernel.collective().is_some()
}

fn verify_entry(entry: &EntryFn, kernels: &[Kernel]) -> Check {
    let mut types: Vec<Type> = entry.args.iter().map(|a| a.ty.clone()).collect();
    for (i, call) in entry.calls.iter().enumerate() {
        let kernel = kernels.get(call.kernel as usize);
        let kernel = kernel.ok_or_else(|| format!("call {i} of no kernel"))?;
        let given: Option<Vec<&Type>> = call.args.iter().map(|s| types.get(s.0 as usize)).collect();
        let fits = given.is_some_and(|g| g.into_iter().eq(&kernel.params));
        ensure(fits, || format!("call {i} does not fit `{}`", kernel.name))?;
        let first = Slot(types.len() as u32);
        ensure(call.first_result == first, || format!("call {i} is not numbered in order"))?;
        let before = i.checked_sub(1).map(|b| &entry.calls[b]);
        let fits = call.epilogue.is_none_or(|rows| verify_epilogue(call, rows, before, kernels));
        ensure(fits, || format!("call {i} is no epilogue of the call before it"))?;
        ensure(fits_flight(call, (i, entry), kernel), || {
            format!("call {i} is not under way until call {:?}", call.until)
        })?;
        types.extend(kernel.result_types());
    }
    let known = |s: Slot| (s.0 as usize) < types.len();
    ensure(entry.results.iter().all(|r| known(r.value)), || "a result that does not exist".into())?;
    let Some(layout) = &entry.layout else { return Ok(()) };
    ensure(layout.places.len() == types.len(), || "a slot without a place".into())?;
    for (ty, place) in types.iter().zip(&layout.places) {
        let fits = match place {
            Place::Arena(offset) => {
                offset.checked_add(ty.bytes()).is_some_and(|end| end <= layout.arena_bytes)
            }
            Place::Arg(n) => {
                entry.args.get(*n as usize).is_some_and(|a| a.ty.bytes() == ty.bytes())
            }
        };
        ensure(fits || ty.elems() == 0, || format!("a place that does not hold {ty}"))?;
    }
    Ok(())
}
