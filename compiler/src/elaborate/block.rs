//! Instances: a block with its constants bound and its nodes expanded.
//!
//! # Invariants
//! - A call that misses or misnames something is reported and yields a poisoned binding.
//! - Depth of calls is bounded, whatever the files say.

use std::rc::Rc;

use super::context::Cx;
use super::scope::{Binding, Const, Env, Init, Instance, Persistent, Scope, join};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::ops::Value;
use crate::ops::form::ConstForm;
use crate::program::ArgKind;
use crate::scalar::parse::ExprKind;
use crate::source::Span;
use crate::spec::block::{BlockSpec, InitSpec, InputSpec, ShapeSpec, TensorSpec, duplicate_name};
use crate::spec::files::{File, FileSpec};
use crate::spec::nodes::ApplySpec;
use crate::spec::read::{self, check_repeats, did_you_mean};
use crate::spec::syntax::{Name, Tree};
use crate::types::Type;
use perilune_plan::TensorKind;

/// Deepest nesting of calls.
const MAX_DEPTH: u32 = 64;

/// What a call gives to a block.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    /// Tensors by input name, with the place where each was written.
    pub inputs: Vec<(String, Value, Span)>,
    /// Constants by name.
    pub args: Vec<(String, Const, Span)>,
    /// Something was reported: do not expand.
    pub poisoned: bool,
}

/// Where and as what a block is instantiated.
pub(super) struct Site {
    /// Path of the instance.
    pub path: String,
    /// Path in front of its tensors' names, and the separator: `layers.0.attn` `.`, `w` `/`.
    pub tensors: (String, char),
    /// The block's file.
    pub file: Rc<File>,
    /// Its spec.
    pub spec: Rc<BlockSpec>,
    /// Place of the call.
    pub span: Span,
    /// Constants of the caller.
    pub env: Rc<Env>,
}

impl Cx<'_, '_> {
    /// The block behind an imported alias.
    pub(super) fn block_named(
        &mut self,
        scope: &Scope,
        alias: &Name,
    ) -> Option<(Rc<File>, Rc<BlockSpec>)> {
        let file = scope.file.imports.get(&alias.text).and_then(|p| self.files.get(p));
        let Some(file) = file else {
            if !self.declares(scope, &alias.text) {
                let error = self.unknown_op(scope, alias);
                self.sink.push(error);
            }
            return None;
        };
        match &file.spec {
            FileSpec::Block(spec) if spec.what == "Block" => {
                Some((Rc::clone(&file), Rc::clone(spec)))
            }
            other => {
                let headline = format!("`{}` is a {}, not a block", alias.text, other.word());
                let error = Diagnostic::error(
                    codes::WRONG_FILE_KIND,
                    headline,
                    alias.span,
                    "a block is needed here",
                );
                self.sink.push(error.help(format!("it is imported from `{}`", file.path)));
                None
            }
        }
    }

    /// Whether the file declares an import of this name (that failed to load and was reported).
    fn declares(&self, scope: &Scope, alias: &str) -> bool {
        let imports = match &scope.file.spec {
            FileSpec::Block(b) => &b.imports,
            FileSpec::Optimizer(o) => &o.imports,
            FileSpec::Train(t) => &t.imports,
            FileSpec::Names(_) => return false,
        };
        imports.iter().any(|(n, _)| n.text == alias)
    }

    /// A head that is neither an op nor imported.
    pub(super) fn unknown_op(&self, scope: &Scope, head: &Name) -> Diagnostic {
        let headline =
            format!("`{}` is neither an op nor imported", super::context::shorten(&head.text));
        let error =
            Diagnostic::error(codes::UNKNOWN_OP, headline, head.span, "unknown op or block")
                .help(format!("import it: `imports: {{ \"{}\": \"….ron\" }}`", head.text));
        let aliases = scope.file.imports.keys().map(String::as_str);
        let words = ["Stack", "Repeat", "When"];
        let known = crate::ops::OPS.iter().map(|o| o.name).chain(aliases).chain(words);
        did_you_mean(error, (&head.text, head.span), known)
    }

