//! The PTX virtual machine as a device: every launch of a GPU plan, executed and checked on the CPU.
//!
//! # Invariants
//! - A launch sees its arguments and nothing else: each lies in an address window of its own, so an
//!   access beyond one is found. Arguments that share bytes share a window.
//! - With initialisation checked, a byte of the arena has a value if a launch of this run wrote it,
//!   and a result loses what lay in its place before. Tensors and feeds always have values.
//! - Launches run one after the other; a finding ends the run after the launch that it is in.

use perilune_plan::{Entry, GPU_ALIGN, KernelDecl, Launch, Plan, StepOp};
use perilune_ptx_vm::{Extents, Machine, Memory, Module, Options, Outcome, Space};

use super::host::HostMemory;
use super::{Bindings, Device, Piece, Refused, StepFailure, Storage, launched};
use crate::RuntimeError;
use crate::profile::Counts;
use crate::session::MemoryUse;

/// Bytes of a parameter: a pointer to global memory.
const POINTER_BYTES: u32 = 8;

/// A plan's kernels in the virtual machine.
pub(crate) struct PtxVm {
    modules: Vec<Module>,
    entries: Vec<BoundEntry>,
    memory: HostMemory,
    /// Which bytes of the arena have a value; empty where that is not checked.
    known: Vec<bool>,
    options: Options,
}

struct BoundEntry {
    /// By step; none where the session runs it.
    launches: Vec<Option<BoundLaunch>>,
    arena_bytes: u64,
}

/// A launch whose arguments have places.
struct BoundLaunch {
    kernel: usize,
    name: String,
    extents: Extents,
    windows: Vec<Window>,
    arguments: Vec<Argument>,
}

/// Memory that a launch sees in one piece.
#[derive(Debug, PartialEq, Eq)]
struct Window {
    /// For messages: the arguments in it.
    name: String,
    piece: Piece,
    written: bool,
    /// Parts that the launch makes anew.
    fresh: Vec<Piece>,
}

/// An argument of a launch.
#[derive(Clone, Copy, Debug)]
struct Argument {
    piece: Piece,
    written: bool,
    /// Index of its window.
    window: usize,
    /// Place in the parameter block.
    at: usize,
}

impl PtxVm {
    /// Parses the plan's kernels and gets memory.
    ///
    /// # Errors
    /// PTX that the machine does not know, a kernel that does not take what the plan says, too
    /// little memory.
    pub(crate) fn open(
        plan: &Plan,
        sizes: MemoryUse,
        options: Options,
    ) -> Result<Self, RuntimeError> {
        let modules = plan.kernels.iter().map(parse).collect::<Result<_, _>>()?;
        let arena = if options.checks.uninitialised { sizes.arena as usize } else { 0 };
        let memory = HostMemory::new(sizes)?;
        let known = vec![false; arena];
        Ok(PtxVm { modules, entries: Vec::new(), memory, known, options })
    }

    /// The parameter block and the memory of a launch.
    fn lend(&self, launch: &BoundLaunch) -> Option<(Vec<u8>, Memory)> {
        let mut memory = Memory::default();
        let mut bases = Vec::with_capacity(launch.windows.len());
        for window in &launch.windows {
            let bytes = self.memory.get(window.piece);
            bases.push(match self.known(window.piece) {
                Some(known) => memory.allocate_known(&window.name, bytes, known.to_vec())?,
                None => memory.allocate(&window.name, bytes)?,
            });
        }
        let mut block = vec![0; launch.arguments.len() * POINTER_BYTES as usize];
        for argument in &launch.arguments {
            let inside = argument.piece.offset - launch.windows[argument.window].piece.offset;
            let address = bases[argument.window] + inside;
            block[argument.at..][..POINTER_BYTES as usize].copy_from_slice(&address.to_le_bytes());
        }
        Some((block, memory))
    }

    /// Which bytes of a piece have a value, where that is followed.
    fn known(&self, piece: Piece) -> Option<&[bool]> {
        let followed = piece.storage == Storage::Arena && self.options.checks.uninitialised;
        followed.then(|| &self.known[piece.offset as usize..piece.end() as usize])
    }

    fn set_known(&mut self, piece: Piece, by: impl Fn(&mut [bool])) {
        if piece.storage == Storage::Arena && self.options.checks.uninitialised {
            by(&mut self.known[piece.offset as usize..piece.end() as usize]);
        }
    }

