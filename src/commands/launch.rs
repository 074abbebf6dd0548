//! `perilune launch --ranks N -- train …`: N ranks on this machine, ended together.
//!
//! What a rank writes comes out with its number in front: stdout on stdout, stderr on stderr. With
//! `--json` all of it goes to stderr, and stdout gets one document that says how each rank ended.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::{Value, json};

use super::comm_args::seconds;
use crate::console::Console;
use crate::exit::{Exit, Failure};
use crate::launch::{self, End, Ended, Line, Outcome, Request};

/// Arguments of `launch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ranks to start
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    ranks: u32,
    /// How long a collective waits for its ranks, and a rank that others have lost may live on
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    timeout: Duration,
    /// The command of every rank, as after `perilune`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let request = Request { ranks: args.ranks, timeout: args.timeout, command: &args.command };
    let outcome = launch::launch(&request, &mut |line| match line {
        Line::Out(text) if !console.json => console.data(&text),
        // What ranks say is data and messages of theirs; `--quiet` is passed on, not applied.
        Line::Out(text) | Line::Err(text) => console.error(&text),
    })?;
    let exit = outcome.exit();
    if console.json {
        console.json(&outcome_json(&outcome));
    } else if exit != Exit::Ok {
        console.error(&summary(&outcome));
    }
    Ok(exit)
}

/// How the ranks ended, the first one first.
fn summary(outcome: &Outcome) -> String {
    let one = |ended: &Ended| match ended.end {
        End::Exit(code) => format!("rank {} with exit code {code}", ended.rank),
        End::Signal(signal) => format!("rank {} by signal {signal}", ended.rank),
        End::Unknown => format!("rank {} unseen", ended.rank),
    };
    let all: Vec<String> = outcome.ended.iter().map(one).collect();
    format!("ended: {}", all.join(", "))
}

fn outcome_json(outcome: &Outcome) -> Value {
    let one = |ended: &Ended| {
        let (exit, signal) = match ended.end {
            End::Exit(code) => (Some(code), None),
            End::Signal(signal) => (None, Some(signal)),
            End::Unknown => (None, None),
        };
        json!({"rank": ended.rank, "exit": exit, "signal": signal, "seconds": ended.seconds})
    };
    let exit = outcome.exit();
    let ended: Vec<Value> = outcome.ended.iter().map(one).collect();
    json!({"version": 1, "ok": exit == Exit::Ok, "exit": exit as u8, "ended": ended})
}
