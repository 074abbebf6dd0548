//! Random graphs, each value with its f64 reference and a bound on the error of a compiled one.
//!
//! A graph grows from a list of steps, each five small numbers: what to add, and to which values.
//! A step that does not fit is skipped, so any part of a list is a graph too, and shrinking the
//! list shrinks the graph.
//!
//! # Invariants
//! - Every op is Lipschitz in its float operands, with the constant its bound uses; integers are
//!   exact. What is not finite (a maximum over nothing) is a result but feeds nothing.
//! - A bound is that of f32 arithmetic with sums in any order: `n` terms add `n · 2⁻²⁴` times
//!   their absolute sum. Each value stored as bf16 adds 2⁻⁸ of its size, stored or not: a fused
//!   kernel may round where an unfused one does.

use perilune_compiler::graph::{Graph, Origin};
use perilune_compiler::ops::{Op, Value};
use perilune_compiler::program::{ArgKind, ResultTarget};
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::{DType, Type};

/// What a step adds, and to which values.
pub(crate) type Picks = [u16; 5];

/// Everything a graph follows from; what is shrunk.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// Extents of rows, columns and depth, as positions in [`EXTENTS`].
    pub(crate) extents: [usize; 3],
    /// Seed of the inputs' elements.
    pub(crate) seed: u64,
    pub(crate) steps: Vec<Picks>,
}

/// Extents that a graph draws from; odd ones, one and none included.
pub(crate) const EXTENTS: [u64; 12] = [16, 32, 17, 24, 5, 8, 33, 3, 40, 2, 1, 0];

/// Unit roundoff of f32, in which everything is computed.
pub(crate) const U: f64 = 1.0 / (1 << 24) as f64;
/// Largest tensor.
const MAX_ELEMS: u64 = 4096;
/// Largest element: larger ones make bounds useless.
const MAX_SIZE: f64 = 64.0;
/// Largest bound, relative to one more than the largest element.
const MAX_BOUND: f64 = 0.05;

/// A value of the graph.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) value: Value,
    pub(crate) ty: Type,
    /// The reference.
    pub(crate) tensor: Tensor,
    /// Largest absolute error of a compiled element.
    pub(crate) bound: f64,
    /// Largest absolute element.
    pub(crate) size: f64,
    /// Whether another value was made of it.
    read: bool,
}

/// A graph with its inputs' elements and what its outputs must be.
#[derive(Debug)]
pub(crate) struct Grown {
    pub(crate) graph: Graph,
    /// One for each input.
    pub(crate) inputs: Vec<Tensor>,
    /// For each output, its value and how far off it may be.
    pub(crate) wanted: Vec<(Tensor, f64)>,
}

/// A graph that grows.
#[derive(Debug)]
pub(crate) struct Growing {
    graph: Graph,
    pub(crate) known: Vec<Known>,
    inputs: Vec<Tensor>,
    pub(crate) extents: [u64; 3],
    random: u64,
}

/// Grows a recipe's graph.
pub(crate) fn grow(recipe: &Recipe) -> Grown {
    let mut g = Growing::new(recipe.extents.map(|e| EXTENTS[e % EXTENTS.len()]), recipe.seed);
    for picks in &recipe.steps {
        g.step(*picks);
    }
    g.finish()
}

impl Growing {
    /// One input of rows by columns.
    pub(crate) fn new(extents: [u64; 3], seed: u64) -> Self {
        let (known, inputs) = (Vec::new(), Vec::new());
        let mut g = Growing { graph: Graph::new("run"), known, inputs, extents, random: seed };
        g.input(DType::f32, &[extents[0], extents[1]]);
        g
    }

