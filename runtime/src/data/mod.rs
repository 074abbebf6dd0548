//! What a model is trained on: a stream of token ids, its split, its batches.
//!
//! ```text
//! Tokens (ByteText, TokenFile) ──Dataset──► train_batch(seed, step)   eval_batch(index)
//! ```
//!
//! # Invariants
//! - The last tenth of the stream is the validation split; no training batch reads a token of it.
//! - A batch depends on the data, its shape, the seed and the step alone: a run is resumed by its
//!   step, with no other state.
//! - Every id handed out is in `0..vocab`.

mod text;
mod tokens;
mod index;

use std::io;
use std::path::PathBuf;

pub use text::{ByteText, MIN_TEXT_BYTES};
pub use tokens::{TokenFile, TokenWidth};

use crate::{HostTensor, RuntimeError};

/// The target of a place that is not to be predicted; losses ignore negative targets.
pub const IGNORED: i32 = -1;

/// What can be wrong with data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file system refused.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The path names something other than a file.
    #[error("`{}` is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A text is too short to be split.
    #[error("the text has {bytes} bytes, at least {MIN_TEXT_BYTES} are needed")]
    ShortText {
        /// Its length.
        bytes: u64,
    },
    /// A text is not UTF-8.
    #[error("the text is not UTF-8 at byte {at}")]
    NotUtf8 {
        /// The first byte that does not belong.
        at: usize,
    },
    /// A file's length is not a whole number of tokens.
    #[error("`{}` has {bytes} bytes, not a multiple of {width}", path.display())]
    PartOfAToken {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// Bytes of a token.
        width: u64,
    },
    /// An index does not describe its file.
    #[error("`{}` is not a valid index: {what}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A token is not in the vocabulary.
    #[error("`{}`: token {at} is {id}, the vocabulary has {vocab}", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// Place of the token.
        at: u64,
        /// The token.
        id: i64,
        /// Number of ids.
        vocab: u32,
    },
    /// Tokens beyond the end were asked for.
    #[error("tokens {start}..{end} were asked for, there are {len}")]
    OutOfRange {
        /// First token asked for.
        start: u64,
        /// One past the last.
        end: u64,
        /// Tokens there are.
        len: u64,
    },
    /// A split is too short for one window.
    #[error("the {split} split has {tokens} tokens, a window of {seq} needs {}", seq.saturating_add(1))]
    ShortSplit {
        /// `training` or `validation`.
        split: &'static str,
        /// Its length.
        tokens: u64,
        /// Tokens that a window predicts.
        seq: usize,
    },
    /// The shape of a batch has an extent of zero, or is too big for memory.
    #[error("a batch of {rows} rows of {seq} tokens is not possible")]
    BatchShape {
        /// Rows.
        rows: usize,
        /// Tokens in each.
        seq: usize,
    },
}

/// A stream of token ids that can be read at any place.
pub trait Tokens {
    /// Number of tokens.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of different ids: each is in `0..vocab`.
    fn vocab(&self) -> u32;

    /// Reads tokens from `start` on.
    ///
    /// # Errors
    /// [`DataError`] past the end, for an id outside the vocabulary, or where reading fails.
    fn read(&self, start: u64, out: &mut [i32]) -> Result<(), DataError>;
}

impl<T: Tokens + ?Sized> Tokens for &T {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn vocab(&self) -> u32 {
        (**self).vocab()
    }

    fn read(&self, start: u64, out: &mut [i32]) -> Result<(), DataError> {
        (**self).read(start, out)
    }
}

/// Rows and tokens of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Sequences.
    pub rows: usize,
    /// Tokens of each.
    pub seq: usize,
}

/// Tokens and, for each, the token that follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its shape.
    pub shape: BatchShape,
    /// Ids, `[rows, seq]`.
    pub tokens: Vec<i32>,
    /// The next ids, `[rows, seq]`; [`IGNORED`] in rows that only fill the batch.
    pub targets: Vec<i32>,
}

impl Batch {
    /// Targets that are to be predicted: the weight of this batch's mean loss.
    pub fn predicted(&self) -> usize {
        self.targets.iter().filter(|target| **target >= 0).count()
    }

    /// Tokens and targets as `i32[rows, seq]` tensors.
    ///
    /// # Errors
    /// [`RuntimeError::Bytes`] where the values do not fill the shape.
    pub fn to_tensors(&self) -> Result<(HostTensor, HostTensor), RuntimeError> {
        let shape = [self.shape.rows as u64, self.shape.seq as u64];
        Ok((
            HostTensor::from_i32(&shape, &self.tokens)?,
            HostTensor::from_i32(&shape, &self.targets)?,
        ))
    }
}

