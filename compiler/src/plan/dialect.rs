//! Attention, ragged contractions and collectives as plan steps.
//!
//! # Invariants
//! - Results are contiguous; operands are views whose innermost dimension is contiguous.

use perilune_plan as plan;
use plan::{AttentionShape, HeadsView, View};

use super::{broken, not_a_view};
use crate::diagnostic::InternalError;
use crate::program::view::{Strided, contiguous, trace};
use crate::program::{Collective, DialectOp, Kernel, KernelOp, attention_shape};

/// A dialect op of a kernel with the buffers of its call.
pub(super) struct Step<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) op: &'a KernelOp,
    /// Buffer of each kernel parameter.
    pub(super) args: &'a [u32],
    /// Buffer of each kernel result.
    pub(super) results: &'a [u32],
    /// Whether a result is read.
    pub(super) wanted: &'a [bool],
}

impl Step<'_> {
    /// The step.
    pub(super) fn lower(&self, op: &DialectOp) -> Result<plan::StepOp, InternalError> {
        match op {
            DialectOp::Attention { scale, causal } => {
                self.attention(f64::from_bits(*scale), *causal)
            }
            DialectOp::AttentionGrad { scale, causal } => {
                self.attention_grad(f64::from_bits(*scale), *causal)
            }
            DialectOp::RaggedRows { transposed } => self.ragged_rows(*transposed),
            DialectOp::RaggedOuter => self.ragged_outer(),
            DialectOp::Collective(collective) => self.collective(collective),
            DialectOp::TopK { .. }
            | DialectOp::ArgSort { .. }
            | DialectOp::Histogram { .. }
            | DialectOp::CumSum { .. }
            | DialectOp::ScatterAdd { .. } => Err(broken("a loop kernel is not a plan step")),
        }
    }

    fn collective(&self, c: &Collective) -> Result<plan::StepOp, InternalError> {
        let first = self.op.operands.first().ok_or_else(|| broken("a collective of nothing"))?;
        let kind = c.kind.in_plan(self.kernel.ty(*first));
        let send = self.op.operands.iter().map(|v| self.args.get(v.0 as usize).copied());
        let send: Option<Vec<u32>> = send.collect();
        let send =
            send.ok_or_else(|| broken("a collective of something computed in its kernel"))?;
        Ok(plan::StepOp::Collective(plan::Collective {
            kind,
            axes: c.axes.clone(),
            send,
            roots: c.roots.clone(),
            receive: self.results.to_vec(),
            until: None,
        }))
    }

    fn operand(&self, n: usize) -> Result<Strided, InternalError> {
        let value = self.op.operands[n];
        trace(self.kernel, value).ok_or_else(|| not_a_view(self.kernel, value))
    }

    fn view(&self, strided: &Strided) -> View {
        View { buffer: self.args[strided.param], offset: strided.offset }
    }

    fn heads(&self, n: usize) -> Result<(HeadsView, Vec<u64>), InternalError> {
        let s = self.operand(n)?;
        let [batch, seq, head, inner] = s.strides[..] else {
            return Err(broken("an attention operand has four dimensions"));
        };
        if inner != 1 && s.shape[3] > 1 {
            return Err(broken("an attention operand is contiguous in its last dimension"));
        }
        Ok((HeadsView { view: self.view(&s), batch, seq, head }, s.shape))
    }

    /// A result of this shape, contiguous.
    fn result_heads(&self, n: usize, shape: &[u64]) -> HeadsView {
        let s = contiguous(shape);
        HeadsView {
            view: View { buffer: self.results[n], offset: 0 },
            batch: s[0],
            seq: s[1],
            head: s[2],
        }
    }

    fn shape(&self, scale: f64, causal: bool) -> Result<AttentionShape, InternalError> {
        let ((_, q), (_, k), (_, v)) = (self.heads(0)?, self.heads(1)?, self.heads(2)?);
        Ok(attention_shape((&q, &k, &v), (scale, causal)))
    }

    fn attention(&self, scale: f64, causal: bool) -> Result<plan::StepOp, InternalError> {
        let s = self.shape(scale, causal)?;
        let optional =
            |n: usize| self.wanted[n].then(|| View { buffer: self.results[n], offset: 0 });
        Ok(plan::StepOp::Attention(plan::Attention {
            shape: s,
            q: self.heads(0)?.0,
            k: self.heads(1)?.0,
            v: self.heads(2)?.0,
            o: self.result_heads(0, &[s.batch, s.seq_q, s.heads, s.v_dim]),
            lse: optional(1),
            max_logit: optional(2),
        }))
    }

    fn attention_grad(&self, scale: f64, causal: bool) -> Result<plan::StepOp, InternalError> {
        let s = self.shape(scale, causal)?;
        let lse = self.operand(4)?;
        Ok(plan::StepOp::AttentionGrad(plan::AttentionGrad {
            shape: s,
            q: self.heads(0)?.0,
            k: self.heads(1)?.0,
            v: self.heads(2)?.0,
            o: self.heads(3)?.0,
            lse: self.view(&lse),
            d_o: self.heads(5)?.0,
            d_q: self.result_heads(0, &[s.batch, s.seq_q, s.heads, s.qk_dim]),
            d_k: self.result_heads(1, &[s.batch, s.seq_kv, s.kv_heads, s.qk_dim]),
            d_v: self.result_heads(2, &[s.batch, s.seq_kv, s.kv_heads, s.v_dim]),
        }))
    }

    fn rows(&self, n: usize) -> Result<(Strided, i64), InternalError> {
        let s = self.operand(n)?;
        match s.strides[..] {
            [row, 1] => Ok((s, row)),
            [row, _] if s.shape[1] <= 1 => Ok((s, row)),
            _ => Err(broken("ragged rows are contiguous in their last dimension")),
        }
    }

    fn ragged_rows(&self, transposed: bool) -> Result<plan::StepOp, InternalError> {
        let (a, a_row) = self.rows(0)?;
        let (b, offsets) = (self.operand(1)?, self.operand(2)?);
        let [g, second, third] = b.strides[..] else {
            return Err(broken("ragged weights have three dimensions"));
        };
        let (k_stride, n_stride) = if transposed { (third, second) } else { (second, third) };
        let n = b.shape[if transposed { 1 } else { 2 }];
        Ok(plan::StepOp::Ragged(plan::Ragged {
            form: plan::RaggedForm::Rows,
            a: self.view(&a),
            a_row,
            b: self.view(&b),
            b_strides: [g, k_stride, n_stride],
            c: View { buffer: self.results[0], offset: 0 },
            offsets: self.view(&offsets),
            rows: a.shape[0],
            groups: b.shape[0],
            k: a.shape[1],
            n,
            epilogue: None,
        }))
    }

    fn ragged_outer(&self) -> Result<plan::StepOp, InternalError> {
        let ((a, a_row), (b, b_row)) = (self.rows(0)?, self.rows(1)?);
        let offsets = self.operand(2)?;
        Ok(plan::StepOp::Ragged(plan::Ragged {
            form: plan::RaggedForm::Outer,
            a: self.view(&a),
            a_row,
            b: self.view(&b),
            b_strides: [0, b_row, 1],
            c: View { buffer: self.results[0], offset: 0 },
            offsets: self.view(&offsets),
            rows: a.shape[0],
            groups: offsets.shape[0] - 1,
            k: a.shape[1],
            n: b.shape[1],
            epilogue: None,
        }))
    }
}
