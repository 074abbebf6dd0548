//! A cluster that runs, and what goes for all instructions: frames that begin, findings.
//!
//! # Invariants
//! - What no thread can go on after stops the cluster.

use super::lanes::lanes;
use super::setup::{Fill, Setup};
use super::state::{
    Barrier, Completing, Cta, Descriptors, Frame, Group, Object, State, Warp, unravel,
};
use crate::check::{Checker, RawFinding};
use crate::count::Counters;
use crate::matrix::Wgmma;
use crate::module::{Lanes, Op, Special};
use std::collections::BTreeMap;

/// Barriers of a CTA.
pub(crate) const BARRIERS: usize = 16;
/// Findings of a cluster at most; the count of the last ones goes on.
const MAX_FINDINGS: usize = 1000;

/// The state of a running cluster.
pub(crate) struct Engine<'m, const CHECK: bool> {
    pub(crate) setup: &'m Setup<'m>,
    /// Position of the first CTA, in clusters.
    pub(crate) cluster_id: [u32; 3],
    pub(crate) ctas: Vec<Cta>,
    pub(crate) checker: Checker,
    pub(crate) counters: Counters,
    pub(crate) findings: Vec<RawFinding>,
    pub(crate) steps: u64,
    /// Set by what no thread can go on after.
    pub(crate) stopped: bool,
    pub(crate) last_pc: u32,
    /// Set when a thread exits or arrives, so that barriers are looked at.
    pub(crate) arrivals: bool,
    /// How often waits were timed out since a thread exited or arrived.
    pub(crate) timed_out: u32,
    /// Bytes that registers and local memory of all frames take.
    pub(crate) thread_bytes: u64,
    /// Whether the module has wgmma instructions.
    pub(crate) multiplies: bool,
    /// The mbarriers that exist, and where they were initialised.
    pub(crate) objects: BTreeMap<Object, u32>,
    /// Copies that mbarriers have not heard of.
    pub(crate) completing: Vec<Completing>,
}

impl<'m, const CHECK: bool> Engine<'m, CHECK> {
    /// The cluster `index` of the grid, before its first instruction.
    pub(super) fn new(setup: &'m Setup<'m>, index: u64) -> Self {
        let clusters = [0, 1, 2].map(|dim| setup.grid[dim] / setup.cluster[dim]);
        let cluster_id = unravel(index, clusters);
        let mut engine = Self {
            setup,
            cluster_id,
            ctas: Vec::new(),
            checker: Checker::new(setup, cluster_id),
            counters: Counters::new(setup.module),
            findings: Vec::new(),
            steps: 0,
            stopped: false,
            last_pc: 0,
            arrivals: false,
            timed_out: 0,
            thread_bytes: 0,
            multiplies: setup.module.code.iter().any(|inst| matches!(inst.op, Op::Wgmma(_))),
            objects: BTreeMap::new(),
            completing: Vec::new(),
        };
        let ranks: u32 = setup.cluster.iter().product();
        for rank in 0..ranks {
            let cta = engine.cta(rank);
            engine.ctas.push(cta);
        }
        engine
    }

    fn cta(&mut self, rank: u32) -> Cta {
        let setup = self.setup;
        let within = unravel(rank.into(), setup.cluster);
        let id = [0, 1, 2].map(|dim| self.cluster_id[dim] * setup.cluster[dim] + within[dim]);
        let threads: u32 = setup.block.iter().product();
        let n_warps = threads.div_ceil(32) as usize;
        let barrier = Barrier { arrived: vec![0; n_warps], ..Barrier::default() };
        let mut cta = Cta {
            id,
            shared: vec![0; setup.shared_bytes as usize],
            warps: Vec::new(),
            barriers: vec![barrier; BARRIERS],
            descriptors: vec![Descriptors::default(); n_warps.div_ceil(Wgmma::WARPS)],
            live: Vec::new(),
            cluster_arrived: vec![0; n_warps],
            cluster_passed: vec![0; n_warps],
        };
        for index in 0..n_warps as u32 {
            let lanes = (threads - index * 32).min(32);
            let born = if lanes == 32 { u32::MAX } else { (1 << lanes) - 1 };
            let function = setup.kernel.function;
            let frame = Frame { function, return_to: u32::MAX, rows: 0, preds: 0, local: 0 };
            let pc = setup.module.functions[function as usize].first;
            let group = Group { mask: born, pc, frames: vec![frame], state: State::Ready };
            let mut warp = Warp {
                index,
                cta: rank,
                born,
                live: born,
                groups: vec![group],
                local: vec![Vec::new(); 32],
                ..Warp::default()
            };
            self.enter_frame(&mut warp, frame, born, id);
            cta.live.push(born);
            cta.warps.push(warp);
        }
        cta
    }

