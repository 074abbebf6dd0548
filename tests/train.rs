//! `perilune train`: runs that are left and gone on with, and runs that go wrong.
//!
//! # Invariants
//! - Runs the built binary on a small Kimi-K2 with every mechanism that has state: momentum, the
//!   router's bias, QK-clip's smoothing.

mod workbench;

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use workbench::Bench;

/// A run's folder whose QK-clip remembers.
fn stateful() -> Bench {
    let bench = Bench::nano(400);
    bench.edit("k2-nano/train.ron", "tau: 7.0", "smoothing: 0.9, tau: 0.01");
    bench
}

impl Bench {
    fn command(&self, out: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_perilune"));
        command
            .args(["train", "k2-nano/train.ron", "--data", "text", "--out", out])
            .args(args)
            .current_dir(self.folder());
        command
    }

    fn train(&self, out: &str, args: &[&str]) -> Output {
        self.command(out, args).output().expect("the program starts")
    }

    fn bytes(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The records of a run without what the clock says.
    fn metrics(&self, out: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(out).join("metrics.jsonl")).expect("metrics");
        let timed =
            ["seconds", "tokens_per_s", "compile_seconds", "peak_rss_bytes", "rows", "ranks"];
        let record = |line: &str| {
            let mut record: Value = serde_json::from_str(line).expect("a record");
            let fields = record.as_object_mut().expect("an object");
            fields.retain(|name, _| !timed.contains(&name.as_str()));
            record
        };
        text.lines().map(record).collect()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn expect(output: &Output, code: i32, says: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    assert!(stderr(output).contains(says), "no `{says}` in:\n{}", stderr(output));
}

#[test]
fn three_steps_and_three_more_are_six_steps_to_the_bit() {
    let bench = stateful();
    expect(
        &bench.train("straight", &["--steps", "6", "--eval-every", "3", "--threads", "3"]),
        0,
        "",
    );
    expect(&bench.train("broken", &["--steps", "3", "--eval-every", "3"]), 0, "");
    let rest = ["--resume", "--steps", "6", "--eval-every", "3", "--threads", "1"];
    expect(&bench.train("broken", &rest), 0, "going on after step 3");
    for file in ["weights.safetensors", "checkpoints/step-6/state.safetensors", "plan.perilune"] {
        let of = |run: &str| bench.bytes(&format!("{run}/{file}"));
        assert!(of("straight") == of("broken"), "{file} differs");
    }
    let mut runs = ["straight", "broken"].map(|run| bench.metrics(run));
    // How many threads took part is recorded and changes nothing else.
    runs.iter_mut().for_each(|run| run[0]["threads"] = Value::Null);
    assert_eq!(runs[0], runs[1]);
    let steps = runs[0].iter().filter(|r| r["kind"] == "step");
    assert_eq!(steps.count(), 6);
}

#[test]
fn what_a_run_goes_on_from_must_be_its_own() {
    let bench = stateful();
    expect(&bench.train("run", &["--resume"]), 1, "has no checkpoint");
    assert!(!bench.path("run/plan.perilune").exists());
    expect(&bench.train("run", &["--steps", "2", "--eval-every", "0"]), 0, "");
    let before = ["metrics.jsonl", "plan.perilune"].map(|f| bench.bytes(&format!("run/{f}")));
    expect(&bench.train("run", &["--steps", "2"]), 1, "holds a run of 2 steps");
    expect(&bench.train("run", &["--resume", "--seed", "9"]), 1, "another seed");
    expect(&bench.train("run", &["--resume", "--steps", "1"]), 1, "more than 1");
    expect(&bench.train("run", &["--resume", "--set", "d_ff=64"]), 1, "another plan");
    bench.edit("text", "sheep", "goats");
    expect(&bench.train("run", &["--resume"]), 1, "other data");
    expect(&bench.train("run", &["--resume", "--overwrite"]), 2, "cannot be used with");
    let after = ["metrics.jsonl", "plan.perilune"].map(|f| bench.bytes(&format!("run/{f}")));
    assert!(before[1] == after[1]);
    // What cannot run removes nothing.
    expect(&bench.train("run", &["--overwrite", "--set", "seq=4000"]), 1, "needs 4001");
    assert!(bench.path("run/checkpoints/step-2").exists());
    let anew = ["--overwrite", "--steps", "1", "--eval-every", "0"];
    expect(&bench.train("run", &anew), 0, "");
    assert!(!bench.path("run/checkpoints/step-2").exists());
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let bench = stateful();
    let steps = ["--steps", "6", "--eval-every", "0", "--checkpoint-every", "2"];
    expect(&bench.train("run", &steps), 0, "");
    let (weights, records) = (bench.bytes("run/weights.safetensors"), bench.metrics("run"));
    let cut = |step: u64| {
        let path = format!("run/checkpoints/step-{step}/weights.safetensors");
        let bytes = bench.bytes(&path);
        fs::write(bench.path(&path), &bytes[..bytes.len() - 1]).expect("written");
    };
    assert!(!bench.path("run/checkpoints/step-2").exists(), "two are kept");
    cut(6);
    let resumed = bench.train("run", &[&steps[..], &["--resume"]].concat());
    expect(&resumed, 0, "step 6 is passed over");
    assert!(stderr(&resumed).contains("going on after step 4"));
    assert!(bench.bytes("run/weights.safetensors") == weights);
    assert_eq!(bench.metrics("run"), records);
    cut(4);
    cut(6);
    let none = bench.train("run", &[&steps[..], &["--resume"]].concat());
    expect(&none, 13, "is valid");
}

/// Starts a long run, waits for its second step and sends a signal.
fn signalled(bench: &Bench, out: &str, signal: &str) -> Output {
    let args = ["--steps", "1000000", "--eval-every", "0", "--checkpoint-every", "1000000"];
    let mut command = bench.command(out, &args);
    let child: Child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let metrics = bench.path(out).join("metrics.jsonl");
    let start = Instant::now();
    while fs::read_to_string(&metrics).unwrap_or_default().lines().count() < 3 {
        assert!(start.elapsed() < Duration::from_secs(120), "no second step");
        std::thread::sleep(Duration::from_millis(20));
    }
    let kill = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(kill.expect("kill is there").success());
    child.wait_with_output().expect("it ends")
}

#[test]
fn an_interrupted_run_saves_its_last_step_and_says_so() {
    let bench = stateful();
    for (out, signal, code) in [("keyboard", "-INT", 130), ("scheduler", "-TERM", 10)] {
        let output = signalled(&bench, out, signal);
        expect(&output, code, "its checkpoint is saved");
        let records = bench.metrics(out);
        let last = records.last().expect("records")["step"].as_u64().expect("a step");
        assert!(bench.path(&format!("{out}/checkpoints/step-{last}")).is_dir(), "step {last}");
        let (more, steps) = (last + 1, (last + 1).to_string());
        expect(&bench.train(out, &["--resume", "--steps", &steps, "--eval-every", "0"]), 0, "");
        let records = bench.metrics(out);
        let seen: Vec<u64> = records
            .iter()
            .filter(|r| r["kind"] == "step")
            .filter_map(|r| r["step"].as_u64())
            .collect();
        assert_eq!(seen, (1..=more).collect::<Vec<_>>());
    }
}

#[test]
fn a_step_that_is_not_finite_is_skipped_or_ends_the_run_as_the_spec_says() {
    let bench = stateful();
    bench.edit("k2-nano/train.ron", "peak: 2e-3", "peak: 1e30");
    let steps = ["--steps", "40", "--eval-every", "0", "--checkpoint-every", "1"];
    let skipped = |out: &str| {
        let records = bench.metrics(out);
        records.iter().filter(|r| r["skipped"] == true).count()
    };
    expect(&bench.train("skips", &steps), 12, "is not finite for 5 steps");
    assert_eq!(skipped("skips"), 5);
    assert!(!bench.path("skips/weights.safetensors").exists());
    bench.edit("k2-nano/train.ron", "skip_nonfinite: true", "skip_nonfinite: false");
    expect(&bench.train("stops", &steps), 12, "is not finite");
    assert_eq!(skipped("stops"), 0);
    assert!(bench.metrics("stops").len() < bench.metrics("skips").len());
    let resumed = bench.train("stops", &[&steps[..], &["--resume"]].concat());
    expect(&resumed, 12, "is not finite");
}

#[test]
fn what_does_not_suit_the_step_is_refused_before_anything_is_written() {
    let bench = stateful();
    fs::write(bench.path("short"), "x".repeat(1100)).expect("written");
    for (args, code, says) in [
        (&["--input", "tua=3"][..], 1, "has no input `tua`"),
        (&["--input", "step=3"], 1, "has no input `step`"),
        (&["--input", "tua=x"], 2, "is no number"),
        (&["--steps", "16777217"], 1, "`steps` cannot be"),
        (&["--seed", "2147483648"], 1, "`seed` cannot be"),
        (&["--threads", "0"], 2, "0 is not in 1..=1024"),
        (&["--threads", "100000"], 2, "is not in"),
        (&["--set", "vocab=64"], 1, "the model only 64 tokens"),
        (&["--set", "seq=4000"], 1, "a window of 4000 needs 4001"),
        (&["--set", "batch=0"], 1, "none of them 0"),
        (&["--set", "d_model=2e12"], 1, "E0401"),
        // More than any address space.
        (&["--set", "d_model=100000000000"], 3, "of memory"),
    ] {
        expect(&bench.train("run", args), code, says);
        assert!(!bench.path("run").exists(), "{args:?} leaves something");
    }
    expect(&bench.train("text/run", &[]), 3, "Not a directory");
}
