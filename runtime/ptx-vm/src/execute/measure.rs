//! Counting what memory requests cost, when a profile is wanted.

use super::engine::Engine;
use super::lanes::{At, lanes};
use super::place::{Place, shared_place};
use super::state::Warp;
use crate::count::{Requests, sectors, wavefronts};
use crate::module::{Address, MatrixOp, Op, Space, WINDOW_BITS, WgmmaOp};

/// Bytes that one wavefront of shared memory serves.
const WAVEFRONT_BYTES: u64 = 128;

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// Notes the requests of an instruction that is about to be executed. Bulk copies note their own.
    pub(super) fn measure(&mut self, warp: &Warp, at: &At, op: &Op) {
        let whole = at.active == u32::MAX;
        match op {
            Op::Load(transfer) | Op::Store(transfer) => {
                let bytes = u64::from(transfer.bytes) * u64::from(transfer.regs.len);
                self.measure_access(warp, at, &transfer.at, bytes);
            }
            Op::Atomic(atomic) => {
                let bytes = u64::from(atomic.bytes) * u64::from(atomic.b.len);
                self.measure_access(warp, at, &atomic.at, bytes);
            }
            Op::CopyAsync(copy) => {
                self.measure_access(warp, at, &copy.from, copy.bytes.into());
                self.measure_access(warp, at, &copy.to, copy.bytes.into());
            }
            Op::Matrix(matrix) if whole => match &**matrix {
                MatrixOp::Load { at: address, d: list, .. }
                | MatrixOp::Store { at: address, a: list, .. } => {
                    // The lanes of the matrices give rows of sixteen bytes.
                    let rows = if list.len >= 4 { u32::MAX } else { (1 << (8 * list.len)) - 1 };
                    let at = At { active: at.active & rows, ..*at };
                    self.measure_access(warp, &at, address, 16);
                }
                _ => {}
            },
            Op::Wgmma(WgmmaOp::Multiply(multiply)) if whole => {
                // B is read once for the four warps, A by each for itself where it lies in memory.
                let b = 32 * multiply.wgmma.columns() as u64 / 4;
                let a = if multiply.a_in_memory() { 16 * 32 } else { 0 };
                let requests = shared_bytes(a + b);
                self.counters.request(at.pc, Space::Shared, &requests);
            }
            _ => {}
        }
    }

    fn measure_access(&mut self, warp: &Warp, at: &At, address: &Address, bytes: u64) {
        if at.active == 0 {
            return;
        }
        let row = warp.row(at, address.base).0;
        let of = |lane: usize| row[lane].wrapping_add(address.offset as u64);
        let space = resolved(address.space, of(at.active.trailing_zeros() as usize & 31));
        let mut requests = Requests {
            requests: 1,
            bytes: bytes * u64::from(at.active.count_ones()),
            ..Requests::default()
        };
        match space {
            Space::Global => {
                requests.sectors = sectors(lanes(at.active).map(of), bytes);
                for lane in lanes(at.active) {
                    if let Some((buffer, offset)) = self.setup.memory.find(of(lane)) {
                        self.touch_buffer(buffer as u32, offset, bytes);
                    }
                }
            }
            Space::Shared | Space::SharedCluster => {
                let own = |lane: usize| u64::from(shared_place(of(lane), warp.cta).1);
                let addresses =
                    std::array::from_fn(|lane| (at.active >> lane & 1 != 0).then(|| own(lane)));
                let (wavefronts, least) = wavefronts(&addresses, bytes);
                (requests.wavefronts, requests.conflicts) = (wavefronts, wavefronts - least);
            }
            _ => {}
        }
        self.counters.request(at.pc, space, &requests);
    }

    /// Notes one end of a bulk copy.
    pub(super) fn measure_bulk(&mut self, at: &At, place: Place, bytes: u64) {
        let (space, requests) = match place {
            Place::Buffer(buffer, offset) => {
                self.touch_buffer(buffer, offset, bytes);
                let sectors = sectors([offset].into_iter(), bytes);
                (Space::Global, Requests { requests: 1, bytes, sectors, ..Requests::default() })
            }
            Place::Shared(..) => (Space::Shared, shared_bytes(bytes)),
            _ => return,
        };
        self.counters.request(at.pc, space, &requests);
    }

    /// Notes touched bytes that lie in the buffer; others are a finding of the access itself.
    fn touch_buffer(&mut self, buffer: u32, offset: u64, bytes: u64) {
        let len = self.setup.memory.buffers[buffer as usize].bytes.len() as u64;
        if offset.checked_add(bytes).is_some_and(|end| end <= len) {
            self.counters.touch(buffer, offset, bytes);
        }
    }
}

/// Contiguous bytes of shared memory.
fn shared_bytes(bytes: u64) -> Requests {
    let wavefronts = bytes.div_ceil(WAVEFRONT_BYTES);
    Requests { requests: 1, bytes, wavefronts, ..Requests::default() }
}

/// The space that a generic address leads to.
fn resolved(space: Space, address: u64) -> Space {
    if space != Space::Generic {
        return space;
    }
    let window = address >> WINDOW_BITS;
    let spaces = [Space::Shared, Space::Local, Space::Const, Space::Param];
    let found = spaces.into_iter().find(|space| space.window() >> WINDOW_BITS == window);
    found.unwrap_or(Space::Global)
}
