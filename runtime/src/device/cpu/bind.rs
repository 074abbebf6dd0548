//! From a plan's entry to steps that can run: indices become addresses, every reach is bounded.
//!
//! # Invariants
//! - Nothing runs that has not been bound; a bound step touches only what its buffers hold
//!   (a compiled kernel: what its parameters declare).
//! - No two tasks of a bound product or attention write one element, nor one that another reads: strides of
//!   results nest, and a result shares no elements with an operand of the same buffer. Of buffers that lie in
//!   the arena at one place, and of the blocks of compiled kernels, the plan promises the same.

use perilune_plan::{
    Attention, AttentionGrad, AttentionShape, Buffer, Contract, DType, Entry, Epilogue, HeadsView,
    Launch, Loop, Plan, Ragged, RaggedForm, StepOp, View,
};

use super::attention::{AttentionExtents, AttentionStep, Heads};
use super::attention_grad::AttentionGradStep;
use super::contract::ContractStep;
use super::epilogue::EpilogueStep;
use super::jit::{Kernel, Kernels};
use super::matrix::{Extents, Operand, Scale};
use super::memory::Span;
use super::pool::{Pool, WorkerPanic};
use super::ragged::RaggedStep;
use crate::device::{StepFailure, launched};

/// Kernels below this much work (operations plus bytes) run on the calling thread.
const SERIAL_WORK: u64 = 1 << 15;

/// A kernel with its arguments' addresses.
pub(crate) struct KernelCall {
    kernel: Kernel,
    args: Vec<*mut u8>,
    blocks: u64,
    work: u64,
}

// SAFETY: the addresses are of session memory; blocks are independent, which the plan declares.
unsafe impl Send for KernelCall {}
// SAFETY: as above.
unsafe impl Sync for KernelCall {}

impl KernelCall {
    /// Runs every block over the pool.
    pub(crate) fn run(&self, pool: &mut Pool) -> Result<(), WorkerPanic> {
        let grain = match self.work {
            0..SERIAL_WORK => self.blocks,
            _ => self.blocks.div_ceil(8 * pool.threads() as u64),
        };
        pool.run(self.blocks, grain, &|range| self.run_blocks(range.start, range.end))
    }

    /// Runs blocks `begin..end` on this thread.
    pub(crate) fn run_blocks(&self, begin: u64, end: u64) {
        // SAFETY: binding has matched the arguments to the parameters; the session keeps the
        // kernels and the memory alive while it runs; blocks are independent.
        unsafe { self.kernel.call(&self.args, begin, end) }
    }
}

/// A step that can run.
pub(crate) enum BoundStep {
    Launch(KernelCall),
    Contract(ContractStep),
    Ragged(RaggedStep),
    Attention(AttentionStep),
    AttentionGrad(AttentionGradStep),
    Copy {
        source: Span,
        target: Span,
    },
    /// A collective, which the session runs, or a step of other ranks.
    Elsewhere,
}

impl From<WorkerPanic> for StepFailure {
    fn from(_: WorkerPanic) -> Self {
        StepFailure::Panic
    }
}

impl BoundStep {
    /// Runs the step to its end.
    pub(crate) fn run(&self, pool: &mut Pool) -> Result<(), StepFailure> {
        match self {
            BoundStep::Launch(call) => Ok(call.run(pool)?),
            BoundStep::Contract(step) => Ok(step.run(pool)?),
            BoundStep::Ragged(step) => step.run(pool),
            BoundStep::Attention(step) => Ok(step.run(pool)?),
            BoundStep::AttentionGrad(step) => Ok(step.run(pool)?),
            BoundStep::Copy { source, target } => {
                target.copy_from(*source);
                Ok(())
            }
            BoundStep::Elsewhere => Ok(()),
        }
    }
}

/// What binding looks things up in.
pub(crate) struct Binder<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) entry: &'a Entry,
    /// Where each of the entry's buffers lies.
    pub(crate) spans: Vec<Span>,
    pub(crate) kernels: &'a Kernels,
}

type Bound<T> = Result<T, String>;

