//! The plan's file: a few readable lines, the RON header, then each kernel's text.
//!
//! ```text
//! perilune-plan 5
//! blake3 <64 hexadecimal digits over every byte after this line>
//! header <bytes>
//! (format: 5, name: "k2-nano/train", …)
//! kernel map_3 <bytes>
//! function u0:0(…) { … }
//! …
//! end
//! ```
//!
//! # Invariants
//! - `read(write(plan)) == plan`, and equal plans give equal bytes.
//! - A reader takes nothing on trust: sizes are bounded, the hash must match, every section must be
//!   there and no other, and the plan must [verify](Plan::verify).

use std::fmt::Write as _;

use ron::ser::PrettyConfig;

use crate::{FORMAT_VERSION, Plan, PlanError};

/// First word of the file.
const MAGIC: &str = "perilune-plan";
/// Largest file a reader accepts.
const MAX_BYTES: usize = 1 << 30;
/// RON nesting a reader accepts; a plan needs fewer than ten levels.
const MAX_DEPTH: usize = 32;
/// Levels of the header that are spread over lines: a step is one line.
const SPREAD_DEPTH: usize = 4;

/// The file of a plan.
///
/// # Errors
/// When the plan does not verify or RON cannot express it.
pub fn write(plan: &Plan) -> Result<Vec<u8>, PlanError> {
    plan.verify()?;
    let pretty = PrettyConfig::new().depth_limit(SPREAD_DEPTH).new_line("\n").indentor("  ");
    let header = ron::ser::to_string_pretty(plan, pretty)
        .map_err(|e| PlanError::Header { message: e.to_string() })?;
    let texts: usize = plan.kernels.iter().map(|k| k.text.len() + k.name.len() + 32).sum();
    let mut body = String::with_capacity(header.len() + texts + 64);
    section(&mut body, "header", &header);
    for kernel in &plan.kernels {
        section(&mut body, &format!("kernel {}", kernel.name), &kernel.text);
    }
    body.push_str("end\n");
    let hash = blake3::hash(body.as_bytes());
    Ok(format!("{MAGIC} {FORMAT_VERSION}\nblake3 {hash}\n{body}").into_bytes())
}

fn section(body: &mut String, title: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = write!(body, "{title} {}\n{text}\n", text.len());
}

/// The plan in a file.
///
/// # Errors
/// When the bytes are not a whole, unaltered plan of this version, or the plan does not verify.
pub fn read(bytes: &[u8]) -> Result<Plan, PlanError> {
    if bytes.len() > MAX_BYTES {
        return Err(PlanError::TooLarge { bytes: bytes.len() as u64, limit: MAX_BYTES as u64 });
    }
    let mut rest = bytes;
    let magic = line(&mut rest).and_then(|l| l.strip_prefix(MAGIC)).ok_or(PlanError::NotAPlan)?;
    let version = magic.trim().parse::<u32>().map_err(|_| PlanError::NotAPlan)?;
    if version != FORMAT_VERSION {
        return Err(PlanError::Version { found: version });
    }
    let hash =
        line(&mut rest).and_then(|l| l.strip_prefix("blake3 ")).ok_or(PlanError::Truncated)?;
    if blake3::hash(rest).to_hex().as_str() != hash {
        return Err(PlanError::Hash);
    }
    let mut plan = header(take(&mut rest, "header")?)?;
    for kernel in &mut plan.kernels {
        kernel.text = take(&mut rest, &format!("kernel {}", kernel.name))?.to_owned();
    }
    if rest != b"end\n" {
        return Err(PlanError::Truncated);
    }
    plan.verify()?;
    Ok(plan)
}

fn header(text: &str) -> Result<Plan, PlanError> {
    let options = ron::Options::default().with_recursion_limit(MAX_DEPTH);
    options.from_str(text).map_err(|e| PlanError::Header { message: e.to_string() })
}

/// The next line; `None` if there is no whole one or it is not UTF-8.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let end = rest.iter().position(|b| *b == b'\n')?;
    let line = std::str::from_utf8(&rest[..end]).ok()?;
    *rest = &rest[end + 1..];
    Some(line)
}

