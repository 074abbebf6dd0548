//! Elementary functions for NVIDIA GPUs: approximate instructions and polynomials, no library.
//!
//! Error bounds on f32, relative unless said: exp `2^-22 + |x|·2^-23.5`, rsqrt and reciprocal
//! `2^-22`, log `2^-22` (absolute `2^-22` below 1), tanh and sigmoid `2^-21`, sin and cos absolute
//! `2^-22` up to |x| = 100,000, pow as exp of log times the exponent.
//!
//! # Invariants
//! - Only instructions that `llvm.call_intrinsic` names: nothing here becomes a call.
//! - Infinities and NaN come out as in IEEE arithmetic.

use super::emit::{Elem, Emitter, Ty, Val};
use crate::scalar::{Binary, Cmp, Unary};

const LOG2_E: f64 = std::f64::consts::LOG2_E;
/// π/2 in three parts; products of the first two with integers below 2^17 are exact in an fma.
const HALF_PI: [f64; 3] =
    [1.570_796_012_878_418, 3.139_164_164_167_596_5e-7, 5.390_302_529_957_765e-15];
/// Coefficients of (log(1 + x) − x + x²/2) / x³ on [√½ − 1, √2 − 1], highest first.
const LOG: [f64; 9] = [
    7.037_683_629_2e-2,
    -1.151_461_031_0e-1,
    1.167_699_874_0e-1,
    -1.242_014_084_6e-1,
    1.424_932_278_7e-1,
    -1.666_805_766_5e-1,
    2.000_071_476_5e-1,
    -2.499_999_399_3e-1,
    3.333_333_117_4e-1,
];
/// ln 2 in two parts.
const LN_2: [f64; 2] = [0.693_359_375, -2.121_944_400_546_905_8e-4];
/// Coefficients of (sin x − x) / x³ in x² on [−π/4, π/4], highest first.
const SIN: [f64; 3] = [-1.951_529_589_1e-4, 8.332_160_873_6e-3, -1.666_665_461_1e-1];
/// Coefficients of (cos x − 1 + x²/2) / x⁴ in x² on [−π/4, π/4], highest first.
const COS: [f64; 3] =
    [2.443_315_711_809_948e-5, -1.388_731_625_493_765e-3, 4.166_664_568_298_827e-2];
/// Coefficients of (tanh x − x) / x³ in x² on [−0.625, 0.625], highest first.
const TANH: [f64; 5] = [
    -5.704_988_727_45e-3,
    2.063_908_879_54e-2,
    -5.373_971_555_31e-2,
    1.333_144_220_36e-1,
    -3.333_328_194_22e-1,
];

impl Emitter {
    /// A float function of one value; `None` where arith has it.
    pub(super) fn unary_intrinsic(&mut self, f: Unary, x: Val) -> Option<Val> {
        let f32 = x.ty.elem == Elem::F32;
        match f {
            Unary::Abs => Some(self.intrinsic("llvm.fabs", &[x])),
            Unary::Sqrt => Some(self.intrinsic("llvm.sqrt", &[x])),
            Unary::Floor => Some(self.intrinsic("llvm.floor", &[x])),
            Unary::Exp if f32 => Some(self.exponential(x)),
            Unary::Log if f32 => Some(self.logarithm(x)),
            Unary::Rsqrt if f32 => Some(self.by_lane("llvm.nvvm.rsqrt.approx.ftz.f", x)),
            Unary::Tanh if f32 => Some(self.hyperbolic_tangent(x)),
            Unary::Sigmoid if f32 => Some(self.logistic(x)),
            Unary::Sin if f32 => Some(self.circular(x, 0)),
            Unary::Cos if f32 => Some(self.circular(x, 1)),
            Unary::Exp
            | Unary::Log
            | Unary::Rsqrt
            | Unary::Tanh
            | Unary::Sigmoid
            | Unary::Sin
            | Unary::Cos
            | Unary::Neg
            | Unary::Sign
            | Unary::Not => None,
        }
    }

    /// A float function of two values; `None` where arith has it.
    pub(super) fn binary_intrinsic(&mut self, f: Binary, a: Val, b: Val) -> Option<Val> {
        let (a, b) = self.level(a, b);
        match f {
            Binary::Rem => Some(self.remainder(a, b)),
            Binary::Pow if a.ty.elem == Elem::F32 => {
                let log = self.logarithm(a);
                let product = self.two("arith.mulf", b, log);
                Some(self.exponential(product))
            }
            _ => None,
        }
    }