impl Binder<'_> {
    /// Binds one step.
    ///
    /// # Errors
    /// What the step asks for that its buffers do not hold, in words.
    pub(crate) fn step(&self, op: &StepOp) -> Bound<BoundStep> {
        Ok(match op {
            StepOp::Launch(launch) => BoundStep::Launch(self.launch(launch)?),
            StepOp::Contract(contract) => BoundStep::Contract(self.contract(contract)?),
            StepOp::Ragged(ragged) => BoundStep::Ragged(self.ragged(ragged)?),
            StepOp::Attention(attention) => BoundStep::Attention(self.attention(attention)?),
            StepOp::AttentionGrad(grad) => BoundStep::AttentionGrad(self.attention_grad(grad)?),
            StepOp::Copy { src, dst } => self.copy(*src, *dst)?,
            StepOp::Collective(_) => BoundStep::Elsewhere,
        })
    }

    fn buffer(&self, index: u32) -> Bound<(&Buffer, Span)> {
        let buffer = self.entry.buffers.get(index as usize);
        let span = self.spans.get(index as usize).copied();
        buffer.zip(span).ok_or_else(|| format!("buffer {index} does not exist"))
    }

    fn copy(&self, src: u32, dst: u32) -> Bound<BoundStep> {
        let (from, source) = self.buffer(src)?;
        let (to, target) = self.buffer(dst)?;
        if from.dtype != to.dtype || from.elems != to.elems {
            return Err(format!(
                "copies {} × {} to {} × {}",
                from.elems, from.dtype, to.elems, to.dtype
            ));
        }
        Ok(BoundStep::Copy { source, target })
    }

    fn launch(&self, launch: &Launch) -> Bound<KernelCall> {
        let decl = launched(self.plan, self.entry, launch)?;
        let kernel = self.kernels.get(launch.kernel);
        let kernel = kernel.ok_or_else(|| format!("kernel {} does not exist", launch.kernel))?;
        let bases = launch.args.iter().map(|arg| Ok(self.buffer(*arg)?.1.base()));
        let args = bases.collect::<Bound<Vec<_>>>()?;
        if decl.blocks > i64::MAX as u64 {
            return Err(format!("kernel `{}` has {} blocks", decl.name, decl.blocks));
        }
        let work = decl.flops.saturating_add(decl.bytes);
        Ok(KernelCall { kernel, args, blocks: decl.blocks, work })
    }

    /// A matrix operand whose every reach over `loops` lies inside its buffer.
    fn operand(&self, what: &str, view: View, loops: &[(u64, i64)], m: [i64; 2]) -> Bound<Operand> {
        let (buffer, span) = self.buffer(view.buffer)?;
        if !Operand::supports(buffer.dtype) {
            return Err(format!("{what} is {}; matrix products take f32 and bf16", buffer.dtype));
        }
        bound_reach(what, view.offset, loops, buffer.elems)?;
        Ok(Operand::new(span, buffer.dtype, view.offset, m))
    }

    /// The f32 elements `[offset, offset + elems)` of a view.
    fn values(&self, what: &str, view: View, dtype: DType, elems: u64) -> Bound<Span> {
        let (buffer, span) = self.buffer(view.buffer)?;
        if buffer.dtype != dtype {
            return Err(format!("{what} is {}, must be {dtype}", buffer.dtype));
        }
        let bytes = dtype.bytes();
        view.offset
            .checked_add(elems)
            .filter(|end| *end <= buffer.elems)
            .and_then(|_| span.part(view.offset * bytes, elems * bytes))
            .ok_or_else(|| {
                format!("{what} reaches {elems} elements from {} of {}", view.offset, buffer.elems)
            })
    }

    fn contract(&self, c: &Contract) -> Bound<ContractStep> {
        if c.m.b != 0 || c.n.a != 0 || c.k.c != 0 || c.sum.iter().any(|l| l.c != 0) {
            return Err("a loop has a stride in an operand that does not depend on it".to_owned());
        }
        let loops: Vec<&Loop> = c.batch.iter().chain([&c.m, &c.n]).collect();
        let nothing = loops.iter().any(|l| l.extent == 0);
        let strides: Vec<_> = loops.iter().map(|l| (l.extent, l.c)).collect();
        if !nothing && !are_distinct(&strides) {
            return Err(format!("strides {strides:?} write one element again and again"));
        }
        let all: Vec<&Loop> = loops.iter().copied().chain(&c.sum).chain([&c.k]).collect();
        let [a, b, result] = [|l: &Loop| l.a, |l: &Loop| l.b, |l: &Loop| l.c]
            .map(|stride| all.iter().map(|l| (l.extent, stride(l))).collect::<Vec<_>>());
        let empty = all.iter().any(|l| l.extent == 0);
        let (a, b) = if empty { (vec![(0, 0)], vec![(0, 0)]) } else { (a, b) };
        let result: Vec<_> = result[..loops.len()].to_vec();
        let extents = Extents { m: extent(c.m)?, n: extent(c.n)?, k: extent(c.k)? };
        if c.symmetric && extents.m != extents.n {
            return Err(format!("{} × {} is not symmetric", extents.m, extents.n));
        }
        check_total(&all)?;
        if !empty {
            for (what, view, loops) in [("a", c.a, &a), ("b", c.b, &b)] {
                let (from, to) = (reach(view.offset, loops), reach(c.c.offset, &result));
                if view.buffer == c.c.buffer && from.0 <= to.1 && to.0 <= from.1 {
                    return Err(format!("the result lies among the elements of {what}"));
                }
            }
        }
        let made = loops.iter().try_fold(1u64, |n, l| n.checked_mul(l.extent));
        Ok(ContractStep {
            a: self.operand("a", c.a, &a, [c.m.a, c.k.a])?,
            b: self.operand("b", c.b, &b, [c.k.b, c.n.b])?,
            c: self.operand("c", c.c, &result, [c.m.c, c.n.c])?,
            batch: c.batch.clone(),
            sum: c.sum.clone(),
            extents,
            scale: Scale { alpha: c.alpha, keep: c.accumulate },
            symmetric: c.symmetric,
            epilogue: self.epilogue(c.epilogue.as_ref(), made)?,
        })
    }

    /// An epilogue on a result of `made` elements: a block for each row.
    fn epilogue(
        &self,
        epilogue: Option<&Epilogue>,
        made: Option<u64>,
    ) -> Bound<Option<EpilogueStep>> {
        let Some(Epilogue { launch, row }) = epilogue else { return Ok(None) };
        let call = self.launch(launch)?;
        if *row == 0 || made.is_none() || call.blocks.checked_mul(*row) != made {
            return Err(format!("an epilogue of {} blocks, {row} elements a row", call.blocks));
        }
        Ok(Some(EpilogueStep { call, row: *row as usize }))
    }

    fn ragged(&self, r: &Ragged) -> Bound<RaggedStep> {
        let [group, b_row, b_column] = r.b_strides;
        let n = to_stride(r.n)?;
        let (rows, groups, k) = (r.rows, r.groups, r.k);
        let a_loops = [(rows, r.a_row), (k, 1)];
        let (b_loops, c_loops) = match r.form {
            RaggedForm::Rows => {
                (vec![(groups, group), (k, b_row), (r.n, b_column)], vec![(rows, n), (r.n, 1)])
            }
            RaggedForm::Outer => {
                let matrix = to_stride(r.k.saturating_mul(r.n))?;
                (vec![(rows, b_row), (r.n, b_column)], vec![(groups, matrix), (k, n), (r.n, 1)])
            }
        };
        let outer = if r.form == RaggedForm::Rows { rows } else { groups.saturating_mul(k) };
        let made = outer.checked_mul(r.n);
        let groups_plus = groups.checked_add(1).ok_or("too many groups")?;
        Ok(RaggedStep {
            form: r.form,
            a: self.operand("a", r.a, &a_loops, [r.a_row, 1])?,
            b: self.operand("b", r.b, &b_loops, [b_row, b_column])?,
            b_group: group as isize,
            c: self.operand("c", r.c, &c_loops, [n, 1])?,
            offsets: self.values("offsets", r.offsets, DType::i32, groups_plus)?,
            rows: rows as usize,
            k: k as usize,
            n: r.n as usize,
            epilogue: self.epilogue(r.epilogue.as_ref(), made)?,
        })
    }

    fn heads(&self, what: &str, view: &HeadsView, extents: [u64; 4]) -> Bound<Heads> {
        let [batch, seq, heads, dim] = extents;
        let loops = [(batch, view.batch), (seq, view.seq), (heads, view.head), (dim, 1)];
        let base = self.operand(what, view.view, &loops, [view.seq, 1])?;
        Ok(Heads { base, batch: view.batch as isize, head: view.head as isize })
    }

    /// Heads that are written: no two indices may share an element.
    fn written(&self, what: &str, view: &HeadsView, extents: [u64; 4]) -> Bound<Heads> {
        let [batch, seq, heads, dim] = extents;
        let strides = [(batch, view.batch), (seq, view.seq), (heads, view.head), (dim, 1)];
        if !extents.contains(&0) && !are_distinct(&strides) {
            return Err(format!(
                "{what} with strides {strides:?} writes one element again and again"
            ));
        }
        self.heads(what, view, extents)
    }

    fn attention(&self, a: &Attention) -> Bound<AttentionStep> {
        let (extents, views) = attention_extents(&a.shape)?;
        let s = &a.shape;
        let rows = s.batch * s.heads * s.seq_q;
        let lse = a.lse.map(|view| self.values("lse", view, DType::f32, rows)).transpose()?;
        let max_logit = a
            .max_logit
            .map(|view| self.values("max_logit", view, DType::f32, s.heads))
            .transpose()?;
        Ok(AttentionStep {
            extents,
            q: self.heads("q", &a.q, views.q)?,
            k: self.heads("k", &a.k, views.k)?,
            v: self.heads("v", &a.v, views.v)?,
            o: self.written("o", &a.o, views.o)?,
            lse,
            max_logit,
        })
    }

    fn attention_grad(&self, a: &AttentionGrad) -> Bound<AttentionGradStep> {
        let (extents, views) = attention_extents(&a.shape)?;
        let s = &a.shape;
        Ok(AttentionGradStep {
            extents,
            q: self.heads("q", &a.q, views.q)?,
            k: self.heads("k", &a.k, views.k)?,
            v: self.heads("v", &a.v, views.v)?,
            o: self.heads("o", &a.o, views.o)?,
            lse: self.values("lse", a.lse, DType::f32, s.batch * s.heads * s.seq_q)?,
            d_o: self.heads("d_o", &a.d_o, views.o)?,
            d_q: self.written("d_q", &a.d_q, views.q)?,
            d_k: self.written("d_k", &a.d_k, views.k)?,
            d_v: self.written("d_v", &a.d_v, views.v)?,
        })
    }
}

