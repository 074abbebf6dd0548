//! Symbolic derivatives of scalar functions.
//!
//! Where a function has a kink, the subgradient is declared here: `max(x, y)` and `min(x, y)` give
//! the gradient to `x` on a tie, `abs` gives 0 at 0, `sign`, `floor`, comparisons and integers have
//! none, `x % y` counts for `x` alone. A condition passes gradient to the chosen side only.
//!
//! # Invariants
//! - Contributions are added in a fixed order: users last to first.

use super::{Binary, Body, Cmp, S, ScalarOp, Unary};
use crate::types::DType;

/// The gradient of argument `wrt`, as a body of the same arguments followed by one more: the
/// gradient of the only result. `None`: the result does not depend on it, or not differentiably.
///
/// # Panics
/// If the body has not exactly one result.
pub fn derivative(body: &Body, args: &[DType], loads: &[DType], wrt: u32) -> Option<Body> {
    assert_eq!(body.results.len(), 1, "a differentiated body has one result");
    let types = body.dtypes(args, loads);
    let result = body.results[0];
    if !types[result.0 as usize].is_float() || !args[wrt as usize].is_float() {
        return None;
    }
    let mut d = Derivation { body: body.clone(), types, grads: vec![None; body.ops.len()] };
    let depends = d.dependents(wrt);
    d.grads[result.0 as usize] = Some(d.body.arg(args.len() as u32));
    for i in (0..body.ops.len()).rev() {
        if let (Some(grad), true) = (d.grads[i], depends[i]) {
            d.visit(S(i as u32), grad, &depends);
        }
    }
    let at = body.ops.iter().position(|o| *o == ScalarOp::Arg(wrt))?;
    let grad = d.grads[at].filter(|_| depends[at])?;
    Some(d.body.pruned(&[grad]))
}

struct Derivation {
    body: Body,
    /// Types of the original operations.
    types: Vec<DType>,
    grads: Vec<Option<S>>,
}

impl Derivation {
    fn dependents(&self, wrt: u32) -> Vec<bool> {
        let mut depends = vec![false; self.types.len()];
        for (i, op) in self.body.ops.iter().take(self.types.len()).enumerate() {
            let mut any = *op == ScalarOp::Arg(wrt);
            op.operands(&mut |s| any |= depends[s.0 as usize]);
            depends[i] = any && self.types[i].is_float();
        }
        depends
    }

    /// Adds to the gradient of `x`.
    fn give(&mut self, x: S, grad: S) {
        let slot = self.grads[x.0 as usize];
        self.grads[x.0 as usize] = Some(match slot {
            Some(old) => self.body.add(old, grad),
            None => grad,
        });
    }

    fn visit(&mut self, y: S, grad: S, depends: &[bool]) {
        let wants = |x: S| depends[x.0 as usize];
        match self.body.ops[y.0 as usize].clone() {
            ScalarOp::Unary(f, x) if wants(x) => {
                if let Some(g) = self.unary(f, x, y, grad) {
                    self.give(x, g);
                }
            }
            ScalarOp::Binary(f, a, b) => {
                if wants(a)
                    && let Some(g) = self.left(f, [a, b, y], grad)
                {
                    self.give(a, g);
                }
                if wants(b)
                    && let Some(g) = self.right(f, [a, b, y], grad)
                {
                    self.give(b, g);
                }
            }
            ScalarOp::Select(c, a, b) => {
                let zero = self.zero(y);
                if wants(a) {
                    let g = self.body.select(c, grad, zero);
                    self.give(a, g);
                }
                if wants(b) {
                    let g = self.body.select(c, zero, grad);
                    self.give(b, g);
                }
            }
            ScalarOp::Cast(x, to) if wants(x) => {
                let g = self.body.cast(grad, to, self.types[x.0 as usize]);
                self.give(x, g);
            }
            ScalarOp::Unary(..)
            | ScalarOp::Cast(..)
            | ScalarOp::Arg(_)
            | ScalarOp::Float(..)
            | ScalarOp::Int(..)
            | ScalarOp::Index(_)
            | ScalarOp::Load(..)
            | ScalarOp::Cmp(..) => {}
        }
    }

