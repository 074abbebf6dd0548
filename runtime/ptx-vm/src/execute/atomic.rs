//! Atomic read-modify-writes.

use super::engine::Engine;
use super::lanes::{At, Flow, lanes};
use super::place::{Fault, Place, Touch, little_endian, put};
use super::state::Warp;
use crate::check::{Access, finding};
use crate::module::Atomic;

/// Elements of a vector at most.
const MAX_VECTOR: usize = 8;

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// Lanes go one after the other, lowest first.
    pub(super) fn atomic(&mut self, warp: &mut Warp, at: &At, atomic: &Atomic) -> Flow {
        let setup = self.setup;
        let (dst, b) = (setup.module.list(atomic.dst), setup.module.list(atomic.b));
        let bytes = usize::from(atomic.bytes);
        let total = (bytes * b.len()) as u64;
        for lane in lanes(at.active) {
            let address = self.address(warp, at, &atomic.at, lane);
            let place = match self.locate(warp, lane, (atomic.at.space, address), total) {
                Ok(place) => place,
                Err(fault) => return self.fault(warp, at, lane, fault),
            };
            if CHECK {
                let order = (atomic.order, atomic.scope);
                self.touch(warp, at, lane, Access::of(place, total, Touch::Atomic, order));
            }
            // A destination may be an operand of a later element.
            let mut operands = [0; MAX_VECTOR];
            for (operand, b) in operands.iter_mut().zip(b) {
                *operand = warp.row(at, *b).0[lane];
            }
            let c = warp.row(at, atomic.c).0[lane];
            for (index, operand) in operands.iter().enumerate().take(b.len()) {
                let place = place.behind((index * bytes) as u64);
                let Some(old) = self.update(place, atomic, (*operand, c)) else {
                    let message = "this memory takes no atomics".to_owned();
                    return self.fault(warp, at, lane, Fault { code: finding::ADDRESS, message });
                };
                if let Some(d) = dst.get(index) {
                    warp.rows[at.rows + *d as usize].0[lane] = old;
                }
            }
        }
        Flow::Next
    }

    /// Replaces a value and gives the old one.
    fn update(&mut self, place: Place, atomic: &Atomic, (b, c): (u64, u64)) -> Option<u64> {
        let bytes = usize::from(atomic.bytes);
        match place {
            Place::Buffer(index, offset) => {
                let buffer = &self.setup.memory.buffers[index as usize].bytes;
                let f = atomic.on_global.as_ref().unwrap_or(&atomic.f);
                buffer.update(offset as usize, bytes, |old| f(old, b, c))
            }
            Place::Shared(rank, offset) => {
                let shared = &mut self.ctas[rank as usize].shared;
                let old = little_endian(shared, offset as usize, bytes);
                put(shared, offset as usize, bytes, (atomic.f)(old, b, c));
                Some(old)
            }
            Place::Local(_) | Place::Const(_) | Place::Param(_) => None,
        }
    }
}
