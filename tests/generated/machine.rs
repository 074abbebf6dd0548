//! A plan step's launches in the virtual machine.

use half::{bf16, f16};
use perilune_compiler::lower::{Generated, Target, lower_generated};
use perilune_compiler::mlir::Mlir;
use perilune_kernels::{Argument, Choice, Part, Schedule, candidates, estimate, parts};
use perilune_plan::{DType, StepOp};
use perilune_ptx_vm::{Checks, Extents, Machine, Memory, Module, Options};

/// A buffer of a step: numbers as its type holds them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Buffer {
    pub(crate) dtype: DType,
    pub(crate) values: Vec<f64>,
}

impl Buffer {
    /// Numbers rounded to a type.
    pub(crate) fn new(dtype: DType, values: impl IntoIterator<Item = f64>) -> Self {
        let values = values.into_iter().map(|v| round(dtype, v)).collect();
        Buffer { dtype, values }
    }

    /// Reproducible numbers in −1..1.
    pub(crate) fn random(dtype: DType, elems: u64, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        let next = move |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f64 / f64::from(1u32 << 23) - 1.0
        };
        Buffer::new(dtype, (0..elems).map(next))
    }

    /// What a result holds before: a number no kernel computes by chance.
    pub(crate) fn untouched(dtype: DType, elems: u64) -> Self {
        Buffer::new(dtype, (0..elems).map(|_| 7.0))
    }

    fn bytes(&self) -> Vec<u8> {
        let of = |v: &f64| match self.dtype {
            DType::f32 => (*v as f32).to_le_bytes().to_vec(),
            DType::i32 => (*v as i32).to_le_bytes().to_vec(),
            DType::bf16 => bf16::from_f64(*v).to_le_bytes().to_vec(),
            DType::f16 => f16::from_f64(*v).to_le_bytes().to_vec(),
            DType::f64 | DType::i1 => panic!("no generated kernel takes {}", self.dtype),
        };
        self.values.iter().flat_map(of).collect()
    }

    fn read(&mut self, bytes: &[u8]) {
        let width = self.dtype.bytes() as usize;
        for (value, raw) in self.values.iter_mut().zip(bytes.chunks_exact(width)) {
            *value = match (self.dtype, raw) {
                (DType::f32, [a, b, c, d]) => f64::from(f32::from_le_bytes([*a, *b, *c, *d])),
                (DType::i32, [a, b, c, d]) => f64::from(i32::from_le_bytes([*a, *b, *c, *d])),
                (DType::bf16, [a, b]) => bf16::from_le_bytes([*a, *b]).to_f64(),
                (DType::f16, [a, b]) => f16::from_le_bytes([*a, *b]).to_f64(),
                _ => panic!("no generated kernel takes {}", self.dtype),
            };
        }
    }
}

fn round(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::f32 => f64::from(value as f32),
        DType::bf16 => bf16::from_f64(value).to_f64(),
        DType::f16 => f16::from_f64(value).to_f64(),
        DType::f64 | DType::i32 | DType::i1 => value,
    }
}

/// Which schedules of a part are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedules {
    /// The one that would be chosen.
    Chosen,
    /// The one of each tile with the fewest stages.
    EveryTile,
}

/// Runs a step in the machine and compares every buffer with what `expected` holds after it.
pub(crate) fn check(
    op: &StepOp,
    before: &[Buffer],
    expected: &[Buffer],
    (schedules, tolerance): (Schedules, f64),
) {
    let parts = parts(op, &|n| {
        let buffer = &before[n as usize];
        (buffer.dtype, buffer.values.len() as u64)
    });
    let target = perilune_kernels::Target::named("sm_90a").expect("a chip");
    let rounds = match schedules {
        Schedules::Chosen => 1,
        Schedules::EveryTile => {
            parts.iter().map(|p| tiles(p, target).len()).max().unwrap_or_default()
        }
    };
    let mlir = Mlir::new();
    for round in 0..rounds {
        let mut run = Run { mlir: &mlir, buffers: before.to_vec(), scratch: Vec::new() };
        for part in &parts {
            let schedule = match schedules {
                Schedules::Chosen => {
                    perilune_kernels::choose(&part.problem, target).expect("a schedule").schedule
                }
                Schedules::EveryTile => {
                    let all = tiles(part, target);
                    all[round.min(all.len() - 1)].clone()
                }
            };
            run.launch(part, schedule);
        }
        compare(op, &run.buffers, expected, tolerance);
    }
}

