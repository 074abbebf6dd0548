//! Program to plan: calls become steps, kernels become text, slots become buffers.
//!
//! # Invariants
//! - Every kernel is lowered once, however many entries and layers launch it.
//! - Operands of contractions and attention that are views (slices, reshapes, permutations,
//!   broadcasts) become strides; nothing is copied for them.
//! - The plan is a function of the program: same program, same plan.

mod contract;
mod dialect;
mod launches;

use std::collections::HashMap;

use indexmap::IndexSet;
use perilune_plan as plan;

use crate::diagnostic::InternalError;
use crate::lower::Target;
use crate::passes::bufferise::is_alias;
use crate::program::{
    ArgKind, Call, DialectOp, EntryFn, Kernel, OpKind, Place, Program, ResultTarget, Slot, V,
};
use crate::types::Type;
pub use launches::Generate;

/// Gives a loop kernel's lowered form; with rows, the form with one block for each of them.
pub type Lower<'a> =
    dyn FnMut(&Kernel, Option<u64>) -> Result<plan::KernelDecl, InternalError> + 'a;

/// Makes the plan; `text` lowers a loop kernel.
///
/// # Errors
/// When an earlier pass broke an invariant (no layout, a kernel of no known class).
pub fn build(
    program: &Program,
    target: Target,
    text: &mut Lower,
) -> Result<plan::Plan, InternalError> {
    let mut cx = Planner {
        program,
        epilogues: target.runs_epilogues(),
        nodes: IndexSet::new(),
        kernels: Vec::new(),
        numbers: HashMap::new(),
        text,
    };
    let tensors = persistent(program);
    let entries =
        program.entries.iter().map(|e| cx.entry(e, &tensors)).collect::<Result<_, _>>()?;
    Ok(plan::Plan {
        format: plan::FORMAT_VERSION,
        name: program.name.clone(),
        target: target.name().to_owned(),
        mesh: program.mesh.clone(),
        machine: program.machine.clone(),
        tensors: tensors.into_iter().collect(),
        kernels: cx.kernels,
        entries,
        nodes: cx.nodes.into_iter().collect(),
    })
}

/// Makes the plan of a GPU: every step is a launch. `text` lowers a loop kernel, `generate` gives
/// the kernel of a problem under a name.
///
/// # Errors
/// As [`build`], and when there is no kernel for a step.
pub fn build_gpu(
    program: &Program,
    target: Target,
    text: &mut Lower,
    generate: &mut Generate<'_>,
) -> Result<plan::Plan, InternalError> {
    let mut plan = build(program, target, text)?;
    launches::run(&mut plan, generate)?;
    Ok(plan)
}

/// What a kernel becomes.
enum Class<'a> {
    Alias,
    Loops,
    Contract(usize),
    Dialect(&'a DialectOp, usize),
}

fn classify(kernel: &Kernel) -> Class<'_> {
    if is_alias(kernel) {
        return Class::Alias;
    }
    let step = kernel.ops.iter().enumerate().find_map(|(i, op)| match &op.kind {
        OpKind::Contract(_) => Some(Class::Contract(i)),
        OpKind::Dialect(d) => match d {
            DialectOp::Attention { .. }
            | DialectOp::AttentionGrad { .. }
            | DialectOp::RaggedRows { .. }
            | DialectOp::RaggedOuter
            | DialectOp::Collective(_) => Some(Class::Dialect(d, i)),
            DialectOp::TopK { .. }
            | DialectOp::ArgSort { .. }
            | DialectOp::Histogram { .. }
            | DialectOp::CumSum { .. }
            | DialectOp::ScatterAdd { .. } => None,
        },
        OpKind::Generic(_)
        | OpKind::Slice(_)
        | OpKind::Concat(_)
        | OpKind::Pad { .. }
        | OpKind::Reshape
        | OpKind::Constant(_) => None,
    });
    step.unwrap_or(Class::Loops)
}

/// Persistent tensors of all entries, in order of first appearance.
fn persistent(program: &Program) -> Vec<plan::TensorDecl> {
    let mut seen = IndexSet::new();
    let mut tensors = Vec::new();
    for arg in program.entries.iter().flat_map(|e| &e.args) {
        let kind = match arg.kind {
            ArgKind::Param => plan::TensorKind::Param,
            ArgKind::Buffer => plan::TensorKind::Buffer,
            ArgKind::State => plan::TensorKind::State,
            ArgKind::Feed => continue,
        };
        if seen.insert(arg.name.as_str()) {
            let (dtype, shape) = (arg.ty.dtype, arg.ty.shape.clone());
            let (name, shard, owner) = (arg.name.clone(), arg.shard.clone(), arg.owner.clone());
            tensors.push(plan::TensorDecl { name, dtype, shape, kind, shard, owner });
        }
    }
    tensors
}

