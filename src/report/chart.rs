//! A line chart as inline SVG: series, dashed reference lines, round ticks, a legend.

use std::fmt::Write;

use super::escape;
use crate::number::{compact, ticks};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 30.0;
/// Most points drawn of one series; more would not be visible.
const MAX_POINTS: usize = 1200;

/// A line.
pub(super) struct Series {
    name: String,
    class: &'static str,
    points: Vec<(f64, f64)>,
    dots: bool,
}

impl Series {
    pub(super) fn new(name: &str, class: &'static str, mut points: Vec<(f64, f64)>) -> Self {
        points.retain(|(_, y)| y.is_finite());
        Series { name: name.to_owned(), class, points, dots: false }
    }

    /// Marks each point.
    pub(super) fn dotted(mut self) -> Self {
        self.dots = true;
        self
    }
}

/// A horizontal line to compare with.
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) value: f64,
}

/// A chart over steps.
pub(super) struct Chart {
    pub(super) label: String,
    pub(super) unit: String,
    pub(super) series: Vec<Series>,
    pub(super) references: Vec<Reference>,
    pub(super) from_zero: bool,
    pub(super) height: f64,
}

/// Maps data to the drawing.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    height: f64,
}

impl Frame {
    fn x(&self, value: f64) -> f64 {
        let span = (self.x.1 - self.x.0).max(f64::MIN_POSITIVE);
        LEFT + (value - self.x.0) / span * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let span = (self.y.1 - self.y.0).max(f64::MIN_POSITIVE);
        self.height - BOTTOM - (value - self.y.0) / span * (self.height - TOP - BOTTOM)
    }
}

impl Chart {
    /// The chart as a figure; empty when no series has a point.
    pub(super) fn svg(&self) -> String {
        let Some(frame) = self.frame() else { return String::new() };
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">\n",
            self.height,
            escape(&self.label)
        );
        self.axes(&frame, &mut svg);
        for reference in &self.references {
            let (y, right) = (frame.y(reference.value), WIDTH - RIGHT);
            let _ = writeln!(
                svg,
                "<line class=\"reference\" x1=\"{LEFT}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
        }
        for series in self.series.iter().filter(|s| !s.points.is_empty()) {
            draw(series, &frame, &mut svg);
        }
        for reference in &self.references {
            let (x, y) = (WIDTH - RIGHT, frame.y(reference.value) - 5.0);
            let name = escape(&reference.name);
            let _ = writeln!(
                svg,
                "<text class=\"reference\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{name}</text>"
            );
        }
        svg.push_str("</svg>\n");
        format!("<figure>\n{}{svg}</figure>\n", self.caption())
    }

    fn caption(&self) -> String {
        let legend: String = self
            .series
            .iter()
            .filter(|s| !s.points.is_empty() && self.series.len() > 1)
            .map(|s| format!("<span class=\"key {}\">{}</span>", s.class, escape(&s.name)))
            .collect();
        format!(
            "<figcaption><span class=\"unit\">{}</span>{legend}</figcaption>\n",
            escape(&self.unit)
        )
    }

    fn frame(&self) -> Option<Frame> {
        let points = self.series.iter().flat_map(|s| s.points.iter().copied());
        let (mut x, mut y): ((f64, f64), (f64, f64)) = ((f64::MAX, f64::MIN), (f64::MAX, f64::MIN));
        for (px, py) in points {
            x = (x.0.min(px), x.1.max(px));
            y = (y.0.min(py), y.1.max(py));
        }
        if x.0 > x.1 {
            return None;
        }
        for reference in &self.references {
            y = (y.0.min(reference.value), y.1.max(reference.value));
        }
        if self.from_zero {
            y.0 = y.0.min(0.0);
        }
        let margin = if y.1 > y.0 { (y.1 - y.0) * 0.05 } else { y.1.abs().max(1.0) * 0.05 };
        let low = if self.from_zero && y.0 == 0.0 { 0.0 } else { y.0 - margin };
        Some(Frame { x, y: (low, y.1 + margin), height: self.height })
    }

    fn axes(&self, frame: &Frame, svg: &mut String) {
        let wanted = if self.height > 250.0 { 6 } else { 4 };
        for tick in ticks(frame.y.0, frame.y.1, wanted) {
            let y = frame.y(tick);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                compact(tick)
            );
        }
        let base = frame.height - BOTTOM;
        let _ = writeln!(
            svg,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{base}\" y2=\"{base}\"/>",
            WIDTH - RIGHT
        );
        let (x, y) = (LEFT - 8.0, base + if self.height > 250.0 { 18.0 } else { 24.0 });
        let _ =
            writeln!(svg, "<text class=\"x\" x=\"{x}\" y=\"{y}\" text-anchor=\"end\">step</text>");
        for tick in ticks(frame.x.0, frame.x.1, 8) {
            let _ = writeln!(
                svg,
                "<text class=\"x\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                frame.x(tick),
                y,
                compact(tick)
            );
        }
    }
}

fn draw(series: &Series, frame: &Frame, svg: &mut String) {
    let stride = series.points.len().div_ceil(MAX_POINTS);
    let last = series.points.len() - 1;
    let kept = series.points.iter().enumerate().filter(|(i, _)| i % stride == 0 || *i == last);
    let kept: Vec<(f64, f64)> = kept.map(|(_, &(x, y))| (frame.x(x), frame.y(y))).collect();
    let path: Vec<String> = kept.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        "<polyline class=\"{}\" points=\"{}\"><title>{}</title></polyline>",
        series.class,
        path.join(" "),
        escape(&series.name)
    );
    if series.dots {
        for ((x, y), (step, value)) in kept.iter().zip(series.points.iter().step_by(stride)) {
            let _ = writeln!(
                svg,
                "<circle class=\"{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{} at step {step}: {value:.4}</title></circle>",
                series.class,
                escape(&series.name)
            );
        }
    }
}
