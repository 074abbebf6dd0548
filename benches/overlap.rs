//! How much of the time of collectives a schedule hides, on ranks that are threads and links that are
//! slowed down; and how near the prediction comes. Steps that wait for every collective give the rates
//! by which the schedule is made and predicted.
//!
//! `cargo bench --bench overlap -- [--steps N] [--latency-us N] [--megabytes-per-second N]` writes one
//! JSON object. Ranks have one thread each, so two of them fill two cores.

use std::collections::BTreeMap;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use perilune::library::Library;
use perilune::schedule::Times;
use perilune_compiler::compile::compile;
use perilune_compiler::elaborate::{Elaborated, load_spec_on};
use perilune_compiler::lower::Target;
use perilune_compiler::source::Loader;
use perilune_plan::timeline::Lane;
use perilune_plan::{DType, Entry, Machine, Plan};
use perilune_runtime::comm::{Communicator, Delayed, in_process};
use perilune_runtime::profile::Profile;
use perilune_runtime::{HostTensor, Options, Session, calibrate};
use serde_json::{Value, json};

const SPEC: &str = "k2-tiny/train.ron";
const MESH: &str = "ep=2";
const STEP: &str = "train_step";
/// Temporaries for both micro-batches at once.
const ROOM: f64 = 2.0;
/// Steps before times count.
const WARM_UP: u64 = 2;
/// Collectives that carry tokens to experts and back.
const ALL_TO_ALL: [&str; 4] = ["exchange_counts", "dispatch", "dispatch_tokens", "combine"];

fn main() {
    let number = |name: &str, other: f64| {
        let mut args = std::env::args().skip_while(|arg| arg != name).skip(1);
        args.next().map_or(other, |text| text.parse().expect("a number"))
    };
    let steps = number("--steps", 15.0) as u64;
    let latency = Duration::from_micros(number("--latency-us", 500.0) as u64);
    let bytes = number("--megabytes-per-second", 200.0) * 1e6;
    let spec = spec();
    let link = (latency, bytes);
    let in_order = plan(&spec, None);
    let base = run(&in_order, (steps, link));
    let rates = calibrate::fit(&in_order, &base[0].profile).expect("kernels that were timed");
    let machine = Machine { room: ROOM, ..rates };
    let scheduled = plan(&spec, Some(machine.clone()));
    let ranks = run(&scheduled, (steps, link));
    let runs = [
        ("in order", report(&in_order, &machine, &base, false)),
        ("scheduled", report(&scheduled, &machine, &ranks, true)),
    ];
    let value = |name: &str, key: &str| {
        let found = runs.iter().find(|(n, _)| *n == name);
        found.and_then(|(_, v)| v[key].as_f64()).unwrap_or(f64::NAN)
    };
    let hidden = 1.0 - value("scheduled", "exposed_ms") / value("in order", "exposed_ms");
    let all = json!({
        "spec": SPEC, "mesh": MESH, "micro_batches": 2, "steps": steps,
        "latency_us": latency.as_micros() as u64, "bytes_per_second": bytes,
        "machine": machine.to_ron(), "hidden": hidden,
        "runs": runs.into_iter().collect::<BTreeMap<_, _>>(),
    });
    writeln!(std::io::stdout(), "{all:#}").expect("standard output takes it");
}

/// k2-tiny with its batch in two micro-batches.
fn spec() -> Elaborated {
    let files = Library::default();
    let text = files.load(SPEC).expect("a shipped spec");
    assert!(text.contains("accumulate: 1"), "the spec's own micro-batches");
    let files = files.clone().with(SPEC, text.replacen("accumulate: 1", "accumulate: 2", 1));
    let (spec, told, _) = load_spec_on(&files, SPEC, &[], Some(MESH));
    spec.unwrap_or_else(|| panic!("{:?}", told.list()))
}

fn plan(spec: &Elaborated, machine: Option<Machine>) -> Plan {
    let spec = Elaborated { machine, ..spec.clone() };
    compile(&spec, Target::Cpu).expect("compiles").plan
}

/// What a rank measured.
struct Measured {
    /// Of every step, nanoseconds.
    steps: Vec<u64>,
    profile: Profile,
}