    /// What a launch wrote becomes the session's.
    fn take_back(&mut self, entry: usize, step: usize, memory: &Memory) {
        let launch = self.entries[entry].launches[step].as_ref();
        let written = launch.iter().flat_map(|l| &l.windows).filter(|window| window.written);
        let written: Vec<(Piece, String)> = written.map(|w| (w.piece, w.name.clone())).collect();
        for (piece, name) in written {
            if let Some(bytes) = memory.read(&name) {
                self.memory.set(piece, &bytes);
            }
            let known = memory.known(&name).map(<[bool]>::to_vec);
            if let Some(known) = known {
                self.set_known(piece, |of| of.copy_from_slice(&known));
            }
        }
    }
}

impl Device for PtxVm {
    fn threads(&self) -> usize {
        self.options.threads
    }

    /// None: kernels are interpreted.
    fn code_bytes(&self) -> u64 {
        0
    }

    fn bind(
        &mut self,
        plan: &Plan,
        entry: &Entry,
        (places, runs): Bindings<'_>,
    ) -> Result<(), Refused> {
        let mut launches = Vec::with_capacity(entry.steps.len());
        for (step, planned) in entry.steps.iter().enumerate() {
            launches.push(match &planned.op {
                _ if !runs(planned) => None,
                StepOp::Launch(launch) => {
                    let bound = bind(plan, entry, (launch, &self.modules), places);
                    Some(bound.map_err(|what| Refused { step, what })?)
                }
                // The session runs it.
                StepOp::Collective(_) => None,
                _ => {
                    let what = "a plan for a GPU holds launches and collectives alone".to_owned();
                    return Err(Refused { step, what });
                }
            });
        }
        self.entries.push(BoundEntry { launches, arena_bytes: entry.arena_bytes });
        Ok(())
    }

    fn begin(&mut self, entry: usize, poison: bool) {
        if poison {
            self.memory.poison(self.entries[entry].arena_bytes);
        }
        self.known.fill(false);
    }

    fn run(
        &mut self,
        entry: usize,
        step: usize,
        measure: bool,
    ) -> Result<Option<Counts>, StepFailure> {
        let Some(launch) = &self.entries[entry].launches[step] else { return Ok(None) };
        if launch.extents.grid[0] == 0 {
            return Ok(Some(Counts::default()));
        }
        let fresh: Vec<Piece> = launch.windows.iter().flat_map(|w| &w.fresh).copied().collect();
        let kernel = launch.name.clone();
        for piece in fresh {
            self.set_known(piece, |known| known.fill(false));
        }
        let Some(launch) = &self.entries[entry].launches[step] else { return Ok(None) };
        let lent = self.lend(launch).ok_or_else(|| {
            StepFailure::Data("the arguments take more memory than the machine has".to_owned())
        })?;
        let options = Options { profile: measure, ..self.options.clone() };
        let module = &self.modules[launch.kernel];
        let outcome = Machine::run_with(module, &launch.name, launch.extents, lent, &options)
            .map_err(|error| StepFailure::Data(error.to_string()))?;
        self.take_back(entry, step, &outcome.memory);
        conclude(&kernel, outcome)
    }

    fn write(&mut self, piece: Piece, bytes: &[u8]) -> Result<(), RuntimeError> {
        self.memory.set(piece, bytes);
        self.set_known(piece, |known| known.fill(true));
        Ok(())
    }

    fn read(&self, piece: Piece) -> Result<Vec<u8>, RuntimeError> {
        Ok(self.memory.get(piece).to_vec())
    }
}

fn conclude(kernel: &str, outcome: Outcome) -> Result<Option<Counts>, StepFailure> {
    let Outcome { findings, counters, completed, .. } = outcome;
    if !findings.is_empty() {
        return Err(StepFailure::Findings { kernel: kernel.to_owned(), findings });
    }
    if !completed {
        return Err(StepFailure::Data(format!("kernel `{kernel}` did not come to its end")));
    }
    let total = counters.total();
    let global = counters.memory().get(&Space::Global).map_or(0, |requests| requests.bytes);
    Ok(Some(Counts {
        warp_instructions: total.warps,
        lane_instructions: total.lanes,
        global_bytes: global,
    }))
}

