//! A kernel as a private function over tensors.
//!
//! # Invariants
//! - Each op of the kernel is one MLIR op whose results are `%v…`; helpers (`tensor.empty`, fills,
//!   constants, the 1-dimensional middle of a reshape) have other names and carry no information.

use std::fmt::Write as _;

use super::super::literal::{float, number, symbol, typed};
use super::super::{
    Collective, CollectiveKind, Combine, ContractDims, DialectOp, Generic, Kernel, KernelOp,
    OpKind, V,
};
use super::{arrow, body, list, tensor};
use crate::types::{DType, Type};

/// Appends a kernel.
pub(super) fn print(out: &mut String, kernel: &Kernel) {
    let args = list(kernel.params.iter().enumerate(), |(i, ty)| format!("%v{i}: {}", tensor(ty)));
    let types: Vec<String> = kernel.result_types().iter().map(tensor).collect();
    let name = symbol(&kernel.name);
    let _ = writeln!(out, "  func.func private {name}({args}){} {{", arrow(&types));
    let mut values: Vec<Type> = kernel.params.clone();
    for op in &kernel.ops {
        let first = values.len();
        Printer { out, values: &values, first }.op(op);
        values.extend(op.results.iter().cloned());
    }
    let _ = match kernel.results.is_empty() {
        true => writeln!(out, "    return\n  }}"),
        false => {
            let values = list(&kernel.results, |v| format!("%v{}", v.0));
            writeln!(out, "    return {values} : {}\n  }}", types.join(", "))
        }
    };
}

/// Prints one op.
struct Printer<'a> {
    out: &'a mut String,
    /// Types of the values so far.
    values: &'a [Type],
    /// Number of the op's first result.
    first: usize,
}

