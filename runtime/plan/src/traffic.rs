//! Bytes that a rank sends to others in a collective, told from the plan.
//!
//! # Invariants
//! - Payload alone, and no copies to itself: what the communicators count.

use crate::{Collective, CollectiveKind, Entry, Mesh, SEGMENT_BYTES};

/// Bytes of a place, and of a count: i32.
const PLACE: u64 = 4;

/// Bytes that a rank sends to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// As many whatever the data.
    Bytes(u64),
    /// As many for each row that leaves the rank, which the data decides.
    Rows {
        /// Bytes of a row.
        row: u64,
        /// The most rows that can leave.
        most: u64,
    },
    /// As many for each token that goes to some other rank, however many of its rows are there, and
    /// for the place of each of these rows.
    Tokens {
        /// Bytes whatever the data.
        fixed: u64,
        /// Bytes of a token.
        row: u64,
        /// Bytes of a row's place.
        place: u64,
        /// The most rows that can leave.
        most: u64,
    },
}

impl Sent {
    /// The most bytes that it can be.
    pub fn most(self) -> u64 {
        match self {
            Sent::Bytes(bytes) => bytes,
            Sent::Rows { row, most } => row.saturating_mul(most),
            Sent::Tokens { fixed, row, place, most } => {
                fixed.saturating_add((row + place).saturating_mul(most))
            }
        }
    }
}

/// What a collective's times and bytes follow from, wherever its buffers lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// What is exchanged.
    pub kind: CollectiveKind,
    /// Elements, and bytes of an element, of what a rank gives.
    pub send: Vec<(u64, u64)>,
    /// Of what it gets.
    pub receive: Vec<(u64, u64)>,
    /// Each value's root, where it has one.
    pub roots: Vec<u64>,
    /// Ranks in the group, one at least.
    pub ranks: u64,
}

impl Exchange {
    /// What the rank at a place in the group sends to the others; `p` is the number of ranks.
    ///
    /// - `all_reduce` of `n` elements, `s` of them in the rank's slice (`n div p`, one more for the
    ///   first `n mod p` ranks): `(n − s) + (p − 1) · s` elements
    /// - `reduce`: the values whose root is another rank
    /// - `broadcast`: `(p − 1)` times the values whose root it is
    /// - `all_gather`: `(p − 1)` times the rank's part
    /// - `exchange_counts`: all pieces but its own
    /// - `dispatch`, `combine`: the rows that leave
    /// - `dispatch_tokens`: a count for each other rank, each token once for each rank that it goes
    ///   to, and a place for each row
    pub fn sent(&self, at: u64) -> Sent {
        let Exchange { send, roots, ranks: p, .. } = self;
        let p = *p;
        let (elems, width) = send.first().copied().unwrap_or_default();
        match self.kind {
            CollectiveKind::AllReduce(_) => {
                let n: u64 = send.iter().map(|(elems, _)| elems).sum();
                let slice = n / p + u64::from(at < n % p);
                Sent::Bytes(((n - slice) + (p - 1) * slice) * width)
            }
            CollectiveKind::Reduce(_) => Sent::Bytes(rooted(send, roots, &|r| r != at)),
            CollectiveKind::Broadcast => Sent::Bytes((p - 1) * rooted(send, roots, &|r| r == at)),
            CollectiveKind::AllGather { .. } => Sent::Bytes((p - 1) * elems * width),
            CollectiveKind::ExchangeCounts => Sent::Bytes(elems / p * (p - 1) * width),
            CollectiveKind::Dispatch { row } => {
                let most = if p == 1 { 0 } else { elems.checked_div(row).unwrap_or(0) };
                Sent::Rows { row: row * width, most }
            }
            CollectiveKind::DispatchTokens { row, .. } => {
                let slots = send.get(1).map_or(0, |(elems, _)| *elems);
                let most = if p == 1 { 0 } else { slots };
                Sent::Tokens { fixed: PLACE * (p - 1), row: row * width, place: PLACE, most }
            }
            CollectiveKind::Combine { row } => {
                let home = self.receive.first().map_or(0, |(elems, _)| *elems);
                let rows = elems.checked_div(row).unwrap_or(0);
                // Every other rank gets at most all of its rows back.
                let others = home.checked_div(row).unwrap_or(0).saturating_mul(p - 1);
                Sent::Rows { row: row * width, most: rows.min(others) }
            }
        }
    }

