//! `Block(..)` and `Model(..)`: what stands in the file, every part with its place.
//!
//! # Invariants
//! - Names are identifiers; a name is declared once per file.
//! - Nothing is resolved here: a node's op or block is looked up when the block is instantiated.

use super::nodes::{NodeSpec, read_nodes};
use super::read::{self, Fields, Sink, wrong_kind};
use super::syntax::{Name, Tree, TreeKind};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::ops::form::ConstForm;
use crate::source::Span;
use crate::types::DType;

/// A block or a model.
#[derive(Clone, Debug)]
pub struct BlockSpec {
    /// `Block` or `Model`.
    pub what: &'static str,
    /// Place of that word.
    pub span: Span,
    /// What it is, for docs.
    pub doc: Option<String>,
    /// Alias and path of other files.
    pub imports: Vec<(Name, Name)>,
    /// Constants that a call must give.
    pub args: Vec<Name>,
    /// Constants with defaults; a model's dims.
    pub defaults: Vec<(Name, Constant)>,
    /// Derived constants, evaluated in order.
    pub lets: Vec<(Name, ConstForm)>,
    /// Tensors given by the caller.
    pub inputs: Vec<InputSpec>,
    /// Trained tensors.
    pub params: Vec<TensorSpec>,
    /// Persistent tensors that no gradient trains.
    pub buffers: Vec<TensorSpec>,
    /// Persistent tensors of an optimizer block.
    pub state: Vec<TensorSpec>,
    /// The computation.
    pub nodes: Vec<NodeSpec>,
    /// New values of buffers and state.
    pub updates: Vec<(Name, Name)>,
    /// What callers see: output name and the value behind it.
    pub outputs: Vec<(Name, Name)>,
    /// Names whose declarations could not be read; that was reported.
    pub broken: Vec<Name>,
}

/// A constant: an expression or a list of constants.
#[derive(Clone, Debug)]
pub enum Constant {
    /// One number.
    Scalar(ConstForm),
    /// Several.
    List(Vec<Constant>),
}

/// A declared input.
#[derive(Clone, Debug)]
pub struct InputSpec {
    /// Its name.
    pub name: Name,
    /// Whether `"..."` stands in front: any leading dims.
    pub leading: bool,
    /// The dims after that.
    pub dims: Vec<ConstForm>,
    /// Element type.
    pub dtype: DType,
    /// Place of the shape.
    pub span: Span,
}

/// A declared parameter, buffer or state.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    /// Its name.
    pub name: Name,
    /// Its extents.
    pub shape: ShapeSpec,
    /// Element type.
    pub dtype: DType,
    /// First value, if said.
    pub init: Option<InitSpec>,
    /// Parameter group, if said.
    pub group: Option<Name>,
    /// Mesh axis to sharded dimension.
    pub shard: Vec<(Name, u64)>,
    /// Exists only if this holds.
    pub when: Option<ConstForm>,
    /// Place of the declaration.
    pub span: Span,
}

/// Extents of a declared tensor.
#[derive(Clone, Debug)]
pub enum ShapeSpec {
    /// Written out.
    Dims(Vec<ConstForm>, Span),
    /// Those of an input.
    Like(Name),
}

/// First value of a tensor.
#[derive(Clone, Debug)]
pub enum InitSpec {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// Gaussian of this standard deviation.
    Normal(ConstForm),
    /// Uniform in ±bound.
    Uniform(ConstForm),
    /// All the same.
    Constant(ConstForm),
}

const BLOCK_FIELDS: &[&str] = &[
    "doc", "imports", "args", "defaults", "lets", "inputs", "params", "buffers", "state", "nodes",
    "updates", "outputs",
];
const MODEL_FIELDS: &[&str] = &[
    "doc", "imports", "dims", "lets", "inputs", "params", "buffers", "nodes", "updates", "outputs",
];

