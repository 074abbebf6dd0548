//! Collectives of a plan: buffers of the ranks of a group as bytes, exchanged.
//!
//! # Invariants
//! - Rows arrive ordered by (expert, rank they come from, their order there), which is the order
//!   that one rank alone would have them in.
//! - Counts are data from this step: they are held against the rows before anything is sent.
//! - No more memory is taken than `Collective::staging_bytes` says: reductions and broadcasts work in
//!   the operands' own places, [`SEGMENT_BYTES`] at a time.

use perilune_plan::{Collective, CollectiveKind, DType, Reduction, SEGMENT_BYTES};

use super::joined::Joined;
use crate::comm::{self, Combine, CommError, Communicator, Site};

/// Why a collective failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// What the data does not allow.
    Data(String),
    /// What happened between the ranks.
    Comm(CommError),
}

impl From<CommError> for Failed {
    fn from(error: CommError) -> Self {
        Failed::Comm(error)
    }
}

/// A group of ranks at a point of a step.
pub(super) struct Exchange<'a> {
    pub(super) comm: &'a mut dyn Communicator,
    pub(super) site: Site<'a>,
    pub(super) group: &'a [u32],
}

/// A buffer's bytes.
pub(super) struct Bytes {
    pub(super) dtype: DType,
    pub(super) data: Vec<u8>,
}

