//! Every mesh against one rank: `perilune train` on ranks that are processes, for three models.
//!
//! ```text
//! for each model:  one rank
//!                  dp × ep of up to eight ranks × ZeRO 0, 1, 2     the same losses, norms, weights
//!                  reduction_slices: dp × ep                        the same bits at equal dp
//! ```
//!
//! By default a few of these run; `PERILUNE_MESHES=all` runs all of them (`./x meshes`), or those of some
//! models by name, says on stderr where it is, and prints a table. `PERILUNE_MESHES_OUT=FILE` is its
//! JSON, in which a row stays until it is measured again. Rows that the same program has measured in the
//! same setting are not, so what was interrupted goes on; what was never measured comes first.
//!
//! # Invariants
//! - A model is as shipped but for its batch, its length and what makes every mechanism of a step act
//!   in it: a clip of the gradient, QK-clip, the router's bias, the balance loss.
//! - The text is prose: where text repeats itself, equal tokens stand at one router's tie together, and
//!   the order of a sum in f32 may send them to other experts.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use perilune::memory::RankUse;
use perilune::metrics::{Record, Step, parse};
use perilune_runtime::io::atomic;
use perilune_runtime::io::weights::Weights;
use serde_json::{Value, json};

use super::job::{distance, worst};
use super::launched::{Job, has_mpi, perilune, text};
use super::workbench::Bench;

/// Extents of the mesh's axes.
const EXTENTS: [u32; 3] = [1, 2, 4];
/// Most ranks of a mesh.
const MOST_RANKS: u32 = 8;
/// How far losses and norms of two runs may be apart, relative to themselves: sums are taken in
/// another order.
const LOSS_BOUND: f64 = 2e-4;
/// The same of weights, relative to a tensor's largest element.
const WEIGHT_BOUND: f64 = 5e-3;
/// How far measured memory may be from what is promised, where constants do not rule.
const MEMORY_BOUND: f64 = 0.05;
/// Bytes of text: its last tenth is looked at after the run.
const TEXT_BYTES: usize = 12_000;
/// Largest norm of a gradient that is not clipped.
const CLIP: f64 = 0.5;

/// A shipped model in a setting in which its steps end soon on two cores.
struct Model {
    name: &'static str,
    /// `--set`; the batch is divided by eight ranks.
    sets: &'static [&'static str],
    steps: &'static str,
    /// Where the optimizer's settings take the threshold, and what stays there before it.
    setting: (&'static str, &'static str),
    /// Threshold of QK-clip: a logit that heads reach.
    tau: f64,
    /// Whether tensors are large enough that memory can be held against the promise.
    is_large: bool,
}

const NANO: Model = Model {
    name: "k2-nano",
    sets: &["batch=8", "vocab=256", "seq=24"],
    steps: "20",
    setting: ("tau: 7.0, tau_end: 7.0", ""),
    tau: 0.02,
    is_large: false,
};

/// As it trains, 1,024 tokens a step, but in eight sequences, not four.
const TINY: Model = Model {
    name: "k2-tiny",
    sets: &["batch=8", "seq=128"],
    steps: "20",
    setting: ("norm_weight_decay: 0.0", "norm_weight_decay: 0.0, "),
    tau: 0.25,
    is_large: false,
};

/// For its memory: two steps, for in the first one, when most is being exchanged, the part of the
/// arena that comes later has not been touched.
const SMALL: Model = Model {
    name: "k2-small",
    sets: &["batch=8", "seq=64"],
    steps: "2",
    setting: TINY.setting,
    tau: TINY.tau,
    is_large: true,
};

/// Where and how a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    dp: u32,
    ep: u32,
    zero: u32,
    /// `reduction_slices`, if any.
    slices: u32,
}

impl Place {
    const ALONE: Place = Place { dp: 1, ep: 1, zero: 0, slices: 0 };

    fn ranks(self) -> u32 {
        self.dp * self.ep
    }

    fn mesh(self) -> String {
        format!("dp={},ep={}", self.dp, self.ep)
    }
}

