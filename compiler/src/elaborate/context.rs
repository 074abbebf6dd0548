//! The elaborator's state, and the graph under construction.
//!
//! # Invariants
//! - A node is added only with operands that its op accepts.
//! - At most [`MAX_NODES`] nodes of an author's; beyond that one error is reported and nothing is
//!   added. What the elaborator adds itself is bounded by the number of micro-batches.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::scope::{Binding, Const, Env, Instance, Persistent, Scope};
use crate::codes;
use crate::diagnostic::{Diagnostic, Severity};
use crate::graph::{Graph, Input, Origin, ValueDef};
use crate::ops::form::{
    ConstForm, DimForm, FormCx, FormError, Name as FormName, Raw, ScalarForm, Spanned,
};
use crate::ops::{self, Op, TypeError, Value};
use crate::program::ArgKind;
use crate::scalar::elaborate::evaluate;
use crate::source::{SourceMap, Span};
use crate::spec::block::Constant;
use crate::spec::files::Files;
use crate::spec::read::{Sink, did_you_mean};
use crate::spec::syntax::Name;
use crate::types::Type;

/// Most nodes of one graph.
pub(super) const MAX_NODES: usize = 200_000;
/// Largest extent.
pub(super) const MAX_DIM: f64 = (1u64 << 40) as f64;
/// Most elements of one tensor.
pub(super) const MAX_ELEMS: u128 = 1 << 48;

/// The elaborator.
pub(super) struct Cx<'a, 'l> {
    /// Loaded files.
    pub files: &'a Files<'l>,
    /// Where mistakes go.
    pub sink: &'a mut Sink,
    /// The graph so far.
    pub graph: Graph,
    /// Persistent tensors, and the graph input behind each.
    pub tensors: Vec<(Persistent, Value)>,
    /// Feeds, and where each is declared.
    pub feeds: Vec<(Value, Span)>,
    /// New values of persistent tensors: index, value, place.
    pub updates: Vec<(usize, Value, Span)>,
    /// Finished instances.
    pub instances: Vec<Instance>,
    /// Every named value, by path.
    pub named: Vec<(String, Value)>,
    /// Places of declarations that something uses.
    pub used: BTreeSet<Span>,
    /// Declarations that something should use: place, what, name.
    pub declared: BTreeMap<Span, (&'static str, String)>,
    /// Depth of calls.
    pub depth: u32,
    /// Values of the other micro-batches, once there are several.
    pub micro: Option<super::micro::Micro>,
}

impl<'a, 'l> Cx<'a, 'l> {
    /// An empty graph.
    pub(super) fn new(files: &'a Files<'l>, sink: &'a mut Sink) -> Self {
        Cx {
            files,
            sink,
            graph: Graph::default(),
            tensors: Vec::new(),
            feeds: Vec::new(),
            updates: Vec::new(),
            instances: Vec::new(),
            named: Vec::new(),
            used: BTreeSet::new(),
            declared: BTreeMap::new(),
            depth: 0,
            micro: None,
        }
    }

    /// Texts, for places.
    pub(super) fn sources(&self) -> &'a SourceMap {
        &self.files.sources
    }

    /// Type of a value.
    pub(super) fn ty(&self, value: Value) -> &Type {
        &self.graph.values[value].0
    }

    /// Adds a graph input.
    pub(super) fn add_input(&mut self, name: &str, kind: ArgKind, ty: Type) -> Value {
        let n = self.graph.inputs.len() as u32;
        let value = self.graph.values.push((ty, ValueDef::Input(n)));
        self.graph.inputs.push(Input { name: name.to_owned(), kind, value });
        value
    }

    /// Adds a node.
    ///
    /// # Errors
    /// When the operands do not fit the op.
    pub(super) fn add_node(
        &mut self,
        op: Op,
        operands: &[Value],
        origin: Origin,
    ) -> Result<Vec<Value>, TypeError> {
        if self.graph.nodes.len() >= MAX_NODES {
            let headline = format!("the spec unrolls to more than {MAX_NODES} nodes");
            return Err(TypeError::new(codes::TOO_MANY_NODES, headline));
        }
        self.graph.push(op, operands, origin)
    }

