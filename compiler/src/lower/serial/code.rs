//! Writes structured scalar code as text: values, loops that carry values, branches.
//!
//! # Invariants
//! - Constants stand at the top of the function, each once, in order of first use.
//! - Values are numbered in the order they are written.

use std::fmt::Write as _;

use crate::types::{DType, Type};

/// One memory argument of the kernel.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    name: String,
    dtype: DType,
    elems: u64,
}

impl Memory {
    /// Argument `n` of the kernel.
    pub(super) fn argument(n: usize, ty: &Type) -> Memory {
        Memory { name: format!("%arg{n}"), dtype: ty.dtype, elems: ty.elems() }
    }

    /// Its MLIR type: flat, in the storage type.
    pub(super) fn memref(&self) -> String {
        let elem = if self.dtype == DType::i1 { "i8" } else { self.dtype.name() };
        format!("memref<{}x{elem}>", self.elems)
    }

    /// `%arg0: memref<12xf32>`.
    pub(super) fn parameter(&self) -> String {
        format!("{}: {}", self.name, self.memref())
    }

    /// The type its elements are computed in.
    pub(super) fn compute(&self) -> &'static str {
        match self.dtype {
            DType::bf16 | DType::f16 | DType::f32 => "f32",
            DType::f64 => "f64",
            DType::i32 | DType::i1 => "i32",
        }
    }
}

/// A function body under construction.
#[derive(Default)]
pub(super) struct Code {
    constants: Vec<(String, String)>,
    text: String,
    next: u32,
}

impl Code {
    fn fresh(&mut self) -> String {
        self.next += 1;
        format!("%v{}", self.next - 1)
    }

    /// Writes an operation with one result and names it.
    pub(super) fn def(&mut self, op: impl std::fmt::Display) -> String {
        let name = self.fresh();
        let _ = writeln!(self.text, "{name} = {op}");
        name
    }

    fn constant(&mut self, text: String) -> String {
        if let Some((_, name)) = self.constants.iter().find(|(t, _)| *t == text) {
            return name.clone();
        }
        let name = format!("%c{}", self.constants.len());
        self.constants.push((text, name.clone()));
        name
    }

    /// A constant of type `index`.
    pub(super) fn index(&mut self, value: u64) -> String {
        self.constant(format!("{value} : index"))
    }

    /// An i32 constant.
    pub(super) fn int(&mut self, value: i64) -> String {
        self.constant(format!("{value} : i32"))
    }

    /// Zero of a type.
    pub(super) fn zero(&mut self, ty: &str) -> String {
        let text = if ty.starts_with('f') { "0.0" } else { "0" };
        self.constant(format!("{text} : {ty}"))
    }

    /// The value least in the order of `greater`: NaN, or the least integer.
    pub(super) fn least(&mut self, ty: &str) -> String {
        let text = match ty {
            "f64" => "0x7FF8000000000000",
            "f32" => "0x7FC00000",
            _ => "-2147483648",
        };
        self.constant(format!("{text} : {ty}"))
    }

    /// `a op b` on the type.
    pub(super) fn binary(&mut self, op: &str, a: &str, b: &str, ty: &str) -> String {
        self.def(format!("arith.{op} {a}, {b} : {ty}"))
    }

    /// `a + b` for floats and integers.
    pub(super) fn add(&mut self, a: &str, b: &str, ty: &str) -> String {
        self.binary(if ty.starts_with('f') { "addf" } else { "addi" }, a, b, ty)
    }

    /// `outer · extent + inner` on indices.
    pub(super) fn at(&mut self, outer: &str, extent: u64, inner: &str) -> String {
        let extent = self.index(extent);
        let base = self.binary("muli", outer, &extent, "index");
        self.binary("addi", &base, inner, "index")
    }

    /// A comparison of integers or indices.
    pub(super) fn compare(&mut self, predicate: &str, a: &str, b: &str, ty: &str) -> String {
        self.def(format!("arith.cmpi {predicate}, {a}, {b} : {ty}"))
    }

    /// `if c { a } else { b }` on values.
    pub(super) fn select(&mut self, c: &str, a: &str, b: &str, ty: &str) -> String {
        self.def(format!("arith.select {c}, {a}, {b} : {ty}"))
    }

    /// An i32 as an index (sign-extended).
    pub(super) fn index_of(&mut self, value: &str) -> String {
        self.def(format!("arith.index_cast {value} : i32 to index"))
    }