/// All meshes of at most eight ranks.
fn meshes() -> impl Iterator<Item = (u32, u32)> {
    let pairs = EXTENTS.iter().flat_map(|dp| EXTENTS.map(|ep| (*dp, ep)));
    pairs.filter(|(dp, ep)| dp * ep <= MOST_RANKS)
}

/// What a run left.
struct Run {
    steps: Vec<Step>,
    /// Training and validation losses, in order.
    losses: Vec<f64>,
    ranks: Vec<RankUse>,
    weights: PathBuf,
    _bench: Bench,
}

impl Model {
    /// All that a row depends on beside the program.
    fn setting(&self) -> String {
        let Model { sets, steps, setting, tau, .. } = self;
        let all = format!("{sets:?} {steps} {setting:?} {tau} {CLIP} {TEXT_BYTES}");
        blake3::hash(all.as_bytes()).to_hex()[..16].to_owned()
    }

    /// Trains.
    fn run(&self, place: Place) -> Run {
        let Place { zero, slices, .. } = place;
        eprintln!("{} on {}, ZeRO {zero}, {slices} slices", self.name, place.mesh());
        let bench = Bench::of(self.name, 0);
        let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/moby-dick.txt");
        let book = fs::read(book).expect("a book");
        fs::write(bench.path("text"), &book[..TEXT_BYTES]).expect("written");
        let spec = format!("{}/train.ron", self.name);
        let clip = format!("clip_grad_norm: Some({CLIP})");
        bench.edit(&spec, "clip_grad_norm: None", &clip);
        let (setting, stays) = self.setting;
        bench.edit(&spec, setting, &format!("{stays}tau: {0}, tau_end: {0}", self.tau));
        bench.edit(&spec, "accumulate: 1", &format!("zero: {zero}, accumulate: 1"));
        if slices > 0 {
            let declared = format!("reduction_slices: {slices}, accumulate: 1");
            bench.edit(&spec, "accumulate: 1", &declared);
        }
        let paths = [&spec, "text", "out"].map(|p| bench.path(p).display().to_string());
        let [spec, data, out] = &paths;
        let mut words = vec!["train", spec, "--data", data, "--out", out, "--threads", "1"];
        words.extend(["--seed", "3", "--steps", self.steps, "--eval-every", "10"]);
        words.extend(["--checkpoint-every", "0"]);
        self.sets.iter().for_each(|set| words.extend(["--set", *set]));
        let mesh = place.mesh();
        words.extend(["--mesh", mesh.as_str()]);
        let output = match place.ranks() {
            1 => perilune(&words).output().expect("the program starts"),
            ranks => Job::launch(ranks, "600", &words).output(),
        };
        let (said, told) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{} on {mesh}: {said}{told}", self.name);
        Run::read(bench)
    }

    /// The meshes wanted against one rank; hands on a row for each.
    fn compare(&self, places: impl Iterator<Item = Place>, note: &mut dyn FnMut(Value)) {
        let mut places: Vec<Place> = places.filter(|place| !self.is_measured(*place)).collect();
        if places.is_empty() && self.is_measured(Place::ALONE) {
            return;
        }
        let one = self.run(Place::ALONE);
        one.assert_acts(self);
        note(self.row(Place::ALONE, &one, &one));
        places.sort_by_key(|place| self.earlier(*place).is_some());
        for place in places {
            let many = self.run(place);
            many.assert_close(&one, &format!("{} on {place:?}", self.name));
            note(self.row(place, &many, &one));
        }
    }

    /// Meshes of equal `dp` against the first of them, with sums in a declared order. The first one
    /// runs twice.
    fn bits(&self, places: impl Iterator<Item = Place>, note: &mut dyn FnMut(Value)) {
        let mut first: Option<Run> = None;
        let places: Vec<Place> = places.collect();
        if places.iter().all(|place| self.is_measured(*place)) {
            return;
        }
        for place in places {
            let run = self.run(place);
            let base = first.get_or_insert_with(|| self.run(place));
            run.assert_same_bits(base, &format!("{} on {place:?}", self.name));
            note(self.row(place, &run, base));
        }
    }

