//! The body of a generic from the region of `linalg.generic`.
//!
//! # Invariants
//! - Arguments and loads are numbered and placed by first use: the normal form.

use std::collections::HashMap;

use melior::ir::operation::OperationLike;
use melior::ir::{BlockLike, ValueLike};

use super::super::scalar_names;
use super::super::{Combine, V};
use super::{
    Op, ReadError, Result, attribute, block, dtype, integer, key, name, operand_key, refuse,
    result_key, scalar, unsigned,
};
use crate::scalar::{Binary, Body, S, ScalarOp};
use crate::types::DType;

/// A region read.
pub(super) struct Region {
    pub(super) body: Body,
    pub(super) combine: Option<Combine>,
    /// Tensors that loads read, by number.
    pub(super) loads: Vec<V>,
}

/// Reads the region of an op with `args` arguments among its `inputs` inputs.
pub(super) fn read(
    op: Op<'_, '_>,
    (args, inputs): (usize, usize),
    reduces: bool,
    tensors: &HashMap<usize, V>,
) -> Result<Region> {
    let block = block(op)?;
    let argument =
        |n: usize| block.argument(n).map(key).map_err(|e| ReadError { message: e.to_string() });
    let mut reader = Reader {
        body: Body::default(),
        loads: Vec::new(),
        scalars: HashMap::new(),
        args: (0..args).map(|n| Ok((argument(n)?, n as u32))).collect::<Result<_>>()?,
        indices: HashMap::new(),
        tensors,
    };
    let accumulator = argument(inputs)?;
    let mut combined = None;
    for inner in super::operations(block) {
        if name(inner)? == "linalg.yield" {
            return reader.finish(inner, combined, reduces);
        }
        let accumulates = inner.operand_count() > 0 && operand_key(inner, 0)? == accumulator;
        if accumulates {
            combined =
                Some((combiner(&name(inner)?)?, operand_key(inner, 1)?, result_key(inner, 0)?));
        } else {
            reader.op(inner)?;
        }
    }
    refuse("a region without a yield")
}

fn combiner(name: &str) -> Result<Combine> {
    match scalar_names::binary_of(name) {
        Some(Binary::Add) => Ok(Combine::Sum),
        Some(Binary::Max) => Ok(Combine::Max),
        Some(Binary::Min) => Ok(Combine::Min),
        _ => refuse(format!("`{name}` does not combine a reduction")),
    }
}

struct Reader<'a> {
    body: Body,
    loads: Vec<V>,
    scalars: HashMap<usize, S>,
    args: HashMap<usize, u32>,
    /// `linalg.index` results.
    indices: HashMap<usize, u32>,
    tensors: &'a HashMap<usize, V>,
}

impl Reader<'_> {
    fn finish(
        mut self,
        end: Op<'_, '_>,
        combined: Option<(Combine, usize, usize)>,
        reduces: bool,
    ) -> Result<Region> {
        let yielded = operand_key(end, 0)?;
        let (combine, value) = match combined {
            Some((combine, value, result)) if reduces && result == yielded => {
                (Some(combine), value)
            }
            None if !reduces => (None, yielded),
            _ => return refuse("a region that is neither a map nor a reduction"),
        };
        let result = self.scalar(value)?;
        self.body.results.push(result);
        Ok(Region { body: self.body, combine, loads: self.loads })
    }

    fn scalar(&mut self, key: usize) -> Result<S> {
        if let Some(n) = self.args.get(&key) {
            return Ok(self.body.arg(*n));
        }
        match self.scalars.get(&key) {
            Some(s) => Ok(*s),
            None => refuse("a scalar from outside its region"),
        }
    }

    fn operands(&mut self, op: Op<'_, '_>, from: usize) -> Result<Vec<S>> {
        let keys = (from..op.operand_count()).map(|n| operand_key(op, n));
        keys.collect::<Result<Vec<_>>>()?.into_iter().map(|k| self.scalar(k)).collect()
    }

    fn op(&mut self, op: Op<'_, '_>) -> Result<()> {
        let name = name(op)?;
        let (scalar, result) = match name.as_str() {
            "linalg.index" => {
                let dim = unsigned(attribute(op, "dim")?)?;
                self.indices.insert(result_key(op, 0)?, dim as u32);
                return Ok(());
            }
            "arith.index_cast" => match self.indices.get(&operand_key(op, 0)?) {
                Some(dim) => (ScalarOp::Index(*dim), 0),
                None => return refuse("a cast of something that is no iteration index"),
            },
            "arith.constant" => (constant(op)?, 0),
            "perilune.load" => (self.load(op)?, 0),
            "arith.mului_extended" => (self.function(op, &name)?, 1),
            _ => (self.function(op, &name)?, 0),
        };
        let s = self.body.push(scalar);
        self.scalars.insert(result_key(op, result)?, s);
        Ok(())
    }

    fn load(&mut self, op: Op<'_, '_>) -> Result<ScalarOp> {
        let Some(v) = self.tensors.get(&operand_key(op, 0)?).copied() else {
            return refuse("a load from something that is no tensor of the kernel");
        };
        let index = self.operands(op, 1)?;
        let n = self.loads.iter().position(|l| *l == v).unwrap_or_else(|| {
            self.loads.push(v);
            self.loads.len() - 1
        });
        Ok(ScalarOp::Load(n as u32, index))
    }

    fn function(&mut self, op: Op<'_, '_>, name: &str) -> Result<ScalarOp> {
        let operands = self.operands(op, 0)?;
        if name == "arith.cmpf" || name == "arith.cmpi" {
            let predicate = integer(attribute(op, "predicate")?)?;
            if let (Some(f), [x, y]) = (scalar_names::comparison_of(name, predicate), &operands[..])
            {
                return Ok(ScalarOp::Cmp(f, *x, *y));
            }
        }
        let known = match operands[..] {
            [x] if scalar_names::is_cast(name) => {
                let result = op.result(0).map_err(|e| ReadError { message: e.to_string() })?;
                Some(ScalarOp::Cast(x, dtype(&result.r#type().to_string())?))
            }
            [x] => scalar_names::unary_of(name).map(|f| ScalarOp::Unary(f, x)),
            [x, y] => scalar_names::binary_of(name).map(|f| ScalarOp::Binary(f, x, y)),
            [c, x, y] if name == "arith.select" => Some(ScalarOp::Select(c, x, y)),
            _ => None,
        };
        match known {
            Some(op) => Ok(op),
            None => refuse(format!("`{name}` in the body of a generic")),
        }
    }
}

fn constant(op: Op<'_, '_>) -> Result<ScalarOp> {
    let bits = scalar(attribute(op, "value")?)?;
    let result = op.result(0).map_err(|e| ReadError { message: e.to_string() })?;
    let ty = dtype(&result.r#type().to_string())?;
    Ok(match ty {
        DType::i32 | DType::i1 => ScalarOp::Int(f64::from_bits(bits) as i64, ty),
        DType::f64 | DType::f32 | DType::bf16 | DType::f16 => ScalarOp::Float(bits, ty),
    })
}
