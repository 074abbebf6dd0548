//! The training report: one HTML file that needs nothing else, light and dark.
//!
//! # Invariants
//! - Self-contained: inline style and SVG, no script, no reference to another resource.
//! - Every name from a spec is escaped.
//! - A section without data is left out rather than drawn empty.

use std::collections::BTreeMap;

use crate::memory::RankUse;
use crate::metrics::{End, Eval, Profile, Record, Run, Step, median};
use crate::number::{bytes, compact, duration, grouped};

mod chart;
mod heat;
mod table;

use chart::{Chart, Reference, Series};
use heat::Heat;

const STYLE: &str = include_str!("style.css");

/// The bold training-loss line averages over about this part of the run.
const SMOOTHED_PART: f64 = 0.03;

/// A run's records, sorted by kind.
#[derive(Debug, Default)]
struct Data<'a> {
    run: Run,
    steps: Vec<&'a Step>,
    evals: Vec<&'a Eval>,
    profile: Option<&'a Profile>,
    end: Option<&'a End>,
    ranks: &'a [RankUse],
}

impl<'a> Data<'a> {
    fn gather(records: &'a [Record]) -> Self {
        let mut data = Data::default();
        for record in records {
            match record {
                Record::Run(run) => data.run = run.clone(),
                Record::Step(step) => data.steps.push(step),
                Record::Eval(eval) => data.evals.push(eval),
                Record::Profile(profile) => data.profile = Some(profile),
                Record::End(end) => data.end = Some(end),
                Record::Ranks(ranks) => data.ranks = &ranks.ranks,
            }
        }
        data
    }
}

/// The report of a run.
pub fn html(records: &[Record]) -> String {
    let data = Data::gather(records);
    let mut body = String::new();
    body.push_str(&header(&data));
    body.push_str(&cards(&data));
    body.push_str(&losses(&data));
    body.push_str(&rates(&data));
    body.push_str(&attention(&data));
    body.push_str(&experts(&data));
    body.push_str(&table::profile(data.profile));
    body.push_str(&summary(&data));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n\
         </body>\n</html>\n",
        title = escape(&format!("{} · training report", data.run.name)),
    )
}

/// Text safe between tags and in quoted attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

fn section(title: &str, lead: &str, content: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    format!(
        "<section>\n<h2>{}</h2>\n<p class=\"lead\">{lead}</p>\n{content}</section>\n",
        escape(title)
    )
}

fn header(data: &Data<'_>) -> String {
    let run = &data.run;
    format!(
        "<header>\n<h1>{}</h1>\n<p class=\"lead\">{} steps of {} tokens on <code>{}</code>, seed {}</p>\n</header>\n",
        escape(&run.name),
        data.steps.len(),
        compact(run.tokens_per_step as f64),
        escape(&run.data),
        run.seed,
    )
}

fn cards(data: &Data<'_>) -> String {
    let run = &data.run;
    let mut cards = Vec::new();
    if let Some(last) = data.evals.last() {
        let against = if run.bigram > 0.0 {
            let word = if last.loss < run.bigram { "below" } else { "above" };
            format!("{:.3} {word} the bigram entropy", (last.loss - run.bigram).abs())
        } else {
            "nats per byte".into()
        };
        cards.push(("validation loss", format!("{:.3}", last.loss), against));
    }
    if let Some(last) = data.steps.last() {
        cards.push(("training loss", format!("{:.3}", last.loss), format!("step {}", last.step)));
    }
    let rate = median(data.steps.iter().map(|s| s.tokens_per_s));
    if rate > 0.0 {
        cards.push(("tokens a second", compact(rate), format!("median, {} threads", run.threads)));
    }
    if run.params_total > 0 {
        let active = format!("{} active", compact(run.params_active as f64));
        cards.push(("parameters", compact(run.params_total as f64), active));
    }
    if let Some(end) = data.end {
        let memory = format!("{} peak memory", bytes(end.peak_rss_bytes));
        cards.push(("time", duration(end.seconds), memory));
    }
    let cells: String = cards
        .iter()
        .map(|(name, value, note)| {
            format!(
                "<div class=\"card\"><span class=\"name\">{name}</span><span class=\"value\">{value}</span><span class=\"note\">{}</span></div>\n",
                escape(note)
            )
        })
        .collect();
    format!("<div class=\"cards\">\n{cells}</div>\n")
}

fn losses(data: &Data<'_>) -> String {
    let raw: Vec<(f64, f64)> = data.steps.iter().map(|s| (s.step as f64, s.loss)).collect();
    if raw.is_empty() {
        return String::new();
    }
    let validation: Vec<(f64, f64)> = data.evals.iter().map(|e| (e.step as f64, e.loss)).collect();
    let references = [("unigram", data.run.unigram), ("bigram", data.run.bigram)]
        .into_iter()
        .filter(|(_, value)| *value > 0.0)
        .map(|(name, value)| Reference { name: format!("{name} {value:.3}"), value })
        .collect();
    let chart = Chart {
        label: "Loss by step".into(),
        unit: "nats per byte".into(),
        series: vec![
            Series::new("each step", "faint", raw.clone()),
            Series::new("training, smoothed", "s1", smoothed(&raw)),
            Series::new("validation", "s2", validation).dotted(),
        ],
        references,
        from_zero: false,
        height: 320.0,
    };
    let lead = "Dashed: what counting bytes (unigram) and pairs of bytes (bigram) reaches on the \
                same validation split.";
    section("Loss", lead, &chart.svg())
}

