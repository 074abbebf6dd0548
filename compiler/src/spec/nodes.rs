//! The `nodes` of a block: ops, calls of blocks, `When`, `Stack`, `Repeat`.
//!
//! # Invariants
//! - A node keeps its RON text ([`Raw`](crate::ops::form::Raw)), so that an op reads its own form with exact places.

use super::block::{check_identifier, read_words, unknown_case};
use super::read::{self, Fields, Sink, wrong_kind};
use super::syntax::{Call, Name, Tree, TreeKind};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::ops::form::ConstForm;
use crate::source::Span;

/// One entry of `nodes`.
#[derive(Clone, Debug)]
pub enum NodeSpec {
    /// `("name", Head(..))`.
    Named(Name, NodeKind),
    /// `When(cond: .., then: [..], otherwise: [..])`.
    When(WhenSpec),
    /// A node that could not be read; that was reported.
    Broken(Name),
}

/// What a named node is.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// An op or a block, decided by its name.
    Apply(ApplySpec),
    /// A list of layers.
    Stack(StackSpec),
    /// An inline loop.
    Repeat(RepeatSpec),
}

/// `Head(..)`.
#[derive(Clone, Debug)]
pub struct ApplySpec {
    /// Op or alias.
    pub head: Name,
    /// What stands between the parentheses.
    pub call: Call,
    /// Place of the whole.
    pub span: Span,
}

/// A choice made when the spec is elaborated.
#[derive(Clone, Debug)]
pub struct WhenSpec {
    /// Constant condition.
    pub cond: ConstForm,
    /// Nodes if it holds.
    pub then: Vec<NodeSpec>,
    /// Nodes if not.
    pub otherwise: Vec<NodeSpec>,
}

/// Layers one after the other.
#[derive(Clone, Debug)]
pub struct StackSpec {
    /// Block input and output of one name, and its first value.
    pub carry: Vec<(Name, Name)>,
    /// Inputs that are the same for every layer.
    pub inputs: Vec<(Name, Name)>,
    /// What stands on what.
    pub layers: Vec<LayerSpec>,
    /// Outputs added over the layers that have them.
    pub sum: Vec<Name>,
    /// Place.
    pub span: Span,
}

/// A run of equal layers.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    /// How many.
    pub count: ConstForm,
    /// Alias of their block.
    pub block: Name,
    /// Explicit arguments.
    pub with: Vec<(Name, Tree)>,
}

/// An inline loop, unrolled.
#[derive(Clone, Debug)]
pub struct RepeatSpec {
    /// What it runs over.
    pub over: RepeatOver,
    /// Loop-carried name and its first value.
    pub carry: Vec<(Name, Name)>,
    /// Body.
    pub nodes: Vec<NodeSpec>,
    /// New value of each carried name.
    pub next: Vec<(Name, Name)>,
    /// Place.
    pub span: Span,
}

/// Range of a [`RepeatSpec`].
#[derive(Clone, Debug)]
pub enum RepeatOver {
    /// `over: list, bind: [a, b]`.
    List(Name, Vec<Name>),
    /// `count: n, index: i`.
    Count(ConstForm, Option<Name>),
}

/// Reads a list of nodes.
pub fn read_nodes(sink: &mut Sink, tree: &Tree) -> Vec<NodeSpec> {
    let items = read::list(sink, tree, "a list of nodes").unwrap_or_default();
    items.iter().filter_map(|t| read_node(sink, t)).collect()
}

fn read_node(sink: &mut Sink, tree: &Tree) -> Option<NodeSpec> {
    match (&tree.kind, tree.head()) {
        (TreeKind::Call(_), Some("When")) => read_when(sink, tree).map(NodeSpec::When),
        (TreeKind::Call(call), None) => match call.items.as_slice() {
            [name, body] if name.field.is_none() && body.field.is_none() => {
                let name = read::quoted_name(sink, &name.value, "a node's name in quotes")?;
                check_identifier(sink, &name);
                Some(match read_kind(sink, &body.value) {
                    Some(kind) => NodeSpec::Named(name, kind),
                    None => NodeSpec::Broken(name),
                })
            }
            _ => {
                wrong_kind(sink, tree, "`(\"name\", Op(..))`");
                None
            }
        },
        (_, Some(_)) => {
            let headline = "a node has no name";
            let error = Diagnostic::error(
                codes::WRONG_KIND,
                headline,
                tree.head_span(),
                "no name in front",
            );
            sink.push(error.help("write `(\"name\", Op(..))`"));
            None
        }
        _ => {
            wrong_kind(sink, tree, "`(\"name\", Op(..))`");
            None
        }
    }
}

fn read_kind(sink: &mut Sink, tree: &Tree) -> Option<NodeKind> {
    match (&tree.kind, tree.head()) {
        (TreeKind::Call(_), Some("Stack")) => read_stack(sink, tree).map(NodeKind::Stack),
        (TreeKind::Call(_), Some("Repeat")) => read_repeat(sink, tree).map(NodeKind::Repeat),
        (TreeKind::Call(_), Some("When")) => {
            let error = Diagnostic::error(
                codes::WRONG_KIND,
                "`When` takes no name",
                tree.head_span(),
                "not a node",
            );
            sink.push(error.help("write `When(..)` alone; its nodes carry the names"));
            None
        }
        (TreeKind::Call(call), Some(_)) => read_apply(call, tree).map(NodeKind::Apply),
        _ => {
            wrong_kind(sink, tree, "an op or a block, as in `Map(\"x + y\")`");
            None
        }
    }
}

