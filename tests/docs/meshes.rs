//! The table of meshes against one rank, from what `./x meshes` measured last.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::committed::heading;
use crate::markdown::root;
use crate::mesh_table::table;

/// What `./x meshes` keeps.
const RESULTS: &str = "benches/results/meshes.json";

/// The page.
pub(crate) fn page() -> String {
    let text = fs::read_to_string(root().join(RESULTS)).expect("results are committed");
    let results: Value = serde_json::from_str(&text).expect("JSON");
    let rows = results["rows"].as_array().expect("rows");
    let mut out = heading("Meshes against one rank", RESULTS);
    out.push_str(
        "`./x meshes` trains each model on one rank and on meshes of ranks that are processes, all on \
         one machine, from the same seed on the same text.\n\
         k2-nano and k2-tiny take twenty steps, with every mesh of up to eight ranks and every stage \
         of ZeRO; k2-tiny as it is shipped, with its 1,024 tokens a step as 8 × 128, k2-nano on \
         8 × 24.\n\
         The gradient is clipped in every step, QK-clip acts, and the routers' biases move; every run \
         sends each token to the same experts and moves the biases alike.\n\
         k2-small takes two steps, for its memory.\n\n\
         * losses, norms: the largest difference from one rank of the losses of all steps and of two \
         looks at the validation split, and of the gradient's norm before it is clipped, relative.\n\
         * weights: the largest difference of an element, relative to its tensor's largest.\n\
         * slices: `reduction_slices`; these rows are held against the first mesh of their `dp`, which \
         runs twice.\n\
         * same bits: losses, norms, loads, logits and the file of weights are equal to the last bit.\n\
         * sent: by all ranks together; state, promised and measured: of the rank that has most.\n\
         Measured is resident memory that the run added to its process; within 5 % of the promise for \
         k2-small, while for the smaller models what a process needs anyway rules.\n\n\
         A row stays until it is measured again; ",
    );
    let programs: BTreeSet<&str> = rows.iter().filter_map(|row| row["program"].as_str()).collect();
    match programs.len() {
        1 => out.push_str("all of these are of one program.\n\n"),
        many => out.push_str(&format!("these are of {many} programs.\n\n")),
    }
    out.push_str(&table(rows));
    out.push('\n');
    out
}
