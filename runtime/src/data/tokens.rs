//! A file of token ids, read a window at a time.
//!
//! # Invariants
//! - The file is never held in memory, and never mapped: one that shrinks gives an error.
//! - Ids are checked against the vocabulary when they are read.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::index::read_index;
use super::{DataError, Tokens};

/// Bytes of a token, and how they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenWidth {
    /// Unsigned bytes.
    U8,
    /// Unsigned 16-bit, little-endian.
    U16,
    /// Unsigned 32-bit, little-endian.
    U32,
    /// Signed 16-bit, little-endian.
    I16,
    /// Signed 32-bit, little-endian.
    I32,
    /// Signed 64-bit, little-endian.
    I64,
}

impl TokenWidth {
    /// Bytes of one token.
    pub fn bytes(self) -> u64 {
        match self {
            TokenWidth::U8 => 1,
            TokenWidth::U16 | TokenWidth::I16 => 2,
            TokenWidth::U32 | TokenWidth::I32 => 4,
            TokenWidth::I64 => 8,
        }
    }

    /// Decodes consecutive tokens.
    fn decode<'a>(self, bytes: &'a [u8]) -> Box<dyn Iterator<Item = i64> + 'a> {
        match self {
            TokenWidth::U8 => Box::new(bytes.iter().map(|b| i64::from(*b))),
            TokenWidth::U16 => elements(bytes, |b| u16::from_le_bytes(b).into()),
            TokenWidth::U32 => elements(bytes, |b| u32::from_le_bytes(b).into()),
            TokenWidth::I16 => elements(bytes, |b| i16::from_le_bytes(b).into()),
            TokenWidth::I32 => elements(bytes, |b| i32::from_le_bytes(b).into()),
            TokenWidth::I64 => elements(bytes, i64::from_le_bytes),
        }
    }
}

fn elements<const N: usize>(
    bytes: &[u8],
    value: fn([u8; N]) -> i64,
) -> Box<dyn Iterator<Item = i64> + '_> {
    Box::new(bytes.as_chunks::<N>().0.iter().map(move |element| value(*element)))
}

/// A file of token ids.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    file: File,
    width: TokenWidth,
    len: u64,
    vocab: u32,
}

impl TokenFile {
    /// Opens a file of nothing but ids.
    ///
    /// # Errors
    /// [`DataError`] where it cannot be read or ends inside a token.
    pub fn open(path: &Path, width: TokenWidth, vocab: u32) -> Result<Self, DataError> {
        let (file, bytes) = open_regular(path)?;
        let path = path.to_path_buf();
        if bytes % width.bytes() != 0 {
            return Err(DataError::PartOfAToken { path, bytes, width: width.bytes() });
        }
        Ok(TokenFile { path, file, width, len: bytes / width.bytes(), vocab })
    }

    /// Opens a Megatron data set: `PREFIX.bin` described by `PREFIX.idx`, documents one after the
    /// other in one stream.
    ///
    /// # Errors
    /// [`DataError`] where a file cannot be read or the index does not describe the ids.
    pub fn open_megatron(prefix: &Path, vocab: u32) -> Result<Self, DataError> {
        let with = |ending: &str| {
            let mut name = prefix.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        let (index_path, ids_path) = (with(".idx"), with(".bin"));
        let index = read_index(&index_path)?;
        let opened = TokenFile::open(&ids_path, index.width, vocab)?;
        if opened.len != index.tokens {
            let what =
                format!("{} tokens, `{}` has {}", index.tokens, ids_path.display(), opened.len);
            return Err(DataError::Index { path: index_path, what });
        }
        Ok(opened)
    }
}

impl Tokens for TokenFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn vocab(&self) -> u32 {
        self.vocab
    }

    fn read(&self, start: u64, out: &mut [i32]) -> Result<(), DataError> {
        let end = start.saturating_add(out.len() as u64);
        if end > self.len {
            return Err(DataError::OutOfRange { start, end, len: self.len });
        }
        let width = self.width.bytes();
        let mut bytes = vec![0; out.len() * width as usize];
        self.file
            .read_exact_at(&mut bytes, start * width)
            .map_err(|source| DataError::Io { path: self.path.clone(), source })?;
        for ((at, id), slot) in (start..).zip(self.width.decode(&bytes)).zip(out) {
            let known = u32::try_from(id).is_ok_and(|id| id < self.vocab);
            *slot = match i32::try_from(id) {
                Ok(id) if known => id,
                _ => {
                    let (path, vocab) = (self.path.clone(), self.vocab);
                    return Err(DataError::Vocabulary { path, at, id, vocab });
                }
            };
        }
        Ok(())
    }
}

/// Opens a regular file and tells its length; anything else could block or never end.
pub(super) fn open_regular(path: &Path) -> Result<(File, u64), DataError> {
    let io_error = |source| DataError::Io { path: path.to_path_buf(), source };
    if !fs::metadata(path).map_err(io_error)?.is_file() {
        return Err(DataError::NotAFile { path: path.to_path_buf() });
    }
    let file = File::open(path).map_err(io_error)?;
    let bytes = file.metadata().map_err(io_error)?.len();
    Ok((file, bytes))
}
