//! Writes SSA text into nested scopes, each value in the outermost scope where it can live.
//!
//! # Invariants
//! - A value's depth is the greatest depth of what it depends on; it is written into that scope,
//!   in front of the inner loop still open. So loop-invariant code, and whole reductions, end up
//!   outside the loops that use them.
//! - The same text in the same scope is written once.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::index::{Index, Lin, Source, Var, VarInfo};
use crate::program::V;
use crate::types::DType;

/// Type of a scalar or of the lanes of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Elem {
    F64,
    F32,
    Bf16,
    F16,
    I32,
    I8,
    I1,
    Index,
}

impl Elem {
    /// The type values of a dtype are computed in.
    pub(crate) fn compute(dtype: DType) -> Elem {
        match dtype {
            DType::f64 => Elem::F64,
            DType::f32 | DType::bf16 | DType::f16 => Elem::F32,
            DType::i32 => Elem::I32,
            DType::i1 => Elem::I1,
        }
    }

    /// The type values of a dtype have in memory.
    pub(crate) fn storage(dtype: DType) -> Elem {
        match dtype {
            DType::bf16 => Elem::Bf16,
            DType::f16 => Elem::F16,
            DType::i1 => Elem::I8,
            DType::f64 | DType::f32 | DType::i32 => Elem::compute(dtype),
        }
    }

    /// MLIR's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Elem::F64 => "f64",
            Elem::F32 => "f32",
            Elem::Bf16 => "bf16",
            Elem::F16 => "f16",
            Elem::I32 => "i32",
            Elem::I8 => "i8",
            Elem::I1 => "i1",
            Elem::Index => "index",
        }
    }

    /// Whether it is a floating-point type.
    pub(crate) fn is_float(self) -> bool {
        matches!(self, Elem::F64 | Elem::F32 | Elem::Bf16 | Elem::F16)
    }
}

/// A value's type: an element, in one or several lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ty {
    pub(crate) elem: Elem,
    /// 1: a scalar.
    pub(crate) lanes: u32,
}

impl std::fmt::Display for Ty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.lanes {
            1 => f.write_str(self.elem.name()),
            n => write!(f, "vector<{n}x{}>", self.elem.name()),
        }
    }
}

/// An SSA value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Val {
    id: u32,
    pub(crate) depth: usize,
    pub(crate) ty: Ty,
}

impl std::fmt::Display for Val {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "%{}", self.id)
    }
}

/// A region being written.
#[derive(Default)]
struct Scope {
    text: String,
    values: HashMap<String, Val>,
    elements: HashMap<(V, Index), Val>,
    /// Opening line and carried values, if it is a loop.
    header: String,
    carried: Vec<Ty>,
}

/// Scopes set aside.
pub(crate) struct Aside(Vec<Scope>);

/// The scopes from the function's body to the innermost open loop, and the variables.
pub(crate) struct Emitter {
    scopes: Vec<Scope>,
    next: u32,
    /// Functions as instructions of an NVIDIA GPU instead of math operations.
    pub(crate) intrinsics: bool,
    pub(crate) vars: Vec<VarInfo>,
}

impl Emitter {
    /// An empty function body.
    pub(crate) fn new() -> Emitter {
        Emitter { scopes: vec![Scope::default()], next: 0, intrinsics: false, vars: Vec::new() }
    }

    /// Depth of the innermost open scope.
    pub(crate) fn depth(&self) -> usize {
        self.scopes.len() - 1
    }

    fn fresh(&mut self, depth: usize, ty: Ty) -> Val {
        self.next += 1;
        Val { id: self.next - 1, depth, ty }
    }

    /// A name for a value defined by the function's signature.
    pub(crate) fn argument(&mut self, elem: Elem) -> Val {
        self.fresh(0, Ty { elem, lanes: 1 })
    }

    /// Writes a pure operation in the scope of its deepest operand.
    pub(crate) fn op(&mut self, ty: Ty, operands: &[Val], text: String) -> Val {
        let depth = operands.iter().map(|v| v.depth).max().unwrap_or(0);
        self.op_at(depth, ty, text)
    }

