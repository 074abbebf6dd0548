//! When nobody can go on: who waits for what.

use super::barrier::is_barrier;
use super::engine::Engine;
use super::state::{Awaited, Group, State, Warp};
use crate::check::{RawFinding, finding};
use crate::module::Op;

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// Reports that no thread can go on.
    pub(super) fn report_hang(&mut self) {
        let mut waits = Vec::new();
        for cta in &self.ctas {
            for warp in &cta.warps {
                for group in &warp.groups {
                    let pc = self.waits_at(warp, group);
                    let code = self.awaits(warp, group).map(|(code, _)| code);
                    waits.push(Wait { pc, code, finding: self.described(warp, group, pc) });
                }
            }
        }
        let Some((code, wait)) = self.classify(&waits) else { return };
        // Lanes that do not come to an instruction of the whole warp have no part in it.
        let others = waits.iter().filter(|_| code != finding::PARTIAL_WARP);
        let other = others.map(|wait| wait.pc).find(|pc| *pc != wait.pc);
        self.findings.push(RawFinding { code, other, ..wait.finding.clone() });
        self.stopped = true;
    }

    /// The instruction a hang is reported at: for a warpgroup, the product that not all came to.
    fn waits_at(&self, warp: &Warp, group: &Group) -> u32 {
        match group.state {
            State::Barrier { .. } | State::Cluster => group.pc - 1,
            State::Await(Awaited::Warpgroup { .. }) => warp.products.last_pc,
            _ => group.pc,
        }
    }

    /// The code of a hang, and the wait that shows it: barriers only, one kind of mbarrier wait only,
    /// lanes that never meet, or a mixture.
    fn classify<'w>(&self, waits: &'w [Wait]) -> Option<(&'static str, &'w Wait)> {
        let op = |wait: &Wait| &self.setup.module.code[wait.pc as usize].op;
        let decisive = [finding::PARTIAL_WARP, finding::MBARRIER_STATE];
        let of = |code: &str| waits.iter().find(|wait| wait.code == Some(code));
        if let Some(wait) = decisive.iter().find_map(|code| of(code)) {
            return Some((wait.code?, wait));
        }
        if waits.iter().any(|wait| wait.code.is_some()) {
            if waits.iter().all(|wait| wait.code.is_some()) {
                let wait = of(finding::MBARRIER_BYTES).or(waits.first())?;
                return Some((wait.code?, wait));
            }
            return Some((finding::DEADLOCK, waits.first()?));
        }
        Some(match waits.iter().find(|wait| !is_barrier(op(wait))) {
            None => (finding::DIVERGENT_BARRIER, waits.first()?),
            Some(wait) if members(op(wait)) => (finding::MEMBERS, wait),
            Some(wait) => (finding::PARTIAL_WARP, wait),
        })
    }

    fn described(&self, warp: &Warp, group: &Group, pc: u32) -> RawFinding {
        let message = match group.state {
            State::Barrier { id, .. } => {
                let cta = &self.ctas[warp.cta as usize];
                let barrier = &cta.barriers[usize::from(id)];
                let here: u32 = barrier.arrived.iter().map(|lanes| lanes.count_ones()).sum();
                let live: u32 = cta.live.iter().map(|lanes| lanes.count_ones()).sum();
                let wanted = barrier.threads.unwrap_or(live);
                format!("barrier {id} has {here} of {wanted} threads, and no other can come")
            }
            State::Cluster => "the cluster barrier waits for threads that cannot come".to_owned(),
            State::Converge { missing } => {
                format!("waits for lanes {missing:#010x} of the warp, which wait elsewhere")
            }
            State::Await(_) => {
                self.awaits(warp, group).map_or_else(String::new, |(_, message)| message)
            }
            State::Ready | State::Yielded => "cannot go on".to_owned(),
        };
        RawFinding {
            code: finding::DEADLOCK,
            instruction: pc,
            other: None,
            cta: self.ctas[warp.cta as usize].id,
            warp: warp.index,
            lane: group.mask.trailing_zeros().min(31),
            count: group.mask.count_ones().into(),
            message,
        }
    }
}

/// A group that waits: where, the code if it waits for an mbarrier or a warpgroup, and a description.
struct Wait {
    pc: u32,
    code: Option<&'static str>,
    finding: RawFinding,
}

/// Whether an instruction names its lanes by a mask.
fn members(op: &Op) -> bool {
    matches!(
        op,
        Op::Shuffle { .. }
            | Op::VotePred { .. }
            | Op::Ballot { .. }
            | Op::MatchAny { .. }
            | Op::MatchAll { .. }
            | Op::Reduce { .. }
            | Op::Elect { .. }
            | Op::BarWarp { .. }
    )
}