/// Where the validation split begins in `len` tokens: at the last tenth, rounded down.
pub fn validation_from(len: u64) -> u64 {
    len - len / 10
}

/// A stream of tokens, split into batches.
#[derive(Debug)]
pub struct Dataset<T> {
    tokens: T,
    validation_from: u64,
    shape: BatchShape,
}

impl<T: Tokens> Dataset<T> {
    /// Batches of one shape over a stream.
    ///
    /// # Errors
    /// [`DataError::BatchShape`] for an empty or oversized batch, [`DataError::ShortSplit`] where a
    /// split is shorter than one window.
    pub fn new(tokens: T, shape: BatchShape) -> Result<Self, DataError> {
        let BatchShape { rows, seq } = shape;
        let elems = seq.checked_add(1).and_then(|window| window.checked_mul(rows));
        let fits = elems.is_some_and(|elems| elems <= isize::MAX as usize / 16);
        if rows == 0 || seq == 0 || !fits {
            return Err(DataError::BatchShape { rows, seq });
        }
        let validation_from = validation_from(tokens.len());
        let dataset = Dataset { tokens, validation_from, shape };
        for (split, len) in
            [("training", validation_from), ("validation", dataset.validation_len())]
        {
            if len <= seq as u64 {
                return Err(DataError::ShortSplit { split, tokens: len, seq });
            }
        }
        Ok(dataset)
    }

    /// The stream.
    pub fn tokens(&self) -> &T {
        &self.tokens
    }

    /// Number of tokens to learn from.
    pub fn train_len(&self) -> u64 {
        self.validation_from
    }

    /// Number of tokens to be judged on.
    pub fn validation_len(&self) -> u64 {
        self.tokens.len() - self.validation_from
    }

    /// Batch `step` of a run: windows at pseudo-random places of the training split.
    ///
    /// # Errors
    /// What [`Tokens::read`] says.
    pub fn train_batch(&self, seed: u64, step: u64) -> Result<Batch, DataError> {
        let places = self.train_len() - self.shape.seq as u64;
        let key = mix(mix(seed) ^ step);
        // The high half of a 128-bit product maps a draw to a place with no bias worth naming.
        let place = |row| ((u128::from(mix(key ^ row)) * u128::from(places)) >> 64) as u64;
        self.gather((0..self.shape.rows as u64).map(|row| Some(place(row))))
    }

    /// Number of evaluation batches.
    pub fn eval_batches(&self) -> u64 {
        self.eval_windows().div_ceil(self.shape.rows as u64)
    }

    /// Evaluation batch `index`: windows side by side through the validation split, so that every
    /// token but the first is a target once; rows past the last whole window are ignored.
    ///
    /// # Errors
    /// What [`Tokens::read`] says; [`DataError::OutOfRange`] past the last batch.
    pub fn eval_batch(&self, index: u64) -> Result<Batch, DataError> {
        let (windows, rows) = (self.eval_windows(), self.shape.rows as u64);
        let first = index.saturating_mul(rows);
        if first >= windows {
            let end = first.saturating_add(rows);
            return Err(DataError::OutOfRange { start: first, end, len: windows });
        }
        let seq = self.shape.seq as u64;
        let place = |window| (window < windows).then(|| self.validation_from + window * seq);
        self.gather((first..first + rows).map(place))
    }

    fn eval_windows(&self) -> u64 {
        (self.validation_len() - 1) / self.shape.seq as u64
    }

    /// The windows that begin at `starts`; a row without a place is ignored.
    fn gather(&self, starts: impl Iterator<Item = Option<u64>>) -> Result<Batch, DataError> {
        let BatchShape { rows, seq } = self.shape;
        let mut tokens = Vec::with_capacity(rows * seq);
        let mut targets = Vec::with_capacity(rows * seq);
        let mut window = vec![0; seq + 1];
        for start in starts {
            match start {
                Some(start) => {
                    self.tokens.read(start, &mut window)?;
                    tokens.extend_from_slice(&window[..seq]);
                    targets.extend_from_slice(&window[1..]);
                }
                None => {
                    tokens.resize(tokens.len() + seq, 0);
                    targets.resize(targets.len() + seq, IGNORED);
                }
            }
        }
        Ok(Batch { shape: self.shape, tokens, targets })
    }
}

/// SplitMix64's finaliser: every input bit moves every output bit.
fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
