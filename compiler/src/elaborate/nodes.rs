//! Nodes: ops, calls, `When`, `Stack`, `Repeat`.
//!
//! # Invariants
//! - Everything is unrolled; a node's path says which layer and iteration it belongs to.

use std::rc::Rc;

use indexmap::IndexMap;

use super::block::{Given, Site};
use super::context::{Cx, NodeCx};
use super::scope::{Binding, Const, Env, Scope, join};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::graph::Origin;
use crate::ops::form::Raw;
use crate::ops::{self, Value};
use crate::source::Span;
use crate::spec::nodes::{
    ApplySpec, LayerSpec, NodeKind, NodeSpec, RepeatOver, RepeatSpec, StackSpec, WhenSpec,
};
use crate::spec::read::did_you_mean;
use crate::spec::syntax::Name;

/// Values by name, each with the place where it was written.
type Wires = IndexMap<String, (Value, Span)>;

/// Most layers of one `Stack`, most iterations of one `Repeat`.
const MAX_LAYERS: u64 = 10_000;

impl Cx<'_, '_> {
    /// Expands a list of nodes into the scope.
    pub(super) fn elaborate_nodes(&mut self, scope: &mut Scope, nodes: &[NodeSpec]) {
        let outer = scope.later.clone();
        collect_names(nodes, &mut |name| {
            scope.later.entry(name.text.clone()).or_insert(name.span);
        });
        for node in nodes {
            if self.sink.full() {
                break;
            }
            match node {
                NodeSpec::Broken(name) => {
                    scope.later.remove(&name.text);
                    self.define(scope, name, Binding::poisoned(name.span));
                }
                NodeSpec::Named(name, kind) => {
                    let binding = self.elaborate_node(scope, name, kind);
                    scope.later.remove(&name.text);
                    self.declare("node", name);
                    self.define(scope, name, binding);
                }
                NodeSpec::When(when) => self.elaborate_when(scope, when),
            }
        }
        scope.later = outer;
    }

    fn elaborate_when(&mut self, scope: &mut Scope, when: &WhenSpec) {
        let env = Rc::clone(&scope.env);
        match self.number(&env, &when.cond) {
            Some(v) => {
                let (taken, left) = match v != 0.0 {
                    true => (&when.then, &when.otherwise),
                    false => (&when.otherwise, &when.then),
                };
                self.elaborate_nodes(scope, taken);
                collect_names(left, &mut |name| {
                    scope.later.remove(&name.text);
                });
            }
            None => {
                let mut poison = |name: &Name| {
                    scope.later.remove(&name.text);
                    scope.names.entry(name.text.clone()).or_insert(Binding::poisoned(name.span));
                };
                collect_names(&when.then, &mut poison);
                collect_names(&when.otherwise, &mut poison);
            }
        }
    }

    fn elaborate_node(&mut self, scope: &mut Scope, name: &Name, kind: &NodeKind) -> Binding {
        match kind {
            NodeKind::Apply(apply) if ops::is_op(&apply.head.text) => {
                self.elaborate_op(scope, name, apply)
            }
            NodeKind::Apply(apply) => self.elaborate_call(scope, name, apply),
            NodeKind::Stack(stack) => self.elaborate_stack(scope, name, stack),
            NodeKind::Repeat(repeat) => self.elaborate_repeat(scope, name, repeat),
        }
    }

    fn elaborate_op(&mut self, scope: &Scope, name: &Name, apply: &ApplySpec) -> Binding {
        let raw = Raw { text: self.sources().text(apply.span).to_owned(), span: apply.span };
        let built = match ops::build(&raw, &mut NodeCx { cx: self, scope }) {
            Ok(Some(built)) => built,
            Ok(None) => return Binding::poisoned(name.span),
            Err(error) => {
                self.report_form(&apply.head.text, &error);
                return Binding::poisoned(name.span);
            }
        };
        let (op, operands) = built;
        let names = op.result_names();
        let values: Vec<Value> = operands.iter().map(|(v, _)| *v).collect();
        let origin = Origin { path: scope.node_path(&name.text), span: Some(name.span) };
        match self.add_node(op, &values, origin) {
            Ok(results) => {
                let fits = results.iter().all(|v| {
                    let shape = self.ty(*v).shape.clone();
                    self.check_elems(&shape, apply.span)
                });
                let values = names.iter().map(|n| (*n).to_owned()).zip(results).collect();
                Binding { span: name.span, values: fits.then_some(values) }
            }
            Err(error) => {
                self.report_type(&error, &operands, apply.head.span);
                Binding::poisoned(name.span)
            }
        }
    }

