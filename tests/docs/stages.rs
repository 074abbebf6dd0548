//! The page that follows one norm of k2-nano through every stage.

use std::fmt::Write;

use perilune::library::Library;
use perilune_compiler::compile::compile;
use perilune_compiler::elaborate::{Elaborated, load_train};
use perilune_compiler::import::import;
use perilune_compiler::lower::Target;
use perilune_compiler::program::print::print;
use perilune_compiler::stages::{STAGES, advance, position};
use perilune_plan::Step;

use crate::committed::heading;
use crate::console::Console;
use crate::markdown::read;
use crate::ops::capital;

/// The block instance that the page follows.
const NODE: &str = "model.layers.0.mlp_norm";
/// Most lines shown of a kernel's text.
const LINES: usize = 48;

/// The training step of k2-nano.
fn nano() -> Elaborated {
    let (elaborated, told, _) = load_train(&Library::default(), "k2-nano/train.ron", &[]);
    elaborated.unwrap_or_else(|| panic!("{:?}", told.list()))
}

/// The page.
pub(crate) fn page() -> String {
    let spec = nano();
    let mut out = heading("Stages", "the training step of k2-nano");
    let _ = writeln!(
        out,
        "Every stage on the road from a spec to machine code is text: `perilune build SPEC --emit \
         STAGE` prints it, `perilune opt FILE --from STAGE --to STAGE` goes on from an edited one.\n\
         This page follows one block of k2-nano, the norm `{NODE}` of the forward, through all of \
         them."
    );
    block(
        &mut out,
        "Spec",
        "What was typed: `--emit spec`.",
        "ron",
        &read("models/blocks/rmsnorm.ron"),
    );
    let graph = spec.forward.to_string();
    let lines: Vec<&str> = graph.lines().filter(|line| line.contains(NODE)).collect();
    let what =
        "What it means: typed ops, bound dims, one flat list for each entry: `--emit graph`.";
    block(&mut out, "Graph", what, "text", &lines.join("\n"));
    programs(&mut out, &spec);
    lowered(&mut out, &spec);
    plan(&mut out, &spec);
    out
}

fn block(out: &mut String, title: &str, what: &str, language: &str, text: &str) {
    let _ = writeln!(out, "\n## {title}\n\n{what}\n\n```{language}\n{}\n```", text.trim_end());
}

/// The program at every stage: the calls of the node and the kernels they call, these only where
/// they are others than before.
fn programs(out: &mut String, spec: &Elaborated) {
    let mut program = import(&spec.name, &spec.graphs());
    advance(&mut program, 0, 0);
    let mut before = Excerpt::default();
    for (at, stage) in STAGES.iter().enumerate() {
        if at > 0 {
            advance(&mut program, at - 1, at);
        }
        let now = excerpt(&print(&program));
        let (title, what) =
            (format!("mlir:{}", stage.name), format!("{}.", capital(stage.summary)));
        if now == before {
            let _ = writeln!(out, "\n## {title}\n\n{what}\nNothing changes for this norm.");
        } else if now.bodies == before.bodies {
            let what = format!("{what}\nThe kernels are those from before.");
            block(out, &title, &what, "mlir", &now.calls);
        } else {
            let text = format!("{}\n  // in @forward\n{}", now.kernels, now.calls);
            block(out, &title, &what, "mlir", &text);
        }
        before = now;
    }
}

/// The calls of the followed node in `forward`, and the kernels they call.
#[derive(Default, PartialEq)]
struct Excerpt {
    calls: String,
    kernels: String,
    /// The kernels without their names.
    bodies: String,
}

