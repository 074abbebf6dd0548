//! The training loop: batches from a text into a session, records out.
//!
//! # Invariants
//! - A run depends on the plan, the text, the seed and the number of steps; not on threads or time,
//!   nor on how often it was left and gone on with.
//! - On a mesh every rank takes its part of the same batches, and all of them leave after the same
//!   step.
//! - Every step and every look at the validation split gives one record, in order.
//! - A loss or gradient that is not finite ends the run: at once, or where the compiled step skips
//!   such updates, when it stays so; weights are then those of the last good step.

use std::collections::BTreeMap;
use std::time::Instant;

use perilune_plan::timeline::Lane;
use perilune_plan::{DType, Entry, FeedDecl, Mesh};
use perilune_runtime::data::{Batch, BatchShape, DataError, Dataset, Tokens};
use perilune_runtime::profile::Slice;
use perilune_runtime::{Fetches, HostTensor, Session, shards};

use crate::corpus::Corpus;
use crate::exit::{Exit, Failure};
use crate::memory::peak_rss_bytes;
use crate::metrics::{End, Eval, Profile, ProfileRow, Record, Step, median};
use crate::pipeline::runtime;
use crate::ranks;

/// Entry that sets the initial weights.
pub const INIT: &str = "init";
/// Entry of one optimizer step.
pub const TRAIN_STEP: &str = "train_step";
/// Entry that gives the loss without learning.
pub const EVAL: &str = "eval";

/// Inputs that the loop provides by itself.
pub const PROVIDED: [&str; 4] = ["tokens", "targets", "step", "seed"];

/// Skipped steps in a row before a run is given up.
const MAX_SKIPPED: u32 = 5;
/// Largest fetch that is recorded; activations are not metrics.
const MAX_RECORDED: usize = 4096;
/// Rows kept of a profile.
const MAX_PROFILE_ROWS: usize = 200;

/// What the caller decides about a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Steps that a checkpoint has done already: the session holds it. 0: initialise.
    pub done: u64,
    /// Optimizer steps in all.
    pub steps: u64,
    /// Steps between checkpoints, and one at the end; 0: none at all.
    pub checkpoint_every: u64,
    /// Whether the compiled step leaves out updates that are not finite.
    pub skips: bool,
    /// Steps between looks at the validation split; 0: none before the end.
    pub eval_every: u64,
    /// Batches of such a look; the last one takes the whole split.
    pub eval_batches: usize,
    /// Whether the validation split is looked at after the last step.
    pub final_eval: bool,
    /// Seed of the initial weights and of the order of the data.
    pub seed: u64,
    /// Final steps that are timed by node.
    pub profile_steps: u64,
    /// Values of further scalar inputs.
    pub inputs: BTreeMap<String, f64>,
}

/// What a run is told about while it goes on, and asks.
pub trait Observer {
    /// A record was made.
    ///
    /// # Errors
    /// When it cannot be kept; the run then ends.
    fn record(&mut self, record: Record) -> Result<(), Failure>;

    /// What the session holds after a step is to be kept.
    ///
    /// # Errors
    /// When it cannot be kept; the run then ends.
    fn save(&mut self, session: &Session, step: u64) -> Result<(), Failure>;

    /// Whether the run is to be left, and how.
    fn leave(&self) -> Option<Exit>;
}

/// Whether a text suits a session and the settings, before anything is run or written.
///
/// # Errors
/// When the plan cannot be run on a text, the text is too short or has tokens that the model lacks,
/// or fewer steps are asked for than are done.
pub fn check(session: &Session, corpus: &Corpus, settings: &Settings) -> Result<(), Failure> {
    let shape = batch_shape(session, TRAIN_STEP)?;
    check_vocabulary(session, corpus)?;
    corpus.batches(shape).map_err(|error| data(&error))?;
    let Settings { done, steps, .. } = *settings;
    if done > steps {
        return Err(Failure::input(format!("the run has taken {done} steps, more than {steps}"))
            .help("give more --steps"));
    }
    Ok(())
}

/// Initialises or goes on, and trains.
///
/// # Errors
/// When the plan cannot be run on a text, the text is too short, values are not finite, or the
/// observer wants to leave.
pub fn train(
    session: &mut Session,
    corpus: &Corpus,
    settings: &Settings,
    observer: &mut dyn Observer,
) -> Result<End, Failure> {
    check(session, corpus, settings)?;
    let shape = batch_shape(session, TRAIN_STEP)?;
    let batches = corpus.batches(shape).map_err(|error| data(&error))?;
    if settings.done == 0 && entry(session, INIT).is_ok() {
        run(session, INIT, &Given { step: 0, batch: None, settings })?;
    }
    let saved = settings.done;
    let mut training = Training { session, corpus, settings, observer, saved, skipped: 0 };
    training.run(&batches)
}