    /// An earlier row of a place.
    fn earlier(&self, place: Place) -> Option<Value> {
        let Place { dp, ep, zero, slices } = place;
        let numbers = [("dp", dp), ("ep", ep), ("zero", zero), ("reduction_slices", slices)];
        let is_it = |row: &Value| {
            row["model"] == self.name && numbers.iter().all(|(name, n)| row[*name] == *n)
        };
        earlier().into_iter().find(is_it)
    }

    /// Whether this program has a row of a place in this setting.
    fn is_measured(&self, place: Place) -> bool {
        let is_own = |row: Value| row["program"] == program() && row["setting"] == self.setting();
        self.earlier(place).is_some_and(is_own)
    }

    fn row(&self, place: Place, run: &Run, base: &Run) -> Value {
        let Place { dp, ep, zero, slices } = place;
        let most = |of: &dyn Fn(&RankUse) -> u64| run.ranks.iter().map(of).max().unwrap_or(0);
        let off: Option<Vec<f64>> = run.ranks.iter().map(memory_difference).collect();
        let off = off.map(|off| worst(off.into_iter()));
        match off {
            None => eprintln!("skipped: this system does not say what memory a process holds"),
            Some(off) if self.is_large && run.ranks.len() > 1 => {
                assert!(off <= MEMORY_BOUND, "{} on {place:?}: {:?}", self.name, run.ranks);
            }
            Some(_) => {}
        }
        let sent: u64 = run.ranks.iter().map(|rank| rank.sent_bytes).sum();
        json!({
            "model": self.name, "dp": dp, "ep": ep, "zero": zero, "reduction_slices": slices,
            "steps": run.steps.len(), "program": program(), "setting": self.setting(),
            "loss_difference": run.loss_difference(base),
            "norm_difference": run.norm_difference(base),
            "weight_difference": run.weight_difference(base),
            "same_bits": run.has_bits_of(base),
            "sent_bytes": sent / run.steps.len() as u64,
            "state_bytes": most(&|rank| rank.state_bytes),
            "promised_bytes": most(&|rank| rank.promised_bytes),
            "measured_bytes": most(&|rank| rank.measured_bytes.unwrap_or(0)),
            "memory_difference": off,
        })
    }
}

/// How far a rank's memory is from what was promised, relative to that.
fn memory_difference(rank: &RankUse) -> Option<f64> {
    let (measured, promised) = (rank.measured_bytes? as f64, rank.promised_bytes as f64);
    Some((measured - promised).abs() / promised)
}

/// Largest difference of numbers, relative to the other's.
fn relative(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    worst(found.iter().zip(expected).map(|(f, e)| (f - e).abs() / e.abs().max(1e-30)))
}

impl Run {
    fn read(bench: Bench) -> Run {
        let records = fs::read_to_string(bench.path("out/metrics.jsonl")).expect("records");
        let (mut steps, mut losses, mut ranks) = (Vec::new(), Vec::new(), Vec::new());
        for record in parse(&records).expect("records") {
            match record {
                Record::Step(step) => {
                    losses.push(step.loss);
                    steps.push(step);
                }
                Record::Eval(eval) => losses.push(eval.loss),
                Record::Ranks(found) => ranks = found.ranks,
                Record::Run(_) | Record::Profile(_) | Record::End(_) => {}
            }
        }
        let weights = bench.path("out/weights.safetensors");
        Run { steps, losses, ranks, weights, _bench: bench }
    }

    /// Norms of the gradient before it was clipped.
    fn norms(&self) -> Vec<f64> {
        self.steps.iter().map(|step| step.scalars["grad_norm"]).collect()
    }

    /// Fetched vectors of all steps whose name begins so.
    fn vectors(&self, name: &str) -> Vec<f64> {
        let named = self.steps.iter().flat_map(|step| &step.vectors);
        let found = named.filter(|(known, _)| known.starts_with(name));
        found.flat_map(|(_, values)| values.iter().copied()).collect()
    }