/// Reads `Block(..)` or `Model(..)`.
pub fn read_block(sink: &mut Sink, tree: &Tree) -> Option<BlockSpec> {
    let model = tree.head() == Some("Model");
    let (what, known) = if model { ("Model", MODEL_FIELDS) } else { ("Block", BLOCK_FIELDS) };
    let f = Fields::new(sink, tree, what, known)?;
    if model {
        f.need(sink, what, "dims")?;
    }
    f.need(sink, what, "outputs");
    let mut broken = Vec::new();
    let spec = BlockSpec {
        what,
        span: tree.head_span(),
        doc: read_doc(sink, &f),
        imports: read_imports(sink, &f),
        args: f.get("args").map(|t| read_words(sink, t)).unwrap_or_default(),
        defaults: read_defaults(sink, f.get(if model { "dims" } else { "defaults" })),
        lets: read_lets(sink, f.get("lets")),
        inputs: read_inputs(sink, f.get("inputs"), &mut broken),
        params: read_tensors(sink, f.get("params"), "Param", &mut broken),
        buffers: read_tensors(sink, f.get("buffers"), "Buffer", &mut broken),
        state: read_tensors(sink, f.get("state"), "State", &mut broken),
        nodes: f.get("nodes").map(|t| read_nodes(sink, t)).unwrap_or_default(),
        updates: read_references(sink, f.get("updates")),
        outputs: read_references(sink, f.get("outputs")),
        broken,
    };
    check_constants(sink, &spec);
    Some(spec)
}

/// `doc: "..."`.
pub fn read_doc(sink: &mut Sink, f: &Fields) -> Option<String> {
    f.get("doc").and_then(|t| read::text(sink, t, "a text")).map(|t| t.value.clone())
}

/// `imports: { "RmsNorm": "rmsnorm.ron" }`.
pub fn read_imports(sink: &mut Sink, f: &Fields) -> Vec<(Name, Name)> {
    let entries =
        f.get("imports").map(|t| read::map(sink, t, "a map of names to files")).unwrap_or_default();
    let mut out = Vec::new();
    for (alias, path) in entries {
        if !alias.text.starts_with(|c: char| c.is_ascii_uppercase()) || !is_identifier(&alias.text)
        {
            let headline = format!("`{}` is not a name for a block", alias.text);
            let error = Diagnostic::error(codes::BAD_NAME, headline, alias.span, "not CamelCase");
            sink.push(error.help("imported names start with a capital, as in `RmsNorm`"));
        }
        out.extend(read::quoted_name(sink, path, "a path in quotes").map(|p| (alias, p)));
    }
    out
}

/// Whether a name may be declared.
pub fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Reports a declared name that is no identifier.
pub fn check_identifier(sink: &mut Sink, name: &Name) {
    if !is_identifier(&name.text) {
        let shown: String = name.text.chars().take(30).collect();
        let headline = format!("`{shown}` cannot be a name");
        let error = Diagnostic::error(codes::BAD_NAME, headline, name.span, "not a name");
        sink.push(error.help("names are letters, digits and `_`, and start with a letter"));
    }
}

/// `[n_heads, softmax_scale]`.
pub fn read_words(sink: &mut Sink, tree: &Tree) -> Vec<Name> {
    let mut out: Vec<Name> = Vec::new();
    for item in read::list(sink, tree, "a list of names").unwrap_or_default() {
        match &item.kind {
            TreeKind::Word(w) => match out.iter().find(|n| n.text == *w) {
                Some(first) => {
                    let error = duplicate_name(w, item.span, first.span);
                    sink.push(error);
                }
                None => out.push(Name { text: w.clone(), span: item.span }),
            },
            _ => wrong_kind(sink, item, "a bare name"),
        }
    }
    out
}

/// `{ "eps": 1e-6, "ns_coefficients": [(..), ..] }`.
pub fn read_defaults(sink: &mut Sink, tree: Option<&Tree>) -> Vec<(Name, Constant)> {
    let entries =
        tree.map(|t| read::map(sink, t, "a map of names to constants")).unwrap_or_default();
    entries
        .into_iter()
        .filter_map(|(name, value)| {
            check_identifier(sink, &name);
            Some((name, read_constant(sink, value)?))
        })
        .collect()
}

/// A number, an expression, or a list or tuple of constants.
pub fn read_constant(sink: &mut Sink, tree: &Tree) -> Option<Constant> {
    match &tree.kind {
        TreeKind::List(items) => {
            items.iter().map(|t| read_constant(sink, t)).collect::<Option<_>>().map(Constant::List)
        }
        TreeKind::Call(c) if c.name.is_none() => c
            .items
            .iter()
            .map(|i| read_constant(sink, &i.value))
            .collect::<Option<_>>()
            .map(Constant::List),
        _ => read::constant(sink, tree).map(Constant::Scalar),
    }
}

fn read_lets(sink: &mut Sink, tree: Option<&Tree>) -> Vec<(Name, ConstForm)> {
    let entries =
        tree.map(|t| read::map(sink, t, "a map of names to expressions")).unwrap_or_default();
    entries
        .into_iter()
        .filter_map(|(name, value)| {
            check_identifier(sink, &name);
            Some((name, read::constant(sink, value)?))
        })
        .collect()
}

