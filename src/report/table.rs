//! The time of each RON node as a table with bars.

use std::fmt::Write;

use super::escape;
use crate::metrics::{Profile, ProfileRow};
use crate::number::{duration, rate};

/// Rows shown; the rest is summed up in one.
const ROWS: usize = 40;

/// The table, or nothing without a profile.
pub(super) fn profile(profile: Option<&Profile>) -> String {
    let Some(profile) = profile.filter(|p| p.steps > 0 && !p.rows.is_empty()) else {
        return String::new();
    };
    let total: u64 = profile.rows.iter().map(|row| row.ns).sum();
    let longest = profile.rows.iter().map(|row| row.ns).max().unwrap_or(1).max(1);
    let mut rows = String::new();
    for row in profile.rows.iter().take(ROWS) {
        let _ = writeln!(rows, "{}", line(row, profile.steps, total, longest));
    }
    let rest: u64 = profile.rows.iter().skip(ROWS).map(|row| row.ns).sum();
    if rest > 0 {
        let others = ProfileRow {
            node: format!("{} others", profile.rows.len() - ROWS),
            ns: rest,
            ..ProfileRow::default()
        };
        let _ = writeln!(rows, "{}", line(&others, profile.steps, total, longest));
    }
    let lead = format!("Mean of {} steps, longest first.", profile.steps);
    let head = "<tr><th>node</th><th>step</th><th class=\"n\">a step</th><th class=\"n\">share</th>\
                <th></th><th class=\"n\">FLOP/s</th><th class=\"n\">B/s</th></tr>\n";
    let table =
        format!("<div class=\"wide\"><table class=\"profile\">\n{head}{rows}</table></div>\n");
    super::section("Time by node", &lead, &table)
}

fn line(row: &ProfileRow, steps: u64, total: u64, longest: u64) -> String {
    let seconds = row.ns as f64 * 1e-9;
    let speed = |amount: u64| match amount {
        0 => String::new(),
        _ if seconds > 0.0 => rate(amount as f64 / seconds),
        _ => String::new(),
    };
    format!(
        "<tr><td><code>{}</code></td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{:.1} %</td>\
         <td class=\"bar\"><i style=\"width:{:.1}%\"></i></td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
        escape(&row.node),
        escape(&row.what),
        duration(seconds / steps as f64),
        row.ns as f64 / total.max(1) as f64 * 100.0,
        row.ns as f64 / longest as f64 * 100.0,
        speed(row.flops),
        speed(row.bytes),
    )
}
