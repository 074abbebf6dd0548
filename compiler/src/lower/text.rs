//! The stages below tensor level as text: every kernel of a program, one module each.
//!
//! ```text
//! outline ──► loops ──► clif        scf, memref, vector: the CPU
//!        └──► gpu ──► nvvm ──► ptx  threads and blocks: NVIDIA Hopper
//! ```
//!
//! # Invariants
//! - A kernel's module carries its symbol, its blocks and its numerics as attributes, so that a
//!   later stage needs nothing but the text.
//! - Text is untrusted: its nesting is bounded before MLIR's recursive parser sees it, and MLIR
//!   verifies it.

use std::fmt::Write as _;

use melior::ir::attribute::{IntegerAttribute, StringAttribute};
use melior::ir::operation::{OperationLike as _, OperationMutLike as _};
use melior::ir::r#type::IntegerType;
use melior::ir::{BlockLike as _, Module, OperationRef};

use super::{Generated, Target, clif, cpu_loops, loop_kernels, named, ptx};
use crate::diagnostic::InternalError;
use crate::mlir::Mlir;
use crate::program::Program;
use crate::program::read::{check_depth, string};

const PASS: &str = "kernels";
const NAME: &str = "sym_name";
const BLOCKS: &str = "perilune.blocks";
const NUMERICS: &str = "perilune.numerics";

/// A stage after the last of a program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelStage {
    /// Loops on memory, in MLIR.
    Loops,
    /// CLIF.
    Clif,
    /// Threads on memory, in MLIR's gpu dialect.
    Gpu,
    /// The nvvm and llvm dialects.
    Nvvm,
    /// PTX.
    Ptx,
}

impl KernelStage {
    /// Every stage, each after the one it follows.
    pub const ALL: [KernelStage; 5] = [
        KernelStage::Loops,
        KernelStage::Clif,
        KernelStage::Gpu,
        KernelStage::Nvvm,
        KernelStage::Ptx,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            KernelStage::Loops => "loops",
            KernelStage::Clif => "clif",
            KernelStage::Gpu => "gpu",
            KernelStage::Nvvm => "nvvm",
            KernelStage::Ptx => "ptx",
        }
    }

    /// The stage of a name.
    pub fn named(name: &str) -> Option<KernelStage> {
        KernelStage::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Whether its text is MLIR, which can be read again.
    pub fn is_mlir(self) -> bool {
        !matches!(self, KernelStage::Clif | KernelStage::Ptx)
    }

    /// The stage it is made from; nothing, if that is the program.
    pub fn before(self) -> Option<KernelStage> {
        match self {
            KernelStage::Loops | KernelStage::Gpu => None,
            KernelStage::Clif => Some(KernelStage::Loops),
            KernelStage::Nvvm => Some(KernelStage::Gpu),
            KernelStage::Ptx => Some(KernelStage::Nvvm),
        }
    }

    /// Whether it is a stage or follows from it.
    pub fn comes_from(self, stage: KernelStage) -> bool {
        self.road(stage).is_some()
    }

    /// The stages from one, itself not included, up to this one; nothing, if no road leads here.
    fn road(self, from: KernelStage) -> Option<Vec<KernelStage>> {
        let mut road = Vec::new();
        let mut at = self;
        while at != from {
            road.insert(0, at);
            at = at.before()?;
        }
        Some(road)
    }
}

/// The kernels of a program after its last pass, at a stage and for a target that has it, and on the
/// road to PTX those that `kernels-gen` is to write.
///
/// # Errors
/// A broken invariant: a bug of the compiler.
pub fn write(
    mlir: &Mlir,
    (program, generated): (&Program, &[Generated]),
    (stage, target): (KernelStage, Target),
) -> Result<String, InternalError> {
    let first = std::iter::successors(Some(stage), |s| s.before()).last().unwrap_or(stage);
    let mut out = String::new();
    for (number, rows) in loop_kernels(program, target) {
        let kernel = &*named(&program.kernels[number as usize], rows);
        let (text, blocks, numerics) = match first {
            KernelStage::Gpu | KernelStage::Nvvm | KernelStage::Ptx => {
                let mapped = ptx::map(kernel)?;
                (mapped.as_module(), mapped.blocks, mapped.numerics)
            }
            KernelStage::Loops | KernelStage::Clif => {
                let loops = cpu_loops(mlir, kernel, rows)?;
                (mlir.print(PASS, &loops.module)?, loops.blocks, loops.numerics)
            }
        };
        let header = Header { name: kernel.name.clone(), blocks, numerics };
        out += &header.module(mlir, &text)?;
    }
    for generated in generated {
        let kernel = generated.kernel()?;
        let mapped = ptx::map_generated(&kernel, generated.name.clone())?;
        let (name, numerics) = (generated.name.clone(), kernel.numerics);
        let header = Header { name, blocks: kernel.blocks, numerics };
        out += &header.module(mlir, &mapped.as_module())?;
    }
    resume(mlir, &out, first, (stage, target))
}