    fn loss_difference(&self, base: &Run) -> f64 {
        relative(&self.losses, &base.losses)
    }

    fn norm_difference(&self, base: &Run) -> f64 {
        relative(&self.norms(), &base.norms())
    }

    /// The tensor of the weights that is furthest away.
    fn weight_difference(&self, base: &Run) -> f64 {
        let open = |run: &Run| Weights::open(&run.weights).expect("weights");
        let (own, other) = (open(self), open(base));
        assert!(own.names().eq(other.names()), "the same tensors");
        let read = |weights: &Weights, name: &str| weights.read(name).expect("a tensor");
        worst(own.names().map(|name| distance(&read(&own, name), &read(&other, name))))
    }

    /// The router's biases, all layers.
    fn biases(&self) -> BTreeMap<String, Vec<f32>> {
        let weights = Weights::open(&self.weights).expect("weights");
        let names = weights.names().filter(|name| name.ends_with("router.bias"));
        let read = |name: &str| weights.read(name).expect("a tensor").to_f32().expect("floats");
        names.map(|name| (name.to_owned(), read(name))).collect()
    }

    /// Every mechanism that crosses ranks acts in this run.
    fn assert_acts(&self, model: &Model) {
        let what = model.name;
        let clipped = self.norms().iter().filter(|norm| **norm > CLIP).count();
        assert_eq!(clipped, self.steps.len(), "{what}: the gradient is clipped in every step");
        let logits = self.vectors("max_logit");
        let most = logits.iter().fold(0.0, |most: f64, value| most.max(*value));
        assert!(most > model.tau, "{what}: QK-clip acts, {most} > {}", model.tau);
        let biases = self.biases();
        assert!(!biases.is_empty(), "{what}: routers have a bias");
        for (name, values) in biases {
            assert!(values.iter().any(|value| *value != 0.0), "{what}: `{name}` moves");
        }
    }

    /// The same but for the order of sums in f32.
    fn assert_close(&self, base: &Run, what: &str) {
        let (loss, norm) = (self.loss_difference(base), self.norm_difference(base));
        assert!(loss < LOSS_BOUND && norm < LOSS_BOUND, "{what}: loss {loss:e}, norm {norm:e}");
        let loads = |run: &Run| run.vectors("expert_load");
        assert!(loads(self) == loads(base), "{what}: tokens go to other experts");
        assert!(self.biases() == base.biases(), "{what}: the routers' biases differ");
        let weights = self.weight_difference(base);
        assert!(weights < WEIGHT_BOUND, "{what}: weights {weights:e}");
    }

    fn has_bits_of(&self, base: &Run) -> bool {
        let seen = |run: &Run| -> Vec<u64> {
            let norms = run.norms();
            let vectors = run.vectors("");
            run.losses.iter().chain(&norms).chain(&vectors).map(|v| v.to_bits()).collect()
        };
        let weights = |run: &Run| fs::read(&run.weights).expect("weights");
        seen(self) == seen(base) && weights(self) == weights(base)
    }

    fn assert_same_bits(&self, base: &Run, what: &str) {
        assert!(self.has_bits_of(base), "{what}: loss {:e}", self.loss_difference(base));
    }
}

/// The models of which all meshes are asked for.
fn asked() -> Vec<&'static Model> {
    let Ok(wanted) = std::env::var("PERILUNE_MESHES") else { return Vec::new() };
    let models = [&NANO, &TINY, &SMALL];
    let known = |name: &str| models.iter().any(|model| model.name == name) || name == "all";
    let names: Vec<&str> = wanted.split(',').collect();
    let stray = names.iter().find(|name| !known(name));
    assert_eq!(stray, None, "not among k2-nano, k2-tiny, k2-small, all");
    let is_asked = |model: &&Model| names.contains(&"all") || names.contains(&model.name);
    models.into_iter().filter(is_asked).collect()
}

/// What tells the program that trains from every other.
fn program() -> String {
    static HASH: OnceLock<String> = OnceLock::new();
    let hash = || {
        let program = fs::read(env!("CARGO_BIN_EXE_perilune")).expect("the program");
        blake3::hash(&program).to_hex()[..16].to_owned()
    };
    HASH.get_or_init(hash).clone()
}