/// `{ "x": [batch, d], "tokens": Input([batch], i32) }`.
pub fn read_inputs(sink: &mut Sink, tree: Option<&Tree>, broken: &mut Vec<Name>) -> Vec<InputSpec> {
    let entries = tree.map(|t| read::map(sink, t, "a map of names to shapes")).unwrap_or_default();
    entries
        .into_iter()
        .filter_map(|(name, value)| {
            check_identifier(sink, &name);
            let read = read_input(sink, name.clone(), value);
            broken.extend(read.is_none().then_some(name));
            read
        })
        .collect()
}

fn read_input(sink: &mut Sink, name: Name, tree: &Tree) -> Option<InputSpec> {
    let (shape, dtype) = match &tree.kind {
        TreeKind::Call(c) if tree.head() == Some("Input") => match c.items.as_slice() {
            [shape] => (&shape.value, DType::f32),
            [shape, dtype] => (&shape.value, read_dtype(sink, &dtype.value)?),
            _ => {
                wrong_kind(sink, tree, "`Input(shape, dtype)`");
                return None;
            }
        },
        _ => (tree, DType::f32),
    };
    let items = read::list(sink, shape, "a shape, as in `[batch, d_model]`")?;
    let is_leading = |t: &Tree| matches!(&t.kind, TreeKind::Text(x) if x.value == "...");
    let leading = items.first().is_some_and(is_leading);
    let rest = &items[usize::from(leading)..];
    let dims = rest.iter().map(|t| read::constant(sink, t)).collect::<Option<Vec<_>>>()?;
    Some(InputSpec { name, leading, dims, dtype, span: shape.span })
}

/// `f32`.
pub fn read_dtype(sink: &mut Sink, tree: &Tree) -> Option<DType> {
    const ALL: [DType; 6] =
        [DType::f64, DType::f32, DType::bf16, DType::f16, DType::i32, DType::i1];
    let word = tree.head().unwrap_or_default();
    let found = ALL.into_iter().find(|d| d.name() == word);
    if found.is_none() {
        sink.push(unknown_case(tree, "dtype", &["f32", "bf16", "f16", "f64", "i32", "i1"]));
    }
    found
}

/// A bare word that is none of the known ones.
pub fn unknown_case(tree: &Tree, what: &str, known: &[&str]) -> Diagnostic {
    let (written, span) = (tree.head().unwrap_or_default().to_owned(), tree.head_span());
    let headline = match tree.head() {
        Some(word) => format!("`{word}` is not a {what}"),
        None => format!("expected a {what}, found {}", tree.describe()),
    };
    let error = Diagnostic::error(codes::UNKNOWN_CASE, headline, span, format!("not a {what}"));
    let error = error.help(format!("one of {}", known.join(", ")));
    read::did_you_mean(error, (&written, span), known.iter().copied())
}

fn read_tensors(
    sink: &mut Sink,
    tree: Option<&Tree>,
    what: &str,
    broken: &mut Vec<Name>,
) -> Vec<TensorSpec> {
    let entries = tree.map(|t| read::map(sink, t, "a map of names to tensors")).unwrap_or_default();
    entries
        .into_iter()
        .filter_map(|(name, value)| {
            check_identifier(sink, &name);
            let read = read_tensor(sink, name.clone(), value, what);
            broken.extend(read.is_none().then_some(name));
            read
        })
        .collect()
}

fn read_tensor(sink: &mut Sink, name: Name, tree: &Tree, what: &str) -> Option<TensorSpec> {
    let TreeKind::Call(call) = &tree.kind else {
        wrong_kind(sink, tree, &format!("`{what}([dims])`"));
        return None;
    };
    if tree.head() != Some(what) {
        sink.push(unknown_case(tree, "declaration here", &[what]));
        return None;
    }
    read::check_repeats(sink, call);
    let mut spec = TensorSpec {
        name,
        shape: ShapeSpec::Dims(Vec::new(), tree.span),
        dtype: DType::f32,
        init: None,
        group: None,
        shard: Vec::new(),
        when: None,
        span: tree.span,
    };
    let mut shaped = false;
    for item in &call.items {
        match item.field.as_ref().map(|f| f.text.as_str()) {
            None if !shaped => {
                shaped = true;
                let dims = read::list(sink, &item.value, "a shape, as in `[rows, cols]`")?;
                let dims =
                    dims.iter().map(|t| read::constant(sink, t)).collect::<Option<Vec<_>>>()?;
                spec.shape = ShapeSpec::Dims(dims, item.value.span);
            }
            Some("like") if what == "State" => {
                shaped = true;
                spec.shape =
                    ShapeSpec::Like(read::quoted_name(sink, &item.value, "an input's name")?);
            }
            Some("init") => spec.init = read_init(sink, &item.value),
            Some("dtype") => {
                spec.dtype = read_dtype(sink, &item.value)?;
                if what == "Param" && !spec.dtype.is_float() {
                    let floats = ["f32", "bf16", "f16", "f64"];
                    sink.push(unknown_case(&item.value, "dtype of a parameter", &floats));
                }
            }
            Some("when") => spec.when = read::constant(sink, &item.value),
            Some("group") if what == "Param" => {
                spec.group = read::quoted_name(sink, &item.value, "a group's name");
            }
            Some("shard") if what != "State" => spec.shard = read_shard(sink, &item.value),
            None => wrong_kind(sink, &item.value, "a named field"),
            Some(_) => {
                if let Some(field) = &item.field {
                    sink.push(read::unknown_field(field, what, tensor_fields(what)));
                }
            }
        }
    }
    if !shaped {
        let headline = format!("`{what}` has no shape");
        let error =
            Diagnostic::error(codes::MISSING_FIELD, headline, tree.head_span(), "no shape here");
        sink.push(error.help(format!("write `{what}([rows, cols])`")));
        return None;
    }
    Some(spec)
}

