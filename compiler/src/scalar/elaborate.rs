//! Scalar expressions to bodies: names resolved, literals typed, functions expanded.
//!
//! A literal or constant has no type of its own: it takes that of what it is combined with.
//! Constants combine with each other in f64, so `sqrt(d_model)` costs nothing.
//!
//! # Invariants
//! - The body is typed: both sides of every operation have one dtype.

use std::ops::Range;

use super::parse::{Expr, ExprKind, Word};
use super::{Binary, Body, Cmp, S, ScalarOp, Unary, eval};
use crate::codes::ops as codes;
use crate::diagnostic::Code;
use crate::types::DType;

/// What a name in an expression stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resolved {
    /// Argument `n` of the body, with its element type.
    Arg(u32, DType),
    /// A constant.
    Constant(f64),
}

/// Gives names their meaning.
pub trait Resolve {
    /// What a name stands for. `None`: the problem was told already.
    ///
    /// # Errors
    /// When index words do not fit.
    fn name(
        &mut self,
        name: &str,
        index: Option<&[Word]>,
        range: &Range<u32>,
    ) -> Result<Option<Resolved>, ExprError>;

    /// The iteration dimension of a word, for `index(d)`.
    fn dim(&mut self, word: &str) -> Option<u32>;
}

/// Why an expression has no meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    /// The error code.
    pub code: Code,
    /// Bytes of the text to blame.
    pub range: Range<u32>,
    /// The headline.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Set when the problem was reported by the resolver already.
    pub told: bool,
}

impl ExprError {
    /// An error at a range.
    pub fn new(code: Code, range: &Range<u32>, message: impl Into<String>) -> Self {
        ExprError { code, range: range.clone(), message: message.into(), help: None, told: false }
    }

    /// Says what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Names of all functions, for messages and docs.
pub const FUNCTIONS: &[&str] = &[
    "neg", "abs", "sign", "exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "silu", "relu",
    "softplus", "sin", "cos", "floor", "ceil", "not", "max", "min", "pow", "and", "or", "xor",
    "shl", "shr", "mulhi", "where", "clamp", "index", "f32", "bf16", "f16", "f64", "i32",
];

/// The body of an expression and its result's type; a constant is f32.
///
/// # Errors
/// The first part of the expression that has no meaning.
pub fn elaborate(expr: &Expr, names: &mut dyn Resolve) -> Result<(Body, DType), ExprError> {
    let mut e = Elaborator { body: Body::default(), names };
    let value = e.expr(expr)?;
    let (s, ty) = e.typed(value, None, &expr.range)?;
    e.body.results = vec![s];
    Ok((e.body.pruned(&e.body.results), ty))
}

/// The value of a constant expression; `names` gives the constants.
///
/// # Errors
/// The first part of the expression that has no constant value.
pub fn evaluate(
    expr: &Expr,
    names: &mut dyn FnMut(&str, &Range<u32>) -> Option<f64>,
) -> Result<f64, ExprError> {
    struct Constants<'a>(&'a mut dyn FnMut(&str, &Range<u32>) -> Option<f64>);
    impl Resolve for Constants<'_> {
        fn name(
            &mut self,
            name: &str,
            index: Option<&[Word]>,
            range: &Range<u32>,
        ) -> Result<Option<Resolved>, ExprError> {
            if index.is_some() {
                let message = format!("`{name}` is a constant and takes no index");
                return Err(ExprError::new(codes::EXPR_INDEX, range, message));
            }
            Ok((self.0)(name, range).map(Resolved::Constant))
        }

        fn dim(&mut self, _: &str) -> Option<u32> {
            None
        }
    }
    let mut constants = Constants(names);
    let mut e = Elaborator { body: Body::default(), names: &mut constants };
    match e.expr(expr)? {
        Val::Number(x) => Ok(x),
        Val::Typed(s, _) => match e.body.constant(s) {
            Some((x, _)) => Ok(x),
            None => {
                Err(ExprError::new(codes::EXPR_TYPE, &expr.range, "expression is not constant"))
            }
        },
    }
}

#[derive(Clone, Copy)]
enum Val {
    Number(f64),
    Typed(S, DType),
}

struct Elaborator<'a> {
    body: Body,
    names: &'a mut dyn Resolve,
}

type Result<T, E = ExprError> = std::result::Result<T, E>;

