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
fn doctor_names_every_part_and_ends_well_here() {
    let output = perilune(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let report = json(&output);
    let findings = report["findings"].as_array().expect("a list");
    for name in ["cpu", "threads", "mlir-opt", "ptxas", "cuda driver", "cache"] {
        let finding = findings.iter().find(|f| f["name"] == name).expect(name);
        let lacks = finding["verdict"] != "ok";
        assert_eq!(lacks, finding["fix"].is_string(), "{finding}");
    }
}

#[test]
fn messages_are_coloured_only_on_request() {
    let plain = perilune(&["explain", "nothing"]);
    assert!(!stderr(&plain).contains('\u{1b}'));
    let colored = perilune(&["--color", "always", "explain", "nothing"]);
    assert!(stderr(&colored).contains('\u{1b}'));
    assert!(stdout(&colored).is_empty());
}
