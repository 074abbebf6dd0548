//! Types of the values inside a [`Body`].
//!
//! # Invariants
//! - Every operation's type follows from the types of the arguments and loaded tensors alone.

use super::{Body, S, ScalarOp, Unary};
use crate::types::DType;

impl Body {
    /// The type of every operation, given the element types of the arguments and of the loaded
    /// tensors.
    ///
    /// # Panics
    /// If the body reads an argument that is not there.
    pub fn dtypes(&self, args: &[DType], loads: &[DType]) -> Vec<DType> {
        let mut types: Vec<DType> = Vec::with_capacity(self.ops.len());
        for op in &self.ops {
            let of = |s: &S| types[s.0 as usize];
            let ty = match op {
                ScalarOp::Arg(n) => args[*n as usize],
                ScalarOp::Float(_, ty) | ScalarOp::Int(_, ty) | ScalarOp::Cast(_, ty) => *ty,
                ScalarOp::Index(_) => DType::i32,
                ScalarOp::Load(n, _) => loads[*n as usize],
                ScalarOp::Unary(Unary::Not, _) | ScalarOp::Cmp(..) => DType::i1,
                ScalarOp::Unary(_, x) | ScalarOp::Binary(_, x, _) => of(x),
                ScalarOp::Select(_, x, _) => of(x),
            };
            types.push(ty);
        }
        types
    }

    /// Whether both sides of every operation have one type, given the types of the arguments and
    /// loaded tensors. Says what does not fit.
    ///
    /// # Errors
    /// A headline.
    pub fn verify(&self, args: &[DType], loads: &[DType]) -> Result<(), String> {
        if self.n_args() as usize > args.len() {
            return Err(format!(
                "the body reads {} operands, there are {}",
                self.n_args(),
                args.len()
            ));
        }
        let types = self.dtypes(args, loads);
        let of = |s: &S| types[s.0 as usize];
        for op in &self.ops {
            let (x, y) = match op {
                ScalarOp::Binary(_, x, y) | ScalarOp::Cmp(_, x, y) | ScalarOp::Select(_, x, y) => {
                    (of(x), of(y))
                }
                _ => continue,
            };
            if x != y {
                return Err(format!("operands have different types: {x} and {y}"));
            }
        }
        Ok(())
    }

    /// Number of arguments the body can read: one more than the highest it does.
    pub fn n_args(&self) -> u32 {
        let arg = |op: &ScalarOp| if let ScalarOp::Arg(n) = op { n + 1 } else { 0 };
        self.ops.iter().map(arg).max().unwrap_or(0)
    }

    /// The body reduced to what `results` need, in the same order.
    pub fn pruned(&self, results: &[S]) -> Body {
        let mut live = vec![false; self.ops.len()];
        results.iter().for_each(|r| live[r.0 as usize] = true);
        for (i, op) in self.ops.iter().enumerate().rev() {
            if live[i] {
                op.operands(&mut |s| live[s.0 as usize] = true);
            }
        }
        let mut new = Body::default();
        let mut renamed = vec![S(0); self.ops.len()];
        for (i, op) in self.ops.iter().enumerate().filter(|(i, _)| live[*i]) {
            renamed[i] = new.push(op.clone().map(&mut |s| renamed[s.0 as usize]));
        }
        new.results = results.iter().map(|r| renamed[r.0 as usize]).collect();
        new
    }

    /// Appends another body with its arguments replaced by values of this one; returns its results.
    pub fn inline(&mut self, other: &Body, args: &[S]) -> Vec<S> {
        let mut renamed: Vec<S> = Vec::with_capacity(other.ops.len());
        for op in &other.ops {
            let new = match op {
                ScalarOp::Arg(n) => args[*n as usize],
                op => self.push(op.clone().map(&mut |s| renamed[s.0 as usize])),
            };
            renamed.push(new);
        }
        other.results.iter().map(|r| renamed[r.0 as usize]).collect()
    }
}

impl ScalarOp {
    /// Calls `f` with every operand.
    pub fn operands(&self, f: &mut dyn FnMut(S)) {
        match self {
            ScalarOp::Arg(_) | ScalarOp::Float(..) | ScalarOp::Int(..) | ScalarOp::Index(_) => {}
            ScalarOp::Load(_, index) => index.iter().for_each(|s| f(*s)),
            ScalarOp::Unary(_, x) | ScalarOp::Cast(x, _) => f(*x),
            ScalarOp::Binary(_, x, y) | ScalarOp::Cmp(_, x, y) => {
                f(*x);
                f(*y);
            }
            ScalarOp::Select(c, x, y) => [c, x, y].into_iter().for_each(|s| f(*s)),
        }
    }

    /// The operation with its operands renamed.
    pub fn map(self, f: &mut dyn FnMut(S) -> S) -> ScalarOp {
        match self {
            ScalarOp::Load(n, index) => ScalarOp::Load(n, index.into_iter().map(f).collect()),
            ScalarOp::Unary(u, x) => ScalarOp::Unary(u, f(x)),
            ScalarOp::Cast(x, ty) => ScalarOp::Cast(f(x), ty),
            ScalarOp::Binary(b, x, y) => ScalarOp::Binary(b, f(x), f(y)),
            ScalarOp::Cmp(c, x, y) => ScalarOp::Cmp(c, f(x), f(y)),
            ScalarOp::Select(c, x, y) => ScalarOp::Select(f(c), f(x), f(y)),
            leaf => leaf,
        }
    }
}
