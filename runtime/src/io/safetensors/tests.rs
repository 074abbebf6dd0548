//! Tests of the safetensors reader and writer, damaged files included.

use std::fs;

use proptest::prelude::*;
use safetensors::{SafeTensors, serialize, tensor::TensorView};

use super::*;

fn file_of(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("x.safetensors");
    fs::write(&path, bytes).expect("write");
    (folder, path)
}

/// A file with the given header text and data.
fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn open(bytes: &[u8]) -> Result<SafetensorsFile, SafetensorsError> {
    SafetensorsFile::open(&file_of(bytes).1)
}

fn malformed(header: &str, data: &[u8]) -> String {
    match open(&with_header(header, data)) {
        Err(SafetensorsError::Malformed { what, .. }) => what,
        other => panic!("{header}: {other:?}"),
    }
}

/// One tensor of a stored type over raw bytes.
fn stored(dtype: Dtype, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let view = TensorView::new(dtype, shape.to_vec(), data).expect("a view");
    serialize([("x", view)], None).expect("serialised")
}

fn read_one(bytes: &[u8]) -> Result<HostTensor, SafetensorsError> {
    let (_folder, path) = file_of(bytes);
    SafetensorsFile::open(&path)?.read("x")
}

fn any_tensor() -> impl Strategy<Value = HostTensor> {
    let dtype = prop::sample::select(vec![
        DType::f64,
        DType::f32,
        DType::bf16,
        DType::f16,
        DType::i32,
        DType::i1,
    ]);
    (dtype, prop::collection::vec(0u64..4, 0..4), any::<u64>()).prop_map(|(dtype, shape, seed)| {
        let bytes = shape.iter().product::<u64>() * dtype.bytes();
        let byte = |i: u64| (seed.wrapping_mul(i + 1) >> 32) as u8;
        let data = (0..bytes).map(|i| if dtype == DType::i1 { byte(i) & 1 } else { byte(i) });
        HostTensor::from_bytes(dtype, &shape, data.collect()).expect("it fills the shape")
    })
}

fn any_tensors() -> impl Strategy<Value = BTreeMap<String, HostTensor>> {
    prop::collection::btree_map("[a-z.\"\\\\é]{0,6}", any_tensor(), 0..6)
}