    /// An index as an i32.
    pub(super) fn int_of(&mut self, value: &str) -> String {
        self.def(format!("arith.index_cast {value} : index to i32"))
    }

    /// An element, widened to its compute type.
    pub(super) fn load(&mut self, memory: &Memory, at: &str) -> String {
        let raw = self.def(format!("memref.load {}[{at}] : {}", memory.name, memory.memref()));
        match memory.dtype {
            DType::bf16 | DType::f16 => {
                self.def(format!("arith.extf {raw} : {} to f32", memory.dtype))
            }
            DType::i1 => self.def(format!("arith.extui {raw} : i8 to i32")),
            DType::f64 | DType::f32 | DType::i32 => raw,
        }
    }

    /// Stores a value of the compute type, rounded to the storage type.
    pub(super) fn store(&mut self, memory: &Memory, at: &str, value: &str) {
        let raw = match memory.dtype {
            DType::bf16 | DType::f16 => {
                self.def(format!("arith.truncf {value} : f32 to {}", memory.dtype))
            }
            DType::i1 => self.def(format!("arith.trunci {value} : i32 to i8")),
            DType::f64 | DType::f32 | DType::i32 => value.to_string(),
        };
        let _ =
            writeln!(self.text, "memref.store {raw}, {}[{at}] : {}", memory.name, memory.memref());
    }

    /// Scratch of `elems` i32 on the stack.
    pub(super) fn alloca(&mut self, elems: u64) -> Memory {
        let memref = format!("memref<{elems}xi32>");
        let name = self.def(format!("memref.alloca() : {memref}"));
        Memory { name, dtype: DType::i32, elems }
    }

    /// `for iv in lo..hi`, carrying values of the given types.
    pub(super) fn for_each(
        &mut self,
        (lo, hi): (&str, &str),
        init: &[(String, &str)],
        body: impl FnOnce(&mut Code, &str, &[String]) -> Vec<String>,
    ) -> Vec<String> {
        let step = self.index(1);
        let results: Vec<String> = init.iter().map(|_| self.fresh()).collect();
        let iv = self.fresh();
        let carried: Vec<String> = init.iter().map(|_| self.fresh()).collect();
        if !results.is_empty() {
            let _ = write!(self.text, "{} = ", results.join(", "));
        }
        let _ = write!(self.text, "scf.for {iv} = {lo} to {hi} step {step}");
        if !results.is_empty() {
            let args: Vec<String> =
                carried.iter().zip(init).map(|(c, (i, _))| format!("{c} = {i}")).collect();
            let types: Vec<&str> = init.iter().map(|(_, t)| *t).collect();
            let _ = write!(self.text, " iter_args({}) -> ({})", args.join(", "), types.join(", "));
        }
        self.text.push_str(" {\n");
        let out = body(self, &iv, &carried);
        self.yields(&out, init.iter().map(|(_, t)| *t));
        self.text.push_str("}\n");
        results
    }

    /// `if condition { then } else { the given values }`; yields what either side gives.
    pub(super) fn when(
        &mut self,
        condition: &str,
        otherwise: &[(String, &str)],
        then: impl FnOnce(&mut Code) -> Vec<String>,
    ) -> Vec<String> {
        let results: Vec<String> = otherwise.iter().map(|_| self.fresh()).collect();
        let types: Vec<&str> = otherwise.iter().map(|(_, t)| *t).collect();
        if results.is_empty() {
            let _ = writeln!(self.text, "scf.if {condition} {{");
        } else {
            let names = results.join(", ");
            let _ =
                writeln!(self.text, "{names} = scf.if {condition} -> ({}) {{", types.join(", "));
        }
        let out = then(self);
        self.yields(&out, types.iter().copied());
        if !results.is_empty() {
            self.text.push_str("} else {\n");
            let values: Vec<String> = otherwise.iter().map(|(v, _)| v.clone()).collect();
            self.yields(&values, types.iter().copied());
        }
        self.text.push_str("}\n");
        results
    }

    fn yields<'t>(&mut self, values: &[String], types: impl Iterator<Item = &'t str>) {
        if !values.is_empty() {
            let types: Vec<&str> = types.collect();
            let _ = writeln!(self.text, "scf.yield {} : {}", values.join(", "), types.join(", "));
        }
    }

    /// The whole body.
    pub(super) fn finish(self) -> String {
        let mut out = String::new();
        for (text, name) in &self.constants {
            let _ = writeln!(out, "{name} = arith.constant {text}");
        }
        out.push_str(&self.text);
        out
    }
}