/// `[batch, seq, heads, dim]` of attention's operands.
struct AttentionViews {
    q: [u64; 4],
    k: [u64; 4],
    v: [u64; 4],
    o: [u64; 4],
}

fn attention_extents(s: &AttentionShape) -> Bound<(AttentionExtents, AttentionViews)> {
    if !s.heads.is_multiple_of(s.kv_heads) {
        return Err(format!("{} heads cannot share {} key heads", s.heads, s.kv_heads));
    }
    let counts = [s.batch, s.seq_q, s.seq_kv, s.heads, s.kv_heads, s.qk_dim, s.v_dim];
    if counts.iter().any(|count| *count > 1 << 40) || product(&counts[..4]).is_none() {
        return Err("attention's extents are too large".to_owned());
    }
    let [batch, seq_q, seq_kv, heads, kv_heads, qk_dim, v_dim] = counts.map(|n| n as usize);
    let extents = AttentionExtents {
        batch,
        seq_q,
        seq_kv,
        heads,
        kv_heads,
        qk_dim,
        v_dim,
        scale: s.scale,
        causal: s.causal,
    };
    let views = AttentionViews {
        q: [s.batch, s.seq_q, s.heads, s.qk_dim],
        k: [s.batch, s.seq_kv, s.kv_heads, s.qk_dim],
        v: [s.batch, s.seq_kv, s.kv_heads, s.v_dim],
        o: [s.batch, s.seq_q, s.heads, s.v_dim],
    };
    Ok((extents, views))
}

