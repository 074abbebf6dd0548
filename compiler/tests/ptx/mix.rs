//! The instructions a PTX text holds, counted by what they keep busy.

use std::fmt::Write as _;

/// Classes in the order they are shown; an instruction belongs to the first that has its opcode.
const CLASSES: [(&str, &[&str]); 17] = [
    ("mma", &["mma."]),
    ("ldmatrix", &["ldmatrix."]),
    ("cp.async", &["cp.async.ca", "cp.async.cg"]),
    ("wait", &["cp.async."]),
    ("ld.global", &["ld.global"]),
    ("st.global", &["st.global"]),
    ("ld.shared", &["ld.shared"]),
    ("st.shared", &["st.shared"]),
    ("local", &["ld.local", "st.local"]),
    ("special", &["ex2.", "lg2.", "rcp.", "rsqrt.", "sqrt.", "div.", "tanh.", "sin.", "cos."]),
    ("fma", &["fma."]),
    ("float", &FLOAT),
    ("shfl", &["shfl."]),
    ("bar", &["bar.", "barrier."]),
    ("branch", &["bra", "ret"]),
    ("convert", &["cvt."]),
    ("param", &["ld.param", "cvta."]),
];

const FLOAT: [&str; 12] = [
    "add.f", "sub.f", "mul.f", "add.rn.f", "sub.rn.f", "mul.rn.f", "min.f", "max.f", "max.NaN",
    "min.NaN", "neg.f", "abs.f",
];

/// `fma 128 ld.shared 32 …`: every class that occurs, then the rest.
pub(crate) fn histogram(ptx: &str) -> String {
    let mut counts = [0u32; CLASSES.len()];
    let mut rest = 0;
    for opcode in opcodes(ptx) {
        let class = CLASSES.iter().position(|(_, all)| all.iter().any(|o| opcode.starts_with(o)));
        match class {
            Some(class) => counts[class] += 1,
            None => rest += 1,
        }
    }
    let mut text = String::new();
    for ((name, _), count) in CLASSES.iter().zip(counts).filter(|(_, count)| *count > 0) {
        let _ = write!(text, " {name} {count}");
    }
    let _ = write!(text, " int {rest}");
    text
}

/// The opcodes of a text's statements.
fn opcodes(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.split(';').filter_map(|statement| {
        // What stands before an instruction in its statement: comments, labels, braces.
        let beside =
            |l: &&str| !l.is_empty() && !l.starts_with(['/', '{', '}']) && !l.ends_with(':');
        let line = statement.lines().map(str::trim).find(beside)?;
        let code = match line.strip_prefix('@') {
            Some(guarded) => guarded.split_once(char::is_whitespace)?.1.trim(),
            None => line,
        };
        code.split_whitespace().next().filter(|opcode| !opcode.starts_with('.'))
    })
}
