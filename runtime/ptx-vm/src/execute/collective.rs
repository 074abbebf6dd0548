//! Instructions in which the lanes of a warp speak to each other.
//!
//! # Invariants
//! - They happen when all named lanes are there: a group waits at the instruction until others join it.

use super::engine::Engine;
use super::lanes::{At, Flow, lanes};
use super::state::{State, Warp};
use crate::check::finding;
use crate::module::{Lanes, Literal, Op, Pred, Reduce, Row, Shuffle, Vote};
use crate::number::single::{self, Extremum};

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// Executes a warp instruction with a member mask, when its members are there.
    pub(super) fn collective(&mut self, warp: &mut Warp, at: &At, op: &Op) -> Flow {
        let Some(members) = members_of(op) else { return Flow::Next };
        // Lanes may name different sets; each set is served by itself.
        let mut left = at.active;
        let named = *warp.row(at, members);
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            let mask = named.0[lane] as u32;
            let same = lanes(left).filter(|lane| named.0[*lane] as u32 == mask);
            let together = same.fold(0, |set, lane| set | 1 << lane);
            left &= !together;
            if let Some(flow) = self.absent(warp, at, together, mask) {
                return flow;
            }
        }
        let mut left = at.active;
        while left != 0 {
            let mask = named.0[left.trailing_zeros() as usize] as u32;
            let together = left & mask;
            left &= !together;
            let at = At { active: together, ..*at };
            self.exchange(warp, &at, op);
            if self.stopped {
                return Flow::Stop;
            }
        }
        Flow::Next
    }

    /// Waits or fails if a member of `mask` is not among the lanes that name it.
    fn absent(&mut self, warp: &Warp, at: &At, together: u32, mask: u32) -> Option<Flow> {
        let outsiders = together & !mask;
        if outsiders != 0 {
            let message =
                format!("executed by lanes {outsiders:#010x}, not in the mask {mask:#010x}");
            self.fail(finding::MEMBERS, (warp, outsiders), at.pc, message);
            return Some(Flow::Stop);
        }
        let gone = mask & warp.born & !warp.live;
        if gone != 0 {
            let message =
                format!("the mask {mask:#010x} names lanes {gone:#010x}, which have exited");
            self.fail(finding::MEMBERS, (warp, together), at.pc, message);
            return Some(Flow::Stop);
        }
        let missing = mask & warp.live & !together;
        if missing == 0 {
            return None;
        }
        // Lanes of the own group whose guard does not hold pass by and cannot come.
        Some(Flow::Wait(State::Converge { missing }))
    }

    fn exchange(&mut self, warp: &mut Warp, at: &At, op: &Op) {
        match op {
            Op::Shuffle { how, d, p, a, b, c, .. } => {
                self.shuffle(warp, at, *how, (*d, *p), (*a, *b, *c));
            }
            Op::VotePred { how, d, a, .. } => vote(warp, at, *how, *d, *a),
            Op::Ballot { d, a, .. } => {
                let bits = warp.holds(at, *a) & at.active;
                warp.write(at, *d, &Lanes([bits.into(); 32]));
            }
            Op::MatchAny { d, a, .. } => {
                let row = *warp.row(at, *a);
                let out = std::array::from_fn(|lane| equal_lanes(&row, at.active, lane).into());
                warp.write(at, *d, &Lanes(out));
            }
            Op::MatchAll { d, p, a, .. } => {
                let row = *warp.row(at, *a);
                let first = at.active.trailing_zeros() as usize & 31;
                let all = equal_lanes(&row, at.active, first) == at.active;
                let bits = if all { at.active } else { 0 };
                warp.write(at, *d, &Lanes([bits.into(); 32]));
                warp.write_pred(at, *p, bits);
            }
            Op::Reduce { how, d, a, .. } => {
                let row = warp.row(at, *a);
                let values = lanes(at.active).map(|lane| row.0[lane] as u32);
                let found = values.reduce(|a, b| reduce(*how, a, b)).unwrap_or(0);
                warp.write(at, *d, &Lanes([found.into(); 32]));
            }
            Op::Elect { d, p, .. } => {
                let leader = at.active.trailing_zeros() & 31;
                warp.write(at, *d, &Lanes([leader.into(); 32]));
                warp.write_pred(at, *p, 1 << leader);
            }
            Op::BarWarp { .. } if CHECK => self.checker.warp_barrier(warp, at.active),
            _ => {}
        }
    }

    fn shuffle(
        &mut self,
        warp: &mut Warp,
        at: &At,
        how: Shuffle,
        (d, p): (Row, Pred),
        (a, b, c): (Row, Row, Row),
    ) {
        let (value, by, clamp) = (*warp.row(at, a), *warp.row(at, b), *warp.row(at, c));
        let mut out = Lanes::ZERO;
        let mut within = 0;
        for lane in lanes(at.active) {
            let (source, valid) = source_lane(how, lane as u32, by.0[lane], clamp.0[lane]);
            if at.active >> source & 1 == 0 {
                let message = format!("lane {lane} reads lane {source}, which does not take part");
                self.fail(finding::MEMBERS, (warp, 1 << lane), at.pc, message);
                return;
            }
            out.0[lane] = value.0[source as usize];
            within |= u32::from(valid) << lane;
        }
        warp.write(at, d, &out);
        warp.write_pred(at, p, within);
    }
}

