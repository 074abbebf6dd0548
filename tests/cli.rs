//! The program as a user meets it: streams, exit codes, JSON, colour.
//!
//! # Invariants
//! - Runs the built binary; no library of ours is linked here.

use std::process::{Command, Output};

use serde_json::Value;

fn perilune(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_perilune"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("NO_COLOR")
        .output()
        .expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is UTF-8")
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).expect("stdout is one JSON document")
}

#[test]
fn a_wrong_command_line_is_exit_2_on_stderr_with_a_suggestion() {
    let output = perilune(&["explian", "E0203"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).is_empty());
    assert!(stderr(&output).contains("explain"), "{}", stderr(&output));
}

#[test]
fn help_and_version_are_data() {
    for flag in ["--help", "--version"] {
        let output = perilune(&[flag]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("perilune") && stderr(&output).is_empty());
    }
}

#[test]
fn a_code_is_explained_by_number_and_by_name() {
    let by_number = perilune(&["explain", "E0203"]);
    let by_name = perilune(&["explain", "duplicate-key"]);
    assert_eq!(by_number.status.code(), Some(0));
    assert!(stdout(&by_number).starts_with("E0203: duplicate-key"));
    assert_eq!(by_number.stdout, by_name.stdout);
    assert_eq!(json(&perilune(&["explain", "203", "--json"]))["code"], "E0203");
}

