//! CLIF text under construction: values, blocks, stack slots, constants.
//!
//! # Invariants
//! - Values are numbered in order of definition, blocks in order of creation.

use std::collections::HashMap;
use std::fmt::Write as _;

use melior::ir::ValueLike;

/// Lane type of a value, and whether it is a vector of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) elem: Elem,
    pub(super) vector: bool,
}

/// MLIR element types that reach CLIF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elem {
    Index,
    I8,
    I1,
    I32,
    F32,
    F64,
    Bf16,
    F16,
}

impl Elem {
    /// Bytes in memory.
    pub(super) fn bytes(self) -> u64 {
        match self {
            Elem::Index | Elem::F64 => 8,
            Elem::I32 | Elem::F32 => 4,
            Elem::Bf16 | Elem::F16 => 2,
            Elem::I8 | Elem::I1 => 1,
        }
    }

    /// Parses MLIR's name.
    pub(super) fn parse(name: &str) -> Option<Elem> {
        Some(match name {
            "index" => Elem::Index,
            "i8" => Elem::I8,
            "i1" => Elem::I1,
            "i32" => Elem::I32,
            "f32" => Elem::F32,
            "f64" => Elem::F64,
            "bf16" => Elem::Bf16,
            "f16" => Elem::F16,
            _ => return None,
        })
    }
}

impl Shape {
    /// Parses MLIR's type.
    pub(super) fn parse(ty: &str) -> Option<Shape> {
        match ty.strip_prefix("vector<4x") {
            Some(rest) => Some(Shape { elem: Elem::parse(rest.strip_suffix('>')?)?, vector: true }),
            None => Some(Shape { elem: Elem::parse(ty)?, vector: false }),
        }
    }

    /// CLIF's type.
    pub(super) fn clif(self) -> &'static str {
        match (self.elem, self.vector) {
            (Elem::Index, _) => "i64",
            (Elem::I8 | Elem::I1, false) => "i8",
            (Elem::I32 | Elem::Bf16 | Elem::F16, false) => "i32",
            (Elem::F32, false) => "f32",
            (Elem::F64, _) => "f64",
            (Elem::F32, true) => "f32x4",
            (Elem::I8 | Elem::I1 | Elem::I32 | Elem::Bf16 | Elem::F16, true) => "i32x4",
        }
    }
}

/// A CLIF value's name.
pub(super) type Name = String;

/// The function being written.
#[derive(Default)]
pub(super) struct Builder {
    text: String,
    slots: String,
    values: u32,
    blocks: u32,
    stack_slots: u32,
    names: HashMap<usize, Name>,
    /// Integer constants by MLIR value.
    pub(super) constants: HashMap<usize, i64>,
    /// Index sums with a constant: the rest and the constant.
    pub(super) sums: HashMap<usize, (Name, i64)>,
    /// Contractible products.
    pub(super) products: HashMap<usize, (Name, Name)>,
}

/// Identity of an MLIR value.
pub(super) fn key<'c>(value: impl ValueLike<'c>) -> usize {
    value.to_raw().ptr as usize
}

impl Builder {
    /// An empty function.
    pub(super) fn new() -> Builder {
        Builder::default()
    }

    /// A new value's name.
    pub(super) fn fresh(&mut self) -> Name {
        self.values += 1;
        format!("v{}", self.values - 1)
    }

    /// Writes an instruction and names its result.
    pub(super) fn def(&mut self, instruction: &str) -> Name {
        let name = self.fresh();
        let _ = writeln!(self.text, "    {name} = {instruction}");
        name
    }

    /// Writes an instruction without a result.
    pub(super) fn push(&mut self, instruction: &str) {
        let _ = writeln!(self.text, "    {instruction}");
    }

