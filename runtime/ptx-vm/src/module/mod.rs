//! A decoded module: what can be launched.
//!
//! # Invariants
//! - Everything in a [`Module`] can be executed: what the machine does not know was refused with its place.
//! - Registers are dense rows, symbols are places, labels are instruction numbers.

mod types;
mod op;
mod tensor;
mod scope;
mod layout;
mod decode;

use crate::parse::parse_unit;
use crate::source::{LoadError, Source, Span};

pub(crate) use decode::same_places;
pub(crate) use layout::{Constant, Relocation, RelocationTarget, Special, Variables};
pub(crate) use op::*;
pub(crate) use tensor::*;
pub(crate) use types::{
    BUFFER_START, FIRST_BUFFER_WINDOW, FUNCTION_WINDOW, SHARED_RANK_SHIFT, WINDOW_BITS,
};
pub use types::{Space, Type};

/// A parameter of a kernel: where it lies in the parameter block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name in the text.
    pub name: String,
    /// Offset in the block, in bytes.
    pub offset: u32,
    /// Size in bytes.
    pub bytes: u32,
}

/// What a kernel's signature says.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Name of the entry.
    pub name: String,
    /// Its parameters in order.
    pub params: Vec<Param>,
    /// Size of the parameter block in bytes.
    pub param_bytes: u32,
    /// `.maxntid`: threads of a CTA at most, per dimension.
    pub max_ntid: Option<[u32; 3]>,
    /// `.reqntid`: threads of a CTA exactly.
    pub req_ntid: Option<[u32; 3]>,
    /// `.reqnctapercluster`.
    pub cluster: Option<[u32; 3]>,
    /// `.maxnreg`: registers of a thread at most.
    pub max_registers: Option<u32>,
    /// Bytes of shared memory that the text declares.
    pub shared_bytes: u32,
    pub(crate) function: u32,
    /// Offsets of the module's shared variables for this kernel; `None` for those it does not reach.
    pub(crate) shared_offsets: Vec<Option<u32>>,
    /// Where dynamic shared memory begins.
    pub(crate) dynamic_shared: u32,
}

/// A function's frame: how much of each memory it takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) first: u32,
    /// Rows that are registers; the constants follow.
    pub(crate) registers: u32,
    pub(crate) constants: Vec<Constant>,
    pub(crate) preds: u32,
    /// Bytes of a frame in local memory: variables and call parameters.
    pub(crate) frame_bytes: u32,
    pub(crate) params: Vec<Place>,
    pub(crate) returns: Vec<Place>,
    /// Functions it calls or whose address it takes.
    pub(crate) callees: Vec<u32>,
    /// Module variables in shared memory that it names.
    pub(crate) shared: Vec<u32>,
    pub(crate) has_body: bool,
    /// Its name in the signature.
    pub(crate) span: Span,
}

impl Function {
    /// Rows of a frame.
    pub(crate) fn rows(&self) -> u32 {
        self.registers + self.constants.len() as u32
    }
}

/// What is known of an instruction beside its operation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meta {
    pub(crate) span: Span,
    /// Name and modifiers.
    pub(crate) opcode: Span,
    /// Rows read; predicates are marked by [`PRED_BIT`].
    pub(crate) reads: List,
    /// Rows written.
    pub(crate) writes: List,
    /// Index into the module's locations plus one, or 0.
    pub(crate) location: u32,
}

/// Marks a predicate in [`Meta::reads`] and [`Meta::writes`].
pub(crate) const PRED_BIT: u32 = 1 << 31;

/// PTX that was parsed, resolved and found executable.
///
/// # Examples
/// ```
/// let text = ".version 8.0\n.target sm_80\n.address_size 64\n.entry nothing() { ret; }";
/// let module = perilune_ptx_vm::Module::parse(text)?;
/// assert_eq!(module.kernels()[0].name, "nothing");
/// # Ok::<(), perilune_ptx_vm::LoadError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Module {
    pub(crate) source: Source,
    pub(crate) target: String,
    pub(crate) code: Vec<Inst>,
    pub(crate) meta: Vec<Meta>,
    pub(crate) pool: Vec<u32>,
    pub(crate) functions: Vec<Function>,
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) variables: Variables,
    /// `.loc` lines: file name and line.
    pub(crate) locations: Vec<(String, u64)>,
}

impl Module {
    /// Parses and decodes a text.
    ///
    /// # Errors
    /// V0001 … V0005 with line, column and the line's text.
    pub fn parse(text: &str) -> Result<Self, LoadError> {
        Self::parse_named("<ptx>", text)
    }

    /// Parses and decodes a text under the name that messages show.
    ///
    /// # Errors
    /// As [`Module::parse`].
    pub fn parse_named(name: &str, text: &str) -> Result<Self, LoadError> {
        let source = Source::new(name, text);
        let unit = parse_unit(&source)?;
        decode::decode(&source, &unit)
    }

    /// The kernels that have a body, in the order of the text.
    #[must_use]
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// The target of the text, such as `sm_90a`.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The text with positions.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    pub(crate) fn list(&self, list: List) -> &[u32] {
        &self.pool[list.start as usize..(list.start + list.len) as usize]
    }

    /// The opcode of an instruction with its modifiers, as typed.
    pub(crate) fn opcode(&self, pc: usize) -> &str {
        let span = self.meta[pc].opcode;
        &self.source.text()[span.start as usize..span.end as usize]
    }
}