fn product(extents: &[u64]) -> Option<u64> {
    extents.iter().try_fold(1u64, |total, extent| total.checked_mul(*extent))
}

fn check_total(loops: &[&Loop]) -> Bound<()> {
    let extents: Vec<u64> = loops.iter().map(|l| l.extent.max(1)).collect();
    product(&extents).map(|_| ()).ok_or_else(|| "the contraction is too large".to_owned())
}

fn extent(l: Loop) -> Bound<usize> {
    usize::try_from(l.extent).map_err(|_| format!("an extent of {} is too large", l.extent))
}

fn to_stride(extent: u64) -> Bound<i64> {
    i64::try_from(extent).map_err(|_| format!("an extent of {extent} is too large"))
}

/// Every index `offset + Σ i·stride` lies in `0..elems`; an empty loop reaches nothing.
fn bound_reach(what: &str, offset: u64, loops: &[(u64, i64)], elems: u64) -> Bound<()> {
    if loops.iter().any(|(extent, _)| *extent == 0) {
        return match offset <= elems {
            true => Ok(()),
            false => Err(format!("{what} starts at {offset} of {elems} elements")),
        };
    }
    let (low, high) = reach(offset, loops);
    if low < 0 || high >= i128::from(elems) {
        return Err(format!("{what} reaches from {low} to {high} of {elems} elements"));
    }
    Ok(())
}

