//! Bytes that a rank holds while it runs a plan, told before anything runs.
//!
//! # Invariants
//! - What a rank does not hold (another owner's state, other ranks' parts) does not count.
//! - Where the data decides how many rows are exchanged, the most that there can be count.

use std::collections::BTreeSet;

use crate::verify::touched;
use crate::{
    Buffer, Collective, CollectiveKind, Entry, GPU_ALIGN, Mesh, Place, Plan, StepOp, TensorKind,
};

/// Most bytes of a reduction or a broadcast that are on their way at once; at least one element for
/// each rank.
pub const SEGMENT_BYTES: u64 = 8 << 20;

/// Bytes of a place or a count: i32.
const PLACE: u64 = 4;

/// Bytes that one rank holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RankMemory {
    /// Trained parameters.
    pub params: u64,
    /// Buffers that are exported with them.
    pub buffers: u64,
    /// Optimizer state.
    pub state: u64,
    /// Feeds of all entries.
    pub feeds: u64,
    /// Bytes of the arena that the rank's steps touch: those of steps that other ranks run stay
    /// without memory where it is given out on first use.
    pub arena: u64,
    /// What collectives that are under way at once take beside all that, or what is handed to the
    /// caller: whichever is most.
    pub staging: u64,
}

impl RankMemory {
    /// Persistent tensors.
    pub fn tensors(&self) -> u64 {
        self.params + self.buffers + self.state
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.tensors() + self.feeds + self.arena + self.staging
    }
}

impl Plan {
    /// What a rank holds while it runs those entries of the plan that `runs` says.
    pub fn memory(&self, rank: u32, runs: &dyn Fn(&Entry) -> bool) -> RankMemory {
        let held = |kind: TensorKind| -> u64 {
            let tensors = self.tensors.iter().filter(|t| t.kind == kind);
            let own = tensors.filter(|t| self.mesh.among(rank, t.owner.as_ref()));
            own.map(|t| aligned(t.elems() * t.dtype.bytes())).sum()
        };
        let feeds = self.entries.iter().flat_map(|entry| &entry.feeds);
        let feed = |shape: &[u64]| shape.iter().product::<u64>();
        let entries = || self.entries.iter().filter(|entry| runs(entry));
        RankMemory {
            params: held(TensorKind::Param),
            buffers: held(TensorKind::Buffer),
            state: held(TensorKind::State),
            feeds: feeds.map(|f| aligned(feed(&f.shape) * f.dtype.bytes())).sum(),
            arena: covered(entries().flat_map(|entry| entry.in_arena(&self.mesh, rank))),
            staging: entries().map(|entry| entry.staging(&self.mesh, rank)).max().unwrap_or(0),
        }
    }
}

/// Bytes of a buffer.
fn bytes(buffer: &Buffer) -> u64 {
    buffer.elems.saturating_mul(buffer.dtype.bytes())
}

/// Room in an aligned storage.
fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(GPU_ALIGN)
}

/// Bytes that are in some of the pieces, each a first byte and the one behind the last.
fn covered(pieces: impl Iterator<Item = (u64, u64)>) -> u64 {
    let mut pieces: Vec<(u64, u64)> = pieces.collect();
    pieces.sort_unstable();
    let (mut bytes, mut end) = (0, 0);
    for (begin, behind) in pieces {
        bytes += behind.saturating_sub(begin.max(end));
        end = end.max(behind);
    }
    bytes
}

impl Entry {
    /// Pieces of the arena that a rank's steps touch; of a broadcast's sources, those that it is the
    /// root of.
    fn in_arena(&self, mesh: &Mesh, rank: u32) -> Vec<(u64, u64)> {
        let own = self.steps.iter().filter(|step| mesh.among(rank, step.only.as_ref()));
        let buffers = |op: &StepOp| match op {
            StepOp::Collective(collective) => {
                let at = mesh.coordinate(rank, &collective.axes);
                let sent = collective.send.iter().enumerate();
                let sent = sent.filter(|(value, _)| collective.gives(at, *value));
                sent.map(|(_, n)| n).chain(&collective.receive).copied().collect()
            }
            kernel => touched(kernel),
        };
        let buffers: BTreeSet<u32> = own.flat_map(|step| buffers(&step.op)).collect();
        let found = buffers.iter().filter_map(|n| self.buffers.get(*n as usize));
        let piece = |buffer: &Buffer| match buffer.place {
            Place::Arena(offset) => Some((offset, offset.saturating_add(bytes(buffer)))),
            Place::Tensor(_) | Place::Feed(_) => None,
        };
        found.filter_map(piece).collect()
    }

    /// The most that the collectives of a rank take at once beside the buffers, or that all fetches
    /// are.
    fn staging(&self, mesh: &Mesh, rank: u32) -> u64 {
        let mut most = 0u64;
        // Collectives under way: the step before which they are done, what each keeps for as long, and
        // what it takes beside that while it is the one that runs.
        let mut flying: Vec<(usize, u64, u64)> = Vec::new();
        for (i, step) in self.steps.iter().enumerate() {
            flying.retain(|(until, ..)| *until > i);
            let StepOp::Collective(collective) = &step.op else { continue };
            if !mesh.among(rank, step.only.as_ref()) {
                continue;
            }
            let kept = self.exchanged_bytes(collective);
            let beside = collective.staging_bytes(self, mesh, rank).saturating_sub(kept);
            flying.push((collective.until.map_or(i + 1, |until| until as usize), kept, beside));
            let all: u64 = flying.iter().map(|(_, kept, _)| kept).sum();
            let runs = flying.iter().map(|(_, _, beside)| *beside).max().unwrap_or(0);
            most = most.max(all.saturating_add(runs));
        }
        let fetches = self.fetches.iter().filter_map(|f| self.buffers.get(f.buffer as usize));
        let fetched: u64 = fetches.map(bytes).sum();
        most.max(fetched)
    }

