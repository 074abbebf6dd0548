//! A whole training step as launches in the virtual machine, against the same step on the CPU.

use std::path::Path;

use perilune::loader::FolderLoader;
use perilune_compiler::compile::compile;
use perilune_compiler::elaborate::load_train;
use perilune_compiler::lower::Target;
use perilune_plan::{DType, Entry, FeedDecl, Place, Plan, StepOp, TensorKind};
use perilune_ptx_vm::{Checks, Extents, Machine, Memory, Module, Options};
use perilune_runtime::{HostTensor, Session};

/// Steps: the clip works on clipped weights too.
const STEPS: usize = 5;
/// Factor on the projections that make queries and keys: logits pass QK-clip's threshold.
const LOUDER: f32 = 40.0;
/// The threshold of k2-nano's spec.
const TAU: f32 = 7.0;

/// How far tensors may be from the CPU's after a step, in relative norm; twice as far after two.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    weights: f64,
    states: f64,
}

/// A plan's kernels and memory in the machine.
struct Device {
    plan: Plan,
    modules: Vec<Module>,
    memory: Memory,
}

impl Device {
    fn new(plan: Plan) -> Self {
        let parse = |text: &str| Module::parse(text).unwrap_or_else(|e| panic!("{e}"));
        let modules = plan.kernels.iter().map(|k| parse(&k.text)).collect();
        let mut memory = Memory::default();
        for tensor in &plan.tensors {
            let bytes = tensor.elems() * tensor.dtype.bytes();
            memory.allocate_zeros(&tensor.name, bytes).expect("memory");
        }
        for entry in &plan.entries {
            // What is read before it is written is NaN.
            let unwritten = vec![0xff; entry.arena_bytes as usize];
            memory.allocate(&format!("arena of {}", entry.name), &unwritten).expect("memory");
            for feed in &entry.feeds {
                let bytes = feed.shape.iter().product::<u64>() * feed.dtype.bytes();
                memory.allocate_zeros(&feed_name(entry, feed), bytes).expect("memory");
            }
        }
        Device { plan, modules, memory }
    }

    /// Address of an entry's buffer.
    fn address(&self, entry: &Entry, buffer: u32) -> u64 {
        let of = |name: &str| self.memory.address(name).expect("an allocated buffer");
        match entry.buffers[buffer as usize].place {
            Place::Arena(offset) => of(&format!("arena of {}", entry.name)) + offset,
            Place::Tensor(n) => of(&self.plan.tensors[n as usize].name),
            Place::Feed(n) => of(&feed_name(entry, &entry.feeds[n as usize])),
        }
    }

    /// Runs every step of an entry with all checks.
    fn run(&mut self, entry: &str, feeds: &[(&str, &HostTensor)]) {
        let entry = self.plan.entries.iter().find(|e| e.name == entry).expect("an entry").clone();
        for feed in &entry.feeds {
            let given = feeds.iter().find(|(name, _)| *name == feed.name).expect("a feed");
            self.memory.write(&feed_name(&entry, feed), given.1.bytes()).expect("it fits");
        }
        for step in &entry.steps {
            let StepOp::Launch(launch) = &step.op else { panic!("a step is no launch: {step:?}") };
            let kernel = &self.plan.kernels[launch.kernel as usize];
            if kernel.blocks == 0 {
                continue;
            }
            let addresses = launch.args.iter().map(|a| self.address(&entry, *a));
            let params: Vec<u8> = addresses.flat_map(u64::to_le_bytes).collect();
            let extents = Extents {
                grid: [kernel.blocks as u32, 1, 1],
                block: [kernel.threads, 1, 1],
                cluster: None,
                shared_bytes: kernel.shared.dynamic_bytes,
            };
            let options = Options { checks: Checks::all(), ..Options::default() };
            let memory = std::mem::take(&mut self.memory);
            let module = &self.modules[launch.kernel as usize];
            let outcome =
                Machine::run_with(module, &kernel.name, extents, (params, memory), &options)
                    .unwrap_or_else(|e| panic!("{}: {e}", kernel.name));
            let nodes: Vec<&str> =
                step.nodes.iter().map(|n| self.plan.nodes[*n as usize].as_str()).collect();
            let found = &outcome.findings;
            assert!(found.is_empty(), "{} of {nodes:?}: {found:#?}", kernel.name);
            assert!(outcome.completed, "{} of {nodes:?}", kernel.name);
            self.memory = outcome.memory;
        }
    }
}

fn feed_name(entry: &Entry, feed: &FeedDecl) -> String {
    format!("feed {} of {}", feed.name, entry.name)
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    let each = bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
    each.map(|b| f64::from(f32::from_le_bytes(b))).collect()
}

