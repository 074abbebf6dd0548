//! A heat map as inline SVG: one row an index (head, expert), one column some steps.

use std::fmt::Write;

use super::escape;
use crate::number::compact;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 56.0;
const MAX_COLUMNS: usize = 90;
const MAX_ROWS: usize = 64;

/// Values of a vector over the steps, averaged into columns.
pub(super) struct Heat {
    name: String,
    row_word: &'static str,
    /// `cells[row][column]`.
    cells: Vec<Vec<f64>>,
    steps: Vec<(u64, u64)>,
    bounds: Option<(f64, f64)>,
}

impl Heat {
    /// Averages `map(value)` over runs of steps.
    pub(super) fn new(
        name: &str,
        row_word: &'static str,
        rows: Vec<(u64, &[f64])>,
        map: impl Fn(f64) -> f64,
    ) -> Self {
        let height = rows.iter().map(|(_, v)| v.len()).max().unwrap_or(0).min(MAX_ROWS);
        let per_column = rows.len().div_ceil(MAX_COLUMNS).max(1);
        let columns: Vec<_> = rows.chunks(per_column).collect();
        let mean = |row: usize, column: &[(u64, &[f64])]| {
            let values = column.iter().filter_map(|(_, v)| v.get(row).copied());
            let finite: Vec<f64> = values.filter(|v| v.is_finite()).map(&map).collect();
            finite.iter().sum::<f64>() / finite.len().max(1) as f64
        };
        let cells = (0..height).map(|row| columns.iter().map(|c| mean(row, c)).collect()).collect();
        let steps = columns.iter().map(|c| (c[0].0, c[c.len() - 1].0)).collect();
        Heat { name: name.to_owned(), row_word, cells, steps, bounds: None }
    }

    /// Fixes the values of the faintest and the strongest colour.
    pub(super) fn within(mut self, low: f64, high: f64) -> Self {
        self.bounds = Some((low, high));
        self
    }

    /// The map as a figure; empty when there is no row.
    pub(super) fn svg(&self) -> String {
        if self.cells.is_empty() || self.steps.is_empty() {
            return String::new();
        }
        let (low, high) = self.bounds.unwrap_or_else(|| self.extremes());
        let row_height = (160.0 / self.cells.len() as f64).clamp(5.0, 18.0);
        let height = row_height * self.cells.len() as f64;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {:.1}\" role=\"img\" aria-label=\"{}\">\n",
            height + 22.0,
            escape(&self.name)
        );
        let label_every = (13.0 / row_height).ceil() as usize;
        let column_width = (WIDTH - LEFT) / self.steps.len() as f64;
        for (r, row) in self.cells.iter().enumerate() {
            if r % label_every == 0 {
                let y = (r as f64 + 0.5) * row_height + 4.0;
                let x = LEFT - 8.0;
                let _ =
                    writeln!(svg, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{r}</text>");
            }
            for (c, &value) in row.iter().enumerate() {
                let part = ((value - low) / (high - low).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
                let (from, to) = self.steps[c];
                let _ = writeln!(
                    svg,
                    "<rect class=\"heat\" style=\"--p:{:.0}%\" x=\"{:.2}\" y=\"{:.1}\" width=\"{:.2}\" height=\"{:.1}\"><title>{} {r}, steps {from} to {to}: {}</title></rect>",
                    part * 100.0,
                    LEFT + c as f64 * column_width,
                    r as f64 * row_height,
                    column_width + 0.3,
                    row_height - 1.0,
                    self.row_word,
                    compact(value)
                );
            }
        }
        let (first, last) = (self.steps[0].0, self.steps[self.steps.len() - 1].1);
        let y = height + 16.0;
        let _ = writeln!(
            svg,
            "<text class=\"x\" x=\"{LEFT}\" y=\"{y:.1}\">step {first}</text><text class=\"x\" x=\"{WIDTH}\" y=\"{y:.1}\" text-anchor=\"end\">{last}</text>"
        );
        svg.push_str("</svg>\n");
        format!("<figure>\n{}{svg}</figure>\n", self.caption(low, high))
    }

    fn caption(&self, low: f64, high: f64) -> String {
        format!(
            "<figcaption><code>{}</code><span class=\"scale\">{}<i></i>{}</span></figcaption>\n",
            escape(&self.name),
            compact(low),
            compact(high)
        )
    }

    fn extremes(&self) -> (f64, f64) {
        let all = self.cells.iter().flatten().copied();
        all.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)))
    }
}
