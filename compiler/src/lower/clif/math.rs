//! Transcendental functions on four f32 lanes.
//!
//! Error bounds against the exact result rounded to f32, tested in `tests/lower_math.rs`:
//! exp 1 ulp, log 1 ulp, tanh 2 ulp, sin and cos 1e-7 absolute for |x| ≤ 2·10⁵.
//! Scalars use the same code in lane 0, so a tail rounds as its vectors do.
//!
//! # Invariants
//! - NaN in, NaN out; exp overflows to infinity and underflows gradually to 0; log(0) = −∞ and
//!   log of a negative number is NaN.

use super::builder::{Builder, Name};

/// 1.5 · 2²³: adding it leaves the nearest integer in the low bits.
const ROUND: f32 = 12_582_912.0;

impl Builder {
    /// Horner's rule with fma, highest coefficient first.
    pub(super) fn poly(&mut self, x: &Name, coefficients: &[f32]) -> Name {
        let mut sum = self.f32x4(coefficients[0]);
        for c in &coefficients[1..] {
            let c = self.f32x4(*c);
            sum = self.fma(&sum, x, &c);
        }
        sum
    }

    /// The nearest integer of each lane, as f32 and as i32.
    fn nearest(&mut self, x: &Name) -> (Name, Name) {
        let magic = self.f32x4(ROUND);
        let shifted = self.two("fadd", x, &magic);
        let n = self.two("fsub", &shifted, &magic);
        let bits = self.bits("i32x4", &shifted);
        let zero = self.i32x4(ROUND.to_bits() as i32);
        let int = self.two("isub", &bits, &zero);
        (n, int)
    }

    /// `x · 2ⁿ` in two steps, so that neither factor leaves the normal range.
    pub(super) fn ldexp(&mut self, x: &Name, n: &Name) -> Name {
        let half = self.shift("sshr", n, 1);
        let other = self.two("isub", n, &half);
        let mut out = x.clone();
        for part in [half, other] {
            let bias = self.i32x4(127);
            let biased = self.two("iadd", &part, &bias);
            let bits = self.shift("ishl", &biased, 23);
            let scale = self.bits("f32x4", &bits);
            out = self.two("fmul", &out, &scale);
        }
        out
    }

    /// `eˣ`: reduction by n·ln 2, a polynomial of degree 7.
    pub(super) fn exp(&mut self, x: &Name) -> Name {
        let log2e = self.f32x4(std::f32::consts::LOG2_E);
        let t = self.two("fmul", x, &log2e);
        let (n, int) = self.nearest(&t);
        let (hi, lo) = (self.f32x4(-0.693_359_4), self.f32x4(2.121_944_4e-4));
        let r = self.fma(&n, &hi, x);
        let r = self.fma(&n, &lo, &r);
        let p = self.poly(
            &r,
            &[1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1],
        );
        let square = self.two("fmul", &r, &r);
        let tail = self.fma(&p, &square, &r);
        let one = self.f32x4(1.0);
        let mantissa = self.two("fadd", &tail, &one);
        let y = self.ldexp(&mantissa, &int);
        let (top, inf) = (self.f32x4(88.722_84), self.f32x4(f32::INFINITY));
        let over = self.two("fcmp gt", x, &top);
        let y = self.blend(&over, &inf, &y);
        let (bottom, zero) = (self.f32x4(-103.972_08), self.f32x4(0.0));
        let under = self.two("fcmp lt", x, &bottom);
        self.blend(&under, &zero, &y)
    }

    /// Mantissa in [√½, √2) and exponent of positive finite lanes.
    pub(super) fn frexp(&mut self, x: &Name) -> (Name, Name) {
        let (tiny, scale) = (self.f32x4(f32::MIN_POSITIVE), self.f32x4(8_388_608.0));
        let subnormal = self.two("fcmp lt", x, &tiny);
        let scaled = self.two("fmul", x, &scale);
        let normal = self.blend(&subnormal, &scaled, x);
        let bits = self.bits("i32x4", &normal);
        let root_half = self.i32x4(0x3f35_04f3);
        let above = self.two("isub", &bits, &root_half);
        let exponent = self.shift("sshr", &above, 23);
        let whole = self.shift("ishl", &exponent, 23);
        let mantissa = self.two("isub", &bits, &whole);
        let mantissa = self.bits("f32x4", &mantissa);
        let shifted = self.i32x4(23);
        let correction = self.two("band", &subnormal, &shifted);
        let exponent = self.two("isub", &exponent, &correction);
        (mantissa, exponent)
    }