/// A kernel's text, loaded and held against its declaration.
fn parse(decl: &KernelDecl) -> Result<Module, RuntimeError> {
    let refused = |what: String| RuntimeError::Kernel { kernel: decl.name.clone(), what };
    let module = Module::parse_named(&decl.name, &decl.text).map_err(|e| refused(e.to_string()))?;
    let kernel = module.kernels().iter().find(|kernel| kernel.name == decl.name);
    let kernel = kernel.ok_or_else(|| refused("its text has no entry of this name".to_owned()))?;
    let pointers = kernel.params.iter().all(|param| param.bytes == POINTER_BYTES);
    if !pointers || kernel.params.len() != decl.params.len() {
        let (have, want) = (kernel.params.len(), decl.params.len());
        return Err(refused(format!("its text takes {have} parameters, not {want} pointers")));
    }
    if kernel.shared_bytes != decl.shared.static_bytes {
        let (have, want) = (kernel.shared_bytes, decl.shared.static_bytes);
        return Err(refused(format!("its text takes {have} bytes of shared memory, not {want}")));
    }
    Ok(module)
}

fn bind(
    plan: &Plan,
    entry: &Entry,
    (launch, modules): (&Launch, &[Module]),
    places: &[Piece],
) -> Result<BoundLaunch, String> {
    let decl = launched(plan, entry, launch)?;
    let kernel = launch.kernel as usize;
    let signature = modules[kernel].kernels().iter().find(|kernel| kernel.name == decl.name);
    let params = signature.map_or(&[][..], |kernel| &kernel.params);
    let given = decl.params.iter().zip(&launch.args).zip(params);
    let mut arguments: Vec<Argument> = given
        .map(|((param, arg), place)| {
            let bytes = param.elems * param.dtype.bytes();
            let piece = Piece { bytes, ..places[*arg as usize] };
            Argument { piece, written: param.written, window: 0, at: place.offset as usize }
        })
        .collect();
    if let Some(crooked) = arguments.iter().find(|a| a.piece.offset % GPU_ALIGN != 0) {
        return Err(format!("an argument begins at byte {}", crooked.piece.offset));
    }
    let blocks = u32::try_from(decl.blocks);
    let blocks = blocks.map_err(|_| format!("a grid of {} blocks is too large", decl.blocks))?;
    let windows = windows(&mut arguments);
    let extents = Extents {
        grid: [blocks, 1, 1],
        block: [decl.threads, 1, 1],
        cluster: None,
        shared_bytes: decl.shared.dynamic_bytes,
    };
    Ok(BoundLaunch { kernel, name: decl.name.clone(), extents, windows, arguments })
}

/// Gives each argument a window; those that share bytes share it.
fn windows(arguments: &mut [Argument]) -> Vec<Window> {
    let mut order: Vec<usize> = (0..arguments.len()).collect();
    order.sort_by_key(|i| (arguments[*i].piece, *i));
    let mut found: Vec<Window> = Vec::new();
    for i in order {
        let Argument { piece, written, .. } = arguments[i];
        match found.last_mut() {
            Some(last) if last.piece.overlaps(piece) => {
                last.piece.bytes = last.piece.end().max(piece.end()) - last.piece.offset;
                last.written |= written;
                last.name.push_str(&format!(" and {i}"));
            }
            _ => {
                let name = format!("argument {i}");
                found.push(Window { name, piece, written, fresh: Vec::new() });
            }
        }
        arguments[i].window = found.len() - 1;
    }
    let read: Vec<Piece> = arguments.iter().filter(|a| !a.written).map(|a| a.piece).collect();
    for argument in arguments.iter().filter(|a| a.written) {
        if !read.iter().any(|piece| piece.overlaps(argument.piece)) {
            found[argument.window].fresh.push(argument.piece);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(storage: Storage, offset: u64, bytes: u64, written: bool) -> Argument {
        Argument { piece: Piece { storage, offset, bytes }, written, window: 0, at: 0 }
    }

    #[test]
    fn arguments_that_share_bytes_share_a_window_and_others_do_not() {
        use Storage::{Arena, Feeds};
        let mut arguments = [
            argument(Arena, 64, 64, false),
            argument(Arena, 128, 64, true),
            argument(Feeds, 64, 64, false),
            argument(Arena, 64, 32, true),
            argument(Arena, 192, 0, false),
        ];
        let found = windows(&mut arguments);
        let at = |i: usize| &found[arguments[i].window];
        assert_eq!(found.len(), 4);
        assert_eq!(at(0), at(3), "the same bytes");
        assert!(at(0).written && at(0).fresh.is_empty(), "what is read too is not made anew");
        assert_eq!(at(1).fresh, [arguments[1].piece]);
        assert_eq!(at(1).piece.bytes, 64, "neighbours are not joined");
        assert!(!at(2).written);
        assert_eq!(at(4).piece.bytes, 0);
    }
}
