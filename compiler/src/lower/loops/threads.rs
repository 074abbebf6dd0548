//! The outer loops on a GPU: blocks to parts, threads to elements or rows.
//!
//! # Invariants
//! - Threads of a team reach every butterfly and barrier together: only indices that are equal
//!   across the team lead to one.
//! - No thread touches memory outside the extents.
//! - A result that may lie over an operand is written after the team has read that operand: a
//!   butterfly orders values, not memory.

use super::emit::{Elem, Ty, Val};
use super::index::{Index, Lin, Source};
use super::memory;
use super::pull::{LANES, Pull, Team};
use super::roots::argument_types;
use crate::diagnostic::InternalError;
use crate::lower::ptx::WARP;
use crate::lower::ptx::mapping::{Mapping, Part, THREADS};
use crate::passes::pointwise::can_overwrite;
use crate::program::Kernel;
use crate::scalar::{Binary, Cmp};

const INDEX: Ty = Ty { elem: Elem::Index, lanes: 1 };
const I32: Ty = Ty { elem: Elem::I32, lanes: 1 };
/// Memory shared by a block: one value per warp.
const SHARED: &str = "memref<8xi32, #gpu.address_space<workgroup>>";
/// Bytes of it.
pub(crate) const SHARED_BYTES: u32 = 32;

/// A kernel's body for threads.
pub(crate) struct Threads {
    /// Parameters as MLIR writes them.
    pub(crate) parameters: Vec<String>,
    /// Memory of a block, as MLIR writes it.
    pub(crate) shared: Vec<String>,
    /// Operations.
    pub(crate) body: String,
}

/// The GPU's loops of a kernel.
///
/// # Errors
/// When the kernel holds an op that has no loops.
pub(crate) fn emit_gpu(kernel: &Kernel, parts: &[Part]) -> Result<Threads, InternalError> {
    let mut pull = Pull::new(kernel)?;
    pull.emit.intrinsics = true;
    let mut first = 0;
    for part in parts.iter().filter(|p| p.blocks > 0) {
        pull.part(part, (first, parts.len() > 1))?;
        first += part.blocks;
    }
    let parameters = pull
        .memory
        .iter()
        .zip(argument_types(kernel))
        .map(|(val, ty)| format!("{val}: {}", memory::memref(ty.dtype, ty.elems())))
        .collect();
    let body = pull.emit.finish();
    let shared = if body.contains("%shared") { vec![format!("%shared: {SHARED}")] } else { vec![] };
    Ok(Threads { parameters, shared, body })
}

