//! A profile: counters put in relation to the text and to a device; as text, JSON or RON.
//!
//! # Numerics
//! The time is a lower bound, the largest of: operations at each pipe's peak, instructions at four per cycle
//! and multiprocessor, wavefronts of shared memory at one per cycle and multiprocessor, and the touched sectors
//! of global memory, each moved once, at the bandwidth of device memory.

use super::device::{Cta, Device, Limit, Occupancy};
use super::work::{Pipe, work};
use super::{Count, Counters, Requests};
use crate::execute::Extents;
use crate::module::{Module, Space};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Executions of one opcode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mix {
    /// The opcode as typed.
    pub opcode: String,
    /// How often.
    pub count: Count,
}

/// Requests to a state space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// The space.
    pub space: &'static str,
    /// What was asked.
    pub requests: Requests,
}

/// Requests of one line of the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestUse {
    /// The line's number.
    pub line: u32,
    /// The line.
    pub text: String,
    /// The space.
    pub space: &'static str,
    /// What was asked.
    pub requests: Requests,
}

/// Operations of a pipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkUse {
    /// The pipe.
    pub pipe: Pipe,
    /// Operations.
    pub operations: u64,
}

/// One bound of the time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// What takes the time.
    pub what: String,
    /// Seconds at the device's peak.
    pub seconds: f64,
}

/// How long a kernel takes at least.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Roofline {
    /// Bytes of device memory, each touched sector once.
    pub memory_bytes: u64,
    /// Operations per byte of device memory; 0 without any.
    pub intensity: f64,
    /// Every bound, the largest first.
    pub bounds: Vec<Bound>,
}

/// What a launch did and what that means on a device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The kernel.
    pub kernel: String,
    /// The device.
    pub device: Device,
    /// CTAs per dimension.
    pub grid: [u32; 3],
    /// Threads per dimension.
    pub block: [u32; 3],
    /// Bytes of shared memory of a CTA.
    pub shared_bytes: u32,
    /// All instructions.
    pub instructions: Count,
    /// By opcode, the most frequent first.
    pub mix: Vec<Mix>,
    /// By state space.
    pub memory: Vec<MemoryUse>,
    /// By line of the text.
    pub requests: Vec<RequestUse>,
    /// By pipe.
    pub work: Vec<WorkUse>,
    /// CTAs at once on a multiprocessor.
    pub occupancy: Occupancy,
    /// The time at least.
    pub roofline: Roofline,
}

impl Profile {
    /// The profile of a launch of `kernel`, whose counters were taken with
    /// [`Options::profile`](crate::Options::profile).
    ///
    /// `registers` are those of a thread as ptxas reports them, where they are known.
    /// `None` if the module has no such kernel.
    #[must_use]
    pub fn new(
        module: &Module,
        kernel: &str,
        extents: Extents,
        counters: &Counters,
        registers: Option<u32>,
    ) -> Option<Self> {
        let kernel = module.kernels().iter().find(|k| k.name == kernel)?;
        let device = *Device::of(module.target());
        let shared_bytes = kernel.shared_bytes.max(kernel.dynamic_shared) + extents.shared_bytes;
        let threads = extents.block.iter().product();
        let work = operations(module, counters);
        let memory = counters.memory();
        let roofline = roofline(&device, counters, (&work, &memory));
        let named =
            |(space, requests): (Space, Requests)| MemoryUse { space: space.name(), requests };
        Some(Self {
            kernel: kernel.name.clone(),
            device,
            grid: extents.grid,
            block: extents.block,
            shared_bytes,
            instructions: counters.total(),
            mix: mix(module, counters),
            memory: memory.into_iter().map(named).collect(),
            requests: requests(module, counters),
            work: work.into_iter().map(|(pipe, operations)| WorkUse { pipe, operations }).collect(),
            occupancy: device.occupancy(Cta { threads, registers, shared_bytes }),
            roofline,
        })
    }

    /// As JSON, indented.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists of them have a form in JSON.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// As RON, indented.
    #[must_use]
    pub fn to_ron(&self) -> String {
        ron::ser::to_string_pretty(self, ron::ser::PrettyConfig::default()).unwrap_or_default()
    }
}

fn mix(module: &Module, counters: &Counters) -> Vec<Mix> {
    let all = counters.mix(module).into_iter();
    let mut mix: Vec<Mix> = all.map(|(opcode, count)| Mix { opcode, count }).collect();
    mix.sort_by(|a, b| b.count.warps.cmp(&a.count.warps).then(a.opcode.cmp(&b.opcode)));
    mix
}

fn requests(module: &Module, counters: &Counters) -> Vec<RequestUse> {
    let mut by_line: BTreeMap<(u32, Space), Requests> = BTreeMap::new();
    for ((pc, space), requests) in &counters.requests {
        let line = module.source().position(module.meta[*pc as usize].opcode.start).line;
        by_line.entry((line, *space)).or_default().add(requests);
    }
    let line = |((line, space), requests): ((u32, Space), Requests)| RequestUse {
        line,
        text: module.source().line(line),
        space: space.name(),
        requests,
    };
    by_line.into_iter().map(line).collect()
}

