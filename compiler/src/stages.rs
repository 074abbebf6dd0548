//! The stages of a program, in order, and the road between any two of them.
//!
//! A stage is a program after a pass; its text is the MLIR that [`print`](crate::program::print)
//! writes and [`read`](crate::program::read) reads, so any stage can be written, looked at, edited,
//! verified with stock `mlir-opt` and resumed from.
//!
//! # Invariants
//! - A program is in normal form at every stage, so going through text changes nothing.
//! - This list is the pipeline: [`compile`](mod@crate::compile) runs it and nothing else.

use crate::passes::{
    bufferise, canonicalize_cse, epilogue, fuse, outline, overlap, preserve_old_values, schedule,
    views,
};
use crate::program::Program;
use crate::program::normal::normalise;

/// A pass under the name of the stage it leads to.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// Its name, as in `--emit mlir:fuse`.
    pub name: &'static str,
    /// What has happened there.
    pub summary: &'static str,
    run: fn(&mut Program),
}

/// Every stage in order; the first is what `import` gives.
pub const STAGES: [Stage; 11] = [
    Stage { name: "import", summary: "one call for each node, one-op kernels", run: |_| () },
    Stage {
        name: "canonicalize",
        summary: "equal calls once, dead ones gone",
        run: canonicalize_cse::run,
    },
    Stage {
        name: "views",
        summary: "slices, reshapes and permutations inside their readers",
        run: views::run,
    },
    Stage { name: "fuse", summary: "loop kernels that share rows are one", run: fuse::run },
    Stage { name: "clean", summary: "equal fused calls once", run: canonicalize_cse::run },
    Stage {
        name: "preserve",
        summary: "old values of updated tensors are copies",
        run: preserve_old_values::run,
    },
    Stage {
        name: "epilogue",
        summary: "kernels on the rows of the contraction they read",
        run: epilogue::run,
    },
    Stage { name: "schedule", summary: "calls in the order they run", run: schedule::run },
    Stage {
        name: "overlap",
        summary: "collectives beside kernels, on many ranks",
        run: overlap::run,
    },
    Stage { name: "outline", summary: "kernels named after what they do", run: outline::run },
    Stage { name: "bufferise", summary: "a place for every value", run: bufferise::run },
];

/// Position of a stage by name.
pub fn position(name: &str) -> Option<usize> {
    STAGES.iter().position(|s| s.name == name)
}

/// Runs the passes after stage `from` up to stage `to`.
pub fn advance(program: &mut Program, from: usize, to: usize) {
    let passes = STAGES.iter().take(to + 1).skip(from + 1);
    normalise(program);
    for stage in passes {
        (stage.run)(program);
        normalise(program);
    }
}
