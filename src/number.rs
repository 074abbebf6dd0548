//! Numbers as a reader likes them: short, with a unit.

/// `1234567` as `1.23M`.
pub(crate) fn compact(value: f64) -> String {
    let magnitude = value.abs();
    let units = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")];
    for (unit, suffix) in units {
        if magnitude >= unit {
            return format!("{}{suffix}", three_digits(value / unit));
        }
    }
    if magnitude == 0.0 || magnitude >= 0.01 { three_digits(value) } else { format!("{value:.1e}") }
}

fn three_digits(value: f64) -> String {
    let text = match value.abs() {
        m if m >= 100.0 => format!("{value:.0}"),
        m if m >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Four digits with an SI prefix: `205.5 G`.
pub(crate) fn four_digits(value: f64) -> String {
    let units = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    let unit = units.into_iter().find(|(unit, _)| value.abs() >= *unit);
    let (unit, prefix) = unit.unwrap_or((1.0, ""));
    let scaled = value / unit;
    let decimals = if scaled.abs() >= 100.0 { 1 } else { 2 };
    format!("{scaled:.decimals$}{prefix}")
}

/// An amount a second with an SI prefix: `90.3 G`.
pub(crate) fn rate(per_second: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let unit = units.into_iter().find(|(unit, _)| per_second >= *unit);
    let (unit, prefix) = unit.unwrap_or((1.0, ""));
    format!("{} {prefix}", three_digits(per_second / unit)).trim_end().to_owned()
}

/// A byte count in binary units.
pub(crate) fn bytes(count: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, suffix) in units {
        if count >= unit {
            return format!("{} {suffix}", three_digits(count as f64 / unit as f64));
        }
    }
    format!("{count} B")
}

/// Seconds as `1.5 ms`, `2.1 s`, `3:20 min`.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 1e-3 {
        format!("{} µs", three_digits(seconds * 1e6))
    } else if seconds < 1.0 {
        format!("{} ms", three_digits(seconds * 1e3))
    } else if seconds < 60.0 {
        format!("{} s", three_digits(seconds))
    } else {
        let whole = seconds.round() as u64;
        format!("{}:{:02} min", whole / 60, whole % 60)
    }
}

/// Round tick positions that cover `low..=high` in about `want` steps.
pub(crate) fn ticks(low: f64, high: f64, want: usize) -> Vec<f64> {
    let span = high - low;
    if !span.is_finite() || span <= 0.0 {
        return vec![low];
    }
    let rough = span / want.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_in_threes_or_four_of_them() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(123), "123");
        assert_eq!(grouped(1_026_408_232_448), "1,026,408,232,448");
        assert_eq!(four_digits(205.47e9), "205.5 G");
        assert_eq!(four_digits(33376.0), "33.38 k");
        assert_eq!(four_digits(0.0), "0.00");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(compact(1_026_400_000_000.0), "1.03T");
        assert_eq!(compact(6_670_000.0), "6.67M");
        assert_eq!(compact(0.0), "0");
        assert_eq!(compact(0.002), "2.0e-3");
        assert_eq!(compact(100.0), "100");
        assert_eq!(rate(90.3e9), "90.3 G");
        assert_eq!(rate(12.0), "12");
        assert_eq!(bytes(3 << 19), "1.5 MiB");
        assert_eq!(duration(200.4), "3:20 min");
        assert_eq!(duration(0.0123), "12.3 ms");
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(3.0, 3.0, 5), [3.0]);
        assert!(ticks(0.1, 0.97, 4).iter().all(|t| (0.1..=0.97).contains(t)));
        assert_eq!(ticks(0.0, f64::INFINITY, 4).len(), 1);
    }
}
