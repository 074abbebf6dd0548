//! Results that are the old value of an updated tensor become copies.
//!
//! New values of persistent tensors are in place when an entry ends, so whatever else it gives must
//! lie elsewhere by then: a fetch of a parameter that the entry updates, or two tensors that take
//! each other's value.
//!
//! # Invariants
//! - A result that names the storage of an argument names one that the entry does not update, or is
//!   that argument's own new value.

use std::collections::HashMap;

use super::bufferise::is_alias;
use super::merge::Interner;
use super::renumber;
use crate::program::{ArgKind, Call, EntryFn, Generic, Kernel, KernelOp, OpKind, Program};
use crate::program::{ResultTarget, Slot, V};
use crate::scalar::Body;
use crate::types::Type;

/// Runs the pass.
pub fn run(program: &mut Program) {
    let mut kernels = Interner::new(std::mem::take(&mut program.kernels));
    for entry in &mut program.entries {
        copy_old_values(entry, &mut kernels);
    }
    program.kernels = kernels.finish();
    for entry in &mut program.entries {
        renumber(entry, &program.kernels);
    }
}

fn copy_old_values(entry: &mut EntryFn, kernels: &mut Interner) {
    let old = old_values(entry, kernels);
    let mut copies: HashMap<Slot, Slot> = HashMap::new();
    let mut next = end(entry, kernels);
    for i in old {
        let slot = entry.results[i].value;
        if let Some(copy) = copies.get(&slot) {
            entry.results[i].value = *copy;
            continue;
        }
        let kernel = kernels.intern(copy_of(&ty(entry, kernels, slot)));
        let node = match &entry.results[i].target {
            ResultTarget::Update(name) | ResultTarget::Fetch(name) => name.clone(),
        };
        let (args, nodes, first_result) = (vec![slot], vec![node], Slot(next));
        let (epilogue, only, until, decisions) = (None, None, None, Vec::new());
        let call = Call { kernel, args, first_result, nodes, epilogue, only, until, decisions };
        entry.calls.push(call);
        copies.insert(slot, first_result);
        entry.results[i].value = first_result;
        next += 1;
    }
}

/// Positions of the results that are old values of arguments which get a new one.
fn old_values(entry: &EntryFn, kernels: &Interner) -> Vec<usize> {
    let mut source: HashMap<Slot, usize> =
        (0..entry.args.len()).map(|i| (Slot(i as u32), i)).collect();
    for call in entry.calls.iter().filter(|c| is_alias(kernels.get(c.kernel))) {
        if let Some(arg) = source.get(&call.args[0]) {
            source.insert(call.first_result, *arg);
        }
    }
    let new_value = |arg: usize| {
        let own =
            |t: &ResultTarget| matches!(t, ResultTarget::Update(n) if *n == entry.args[arg].name);
        entry.results.iter().find(|r| own(&r.target))
    };
    let old = |i: &usize| {
        let result = &entry.results[*i];
        let Some(arg) = source.get(&result.value) else { return false };
        let Some(new) = new_value(*arg) else { return false };
        entry.args[*arg].kind != ArgKind::Feed && source.get(&new.value) != Some(arg)
    };
    (0..entry.results.len()).filter(old).collect()
}

/// The first slot that nothing makes.
fn end(entry: &EntryFn, kernels: &Interner) -> u32 {
    let made =
        entry.calls.iter().map(|c| c.first_result.0 + kernels.get(c.kernel).results.len() as u32);
    made.chain([entry.args.len() as u32]).max().unwrap_or(0)
}

fn ty(entry: &EntryFn, kernels: &Interner, slot: Slot) -> Type {
    if let Some(arg) = entry.args.get(slot.0 as usize) {
        return arg.ty.clone();
    }
    let makes = |c: &&Call| {
        let kernel = kernels.get(c.kernel);
        (c.first_result.0..c.first_result.0 + kernel.results.len() as u32).contains(&slot.0)
    };
    let call = entry.calls.iter().find(makes).expect("a result is an argument or made by a call");
    let kernel = kernels.get(call.kernel);
    kernel.ty(kernel.results[(slot.0 - call.first_result.0) as usize]).clone()
}

/// A kernel that gives its parameter as a value of its own.
fn copy_of(ty: &Type) -> Kernel {
    let mut body = Body::default();
    let element = body.arg(0);
    body.results.push(element);
    let dims: Vec<u32> = (0..ty.ndim() as u32).collect();
    let generic = Generic {
        extents: ty.shape.clone(),
        maps: vec![dims.iter().copied().map(Some).collect()],
        out: dims,
        combine: None,
        body,
    };
    let op = KernelOp {
        kind: OpKind::Generic(generic),
        operands: vec![V(0)],
        results: vec![ty.clone()],
    };
    Kernel { name: String::new(), params: vec![ty.clone()], ops: vec![op], results: vec![V(1)] }
}