impl Elaborator<'_> {
    fn expr(&mut self, e: &Expr) -> Result<Val> {
        match &e.kind {
            ExprKind::Number(x) => Ok(Val::Number(*x)),
            ExprKind::Name { name, index } => self.name(name, index.as_deref(), &e.range),
            ExprKind::Neg(x) => self.unary(Unary::Neg, x),
            ExprKind::Not(x) => self.unary(Unary::Not, x),
            ExprKind::Binary(f, x, y) => self.binary(*f, x, y, &e.range),
            ExprKind::Cmp(f, x, y) => self.compare(*f, x, y, &e.range),
            ExprKind::Call(f, args) => self.call(f, args, &e.range),
        }
    }

    fn name(&mut self, name: &str, index: Option<&[Word]>, range: &Range<u32>) -> Result<Val> {
        match (name, index) {
            ("pi", None) => return Ok(Val::Number(std::f64::consts::PI)),
            ("inf", None) => return Ok(Val::Number(f64::INFINITY)),
            _ => {}
        }
        match self.names.name(name, index, range)? {
            Some(Resolved::Arg(n, ty)) => Ok(Val::Typed(self.body.arg(n), ty)),
            Some(Resolved::Constant(x)) => Ok(Val::Number(x)),
            None => Err(ExprError {
                told: true,
                ..ExprError::new(codes::EXPR_TYPE, range, format!("unknown name `{name}`"))
            }),
        }
    }

    /// A value of a type: constants become `like`, or f32.
    fn typed(&mut self, v: Val, like: Option<DType>, range: &Range<u32>) -> Result<(S, DType)> {
        match v {
            Val::Typed(s, ty) => Ok((s, ty)),
            Val::Number(x) => {
                let ty = like.unwrap_or(DType::f32);
                if ty == DType::i32 && (x.fract() != 0.0 || x.abs() > f64::from(u32::MAX)) {
                    let message = format!("`{x}` is no i32, but stands beside one");
                    return Err(ExprError::new(codes::EXPR_TYPE, range, message)
                        .help("convert the other side with `f32(…)`"));
                }
                // Written as unsigned, hash constants exceed i32: keep the 32 bits.
                let x = if ty == DType::i32 { f64::from(x as i64 as i32) } else { x };
                Ok((self.body.number(x, ty), ty))
            }
        }
    }

    /// Both values in one type.
    fn unified(&mut self, x: Val, y: Val, e: [&Expr; 2]) -> Result<(S, S, DType)> {
        let like = |v: Val| if let Val::Typed(_, ty) = v { Some(ty) } else { None };
        let (a, ta) = self.typed(x, like(y), &e[0].range)?;
        let (b, tb) = self.typed(y, like(x), &e[1].range)?;
        if ta != tb {
            let range = e[0].range.start..e[1].range.end;
            let wider = if ta.is_float() { ta } else { tb };
            let message = format!("operands have different types: {ta} and {tb}");
            return Err(ExprError::new(codes::EXPR_TYPE, &range, message)
                .help(format!("convert one of them, `{wider}(…)`")));
        }
        Ok((a, b, ta))
    }

    fn unary(&mut self, f: Unary, x: &Expr) -> Result<Val> {
        let v = self.expr(x)?;
        let (s, ty) = match v {
            Val::Number(n) => return Ok(Val::Number(eval::unary(f, n, DType::f64))),
            Val::Typed(s, ty) => (s, ty),
        };
        let fits = match f {
            Unary::Not => ty == DType::i1,
            Unary::Neg => ty != DType::i1,
            _ => ty.is_float(),
        };
        if !fits {
            let wants = if f == Unary::Not { "a condition" } else { "a float" };
            let message = format!("expected {wants}, found {ty}");
            return Err(ExprError::new(codes::EXPR_TYPE, &x.range, message));
        }
        Ok(Val::Typed(self.body.apply(f, s), ty))
    }

    fn binary(&mut self, f: Binary, x: &Expr, y: &Expr, range: &Range<u32>) -> Result<Val> {
        let (a, b) = (self.expr(x)?, self.expr(y)?);
        if let (Val::Number(m), Val::Number(n)) = (a, b) {
            return Ok(Val::Number(eval::binary(f, m, n, DType::f64)));
        }
        let (s, t, ty) = self.unified(a, b, [x, y])?;
        let fits = match f {
            Binary::Add | Binary::Sub | Binary::Mul | Binary::Div => ty != DType::i1,
            Binary::Rem | Binary::Max | Binary::Min => ty != DType::i1,
            Binary::Pow => ty.is_float(),
            Binary::And | Binary::Or | Binary::Xor => !ty.is_float(),
            Binary::Shl | Binary::Shr | Binary::MulHiU => ty == DType::i32,
        };
        if !fits {
            let message = format!("this operator does not take {ty}");
            return Err(ExprError::new(codes::EXPR_TYPE, range, message));
        }
        Ok(Val::Typed(self.body.combine(f, s, t), ty))
    }

    fn compare(&mut self, f: Cmp, x: &Expr, y: &Expr, range: &Range<u32>) -> Result<Val> {
        let (a, b) = (self.expr(x)?, self.expr(y)?);
        if let (Val::Number(m), Val::Number(n)) = (a, b) {
            return Ok(Val::Number(f64::from(u8::from(eval::cmp(f, m, n)))));
        }
        let (s, t, ty) = self.unified(a, b, [x, y])?;
        if ty == DType::i1 {
            let message = "conditions are not compared";
            return Err(ExprError::new(codes::EXPR_TYPE, range, message)
                .help("combine them with `&&`, `||` and `!`"));
        }
        Ok(Val::Typed(self.body.compare(f, s, t), DType::i1))
    }

    fn call(&mut self, f: &Word, args: &[Expr], range: &Range<u32>) -> Result<Val> {
        use super::Unary as U;
        let unary = |f| move |e: &mut Self, a: &[Expr]| e.unary(f, &a[0]);
        let binary = |f| move |e: &mut Self, a: &[Expr]| e.binary(f, &a[0], &a[1], range);
        let n = args.len();
        match (f.text.as_str(), n) {
            ("neg", 1) => unary(U::Neg)(self, args),
            ("abs", 1) => unary(U::Abs)(self, args),
            ("sign", 1) => unary(U::Sign)(self, args),
            ("exp", 1) => unary(U::Exp)(self, args),
            ("log", 1) => unary(U::Log)(self, args),
            ("sqrt", 1) => unary(U::Sqrt)(self, args),
            ("rsqrt", 1) => unary(U::Rsqrt)(self, args),
            ("tanh", 1) => unary(U::Tanh)(self, args),
            ("sigmoid", 1) => unary(U::Sigmoid)(self, args),
            ("sin", 1) => unary(U::Sin)(self, args),
            ("cos", 1) => unary(U::Cos)(self, args),
            ("floor", 1) => unary(U::Floor)(self, args),
            ("not", 1) => unary(U::Not)(self, args),
            ("max", 2) => binary(Binary::Max)(self, args),
            ("min", 2) => binary(Binary::Min)(self, args),
            ("pow", 2) => binary(Binary::Pow)(self, args),
            ("and", 2) => binary(Binary::And)(self, args),
            ("or", 2) => binary(Binary::Or)(self, args),
            ("xor", 2) => binary(Binary::Xor)(self, args),
            ("shl", 2) => binary(Binary::Shl)(self, args),
            ("shr", 2) => binary(Binary::Shr)(self, args),
            ("mulhi", 2) => binary(Binary::MulHiU)(self, args),
            ("silu" | "relu" | "softplus" | "ceil", 1) => self.composed(&f.text, &args[0]),
            ("where", 3) => self.choose(args),
            ("clamp", 3) => self.clamp(args),
            ("index", 1) => self.index(&args[0]),
            ("f32", 1) => self.convert(&args[0], DType::f32),
            ("bf16", 1) => self.convert(&args[0], DType::bf16),
            ("f16", 1) => self.convert(&args[0], DType::f16),
            ("f64", 1) => self.convert(&args[0], DType::f64),
            ("i32", 1) => self.convert(&args[0], DType::i32),
            (name, n) => Err(no_such_function(name, n, &f.range)),
        }
    }

    /// Functions made of others.
    fn composed(&mut self, f: &str, x: &Expr) -> Result<Val> {
        let (s, ty) = match self.expr(x)? {
            Val::Typed(s, ty) if ty.is_float() => (s, ty),
            Val::Typed(_, ty) => {
                let message = format!("expected a float, found {ty}");
                return Err(ExprError::new(codes::EXPR_TYPE, &x.range, message));
            }
            Val::Number(n) => (self.body.number(n, DType::f64), DType::f64),
        };
        let b = &mut self.body;
        let result = match f {
            "silu" => {
                let gate = b.apply(Unary::Sigmoid, s);
                b.mul(s, gate)
            }
            "relu" => {
                let zero = b.number(0.0, ty);
                b.combine(Binary::Max, zero, s)
            }
            "ceil" => {
                let below = b.apply(Unary::Neg, s);
                let floor = b.apply(Unary::Floor, below);
                b.apply(Unary::Neg, floor)
            }
            _ => softplus(b, s, ty),
        };
        match b.constant(result) {
            Some((n, DType::f64)) if ty == DType::f64 => Ok(Val::Number(n)),
            _ => Ok(Val::Typed(result, ty)),
        }
    }

    fn choose(&mut self, args: &[Expr]) -> Result<Val> {
        let (x, y) = (self.expr(&args[1])?, self.expr(&args[2])?);
        let c = match self.expr(&args[0])? {
            Val::Number(n) => return Ok(if n != 0.0 { x } else { y }),
            Val::Typed(c, DType::i1) => c,
            Val::Typed(_, ty) => {
                let message = format!("expected a condition, found {ty}");
                return Err(ExprError::new(codes::EXPR_TYPE, &args[0].range, message)
                    .help("write a comparison: `x != 0`"));
            }
        };
        let (s, t, ty) = self.unified(x, y, [&args[1], &args[2]])?;
        Ok(Val::Typed(self.body.select(c, s, t), ty))
    }

    fn clamp(&mut self, args: &[Expr]) -> Result<Val> {
        let range = args[0].range.start..args[2].range.end;
        let low = Expr {
            kind: ExprKind::Binary(
                Binary::Max,
                Box::new(args[0].clone()),
                Box::new(args[1].clone()),
            ),
            range: args[0].range.start..args[1].range.end,
        };
        self.binary(Binary::Min, &low, &args[2], &range)
    }

    fn index(&mut self, word: &Expr) -> Result<Val> {
        let ExprKind::Name { name, index: None } = &word.kind else {
            let message = "`index` takes one dimension word";
            return Err(ExprError::new(codes::EXPR_INDEX, &word.range, message));
        };
        match self.names.dim(name) {
            Some(d) => Ok(Val::Typed(self.body.index(d), DType::i32)),
            None => {
                let message = format!("`{name}` is no dimension of this expression");
                Err(ExprError::new(codes::EXPR_INDEX, &word.range, message)
                    .help("give its extent: `Map(\"… -> d\", {\"d\": n})`"))
            }
        }
    }

    fn convert(&mut self, x: &Expr, to: DType) -> Result<Val> {
        let value = self.expr(x)?;
        let constant = match value {
            Val::Number(n) => Some(n),
            Val::Typed(s, _) => self.body.constant(s).map(|(n, _)| n),
        };
        let s = match (constant, value) {
            (Some(n), _) | (None, Val::Number(n)) => self.body.number(eval::round(n, to), to),
            (None, Val::Typed(s, from)) => self.body.cast(s, from, to),
        };
        Ok(Val::Typed(s, to))
    }
}