    /// Adds a node written here and not by an author: `Map("a + b")` over named values.
    ///
    /// # Panics
    /// When the text or the types do not fit: a bug of the caller.
    pub(super) fn synth(&mut self, text: &str, names: &[(&str, Value)], origin: &Origin) -> Value {
        let span =
            origin.span.unwrap_or(Span { source: crate::source::SourceId(0), start: 0, end: 0 });
        let raw = Raw { text: text.to_owned(), span };
        let mut cx = SynthCx { graph: &self.graph, names };
        let built = ops::build(&raw, &mut cx).ok().flatten();
        let added = built.map(|(op, operands)| {
            let operands: Vec<Value> = operands.into_iter().map(|(v, _)| v).collect();
            self.graph.push(op, &operands, origin.clone())
        });
        match added {
            Some(Ok(values)) if !values.is_empty() => values[0],
            other => panic!("internal error in elaborate: `{text}` at {}: {other:?}", origin.path),
        }
    }

    /// Declares a name that something should use.
    pub(super) fn declare(&mut self, what: &'static str, name: &Name) {
        self.declared.entry(name.span).or_insert_with(|| (what, name.text.clone()));
    }

    /// Warnings for what nothing uses.
    pub(super) fn warn_unused(&mut self) {
        if self.sink.errors() > 0 {
            return;
        }
        let unused: Vec<(Span, (&str, String))> = self
            .declared
            .iter()
            .filter(|(span, _)| !self.used.contains(span))
            .map(|(span, what)| (*span, what.clone()))
            .collect();
        for (span, (what, name)) in unused {
            let headline = format!("nothing uses the {what} `{name}`");
            let mut warning = Diagnostic::error(codes::UNUSED, headline, span, "never used");
            warning.severity = Severity::Warning;
            self.sink.push(warning);
        }
    }

    /// The value of a name: `x`, `top.indices`. `None` if unknown (reported) or poisoned.
    pub(super) fn lookup(&mut self, scope: &Scope, name: &str, span: Span) -> Option<Value> {
        let (base, output) = match name.split_once('.') {
            Some((base, output)) => (base, Some(output)),
            None => (name, None),
        };
        let Some(binding) = scope.names.get(base) else {
            self.unknown_name(scope, base, Span { end: span.start + base.len() as u32, ..span });
            return None;
        };
        self.used.insert(binding.span);
        let values = binding.values.as_ref()?;
        let found = match output {
            None => values.first(),
            Some(o) => values.iter().find(|(n, _)| n == o),
        };
        if found.is_none() {
            self.unknown_output(name, span, binding);
        }
        let value = found.map(|(_, v)| *v)?;
        Some(self.over_micro_batches(value))
    }

    fn unknown_name(&mut self, scope: &Scope, name: &str, span: Span) {
        let error = if let Some(at) = scope.later.get(name) {
            let headline = format!("`{name}` is used before it is defined");
            Diagnostic::error(codes::USED_BEFORE_DEFINED, headline, span, "used here")
                .label(*at, "defined here")
                .help("move the definition up; nodes are read in order")
        } else if scope.env.get(name).is_some() {
            let headline = format!("`{name}` is a constant, not a tensor");
            Diagnostic::error(codes::UNKNOWN_NAME, headline, span, "a tensor is needed here")
                .help("constants can be used in expressions and dims; `Fill` makes a tensor of one")
        } else {
            let headline = format!("unknown name `{}`", shorten(name));
            let error = Diagnostic::error(
                codes::UNKNOWN_NAME,
                headline,
                span,
                "not a node, input or parameter",
            );
            let known = scope.names.keys().chain(scope.env.own.keys()).map(String::as_str);
            did_you_mean(error, (name, span), known)
        };
        self.sink.push(error);
    }

    fn unknown_output(&mut self, name: &str, span: Span, binding: &Binding) {
        let (base, output) = name.split_once('.').unwrap_or((name, ""));
        let known: Vec<String> = binding
            .values
            .iter()
            .flatten()
            .map(|(n, _)| n.clone())
            .filter(|n| !n.is_empty())
            .collect();
        let at = Span { start: (span.start + base.len() as u32 + 1).min(span.end), ..span };
        let headline = match output.is_empty() {
            true => format!("`{base}` has no results"),
            false => format!("`{base}` has no result `{}`", shorten(output)),
        };
        let error = Diagnostic::error(
            codes::UNKNOWN_OUTPUT,
            headline,
            if output.is_empty() { span } else { at },
            "no such result",
        )
        .label(binding.span, format!("`{base}` is defined here"));
        let error = match known.is_empty() {
            true => error.help(format!("write `{base}` alone: it has one result")),
            false => error.help(format!("results: {}", known.join(", "))),
        };
        let error = did_you_mean(error, (output, at), known.iter().map(String::as_str));
        self.sink.push(error);
    }