    fn elaborate_call(&mut self, scope: &Scope, name: &Name, apply: &ApplySpec) -> Binding {
        let Some((file, spec)) = self.block_named(scope, &apply.head) else {
            return Binding::poisoned(name.span);
        };
        let given = self.given(scope, &spec, apply, &[]);
        let path = scope.node_path(&name.text);
        let site = Site {
            tensors: (path.clone(), '.'),
            path,
            file,
            spec,
            span: apply.head.span,
            env: Rc::clone(&scope.env),
        };
        self.instantiate(site, given, name.span)
    }

    /// How often something is repeated.
    fn count(&mut self, env: &Env, form: &crate::ops::form::ConstForm) -> Option<u64> {
        let count = self.extent(env, form)?;
        if count <= MAX_LAYERS {
            return Some(count);
        }
        let headline = format!("{count} repetitions are more than {MAX_LAYERS}");
        self.sink.push(Diagnostic::error(
            codes::TOO_MANY_NODES,
            headline,
            form.text.span,
            "too many",
        ));
        None
    }

    /// First values of carried names, and shared inputs.
    fn wire(&mut self, scope: &Scope, wires: &[(Name, Name)]) -> Option<Wires> {
        let mut good = true;
        let mut out = IndexMap::new();
        for (name, source) in wires {
            match self.lookup(scope, &source.text, source.span) {
                Some(v) => drop(out.insert(name.text.clone(), (v, source.span))),
                None => good = false,
            }
        }
        good.then_some(out)
    }

    fn elaborate_stack(&mut self, scope: &Scope, name: &Name, stack: &StackSpec) -> Binding {
        let carried = self.wire(scope, &stack.carry);
        let shared = self.wire(scope, &stack.inputs);
        let env = Rc::clone(&scope.env);
        let runs: Vec<_> = stack
            .layers
            .iter()
            .map(|l| (self.count(&env, &l.count), self.block_named(scope, &l.block), l))
            .collect();
        self.check_stack_inputs(
            stack,
            &runs.iter().filter_map(|r| r.1.as_ref()).map(|b| &*b.1).collect::<Vec<_>>(),
        );
        let (Some(mut carried), Some(shared)) = (carried, shared) else {
            return Binding::poisoned(name.span);
        };
        let mut sums: IndexMap<&str, Vec<Value>> =
            stack.sum.iter().map(|n| (n.text.as_str(), Vec::new())).collect();
        let mut index = 0;
        for (count, block, layer) in runs {
            let (Some(count), Some((file, spec))) = (count, block) else {
                return Binding::poisoned(name.span);
            };
            for _ in 0..count {
                let path = join(&scope.node_path(&name.text), &index.to_string());
                index += 1;
                let site = Site {
                    tensors: (path.clone(), '.'),
                    path,
                    file: Rc::clone(&file),
                    spec: Rc::clone(&spec),
                    span: layer.block.span,
                    env: Rc::clone(&env),
                };
                let outputs = self.elaborate_layer(scope, layer, site, (&carried, &shared));
                let Some(outputs) = outputs else { return Binding::poisoned(name.span) };
                if !self.carry_on(&layer.block, &outputs, &mut carried) {
                    return Binding::poisoned(name.span);
                }
                for (output, parts) in &mut sums {
                    parts.extend(outputs.iter().find(|(n, _)| n == output).map(|(_, v)| *v));
                }
            }
        }
        let mut values: Vec<(String, Value)> =
            carried.into_iter().map(|(n, (v, _))| (n, v)).collect();
        for (output, parts) in sums {
            let path = join(&scope.node_path(&name.text), output);
            let origin = Origin { path, span: Some(name.span) };
            values.push((output.to_owned(), self.sum(&parts, &origin)));
        }
        Binding { span: name.span, values: Some(values) }
    }

    /// Sum of tensors of one type; 0 if there are none.
    pub(super) fn sum(&mut self, parts: &[Value], origin: &Origin) -> Value {
        match parts {
            [] => self.synth("Fill(0.0, [])", &[], origin),
            [first, rest @ ..] => rest
                .iter()
                .fold(*first, |a, b| self.synth("Map(\"a + b\")", &[("a", a), ("b", *b)], origin)),
        }
    }

