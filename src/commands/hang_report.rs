//! `perilune hang-report DIR`: what every rank of a job did last, and which one the others wait for.

use std::path::PathBuf;

use perilune_runtime::comm::Life;
use perilune_runtime::comm::flight::{Divergence, Rank, Report, State};
use serde_json::{Value, json};

use crate::console::Console;
use crate::exit::{Exit, Failure};

/// Arguments of `hang-report`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The `flight` folder of a run
    folder: PathBuf,
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let report = Report::read(&args.folder).ok_or_else(|| {
        Failure::input(format!("`{}` holds no flight recorders", args.folder.display()))
            .help("give the `flight` folder of a run on several ranks")
    })?;
    if console.json {
        console.json(&report_json(&report));
    } else {
        console.data(&text(&report));
    }
    Ok(Exit::Ok)
}

fn text(report: &Report) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (rank, found) in report.ranks.iter().enumerate() {
        lines.push(match found {
            Some(found) => rank_line(rank, found),
            None => format!("rank {rank:<4} has left no recorder here"),
        });
    }
    match &report.divergence {
        Some(divergence) => lines.extend(divergence_lines(divergence)),
        None => lines.push("every collective was entered alike by all of its ranks".to_owned()),
    }
    if let Some((rank, what)) = &report.suspect {
        lines.push(format!("suspect: rank {rank} {what}"));
    }
    lines.join("\n")
}

fn rank_line(rank: usize, found: &Rank) -> String {
    let state = state(found);
    let host = found.ring.host();
    let last = match &found.last {
        None => "before its first collective".to_owned(),
        Some(record) if record.end_ns == 0 => format!("inside {}", record.site),
        Some(record) => format!("after {}", record.site),
    };
    format!("rank {rank:<4} {state:<10} {host}, {} collectives, {last}", found.ring.begun)
}

/// A rank's state in a word or two.
fn state(found: &Rank) -> String {
    match (found.ring.state, found.life) {
        (State::Left { exit }, _) => format!("exit {exit}"),
        (State::Lost, _) => "gave up".to_owned(),
        (State::Running, Life::Alive | Life::Ended { .. }) => "running".to_owned(),
        (State::Running, Life::Gone) => "gone".to_owned(),
        (State::Running, Life::Stopped) => "stopped".to_owned(),
        (State::Running, Life::Silent) => "silent".to_owned(),
    }
}

fn divergence_lines(divergence: &Divergence) -> Vec<String> {
    let Divergence { group, number, entered, absent } = divergence;
    let mut lines =
        vec![format!("first divergence: collective {number} of the ranks {}", list(group))];
    for (site, ranks) in entered {
        lines.push(format!("  {} entered {site}", list(ranks)));
    }
    if !absent.is_empty() {
        lines.push(format!("  {} entered none", list(absent)));
    }
    lines
}

fn list(ranks: &[u32]) -> String {
    let names: Vec<String> = ranks.iter().map(u32::to_string).collect();
    names.join(", ")
}

fn report_json(report: &Report) -> Value {
    let site = |site: &perilune_runtime::comm::OwnedSite| json!({"entry": site.entry, "step": site.step, "name": site.name, "node": site.node});
    let rank = |(rank, found): (usize, &Option<Rank>)| {
        let Some(found) = found else { return json!({"rank": rank, "state": null}) };
        let last = found.last.as_ref().map(|record| {
            json!({
                "number": record.number,
                "inside": record.end_ns == 0,
                "begin_ns": record.begin_ns,
                "end_ns": record.end_ns,
                "bytes": record.bytes,
                "group": record.group,
                "missing": record.missing,
                "site": site(&record.site),
            })
        });
        json!({
            "rank": rank,
            "state": state(found),
            "host": found.ring.host(),
            "process": found.ring.process_id(),
            "collectives": found.ring.begun,
            "last": last,
            "blames": found.ring.verdict.as_ref().map(|lost| lost.rank),
        })
    };
    let divergence = report.divergence.as_ref().map(|divergence| {
        let entered = divergence.entered.iter();
        let entered: Vec<Value> =
            entered.map(|(at, ranks)| json!({"site": site(at), "ranks": ranks})).collect();
        json!({
            "group": divergence.group,
            "number": divergence.number,
            "entered": entered,
            "absent": divergence.absent,
        })
    });
    let suspect = report.suspect.as_ref().map(|(rank, what)| json!({"rank": rank, "what": what}));
    let ranks: Vec<Value> = report.ranks.iter().enumerate().map(rank).collect();
    json!({
        "version": 1,
        "job": report.job,
        "ranks": ranks,
        "divergence": divergence,
        "suspect": suspect,
    })
}