    /// Writes a pure operation in a scope at least as deep as its operands.
    pub(crate) fn op_at(&mut self, depth: usize, ty: Ty, text: String) -> Val {
        if let Some(v) = self.scopes[depth].values.get(&text) {
            return *v;
        }
        let val = self.fresh(depth, ty);
        let scope = &mut self.scopes[depth];
        let _ = writeln!(scope.text, "{val} = {text}");
        scope.values.insert(text, val);
        val
    }

    /// Writes an operation with two results of one type; yields the second.
    pub(crate) fn second(&mut self, ty: Ty, operands: &[Val], text: String) -> Val {
        let depth = operands.iter().map(|v| v.depth).max().unwrap_or(0);
        if let Some(v) = self.scopes[depth].values.get(&text) {
            return *v;
        }
        let first = self.fresh(depth, ty);
        let val = self.fresh(depth, ty);
        let scope = &mut self.scopes[depth];
        let _ = writeln!(scope.text, "{first}, {val} = {text}");
        scope.values.insert(text, val);
        val
    }

    /// Writes an operation with two results; yields the first.
    pub(crate) fn first(&mut self, ty: Ty, other: Elem, operands: &[Val], text: String) -> Val {
        let depth = operands.iter().map(|v| v.depth).max().unwrap_or(0);
        if let Some(v) = self.scopes[depth].values.get(&text) {
            return *v;
        }
        let val = self.fresh(depth, ty);
        let second = self.fresh(depth, Ty { elem: other, lanes: 1 });
        let scope = &mut self.scopes[depth];
        let _ = writeln!(scope.text, "{val}, {second} = {text}");
        scope.values.insert(text, val);
        val
    }

    /// Writes an operation with an effect into the innermost scope.
    pub(crate) fn effect(&mut self, text: &str) {
        let scope = self.scopes.last_mut().expect("the body scope is never popped");
        scope.text.push_str(text);
        scope.text.push('\n');
    }

    /// Writes an operation with an effect and a result into the innermost scope.
    pub(crate) fn effect_value(&mut self, ty: Ty, text: &str) -> Val {
        let val = self.fresh(self.depth(), ty);
        self.effect(&format!("{val} = {text}"));
        val
    }

    /// The element computed earlier for this index, if its scope is still open.
    pub(crate) fn known(&self, v: V, at: &Index) -> Option<Val> {
        self.scopes[self.index_depth(at)].elements.get(&(v, at.clone())).copied()
    }

    /// Remembers an element.
    pub(crate) fn remember(&mut self, v: V, at: &Index, val: Val) {
        let depth = self.index_depth(at);
        self.scopes[depth].elements.insert((v, at.clone()), val);
    }

    /// Deepest loop an index depends on.
    pub(crate) fn index_depth(&self, at: &[Lin]) -> usize {
        at.iter().map(|l| l.depth(&self.vars)).max().unwrap_or(0)
    }

    /// Sets aside the scopes deeper than `depth`, so that what is written next comes before them.
    pub(crate) fn set_aside(&mut self, depth: usize) -> Aside {
        Aside(self.scopes.split_off(depth + 1))
    }

    /// Takes back what was set aside.
    pub(crate) fn restore(&mut self, aside: Aside) {
        self.scopes.extend(aside.0);
    }

    /// Opens `scf.for`; yields its variable and the carried values.
    pub(crate) fn open_for(&mut self, bounds: [Val; 3], init: &[Val]) -> (Val, Vec<Val>) {
        let depth = self.scopes.len();
        let iv = self.fresh(depth, Ty { elem: Elem::Index, lanes: 1 });
        let [lo, hi, step] = bounds;
        let mut header = format!("scf.for {iv} = {lo} to {hi} step {step}");
        let carried: Vec<Val> = init.iter().map(|v| self.fresh(depth, v.ty)).collect();
        if !init.is_empty() {
            let args: Vec<String> =
                carried.iter().zip(init).map(|(c, i)| format!("{c} = {i}")).collect();
            let types: Vec<String> = init.iter().map(|v| v.ty.to_string()).collect();
            let _ = write!(header, " iter_args({}) -> ({})", args.join(", "), types.join(", "));
        }
        let carried_types = init.iter().map(|v| v.ty).collect();
        self.scopes.push(Scope { header, carried: carried_types, ..Scope::default() });
        (iv, carried)
    }

