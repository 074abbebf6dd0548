//! `perilune train SPEC --data FILE`: compile, train on a text, and leave a run folder.
//!
//! The folder holds `metrics.jsonl` (grows while it runs), `checkpoints/`, `plan.perilune`,
//! `weights.safetensors`, `report.html`, and of the last steps `trace.json` and `machine.ron`. `--resume` goes on from the newest checkpoint as if the
//! run had never stopped.
//!
//! On several ranks all of them run this; rank 0 writes the folder, and every other one only its
//! checkpoints below it, and its flight recorder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use perilune_compiler::codes;
use perilune_compiler::program::ArgKind;
use perilune_plan::{Plan, TensorKind, container};
use perilune_runtime::comm::Communicator;
use perilune_runtime::io::checkpoint::Snapshot;
use perilune_runtime::profile::Profile;
use perilune_runtime::{Options, Session, calibrate};
use serde_json::json;

use super::comm_args::CommArgs;
use super::device_args::DeviceArgs;
use super::spec_args::{SpecArgs, pair};
use super::{cannot_write, write_file};
use crate::checkpoints::{Checkpoints, Identity};
use crate::console::Console;
use crate::corpus::{Corpus, Entropies};
use crate::exit::{Exit, Failure};
use crate::memory::{self, RankUse, Watch};
use crate::metrics::{self, End, Ranks, Record, Run};
use crate::moved::Earlier;
use crate::number::grouped;
use crate::pipeline::{self, Checked, runtime};
use crate::signals::Signals;
use crate::training::{self, Observer, Settings};
use crate::{ranks, report, summary, weights};

/// Validation batches at each look before the last, unless the spec says.
const EVAL_BATCHES: u64 = 8;
/// Most steps: the step is fed as f32, which counts no further.
const MAX_STEPS: u64 = 1 << 24;
/// Steps between checkpoints, unless the spec says.
const CHECKPOINT_EVERY: u64 = 100;
/// Checkpoints kept, unless the spec says.
const KEPT: u64 = 2;
/// Final steps timed by node for the report.
const PROFILE_STEPS: u64 = 3;

/// Arguments of `train`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    spec: SpecArgs,
    /// The text to learn: UTF-8, its last tenth is kept for validation
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Folder for metrics, plan, weights and report
    #[arg(long, value_name = "DIR", default_value = "runs/last")]
    out: PathBuf,
    /// Optimizer steps (the spec's `run` says how many by default)
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Steps between looks at the validation split; 0: none at all
    #[arg(long, value_name = "N")]
    eval_every: Option<u64>,
    /// Steps between checkpoints, of which there is one at the end too; 0: none at all
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u64>,
    /// Go on from the newest checkpoint in the folder
    #[arg(long)]
    resume: bool,
    /// Start anew in a folder that has checkpoints, and remove them
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Seed of initial weights and of the order of the data
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Worker threads (all cores); results do not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    comm: CommArgs,
    /// Value of a further scalar input of the step
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = pair)]
    inputs: Vec<(String, String)>,
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let device = args.device.kind()?;
    let mut comm = args.comm.connect(&args.out.join("flight"))?;
    let console = &console.of_rank(comm.rank());
    let (prepared, plan) = match prepare(console, args, &mut *comm) {
        Ok(prepared) => prepared,
        Err(failure) => {
            // Said before it leaves: a launcher may end this rank as soon as another one has left.
            let exit = console.failure(&failure);
            comm.leave(exit as u8);
            return Ok(exit);
        }
    };
    let threads = args.threads.map(usize::from);
    let options = Options { threads, device, ..Options::default() };
    let mut session = Session::on_rank(plan, options, comm).map_err(runtime)?;
    let done = train(console, args, prepared, &mut session);
    let exit = done.unwrap_or_else(|failure| console.failure(&failure));
    session.communicator().leave(exit as u8);
    Ok(exit)
}

/// The plan's mesh must be as large as the job.
fn check_ranks(plan: &Plan, ranks: u32) -> Result<(), Failure> {
    let (mesh, needs) = (plan.mesh.to_string(), plan.mesh.ranks());
    if needs == u64::from(ranks) {
        return Ok(());
    }
    let headline = match needs {
        1 => format!("the step is for one rank, the job has {ranks}"),
        _ => format!("the mesh {mesh} has {needs} ranks, the job has {ranks}"),
    };
    let help =
        "start as many ranks (`perilune launch --ranks N -- train …`), or name another --mesh";
    Err(Failure::input(headline).help(help).code(codes::MESH_AND_JOB))
}