fn excerpt(module: &str) -> Excerpt {
    let mut entry = module.lines().skip_while(|line| !line.contains("func.func @forward("));
    let body: Vec<&str> = entry.by_ref().take_while(|line| *line != "  }").collect();
    let needle = format!("\"{NODE}.");
    let is_call = |line: &&str| line.contains("func.call @") && line.contains(&needle);
    let calls: Vec<&str> = body.into_iter().filter(is_call).collect();
    let mut out = Excerpt { calls: calls.join("\n"), ..Excerpt::default() };
    for kernel in kernels_of(&calls) {
        let head = format!("func.func private @{kernel}(");
        let text = module.lines().skip_while(|line| !line.contains(&head));
        for line in text {
            let _ = writeln!(out.kernels, "{line}");
            let _ = writeln!(out.bodies, "{}", line.replace(&head, "("));
            if line == "  }" {
                break;
            }
        }
    }
    out
}

/// Names of the kernels that calls call, each once.
fn kernels_of<'a>(calls: &[&'a str]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for call in calls {
        let name = call.split("func.call @").nth(1).and_then(|rest| rest.split('(').next());
        let name = name.expect("a call names its kernel");
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The loops, CLIF and PTX of the norm's kernel.
fn lowered(out: &mut String, spec: &Elaborated) {
    let mut program = import(&spec.name, &spec.graphs());
    advance(&mut program, 0, STAGES.len() - 1);
    let text = excerpt(&print(&program)).calls;
    let calls: Vec<&str> = text.lines().collect();
    let name = *kernels_of(&calls).last().expect("the norm is a kernel");
    let what = "Tiled and vectorised loops: `--emit mlir:loops`.";
    block(out, "mlir:loops", what, "mlir", &first_lines(&emitted("mlir:loops", name)));
    let what = "What Cranelift compiles on the machine that runs the plan: `--emit clif`.";
    block(out, "clif", what, "text", &first_lines(&emitted("clif", name)));
    let what = "The same kernel for NVIDIA GPUs: `--emit ptx`.";
    block(out, "ptx", what, "text", &first_lines(&emitted("ptx", name)));
}

/// A kernel's text as `build` writes it: from the line that names it to the next such line.
fn emitted(stage: &str, kernel: &str) -> String {
    let line = format!("perilune build models/k2-nano/train.ron --emit {stage}");
    let all = Console::new().data(&line);
    let mut text = all.lines().skip_while(|line| named(line) != Some(kernel));
    let first = text.next().unwrap_or_else(|| panic!("{stage}: no kernel `{kernel}`"));
    let rest = text.take_while(|line| named(line).is_none());
    [first].into_iter().chain(rest).collect::<Vec<_>>().join("\n")
}

/// The kernel that a line opens: `;; name: …`, `// name`, `module @name …`.
fn named(line: &str) -> Option<&str> {
    let marks = [";; ", "// ", "module @"];
    let rest = marks.iter().find_map(|mark| line.strip_prefix(mark))?;
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    let opens = after.is_empty() || after.starts_with(':') || line.starts_with("module @");
    (opens && name.contains('_')).then_some(name)
}

fn first_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    if lines.len() <= LINES + 4 {
        return lines.join("\n");
    }
    format!("{}\n… {} more lines", lines[..LINES].join("\n"), lines.len() - LINES)
}

/// The steps of the plan that run the norm.
fn plan(out: &mut String, spec: &Elaborated) {
    let last = position("bufferise").expect("a stage of this name");
    assert_eq!(last, STAGES.len() - 1, "the plan is made from the last stage");
    let plan = compile(spec, Target::Cpu).expect("compiles").plan;
    let entry = plan.entries.iter().find(|e| e.name == "forward").expect("an entry");
    let ours = |step: &&Step| {
        let mut paths = step.nodes.iter().map(|&node| &plan.nodes[node as usize]);
        paths.any(|path| path.starts_with(NODE))
    };
    let steps = entry.steps.iter().filter(ours);
    let text: Vec<String> = steps.map(|step| ron::to_string(step).expect("RON")).collect();
    assert!(!text.is_empty(), "no step runs {NODE}");
    let what = "The step that runs it, as the plan holds it: `--emit plan`, described in [Plans](plan.md).";
    block(out, "plan", what, "ron", &text.join("\n"));
}