/// The text of a stage from that of an earlier one, for a target that has it; the same text, if it
/// is the same stage.
///
/// # Errors
/// When the text does not verify, lacks a kernel's attributes or cannot be lowered, or no road
/// leads from one stage to the other.
pub fn resume(
    mlir: &Mlir,
    text: &str,
    from: KernelStage,
    (to, target): (KernelStage, Target),
) -> Result<String, InternalError> {
    let road = to.road(from).ok_or_else(|| {
        InternalError::new(PASS, format!("`{}` does not come from `{}`", to.name(), from.name()))
    })?;
    let mut text = normal(mlir, text)?;
    for stage in road {
        text = advance(mlir, &text, (stage, target))?;
    }
    Ok(text)
}

/// The same modules as MLIR prints them.
fn normal(mlir: &Mlir, text: &str) -> Result<String, InternalError> {
    let modules = kernels(mlir, text)?;
    Ok(modules.into_iter().map(|(_, text)| text).collect())
}

/// One step.
fn advance(
    mlir: &Mlir,
    text: &str,
    (to, target): (KernelStage, Target),
) -> Result<String, InternalError> {
    let mut out = String::new();
    for (header, text) in kernels(mlir, text)? {
        let mut module = mlir.parse(PASS, &text)?;
        let _ = match to {
            KernelStage::Loops | KernelStage::Gpu => write!(out, "{text}"),
            KernelStage::Clif => {
                let clif = clif::emit_clif(&module, &header.name)?;
                writeln!(out, ";; {header}\n{}", clif.trim_end())
            }
            KernelStage::Nvvm => {
                let chip = target.chip().ok_or_else(|| InternalError::new(PASS, "a CPU's nvvm"))?;
                ptx::to_nvvm(mlir, &mut module, chip)?;
                write!(out, "{}", mlir.print(PASS, &module)?)
            }
            KernelStage::Ptx => {
                let ptx = ptx::to_ptx(mlir, &mut module)?;
                writeln!(out, "// {header}\n{}", ptx.trim_end())
            }
        };
    }
    Ok(out)
}

/// What a kernel's module says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    name: String,
    blocks: u64,
    numerics: String,
}

impl std::fmt::Display for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} blocks; {}", self.name, self.blocks, self.numerics)
    }
}

impl Header {
    /// A kernel's module with what the header says as attributes.
    fn module(&self, mlir: &Mlir, text: &str) -> Result<String, InternalError> {
        let mut module = mlir.parse(PASS, text)?;
        self.attach(mlir, &mut module);
        mlir.print(PASS, &module)
    }

    fn attach<'c>(&self, mlir: &'c Mlir, module: &mut Module<'c>) {
        let context = mlir.context();
        let i64 = IntegerType::new(context, 64).into();
        let mut op = module.as_operation_mut();
        op.set_attribute(NAME, StringAttribute::new(context, &self.name).into());
        op.set_attribute(BLOCKS, IntegerAttribute::new(i64, self.blocks as i64).into());
        op.set_attribute(NUMERICS, StringAttribute::new(context, &self.numerics).into());
    }

    fn read(op: OperationRef<'_, '_>) -> Result<Header, InternalError> {
        let missing = |name: &str| {
            InternalError::new(PASS, format!("a kernel's module lacks its attribute `{name}`"))
        };
        let text = |name: &str| {
            let attribute = op.attribute(name).map_err(|_| missing(name))?;
            string(attribute).map_err(|_| missing(name))
        };
        let blocks = op.attribute(BLOCKS).map_err(|_| missing(BLOCKS))?;
        let blocks = IntegerAttribute::try_from(blocks).map_err(|_| missing(BLOCKS))?.value();
        Ok(Header { name: text(NAME)?, blocks: blocks.max(0) as u64, numerics: text(NUMERICS)? })
    }
}

/// Each kernel of a text with its module's own text.
fn kernels(mlir: &Mlir, text: &str) -> Result<Vec<(Header, String)>, InternalError> {
    check_depth(text).map_err(|e| InternalError::new(PASS, e.message))?;
    let all = mlir.parse(PASS, text)?;
    // A text of one module is that module; several lie in one that MLIR adds.
    if all.as_operation().has_attribute(BLOCKS) {
        return Ok(vec![(Header::read(all.as_operation())?, mlir.print(PASS, &all)?)]);
    }
    let mut found = Vec::new();
    let mut next = all.body().first_operation();
    while let Some(op) = next {
        found.push((Header::read(op)?, format!("{op}\n")));
        next = op.next_in_block();
    }
    Ok(found)
}
