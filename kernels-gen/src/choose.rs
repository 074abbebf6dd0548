//! The search space of schedules and the estimate that picks one.
//!
//! The estimate is a roofline of one processor: a block's time is the longest of its products, its
//! loads from shared memory and its share of the memory bandwidth; blocks run in waves. It ranks
//! schedules, it does not predict a clock.
//!
//! # Invariants
//! - The same problem and target give the same choice; ties go to the earlier candidate.
//! - Numbers that decide are kept beside the choice.

use perilune_plan::{DType, RaggedForm};
use serde::{Deserialize, Serialize};

use crate::builder::Ty;
use crate::problem::{Problem, Work};
use crate::schedule::{Engine, Schedule, SharedLayout};
use crate::target::{Feature, Target};
use crate::{KernelError, attention, matrix};

/// A schedule with the numbers that chose it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The schedule.
    pub schedule: Schedule,
    /// Its numbers.
    pub estimate: Estimate,
    /// Schedules that were considered, this one included.
    pub considered: u32,
}

/// What a schedule is estimated to cost on a target.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Blocks of the grid.
    pub blocks: u64,
    /// Blocks that share a processor.
    pub occupancy: u32,
    /// Rounds of blocks over all processors.
    pub waves: u64,
    /// Shared memory of a block, bytes.
    pub shared_bytes: u32,
    /// Share of the multiply-adds that are asked for.
    pub useful: f64,
    /// Microseconds.
    pub microseconds: f64,
}

/// The schedule with the least estimated time.
///
/// # Errors
/// When none fits the target.
pub fn choose(problem: &Problem, target: &Target) -> Result<Choice, KernelError> {
    let all = candidates(problem, target);
    let considered = all.len() as u32;
    let mut best: Option<(Schedule, Estimate)> = None;
    for schedule in all {
        let estimate = estimate(problem, &schedule, target);
        let better = |(_, b): &(Schedule, Estimate)| estimate.microseconds < b.microseconds;
        if best.as_ref().is_none_or(better) {
            best = Some((schedule, estimate));
        }
    }
    let (schedule, estimate) = best.ok_or(KernelError::NoSchedule(target.name))?;
    Ok(Choice { schedule, estimate, considered })
}

/// Tiles of a product on CUDA cores: rows, columns, contracted, warps along rows and columns.
const FMA_TILES: [([u32; 3], [u32; 2]); 6] = [
    ([128, 128, 16], [2, 4]),
    ([128, 64, 16], [2, 2]),
    ([64, 128, 16], [1, 4]),
    ([64, 64, 16], [2, 2]),
    ([32, 64, 16], [1, 4]),
    ([32, 32, 16], [2, 2]),
];
/// The same on tensor cores.
const MMA_TILES: [([u32; 3], [u32; 2]); 7] = [
    ([128, 256, 32], [2, 4]),
    ([128, 128, 32], [2, 2]),
    ([128, 64, 32], [2, 2]),
    ([64, 128, 32], [2, 2]),
    ([64, 64, 32], [2, 2]),
    ([32, 64, 32], [1, 4]),
    ([32, 32, 32], [2, 2]),
];
/// Stages of a ring.
const STAGES: [u32; 3] = [2, 3, 4];
/// Tiles of attention: positions that a block owns, and positions it walks over at a time.
const ATTENTION_TILES: [[u32; 2]; 4] = [[64, 64], [64, 32], [32, 32], [16, 16]];

/// Every schedule of the search space that fits, in a fixed order.
pub fn candidates(problem: &Problem, target: &Target) -> Vec<Schedule> {
    match &problem.work {
        Work::Contract(_) | Work::Ragged(_) => matrix_candidates(problem, target),
        Work::Attention(_) | Work::GradQueries(_) | Work::GradKeys(_) => {
            attention_candidates(problem, target)
        }
        Work::MaxLogit { .. } | Work::GradDelta(_) => {
            vec![Schedule::Elements { threads: 128, vector: 1 }]
        }
        Work::Copy { elems } => {
            let bytes = problem.dtypes[0].bytes();
            let fits = |v: &u64| v * bytes <= 16 && elems.is_multiple_of(*v);
            let vector = [16, 8, 4, 2, 1].into_iter().find(fits).unwrap_or(1);
            vec![Schedule::Elements { threads: 256, vector: vector as u32 }]
        }
    }
}

