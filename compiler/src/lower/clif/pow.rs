//! `xʸ` on four f32 lanes, by logarithm and exponential in f64, two lanes at a time.
//!
//! Error at most 1 ulp. Defined for x ≥ 0; a negative base gives NaN.
//!
//! # Invariants
//! - `x⁰ = 1`, `0ʸ` is 0 for y > 0 and +∞ for y < 0; else NaN in x or y gives NaN.

use super::builder::{Builder, Name, hex_f64};

impl Builder {
    fn f64x2(&mut self, value: f64) -> Name {
        let scalar = self.def(&format!("f64const {}", hex_f64(value)));
        self.def(&format!("splat.f64x2 {scalar}"))
    }

    fn poly64(&mut self, x: &Name, coefficients: &[f64]) -> Name {
        let mut sum = self.f64x2(coefficients[0]);
        for c in &coefficients[1..] {
            let c = self.f64x2(*c);
            sum = self.fma(&sum, x, &c);
        }
        sum
    }

    /// Two lanes of f32 as f64: the low pair, or the high pair.
    fn promote(&mut self, x: &Name, high: bool) -> Name {
        if !high {
            return self.one("fvpromote_low", x);
        }
        let pair = self.bits("i64x2", x);
        let upper = self.def(&format!("extractlane {pair}, 1"));
        let both = self.def(&format!("splat.i64x2 {upper}"));
        let moved = self.bits("f32x4", &both);
        self.one("fvpromote_low", &moved)
    }

    /// Two pairs of f64 as four f32.
    fn demote(&mut self, pairs: [&Name; 2]) -> Name {
        let [lo, hi] = pairs.map(|p| {
            let narrow = self.one("fvdemote", p);
            self.bits("i64x2", &narrow)
        });
        let upper = self.def(&format!("extractlane {hi}, 0"));
        let all = self.def(&format!("insertlane {lo}, {upper}, 1"));
        self.bits("f32x4", &all)
    }

    /// `y · log₂ x` split into its nearest integer and 2 to the power of the rest.
    fn pow_half(&mut self, m: &Name, e: &Name, y: &Name) -> (Name, Name) {
        let one = self.f64x2(1.0);
        let (below, above) = (self.two("fsub", m, &one), self.two("fadd", m, &one));
        let s = self.two("fdiv", &below, &above);
        let square = self.two("fmul", &s, &s);
        let series: Vec<f64> = (0..9).rev().map(|k| 1.0 / f64::from(2 * k + 1)).collect();
        let p = self.poly64(&square, &series);
        let scale = self.f64x2(2.0 * std::f64::consts::LOG2_E);
        let s = self.two("fmul", &s, &scale);
        let log2 = self.fma(&s, &p, e);
        let z = self.two("fmul", &log2, y);
        let (least, most) = (self.f64x2(-200.0), self.f64x2(200.0));
        let z = self.two("fmax", &z, &least);
        let z = self.two("fmin", &z, &most);
        let n = self.one("nearest", &z);
        let r = self.two("fsub", &z, &n);
        let mut taylor = vec![1.0];
        for k in 1..11 {
            let last = taylor[k - 1];
            taylor.push(last * std::f64::consts::LN_2 / k as f64);
        }
        taylor.reverse();
        (n, self.poly64(&r, &taylor))
    }

    /// `xʸ`.
    pub(super) fn pow(&mut self, x: &Name, y: &Name) -> Name {
        let (m, e) = self.frexp(x);
        let e = self.one("fcvt_from_sint.f32x4", &e);
        let mut halves = Vec::with_capacity(2);
        for high in [false, true] {
            let [m, e, y] = [&m, &e, y].map(|v| self.promote(v, high));
            halves.push(self.pow_half(&m, &e, &y));
        }
        let n = self.demote([&halves[0].0, &halves[1].0]);
        let p = self.demote([&halves[0].1, &halves[1].1]);
        let int = self.one("fcvt_to_sint_sat.i32x4", &n);
        let power = self.ldexp(&p, &int);
        let (zero, one) = (self.f32x4(0.0), self.f32x4(1.0));
        let (inf, nan) = (self.f32x4(f32::INFINITY), self.f32x4(f32::NAN));
        let negative = self.two("fcmp lt", x, &zero);
        let power = self.blend(&negative, &nan, &power);
        let rising = self.two("fcmp gt", y, &zero);
        let at_zero = self.blend(&rising, &zero, &inf);
        let is_zero = self.two("fcmp eq", x, &zero);
        let power = self.blend(&is_zero, &at_zero, &power);
        let at_inf = self.blend(&rising, &inf, &zero);
        let is_inf = self.two("fcmp eq", x, &inf);
        let power = self.blend(&is_inf, &at_inf, &power);
        let unknown = self.two("fcmp uno", x, y);
        let power = self.blend(&unknown, &nan, &power);
        let no_exponent = self.two("fcmp eq", y, &zero);
        self.blend(&no_exponent, &one, &power)
    }
}
