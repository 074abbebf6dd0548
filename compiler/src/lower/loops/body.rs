//! Scalar functions as arith and math operations, on scalars or on lanes.
//!
//! # Invariants
//! - bf16 and f16 are computed in f32; a cast to them rounds and widens again.
//! - Every product may be contracted with the sum it feeds, in vector and scalar code alike.

use super::emit::{Elem, Emitter, Ty, Val};
use crate::scalar::{Binary, Cmp, Unary};
use crate::types::DType;

/// Flags of an operation that a product may be contracted into.
const CONTRACT: &str = " fastmath<contract>";

/// A float as MLIR writes it.
pub(crate) fn float_text(value: f64, elem: Elem) -> String {
    let value = if elem == Elem::F64 { value } else { f64::from(value as f32) };
    if !value.is_finite() {
        return match elem {
            Elem::F64 => format!("{:#018X}", value.to_bits()),
            _ => format!("{:#010X}", (value as f32).to_bits()),
        };
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((m, x)) if !m.contains('.') => format!("{m}.0e{x}"),
        _ => text,
    }
}

impl Emitter {
    /// A constant in every lane.
    pub(crate) fn constant(&mut self, text: &str, ty: Ty) -> Val {
        let text = match ty.lanes {
            1 if ty.elem == Elem::I1 => format!("arith.constant {text}"),
            1 => format!("arith.constant {text} : {ty}"),
            _ => format!("arith.constant dense<{text}> : {ty}"),
        };
        self.op_at(0, ty, text)
    }

    /// A float constant in every lane.
    pub(crate) fn float(&mut self, value: f64, ty: Ty) -> Val {
        self.constant(&float_text(value, ty.elem), ty)
    }

    /// An integer or boolean constant in every lane.
    pub(crate) fn int(&mut self, value: i64, ty: Ty) -> Val {
        match ty.elem {
            Elem::I1 => self.constant(if value != 0 { "true" } else { "false" }, ty),
            _ => self.constant(&value.to_string(), ty),
        }
    }

    /// The value in as many lanes as asked for.
    pub(crate) fn widen(&mut self, val: Val, lanes: u32) -> Val {
        if val.ty.lanes == lanes {
            return val;
        }
        let ty = Ty { elem: val.ty.elem, lanes };
        self.op(ty, &[val], format!("vector.broadcast {val} : {} to {ty}", val.ty))
    }

    /// Both values in the lanes of the wider.
    pub(crate) fn level(&mut self, a: Val, b: Val) -> (Val, Val) {
        let lanes = a.ty.lanes.max(b.ty.lanes);
        (self.widen(a, lanes), self.widen(b, lanes))
    }

    /// One lane of a value.
    pub(crate) fn lane(&mut self, val: Val, lane: u32) -> Val {
        if val.ty.lanes == 1 {
            return val;
        }
        let ty = Ty { elem: val.ty.elem, lanes: 1 };
        self.op(ty, &[val], format!("vector.extract {val}[{lane}] : {ty} from {}", val.ty))
    }

    /// A vector of scalars.
    pub(crate) fn gather(&mut self, parts: &[Val]) -> Val {
        let ty = Ty { elem: parts[0].ty.elem, lanes: parts.len() as u32 };
        let names: Vec<String> = parts.iter().map(Val::to_string).collect();
        self.op(ty, parts, format!("vector.from_elements {} : {ty}", names.join(", ")))
    }

    /// An operation of two operands of one type.
    pub(crate) fn two(&mut self, name: &str, a: Val, b: Val) -> Val {
        let (a, b) = self.level(a, b);
        let flags = match name {
            "arith.addf" | "arith.subf" | "arith.mulf" => CONTRACT,
            _ => "",
        };
        self.op(a.ty, &[a, b], format!("{name} {a}, {b}{flags} : {}", a.ty))
    }

    /// An operation of one operand.
    pub(crate) fn one(&mut self, name: &str, x: Val) -> Val {
        self.op(x.ty, &[x], format!("{name} {x} : {}", x.ty))
    }

    /// A conversion.
    pub(crate) fn convert(&mut self, name: &str, x: Val, to: Elem) -> Val {
        let ty = Ty { elem: to, lanes: x.ty.lanes };
        self.op(ty, &[x], format!("{name} {x} : {} to {ty}", x.ty))
    }