/// Who can multiply operands of these types.
fn engine(operands: &[DType], target: &Target) -> Engine {
    let narrow = matches!(operands[0], DType::bf16 | DType::f16);
    let alike = operands.iter().all(|d| *d == operands[0]);
    match narrow && alike && target.features.contains(&Feature::MmaBf16) {
        true => Engine::Mma,
        false => Engine::Fma,
    }
}

fn matrix_candidates(problem: &Problem, target: &Target) -> Vec<Schedule> {
    let engine = engine(&problem.dtypes[..2], target);
    let tiles: &[([u32; 3], [u32; 2])] =
        if engine == Engine::Mma { &MMA_TILES } else { &FMA_TILES };
    let symmetric = matches!(&problem.work, Work::Contract(c) if c.symmetric);
    let mut found = Vec::new();
    for (tile, warps) in tiles {
        if symmetric && tile[0] != tile[1] {
            continue;
        }
        for stages in STAGES {
            let (tile, warps) = (*tile, *warps);
            let layout = SharedLayout::Padded;
            let schedule = Schedule::Matrix { engine, tile, warps, stages, layout };
            if shared_bytes(problem, &schedule) <= target.block_shared_bytes {
                found.push(schedule);
            }
        }
    }
    found
}

fn attention_candidates(problem: &Problem, target: &Target) -> Vec<Schedule> {
    let (operands, forward) = match &problem.work {
        Work::Attention(_) => (problem.dtypes[..3].to_vec(), true),
        _ => ([&problem.dtypes[..3], &problem.dtypes[4..5]].concat(), false),
    };
    let engine = engine(&operands, target);
    let own_queries = !matches!(problem.work, Work::GradKeys(_));
    let mut found = Vec::new();
    for [own, other] in ATTENTION_TILES {
        // More logits of a row, its outputs and what is multiplied do not fit the registers.
        if engine == Engine::Fma && forward && other > 32 {
            continue;
        }
        let (queries, keys) = if own_queries { (own, other) } else { (other, own) };
        // A warp of the forward owns its rows; the gradients' warps share them in pairs.
        let warps = [own / 16, if forward { 1 } else { 2 }];
        let layout = SharedLayout::Padded;
        let schedule = Schedule::Attention { engine, queries, keys, warps, layout };
        if shared_bytes(problem, &schedule) <= target.block_shared_bytes {
            found.push(schedule);
        }
    }
    found
}

/// Shared memory of a block.
fn shared_bytes(problem: &Problem, schedule: &Schedule) -> u32 {
    match schedule {
        Schedule::Matrix { tile, stages, .. } => {
            let ty = |n: usize| Ty::of(problem.dtypes[n]).unwrap_or(Ty::F32);
            matrix::shared_bytes([ty(0), ty(1)], *tile, *stages)
        }
        Schedule::Attention { .. } => attention::shared_bytes(problem, schedule),
        Schedule::Elements { .. } => 0,
    }
}

/// Sizes of the block's work that a schedule fixes.
#[derive(Default)]
struct Sizes {
    blocks: u64,
    /// Multiply-adds of a block, padding included.
    products: f64,
    /// Bytes of a block from and to memory.
    memory: f64,
    /// Bytes of a block from shared memory.
    shared: f64,
    /// Trips of a block's loop.
    trips: f64,
    /// Multiply-adds that are asked for, of all blocks.
    asked: f64,
}