/// All that a run needs beside its session.
struct Prepared {
    corpus: Corpus,
    settings: Settings,
    run: Run,
    /// The plan's file.
    bytes: Vec<u8>,
    checkpoints: Checkpoints,
    resumed: Option<Snapshot>,
    entropies: Entropies,
    /// Memory since the plan was compiled.
    watch: Watch,
    /// What was put together from the checkpoints of another mesh.
    moved_bytes: u64,
}

/// Reads, checks and compiles; all ranks find that they have the same run.
fn prepare(
    console: &Console,
    args: &Args,
    comm: &mut dyn Communicator,
) -> Result<(Prepared, Plan), Failure> {
    let corpus = Corpus::read(&args.data)?;
    let start = Instant::now();
    let checked = args.spec.check()?;
    let mut settings = settings(args, &checked)?;
    let folder = ranks::folder(&args.out, comm.rank());
    free_for_a_new_run(args, &folder)?;
    let plan = pipeline::compile(&checked.elaborated, args.device.kind()?)?;
    let compile_seconds = start.elapsed().as_secs_f64();
    check_ranks(&plan, comm.size())?;
    let entropies = corpus.entropies();
    let mut run = describe(args, &checked, &plan, &settings)?;
    run.compile_seconds = compile_seconds;
    (run.unigram, run.bigram) = (entropies.unigram, entropies.bigram);
    console.note(&format!(
        "{}: {} parameters, compiled in {compile_seconds:.2} s to {} kernels",
        run.name,
        grouped(run.params_total),
        run.kernels
    ));
    let bytes = container::write(&plan).map_err(|error| Failure::internal(error.to_string()))?;
    ranks::same(comm, "plan", &[&bytes])?;
    let how = format!("{settings:?} {} {}", args.resume, args.overwrite);
    ranks::same(comm, "run", &[corpus.hash().as_bytes(), how.as_bytes()])?;
    let watch = Watch::start();
    let identity = (bytes.as_slice(), settings.seed);
    let checkpoints = checkpoints(&folder, &checked, &corpus, identity)?;
    let (mut resumed, mut moved_bytes) = (None, 0);
    if args.resume {
        let (snapshot, moved) = going_on(console, args, (&checkpoints, &plan), comm)?;
        (resumed, moved_bytes) = (Some(snapshot), moved);
    }
    settings.done = resumed.as_ref().map_or(0, |snapshot| snapshot.step);
    let prepared = Prepared {
        corpus,
        settings,
        run,
        bytes,
        checkpoints,
        resumed,
        entropies,
        watch,
        moved_bytes,
    };
    Ok((prepared, plan))
}

fn train(
    console: &Console,
    args: &Args,
    prepared: Prepared,
    session: &mut Session,
) -> Result<Exit, Failure> {
    let Prepared { corpus, settings, mut run, bytes, mut checkpoints, .. } = prepared;
    let Prepared { resumed, entropies, watch, moved_bytes, .. } = prepared;
    let writes = session.rank() == 0;
    training::check(session, &corpus, &settings)?;
    // Nothing of an old run goes before the new one can begin.
    if args.overwrite {
        checkpoints.clear()?;
    }
    if writes {
        write_file(&args.out.join("plan.perilune"), &bytes)?;
    }
    if let Some(snapshot) = resumed {
        snapshot.restore(session).map_err(runtime)?;
    }
    run.threads = session.threads();
    let out = writes.then_some(args.out.as_path());
    let mut log = Log::start(console, out, (run, settings.done), checkpoints)?;
    let copies = settings.checkpoint_every > 0 || settings.done > 0;
    let held = memory::of_training(session.plan(), session.rank()).tensors();
    let copied = if copies { held.max(moved_bytes) } else { 0 };
    let trained = training::train(session, &corpus, &settings, &mut log);
    let outcome = trained.and_then(|end| {
        weights::write(session, &args.out.join("weights.safetensors"))?;
        let used = memory::of_ranks(session, &watch, copied)?;
        log.record(Record::Ranks(Ranks { ranks: used.clone() }))?;
        Ok((end, used))
    });
    log.close()?;
    if writes {
        write_file(&args.out.join("report.html"), report::html(&log.records).as_bytes())?;
    }
    let (end, used) = outcome?;
    if writes {
        write_traces(&args.out, session)?;
    }
    if writes {
        conclude(console, &args.out, (&end, &used), entropies);
    }
    Ok(Exit::Ok)
}

