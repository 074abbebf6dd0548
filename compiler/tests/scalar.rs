//! Scalar expressions from text to value and derivative.

use std::ops::Range;

use perilune_compiler::ops::codes;
use perilune_compiler::scalar::Body;
use perilune_compiler::scalar::derive::derivative;
use perilune_compiler::scalar::elaborate::{
    ExprError, FUNCTIONS, Resolve, Resolved, elaborate, evaluate,
};
use perilune_compiler::scalar::eval::Evaluator;
use perilune_compiler::scalar::parse::{Word, parse};
use perilune_compiler::types::DType;
use proptest::prelude::*;

/// `x` and `y` are f64, `n` is i32, `h` is bf16, `two` is the constant 2.
struct Names;

impl Resolve for Names {
    fn name(
        &mut self,
        name: &str,
        _: Option<&[Word]>,
        _: &Range<u32>,
    ) -> Result<Option<Resolved>, ExprError> {
        Ok(match name {
            "x" => Some(Resolved::Arg(0, DType::f64)),
            "y" => Some(Resolved::Arg(1, DType::f64)),
            "n" => Some(Resolved::Arg(2, DType::i32)),
            "h" => Some(Resolved::Arg(3, DType::bf16)),
            "two" => Some(Resolved::Constant(2.0)),
            _ => None,
        })
    }

    fn dim(&mut self, word: &str) -> Option<u32> {
        (word == "d").then_some(0)
    }
}

const ARGS: [DType; 4] = [DType::f64, DType::f64, DType::i32, DType::bf16];

fn body(text: &str) -> Result<(Body, DType), ExprError> {
    elaborate(&parse(text).expect("parses"), &mut Names)
}

fn value(text: &str, x: f64, y: f64) -> f64 {
    let (body, _) = body(text).unwrap_or_else(|e| panic!("{text}: {}", e.message));
    Evaluator::new(&body, &ARGS, &[]).run(&[x, y, 5.0, 1.5], &[3], &|_, _| 0.0)[0]
}

#[test]
fn expressions_have_their_values() {
    assert_eq!(value("x^2 - 3 * y", 2.0, 1.0), 1.0);
    assert_eq!(value("silu(x)", 2.0, 0.0), 2.0 / (1.0 + (-2f64).exp()));
    assert_eq!(value("where(x > y && !(x >= 3), x, -y)", 2.0, 1.0), 2.0);
    assert_eq!(value("relu(x) + clamp(y, -1, two)", -2.0, 7.0), 2.0);
    assert_eq!(value("f32(n * two + index(d))", 0.0, 0.0), 13.0);
    assert_eq!(value("i32(x) % 3", 7.9, 0.0), 1.0);
    assert_eq!(value("softplus(x)", 800.0, 0.0), 800.0);
    assert_eq!(value("ceil(x) + floor(x)", -1.5, 0.0), -3.0);
    assert_eq!(value("mulhi(n, 1073741824)", 0.0, 0.0), 1.0);
    assert_eq!(value("pow(x, 0.5) * x^-1", 4.0, 0.0), 0.5);
    assert_eq!(value("f32(n == 5) + sign(-inf)", 0.0, 0.0), 0.0);
}

#[test]
fn softplus_has_its_slope_at_zero_and_far_out() {
    let (f, _) = body("softplus(x)").expect("fits");
    let slope = derivative(&f, &ARGS, &[], 0).expect("depends on x");
    let args = [ARGS.as_slice(), &[DType::f64]].concat();
    for (x, value, want) in [
        (0.0, 2f64.ln(), 0.5),
        (-0.0, 2f64.ln(), 0.5),
        (900.0, 900.0, 1.0),
        (-900.0, 0.0, 0.0),
        (f64::INFINITY, f64::INFINITY, 1.0),
        (f64::NEG_INFINITY, 0.0, 0.0),
    ] {
        assert_eq!(self::value("softplus(x)", x, 0.0), value, "at {x}");
        let mut slope = Evaluator::new(&slope, &args, &[]);
        let found = slope.run(&[x, 0.0, 5.0, 1.5, 1.0], &[3], &|_, _| 0.0)[0];
        assert_eq!(found, want, "the slope at {x}");
    }
}