struct Planner<'a> {
    program: &'a Program,
    nodes: IndexSet<String>,
    kernels: Vec<plan::KernelDecl>,
    /// Whether contractions run epilogues; if not, they are steps of their own.
    epilogues: bool,
    /// Plan index of each program kernel lowered so far, and of how many rows it has blocks.
    numbers: HashMap<(u32, Option<u64>), u32>,
    text: &'a mut Lower<'a>,
}

impl Planner<'_> {
    fn entry(
        &mut self,
        entry: &EntryFn,
        tensors: &[plan::TensorDecl],
    ) -> Result<plan::Entry, InternalError> {
        let layout = entry.layout.as_ref();
        let layout =
            layout.ok_or_else(|| broken(&format!("entry `{}` has no layout", entry.name)))?;
        let mut buffers = Buffers::new(entry, &self.program.kernels, &layout.places, tensors);
        let mut steps: Vec<plan::Step> = Vec::new();
        let mut first_step = Vec::with_capacity(entry.calls.len() + 1);
        let mut flying = Vec::new();
        for call in &entry.calls {
            first_step.push(steps.len() as u32);
            flying.extend(call.until.map(|until| (steps.len(), until)));
            let Some(op) = self.step(call, &mut buffers)? else { continue };
            let nodes: Vec<u32> =
                call.nodes.iter().map(|n| self.nodes.insert_full(n.clone()).0 as u32).collect();
            match (self.rows(call), op, steps.last_mut()) {
                (Some(rows), plan::StepOp::Launch(launch), Some(before)) => {
                    attach(before, launch, rows)?;
                    before.nodes.extend(nodes);
                }
                (_, op, _) => steps.push(plan::Step { op, nodes, only: call.only.clone() }),
            }
        }
        first_step.push(steps.len() as u32);
        for (step, call) in flying {
            if let plan::StepOp::Collective(c) = &mut steps[step].op {
                let until = first_step[call as usize];
                c.until = Some(until).filter(|until| *until as usize > step + 1);
            }
        }
        let fetches = buffers.results(entry, &mut steps, &mut self.nodes);
        let feeds = entry.args.iter().filter(|a| a.kind == ArgKind::Feed);
        let feeds = feeds.map(|a| plan::FeedDecl {
            name: a.name.clone(),
            dtype: a.ty.dtype,
            shape: a.ty.shape.clone(),
            shard: a.shard.clone(),
        });
        Ok(plan::Entry {
            name: entry.name.clone(),
            feeds: feeds.collect(),
            fetches,
            arena_bytes: layout.arena_bytes,
            buffers: buffers.list.into_iter().collect(),
            steps,
        })
    }

    /// Rows of the contraction that a call is an epilogue of, where it runs as one.
    fn rows(&self, call: &Call) -> Option<u64> {
        call.epilogue.filter(|_| self.epilogues)
    }

    fn step(
        &mut self,
        call: &Call,
        buffers: &mut Buffers,
    ) -> Result<Option<plan::StepOp>, InternalError> {
        let program = self.program;
        let kernel = &program.kernels[call.kernel as usize];
        let args: Vec<u32> = call.args.iter().map(|s| buffers.of(*s)).collect();
        let results: Vec<Slot> = call.results(&program.kernels).collect();
        Ok(match classify(kernel) {
            Class::Alias => None,
            Class::Loops => {
                let written = results.iter().map(|s| buffers.of(*s));
                let args = args.iter().copied().chain(written).collect();
                let kernel = self.kernel(call.kernel, self.rows(call))?;
                Some(plan::StepOp::Launch(plan::Launch { kernel, args }))
            }
            Class::Contract(op) => {
                let c = buffers.of(results[0]);
                Some(plan::StepOp::Contract(contract::contract(kernel, op, &args, c)?))
            }
            Class::Dialect(op, at) => {
                let used = |s: &Slot| buffers.read[s.0 as usize];
                let wanted: Vec<bool> = results.iter().map(used).collect();
                let results: Vec<u32> = results.iter().map(|s| buffers.of(*s)).collect();
                let step = dialect::Step {
                    kernel,
                    op: &kernel.ops[at],
                    args: &args,
                    results: &results,
                    wanted: &wanted,
                };
                Some(step.lower(op)?)
            }
        })
    }

    fn kernel(&mut self, number: u32, rows: Option<u64>) -> Result<u32, InternalError> {
        if let Some(n) = self.numbers.get(&(number, rows)) {
            return Ok(*n);
        }
        let decl = (self.text)(&self.program.kernels[number as usize], rows)?;
        self.kernels.push(decl);
        let n = self.kernels.len() as u32 - 1;
        self.numbers.insert((number, rows), n);
        Ok(n)
    }
}