/// What the last steps took and what a step was predicted to take, as traces, and the machine's rates
/// as they showed; nothing where no step was timed.
fn write_traces(out: &Path, session: &Session) -> Result<(), Failure> {
    let (plan, profile) = (session.plan(), session.profile());
    let Some(machine) = calibrate::fit(plan, profile) else { return Ok(()) };
    write_file(&out.join("machine.ron"), machine.to_ron().as_bytes())?;
    write_file(&out.join("trace.json"), &trace(profile))?;
    let step = plan.entries.iter().find(|entry| entry.name == training::TRAIN_STEP);
    if let (Some(step), Some(machine)) = (step, &plan.machine) {
        let predicted = Profile::predicted(plan, step, (machine, true));
        write_file(&out.join("predicted.json"), &trace(&predicted))?;
    }
    Ok(())
}

/// A trace as a file.
fn trace(profile: &Profile) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to memory cannot fail.
    let _ = profile.write_trace(&mut bytes);
    bytes
}

/// A setting of the spec's `Run(..)`.
fn run_setting(checked: &Checked, name: &str, other: u64) -> u64 {
    let train = checked.elaborated.train.as_ref();
    train.and_then(|train| train.run.get(name).copied()).unwrap_or(other)
}

fn checkpoints(
    folder: &Path,
    checked: &Checked,
    corpus: &Corpus,
    (plan, seed): (&[u8], u64),
) -> Result<Checkpoints, Failure> {
    let plan = Identity::plan_on(blake3::hash(plan).to_hex().as_str(), &checked.elaborated.mesh);
    let data = corpus.hash();
    Checkpoints::below(folder, run_setting(checked, "keep", KEPT), Identity { plan, data, seed })
}

/// A new run needs a folder without checkpoints, or leave to remove them.
fn free_for_a_new_run(args: &Args, folder: &Path) -> Result<(), Failure> {
    if args.resume || args.overwrite {
        return Ok(());
    }
    let Some(step) = Checkpoints::last_below(folder)? else { return Ok(()) };
    let headline = format!("`{}` holds a run of {step} steps", args.out.display());
    Err(Failure::input(headline)
        .help("--resume goes on with it, --overwrite starts anew, --out names another folder"))
}

/// What the run goes on from, and how many bytes were put together for it from the checkpoints of
/// another mesh.
fn going_on(
    console: &Console,
    args: &Args,
    (checkpoints, plan): (&Checkpoints, &Plan),
    comm: &mut dyn Communicator,
) -> Result<(Snapshot, u64), Failure> {
    let identity = checkpoints.identity();
    let found = if comm.rank() == 0 { checkpoints.newest_plan()? } else { String::new() };
    let found = ranks::told(comm, "resume", &found)?;
    let mesh = Identity::mesh_of(&found).filter(|mesh| *mesh != plan.mesh.to_string());
    let Some(mesh) = mesh else { return Ok((newest(console, checkpoints, comm)?, 0)) };
    let sets = &args.spec.sets;
    let checked = pipeline::check_file_on(&args.spec.spec, sets, Some(mesh))?;
    let earlier = pipeline::compile(&checked.elaborated, args.device.kind()?)?;
    let bytes = container::write(&earlier).map_err(|error| Failure::internal(error.to_string()))?;
    let hash = blake3::hash(&bytes).to_hex();
    let identity = Identity { plan: Identity::plan_on(hash.as_str(), &earlier.mesh), ..identity };
    let earlier = Earlier { plan: &earlier, identity, out: &args.out };
    let snapshot = earlier.snapshot(plan, comm)?;
    console.note(&format!("going on after step {}, which {mesh} has saved", snapshot.step));
    Ok((snapshot, earlier.whole_bytes()))
}

/// What the run goes on from; for ranks the newest step that all of them have.
fn newest(
    console: &Console,
    checkpoints: &Checkpoints,
    comm: &mut dyn Communicator,
) -> Result<Snapshot, Failure> {
    let (mut snapshot, skipped) = checkpoints.newest()?;
    let own = i32::try_from(snapshot.step).unwrap_or(i32::MAX);
    let step = ranks::smallest(comm, "resume", own)?;
    if step < own {
        snapshot = checkpoints.at(step.unsigned_abs().into())?;
    }
    for one in skipped {
        console.note(&format!("warning: step {} is passed over: {}", one.step, one.reason));
    }
    console.note(&format!("going on after step {}", snapshot.step));
    Ok(snapshot)
}