/// Where a lane reads in a shuffle, and whether that is another place than itself by right
/// (PTX ISA, `shfl.sync`).
fn source_lane(how: Shuffle, lane: u32, b: u64, c: u64) -> (u32, bool) {
    let (b, clamp, segment) = (b as u32 & 31, c as u32 & 31, c as u32 >> 8 & 31);
    let highest = (lane & segment) | (clamp & !segment);
    let lowest = lane & segment;
    let (source, valid) = match how {
        Shuffle::Up => (lane.wrapping_sub(b), lane as i32 - b as i32 >= highest as i32),
        Shuffle::Down => (lane + b, lane + b <= highest),
        Shuffle::Butterfly => (lane ^ b, lane ^ b <= highest),
        Shuffle::Index => {
            let source = lowest | (b & !segment);
            (source, source <= highest)
        }
    };
    (if valid { source & 31 } else { lane }, valid)
}

fn members_of(op: &Op) -> Option<Row> {
    match op {
        Op::Shuffle { members, .. }
        | Op::VotePred { members, .. }
        | Op::Ballot { members, .. }
        | Op::MatchAny { members, .. }
        | Op::MatchAll { members, .. }
        | Op::Reduce { members, .. }
        | Op::Elect { members, .. }
        | Op::BarWarp { members } => Some(*members),
        _ => None,
    }
}

fn equal_lanes(row: &Lanes, among: u32, lane: usize) -> u32 {
    let same = lanes(among).filter(|other| row.0[*other] == row.0[lane]);
    same.fold(0, |set, lane| set | 1 << lane)
}

fn vote(warp: &mut Warp, at: &At, how: Vote, d: Pred, a: Literal) {
    let bits = warp.holds(at, a) & at.active;
    let holds = match how {
        Vote::All => bits == at.active,
        Vote::Any => bits != 0,
        Vote::Uniform => bits == at.active || bits == 0,
        Vote::Ballot => false,
    };
    warp.write_pred(at, d, if holds { u32::MAX } else { 0 });
}

fn reduce(how: Reduce, a: u32, b: u32) -> u32 {
    let floats = |abs: bool, nan: bool, f: fn(u32, u32, Extremum) -> u32| {
        let magnitude = if abs { 0x7fff_ffff } else { u32::MAX };
        f(a & magnitude, b & magnitude, Extremum { nan, ..Extremum::default() })
    };
    match how {
        Reduce::Add => a.wrapping_add(b),
        Reduce::MinU => a.min(b),
        Reduce::MaxU => a.max(b),
        Reduce::MinS => (a as i32).min(b as i32) as u32,
        Reduce::MaxS => (a as i32).max(b as i32) as u32,
        Reduce::And => a & b,
        Reduce::Or => a | b,
        Reduce::Xor => a ^ b,
        Reduce::MinF { abs, nan } => floats(abs, nan, single::min),
        Reduce::MaxF { abs, nan } => floats(abs, nan, single::max),
    }
}
