//! Bytes that a rank has sent, by kind of collective.
//!
//! # Invariants
//! - Counts payload that goes to other ranks; a rank's copy to itself, headers and retries are not
//!   counted.

use std::collections::BTreeMap;

use super::Site;

/// Counts of one kind of collective, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Payload bytes sent to other ranks.
    pub bytes: u64,
    /// Exchanges.
    pub exchanges: u64,
}

/// What a rank has sent so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    by_name: BTreeMap<String, Sent>,
}

impl Traffic {
    /// Adds an exchange in which the rank at `own` sends `send`; gives the bytes that go to others.
    pub fn count(&mut self, site: &Site<'_>, own: usize, send: &[&[u8]]) -> u64 {
        let others = send.iter().enumerate().filter(|(i, _)| *i != own);
        let bytes = others.map(|(_, piece)| piece.len()).sum::<usize>() as u64;
        if !self.by_name.contains_key(site.name) {
            self.by_name.insert(site.name.to_owned(), Sent::default());
        }
        if let Some(sent) = self.by_name.get_mut(site.name) {
            sent.bytes += bytes;
            sent.exchanges += 1;
        }
        bytes
    }

    /// Counts of one kind of collective, by [`Site::name`].
    pub fn of(&self, name: &str) -> Sent {
        self.by_name.get(name).copied().unwrap_or_default()
    }

    /// Counts by kind, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Sent)> {
        self.by_name.iter().map(|(name, sent)| (name.as_str(), *sent))
    }

    /// Payload bytes sent to other ranks, of all kinds.
    pub fn bytes(&self) -> u64 {
        self.by_name.values().map(|sent| sent.bytes).sum()
    }
}
