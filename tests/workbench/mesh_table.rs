//! The table of meshes against one rank, from the rows that `./x meshes` keeps.

use serde_json::Value;

/// Rows as Markdown: how far each run is from that of one rank, what it sends and what it holds.
pub(crate) fn table(rows: &[Value]) -> String {
    let head = [
        "model",
        "mesh",
        "ZeRO",
        "slices",
        "steps",
        "losses",
        "norms",
        "weights",
        "same bits",
        "sent a step, MB",
        "state, MB",
        "promised, MB",
        "measured, MB",
    ];
    let mut lines = vec![format!("| {} |", head.join(" | ")), "|---".repeat(head.len()) + "|"];
    lines.extend(rows.iter().map(line));
    lines.join("\n")
}

fn line(row: &Value) -> String {
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let whole = |name: &str| row[name].as_u64().unwrap_or_default().to_string();
    let off = |name: &str| match row[name].as_f64() {
        Some(0.0) => "0".to_owned(),
        Some(value) => format!("{value:.0e}"),
        None => String::new(),
    };
    let megabytes = |name: &str| format!("{:.1}", row[name].as_f64().unwrap_or_default() / 1e6);
    let same = if row["same_bits"].as_bool().unwrap_or_default() { "yes" } else { "" };
    let cells = [
        text("model"),
        format!("dp={},ep={}", whole("dp"), whole("ep")),
        whole("zero"),
        whole("reduction_slices"),
        whole("steps"),
        off("loss_difference"),
        off("norm_difference"),
        off("weight_difference"),
        same.to_owned(),
        megabytes("sent_bytes"),
        megabytes("state_bytes"),
        megabytes("promised_bytes"),
        megabytes("measured_bytes"),
    ];
    format!("| {} |", cells.join(" | "))
}
