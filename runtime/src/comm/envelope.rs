//! What travels before the bytes of an exchange: in which collective the sender is, and how much it
//! sends. So a rank that went astray is noticed by the first message, not by the deadline.

use super::blame::odd_ones_out;
use super::{Cause, Site};

/// Sent by every rank of a group to every other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// Tells collectives apart.
    pub(crate) key: u64,
    /// Bytes that follow.
    pub(crate) bytes: u64,
}

impl Envelope {
    /// Bytes of an envelope.
    pub(crate) const BYTES: usize = 16;

    pub(crate) fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.key.to_le_bytes());
        bytes[8..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    /// From the first [`Self::BYTES`] bytes; what is missing counts as 0.
    pub(crate) fn decode(bytes: &[u8]) -> Envelope {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.iter_mut().zip(bytes.iter().skip(at)).for_each(|(to, from)| *to = *from);
            u64::from_le_bytes(word)
        };
        Envelope { key: word(0), bytes: word(8) }
    }
}

/// Tells collectives apart: everything in a site, and the group.
pub(crate) fn key(site: &Site<'_>, group: &[u32]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for word in [site.entry, site.name, site.node] {
        hasher.update(word.as_bytes());
        hasher.update(&[0]);
    }
    hasher.update(&(site.step as u64).to_le_bytes());
    for rank in group {
        hasher.update(&rank.to_le_bytes());
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

/// The member of a group that is in another collective than most (without a cause: its envelope
/// does not say in which), or sends another length than `expected`.
pub(crate) fn mismatch(
    envelopes: &[Envelope],
    expected: &[usize],
    own: usize,
) -> Option<(usize, Option<Cause>)> {
    let keys: Vec<u64> = envelopes.iter().map(|envelope| envelope.key).collect();
    if let Some(&odd) = odd_ones_out(&keys, own).first() {
        return Some((odd, None));
    }
    let lengths = || envelopes.iter().map(|envelope| envelope.bytes).zip(expected);
    let wrong = lengths().position(|(found, expected)| found != *expected as u64)?;
    let (found, expected) = lengths().nth(wrong)?;
    Some((wrong, Some(Cause::Length { expected: *expected as u64, found })))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Site<'static> = Site { entry: "e", step: 1, name: "all_reduce", node: "n" };

    #[test]
    fn envelopes_are_read_as_written() {
        let envelope = Envelope { key: key(&SITE, &[0, 1]), bytes: 1 << 40 };
        assert_eq!(Envelope::decode(&envelope.encode()), envelope);
        assert_eq!(Envelope::decode(&[]), Envelope { key: 0, bytes: 0 });
    }

    #[test]
    fn every_part_of_a_site_and_the_group_make_another_key() {
        let one = key(&SITE, &[0, 1]);
        let others = [
            key(&Site { entry: "f", ..SITE }, &[0, 1]),
            key(&Site { step: 2, ..SITE }, &[0, 1]),
            key(&Site { name: "barrier", ..SITE }, &[0, 1]),
            key(&Site { node: "m", ..SITE }, &[0, 1]),
            key(&SITE, &[0, 2]),
            key(&SITE, &[0]),
        ];
        assert!(others.iter().all(|other| *other != one));
        assert_eq!(key(&SITE, &[0, 1]), one);
    }

    #[test]
    fn another_collective_goes_before_another_length() {
        let envelope = |key: u64, bytes: u64| Envelope { key, bytes };
        let all = [envelope(1, 4), envelope(1, 5), envelope(2, 4)];
        assert_eq!(mismatch(&all, &[4, 4, 4], 0), Some((2, None)));
        let length = Some(Cause::Length { expected: 4, found: 5 });
        assert_eq!(mismatch(&all[..2], &[4, 4], 0), Some((1, length)));
        assert_eq!(mismatch(&all[..2], &[4, 5], 0), None);
    }
}