    /// A constant of the scope; reports an unknown one.
    pub(super) fn constant_named(&mut self, env: &Env, name: &str, span: Span) -> Option<Const> {
        if let Some(value) = env.get(name) {
            return Some(value.clone());
        }
        let headline = format!("unknown constant `{}`", shorten(name));
        let error = Diagnostic::error(
            codes::UNKNOWN_CONSTANT,
            headline,
            span,
            "not an argument, let or dim of this block",
        );
        let error = match env.parent.as_ref().is_some_and(|p| p.find(name).is_some()) {
            true => error.help(format!("a caller has `{name}`: list it in `args`")),
            false => did_you_mean(error, (name, span), env.own.keys().map(String::as_str)),
        };
        self.sink.push(error);
        None
    }

    /// Value of a constant expression.
    pub(super) fn number(&mut self, env: &Env, form: &ConstForm) -> Option<f64> {
        let mut trouble = false;
        let text = form.text;
        let result = evaluate(&form.expr, &mut |name, range| {
            let span = text.at(range);
            match self.constant_named(env, name, span) {
                Some(Const::Number(v)) => Some(v),
                Some(Const::List(_)) => {
                    let headline = format!("`{name}` is a list, not a number");
                    let error = Diagnostic::error(
                        codes::BAD_CONSTANT,
                        headline,
                        span,
                        "a number is needed here",
                    );
                    self.sink.push(error);
                    trouble = true;
                    None
                }
                None => {
                    trouble = true;
                    None
                }
            }
        });
        match result {
            Ok(v) if v.is_nan() => {
                let headline = "the constant is not a number";
                let error = Diagnostic::error(
                    codes::BAD_CONSTANT,
                    headline,
                    form.text.span,
                    "0/0, or a root or log of a negative",
                );
                self.sink.push(error);
                None
            }
            Ok(v) => Some(v),
            Err(e) if e.told || trouble => None,
            Err(e) => {
                let mut error = Diagnostic::error(e.code, e.message, text.at(&e.range), "here");
                error.help = e.help;
                self.sink.push(error);
                None
            }
        }
    }

    /// A number or list of numbers.
    pub(super) fn constant(&mut self, env: &Env, constant: &Constant) -> Option<Const> {
        match constant {
            Constant::Scalar(form) => {
                if let crate::scalar::parse::ExprKind::Name { name, index: None } = &form.expr.kind
                    && let Some(list @ Const::List(_)) = env.get(name)
                {
                    return Some(list.clone());
                }
                self.number(env, form).map(Const::Number)
            }
            Constant::List(items) => {
                items.iter().map(|c| self.constant(env, c)).collect::<Option<_>>().map(Const::List)
            }
        }
    }

    /// An extent or count.
    pub(super) fn extent(&mut self, env: &Env, form: &DimForm) -> Option<u64> {
        let value = self.number(env, form)?;
        let rounded = value.round();
        if (value - rounded).abs() <= 1e-9 * rounded.abs().max(1.0)
            && (0.0..=MAX_DIM).contains(&rounded)
        {
            return Some(rounded as u64);
        }
        let headline = format!("an extent cannot be {value}");
        let why = match value {
            v if v < 0.0 => "negative",
            v if v > MAX_DIM => "more than 2^40",
            _ => "not a whole number",
        };
        self.sink.push(Diagnostic::error(codes::NOT_AN_EXTENT, headline, form.text.span, why));
        None
    }

    /// Reports a shape with too many elements.
    pub(super) fn check_elems(&mut self, shape: &[u64], span: Span) -> bool {
        // An extent of 0 does not make others small: products of them are taken all over.
        let factor = |d: &u64| u128::from(*d).max(1);
        let elems = shape.iter().fold(1u128, |acc, d| acc.saturating_mul(factor(d)));
        if elems <= MAX_ELEMS {
            return true;
        }
        let shape: Vec<String> = shape.iter().map(u64::to_string).collect();
        let headline = "the tensor has more than 2^48 elements";
        let label = format!("this is [{}]", shape.join(", "));
        self.sink.push(Diagnostic::error(codes::TENSOR_TOO_LARGE, headline, span, label));
        false
    }

    /// Reports what RON or the op's reader said about a node's form.
    pub(super) fn report_form(&mut self, op: &str, error: &FormError) {
        let diagnostic = super::form_error::diagnostic(op, error, self.sources());
        self.sink.push(diagnostic);
    }

