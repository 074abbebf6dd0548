//! What a step has to do: operations and bytes, for profiles, schedules and predictions.
//!
//! # Invariants
//! - Sums and products stop at the largest number: a plan's extents may be anything.

use crate::{AttentionShape, Entry, Epilogue, Plan, RaggedForm, Step, StepOp};

/// What kind of work it is, by what limits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A contraction.
    Contract,
    /// A contraction grouped by expert.
    Ragged,
    /// Attention or its gradient.
    Attention,
    /// A kernel of loops, or a copy.
    Loops,
    /// A collective.
    Exchange,
}

/// The work of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Its kind.
    pub class: Class,
    /// Floating-point operations, without those of an epilogue.
    pub flops: u64,
    /// Those of an epilogue.
    pub epilogue_flops: u64,
    /// Bytes moved if every operand is touched once.
    pub bytes: u64,
}

impl Work {
    /// Nothing to do.
    pub fn new(class: Class) -> Self {
        Work { class, flops: 0, epilogue_flops: 0, bytes: 0 }
    }
}

impl Step {
    /// What it is called: its kernel, or the kind and extents of a built-in step.
    pub fn title(&self, plan: &Plan) -> String {
        let kernel = |n: u32| plan.kernels.get(n as usize).map_or("", |k| k.name.as_str());
        let title = match &self.op {
            StepOp::Launch(launch) => kernel(launch.kernel).to_owned(),
            StepOp::Contract(c) => {
                let repeats = product(c.batch.iter().chain(&c.sum).map(|l| l.extent));
                format!("contract {repeats}×{}×{}×{}", c.m.extent, c.n.extent, c.k.extent)
            }
            StepOp::Ragged(r) => {
                let form = match r.form {
                    RaggedForm::Rows => "rows",
                    RaggedForm::Outer => "outer",
                };
                format!("ragged {form} {}×{}×{}", r.rows, r.n, r.k)
            }
            StepOp::Attention(_) => "attention".to_owned(),
            StepOp::AttentionGrad(_) => "attention_grad".to_owned(),
            StepOp::Copy { .. } => "copy".to_owned(),
            StepOp::Collective(c) => c.kind.name().to_owned(),
        };
        match self.epilogue() {
            Some(e) => format!("{title} + {}", kernel(e.launch.kernel)),
            None => title,
        }
    }

    /// What runs on its finished rows.
    pub fn epilogue(&self) -> Option<&Epilogue> {
        match &self.op {
            StepOp::Contract(c) => c.epilogue.as_ref(),
            StepOp::Ragged(r) => r.epilogue.as_ref(),
            StepOp::Launch(_)
            | StepOp::Attention(_)
            | StepOp::AttentionGrad(_)
            | StepOp::Copy { .. }
            | StepOp::Collective(_) => None,
        }
    }

    /// What it has to do.
    pub fn work(&self, plan: &Plan, entry: &Entry) -> Work {
        let mut work = self.own_work(plan, entry);
        let kernel = self.epilogue().and_then(|e| plan.kernels.get(e.launch.kernel as usize));
        if let Some(kernel) = kernel {
            work.epilogue_flops = kernel.flops;
            work.bytes = work.bytes.saturating_add(kernel.bytes);
        }
        work
    }

    fn own_work(&self, plan: &Plan, entry: &Entry) -> Work {
        let buffer = |n: &u32| entry.buffers.get(*n as usize);
        let bytes = |n: &u32| buffer(n).map_or(0, |b| b.elems.saturating_mul(b.dtype.bytes()));
        let touched = |list: &[u32]| list.iter().map(&bytes).fold(0, u64::saturating_add);
        let work = |class, flops, bytes| Work { class, flops, epilogue_flops: 0, bytes };
        match &self.op {
            StepOp::Launch(launch) => match plan.kernels.get(launch.kernel as usize) {
                Some(kernel) => work(Class::Loops, kernel.flops, kernel.bytes),
                None => Work::new(Class::Loops),
            },
            StepOp::Contract(c) => {
                let loops = c.batch.iter().chain(&c.sum).chain([&c.m, &c.n, &c.k]);
                let flops = product([2].into_iter().chain(loops.map(|l| l.extent)));
                let flops = if c.symmetric { flops / 2 } else { flops };
                work(Class::Contract, flops, touched(&[c.a.buffer, c.b.buffer, c.c.buffer]))
            }
            StepOp::Ragged(r) => {
                let touched = touched(&[r.a.buffer, r.b.buffer, r.c.buffer]);
                work(Class::Ragged, product([2, r.rows, r.n, r.k]), touched)
            }
            StepOp::Attention(a) => {
                let touched = touched(&[a.q.view.buffer, a.k.view.buffer, a.v.view.buffer]);
                work(Class::Attention, a.shape.flops(), touched)
            }
            StepOp::AttentionGrad(a) => {
                let touched = touched(&[a.q.view.buffer, a.k.view.buffer, a.v.view.buffer]);
                work(Class::Attention, a.shape.grad_flops(), touched)
            }
            StepOp::Copy { src, .. } => work(Class::Loops, 0, bytes(src).saturating_mul(2)),
            StepOp::Collective(c) => {
                let all: Vec<u32> = c.send.iter().chain(&c.receive).copied().collect();
                work(Class::Exchange, 0, touched(&all))
            }
        }
    }
}

impl AttentionShape {
    /// Floating-point operations of attention.
    pub fn flops(&self) -> u64 {
        product([2, self.logits(), self.qk_dim.saturating_add(self.v_dim)])
    }

    /// Of its gradient, which takes the logits anew.
    pub fn grad_flops(&self) -> u64 {
        let dims = product([3, self.qk_dim]).saturating_add(product([2, self.v_dim]));
        product([2, self.logits(), dims])
    }

    /// Logits that the mask leaves.
    fn logits(&self) -> u64 {
        let hidden = match self.causal {
            true => product([self.seq_kv.min(self.seq_q).saturating_sub(1), self.seq_q]) / 2,
            false => 0,
        };
        let all = product([self.seq_q, self.seq_kv]);
        product([self.batch, self.heads, all.saturating_sub(hidden)])
    }
}

/// A product that stops at the largest number.
fn product(factors: impl IntoIterator<Item = u64>) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}
