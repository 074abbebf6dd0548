//! What was wrong in a run: codes, places, and which checks look for it.

use crate::execute::Setup;
use crate::module::Module;
use crate::source::Position;
use std::fmt;

/// Out of bounds.
pub(crate) const BOUNDS: &str = "V1001";
/// Misaligned.
pub(crate) const ALIGNMENT: &str = "V1002";
/// Memory nothing wrote.
pub(crate) const UNINITIALISED: &str = "V1003";
/// A register nothing wrote.
pub(crate) const REGISTER: &str = "V1004";
/// An address of no memory, or of the wrong one.
pub(crate) const ADDRESS: &str = "V1005";
/// Two threads at the same place of shared memory.
pub(crate) const SHARED_RACE: &str = "V1101";
/// Two threads at the same place of global memory.
pub(crate) const GLOBAL_RACE: &str = "V1102";
/// A thread and an asynchronous copy at the same place.
pub(crate) const ASYNC_RACE: &str = "V1103";
/// A wgmma and another access at the same place of shared memory.
pub(crate) const WGMMA_RACE: &str = "V1104";
/// What the generic proxy wrote is read through the async proxy without a fence between them.
pub(crate) const PROXY: &str = "V1105";
/// A register of a wgmma is touched before the wait for it.
pub(crate) const WGMMA_REGISTER: &str = "V1106";
/// A register of a wgmma was written without a `wgmma.fence` behind it.
pub(crate) const WGMMA_FENCE: &str = "V1107";
/// Threads at different barriers.
pub(crate) const DIVERGENT_BARRIER: &str = "V1201";
/// A barrier for a number of threads that cannot be.
pub(crate) const BARRIER_COUNT: &str = "V1202";
/// An mbarrier that does not exist, or begins anew while it is in use.
pub(crate) const MBARRIER_STATE: &str = "V1203";
/// Arrivals that a phase does not wait for.
pub(crate) const MBARRIER_COUNT: &str = "V1204";
/// Bytes that do not match what was expected.
pub(crate) const MBARRIER_BYTES: &str = "V1205";
/// A phase that never ends.
pub(crate) const MBARRIER_PHASE: &str = "V1206";
/// Nobody can go on.
pub(crate) const DEADLOCK: &str = "V1301";
/// More steps than allowed.
pub(crate) const STEPS: &str = "V1302";
/// `trap`.
pub(crate) const TRAP: &str = "V1303";
/// Lanes of a warp that should take part and do not, or the reverse.
pub(crate) const MEMBERS: &str = "V1401";
/// A warp-wide instruction executed by a part of the warp.
pub(crate) const PARTIAL_WARP: &str = "V1402";
/// A matrix descriptor, tensor map, size or alignment that an asynchronous instruction cannot take.
pub(crate) const DESCRIPTOR: &str = "V1403";

/// Which of the checks that cost time are made.
///
/// Bounds, alignment, barriers and warp membership are always checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// V1003 and V1004: memory and registers read before they are written.
    pub uninitialised: bool,
    /// V1101 … V1107: data races and asynchronous copies in flight.
    pub races: bool,
}

impl Checks {
    /// Every check.
    #[must_use]
    pub const fn all() -> Self {
        Self { uninitialised: true, races: true }
    }

    /// Only those that are always made.
    #[must_use]
    pub const fn none() -> Self {
        Self { uninitialised: false, races: false }
    }

    /// `all`, `none`, or names separated by commas: `uninitialised`, `races`.
    #[must_use]
    pub fn named(list: &str) -> Option<Self> {
        match list {
            "all" => return Some(Self::all()),
            "none" => return Some(Self::none()),
            _ => {}
        }
        let mut found = Self::none();
        for word in list.split(',') {
            match word.trim() {
                "uninitialised" => found.uninitialised = true,
                "races" => found.races = true,
                _ => return None,
            }
        }
        Some(found)
    }

    /// Whether any check is made that is not always made.
    #[must_use]
    pub const fn any(self) -> bool {
        self.uninitialised || self.races
    }
}

/// A finding by instruction number, before it has lines.
#[derive(Clone, Debug)]
pub(crate) struct RawFinding {
    pub(crate) code: &'static str,
    pub(crate) instruction: u32,
    /// The other party of a race or deadlock.
    pub(crate) other: Option<u32>,
    pub(crate) cta: [u32; 3],
    pub(crate) warp: u32,
    pub(crate) lane: u32,
    pub(crate) count: u64,
    pub(crate) message: String,
}

/// Something wrong at an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// V1001 and so on.
    pub code: &'static str,
    /// What is wrong, with the numbers of the first time.
    pub message: String,
    /// Name of the text.
    pub file: String,
    /// The instruction.
    pub position: Position,
    /// Its line.
    pub text: String,
    /// Where it came from, by `.loc`: file and line.
    pub origin: Option<(String, u64)>,
    /// The other party of a race or deadlock, and its line.
    pub other: Option<(Position, String)>,
    /// The CTA in the grid.
    pub cta: [u32; 3],
    /// The warp in its CTA.
    pub warp: u32,
    /// The first lane it happened to.
    pub lane: u32,
    /// How many times it happened, by lanes.
    pub count: u64,
    pub(crate) instruction: u32,
}

impl RawFinding {
    /// The finding with lines and texts.
    pub(crate) fn placed(self, module: &Module) -> Finding {
        let place = |pc: u32| {
            let position = module.source.position(module.meta[pc as usize].span.start);
            (position, module.source.line(position.line))
        };
        let (position, text) = place(self.instruction);
        let location = module.meta[self.instruction as usize].location.checked_sub(1);
        Finding {
            code: self.code,
            message: self.message,
            file: module.source.name().to_owned(),
            position,
            text,
            origin: location.map(|at| module.locations[at as usize].clone()),
            other: self.other.map(place),
            cta: self.cta,
            warp: self.warp,
            lane: self.lane,
            count: self.count,
            instruction: self.instruction,
        }
    }
}

/// The grid executed more instructions than allowed, last this one.
pub(crate) fn step_limit(setup: &Setup<'_>, pc: u32) -> Finding {
    let raw = RawFinding {
        code: STEPS,
        instruction: pc,
        other: None,
        cta: [0; 3],
        warp: 0,
        lane: 0,
        count: 1,
        message: format!("more than {} warp instructions", setup.options.step_limit),
    };
    raw.placed(setup.module)
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.position;
        writeln!(f, "{}: {}", self.code, self.message)?;
        writeln!(f, "  --> {}:{line}:{column}", self.file)?;
        writeln!(f, "   | {}", self.text)?;
        if let Some((position, text)) = &self.other {
            writeln!(f, "  and {}:{}", self.file, position.line)?;
            writeln!(f, "   | {text}")?;
        }
        if let Some((file, line)) = &self.origin {
            writeln!(f, "  from {file}:{line}")?;
        }
        let [x, y, z] = self.cta;
        write!(f, "   = CTA ({x}, {y}, {z}), warp {}, lane {}", self.warp, self.lane)?;
        match self.count {
            1 => Ok(()),
            count => write!(f, ", and {} more", count - 1),
        }
    }
}