/// The text of the next section, which must have this title.
fn take<'a>(rest: &mut &'a [u8], title: &str) -> Result<&'a str, PlanError> {
    let missing = || PlanError::Section { title: title.to_owned() };
    let first = line(rest).ok_or(PlanError::Truncated)?;
    let bytes = first.strip_prefix(title).ok_or_else(missing)?;
    let bytes: usize = bytes.trim_start().parse().map_err(|_| missing())?;
    if bytes >= rest.len() || rest[bytes] != b'\n' {
        return Err(PlanError::Truncated);
    }
    let text = std::str::from_utf8(&rest[..bytes]).map_err(|_| missing())?;
    *rest = &rest[bytes + 1..];
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::*;

    fn plan() -> Plan {
        Plan {
            format: FORMAT_VERSION,
            name: "toy/train".into(),
            target: "cpu".into(),
            mesh: Mesh::default(),
            machine: None,
            tensors: vec![TensorDecl {
                name: "w".into(),
                dtype: DType::f32,
                shape: vec![4, 8],
                kind: TensorKind::Param,
                shard: None,
                owner: None,
            }],
            kernels: vec![KernelDecl {
                name: "map_0".into(),
                text: "function u0:0(i64, i64, i64) {\n}\n".into(),
                params: vec![
                    KernelParam { dtype: DType::f32, elems: 32, written: false },
                    KernelParam { dtype: DType::f32, elems: 32, written: true },
                ],
                blocks: 1,
                threads: 1,
                shared: crate::SharedMemory::default(),
                flops: 32,
                bytes: 256,
                numerics: "f32".into(),
            }],
            entries: vec![Entry {
                name: "train_step".into(),
                feeds: vec![],
                fetches: vec![],
                arena_bytes: 128,
                buffers: vec![
                    Buffer { dtype: DType::f32, elems: 32, place: Place::Tensor(0) },
                    Buffer { dtype: DType::f32, elems: 32, place: Place::Arena(0) },
                ],
                steps: vec![Step {
                    op: StepOp::Launch(Launch { kernel: 0, args: vec![0, 1] }),
                    nodes: vec![0],
                    only: None,
                }],
            }],
            nodes: vec!["layers.0.x".into()],
        }
    }

    #[test]
    fn a_plan_comes_back_as_it_was() {
        let bytes = write(&plan()).unwrap();
        assert_eq!(read(&bytes).unwrap(), plan());
        assert_eq!(write(&read(&bytes).unwrap()).unwrap(), bytes);
        assert!(bytes.starts_with(b"perilune-plan 5\nblake3 "));
    }

    #[test]
    fn no_prefix_and_no_altered_byte_is_accepted() {
        let bytes = write(&plan()).unwrap();
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "prefix of {end} bytes");
        }
        for i in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[i] ^= 1;
            assert!(read(&altered).is_err(), "byte {i}");
        }
    }

    /// A file with a right hash around any header.
    fn sealed(header: &str) -> Vec<u8> {
        let mut body = String::new();
        section(&mut body, "header", header);
        body.push_str("end\n");
        format!("{MAGIC} {FORMAT_VERSION}\nblake3 {}\n{body}", blake3::hash(body.as_bytes()))
            .into_bytes()
    }

    #[test]
    fn deep_nesting_is_refused_not_recursed_into() {
        let deep = format!("(format: {}", "(".repeat(100_000));
        assert!(matches!(read(&sealed(&deep)), Err(PlanError::Header { .. })));
    }

    #[test]
    fn an_edited_plan_that_reaches_outside_a_buffer_is_refused() {
        let cases: [fn(&mut Plan); 8] = [
            |p| p.entries[0].buffers[1].place = Place::Arena(64),
            |p| p.entries[0].buffers[1].place = Place::Arena(u64::MAX - 3),
            |p| p.entries[0].buffers[0].elems = 33,
            |p| p.entries[0].buffers[0].place = Place::Tensor(1),
            |p| p.kernels[0].params[1].elems = 33,
            |p| p.entries[0].steps[0].nodes = vec![],
            |p| p.entries[0].steps[0].op = StepOp::Copy { src: 0, dst: 2 },
            |p| p.tensors[0].shape = vec![u64::MAX, u64::MAX],
        ];
        for (i, edit) in cases.iter().enumerate() {
            let mut plan = plan();
            edit(&mut plan);
            assert!(matches!(write(&plan), Err(PlanError::Invalid { .. })), "case {i}");
        }
    }

    #[test]
    fn another_version_is_named() {
        assert!(matches!(read(b"perilune-plan 7\n"), Err(PlanError::Version { found: 7 })));
        assert!(matches!(read(b"PK\x03\x04"), Err(PlanError::NotAPlan)));
    }
}