/// A run between its first and its last step.
struct Training<'a> {
    session: &'a mut Session,
    corpus: &'a Corpus,
    settings: &'a Settings,
    observer: &'a mut dyn Observer,
    /// The last step that has a checkpoint.
    saved: u64,
    /// Skipped steps in a row.
    skipped: u32,
}

impl Training<'_> {
    fn run<T: Tokens>(&mut self, batches: &Dataset<T>) -> Result<End, Failure> {
        let Settings { done, steps, profile_steps, .. } = *self.settings;
        let start = Instant::now();
        let mut rates = Vec::new();
        if done > 0 && done < steps {
            self.look(done)?;
        }
        for step in done + 1..=steps {
            self.leave_if_asked(step - 1)?;
            if profile_steps > 0 && steps - step + 1 == profile_steps {
                self.session.set_profiling(true);
            }
            let batch = batches.train_batch(self.settings.seed, step).map_err(|e| data(&e))?;
            rates.push(self.step(step, &batch)?);
            if step < steps {
                self.look(step)?;
            }
            if self.due(step) {
                self.save(step)?;
            }
        }
        let mut validation_loss = f64::NAN;
        if self.settings.final_eval {
            validation_loss = self.evaluate(steps, u64::MAX)?;
        }
        if profile_steps > 0 {
            self.observer.record(Record::Profile(profile(self.session, self.settings)))?;
        }
        let end = End {
            steps,
            seconds: start.elapsed().as_secs_f64(),
            tokens_per_s: median(rates),
            validation_loss,
            peak_rss_bytes: peak_rss_bytes(),
        };
        self.observer.record(Record::End(end.clone()))?;
        Ok(end)
    }

    /// One step; gives its rate.
    fn step(&mut self, step: u64, batch: &Batch) -> Result<f64, Failure> {
        let (record, finite) = train_step(self.session, step, batch, self.settings)?;
        let rate = record.tokens_per_s;
        self.observer.record(Record::Step(record))?;
        self.skipped = if finite { 0 } else { self.skipped + 1 };
        let most = if self.settings.skips { MAX_SKIPPED } else { 1 };
        if self.skipped < most {
            return Ok(rate);
        }
        let headline = match most {
            1 => format!("the loss or the gradient of step {step} is not finite"),
            _ => format!("the loss or the gradient is not finite for {most} steps up to {step}"),
        };
        Err(Failure::new(Exit::NonFinite, headline)
            .help("lower the learning rate, or look at the last records of metrics.jsonl"))
    }

    /// A look at the validation split where one is due.
    fn look(&mut self, step: u64) -> Result<(), Failure> {
        let every = self.settings.eval_every;
        if every > 0 && step.is_multiple_of(every) {
            self.evaluate(step, self.settings.eval_batches as u64)?;
        }
        Ok(())
    }

    /// The mean loss of some batches of the validation split.
    fn evaluate(&mut self, step: u64, count: u64) -> Result<f64, Failure> {
        let shape = batch_shape(self.session, EVAL)?;
        let batches = self.corpus.batches(shape).map_err(|error| data(&error))?;
        let (mut sum, mut tokens) = (0.0, 0);
        for index in 0..batches.eval_batches().min(count.max(1)) {
            self.leave_if_asked(step)?;
            let batch = batches.eval_batch(index).map_err(|error| data(&error))?;
            let given = Given { step, batch: Some(&batch), settings: self.settings };
            // The last batch may have rows that are not counted.
            let predicted = batch.predicted() as u64;
            sum += loss_of(&run(self.session, EVAL, &given)?)? * predicted as f64;
            tokens += predicted;
        }
        let loss = sum / tokens as f64;
        self.observer.record(Record::Eval(Eval { step, loss, tokens }))?;
        Ok(loss)
    }

    fn due(&self, step: u64) -> bool {
        let Settings { checkpoint_every: every, steps, .. } = *self.settings;
        every > 0 && (step.is_multiple_of(every) || step == steps)
    }

    fn save(&mut self, step: u64) -> Result<(), Failure> {
        self.observer.save(self.session, step)?;
        self.saved = step;
        Ok(())
    }

    /// Leaves after a step if that was asked for, with a checkpoint.
    fn leave_if_asked(&mut self, step: u64) -> Result<(), Failure> {
        let asked = self.observer.leave().map_or(0, |exit| i32::from(exit as u8));
        let asked = ranks::largest(self.session.communicator(), "leave", asked)?;
        let exit = u8::try_from(asked).ok().filter(|code| *code > 0).and_then(Exit::from_code);
        let Some(exit) = exit else { return Ok(()) };
        let left = format!("left after step {step}");
        let failure = |headline: String| Failure::new(exit, headline);
        if self.settings.checkpoint_every == 0 {
            return Err(failure(format!("{left}, without a checkpoint")));
        }
        if step > self.saved {
            self.save(step)?;
        }
        if step == 0 {
            return Err(failure("left before the first step".to_owned()));
        }
        Err(failure(format!("{left}; its checkpoint is saved")).help("go on with --resume"))
    }
}

