//! Values taken as if they lay one behind the other, a piece at a time.
//!
//! # Invariants
//! - Pieces are of one length, but for the last; together they are all bytes and nothing twice.

use std::ops::Range;

/// Several values as one.
#[derive(Debug, Default)]
pub(super) struct Joined<'v> {
    values: Vec<&'v mut [u8]>,
    bytes: usize,
}

impl<'v> Joined<'v> {
    /// Values in their order.
    pub(super) fn of(values: impl Iterator<Item = &'v mut [u8]>) -> Self {
        let mut joined = Joined::default();
        values.for_each(|value| joined.push(value));
        joined
    }

    /// One value more, behind the others.
    pub(super) fn push(&mut self, value: &'v mut [u8]) {
        self.bytes += value.len();
        self.values.push(value);
    }

    /// Pieces of `length` bytes that there are, at least one.
    pub(super) fn rounds(&self, length: usize) -> usize {
        self.bytes.div_ceil(length.max(1)).max(1)
    }

    /// The bytes of piece `at`; none behind the last.
    pub(super) fn piece(&self, at: usize, length: usize) -> Range<usize> {
        let place = |n: usize| n.saturating_mul(length).min(self.bytes);
        place(at)..place(at + 1)
    }

    /// Piece `at`, copied out.
    pub(super) fn read(&self, at: usize, length: usize) -> Vec<u8> {
        let piece = self.piece(at, length);
        let mut out = Vec::with_capacity(piece.len());
        let mut begin = 0;
        for value in &self.values {
            out.extend_from_slice(&value[within(&piece, begin, value.len())]);
            begin += value.len();
        }
        out
    }

    /// Sets piece `at` from as many bytes.
    pub(super) fn write(&mut self, (at, length): (usize, usize), data: &[u8]) {
        let piece = self.piece(at, length);
        let (mut begin, mut rest) = (0, data);
        for value in &mut self.values {
            let length = value.len();
            let target = &mut value[within(&piece, begin, length)];
            let (head, tail) = rest.split_at(target.len().min(rest.len()));
            target[..head.len()].copy_from_slice(head);
            rest = tail;
            begin += length;
        }
    }
}

/// The part of a piece that lies in the value of `length` bytes that begins at `begin`.
fn within(piece: &Range<usize>, begin: usize, length: usize) -> Range<usize> {
    let place = |at: usize| at.saturating_sub(begin).min(length);
    place(piece.start)..place(piece.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_bytes_in_their_order_across_values() {
        let mut values = [vec![1u8, 2, 3], vec![], vec![4], vec![5, 6, 7, 8]];
        let mut joined = Joined::of(values.iter_mut().map(Vec::as_mut_slice));
        assert_eq!(joined.rounds(3), 3);
        let pieces: Vec<Vec<u8>> = (0..4).map(|at| joined.read(at, 3)).collect();
        assert_eq!(pieces, [vec![1, 2, 3], vec![4, 5, 6], vec![7, 8], vec![]]);
        joined.write((1, 3), &[40, 50, 60]);
        joined.write((2, 3), &[70, 80]);
        assert_eq!(values.concat(), [1, 2, 3, 40, 50, 60, 70, 80]);
    }

    #[test]
    fn ranks_meet_once_even_without_a_byte() {
        let joined = Joined::default();
        assert_eq!((joined.rounds(8), joined.read(0, 8)), (1, Vec::new()));
    }
}