fn tensor_fields(what: &str) -> &'static [&'static str] {
    match what {
        "Param" => &["init", "group", "shard", "dtype", "when"],
        "State" => &["like", "init", "dtype", "when"],
        _ => &["init", "shard", "dtype", "when"],
    }
}

fn read_shard(sink: &mut Sink, tree: &Tree) -> Vec<(Name, u64)> {
    let entries = read::map(sink, tree, "a map of mesh axes to dimensions");
    entries
        .into_iter()
        .filter_map(|(axis, dim)| Some((axis, read::whole(sink, dim, "a dimension")?)))
        .collect()
}

fn read_init(sink: &mut Sink, tree: &Tree) -> Option<InitSpec> {
    let argument = match &tree.kind {
        TreeKind::Call(c) if c.items.len() == 1 => c.items.first().map(|i| &i.value),
        _ => None,
    };
    match (tree.head(), argument) {
        (Some("Zeros"), None) => Some(InitSpec::Zeros),
        (Some("Ones"), None) => Some(InitSpec::Ones),
        (Some("Normal"), Some(v)) => read::constant(sink, v).map(InitSpec::Normal),
        (Some("Uniform"), Some(v)) => read::constant(sink, v).map(InitSpec::Uniform),
        (Some("Constant"), Some(v)) => read::constant(sink, v).map(InitSpec::Constant),
        (Some("Normal" | "Uniform" | "Constant"), None) => {
            wrong_kind(sink, tree, "an initialiser with one number, as in `Normal(0.02)`");
            None
        }
        _ => {
            sink.push(unknown_case(
                tree,
                "initialiser",
                &["Zeros", "Ones", "Normal", "Uniform", "Constant"],
            ));
            None
        }
    }
}

/// `{ "y": "o", "max": "attn.max_logit" }`.
pub fn read_references(sink: &mut Sink, tree: Option<&Tree>) -> Vec<(Name, Name)> {
    let entries = tree.map(|t| read::map(sink, t, "a map of names to nodes")).unwrap_or_default();
    entries
        .into_iter()
        .filter_map(|(name, value)| {
            check_identifier(sink, &name);
            Some((name, read::quoted_name(sink, value, "a node's name in quotes")?))
        })
        .collect()
}

/// A name declared twice.
pub fn duplicate_name(name: &str, again: Span, first: Span) -> Diagnostic {
    Diagnostic::error(
        codes::DUPLICATE_NAME,
        format!("`{name}` is declared twice"),
        again,
        "declared again here",
    )
    .label(first, "first declared here")
    .help("give one of them another name")
}

/// Constants and tensors share one scope: a name means one thing.
fn check_constants(sink: &mut Sink, spec: &BlockSpec) {
    let constants = spec
        .args
        .iter()
        .chain(spec.defaults.iter().map(|d| &d.0))
        .chain(spec.lets.iter().map(|l| &l.0));
    let tensors = spec.params.iter().chain(&spec.buffers).chain(&spec.state).map(|t| &t.name);
    let mut seen: Vec<&Name> = Vec::new();
    for name in constants.chain(spec.inputs.iter().map(|i| &i.name)).chain(tensors) {
        match seen.iter().find(|s| s.text == name.text) {
            Some(first) => sink.push(duplicate_name(&name.text, name.span, first.span)),
            None => seen.push(name),
        }
    }
}