/// The lowest and the highest index `offset + Σ i·stride` of loops that are not empty.
fn reach(offset: u64, loops: &[(u64, i64)]) -> (i128, i128) {
    let (mut low, mut high) = (i128::from(offset), i128::from(offset));
    for (extent, stride) in loops {
        // Below 2¹²⁷: an extent and a stride are below 2⁶⁴ and 2⁶³, and loops are few.
        let reach = (i128::from(*extent) - 1).saturating_mul(i128::from(*stride));
        low = low.saturating_add(reach.min(0));
        high = high.saturating_add(reach.max(0));
    }
    (low, high)
}

/// Whether strides nest, so that no two iterations have one index: each is longer than what the shorter ones
/// reach together.
fn are_distinct(loops: &[(u64, i64)]) -> bool {
    let mut loops: Vec<(u64, u64)> =
        loops.iter().filter(|l| l.0 > 1).map(|l| (l.0, l.1.unsigned_abs())).collect();
    loops.sort_by_key(|(_, stride)| *stride);
    let mut reached = 0u128;
    for (extent, stride) in loops {
        if u128::from(stride) <= reached {
            return false;
        }
        reached = reached.saturating_add(u128::from(extent - 1) * u128::from(stride));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_that_nest_are_distinct_in_any_order() {
        assert!(are_distinct(&[(3, 1), (4, 3), (2, -12)]));
        assert!(are_distinct(&[(2, 12), (1, 0), (4, 3), (3, 1)]));
        assert!(!are_distinct(&[(256, 1), (256, 1)]));
        assert!(!are_distinct(&[(2, 0)]));
        assert!(!are_distinct(&[(4, 1), (2, 3)]));
        assert!(are_distinct(&[(u64::MAX, 1)]));
    }

    #[test]
    fn reach_is_bounded_on_both_sides() {
        assert!(bound_reach("a", 0, &[(3, 4), (4, 1)], 12).is_ok());
        assert!(bound_reach("a", 1, &[(3, 4), (4, 1)], 12).is_err());
        assert!(bound_reach("a", 3, &[(4, -1)], 4).is_ok());
        assert!(bound_reach("a", 2, &[(4, -1)], 4).is_err());
        assert!(bound_reach("a", 0, &[(u64::MAX, i64::MAX), (u64::MAX, i64::MAX)], 9).is_err());
        assert!(bound_reach("a", 5, &[(0, 1)], 4).is_err());
        assert!(bound_reach("a", 4, &[(0, 1)], 4).is_ok());
    }
}