/// `max(0, x) + log(1 + exp(-|x|))`: no overflow. `min(x, -x)` is `-|x|` with a slope of 1 at 0,
/// which makes the slope of the whole ½ there.
fn softplus(b: &mut Body, x: S, ty: DType) -> S {
    let (zero, one) = (b.number(0.0, ty), b.number(1.0, ty));
    let positive = b.combine(Binary::Max, zero, x);
    let mirrored = b.apply(Unary::Neg, x);
    let negative = b.combine(Binary::Min, x, mirrored);
    let small = b.apply(Unary::Exp, negative);
    let sum = b.add(one, small);
    let log = b.apply(Unary::Log, sum);
    b.add(positive, log)
}

fn no_such_function(name: &str, n_args: usize, range: &Range<u32>) -> ExprError {
    if FUNCTIONS.contains(&name) {
        let message = format!("`{name}` does not take {n_args} arguments");
        return ExprError::new(codes::EXPR_FUNCTION, range, message);
    }
    ExprError::new(codes::EXPR_FUNCTION, range, format!("no function is named `{name}`"))
        .help(format!("functions are {}", FUNCTIONS.join(", ")))
}

/// Whether an operation depends on where it is evaluated.
pub fn reads_index(body: &Body) -> bool {
    body.ops.iter().any(|op| matches!(op, ScalarOp::Index(_)))
}