/// What a schedule costs.
pub fn estimate(problem: &Problem, schedule: &Schedule, target: &Target) -> Estimate {
    let sizes = sizes(problem, schedule);
    let shared_bytes = shared_bytes(problem, schedule);
    let threads = schedule.threads();
    let registers = registers(schedule);
    let occupancy = target.occupancy(threads, registers, shared_bytes).max(1);
    let processors = u64::from(target.processors);
    let at_once = processors * u64::from(occupancy);
    let waves = sizes.blocks.div_ceil(at_once);
    let rate = f64::from(match engine_of(schedule) {
        Engine::Fma => target.fma_per_clock,
        Engine::Mma => target.mma_per_clock,
    });
    // What a wave's blocks share of a processor, and of the memory.
    let sharing = (sizes.blocks.div_ceil(processors)).min(u64::from(occupancy)).max(1) as f64;
    let per_clock = target.memory_gb_per_s / target.clock_ghz / f64::from(target.processors);
    let warps = f64::from(threads / 32) * sharing;
    let busy = warps / (warps + idle_warps(schedule));
    let compute = sizes.products * sharing / (rate * busy);
    let shared = sizes.shared * sharing / f64::from(target.shared_bytes_per_clock);
    let memory = sizes.memory * sharing / per_clock;
    let clocks = compute.max(shared).max(memory) + sizes.trips * trip_clocks(schedule) + 1500.0;
    let padded = sizes.products * sizes.blocks as f64;
    let useful = if padded > 0.0 { (sizes.asked / padded).min(1.0) } else { 1.0 };
    let microseconds = waves as f64 * clocks / (target.clock_ghz * 1e3);
    Estimate { blocks: sizes.blocks, occupancy, waves, shared_bytes, useful, microseconds }
}

fn engine_of(schedule: &Schedule) -> Engine {
    match schedule {
        Schedule::Matrix { engine, .. } | Schedule::Attention { engine, .. } => *engine,
        Schedule::Elements { .. } => Engine::Fma,
    }
}

/// Warps that keep half of a processor busy: fewer, the more independent sums each has.
fn idle_warps(schedule: &Schedule) -> f64 {
    match schedule {
        Schedule::Matrix { engine, tile, .. } => {
            let sums = f64::from(tile[0] * tile[1] / schedule.threads());
            let enough = if *engine == Engine::Mma { 512.0 } else { 256.0 };
            (enough / sums.max(1.0)).min(24.0)
        }
        Schedule::Attention { .. } | Schedule::Elements { .. } => 8.0,
    }
}

/// Bytes that a product of `edges` by `warps` loads from shared memory per contracted element.
/// `ldmatrix` moves what it needs; on CUDA cores lanes load what their neighbours load too.
fn shared_per_k(engine: Engine, edges: [f64; 2], warps: [f64; 2], bytes: [f64; 2]) -> f64 {
    let (rows, columns) = (edges[0] * warps[1], edges[1] * warps[0]);
    match engine {
        Engine::Mma => rows * bytes[0] + columns * bytes[1],
        Engine::Fma => 128.0 * (rows / 8.0 + columns / 4.0),
    }
}

/// Clocks of a trip that nothing hides: a barrier, and the wait for a copy that fewer stages bring
/// closer.
fn trip_clocks(schedule: &Schedule) -> f64 {
    match schedule {
        Schedule::Matrix { stages, .. } => 40.0 + 400.0 / f64::from(stages * stages),
        Schedule::Attention { .. } => 600.0,
        Schedule::Elements { .. } => 0.0,
    }
}

/// Registers of a thread, roughly: accumulators, fragments and addresses.
fn registers(schedule: &Schedule) -> u32 {
    match schedule {
        Schedule::Matrix { tile, .. } => 56 + 3 * tile[0] * tile[1] / (2 * schedule.threads()),
        Schedule::Attention { .. } => 200,
        Schedule::Elements { .. } => 32,
    }
}

fn sizes(problem: &Problem, schedule: &Schedule) -> Sizes {
    match (schedule, &problem.work) {
        (Schedule::Matrix { engine, tile, warps, .. }, Work::Contract(_) | Work::Ragged(_)) => {
            matrix_sizes(problem, *engine, (*tile, warps.map(f64::from)))
        }
        (Schedule::Attention { engine, queries, keys, warps, .. }, _) => {
            attention_sizes(problem, *engine, ([*queries, *keys], warps.map(f64::from)))
        }
        _ => {
            let moved: u64 =
                problem.reach().iter().zip(&problem.dtypes).map(|(n, d)| n * d.bytes()).sum();
            let blocks = problem.reach()[0].div_ceil(u64::from(schedule.threads())).max(1);
            let memory = moved as f64 / blocks as f64;
            Sizes { blocks, memory, ..Sizes::default() }
        }
    }
}