    /// Reads what a call gives, in the scope of the caller. `supplied` inputs come from elsewhere.
    pub(super) fn given(
        &mut self,
        scope: &Scope,
        spec: &BlockSpec,
        apply: &ApplySpec,
        supplied: &[&str],
    ) -> Given {
        check_repeats(self.sink, &apply.call);
        let mut given = Given::default();
        for item in &apply.call.items {
            match &item.field {
                Some(field) => {
                    self.give(scope, spec, (&apply.head.text, field), &item.value, &mut given)
                }
                None => {
                    let headline = format!("a value for `{}` has no name", apply.head.text);
                    let error = Diagnostic::error(
                        codes::UNKNOWN_FIELD,
                        headline,
                        item.value.span,
                        "which input is this?",
                    );
                    self.sink.push(error.help(format!(
                        "blocks are called with names: {}",
                        known_fields(spec).join(", ")
                    )));
                    given.poisoned = true;
                }
            }
        }
        let unnamed = apply.call.items.iter().any(|i| i.field.is_none());
        for input in spec.inputs.iter().filter(|_| !unnamed) {
            let name = &input.name.text;
            let there =
                apply.call.items.iter().any(|i| i.field.as_ref().is_some_and(|f| f.text == *name));
            if !there && !supplied.contains(&name.as_str()) {
                self.missing_input(&apply.head, input);
                given.poisoned = true;
            }
        }
        given
    }

    /// Reports an input that a call leaves out.
    pub(super) fn missing_input(&mut self, head: &Name, input: &InputSpec) {
        let name = &input.name.text;
        let headline = format!("`{}` is called without its input `{name}`", head.text);
        let error = Diagnostic::error(
            codes::MISSING_INPUT,
            headline,
            head.span,
            format!("`{name}` is missing here"),
        );
        self.sink.push(error.label(input.name.span, "declared here"));
    }

    /// One field of a call.
    pub(super) fn give(
        &mut self,
        scope: &Scope,
        spec: &BlockSpec,
        (head, field): (&str, &Name),
        value: &Tree,
        given: &mut Given,
    ) {
        if spec.inputs.iter().any(|i| i.name.text == field.text) {
            let name = read::quoted_name(self.sink, value, "a node's name in quotes");
            match name.and_then(|n| self.lookup(scope, &n.text, n.span).map(|v| (v, n.span))) {
                Some((v, span)) => given.inputs.push((field.text.clone(), v, span)),
                None => given.poisoned = true,
            }
            return;
        }
        if spec.broken.iter().any(|b| b.text == field.text) {
            given.poisoned = true;
            return;
        }
        let is_arg = spec.args.iter().any(|a| a.text == field.text)
            || spec.defaults.iter().any(|(n, _)| n.text == field.text);
        if !is_arg {
            let known = known_fields(spec);
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            self.sink.push(read::unknown_field(field, head, &known));
            given.poisoned = true;
            return;
        }
        let env = Rc::clone(&scope.env);
        let constant = crate::spec::block::read_constant(self.sink, value);
        match constant.and_then(|c| self.constant(&env, &c)) {
            Some(c) => given.args.push((field.text.clone(), c, value.span)),
            None => given.poisoned = true,
        }
    }

    /// Expands a block. The binding holds its outputs.
    pub(super) fn instantiate(&mut self, site: Site, given: Given, name_span: Span) -> Binding {
        if given.poisoned {
            return Binding::poisoned(name_span);
        }
        if self.depth >= MAX_DEPTH {
            let headline = format!("calls nest deeper than {MAX_DEPTH}");
            self.sink.push(Diagnostic::error(
                codes::TOO_DEEP,
                headline,
                site.span,
                "this call is too deep",
            ));
            return Binding::poisoned(name_span);
        }
        self.depth += 1;
        let outputs = self.expand(&site, given);
        self.depth -= 1;
        Binding { span: name_span, values: outputs }
    }

    /// A scope with the block's constants and inputs bound.
    pub(super) fn open(&mut self, site: &Site, given: &Given) -> Option<Scope> {
        let spec = &site.spec;
        let mut env = Env { own: Default::default(), parent: Some(Rc::clone(&site.env)) };
        let mut good = self.bind_constants(spec, &mut env, given, site.span);
        let late = self.bind_inputs(spec, &mut env, given, &mut good);
        for (name, form) in &spec.lets {
            match self.number(&env, form) {
                Some(v) => drop(env.own.insert(name.text.clone(), Const::Number(v))),
                None => good = false,
            }
        }
        for (input, dim, value, span) in late {
            good &= self.check_dim(&env, input, dim, (value, span));
        }
        if !good {
            return None;
        }
        let mut scope = Scope::new(site.path.clone(), Rc::clone(&site.file), Rc::new(env));
        for name in &spec.broken {
            scope.names.insert(name.text.clone(), Binding::poisoned(name.span));
        }
        for (input, value, _) in &given.inputs {
            if let Some(declared) = spec.inputs.iter().find(|i| i.name.text == *input) {
                self.declare("input", &declared.name);
                scope.names.insert(input.clone(), Binding::one(declared.name.span, *value));
            }
        }
        Some(scope)
    }

