//! Lines of a ring: fields between tabs, padded to one length.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::LINE_BYTES;

/// A line under construction.
#[derive(Debug, Default)]
pub(super) struct Line {
    text: String,
}

impl Line {
    /// Adds a field, cut to `most` bytes from its beginning: the ends of paths tell them apart.
    pub(super) fn text(mut self, value: &str, most: usize) -> Self {
        self.separate();
        let mut start = value.len().saturating_sub(most);
        while !value.is_char_boundary(start) {
            start += 1;
        }
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        self.text.extend(value[start..].chars().map(plain));
        self
    }

    /// Adds a number.
    pub(super) fn number(mut self, value: u64) -> Self {
        self.separate();
        let _ = write!(self.text, "{value}");
        self
    }

    /// Adds ranks as runs `first-last:stride`, as many as fit into `most` bytes.
    pub(super) fn ranks(mut self, ranks: &[u32], most: usize) -> Self {
        self.separate();
        let mut rest = ranks;
        let mut field = String::new();
        while let Some(&first) = rest.first() {
            let stride = rest.get(1).map_or(1, |second| second.saturating_sub(first)).max(1);
            let steps = rest.iter().enumerate();
            let run =
                steps.take_while(|(i, r)| **r as usize == first as usize + i * stride as usize);
            let run = run.count().max(1);
            let last = rest[run - 1];
            let part = match (run, stride) {
                (1, _) => format!("{first}"),
                (_, 1) => format!("{first}-{last}"),
                _ => format!("{first}-{last}:{stride}"),
            };
            if field.len() + part.len() + 1 > most {
                break;
            }
            if !field.is_empty() {
                field.push(',');
            }
            field.push_str(&part);
            rest = &rest[run..];
        }
        self.text.push_str(&field);
        self
    }

    /// The line's bytes.
    pub(super) fn bytes(self) -> [u8; LINE_BYTES] {
        let mut bytes = [b' '; LINE_BYTES];
        let length = self.text.len().min(LINE_BYTES - 1);
        bytes[..length].copy_from_slice(&self.text.as_bytes()[..length]);
        bytes[LINE_BYTES - 1] = b'\n';
        bytes
    }

    fn separate(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\t');
        }
    }
}

/// Ranks as [`Line::ranks`] writes them; at most `most` of them.
pub(super) fn parse_ranks(field: &str, most: usize) -> Option<Vec<u32>> {
    let mut ranks = Vec::new();
    for part in field.split(',').filter(|part| !part.is_empty()) {
        let (range, stride) = part.split_once(':').unwrap_or((part, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        let stride: u32 = stride.parse().ok().filter(|stride| *stride > 0)?;
        if ranks.len() + last.saturating_sub(first) as usize / stride as usize >= most {
            return None;
        }
        ranks.extend((first..=last).step_by(stride as usize));
    }
    Some(ranks)
}

/// Nanoseconds since 1970.
pub(super) fn now_ns() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(ranks: &[u32]) -> String {
        Line::default().number(1).ranks(ranks, 100).text
    }

    #[test]
    fn groups_of_a_mesh_are_short() {
        assert_eq!(shown(&[0, 1, 2, 3]), "1\t0-3");
        assert_eq!(shown(&(3..128).step_by(16).collect::<Vec<u32>>()), "1\t3-115:16");
        assert_eq!(shown(&[5]), "1\t5");
        assert_eq!(shown(&[]), "1\t");
    }

    #[test]
    fn a_hostile_field_of_ranks_is_refused() {
        for field in ["0-4294967295", "x", "3-", "1:0", "0-100:0", "-"] {
            assert_eq!(parse_ranks(field, 1000), None, "{field}");
        }
    }

    #[test]
    fn a_line_has_its_length_and_no_second_newline() {
        let line = Line::default().text(&"ä\n".repeat(400), 300).text("end", 10).bytes();
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        assert!(std::str::from_utf8(&line).is_ok());
    }

    proptest! {
        #[test]
        fn ranks_survive(mask in any::<u64>()) {
            let ranks: Vec<u32> = (0..64).filter(|r| mask >> r & 1 == 1).collect();
            let text = Line::default().ranks(&ranks, 400).text;
            prop_assert_eq!(parse_ranks(&text, 1000), Some(ranks));
        }
    }
}