impl Exchange<'_> {
    /// What this rank gets for what it gives; `lengths` are those of the buffers that it gets.
    pub(super) fn run(
        &mut self,
        collective: &Collective,
        send: Vec<Bytes>,
        lengths: &[usize],
    ) -> Result<Vec<Vec<u8>>, Failed> {
        match collective.kind {
            CollectiveKind::AllReduce(reduction) => self.all_reduce(reduction, send),
            CollectiveKind::Reduce(reduction) => self.reduce(reduction, &collective.roots, send),
            CollectiveKind::Broadcast => self.broadcast(&collective.roots, send),
            CollectiveKind::AllGather { outer } => self.all_gather(outer as usize, &send),
            CollectiveKind::ExchangeCounts => self.exchange_counts(&send),
            CollectiveKind::Dispatch { row } => self.dispatch(row, &send, lengths),
            CollectiveKind::DispatchTokens { row, per_token } => {
                self.dispatch_tokens((row, per_token as usize), &send, lengths)
            }
            CollectiveKind::Combine { row } => self.combine(row, &send, lengths),
        }
    }

    /// All operands as if they were one, a segment at a time, in their own places.
    fn all_reduce(
        &mut self,
        reduction: Reduction,
        mut send: Vec<Bytes>,
    ) -> Result<Vec<Vec<u8>>, Failed> {
        let how = combine(reduction);
        let Some(dtype) = send.first().map(|bytes| bytes.dtype) else { return Ok(Vec::new()) };
        // Whole shares of every rank, so that a rank sends as much as it would of all at once.
        let share = self.group.len() * dtype.bytes() as usize;
        let segment = (SEGMENT_BYTES as usize / share).max(1) * share;
        let mut joined = Joined::of(send.iter_mut().map(|bytes| &mut bytes.data[..]));
        for round in 0..joined.rounds(segment) {
            let mut piece = joined.read(round, segment);
            comm::all_reduce(self.comm, &self.site, self.group, (how, dtype), &mut piece)?;
            joined.write((round, segment), &piece);
        }
        Ok(send.into_iter().map(|bytes| bytes.data).collect())
    }

    /// This rank's place in the group.
    fn place(&self) -> usize {
        self.group.iter().position(|rank| *rank == self.comm.rank()).unwrap_or(0)
    }

    /// The values of each root, and how much of them is on the way at once.
    fn by_root<'v>(&self, roots: &[u64], send: &'v mut [Bytes]) -> (Vec<Joined<'v>>, usize) {
        let elem = send.first().map_or(1, |bytes| bytes.dtype.bytes() as usize);
        let ranks = self.group.len();
        let mut joined: Vec<Joined<'v>> = (0..ranks).map(|_| Joined::default()).collect();
        for (bytes, root) in send.iter_mut().zip(roots) {
            if let Some(of_root) = joined.get_mut(*root as usize) {
                of_root.push(&mut bytes.data);
            }
        }
        (joined, (SEGMENT_BYTES as usize / ranks.max(1) / elem).max(1) * elem)
    }

    /// Every value combined on its root: each rank sends each root pieces of that root's values.
    fn reduce(
        &mut self,
        reduction: Reduction,
        roots: &[u64],
        mut send: Vec<Bytes>,
    ) -> Result<Vec<Vec<u8>>, Failed> {
        let Some(dtype) = send.first().map(|bytes| bytes.dtype) else { return Ok(Vec::new()) };
        let own = self.place();
        let (mut joined, segment) = self.by_root(roots, &mut send);
        for round in 0..rounds(&joined, segment) {
            let packed: Vec<Vec<u8>> = joined.iter().map(|j| j.read(round, segment)).collect();
            let expected = vec![packed[own].len(); self.group.len()];
            let mut pieces = self.pieces(&views(&packed), &expected)?;
            let mut places: Vec<&mut [u8]> = pieces.iter_mut().map(Vec::as_mut_slice).collect();
            comm::reduce_pairwise(combine(reduction), dtype, &mut places)?;
            joined[own].write((round, segment), &pieces[0]);
        }
        Ok(send.into_iter().map(|bytes| bytes.data).collect())
    }

    /// Every value as its root has it: each rank sends pieces of the values whose root it is to all.
    fn broadcast(&mut self, roots: &[u64], mut send: Vec<Bytes>) -> Result<Vec<Vec<u8>>, Failed> {
        let own = self.place();
        let (mut joined, segment) = self.by_root(roots, &mut send);
        for round in 0..rounds(&joined, segment) {
            let mine = joined[own].read(round, segment);
            let mut parts: Vec<Vec<u8>> =
                joined.iter().map(|j| vec![0; j.piece(round, segment).len()]).collect();
            let mut places: Vec<&mut [u8]> = parts.iter_mut().map(Vec::as_mut_slice).collect();
            comm::all_gather(self.comm, &self.site, self.group, &mine, &mut places)?;
            for (of_root, part) in joined.iter_mut().zip(&parts) {
                of_root.write((round, segment), part);
            }
        }
        Ok(send.into_iter().map(|bytes| bytes.data).collect())
    }

    fn all_gather(&mut self, outer: usize, send: &[Bytes]) -> Result<Vec<Vec<u8>>, Failed> {
        let [part] = send else { return Err(misshapen()) };
        let (ranks, length) = (self.group.len(), part.data.len());
        let mut parts = vec![0u8; length * ranks];
        let mut places: Vec<&mut [u8]> = match length {
            0 => (0..ranks).map(|_| <&mut [u8]>::default()).collect(),
            _ => parts.chunks_mut(length).collect(),
        };
        comm::all_gather(self.comm, &self.site, self.group, &part.data, &mut places)?;
        if outer <= 1 {
            return Ok(vec![parts]);
        }
        let piece = length / outer;
        let mut all = Vec::with_capacity(parts.len());
        for row in 0..outer {
            for part in 0..ranks {
                all.extend_from_slice(&parts[part * length + row * piece..][..piece]);
            }
        }
        Ok(vec![all])
    }

    fn exchange_counts(&mut self, send: &[Bytes]) -> Result<Vec<Vec<u8>>, Failed> {
        let [counts] = send else { return Err(misshapen()) };
        let piece = counts.data.len() / self.group.len().max(1);
        let lengths = vec![piece; self.group.len()];
        let received = self.pieces(&split(&counts.data, &lengths), &lengths)?;
        Ok(vec![received.concat()])
    }

    /// Sends a piece to each rank of the group; gives what comes from each.
    fn pieces(&mut self, send: &[&[u8]], expected: &[usize]) -> Result<Vec<Vec<u8>>, Failed> {
        let mut received: Vec<Vec<u8>> = expected.iter().map(|length| vec![0; *length]).collect();
        let mut places: Vec<&mut [u8]> = received.iter_mut().map(Vec::as_mut_slice).collect();
        self.comm.exchange(&self.site, self.group, send, &mut places)?;
        Ok(received)
    }

    fn dispatch(
        &mut self,
        row: u64,
        send: &[Bytes],
        lengths: &[usize],
    ) -> Result<Vec<Vec<u8>>, Failed> {
        let ([rows, sent, received], [length]) = (send, lengths) else { return Err(misshapen()) };
        let row = (row * rows.dtype.bytes()) as usize;
        let sent = Counts::read(sent, self.group.len(), rows.data.len() / row)?;
        let received = Counts::read(received, self.group.len(), length / row)?;
        let leaving = split(&rows.data, &sent.bytes(row));
        let arrived = self.pieces(&leaving, &received.bytes(row))?;
        let mut all = vec![0u8; *length];
        received.for_each_run(|run| {
            let (rank, from, to, count) = (run.rank, run.in_piece, run.in_all, run.rows);
            let piece = &arrived[rank][from * row..(from + count) * row];
            all[to * row..(to + count) * row].copy_from_slice(piece);
        });
        Ok(vec![all])
    }

    /// Each token once to each rank that some of its rows are for, and the places of these rows.
    fn dispatch_tokens(
        &mut self,
        (row, per_token): (u64, usize),
        send: &[Bytes],
        lengths: &[usize],
    ) -> Result<Vec<Vec<u8>>, Failed> {
        let ([tokens, order, sent, received], [length]) = (send, lengths) else {
            return Err(misshapen());
        };
        let row = (row * tokens.dtype.bytes()) as usize;
        let sent = Counts::read(sent, self.group.len(), order.data.len() / 4)?;
        let received = Counts::read(received, self.group.len(), length / row)?;
        let ranks = self.group.len();
        let packed = pack(&tokens.data, (row, per_token), &order.data, &sent)?;
        let counts: Vec<u8> =
            packed.iter().flat_map(|(count, _)| (*count as i32).to_le_bytes()).collect();
        let arriving = self.pieces(&split(&counts, &vec![4; ranks]), &vec![4; ranks])?.concat();
        let mut expected = Vec::with_capacity(ranks);
        for (count, rows) in integers(&arriving).zip(received.bytes(4)) {
            let count = usize::try_from(count).ok().filter(|n| *n <= rows / 4);
            let count = count.ok_or_else(|| Failed::Data("more tokens than rows".to_owned()))?;
            expected.push((count, count * row + rows));
        }
        let leaving: Vec<&[u8]> = packed.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        let coming: Vec<usize> = expected.iter().map(|(_, bytes)| *bytes).collect();
        let arrived = self.pieces(&leaving, &coming)?;
        let mut all = vec![0u8; *length];
        let mut outside = false;
        received.for_each_run(|run| {
            let count = expected[run.rank].0;
            let (held, places) = arrived[run.rank].split_at(count * row);
            let places = integers(&places[run.in_piece * 4..][..run.rows * 4]);
            for (i, place) in places.enumerate() {
                let to = (run.in_all + i) * row;
                let token =
                    usize::try_from(place).ok().and_then(|p| held.get(p * row..)?.get(..row));
                match token {
                    Some(token) => all[to..to + row].copy_from_slice(token),
                    None => outside = true,
                }
            }
        });
        match outside {
            true => Err(Failed::Data("a row of a token that did not come".to_owned())),
            false => Ok(vec![all]),
        }
    }

    fn combine(
        &mut self,
        row: u64,
        send: &[Bytes],
        lengths: &[usize],
    ) -> Result<Vec<Vec<u8>>, Failed> {
        let ([rows, sent, received], [length]) = (send, lengths) else { return Err(misshapen()) };
        let row = (row * rows.dtype.bytes()) as usize;
        let sent = Counts::read(sent, self.group.len(), length / row)?;
        let received = Counts::read(received, self.group.len(), rows.data.len() / row)?;
        let mut back: Vec<Vec<u8>> = received.bytes(row).into_iter().map(|n| vec![0; n]).collect();
        received.for_each_run(|run| {
            let (rank, to, from, count) = (run.rank, run.in_piece, run.in_all, run.rows);
            let piece = &rows.data[from * row..(from + count) * row];
            back[rank][to * row..(to + count) * row].copy_from_slice(piece);
        });
        let home = self.pieces(&views(&back), &sent.bytes(row))?;
        let mut all = Vec::with_capacity(*length);
        home.iter().for_each(|rows| all.extend_from_slice(rows));
        all.resize(*length, 0);
        Ok(vec![all])
    }
}