/// Hangs an epilogue on the contraction before it, whose result has this many rows.
fn attach(before: &mut plan::Step, launch: plan::Launch, rows: u64) -> Result<(), InternalError> {
    let (epilogue, elems) = match &mut before.op {
        plan::StepOp::Contract(c) => {
            let loops = c.batch.iter().chain([&c.m, &c.n]);
            (&mut c.epilogue, loops.map(|l| l.extent).product())
        }
        plan::StepOp::Ragged(r) => {
            let outer = match r.form {
                plan::RaggedForm::Rows => r.rows,
                plan::RaggedForm::Outer => r.groups * r.k,
            };
            (&mut r.epilogue, outer * r.n)
        }
        plan::StepOp::Launch(_)
        | plan::StepOp::Attention(_)
        | plan::StepOp::AttentionGrad(_)
        | plan::StepOp::Copy { .. }
        | plan::StepOp::Collective(_) => {
            return Err(broken("an epilogue follows something that is not a contraction"));
        }
    };
    let row: u64 = u64::checked_div(elems, rows).unwrap_or(1);
    match epilogue.replace(plan::Epilogue { launch, row }) {
        None => Ok(()),
        Some(_) => Err(broken("a contraction with two epilogues")),
    }
}

/// The buffers of an entry: one for each place and type.
struct Buffers {
    list: IndexSet<plan::Buffer>,
    types: Vec<Type>,
    slots: Vec<plan::Buffer>,
    /// Whether a slot is read by a call or given to the caller.
    read: Vec<bool>,
}

impl Buffers {
    fn new(
        entry: &EntryFn,
        kernels: &[Kernel],
        places: &[Place],
        tensors: &[plan::TensorDecl],
    ) -> Self {
        let numbers: HashMap<&str, u32> =
            tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i as u32)).collect();
        let mut feeds = 0;
        let homes: Vec<plan::Place> = entry
            .args
            .iter()
            .map(|a| match a.kind {
                ArgKind::Feed => {
                    feeds += 1;
                    plan::Place::Feed(feeds - 1)
                }
                ArgKind::Param | ArgKind::Buffer | ArgKind::State => {
                    plan::Place::Tensor(numbers[a.name.as_str()])
                }
            })
            .collect();
        let types = entry.slot_types(kernels);
        let buffer = |(ty, place): (&Type, &Place)| plan::Buffer {
            dtype: ty.dtype,
            elems: ty.elems(),
            place: match place {
                Place::Arena(offset) => plan::Place::Arena(*offset),
                Place::Arg(n) => homes[*n as usize],
            },
        };
        let slots: Vec<_> = types.iter().zip(places).map(buffer).collect();
        let mut read = vec![false; slots.len()];
        entry.calls.iter().flat_map(|c| &c.args).for_each(|s| read[s.0 as usize] = true);
        entry.results.iter().for_each(|r| read[r.value.0 as usize] = true);
        Buffers { list: IndexSet::new(), types, slots, read }
    }

    fn of(&mut self, slot: Slot) -> u32 {
        self.list.insert_full(self.slots[slot.0 as usize].clone()).0 as u32
    }

    /// Fetches, and copies of new values that could not be written in place.
    fn results(
        &mut self,
        entry: &EntryFn,
        steps: &mut Vec<plan::Step>,
        nodes: &mut IndexSet<String>,
    ) -> Vec<plan::FetchDecl> {
        let homes: HashMap<&str, usize> =
            entry.args.iter().enumerate().map(|(i, a)| (a.name.as_str(), i)).collect();
        let mut fetches = Vec::new();
        let mut copies = Vec::new();
        for result in &entry.results {
            let from = self.of(result.value);
            match &result.target {
                ResultTarget::Fetch(name) => {
                    let shape = self.types[result.value.0 as usize].shape.clone();
                    let (name, shard) = (name.clone(), result.shard.clone());
                    fetches.push(plan::FetchDecl { name, shape, buffer: from, shard });
                }
                ResultTarget::Update(name) => {
                    let Some(home) = homes.get(name.as_str()) else { continue };
                    let to = self.of(Slot(*home as u32));
                    let (from_place, to_place) =
                        (self.list[from as usize].place, self.list[to as usize].place);
                    if from_place != to_place {
                        let node = nodes.insert_full(name.clone()).0 as u32;
                        copies.push(plan::Step {
                            op: plan::StepOp::Copy { src: from, dst: to },
                            nodes: vec![node],
                            only: entry.args[*home].owner.clone(),
                        });
                    }
                }
            }
        }
        steps.extend(copies);
        fetches
    }
}

fn broken(message: &str) -> InternalError {
    InternalError::new("plan", message)
}

fn not_a_view(kernel: &Kernel, value: V) -> InternalError {
    broken(&format!(
        "operand {value:?} of `{}` is neither a parameter nor a view of one",
        kernel.name
    ))
}
