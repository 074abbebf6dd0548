//! Tests of weights in one file or many.

use std::fs;

use proptest::prelude::*;

use super::super::safetensors::write;
use super::*;

fn tensor(value: f32) -> HostTensor {
    HostTensor::scalar_f32(value)
}

/// A folder with two shards and the given index.
fn folder_with(index: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temp dir");
    let (a, b, c) = (tensor(1.0), tensor(2.0), tensor(3.0));
    let path = |name| folder.path().join(name);
    write(&path("one.safetensors"), [("a", &a), ("b", &b)], None).expect("written");
    write(&path("2-of-2.safetensors"), [("c", &c)], None).expect("written");
    fs::write(path(INDEX_FILE), index).expect("written");
    folder
}

fn open_with(index: &str) -> Result<Weights, WeightsError> {
    Weights::open(folder_with(index).path())
}

const INDEX: &str = r#"{"metadata": {"total_size": 12}, "weight_map":
    {"a": "one.safetensors", "b": "one.safetensors", "c": "2-of-2.safetensors"}}"#;

#[test]
fn shards_are_found_through_the_index() {
    let folder = folder_with(INDEX);
    let weights = Weights::open(folder.path()).expect("open");
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(weights.tensors().count(), 3);
    assert_eq!(weights.read("c").expect("there"), tensor(3.0));
    assert_eq!(weights.read("b").expect("there"), tensor(2.0));
    assert!(matches!(weights.read("d"), Err(WeightsError::UnknownTensor { .. })));
}

#[test]
fn one_file_needs_no_index() {
    let folder = tempfile::tempdir().expect("temp dir");
    let error = Weights::open(folder.path()).expect_err("empty");
    assert!(matches!(error, WeightsError::Empty { .. }));
    let file = folder.path().join(SINGLE_FILE);
    write(&file, [("a", &tensor(1.0))], None).expect("written");
    for path in [folder.path(), &file] {
        assert_eq!(Weights::open(path).expect("open").read("a").expect("there"), tensor(1.0));
    }
}

#[test]
fn an_index_names_files_of_its_own_folder_only() {
    for file in [
        "../one.safetensors",
        "/etc/passwd",
        "sub/one",
        "..",
        ".",
        "",
        "./one.safetensors",
        "one.safetensors/",
        "a\\\\b",
        "one\\u0000",
    ] {
        let index = INDEX.replace("2-of-2.safetensors", file);
        let error = open_with(&index).expect_err(file);
        assert!(matches!(error, WeightsError::Outside { .. }), "{file}: {error}");
    }
}

#[test]
fn index_and_files_must_agree() {
    let error = open_with(&INDEX.replace(r#""c":"#, r#""d":"#)).expect_err("no d");
    assert!(matches!(&error, WeightsError::Missing { names, .. } if names == &["d"]), "{error}");
    let error = open_with(&INDEX.replace(r#""b": "one.safetensors", "#, "")).expect_err("b");
    assert!(matches!(&error, WeightsError::Unlisted { names, .. } if names == &["b"]), "{error}");
    let error = open_with(&INDEX.replace(r#""c": "2-of"#, r#""c": "3-of"#)).expect_err("no file");
    assert!(matches!(error, WeightsError::File(_)), "{error}");
    let error = open_with(&INDEX.replace(r#""b": "#, r#""a": "#)).expect_err("twice");
    assert!(error.to_string().contains("twice"), "{error}");
    for text in ["", "{}", "[]", r#"{"weight_map": 1}"#, r#"{"weight_map": {"a": 1}}"#] {
        assert!(matches!(open_with(text), Err(WeightsError::Index { .. })), "{text}");
    }
}

proptest! {
    #[test]
    fn any_mutation_of_an_index_is_read_or_refused(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut index = INDEX.as_bytes().to_vec();
        let at = at.index(index.len());
        index[at] = byte;
        let folder = folder_with(INDEX);
        fs::write(folder.path().join(INDEX_FILE), &index).expect("written");
        if let Ok(weights) = Weights::open(folder.path()) {
            for name in weights.names() {
                let _ = weights.read(name);
            }
        }
    }
}