/// Rows of an entry's batches and tokens in each, all ranks together; several micro-batches count
/// as more rows.
///
/// # Errors
/// When the entry does not read token ids.
pub fn rows_and_length(entry: &Entry, mesh: &Mesh) -> Result<BatchShape, Failure> {
    let feed = entry.feeds.iter().find(|feed| feed.name == "tokens");
    let feed = feed.filter(|feed| feed.dtype == DType::i32).ok_or_else(|| {
        Failure::input(format!("`{}` has no input `tokens` of i32", entry.name))
            .help("training on text feeds `tokens`, `targets` and `step`")
    })?;
    match whole_shape(feed, mesh).split_last() {
        Some((&seq, rows)) if seq > 0 && rows.iter().all(|&r| r > 0) => {
            Ok(BatchShape { rows: rows.iter().product::<u64>() as usize, seq: seq as usize })
        }
        _ => Err(Failure::input("`tokens` must have rows and a length, none of them 0")),
    }
}

fn batch_shape(session: &Session, name: &str) -> Result<BatchShape, Failure> {
    rows_and_length(entry(session, name)?, &session.plan().mesh)
}

/// The shape of a feed, of which each rank may get a part.
fn whole_shape(decl: &FeedDecl, mesh: &Mesh) -> Vec<u64> {
    decl.shard.as_ref().map_or_else(|| decl.shape.clone(), |s| s.whole(mesh, &decl.shape))
}

fn entry<'a>(session: &'a Session, name: &str) -> Result<&'a Entry, Failure> {
    let entries = &session.plan().entries;
    entries.iter().find(|e| e.name == name).ok_or_else(|| {
        Failure::input(format!("the spec has no `{name}`"))
            .help("give a training spec: `Train(..)` over a model")
    })
}

/// Token ids must be below the vocabulary, which the width of the logits tells.
fn check_vocabulary(session: &Session, corpus: &Corpus) -> Result<(), Failure> {
    let fetches = session.plan().entries.iter().flat_map(|e| &e.fetches);
    let widths = fetches.filter(|f| f.name == "logits").filter_map(|f| f.shape.last().copied());
    let Some(vocabulary) = widths.min() else { return Ok(()) };
    let largest = corpus.max_token();
    if u64::from(largest) < vocabulary {
        return Ok(());
    }
    let headline = format!("the text has byte {largest}, the model only {vocabulary} tokens");
    Err(Failure::input(headline).help("tokens are bytes: use a model with `vocab` 256"))
}

/// What is wrong with the text, for this model.
fn data(error: &DataError) -> Failure {
    Failure::input(error.to_string()).help("give a longer text or a smaller `seq`")
}

/// What the feeds of one call are made of.
struct Given<'a> {
    step: u64,
    batch: Option<&'a Batch>,
    settings: &'a Settings,
}

fn run(session: &mut Session, name: &str, given: &Given<'_>) -> Result<Fetches, Failure> {
    let mesh = &session.plan().mesh;
    let feeds = entry(session, name)?.feeds.iter();
    let asked = feeds.filter(|decl| mesh.of_feed(&decl.name).is_none());
    let values: Result<Vec<(String, HostTensor)>, Failure> =
        asked.map(|decl| Ok((decl.name.clone(), part(session, decl, given)?))).collect();
    let values = values?;
    let feeds: Vec<(&str, &HostTensor)> = values.iter().map(|(n, v)| (n.as_str(), v)).collect();
    session.run(name, &feeds).map_err(runtime)
}

/// This rank's part of a feed.
fn part(session: &Session, decl: &FeedDecl, given: &Given<'_>) -> Result<HostTensor, Failure> {
    let mesh = &session.plan().mesh;
    let whole = feed(decl, &whole_shape(decl, mesh), given)?;
    match &decl.shard {
        None => Ok(whole),
        Some(shard) => shards::part(&whole, shard, (mesh, session.rank())).map_err(runtime),
    }
}

fn feed(decl: &FeedDecl, shape: &[u64], given: &Given<'_>) -> Result<HostTensor, Failure> {
    let ids = |ids: &[i32]| HostTensor::from_i32(shape, ids).map_err(runtime);
    let value = match decl.name.as_str() {
        "tokens" => given.batch.map(|batch| ids(&batch.tokens)),
        "targets" => given.batch.map(|batch| ids(&batch.targets)),
        "step" => Some(scalar(decl, given.step as f64)),
        "seed" => Some(scalar(decl, given.settings.seed as f64)),
        other => given.settings.inputs.get(other).map(|&value| scalar(decl, value)),
    };
    value.unwrap_or_else(|| {
        Err(Failure::input(format!("nothing provides the input `{}`", decl.name))
            .help(format!("pass --input {}=VALUE", decl.name)))
    })
}

