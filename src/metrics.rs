//! What a training run records: one JSON object a line, in the order things happened.
//!
//! # Invariants
//! - The first record is [`Record::Run`]; records are only appended; a line is never rewritten, except
//!   that a run that goes on drops what came after its checkpoint.
//! - Numbers that are not finite are written as null, and read back as such.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use perilune_runtime::io::atomic;
use serde::{Deserialize, Serialize};

use crate::memory::RankUse;

/// Version of the record format, in [`Run::version`].
pub const VERSION: u32 = 1;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// What is being run.
    Run(Run),
    /// One training step.
    Step(Step),
    /// A look at the validation split.
    Eval(Eval),
    /// Where the time went.
    Profile(Profile),
    /// How it ended.
    End(End),
    /// What its ranks held and sent.
    Ranks(Ranks),
}

/// What is being run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the compiled step, `k2-nano/train`.
    pub name: String,
    /// The spec's path as given.
    pub spec: String,
    /// The data's path as given.
    pub data: String,
    /// Steps to take.
    pub steps: u64,
    /// Tokens a step reads.
    pub tokens_per_step: u64,
    /// Seed of initial weights and batches.
    pub seed: u64,
    /// Worker threads.
    pub threads: usize,
    /// Parameters.
    pub params_total: u64,
    /// Parameters a token meets.
    pub params_active: u64,
    /// Floating-point operations a trained token takes.
    pub train_flops_per_token: f64,
    /// Bytes of parameters and optimizer state.
    pub persistent_bytes: u64,
    /// Bytes of temporaries in a step.
    pub arena_bytes: u64,
    /// Kernels in the plan.
    pub kernels: usize,
    /// Steps of the plan's training entry.
    pub launches: usize,
    /// Seconds from spec to plan.
    pub compile_seconds: f64,
    /// Unigram entropy of the validation split, nats per byte.
    pub unigram: f64,
    /// Bigram entropy of the validation split, nats per byte.
    pub bigram: f64,
}

/// One training step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// From 1.
    pub step: u64,
    /// Training loss, nats per token.
    #[serde(with = "nullable")]
    pub loss: f64,
    /// Wall time of the step.
    pub seconds: f64,
    /// Tokens over seconds.
    pub tokens_per_s: f64,
    /// Whether the update was left out because the loss or the gradient was not finite.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Step-varying scalars fed or fetched: learning rate, norms.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scalars: BTreeMap<String, f64>,
    /// Vectors fetched, by the path of the node: each head's maximum logit, the clip's factor,
    /// tokens of each expert.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vectors: BTreeMap<String, Vec<f64>>,
}

/// A look at the validation split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Eval {
    /// Steps taken before it.
    pub step: u64,
    /// Mean loss, nats per token.
    #[serde(with = "nullable")]
    pub loss: f64,
    /// Tokens predicted.
    pub tokens: u64,
}

/// Where the time went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Steps measured.
    pub steps: u64,
    /// By RON node, longest first.
    pub rows: Vec<ProfileRow>,
}

/// Time of one RON node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProfileRow {
    /// Path of the node (several share a kernel: the first, and how many more).
    pub node: String,
    /// Kernel or kind of step.
    pub what: String,
    /// Runs in all measured steps.
    pub runs: u64,
    /// Time of all runs, ns.
    pub ns: u64,
    /// Floating-point operations of all runs.
    pub flops: u64,
    /// Bytes of all runs, each operand counted once.
    pub bytes: u64,
}

/// How it ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Steps taken.
    pub steps: u64,
    /// Wall time of training, validation included.
    pub seconds: f64,
    /// Median over the steps.
    pub tokens_per_s: f64,
    /// Last validation loss.
    #[serde(with = "nullable")]
    pub validation_loss: f64,
    /// Peak resident memory of the process, bytes.
    pub peak_rss_bytes: u64,
}

/// What the ranks of a run held and sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranks {
    /// By rank.
    pub ranks: Vec<RankUse>,
}

