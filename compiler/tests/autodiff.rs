//! Differentiation of whole graphs: sharing, fan-out, dead ends, seeds, cleaning.

use perilune_compiler::autodiff;
use perilune_compiler::graph::{Graph, Origin};
use perilune_compiler::interpret;
use perilune_compiler::ops::{
    Attention, Cast, Einsum, Gather, LogSumExp, Op, Rng, Softmax, StopGradient, TakeAlong, TopK,
    Value, generic,
};
use perilune_compiler::program::{ArgKind, Combine, Generic, ResultTarget};
use perilune_compiler::scalar::{Binary, Body, S, Unary};
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::{DType, Type};

struct Builder {
    graph: Graph,
    inputs: Vec<Tensor>,
    params: Vec<Value>,
    rng: Rng,
}

impl Builder {
    fn new() -> Self {
        Builder { graph: Graph::new("g"), inputs: Vec::new(), params: Vec::new(), rng: Rng::new(1) }
    }

    fn param(&mut self, name: &str, shape: &[u64]) -> Value {
        let ty = Type::new(DType::f64, shape);
        self.inputs.push(self.rng.tensor(&ty));
        let value = self.graph.input(name, ArgKind::Param, ty);
        self.params.push(value);
        value
    }

    fn indices(&mut self, name: &str, shape: &[u64], below: i64) -> Value {
        self.inputs.push(self.rng.integers(shape, 0, below));
        self.graph.input(name, ArgKind::Feed, Type::new(DType::i32, shape))
    }

    fn push(&mut self, name: &str, op: impl Into<Op>, operands: &[Value]) -> Value {
        self.graph.push(op.into(), operands, Origin::new(name, None)).expect("fits")[0]
    }

    fn map(&mut self, name: &str, x: &[Value], f: impl FnOnce(&mut Body, &[S]) -> S) -> Value {
        let shape = self.graph.ty(x[0]).shape.clone();
        let generic = generic::elementwise(&shape, x.len(), generic::body_of(x.len(), f));
        self.push(name, perilune_compiler::ops::Map { generic }, x)
    }

    fn sum(&mut self, x: Value) -> Value {
        let shape = self.graph.ty(x).shape.clone();
        let g = Generic {
            maps: vec![generic::dims(0..shape.len() as u32)],
            extents: shape,
            out: Vec::new(),
            combine: Some(Combine::Sum),
            body: generic::body_of(1, |b, a| b.mul(a[0], a[0])),
        };
        self.push("sum", perilune_compiler::ops::Reduce::plain(g), &[x])
    }

    /// Differentiates, checks every parameter's gradient against differences, gives the graph.
    fn check(mut self, loss: Value) -> Graph {
        let plain = {
            let mut g = self.graph.clone();
            g.output(loss, ResultTarget::Fetch("loss".into()));
            g
        };
        let grads = autodiff::differentiate(&mut self.graph, loss, &self.params);
        self.graph.output(loss, ResultTarget::Fetch("loss".into()));
        for grad in &grads {
            self.graph.output(*grad, ResultTarget::Fetch("grad".into()));
        }
        let cleaned = self.graph.cleaned();
        cleaned.verify().expect("verifies");
        let all = interpret::outputs(&cleaned, &self.inputs);
        assert_eq!(all, interpret::outputs(&self.graph, &self.inputs), "cleaning changes nothing");
        for (p, param) in self.params.iter().enumerate() {
            let input = plain.inputs.iter().position(|i| i.value == *param).expect("an input");
            for e in 0..self.inputs[input].data.len() {
                let at = |delta: f64| {
                    let mut inputs = self.inputs.clone();
                    inputs[input].data[e] += delta;
                    interpret::outputs(&plain, &inputs)[0].data[0]
                };
                let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
                let got = all[p + 1].data[e];
                let bound = 1e-6 * (1.0 + numeric.abs());
                assert!((numeric - got).abs() < bound, "param {p} element {e}: {numeric} vs {got}");
            }
        }
        cleaned
    }
}

#[test]
fn a_value_used_twice_gets_both_gradients() {
    let mut b = Builder::new();
    let (x, w) = (b.param("x", &[3, 4]), b.param("w", &[4, 4]));
    let h = b.push("h", Einsum::new(&[&[0, 1], &[2, 1]], &[0, 2]), &[x, w]);
    let h = b.map("act", &[h], |b, a| b.apply(Unary::Tanh, a[0]));
    let h2 = b.push("h2", Einsum::new(&[&[0, 1], &[2, 1]], &[0, 2]), &[h, w]);
    let y = b.map("res", &[h2, h], |b, a| b.add(a[0], a[1]));
    let loss = b.sum(y);
    b.check(loss);
}

