//! The outer loops: rows, then each group of results over what is left of their extents.
//!
//! # Invariants
//! - Results with the same remaining extents are written in one loop.

use super::emit::{Elem, Val};
use super::index::{Index, Lin, Source, flatten};
use super::memory;
use super::pull::{LANES, Pull};
use super::seams;
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

/// An index with one more dimension.
fn along(at: &Index, lin: Lin) -> Index {
    at.iter().cloned().chain([lin]).collect()
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
        if tiling.columns.is_some() {
            let all: Vec<usize> = (0..self.kernel.results.len()).collect();
            return self.last(&all, &Index::new(), Some((lo, hi)), tiling.unroll);
        }
        if tiling.rows.is_empty() {
            return self.groups_of_results(tiling, &Index::new());
        }
        let one = self.emit.index_const(1);
        let inner = tiling.rows[1..].iter().product::<u64>() as i64;
        let all: Vec<usize> = (0..self.kernel.results.len()).collect();
        for (from, to) in self.segments(&all, 0) {
            let (from, to) = (from * inner, to * inner);
            let (lo, hi) = (self.at_least(lo, from), self.at_most(hi, to, total as i64));
            let (iv, _) = self.emit.open_for([lo, hi, one], &[]);
            let row = self.loop_var(Source::Uniform(iv.to_string()), from, to - 1, 1);
            let at = self.reindex(Lin::var(row), &tiling.rows);
            self.groups_of_results(tiling, &at)?;
            self.emit.close(&[]);
        }
        Ok(())
    }

    fn at_least(&mut self, val: Val, bound: i64) -> Val {
        if bound == 0 {
            return val;
        }
        let bound = self.emit.index_const(bound);
        self.emit.two("arith.maxsi", val, bound)
    }

    fn at_most(&mut self, val: Val, bound: i64, total: i64) -> Val {
        if bound == total {
            return val;
        }
        let bound = self.emit.index_const(bound);
        self.emit.two("arith.minsi", val, bound)
    }

    /// Ranges of a dimension of some results inside which all elements are of one kind.
    fn segments(&self, results: &[usize], dim: usize) -> Vec<(i64, i64)> {
        let mut cuts: Vec<i64> = results
            .iter()
            .flat_map(|k| seams::cuts(self.kernel, self.kernel.results[*k], dim))
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        cuts.windows(2).map(|w| (w[0], w[1])).collect()
    }

    /// All results of one row, those with equal remaining extents together. Single elements are
    /// computed first and stored last: a longer result may be written over what they read, and
    /// they over what it reads.
    fn groups_of_results(&mut self, tiling: &Tiling, at: &Index) -> Result<(), InternalError> {
        let kernel = self.kernel;
        let left = |k: &usize| &kernel.ty(kernel.results[*k]).shape[at.len()..];
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for k in 0..kernel.results.len() {
            match groups.iter_mut().find(|g| left(&g[0]) == left(&k)) {
                Some(group) => group.push(k),
                None => groups.push(vec![k]),
            }
        }
        let (single, long): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|g| left(&g[0]).is_empty());
        let single: Vec<usize> = single.into_iter().flatten().collect();
        let pending = self.compute(&single, std::slice::from_ref(at))?;
        for group in long {
            self.rest(&group, at.clone(), left(&group[0]), tiling)?;
        }
        self.write(pending);
        Ok(())
    }

    fn rest(
        &mut self,
        results: &[usize],
        mut at: Index,
        extents: &[u64],
        tiling: &Tiling,
    ) -> Result<(), InternalError> {
        match extents {
            [] => self.store(results, &[at]),
            [0, ..] => Ok(()),
            [_] if at.len() >= tiling.sequential => self.last(results, &at, None, tiling.unroll),
            [1, inner @ ..] => {
                at.push(Lin::default());
                self.rest(results, at, inner, tiling)
            }
            [_, inner @ ..] => {
                for (from, to) in self.segments(results, at.len()) {
                    let bounds = [from, to, 1].map(|b| self.emit.index_const(b));
                    let (iv, _) = self.emit.open_for(bounds, &[]);
                    let source = Source::Uniform(iv.to_string());
                    let mut at = at.clone();
                    at.push(Lin::var(self.loop_var(source, from, to - 1, 1)));
                    self.rest(results, at, inner, tiling)?;
                    self.emit.close(&[]);
                }
                Ok(())
            }
        }
    }

    /// The last extent, or the part of it within `bounds`: lanes in each of its segments.
    fn last(
        &mut self,
        results: &[usize],
        at: &Index,
        bounds: Option<(Val, Val)>,
        unroll: u32,
    ) -> Result<(), InternalError> {
        let segments = self.segments(results, at.len());
        let total = segments.last().map_or(0, |s| s.1);
        for (from, to) in segments {
            let range = match bounds {
                Some((lo, hi)) => (self.at_least(lo, from), self.at_most(hi, to, total)),
                None => (self.emit.index_const(from), self.emit.index_const(to)),
            };
            self.lanes(results, at, range, (from, to, unroll))?;
        }
        Ok(())
    }

    /// A segment of the last extent: a main loop of whole vectors, then a scalar tail. `lo` and
    /// `hi` lie within `from..to`.
    fn lanes(
        &mut self,
        results: &[usize],
        at: &Index,
        (lo, hi): (Val, Val),
        (from, to, unroll): (i64, i64, u32),
    ) -> Result<(), InternalError> {
        let lanes = i64::from(LANES);
        let mut unroll = i64::from(unroll);
        while unroll > 1 && to - from < unroll * lanes {
            unroll /= 2;
        }
        let width = unroll * lanes;
        let mut start = lo;
        if to - from >= width && !self.scalar_only {
            let span = self.emit.two("arith.subi", hi, lo);
            let step = self.emit.index_const(width);
            let left = self.emit.two("arith.remsi", span, step);
            let main = self.emit.two("arith.subi", hi, left);
            let (iv, _) = self.emit.open_for([lo, main, step], &[]);
            let source = Source::Lanes(iv.to_string());
            let align = if from % lanes == 0 { lanes } else { 1 };
            let var = self.loop_var(source, from, to - 1 - (width - lanes), align);
            let points: Vec<Index> =
                (0..unroll).map(|u| along(at, Lin::var(var).offset(u * lanes))).collect();
            self.groups = Some((var, unroll as u32, 0));
            self.store(results, &points)?;
            self.groups = None;
            self.emit.close(&[]);
            start = self.emit.two("arith.maxsi", main, lo);
            if from % width == 0 && to % width == 0 {
                return Ok(());
            }
        }
        let one = self.emit.index_const(1);
        let (iv, _) = self.emit.open_for([start, hi, one], &[]);
        let var = self.loop_var(Source::Uniform(iv.to_string()), from, to - 1, 1);
        self.store(results, &[along(at, Lin::var(var))])?;
        self.emit.close(&[]);
        Ok(())
    }

    /// Computes every result at every point, then stores them all.
    pub(super) fn store(
        &mut self,
        results: &[usize],
        points: &[Index],
    ) -> Result<(), InternalError> {
        let pending = self.compute(results, points)?;
        self.write(pending);
        Ok(())
    }

    fn compute(
        &mut self,
        results: &[usize],
        points: &[Index],
    ) -> Result<Vec<(usize, Index, Val)>, InternalError> {
        let mut pending = Vec::new();
        for k in results {
            let v = self.kernel.results[*k];
            for (u, at) in points.iter().enumerate() {
                self.groups = self.groups.map(|(var, n, _)| (var, n, u as u32));
                pending.push((*k, at.clone(), self.element(v, at)?));
            }
        }
        Ok(pending)
    }

    fn write(&mut self, pending: Vec<(usize, Index, Val)>) {
        for (k, at, val) in pending {
            let ty = self.ty(self.kernel.results[k]);
            let lanes = at.iter().any(|l| l.has_lanes(&self.emit.vars));
            let val = if lanes { self.emit.widen(val, LANES) } else { val };
            let slot = memory::Slot::new(self.memory[self.kernel.params.len() + k], ty);
            memory::store(&mut self.emit, slot, &flatten(&at, &ty.shape), val);
        }
    }
}
