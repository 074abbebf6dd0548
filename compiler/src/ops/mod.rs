//! Graph ops: an open table, one file each.
//!
//! An op file holds, in this order: what it is (formula, shapes, source), its attributes, its RON
//! form, `infer`, `reference` (f64 oracle), `vjp`, `lower`, `cost`, its property-test samples, and
//! unit tests. Adding an op is that file and one line in `ops!` below; everything else (parsing,
//! `explain`, the docs page, oracle and gradient tests, snapshots) walks the table. Ops that only
//! the compiler makes stand in a list of their own there and have no RON form.
//!
//! # Invariants
//! - Ops know nothing of loops, devices or buffers; `lower` speaks the closed tensor-level set of
//!   [`crate::program`].
//! - `infer` accepts ⇒ `reference`, `vjp`, `lower` and `cost` succeed.

pub use crate::codes::ops as codes;
pub mod form;
pub mod generic;
mod mapping;
mod support;

use serde::de::DeserializeOwned;

use crate::program::{Kernel, KernelOp, OpKind, V};
use crate::source::Span;
use crate::tensor::Tensor;
use crate::types::Type;
use form::{FormCx, FormError, Raw};

pub use ragged_einsum::Ragged;
pub use random::Distribution;
pub use reduce::Reduction;
pub use support::{Rng, Sample, TypeError};

/// A value of a graph.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(u32);
cranelift_entity::entity_impl!(Value, "v");

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

/// An op as read from RON, with its operands and where each was written.
pub type Built<T> = (T, Vec<(Value, Span)>);

/// The contract of an op.
pub trait OpDef: Sized {
    /// Its name in RON.
    const NAME: &'static str;
    /// One sentence.
    const SUMMARY: &'static str;
    /// A complete RON block that uses it, for docs and snapshots.
    const EXAMPLE: &'static str;
    /// Names of the results: the first goes by the node's own name, others as `node.name`.
    const RESULTS: &'static [&'static str] = &["y"];

    /// Results that carry no gradient although they are floats.
    const STATISTICS: &'static [usize] = &[];

    /// Its RON form: a struct named as the op.
    type Form: DeserializeOwned;

    /// The op a form describes; reports what does not fit.
    fn build(form: Self::Form, cx: &mut dyn FormCx) -> Option<Built<Self>>;

    /// The attributes as text, for printed graphs.
    fn attributes(&self) -> String;

    /// Types of the results.
    ///
    /// # Errors
    /// When the operands do not fit, with both shapes.
    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError>;

    /// The op in f64: the oracle every backend is held against.
    fn reference(&self, operands: &[&Tensor], types: &[Type], results: &[Type]) -> Vec<Tensor>;

    /// Gradients of the operands from gradients of the results (`None`: that result has none).
    /// `None` for an operand means zero or not differentiable; that is the default, for ops of
    /// integers, constants and statistics.
    fn vjp(
        &self,
        _cx: &mut dyn Builder,
        operands: &[Value],
        _results: &[Value],
        _grads: &[Option<Value>],
    ) -> Vec<Option<Value>> {
        vec![None; operands.len()]
    }

    /// The op as tensor-level ops on kernel values.
    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V>;

    /// Its work.
    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost;

    /// A small random case for the property tests; odd and zero sizes included.
    fn sample(rng: &mut Rng) -> Sample<Self>;
}

/// Reads the RON form of one op.
pub type BuildFn = fn(&Raw, &mut dyn FormCx) -> Result<Option<Built<Op>>, FormError>;

/// What the table knows of an op without an instance of it.
#[derive(Debug)]
pub struct OpInfo {
    /// Its name in RON.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// A complete RON block that uses it.
    pub example: &'static str,
    /// Names of the results.
    pub results: &'static [&'static str],
    /// Reads its RON form.
    pub build: BuildFn,
    /// A random case for the property tests.
    pub sample: fn(&mut Rng) -> Sample<Op>,
}