impl Printer<'_> {
    fn ty(&self, v: V) -> &Type {
        &self.values[v.0 as usize]
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "    {text}");
    }

    fn op(&mut self, op: &KernelOp) {
        match &op.kind {
            OpKind::Generic(generic) => self.generic(generic, op),
            // MLIR knows no slice of nothing: where it would start is out of bounds.
            OpKind::Slice(_) if op.results[0].elems() == 0 => self.constant(&[], op),
            OpKind::Slice(starts) => self.slice(starts, op),
            OpKind::Concat(dim) => self.concat(*dim, op),
            OpKind::Pad { low, high, value } => self.pad((low, high, *value), op),
            OpKind::Reshape => self.reshape(op),
            OpKind::Contract(dims) => self.contract(dims, op),
            OpKind::Constant(bits) => self.constant(bits, op),
            OpKind::Dialect(dialect) => self.dialect(dialect, op),
        }
    }

    /// A tensor filled with a value, to reduce into.
    fn filled(&mut self, ty: &Type, value: f64) -> String {
        let (n, t, e) = (self.first, tensor(ty), ty.dtype);
        self.line(&format!("%e{n} = tensor.empty() : {t}"));
        self.line(&format!("%c{n} = arith.constant {}", typed(value, e)));
        self.line(&format!("%f{n} = linalg.fill ins(%c{n} : {e}) outs(%e{n} : {t}) -> {t}"));
        format!("%f{n}")
    }

    fn generic(&mut self, g: &Generic, op: &KernelOp) {
        let (n, ty) = (self.first, &op.results[0]);
        let into = match g.combine {
            Some(combine) => self.filled(ty, identity(combine, ty.dtype)),
            None => {
                self.line(&format!("%e{n} = tensor.empty() : {}", tensor(ty)));
                format!("%e{n}")
            }
        };
        let mut maps: Vec<String> = g.maps.iter().map(|m| map(g.extents.len(), m)).collect();
        let read = &op.operands[..g.maps.len()];
        let mut inputs: Vec<(String, Type)> =
            read.iter().map(|v| (format!("%v{}", v.0), self.ty(*v).clone())).collect();
        let window = window(g);
        if !window.is_empty() {
            let shape: Vec<u64> = window.iter().map(|d| g.extents[*d as usize]).collect();
            let ty = Type::new(DType::i1, shape);
            self.line(&format!("%w{n} = tensor.empty() : {}", tensor(&ty)));
            maps.push(map(g.extents.len(), &window.iter().copied().map(Some).collect::<Vec<_>>()));
            inputs.push((format!("%w{n}"), ty));
        }
        maps.push(map(g.extents.len(), &g.out.iter().copied().map(Some).collect::<Vec<_>>()));
        let kinds = list(0..g.extents.len() as u32, |d| {
            (if g.out.contains(&d) { "\"parallel\"" } else { "\"reduction\"" }).to_owned()
        });
        let ins = match inputs.is_empty() {
            true => String::new(),
            false => {
                let (names, types) =
                    (list(&inputs, |i| i.0.clone()), list(&inputs, |i| tensor(&i.1)));
                format!(" ins({names} : {types})")
            }
        };
        let t = tensor(ty);
        self.line(&format!(
            "%v{n} = linalg.generic {{indexing_maps = [{}], iterator_types = [{kinds}]}}{ins} outs({into} : {t}) {{",
            maps.join(", "),
        ));
        let args: Vec<DType> = inputs.iter().map(|i| i.1.dtype).collect();
        let loads: Vec<(V, &Type)> =
            op.operands[g.maps.len()..].iter().map(|v| (*v, self.ty(*v))).collect();
        let text = body::print(g, &args, &loads, ty.dtype);
        self.out.push_str(&text);
        self.line(&format!("}} -> {t}"));
    }

    fn slice(&mut self, starts: &[u64], op: &KernelOp) {
        let x = op.operands[0];
        let sizes = list(&op.results[0].shape, u64::to_string);
        let ones = list(starts, |_| "1".to_owned());
        let starts = list(starts, u64::to_string);
        let (from, to) = (tensor(self.ty(x)), tensor(&op.results[0]));
        let n = self.first;
        self.line(&format!(
            "%v{n} = tensor.extract_slice %v{}[{starts}] [{sizes}] [{ones}] : {from} to {to}",
            x.0
        ));
    }

    fn concat(&mut self, dim: u64, op: &KernelOp) {
        let names = list(&op.operands, |v| format!("%v{}", v.0));
        let types = list(&op.operands, |v| tensor(self.ty(*v)));
        let (n, to) = (self.first, tensor(&op.results[0]));
        self.line(&format!("%v{n} = tensor.concat dim({dim}) {names} : ({types}) -> {to}"));
    }

    fn pad(&mut self, (low, high, value): (&[u64], &[u64], u64), op: &KernelOp) {
        let (n, x, e) = (self.first, op.operands[0], op.results[0].dtype);
        let value = f64::from_bits(value);
        let (from, to) = (tensor(self.ty(x)), tensor(&op.results[0]));
        self.line(&format!("%c{n} = arith.constant {}", typed(value, e)));
        let indices = list(0..low.len(), |i| format!("%i{i}: index"));
        let (low, high) = (list(low, u64::to_string), list(high, u64::to_string));
        self.line(&format!("%v{n} = tensor.pad %v{} low[{low}] high[{high}] {{", x.0));
        self.line(&format!("^bb0({indices}):"));
        self.line(&format!("  tensor.yield %c{n} : {e}"));
        self.line(&format!("}} : {from} to {to}"));
    }

    /// One `collapse_shape` or `expand_shape`, or both through one dimension.
    fn reshape(&mut self, op: &KernelOp) {
        let (n, x) = (self.first, op.operands[0]);
        let (from, to) = (self.ty(x).clone(), op.results[0].clone());
        let x = format!("%v{}", x.0);
        let v = format!("%v{n}");
        if from.ndim() == to.ndim() && from == to {
            let t = tensor(&to);
            self.line(&format!("{v} = tensor.cast {x} : {t} to {t}"));
        } else if to.ndim() <= 1 && from.ndim() > to.ndim() {
            self.collapse((&v, ""), &x, (&from, &to));
        } else if from.ndim() <= 1 && to.ndim() > from.ndim() {
            self.expand(&v, &x, (&from, &to));
        } else {
            let line = Type::new(from.dtype, [from.elems()]);
            let middle = format!("%m{n}");
            self.collapse((&middle, " {perilune.middle}"), &x, (&from, &line));
            if to.ndim() <= 1 {
                let (a, b) = (tensor(&line), tensor(&to));
                self.line(&format!("{v} = tensor.cast {middle} : {a} to {b}"));
            } else {
                self.expand(&v, &middle, (&line, &to));
            }
        }
    }

    fn collapse(&mut self, (v, mark): (&str, &str), x: &str, (from, to): (&Type, &Type)) {
        let groups = groups(from.ndim(), to.ndim());
        let (from, to) = (tensor(from), tensor(to));
        self.line(&format!("{v} = tensor.collapse_shape {x} {groups}{mark} : {from} into {to}"));
    }

    fn expand(&mut self, v: &str, x: &str, (from, to): (&Type, &Type)) {
        let groups = groups(to.ndim(), from.ndim());
        let shape = list(&to.shape, u64::to_string);
        let (from, to) = (tensor(from), tensor(to));
        self.line(&format!(
            "{v} = tensor.expand_shape {x} {groups} output_shape [{shape}] : {from} into {to}"
        ));
    }

    fn contract(&mut self, dims: &ContractDims, op: &KernelOp) {
        let (n, ty) = (self.first, &op.results[0]);
        let into = self.filled(ty, 0.0);
        let dims = super::super::normal::dense(dims);
        let all = dims.lhs.iter().chain(&dims.rhs).chain(&dims.out);
        let count = all.max().map_or(0, |d| *d as usize + 1);
        let maps = list([&dims.lhs, &dims.rhs, &dims.out], |ids| {
            map(count, &ids.iter().copied().map(Some).collect::<Vec<_>>())
        });
        let names = list(&op.operands, |v| format!("%v{}", v.0));
        let types = list(&op.operands, |v| tensor(self.ty(*v)));
        let t = tensor(ty);
        self.line(&format!(
            "%v{n} = linalg.contract indexing_maps = [{maps}] ins({names} : {types}) outs({into} : {t}) -> {t}"
        ));
    }

    fn constant(&mut self, bits: &[u64], op: &KernelOp) {
        let (n, ty) = (self.first, &op.results[0]);
        let mut elements = bits.iter().map(|b| number(f64::from_bits(*b), ty.dtype));
        let nested = if ty.elems() == 0 { String::new() } else { nest(&ty.shape, &mut elements) };
        self.line(&format!("%v{n} = arith.constant dense<{nested}> : {}", tensor(ty)));
    }

    fn dialect(&mut self, dialect: &DialectOp, op: &KernelOp) {
        let (name, attributes) = dialect_text(dialect);
        let n = self.first;
        let results = list(n..n + op.results.len(), |i| format!("%v{i}"));
        let names = list(&op.operands, |v| format!("%v{}", v.0));
        let inputs = list(&op.operands, |v| tensor(self.ty(*v)));
        let outputs = list(&op.results, tensor);
        self.line(&format!(
            "{results} = \"perilune.{name}\"({names}){attributes} : ({inputs}) -> ({outputs})"
        ));
    }
}