fn operations(module: &Module, counters: &Counters) -> BTreeMap<Pipe, u64> {
    let mut found = BTreeMap::new();
    for (pc, count) in counters.by_instruction.iter().enumerate().filter(|(_, c)| c.warps > 0) {
        let Some(work) = work(&module.code[pc].op, module.opcode(pc)) else { continue };
        *found.entry(work.pipe).or_default() +=
            work.by_lane * count.lanes + work.by_warp * count.warps;
    }
    found
}

fn roofline(
    device: &Device,
    counters: &Counters,
    (work, memory): (&BTreeMap<Pipe, u64>, &BTreeMap<Space, Requests>),
) -> Roofline {
    let cycles = device.clock_ghz * 1e9 * f64::from(device.multiprocessors);
    let memory_bytes = counters.footprint_bytes();
    let wavefronts: u64 = memory.values().map(|requests| requests.wavefronts).sum();
    let mut bounds = vec![
        Bound {
            what: "device memory".to_owned(),
            seconds: memory_bytes as f64 / device.memory_bytes_per_s,
        },
        Bound {
            what: "instruction issue".to_owned(),
            seconds: counters.total().warps as f64 / (4.0 * cycles),
        },
        Bound { what: "shared memory".to_owned(), seconds: wavefronts as f64 / cycles },
    ];
    for (pipe, operations) in work {
        let seconds = *operations as f64 / device.rate(*pipe);
        bounds.push(Bound { what: format!("{pipe:?} operations"), seconds });
    }
    bounds.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let operations: u64 = work.values().sum();
    let intensity = if memory_bytes == 0 { 0.0 } else { operations as f64 / memory_bytes as f64 };
    Roofline { memory_bytes, intensity, bounds }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, device, grid, block, shared_bytes, instructions, .. } = self;
        let [gx, gy, gz] = grid;
        let [bx, by, bz] = block;
        writeln!(f, "{kernel} on {} ({})", device.target, device.product)?;
        writeln!(
            f,
            "  {gx} x {gy} x {gz} CTAs of {bx} x {by} x {bz} threads, {shared_bytes} bytes of shared memory"
        )?;
        let mean = instructions.lanes as f64 / (instructions.warps.max(1)) as f64;
        writeln!(
            f,
            "\ninstructions: {} by warps, {} by lanes, {mean:.1} lanes active",
            instructions.warps, instructions.lanes
        )?;
        for Mix { opcode, count } in &self.mix {
            writeln!(f, "  {:>12} {:>14}  {opcode}", count.warps, count.lanes)?;
        }
        self.write_memory(f)?;
        self.write_limits(f)
    }
}

impl Profile {
    fn write_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nmemory")?;
        for MemoryUse { space, requests } in &self.memory {
            let Requests { requests, bytes, sectors, wavefronts, conflicts } = requests;
            write!(f, "  {space:<16} {requests} requests, {bytes} bytes")?;
            if *sectors > 0 {
                let each = *sectors as f64 / (*requests).max(1) as f64;
                write!(f, ", {sectors} sectors, {each:.2} per request")?;
            }
            if *wavefronts > 0 {
                write!(f, ", {wavefronts} wavefronts, {conflicts} of them bank conflicts")?;
            }
            writeln!(f)?;
        }
        let conflicts = self.requests.iter().filter(|line| line.requests.conflicts > 0);
        for RequestUse { line, text, requests, .. } in conflicts {
            let Requests { requests, conflicts, .. } = requests;
            writeln!(
                f,
                "  line {line}: {conflicts} bank conflicts in {requests} requests: {text}"
            )?;
        }
        Ok(())
    }

    fn write_limits(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Occupancy { ctas, warps, share, limit, registers } = self.occupancy;
        let limit = match limit {
            Limit::Ctas => "the slots for CTAs",
            Limit::Warps => "the slots for warps",
            Limit::Registers => "registers",
            Limit::Shared => "shared memory",
        };
        let assumed = match registers {
            Some(registers) => format!("{registers} registers a thread"),
            None => "registers left out of account".to_owned(),
        };
        let percent = 100.0 * share;
        writeln!(
            f,
            "\noccupancy: {ctas} CTAs, {warps} warps ({percent:.0} %), limited by {limit}; {assumed}"
        )?;
        let Roofline { memory_bytes, intensity, bounds } = &self.roofline;
        writeln!(
            f,
            "roofline: {memory_bytes} bytes touched, {intensity:.2} operations per byte; at least"
        )?;
        for Bound { what, seconds } in bounds {
            writeln!(f, "  {:>12.3} us for {what}", seconds * 1e6)?;
        }
        Ok(())
    }
}
