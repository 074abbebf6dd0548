//! Ops as written in RON: what they mean, and what is told when they are wrong.

use std::collections::BTreeMap;

use perilune_compiler::diagnostic::Diagnostic;
use perilune_compiler::graph::{Graph, Origin};
use perilune_compiler::interpret;
use perilune_compiler::ops::form::{DimForm, FormCx, Name, Raw, ScalarForm, Spanned, parse_file};
use perilune_compiler::ops::{self, Value, codes};
use perilune_compiler::program::{ArgKind, ResultTarget};
use perilune_compiler::scalar::elaborate::evaluate;
use perilune_compiler::source::{SourceId, Span};
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::{DType, Type};

/// A scope: `x [2, 3]`, `w [3]`, `s []`, `ids i32 [2]`, `t [2, 3, 4]`, and the dims b 2, d 3.
struct Scope {
    graph: Graph,
    names: BTreeMap<String, Value>,
    told: Vec<Diagnostic>,
}

impl Scope {
    fn new() -> Self {
        let mut graph = Graph::new("g");
        let mut names = BTreeMap::new();
        let f32s = [("x", vec![2, 3]), ("w", vec![3]), ("s", vec![]), ("t", vec![2, 3, 4])];
        for (name, shape) in f32s {
            names.insert(
                name.into(),
                graph.input(name, ArgKind::Feed, Type::new(DType::f32, shape)),
            );
        }
        let ids = graph.input("ids", ArgKind::Feed, Type::new(DType::i32, [2]));
        names.insert("ids".into(), ids);
        Scope { graph, names, told: Vec::new() }
    }

    fn constant(&self, name: &str) -> Option<f64> {
        match name {
            "b" => Some(2.0),
            "d" => Some(3.0),
            _ => None,
        }
    }

    fn inputs(&self) -> Vec<Tensor> {
        let count = |shape: &[u64]| {
            let mut n = -1.0;
            Tensor::from_fn(shape, |_| {
                n += 1.0;
                n
            })
        };
        self.graph.inputs.iter().map(|i| count(&self.graph.ty(i.value).shape)).collect()
    }
}

impl FormCx for Scope {
    fn operand(&mut self, name: &Spanned<String>) -> Option<Value> {
        let found = self.names.get(&name.value).copied();
        if found.is_none() {
            self.told.push(Diagnostic::error(codes::EXPR_SYNTAX, "unknown", name.span, "here"));
        }
        found
    }

    fn dim(&mut self, form: &DimForm) -> Option<u64> {
        self.scalar(form).map(|x| x as u64)
    }

    fn scalar(&mut self, form: &ScalarForm) -> Option<f64> {
        evaluate(&form.expr, &mut |name, _| self.constant(name)).ok()
    }

    fn name(&mut self, name: &str, span: Span) -> Option<Name> {
        let found = self.names.get(name).map(|v| Name::Operand(*v));
        let found = found.or_else(|| self.constant(name).map(Name::Constant));
        if found.is_none() {
            self.told.push(Diagnostic::error(codes::EXPR_SYNTAX, "unknown", span, "here"));
        }
        found
    }

    fn ty(&self, value: Value) -> Type {
        self.graph.ty(value).clone()
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.told.push(diagnostic);
    }
}

/// The first result of a node, as type and elements.
fn run(text: &str) -> (String, Vec<f64>) {
    let mut scope = Scope::new();
    let raw: Vec<Raw> = parse_file(SourceId(0), &format!("[{text}]")).expect("RON");
    let built = ops::build(&raw[0], &mut scope).unwrap_or_else(|e| panic!("{text}: {e:?}"));
    let (op, operands) = built.unwrap_or_else(|| panic!("{text}: {:?}", scope.told));
    let operands: Vec<Value> = operands.into_iter().map(|(v, _)| v).collect();
    let results = scope.graph.push(op, &operands, Origin::new("y", None));
    let results = results.unwrap_or_else(|e| panic!("{text}: {e:?}"));
    scope.graph.output(results[0], ResultTarget::Fetch("y".into()));
    scope.graph.verify().expect("verifies");
    let y = interpret::outputs(&scope.graph, &scope.inputs()).remove(0);
    (scope.graph.ty(results[0]).to_string(), y.data)
}

/// The code of the one problem with a node, and the text it blames.
fn blame(text: &str) -> (u16, String) {
    let mut scope = Scope::new();
    let file = format!("[{text}]");
    let raw: Vec<Raw> = parse_file(SourceId(0), &file).expect("RON");
    let at = |s: Span| file[s.start as usize..s.end as usize].to_string();
    let (op, operands) = match ops::build(&raw[0], &mut scope) {
        Err(e) => return (e.code.map_or(0, |c| c.0), at(e.span)),
        Ok(None) => return (scope.told[0].code.0, at(scope.told[0].primary.span)),
        Ok(Some(built)) => built,
    };
    let (values, spans): (Vec<Value>, Vec<Span>) = operands.into_iter().unzip();
    let e = scope.graph.push(op, &values, Origin::new("y", None)).expect_err(text);
    let d = e.diagnostic(&spans, raw[0].span);
    (d.code.0, at(d.primary.span))
}

