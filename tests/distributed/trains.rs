//! `perilune train` on ranks that are processes: runs that are left and gone on with, and jobs that are
//! refused.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::workbench::Bench;

use super::launched::{Job, has_mpi, signal, text};

/// A run's folder. The step has everything that ranks must agree on: a clip of the gradient, QK-clip,
/// the router's bias.
fn with_zero(stage: u32) -> Bench {
    let bench = Bench::nano(900);
    bench.edit("k2-nano/train.ron", "clip_grad_norm: None", "clip_grad_norm: Some(0.5)");
    let zero = format!("zero: {stage}, accumulate: 1");
    bench.edit("k2-nano/train.ron", "accumulate: 1", &zero);
    bench
}

impl Bench {
    /// The command line of a run.
    fn run(&self, out: &str, args: &[&str]) -> Vec<String> {
        let paths = ["k2-nano/train.ron", "text", out].map(|p| self.path(p).display().to_string());
        let [spec, data, out] = paths;
        let fixed = ["train", &spec, "--data", &data, "--out", &out, "--set", "batch=8"];
        let words = fixed.iter().chain(&["--threads", "1", "--seed", "3"]).chain(args);
        words.map(|word| (*word).to_owned()).collect()
    }

    /// Starts a run on a mesh.
    fn launch(&self, out: &str, (ranks, mesh): (u32, &str), args: &[&str]) -> Job {
        let mut run = self.run(out, args);
        run.extend(["--mesh".to_owned(), mesh.to_owned()]);
        let run: Vec<&str> = run.iter().map(String::as_str).collect();
        Job::launch(ranks, "120", &run)
    }

    fn together(&self, out: &str, on: (u32, &str), args: &[&str]) {
        let output = self.launch(out, on, args).output();
        let (said, told) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{out}: {said}{told}");
    }

    /// Losses in the order of a run's records, those of looks at the validation split too.
    fn losses(&self, out: &str) -> Vec<f64> {
        let records = fs::read_to_string(self.path(out).join("metrics.jsonl")).unwrap_or_default();
        let records = records.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let losses =
            records.filter(|r| ["step", "eval"].contains(&r["kind"].as_str().unwrap_or("")));
        losses.filter_map(|record| record["loss"].as_f64()).collect()
    }
}

#[test]
fn a_run_on_ranks_is_left_and_gone_on_with_as_if_it_had_not_been() {
    if !has_mpi() {
        return;
    }
    let bench = with_zero(1);
    let on = (2, "dp=2,ep=1");
    let steps =
        |steps: &'static str| ["--steps", steps, "--eval-every", "0", "--checkpoint-every", "2"];
    bench.together("whole", on, &steps("12"));
    let job = bench.launch("left", on, &steps("100000"));
    let begin = Instant::now();
    while bench.losses("left").len() < 5 {
        assert!(begin.elapsed() < Duration::from_secs(180), "it trains");
        std::thread::sleep(Duration::from_millis(20));
    }
    signal("TERM", job.process());
    let output = job.output();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(10), "{err}");
    for rank in 0..2 {
        assert!(err.contains(&format!("{rank}| error: left after step ")), "{err}");
    }
    let done = bench.losses("left").len() as u64;
    let more = (done + 3).to_string();
    let go_on = ["--steps", &more, "--eval-every", "0", "--checkpoint-every", "2", "--resume"];
    bench.together("left", on, &go_on);
    let (left, whole) = (bench.losses("left"), bench.losses("whole"));
    assert_eq!(left.len() as u64, done + 3);
    let common = left.len().min(whole.len());
    assert_eq!(left[..common], whole[..common], "to the bit");
}

#[test]
fn a_run_goes_on_on_another_mesh_as_if_it_had_always_been_there() {
    if !has_mpi() {
        return;
    }
    let bench = with_zero(1);
    let every = |steps: &'static str| {
        ["--steps", steps, "--eval-every", "0", "--checkpoint-every", "4", "--resume"]
    };
    let alone = (1, "dp=1,ep=1");
    bench.together("whole", alone, &every("12")[..6]);
    bench.together("moved", (2, "dp=2,ep=1"), &every("4")[..6]);
    for (on, steps) in [((4, "dp=2,ep=2"), "7"), ((2, "dp=1,ep=2"), "10"), (alone, "12")] {
        bench.together("moved", on, &every(steps));
    }
    let (moved, whole) = (bench.losses("moved"), bench.losses("whole"));
    assert_eq!(moved.len(), 12);
    for (step, (found, expected)) in moved.iter().zip(&whole).enumerate() {
        let off = (found - expected).abs() / expected.abs();
        assert!(off < 2e-4, "step {step}: {found}, {expected} on one rank");
    }
    let weights = |out: &str| fs::metadata(bench.path(out).join("weights.safetensors"));
    let length = |out: &str| weights(out).expect("weights").len();
    assert_eq!(length("moved"), length("whole"));
}

#[test]
fn another_step_than_the_one_that_was_saved_is_refused_on_another_mesh_too() {
    if !has_mpi() {
        return;
    }
    let bench = with_zero(1);
    let steps = ["--steps", "2", "--eval-every", "0", "--checkpoint-every", "2"];
    bench.together("run", (2, "dp=2,ep=1"), &steps);
    bench.edit("k2-nano/train.ron", "peak: 2e-3", "peak: 1e-3");
    let more = ["--steps", "4", "--eval-every", "0", "--checkpoint-every", "2", "--resume"];
    let output = bench.launch("run", (2, "dp=1,ep=2"), &more).output();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("is of another plan") && err.contains("the mesh may be another"), "{err}");
    assert_eq!(bench.losses("run").len(), 2, "its records stay");
}

#[test]
fn a_job_that_does_not_fit_the_mesh_is_refused_by_every_rank() {
    if !has_mpi() {
        return;
    }
    let bench = with_zero(0);
    let output = bench.launch("wrong", (2, "dp=4,ep=1"), &["--steps", "1"]).output();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("error[E0605]: the mesh dp=4 has 4 ranks, the job has 2"), "{err}");
    assert!(!bench.path("wrong/metrics.jsonl").exists());
}