#[test]
fn an_integer_power_takes_any_base() {
    assert_eq!(value("x^20", -2.0, 0.0), 1_048_576.0);
    assert_eq!(value("x^21 + x^-17", -1.0, 0.0), -2.0);
    assert_eq!(value("x^21", 0.0, 0.0), 0.0);
}

#[test]
fn constants_fold_and_cost_nothing() {
    let (b, ty) = body("sqrt(two * 8) + log(1) + (1 / 3) * 0").expect("fits");
    assert_eq!((b.ops.len(), ty), (1, DType::f32));
    let five = evaluate(&parse("where(3 > 2, max(5, 1), 0)").expect("parses"), &mut |_, _| None);
    assert_eq!(five.map_err(|e| e.message), Ok(5.0));
}

#[test]
fn mistakes_are_told_where_they_are() {
    for (text, code, blamed) in [
        ("x * h", codes::EXPR_TYPE, "x * h"),
        ("x + frobnicate(y)", codes::EXPR_FUNCTION, "frobnicate"),
        ("max(x)", codes::EXPR_FUNCTION, "max"),
        ("where(x, y, 0)", codes::EXPR_TYPE, "x"),
        ("n + 0.5", codes::EXPR_TYPE, "0.5"),
        ("exp(n)", codes::EXPR_TYPE, "n"),
        ("x && y", codes::EXPR_TYPE, "x && y"),
        ("index(q)", codes::EXPR_INDEX, "q"),
        ("shl(x, 1)", codes::EXPR_TYPE, "shl(x, 1)"),
    ] {
        let e = body(text).expect_err(text);
        let range = e.range.start as usize..e.range.end as usize;
        assert_eq!((e.code, &text[range]), (code, blamed), "{text}: {}", e.message);
    }
}

#[test]
fn every_documented_function_exists() {
    for f in FUNCTIONS {
        let known =
            ["f(x)", "f(x, y)", "f(x, y, 1)", "f(n, n)", "f(x > y)", "f(x > y, x, y)", "f(d)"]
                .iter()
                .any(|call| body(&call.replacen('f', f, 1)).is_ok());
        assert!(known, "{f}");
    }
}

#[test]
fn text_of_a_body_shares_what_is_used_twice() {
    let (b, _) = body("silu(x) * sigmoid(x) + y").expect("fits");
    assert_eq!(b.to_string(), "t0 = sigmoid(a0); (((a0 * t0) * t0) + a1)");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn derivatives_match_finite_differences(x in 0.2f64..2.0, y in -2.0f64..2.0) {
        for text in [
            "x * y + x", "x / (y * y + 1)", "exp(x) - log(x)", "sqrt(x) * rsqrt(x + 1)",
            "tanh(x * y)", "sigmoid(x) * silu(y)", "softplus(y) * x", "sin(x) * cos(y)",
            "max(x, y) * min(x, y)", "abs(y) * x", "where(x > y, x * x, y * x)", "pow(x, y)",
            "pow(x, 3) + x^-2", "pow(x, 1.7)", "relu(y) * x", "clamp(y, -1, 1) * x", "-(x - y)^2",
            "f64(f32(x)) * floor(y + 10)", "x % 0.7", "x * f64(n) + sign(y)",
        ] {
            let (f, _) = body(text).expect(text);
            for (wrt, step) in [(0u32, [1e-6, 0.0]), (1, [0.0, 1e-6])] {
                let at = |s: f64| value(text, x + s * step[0], y + s * step[1]);
                let numeric = (at(1.0) - at(-1.0)) / 2e-6;
                let analytic = derivative(&f, &ARGS, &[], wrt).map_or(0.0, |d| {
                    let args = [ARGS.as_slice(), &[DType::f64]].concat();
                    let values = [x, y, 5.0, 1.5, 1.0];
                    Evaluator::new(&d, &args, &[]).run(&values, &[3], &|_, _| 0.0)[0]
                });
                // A kink within the step makes the difference meaningless.
                if (at(1.0) - 2.0 * at(0.0) + at(-1.0)).abs() < 1e-9 {
                    prop_assert!((numeric - analytic).abs() < 1e-6 * (1.0 + numeric.abs()),
                        "{text} wrt {wrt} at {x}, {y}: {numeric} vs {analytic}");
                }
            }
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[a-z0-9 .+*/()\\[\\],<>=!&|^-]{0,40}") {
        if let Ok(e) = parse(&text) {
            let _ = elaborate(&e, &mut Names);
        }
    }
}