/// NaN and infinities are null in JSON.
mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
    }
}

/// Appends records to a file, a flushed line each.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<File>,
}

impl Writer {
    /// Starts a file anew.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Writer { file: BufWriter::new(File::create(path)?) })
    }

    /// Goes on with a file: its text becomes `kept`, whole or not at all, and grows from there.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn resume(path: &Path, kept: &str) -> io::Result<Self> {
        atomic::write(path, kept.as_bytes())?;
        Ok(Writer { file: BufWriter::new(OpenOptions::new().append(true).open(path)?) })
    }

    /// Appends one record.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        serde_json::to_writer(&mut self.file, record)?;
        self.file.write_all(b"\n")?;
        self.file.flush()
    }

    /// Makes sure that everything is on the disk.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }
}

/// Reads records back; a line that is no record is an error that names it.
///
/// # Errors
/// The line's number and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Record>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(at, line)| {
            serde_json::from_str(line).map_err(|error| format!("line {}: {error}", at + 1))
        })
        .collect()
}

/// What a run that goes on after `step` keeps of its records, and their text: steps up to it and the
/// looks at the validation split before it. A line that was not finished is dropped.
///
/// # Errors
/// The number of a finished line that is no record.
pub fn kept(text: &str, step: u64) -> Result<(Vec<Record>, String), String> {
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let (mut records, mut lines) = (Vec::new(), String::new());
    for (line, record) in whole.lines().filter(|l| !l.is_empty()).zip(parse(whole)?) {
        let keep = match &record {
            Record::Step(s) => s.step <= step,
            Record::Eval(e) => e.step < step,
            Record::Run(_) | Record::Profile(_) | Record::End(_) | Record::Ranks(_) => false,
        };
        if keep {
            records.push(record);
            lines.push_str(line);
            lines.push('\n');
        }
    }
    Ok((records, lines))
}

/// The middle of a list of numbers (upper middle of an even one); 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_file_and_nan_becomes_null() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("metrics.jsonl");
        let mut step = Step { step: 1, loss: 5.5, ..Step::default() };
        step.vectors.insert("layers.0.attn.max_logit".into(), vec![1.0, 2.5]);
        let records = [
            Record::Run(Run { version: VERSION, name: "k2-nano/train".into(), ..Run::default() }),
            Record::Step(step),
            Record::Step(Step { step: 2, loss: f64::NAN, ..Step::default() }),
            Record::End(End { steps: 2, ..End::default() }),
        ];
        let mut writer = Writer::create(&path).expect("create");
        for record in &records {
            writer.write(record).expect("write");
        }
        writer.finish().expect("finish");
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(text.contains(r#""step":2,"loss":null"#), "{text}");
        let back = parse(&text).expect("parse");
        assert_eq!(back[..2], records[..2]);
        assert!(matches!(&back[2], Record::Step(s) if s.loss.is_nan()));
        assert_eq!(back[3], records[3]);
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = parse("{\"kind\":\"eval\",\"step\":1,\"loss\":2,\"tokens\":3}\nnope\n");
        assert!(error.expect_err("second line").starts_with("line 2:"));
    }

    #[test]
    fn a_run_that_goes_on_keeps_the_text_of_its_steps_and_drops_what_came_after() {
        let step = |n| {
            format!(
                "{{\"kind\":\"step\",\"step\":{n},\"loss\":0.1,\"seconds\":1e-3,\"tokens_per_s\":2}}\n"
            )
        };
        let eval = |n| format!("{{\"kind\":\"eval\",\"step\":{n},\"loss\":2,\"tokens\":3}}\n");
        let text = [step(1), eval(1), step(2), eval(2), step(3), step(4)[..9].to_owned()].concat();
        let (records, lines) = kept(&text, 2).expect("records");
        assert_eq!(lines, [step(1), eval(1), step(2)].concat());
        assert_eq!(records.len(), 3);
        assert!(kept(&format!("nonsense\n{text}"), 2).is_err());
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([]), 0.0);
    }
}