    fn expand(&mut self, site: &Site, given: Given) -> Option<Vec<(String, Value)>> {
        let mut scope = self.open(site, &given)?;
        let own = self.declare_tensors(site, &mut scope);
        let before = self.sink.errors();
        self.elaborate_nodes(&mut scope, &site.spec.nodes);
        self.collect_updates(site, &scope, &own);
        let outputs = self.collect_outputs(&site.spec, &scope);
        self.instances.push(Instance {
            path: site.path.clone(),
            file: site.file.path.clone(),
            env: Rc::clone(&scope.env),
            names: scope.names,
        });
        if self.sink.errors() > before { outputs.filter(|o| !o.is_empty()) } else { outputs }
    }

    /// Arguments and defaults. False if one is missing.
    fn bind_constants(
        &mut self,
        spec: &BlockSpec,
        env: &mut Env,
        given: &Given,
        call: Span,
    ) -> bool {
        let mut good = true;
        let explicit =
            |name: &str| given.args.iter().find(|(n, _, _)| n == name).map(|(_, c, _)| c.clone());
        let outer = env.parent.clone();
        let captured = |name: &str| outer.as_ref().and_then(|p| p.find(name).cloned());
        for arg in &spec.args {
            match explicit(&arg.text).or_else(|| captured(&arg.text)) {
                Some(value) => drop(env.own.insert(arg.text.clone(), value)),
                None => {
                    good = false;
                    let headline = format!("the argument `{}` is not given", arg.text);
                    let error = Diagnostic::error(
                        codes::MISSING_ARG,
                        headline,
                        call,
                        "not given here, nor known around it",
                    );
                    let error = error.label(arg.span, "the block needs it");
                    self.sink.push(error.help(format!("write `{}: …` in the call", arg.text)));
                }
            }
        }
        for (name, default) in &spec.defaults {
            let known = explicit(&name.text).or_else(|| captured(&name.text));
            match known.or_else(|| self.constant(env, default)) {
                Some(value) => drop(env.own.insert(name.text.clone(), value)),
                None => good = false,
            }
        }
        good
    }

