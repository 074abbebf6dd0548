//! Numbers and strings as MLIR literals.
//!
//! # Invariants
//! - A finite float is printed so that reading it back gives the same f64; the rest as bits.

use std::fmt::Write as _;

use crate::types::DType;

/// A float literal of a type; the value is representable in it.
pub(super) fn float(value: f64, ty: DType) -> String {
    if value.is_finite() {
        let text = format!("{value:e}");
        return match text.split_once('e') {
            Some((mantissa, exponent)) if !mantissa.contains('.') => {
                format!("{mantissa}.0e{exponent}")
            }
            _ => text,
        };
    }
    let negative = value == f64::NEG_INFINITY;
    let (digits, infinity, nan) = match ty {
        DType::f64 => (16, 0x7ff0 << 48, 0x7ff8 << 48),
        DType::f32 => (8, 0x7f80_0000, 0x7fc0_0000),
        DType::bf16 => (4, 0x7f80, 0x7fc0),
        DType::f16 | DType::i32 | DType::i1 => (4, 0x7c00u64, 0x7e00u64),
    };
    let sign = if negative { 1u64 << (digits * 4 - 1) } else { 0 };
    let bits = if value.is_nan() { nan } else { infinity | sign };
    format!("0x{bits:0digits$X}")
}

/// A literal of any type.
pub(super) fn number(value: f64, ty: DType) -> String {
    match ty {
        DType::i32 => format!("{}", value as i64),
        DType::i1 => (if value != 0.0 { "true" } else { "false" }).to_owned(),
        DType::f64 | DType::f32 | DType::bf16 | DType::f16 => float(value, ty),
    }
}

/// `1.0e0 : f32`; truth values carry no type.
pub(super) fn typed(value: f64, ty: DType) -> String {
    match ty {
        DType::i1 => number(value, ty),
        _ => format!("{} : {ty}", number(value, ty)),
    }
}

/// A string literal.
pub(super) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' | 0..=31 | 127..=255 => {
                let _ = write!(out, "\\{byte:02X}");
            }
            _ => out.push(byte as char),
        }
    }
    out.push('"');
    out
}

/// A symbol reference.
pub(super) fn symbol(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if first && name.chars().all(plain) { format!("@{name}") } else { format!("@{}", string(name)) }
}

/// A value rounded to nearest even in a type.
pub(super) fn rounded(value: f64, ty: DType) -> f64 {
    let (precision, min_exponent, max_exponent) = match ty {
        DType::f32 => return f64::from(value as f32),
        DType::bf16 => (8, -126, 127),
        DType::f16 => (11, -14, 15),
        DType::f64 | DType::i32 | DType::i1 => return value,
    };
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let ulp = 2f64.powi(exponent.max(min_exponent) - precision + 1);
    let near = (value / ulp).round_ties_even() * ulp;
    if near.abs() >= 2f64.powi(max_exponent + 1) { f64::INFINITY.copysign(value) } else { near }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_agrees_with_the_half_crate() {
        for i in 0..100_000u64 {
            let x = f64::from_bits(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for x in [x, (i as f64 - 50_000.0) * 1.37e-3, i as f64 * 1.1e-9] {
                // From f32: the crate drops low bits of an f64 that decide a subnormal's rounding.
                let x = x as f32;
                if x.is_nan() {
                    continue;
                }
                let wide = f64::from(x);
                assert_eq!(rounded(wide, DType::f16), half::f16::from_f32(x).to_f64(), "{x:e}");
                assert_eq!(rounded(wide, DType::bf16), half::bf16::from_f32(x).to_f64(), "{x:e}");
            }
        }
    }

    #[test]
    fn literals_are_those_of_mlir() {
        assert_eq!(float(1.0, DType::f32), "1.0e0");
        assert_eq!(float(-1.5e-7, DType::f32), "-1.5e-7");
        assert_eq!(float(f64::NEG_INFINITY, DType::f32), "0xFF800000");
        assert_eq!(float(f64::INFINITY, DType::bf16), "0x7F80");
        assert_eq!(string("a\"b\\\n"), r#""a\22b\5C\0A""#);
        assert_eq!(symbol("map_3"), "@map_3");
    }
}