fn matrix_sizes(problem: &Problem, engine: Engine, (tile, warps): ([u32; 3], [f64; 2])) -> Sizes {
    let [tm, tn, tk] = tile.map(u64::from);
    let bytes = [problem.dtypes[0], problem.dtypes[1]].map(|d| d.bytes() as f64);
    let result = problem.dtypes.last().map_or(4, |d| d.bytes()) as f64;
    let (blocks, depth) = match &problem.work {
        Work::Contract(c) => {
            let batch: u64 = c.batch.iter().map(|l| l.extent).product();
            let sums: u64 = c.sum.iter().map(|l| l.extent).product();
            let grid = [c.m.extent.div_ceil(tm), c.n.extent.div_ceil(tn)];
            let each = if c.symmetric { grid[0] * (grid[0] + 1) / 2 } else { grid[0] * grid[1] };
            (batch * each, sums * c.k.extent.next_multiple_of(tk))
        }
        Work::Ragged(r) => match r.form {
            RaggedForm::Rows => {
                let slots = r.rows.div_ceil(tm) + r.groups / 2;
                (slots * r.n.div_ceil(tn), r.k.next_multiple_of(tk))
            }
            RaggedForm::Outer => {
                let grid = r.groups * r.k.div_ceil(tm) * r.n.div_ceil(tn);
                (grid, (r.rows / r.groups.max(1)).next_multiple_of(tk))
            }
        },
        Work::Attention(_)
        | Work::MaxLogit { .. }
        | Work::GradDelta(_)
        | Work::GradQueries(_)
        | Work::GradKeys(_)
        | Work::Copy { .. } => (0, 0),
    };
    let (depth, edges) = (depth as f64, [tm as f64, tn as f64]);
    // Half of what blocks read is shared with others through the second-level cache.
    let operands = (edges[0] * bytes[0] + edges[1] * bytes[1]) * depth * 0.5;
    let shared = depth * shared_per_k(engine, edges, warps, bytes);
    Sizes {
        blocks,
        products: edges[0] * edges[1] * depth,
        memory: operands + edges[0] * edges[1] * result,
        shared,
        trips: depth / tk as f64,
        asked: problem.flops() as f64 / 2.0,
    }
}

fn attention_sizes(
    problem: &Problem,
    engine: Engine,
    ([queries, keys], warps): ([u32; 2], [f64; 2]),
) -> Sizes {
    let shape = match &problem.work {
        Work::Attention(a) => a.shape,
        Work::GradQueries(a) | Work::GradKeys(a) => a.shape,
        Work::Contract(_)
        | Work::Ragged(_)
        | Work::MaxLogit { .. }
        | Work::GradDelta(_)
        | Work::Copy { .. } => return Sizes::default(),
    };
    let [queries, keys] = [queries, keys].map(u64::from);
    let by_keys = matches!(problem.work, Work::GradKeys(_));
    let (own, other, matrices) = match by_keys {
        true => (shape.seq_kv.div_ceil(keys), shape.seq_q.div_ceil(queries), shape.kv_heads),
        false => (shape.seq_q.div_ceil(queries), shape.seq_kv.div_ceil(keys), shape.heads),
    };
    let group = if by_keys { shape.heads / shape.kv_heads.max(1) } else { 1 };
    let visible = if shape.causal { 0.5 } else { 1.0 };
    let trips = (other * group) as f64 * visible;
    let asked = problem.flops() as f64 / 2.0;
    let pairs = shape.batch * shape.heads * shape.seq_q * shape.seq_kv;
    let per_pair = asked / (visible * pairs.max(1) as f64);
    let step = if by_keys { queries } else { keys };
    let edges = if by_keys { [keys as f64, queries as f64] } else { [queries as f64, keys as f64] };
    let bytes = problem.dtypes[0].bytes() as f64;
    let width = (shape.qk_dim + shape.v_dim) as f64;
    Sizes {
        blocks: shape.batch * matrices * own,
        products: trips * edges[0] * edges[1] * per_pair,
        memory: trips * step as f64 * width * bytes * 0.5,
        shared: trips * per_pair * shared_per_k(engine, edges, warps, [bytes; 2]),
        trips,
        asked,
    }
}