    /// Natural logarithm.
    pub(super) fn log(&mut self, x: &Name) -> Name {
        let (m, e) = self.frexp(x);
        let e = self.one("fcvt_from_sint.f32x4", &e);
        let one = self.f32x4(1.0);
        let f = self.two("fsub", &m, &one);
        let p = self.poly(
            &f,
            &[
                7.037_683_6e-2,
                -1.151_461e-1,
                1.167_699_9e-1,
                -1.242_014_1e-1,
                1.424_932_3e-1,
                -1.666_805_8e-1,
                2.000_071_5e-1,
                -2.499_999_4e-1,
                3.333_333e-1,
            ],
        );
        let square = self.two("fmul", &f, &f);
        let cube = self.two("fmul", &square, &f);
        let y = self.two("fmul", &p, &cube);
        let lo = self.f32x4(-2.121_944_4e-4);
        let y = self.fma(&e, &lo, &y);
        let half = self.f32x4(-0.5);
        let y = self.fma(&square, &half, &y);
        let y = self.two("fadd", &f, &y);
        let hi = self.f32x4(0.693_359_4);
        let y = self.fma(&e, &hi, &y);
        self.log_special(x, &y)
    }

    fn log_special(&mut self, x: &Name, y: &Name) -> Name {
        let (zero, inf) = (self.f32x4(0.0), self.f32x4(f32::INFINITY));
        let (minus_inf, nan) = (self.f32x4(f32::NEG_INFINITY), self.f32x4(f32::NAN));
        let positive = self.two("fcmp gt", x, &zero);
        let y = self.blend(&positive, y, &nan);
        let is_zero = self.two("fcmp eq", x, &zero);
        let y = self.blend(&is_zero, &minus_inf, &y);
        let is_inf = self.two("fcmp eq", x, &inf);
        self.blend(&is_inf, &inf, &y)
    }

    /// A non-negative magnitude with the sign of another value.
    fn copy_sign(&mut self, magnitude: &Name, sign: &Name) -> Name {
        let (bits, of) = (self.bits("i32x4", magnitude), self.bits("i32x4", sign));
        let top = self.i32x4(i32::MIN);
        let sign = self.two("band", &of, &top);
        let bits = self.two("bor", &bits, &sign);
        self.bits("f32x4", &bits)
    }

    /// Hyperbolic tangent: a polynomial near 0, else from exp.
    pub(super) fn tanh(&mut self, x: &Name) -> Name {
        let a = self.one("fabs", x);
        let square = self.two("fmul", x, x);
        let p = self.poly(
            &square,
            &[-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_3e-1, -3.333_328e-1],
        );
        let cube = self.two("fmul", &square, x);
        let small = self.fma(&p, &cube, x);
        let double = self.two("fadd", &a, &a);
        let e = self.exp(&double);
        let (one, two) = (self.f32x4(1.0), self.f32x4(2.0));
        let sum = self.two("fadd", &e, &one);
        let quotient = self.two("fdiv", &two, &sum);
        let large = self.two("fsub", &one, &quotient);
        let large = self.copy_sign(&large, x);
        let bound = self.f32x4(0.625);
        let is_small = self.two("fcmp lt", &a, &bound);
        self.blend(&is_small, &small, &large)
    }

    /// Sine (`quarter` 0) or cosine (`quarter` 1): three-part reduction by π/2.
    pub(super) fn sin_cos(&mut self, x: &Name, quarter: i32) -> Name {
        let scale = self.f32x4(std::f32::consts::FRAC_2_PI);
        let t = self.two("fmul", x, &scale);
        let (n, int) = self.nearest(&t);
        let mut r = x.clone();
        for c in [-1.570_796_4f32, 4.371_139e-8, 1.715_124_5e-15] {
            let c = self.f32x4(c);
            r = self.fma(&n, &c, &r);
        }
        let square = self.two("fmul", &r, &r);
        let p = self.poly(&square, &[-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1]);
        let cube = self.two("fmul", &square, &r);
        let sine = self.fma(&p, &cube, &r);
        let q = self.poly(&square, &[2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2, -0.5, 1.0]);
        let turn = self.i32x4(quarter);
        let quadrant = self.two("iadd", &int, &turn);
        let odd = self.shift("ishl", &quadrant, 31);
        let odd = self.shift("sshr", &odd, 31);
        let y = self.blend(&odd, &q, &sine);
        let sign = self.shift("ushr", &quadrant, 1);
        let sign = self.shift("ishl", &sign, 31);
        let bits = self.bits("i32x4", &y);
        let signed = self.two("bxor", &bits, &sign);
        self.bits("f32x4", &signed)
    }
}
