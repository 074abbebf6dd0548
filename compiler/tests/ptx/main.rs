//! Every kernel of whole training steps as PTX, in two ledgers: the instructions each text holds,
//! and what ptxas makes of it. A change of either is a change of a snapshot, to be reviewed.

mod mix;
mod ptxas;
mod representative;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use perilune_compiler::compile::compile;
use perilune_compiler::elaborate::load_train;
use perilune_compiler::lower::Target;
use perilune_compiler::source::Loader;
use perilune_plan::{Plan, StepOp};

/// The ptxas whose numbers the ledger holds: another version may take other registers.
const LEDGER_VERSION: &str = "12.9";

struct Disk;

impl Loader for Disk {
    fn load(&self, path: &str) -> Result<String, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        std::fs::read_to_string(root.join(path)).map_err(|e| e.to_string())
    }
}

/// The plan of a training run, with dims replaced.
fn plan(path: &str, sets: &[(&str, &str)], target: Target) -> Plan {
    let sets: Vec<_> = sets.iter().map(|(d, n)| ((*d).to_owned(), (*n).to_owned())).collect();
    let (spec, found, _) = load_train(&Disk, path, &sets);
    let spec = spec.unwrap_or_else(|| panic!("{:?}", found.list()));
    assert!(spec.train_step.is_some());
    let plan = compile(&spec, target).unwrap_or_else(|e| panic!("{e}\n{}", e.reproducer)).plan;
    plan.verify().expect("a plan that holds");
    plan
}

/// Every step launches a kernel that calls nothing.
fn check_launches(plan: &Plan) {
    for entry in &plan.entries {
        for step in &entry.steps {
            assert!(matches!(step.op, StepOp::Launch(_)), "{}: {:?}", entry.name, step.op);
        }
    }
    for kernel in &plan.kernels {
        let (name, text) = (&kernel.name, &kernel.text);
        assert!(!text.contains(".extern .func"), "{name} calls something");
        assert!(text.contains(&format!(".visible .entry {name}(")), "{text}");
        assert!(text.contains(&format!(".target {}", plan.target)), "{text}");
    }
}

fn instructions(plan: &Plan) -> String {
    let mut ledger = String::new();
    for k in &plan.kernels {
        let histogram = mix::histogram(&k.text);
        let _ = writeln!(ledger, "{:34} {:>7} x {:3}{histogram}", k.name, k.blocks, k.threads);
    }
    ledger
}

/// Registers, barriers and shared memory of every kernel on both chips.
fn resources(ptxas: &Path, plans: &[Plan; 2]) -> String {
    let mut ledger = String::new();
    let [first, second] = plans;
    assert_eq!(first.kernels.len(), second.kernels.len());
    for pair in first.kernels.iter().zip(&second.kernels) {
        let _ = write!(ledger, "{:34}", pair.0.name);
        for (kernel, plan) in [(pair.0, first), (pair.1, second)] {
            let found = ptxas::assemble(ptxas, (&kernel.name, &kernel.text), &plan.target);
            assert_eq!(found.spill_bytes, 0, "{} on {}: {found}", kernel.name, plan.target);
            assert_eq!(found.shared_bytes, kernel.shared.static_bytes, "{}", kernel.name);
            let shared = kernel.shared.static_bytes + kernel.shared.dynamic_bytes;
            let _ = write!(ledger, " | {} {found} {shared:6} shared", plan.target);
        }
        ledger.push('\n');
    }
    ledger
}

/// ptxas of the ledger's version; says why not.
fn ptxas_of_ledger() -> Result<PathBuf, String> {
    let ptxas = ptxas::find().ok_or("skipped: no ptxas")?;
    let run =
        Command::new(&ptxas).arg("--version").output().map_err(|e| format!("skipped: {e}"))?;
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    let release = said.split("release ").nth(1).and_then(|r| r.split(',').next());
    match release {
        Some(LEDGER_VERSION) => Ok(ptxas),
        other => Err(format!(
            "skipped: ptxas is of release {}, the ledger of {LEDGER_VERSION}",
            other.unwrap_or("unknown")
        )),
    }
}

fn check(name: &str, path: &str, sets: &[(&str, &str)]) {
    let hopper = plan(path, sets, Target::Sm90a);
    check_launches(&hopper);
    insta::assert_snapshot!(format!("{name}_instructions"), instructions(&hopper));
    match ptxas_of_ledger() {
        Ok(ptxas) => {
            let ampere = plan(path, sets, Target::Sm80);
            check_launches(&ampere);
            insta::assert_snapshot!(
                format!("{name}_resources"),
                resources(&ptxas, &[hopper, ampere])
            );
        }
        #[allow(clippy::print_stderr, reason = "a skipped test says so")]
        Err(why) => eprintln!("{why}"),
    }
}

#[test]
fn the_ledger_holds_every_kernel_of_k2_nano() {
    check("k2_nano", "k2-nano/train.ron", &[]);
}

#[test]
fn the_ledger_holds_every_kernel_of_k2_nano_in_bf16() {
    check("k2_nano_bf16", "k2-nano/train_bf16.ron", &[]);
}

#[test]
fn the_ledger_holds_every_kernel_of_k2_small() {
    check("k2_small", "k2-small/train.ron", &[]);
}

#[test]
fn the_ledger_holds_every_kernel_of_one_full_size_k2_layer() {
    check("k2_layer", "kimi-k2/train.ron", &[("n_layers", "1"), ("first_k_dense", "0")]);
}