macro_rules! ops {
    (
        written { $($module:ident :: $name:ident),* $(,)? }
        made { $($made_module:ident :: $made:ident),* $(,)? }
    ) => {
        ops!(@all $($module :: $name,)* $($made_module :: $made,)*);

        /// Every op that a spec can write, in the order of the table.
        pub static OPS: &[OpInfo] = &[$(OpInfo {
            name: <$name as OpDef>::NAME,
            summary: <$name as OpDef>::SUMMARY,
            example: <$name as OpDef>::EXAMPLE,
            results: <$name as OpDef>::RESULTS,
            build: |raw, cx| {
                let form = raw.form::<<$name as OpDef>::Form>()?;
                Ok(<$name as OpDef>::build(form, cx).map(|(op, operands)| (Op::$name(op), operands)))
            },
            sample: |rng| <$name as OpDef>::sample(rng).map(Op::$name),
        }),*];
    };
    (@all $($module:ident :: $name:ident,)*) => {
        $(mod $module; pub use $module::$name;)*

        /// An op with its attributes.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Op {
            $($name($name)),*
        }

        $(impl From<$name> for Op {
            fn from(op: $name) -> Op {
                Op::$name(op)
            }
        })*

        impl Op {
            /// Its name in RON.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Op::$name(_) => <$name as OpDef>::NAME),*
                }
            }

            /// Names of its results; see [`OpDef::RESULTS`].
            pub fn result_names(&self) -> &'static [&'static str] {
                match self {
                    $(Op::$name(_) => <$name as OpDef>::RESULTS),*
                }
            }

            /// Whether a result carries gradient: a float that is no statistic.
            pub fn differentiable(&self, result: usize) -> bool {
                match self {
                    $(Op::$name(_) => !<$name as OpDef>::STATISTICS.contains(&result)),*
                }
            }

            /// See [`OpDef::attributes`].
            pub fn attributes(&self) -> String {
                match self {
                    $(Op::$name(op) => op.attributes()),*
                }
            }

            /// See [`OpDef::infer`].
            ///
            /// # Errors
            /// When the operands do not fit.
            pub fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
                match self {
                    $(Op::$name(op) => op.infer(operands)),*
                }
            }

            /// See [`OpDef::reference`].
            pub fn reference(
                &self,
                operands: &[&Tensor],
                types: &[Type],
                results: &[Type],
            ) -> Vec<Tensor> {
                match self {
                    $(Op::$name(op) => op.reference(operands, types, results)),*
                }
            }

            /// See [`OpDef::vjp`].
            pub fn vjp(
                &self,
                cx: &mut dyn Builder,
                operands: &[Value],
                results: &[Value],
                grads: &[Option<Value>],
            ) -> Vec<Option<Value>> {
                match self {
                    $(Op::$name(op) => op.vjp(cx, operands, results, grads)),*
                }
            }

            /// See [`OpDef::lower`].
            pub fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
                match self {
                    $(Op::$name(op) => op.lower(cx, operands, results)),*
                }
            }

            /// See [`OpDef::cost`].
            pub fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
                match self {
                    $(Op::$name(op) => op.cost(operands, results)),*
                }
            }
        }
    };
}

ops! {
    written {
        map::Map,
        reduce::Reduce,
        einsum::Einsum,
        reshape::Reshape,
        slice::Slice,
        concat::Concat,
        pad::Pad,
        cast::Cast,
        fill::Fill,
        table::Table,
        random::Random,
        stop_gradient::StopGradient,
        softmax::Softmax,
        log_sum_exp::LogSumExp,
        gather::Gather,
        scatter_add::ScatterAdd,
        take_along::TakeAlong,
        top_k::TopK,
        arg_sort::ArgSort,
        histogram::Histogram,
        cum_sum::CumSum,
        ragged_einsum::RaggedEinsum,
        attention::Attention,
        attention_grad::AttentionGrad,
    }
    made {
        exchange::Exchange,
    }
}

/// The table's entry of a name.
pub fn op_info(name: &str) -> Option<&'static OpInfo> {
    OPS.iter().find(|op| op.name == name)
}

/// Whether RON calls an op by this name.
pub fn is_op(name: &str) -> bool {
    op_info(name).is_some()
}

/// Reads a node's RON, `Einsum("b s d, f d -> b s f", ["x", "w"])`, as the op it names, with its
/// operands. `Ok(None)`: a problem was reported to `cx`.
///
/// # Errors
/// When the RON does not have the op's form (or names no op: ask [`is_op`] first).
pub fn build(raw: &Raw, cx: &mut dyn FormCx) -> Result<Option<Built<Op>>, FormError> {
    match raw.head().and_then(|head| op_info(head.value)) {
        Some(op) => (op.build)(raw, cx),
        None => {
            Err(FormError { span: raw.span, error: ron::Error::ExpectedIdentifier, code: None })
        }
    }
}

/// The op as a kernel of its own, `params` being its operands' types.
pub fn lower_alone(op: &Op, name: &str, params: &[Type], results: &[Type]) -> Kernel {
    let mut cx = KernelBuilder::default();
    let operands: Vec<V> = params.iter().map(|ty| cx.param(ty.clone())).collect();
    let results = op.lower(&mut cx, &operands, results);
    Kernel { name: name.to_string(), params: params.to_vec(), ops: cx.ops, results }
}

impl KernelBuilder {
    /// Adds a parameter; all come before the first op.
    pub fn param(&mut self, ty: Type) -> V {
        self.types.push(ty);
        V(self.types.len() as u32 - 1)
    }

    /// Type of a value.
    pub fn ty(&self, v: V) -> &Type {
        &self.types[v.0 as usize]
    }

    /// Adds an op of one result.
    pub fn push(&mut self, kind: OpKind, operands: &[V], result: Type) -> V {
        self.push_many(kind, operands, vec![result])[0]
    }

    /// Adds an op of any number of results.
    pub fn push_many(&mut self, kind: OpKind, operands: &[V], results: Vec<Type>) -> Vec<V> {
        let first = self.types.len() as u32;
        self.types.extend(results.iter().cloned());
        self.ops.push(KernelOp { kind, operands: operands.to_vec(), results });
        (first..self.types.len() as u32).map(V).collect()
    }
}