#[test]
fn what_cannot_be_explained_is_a_usage_error_with_a_suggestion() {
    let output = perilune(&["explain", "duplicate-kee"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("did you mean `duplicate-key`?"), "{}", stderr(&output));
    let output = perilune(&["--json", "explain", "duplicate-kee"]);
    assert_eq!(json(&output)["exit"], 2);
    assert!(stderr(&output).is_empty());
}

#[test]
fn a_node_is_explained_with_the_schedules_of_its_kernels_on_a_gpu() {
    let spec = "models/k2-nano/train.ron";
    let of = |target: &str| {
        let node = "model.layers.1.attn.attn";
        perilune(&["explain", node, "--spec", spec, "--target", target, "--json"])
    };
    let on_cpu = json(&of("cpu"));
    assert_eq!(on_cpu["schedules"].as_array().map(Vec::len), Some(0));
    let on_hopper = json(&of("sm_90a"));
    let schedules = on_hopper["schedules"].as_array().expect("a list");
    let attention = schedules.iter().find(|s| s["kernel"] == "attention_f32_11x11_16x6");
    let choice = &attention.expect("attention is generated")["choice"];
    assert_eq!(choice["schedule"]["Attention"]["engine"], "Fma", "fp32 stays fp32");
    assert!(choice["estimate"]["microseconds"].as_f64().is_some_and(|us| us > 0.0));
}

#[test]
fn decisions_are_explained_for_the_dims_asked_for() {
    let decisions = |more: &[&str]| {
        let spec = ["explain", "decisions", "--spec", "models/k2-nano/train.ron"];
        let output = perilune(&[&spec[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let (plain, wider) = (decisions(&[]), decisions(&["--set", "batch=5"]));
    assert!(plain.contains(" bytes, "), "{plain}");
    assert_ne!(plain, wider);
    let alone = perilune(&["explain", "E0203", "--set", "batch=5"]);
    assert_eq!(alone.status.code(), Some(2), "a dim of which spec?");
}

#[test]
fn a_plan_without_a_file_is_refused_before_anything_is_compiled() {
    let output = perilune(&["build", "models/no-such-spec.ron"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("say where to write it"), "{}", stderr(&output));
}

#[test]
fn kernels_are_written_for_the_target_asked_for() {
    let build = |more: &[&str]| perilune(&[&["build", "models/k2-nano/model.ron"], more].concat());
    let ptx = build(&["--emit", "ptx", "--target", "sm_80"]);
    assert_eq!(ptx.status.code(), Some(0), "{}", stderr(&ptx));
    assert!(stdout(&ptx).contains(".target sm_80") && !stdout(&ptx).contains("sm_90"));
    for (emit, target) in [("ptx", "cpu"), ("clif", "sm_80")] {
        let refused = build(&["--emit", emit, "--target", target]);
        assert_eq!(refused.status.code(), Some(2), "{emit} for {target}");
        assert!(stderr(&refused).contains("has no stage"), "{}", stderr(&refused));
    }
}

#[test]
fn an_op_is_explained_with_an_example() {
    let output = perilune(&["explain", "Einsum"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("Block("));
}

#[test]
fn check_gives_the_figures_of_a_published_step() {
    for (model, params_total, params_active, flops) in
        [("kimi-k2", 1_026.4e9, 32.86e9, 205.5e9), ("moonlight-16b", 15.960e9, 2.9148e9, 18.87e9)]
    {
        let output = perilune(&["check", "--json", &format!("models/{model}/train.ron")]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let figures = json(&output);
        for (name, want) in [
            ("params_total", params_total),
            ("params_active", params_active),
            ("train_flops_per_token", flops),
        ] {
            let have = figures[name].as_f64().expect(name);
            assert!(
                (have / want - 1.0).abs() < 1e-3,
                "{model} {name}: {have:e} instead of {want:e}"
            );
        }
        assert!(
            figures["param_bytes"].as_u64() > Some(0) && figures["state_bytes"].as_u64() > Some(0)
        );
    }
}

#[test]
fn a_missing_spec_is_a_coded_diagnostic_with_exit_1() {
    let output = perilune(&["check", "models/nowhere.ron"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).is_empty());
    let output = perilune(&["check", "--json", "models/nowhere.ron"]);
    let code = json(&output)["diagnostics"][0]["code"].clone();
    assert!(code.as_str().is_some_and(|c| c.starts_with("E01")), "{code}");
}

#[test]
fn data_that_is_no_text_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("temp dir");
    for (name, bytes) in [("empty", &b""[..]), ("binary", &[0xff; 4096][..])] {
        let data = folder.path().join(name);
        std::fs::write(&data, bytes).expect("write");
        let (data, out) = (data.display().to_string(), folder.path().join("out"));
        let out = out.display().to_string();
        let spec = "models/llama-gqa/train.ron";
        let output = perilune(&["train", spec, "--data", &data, "--out", &out]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", stderr(&output));
        assert!(stderr(&output).contains(name) && !std::path::Path::new(&out).exists());
    }
}

#[test]
fn a_short_training_run_leaves_metrics_plan_weights_and_report() {
    let folder = tempfile::tempdir().expect("temp dir");
    let out = folder.path().join("run").display().to_string();
    let args = [
        "train",
        "models/llama-gqa/train.ron",
        "--data",
        "examples/data/moby-dick.txt",
        "--steps",
        "2",
        "--eval-every",
        "0",
        "--json",
        "--out",
        &out,
    ];
    let output = perilune(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let end = json(&output);
    assert!(end["tokens_per_s"].as_f64().is_some_and(|rate| rate > 0.0));
    assert!(end["unigram"].as_f64() > end["bigram"].as_f64());
    for file in ["metrics.jsonl", "plan.perilune", "weights.safetensors", "report.html"] {
        let size = std::fs::metadata(folder.path().join("run").join(file)).map(|m| m.len());
        assert!(size.is_ok_and(|bytes| bytes > 100), "{file}");
    }
}

#[test]
fn a_plan_file_is_shown_and_a_damaged_one_is_refused_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let whole = path("whole.plan");
    let built = perilune(&["build", "models/k2-nano/train.ron", "--emit", "plan", "-o", &whole]);
    assert_eq!(built.status.code(), Some(0), "{}", stderr(&built));
    let shown = json(&perilune(&["plan", &whole, "--json"]));
    assert_eq!(shown["target"], "cpu");
    assert!(shown["entries"].as_array().is_some_and(|e| e.iter().any(|e| e["name"] == "init")));
    let kernel = shown["kernels"][0]["name"].as_str().expect("a name");
    assert!(stdout(&perilune(&["plan", &whole, "--kernel", kernel])).starts_with("function"));
    assert_eq!(perilune(&["plan", &whole, "--kernel", "nobody"]).status.code(), Some(1));

    let bytes = std::fs::read(&whole).expect("the plan");
    let mut edited = bytes.clone();
    let at = bytes.len() / 2;
    edited[at] = if edited[at] == b'1' { b'2' } else { b'1' };
    let short = bytes[..bytes.len() / 3].to_vec();
    let other = b"perilune-plan 999\n".to_vec();
    for (name, content) in
        [("edited", edited), ("short", short), ("other", other), ("empty", vec![])]
    {
        let file = path(name);
        std::fs::write(&file, content).expect("a file");
        let output = perilune(&["plan", &file]);
        assert_eq!(output.status.code(), Some(13), "{name}");
        assert!(output.stdout.is_empty() && stderr(&output).contains("help:"), "{name}");
    }
}

#[test]
fn the_drawing_of_a_model_has_a_box_for_each_layer() {
    let output = perilune(&["graph", "models/k2-nano/model.ron", "--depth", "2"]);
    let text = stdout(&output);
    assert!(text.starts_with("digraph"), "{}", stderr(&output));
    assert!(text.contains("\"model.layers.0\"") && text.contains("\"model.layers.1\""), "{text}");
}

#[test]
fn doctor_names_every_part_and_ends_well_here() {
    let output = perilune(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let report = json(&output);
    let findings = report["findings"].as_array().expect("a list");
    for name in ["cpu", "threads", "mlir-opt", "ptxas", "cuda driver", "work folder"] {
        let finding = findings.iter().find(|f| f["name"] == name).expect(name);
        let lacks = finding["verdict"] != "ok";
        assert_eq!(lacks, finding["fix"].is_string(), "{finding}");
    }
}

#[test]
fn data_that_cannot_be_written_is_a_failure_of_the_machine_and_a_closed_pipe_is_none() {
    let program = env!("CARGO_BIN_EXE_perilune");
    let run = |line: &str| {
        let mut shell = Command::new("bash");
        shell.args(["-c", &line.replace("perilune", program)]).output().expect("bash starts")
    };
    let full = run("perilune explain Einsum > /dev/full");
    assert_eq!(full.status.code(), Some(3), "{}", stderr(&full));
    assert!(stderr(&full).contains("cannot write the output"), "{}", stderr(&full));
    let closed = run("set -o pipefail; perilune explain Einsum | true");
    assert_eq!(closed.status.code(), Some(0), "{}", stderr(&closed));
    assert!(stderr(&closed).is_empty(), "{}", stderr(&closed));
}

#[test]
fn messages_are_coloured_only_on_request() {
    let plain = perilune(&["explain", "nothing"]);
    assert!(!stderr(&plain).contains('\u{1b}'));
    let colored = perilune(&["--color", "always", "explain", "nothing"]);
    assert!(stderr(&colored).contains('\u{1b}'));
    assert!(stdout(&colored).is_empty());
}

const KERNELS: &str = "runtime/ptx-vm/tests";

/// Some of what `vm` reports.
#[derive(Debug, PartialEq, serde::Deserialize)]
struct VmReport {
    completed: bool,
    lane_instructions: u64,
    mix: std::collections::BTreeMap<String, VmCount>,
    profile: Option<VmProfile>,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
struct VmCount {
    warps: u64,
    lanes: u64,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
struct VmProfile {
    kernel: String,
    memory: Vec<VmMemory>,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
struct VmMemory {
    space: String,
    requests: VmRequests,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
struct VmRequests {
    bytes: u64,
    sectors: u64,
}

#[test]
fn a_ptx_kernel_runs_is_checked_and_gives_its_buffers_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let dumped = folder.path().join("y.bin");
    let kernel = format!("{KERNELS}/foreign/cuda_saxpy.sm_80");
    let output = perilune(&[
        "vm",
        &format!("{kernel}.ptx"),
        "--launch",
        &format!("{kernel}.launch.ron"),
        "--checks",
        "all",
        "--json",
        "--dump",
        &format!("y={}", dumped.display()),
    ]);
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["completed"], true);
    assert!(report["mix"]["fma.rn.f32"]["lanes"].as_u64().is_some_and(|lanes| lanes > 0));
    let expected = std::fs::read(format!("{KERNELS}/foreign/cuda_saxpy.y.expected.bin"));
    let (ptx, launch) = (format!("{kernel}.ptx"), format!("{kernel}.launch.ron"));
    let in_ron = perilune(&["vm", &ptx, "--launch", &launch, "--profile", "--ron"]);
    let in_json = perilune(&["vm", &ptx, "--launch", &launch, "--profile", "--json"]);
    let in_ron: VmReport = ron::from_str(&stdout(&in_ron)).expect("RON");
    assert_eq!(in_ron, serde_json::from_value(json(&in_json)).expect("the same fields in JSON"));
    let memory = in_ron.profile.map(|profile| profile.memory).unwrap_or_default();
    assert!(memory.iter().any(|of| of.space == "global" && of.requests.bytes > 0));
    assert_eq!(std::fs::read(dumped).expect("the dump"), expected.expect("the fixture"));
}

#[test]
fn a_defect_in_a_ptx_kernel_is_named_with_its_line_and_is_exit_1() {
    let kernel = format!("{KERNELS}/planted/v1101_missing_barrier");
    let (ptx, launch) = (format!("{kernel}.ptx"), format!("{kernel}.launch.ron"));
    let output = perilune(&["vm", &ptx, "--launch", &launch]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("V1101: ") && stdout(&output).contains("// BUG: V1101"));
    let unchecked = perilune(&["vm", &ptx, "--launch", &launch, "--checks", "none"]);
    assert_eq!(unchecked.status.code(), Some(0), "{}", stdout(&unchecked));
}

#[test]
fn a_text_that_is_no_ptx_is_refused_with_line_and_column() {
    let launch = format!("{KERNELS}/planted/v1101_missing_barrier.launch.ron");
    let output = perilune(&["vm", "README.md", "--launch", &launch]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("V0001") && stderr(&output).contains("README.md:1:1"));
}

#[test]
fn training_in_the_ptx_vm_leaves_the_same_record_and_checks_are_for_it_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = |device: &str| dir.path().join(device).display().to_string();
    let train = |more: &[&str]| {
        let spec = ["train", "models/k2-nano/train.ron", "--set", "vocab=256", "--steps", "1"];
        let data = ["--data", "examples/data/moby-dick.txt", "--eval-every", "0", "--quiet"];
        perilune(&[&spec[..], &data, more].concat())
    };
    let refused = train(&["--checks", "all", "--out", &out("refused")]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("--device ptx-vm"), "{}", stderr(&refused));
    let refused = train(&["--vm-steps", "9", "--out", &out("refused")]);
    assert_eq!(refused.status.code(), Some(2));
    let stopped = train(&["--device", "ptx-vm", "--vm-steps", "9", "--out", &out("stopped")]);
    assert_ne!(stopped.status.code(), Some(0));
    let said = stderr(&stopped);
    assert!(said.contains("V1302: more than 9 warp") && said.contains("--vm-steps"), "{said}");
    let loss = |device: &str| {
        let run = train(&["--device", device, "--out", &out(device)]);
        assert_eq!(run.status.code(), Some(0), "{}", stderr(&run));
        let text = std::fs::read_to_string(dir.path().join(device).join("metrics.jsonl"));
        let text = text.expect("metrics");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let losses = lines.filter(|line| line["kind"] == "step");
        losses.filter_map(|line| line["loss"].as_f64()).next().expect("a loss")
    };
    let (cpu, vm) = (loss("cpu"), loss("ptx-vm"));
    assert!((cpu - vm).abs() < 1e-5, "{cpu} on the CPU, {vm} from PTX");
}