#[test]
fn maps_broadcast_permute_and_count() {
    assert_eq!(run(r#"Map("x + x * s")"#).0, "f32[2, 3]");
    assert_eq!(run(r#"Map("x[b d] * w[d]")"#).1, [0.0, 1.0, 4.0, 0.0, 4.0, 10.0]);
    assert_eq!(run(r#"Map("x[b d] -> d b")"#).1, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(run(r#"Map(expr: "w[d]", dims: {"h": 2}, out: "h d")"#).1, [0., 1., 2., 0., 1., 2.]);
    assert_eq!(run(r#"Map("index(i) * 2", {"i": "b + 1"})"#), ("i32[3]".into(), vec![0., 2., 4.]));
    assert_eq!(run(r#"Map("f32(ids[r] == index(v))", {"v": d})"#).1, [1., 0., 0., 0., 1., 0.]);
    assert_eq!(run(r#"Map("t[... k] * s[]")"#).0, "f32[2, 3, 4]");
    assert_eq!(run(r#"Map("x - w[] ")"#.replace("w[]", "s").as_str()).0, "f32[2, 3]");
}

#[test]
fn reductions_keep_or_drop_what_is_said() {
    assert_eq!(run(r#"Reduce(Sum, "x[b d]", "d")"#).1, [3.0, 12.0]);
    assert_eq!(run(r#"Reduce(Mean, "x[b d] -> b")"#).1, [1.0, 4.0]);
    assert_eq!(run(r#"Reduce(combine: Max, expr: "x[b d] * w[d]", over: "b d")"#).1, [10.0]);
    assert_eq!(run(r#"Reduce(Sum, "t[... k]", "k")"#).0, "f32[2, 3]");
    let one_hot = r#"Reduce(combine: Max, expr: "where(ids[r] == index(g), 1.0, 0.0)", over: "r", dims: {"g": 4})"#;
    assert_eq!(run(one_hot), ("f32[4]".into(), vec![1., 1., 0., 0.]));
}

#[test]
fn other_forms_read_as_documented() {
    assert_eq!(run(r#"Einsum("... d, d -> ...", ["x", "w"])"#).1, [5.0, 14.0]);
    assert_eq!(run(r#"Reshape("t", ["b * d", _])"#).0, "f32[6, 4]");
    assert_eq!(run(r#"Slice(x: "x", dim: 1, start: 1, len: 2)"#).1, [1., 2., 4., 5.]);
    assert_eq!(run(r#"Concat(["x", "x"], 0)"#).0, "f32[4, 3]");
    assert_eq!(run(r#"Pad("w", 0, 1, 0, -1)"#).1, [-1., 0., 1., 2.]);
    assert_eq!(run(r#"Table("2 * i + b", {"i": 3})"#), ("f32[3]".into(), vec![2., 4., 6.]));
    assert_eq!(run(r#"Fill("1 / b", [b], f64)"#), ("f64[2]".into(), vec![0.5, 0.5]));
    assert_eq!(run(r#"Gather("w", "ids")"#).1, [0.0, 1.0]);
    assert_eq!(run(r#"TopK("x", 1)"#).1, [2.0, 5.0]);
    assert_eq!(run(r#"CumSum("w", true)"#).1, [0., 0., 1., 3.]);
}

#[test]
fn mistakes_are_blamed_on_their_place() {
    assert_eq!(blame(r#"Map("x[b d] * w[b]")"#), (301, "b".into()));
    assert_eq!(blame(r#"Map("x + w")"#), (301, "w".into()));
    assert_eq!(blame(r#"Map("x[b d] * w")"#), (308, "w".into()));
    assert_eq!(blame(r#"Map("x[b] * 2")"#), (303, "x[b]".into()));
    assert_eq!(blame(r#"Map("x[b b] * 2")"#).0, 301);
    assert_eq!(blame(r#"Map("x[b d] -> b")"#).0, 308);
    assert_eq!(blame(r#"Map("x[b d] -> b q")"#), (308, "q".into()));
    assert_eq!(blame(r#"Map("x + ids")"#).0, 301);
    assert_eq!(blame(r#"Map("f(x)")"#), (307, "f".into()));
    assert_eq!(blame(r#"Map("x +")"#).0, 306);
    assert_eq!(blame(r#"Reduce(Sum, "x[b d]", "q")"#), (308, "q".into()));
    assert_eq!(blame(r#"Einsum("b d, e d -> b e", ["x", "w"])"#), (303, "\"w\"".into()));
    assert_eq!(blame(r#"Einsum("b d, b -> d", ["x", "w"])"#), (301, "\"w\"".into()));
    assert_eq!(blame(r#"Einsum("b d, d -> b q", ["x", "w"])"#).0, 310);
    assert_eq!(blame(r#"Einsum("b d d -> b", ["x"])"#).0, 303);
    assert_eq!(blame(r#"Reshape("x", [5])"#), (304, "\"x\"".into()));
    assert_eq!(blame(r#"Reshape("x", [_, 4])"#), (304, "_".into()));
    assert_eq!(blame(r#"Slice("x", 1, 2, 2)"#), (304, "\"x\"".into()));
    assert_eq!(blame(r#"Slice("x", 2, 0, 1)"#), (304, "\"x\"".into()));
    assert_eq!(blame(r#"Softmax("ids")"#), (302, "\"ids\"".into()));
    assert_eq!(blame(r#"TopK("w", 9)"#), (304, "\"w\"".into()));
    assert_eq!(blame(r#"Fill(0, [1000000000, 1000000000, 1000000000])"#).0, 311);
}

#[test]
fn equal_functions_written_differently_are_equal_ops() {
    let op = |text: &str| {
        let raw: Vec<Raw> = parse_file(SourceId(0), &format!("[{text}]")).expect("RON");
        ops::build(&raw[0], &mut Scope::new()).expect("form").expect("built").0
    };
    assert_eq!(op(r#"Map("x[b d] * 2")"#), op(r#"Map("x[row col] * b")"#));
    assert_eq!(op(r#"Map("x * 2")"#), op(r#"Map("x[i j] * 2")"#));
    assert_ne!(op(r#"Map("x * 2")"#), op(r#"Map("x[i j] * 2 -> j i")"#));
}
