//! The text a model is trained on: its split, its batches and how predictable it is by counting.
//!
//! A token is a byte. The last tenth of the file is the validation split.
//!
//! # Invariants
//! - Training batches never read a validation byte.
//! - Batch `step` depends on the seed and the step alone, so a run can be resumed or repeated.

use std::fs;
use std::path::Path;

use crate::exit::Failure;

/// Fewest bytes that make a corpus.
pub const MIN_BYTES: usize = 1024;

/// A text, split.
#[derive(Clone, Debug)]
pub struct Corpus {
    bytes: Vec<u8>,
    validation_from: usize,
}

/// Cross-entropy of the validation split under models that only count, in nats per byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entropies {
    /// Bytes drawn independently, add-one smoothed.
    pub unigram: f64,
    /// Each byte given the one before it, Witten–Bell smoothed towards the unigram.
    pub bigram: f64,
}

/// `[rows, length]` token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Row-major ids.
    pub tokens: Vec<i32>,
    /// Number of sequences.
    pub rows: usize,
    /// Tokens in each.
    pub length: usize,
}

impl Corpus {
    /// Reads a text file.
    ///
    /// # Errors
    /// When it cannot be read, is not UTF-8 or is too short to split.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = fs::read(path).map_err(|error| {
            Failure::input(format!("cannot read the data `{}`: {error}", path.display()))
        })?;
        if let Err(error) = std::str::from_utf8(&bytes) {
            let headline = format!(
                "the data `{}` is not UTF-8 at byte {}",
                path.display(),
                error.valid_up_to()
            );
            return Err(Failure::input(headline).help("give a plain text file"));
        }
        Corpus::new(bytes).map_err(|short| {
            Failure::input(format!("the data `{}` {short}", path.display()))
                .help("training wants some hundred kilobytes of text")
        })
    }

    /// Splits a text.
    ///
    /// # Errors
    /// When it is shorter than [`MIN_BYTES`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, String> {
        if bytes.is_empty() {
            return Err("is empty".into());
        }
        if bytes.len() < MIN_BYTES {
            return Err(format!("has {} bytes, fewer than {MIN_BYTES}", bytes.len()));
        }
        let validation_from = bytes.len() - bytes.len() / 10;
        Ok(Corpus { bytes, validation_from })
    }

    /// The part to learn from.
    pub fn train(&self) -> &[u8] {
        &self.bytes[..self.validation_from]
    }

    /// The part to be judged on.
    pub fn validation(&self) -> &[u8] {
        &self.bytes[self.validation_from..]
    }

    /// The largest token id.
    pub fn max_token(&self) -> u8 {
        self.bytes.iter().copied().max().unwrap_or(0)
    }

    /// A training batch: `rows` windows at pseudo-random places; `None` if the text is too short.
    pub fn train_batch(&self, seed: u64, step: u64, rows: usize, length: usize) -> Option<Batch> {
        let text = self.train();
        let places = text.len().checked_sub(length)? as u64 + 1;
        let starts = (0..rows as u64).map(|row| {
            let draw = mix(mix(mix(seed) ^ step) ^ row);
            // The high half of a 128-bit product maps a draw to a place with no modulo bias worth naming.
            ((u128::from(draw) * u128::from(places)) >> 64) as usize
        });
        Some(gather(text, starts, rows, length))
    }

    /// Validation batches: windows side by side from the start, `count` batches at most. Windows
    /// overlap by one byte, so that every byte but the first is predicted exactly once.
    pub fn validation_batches(&self, rows: usize, length: usize, count: usize) -> Vec<Batch> {
        let text = self.validation();
        if length < 2 || text.len() < length {
            return Vec::new();
        }
        let windows = (text.len() - 1) / (length - 1);
        let batches = (windows / rows.max(1)).min(count);
        let batch = |b: usize| {
            let starts = (0..rows).map(move |row| (b * rows + row) * (length - 1));
            gather(text, starts, rows, length)
        };
        (0..batches).map(batch).collect()
    }

    /// How well counting predicts the validation split after reading the training split.
    pub fn entropies(&self) -> Entropies {
        entropies(self.train(), self.validation())
    }
}

fn gather(text: &[u8], starts: impl Iterator<Item = usize>, rows: usize, length: usize) -> Batch {
    let mut tokens = Vec::with_capacity(rows * length);
    for start in starts {
        tokens.extend(text[start..start + length].iter().map(|&byte| i32::from(byte)));
    }
    Batch { tokens, rows, length }
}