    /// What a collective keeps from its start until it is waited for: at first what it sends, in the
    /// end what it gives.
    fn exchanged_bytes(&self, collective: &Collective) -> u64 {
        let all = |list: &[u32]| -> u64 {
            list.iter().filter_map(|n| self.buffers.get(*n as usize)).map(bytes).sum()
        };
        all(&collective.send).max(all(&collective.receive))
    }
}

impl Collective {
    /// Bytes of host memory that a rank takes for this collective beside its buffers: copies of what
    /// it sends and receives, and what a carrier holds of both while they are on their way.
    ///
    /// Of the operands' bytes `S`, of what is received `R`, in a group of `p` ranks, with `out` and
    /// `in` what a carrier has on its way:
    /// - `all_reduce`: `S`, and of a segment of `s ≤` [`SEGMENT_BYTES`] of it a copy, the other
    ///   ranks' pieces and `out + in = 2 · s · (p − 1) / p`
    /// - `reduce`, `broadcast`: `S`, and of each root's values a segment that is `p` times smaller,
    ///   packed, as received, and on its way
    /// - `all_gather`: `S + R + out + in`; where parts are interleaved, once more `R` or `out + in`
    /// - `exchange_counts`, `dispatch`, `dispatch_tokens`, `combine`: operands, what is packed from
    ///   them, what arrives, and the larger of what is on its way and the result
    pub fn staging_bytes(&self, entry: &Entry, mesh: &Mesh, rank: u32) -> u64 {
        let p = mesh.group_size(&self.axes).max(1);
        let at = mesh.coordinate(rank, &self.axes);
        let buffers = |list: &[u32]| -> Vec<(u64, u64)> {
            let found = list.iter().filter_map(|n| entry.buffers.get(*n as usize));
            found.map(|b| (bytes(b), b.dtype.bytes())).collect()
        };
        let (send, receive) = (buffers(&self.send), buffers(&self.receive));
        let all = |list: &[(u64, u64)]| list.iter().map(|(bytes, _)| bytes).sum::<u64>();
        let (s, r) = (all(&send), all(&receive));
        let (first, width) = send.first().copied().unwrap_or_default();
        let others = |bytes: u64| bytes / p * (p - 1);
        let alone = |bytes: u64| if p == 1 { 0 } else { bytes };
        match self.kind {
            CollectiveKind::AllReduce(_) => {
                let segment = s.min(SEGMENT_BYTES.max(p * width));
                s + 2 * segment + (2 * others(segment)).max(widened(segment, width))
            }
            CollectiveKind::Reduce(_) => {
                let Rooted { own, all } = self.rooted((&send, width), (p, at));
                let way = all - own + (p - 1) * own;
                s + all + p * own + alone(way).max(widened(p * own, width))
            }
            CollectiveKind::Broadcast => {
                let Rooted { own, all } = self.rooted((&send, width), (p, at));
                s + own + all + alone((p - 1) * own + all - own)
            }
            CollectiveKind::AllGather { outer } => {
                let way = 2 * (p - 1) * first;
                s + r + if outer <= 1 { way } else { way.max(r) }
            }
            CollectiveKind::ExchangeCounts => s + r + (2 * others(s)).max(r),
            CollectiveKind::Dispatch { .. } => s + r + alone(first + r).max(r),
            CollectiveKind::DispatchTokens { row, .. } => {
                let row = row * width;
                let places = |bytes: u64| bytes.checked_div(row).unwrap_or(0) * PLACE;
                let slots = send.get(1).map_or(0, |(bytes, _)| bytes / PLACE);
                let (packed, arrived) = (slots * (row + PLACE), r + places(r));
                s + packed + arrived + alone(packed + arrived).max(r)
            }
            CollectiveKind::Combine { .. } => s + first + r + alone(first + r).max(r),
        }
    }

    /// Segments of the values of this rank, and of all roots together.
    fn rooted(&self, (send, width): (&[(u64, u64)], u64), (p, at): (u64, u64)) -> Rooted {
        let of_root = |root: u64| {
            let values = send.iter().zip(&self.roots).filter(|(_, r)| **r == root);
            let bytes: u64 = values.map(|((bytes, _), _)| bytes).sum();
            bytes.min((SEGMENT_BYTES / p).max(width))
        };
        Rooted { own: of_root(at), all: (0..p).map(of_root).sum() }
    }
}

/// Segments on their way at once.
struct Rooted {
    own: u64,
    all: u64,
}

/// What sums of 16-bit floats take in f32.
fn widened(bytes: u64, width: u64) -> u64 {
    if width == 2 { 2 * bytes } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_overlap_are_counted_once() {
        let pieces = [(10, 20), (0, 4), (12, 15), (18, 30), (30, 31)];
        assert_eq!(covered(pieces.into_iter()), 4 + 21);
        assert_eq!(covered(std::iter::empty()), 0);
    }
}
