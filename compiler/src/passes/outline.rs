//! The final names of kernels: what they do, and a number in order of first use.
//!
//! # Invariants
//! - Names are unique and depend on the program alone.

use std::collections::BTreeMap;

use super::drop_unused_kernels;
use crate::program::{DialectOp, Kernel, OpKind, Program};

/// At most this many words make a name.
const MAX_WORDS: usize = 3;

/// Runs the pass.
pub fn run(program: &mut Program) {
    drop_unused_kernels(program);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for kernel in &mut program.kernels {
        let stem = stem(kernel);
        let count = counts.entry(stem.clone()).or_default();
        kernel.name = format!("{stem}_{count}");
        *count += 1;
    }
}

/// What a kernel does: `reduce_map` for a norm. Views count only where there is nothing else.
fn stem(kernel: &Kernel) -> String {
    let all: Vec<&str> = kernel.ops.iter().map(|op| word(&op.kind)).collect();
    let is_view = |w: &&str| matches!(*w, "slice" | "reshape" | "pad");
    let mut words: Vec<&str> = all.iter().copied().filter(|w| !is_view(w)).collect();
    if words.is_empty() {
        words = all;
    }
    words.dedup();
    words.truncate(MAX_WORDS);
    words.join("_")
}

fn word(kind: &OpKind) -> &'static str {
    match kind {
        OpKind::Generic(g) if g.combine.is_some() => "reduce",
        OpKind::Generic(_) => "map",
        OpKind::Slice(_) => "slice",
        OpKind::Concat(_) => "concat",
        OpKind::Pad { .. } => "pad",
        OpKind::Reshape => "reshape",
        OpKind::Contract(_) => "contract",
        OpKind::Constant(_) => "constant",
        OpKind::Dialect(op) => match op {
            DialectOp::Attention { .. } => "attention",
            DialectOp::AttentionGrad { .. } => "attention_grad",
            DialectOp::RaggedRows { .. } => "ragged_rows",
            DialectOp::RaggedOuter => "ragged_outer",
            DialectOp::TopK { .. } => "top_k",
            DialectOp::ArgSort { .. } => "arg_sort",
            DialectOp::Histogram { .. } => "histogram",
            DialectOp::CumSum { .. } => "cum_sum",
            DialectOp::ScatterAdd { .. } => "scatter_add",
            DialectOp::Collective(collective) => collective.name(),
        },
    }
}