fn settings(args: &Args, checked: &Checked) -> Result<Settings, Failure> {
    let train = checked.elaborated.train.as_ref().ok_or_else(|| {
        Failure::input(format!("`{}` is a model without a training step", args.spec.spec.display()))
            .help("give the `Train(..)` file beside it")
    })?;
    let default = |name: &str, other: u64| run_setting(checked, name, other);
    let mut inputs = BTreeMap::new();
    for (name, value) in &args.inputs {
        let value = value.parse().map_err(|_| {
            Failure::new(Exit::Usage, format!("--input {name}={value}: `{value}` is no number"))
        })?;
        inputs.insert(name.clone(), value);
    }
    known_inputs(checked, inputs.keys())?;
    let eval_every = args.eval_every.unwrap_or_else(|| default("eval_every", 100));
    let steps = args.steps.unwrap_or_else(|| default("steps", 100));
    let seed = args.seed.unwrap_or_else(|| default("seed", 0));
    for (name, value, most) in [("steps", steps, MAX_STEPS), ("seed", seed, i32::MAX as u64)] {
        if value > most {
            return Err(Failure::input(format!("`{name}` cannot be {value}"))
                .help(format!("give at most {most}")));
        }
    }
    Ok(Settings {
        done: 0,
        steps,
        checkpoint_every: args
            .checkpoint_every
            .unwrap_or_else(|| default("checkpoint_every", CHECKPOINT_EVERY)),
        skips: train.skip_nonfinite,
        eval_every,
        eval_batches: default("eval_batches", EVAL_BATCHES) as usize,
        final_eval: eval_every > 0,
        seed,
        profile_steps: PROFILE_STEPS.min(steps / 4),
        inputs,
    })
}

/// What is given with `--input` must be an input of the step.
fn known_inputs<'a>(
    checked: &Checked,
    given: impl Iterator<Item = &'a String>,
) -> Result<(), Failure> {
    let graph = checked.elaborated.train_step.as_ref();
    let inputs = graph.into_iter().flat_map(|graph| &graph.inputs);
    let feeds = inputs.filter(|input| input.kind == ArgKind::Feed);
    let own = |name: &&str| !training::PROVIDED.contains(name);
    let known: Vec<&str> = feeds.map(|input| input.name.as_str()).filter(own).collect();
    for name in given {
        if !known.contains(&name.as_str()) {
            let help = match known.as_slice() {
                [] => "the step has no input of its own".to_owned(),
                known => format!("its inputs: {}", known.join(", ")),
            };
            return Err(Failure::input(format!("the step has no input `{name}`")).help(help));
        }
    }
    Ok(())
}

fn describe(
    args: &Args,
    checked: &Checked,
    plan: &Plan,
    settings: &Settings,
) -> Result<Run, Failure> {
    let figures = summary::summarize(&checked.elaborated.forward);
    let entry = plan.entries.iter().find(|e| e.name == training::TRAIN_STEP);
    let entry = entry.ok_or_else(|| Failure::internal("the plan has no `train_step`"))?;
    let shape = training::rows_and_length(entry, &plan.mesh)?;
    let kept = plan.tensors.iter().filter(|t| t.kind != TensorKind::Buffer);
    Ok(Run {
        version: metrics::VERSION,
        name: plan.name.clone(),
        spec: args.spec.spec.display().to_string(),
        data: args.data.display().to_string(),
        steps: settings.steps,
        tokens_per_step: (shape.rows * shape.seq) as u64,
        seed: settings.seed,
        params_total: figures.params_total,
        params_active: figures.params_active,
        train_flops_per_token: figures.train_flops_per_token,
        persistent_bytes: kept.map(|t| t.elems() * t.dtype.bytes()).sum(),
        arena_bytes: entry.arena_bytes,
        kernels: plan.kernels.len(),
        launches: entry.steps.len(),
        ..Run::default()
    })
}

/// Keeps the records, writes them down and moves the bar.
struct Log<'a> {
    console: &'a Console,
    path: PathBuf,
    writer: Option<metrics::Writer>,
    records: Vec<Record>,
    bar: ProgressBar,
    checkpoints: Checkpoints,
    signals: Signals,
}