    /// Opens the branch of an `scf.if` without results.
    pub(crate) fn open_if(&mut self, condition: Val) {
        self.scopes.push(Scope { header: format!("scf.if {condition}"), ..Scope::default() });
    }

    /// Closes the innermost scope; yields what the loop carried out.
    pub(crate) fn close(&mut self, yields: &[Val]) -> Vec<Val> {
        let scope = self.scopes.pop().expect("a scope is open");
        let depth = self.depth();
        let results: Vec<Val> = scope.carried.iter().map(|ty| self.fresh(depth, *ty)).collect();
        let out = &mut self.scopes[depth].text;
        if !results.is_empty() {
            let names: Vec<String> = results.iter().map(Val::to_string).collect();
            let _ = write!(out, "{} = ", names.join(", "));
        }
        let _ = write!(out, "{} {{\n{}", scope.header, scope.text);
        if !yields.is_empty() {
            let names: Vec<String> = yields.iter().map(Val::to_string).collect();
            let types: Vec<String> = yields.iter().map(|v| v.ty.to_string()).collect();
            let _ = writeln!(out, "scf.yield {} : {}", names.join(", "), types.join(", "));
        }
        out.push_str("}\n");
        results
    }

    /// The text of the body.
    pub(crate) fn finish(mut self) -> String {
        debug_assert_eq!(self.scopes.len(), 1, "every loop is closed");
        std::mem::take(&mut self.scopes[0].text)
    }

    /// A new variable.
    pub(crate) fn var(&mut self, info: VarInfo) -> Var {
        self.vars.push(info);
        Var(self.vars.len() as u32 - 1)
    }

    /// A constant of type `index`.
    pub(crate) fn index_const(&mut self, value: i64) -> Val {
        let ty = Ty { elem: Elem::Index, lanes: 1 };
        self.op_at(0, ty, format!("arith.constant {value} : index"))
    }

    /// The value of an expression in one lane, as an `index`. Outer terms are added first.
    pub(crate) fn index_value(&mut self, lin: &Lin, lane: u32) -> Val {
        let ty = Ty { elem: Elem::Index, lanes: 1 };
        let mut constant = lin.constant;
        let mut parts: Vec<(usize, String, i64)> = Vec::new();
        for (v, c) in &lin.terms {
            let info = &self.vars[v.0 as usize];
            let name = match &info.source {
                Source::Uniform(s) => s.clone(),
                Source::Lanes(s) => {
                    constant += c * i64::from(lane);
                    s.clone()
                }
                Source::Each(each) => each[lane as usize].clone(),
            };
            parts.push((info.depth, name, *c));
        }
        parts.sort_by_key(|p| p.0);
        let mut sum: Option<(usize, String)> = None;
        for (depth, name, c) in parts {
            let scaled = if c == 1 {
                name
            } else {
                let by = self.index_const(c);
                self.op_at(depth, ty, format!("arith.muli {name}, {by} overflow<nsw> : index"))
                    .to_string()
            };
            sum = Some(match sum {
                None => (depth, scaled),
                Some((d, s)) => {
                    let d = d.max(depth);
                    let text = format!("arith.addi {s}, {scaled} overflow<nsw> : index");
                    (d, self.op_at(d, ty, text).to_string())
                }
            });
        }
        match sum {
            None => self.index_const(constant),
            Some((depth, name)) => {
                let by = self.index_const(constant);
                self.op_at(depth, ty, format!("arith.addi {name}, {by} overflow<nsw> : index"))
            }
        }
    }
}
