//! `perilune explain SUBJECT`: what an error code means.

use perilune_compiler::codes;
use perilune_compiler::spec::suggest;
use serde_json::json;

use crate::console::Console;
use crate::exit::{Exit, Failure};

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An error code (E0203), or its name (duplicate-key)
    subject: String,
}

pub(crate) fn run(console: &Console, args: &Args) -> Result<Exit, Failure> {
    let subject = args.subject.trim();
    let by_name = || codes::all().into_iter().find(|e| e.name == subject);
    let Some(found) = codes::explain(subject).or_else(by_name) else {
        return Err(unknown(subject));
    };
    if console.json {
        console.json(&json!({
            "version": 1,
            "code": found.code.to_string(),
            "name": found.name,
            "text": found.text,
        }));
    } else {
        console.data(&format!("{}: {}\n\n{}", found.code, found.name, found.text));
    }
    Ok(Exit::Ok)
}

fn unknown(subject: &str) -> Failure {
    let all = codes::all();
    let names: Vec<String> =
        all.iter().flat_map(|e| [e.code.to_string(), e.name.to_owned()]).collect();
    let near = suggest::nearest(subject, names.iter().map(String::as_str));
    let failure = Failure::new(Exit::Usage, format!("nothing here is called `{subject}`"));
    match near {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => failure.help("give an error code such as E0203"),
    }
}
