//! A program as the text of one MLIR module.
//!
//! Kernels are private functions over tensors; entries are public functions of calls. A call's
//! location is the path of its RON node; decisions are `perilune.*` attributes.
//!
//! # Invariants
//! - Equal programs print equal text, and the text depends on nothing else.
//! - Verifies with stock `mlir-opt --irdl-file=perilune.irdl.mlir`.

mod body;
mod kernel;

use std::fmt::Write as _;

use perilune_plan::{Only, Shard};

use super::literal::{string, symbol};
use super::{ArgKind, Call, Decision, EntryFn, Kernel, Place, Program, ResultTarget, Slot};
use crate::types::Type;

/// The text of a program.
pub fn print(program: &Program) -> String {
    let mesh = match program.mesh.ranks() {
        1 => String::new(),
        _ => format!("perilune.mesh = {}, ", string(&program.mesh.to_string())),
    };
    let machine = program.machine.as_ref().map_or(String::new(), |machine| {
        format!("perilune.machine = {}, ", string(&machine.to_ron()))
    });
    let name = string(&program.name);
    let mut out = format!("module attributes {{{machine}{mesh}perilune.name = {name}}} {{\n");
    for kernel in &program.kernels {
        kernel::print(&mut out, kernel);
    }
    for entry in &program.entries {
        print_entry(&mut out, entry, &program.kernels);
    }
    out.push_str("}\n");
    out
}

/// `tensor<4x8xf32>`.
pub(super) fn tensor(ty: &Type) -> String {
    let mut out = "tensor<".to_owned();
    for extent in &ty.shape {
        // Writing to a string cannot fail, here and below.
        let _ = write!(out, "{extent}x");
    }
    let _ = write!(out, "{}>", ty.dtype);
    out
}

/// Items separated by commas.
pub(super) fn list<T>(items: impl IntoIterator<Item = T>, show: impl Fn(T) -> String) -> String {
    items.into_iter().map(show).collect::<Vec<_>>().join(", ")
}

/// Result types of a function.
fn arrow(results: &[String]) -> String {
    if results.is_empty() { String::new() } else { format!(" -> ({})", results.join(", ")) }
}

/// Name of an argument's kind in the text.
pub(super) fn kind_name(kind: ArgKind) -> &'static str {
    match kind {
        ArgKind::Param => "param",
        ArgKind::Buffer => "buffer",
        ArgKind::State => "state",
        ArgKind::Feed => "feed",
    }
}

/// How an argument or a result is cut, after its other attributes.
fn shard(shard: Option<&Shard>) -> String {
    shard.map_or(String::new(), |s| format!(", perilune.shard = {}", string(&s.to_string())))
}

/// The ranks that something is for.
fn only(before: &str, only: Option<&Only>) -> String {
    only.map_or(String::new(), |o| format!("{before}perilune.only = {}", string(&o.to_string())))
}

fn place_name(place: Place) -> String {
    match place {
        Place::Arena(offset) => format!("\"arena {offset}\""),
        Place::Arg(n) => format!("\"arg {n}\""),
    }
}

fn print_entry(out: &mut String, entry: &EntryFn, kernels: &[Kernel]) {
    let types = entry.slot_types(kernels);
    let args = list(entry.args.iter().enumerate(), |(i, arg)| {
        let (ty, name, kind) = (tensor(&arg.ty), string(&arg.name), kind_name(arg.kind));
        let shard = shard(arg.shard.as_ref()) + &only(", ", arg.owner.as_ref());
        format!("%s{i}: {ty} {{perilune.kind = \"{kind}\", perilune.name = {name}{shard}}}")
    });
    let ty = |slot: Slot| tensor(&types[slot.0 as usize]);
    let results: Vec<String> = entry
        .results
        .iter()
        .map(|r| {
            let (attribute, name) = match &r.target {
                ResultTarget::Update(name) => ("update", name),
                ResultTarget::Fetch(name) => ("fetch", name),
            };
            let shard = shard(r.shard.as_ref());
            format!("{} {{perilune.{attribute} = {}{shard}}}", ty(r.value), string(name))
        })
        .collect();
    let arena = entry.layout.as_ref().map_or(String::new(), |l| {
        format!(" attributes {{perilune.arena_bytes = {} : i64}}", l.arena_bytes)
    });
    let name = symbol(&entry.name);
    let _ = writeln!(out, "  func.func {name}({args}){}{arena} {{", arrow(&results));
    for call in &entry.calls {
        print_call(out, call, entry, (&types, kernels));
    }
    let values = list(&entry.results, |r| format!("%s{}", r.value.0));
    let types = list(&entry.results, |r| ty(r.value));
    let _ = match entry.results.is_empty() {
        true => writeln!(out, "    return\n  }}"),
        false => writeln!(out, "    return {values} : {types}\n  }}"),
    };
}

fn print_call(
    out: &mut String,
    call: &Call,
    entry: &EntryFn,
    (types, kernels): (&[Type], &[Kernel]),
) {
    let ty = |slot: Slot| tensor(&types[slot.0 as usize]);
    let results: Vec<Slot> = call.results(kernels).collect();
    let mut attributes = Vec::new();
    if let Some(rows) = call.epilogue {
        attributes.push(format!("perilune.epilogue = {rows} : i64"));
    }
    if call.only.is_some() {
        attributes.push(only("", call.only.as_ref()));
    }
    if !call.decisions.is_empty() {
        attributes.push(format!("perilune.fusion = [{}]", list(&call.decisions, decision)));
    }
    if let Some(until) = call.until {
        attributes.push(format!("perilune.until = {until} : i64"));
    }
    if let Some(layout) = &entry.layout {
        let places = list(&results, |s| place_name(layout.places[s.0 as usize]));
        attributes.push(format!("perilune.places = [{places}]"));
    }
    let attributes = match attributes.is_empty() {
        true => String::new(),
        false => format!(" {{{}}}", attributes.join(", ")),
    };
    let names = list(&results, |s| format!("%s{}", s.0));
    let equals = if results.is_empty() { "" } else { " = " };
    let callee = symbol(&kernels[call.kernel as usize].name);
    let args = list(&call.args, |s| format!("%s{}", s.0));
    let (inputs, outputs) = (list(&call.args, |s| ty(*s)), list(&results, |s| ty(*s)));
    let location = location(&call.nodes);
    let _ = writeln!(
        out,
        "    {names}{equals}func.call {callee}({args}){attributes} : ({inputs}) -> ({outputs}){location}",
    );
}

fn decision(d: &Decision) -> String {
    format!(
        "{{bytes = {} : i64, code = \"{}\", from = {}, rows = {} : i64, rule = \"{}\", to = {}}}",
        d.bytes,
        d.reason.code(),
        string(&d.from),
        d.rows,
        d.rule.name(),
        string(&d.to),
    )
}

/// Node paths as a location.
fn location(nodes: &[String]) -> String {
    match nodes {
        [] => String::new(),
        [node] => format!(" loc({})", string(node)),
        nodes => format!(" loc(fused[{}])", list(nodes, |n| string(n))),
    }
}