/// Where rows are kept, if they are.
fn out() -> Option<PathBuf> {
    std::env::var_os("PERILUNE_MESHES_OUT").map(PathBuf::from)
}

/// Rows of earlier runs; none where there is no file yet.
fn earlier() -> Vec<Value> {
    let Some(text) = out().and_then(|path| fs::read_to_string(path).ok()) else {
        return Vec::new();
    };
    let mut found: Value = serde_json::from_str(&text).expect("the file of rows is JSON");
    found["rows"].as_array_mut().expect("the file has rows").split_off(0)
}

/// Keeps a row in place of an earlier one.
fn keep(row: &Value) {
    let place = ["model", "dp", "ep", "zero", "reduction_slices"];
    let mut kept = earlier();
    kept.retain(|other| place.iter().any(|name| other[*name] != row[*name]));
    kept.push(row.clone());
    let model = |row: &Value| [&NANO, &TINY, &SMALL].iter().position(|m| row["model"] == m.name);
    let number = |row: &Value, name: &str| row[name].as_u64().unwrap_or_default();
    kept.sort_by_key(|row| {
        let mesh = ["dp", "ep", "zero"].map(|name| number(row, name));
        (model(row), Reverse(number(row, "reduction_slices")), mesh)
    });
    let text = serde_json::to_string_pretty(&json!({"version": 1, "rows": kept}));
    let path = out().expect("PERILUNE_MESHES_OUT: a file for the rows");
    let text = text.expect("JSON") + "\n";
    atomic::write(&path, text.as_bytes()).expect("the table is written");
}

fn every_place() -> impl Iterator<Item = Place> {
    let of_mesh = |(dp, ep)| [0, 1, 2].map(|zero| Place { dp, ep, zero, slices: 0 });
    meshes().filter(|mesh| *mesh != (1, 1)).flat_map(of_mesh)
}

/// Meshes with one extent of `dp`.
fn at_equal_dp(dp: u32) -> impl Iterator<Item = Place> {
    let found = meshes().filter(move |mesh| mesh.0 == dp);
    found.map(move |(dp, ep)| Place { dp, ep, zero: 2, slices: 8 })
}

/// Meshes for [`SMALL`]: what divides the state, and what divides the experts.
fn for_memory() -> impl Iterator<Item = Place> {
    let of_mesh = |(dp, ep)| [0, 1, 2].map(|zero| Place { dp, ep, zero, slices: 0 });
    [(2, 1), (2, 2), (4, 1)].into_iter().flat_map(of_mesh)
}

#[test]
fn training_on_every_mesh_is_that_of_one_rank() {
    if !has_mpi() {
        return;
    }
    if asked().is_empty() {
        let some = [Place { dp: 2, ep: 2, zero: 1, slices: 0 }];
        NANO.compare(some.into_iter(), &mut |_| {});
        let short = Model { steps: "1", is_large: true, ..TINY };
        let some = [(2, 1, 1), (1, 2, 2)].map(|(dp, ep, zero)| Place { dp, ep, zero, slices: 0 });
        short.compare(some.into_iter(), &mut |_| {});
        return;
    }
    assert!(out().is_some(), "PERILUNE_MESHES_OUT: a file for the rows");
    let mut note = |row| keep(&row);
    for model in asked() {
        if model.is_large {
            model.compare(for_memory(), &mut note);
            continue;
        }
        model.compare(every_place(), &mut note);
        EXTENTS.iter().for_each(|dp| model.bits(at_equal_dp(*dp), &mut note));
    }
    eprintln!("{}", super::mesh_table::table(&earlier()));
}

#[test]
fn declared_sums_have_the_same_bits_on_processes() {
    if !has_mpi() || !asked().is_empty() {
        return;
    }
    let places = [1, 2].map(|ep| Place { dp: 1, ep, zero: 0, slices: 8 });
    NANO.bits(places.into_iter(), &mut |_| {});
}