    /// `if c { a } else { b }`, lane by lane.
    pub(crate) fn select(&mut self, c: Val, a: Val, b: Val) -> Val {
        let lanes = c.ty.lanes.max(a.ty.lanes).max(b.ty.lanes);
        let (a, b) = (self.widen(a, lanes), self.widen(b, lanes));
        if c.ty.lanes == 1 || lanes == 1 {
            return self.op(a.ty, &[c, a, b], format!("arith.select {c}, {a}, {b} : {}", a.ty));
        }
        self.op(a.ty, &[c, a, b], format!("arith.select {c}, {a}, {b} : {}, {}", c.ty, a.ty))
    }

    /// A comparison.
    pub(crate) fn compare(&mut self, cmp: Cmp, a: Val, b: Val) -> Val {
        let (a, b) = self.level(a, b);
        let ty = Ty { elem: Elem::I1, lanes: a.ty.lanes };
        let text = if a.ty.elem.is_float() {
            let name = match cmp {
                Cmp::Eq => "oeq",
                Cmp::Ne => "one",
                Cmp::Lt => "olt",
                Cmp::Le => "ole",
                Cmp::Gt => "ogt",
                Cmp::Ge => "oge",
            };
            format!("arith.cmpf {name}, {a}, {b} : {}", a.ty)
        } else {
            let name = match cmp {
                Cmp::Eq => "eq",
                Cmp::Ne => "ne",
                Cmp::Lt => "slt",
                Cmp::Le => "sle",
                Cmp::Gt => "sgt",
                Cmp::Ge => "sge",
            };
            format!("arith.cmpi {name}, {a}, {b} : {}", a.ty)
        };
        self.op(ty, &[a, b], text)
    }

    /// The value of the thread `distance` away in the warp (exclusive or of their numbers).
    pub(crate) fn shuffle(&mut self, val: Val, distance: u32, threads: u32) -> Val {
        let i32_ = Ty { elem: Elem::I32, lanes: 1 };
        let (by, width) = (self.int(i64::from(distance), i32_), self.int(i64::from(threads), i32_));
        self.first(
            val.ty,
            Elem::I1,
            &[val],
            format!("gpu.shuffle xor {val}, {by}, {width} : {}", val.ty),
        )
    }

    /// A function of one value.
    pub(crate) fn unary(&mut self, f: Unary, x: Val) -> Val {
        let float = x.ty.elem.is_float();
        if float
            && self.intrinsics
            && let Some(val) = self.unary_intrinsic(f, x)
        {
            return val;
        }
        match f {
            Unary::Neg if float => self.one("arith.negf", x),
            Unary::Neg => {
                let zero = self.int(0, x.ty);
                self.two("arith.subi", zero, x)
            }
            Unary::Abs if float => self.one("math.absf", x),
            Unary::Abs => {
                let negated = self.unary(Unary::Neg, x);
                self.two("arith.maxsi", x, negated)
            }
            Unary::Sign => self.sign(x),
            Unary::Exp => self.one("math.exp", x),
            Unary::Log => self.one("math.log", x),
            Unary::Sqrt => self.one("math.sqrt", x),
            Unary::Rsqrt => self.one("math.rsqrt", x),
            Unary::Tanh => self.one("math.tanh", x),
            Unary::Sigmoid => self.sigmoid(x),
            Unary::Sin => self.one("math.sin", x),
            Unary::Cos => self.one("math.cos", x),
            Unary::Floor => self.one("math.floor", x),
            Unary::Not => {
                let one = self.int(1, x.ty);
                self.two("arith.xori", x, one)
            }
        }
    }

    fn sign(&mut self, x: Val) -> Val {
        let of = |e: &mut Self, v: f64| {
            if x.ty.elem.is_float() { e.float(v, x.ty) } else { e.int(v as i64, x.ty) }
        };
        let (zero, one, minus) = (of(self, 0.0), of(self, 1.0), of(self, -1.0));
        let below = self.compare(Cmp::Lt, x, zero);
        let above = self.compare(Cmp::Gt, x, zero);
        let negative = self.select(below, minus, x);
        self.select(above, one, negative)
    }

    fn sigmoid(&mut self, x: Val) -> Val {
        let one = self.float(1.0, x.ty);
        let minus = self.one("arith.negf", x);
        let exp = self.one("math.exp", minus);
        let sum = self.two("arith.addf", one, exp);
        self.two("arith.divf", one, sum)
    }