    /// `a − trunc(a/b)·b`, rounded once. Where the quotient was rounded up to a whole number, the rest
    /// has the other sign than `a` and is one `b` short. Exact while quotients are below 2^23.
    fn remainder(&mut self, a: Val, b: Val) -> Val {
        let quotient = self.two("arith.divf", a, b);
        let whole = self.intrinsic("llvm.trunc", &[quotient]);
        let minus = self.one("arith.negf", whole);
        let rest = self.intrinsic("llvm.fma", &[minus, b, a]);
        let zero = self.float(0.0, a.ty);
        let size = self.intrinsic("llvm.fabs", &[b]);
        let (above, short) = (self.compare(Cmp::Gt, a, zero), self.compare(Cmp::Lt, rest, zero));
        let short = self.two("arith.andi", above, short);
        let (below, long) = (self.compare(Cmp::Lt, a, zero), self.compare(Cmp::Gt, rest, zero));
        let long = self.two("arith.andi", below, long);
        let (more, less) = (self.two("arith.addf", rest, size), self.two("arith.subf", rest, size));
        let rest = self.select(short, more, rest);
        let rest = self.select(long, less, rest);
        let a_size = self.intrinsic("llvm.fabs", &[a]);
        let small = self.compare(Cmp::Lt, a_size, size);
        self.select(small, a, rest)
    }

    /// A call of an intrinsic that vectors have.
    fn intrinsic(&mut self, name: &str, args: &[Val]) -> Val {
        let names: Vec<String> = args.iter().map(Val::to_string).collect();
        let types: Vec<String> = args.iter().map(|a| a.ty.to_string()).collect();
        let text = format!(
            "llvm.call_intrinsic \"{name}\"({}) : ({}) -> {}",
            names.join(", "),
            types.join(", "),
            args[0].ty
        );
        self.op(args[0].ty, args, text)
    }

    /// A call of an intrinsic that only scalars have.
    fn by_lane(&mut self, name: &str, x: Val) -> Val {
        if x.ty.lanes == 1 {
            return self.intrinsic(name, &[x]);
        }
        let lanes: Vec<Val> = (0..x.ty.lanes)
            .map(|k| {
                let lane = self.lane(x, k);
                self.intrinsic(name, &[lane])
            })
            .collect();
        self.gather(&lanes)
    }

    fn times(&mut self, x: Val, by: f64) -> Val {
        let by = self.float(by, x.ty);
        self.two("arith.mulf", x, by)
    }

    fn fused(&mut self, a: Val, b: f64, c: Val) -> Val {
        let b = self.float(b, a.ty);
        self.intrinsic("llvm.fma", &[a, b, c])
    }

    /// A polynomial, coefficients highest first.
    fn polynomial(&mut self, x: Val, coefficients: &[f64]) -> Val {
        let mut sum = self.float(coefficients[0], x.ty);
        for c in &coefficients[1..] {
            let c = self.float(*c, x.ty);
            sum = self.intrinsic("llvm.fma", &[sum, x, c]);
        }
        sum
    }

    fn exponential(&mut self, x: Val) -> Val {
        let scaled = self.times(x, LOG2_E);
        self.by_lane("llvm.nvvm.ex2.approx.ftz", scaled)
    }

    fn reciprocal(&mut self, x: Val) -> Val {
        self.by_lane("llvm.nvvm.rcp.approx.ftz.f", x)
    }

    /// 1 / (1 + e^−x).
    fn logistic(&mut self, x: Val) -> Val {
        let minus = self.one("arith.negf", x);
        let exp = self.exponential(minus);
        let one = self.float(1.0, x.ty);
        let sum = self.two("arith.addf", exp, one);
        self.reciprocal(sum)
    }

    /// A polynomial near 0, else 1 − 2 / (1 + e^2x).
    fn hyperbolic_tangent(&mut self, x: Val) -> Val {
        let square = self.two("arith.mulf", x, x);
        let p = self.polynomial(square, &TANH);
        let p = self.two("arith.mulf", p, square);
        let near = self.intrinsic("llvm.fma", &[p, x, x]);
        let twice = self.two("arith.addf", x, x);
        let exp = self.exponential(twice);
        let one = self.float(1.0, x.ty);
        let sum = self.two("arith.addf", exp, one);
        let part = self.reciprocal(sum);
        let far = self.fused(part, -2.0, one);
        let (size, limit) = (self.intrinsic("llvm.fabs", &[x]), self.float(0.625, x.ty));
        let small = self.compare(Cmp::Lt, size, limit);
        self.select(small, near, far)
    }

