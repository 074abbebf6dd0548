//! Graph ops: an open table, one file each.
//!
//! An op file holds, in this order: what it is (formula, shapes, source), its attributes, its RON
//! form, `infer`, `reference` (f64 oracle), `vjp`, `lower`, `cost`, its property-test samples, and
//! unit tests. Adding an op is that file and one line in [`ops!`] below; everything else (parsing,
//! `explain`, the docs page, oracle and gradient tests, snapshots) walks the table.
//!
//! # Invariants
//! - Ops know nothing of loops, devices or buffers; `lower` speaks the closed tensor-level set of
//!   [`crate::program`].
//! - `infer` accepts ⇒ `reference`, `vjp`, `lower` and `cost` succeed.

pub use crate::codes::ops as codes;
pub mod form;

use crate::program::{KernelOp, V};
use crate::tensor::Tensor;
use crate::types::Type;

/// A value of a graph.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(u32);
cranelift_entity::entity_impl!(Value, "v");

/// Why operands do not fit an op; the caller adds spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeError {
    /// The error code.
    pub code: crate::diagnostic::Code,
    /// The headline.
    pub headline: String,
    /// Operands involved with what each is: the first is to blame.
    pub labels: Vec<(usize, String)>,
    /// What to do.
    pub help: Option<String>,
}

/// Work of one op.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add is two.
    pub flops: u64,
    /// Bytes read and written if each operand and result is touched once.
    pub bytes: u64,
}

/// What `vjp` builds with: adds ops to the graph it differentiates.
pub trait Builder {
    /// Adds an op; its operands were checked by whoever built the graph, so `infer` must succeed.
    fn push(&mut self, op: Op, operands: &[Value]) -> Vec<Value>;
    /// Type of a value.
    fn ty(&self, value: Value) -> &Type;
}

/// A kernel body under construction, for `lower`.
#[derive(Clone, Debug, Default)]
pub struct KernelBuilder {
    /// Types of all values so far: parameters, then op results.
    pub types: Vec<Type>,
    /// Ops so far.
    pub ops: Vec<KernelOp>,
}

/// The contract of an op.
pub trait OpDef: Sized {
    /// Its name in RON.
    const NAME: &'static str;
    /// One sentence.
    const SUMMARY: &'static str;
    /// A complete RON block that uses it, for docs and snapshots.
    const EXAMPLE: &'static str;

    /// Types of the results.
    ///
    /// # Errors
    /// When the operands do not fit, with both shapes.
    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError>;

    /// The op in f64: the oracle every backend is held against.
    fn reference(&self, operands: &[&Tensor], results: &[Type]) -> Vec<Tensor>;

    /// Gradients of the operands from gradients of the results (`None`: that result has none).
    /// `None` for an operand means zero or not differentiable.
    fn vjp(
        &self,
        cx: &mut dyn Builder,
        operands: &[Value],
        results: &[Value],
        grads: &[Option<Value>],
    ) -> Vec<Option<Value>>;

    /// The op as tensor-level ops on kernel values.
    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V>;

    /// Its work.
    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost;

    /// Small random cases for the property tests: op and operand types, odd and zero sizes included.
    fn samples(rng: &mut dyn FnMut(u64) -> u64) -> (Self, Vec<Type>);
}

/// stub until the table exists
#[derive(Clone, Debug, PartialEq)]
pub enum Op {}

/// Whether RON calls an op by this name.
pub fn is_op(_name: &str) -> bool {
    false
}

/// Reads a node's RON, `Einsum("b s d, f d -> b s f", ["x", "w"])`, as the op it names, with its
/// operands. `Ok(None)`: a problem was reported to `cx`.
///
/// # Errors
/// When the RON does not have the op's form (or names no op: ask [`is_op`] first).
pub fn build(
    raw: &form::Raw,
    _cx: &mut dyn form::FormCx,
) -> Result<Option<(Op, Vec<Value>)>, form::FormError> {
    Err(form::FormError { span: raw.span, error: ron::Error::ExpectedIdentifier, code: None })
}