impl Pull<'_> {
    /// The blocks of a part, which start at `first`; `guarded` if there are other parts.
    fn part(&mut self, part: &Part, (first, guarded): (u64, bool)) -> Result<(), InternalError> {
        let mut block = self.emit.op_at(0, INDEX, "gpu.block_id x".into());
        let thread = self.emit.op_at(0, INDEX, "gpu.thread_id x".into());
        if guarded {
            let (lo, hi) = (first as i64, (first + part.blocks) as i64);
            let (lo, hi) = (self.emit.index_const(lo), self.emit.index_const(hi));
            let from = self.emit.compare(Cmp::Ge, block, lo);
            let to = self.emit.compare(Cmp::Lt, block, hi);
            let mine = self.emit.two("arith.andi", from, to);
            block = self.emit.two("arith.subi", block, lo);
            self.emit.open_if(mine);
        }
        match &part.mapping {
            Mapping::Elements { elems, vectors } => {
                self.elements(part, (block, thread), (*elems, *vectors))?;
            }
            Mapping::Rows { rows, threads } => {
                self.rows(part, (block, thread), (rows, *threads))?;
            }
        }
        if guarded {
            self.emit.close(&[]);
        }
        Ok(())
    }

    /// Each thread computes elements of its own.
    fn elements(
        &mut self,
        part: &Part,
        (block, thread): (Val, Val),
        (elems, vectors): (u64, bool),
    ) -> Result<(), InternalError> {
        let each = if vectors { i64::from(LANES) } else { 1 };
        let global = self.emit.linear(block, i64::from(THREADS), thread);
        let each_val = self.emit.index_const(each);
        let at = self.emit.two("arith.muli", global, each_val);
        let end = self.emit.index_const(elems as i64);
        let inside = self.emit.compare(Cmp::Lt, at, end);
        self.emit.open_if(inside);
        let source = match vectors {
            true => Source::Lanes(at.to_string()),
            false => Source::Uniform(at.to_string()),
        };
        let var = self.loop_var(source, 0, elems as i64 - 1, each);
        let shape = &self.ty(self.kernel.results[part.results[0]]).shape;
        let at = self.reindex(Lin::var(var), shape);
        self.store(&part.results, &[at])?;
        self.emit.close(&[]);
        Ok(())
    }

    /// Each team computes a row.
    fn rows(
        &mut self,
        part: &Part,
        (block, thread): (Val, Val),
        (rows, threads): (&[u64], u32),
    ) -> Result<(), InternalError> {
        let count: u64 = rows.iter().product();
        let teams = i64::from(THREADS / threads);
        let (row, rank) = if teams == 1 {
            (block, thread)
        } else {
            let by = self.emit.index_const(i64::from(threads));
            let number = self.emit.two("arith.divui", thread, by);
            let rank = self.emit.two("arith.remui", thread, by);
            (self.emit.linear(block, teams, number), rank)
        };
        self.team = Some(Team { rank, threads });
        let end = self.emit.index_const(count as i64);
        let inside = self.emit.compare(Cmp::Lt, row, end);
        self.emit.open_if(inside);
        let var = self.loop_var(Source::Uniform(row.to_string()), 0, count as i64 - 1, 1);
        let at = self.reindex(Lin::var(var), rows);
        let mut done: Vec<&[u64]> = Vec::new();
        for k in &part.results {
            let rest = &self.ty(self.kernel.results[*k]).shape[rows.len()..];
            if done.contains(&rest) {
                continue;
            }
            done.push(rest);
            let alike = |k: &usize| &self.ty(self.kernel.results[*k]).shape[rows.len()..] == rest;
            let results: Vec<usize> = part.results.iter().copied().filter(alike).collect();
            self.row(&results, &at, rest)?;
        }
        self.emit.close(&[]);
        self.team = None;
        Ok(())
    }

    /// What is left of a row, spread over the team.
    fn row(&mut self, results: &[usize], at: &Index, rest: &[u64]) -> Result<(), InternalError> {
        let elems: i64 = rest.iter().product::<u64>() as i64;
        let rank = self.team.map(|t| t.rank);
        if let ([], Some(rank)) = (rest, rank) {
            let zero = self.emit.index_const(0);
            let leads = self.emit.compare(Cmp::Eq, rank, zero);
            self.emit.open_if(leads);
            self.on_their_own(|pull| pull.store(results, std::slice::from_ref(at)))?;
            self.read_before_written(results);
            self.emit.close(&[]);
            return Ok(());
        }
        if elems == 0 {
            return Ok(());
        }
        let even = rest.last().is_some_and(|n| n % u64::from(LANES) == 0);
        let vectors = even && !self.scalar_only;
        let each = if vectors { i64::from(LANES) } else { 1 };
        let bounds = self.team_bounds(elems, each);
        let (iv, _) = self.emit.open_for(bounds, &[]);
        let name = iv.to_string();
        let source = if vectors { Source::Lanes(name) } else { Source::Uniform(name) };
        let var = self.loop_var(source, 0, elems - 1, each);
        let mut at = at.clone();
        at.extend(self.reindex(Lin::var(var), rest));
        self.on_their_own(|pull| pull.store(results, &[at]))?;
        self.read_before_written(results);
        self.emit.close(&[]);
        Ok(())
    }

    /// Where a result may lie over an operand: the team's threads read what they share before the
    /// scope just written, in which one of them writes, begins.
    fn read_before_written(&mut self, results: &[usize]) {
        let kernel = self.kernel;
        let over = |k: &usize| (0..kernel.params.len()).any(|p| can_overwrite(kernel, p, *k));
        let Some(team) = self.team.filter(|_| results.iter().any(over)) else { return };
        let all = self.emit.int(-1, I32);
        let aside = self.emit.set_aside(self.emit.depth() - 1);
        match team.threads > WARP {
            true => self.emit.effect("gpu.barrier"),
            false => self.emit.effect(&format!("nvvm.bar.warp.sync {all} : i32")),
        }
        self.emit.restore(aside);
    }

    /// Writes code for threads of a team that follow their own indices: from the innermost open
    /// scope inwards nothing is shared.
    pub(crate) fn on_their_own<T>(&mut self, write: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.alone_from;
        self.alone_from = before.min(self.emit.depth());
        let out = write(self);
        self.alone_from = before;
        out
    }

    /// Bounds of a loop over `0..extent` in steps, shared among the team.
    pub(crate) fn team_bounds(&mut self, extent: i64, step: i64) -> [Val; 3] {
        let extent = self.emit.index_const(extent);
        match self.team {
            None => [self.emit.index_const(0), extent, self.emit.index_const(step)],
            Some(team) => {
                let by = self.emit.index_const(step);
                let first = self.emit.two("arith.muli", team.rank, by);
                [first, extent, self.emit.index_const(step * i64::from(team.threads))]
            }
        }
    }

    /// The same bounds, moved up.
    pub(crate) fn shifted(&mut self, [lo, hi, step]: [Val; 3], by: i64) -> [Val; 3] {
        let by = self.emit.index_const(by);
        let (lo, hi) = (self.emit.two("arith.addi", lo, by), self.emit.two("arith.addi", hi, by));
        [lo, hi, step]
    }

    /// Combines a value over the threads of a team: every thread gets the result.
    pub(crate) fn across_team(&mut self, combine: Binary, val: Val) -> Val {
        let Some(team) = self.team else { return val };
        if val.ty.elem == Elem::I1 {
            let wide = self.emit.convert("arith.extui", val, Elem::I32);
            let all = self.across_team(combine, wide);
            let zero = self.emit.int(0, I32);
            return self.emit.compare(Cmp::Ne, all, zero);
        }
        let mut val = val;
        let mut distance = 1;
        while distance < team.threads.min(WARP) {
            let other = self.emit.shuffle(val, distance, WARP);
            val = self.emit.binary(combine, val, other);
            distance *= 2;
        }
        if team.threads > WARP { self.across_warps(combine, val, team) } else { val }
    }

    /// Combines one value per warp through shared memory, in pairs.
    fn across_warps(&mut self, combine: Binary, val: Val, team: Team) -> Val {
        let float = val.ty.elem.is_float();
        let by = self.emit.index_const(i64::from(WARP));
        let (warp, lane) = (
            self.emit.two("arith.divui", team.rank, by),
            self.emit.two("arith.remui", team.rank, by),
        );
        let zero = self.emit.index_const(0);
        let leads = self.emit.compare(Cmp::Eq, lane, zero);
        let bits = if float { self.emit.convert("arith.bitcast", val, Elem::I32) } else { val };
        self.emit.open_if(leads);
        self.emit.effect(&format!("memref.store {bits}, %shared[{warp}] : {SHARED}"));
        self.emit.close(&[]);
        self.emit.effect("gpu.barrier");
        let mut all: Vec<Val> = Vec::new();
        for w in 0..team.threads / WARP {
            let w = self.emit.index_const(i64::from(w));
            let bits = self.emit.effect_value(I32, &format!("memref.load %shared[{w}] : {SHARED}"));
            all.push(if float {
                self.emit.convert("arith.bitcast", bits, val.ty.elem)
            } else {
                bits
            });
        }
        self.emit.effect("gpu.barrier");
        while all.len() > 1 {
            all = all.chunks(2).map(|p| self.emit.binary(combine, p[0], p[p.len() - 1])).collect();
        }
        all[0]
    }
}

impl super::emit::Emitter {
    /// `outer · extent + inner`.
    fn linear(&mut self, outer: Val, extent: i64, inner: Val) -> Val {
        let extent = self.index_const(extent);
        let base = self.two("arith.muli", outer, extent);
        self.two("arith.addi", base, inner)
    }
}