    /// Makes room for a frame and fills its constants for the lanes of `mask`.
    pub(crate) fn enter_frame(&mut self, warp: &mut Warp, frame: Frame, mask: u32, cta: [u32; 3]) {
        let function = &self.setup.module.functions[frame.function as usize];
        let rows = (frame.rows + function.rows()) as usize;
        if warp.rows.len() < rows {
            self.thread_bytes += ((rows - warp.rows.len()) * size_of::<Lanes>()) as u64;
            warp.rows.resize(rows, Lanes::ZERO);
        }
        let preds = (frame.preds + function.preds) as usize;
        if warp.preds.len() < preds {
            warp.preds.resize(preds, 0);
        }
        // Predicate 0 stands for a constant.
        warp.preds[frame.preds as usize] &= !mask;
        let end = (frame.local + function.frame_bytes) as usize;
        for lane in lanes(mask) {
            let local = &mut warp.local[lane];
            if local.len() < end {
                self.thread_bytes += (end - local.len()) as u64;
                local.resize(end, 0);
            }
        }
        let first = (frame.rows + function.registers) as usize;
        for (at, fill) in self.setup.fills[frame.function as usize].iter().enumerate() {
            for lane in lanes(mask) {
                warp.rows[first + at].0[lane] = match *fill {
                    Fill::Bits(bits) => bits,
                    Fill::Frame(offset) => u64::from(frame.local).wrapping_add(offset as u64),
                    Fill::Special(special) => self.special(special, warp, lane, cta),
                };
            }
        }
        if CHECK {
            self.checker.enter_frame(warp, function, frame, mask);
        }
    }

    fn special(&self, special: Special, warp: &Warp, lane: usize, cta: [u32; 3]) -> u64 {
        let setup = self.setup;
        let thread = u64::from(warp.index) * 32 + lane as u64;
        let clusters = |dim: usize| setup.grid[dim] / setup.cluster[dim];
        let value = match special {
            Special::Tid(dim) => unravel(thread, setup.block)[dim as usize],
            Special::Ntid(dim) => setup.block[dim as usize],
            Special::Ctaid(dim) => cta[dim as usize],
            Special::Nctaid(dim) => setup.grid[dim as usize],
            Special::ClusterId(dim) => self.cluster_id[dim as usize],
            Special::NclusterId(dim) => clusters(dim as usize),
            Special::ClusterCtaid(dim) => cta[dim as usize] % setup.cluster[dim as usize],
            Special::ClusterNctaid(dim) => setup.cluster[dim as usize],
            Special::ClusterCtaRank => warp.cta,
            Special::ClusterNctaRank => setup.cluster.iter().product(),
            Special::LaneId => lane as u32,
            Special::WarpId => warp.index,
            Special::NwarpId => setup.block.iter().product::<u32>().div_ceil(32),
            Special::MaskEq => 1 << lane,
            Special::MaskLe => u32::MAX >> (31 - lane),
            Special::MaskLt => (1 << lane) - 1,
            Special::MaskGe => u32::MAX << lane,
            Special::MaskGt => !(u32::MAX >> (31 - lane)),
            Special::DynamicSharedBytes => setup.dynamic_bytes,
            Special::TotalSharedBytes => setup.shared_bytes,
            Special::Zero => 0,
            Special::One => 1,
        };
        value.into()
    }

    /// A thread exited or arrived somewhere: barriers are looked at, and waits may go on.
    pub(crate) fn something_moved(&mut self) {
        self.arrivals = true;
        self.timed_out = 0;
    }

    /// Notes what is wrong at `pc` for the lanes of `mask`.
    pub(crate) fn report(
        &mut self,
        code: &'static str,
        (warp, mask): (&Warp, u32),
        pc: u32,
        message: String,
    ) {
        let found = RawFinding {
            code,
            instruction: pc,
            other: None,
            cta: [0; 3],
            warp: warp.index,
            lane: mask.trailing_zeros().min(31),
            count: mask.count_ones().into(),
            message,
        };
        self.report_raw(warp, found);
    }

    /// Keeps a finding, or counts it with the one it repeats.
    pub(crate) fn report_raw(&mut self, warp: &Warp, found: RawFinding) {
        let same = |f: &&mut RawFinding| f.instruction == found.instruction && f.code == found.code;
        if let Some(known) = self.findings.iter_mut().find(same) {
            known.count += found.count;
        } else if self.findings.len() < MAX_FINDINGS {
            let cta = self.ctas.get(warp.cta as usize).map_or([0; 3], |cta| cta.id);
            self.findings.push(RawFinding { cta, ..found });
        }
    }

    /// As [`Engine::report`], and nothing can go on after it.
    pub(crate) fn fail(&mut self, code: &'static str, at: (&Warp, u32), pc: u32, message: String) {
        self.report(code, at, pc, message);
        self.stopped = true;
    }
}