impl<'a> Log<'a> {
    /// Starts the records of a run in a folder, or goes on with those of its first `done` steps.
    /// Without a folder nothing is written.
    fn start(
        console: &'a Console,
        out: Option<&Path>,
        (run, done): (Run, u64),
        checkpoints: Checkpoints,
    ) -> Result<Self, Failure> {
        let path = out.map(|out| out.join("metrics.jsonl")).unwrap_or_default();
        let (writer, records) = match out {
            Some(_) => open(&path, &run, done).map(|(writer, kept)| (Some(writer), kept))?,
            None => (None, Vec::new()),
        };
        let signals = Signals::watch()
            .map_err(|error| Failure::environment(format!("cannot watch for signals: {error}")))?;
        let target = match console.live {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(run.steps), target);
        let template = "{pos}/{len} {wide_bar} {msg} {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_position(done);
        let records = std::iter::once(Record::Run(run)).chain(records).collect();
        Ok(Log { console, path, writer, records, bar, checkpoints, signals })
    }

    fn close(&mut self) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let finished = self.writer.take().map(metrics::Writer::finish);
        finished.unwrap_or(Ok(())).map_err(|error| cannot_write(&self.path, &error))
    }
}

impl Observer for Log<'_> {
    fn record(&mut self, record: Record) -> Result<(), Failure> {
        match &record {
            Record::Step(step) => {
                self.bar.set_message(format!("loss {:.3} {:.0} t/s", step.loss, step.tokens_per_s));
                self.bar.inc(1);
            }
            Record::Eval(eval) => {
                let line = format!("step {:>6}  validation loss {:.4}", eval.step, eval.loss);
                self.bar.suspend(|| self.console.note(&line));
            }
            Record::Run(_) | Record::Profile(_) | Record::End(_) | Record::Ranks(_) => {}
        }
        if let Some(writer) = &mut self.writer {
            writer.write(&record).map_err(|error| cannot_write(&self.path, &error))?;
        }
        self.records.push(record);
        Ok(())
    }

    fn save(&mut self, session: &Session, step: u64) -> Result<(), Failure> {
        self.checkpoints.save(session, step)
    }

    fn leave(&self) -> Option<Exit> {
        self.signals.pending()
    }
}

/// Starts a file of records, or goes on with one after `done` steps, whose records it gives.
fn open(path: &Path, run: &Run, done: u64) -> Result<(metrics::Writer, Vec<Record>), Failure> {
    let (records, kept) = earlier(path, done)?;
    let first = Record::Run(run.clone());
    let folder = path.parent().unwrap_or(Path::new("."));
    let writer = std::fs::create_dir_all(folder).and_then(|()| match done {
        0 => {
            let mut writer = metrics::Writer::create(path)?;
            writer.write(&first).map(|()| writer)
        }
        _ => {
            let first = serde_json::to_string(&first)?;
            metrics::Writer::resume(path, &format!("{first}\n{kept}"))
        }
    });
    Ok((writer.map_err(|error| cannot_write(path, &error))?, records))
}

/// The records of a run's first steps, and their text.
fn earlier(path: &Path, done: u64) -> Result<(Vec<Record>, String), Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) if done > 0 => text,
        _ => return Ok((Vec::new(), String::new())),
    };
    metrics::kept(&text, done).map_err(|what| {
        Failure::new(Exit::Integrity, format!("`{}` is damaged: {what}", path.display()))
            .help("move it away; the run then goes on with new records")
    })
}

fn conclude(console: &Console, out: &Path, (end, used): (&End, &[RankUse]), entropies: Entropies) {
    let finite = |value: f64| value.is_finite().then_some(value);
    if console.json {
        console.json(&json!({
            "version": 1,
            "ok": true,
            "steps": end.steps,
            "seconds": end.seconds,
            "tokens_per_s": end.tokens_per_s,
            "validation_loss": finite(end.validation_loss),
            "unigram": entropies.unigram,
            "bigram": entropies.bigram,
            "peak_rss_bytes": end.peak_rss_bytes,
            "ranks": used,
            "out": out.display().to_string(),
        }));
        return;
    }
    let mut lines = Vec::new();
    if let Some(loss) = finite(end.validation_loss) {
        let verdict = if loss < entropies.bigram { "below" } else { "not below" };
        lines.push(format!("validation loss   {loss:.4} nats per byte, {verdict} the bigram"));
    }
    lines.push(format!("bigram entropy    {:.4}", entropies.bigram));
    lines.push(format!("unigram entropy   {:.4}", entropies.unigram));
    lines.push(format!("tokens a second   {:.0}", end.tokens_per_s));
    lines.push(format!("time              {:.1} s", end.seconds));
    lines.extend(memory::lines(used));
    lines.push(format!("report            {}", out.join("report.html").display()));
    console.data(&lines.join("\n"));
}
