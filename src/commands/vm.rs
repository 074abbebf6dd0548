//! `perilune vm FILE.ptx --launch LAUNCH.ron`: runs a kernel in the PTX virtual machine.
//!
//! # Invariants
//! - Exit 0 means: every thread ended, no check found anything, and every expected buffer agrees.
//! - Dumps are written also when a check found something, so that one can look.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use perilune_ptx_vm::{
    Checks, Count, DEFAULT_STEP_LIMIT, Extents, Finding, Launch, LoadError, Machine, Mismatch,
    Module, Options, Outcome, Profile,
};

use crate::commands::device_args::checks;
use crate::commands::write_file;
use crate::console::Console;
use crate::exit::{Exit, Failure};

/// Arguments of `vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The PTX text
    #[arg(value_name = "FILE.ptx")]
    file: PathBuf,
    /// What to launch: entry, grid, block, parameters, expected results
    #[arg(long, value_name = "LAUNCH.ron")]
    launch: PathBuf,
    /// Checks beside bounds, alignment and barriers: `all`, `none`, or of `uninitialised,races`
    #[arg(long, alias = "check", default_value = "all", value_name = "CHECKS", value_parser = checks)]
    checks: Checks,
    /// Count memory requests too, and show the whole profile of the launch
    #[arg(long)]
    profile: bool,
    /// Write a buffer to a file afterwards
    #[arg(long, value_name = "NAME=FILE", value_parser = dump)]
    dump: Vec<(String, PathBuf)>,
    /// Registers of a thread, for the occupancy of the profile; without it the kernel's `.maxnreg`
    #[arg(long, value_name = "N", requires = "profile")]
    registers: Option<u32>,
    /// Threads to run CTAs on, 0 for as many as there are; the results of a kernel without data races do not
    /// depend on it
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Warp instructions to execute at most
    #[arg(long, default_value_t = DEFAULT_STEP_LIMIT, value_name = "N")]
    steps: u64,
    /// Machine-readable output on stdout, in RON
    #[arg(long, conflicts_with = "json")]
    ron: bool,
}

/// What `--json` and `--ron` write.
#[derive(serde::Serialize)]
struct Report<'r> {
    version: u32,
    completed: bool,
    findings: Vec<FindingReport<'r>>,
    mismatches: Vec<MismatchReport<'r>>,
    warp_instructions: u64,
    lane_instructions: u64,
    mix: &'r BTreeMap<String, Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'r Profile>,
}

#[derive(serde::Serialize)]
struct FindingReport<'r> {
    code: &'r str,
    message: &'r str,
    file: &'r str,
    line: u32,
    column: u32,
    text: &'r str,
    origin: Option<Origin<'r>>,
    other: Option<Other<'r>>,
    cta: [u32; 3],
    warp: u32,
    lane: u32,
    count: u64,
}

/// A line of the source that the PTX came from.
#[derive(serde::Serialize)]
struct Origin<'r> {
    file: &'r str,
    line: u64,
}

/// The other party of a race or deadlock.
#[derive(serde::Serialize)]
struct Other<'r> {
    line: u32,
    text: &'r str,
}

#[derive(serde::Serialize)]
struct MismatchReport<'r> {
    buffer: &'r str,
    element: usize,
    got: f64,
    want: f64,
    count: usize,
}

fn dump(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("expected NAME=FILE")?;
    Ok((name.to_owned(), PathBuf::from(file)))
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let module = read_module(&args.file)?;
    let launch = Launch::read(&args.launch).map_err(|error| refused(&error))?;
    let options = Options {
        checks: args.checks,
        threads: args.threads,
        step_limit: args.steps,
        profile: args.profile,
    };
    let outcome = Machine::run(&module, &launch, &options).map_err(|error| refused(&error))?;
    for (name, path) in &args.dump {
        let bytes = outcome.buffer(name).ok_or_else(|| no_buffer(name))?;
        write_file(path, &bytes)?;
    }
    let mismatches =
        launch.compare(|name| outcome.buffer(name)).map_err(|error| refused(&error))?;
    let profile =
        args.profile.then(|| profile(&module, &launch, &outcome, args.registers)).flatten();
    let mix = outcome.counters.mix(&module);
    let report = || report(&outcome, &mismatches, (&mix, profile.as_ref()));
    if console.json {
        let value = serde_json::to_value(report());
        console.json(&value.map_err(|e| Failure::internal(format!("a report is no JSON: {e}")))?);
    } else if args.ron {
        let text = ron::ser::to_string_pretty(&report(), ron::ser::PrettyConfig::default());
        console.data(&text.map_err(|e| Failure::internal(format!("a report is no RON: {e}")))?);
    } else {
        let counts = profile.as_ref().map_or_else(|| mix_text(&mix), Profile::to_string);
        console.data(&report_text(&outcome, &mismatches, &counts));
    }
    let good = outcome.completed && outcome.findings.is_empty() && mismatches.is_empty();
    Ok(if good { Exit::Ok } else { Exit::Spec })
}