/// Exponential moving average, corrected for its start; what is not finite is passed over.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let window = (points.len() as f64 * SMOOTHED_PART).max(2.0);
    let keep = 1.0 - 1.0 / window;
    let (mut sum, mut weight) = (0.0, 0.0);
    let finite = points.iter().filter(|(_, y)| y.is_finite());
    finite
        .map(|&(x, y)| {
            sum = keep * sum + (1.0 - keep) * y;
            weight = keep * weight + (1.0 - keep);
            (x, sum / weight)
        })
        .collect()
}

fn rates(data: &Data<'_>) -> String {
    let speed: Vec<(f64, f64)> =
        data.steps.iter().map(|s| (s.step as f64, s.tokens_per_s)).collect();
    let small = |label: &str, unit: &str, class: &'static str, points, from_zero| {
        let series = vec![Series::new(label, class, points)];
        let (label, unit) = (label.to_owned(), unit.to_owned());
        Chart { label, unit, series, references: Vec::new(), from_zero, height: 200.0 }.svg()
    };
    let mut out = String::new();
    if !speed.is_empty() {
        out.push_str(&small("speed", "tokens a second", "s3", speed, true));
    }
    for (name, points) in scalars(data) {
        out.push_str(&small(&name, &name, "s1", points, name.contains("lr")));
    }
    let grid = if out.is_empty() { out } else { format!("<div class=\"grid\">\n{out}</div>\n") };
    section("Speed and schedule", "Step-varying inputs and measured quantities.", &grid)
}

/// Each recorded scalar over the steps; the constant counter `step` is no news.
fn scalars(data: &Data<'_>) -> BTreeMap<String, Vec<(f64, f64)>> {
    let mut by_name: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for step in &data.steps {
        for (name, &value) in step.scalars.iter().filter(|(name, _)| *name != "step") {
            by_name.entry(name.clone()).or_default().push((step.step as f64, value));
        }
    }
    by_name
}

/// Vectors whose name satisfies `wanted`: per name, (step, values).
fn vectors<'a>(
    data: &Data<'a>,
    wanted: impl Fn(&str) -> bool,
) -> BTreeMap<&'a str, Vec<(u64, &'a [f64])>> {
    let mut by_name: BTreeMap<&str, Vec<(u64, &[f64])>> = BTreeMap::new();
    for step in &data.steps {
        for (name, values) in &step.vectors {
            if wanted(name) {
                by_name.entry(name).or_default().push((step.step, values));
            }
        }
    }
    by_name
}

fn attention(data: &Data<'_>) -> String {
    let logits = vectors(data, |name| name.contains("max_logit") || name.ends_with("smax"));
    let factors = vectors(data, |name| name.ends_with("gamma") || name.contains("clip"));
    let mut out = String::new();
    for (name, rows) in logits {
        out.push_str(&Heat::new(name, "head", rows, |v| v).svg());
    }
    let logit_part = section(
        "Largest attention logit of each head",
        "Mean over the steps of a column; QK-clip holds it near its threshold.",
        &out,
    );
    let mut out = String::new();
    for (name, rows) in factors {
        let clipped = |v: f64| if v < 1.0 { 1.0 } else { 0.0 };
        out.push_str(&Heat::new(name, "head", rows, clipped).within(0.0, 1.0).svg());
    }
    let lead = "Share of a column's steps in which the head's weights were scaled down.";
    logit_part + &section("QK-clip activity", lead, &out)
}

fn experts(data: &Data<'_>) -> String {
    let is_load = |name: &str| name.ends_with("load") || name.ends_with("counts");
    let mut out = String::new();
    for (name, rows) in vectors(data, is_load) {
        let relative: Vec<(u64, Vec<f64>)> = rows
            .into_iter()
            .map(|(step, counts)| {
                let mean = counts.iter().sum::<f64>() / counts.len().max(1) as f64;
                (step, counts.iter().map(|c| if mean > 0.0 { c / mean } else { 0.0 }).collect())
            })
            .collect();
        let rows = relative.iter().map(|(step, values)| (*step, values.as_slice())).collect();
        out.push_str(&Heat::new(name, "expert", rows, |v| v).within(0.0, 2.0).svg());
    }
    section("Expert load", "Tokens of each expert over an even share; 1 is balanced.", &out)
}

fn summary(data: &Data<'_>) -> String {
    let run = &data.run;
    let rows = [
        ("spec", escape(&run.spec)),
        ("data", escape(&run.data)),
        (
            "steps",
            format!("{} of {} tokens, seed {}", run.steps, grouped(run.tokens_per_step), run.seed),
        ),
        ("threads", run.threads.to_string()),
        (
            "parameters",
            format!("{} ({} active)", grouped(run.params_total), grouped(run.params_active)),
        ),
        ("training FLOPs a token", compact(run.train_flops_per_token)),
        ("parameters and optimizer state", bytes(run.persistent_bytes)),
        ("temporaries of a step", bytes(run.arena_bytes)),
        ("kernels", format!("{} kernels, {} launches a step", run.kernels, run.launches)),
        ("spec to plan", duration(run.compile_seconds)),
    ];
    let of_ranks = data.ranks.iter().map(|used| {
        let measured = used.measured_bytes.map_or_else(|| "not measured".to_owned(), bytes);
        let text = format!("{measured} of {} promised", bytes(used.promised_bytes));
        (format!("memory of rank {}", used.rank), text)
    });
    let rows = rows.into_iter().map(|(key, text)| (key.to_owned(), text)).chain(of_ranks);
    let rows: String = rows.map(|(k, v)| format!("<tr><th>{k}</th><td>{v}</td></tr>\n")).collect();
    section(
        "Run",
        "What was compiled and how it ran.",
        &format!("<table class=\"facts\">\n{rows}</table>\n"),
    )
}

#[cfg(test)]
mod tests;