    fn number(&mut self, like: S, value: f64) -> S {
        self.body.number(value, self.types[like.0 as usize])
    }

    fn zero(&mut self, like: S) -> S {
        self.number(like, 0.0)
    }

    fn unary(&mut self, f: Unary, x: S, y: S, g: S) -> Option<S> {
        Some(match f {
            Unary::Neg => self.body.apply(Unary::Neg, g),
            Unary::Abs => {
                let sign = self.body.apply(Unary::Sign, x);
                self.body.mul(g, sign)
            }
            Unary::Exp => self.body.mul(g, y),
            Unary::Log => self.body.div(g, x),
            Unary::Sqrt => {
                let half = self.number(x, 0.5);
                let scaled = self.body.mul(g, half);
                self.body.div(scaled, y)
            }
            Unary::Rsqrt => {
                let minus_half = self.number(x, -0.5);
                let scaled = self.body.mul(g, minus_half);
                let square = self.body.mul(y, y);
                let cube = self.body.mul(square, y);
                self.body.mul(scaled, cube)
            }
            Unary::Tanh => {
                let (one, square) = (self.number(x, 1.0), self.body.mul(y, y));
                let slope = self.body.sub(one, square);
                self.body.mul(g, slope)
            }
            Unary::Sigmoid => {
                let one = self.number(x, 1.0);
                let rest = self.body.sub(one, y);
                let slope = self.body.mul(y, rest);
                self.body.mul(g, slope)
            }
            Unary::Sin => {
                let cos = self.body.apply(Unary::Cos, x);
                self.body.mul(g, cos)
            }
            Unary::Cos => {
                let sin = self.body.apply(Unary::Sin, x);
                let product = self.body.mul(g, sin);
                self.body.apply(Unary::Neg, product)
            }
            Unary::Sign | Unary::Floor | Unary::Not => return None,
        })
    }

    fn left(&mut self, f: Binary, [a, b, y]: [S; 3], g: S) -> Option<S> {
        Some(match f {
            Binary::Add | Binary::Sub | Binary::Rem => g,
            Binary::Mul => self.body.mul(g, b),
            Binary::Div => self.body.div(g, b),
            Binary::Max => self.winner(Cmp::Ge, [a, b], g, true),
            Binary::Min => self.winner(Cmp::Le, [a, b], g, true),
            Binary::Pow => {
                let one = self.number(y, 1.0);
                let exponent = self.body.sub(b, one);
                let power = self.body.pow(a, exponent);
                let slope = self.body.mul(b, power);
                self.body.mul(g, slope)
            }
            Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr | Binary::MulHiU => {
                return None;
            }
        })
    }

    fn right(&mut self, f: Binary, [a, b, y]: [S; 3], g: S) -> Option<S> {
        Some(match f {
            Binary::Add => g,
            Binary::Sub => self.body.apply(Unary::Neg, g),
            Binary::Mul => self.body.mul(g, a),
            Binary::Div => {
                let product = self.body.mul(g, y);
                let quotient = self.body.div(product, b);
                self.body.apply(Unary::Neg, quotient)
            }
            Binary::Max => self.winner(Cmp::Ge, [a, b], g, false),
            Binary::Min => self.winner(Cmp::Le, [a, b], g, false),
            Binary::Pow => {
                let log = self.body.apply(Unary::Log, a);
                let slope = self.body.mul(y, log);
                self.body.mul(g, slope)
            }
            Binary::Rem
            | Binary::And
            | Binary::Or
            | Binary::Xor
            | Binary::Shl
            | Binary::Shr
            | Binary::MulHiU => return None,
        })
    }

    /// The gradient where `a f b` holds (or where it does not).
    fn winner(&mut self, f: Cmp, [a, b]: [S; 2], g: S, holds: bool) -> S {
        let wins = self.body.compare(f, a, b);
        let zero = self.zero(a);
        if holds { self.body.select(wins, g, zero) } else { self.body.select(wins, zero, g) }
    }
}
