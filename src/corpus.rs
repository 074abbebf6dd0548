//! The text a model is trained on, and how predictable it is by counting.
//!
//! # Invariants
//! - The split is the runtime's: what is counted is what a model learns from and is judged on.

use std::fs;
use std::path::Path;

use perilune_runtime::data::{
    BatchShape, ByteText, DataError, Dataset, MIN_TEXT_BYTES, validation_from,
};

use crate::exit::Failure;

/// A text, split.
#[derive(Clone, Debug)]
pub struct Corpus {
    text: ByteText,
}

/// Cross-entropy of the validation split under models that only count, in nats per byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entropies {
    /// Bytes drawn independently, add-one smoothed.
    pub unigram: f64,
    /// Each byte given the one before it, Witten–Bell smoothed towards the unigram.
    pub bigram: f64,
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
        Corpus::new(bytes).map_err(|error| {
            let what = match error {
                DataError::NotUtf8 { at } => format!("is not UTF-8 at byte {at}"),
                DataError::ShortText { bytes: 0 } => "is empty".to_owned(),
                DataError::ShortText { bytes } => {
                    format!("has {bytes} bytes, fewer than {MIN_TEXT_BYTES}")
                }
                other => format!("cannot be used: {other}"),
            };
            Failure::input(format!("the data `{}` {what}", path.display()))
                .help("give a plain text file of some hundred kilobytes")
        })
    }

    /// Splits a text.
    ///
    /// # Errors
    /// When it is too short or not UTF-8.
    pub fn new(bytes: Vec<u8>) -> Result<Self, DataError> {
        Ok(Corpus { text: ByteText::new(bytes)? })
    }

    /// Batches of one shape.
    ///
    /// # Errors
    /// When a part of the text is shorter than one row.
    pub fn batches(&self, shape: BatchShape) -> Result<Dataset<&ByteText>, DataError> {
        Dataset::new(&self.text, shape)
    }

    /// What tells the text from others.
    pub fn hash(&self) -> String {
        blake3::hash(self.text.bytes()).to_hex().to_string()
    }

    /// The part to learn from.
    pub fn train(&self) -> &[u8] {
        self.parts().0
    }

    /// The part to be judged on.
    pub fn validation(&self) -> &[u8] {
        self.parts().1
    }

    /// The largest token id.
    pub fn max_token(&self) -> u8 {
        self.text.bytes().iter().copied().max().unwrap_or(0)
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        let bytes = self.text.bytes();
        bytes.split_at(validation_from(bytes.len() as u64) as usize)
    }

    /// How well counting predicts the validation split after reading the training split.
    pub fn entropies(&self) -> Entropies {
        entropies(self.train(), self.validation())
    }
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

    /// A bit that looks independent of its neighbours.
    fn bit(i: u64) -> u8 {
        let x = (i ^ (i >> 7)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 63) as u8
    }

    #[test]
    fn uniform_bytes_cost_ln_256_and_a_cycle_costs_nothing_with_context() {
        let cycle: Vec<u8> = (0..=255u8).cycle().take(256 * 400).collect();
        let e = entropies(&cycle, &cycle[..4096]);
        assert!((e.unigram - 256f64.ln()).abs() < 1e-3, "{e:?}");
        assert!(e.bigram < 0.02, "{e:?}");
    }

    #[test]
    fn independent_bits_gain_nothing_from_context() {
        let coin: Vec<u8> = (0..200_000u64).map(|i| b'a' + bit(i)).collect();
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
    fn what_is_counted_is_what_batches_are_made_of() {
        let corpus = Corpus::new((0..2005u32).map(|i| (i % 90) as u8).collect());
        let corpus = corpus.expect("long enough");
        let batches = corpus.batches(BatchShape { rows: 1, seq: 4 }).expect("long enough");
        assert_eq!(batches.train_len(), corpus.train().len() as u64);
        let first = batches.eval_batch(0).expect("there is one").tokens;
        assert!(first.iter().zip(corpus.validation()).all(|(a, b)| *a == i32::from(*b)));
    }

    #[test]
    fn short_or_empty_data_is_refused() {
        assert!(matches!(Corpus::new(Vec::new()), Err(DataError::ShortText { bytes: 0 })));
        assert!(Corpus::new(vec![0; 10]).is_err());
    }
}