/// Name and attributes of a dialect op.
fn dialect_text(op: &DialectOp) -> (&'static str, String) {
    let heads = |scale: u64, causal: bool| {
        let scale = float(f64::from_bits(scale), DType::f64);
        format!(" {{causal = {causal}, scale = {scale} : f64}}")
    };
    let count = |name: &str, n: u64| format!(" {{{name} = {n} : i64}}");
    let flag = |name: &str, on: bool| format!(" {{{name} = {on}}}");
    match op {
        DialectOp::Attention { scale, causal } => ("attention", heads(*scale, *causal)),
        DialectOp::AttentionGrad { scale, causal } => ("attention_grad", heads(*scale, *causal)),
        DialectOp::RaggedRows { transposed } => ("ragged_rows", flag("transposed", *transposed)),
        DialectOp::RaggedOuter => ("ragged_outer", String::new()),
        DialectOp::TopK { k } => ("top_k", count("k", *k)),
        DialectOp::ArgSort { bound } => ("arg_sort", count("bound", *bound)),
        DialectOp::Histogram { bound } => ("histogram", count("bound", *bound)),
        DialectOp::CumSum { exclusive } => ("cum_sum", flag("exclusive", *exclusive)),
        DialectOp::ScatterAdd { extent } => ("scatter_add", count("extent", *extent)),
        DialectOp::Collective(collective) => (collective.name(), group(collective)),
    }
}