fn read_apply(call: &Call, tree: &Tree) -> Option<ApplySpec> {
    let head = call.name.clone()?;
    Some(ApplySpec { head, call: call.clone(), span: tree.span })
}

/// `Alias(field: ..)` outside `nodes`: an optimizer, an update.
pub fn read_call(sink: &mut Sink, tree: &Tree, wanted: &str) -> Option<ApplySpec> {
    match &tree.kind {
        TreeKind::Call(call) if call.name.is_some() => read_apply(call, tree),
        _ => {
            wrong_kind(sink, tree, wanted);
            None
        }
    }
}

fn read_when(sink: &mut Sink, tree: &Tree) -> Option<WhenSpec> {
    let f = Fields::new(sink, tree, "When", &["cond", "then", "otherwise"])?;
    let cond = f.need(sink, "When", "cond").and_then(|t| read::constant(sink, t));
    let then = f.need(sink, "When", "then").map(|t| read_nodes(sink, t)).unwrap_or_default();
    let otherwise = f.get("otherwise").map(|t| read_nodes(sink, t)).unwrap_or_default();
    Some(WhenSpec { cond: cond?, then, otherwise })
}

fn read_stack(sink: &mut Sink, tree: &Tree) -> Option<StackSpec> {
    let f = Fields::new(sink, tree, "Stack", &["carry", "inputs", "layers", "sum"])?;
    let carry = f.need(sink, "Stack", "carry").map(|t| wires(sink, t)).unwrap_or_default();
    let inputs = f.get("inputs").map(|t| wires(sink, t)).unwrap_or_default();
    let layers = f.need(sink, "Stack", "layers");
    let layers = layers.and_then(|t| read::list(sink, t, "a list of layers")).unwrap_or_default();
    let layers = layers.iter().filter_map(|t| read_layer(sink, t)).collect();
    let sum = f.get("sum").map(|t| quoted_names(sink, t)).unwrap_or_default();
    Some(StackSpec { carry, inputs, layers, sum, span: tree.head_span() })
}

fn read_layer(sink: &mut Sink, tree: &Tree) -> Option<LayerSpec> {
    let f = Fields::new(sink, tree, "a layer", &["count", "block", "with"])?;
    let count = f.need(sink, "a layer", "count").and_then(|t| read::constant(sink, t));
    let block = f
        .need(sink, "a layer", "block")
        .and_then(|t| read::quoted_name(sink, t, "an imported name in quotes"));
    let with = f.get("with").map(|t| read::map(sink, t, "a map of arguments")).unwrap_or_default();
    let with = with.into_iter().map(|(n, t)| (n, t.clone())).collect();
    Some(LayerSpec { count: count?, block: block?, with })
}

fn read_repeat(sink: &mut Sink, tree: &Tree) -> Option<RepeatSpec> {
    const KNOWN: &[&str] = &["over", "bind", "count", "index", "carry", "nodes", "next"];
    let f = Fields::new(sink, tree, "Repeat", KNOWN)?;
    let over = match (f.get("over"), f.get("count")) {
        (Some(list), None) => {
            let bind = f.need(sink, "Repeat", "bind").map(|t| read_words(sink, t));
            word(sink, list).zip(bind).map(|(n, b)| RepeatOver::List(n, b))
        }
        (None, Some(count)) => {
            let index = f.get("index").and_then(|t| word(sink, t));
            read::constant(sink, count).map(|c| RepeatOver::Count(c, index))
        }
        _ => {
            f.need(
                sink,
                "Repeat",
                if f.get("over").is_some() { "over alone, without count" } else { "over" },
            );
            None
        }
    };
    let carry = f.need(sink, "Repeat", "carry").map(|t| wires(sink, t)).unwrap_or_default();
    let nodes = f.need(sink, "Repeat", "nodes").map(|t| read_nodes(sink, t)).unwrap_or_default();
    let next = f.need(sink, "Repeat", "next").map(|t| wires(sink, t)).unwrap_or_default();
    Some(RepeatSpec { over: over?, carry, nodes, next, span: tree.head_span() })
}

/// A bare name, or one in quotes.
pub fn word(sink: &mut Sink, tree: &Tree) -> Option<Name> {
    match &tree.kind {
        TreeKind::Word(w) => Some(Name { text: w.clone(), span: tree.span }),
        TreeKind::Text(_) => read::quoted_name(sink, tree, "a name"),
        _ => {
            wrong_kind(sink, tree, "a name");
            None
        }
    }
}

/// `{ "input": "node" }`.
pub fn wires(sink: &mut Sink, tree: &Tree) -> Vec<(Name, Name)> {
    let entries = read::map(sink, tree, "a map of names to nodes");
    entries
        .into_iter()
        .filter_map(|(n, t)| Some((n, read::quoted_name(sink, t, "a node's name in quotes")?)))
        .collect()
}

/// `["a", "b"]`.
pub fn quoted_names(sink: &mut Sink, tree: &Tree) -> Vec<Name> {
    let items = read::list(sink, tree, "a list of names in quotes").unwrap_or_default();
    items.iter().filter_map(|t| read::quoted_name(sink, t, "a name in quotes")).collect()
}

/// `None`, `Some(x)` or a bare value.
pub fn optional<'a>(sink: &mut Sink, tree: &'a Tree) -> Option<&'a Tree> {
    match (&tree.kind, tree.head()) {
        (TreeKind::Word(w), _) if w == "None" => None,
        (TreeKind::Call(c), Some("Some")) => match c.items.as_slice() {
            [item] => Some(&item.value),
            _ => {
                sink.push(unknown_case(tree, "optional value", &["None", "Some"]));
                None
            }
        },
        _ => Some(tree),
    }
}