    /// Names wired into a stack must be inputs of one of its blocks.
    fn check_stack_inputs(&mut self, stack: &StackSpec, blocks: &[&crate::spec::block::BlockSpec]) {
        if blocks.len() < stack.layers.len() {
            return;
        }
        for (name, _) in stack.carry.iter().chain(&stack.inputs) {
            if blocks.iter().any(|b| b.inputs.iter().any(|i| i.name.text == name.text)) {
                continue;
            }
            let headline = format!("no layer has an input `{}`", name.text);
            let error = Diagnostic::error(
                codes::UNKNOWN_FIELD,
                headline,
                name.span,
                "not an input of the layers",
            );
            let known = blocks.iter().flat_map(|b| &b.inputs).map(|i| i.name.text.as_str());
            let error = did_you_mean(error, (&name.text, name.span), known);
            self.sink.push(error);
        }
        for name in &stack.sum {
            if !blocks.iter().any(|b| b.outputs.iter().any(|(o, _)| o.text == name.text)) {
                let headline = format!("no layer has an output `{}`", name.text);
                let error = Diagnostic::error(
                    codes::UNKNOWN_OUTPUT,
                    headline,
                    name.span,
                    "nothing to add up",
                );
                let known = blocks.iter().flat_map(|b| &b.outputs).map(|(o, _)| o.text.as_str());
                let error = did_you_mean(error, (&name.text, name.span), known);
                self.sink.push(error);
            }
        }
    }

    fn elaborate_layer(
        &mut self,
        scope: &Scope,
        layer: &LayerSpec,
        site: Site,
        (carried, shared): (&Wires, &Wires),
    ) -> Option<Vec<(String, Value)>> {
        let mut given = Given::default();
        let spec = Rc::clone(&site.spec);
        for (field, value) in &layer.with {
            self.give(scope, &spec, (&layer.block.text, field), value, &mut given);
        }
        for input in &spec.inputs {
            let name = &input.name.text;
            let known = given.inputs.iter().any(|(n, _, _)| n == name);
            match carried.get(name).or_else(|| shared.get(name)) {
                Some((value, span)) if !known => given.inputs.push((name.clone(), *value, *span)),
                None if !known => {
                    self.missing_input(&layer.block, input);
                    given.poisoned = true;
                }
                _ => {}
            }
        }
        self.instantiate(site, given, layer.block.span).values
    }

    /// Takes over the carried values of a layer.
    fn carry_on(&mut self, block: &Name, outputs: &[(String, Value)], carried: &mut Wires) -> bool {
        for (name, (value, _)) in carried {
            let Some((_, new)) = outputs.iter().find(|(n, _)| n == name) else {
                let headline = format!("`{}` has no output `{name}` to carry on", block.text);
                let error = Diagnostic::error(
                    codes::CARRY_MISMATCH,
                    headline,
                    block.span,
                    "this layer drops it",
                );
                let known: Vec<&str> = outputs.iter().map(|(n, _)| n.as_str()).collect();
                self.sink.push(error.help(format!("its outputs: {}", known.join(", "))));
                return false;
            };
            let (old, new_ty) = (self.ty(*value).clone(), self.ty(*new).clone());
            if old != new_ty {
                let headline = format!("`{name}` is carried as {old}, comes back as {new_ty}");
                let error = Diagnostic::error(
                    codes::CARRY_MISMATCH,
                    headline,
                    block.span,
                    "this layer changes its type",
                );
                self.sink.push(error);
                return false;
            }
            *value = *new;
        }
        true
    }