#[test]
fn cross_entropy_of_an_embedding_model() {
    let mut b = Builder::new();
    let (embed, head) = (b.param("embed", &[5, 3]), b.param("head", &[5, 3]));
    let (tokens, targets) = (b.indices("tokens", &[2, 3], 5), b.indices("targets", &[2, 3, 1], 5));
    let x = b.push("x", Gather, &[embed, tokens]);
    let logits = b.push("logits", Einsum::new(&[&[0, 1, 2], &[3, 2]], &[0, 1, 3]), &[x, head]);
    let lse = b.push("lse", LogSumExp, &[logits]);
    let picked = b.push("picked", TakeAlong, &[logits, targets]);
    let picked = b.push("flat", perilune_compiler::ops::Reshape { shape: vec![2, 3] }, &[picked]);
    let ce = b.map("ce", &[lse, picked], |b, a| b.sub(a[0], a[1]));
    let loss = b.sum(ce);
    b.check(loss);
}

#[test]
fn gradients_pass_routing_and_stop_where_told() {
    let mut b = Builder::new();
    let (x, unused) = (b.param("x", &[4, 6]), b.param("unused", &[2]));
    let p = b.push("p", Softmax, &[x]);
    let top = b.push("top", TopK { k: 2 }, &[p]);
    let loss = b.sum(top);
    let grads = {
        let mut graph = b.graph.clone();
        let stopped = StopGradient.into();
        let still = graph.push(stopped, &[loss], Origin::new("s", None)).expect("fits")[0];
        let grads = autodiff::differentiate(&mut graph, still, &[x, unused]);
        grads.iter().for_each(|g| graph.output(*g, ResultTarget::Fetch("g".into())));
        interpret::outputs(&graph, &b.inputs)
    };
    assert!(grads.iter().all(|g| g.data.iter().all(|v| *v == 0.0)), "nothing passes StopGradient");
    b.check(loss);
}

#[test]
fn attention_in_a_chain() {
    let mut b = Builder::new();
    let x = b.param("x", &[1, 3, 2, 4]);
    let y = b.map("y", &[x], |b, a| b.combine(Binary::Mul, a[0], a[0]));
    let op = Attention { scale: 0.5f64.to_bits(), causal: true };
    let o = b.push("attn", op, &[x, y, x]);
    let loss = b.sum(o);
    b.check(loss);
}

#[test]
fn seeds_scale_gradients_and_integers_have_none() {
    let mut b = Builder::new();
    let x = b.param("x", &[3]);
    let whole = b.push("whole", Cast { to: DType::i32 }, &[x]);
    let back = b.push("back", Cast { to: DType::f64 }, &[whole]);
    let y = b.map("y", &[x, back], |b, a| b.mul(a[0], a[1]));
    let seed = b.graph.input("seed", ArgKind::Feed, Type::new(DType::f64, [3]));
    let grads = autodiff::backward(&mut b.graph, &[(y, seed)], &[x]);
    b.graph.output(grads[0], ResultTarget::Fetch("g".into()));
    let inputs =
        [vec![1.5, -2.5, 3.0], vec![1.0, 10.0, 100.0]].map(|data| Tensor { shape: vec![3], data });
    assert_eq!(interpret::outputs(&b.graph, &inputs)[0].data, [1.0, -20.0, 300.0]);
}

#[test]
fn cleaning_merges_equal_nodes_and_drops_dead_ones() {
    let mut b = Builder::new();
    let x = b.param("x", &[2]);
    let exp = |b: &mut Body, a: &[S]| b.apply(Unary::Exp, a[0]);
    let (first, again) = (b.map("first", &[x], exp), b.map("again", &[x], exp));
    b.map("dead", &[x], |b, a| b.apply(Unary::Log, a[0]));
    let stopped = b.push("stopped", StopGradient, &[again]);
    let y = b.map("y", &[first, stopped], |b, a| b.add(a[0], a[1]));
    b.graph.output(y, ResultTarget::Fetch("y".into()));
    let cleaned = b.graph.cleaned();
    assert_eq!(
        cleaned.to_string(),
        "graph g {\n  v0: f64[2] = param x\n  \
         v1: f64[2] = Map a0[d0] -> [d0] of [2]: exp(a0) (v0)  # first\n  \
         v2: f64[2] = Map a0[d0] a1[d0] -> [d0] of [2]: (a0 + a1) (v1, v1)  # y\n  \
         fetch y = v2\n}\n"
    );
    assert_eq!(cleaned.cleaned().to_string(), cleaned.to_string());
}

#[test]
fn gradient_nodes_carry_the_path_of_what_they_derive_from() {
    let mut b = Builder::new();
    let x = b.param("x", &[2]);
    let y = b.map("layers.0.act", &[x], |b, a| b.apply(Unary::Exp, a[0]));
    let loss = b.sum(y);
    let n_forward = b.graph.nodes.len();
    let graph = b.check(loss);
    let paths: Vec<&str> =
        graph.nodes.values().skip(n_forward).map(|n| n.origin.path.as_str()).collect();
    assert!(paths.contains(&"layers.0.act/grad") && paths.iter().all(|p| p.ends_with("/grad")));
}