/// For each rank, how many tokens go there, and these tokens followed by the place of each row.
fn pack(
    tokens: &[u8],
    (row, per_token): (usize, usize),
    order: &[u8],
    sent: &Counts,
) -> Result<Vec<(usize, Vec<u8>)>, Failed> {
    let mut slots = integers(order);
    let mut packed = Vec::with_capacity(sent.by_rank.len());
    for counts in &sent.by_rank {
        let mut place_of: Vec<Option<usize>> = vec![None; tokens.len() / row.max(1)];
        let rows: usize = counts.iter().sum();
        let (mut held, mut count) = (Vec::with_capacity(rows * (row + 4)), 0usize);
        let mut places = Vec::with_capacity(rows * 4);
        for slot in slots.by_ref().take(rows) {
            let token = usize::try_from(slot).ok().map(|slot| slot / per_token.max(1));
            let token = token.filter(|token| *token < place_of.len());
            let token = token.ok_or_else(|| Failed::Data(format!("no slot {slot}")))?;
            let place = *place_of[token].get_or_insert_with(|| {
                held.extend_from_slice(&tokens[token * row..(token + 1) * row]);
                count += 1;
                count - 1
            });
            places.extend_from_slice(&(place as i32).to_le_bytes());
        }
        held.extend(places);
        packed.push((count, held));
    }
    Ok(packed)
}

