//! One instruction for the active lanes of a group.

use super::engine::Engine;
use super::lanes::{At, Flow, lanes};
use super::place::shared_place;
use super::state::Warp;
use crate::check::finding;
use crate::module::{
    Carry, Lanes, List, Literal, Logic, Op, Row, SHARED_RANK_SHIFT, SetPredHalves, Space, Ticking,
    WINDOW_BITS,
};

impl Warp {
    /// `bits` combined with another predicate.
    fn combine(&self, at: &At, bits: u32, with: Option<(Logic, Literal)>) -> u32 {
        with.map_or(bits, |(logic, literal)| apply(logic, bits, self.holds(at, literal)))
    }
}

fn apply(logic: Logic, a: u32, b: u32) -> u32 {
    match logic {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// Executes an instruction for at least one active lane.
    pub(super) fn execute(&mut self, warp: &mut Warp, at: &At, op: &Op) -> Flow {
        match op {
            Op::Nop => Flow::Next,
            Op::Mov { d, a } => {
                let value = *warp.row(at, *a);
                warp.write(at, *d, &value);
                Flow::Next
            }
            Op::Map1 { f, d, a } => {
                let mut out = Lanes::ZERO;
                f(warp.row(at, *a), &mut out);
                warp.write(at, *d, &out);
                Flow::Next
            }
            Op::Map2 { f, d, a, b } => {
                let mut out = Lanes::ZERO;
                f(warp.row(at, *a), warp.row(at, *b), &mut out);
                warp.write(at, *d, &out);
                Flow::Next
            }
            Op::Map3 { f, d, a, b, c } => {
                let mut out = Lanes::ZERO;
                f(warp.row(at, *a), warp.row(at, *b), warp.row(at, *c), &mut out);
                warp.write(at, *d, &out);
                Flow::Next
            }
            Op::Map4 { f, d, args } => {
                let rows = args.map(|row| warp.row(at, row));
                let out = Lanes(std::array::from_fn(|lane| f(rows.map(|row| row.0[lane]))));
                warp.write(at, *d, &out);
                Flow::Next
            }
            Op::SetPred { f, p, q, a, b, with } => {
                let test = f(warp.row(at, *a), warp.row(at, *b));
                let (yes, no) = (warp.combine(at, test, *with), warp.combine(at, !test, *with));
                warp.write_pred(at, *p, yes);
                warp.write_pred(at, *q, no);
                Flow::Next
            }
            Op::Select { d, a, b, p } => {
                select(warp, at, (*d, *a, *b), *p);
                Flow::Next
            }
            Op::Load(transfer) => self.load(warp, at, transfer),
            Op::Store(transfer) => self.store(warp, at, transfer),
            Op::Branch { target } => Flow::Jump(*target),
            _ => self.execute_rare(warp, at, op),
        }
    }

    /// The instructions that are not the bulk of a kernel.
    #[inline(never)]
    fn execute_rare(&mut self, warp: &mut Warp, at: &At, op: &Op) -> Flow {
        match op {
            Op::Carry(carry) => with_carry(warp, at, carry),
            Op::Pack { d, parts, bits } => self.pack(warp, at, *d, (*parts, *bits)),
            Op::Unpack { a, parts, bits } => self.unpack(warp, at, *a, (*parts, *bits)),
            Op::SetPredHalves(halves) => set_halves(warp, at, halves),
            Op::Set { f, d, a, b, if_true, with } => {
                let test = f(warp.row(at, *a), warp.row(at, *b));
                let test = warp.combine(at, test, *with);
                let out = Lanes(std::array::from_fn(|lane| if_true * u64::from(test >> lane & 1)));
                warp.write(at, *d, &out);
            }
            Op::PredLogic { how, d, a, b } => {
                let bits = apply(*how, warp.holds(at, *a), warp.holds(at, *b));
                warp.write_pred(at, *d, bits);
            }
            Op::PredMove { d, a } => {
                let bits = warp.holds(at, *a);
                warp.write_pred(at, *d, bits);
            }
            Op::Ticking { d, which } => self.tick(warp, at, *d, *which),
            Op::ToGeneric { d, a, space } => {
                let window = space.window();
                let out = Lanes(warp.row(at, *a).0.map(|address| address.wrapping_add(window)));
                warp.write(at, *d, &out);
            }
            Op::FromGeneric { d, a, space } => {
                let window = space.window();
                let out = Lanes(warp.row(at, *a).0.map(|address| address.wrapping_sub(window)));
                warp.write(at, *d, &out);
            }
            Op::IsSpace { p, a, space } => {
                let own = warp.cta;
                let is = |address: u64| u32::from(is_space(address, *space, own));
                let row = warp.row(at, *a);
                let bits = (0..32).fold(0, |bits, lane| bits | is(row.0[lane]) << lane);
                warp.write_pred(at, *p, bits);
            }
            Op::MapShared { d, a, rank, generic } => {
                return self.map_shared(warp, at, (*d, *a, *rank), *generic);
            }
            Op::SharedRank { d, a } => {
                let own = warp.cta;
                let out = warp.row(at, *a).0.map(|address| shared_place(address, own).0.into());
                warp.write(at, *d, &Lanes(out));
            }
            _ => return self.execute_shared(warp, at, op),
        }
        Flow::Next
    }

    /// What touches more than the lane's own registers.
    fn execute_shared(&mut self, warp: &mut Warp, at: &At, op: &Op) -> Flow {
        match op {
            Op::Atomic(atomic) => self.atomic(warp, at, atomic),
            Op::CopyAsync(copy) => self.copy_async(warp, at, copy),
            Op::CopyCommit => self.copy_commit(warp, at),
            Op::CopyWait { pending } => self.copy_wait(warp, at, *pending),
            Op::Fence(order, scope) => {
                if CHECK {
                    self.checker.fence(warp, at.active, *order, *scope);
                }
                Flow::Next
            }
            Op::Shuffle { .. }
            | Op::VotePred { .. }
            | Op::Ballot { .. }
            | Op::MatchAny { .. }
            | Op::MatchAll { .. }
            | Op::Reduce { .. }
            | Op::Elect { .. }
            | Op::BarWarp { .. } => self.collective(warp, at, op),
            Op::ActiveMask { d } => {
                warp.write(at, *d, &Lanes([at.active.into(); 32]));
                Flow::Next
            }
            Op::Bar { .. } => self.bar(warp, at, op),
            Op::ClusterArrive { release, aligned } => {
                self.cluster_arrive(warp, at, (*release, *aligned))
            }
            Op::Matrix(op) => self.matrix(warp, at, op),
            Op::Wgmma(op) => self.wgmma(warp, at, op),
            Op::Mbarrier(op) => self.mbarrier(warp, at, op),
            Op::Bulk(op) => self.bulk(warp, at, op),
            Op::FenceProxy(fence) => {
                if CHECK {
                    self.checker.fence_proxy(warp, at.active, *fence);
                }
                Flow::Next
            }
            Op::ClusterWait { aligned } => self.cluster_wait(warp, at, *aligned),
            Op::BranchIndex { index, targets } => self.branch_index(warp, at, *index, *targets),
            Op::Call(call) => self.call(warp, at, call),
            Op::Return => self.return_lanes(warp, at),
            Op::Exit => {
                self.exit_lanes(warp, at.active);
                self.go_on(warp, at)
            }
            Op::Trap => {
                self.fail(finding::TRAP, (warp, at.active), at.pc, "a trap".to_owned());
                Flow::Stop
            }
            Op::Yield => Flow::Pause,
            _ => Flow::Next,
        }
    }

    fn pack(&mut self, warp: &mut Warp, at: &At, d: Row, (parts, bits): (List, u8)) {
        let mut out = Lanes::ZERO;
        for (index, part) in self.setup.module.list(parts).iter().enumerate() {
            let from = warp.row(at, *part);
            let shift = index as u32 * u32::from(bits);
            for lane in 0..32 {
                out.0[lane] |= from.0[lane] << shift;
            }
        }
        warp.write(at, d, &out);
    }

    fn unpack(&mut self, warp: &mut Warp, at: &At, a: Row, (parts, bits): (List, u8)) {
        let from = *warp.row(at, a);
        let mask = u64::MAX >> (64 - u32::from(bits));
        let setup = self.setup;
        for (index, part) in setup.module.list(parts).iter().enumerate() {
            let shift = index as u32 * u32::from(bits);
            warp.write(at, *part, &Lanes(from.0.map(|value| value >> shift & mask)));
        }
    }

    /// A clock that counts the instructions of the cluster.
    fn tick(&mut self, warp: &mut Warp, at: &At, d: Row, which: Ticking) {
        let now = self.counters.executed();
        let value = match which {
            Ticking::Clock => now & 0xffff_ffff,
            Ticking::ClockHigh => now >> 32,
            Ticking::Clock64 => now,
        };
        warp.write(at, d, &Lanes([value; 32]));
    }

    fn map_shared(
        &mut self,
        warp: &mut Warp,
        at: &At,
        (d, a, rank): (Row, Row, Row),
        generic: bool,
    ) -> Flow {
        let ranks = self.ctas.len() as u64;
        let wrong = lanes(at.active).find(|lane| warp.row(at, rank).0[*lane] >= ranks);
        if let Some(lane) = wrong {
            let message =
                format!("the cluster has {ranks} CTAs, no CTA {}", warp.row(at, rank).0[lane]);
            self.fail(finding::ADDRESS, (warp, 1 << lane), at.pc, message);
            return Flow::Stop;
        }
        let (from, ranks) = (warp.row(at, a).0, warp.row(at, rank).0);
        let window = if generic { Space::Shared.window() } else { 0 };
        let out = std::array::from_fn(|lane| {
            let offset = from[lane] & ((1 << SHARED_RANK_SHIFT) - 1);
            window + ((ranks[lane] + 1) << SHARED_RANK_SHIFT | offset)
        });
        warp.write(at, d, &Lanes(out));
        Flow::Next
    }
}

fn is_space(address: u64, space: Space, own: u32) -> bool {
    let window = address >> WINDOW_BITS;
    let of = |space: Space| space.window() >> WINDOW_BITS;
    match space {
        Space::Generic => false,
        Space::Global => window >= crate::module::FIRST_BUFFER_WINDOW,
        Space::Shared => window == of(space) && shared_place(address, own).0 == own,
        _ => window == of(space),
    }
}

fn select(warp: &mut Warp, at: &At, (d, a, b): (Row, Row, Row), p: Literal) {
    let bits = warp.holds(at, p);
    let (a, b) = (warp.row(at, a), warp.row(at, b));
    let mut out = Lanes::ZERO;
    for lane in 0..32 {
        out.0[lane] = if bits >> lane & 1 != 0 { a.0[lane] } else { b.0[lane] };
    }
    warp.write(at, d, &out);
}

fn with_carry(warp: &mut Warp, at: &At, carry: &Carry) {
    let rows = carry.args.map(|row| *warp.row(at, row));
    let mut out = Lanes::ZERO;
    let mut flags = warp.carry;
    for lane in lanes(at.active) {
        let [a, b, c] = rows.map(|row| row.0[lane]);
        let (value, flag) = (carry.f)(a, b, c, flags >> lane & 1 != 0);
        out.0[lane] = value;
        flags = (flags & !(1 << lane)) | u32::from(flag) << lane;
    }
    if carry.writes_carry {
        warp.carry = flags;
    }
    warp.write(at, carry.d, &out);
}

fn set_halves(warp: &mut Warp, at: &At, halves: &SetPredHalves) {
    let (a, b) = (warp.row(at, halves.args[0]), warp.row(at, halves.args[1]));
    let bits = [(halves.tests[0])(a, b), (halves.tests[1])(a, b)];
    for (bits, pred) in bits.into_iter().zip(halves.preds) {
        let bits = warp.combine(at, bits, halves.with);
        warp.write_pred(at, pred, bits);
    }
}