    /// A function of two values.
    pub(crate) fn binary(&mut self, f: Binary, a: Val, b: Val) -> Val {
        let float = a.ty.elem.is_float();
        if float
            && self.intrinsics
            && let Some(val) = self.binary_intrinsic(f, a, b)
        {
            return val;
        }
        let name = match f {
            Binary::Add if float => "arith.addf",
            Binary::Add => "arith.addi",
            Binary::Sub if float => "arith.subf",
            Binary::Sub => "arith.subi",
            Binary::Mul if float => "arith.mulf",
            Binary::Mul => "arith.muli",
            Binary::Div if float => "arith.divf",
            Binary::Div => return self.divide("arith.divsi", a, b),
            Binary::Rem if float => "arith.remf",
            Binary::Rem => return self.divide("arith.remsi", a, b),
            Binary::Max if float => "arith.maximumf",
            Binary::Max => "arith.maxsi",
            Binary::Min if float => "arith.minimumf",
            Binary::Min => "arith.minsi",
            Binary::Pow => "math.powf",
            Binary::And => "arith.andi",
            Binary::Or => "arith.ori",
            Binary::Xor => "arith.xori",
            Binary::Shl => return self.shift("arith.shli", a, b),
            Binary::Shr => return self.shift("arith.shrui", a, b),
            Binary::MulHiU => {
                let (a, b) = self.level(a, b);
                let text = format!("arith.mului_extended {a}, {b} : {}", a.ty);
                return self.second(a.ty, &[a, b], text);
            }
        };
        self.two(name, a, b)
    }

    /// Integer division: 0 for a divisor of 0, and no trap for the least integer over −1.
    fn divide(&mut self, name: &str, a: Val, b: Val) -> Val {
        let (zero, one, minus) = (self.int(0, b.ty), self.int(1, b.ty), self.int(-1, b.ty));
        let is_zero = self.compare(Cmp::Eq, b, zero);
        let is_minus = self.compare(Cmp::Eq, b, minus);
        let special = self.two("arith.ori", is_zero, is_minus);
        let divisor = self.select(special, one, b);
        let usual = self.two(name, a, divisor);
        let negated = if name == "arith.divsi" { self.unary(Unary::Neg, a) } else { zero };
        let usual = self.select(is_minus, negated, usual);
        self.select(is_zero, zero, usual)
    }

    /// A shift by the low five bits of the amount.
    fn shift(&mut self, name: &str, a: Val, b: Val) -> Val {
        let mask = self.int(31, b.ty);
        let amount = self.two("arith.andi", b, mask);
        self.two(name, a, amount)
    }

    /// A conversion between dtypes; values of narrow floats are held, rounded, in f32.
    pub(crate) fn cast(&mut self, x: Val, from: DType, to: DType) -> Val {
        if from == to {
            return x;
        }
        let (have, want) = (Elem::compute(from), Elem::compute(to));
        let wide = match (have, want) {
            _ if have == want => x,
            (Elem::F32, Elem::F64) => self.convert("arith.extf", x, want),
            (Elem::F64, _) if want == Elem::F32 => self.convert("arith.truncf", x, want),
            (Elem::I1, Elem::I32) => self.convert("arith.extui", x, want),
            (Elem::I1, _) => {
                let ty = Ty { elem: want, lanes: x.ty.lanes };
                let (one, zero) = (self.float(1.0, ty), self.float(0.0, ty));
                self.select(x, one, zero)
            }
            (Elem::I32, Elem::I1) => {
                let zero = self.int(0, x.ty);
                self.compare(Cmp::Ne, x, zero)
            }
            (_, Elem::I1) => {
                let zero = self.float(0.0, x.ty);
                self.compare(Cmp::Ne, x, zero)
            }
            (_, Elem::I32) => self.convert("arith.fptosi", x, want),
            (_, _) => self.convert("arith.sitofp", x, want),
        };
        self.round(wide, to)
    }

    /// Rounds a value to what a narrow float can hold.
    pub(crate) fn round(&mut self, x: Val, to: DType) -> Val {
        match to {
            DType::bf16 | DType::f16 => {
                let narrow = self.convert("arith.truncf", x, Elem::storage(to));
                self.convert("arith.extf", narrow, Elem::F32)
            }
            DType::f64 | DType::f32 | DType::i32 | DType::i1 => x,
        }
    }
}
