//! When nobody can go on: who waits for what.

use super::cluster::Engine;
use super::state::{Group, State, Warp};
use crate::check::{RawFinding, finding};
use crate::module::Op;

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// Reports that no thread can go on.
    pub(super) fn report_hang(&mut self) {
        let mut waits: Vec<(u32, RawFinding)> = Vec::new();
        for cta in &self.ctas {
            for warp in &cta.warps {
                for group in &warp.groups {
                    let pc = self.waits_at(group);
                    waits.push((pc, self.described(warp, group, pc)));
                }
            }
        }
        let Some((_, first)) = waits.first().cloned() else { return };
        let other = waits.iter().map(|(pc, _)| *pc).find(|pc| *pc != first.instruction);
        let (code, first) = self.classify(&waits, first);
        self.findings.push(RawFinding { code, other, ..first });
        self.stopped = true;
    }

    fn waits_at(&self, group: &Group) -> u32 {
        match group.state {
            State::Barrier { .. } | State::Cluster => group.pc - 1,
            _ => group.pc,
        }
    }

    /// The code of a hang: barriers only, lanes that never meet, or a mixture.
    fn classify(
        &self,
        waits: &[(u32, RawFinding)],
        first: RawFinding,
    ) -> (&'static str, RawFinding) {
        let op = |pc: u32| &self.setup.module.code[pc as usize].op;
        let is_barrier =
            |pc: u32| matches!(op(pc), Op::Bar { .. } | Op::ClusterArrive | Op::ClusterWait);
        let never_met = waits.iter().find(|(pc, _)| !is_barrier(*pc));
        match never_met {
            None => (finding::DIVERGENT_BARRIER, first),
            Some((pc, wait)) if members(op(*pc)) => (finding::MEMBERS, wait.clone()),
            Some((_, wait)) => (finding::PARTIAL_WARP, wait.clone()),
        }
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
