//! Loads and stores of kernel arguments: flat, one dimension, storage types.
//!
//! # Invariants
//! - Truth values are bytes in memory; bf16 and f16 widen to f32 on the way in.

use super::emit::{Elem, Emitter, Ty, Val};
use super::index::Lin;
use crate::scalar::Cmp;
use crate::types::{DType, Type};

/// An argument's memory.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    name: Val,
    dtype: DType,
    elems: u64,
}

impl Slot {
    /// The memory behind an argument of a type.
    pub(crate) fn new(name: Val, ty: &Type) -> Slot {
        Slot { name, dtype: ty.dtype, elems: ty.elems() }
    }

    /// Its MLIR type.
    pub(crate) fn memref(&self) -> String {
        memref(self.dtype, self.elems)
    }
}

/// The flat memory type of a tensor.
pub(crate) fn memref(dtype: DType, elems: u64) -> String {
    format!("memref<{elems}x{}>", Elem::storage(dtype).name())
}

/// Loads `lanes` neighbouring elements from a position.
pub(crate) fn load(e: &mut Emitter, slot: Slot, at: &Lin, lanes: u32) -> Val {
    let align = aligned(e, slot, at, lanes);
    let index = e.index_value(at, 0);
    load_at(e, slot, index, lanes, align)
}

/// Loads the element of one lane.
pub(crate) fn load_lane(e: &mut Emitter, slot: Slot, at: &Lin, lane: u32) -> Val {
    let index = e.index_value(at, lane);
    load_at(e, slot, index, 1, false)
}

fn load_at(e: &mut Emitter, slot: Slot, index: Val, lanes: u32, align: bool) -> Val {
    let ty = Ty { elem: Elem::storage(slot.dtype), lanes };
    let (name, memref) = (slot.name, slot.memref());
    let text = match lanes {
        1 => format!("memref.load {name}[{index}] : {memref}"),
        _ => format!("vector.load {name}[{index}]{} : {memref}, {ty}", alignment(slot, align)),
    };
    let raw = e.op(ty, &[index], text);
    match slot.dtype {
        DType::bf16 | DType::f16 => e.convert("arith.extf", raw, Elem::F32),
        DType::i1 => {
            let zero = e.int(0, ty);
            e.compare(Cmp::Ne, raw, zero)
        }
        DType::f64 | DType::f32 | DType::i32 => raw,
    }
}

/// Stores a value: neighbouring elements if it has lanes.
pub(crate) fn store(e: &mut Emitter, slot: Slot, at: &Lin, val: Val) {
    let stride = at.lane_stride(&e.vars);
    if val.ty.lanes == 1 || stride == Some(1) && slot.dtype != DType::i1 {
        let align = aligned(e, slot, at, val.ty.lanes);
        let index = e.index_value(at, 0);
        store_at(e, slot, index, val, align);
        return;
    }
    for k in 0..val.ty.lanes {
        let (index, lane) = (e.index_value(at, k), e.lane(val, k));
        store_at(e, slot, index, lane, false);
    }
}

fn store_at(e: &mut Emitter, slot: Slot, index: Val, val: Val, align: bool) {
    let raw = match slot.dtype {
        DType::bf16 | DType::f16 => e.convert("arith.truncf", val, Elem::storage(slot.dtype)),
        DType::i1 => e.convert("arith.extui", val, Elem::I8),
        DType::f64 | DType::f32 | DType::i32 => val,
    };
    let (name, memref) = (slot.name, slot.memref());
    let text = match raw.ty.lanes {
        1 => format!("memref.store {raw}, {name}[{index}] : {memref}"),
        _ => {
            format!(
                "vector.store {raw}, {name}[{index}]{} : {memref}, {}",
                alignment(slot, align),
                raw.ty
            )
        }
    };
    e.effect(&text);
}

fn aligned(e: &Emitter, _slot: Slot, at: &Lin, lanes: u32) -> bool {
    lanes > 1 && at.multiple_of(i64::from(lanes), &e.vars)
}

fn alignment(slot: Slot, align: bool) -> String {
    match align {
        true => format!(" {{alignment = {} : i64}}", 4 * slot.dtype.bytes()),
        false => String::new(),
    }
}
