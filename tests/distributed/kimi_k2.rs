//! The full Kimi-K2 step on 128 ranks, as far as it goes without them: one program for all.

use std::fmt::Write;

use perilune::collectives::{self, Summary};
use perilune::library::Library;
use perilune::pipeline::{check_on, sketch};

/// A layer in the middle: attention, router, experts.
const LAYER: &str = ".layers.30.";

#[test]
fn kimi_k2_on_128_ranks_is_one_plan_whose_collectives_are_known() {
    let sets = [("batch".to_owned(), "128".to_owned())];
    let mesh = Some("dp=8,ep=16");
    let checked = check_on(&Library::default(), "kimi-k2/train.ron", &sets, mesh);
    let checked = checked.expect("a spec that the mesh divides");
    let plan = sketch(&checked).expect("compiles");
    let entry = plan.entries.iter().find(|e| e.name == "train_step").expect("a step");
    let lines = collectives::of_entry(&plan, entry);
    let mut text = format!("{}\n", Summary::of(&plan));
    for line in lines.iter().filter(|l| l.nodes.iter().any(|node| node.contains(LAYER))) {
        let _ = writeln!(text, "{line}");
    }
    insta::assert_snapshot!(text);
}
