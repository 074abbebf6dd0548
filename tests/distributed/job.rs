//! Running a spec on a mesh: one thread for each rank, each with its part of the batch.
//!
//! # Invariants
//! - Batches follow from a seed and the step alone, so every mesh sees the same ones.

use std::collections::BTreeMap;
use std::thread;

use perilune::library::Library;
use perilune_compiler::compile::{compile, optimize, sketch};
use perilune_compiler::elaborate::{Elaborated, load_spec_on};
use perilune_compiler::import::import;
use perilune_compiler::lower::Target;
use perilune_compiler::ops::Rng;
use perilune_compiler::sharding;
use perilune_compiler::source::Loader;
use perilune_plan::{DType, FeedDecl, Mesh, Plan, RankMemory, Shard};
use perilune_runtime::comm::in_process;
use perilune_runtime::{Fetches, HostTensor, MemoryUse, Options, Session, shards};

/// A spec, settings of its dims, and how often it is stepped.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) files: Library,
    pub(crate) path: String,
    pub(crate) sets: Vec<(String, String)>,
    pub(crate) steps: u64,
}

/// What a rank saw and holds at the end.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Per step, fetches by name.
    pub(crate) steps: Vec<BTreeMap<String, HostTensor>>,
    /// Persistent tensors, put together.
    pub(crate) tensors: BTreeMap<String, HostTensor>,
    /// Loss of an evaluation after the last step.
    pub(crate) eval: f32,
    /// Fetches of `forward` after it: of the rank's part of a batch.
    pub(crate) forward: BTreeMap<String, HostTensor>,
    /// How these are cut.
    pub(crate) forward_cuts: BTreeMap<String, Shard>,
    /// What the session says it holds.
    pub(crate) memory: MemoryUse,
    /// What the plan says.
    pub(crate) promised: RankMemory,
    /// Bytes that the rank holds.
    pub(crate) tensor_bytes: u64,
    /// Bytes that the rank sent to others in the steps, by kind of collective.
    pub(crate) sent: BTreeMap<String, u64>,
    /// Its place, and how its fetches are cut.
    pub(crate) mesh: Mesh,
    pub(crate) rank: u32,
    pub(crate) cuts: BTreeMap<String, Shard>,
}

impl Case {
    /// A shipped training step.
    pub(crate) fn shipped(path: &str, sets: &[(&str, &str)], steps: u64) -> Self {
        let sets = sets.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Case { files: Library::default(), path: path.to_owned(), sets, steps }
    }

    /// The same with a part of one of its files replaced.
    pub(crate) fn edit(&mut self, path: &str, from: &str, to: &str) {
        let text = self.files.load(path).expect("a file");
        assert!(text.contains(from), "`{path}` has no `{from}`");
        self.files = self.files.clone().with(path, text.replacen(from, to, 1));
    }

    /// What the spec means on a mesh.
    pub(crate) fn elaborated(&self, mesh: &str) -> Elaborated {
        let mesh_or_own = Some(mesh).filter(|mesh| !mesh.is_empty());
        let (spec, told, _) = load_spec_on(&self.files, &self.path, &self.sets, mesh_or_own);
        spec.unwrap_or_else(|| panic!("{} on {mesh}: {:?}", self.path, told.list()))
    }

    /// The plan of a rank on a mesh without its kernels.
    pub(crate) fn sketch(&self, mesh: &str) -> Plan {
        let elaborated = self.elaborated(mesh);
        let local = sharding::shard(&elaborated).expect("sharded");
        let mut program = import(&local.name, &local.graphs());
        optimize(&mut program);
        sketch(&program, Target::Cpu).expect("a sketch").0
    }

    /// The plan of a rank on a mesh.
    pub(crate) fn plan(&self, mesh: &str) -> Plan {
        compile(&self.elaborated(mesh), Target::Cpu).expect("compiles").plan
    }

    /// Trains on a mesh; one outcome for each rank.
    pub(crate) fn run(&self, mesh: &str) -> Vec<Outcome> {
        self.run_plan(&self.plan(mesh))
    }

