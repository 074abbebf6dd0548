//! Did-you-mean: the known name nearest to a misspelt one.
//!
//! # Invariants
//! - The answer does not depend on the order of the candidates: distance, then length, then name.

/// The candidate that a misspelt name most likely stands for, if any is near enough.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = 1 + name.chars().count() / 4;
    candidates
        .into_iter()
        .filter(|c| *c != name)
        .map(|c| (distance(&name.to_lowercase(), &c.to_lowercase()), c))
        .filter(|(d, c)| *d <= limit && *d < c.chars().count().max(2))
        .min_by(|(d, a), (e, b)| (d, a.len(), a).cmp(&(e, b.len(), b)))
        .map(|(_, c)| c)
}

/// Edits between two words: insert, delete, replace, swap neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replace = last[j] + usize::from(a[i] != b[j]);
            let mut best = replace.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        let names = ["gate_proj", "up_proj", "down_proj"];
        assert_eq!(nearest("gate_prj", names), Some("gate_proj"));
        assert_eq!(nearest("pu_proj", names), Some("up_proj"));
        assert_eq!(nearest("attention", names), None);
        assert_eq!(nearest("Enisum", ["Einsum", "Map"]), Some("Einsum"));
    }
}