    fn elaborate_repeat(&mut self, scope: &mut Scope, name: &Name, repeat: &RepeatSpec) -> Binding {
        let carried = self.wire(scope, &repeat.carry);
        let rounds = self.rounds(scope, &repeat.over);
        let (Some(mut carried), Some(rounds)) = (carried, rounds) else {
            return Binding::poisoned(name.span);
        };
        if !self.check_next(repeat) {
            return Binding::poisoned(name.span);
        }
        let outer = scope.clone();
        for (i, constants) in rounds.into_iter().enumerate() {
            let mut inner = outer.clone();
            inner.path = join(&outer.node_path(&name.text), &i.to_string());
            let mut env = (*outer.env).clone();
            env.own.extend(constants);
            inner.env = Rc::new(env);
            for (carry, _) in &repeat.carry {
                if let Some((value, _)) = carried.get(&carry.text) {
                    self.used.insert(carry.span);
                    inner.names.insert(carry.text.clone(), Binding::one(carry.span, *value));
                }
            }
            self.elaborate_nodes(&mut inner, &repeat.nodes);
            for (carry, source) in &repeat.next {
                let Some(new) = self.lookup(&inner, &source.text, source.span) else {
                    return Binding::poisoned(name.span);
                };
                let Some(slot) = carried.get_mut(&carry.text) else { continue };
                let (old, new_ty) = (self.ty(slot.0).clone(), self.ty(new).clone());
                if old != new_ty {
                    let headline =
                        format!("`{}` is carried as {old}, comes back as {new_ty}", carry.text);
                    let error = Diagnostic::error(
                        codes::CARRY_MISMATCH,
                        headline,
                        source.span,
                        format!("this is {new_ty}"),
                    );
                    self.sink.push(error.label(slot.1, format!("this is {old}")));
                    return Binding::poisoned(name.span);
                }
                slot.0 = new;
            }
        }
        let values = carried.into_iter().map(|(n, (v, _))| (n, v)).collect();
        Binding { span: name.span, values: Some(values) }
    }

    /// `next` gives each carried name its new value.
    fn check_next(&mut self, repeat: &RepeatSpec) -> bool {
        let mut good = true;
        for (name, _) in &repeat.next {
            if !repeat.carry.iter().any(|(c, _)| c.text == name.text) {
                let headline = format!("`{}` is not carried", name.text);
                let error =
                    Diagnostic::error(codes::CARRY_MISMATCH, headline, name.span, "not in `carry`");
                let error = did_you_mean(
                    error,
                    (&name.text, name.span),
                    repeat.carry.iter().map(|(c, _)| c.text.as_str()),
                );
                self.sink.push(error);
                good = false;
            }
        }
        for (name, _) in &repeat.carry {
            if !repeat.next.iter().any(|(n, _)| n.text == name.text) {
                let headline = format!("`{}` is carried but has no next value", name.text);
                self.sink.push(Diagnostic::error(
                    codes::CARRY_MISMATCH,
                    headline,
                    name.span,
                    "not in `next`",
                ));
                good = false;
            }
        }
        good
    }

    /// Constants of each iteration.
    fn rounds(&mut self, scope: &Scope, over: &RepeatOver) -> Option<Vec<Vec<(String, Const)>>> {
        let env = Rc::clone(&scope.env);
        match over {
            RepeatOver::Count(form, index) => {
                let n = self.count(&env, form)?;
                let bind = |i: u64| {
                    index.iter().map(move |n| (n.text.clone(), Const::Number(i as f64))).collect()
                };
                Some((0..n).map(bind).collect())
            }
            RepeatOver::List(name, bind) => {
                let Const::List(items) = self.constant_named(&env, &name.text, name.span)? else {
                    let headline = format!("`{}` is a number, not a list", name.text);
                    let error = Diagnostic::error(
                        codes::BAD_CONSTANT,
                        headline,
                        name.span,
                        "a list is needed here",
                    );
                    self.sink.push(error);
                    return None;
                };
                items.into_iter().map(|item| self.bind_item(name, bind, item)).collect()
            }
        }
    }

    fn bind_item(
        &mut self,
        list: &Name,
        bind: &[Name],
        item: Const,
    ) -> Option<Vec<(String, Const)>> {
        let parts = match item {
            Const::List(parts) => parts,
            number => vec![number],
        };
        if parts.len() != bind.len() {
            let headline = format!(
                "an element of `{}` has {} values for {} names",
                list.text,
                parts.len(),
                bind.len()
            );
            let span = bind.first().map_or(list.span, |n| n.span);
            let error = Diagnostic::error(
                codes::BAD_CONSTANT,
                headline,
                span,
                format!("{} names from here", bind.len()),
            );
            self.sink.push(error.label(list.span, format!("elements of {} values", parts.len())));
            return None;
        }
        Some(bind.iter().map(|n| n.text.clone()).zip(parts).collect())
    }
}

/// Names that a list of nodes defines, both branches of a `When` included.
fn collect_names(nodes: &[NodeSpec], f: &mut impl FnMut(&Name)) {
    for node in nodes {
        match node {
            NodeSpec::Named(name, _) | NodeSpec::Broken(name) => f(name),
            NodeSpec::When(when) => {
                collect_names(&when.then, f);
                collect_names(&when.otherwise, f);
            }
        }
    }
}
