//! Tests of data sets: batches, splits and damaged files.

use std::fs;

use proptest::prelude::*;

use super::*;

fn text(len: usize) -> ByteText {
    ByteText::new((0..len).map(|i| (i % 97) as u8).collect()).expect("a text")
}

fn dataset(len: usize, rows: usize, seq: usize) -> Dataset<ByteText> {
    Dataset::new(text(len), BatchShape { rows, seq }).expect("long enough")
}

/// A file of ids, and the folder that it lives in.
fn file_of(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("ids.bin");
    fs::write(&path, bytes).expect("written");
    (folder, path)
}

fn u16s(ids: &[u16]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

#[test]
fn training_batches_are_repeatable_and_stay_out_of_validation() {
    let mut bytes = vec![1u8; 9_000];
    bytes.resize(10_000, 2);
    let text = ByteText::new(bytes).expect("a text");
    let data = Dataset::new(text, BatchShape { rows: 64, seq: 99 }).expect("long enough");
    assert_eq!((data.train_len(), data.validation_len()), (9_000, 1_000));
    for step in 0..200 {
        let batch = data.train_batch(7, step).expect("read");
        assert_eq!(batch, data.train_batch(7, step).expect("read"));
        assert!(batch.tokens.iter().chain(&batch.targets).all(|id| *id == 1));
        assert_eq!(batch.predicted(), 64 * 99);
    }
}

#[test]
fn batches_differ_by_seed_step_and_row() {
    let data = dataset(100_000, 2, 50);
    let batch = data.train_batch(1, 1).expect("read");
    assert_ne!(batch, data.train_batch(1, 2).expect("read"));
    assert_ne!(batch, data.train_batch(2, 1).expect("read"));
    assert_ne!(batch.tokens[..50], batch.tokens[50..]);
}

#[test]
fn places_are_drawn_evenly_from_the_first_to_the_last() {
    // Ids grow with their place, so that a row tells where it was taken.
    let (_folder, path) = file_of(&u16s(&(0..1000).collect::<Vec<u16>>()));
    let ids = TokenFile::open(&path, TokenWidth::U16, 1000).expect("open");
    let data = Dataset::new(ids, BatchShape { rows: 64, seq: 90 }).expect("long enough");
    // Places 0..=809: 640 draws for each tenth of them.
    let (mut tenths, mut first, mut last) = ([0u32; 10], u32::MAX, 0);
    for step in 0..100 {
        for row in data.train_batch(5, step).expect("read").tokens.chunks(90) {
            tenths[row[0] as usize / 81] += 1;
            first = first.min(row[0] as u32);
            last = last.max(row[0] as u32);
        }
    }
    assert!(tenths.iter().all(|count| (540..740).contains(count)), "{tenths:?}");
    assert_eq!((first, last), (0, 809));
}

proptest! {
    #[test]
    fn targets_are_the_next_tokens(
        len in 1100usize..4000,
        rows in 1usize..5,
        seq in 1usize..60,
        seed in any::<u64>(),
        step in any::<u64>(),
    ) {
        let data = dataset(len, rows, seq);
        let batch = data.train_batch(seed, step).expect("read");
        prop_assert_eq!(batch.tokens.len(), rows * seq);
        for (tokens, targets) in batch.tokens.chunks(seq).zip(batch.targets.chunks(seq)) {
            prop_assert_eq!(&tokens[1..], &targets[..seq - 1]);
            prop_assert_eq!(targets[seq - 1], (tokens[seq - 1] + 1) % 97);
        }
        let (tokens, targets) = batch.to_tensors().expect("fills");
        prop_assert_eq!(tokens.shape(), &[rows as u64, seq as u64]);
        prop_assert_eq!(targets.to_i32().expect("i32"), batch.targets);
    }

    #[test]
    fn evaluation_predicts_every_token_once(
        len in 1100usize..4000,
        rows in 1usize..5,
        seq in 1usize..60,
    ) {
        let data = dataset(len, rows, seq);
        let mut predicted = Vec::new();
        let mut count = 0;
        for index in 0..data.eval_batches() {
            let batch = data.eval_batch(index).expect("read");
            count += batch.predicted();
            predicted.extend(batch.targets.into_iter().filter(|target| *target != IGNORED));
        }
        let validation = &data.tokens().bytes()[data.train_len() as usize..];
        let want: Vec<i32> = validation[1..].iter().map(|byte| i32::from(*byte)).collect();
        prop_assert_eq!(count, predicted.len());
        prop_assert_eq!(&predicted[..], &want[..predicted.len()]);
        prop_assert!(want.len() - predicted.len() < seq);
        prop_assert!(data.eval_batch(data.eval_batches()).is_err());
        prop_assert!(data.eval_batch(u64::MAX).is_err());
    }

    #[test]
    fn any_index_is_read_or_refused(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (folder, _) = file_of(&u16s(&[1, 2, 3, 4, 5, 6]));
        let mut index = index_of(&[2, 0, 4], &[0, 1, 3]);
        for (at, byte) in edits {
            let at = at.index(index.len());
            index[at] = byte;
        }
        if let Some(cut) = cut {
            index.truncate(cut.index(index.len()));
        }
        fs::write(folder.path().join("ids.idx"), index).expect("written");
        if let Ok(ids) = TokenFile::open_megatron(&folder.path().join("ids"), 1000) {
            let mut out = vec![0; ids.len() as usize];
            let _ = ids.read(0, &mut out);
        }
    }
}

#[test]
fn impossible_shapes_and_short_data_are_refused() {
    for (rows, seq) in [(0, 8), (8, 0), (usize::MAX, 2), (2, usize::MAX)] {
        let error = Dataset::new(text(2000), BatchShape { rows, seq }).expect_err("refused");
        assert!(matches!(error, DataError::BatchShape { .. }), "{error}");
    }
    let error = Dataset::new(text(2000), BatchShape { rows: 1, seq: 200 }).expect_err("refused");
    assert_eq!(error.to_string(), "the validation split has 200 tokens, a window of 200 needs 201");
    assert!(Dataset::new(text(2000), BatchShape { rows: 1, seq: 199 }).is_ok());
    assert!(matches!(ByteText::new(Vec::new()), Err(DataError::ShortText { bytes: 0 })));
    let mut bytes = vec![b'a'; 2000];
    bytes[1500] = 0xff;
    assert!(matches!(ByteText::new(bytes), Err(DataError::NotUtf8 { at: 1500 })));
}

#[test]
fn token_files_are_read_in_every_width() {
    let (_folder, path) = file_of(&u16s(&[1, 0, 65535, 0, 7, 0, 9, 0]));
    let read = |width, start, len| {
        let ids = TokenFile::open(&path, width, 1 << 20).expect("open");
        let mut out = vec![0; len];
        ids.read(start, &mut out).map(|()| out)
    };
    assert_eq!(read(TokenWidth::U16, 1, 3).expect("read"), [0, 65535, 0]);
    assert_eq!(read(TokenWidth::U32, 1, 3).expect("read"), [65535, 7, 9]);
    assert_eq!(read(TokenWidth::I64, 1, 0).expect("read"), [0; 0]);
    assert_eq!(read(TokenWidth::U8, 4, 2).expect("read"), [255, 255]);
    assert!(matches!(read(TokenWidth::I16, 2, 1), Err(DataError::Vocabulary { id: -1, .. })));
    assert!(matches!(read(TokenWidth::U32, 2, 3), Err(DataError::OutOfRange { .. })));
    assert!(matches!(read(TokenWidth::U32, u64::MAX, 3), Err(DataError::OutOfRange { .. })));
}

#[test]
fn an_id_outside_the_vocabulary_is_named() {
    let (_folder, path) = file_of(&u16s(&[1, 2, 300, 3]));
    let ids = TokenFile::open(&path, TokenWidth::U16, 300).expect("open");
    let error = ids.read(1, &mut [0; 3]).expect_err("too big");
    assert!(matches!(error, DataError::Vocabulary { at: 2, id: 300, vocab: 300, .. }), "{error}");
    assert!(ids.read(0, &mut [0; 2]).is_ok());
    let (_folder, path) = file_of(&u32::MAX.to_le_bytes());
    let ids = TokenFile::open(&path, TokenWidth::U32, u32::MAX).expect("open");
    assert!(ids.read(0, &mut [0]).is_err());
}

#[test]
fn a_token_file_that_ends_inside_a_token_or_shrinks_is_an_error() {
    let (_folder, path) = file_of(&[0; 7]);
    let error = TokenFile::open(&path, TokenWidth::U16, 10).expect_err("odd");
    assert!(matches!(error, DataError::PartOfAToken { bytes: 7, width: 2, .. }), "{error}");
    let ids = TokenFile::open(&path, TokenWidth::U8, 10).expect("open");
    fs::write(&path, [0; 3]).expect("shrunk");
    assert!(matches!(ids.read(0, &mut [0; 7]), Err(DataError::Io { .. })));
    let folder = path.parent().expect("a folder");
    let error = TokenFile::open(folder, TokenWidth::U8, 10).expect_err("a folder");
    assert!(matches!(error, DataError::NotAFile { .. }), "{error}");
}

/// An index of u16 ids.
fn index_of(lengths: &[i32], documents: &[i64]) -> Vec<u8> {
    let mut bytes = b"MMIDIDX\0\0".to_vec();
    bytes.extend(1u64.to_le_bytes());
    bytes.push(8);
    bytes.extend((lengths.len() as u64).to_le_bytes());
    bytes.extend((documents.len() as u64).to_le_bytes());
    bytes.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
    let offset = |i: usize| lengths[..i].iter().map(|length| i64::from(*length) * 2).sum::<i64>();
    bytes.extend((0..lengths.len()).flat_map(|i| offset(i).to_le_bytes()));
    bytes.extend(documents.iter().flat_map(|document| document.to_le_bytes()));
    bytes
}

#[test]
fn a_megatron_data_set_is_one_stream() {
    let (folder, _) = file_of(&u16s(&[1, 2, 3, 4, 5, 6]));
    let prefix = folder.path().join("ids");
    let open_with = |index: &[u8]| {
        fs::write(folder.path().join("ids.idx"), index).expect("written");
        TokenFile::open_megatron(&prefix, 1000)
    };
    let good = index_of(&[2, 0, 4], &[0, 1, 3]);
    let ids = open_with(&good).expect("open");
    let mut out = [0; 6];
    ids.read(0, &mut out).expect("read");
    assert_eq!(out, [1, 2, 3, 4, 5, 6]);
    assert!(open_with(&[good.as_slice(), &[0; 3]].concat()).is_ok(), "modes may follow");
    for (what, index) in [
        ("too few tokens", index_of(&[2, 3], &[0, 2])),
        ("a negative length", index_of(&[-1, 7], &[0, 2])),
        ("documents beyond the end", index_of(&[2, 4], &[0, 3])),
        ("documents backwards", index_of(&[2, 4], &[1, 0])),
        ("bytes after it", [good.as_slice(), &[0; 2]].concat()),
        ("cut", good[..good.len() - 1].to_vec()),
        ("nothing", Vec::new()),
    ] {
        let error = open_with(&index).expect_err(what);
        assert!(matches!(error, DataError::Index { .. }), "{what}: {error}");
    }
    for (at, byte, what) in
        [(0, b'X', "magic"), (9, 2, "version"), (17, 6, "type"), (46, 1, "offset")]
    {
        let mut index = good.clone();
        index[at] = byte;
        let error = open_with(&index).expect_err(what);
        assert!(matches!(error, DataError::Index { .. }), "{what}: {error}");
    }
}

#[test]
fn a_batch_over_token_files_is_checked_too() {
    let ids: Vec<u16> = (0..2000).map(|i| if i == 1990 { 5000 } else { i % 100 }).collect();
    let (_folder, path) = file_of(&u16s(&ids));
    let file = TokenFile::open(&path, TokenWidth::U16, 100).expect("open");
    let data = Dataset::new(file, BatchShape { rows: 2, seq: 16 }).expect("long enough");
    assert!((0..50).all(|step| data.train_batch(0, step).is_ok()));
    let last = data.eval_batch(data.eval_batches() - 1);
    assert!(matches!(last, Err(DataError::Vocabulary { at: 1990, .. })));
}
