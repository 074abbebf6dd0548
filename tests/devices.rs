//! k2-nano's training step in the PTX virtual machine, every check on, against the CPU.
//!
//! Five steps with the clip firing, in f32 and in bf16, from the same weights and batches. The two
//! devices run kernels of their own with reductions in another order, so they agree to rounding.
//!
//! # Invariants
//! - Every fetch and every persistent tensor is compared, by relative L2.

use std::collections::BTreeMap;

use perilune::library::Library;
use perilune::pipeline;
use perilune_compiler::source::Loader;
use perilune_runtime::{Checks, DeviceKind, Fetches, HostTensor, Session};

const STEPS: usize = 5;
/// The shape of k2-nano's batches, and its vocabulary.
const SHAPE: [u64; 2] = [2, 11];
const VOCABULARY: i32 = 64;

/// How far the devices may be apart, relative L2.
struct Bounds {
    /// Loss, logits, maxima and other fetches.
    fetches: f64,
    /// Weights and optimizer state after the last step.
    tensors: f64,
}

fn session(path: &str, device: DeviceKind) -> Session {
    let library = Library::default().with(path, with_factors(path));
    pipeline::session_on(device, &library, path).unwrap_or_else(|e| panic!("{path}: {e:?}"))
}

/// A shipped step with a threshold below its first logits, that also gives the clip's factors.
fn with_factors(path: &str) -> String {
    let text = Library::default().load(path).expect("shipped");
    let wanted = text
        .replace("tau: 7.0, tau_end: 7.0", "tau: 0.02, tau_end: 0.02")
        .replace("metrics: {", r#"metrics: { "gamma": "optimizer.*.gamma","#);
    assert!(wanted.contains("tau: 0.02") && wanted.contains("gamma"));
    wanted
}

/// Tokens and targets of a step.
fn batch(step: usize) -> [HostTensor; 2] {
    let count = (SHAPE[0] * SHAPE[1]) as i32;
    let id = |i: i32| (i * i * 7 + i * (3 + step as i32) + 5) % VOCABULARY;
    let ids = |first: i32| (first..first + count).map(id).collect::<Vec<_>>();
    [ids(0), ids(1)].map(|ids| HostTensor::from_i32(&SHAPE, &ids).expect("a batch"))
}

fn step(session: &mut Session, number: usize) -> Fetches {
    let [tokens, targets] = batch(number);
    let step = HostTensor::scalar_f32(number as f32);
    let feeds = [("tokens", &tokens), ("targets", &targets), ("step", &step)];
    session.run("train_step", &feeds).unwrap_or_else(|error| panic!("step {number}: {error}"))
}

fn values(tensor: &HostTensor) -> Vec<f64> {
    let ints = || tensor.to_i32().map(|v| v.into_iter().map(f64::from).collect());
    let floats = tensor.to_f32().map(|v| v.into_iter().map(f64::from).collect());
    floats.or_else(|_| ints()).expect("numbers")
}

fn apart(ours: &HostTensor, theirs: &HostTensor) -> f64 {
    assert_eq!(ours.shape(), theirs.shape());
    let (ours, theirs) = (values(ours), values(theirs));
    let off = ours.iter().zip(&theirs).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let norm = theirs.iter().map(|b| b * b).sum::<f64>().sqrt();
    assert!(off.is_finite() && norm.is_finite());
    if norm > 0.0 { off / norm } else { off }
}

/// Trains on both devices; what lies farther apart than its bound.
fn train(path: &str, bounds: &Bounds) -> Vec<String> {
    let mut cpu = session(path, DeviceKind::Cpu);
    let mut vm = session(path, DeviceKind::ptx_vm(Checks::all()));
    let names: Vec<String> = cpu.plan().tensors.iter().map(|t| t.name.clone()).collect();
    let seed = HostTensor::scalar_i32(1);
    let mut worst: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    let mut note = |name: String, error: f64, bound: f64| {
        let entry = worst.entry(name).or_insert((0.0, bound));
        entry.0 = entry.0.max(error);
    };
    for session in [&mut cpu, &mut vm] {
        session.run("init", &[("seed", &seed)]).unwrap_or_else(|error| panic!("init: {error}"));
    }
    for name in &names {
        let (ours, theirs) = (vm.tensor(name).expect("ours"), cpu.tensor(name).expect("theirs"));
        note(format!("init {name}"), apart(&ours, &theirs), 1e-6);
        vm.set_tensor(name, &theirs).expect("the same plan");
    }
    let mut fired = false;
    for number in 1..=STEPS {
        let (ours, theirs) = (step(&mut vm, number), step(&mut cpu, number));
        for (name, value) in theirs.iter() {
            let ours = ours.get(name).expect("the same plan");
            note(name.to_owned(), apart(ours, value), bounds.fetches);
            fired |= name.starts_with("gamma/") && values(ours).iter().any(|g| *g < 1.0);
        }
    }
    assert!(fired, "the clip does not fire");
    for name in &names {
        let (ours, theirs) = (vm.tensor(name).expect("ours"), cpu.tensor(name).expect("theirs"));
        note(name.clone(), apart(&ours, &theirs), bounds.tensors);
    }
    let off = worst.iter().filter(|(_, (error, bound))| error > bound);
    off.map(|(name, (error, bound))| format!("{name}: {error:.2e} > {bound:.0e}")).collect()
}

#[test]
fn k2_nano_in_f32_trains_in_the_ptx_vm_as_on_the_cpu_and_no_check_finds_anything() {
    let off = train("k2-nano/train.ron", &Bounds { fetches: 3e-6, tensors: 5e-6 });
    assert!(off.is_empty(), "{off:#?}");
}

#[test]
fn k2_nano_in_bf16_trains_in_the_ptx_vm_as_on_the_cpu_and_no_check_finds_anything() {
    let off = train("k2-nano/train_bf16.ron", &Bounds { fetches: 1.5e-2, tensors: 2.5e-2 });
    assert!(off.is_empty(), "{off:#?}");
}