    /// Checks inputs against their declarations and binds free dims. Dims that need lets are
    /// returned, to be checked later.
    fn bind_inputs<'s>(
        &mut self,
        spec: &'s BlockSpec,
        env: &mut Env,
        given: &Given,
        good: &mut bool,
    ) -> Vec<(&'s InputSpec, &'s ConstForm, u64, Span)> {
        let mut late = Vec::new();
        for (name, value, span) in &given.inputs {
            let Some(input) = spec.inputs.iter().find(|i| i.name.text == *name) else { continue };
            let ty = self.ty(*value).clone();
            if !self.check_form(input, &ty, (*value, *span)) {
                *good = false;
                continue;
            }
            let skip = ty.shape.len() - input.dims.len();
            for (dim, &extent) in input.dims.iter().zip(&ty.shape[skip..]) {
                match &dim.expr.kind {
                    ExprKind::Name { name, index: None } if env.get(name).is_none() => {
                        match spec.lets.iter().any(|(n, _)| n.text == *name) {
                            true => late.push((input, dim, extent, *span)),
                            false => {
                                drop(env.own.insert(name.clone(), Const::Number(extent as f64)))
                            }
                        }
                    }
                    ExprKind::Name { .. } | ExprKind::Number(_) => {
                        *good &= self.check_dim(env, input, dim, (extent, *span));
                    }
                    _ => late.push((input, dim, extent, *span)),
                }
            }
        }
        late
    }

    /// Number of dims and element type of an input.
    fn check_form(&mut self, input: &InputSpec, ty: &Type, (value, span): (Value, Span)) -> bool {
        let n = input.dims.len();
        if ty.dtype != input.dtype {
            let headline =
                format!("input `{}` takes {}, found {}", input.name.text, input.dtype, ty.dtype);
            let error =
                Diagnostic::error(codes::INPUT_DTYPE, headline, span, format!("this is {ty}"));
            let error = error.label(input.span, format!("declared as {} here", input.dtype));
            self.sink.push(error.help(format!("convert it with `Cast(\"…\", {})`", input.dtype)));
            return false;
        }
        if ty.ndim() == n || (input.leading && ty.ndim() > n) {
            return true;
        }
        let at_least = if input.leading { "at least " } else { "" };
        let headline =
            format!("input `{}` has {at_least}{n} dims, found {}", input.name.text, ty.ndim());
        let mut error =
            Diagnostic::error(codes::INPUT_SHAPE, headline, span, format!("this is {ty}"))
                .label(input.span, format!("declared with {at_least}{n} dims here"));
        if let Some(at) = self.definition(value) {
            error = error.label(at, "the value comes from here");
        }
        self.sink.push(error);
        false
    }

    /// One dim of an input against what the scope says.
    fn check_dim(
        &mut self,
        env: &Env,
        input: &InputSpec,
        dim: &ConstForm,
        (found, span): (u64, Span),
    ) -> bool {
        let Some(wanted) = self.extent(env, dim) else { return false };
        if wanted == found {
            return true;
        }
        let written = self.sources().text(dim.text.span).to_owned();
        let headline = format!(
            "input `{}`: `{}` is {wanted}, found {found}",
            input.name.text,
            super::context::shorten(&written)
        );
        let error = Diagnostic::error(
            codes::INPUT_SHAPE,
            headline,
            span,
            format!("this has {found} along `{written}`"),
        );
        self.sink.push(error.label(dim.text.span, format!("`{written}` is {wanted} here")));
        false
    }

    /// Parameters, buffers and state: graph inputs under the instance's path.
    fn declare_tensors(&mut self, site: &Site, scope: &mut Scope) -> Vec<(String, usize)> {
        let spec = Rc::clone(&site.spec);
        let mut own = Vec::new();
        let kinds = [
            (&spec.params, TensorKind::Param, "parameter"),
            (&spec.buffers, TensorKind::Buffer, "buffer"),
            (&spec.state, TensorKind::State, "state"),
        ];
        for (list, kind, what) in kinds {
            for tensor in list {
                let env = Rc::clone(&scope.env);
                let here = tensor
                    .when
                    .as_ref()
                    .is_none_or(|w| self.number(&env, w).is_some_and(|v| v != 0.0));
                if !here {
                    continue;
                }
                self.declare(what, &tensor.name);
                let binding = match self.declare_tensor(site, scope, tensor, kind) {
                    Some((index, value)) => {
                        own.push((tensor.name.text.clone(), index));
                        Binding::one(tensor.name.span, value)
                    }
                    None => Binding::poisoned(tensor.name.span),
                };
                scope.names.insert(tensor.name.text.clone(), binding);
            }
        }
        own
    }

    fn declare_tensor(
        &mut self,
        site: &Site,
        scope: &Scope,
        tensor: &TensorSpec,
        kind: TensorKind,
    ) -> Option<(usize, Value)> {
        let env = Rc::clone(&scope.env);
        let mut shard: Vec<(String, u64)> =
            tensor.shard.iter().map(|(axis, dim)| (axis.text.clone(), *dim)).collect();
        let ty = match &tensor.shape {
            ShapeSpec::Dims(dims, span) => {
                let shape: Option<Vec<u64>> = dims.iter().map(|d| self.extent(&env, d)).collect();
                let shape = shape.filter(|s| self.check_elems(s, *span))?;
                Type::new(tensor.dtype, shape)
            }
            ShapeSpec::Like(name) => {
                let value = self.lookup(scope, &name.text, name.span)?;
                if let Some((like, _)) = self.tensors.iter().find(|(_, v)| *v == value) {
                    shard.clone_from(&like.shard);
                }
                self.ty(value).with_dtype(tensor.dtype)
            }
        };
        let init = self.initial(&env, tensor, kind)?;
        let default = if ty.ndim() >= 2 { "matrix" } else { "vector" };
        let group = match kind {
            TensorKind::Param => tensor.group.as_ref().map_or(default, |g| g.text.as_str()),
            _ => "",
        };
        for (axis, dim) in &tensor.shard {
            if *dim as usize >= ty.ndim() {
                let headline = format!("a tensor of {} dims has no dim {dim}", ty.ndim());
                self.sink.push(Diagnostic::error(
                    codes::NOT_AN_EXTENT,
                    headline,
                    axis.span,
                    "sharded over this axis",
                ));
            }
        }
        let (prefix, separator) = &site.tensors;
        let name = match prefix.is_empty() {
            true => tensor.name.text.clone(),
            false => format!("{prefix}{separator}{}", tensor.name.text),
        };
        let arg = match kind {
            TensorKind::Param => ArgKind::Param,
            TensorKind::Buffer => ArgKind::Buffer,
            TensorKind::State => ArgKind::State,
        };
        let value = self.add_input(&name, arg, ty.clone());
        self.named.push((name.clone(), value));
        let group = group.to_owned();
        self.tensors.push((
            Persistent { name, ty, kind, init, group, shard, span: tensor.name.span },
            value,
        ));
        Some((self.tensors.len() - 1, value))
    }

    fn initial(&mut self, env: &Env, tensor: &TensorSpec, kind: TensorKind) -> Option<Init> {
        match &tensor.init {
            Some(InitSpec::Zeros) => Some(Init::Constant(0.0)),
            Some(InitSpec::Ones) => Some(Init::Constant(1.0)),
            Some(InitSpec::Normal(f)) => self.number(env, f).map(Init::Normal),
            Some(InitSpec::Uniform(f)) => self.number(env, f).map(Init::Uniform),
            Some(InitSpec::Constant(f)) => self.number(env, f).map(Init::Constant),
            None if kind != TensorKind::Param => Some(Init::Constant(0.0)),
            None => match env.find("init_std") {
                Some(Const::Number(std)) => Some(Init::Normal(*std)),
                _ => Some(Init::Normal(0.02)),
            },
        }
    }

    /// `updates`: new values of the instance's own buffers and state.
    fn collect_updates(&mut self, site: &Site, scope: &Scope, own: &[(String, usize)]) {
        for (target, source) in &site.spec.updates {
            let declared = site.spec.buffers.iter().chain(&site.spec.state);
            if !declared.clone().any(|t| t.name.text == target.text) {
                let headline = format!("`{}` is no buffer or state of this block", target.text);
                let error = Diagnostic::error(
                    codes::BAD_UPDATE,
                    headline,
                    target.span,
                    "only buffers and state have updates",
                );
                let known: Vec<&str> = declared.map(|t| t.name.text.as_str()).collect();
                let error = did_you_mean(error, (&target.text, target.span), known);
                self.sink.push(error);
                continue;
            }
            if let Some(binding) = scope.names.get(&target.text) {
                self.used.insert(binding.span);
            }
            let Some(value) = self.lookup(scope, &source.text, source.span) else { continue };
            let Some((_, index)) = own.iter().find(|(n, _)| *n == target.text) else { continue };
            let (tensor, _) = &self.tensors[*index];
            let ty = self.ty(value);
            if tensor.ty != *ty {
                let headline = format!("`{}` is {}, its new value {ty}", target.text, tensor.ty);
                let error = Diagnostic::error(
                    codes::BAD_UPDATE,
                    headline,
                    source.span,
                    format!("this is {ty}"),
                )
                .label(tensor.span, format!("this is {}", tensor.ty));
                self.sink.push(error);
                continue;
            }
            self.updates.push((*index, value, source.span));
        }
    }

    fn collect_outputs(&mut self, spec: &BlockSpec, scope: &Scope) -> Option<Vec<(String, Value)>> {
        let mut outputs = Vec::new();
        for (name, source) in &spec.outputs {
            let value = self.lookup(scope, &source.text, source.span)?;
            outputs.push((name.text.clone(), value));
        }
        Some(outputs)
    }

    /// Adds a name to a scope, unless it is taken.
    pub(super) fn define(&mut self, scope: &mut Scope, name: &Name, binding: Binding) {
        let taken = scope.names.get(&name.text).map(|b| b.span);
        if let Some(first) = taken {
            self.sink.push(duplicate_name(&name.text, name.span, first));
            return;
        }
        for (output, value) in binding.values.iter().flatten() {
            let path = scope.node_path(&name.text);
            let path = if output.is_empty() { path } else { join(&path, output) };
            self.named.push((path, *value));
        }
        if let Some((_, value)) = binding.values.as_ref().and_then(|v| v.first()) {
            self.named.push((scope.node_path(&name.text), *value));
        }
        scope.names.insert(name.text.clone(), binding);
    }
}

/// Inputs, arguments and defaults of a block.
pub(super) fn known_fields(spec: &BlockSpec) -> Vec<String> {
    let args = spec.args.iter().map(|a| a.text.clone());
    let inputs = spec.inputs.iter().map(|i| i.name.text.clone());
    inputs.chain(args).chain(spec.defaults.iter().map(|(n, _)| n.text.clone())).collect()
}
