//! `perilune explain SUBJECT`: an error code, a finding of the PTX VM, an op, a reason of fusion, or what
//! the compiler decided about a node.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use perilune_compiler::codes;
use perilune_compiler::compile;
use perilune_compiler::import::import;
use perilune_compiler::lower::{Generated, Target};
use perilune_compiler::ops::{OPS, OpInfo, op_info};
use perilune_compiler::program::{Program, Reason};
use perilune_compiler::spec::suggest;
use perilune_plan::{Plan, Step, StepOp};
use perilune_ptx_vm::{CODES, Explanation};
use serde_json::{Value, json};

use super::spec_args::{ScheduleArgs, pair};
use crate::collectives::{self, Line, Summary};
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::memory::{self, Promise};
use crate::pipeline::{self, Checked};
use crate::schedule;

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An error code (E0203) or its name, a finding of the PTX VM (V1101) or its name, an op (Einsum), a
    /// reason of fusion or sharding (F03), a node's path, `decisions` for all of them,
    /// `collectives` for what ranks exchange and hold, `memory` for what each rank holds, or `schedule`
    /// for what runs beside what
    subject: String,
    /// The spec that a node or a decision belongs to
    #[arg(long, value_name = "SPEC")]
    spec: Option<PathBuf>,
    /// Override a dim of the spec's model
    #[arg(long = "set", value_name = "DIM=VALUE", value_parser = pair, requires = "spec")]
    sets: Vec<(String, String)>,
    /// Another mesh than the spec says: dp=2,ep=2
    #[arg(long, value_name = "AXIS=RANKS,..", requires = "spec")]
    mesh: Option<String>,
    #[command(flatten)]
    schedule: ScheduleArgs,
    /// What the spec is compiled for; on a GPU a node's kernels show their schedules
    #[arg(long, default_value = "cpu", value_parser = PossibleValuesParser::new(Target::ALL.map(Target::name)))]
    target: String,
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let subject = args.subject.trim();
    let (text, value) = if let Some(spec) = &args.spec {
        let mut checked = pipeline::check_file_on(spec, &args.sets, args.mesh.as_deref())?;
        args.schedule.apply(&mut checked)?;
        if subject == "memory" {
            return held(console, &checked);
        }
        node(subject, &checked, Target::named(&args.target).unwrap_or(Target::Cpu))?
    } else {
        let by_name = || codes::all().into_iter().find(|e| e.name == subject);
        let found = codes::explain(subject).or_else(by_name).map(|found| code(&found));
        let op = || op_info(subject).map(describe_op);
        let reason =
            || Reason::ALL.iter().find(|r| r.code() == subject).map(|r| describe_reason(*r));
        let finding = || {
            let named = |row: &&Explanation| row.code == subject || row.name == subject;
            CODES.iter().find(named).map(describe_finding)
        };
        found.or_else(op).or_else(reason).or_else(finding).ok_or_else(|| unknown(subject))?
    };
    if console.json {
        console.json(&value)
    } else {
        console.data(&text)
    }
    Ok(Exit::Ok)
}

/// What each rank holds while it trains.
fn held(console: &Console, checked: &Checked) -> Result<Exit, Failure> {
    let promises = memory::promises(&pipeline::sketch(checked)?);
    if console.json {
        let ranks: Vec<Value> = promises.iter().map(Promise::json).collect();
        console.json(&json!({"version": 1, "memory": ranks}));
    } else {
        let lines: Vec<String> = promises.iter().map(Promise::to_string).collect();
        console.data(&lines.join("\n"));
    }
    Ok(Exit::Ok)
}

fn code(found: &codes::Explanation) -> (String, Value) {
    let text = format!("{}: {}\n\n{}", found.code, found.name, found.text);
    let code = found.code.to_string();
    (text, json!({"version": 1, "code": code, "name": found.name, "text": found.text}))
}

fn describe_op(op: &OpInfo) -> (String, Value) {
    let text = format!("{}: {}\n\n{}", op.name, op.summary, op.example.trim_end());
    let value = json!({
        "version": 1, "op": op.name, "summary": op.summary, "example": op.example,
        "results": op.results,
    });
    (text, value)
}

/// A finding or refusal of the PTX VM.
fn describe_finding(found: &Explanation) -> (String, Value) {
    let Explanation { code, name, text } = *found;
    let shown = format!("{code}: {name}\n\n{text}");
    (shown, json!({"version": 1, "code": code, "name": name, "text": text}))
}

/// What a decision with this code means, and how to see such decisions.
fn describe_reason(reason: Reason) -> (String, Value) {
    let (code, words) = (reason.code(), reason.words());
    let about = match code.starts_with('S') {
        true => "Why a value that ranks share out is put together, or kernels are kept apart.",
        false => "Why fusion let two kernels run together or kept them apart.",
    };
    let text = format!(
        "{code}: {words}\n\n{about} \
         `perilune explain decisions --spec SPEC` lists every decision with its numbers."
    );
    (text, json!({"version": 1, "code": code, "text": words}))
}