/// The norm of the difference, relative to the norm.
fn distance(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |squares: &mut dyn Iterator<Item = f64>| squares.sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(a, b)| (a - b) * (a - b)));
    difference / norm(&mut want.iter().map(|x| x * x)).max(1e-12)
}

#[test]
fn steps_of_k2_nano_from_their_ptx_are_those_of_the_cpu() {
    check("k2-nano/train.ron", Bounds { weights: 1e-4, states: 1e-4 });
}

#[test]
fn steps_of_k2_nano_in_bf16_from_their_ptx_are_those_of_the_cpu() {
    // Sums in another order round to other bf16 numbers, 2⁻⁸ apart; squares of gradients double it.
    check("k2-nano/train_bf16.ron", Bounds { weights: 1e-2, states: 8e-2 });
}

/// Runs `init` and some steps here and there; every f32 tensor is within its bound of the
/// CPU's.
fn check(path: &str, bounds: Bounds) {
    let loader = FolderLoader::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("models"));
    let (spec, told, _) = load_train(&loader, path, &[]);
    let spec = spec.unwrap_or_else(|| panic!("{:?}", told.list()));
    let plan = |target| compile(&spec, target).unwrap_or_else(|e| panic!("{e}")).plan;
    let mut cpu = Session::new(plan(Target::Cpu), perilune_runtime::Options::default())
        .expect("a session on the CPU");
    let mut device = Device::new(plan(Target::Sm90a));
    let seed = HostTensor::scalar_i32(5);
    cpu.run("init", &[("seed", &seed)]).expect("init");
    device.run("init", &[("seed", &seed)]);
    compare((&cpu, &device), 0, bounds);
    raise(&mut cpu, &mut device);
    for step in 0..STEPS {
        let number = |i: usize| ((i * i * 7 + i * 13 + step * 29) % 64) as i32;
        let tokens: Vec<i32> = (0..22).map(number).collect();
        let targets: Vec<i32> = (0..22).map(|i| number(i + 1)).collect();
        let tokens = HostTensor::from_i32(&[2, 11], &tokens).expect("tokens");
        let targets = HostTensor::from_i32(&[2, 11], &targets).expect("targets");
        let at = HostTensor::scalar_f32(step as f32 + 1.0);
        let feeds = [("tokens", &tokens), ("targets", &targets), ("step", &at)];
        let fetched = cpu.run("train_step", &feeds).expect("a step");
        let logits = fetched.iter().filter(|(name, _)| name.contains("max_logit"));
        let loudest = logits.flat_map(|(_, v)| v.to_f32().expect("floats")).fold(0.0, f32::max);
        assert!(step > 0 || loudest > TAU, "the clip does not fire at {loudest}");
        device.run("train_step", &feeds);
        compare((&cpu, &device), step + 1, bounds);
    }
}

/// Makes queries and keys larger, here and there.
fn raise(cpu: &mut Session, device: &mut Device) {
    let projections = |t: &&perilune_plan::TensorDecl| {
        t.name.ends_with("attn.q_b_proj") || t.name.ends_with("attn.kv_b_proj")
    };
    let names: Vec<String> =
        device.plan.tensors.iter().filter(projections).map(|t| t.name.clone()).collect();
    assert!(!names.is_empty(), "k2-nano has latent attention");
    for name in names {
        let tensor = cpu.tensor(&name).expect("a tensor");
        let values: Vec<f32> =
            tensor.to_f32().expect("floats").into_iter().map(|x| x * LOUDER).collect();
        let louder = HostTensor::from_f32(tensor.shape(), &values).expect("a tensor");
        cpu.set_tensor(&name, &louder).expect("the same tensor");
        device.memory.write(&name, louder.bytes()).expect("the same tensor");
    }
}

/// Every persistent tensor here and there.
fn compare((cpu, device): (&Session, &Device), step: usize, bounds: Bounds) {
    for tensor in device.plan.tensors.iter().filter(|t| t.dtype == DType::f32) {
        let want = cpu.tensor(&tensor.name).expect("a tensor");
        let got = device.memory.read(&tensor.name).expect("a tensor");
        let apart = distance(&floats(&got), &floats(want.bytes()));
        let bound = match tensor.kind {
            TensorKind::Param | TensorKind::Buffer => bounds.weights,
            TensorKind::State => bounds.states,
        } * step.max(1) as f64;
        assert!(apart <= bound, "after {step} steps `{}` is off by {apart:e}", tensor.name);
    }
}
