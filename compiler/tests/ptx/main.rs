//! The PTX of every generic kernel of the k2-nano training step: a ledger of what each holds and the
//! digest of its text, and the verdict of ptxas where there is one.

#[path = "../lower/ptxas.rs"]
mod ptxas;

use std::fmt::Write as _;
use std::path::Path;

use perilune_compiler::compile::compile;
use perilune_compiler::elaborate::{Elaborated, load_train};
use perilune_compiler::lower::Target;
use perilune_compiler::source::Loader;

struct Disk;

impl Loader for Disk {
    fn load(&self, path: &str) -> Result<String, String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        std::fs::read_to_string(root.join(path)).map_err(|e| e.to_string())
    }
}

fn nano() -> Elaborated {
    let (elaborated, diagnostics, _) = load_train(&Disk, "k2-nano/train.ron", &[]);
    elaborated.unwrap_or_else(|| panic!("{:?}", diagnostics.list()))
}

/// Instructions worth counting: a name and the opcodes it stands for.
const MIX: [(&str, &[&str]); 7] = [
    ("loads", &["ld.global"]),
    ("wide", &["ld.global.v4", "st.global.v4"]),
    ("stores", &["st.global"]),
    ("fma", &["fma.", "mul.f32", "add.f32", "sub.f32"]),
    ("special", &["ex2.", "rcp.", "rsqrt.", "sqrt.", "div.rn"]),
    ("shuffles", &["shfl."]),
    ("barriers", &["bar.sync"]),
];

/// One line of the ledger.
fn entry(name: &str, grid: (u64, u32), text: &str) -> String {
    let mut line = format!("{name:28} {:>5} x {:3}", grid.0, grid.1);
    for (label, opcodes) in MIX {
        let of = |l: &&str| opcodes.iter().any(|o| l.trim_start_matches(predicate).starts_with(o));
        let count = text.lines().map(str::trim_start).filter(of).count();
        if count > 0 {
            let _ = write!(line, " {label} {count}");
        }
    }
    let _ = write!(line, " digest {:08x}", digest(text));
    line
}

/// FNV-1a, folded to 32 bits.
fn digest(text: &str) -> u32 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    (hash >> 32) as u32 ^ hash as u32
}

/// Part of `@%p1 ` or `@!%p1 ` in front of an instruction.
fn predicate(c: char) -> bool {
    matches!(c, '@' | '!' | '%' | 'p' | ' ' | '\t') || c.is_ascii_digit()
}

#[test]
fn every_kernel_of_a_training_step_becomes_ptx() {
    let spec = nano();
    assert!(spec.train_step.is_some());
    let compiled =
        compile(&spec, Target::Sm90a).unwrap_or_else(|e| panic!("{e}\n{}", e.reproducer));
    let mut ledger = String::new();
    for kernel in &compiled.plan.kernels {
        assert!(!kernel.text.contains(".extern"), "{} calls something", kernel.name);
        assert!(kernel.text.contains(&format!(".visible .entry {}(", kernel.name)));
        ptxas::check(&kernel.name, &kernel.text, &compiled.plan.target);
        let _ = writeln!(
            ledger,
            "{}",
            entry(&kernel.name, (kernel.blocks, kernel.threads), &kernel.text)
        );
    }
    insta::assert_snapshot!("k2_nano", ledger);
}
