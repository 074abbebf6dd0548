//! Matrix products whose rows are grouped by expert, without padding.
//!
//! # Invariants
//! - The offsets are read once per run and validated before any row is touched.
//! - A row's result depends on its group alone; tasks are cut from each group's start.
//! - Every row of the result lies in one panel, those that belong to no group in the last.

use std::ops::Range;

use perilune_plan::RaggedForm;

use super::contract::{effort, tile_edges};
use super::epilogue::{EpilogueStep, Panels};
use super::matrix::{Extents, Operand, Scale, multiply};
use super::memory::Span;
use super::pool::Pool;
use crate::device::StepFailure;

/// A bound ragged product.
pub(crate) struct RaggedStep {
    pub(crate) form: RaggedForm,
    pub(crate) a: Operand,
    pub(crate) b: Operand,
    pub(crate) b_group: isize,
    pub(crate) c: Operand,
    pub(crate) offsets: Span,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) epilogue: Option<EpilogueStep>,
}

/// One tile of one group's product.
#[derive(Clone, Copy)]
struct Task {
    group: usize,
    /// First row of the group.
    begin: usize,
    /// Rows of the group.
    len: usize,
    row: usize,
    column: usize,
    extents: Extents,
    /// The row of tiles it is in, counted over all groups.
    panel: usize,
}

/// The panel after those of `tasks`, which are in order of their panels.
fn next_panel(tasks: &[Task]) -> usize {
    tasks.last().map_or(0, |task| task.panel + 1)
}

impl RaggedStep {
    /// Computes every group's product.
    pub(crate) fn run(&self, pool: &mut Pool) -> Result<(), StepFailure> {
        let offsets = self.read_offsets().map_err(StepFailure::Data)?;
        let mut tasks = Vec::new();
        for (group, pair) in offsets.windows(2).enumerate() {
            self.cut(&mut tasks, group, pair[0], pair[1]);
        }
        let covered = offsets.last().copied().unwrap_or(0);
        if matches!(self.form, RaggedForm::Rows) && covered < self.rows {
            let extents = Extents { m: self.rows - covered, n: self.n, k: 0 };
            let (begin, len, panel) = (covered, extents.m, next_panel(&tasks));
            tasks.push(Task { group: 0, begin, len, row: 0, column: 0, extents, panel });
        }
        let panels = self.panels(&tasks);
        pool.run(tasks.len() as u64, 1, &|range| {
            for task in range {
                let task = tasks[task as usize];
                self.tile(task);
                if let Some(panels) = &panels {
                    panels.finish(task.panel, self.rows_of(task));
                }
            }
        })?;
        match (&self.epilogue, panels) {
            (Some(epilogue), None) => Ok(epilogue.run(pool)?),
            _ => Ok(()),
        }
    }

    fn panels(&self, tasks: &[Task]) -> Option<Panels<'_>> {
        let mut tiles = vec![0u32; next_panel(tasks)];
        tasks.iter().for_each(|task| tiles[task.panel] += 1);
        self.epilogue.as_ref()?.panels(tiles.into_iter())
    }

    /// The rows of the result that a task's panel is.
    fn rows_of(&self, task: Task) -> Range<usize> {
        let first = match self.form {
            RaggedForm::Rows => task.begin + task.row,
            RaggedForm::Outer => task.group * self.k + task.row,
        };
        first..first + task.extents.m
    }

    /// The offsets: from 0, ascending, at most `rows`.
    fn read_offsets(&self) -> Result<Vec<usize>, String> {
        let raw = self.offsets.read_i32();
        let mut offsets = Vec::with_capacity(raw.len());
        let mut last = 0usize;
        for (i, value) in raw.iter().enumerate() {
            let next = usize::try_from(*value).ok().filter(|v| *v >= last && *v <= self.rows);
            let Some(next) = next.filter(|v| i > 0 || *v == 0) else {
                return Err(format!(
                    "offset {i} is {value}, after {last}, with {} rows in all",
                    self.rows
                ));
            };
            offsets.push(next);
            last = next;
        }
        Ok(offsets)
    }

    /// Cuts one group's product into tiles.
    fn cut(&self, tasks: &mut Vec<Task>, group: usize, begin: usize, end: usize) {
        let len = end - begin;
        let whole = match self.form {
            RaggedForm::Rows => Extents { m: len, n: self.n, k: self.k },
            RaggedForm::Outer => Extents { m: self.k, n: self.n, k: len },
        };
        let (rows, columns) = tile_edges(whole.m, whole.n, effort(whole));
        for row in (0..whole.m).step_by(rows) {
            let panel = next_panel(tasks);
            for column in (0..whole.n).step_by(columns) {
                let m = rows.min(whole.m - row);
                let n = columns.min(whole.n - column);
                let extents = Extents { m, n, k: whole.k };
                tasks.push(Task { group, begin, len, row, column, extents, panel });
            }
        }
    }

    fn tile(&self, task: Task) {
        let Task { group, begin, len, row, column, extents, .. } = task;
        debug_assert!(begin + len <= self.rows);
        let (a, b, c) = match self.form {
            RaggedForm::Rows => (
                self.a.at(begin + row, 0),
                self.b.shifted(group as isize * self.b_group).at(0, column),
                self.c.at(begin + row, column),
            ),
            RaggedForm::Outer => (
                self.a.at(begin, row).transposed(),
                self.b.at(begin, column),
                self.c.at(group * self.k + row, column),
            ),
        };
        // SAFETY: binding has bounded all rows and groups, the offsets lie within the rows, and
        // tasks write disjoint blocks of `c`.
        unsafe { multiply(c, a, b, extents, Scale { alpha: 1.0, keep: false }) }
    }
}