/// SplitMix64's finaliser: every input bit moves every output bit.
fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Cross-entropies of `validation` under counts taken from `train`, in nats per byte.
///
/// Unigram: `p(b) = (c(b) + 1) / (N + 256)`.
/// Bigram: `p(b | a) = (c(a, b) + t(a)·p(b)) / (c(a) + t(a))` with `t(a)` the number of different
/// bytes seen after `a` (Witten and Bell, 1991); `p(b)` where `a` was never seen.
/// Both are averaged over the bytes after the first, which is what a model of context predicts.
pub fn entropies(train: &[u8], validation: &[u8]) -> Entropies {
    let mut single = vec![0u64; 256];
    let mut pair = vec![0u64; 256 * 256];
    for &byte in train {
        single[usize::from(byte)] += 1;
    }
    for two in train.windows(2) {
        pair[usize::from(two[0]) * 256 + usize::from(two[1])] += 1;
    }
    let total = train.len() as f64 + 256.0;
    let p_single: Vec<f64> = single.iter().map(|&c| (c as f64 + 1.0) / total).collect();
    let row = |a: usize| &pair[a * 256..(a + 1) * 256];
    let followers: Vec<(f64, f64)> = (0..256)
        .map(|a| {
            let seen: u64 = row(a).iter().sum();
            let kinds = row(a).iter().filter(|&&c| c > 0).count();
            (seen as f64, kinds as f64)
        })
        .collect();
    let (mut unigram, mut bigram) = (0.0, 0.0);
    for two in validation.windows(2) {
        let (a, b) = (usize::from(two[0]), usize::from(two[1]));
        let (seen, kinds) = followers[a];
        let p_pair = if seen == 0.0 {
            p_single[b]
        } else {
            (row(a)[b] as f64 + kinds * p_single[b]) / (seen + kinds)
        };
        unigram -= p_single[b].ln();
        bigram -= p_pair.ln();
    }
    let count = validation.len().saturating_sub(1).max(1) as f64;
    Entropies { unigram: unigram / count, bigram: bigram / count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_bytes_cost_ln_256_and_a_cycle_costs_nothing_with_context() {
        let cycle: Vec<u8> = (0..=255u8).cycle().take(256 * 400).collect();
        let e = entropies(&cycle, &cycle[..4096]);
        assert!((e.unigram - 256f64.ln()).abs() < 1e-3, "{e:?}");
        assert!(e.bigram < 0.02, "{e:?}");
    }

    #[test]
    fn independent_bits_gain_nothing_from_context() {
        let coin: Vec<u8> = (0..200_000u64).map(|i| b'a' + (mix(i) & 1) as u8).collect();
        let e = entropies(&coin[..180_000], &coin[180_000..]);
        assert!((e.unigram - 2f64.ln()).abs() < 5e-3, "{e:?}");
        assert!((e.bigram - 2f64.ln()).abs() < 5e-3, "{e:?}");
    }

    #[test]
    fn smoothed_probabilities_sum_to_one() {
        // The bigram probabilities after `a` of every byte, read off single-pair validations.
        let train = b"abracadabra alakazam";
        let sum: f64 = (0..=255u8).map(|b| (-entropies(train, &[b'a', b]).bigram).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        let sum: f64 = (0..=255u8).map(|b| (-entropies(train, &[b'?', b]).bigram).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn bytes_never_seen_in_training_stay_finite() {
        let e = entropies(b"aaaa", b"zzzz");
        assert!(e.unigram.is_finite() && e.bigram.is_finite());
    }

    #[test]
    fn the_demo_text_has_the_entropies_of_english() {
        let corpus = Corpus::new(include_bytes!("../examples/data/moby-dick.txt").to_vec());
        let corpus = corpus.expect("long enough");
        assert!(corpus.max_token() < 128);
        let e = corpus.entropies();
        assert!((2.9..3.2).contains(&e.unigram), "{e:?}");
        assert!((2.3..2.6).contains(&e.bigram), "{e:?}");
    }

    #[test]
    fn training_batches_are_repeatable_and_stay_out_of_validation() {
        let mut bytes = vec![1u8; 9_000];
        bytes.resize(10_000, 2);
        let corpus = Corpus::new(bytes).expect("long enough");
        let first = corpus.train_batch(7, 3, 64, 100).expect("fits");
        assert_eq!(Some(&first), corpus.train_batch(7, 3, 64, 100).as_ref());
        assert!((0..200).all(|step| {
            let batch = corpus.train_batch(7, step, 64, 100).expect("fits");
            batch.tokens.iter().all(|&t| t == 1)
        }));
        assert!(corpus.train_batch(7, 0, 1, 9_001).is_none());
    }

    #[test]
    fn every_validation_byte_is_predicted_once() {
        let bytes: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        let corpus = Corpus::new(bytes).expect("long enough");
        let batches = corpus.validation_batches(1, 11, usize::MAX);
        let targets: Vec<i32> = batches.iter().flat_map(|b| b.tokens[1..].to_vec()).collect();
        let want: Vec<i32> = corpus.validation()[1..].iter().map(|&b| i32::from(b)).collect();
        assert_eq!(targets[..], want[..targets.len()]);
        assert!(want.len() - targets.len() < 10);
        assert!(corpus.validation_batches(1, 1, 4).is_empty());
        assert!(corpus.validation_batches(4, 5_000, 4).is_empty());
    }

    #[test]
    fn short_or_empty_data_is_refused() {
        assert_eq!(Corpus::new(Vec::new()).expect_err("empty"), "is empty");
        assert!(Corpus::new(vec![0; 10]).is_err());
    }
}