    /// e · ln 2 + log m with m in [√½, √2).
    fn logarithm(&mut self, x: Val) -> Val {
        let ints = Ty { elem: Elem::I32, lanes: x.ty.lanes };
        let tiny = self.float(f64::from(f32::MIN_POSITIVE), x.ty);
        let subnormal = self.compare(Cmp::Lt, x, tiny);
        let scaled = self.times(x, f64::from(1u32 << 23));
        let normal = self.select(subnormal, scaled, x);
        let (low, none) = (self.float(-23.0, x.ty), self.float(0.0, x.ty));
        let shift = self.select(subnormal, low, none);
        // The exponent of m·2^e relative to √½, whose bits are 0x3F3504F3.
        let bits = self.convert("arith.bitcast", normal, Elem::I32);
        let root = self.int(0x3F35_04F3, ints);
        let above = self.two("arith.subi", bits, root);
        let width = self.int(23, ints);
        let exponent = self.two("arith.shrsi", above, width);
        let back = self.two("arith.shli", exponent, width);
        let mantissa = self.two("arith.subi", bits, back);
        let mantissa = self.convert("arith.bitcast", mantissa, Elem::F32);
        let exponent = self.convert("arith.sitofp", exponent, Elem::F32);
        let exponent = self.two("arith.addf", exponent, shift);
        let one = self.float(1.0, x.ty);
        let m = self.two("arith.subf", mantissa, one);
        let log = self.log_1p(m, exponent);
        self.log_edges(x, log)
    }

    /// exponent · ln 2 + log(1 + m).
    fn log_1p(&mut self, m: Val, exponent: Val) -> Val {
        let square = self.two("arith.mulf", m, m);
        let p = self.polynomial(m, &LOG);
        let cube = self.two("arith.mulf", square, m);
        let p = self.two("arith.mulf", p, cube);
        let p = self.fused(exponent, LN_2[1], p);
        let p = self.fused(square, -0.5, p);
        let sum = self.two("arith.addf", m, p);
        self.fused(exponent, LN_2[0], sum)
    }

    /// log 0 = −∞, log ∞ = ∞, log of a negative number or NaN is NaN.
    fn log_edges(&mut self, x: Val, log: Val) -> Val {
        let (zero, infinity) = (self.float(0.0, x.ty), self.float(f64::INFINITY, x.ty));
        let (minus, nan) = (self.float(f64::NEG_INFINITY, x.ty), self.float(f64::NAN, x.ty));
        let finite = self.compare(Cmp::Lt, x, infinity);
        let log = self.select(finite, log, x);
        let is_zero = self.compare(Cmp::Eq, x, zero);
        let log = self.select(is_zero, minus, log);
        let negative = self.compare(Cmp::Lt, x, zero);
        self.select(negative, nan, log)
    }

    /// sin(x + quarter · π/2): the nearest multiple of π/2 is taken off, its number picks the
    /// polynomial and the sign.
    fn circular(&mut self, x: Val, quarter: i64) -> Val {
        let ints = Ty { elem: Elem::I32, lanes: x.ty.lanes };
        let turns = self.times(x, std::f64::consts::FRAC_2_PI);
        let nearest = self.intrinsic("llvm.rint", &[turns]);
        let mut rest = x;
        for part in HALF_PI {
            rest = self.fused(nearest, -part, rest);
        }
        let number = self.convert("arith.fptosi", nearest, Elem::I32);
        let quarter = self.int(quarter, ints);
        let number = self.two("arith.addi", number, quarter);
        let square = self.two("arith.mulf", rest, rest);
        let sine = self.polynomial(square, &SIN);
        let sine = self.two("arith.mulf", sine, square);
        let sine = self.intrinsic("llvm.fma", &[sine, rest, rest]);
        let cosine = self.polynomial(square, &COS);
        let half = self.float(-0.5, x.ty);
        let cosine = self.intrinsic("llvm.fma", &[cosine, square, half]);
        let one = self.float(1.0, x.ty);
        let cosine = self.intrinsic("llvm.fma", &[cosine, square, one]);
        let (zero, bit, next) = (self.int(0, ints), self.int(1, ints), self.int(2, ints));
        let odd = self.two("arith.andi", number, bit);
        let even = self.compare(Cmp::Eq, odd, zero);
        let value = self.select(even, sine, cosine);
        let turned = self.two("arith.andi", number, next);
        let upright = self.compare(Cmp::Eq, turned, zero);
        let negative = self.one("arith.negf", value);
        self.select(upright, value, negative)
    }
}