/// Where a node was written, what it is, and what was decided about it.
fn node(subject: &str, checked: &Checked, target: Target) -> Result<(String, Value), Failure> {
    let local = checked.local()?;
    let mut program = import(&local.name, &local.graphs());
    compile::optimize(&mut program);
    let (plan, generated) = compile::sketch(&program, target).map_err(pipeline::internal)?;
    if subject == "schedule" {
        return Ok(schedule::describe(&plan));
    }
    let (all, exchanges) = (subject == "decisions", subject == "collectives");
    let about = |path: &str| {
        let rest = path.strip_prefix(subject);
        all || rest.is_some_and(|r| r.is_empty() || r.starts_with(['.', '/']))
    };
    let mut text = String::new();
    let mut nodes = Vec::new();
    for graph in local.graphs().into_iter().filter(|_| !all && !exchanges) {
        for node in graph.nodes.values().filter(|n| about(&n.origin.path)) {
            let types: Vec<String> =
                node.results.iter().map(|&v| graph.ty(v).to_string()).collect();
            let place = node.origin.span.map_or(String::new(), |span| {
                let (line, column) = checked.sources.line_column(span.source, span.start);
                format!("{}:{line}:{column}", checked.sources.file(span.source).path)
            });
            let (path, op, ty) = (&node.origin.path, node.op.name(), types.join(", "));
            let _ = writeln!(text, "{} {path} = {op} : {ty}  {place}", graph.name);
            nodes.push(json!({
                "entry": graph.name, "path": path, "op": op, "types": types, "place": place,
            }));
        }
    }
    let (lines, decided) = decisions(&program, &about);
    let concerned = |line: &Line| exchanges || line.nodes.iter().any(|n| about(n));
    let entries = plan.entries.iter().filter(|_| !all);
    let lines_of = entries.flat_map(|e| collectives::of_entry(&plan, e)).filter(concerned);
    let exchanged: Vec<Line> = lines_of.collect();
    if nodes.is_empty() && decided.is_empty() && exchanged.is_empty() && !exchanges {
        return Err(Failure::new(Exit::Usage, format!("the spec has no node `{subject}`"))
            .help("`perilune build SPEC --emit graph` shows the paths there are"));
    }
    text += &lines;
    let summary = exchanges.then(|| Summary::of(&plan));
    match &summary {
        Some(_) if exchanged.is_empty() => text += "one rank exchanges nothing\n",
        Some(summary) => {
            let _ = writeln!(text, "{summary}");
        }
        None => {}
    }
    exchanged.iter().for_each(|line| {
        let _ = writeln!(text, "{line}");
    });
    let schedules = schedules((&plan, &generated), &about, &mut text);
    let mut value = json!({"version": 1, "nodes": nodes, "decisions": decided, "schedules": schedules,
        "collectives": exchanged.iter().map(Line::json).collect::<Vec<_>>()});
    if let Some(summary) = summary {
        value["summary"] = summary.json();
    }
    Ok((text, value))
}

/// What fusion decided about the nodes asked for, as lines and as data.
fn decisions(program: &Program, about: &impl Fn(&str) -> bool) -> (String, Vec<Value>) {
    let (mut lines, mut list) = (String::new(), Vec::new());
    let calls = program.entries.iter().flat_map(|e| e.calls.iter().map(move |c| (&e.name, c)));
    for (entry, d) in calls.flat_map(|(entry, c)| c.decisions.iter().map(move |d| (entry, d))) {
        if !about(&d.from) && !about(&d.to) {
            continue;
        }
        let (rule, code, words) = (d.rule.name(), d.reason.code(), d.reason.words());
        let _ = writeln!(
            lines,
            "{code} {entry} {rule}: {} -> {}: {words} ({} bytes, {} rows)",
            d.from, d.to, d.bytes, d.rows
        );
        list.push(json!({
            "entry": entry, "rule": rule, "code": code, "reason": words,
            "from": d.from, "to": d.to, "bytes": d.bytes, "rows": d.rows,
        }));
    }
    (lines, list)
}

/// The schedules of the generated kernels that compute a node, with the numbers that chose them.
fn schedules(
    (plan, generated): (&Plan, &[Generated]),
    about: &dyn Fn(&str) -> bool,
    text: &mut String,
) -> Vec<Value> {
    let concerned = |step: &&Step| step.nodes.iter().any(|n| about(&plan.nodes[*n as usize]));
    let steps = plan.entries.iter().flat_map(|e| &e.steps).filter(concerned);
    let launched: BTreeSet<&str> = steps
        .filter_map(|step| match &step.op {
            StepOp::Launch(launch) => Some(plan.kernels[launch.kernel as usize].name.as_str()),
            StepOp::Contract(_)
            | StepOp::Ragged(_)
            | StepOp::Attention(_)
            | StepOp::AttentionGrad(_)
            | StepOp::Copy { .. }
            | StepOp::Collective(_) => None,
        })
        .collect();
    let mut list = Vec::new();
    for generated in generated.iter().filter(|g| launched.contains(g.name.as_str())) {
        let (kernel, choice) = (&generated.name, &generated.choice);
        let schedule = ron::to_string(&choice.schedule).unwrap_or_default();
        let e = &choice.estimate;
        let _ = writeln!(
            text,
            "{kernel} on {}: {schedule}, best of {} by estimate: {:.1} µs, {} blocks in {} waves \
             of {} per processor, {} bytes shared, {:.0} % of the products useful",
            plan.target,
            choice.considered,
            e.microseconds,
            e.blocks,
            e.waves,
            e.occupancy,
            e.shared_bytes,
            100.0 * e.useful
        );
        list.push(json!({"kernel": kernel, "target": plan.target, "choice": choice}));
    }
    list
}

fn unknown(subject: &str) -> Failure {
    let all = codes::all();
    let codes = all.iter().flat_map(|e| [e.code.to_string(), e.name.to_owned()]);
    let others = OPS.iter().map(|op| op.name).chain(Reason::ALL.iter().map(|r| r.code()));
    let findings = CODES.iter().flat_map(|row| [row.code, row.name]);
    let names: Vec<String> = codes.chain(others.chain(findings).map(str::to_owned)).collect();
    let near = suggest::nearest(subject, names.iter().map(String::as_str));
    let failure = Failure::new(Exit::Usage, format!("nothing here is called `{subject}`"));
    match near {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => failure.help("give an error code (E0203), an op (Einsum), or a node with --spec"),
    }
}