/// Runs steps on all ranks, over links of a latency and a bandwidth.
fn run(plan: &Plan, (steps, (latency, bytes)): (u64, (Duration, f64))) -> Vec<Measured> {
    let ranks = in_process::ranks(plan.mesh.ranks() as u32).into_iter();
    let threads: Vec<_> = ranks
        .map(|rank| {
            let (plan, comm) = (plan.clone(), Delayed::new(rank, latency, bytes));
            thread::spawn(move || measure(plan, Box::new(comm), steps))
        })
        .collect();
    threads.into_iter().map(|t| t.join().expect("a rank ends well")).collect()
}

fn measure(plan: Plan, comm: Box<dyn Communicator>, steps: u64) -> Measured {
    let options = Options { threads: Some(1), ..Options::default() };
    let mut session = Session::on_rank(plan, options, comm).expect("binds");
    session.run("init", &[("seed", &HostTensor::scalar_i32(1))]).expect("initialises");
    let mut times = Vec::new();
    for step in 1..=WARM_UP + steps {
        if step == WARM_UP + 1 {
            session.set_profiling(true);
        }
        let feeds = feeds(&session, step);
        let given: Vec<(&str, &HostTensor)> = feeds.iter().map(|(n, v)| (n.as_str(), v)).collect();
        let begin = Instant::now();
        session.run(STEP, &given).expect("steps");
        if step > WARM_UP {
            times.push(begin.elapsed().as_nanos() as u64);
        }
    }
    Measured { steps: times, profile: session.profile().clone() }
}

/// Tokens that follow from the step, the rank and their place.
fn feeds(session: &Session, step: u64) -> Vec<(String, HostTensor)> {
    let (plan, rank) = (session.plan(), u64::from(session.rank()));
    let own = entry(plan).feeds.iter().filter(|decl| plan.mesh.of_feed(&decl.name).is_none());
    own.map(|decl| {
        let count = decl.shape.iter().product::<u64>();
        let value = match decl.dtype {
            DType::i32 => {
                let token = |i: u64| {
                    let mixed = (i + 7919 * step + 104_729 * rank).wrapping_mul(2_654_435_761);
                    ((mixed >> 7) % 251) as i32
                };
                let ids: Vec<i32> = (0..count).map(token).collect();
                HostTensor::from_i32(&decl.shape, &ids).expect("fits")
            }
            _ => HostTensor::scalar_f32(step as f32),
        };
        (decl.name.clone(), value)
    })
    .collect()
}

fn entry(plan: &Plan) -> &Entry {
    plan.entries.iter().find(|entry| entry.name == STEP).expect("a training step")
}

/// Times a step of the slowest rank, milliseconds: medians over the steps.
fn report(plan: &Plan, machine: &Machine, ranks: &[Measured], overlap: bool) -> Value {
    let times = Times::of(plan, entry(plan), machine);
    let predicted = if overlap { times.step_ns } else { times.in_order_ns } / 1e6;
    let steps = ranks[0].steps.len() as f64;
    let mut step_ms: Vec<f64> = ranks[0].steps.iter().map(|ns| *ns as f64 / 1e6).collect();
    step_ms.sort_by(f64::total_cmp);
    let median = step_ms[step_ms.len() / 2];
    let total = |wanted: &dyn Fn(&perilune_runtime::profile::Slice) -> bool| {
        let sums = ranks.iter().map(|rank| {
            let of = rank.profile.slices().iter().filter(|s| wanted(s));
            of.map(|s| s.duration_ns as f64).sum::<f64>() / steps / 1e6
        });
        sums.fold(0.0, f64::max)
    };
    let of_experts = |name: &str| ALL_TO_ALL.contains(&name);
    json!({
        "step_ms": median,
        "step_ms_spread": [step_ms[0], step_ms[step_ms.len() - 1]],
        "predicted_ms": predicted,
        "off": predicted / median - 1.0,
        "exposed_ms": total(&|s| s.kernel.strip_prefix("wait for ").is_some_and(of_experts)),
        "exposed_all_ms": total(&|s| s.is_wait()),
        "all_to_all_ms": total(&|s| s.lane == Lane::Communication && of_experts(&s.kernel)),
        "communication_ms": total(&|s| s.lane == Lane::Communication),
        "compute_ms": total(&|s| s.lane == Lane::Compute && !s.is_wait()),
        "predicted_compute_ms": times.compute_ns / 1e6,
        "predicted_communication_ms": times.communication_ns / 1e6,
        "predicted_exposed_all_ms": times.exposed_ns / 1e6,
    })
}