fn profile(
    module: &Module,
    launch: &Launch,
    outcome: &Outcome,
    registers: Option<u32>,
) -> Option<Profile> {
    let kernel = module.kernels().iter().find(|kernel| kernel.name == launch.entry);
    let registers = registers.or(kernel?.max_registers);
    Profile::new(module, &launch.entry, Extents::from(launch), &outcome.counters, registers)
}

fn read_module(path: &Path) -> Result<Module, Failure> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::input(format!("cannot read `{name}`: {error}")))?;
    // What is no UTF-8 shows as a character that is no PTX, and is refused at its place.
    let text = String::from_utf8_lossy(&bytes);
    Module::parse_named(&name, &text).map_err(|error| refused(&error))
}

fn refused(error: &LoadError) -> Failure {
    Failure::input(error.to_string())
}

fn no_buffer(name: &str) -> Failure {
    Failure::new(Exit::Usage, format!("the launch has no buffer `{name}`"))
        .help("`--dump` takes the name of a `Buffer` of the launch")
}

/// The opcodes executed most, first.
fn by_count(mix: &BTreeMap<String, Count>) -> Vec<(&String, &Count)> {
    let mut sorted: Vec<(&String, &Count)> = mix.iter().collect();
    sorted.sort_by_key(|(name, count)| (std::cmp::Reverse(count.lanes), *name));
    sorted
}

fn mix_text(mix: &BTreeMap<String, Count>) -> String {
    let mut text = String::new();
    for (name, count) in by_count(mix) {
        let _ = writeln!(text, "{:>14} {name}", count.lanes);
    }
    text
}

fn report_text(outcome: &Outcome, mismatches: &[Mismatch], counts: &str) -> String {
    let mut text = String::new();
    for finding in &outcome.findings {
        let _ = writeln!(text, "{finding}\n");
    }
    for wrong in mismatches {
        let Mismatch { buffer, element, got, want, count } = wrong;
        let _ = writeln!(
            text,
            "`{buffer}` has {count} wrong elements, first [{element}]: {got} where {want} is right\n"
        );
    }
    let total = outcome.counters.total();
    let _ = writeln!(text, "{} warp instructions, {} by lanes", total.warps, total.lanes);
    let _ = writeln!(text, "{}", counts.trim_end());
    text.push_str(if outcome.completed { "completed, " } else { "did not complete, " });
    text.push_str(&verdict(outcome.findings.len(), mismatches.len()));
    text
}

/// How many findings and how many buffers that are not as expected.
fn verdict(findings: usize, buffers: usize) -> String {
    let counted = |count: usize, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        _ => Some(format!("{count} {what}s")),
    };
    let parts = [counted(findings, "finding"), counted(buffers, "wrong buffer")];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "nothing found".to_owned() } else { parts.join(" and ") }
}

fn report<'r>(
    outcome: &'r Outcome,
    mismatches: &'r [Mismatch],
    (mix, profile): (&'r BTreeMap<String, Count>, Option<&'r Profile>),
) -> Report<'r> {
    let total = outcome.counters.total();
    let mismatch = |wrong: &'r Mismatch| {
        let Mismatch { buffer, element, got, want, count } = wrong;
        MismatchReport { buffer, element: *element, got: *got, want: *want, count: *count }
    };
    Report {
        version: 1,
        completed: outcome.completed,
        findings: outcome.findings.iter().map(finding_report).collect(),
        mismatches: mismatches.iter().map(mismatch).collect(),
        warp_instructions: total.warps,
        lane_instructions: total.lanes,
        mix,
        profile,
    }
}

fn finding_report(finding: &Finding) -> FindingReport<'_> {
    FindingReport {
        code: finding.code,
        message: &finding.message,
        file: &finding.file,
        line: finding.position.line,
        column: finding.position.column,
        text: &finding.text,
        origin: finding.origin.as_ref().map(|(file, line)| Origin { file, line: *line }),
        other: finding.other.as_ref().map(|(at, text)| Other { line: at.line, text }),
        cta: finding.cta,
        warp: finding.warp,
        lane: finding.lane,
        count: finding.count,
    }
}