fn scalar(decl: &FeedDecl, value: f64) -> Result<HostTensor, Failure> {
    let tensor = match decl.dtype {
        DType::i32 => HostTensor::scalar_i32(value as i32),
        _ => HostTensor::scalar_f32(value as f32).cast(decl.dtype).map_err(runtime)?,
    };
    if decl.shape.is_empty() {
        return Ok(tensor);
    }
    Err(Failure::input(format!("the input `{}` is not a scalar", decl.name)))
}

/// One step; whether its loss and gradient are finite.
fn train_step(
    session: &mut Session,
    step: u64,
    batch: &Batch,
    settings: &Settings,
) -> Result<(Step, bool), Failure> {
    let start = Instant::now();
    let fetches = run(session, TRAIN_STEP, &Given { step, batch: Some(batch), settings })?;
    let seconds = start.elapsed().as_secs_f64();
    let tokens = batch.tokens.len();
    let loss = loss_of(&fetches)?;
    let tokens_per_s = tokens as f64 / seconds.max(1e-9);
    let whole = ["loss", "grad_norm"].map(|name| fetches.scalar(name));
    let finite = loss.is_finite() && whole.iter().flatten().all(|value| value.is_finite());
    let skipped = !finite && settings.skips;
    let mut record = Step { step, loss, seconds, tokens_per_s, skipped, ..Step::default() };
    let decls = &entry(session, TRAIN_STEP)?.fetches;
    let cut = |name: &str| decls.iter().any(|decl| decl.name == name && decl.shard.is_some());
    for (name, value) in fetches.iter() {
        let numeric = value.dtype().is_float() || value.dtype() == DType::i32;
        if !numeric || value.elems() > MAX_RECORDED || name == "loss" || cut(name) {
            continue;
        }
        let values = numbers(value)?;
        match (values.as_slice(), value.shape().is_empty()) {
            ([one], true) => record.scalars.insert(name.to_owned(), *one).map(drop),
            _ => record.vectors.insert(name.to_owned(), values).map(drop),
        };
    }
    // What is not finite has no JSON form; the loss, which ends a run, has its own.
    record.scalars.retain(|_, value| value.is_finite());
    record.vectors.retain(|_, values| values.iter().all(|value| value.is_finite()));
    Ok((record, finite))
}

/// The metric `ce`, by its name the cross-entropy without auxiliary losses, where the step gives one;
/// else the whole loss.
fn loss_of(fetches: &Fetches) -> Result<f64, Failure> {
    let loss = fetches.scalar("ce").or_else(|| fetches.scalar("loss"));
    loss.map(f64::from).ok_or_else(|| {
        Failure::input("the step gives neither `ce` nor `loss`").help("name one in `metrics`")
    })
}

fn numbers(value: &HostTensor) -> Result<Vec<f64>, Failure> {
    Ok(match value.dtype() {
        DType::i32 => value.to_i32().map_err(runtime)?.into_iter().map(f64::from).collect(),
        _ => value.to_f32().map_err(runtime)?.into_iter().map(f64::from).collect(),
    })
}

/// Time by node on the lane that computes, waiting for collectives included; nodes of repeated layers (`layers.3.attn`) are added up as `layers.*.attn`.
fn profile(session: &Session, settings: &Settings) -> Profile {
    let mut rows: BTreeMap<(String, String), ProfileRow> = BTreeMap::new();
    let computes = |s: &&Slice| s.entry == TRAIN_STEP && s.lane == Lane::Compute;
    for slice in session.profile().slices().iter().filter(computes) {
        let node = match slice.nodes.split_first() {
            Some((first, [])) => pattern(first),
            Some((first, rest)) => format!("{} + {}", pattern(first), rest.len()),
            None => "unnamed".to_owned(),
        };
        let key = (node, slice.kernel.clone());
        let (node, what) = key.clone();
        let row = rows.entry(key).or_insert(ProfileRow { node, what, ..ProfileRow::default() });
        row.runs += 1;
        row.ns += slice.duration_ns;
        row.flops += slice.flops;
        row.bytes += slice.bytes;
    }
    let mut rows: Vec<ProfileRow> = rows.into_values().collect();
    rows.sort_by(|a, b| b.ns.cmp(&a.ns).then_with(|| a.node.cmp(&b.node)));
    rows.truncate(MAX_PROFILE_ROWS);
    Profile { steps: settings.profile_steps.min(settings.steps), rows }
}

fn pattern(path: &str) -> String {
    let part = |part: &str| match part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty() {
        true => "*".to_owned(),
        false => part.to_owned(),
    };
    path.split('.').map(part).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests;
