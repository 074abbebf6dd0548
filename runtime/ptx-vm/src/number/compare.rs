//! Comparisons of `setp`, `set` and `slct`, and the classes of `testp`.

use super::format::FloatFormat;
use super::integer::IntType;

/// A comparison of `setp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of PTX; the table below defines them")]
pub enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// Unordered or equal, and so on.
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    /// Both are numbers.
    Num,
    /// One is NaN.
    Nan,
}

/// Compares two floating-point values; every format but f64 widens to f64 exactly.
#[must_use]
#[inline]
pub fn compare_floats(how: Comparison, a: f64, b: f64) -> bool {
    let unordered = a.is_nan() || b.is_nan();
    match how {
        Comparison::Eq => a == b,
        Comparison::Ne => !unordered && a != b,
        Comparison::Lt => a < b,
        Comparison::Le => a <= b,
        Comparison::Gt => a > b,
        Comparison::Ge => a >= b,
        Comparison::Equ => unordered || a == b,
        Comparison::Neu => a != b,
        Comparison::Ltu => unordered || a < b,
        Comparison::Leu => unordered || a <= b,
        Comparison::Gtu => unordered || a > b,
        Comparison::Geu => unordered || a >= b,
        Comparison::Num => !unordered,
        Comparison::Nan => unordered,
    }
}

/// Compares two integers; `.lo`, `.ls`, `.hi`, `.hs` are the ordinary comparisons of an unsigned type.
/// The unordered forms are those without `u`, since integers are always ordered.
#[must_use]
#[inline]
pub fn compare_integers(how: Comparison, of: IntType, a: u64, b: u64) -> bool {
    let order = of.value(a).cmp(&of.value(b));
    match how {
        Comparison::Eq | Comparison::Equ => order.is_eq(),
        Comparison::Ne | Comparison::Neu => order.is_ne(),
        Comparison::Lt | Comparison::Ltu => order.is_lt(),
        Comparison::Le | Comparison::Leu => order.is_le(),
        Comparison::Gt | Comparison::Gtu => order.is_gt(),
        Comparison::Ge | Comparison::Geu => order.is_ge(),
        Comparison::Num => true,
        Comparison::Nan => false,
    }
}

/// A class of `testp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FloatClass {
    /// Neither infinite nor NaN.
    Finite,
    /// Positive or negative infinity.
    Infinite,
    /// Not NaN.
    Number,
    /// NaN.
    NotANumber,
    /// Neither NaN, infinite nor subnormal; zeros are among the normal numbers.
    Normal,
    /// Subnormal; zeros are not.
    Subnormal,
}

/// Whether the f32 or f64 in `bits` belongs to `class`.
#[must_use]
pub fn has_class(format: FloatFormat, bits: u64, class: FloatClass) -> bool {
    let magnitude = bits & !format.sign_mask();
    let exponent = magnitude >> format.fraction_bits();
    let special = exponent == (1 << format.exponent_bits()) - 1;
    let nan = magnitude > format.infinity().unwrap_or(u64::MAX);
    match class {
        FloatClass::Finite => !special,
        FloatClass::Infinite => special && !nan,
        FloatClass::Number => !nan,
        FloatClass::NotANumber => nan,
        FloatClass::Normal => (exponent != 0 && !special) || magnitude == 0,
        FloatClass::Subnormal => exponent == 0 && magnitude != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unordered_comparisons_accept_nan_and_ordered_ones_refuse_it() {
        let nan = f64::NAN;
        for how in [Comparison::Eq, Comparison::Ne, Comparison::Lt, Comparison::Ge, Comparison::Num]
        {
            assert!(!compare_floats(how, nan, 1.0), "{how:?}");
        }
        for how in [Comparison::Equ, Comparison::Neu, Comparison::Ltu, Comparison::Nan] {
            assert!(compare_floats(how, 1.0, nan), "{how:?}");
        }
        assert!(compare_floats(Comparison::Leu, 1.0, 1.0));
        assert!(!compare_floats(Comparison::Neu, 0.0, -0.0));
    }

    #[test]
    fn integers_compare_by_their_type() {
        let minus_one = u64::from(u32::MAX);
        assert!(compare_integers(Comparison::Lt, IntType::S32, minus_one, 0));
        assert!(!compare_integers(Comparison::Lt, IntType::U32, minus_one, 0));
    }

    #[test]
    fn classes_split_the_floats() {
        let of = |value: f32, class| has_class(FloatFormat::F32, value.to_bits().into(), class);
        assert!(of(f32::NAN, FloatClass::NotANumber));
        assert!(of(f32::INFINITY, FloatClass::Infinite) && of(f32::INFINITY, FloatClass::Number));
        assert!(of(1e-40, FloatClass::Subnormal) && !of(0.0, FloatClass::Subnormal));
        assert!(of(-1.0, FloatClass::Normal) && of(-1.0, FloatClass::Finite));
        assert!(of(0.0, FloatClass::Normal) && of(-0.0, FloatClass::Normal));
    }
}
