//! MLIR names of scalar operations, both ways.
//!
//! # Invariants
//! - A name and a type determine the operation; readers search the same tables that printers use.

use crate::scalar::{Binary, Cmp, Unary};
use crate::types::DType;

const UNARIES: [Unary; 13] = [
    Unary::Neg,
    Unary::Abs,
    Unary::Sign,
    Unary::Exp,
    Unary::Log,
    Unary::Sqrt,
    Unary::Rsqrt,
    Unary::Tanh,
    Unary::Sigmoid,
    Unary::Sin,
    Unary::Cos,
    Unary::Floor,
    Unary::Not,
];

const BINARIES: [Binary; 14] = [
    Binary::Add,
    Binary::Sub,
    Binary::Mul,
    Binary::Div,
    Binary::Rem,
    Binary::Max,
    Binary::Min,
    Binary::Pow,
    Binary::And,
    Binary::Or,
    Binary::Xor,
    Binary::Shl,
    Binary::Shr,
    Binary::MulHiU,
];

const COMPARISONS: [Cmp; 6] = [Cmp::Eq, Cmp::Ne, Cmp::Lt, Cmp::Le, Cmp::Gt, Cmp::Ge];

/// One type of each kind that names differ by.
const KINDS: [DType; 3] = [DType::f32, DType::i32, DType::i1];

/// Name of a function of one value.
pub(super) fn unary(f: Unary, ty: DType) -> &'static str {
    match f {
        Unary::Neg if ty.is_float() => "arith.negf",
        Unary::Neg => "perilune.neg",
        Unary::Abs if ty.is_float() => "math.absf",
        Unary::Abs => "math.absi",
        Unary::Sign => "perilune.sign",
        Unary::Exp => "math.exp",
        Unary::Log => "math.log",
        Unary::Sqrt => "math.sqrt",
        Unary::Rsqrt => "math.rsqrt",
        Unary::Tanh => "math.tanh",
        Unary::Sigmoid => "perilune.sigmoid",
        Unary::Sin => "math.sin",
        Unary::Cos => "math.cos",
        Unary::Floor => "math.floor",
        Unary::Not => "perilune.not",
    }
}

/// Name of a function of two values of one type.
pub(super) fn binary(f: Binary, ty: DType) -> &'static str {
    let pick = |float: &'static str, int: &'static str| if ty.is_float() { float } else { int };
    match f {
        Binary::Add => pick("arith.addf", "arith.addi"),
        Binary::Sub => pick("arith.subf", "arith.subi"),
        Binary::Mul => pick("arith.mulf", "arith.muli"),
        Binary::Div => pick("arith.divf", "arith.divsi"),
        Binary::Rem => pick("arith.remf", "arith.remsi"),
        Binary::Max if ty == DType::i1 => "arith.maxui",
        Binary::Max => pick("arith.maximumf", "arith.maxsi"),
        Binary::Min if ty == DType::i1 => "arith.minui",
        Binary::Min => pick("arith.minimumf", "arith.minsi"),
        Binary::Pow => pick("math.powf", "math.ipowi"),
        Binary::And => "arith.andi",
        Binary::Or => "arith.ori",
        Binary::Xor => "arith.xori",
        Binary::Shl => "arith.shli",
        Binary::Shr => "arith.shrui",
        Binary::MulHiU => "arith.mului_extended",
    }
}

/// The function of one value with this name.
pub(super) fn unary_of(name: &str) -> Option<Unary> {
    UNARIES.into_iter().find(|f| KINDS.iter().any(|ty| unary(*f, *ty) == name))
}

/// The function of two values with this name.
pub(super) fn binary_of(name: &str) -> Option<Binary> {
    BINARIES.into_iter().find(|f| KINDS.iter().any(|ty| binary(*f, *ty) == name))
}

/// Operation, predicate and the predicate's number of a comparison.
pub(super) fn comparison(f: Cmp, ty: DType) -> (&'static str, &'static str, i64) {
    let (float, signed, unsigned) = match f {
        Cmp::Eq => (("oeq", 1), ("eq", 0), ("eq", 0)),
        Cmp::Ne => (("one", 6), ("ne", 1), ("ne", 1)),
        Cmp::Lt => (("olt", 4), ("slt", 2), ("ult", 6)),
        Cmp::Le => (("ole", 5), ("sle", 3), ("ule", 7)),
        Cmp::Gt => (("ogt", 2), ("sgt", 4), ("ugt", 8)),
        Cmp::Ge => (("oge", 3), ("sge", 5), ("uge", 9)),
    };
    let (op, (name, number)) = match ty {
        DType::f64 | DType::f32 | DType::bf16 | DType::f16 => ("arith.cmpf", float),
        DType::i32 => ("arith.cmpi", signed),
        DType::i1 => ("arith.cmpi", unsigned),
    };
    (op, name, number)
}

/// The comparison with this name and predicate number.
pub(super) fn comparison_of(name: &str, predicate: i64) -> Option<Cmp> {
    let is = |f: &Cmp| {
        KINDS.iter().map(|ty| comparison(*f, *ty)).any(|(op, _, n)| op == name && n == predicate)
    };
    COMPARISONS.into_iter().find(is)
}

/// Name of a conversion.
pub(super) fn cast(from: DType, to: DType) -> &'static str {
    match (from.is_float(), to.is_float()) {
        (true, true) if from.bytes() < to.bytes() => "arith.extf",
        (true, true) if from.bytes() > to.bytes() => "arith.truncf",
        (true, false) if to == DType::i32 => "arith.fptosi",
        (false, true) if from == DType::i32 => "arith.sitofp",
        (false, true) => "arith.uitofp",
        (false, false) if from == DType::i1 && to == DType::i32 => "arith.extui",
        (_, _) => CONVERT,
    }
}

/// Names of conversions.
pub(super) fn is_cast(name: &str) -> bool {
    const CASTS: [&str; 6] = [
        "arith.extf",
        "arith.truncf",
        "arith.fptosi",
        "arith.sitofp",
        "arith.uitofp",
        "arith.extui",
    ];
    CASTS.contains(&name) || name == CONVERT
}

/// The conversion `arith` has no op for.
pub(super) const CONVERT: &str = "perilune.convert";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_operation() {
        for ty in KINDS {
            UNARIES.iter().for_each(|f| assert_eq!(unary_of(unary(*f, ty)), Some(*f)));
            BINARIES.iter().for_each(|f| assert_eq!(binary_of(binary(*f, ty)), Some(*f)));
            for f in COMPARISONS {
                let (op, _, n) = comparison(f, ty);
                assert_eq!(comparison_of(op, n), Some(f));
            }
        }
    }
}
