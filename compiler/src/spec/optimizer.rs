//! `Optimizer(..)`: which update rule each parameter gets.
//!
//! # Invariants
//! - Groups are tried in the order written; the first that matches takes the parameter.

use super::block::{
    Constant, InputSpec, duplicate_name, read_defaults, read_doc, read_imports, read_inputs,
    read_words,
};
use super::nodes::{ApplySpec, NodeSpec, quoted_names, read_call, read_nodes};
use super::read::{self, Fields, Sink};
use super::syntax::{Name, Tree, TreeKind};
use crate::ops::form::ConstForm;
use crate::source::Span;

/// An optimizer.
#[derive(Clone, Debug)]
pub struct OptimizerSpec {
    /// Place of the word `Optimizer`.
    pub span: Span,
    /// What it is.
    pub doc: Option<String>,
    /// Alias and path.
    pub imports: Vec<(Name, Name)>,
    /// Constants the train step must give.
    pub args: Vec<Name>,
    /// Constants with defaults.
    pub defaults: Vec<(Name, Constant)>,
    /// Derived constants.
    pub lets: Vec<(Name, ConstForm)>,
    /// Step-varying scalars.
    pub inputs: Vec<InputSpec>,
    /// Values computed once per step.
    pub nodes: Vec<NodeSpec>,
    /// Update rules.
    pub groups: Vec<GroupSpec>,
    /// What follows the update rules.
    pub after: Vec<ForEachSpec>,
    /// Names whose declarations could not be read; that was reported.
    pub broken: Vec<Name>,
}

/// `Group(..)`; every condition given must hold.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    /// Its name, which no other group has: what a reader calls it.
    pub name: Name,
    /// Path globs, any of which.
    pub matches: Vec<Name>,
    /// Path globs, none of which.
    pub not: Vec<Name>,
    /// Numbers of dimensions, any of which.
    pub ndim: Vec<u64>,
    /// Parameter groups, any of which.
    pub group: Vec<Name>,
    /// The rule.
    pub update: ApplySpec,
}

/// `ForEach(..)`: a rule for every instance of a block.
#[derive(Clone, Debug)]
pub struct ForEachSpec {
    /// Alias of the block.
    pub instance: Name,
    /// The rule.
    pub update: ApplySpec,
    /// Input of the rule and the instance's parameter: the first name that exists.
    pub params: Vec<(Name, Vec<Name>)>,
}

const FIELDS: &[&str] =
    &["doc", "imports", "args", "defaults", "lets", "inputs", "nodes", "groups", "after"];

/// Reads `Optimizer(..)`.
pub fn read_optimizer(sink: &mut Sink, tree: &Tree) -> Option<OptimizerSpec> {
    let f = Fields::new(sink, tree, "Optimizer", FIELDS)?;
    let lets = f
        .get("lets")
        .map(|t| read::map(sink, t, "a map of names to expressions"))
        .unwrap_or_default();
    let lets = lets.into_iter().filter_map(|(n, t)| Some((n, read::constant(sink, t)?))).collect();
    let groups = f.need(sink, "Optimizer", "groups");
    let groups = groups.and_then(|t| read::list(sink, t, "a list of groups")).unwrap_or_default();
    let after =
        f.get("after").and_then(|t| read::list(sink, t, "a list of rules")).unwrap_or_default();
    let groups: Vec<GroupSpec> = groups.iter().filter_map(|t| read_group(sink, t)).collect();
    for (n, group) in groups.iter().enumerate() {
        if let Some(first) = groups[..n].iter().find(|g| g.name.text == group.name.text) {
            sink.push(duplicate_name(&group.name.text, group.name.span, first.name.span));
        }
    }
    let mut broken = Vec::new();
    Some(OptimizerSpec {
        span: tree.head_span(),
        doc: read_doc(sink, &f),
        imports: read_imports(sink, &f),
        args: f.get("args").map(|t| read_words(sink, t)).unwrap_or_default(),
        defaults: read_defaults(sink, f.get("defaults")),
        lets,
        inputs: read_inputs(sink, f.get("inputs"), &mut broken),
        nodes: f.get("nodes").map(|t| read_nodes(sink, t)).unwrap_or_default(),
        groups,
        after: after.iter().filter_map(|t| read_for_each(sink, t)).collect(),
        broken,
    })
}

fn read_group(sink: &mut Sink, tree: &Tree) -> Option<GroupSpec> {
    let f = Fields::new(sink, tree, "Group", &["name", "match", "not", "ndim", "group", "update"])?;
    let name =
        f.need(sink, "Group", "name").and_then(|t| read::quoted_name(sink, t, "a name in quotes"));
    let update = f
        .need(sink, "Group", "update")
        .and_then(|t| read_call(sink, t, "an update, as in `AdamW(lr: \"lr\")`"));
    let mut names = |field: &str| f.get(field).map(|t| one_or_more(sink, t)).unwrap_or_default();
    let (matches, not, group) = (names("match"), names("not"), names("group"));
    let ndim = f
        .get("ndim")
        .and_then(|t| read::list(sink, t, "a list of numbers of dimensions"))
        .unwrap_or_default();
    let ndim = ndim.iter().filter_map(|t| read::whole(sink, t, "a number of dimensions")).collect();
    Some(GroupSpec { name: name?, matches, not, ndim, group, update: update? })
}

fn read_for_each(sink: &mut Sink, tree: &Tree) -> Option<ForEachSpec> {
    let f = Fields::new(sink, tree, "ForEach", &["instance", "update", "params"])?;
    let instance = f
        .need(sink, "ForEach", "instance")
        .and_then(|t| read::quoted_name(sink, t, "an imported name in quotes"));
    let update = f
        .need(sink, "ForEach", "update")
        .and_then(|t| read_call(sink, t, "an update, as in `QkClip(tau: \"tau\")`"));
    let params = f
        .need(sink, "ForEach", "params")
        .map(|t| read::map(sink, t, "a map of inputs to parameters"));
    let params =
        params.unwrap_or_default().into_iter().map(|(n, t)| (n, one_or_more(sink, t))).collect();
    Some(ForEachSpec { instance: instance?, update: update?, params })
}

/// `"a"` or `["a", "b"]`.
fn one_or_more(sink: &mut Sink, tree: &Tree) -> Vec<Name> {
    match tree.kind {
        TreeKind::List(_) => quoted_names(sink, tree),
        _ => read::quoted_name(sink, tree, "a name in quotes").into_iter().collect(),
    }
}