/// The candidates of a part, one for each tile.
fn tiles(part: &Part, target: &perilune_kernels::Target) -> Vec<Schedule> {
    let mut found: Vec<Schedule> = Vec::new();
    for schedule in candidates(&part.problem, target) {
        let same = |other: &Schedule| match (other, &schedule) {
            (Schedule::Matrix { tile: a, .. }, Schedule::Matrix { tile: b, .. }) => a == b,
            (a, b) => a == b,
        };
        if !found.iter().any(same) {
            found.push(schedule);
        }
    }
    found
}

struct Run<'a> {
    mlir: &'a Mlir,
    buffers: Vec<Buffer>,
    scratch: Vec<Buffer>,
}

impl Run<'_> {
    fn launch(&mut self, part: &Part, schedule: Schedule) {
        let problem = &part.problem;
        for (argument, elems) in part.arguments.iter().zip(problem.reach()) {
            if let Argument::Scratch(n) = argument
                && *n as usize == self.scratch.len()
            {
                self.scratch.push(Buffer::untouched(DType::f32, elems));
            }
        }
        let chip = perilune_kernels::Target::named("sm_90a").expect("a chip");
        let estimate = estimate(problem, &schedule, chip);
        let shown = format!("{schedule:?} of {:?}", problem.work);
        let choice = Choice { schedule, estimate, considered: 1 };
        let generated = Generated { name: "kernel".to_owned(), problem: problem.clone(), choice };
        let lowered = lower_generated(self.mlir, &generated, Target::Sm90a)
            .unwrap_or_else(|e| panic!("{shown}: {e}\n{}", e.reproducer));
        if lowered.blocks == 0 {
            return;
        }
        let mut memory = Memory::default();
        let all = || self.buffers.iter().chain(&self.scratch);
        let addresses: Vec<u64> = all()
            .enumerate()
            .map(|(i, b)| memory.allocate(&i.to_string(), &b.bytes()).expect("memory"))
            .collect();
        let place = |a: &Argument| match a {
            Argument::Buffer(n) => *n as usize,
            Argument::Scratch(n) => self.buffers.len() + *n as usize,
        };
        let params: Vec<u8> =
            part.arguments.iter().flat_map(|a| addresses[place(a)].to_le_bytes()).collect();
        let module = Module::parse(&lowered.text).unwrap_or_else(|e| panic!("{shown}: {e}"));
        let extents = Extents {
            grid: [lowered.blocks as u32, 1, 1],
            block: [lowered.threads, 1, 1],
            cluster: None,
            shared_bytes: lowered.shared.dynamic_bytes,
        };
        let options = Options { checks: Checks::all(), threads: 1, ..Options::default() };
        let outcome = Machine::run_with(&module, "kernel", extents, (params, memory), &options)
            .unwrap_or_else(|e| panic!("{shown}: {e}"));
        assert!(outcome.findings.is_empty(), "{shown}: {:#?}", outcome.findings);
        assert!(outcome.completed, "{shown}");
        for (i, buffer) in self.buffers.iter_mut().chain(&mut self.scratch).enumerate() {
            let bytes = outcome.buffer(&i.to_string()).expect("a buffer");
            buffer.read(&bytes);
        }
    }
}

/// Every element within `tolerance` of the largest of its buffer; infinities and NaN as they are.
fn compare(op: &StepOp, got: &[Buffer], expected: &[Buffer], tolerance: f64) {
    for (n, (got, want)) in got.iter().zip(expected).enumerate() {
        let finite = want.values.iter().filter(|v| v.is_finite());
        let largest = finite.map(|v| v.abs()).fold(1e-3, f64::max);
        for (i, (a, b)) in got.values.iter().zip(&want.values).enumerate() {
            let same = a == b || (a.is_nan() && b.is_nan());
            let near = (a - b).abs() <= tolerance * largest;
            assert!(same || near, "buffer {n}, element {i}: {a} instead of {b}\n{op:?}");
        }
    }
}