    /// The bytes to expect that a rank sends to others where experts are chosen evenly: of the rows
    /// that are there, the part that is for other ranks. The first rank of a group has the largest
    /// slice.
    pub fn expected_bytes(&self) -> f64 {
        let leaving = 1.0 - 1.0 / self.ranks as f64;
        let rows = |most: u64| match self.kind {
            // As many rows come home as left it.
            CollectiveKind::Combine { row } => {
                let home = self.receive.first().map_or(0, |(elems, _)| *elems);
                home.checked_div(row).unwrap_or(0).min(most) as f64
            }
            _ => most as f64,
        };
        match self.sent(0) {
            Sent::Bytes(bytes) => bytes as f64,
            Sent::Rows { row, most } => row as f64 * rows(most) * leaving,
            Sent::Tokens { fixed, row, place, most } => {
                fixed as f64 + (row + place) as f64 * rows(most) * leaving
            }
        }
    }

    /// Exchanges that it is made of, one after the other: reductions and broadcasts pass in segments
    /// of [`SEGMENT_BYTES`].
    pub fn exchanges(&self) -> u64 {
        let bytes = |of: &dyn Fn(u64) -> bool| rooted(&self.send, &self.roots, of);
        let segments = |bytes: u64, most: u64| bytes.div_ceil(most.max(1)).max(1);
        match self.kind {
            CollectiveKind::AllReduce(_) => {
                let all = self.send.iter().map(|(elems, width)| elems * width).sum();
                2 * segments(all, SEGMENT_BYTES)
            }
            CollectiveKind::Reduce(_) | CollectiveKind::Broadcast => {
                let roots = (0..self.ranks).map(|root| bytes(&|r| r == root));
                segments(roots.max().unwrap_or(0), SEGMENT_BYTES / self.ranks)
            }
            CollectiveKind::DispatchTokens { .. } => 2,
            CollectiveKind::AllGather { .. }
            | CollectiveKind::ExchangeCounts
            | CollectiveKind::Dispatch { .. }
            | CollectiveKind::Combine { .. } => 1,
        }
    }
}

impl Collective {
    /// Whether `send[value]` of the rank at a place in the group has a meaning: in a broadcast, only
    /// that of the value's root has.
    pub fn gives(&self, at: u64, value: usize) -> bool {
        self.kind != CollectiveKind::Broadcast || self.roots.get(value) == Some(&at)
    }

    /// What a rank sends to the others of its group.
    pub fn sent(&self, entry: &Entry, mesh: &Mesh, rank: u32) -> Sent {
        self.exchange(entry, mesh).sent(mesh.coordinate(rank, &self.axes))
    }

    /// What its times and bytes follow from.
    pub fn exchange(&self, entry: &Entry, mesh: &Mesh) -> Exchange {
        let buffers = |list: &[u32]| -> Vec<(u64, u64)> {
            let found = list.iter().filter_map(|n| entry.buffers.get(*n as usize));
            found.map(|b| (b.elems, b.dtype.bytes())).collect()
        };
        Exchange {
            kind: self.kind,
            send: buffers(&self.send),
            receive: buffers(&self.receive),
            roots: self.roots.clone(),
            ranks: mesh.group_size(&self.axes).max(1),
        }
    }
}

/// Bytes of the values whose root is one of those wanted.
fn rooted(send: &[(u64, u64)], roots: &[u64], wanted: &dyn Fn(u64) -> bool) -> u64 {
    let values = send.iter().zip(roots).filter(|(_, root)| wanted(**root));
    values.map(|((elems, width), _)| elems * width).sum()
}
