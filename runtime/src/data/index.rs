//! The index of a Megatron data set (`.idx`).
//!
//! ```text
//! "MMIDIDX\0\0" │ u64 version = 1 │ u8 type │ u64 sequences │ u64 documents
//! │ i32 length of each sequence │ i64 byte offset of each │ i64 first sequence of each document
//! │ (i8 mode of each sequence)
//! ```
//!
//! # Invariants
//! - The file has exactly the length that its counts need.
//! - Sequences lie one after the other from byte 0, so that the ids are one stream.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::DataError;
use super::tokens::{TokenWidth, open_regular};

const MAGIC: [u8; 9] = *b"MMIDIDX\0\0";
const VERSION: u64 = 1;
const HEADER_BYTES: u64 = 34;

/// What an index says that a stream of ids needs.
#[derive(Debug)]
pub(super) struct TokenIndex {
    pub(super) width: TokenWidth,
    pub(super) tokens: u64,
}

/// Reads and checks an index.
pub(super) fn read_index(path: &Path) -> Result<TokenIndex, DataError> {
    let (file, bytes) = open_regular(path)?;
    let mut reader = IndexReader { path, input: BufReader::new(file) };
    if bytes < HEADER_BYTES {
        return Err(reader.bad(format!("{bytes} bytes are too few")));
    }
    if reader.take::<9>()? != MAGIC {
        return Err(reader.bad("it does not begin as one".into()));
    }
    let version = u64::from_le_bytes(reader.take()?);
    if version != VERSION {
        return Err(reader.bad(format!("version {version}, expected {VERSION}")));
    }
    let [code] = reader.take()?;
    let Some(width) = width_of(code) else {
        return Err(reader.bad(format!("ids of type {code} are not supported")));
    };
    let sequences = u64::from_le_bytes(reader.take()?);
    let documents = u64::from_le_bytes(reader.take()?);
    let plain = body_bytes(sequences, documents).and_then(|body| body.checked_add(HEADER_BYTES));
    let with_modes = plain.and_then(|plain| plain.checked_add(sequences));
    if plain != Some(bytes) && with_modes != Some(bytes) {
        let what = format!("{sequences} sequences, {documents} documents in {bytes} bytes");
        return Err(reader.bad(what));
    }
    let mut offsets = IndexReader::open(path, HEADER_BYTES + 4 * sequences)?;
    let tokens = verify_sequences((&mut reader, &mut offsets), sequences, width)?;
    offsets.verify_documents(documents, sequences)?;
    Ok(TokenIndex { width, tokens })
}

fn width_of(code: u8) -> Option<TokenWidth> {
    Some(match code {
        1 => TokenWidth::U8,
        3 => TokenWidth::I16,
        4 => TokenWidth::I32,
        5 => TokenWidth::I64,
        8 => TokenWidth::U16,
        _ => return None,
    })
}

fn body_bytes(sequences: u64, documents: u64) -> Option<u64> {
    sequences.checked_mul(12)?.checked_add(documents.checked_mul(8)?)
}

/// Checks that each sequence begins where the last one ends; gives the number of tokens.
fn verify_sequences(
    (lengths, offsets): (&mut IndexReader<'_>, &mut IndexReader<'_>),
    count: u64,
    width: TokenWidth,
) -> Result<u64, DataError> {
    let mut tokens = 0u64;
    for sequence in 0..count {
        let length = i32::from_le_bytes(lengths.take()?);
        let offset = i64::from_le_bytes(offsets.take()?);
        if u64::try_from(offset).ok() != tokens.checked_mul(width.bytes()) {
            let what = format!("sequence {sequence} is at byte {offset}, not after the last");
            return Err(lengths.bad(what));
        }
        match u64::try_from(length) {
            Ok(length) => tokens = tokens.saturating_add(length),
            Err(_) => return Err(lengths.bad(format!("sequence {sequence} has length {length}"))),
        }
    }
    Ok(tokens)
}

struct IndexReader<'a> {
    path: &'a Path,
    input: BufReader<File>,
}

impl<'a> IndexReader<'a> {
    /// A reader that begins at a byte.
    fn open(path: &'a Path, at: u64) -> Result<Self, DataError> {
        let mut file = open_regular(path)?.0;
        match file.seek(SeekFrom::Start(at)) {
            Ok(_) => Ok(IndexReader { path, input: BufReader::new(file) }),
            Err(source) => Err(DataError::Io { path: path.to_path_buf(), source }),
        }
    }

    fn bad(&self, what: String) -> DataError {
        DataError::Index { path: self.path.to_path_buf(), what }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], DataError> {
        let mut bytes = [0; N];
        match self.input.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(source) => Err(DataError::Io { path: self.path.to_path_buf(), source }),
        }
    }

    /// Checks that documents are runs of sequences.
    fn verify_documents(&mut self, count: u64, sequences: u64) -> Result<(), DataError> {
        let mut last = 0;
        for document in 0..count {
            let first = i64::from_le_bytes(self.take()?);
            match u64::try_from(first) {
                Ok(first) if first >= last && first <= sequences => last = first,
                _ => return Err(self.bad(format!("document {document} begins at {first}"))),
            }
        }
        Ok(())
    }
}
