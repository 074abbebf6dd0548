//! Devices that run a plan: a session says what happens, a device how.
//!
//! ```text
//! Session: names, feeds, fetches, order of steps, errors     places in three storages
//!    │ open, bind, begin, run, write, read
//! Device:  cpu     kernels by Cranelift, built-in steps      addresses
//!          ptx-vm  kernels in the PTX virtual machine        a window for each argument
//! ```
//!
//! # Invariants
//! - A session knows pieces, never addresses: a device's memory need not be the host's, and
//!   bytes pass through `Device::write` and `Device::read` alone.
//! - A device runs the steps of an entry in the order that it is told, each to an end that
//!   `Device::read` sees.
//! - Devices differ in speed and in what they check; numerics are the kernels'.

pub mod cpu;
pub(crate) mod host;
mod ptx_vm;

use perilune_plan::{Entry, KernelDecl, Launch, Plan, Step};
use perilune_ptx_vm::{Checks, DEFAULT_STEP_LIMIT, Finding};

use crate::profile::Counts;
use crate::session::MemoryUse;
use crate::{Options, RuntimeError};

/// What runs a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceKind {
    /// This machine's processor, for plans compiled for `cpu`.
    #[default]
    Cpu,
    /// The PTX virtual machine on this machine's processor, for plans compiled for `sm_80` or
    /// `sm_90a`. A finding ends the run.
    PtxVm {
        /// What is checked beside bounds, alignment, barriers and warp membership.
        checks: Checks,
        /// Warp instructions that a launch may execute.
        step_limit: u64,
    },
}

impl DeviceKind {
    /// The PTX virtual machine with these checks and the step limit of its own.
    pub const fn ptx_vm(checks: Checks) -> Self {
        DeviceKind::PtxVm { checks, step_limit: DEFAULT_STEP_LIMIT }
    }

    /// The device's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            DeviceKind::Cpu => "cpu",
            DeviceKind::PtxVm { .. } => "ptx-vm",
        }
    }

    /// Whether plans for this target run on the device.
    fn runs(self, target: &str) -> bool {
        match self {
            DeviceKind::Cpu => target == "cpu",
            DeviceKind::PtxVm { .. } => target.starts_with("sm_"),
        }
    }
}

/// The memories of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Storage {
    /// Persistent tensors.
    Tensors,
    /// Feeds of all entries.
    Feeds,
    /// What lives within a run.
    Arena,
}

/// A piece of a session's memory, inside it: whoever makes one has checked that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    pub(crate) storage: Storage,
    /// First byte.
    pub(crate) offset: u64,
    /// Length.
    pub(crate) bytes: u64,
}

impl Piece {
    /// The byte behind the last.
    pub(crate) fn end(self) -> u64 {
        self.offset + self.bytes
    }

    /// Whether a byte belongs to both.
    pub(crate) fn overlaps(self, other: Piece) -> bool {
        self.storage == other.storage && self.offset < other.end() && other.offset < self.end()
    }
}

/// Where each buffer of an entry lies, and which of its steps run.
pub(crate) type Bindings<'a> = (&'a [Piece], &'a dyn Fn(&Step) -> bool);

/// A step that a device cannot run.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Index of the step.
    pub(crate) step: usize,
    /// What is wrong with it.
    pub(crate) what: String,
}

/// Why a step failed while it ran.
#[derive(Debug)]
pub(crate) enum StepFailure {
    /// What the data does not allow.
    Data(String),
    /// A worker panicked.
    Panic,
    /// Checks found something in a kernel.
    Findings {
        /// Name of the kernel.
        kernel: String,
        /// What they found; never empty.
        findings: Vec<Finding>,
    },
}

/// A plan's kernels and memory on something that runs them.
pub(crate) trait Device: Send {
    /// Threads of the host that take part.
    fn threads(&self) -> usize;

    /// Bytes of machine code that it has made from the plan's kernels.
    fn code_bytes(&self) -> u64;

    /// Binds an entry's steps to the places of its buffers, those of them that run here; the others
    /// are never run. Entries are numbered as they are bound.
    fn bind(&mut self, plan: &Plan, entry: &Entry, at: Bindings<'_>) -> Result<(), Refused>;

    /// A run of an entry begins: what its arena holds has no meaning, and is NaN if `poison`.
    fn begin(&mut self, entry: usize, poison: bool);

    /// Runs a step; counts what it does if `measure` and if the device can.
    fn run(
        &mut self,
        entry: usize,
        step: usize,
        measure: bool,
    ) -> Result<Option<Counts>, StepFailure>;

    /// Sets the first bytes of a piece.
    fn write(&mut self, piece: Piece, bytes: &[u8]) -> Result<(), RuntimeError>;

    /// The bytes of a piece, after every step so far.
    fn read(&self, piece: Piece) -> Result<Vec<u8>, RuntimeError>;
}

/// The device that `options` asks for, with a plan's kernels ready and memory of these sizes, zero.
///
/// # Errors
/// A plan for something else, a kernel that does not compile, too little memory.
pub(crate) fn open(
    plan: &Plan,
    sizes: MemoryUse,
    options: &Options,
) -> Result<Box<dyn Device>, RuntimeError> {
    if !options.device.runs(&plan.target) {
        return Err(RuntimeError::Target {
            found: plan.target.clone(),
            device: options.device.name(),
        });
    }
    let threads = options.threads.unwrap_or_else(|| {
        std::thread::available_parallelism().map(std::num::NonZero::get).unwrap_or(1)
    });
    Ok(match options.device {
        DeviceKind::Cpu => Box::new(cpu::Cpu::open(plan, sizes, threads)?),
        DeviceKind::PtxVm { checks, step_limit } => {
            let options = perilune_ptx_vm::Options { checks, threads, step_limit, profile: false };
            Box::new(ptx_vm::PtxVm::open(plan, sizes, options)?)
        }
    })
}

/// The kernel that a launch names, if its arguments match the parameters.
pub(crate) fn launched<'p>(
    plan: &'p Plan,
    entry: &Entry,
    launch: &Launch,
) -> Result<&'p KernelDecl, String> {
    let index = launch.kernel;
    let decl = plan.kernels.get(index as usize);
    let decl = decl.ok_or_else(|| format!("kernel {index} does not exist"))?;
    if decl.params.len() != launch.args.len() {
        return Err(format!(
            "kernel `{}` has {} parameters, {} arguments are given",
            decl.name,
            decl.params.len(),
            launch.args.len()
        ));
    }
    for (i, (param, arg)) in decl.params.iter().zip(&launch.args).enumerate() {
        let buffer = entry.buffers.get(*arg as usize);
        let buffer = buffer.ok_or_else(|| format!("buffer {arg} does not exist"))?;
        if buffer.dtype != param.dtype || buffer.elems < param.elems {
            return Err(format!(
                "kernel `{}`, argument {i}: needs {} × {}, gets {} × {}",
                decl.name, param.elems, param.dtype, buffer.elems, buffer.dtype
            ));
        }
    }
    Ok(decl)
}
