//! On a GPU everything is a launch: products, attention and copies become generated kernels.
//!
//! # Invariants
//! - Afterwards every step is a launch or a collective, in the order of the steps it came from and with their nodes.
//! - Equal problems share a kernel, across layers and entries.
//! - What a step's launches hand each other lies in the arena behind what the layout placed; steps
//!   share that place, so a runtime that overlaps steps keeps them apart.

use std::collections::BTreeMap;

use perilune_kernels::{Argument, Part, Problem, parts};
use perilune_plan as plan;
use plan::{DType, GPU_ALIGN, KernelDecl};

use super::broken;
use crate::diagnostic::InternalError;

/// Gives a problem's kernel under a name.
pub type Generate<'a> = dyn FnMut(&Problem, String) -> Result<KernelDecl, InternalError> + 'a;

/// Replaces every step that is neither a launch nor a collective.
///
/// # Errors
/// When there is no kernel for a step.
pub(crate) fn run(plan: &mut plan::Plan, generate: &mut Generate<'_>) -> Result<(), InternalError> {
    let mut kernels = Kernels { known: Vec::new(), names: BTreeMap::new(), generate };
    let plan::Plan { entries, kernels: list, .. } = plan;
    for entry in entries {
        let mut scratch = Scratch::new(entry);
        let mut steps = Vec::with_capacity(entry.steps.len());
        for step in std::mem::take(&mut entry.steps) {
            if matches!(step.op, plan::StepOp::Launch(_) | plan::StepOp::Collective(_)) {
                steps.push(step);
                continue;
            }
            let buffers = &entry.buffers;
            let parts = parts(&step.op, &|n| {
                let buffer = &buffers[n as usize];
                (buffer.dtype, buffer.elems)
            });
            scratch.begin();
            for part in parts {
                let kernel = kernels.of(&part.problem, list)?;
                let args = scratch.arguments(entry, &part)?;
                if list[kernel as usize].blocks > 0 {
                    let op = plan::StepOp::Launch(plan::Launch { kernel, args });
                    let (nodes, only) = (step.nodes.clone(), step.only.clone());
                    steps.push(plan::Step { op, nodes, only });
                }
            }
        }
        entry.steps = steps;
        entry.arena_bytes = scratch.end;
    }
    Ok(())
}

/// The generated kernels.
struct Kernels<'a, 'b> {
    known: Vec<(Problem, u32)>,
    /// How often a name's stem was used.
    names: BTreeMap<String, u32>,
    generate: &'a mut Generate<'b>,
}

impl Kernels<'_, '_> {
    /// The plan's number of a problem's kernel.
    fn of(&mut self, problem: &Problem, list: &mut Vec<KernelDecl>) -> Result<u32, InternalError> {
        if let Some((_, number)) = self.known.iter().find(|(p, _)| p == problem) {
            return Ok(*number);
        }
        let stem = problem.stem();
        let uses = self.names.entry(stem.clone()).or_default();
        *uses += 1;
        let name = if *uses == 1 { stem } else { format!("{stem}_v{uses}") };
        let decl = (self.generate)(problem, name)?;
        let number = list.len() as u32;
        list.push(decl);
        self.known.push((problem.clone(), number));
        Ok(number)
    }
}

/// Memory that the launches of one step hand each other.
struct Scratch {
    begin: u64,
    /// End of the arena.
    end: u64,
    /// Buffers of the step's scratches.
    buffers: Vec<u32>,
}

impl Scratch {
    fn new(entry: &plan::Entry) -> Self {
        let begin = entry.arena_bytes.next_multiple_of(GPU_ALIGN);
        Scratch { begin, end: entry.arena_bytes, buffers: Vec::new() }
    }

    /// Forgets the step before.
    fn begin(&mut self) {
        self.buffers.clear();
    }

    /// The buffers a part's launch passes.
    fn arguments(
        &mut self,
        entry: &mut plan::Entry,
        part: &Part,
    ) -> Result<Vec<u32>, InternalError> {
        let reach = part.problem.reach();
        let mut args = Vec::with_capacity(part.arguments.len());
        for (argument, elems) in part.arguments.iter().zip(reach) {
            args.push(match argument {
                Argument::Buffer(n) => *n,
                Argument::Scratch(n) => self.buffer(entry, *n as usize, elems)?,
            });
        }
        Ok(args)
    }

    fn buffer(
        &mut self,
        entry: &mut plan::Entry,
        n: usize,
        elems: u64,
    ) -> Result<u32, InternalError> {
        if let Some(known) = self.buffers.get(n) {
            return match entry.buffers[*known as usize].elems == elems {
                true => Ok(*known),
                false => Err(broken("launches of a step see different extents of a scratch")),
            };
        }
        if n != self.buffers.len() {
            return Err(broken("the scratches of a step are numbered in order"));
        }
        let bytes_before: u64 = self
            .buffers
            .iter()
            .map(|b| (entry.buffers[*b as usize].elems * 4).next_multiple_of(GPU_ALIGN))
            .sum();
        let offset = self.begin + bytes_before;
        self.end = self.end.max(offset + elems * 4);
        let wanted = plan::Buffer { dtype: DType::f32, elems, place: plan::Place::Arena(offset) };
        let number = match entry.buffers.iter().position(|b| *b == wanted) {
            Some(found) => found,
            None => {
                entry.buffers.push(wanted);
                entry.buffers.len() - 1
            }
        };
        self.buffers.push(number as u32);
        Ok(number as u32)
    }
}
