//! The syntax tree: what was typed, with spans, before any name has a meaning.
//!
//! # Invariants
//! - Blocks are flat: [`Statement::Open`] and [`Statement::Close`] come in pairs.

use crate::source::Span;

/// A whole text.
#[derive(Debug, Default)]
pub(crate) struct Unit<'a> {
    /// `.target`'s first word, such as `sm_90a`.
    pub(crate) target: &'a str,
    pub(crate) files: Vec<(u64, &'a str)>,
    pub(crate) variables: Vec<Variable<'a>>,
    pub(crate) functions: Vec<Function<'a>>,
}

/// A number as typed; whole numbers keep their sign.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    /// Two's complement in 64 bits.
    Int(u64),
    F32(u32),
    F64(u64),
}

/// One value of an initialiser.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Initial<'a> {
    Number(Number),
    /// The address of a symbol plus bytes, as a generic address where `generic(…)` was typed.
    Address {
        symbol: &'a str,
        offset: u64,
        generic: bool,
        span: Span,
    },
}

/// A declared variable or parameter.
#[derive(Clone, Debug)]
pub(crate) struct Variable<'a> {
    pub(crate) name: &'a str,
    /// `global`, `const`, `shared`, `local`, `param` or `reg`.
    pub(crate) space: &'a str,
    pub(crate) is_extern: bool,
    pub(crate) align: Option<u64>,
    /// `b32` and so on.
    pub(crate) type_name: &'a str,
    /// 1, 2, 4.
    pub(crate) vector: u32,
    /// Element count of an array; 0 with `unsized_array` for `[]`.
    pub(crate) elems: u64,
    pub(crate) unsized_array: bool,
    /// Values with the numbers of their elements, the elements of a vector counted apart; what braces leave
    /// out is zero.
    pub(crate) initial: Vec<(u64, Initial<'a>)>,
    pub(crate) span: Span,
}

/// Directives between a kernel's signature and its body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tuning {
    pub(crate) max_ntid: Option<[u32; 3]>,
    pub(crate) req_ntid: Option<[u32; 3]>,
    pub(crate) cluster: Option<[u32; 3]>,
    pub(crate) max_nreg: Option<u32>,
}

/// A kernel or a device function.
#[derive(Debug)]
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    pub(crate) is_entry: bool,
    pub(crate) returns: Vec<Variable<'a>>,
    pub(crate) params: Vec<Variable<'a>>,
    pub(crate) tuning: Tuning,
    /// Absent for a declaration.
    pub(crate) body: Option<Vec<Statement<'a>>>,
    pub(crate) span: Span,
}

/// One statement of a body.
#[derive(Debug)]
pub(crate) enum Statement<'a> {
    Open,
    Close,
    /// `.reg .b32 %r<99>;`: with a count, names `%r0` … `%r98`.
    Registers {
        type_name: &'a str,
        vector: u32,
        names: Vec<(&'a str, Option<u64>)>,
        span: Span,
    },
    Variable(Variable<'a>),
    Label {
        name: &'a str,
        span: Span,
    },
    /// `.loc file line column`.
    Location {
        file: u64,
        line: u64,
    },
    /// `name: .branchtargets a, b;` and `.calltargets`.
    Targets {
        label: &'a str,
        names: Vec<&'a str>,
    },
    Instruction(Instruction<'a>),
}

/// An instruction.
#[derive(Debug)]
pub(crate) struct Instruction<'a> {
    /// Guard predicate, and whether it is negated.
    pub(crate) guard: Option<(&'a str, bool)>,
    pub(crate) name: &'a str,
    pub(crate) modifiers: Vec<&'a str>,
    pub(crate) operands: Vec<Operand<'a>>,
    /// Name and modifiers.
    pub(crate) opcode: Span,
    pub(crate) span: Span,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand<'a> {
    /// A register, symbol or label, plus bytes.
    Name {
        name: &'a str,
        offset: i64,
    },
    /// `%tid.x`.
    Member {
        name: &'a str,
        member: &'a str,
    },
    Number(Number),
    /// `[base + offset]`, and what follows a comma inside the brackets.
    Address {
        base: Box<Operand<'a>>,
        offset: i64,
        more: Vec<Operand<'a>>,
    },
    /// `{a, b}`.
    Vector(Vec<Operand<'a>>),
    /// `a|b`.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `!a`.
    Not(Box<Operand<'a>>),
    /// `(a, b)` of a call.
    Group(Vec<Operand<'a>>),
}