fn encoded(tensors: &BTreeMap<String, HostTensor>, metadata: Option<(&str, &str)>) -> Vec<u8> {
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let mut bytes = Vec::new();
    let encoding = Encoding::new(named, metadata).expect("writable");
    encoding.write(&mut bytes).expect("to memory");
    assert_eq!(bytes.len() as u64, encoding.file_bytes());
    bytes
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(tensors in any_tensors()) {
        let (_folder, path) = file_of(&[]);
        let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        write(&path, named, Some(("format", "pt"))).expect("written");
        let file = SafetensorsFile::open(&path).expect("open");
        prop_assert!(file.tensors().keys().eq(tensors.keys()));
        prop_assert_eq!(file.metadata().get("format").map(String::as_str), Some("pt"));
        for (name, tensor) in &tensors {
            prop_assert_eq!(file.tensors()[name].dtype(), Some(tensor.dtype()));
            prop_assert_eq!(file.tensors()[name].shape(), tensor.shape());
            prop_assert_eq!(&file.read(name).expect("read"), tensor);
        }
    }

    #[test]
    fn the_reference_reader_agrees(tensors in any_tensors()) {
        let bytes = encoded(&tensors, None);
        let theirs = SafeTensors::deserialize(&bytes).expect("valid");
        prop_assert_eq!(theirs.len(), tensors.len());
        for (name, tensor) in &tensors {
            prop_assert_eq!(theirs.tensor(name).expect("there").data(), tensor.bytes());
        }
    }

    #[test]
    fn any_mutation_is_read_or_refused_but_never_a_panic(
        tensors in any_tensors(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = encoded(&tensors, Some(("k", "v")));
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let (_folder, path) = file_of(&bytes);
        if let Ok(file) = SafetensorsFile::open(&path) {
            for name in file.tensors().keys() {
                let _ = file.read(name);
            }
        }
    }

    #[test]
    fn any_header_text_is_parsed_or_refused(header in "[\\[\\]{}\":,a-z0-9_ -]{0,60}") {
        let _ = open(&with_header(&header, &[0; 16]));
    }
}

#[test]
fn bytes_do_not_depend_on_the_order_given() {
    let one = HostTensor::from_f32(&[2], &[1.0, 2.0]).expect("fills");
    let two = HostTensor::scalar_i32(7);
    let texts = [vec![("a", &one), ("b", &two)], vec![("b", &two), ("a", &one)]].map(|named| {
        let mut bytes = Vec::new();
        Encoding::new(named, None).expect("writable").write(&mut bytes).expect("to memory");
        bytes
    });
    assert_eq!(texts[0], texts[1]);
}

#[test]
fn integers_become_i32_each_checked() {
    let i64s = |values: &[i64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let good = stored(Dtype::I64, &[2], &i64s(&[i32::MIN.into(), i32::MAX.into()]));
    assert_eq!(read_one(&good).expect("fits").to_i32().expect("i32"), [i32::MIN, i32::MAX]);
    let bad = stored(Dtype::I64, &[3], &i64s(&[1, 2, 1 << 31]));
    match read_one(&bad) {
        Err(SafetensorsError::Value { index: 2, value: 0x8000_0000, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(
        read_one(&stored(Dtype::U8, &[2], &[0, 255])).expect("fits").to_i32().expect("i32"),
        [0, 255]
    );
    let words = read_one(&stored(Dtype::I16, &[1], &(-5i16).to_le_bytes())).expect("fits");
    assert_eq!(words.to_i32().expect("i32"), [-5]);
    assert!(read_one(&stored(Dtype::U32, &[1], &u32::MAX.to_le_bytes())).is_err());
    assert!(read_one(&stored(Dtype::U64, &[1], &u64::MAX.to_le_bytes())).is_err());
}

#[test]
fn a_truth_value_is_zero_or_one() {
    assert_eq!(read_one(&stored(Dtype::BOOL, &[2], &[0, 1])).expect("fits").dtype(), DType::i1);
    match read_one(&stored(Dtype::BOOL, &[2], &[0, 2])) {
        Err(SafetensorsError::Value { index: 1, value: 2, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn eight_bit_floats_are_listed_and_not_read() {
    let (_folder, path) = file_of(&stored(Dtype::F8_E4M3, &[4], &[0; 4]));
    let file = SafetensorsFile::open(&path).expect("open");
    assert_eq!(file.tensors()["x"].dtype(), None);
    assert_eq!(file.tensors()["x"].stored_type(), "F8_E4M3");
    let error = file.read("x").expect_err("not supported");
    assert!(matches!(error, SafetensorsError::UnsupportedType { .. }), "{error}");
}

#[test]
fn a_name_given_twice_is_refused() {
    let x = r#""x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    let empty = r#""e":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    let again = r#""x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}"#;
    assert!(malformed(&format!("{{{x},{again}}}"), &[0; 2]).contains("twice"));
    assert!(malformed(&format!("{{{empty},{empty}}}"), &[]).contains("twice"));
    let metadata = r#""__metadata__":{}"#;
    assert!(malformed(&format!("{{{metadata},{metadata},{x}}}"), &[0]).contains("twice"));
    assert!(malformed(r#"{"__metadata__":{"a":"","a":""}}"#, &[]).contains("twice"));
}

#[test]
fn offsets_cover_the_data_exactly_once() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (header, data) in [
        (one("U8", "[2]", "[0,2]"), 3),
        (one("U8", "[2]", "[0,2]"), 1),
        (one("U8", "[2]", "[1,3]"), 3),
        (one("U8", "[2]", "[2,0]"), 2),
        (one("U8", "[3]", "[0,2]"), 2),
        (one("F32", "[18446744073709551615,8]", "[0,2]"), 2),
        (one("F32", "[4611686018427387904]", "[0,0]"), 0),
        (one("F64", "[2305843009213693952]", "[0,0]"), 0),
        (one("U8", "[18446744073709551615]", "[0,18446744073709551615]"), 4),
        (one("U8", "[-1]", "[0,1]"), 1),
        (one("Q3", "[1]", "[0,1]"), 1),
        (one("F4", "[1]", "[0,1]"), 1),
        ("[]".into(), 0),
        ("{}".into(), 1),
        (String::new(), 0),
    ] {
        malformed(&header, &vec![0; data]);
    }
    assert!(open(&with_header("{}", &[])).expect("an empty file").tensors().is_empty());
}

#[test]
fn a_header_is_bounded_before_it_is_read() {
    for length in [MAX_HEADER_BYTES + 1, u64::MAX, u64::MAX - 7, 100] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([b' '; 64]);
        let error = open(&bytes).expect_err("too long");
        assert!(error.to_string().contains("limit"), "{error}");
    }
    assert!(open(&[1, 2, 3]).is_err());
    let deep = "[".repeat(1 << 20);
    malformed(&format!("{{\"x\":{deep}"), &[]);
}

#[test]
fn only_regular_files_are_opened() {
    let folder = tempfile::tempdir().expect("temp dir");
    let error = SafetensorsFile::open(folder.path()).expect_err("a folder");
    assert!(matches!(error, SafetensorsError::NotAFile { .. }));
    let error = SafetensorsFile::open(&folder.path().join("none")).expect_err("nothing");
    assert!(matches!(error, SafetensorsError::Io { .. }));
}

#[test]
fn a_file_that_shrinks_while_open_is_an_error() {
    let tensor = HostTensor::from_f32(&[64], &[1.0; 64]).expect("fills");
    let (_folder, path) = file_of(&[]);
    write(&path, [("x", &tensor)], None).expect("written");
    let file = SafetensorsFile::open(&path).expect("open");
    let shrunk = fs::OpenOptions::new().write(true).open(&path).expect("open");
    shrunk.set_len(100).expect("shrink");
    assert!(matches!(file.read("x"), Err(SafetensorsError::Io { .. })));
}

#[test]
fn names_that_cannot_be_written_are_refused_and_nothing_is_left() {
    let tensor = HostTensor::scalar_i32(1);
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("x");
    for named in [vec![("a", &tensor), ("a", &tensor)], vec![(METADATA, &tensor)]] {
        let error = write(&path, named, None).expect_err("refused");
        assert!(matches!(error, SafetensorsError::Unwritable { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 0);
}