    /// The next random number below 1.
    fn unit(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An input with elements in −1..1, as its type holds them; integers lie in −8..8.
    pub(crate) fn input(&mut self, dtype: DType, shape: &[u64]) -> usize {
        let tensor = Tensor::from_fn(shape, |_| match dtype {
            DType::i32 => (self.unit() * 16.0).floor() - 8.0,
            DType::bf16 => (self.unit() * 128.0).floor() / 64.0 - 1.0,
            _ => f64::from((self.unit() * 2.0 - 1.0) as f32),
        });
        self.declare(dtype, tensor)
    }

    /// An input of indices into `extent` rows; some are −1: none.
    pub(crate) fn indices(&mut self, shape: &[u64], extent: u64) -> usize {
        let tensor =
            Tensor::from_fn(shape, |_| (self.unit() * (extent as f64 + 1.0)).floor() - 1.0);
        self.declare(DType::i32, tensor)
    }

    /// Every third input is a parameter, so that there is something to update.
    fn declare(&mut self, dtype: DType, tensor: Tensor) -> usize {
        let number = self.inputs.len();
        let kind = if number % 3 == 2 { ArgKind::Param } else { ArgKind::Feed };
        let ty = Type::new(dtype, tensor.shape.clone());
        let value = self.graph.input(format!("in{number}"), kind, ty.clone());
        self.inputs.push(tensor.clone());
        let size = size(&tensor);
        self.known.push(Known { value, ty, tensor, bound: 0.0, size, read: false });
        self.known.len() - 1
    }

    /// Adds an op whose result is off by `slack` before it is stored; nothing, if the op does not
    /// take the operands or its result is too large to be compared.
    pub(crate) fn push(
        &mut self,
        op: impl Into<Op>,
        operands: &[usize],
        slack: f64,
    ) -> Option<usize> {
        let op = op.into();
        let types: Vec<Type> = operands.iter().map(|o| self.known[*o].ty.clone()).collect();
        let results = op.infer(&types).ok()?;
        let [ty] = &results[..] else { return None };
        if ty.elems() > MAX_ELEMS {
            return None;
        }
        let tensors: Vec<&Tensor> = operands.iter().map(|o| &self.known[*o].tensor).collect();
        let tensor = op.reference(&tensors, &types, &results).remove(0);
        let size = size(&tensor);
        let stored = match ty.dtype {
            DType::bf16 => size.min(MAX_SIZE) / 256.0,
            DType::f32 => size.min(MAX_SIZE) * U,
            _ => 0.0,
        };
        let bound = slack + stored;
        let finite = tensor.data.iter().all(|x| x.is_finite());
        if finite && (size > MAX_SIZE || bound > MAX_BOUND * (1.0 + size)) {
            return None;
        }
        let values: Vec<Value> = operands.iter().map(|o| self.known[*o].value).collect();
        // A few of the first nodes are named as those that are recomputed on purpose.
        let number = self.graph.nodes.len();
        let again = number % 9 == 8 && number < 27;
        let origin =
            Origin::new(format!("n{number}{}", if again { "/recompute" } else { "" }), None);
        let value = self.graph.push(op, &values, origin).ok()?[0];
        operands.iter().for_each(|o| self.known[*o].read = true);
        self.known.push(Known { value, ty: ty.clone(), tensor, bound, size, read: false });
        Some(self.known.len() - 1)
    }

    /// The value that a number picks among those that fit: half of the numbers, one of the last.
    pub(crate) fn pick(&self, number: u16, fits: impl Fn(&Known) -> bool) -> Option<usize> {
        let all = 0..self.known.len();
        let fitting: Vec<usize> = all
            .filter(|k| {
                let known = &self.known[*k];
                known.tensor.data.iter().all(|x| x.is_finite()) && fits(known)
            })
            .collect();
        let among = if number & 1 == 0 { fitting.len().min(4) } else { fitting.len() };
        let back = usize::from(number >> 1).checked_rem(among)?;
        Some(fitting[fitting.len() - 1 - back])
    }

    /// A float value of at least so many dimensions.
    pub(crate) fn float(&self, number: u16, ndim: usize) -> Option<usize> {
        self.pick(number, |k| k.ty.dtype.is_float() && k.ty.ndim() >= ndim)
    }

    /// A value of a type, or a new input of it.
    pub(crate) fn of_type(&mut self, number: u16, ty: &Type) -> usize {
        let found = if number % 5 == 4 { None } else { self.pick(number, |k| k.ty == *ty) };
        found.unwrap_or_else(|| self.input(ty.dtype, &ty.shape))
    }

    /// What nothing reads is an output, and so is every fifth value; the last value that fits a
    /// parameter becomes its new value.
    fn finish(mut self) -> Grown {
        let mut wanted = Vec::new();
        let made: Vec<Known> =
            self.known.iter().filter(|k| self.graph.maker(k.value).is_some()).cloned().collect();
        for (number, known) in made.iter().enumerate() {
            if !known.read || number % 5 == 4 {
                let name = ResultTarget::Fetch(format!("out{number}"));
                self.graph.output(known.value, name);
                wanted.push((known.tensor.clone(), known.bound));
            }
        }
        let params: Vec<(String, Value)> = self
            .graph
            .inputs
            .iter()
            .filter(|i| i.kind == ArgKind::Param)
            .map(|i| (i.name.clone(), i.value))
            .collect();
        let mut taken = Vec::new();
        for (name, param) in params {
            let fits = |k: &&Known| k.ty == *self.graph.ty(param) && !taken.contains(&k.value);
            if let Some(new) = made.iter().rev().find(fits) {
                taken.push(new.value);
                wanted.push((new.tensor.clone(), new.bound));
                self.graph.output(new.value, ResultTarget::Update(name));
            }
        }
        Grown { graph: self.graph, inputs: self.inputs, wanted }
    }
}

/// The largest absolute element.
fn size(tensor: &Tensor) -> f64 {
    tensor.data.iter().fold(0.0, |m, x| x.abs().max(m))
}