    /// Reports operands that do not fit, with the places where each operand comes from.
    pub(super) fn report_type(
        &mut self,
        error: &TypeError,
        operands: &[(Value, Span)],
        whole: Span,
    ) {
        let spans: Vec<Span> = operands.iter().map(|(_, s)| *s).collect();
        let mut diagnostic = error.diagnostic(&spans, whole);
        for (i, _) in &error.labels {
            if let Some((value, _)) = operands.get(*i)
                && let Some(span) = self.definition(*value)
                && span != diagnostic.primary.span
            {
                diagnostic = diagnostic.label(span, format!("it is {} from here", self.ty(*value)));
            }
        }
        self.sink.push(diagnostic);
    }

    /// Where a value was written.
    pub(super) fn definition(&self, value: Value) -> Option<Span> {
        match self.graph.values[value].1 {
            ValueDef::Input(_) => {
                let tensor = self.tensors.iter().find(|(_, v)| *v == value).map(|(t, _)| t.span);
                tensor.or_else(|| self.feeds.iter().find(|(v, _)| *v == value).map(|(_, s)| *s))
            }
            ValueDef::Result(node, _) => self.graph.nodes[node].origin.span,
        }
    }
}

/// At most 30 characters of a name, for headlines.
pub(super) fn shorten(name: &str) -> String {
    match name.char_indices().nth(30) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_owned(),
    }
}

/// A node's view of its scope, for op forms.
pub(super) struct NodeCx<'x, 'a, 'l> {
    /// The elaborator.
    pub cx: &'x mut Cx<'a, 'l>,
    /// The scope.
    pub scope: &'x Scope,
}

impl FormCx for NodeCx<'_, '_, '_> {
    fn operand(&mut self, name: &Spanned<String>) -> Option<Value> {
        let written = self.cx.sources().text(name.span);
        let quoted = written.starts_with('"') && written.len() == name.value.len() + 2;
        let span = match quoted {
            true => Span { start: name.span.start + 1, end: name.span.end - 1, ..name.span },
            false => name.span,
        };
        self.cx.lookup(self.scope, &name.value, span)
    }

    fn dim(&mut self, form: &DimForm) -> Option<u64> {
        let env = Rc::clone(&self.scope.env);
        self.cx.extent(&env, form)
    }

    fn scalar(&mut self, form: &ScalarForm) -> Option<f64> {
        let env = Rc::clone(&self.scope.env);
        self.cx.number(&env, form)
    }

    fn name(&mut self, name: &str, span: Span) -> Option<FormName> {
        let base = name.split('.').next().unwrap_or(name);
        if !self.scope.names.contains_key(base)
            && let Some(constant) = self.scope.env.get(name)
        {
            if let Const::Number(v) = constant {
                return Some(FormName::Constant(*v));
            }
            let headline = format!("`{name}` is a list, not a number");
            let error =
                Diagnostic::error(codes::BAD_CONSTANT, headline, span, "a number is needed here");
            self.cx.sink.push(error);
            return None;
        }
        let end = (span.start + name.len() as u32).min(span.end);
        self.cx.lookup(self.scope, name, Span { end, ..span }).map(FormName::Operand)
    }

    fn ty(&self, value: Value) -> Type {
        self.cx.ty(value).clone()
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.cx.sink.push(diagnostic);
    }
}

/// Names of a node that no author wrote.
struct SynthCx<'x> {
    graph: &'x Graph,
    names: &'x [(&'x str, Value)],
}

impl SynthCx<'_> {
    fn get(&self, name: &str) -> Option<Value> {
        self.names.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
    }
}

impl FormCx for SynthCx<'_> {
    fn operand(&mut self, name: &Spanned<String>) -> Option<Value> {
        self.get(&name.value)
    }

    fn dim(&mut self, form: &DimForm) -> Option<u64> {
        self.scalar(form).map(|v| v as u64)
    }

    fn scalar(&mut self, form: &ScalarForm) -> Option<f64> {
        evaluate(&form.expr, &mut |_, _| None).ok()
    }

    fn name(&mut self, name: &str, _: Span) -> Option<FormName> {
        self.get(name).map(FormName::Operand)
    }

    fn ty(&self, value: Value) -> Type {
        self.graph.values[value].0.clone()
    }

    fn report(&mut self, _: Diagnostic) {}
}
