//! The outer loops: rows, then each group of results over what is left of their extents.
//!
//! # Invariants
//! - Results with the same remaining extents are written in one loop.

use super::emit::{Elem, Val};
use super::index::{Index, Lin, Source, flatten};
use super::memory;
use super::pull::{LANES, Pull};
use crate::diagnostic::InternalError;
use crate::lower::tiling::Tiling;
use crate::program::Kernel;
use crate::types::Type;

/// The CPU's loops of a kernel.
///
/// # Errors
/// When the kernel holds an op that has no loops.
pub(crate) fn emit_cpu(kernel: &Kernel, tiling: &Tiling) -> Result<String, InternalError> {
    let mut pull = Pull::new(kernel)?;
    let begin = pull.emit.argument(Elem::Index);
    let end = pull.emit.argument(Elem::Index);
    pull.blocks(tiling, begin, end)?;
    let mut signature: Vec<String> = Vec::new();
    for (val, ty) in pull.memory.iter().zip(argument_types(kernel)) {
        signature.push(format!("{val}: {}", memory::memref(ty.dtype, ty.elems())));
    }
    signature.push(format!("{begin}: index, {end}: index"));
    let body = pull.emit.finish();
    Ok(format!(
        "func.func @{}({}) attributes {{{}}} {{\n{body}return\n}}\n",
        kernel.name,
        signature.join(", "),
        attributes(tiling),
    ))
}

/// Types of a lowered kernel's arguments: parameters, then results.
pub(crate) fn argument_types(kernel: &Kernel) -> Vec<&Type> {
    kernel.params.iter().chain(kernel.results.iter().map(|v| kernel.ty(*v))).collect()
}

fn attributes(t: &Tiling) -> String {
    let rows: Vec<String> = t.rows.iter().map(u64::to_string).collect();
    let unit = if t.columns.is_some() { "columns" } else { "rows" };
    format!(
        "tile_rows = [{}], tile_{unit}_per_block = {} : i64, tile_unroll = {} : i64",
        rows.join(", "),
        t.per_block,
        t.unroll
    )
}

