//! A warp's turn: choosing a group, running it, splitting and joining groups.

use super::engine::Engine;
use super::lanes::{At, Flow};
use super::state::{Group, State, Warp};
use crate::module::Op;

impl Warp {
    /// Joins groups that stand at the same place.
    fn join(&mut self) {
        let may =
            |state: State| matches!(state, State::Ready | State::Yielded | State::Converge { .. });
        let mut first = 0;
        while first < self.groups.len() {
            let mut second = first + 1;
            while second < self.groups.len() {
                let (a, b) = (&self.groups[first], &self.groups[second]);
                if may(a.state) && may(b.state) && a.is_at_same_place(b) {
                    let yielded = a.state == State::Yielded && b.state == State::Yielded;
                    let mask = b.mask;
                    self.groups[first].mask |= mask;
                    self.groups[first].state = if yielded { State::Yielded } else { State::Ready };
                    self.groups.swap_remove(second);
                } else {
                    second += 1;
                }
            }
            first += 1;
        }
    }

    /// The group to run: the deepest call first, then the lowest instruction.
    fn choose(&mut self) -> Option<usize> {
        if self.groups.len() > 1 {
            self.join();
        }
        let ready = self.groups.iter().enumerate().filter(|(_, g)| g.state == State::Ready);
        ready.min_by_key(|(_, g)| (usize::MAX - g.frames.len(), g.pc)).map(|(index, _)| index)
    }

    /// The instruction at which `group` should let others catch up.
    fn meeting_point(&self, group: usize) -> u32 {
        let depth = self.groups[group].frames.len();
        let others = self.groups.iter().enumerate().filter(|(index, other)| {
            let waits = matches!(other.state, State::Ready | State::Converge { .. });
            *index != group && waits && other.frames.len() == depth
        });
        others.map(|(_, other)| other.pc).min().unwrap_or(u32::MAX)
    }
}

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// Runs a warp until all of its groups wait or `budget` instructions are spent.
    pub(super) fn run_warp(&mut self, warp: &mut Warp, budget: u64) {
        let mut left = budget;
        if !warp.groups.iter().any(|group| group.state == State::Ready) {
            for group in warp.groups.iter_mut().filter(|g| g.state == State::Yielded) {
                group.state = State::Ready;
            }
        }
        while left > 0 && !self.stopped {
            let Some(group) = warp.choose() else { break };
            self.run_group(warp, group, &mut left);
        }
        if left == 0 {
            // Who ran out goes behind the others of the warp.
            let mut ready: Vec<&mut Group> =
                warp.groups.iter_mut().filter(|g| g.state == State::Ready).collect();
            if ready.len() > 1 {
                ready.sort_by_key(|g| (usize::MAX - g.frames.len(), g.pc));
                ready[0].state = State::Yielded;
            }
        }
        self.steps += budget - left;
    }

    fn run_group(&mut self, warp: &mut Warp, group: usize, left: &mut u64) {
        let code = &self.setup.module.code;
        let limit = if warp.groups.len() > 1 { warp.meeting_point(group) } else { u32::MAX };
        let frame = warp.groups[group].frame();
        let mut at = At {
            pc: warp.groups[group].pc,
            active: 0,
            mask: warp.groups[group].mask,
            rows: frame.rows as usize,
            preds: frame.preds as usize,
            group,
        };
        loop {
            if *left == 0 {
                break;
            }
            *left -= 1;
            let inst = &code[at.pc as usize];
            at.active = match inst.guard {
                None => at.mask,
                Some(literal) => at.mask & warp.holds(&at, literal),
            };
            self.counters.count(at.pc, at.active);
            if CHECK {
                self.check_read_registers(warp, &at);
                if self.multiplies {
                    self.check_products(warp, &at);
                }
            }
            if self.setup.options.profile {
                self.measure(warp, &at, &inst.op);
            }
            let flow = if at.active == 0 { Flow::Next } else { self.execute(warp, &at, &inst.op) };
            match flow {
                Flow::Next => at.pc += 1,
                Flow::Jump(target) if at.active == at.mask => at.pc = target,
                Flow::Jump(target) => {
                    warp.groups[group].pc = at.pc + 1;
                    let taken = warp.split(group, at.active, target);
                    self.exit_at_once(warp, &[group, taken]);
                    self.last_pc = at.pc;
                    return;
                }
                Flow::Changed => {
                    self.last_pc = at.pc;
                    return;
                }
                Flow::Wait(state) => {
                    self.counters.uncount(at.pc, at.active);
                    warp.groups[group].state = state;
                    break;
                }
                Flow::Pause => {
                    at.pc += 1;
                    warp.groups[group].state = State::Yielded;
                    break;
                }
                Flow::Stop => {
                    self.stopped = true;
                    break;
                }
            }
            if at.pc >= limit {
                break;
            }
        }
        self.last_pc = at.pc;
        warp.groups[group].pc = at.pc;
    }

    /// Lanes that came to the end of the kernel leave before others wait for them at a barrier.
    fn exit_at_once(&mut self, warp: &mut Warp, groups: &[usize]) {
        for group in groups {
            let group = &warp.groups[*group];
            let inst = &self.setup.module.code[group.pc as usize];
            let ends = matches!(inst.op, Op::Return | Op::Exit) && inst.guard.is_none();
            if ends && group.frames.len() == 1 {
                let (mask, pc) = (group.mask, group.pc);
                self.counters.count(pc, mask);
                self.exit_lanes(warp, mask);
            }
        }
        warp.drop_empty();
    }
}