    /// Names an MLIR value.
    pub(super) fn bind<'c>(&mut self, value: impl ValueLike<'c>, name: Name) {
        self.names.insert(key(value), name);
    }

    /// The name of an MLIR value, by its identity.
    pub(super) fn name(&self, key: usize) -> Option<&Name> {
        self.names.get(&key)
    }

    /// A new block's name.
    pub(super) fn block(&mut self) -> String {
        self.blocks += 1;
        format!("block{}", self.blocks - 1)
    }

    /// Starts the entry block.
    pub(super) fn open_entry(&mut self, params: &[&Name]) {
        let block = self.block();
        let params: Vec<(Name, &str)> = params.iter().map(|p| (p.to_string(), "i64")).collect();
        self.open(&block, &params);
    }

    /// Starts a block.
    pub(super) fn open(&mut self, block: &str, params: &[(Name, &str)]) {
        let params: Vec<String> = params.iter().map(|(n, t)| format!("{n}: {t}")).collect();
        let _ = match params.is_empty() {
            true => writeln!(self.text, "\n{block}:"),
            false => writeln!(self.text, "\n{block}({}):", params.join(", ")),
        };
    }

    /// A stack slot; yields its address.
    pub(super) fn stack(&mut self, bytes: u64) -> Name {
        let slot = format!("ss{}", self.stack_slots);
        self.stack_slots += 1;
        let _ = writeln!(self.slots, "    {slot} = explicit_slot {bytes}, align = 16");
        self.def(&format!("stack_addr.i64 {slot}"))
    }

    /// The function's text.
    pub(super) fn finish(self, name: &str) -> String {
        let Builder { text, slots, .. } = self;
        format!(
            "function %{name}(i64, i64, i64) system_v {{\n{slots}{}}}\n",
            text.trim_start_matches('\n')
        )
    }

    /// An f32 constant in every lane.
    pub(super) fn f32x4(&mut self, value: f32) -> Name {
        let scalar = self.f32(value);
        self.def(&format!("splat.f32x4 {scalar}"))
    }

    /// An f32 constant.
    pub(super) fn f32(&mut self, value: f32) -> Name {
        self.def(&format!("f32const {}", hex_f32(value)))
    }

    /// An i32 constant in every lane.
    pub(super) fn i32x4(&mut self, value: i32) -> Name {
        let scalar = self.def(&format!("iconst.i32 {value}"));
        self.def(&format!("splat.i32x4 {scalar}"))
    }

    /// The bits of lanes under another lane type.
    pub(super) fn bits(&mut self, ty: &str, x: &Name) -> Name {
        self.def(&format!("bitcast.{ty} little {x}"))
    }

    /// An instruction of two operands.
    pub(super) fn two(&mut self, op: &str, a: &Name, b: &Name) -> Name {
        self.def(&format!("{op} {a}, {b}"))
    }

    /// An instruction of one operand.
    pub(super) fn one(&mut self, op: &str, a: &Name) -> Name {
        self.def(&format!("{op} {a}"))
    }

    /// `a · b + c`, rounded once.
    pub(super) fn fma(&mut self, a: &Name, b: &Name, c: &Name) -> Name {
        self.def(&format!("fma {a}, {b}, {c}"))
    }

    /// Lanes of `a` where the i32x4 mask is set, else of `b`; both f32x4.
    pub(super) fn blend(&mut self, mask: &Name, a: &Name, b: &Name) -> Name {
        let mask = self.bits("f32x4", mask);
        self.def(&format!("bitselect {mask}, {a}, {b}"))
    }

    /// A shift of every lane by a constant.
    pub(super) fn shift(&mut self, op: &str, x: &Name, by: u32) -> Name {
        let by = self.def(&format!("iconst.i32 {by}"));
        self.two(op, x, &by)
    }
}

/// An f32 as CLIF writes it, exactly.
pub(super) fn hex_f32(value: f32) -> String {
    let bits = value.to_bits();
    let (sign, exponent, mantissa) = (bits >> 31, (bits >> 23) & 0xff, bits & 0x7f_ffff);
    let sign = if sign == 1 { "-" } else { "" };
    match (exponent, mantissa) {
        (0xff, 0) => format!("{}Inf", if sign.is_empty() { "+" } else { "-" }),
        (0xff, _) => "+NaN".to_string(),
        (0, 0) => format!("{sign}0.0"),
        (0, m) => format!("{sign}0x0.{:06x}p-126", m << 1),
        (e, m) => format!("{sign}0x1.{:06x}p{}", m << 1, e as i32 - 127),
    }
}

/// An f64 as CLIF writes it, exactly.
pub(super) fn hex_f64(value: f64) -> String {
    let bits = value.to_bits();
    let (exponent, mantissa) = ((bits >> 52) & 0x7ff, bits & 0xf_ffff_ffff_ffff);
    let sign = if bits >> 63 == 1 { "-" } else { "" };
    match (exponent, mantissa) {
        (0x7ff, 0) => format!("{}Inf", if sign.is_empty() { "+" } else { "-" }),
        (0x7ff, _) => "+NaN".to_string(),
        (0, 0) => format!("{sign}0.0"),
        (0, m) => format!("{sign}0x0.{m:013x}p-1022"),
        (e, m) => format!("{sign}0x1.{m:013x}p{}", e as i64 - 1023),
    }
}