    /// Trains by a plan; one outcome for each of its ranks.
    pub(crate) fn run_plan(&self, plan: &Plan) -> Vec<Outcome> {
        let ranks = in_process::ranks(plan.mesh.ranks() as u32);
        let threads: Vec<_> = ranks
            .into_iter()
            .map(|rank| {
                let (plan, steps) = (plan.clone(), self.steps);
                thread::spawn(move || {
                    let options = Options { threads: Some(1), poison: true, ..Options::default() };
                    let session = Session::on_rank(plan, options, Box::new(rank));
                    train(&mut session.expect("binds"), steps)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("a rank ends well")).collect()
    }
}

fn train(session: &mut Session, steps: u64) -> Outcome {
    run(session, "init", 0);
    let mut seen = Vec::new();
    let before = sent(session);
    for step in 1..=steps {
        let fetches = run(session, "train_step", step);
        seen.push(fetches.iter().map(|(n, v)| (n.to_owned(), v.clone())).collect());
    }
    let mut sent = sent(session);
    sent.iter_mut().for_each(|(name, n)| *n -= before.get(name).copied().unwrap_or(0));
    let (cuts, forward_cuts) = (cuts(session, "train_step"), cuts(session, "forward"));
    let eval = run(session, "eval", steps + 1).scalar("loss").expect("a loss");
    let forward = run(session, "forward", steps + 2);
    let forward = forward.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
    let names: Vec<String> = session.plan().tensors.iter().map(|t| t.name.clone()).collect();
    let whole = |name: String| {
        let value = session.whole_tensor(&name).expect("all parts");
        (name, value)
    };
    let tensors = names.into_iter().map(whole).collect();
    Outcome {
        steps: seen,
        tensors,
        eval,
        forward,
        forward_cuts,
        memory: session.memory(),
        promised: session.plan().memory(session.rank(), &|_| true),
        tensor_bytes: session.memory().tensors,
        sent,
        mesh: session.plan().mesh.clone(),
        rank: session.rank(),
        cuts,
    }
}

/// How the fetches of an entry are cut.
fn cuts(session: &Session, entry: &str) -> BTreeMap<String, Shard> {
    let entry = session.plan().entries.iter().find(|e| e.name == entry);
    let fetches = entry.expect("an entry").fetches.iter();
    fetches.filter_map(|f| Some((f.name.clone(), f.shard.clone()?))).collect()
}

/// Bytes sent so far, by kind of collective.
fn sent(session: &mut Session) -> BTreeMap<String, u64> {
    let traffic = session.communicator().traffic();
    traffic.iter().map(|(name, sent)| (name.to_owned(), sent.bytes)).collect()
}

fn run(session: &mut Session, entry: &str, step: u64) -> Fetches {
    let plan = session.plan();
    let decls = plan.entries.iter().find(|e| e.name == entry).expect("an entry").feeds.clone();
    let mesh = plan.mesh.clone();
    let rank = session.rank();
    let own = decls.iter().filter(|decl| mesh.of_feed(&decl.name).is_none());
    let feeds: Vec<(String, HostTensor)> = own
        .map(|decl| {
            let value = match &decl.shard {
                None => whole(decl, &decl.shape, step),
                Some(shard) => {
                    let whole = whole(decl, &shard.whole(&mesh, &decl.shape), step);
                    shards::part(&whole, shard, (&mesh, rank)).expect("a part")
                }
            };
            (decl.name.clone(), value)
        })
        .collect();
    let feeds: Vec<(&str, &HostTensor)> = feeds.iter().map(|(n, v)| (n.as_str(), v)).collect();
    session.run(entry, &feeds).expect("runs")
}

/// A feed of the whole job.
fn whole(decl: &FeedDecl, shape: &[u64], step: u64) -> HostTensor {
    let count = shape.iter().product::<u64>() as usize;
    let seed = decl.name.bytes().fold(step, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    let mut rng = Rng::new(seed);
    match (decl.name.as_str(), decl.dtype) {
        ("step", _) => HostTensor::scalar_f32(step as f32),
        ("seed", _) => HostTensor::scalar_i32(1),
        ("targets", _) => {
            // A few are left out, and not as many on each rank.
            let ids: Vec<i32> = (0..count).map(|_| rng.below(70) as i32 - 6).collect();
            HostTensor::from_i32(shape, &ids).expect("fits")
        }
        (_, DType::i32) => {
            let ids: Vec<i32> = (0..count).map(|_| rng.below(64) as i32).collect();
            HostTensor::from_i32(shape, &ids).expect("fits")
        }
        _ => {
            let values: Vec<f32> = (0..count).map(|_| rng.float() as f32).collect();
            HostTensor::from_f32(shape, &values).expect("fits")
        }
    }
}

impl Outcome {
    /// What a session lays out is what its plan says.
    fn assert_memory(&self, what: &str) {
        let (held, promised) = (self.memory, self.promised);
        assert_eq!(held.tensors, promised.tensors(), "{what}: tensors");
        assert_eq!(held.feeds, promised.feeds, "{what}: feeds");
        assert!(promised.arena <= held.arena, "{what}: {promised:?} of {held:?}");
    }
}

/// The largest of some differences; one that is no number counts as infinite.
pub(crate) fn worst(differences: impl Iterator<Item = f64>) -> f64 {
    differences.map(|d| if d.is_nan() { f64::INFINITY } else { d }).fold(0.0, f64::max)
}

/// Largest difference of two tensors, relative to the largest element.
pub(crate) fn distance(a: &HostTensor, b: &HostTensor) -> f64 {
    assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
    if a.dtype() == DType::i32 {
        return if a.bytes() == b.bytes() { 0.0 } else { f64::INFINITY };
    }
    let (a, b) = (a.to_f32().expect("floats"), b.to_f32().expect("floats"));
    let size = a.iter().chain(&b).fold(1e-6f32, |m, x| m.max(x.abs()));
    let relative =
        |(x, y): (&f32, &f32)| f64::from(if x == y { 0.0 } else { (x - y).abs() / size });
    worst(a.iter().zip(&b).map(relative))
}

#[test]
fn what_is_no_number_is_far_from_everything() {
    let tensor = |x: f32| HostTensor::from_f32(&[2], &[1.0, x]).expect("fits");
    assert_eq!(distance(&tensor(2.0), &tensor(1.0)), 0.5);
    for other in [1.0, f32::INFINITY, f32::NAN] {
        assert_eq!(distance(&tensor(f32::NAN), &tensor(other)), f64::INFINITY);
    }
    assert_eq!(distance(&tensor(f32::INFINITY), &tensor(1.0)), f64::INFINITY);
}

/// Compares the ranks of a mesh with one rank alone.
pub(crate) fn compare(one: &Outcome, ranks: &[Outcome], bound: f64, what: &str) {
    for (rank, outcome) in ranks.iter().enumerate() {
        for (step, (want, got)) in one.steps.iter().zip(&outcome.steps).enumerate() {
            for (name, value) in want {
                let place = (&outcome.mesh, outcome.rank);
                let want = match outcome.cuts.get(name) {
                    None => value.clone(),
                    Some(shard) => shards::part(value, shard, place).expect("a part"),
                };
                let off = distance(&want, &got[name]);
                assert!(off <= bound, "{what}, rank {rank}, step {step}, `{name}`: {off:e}");
            }
        }
        let off = f64::from((one.eval - outcome.eval).abs() / one.eval.abs());
        assert!(off <= bound, "{what}, rank {rank}, eval: {off:e}");
        for (name, value) in &one.forward {
            let place = (&outcome.mesh, outcome.rank);
            let want = match outcome.forward_cuts.get(name) {
                None => value.clone(),
                Some(shard) => shards::part(value, shard, place).expect("a part"),
            };
            let off = distance(&want, &outcome.forward[name]);
            assert!(off <= bound, "{what}, rank {rank}, forward, `{name}`: {off:e}");
        }
        outcome.assert_memory(&format!("{what}, rank {rank}"));
        for (name, value) in &one.tensors {
            let off = distance(value, &outcome.tensors[name]);
            assert!(off <= bound, "{what}, rank {rank}, tensor `{name}`: {off:e}");
        }
        // What every rank holds is the same to the bit: sums over ranks are taken in one order.
        assert!(outcome.tensors == ranks[0].tensors, "{what}: ranks 0 and {rank} differ");
    }
}