/// Attributes of a collective.
fn group(collective: &Collective) -> String {
    let own = match collective.kind {
        CollectiveKind::AllReduce(combine) | CollectiveKind::Reduce(combine) => {
            format!("combine = \"{}\", ", combine.name())
        }
        CollectiveKind::AllGather { dim } => format!("dim = {dim} : i64, "),
        CollectiveKind::ExchangeCounts | CollectiveKind::Broadcast => String::new(),
        CollectiveKind::DispatchTokens { rows, per_token } => {
            format!("per_token = {per_token} : i64, rows = {rows} : i64, ")
        }
        CollectiveKind::Dispatch { rows } | CollectiveKind::Combine { rows } => {
            format!("rows = {rows} : i64, ")
        }
    };
    let axes = list(&collective.axes, u32::to_string);
    let roots = match collective.roots.is_empty() {
        true => String::new(),
        false => format!(", roots = \"{}\"", list(&collective.roots, u64::to_string)),
    };
    format!(" {{axes = \"{axes}\", {own}ranks = {} : i64{roots}}}", collective.ranks)
}

/// Identity of a combiner.
fn identity(combine: Combine, ty: DType) -> f64 {
    match (combine, ty) {
        (Combine::Sum, _) | (Combine::Max, DType::i1) => 0.0,
        (Combine::Min, DType::i1) => 1.0,
        (Combine::Max, DType::i32) => f64::from(i32::MIN),
        (Combine::Min, DType::i32) => f64::from(i32::MAX),
        (Combine::Max, _) => f64::NEG_INFINITY,
        (Combine::Min, _) => f64::INFINITY,
    }
}

/// Iteration dimensions that no operand and no result shows the extent of.
fn window(g: &Generic) -> Vec<u32> {
    let shown = |d: &u32| g.out.contains(d) || g.maps.iter().any(|m| m.contains(&Some(*d)));
    (0..g.extents.len() as u32).filter(|d| !shown(d)).collect()
}

/// `affine_map<(d0, d1) -> (d1, 0)>`.
fn map(dims: usize, results: &[Option<u32>]) -> String {
    let results = list(results, |d| d.map_or("0".to_owned(), |d| format!("d{d}")));
    format!("affine_map<({}) -> ({results})>", list(0..dims, |d| format!("d{d}")))
}

/// Reassociation of `many` dimensions into `few` (0 or 1).
fn groups(many: usize, few: usize) -> String {
    if few == 0 { "[]".to_owned() } else { format!("[[{}]]", list(0..many, |d| d.to_string())) }
}

/// Elements in nested brackets.
fn nest(shape: &[u64], elements: &mut impl Iterator<Item = String>) -> String {
    match shape {
        [] => elements.next().unwrap_or_default(),
        [extent, rest @ ..] => {
            let items: Vec<String> = (0..*extent).map(|_| nest(rest, elements)).collect();
            format!("[{}]", items.join(", "))
        }
    }
}
