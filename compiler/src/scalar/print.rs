//! Bodies as text: nested expressions, with a `let` for what is used twice.
//!
//! # Invariants
//! - Text is a function of the body alone; equal bodies print alike.

use super::{Binary, Body, Cmp, S, ScalarOp};

impl std::fmt::Display for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut uses = vec![0u32; self.ops.len()];
        for op in &self.ops {
            op.operands(&mut |s| uses[s.0 as usize] += 1);
        }
        let mut texts: Vec<String> = Vec::with_capacity(self.ops.len());
        let mut lets = 0;
        for (i, op) in self.ops.iter().enumerate() {
            let text = op_text(op, &texts);
            let leaf = matches!(
                op,
                ScalarOp::Arg(_) | ScalarOp::Float(..) | ScalarOp::Int(..) | ScalarOp::Index(_)
            );
            if uses[i] > 1 && !leaf {
                write!(f, "t{lets} = {text}; ")?;
                texts.push(format!("t{lets}"));
                lets += 1;
            } else {
                texts.push(text);
            }
        }
        let results: Vec<&str> =
            self.results.iter().map(|r| texts[r.0 as usize].as_str()).collect();
        f.write_str(&results.join(", "))
    }
}

fn op_text(op: &ScalarOp, texts: &[String]) -> String {
    let of = |s: &S| texts[s.0 as usize].as_str();
    match op {
        ScalarOp::Arg(n) => format!("a{n}"),
        ScalarOp::Float(bits, _) => format!("{:?}", f64::from_bits(*bits)),
        ScalarOp::Int(n, _) => format!("{n}"),
        ScalarOp::Index(d) => format!("index({d})"),
        ScalarOp::Load(n, at) => {
            format!("load{n}[{}]", at.iter().map(of).collect::<Vec<_>>().join(", "))
        }
        ScalarOp::Unary(u, x) => format!("{}({})", format!("{u:?}").to_lowercase(), of(x)),
        ScalarOp::Binary(b, x, y) => match infix(*b) {
            Some(sign) => format!("({} {sign} {})", of(x), of(y)),
            None => format!("{}({}, {})", format!("{b:?}").to_lowercase(), of(x), of(y)),
        },
        ScalarOp::Cmp(c, x, y) => format!("({} {} {})", of(x), cmp_sign(*c), of(y)),
        ScalarOp::Select(c, x, y) => format!("where({}, {}, {})", of(c), of(x), of(y)),
        ScalarOp::Cast(x, ty) => format!("{ty}({})", of(x)),
    }
}

fn infix(b: Binary) -> Option<&'static str> {
    match b {
        Binary::Add => Some("+"),
        Binary::Sub => Some("-"),
        Binary::Mul => Some("*"),
        Binary::Div => Some("/"),
        Binary::Rem => Some("%"),
        Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::Shl
        | Binary::Shr
        | Binary::MulHiU
        | Binary::Max
        | Binary::Min
        | Binary::Pow => None,
    }
}

fn cmp_sign(c: Cmp) -> &'static str {
    match c {
        Cmp::Eq => "==",
        Cmp::Ne => "!=",
        Cmp::Lt => "<",
        Cmp::Le => "<=",
        Cmp::Gt => ">",
        Cmp::Ge => ">=",
    }
}
