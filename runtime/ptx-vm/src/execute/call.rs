//! Calls, returns, exits and indexed branches.

use super::engine::Engine;
use super::lanes::{At, Flow, lanes};
use super::setup::MAX_CLUSTER_BYTES;
use super::state::{Frame, State, Warp};
use crate::check::finding;
use crate::module::{Call, FUNCTION_WINDOW, List, Op, Place, Row, Target, same_places};

/// Calls inside calls at most.
const MAX_DEPTH: usize = 256;
/// Local memory of a thread at most, in bytes, as on hardware.
const MAX_LOCAL_BYTES: u32 = 512 << 10;
/// Rows of a warp at most.
const MAX_ROWS: u32 = 1 << 16;

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// Lanes that go to different functions call one after the other, as groups.
    pub(super) fn call(&mut self, warp: &mut Warp, at: &At, call: &Call) -> Flow {
        let target = match call.target {
            Target::Function(index) => Ok((index, at.active)),
            Target::Pointer(row) => self.pointed_function(warp, at, row),
        };
        let (index, mask) = match target {
            Ok(found) => found,
            Err(message) => {
                self.fail(finding::ADDRESS, (warp, at.active), at.pc, message);
                return Flow::Stop;
            }
        };
        let module = self.setup.module;
        let callee = &module.functions[index as usize];
        let fits = callee.has_body
            && same_places(&call.args, &callee.params)
            && same_places(&call.returns, &callee.returns);
        if !fits {
            let message = format!("`{}` cannot be called with these parameters", callee.name);
            self.fail(finding::ADDRESS, (warp, mask), at.pc, message);
            return Flow::Stop;
        }
        let caller = warp.groups[at.group].frame();
        let function = &module.functions[caller.function as usize];
        let frame = Frame {
            function: index,
            return_to: at.pc + 1,
            rows: caller.rows + function.rows(),
            preds: caller.preds + function.preds,
            // Frames begin at a multiple of the largest alignment of a variable that is common.
            local: (caller.local + function.frame_bytes).next_multiple_of(16),
        };
        let depth = warp.groups[at.group].frames.len();
        let bytes = frame.local + callee.frame_bytes;
        if depth >= MAX_DEPTH || bytes > MAX_LOCAL_BYTES || frame.rows + callee.rows() > MAX_ROWS {
            let message = format!("{depth} calls inside each other are too deep");
            self.fail(finding::STEPS, (warp, mask), at.pc, message);
            return Flow::Stop;
        }
        let cta = self.ctas.get(warp.cta as usize).map_or([0; 3], |cta| cta.id);
        self.enter_frame(warp, frame, mask, cta);
        if self.thread_bytes > MAX_CLUSTER_BYTES {
            let message = format!("calls take more than {MAX_CLUSTER_BYTES} bytes");
            self.fail(finding::STEPS, (warp, mask), at.pc, message);
            return Flow::Stop;
        }
        for (from, to) in call.args.iter().zip(&callee.params) {
            self.pass(warp, mask, (caller, *from), (frame, *to));
        }
        let group = if mask == at.mask {
            at.group
        } else {
            // Who does not call goes on behind; who calls another function comes back here.
            let elsewhere = at.active & !mask;
            if elsewhere != 0 {
                warp.split(at.group, elsewhere, at.pc);
            }
            warp.groups[at.group].pc = at.pc + 1;
            warp.split(at.group, mask, at.pc)
        };
        warp.groups[group].pc = callee.first;
        warp.groups[group].frames.push(frame);
        warp.drop_empty();
        Flow::Changed
    }

    /// The function of the first active lane, and the lanes that call the same.
    fn pointed_function(&self, warp: &Warp, at: &At, row: Row) -> Result<(u32, u32), String> {
        let address = warp.first(at, row);
        let index = address.wrapping_sub(FUNCTION_WINDOW) / 16;
        let known = index < self.setup.module.functions.len() as u64;
        if address < FUNCTION_WINDOW || !address.is_multiple_of(16) || !known {
            return Err(format!("no function lies at {address:#x}"));
        }
        let same = |lane: &usize| warp.row(at, row).0[*lane] == address;
        let mask = lanes(at.active).filter(same).fold(0, |mask, lane| mask | 1 << lane);
        Ok((index as u32, mask))
    }

    /// Copies an argument between frames.
    fn pass(&mut self, warp: &mut Warp, mask: u32, from: (Frame, Place), to: (Frame, Place)) {
        match (from.1, to.1) {
            (Place::Row(a), Place::Row(b)) => {
                let (a, b) = ((from.0.rows + a) as usize, (to.0.rows + b) as usize);
                for lane in lanes(mask) {
                    warp.rows[b].0[lane] = warp.rows[a].0[lane];
                }
                if CHECK {
                    warp.row_known[b] |= mask;
                }
            }
            (Place::Pred(a), Place::Pred(b)) => {
                let bits = warp.preds[(from.0.preds + a) as usize];
                let b = (to.0.preds + b) as usize;
                warp.preds[b] = (warp.preds[b] & !mask) | (bits & mask);
                if CHECK {
                    warp.pred_known[b] |= mask;
                }
            }
            (Place::Bytes { offset: a, bytes }, Place::Bytes { offset: b, .. }) => {
                let (a, b) = ((from.0.local + a) as usize, (to.0.local + b) as usize);
                for lane in lanes(mask) {
                    warp.local[lane].copy_within(a..a + bytes as usize, b);
                    if CHECK {
                        self.checker.copy_local(warp, lane, (a, b), bytes as usize);
                    }
                }
            }
            _ => {}
        }
    }

    /// Active lanes go back to their caller, or end.
    pub(super) fn return_lanes(&mut self, warp: &mut Warp, at: &At) -> Flow {
        let frame = warp.groups[at.group].frame();
        if warp.groups[at.group].frames.len() == 1 {
            self.exit_lanes(warp, at.active);
            return self.go_on(warp, at);
        }
        let module = self.setup.module;
        let caller = warp.groups[at.group].frames[warp.groups[at.group].frames.len() - 2];
        let call = &module.code[frame.return_to as usize - 1].op;
        if let Op::Call(call) = call {
            let returns = &module.functions[frame.function as usize].returns;
            for (to, from) in call.returns.iter().zip(returns) {
                self.pass(warp, at.active, (frame, *from), (caller, *to));
            }
        }
        let group = if at.active == at.mask {
            at.group
        } else {
            warp.groups[at.group].pc = at.pc + 1;
            warp.split(at.group, at.active, at.pc)
        };
        warp.groups[group].frames.pop();
        warp.groups[group].pc = frame.return_to;
        Flow::Changed
    }

    /// After lanes left a group: the others go on behind the instruction.
    pub(super) fn go_on(&mut self, warp: &mut Warp, at: &At) -> Flow {
        if let Some(group) = warp.groups.get_mut(at.group) {
            group.pc = at.pc + 1;
        }
        warp.drop_empty();
        Flow::Changed
    }

    /// Ends threads; whoever waits for them looks again.
    pub(super) fn exit_lanes(&mut self, warp: &mut Warp, mask: u32) {
        warp.live &= !mask;
        self.something_moved();
        if let Some(cta) = self.ctas.get_mut(warp.cta as usize) {
            cta.live[warp.index as usize] = warp.live;
        }
        let mut awaited = None;
        for group in &mut warp.groups {
            group.mask &= !mask;
            if let State::Converge { missing } = group.state {
                group.state = State::Ready;
                if missing & mask != 0 {
                    awaited = Some((group.pc, group.mask));
                }
            }
        }
        if let Some((pc, waiting)) = awaited {
            self.awaited_exit(warp, pc, waiting);
        }
    }

    /// `brx.idx`: a group for each target that lanes go to.
    pub(super) fn branch_index(
        &mut self,
        warp: &mut Warp,
        at: &At,
        index: Row,
        targets: List,
    ) -> Flow {
        let targets = self.setup.module.list(targets);
        let mut left = at.active;
        warp.groups[at.group].pc = at.pc + 1;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            let wanted = warp.row(at, index).0[lane];
            let Some(target) = targets.get(wanted as usize).copied() else {
                let message = format!("index {wanted} into {} targets", targets.len());
                self.fail(finding::ADDRESS, (warp, 1 << lane), at.pc, message);
                return Flow::Stop;
            };
            let same = |lane: &usize| warp.row(at, index).0[*lane] == wanted;
            let mask = lanes(left).filter(same).fold(0, |mask, lane| mask | 1 << lane);
            left &= !mask;
            warp.split(at.group, mask, target);
        }
        warp.drop_empty();
        Flow::Changed
    }
}
