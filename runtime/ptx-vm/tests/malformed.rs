//! Malformed PTX, and launches that do not fit, are refused with code and line before anything runs.

mod corpus;

use perilune_ptx_vm::{Launch, LoadError, Machine, Module, Options};
use std::fs;
use std::path::Path;

/// Code and line of `// EXPECT: V0004 at line 13`.
fn expectation(text: &str) -> Option<(&str, Option<u32>)> {
    let expected = text.lines().next()?.strip_prefix("// EXPECT: ")?;
    match expected.split_once(" at line ") {
        Some((code, line)) => Some((code, Some(line.parse().ok()?))),
        None => Some((expected, None)),
    }
}

/// Loads a file and, if there is a launch beside it, launches it.
fn refusal(path: &Path, text: &str) -> Option<LoadError> {
    let module = match Module::parse_named(corpus::stem(path), text) {
        Ok(module) => module,
        Err(error) => return Some(error),
    };
    let launch = path.with_extension("launch.ron");
    if !launch.exists() {
        return None;
    }
    let launch = match Launch::read(launch) {
        Ok(launch) => launch,
        Err(error) => return Some(error),
    };
    Machine::run(&module, &launch, &Options::default()).err()
}

#[test]
fn malformed_files_are_refused_at_their_line() {
    let files = corpus::ptx_files("malformed");
    assert!(files.len() >= 20);
    corpus::assert_all(&files, |path| {
        let bytes = fs::read(path).map_err(|error| error.to_string())?;
        // What is no UTF-8 shows as the replacement character, which is no PTX either.
        let text = String::from_utf8_lossy(&bytes);
        let (code, line) = expectation(&text).ok_or("no expectation")?;
        let error = refusal(path, &text).ok_or(format!("was accepted, expected {code}"))?;
        let right = error.code == code && line.is_none_or(|line| line == error.position.line);
        right.then_some(()).ok_or(format!("expected {code} at {line:?}, got\n{error}"))
    });
}

#[test]
fn every_prefix_of_a_kernel_is_refused_or_accepted_without_a_panic() {
    let path = corpus::ptx_files("foreign")
        .into_iter()
        .find(|path| corpus::stem(path) == "cuda_interpreter.sm_80");
    let text = fs::read_to_string(path.expect("a kernel of the corpus")).expect("text");
    let whole = Module::parse(&text).expect("the whole kernel");
    assert_eq!(whole.kernels().len(), 1);
    let ends = text.char_indices().map(|(end, _)| end).filter(|end| end % 7 == 0);
    for end in ends {
        if let Err(error) = Module::parse(&text[..end]) {
            assert!(error.code.starts_with("V000"), "{error}");
        }
    }
}