/// Bytes as i32.
fn integers(bytes: &[u8]) -> impl Iterator<Item = i32> {
    bytes.chunks_exact(4).map(|w| i32::from_le_bytes([w[0], w[1], w[2], w[3]]))
}

/// Pieces as they are sent.
fn views(pieces: &[Vec<u8>]) -> Vec<&[u8]> {
    pieces.iter().map(Vec::as_slice).collect()
}

/// Exchanges that the longest of some values need, a piece of each in every one; at least one, in
/// which the ranks meet.
fn rounds(joined: &[Joined<'_>], piece: usize) -> usize {
    joined.iter().map(|of_root| of_root.rounds(piece)).max().unwrap_or(1)
}

/// Consecutive pieces.
fn split<'d>(data: &'d [u8], lengths: &[usize]) -> Vec<&'d [u8]> {
    let mut rest = data;
    let mut piece = |length: &usize| {
        let (head, tail) = rest.split_at(*length);
        rest = tail;
        head
    };
    lengths.iter().map(&mut piece).collect()
}

fn combine(reduction: Reduction) -> Combine {
    match reduction {
        Reduction::Sum => Combine::Sum,
        Reduction::Max => Combine::Max,
        Reduction::Min => Combine::Min,
    }
}

fn misshapen() -> Failed {
    Failed::Data("a collective with other buffers than its kind has".to_owned())
}

/// Rows by (rank, expert).
struct Counts {
    /// Per rank of the group, rows of each expert.
    by_rank: Vec<Vec<usize>>,
}

/// Rows of one expert that come from one rank.
struct Run {
    rank: usize,
    /// First row in the rank's piece.
    in_piece: usize,
    /// First row among all.
    in_all: usize,
    rows: usize,
}

impl Counts {
    /// Counts of at most `most` rows.
    fn read(bytes: &Bytes, ranks: usize, most: usize) -> Result<Counts, Failed> {
        let counts: Option<Vec<usize>> =
            integers(&bytes.data).map(|n| usize::try_from(n).ok()).collect();
        let counts = counts.ok_or_else(|| Failed::Data("a count of rows below 0".to_owned()))?;
        let total: usize = counts.iter().sum();
        if total > most {
            return Err(Failed::Data(format!("{total} rows to exchange, {most} at most")));
        }
        let experts = (counts.len() / ranks.max(1)).max(1);
        Ok(Counts { by_rank: counts.chunks(experts).map(<[usize]>::to_vec).collect() })
    }

    /// Bytes for each rank.
    fn bytes(&self, row: usize) -> Vec<usize> {
        self.by_rank.iter().map(|counts| counts.iter().sum::<usize>() * row).collect()
    }

    /// Runs in the order (expert, rank).
    fn for_each_run(&self, mut f: impl FnMut(Run)) {
        let mut in_piece = vec![0; self.by_rank.len()];
        let mut in_all = 0;
        for expert in 0..self.by_rank.first().map_or(0, Vec::len) {
            for (rank, counts) in self.by_rank.iter().enumerate() {
                let rows = counts[expert];
                f(Run { rank, in_piece: in_piece[rank], in_all, rows });
                in_piece[rank] += rows;
                in_all += rows;
            }
        }
    }
}