impl Pull<'_> {
    /// Everything a range of blocks does.
    fn blocks(&mut self, tiling: &Tiling, begin: Val, end: Val) -> Result<(), InternalError> {
        if tiling.blocks == 0 {
            return Ok(());
        }
        let per_block = self.emit.index_const(tiling.per_block as i64);
        let total = tiling.columns.unwrap_or_else(|| tiling.rows.iter().product());
        let limit = self.emit.index_const(total as i64);
        let lo = self.emit.two("arith.muli", begin, per_block);
        let hi = self.emit.two("arith.muli", end, per_block);
        let hi = self.emit.two("arith.minsi", hi, limit);
        if let Some(extent) = tiling.columns {
            let all: Vec<usize> = (0..self.kernel.results.len()).collect();
            return self.lanes(&all, Index::new(), (lo, hi, extent), tiling.unroll);
        }
        if tiling.rows.is_empty() {
            return self.groups_of_results(tiling, &Index::new());
        }
        let one = self.emit.index_const(1);
        let (iv, _) = self.emit.open_for([lo, hi, one], &[]);
        let row = self.loop_var(Source::Uniform(iv.to_string()), 0, total as i64 - 1, 1);
        let at = self.reindex(Lin::var(row), &tiling.rows);
        self.groups_of_results(tiling, &at)?;
        self.emit.close(&[]);
        Ok(())
    }

    /// All results of one row, those with equal remaining extents together.
    fn groups_of_results(&mut self, tiling: &Tiling, at: &Index) -> Result<(), InternalError> {
        let mut done: Vec<&[u64]> = Vec::new();
        for v in &self.kernel.results {
            let rest = &self.ty(*v).shape[at.len()..];
            if done.contains(&rest) {
                continue;
            }
            done.push(rest);
            let same: Vec<usize> = (0..self.kernel.results.len())
                .filter(|k| &self.ty(self.kernel.results[*k]).shape[at.len()..] == rest)
                .collect();
            self.rest(&same, at.clone(), rest, tiling.unroll)?;
        }
        Ok(())
    }

    fn rest(
        &mut self,
        results: &[usize],
        mut at: Index,
        extents: &[u64],
        unroll: u32,
    ) -> Result<(), InternalError> {
        match extents {
            [] => self.store(results, &[at]),
            [extent] => {
                let (lo, hi) = (self.emit.index_const(0), self.emit.index_const(*extent as i64));
                self.lanes(results, at, (lo, hi, *extent), unroll)
            }
            [0, ..] => Ok(()),
            [1, inner @ ..] => {
                at.push(Lin::default());
                self.rest(results, at, inner, unroll)
            }
            [extent, inner @ ..] => {
                let bounds = [0, *extent as i64, 1].map(|b| self.emit.index_const(b));
                let (iv, _) = self.emit.open_for(bounds, &[]);
                let source = Source::Uniform(iv.to_string());
                at.push(Lin::var(self.loop_var(source, 0, *extent as i64 - 1, 1)));
                self.rest(results, at, inner, unroll)?;
                self.emit.close(&[]);
                Ok(())
            }
        }
    }

    /// The last extent: a main loop of whole vectors, then a scalar tail.
    fn lanes(
        &mut self,
        results: &[usize],
        at: Index,
        (lo, hi, extent): (Val, Val, u64),
        unroll: u32,
    ) -> Result<(), InternalError> {
        if extent == 0 {
            return Ok(());
        }
        let extent = extent as i64;
        let mut unroll = i64::from(unroll);
        while unroll > 1 && extent < unroll * i64::from(LANES) {
            unroll /= 2;
        }
        let width = unroll * i64::from(LANES);
        let mut from = lo;
        if extent >= width && !self.scalar_only {
            let span = self.emit.two("arith.subi", hi, lo);
            let step = self.emit.index_const(width);
            let left = self.emit.two("arith.remui", span, step);
            let main = self.emit.two("arith.subi", hi, left);
            let (iv, _) = self.emit.open_for([lo, main, step], &[]);
            let source = Source::Lanes(iv.to_string());
            let last = extent - 1 - (width - i64::from(LANES));
            let var = self.loop_var(source, 0, last, i64::from(LANES));
            let points: Vec<Index> = (0..unroll)
                .map(|u| {
                    let mut at = at.clone();
                    at.push(Lin::var(var).offset(u * i64::from(LANES)));
                    at
                })
                .collect();
            self.groups = Some((var, unroll as u32, 0));
            self.store(results, &points)?;
            self.groups = None;
            self.emit.close(&[]);
            from = main;
            if extent % width == 0 {
                return Ok(());
            }
        }
        let one = self.emit.index_const(1);
        let (iv, _) = self.emit.open_for([from, hi, one], &[]);
        let mut at = at;
        at.push(Lin::var(self.loop_var(Source::Uniform(iv.to_string()), 0, extent - 1, 1)));
        self.store(results, &[at])?;
        self.emit.close(&[]);
        Ok(())
    }

    /// Computes every result at every point, then stores them all.
    pub(super) fn store(
        &mut self,
        results: &[usize],
        points: &[Index],
    ) -> Result<(), InternalError> {
        let mut pending = Vec::new();
        for k in results {
            let v = self.kernel.results[*k];
            for (u, at) in points.iter().enumerate() {
                self.groups = self.groups.map(|(var, n, _)| (var, n, u as u32));
                pending.push((*k, at, self.element(v, at)?));
            }
        }
        for (k, at, val) in pending {
            let ty = self.ty(self.kernel.results[k]);
            let lanes = at.iter().any(|l| l.has_lanes(&self.emit.vars));
            let val = if lanes { self.emit.widen(val, LANES) } else { val };
            let slot = memory::Slot::new(self.memory[self.kernel.params.len() + k], ty);
            memory::store(&mut self.emit, slot, &flatten(at, &ty.shape), val);
        }
        Ok(())
    }
}
