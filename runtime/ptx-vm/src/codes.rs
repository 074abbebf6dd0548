//! The table of codes: what each refusal and each finding means, and what to do about it.
//!
//! # Invariants
//! - Codes ascend, and every code that is reported has its row.

/// A code explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// V1101 and so on.
    pub code: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it means, and a way out.
    pub text: &'static str,
}

const fn row(code: &'static str, name: &'static str, text: &'static str) -> Explanation {
    Explanation { code, name, text }
}

/// All codes: V0… are refusals of a text or a launch before anything runs, V1… findings of a run.
pub const CODES: [Explanation; 30] = [
    row("V0001", "syntax", "The text is no PTX, or the launch no LAUNCH.ron, at this place."),
    row(
        "V0002",
        "unknown-instruction",
        "An instruction, modifier or type that is not executed here, or that the text's `.target` does not have. \
         Nothing that is not understood is stepped over.",
    ),
    row(
        "V0003",
        "unknown-symbol",
        "A register, label, variable, parameter or function that nothing declares.",
    ),
    row("V0004", "operand", "An operand of the wrong kind, width or number."),
    row("V0005", "limit", "A declaration is larger, or nested deeper, than is accepted."),
    row(
        "V0006",
        "launch",
        "The launch does not fit the kernel: its extents, its parameters, its memory, or a file it names.",
    ),
    row(
        "V1001",
        "out-of-bounds",
        "An access behind or before its buffer, or beyond the shared, local, constant or parameter memory there \
         is. Guard the threads beyond the end, or launch fewer.",
    ),
    row(
        "V1002",
        "misaligned",
        "An address that is no multiple of the bytes accessed; a vector access counts as a whole.",
    ),
    row(
        "V1003",
        "uninitialised-memory",
        "A byte is read that nothing wrote: a buffer declared `Uninit`, shared or local memory.",
    ),
    row("V1004", "uninitialised-register", "A register or predicate is read that nothing wrote."),
    row(
        "V1005",
        "address",
        "Null, an address of no memory, an address of another state space, or shared memory of a CTA that the \
         instruction does not reach or that has exited.",
    ),
    row(
        "V1101",
        "shared-race",
        "Two threads access the same bytes of shared memory, one of them writes, and nothing orders them. A \
         barrier belongs between them; lanes of a warp need `bar.warp.sync`.",
    ),
    row(
        "V1102",
        "global-race",
        "Two threads access the same bytes of global memory, one of them writes, and nothing orders them: no \
         barrier, no release and acquire at a flag, or a fence or scope that does not reach the other thread.",
    ),
    row(
        "V1103",
        "copy-race",
        "A thread, or another copy, touches what an asynchronous copy reads or writes and nobody has waited for: \
         an mbarrier's phase, `wait_group` or `wait_all` is missing, or too loose.",
    ),
    row(
        "V1104",
        "wgmma-race",
        "Shared memory that a wgmma reads is written while it may still read. A `wgmma.wait_group` that covers \
         the product, and a barrier, belong before the write.",
    ),
    row(
        "V1105",
        "proxy",
        "What threads wrote is read by an asynchronous unit in order, but without `fence.proxy.async` for that \
         memory between them.",
    ),
    row(
        "V1106",
        "wgmma-register",
        "A register of a wgmma is touched before a `wgmma.wait_group` covers the product.",
    ),
    row(
        "V1107",
        "wgmma-fence",
        "A register of a wgmma was written without a `wgmma.fence` between the write and the product.",
    ),
    row(
        "V1201",
        "divergent-barrier",
        "Threads wait at different barriers, or at one that others can no longer come to.",
    ),
    row(
        "V1202",
        "barrier-count",
        "A barrier's number or count of threads cannot be, or differs from that of the threads already there.",
    ),
    row(
        "V1203",
        "mbarrier-state",
        "An mbarrier is used that was not initialised or has ended, begins anew while it is in use, or is \
         overwritten.",
    ),
    row("V1204", "mbarrier-count", "More arrivals than the mbarrier's phase waits for."),
    row(
        "V1205",
        "mbarrier-bytes",
        "The bytes that an mbarrier expects are not those that arrive, so that its phase never ends.",
    ),
    row(
        "V1206",
        "mbarrier-phase",
        "A thread waits for a phase of an mbarrier that can no longer end: an arrival is missing, or the parity \
         is wrong.",
    ),
    row(
        "V1301",
        "deadlock",
        "No thread can go on: waits of different kinds wait for each other. Both lines are named.",
    ),
    row(
        "V1302",
        "limit-of-the-run",
        "More instructions, calls inside calls or asynchronous accesses in flight than allowed. A loop that does \
         not end, or a larger limit is needed.",
    ),
    row("V1303", "trap", "A thread executed `trap`."),
    row(
        "V1401",
        "members",
        "A shuffle, vote, match or reduction names lanes that do not take part, or reads one that does not.",
    ),
    row(
        "V1402",
        "partial-warp",
        "An instruction of a whole warp or warpgroup is executed by a part of it.",
    ),
    row(
        "V1403",
        "descriptor",
        "A matrix descriptor, tensor map, size, alignment or place that an asynchronous instruction cannot take.",
    ),
];

/// The row of a code.
#[must_use]
pub fn explain(code: &str) -> Option<Explanation> {
    CODES.iter().copied().find(|row| row.code == code)
}
