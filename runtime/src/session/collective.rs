//! Collectives of a plan: buffers of the ranks of a group as bytes, exchanged.
//!
//! # Invariants
//! - Rows arrive ordered by (expert, rank they come from, their order there), which is the order
//!   that one rank alone would have them in.
//! - Counts are data from this step: they are held against the rows before anything is sent.

use perilune_plan::{Collective, CollectiveKind, DType, Reduction};

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
            CollectiveKind::Broadcast => self.broadcast(&collective.roots, &send),
            CollectiveKind::AllGather { outer } => self.all_gather(outer as usize, &send),
            CollectiveKind::ExchangeCounts => self.exchange_counts(&send),
            CollectiveKind::Dispatch { row } => self.dispatch(row, &send, lengths),
            CollectiveKind::DispatchTokens { row, per_token } => {
                self.dispatch_tokens((row, per_token as usize), &send, lengths)
            }
            CollectiveKind::Combine { row } => self.combine(row, &send, lengths),
        }
    }

    /// All operands as one piece of memory, reduced at once.
    fn all_reduce(
        &mut self,
        reduction: Reduction,
        send: Vec<Bytes>,
    ) -> Result<Vec<Vec<u8>>, Failed> {
        let combine = combine(reduction);
        let Some(dtype) = send.first().map(|bytes| bytes.dtype) else { return Ok(Vec::new()) };
        let lengths: Vec<usize> = send.iter().map(|bytes| bytes.data.len()).collect();
        let mut all: Vec<u8> = send.into_iter().flat_map(|bytes| bytes.data).collect();
        comm::all_reduce(self.comm, &self.site, self.group, (combine, dtype), &mut all)?;
        Ok(split(&all, &lengths).into_iter().map(<[u8]>::to_vec).collect())
    }

    /// This rank's place in the group.
    fn place(&self) -> usize {
        self.group.iter().position(|rank| *rank == self.comm.rank()).unwrap_or(0)
    }

    /// Every value combined on its root: each rank sends each root that root's values at once.
    fn reduce(
        &mut self,
        reduction: Reduction,
        roots: &[u64],
        send: Vec<Bytes>,
    ) -> Result<Vec<Vec<u8>>, Failed> {
        let Some(dtype) = send.first().map(|bytes| bytes.dtype) else { return Ok(Vec::new()) };
        let of_root = |root: usize| send.iter().zip(roots).filter(move |(_, r)| **r == root as u64);
        let packed: Vec<Vec<u8>> = (0..self.group.len())
            .map(|root| of_root(root).flat_map(|(bytes, _)| bytes.data.clone()).collect())
            .collect();
        let own = self.place();
        let lengths: Vec<usize> = packed.iter().map(Vec::len).collect();
        let expected = vec![lengths[own]; self.group.len()];
        let mut pieces = self.pieces(&packed.concat(), &lengths, &expected)?;
        let mut views: Vec<&mut [u8]> = pieces.iter_mut().map(Vec::as_mut_slice).collect();
        comm::reduce_pairwise(combine(reduction), dtype, &mut views)?;
        let sizes: Vec<usize> = of_root(own).map(|(bytes, _)| bytes.data.len()).collect();
        let mut combined = split(&pieces[0], &sizes).into_iter().map(<[u8]>::to_vec);
        let results = send.iter().zip(roots).map(|(bytes, root)| match *root == own as u64 {
            true => combined.next().unwrap_or_default(),
            false => bytes.data.clone(),
        });
        Ok(results.collect())
    }

    /// Every value as its root has it: each rank sends the values whose root it is to all, at once.
    fn broadcast(&mut self, roots: &[u64], send: &[Bytes]) -> Result<Vec<Vec<u8>>, Failed> {
        let own = self.place() as u64;
        let rooted = send.iter().zip(roots);
        let mine: Vec<u8> = rooted
            .clone()
            .filter(|(_, root)| **root == own)
            .flat_map(|(bytes, _)| bytes.data.clone())
            .collect();
        let length = |root: usize| {
            let values = rooted.clone().filter(|(_, r)| **r == root as u64);
            values.map(|(bytes, _)| bytes.data.len()).sum()
        };
        let mut parts: Vec<Vec<u8>> =
            (0..self.group.len()).map(|root| vec![0; length(root)]).collect();
        let mut places: Vec<&mut [u8]> = parts.iter_mut().map(Vec::as_mut_slice).collect();
        comm::all_gather(self.comm, &self.site, self.group, &mine, &mut places)?;
        let mut rest: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let results = rooted.map(|(bytes, root)| {
            let (value, tail) = rest[*root as usize].split_at(bytes.data.len());
            rest[*root as usize] = tail;
            value.to_vec()
        });
        Ok(results.collect())
    }

    fn all_gather(&mut self, outer: usize, send: &[Bytes]) -> Result<Vec<Vec<u8>>, Failed> {
        let [part] = send else { return Err(misshapen()) };
        let ranks = self.group.len();
        let mut parts = vec![vec![0u8; part.data.len()]; ranks];
        let mut places: Vec<&mut [u8]> = parts.iter_mut().map(Vec::as_mut_slice).collect();
        comm::all_gather(self.comm, &self.site, self.group, &part.data, &mut places)?;
        let piece = part.data.len() / outer.max(1);
        let mut all = Vec::with_capacity(part.data.len() * ranks);
        for row in 0..outer {
            for part in &parts {
                all.extend_from_slice(&part[row * piece..(row + 1) * piece]);
            }
        }
        Ok(vec![all])
    }

    fn exchange_counts(&mut self, send: &[Bytes]) -> Result<Vec<Vec<u8>>, Failed> {
        let [counts] = send else { return Err(misshapen()) };
        let piece = counts.data.len() / self.group.len().max(1);
        let lengths = vec![piece; self.group.len()];
        let received = self.pieces(&counts.data, &lengths, &lengths)?;
        Ok(vec![received.concat()])
    }

    /// Sends consecutive pieces of `data` to the ranks of the group; gives what comes from each.
    fn pieces(
        &mut self,
        data: &[u8],
        lengths: &[usize],
        expected: &[usize],
    ) -> Result<Vec<Vec<u8>>, Failed> {
        let send = split(data, lengths);
        let mut received: Vec<Vec<u8>> = expected.iter().map(|length| vec![0; *length]).collect();
        let mut places: Vec<&mut [u8]> = received.iter_mut().map(Vec::as_mut_slice).collect();
        self.comm.exchange(&self.site, self.group, &send, &mut places)?;
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
        let arrived = self.pieces(&rows.data, &sent.bytes(row), &received.bytes(row))?;
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
        let arriving = self.pieces(&counts, &vec![4; ranks], &vec![4; ranks])?.concat();
        let mut expected = Vec::with_capacity(ranks);
        for (count, rows) in integers(&arriving).zip(received.bytes(4)) {
            let count = usize::try_from(count).ok().filter(|n| *n <= rows / 4);
            let count = count.ok_or_else(|| Failed::Data("more tokens than rows".to_owned()))?;
            expected.push((count, count * row + rows));
        }
        let outgoing: Vec<u8> = packed.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        let sizes: Vec<usize> = packed.iter().map(|(_, bytes)| bytes.len()).collect();
        let coming: Vec<usize> = expected.iter().map(|(_, bytes)| *bytes).collect();
        let arrived = self.pieces(&outgoing, &sizes, &coming)?;
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
        let home = self.pieces(&back.concat(), &received.bytes(row), &sent.bytes(row))?;
        let mut all = home.concat();
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
        let (mut held, mut places, mut count) = (Vec::new(), Vec::new(), 0usize);
        for slot in slots.by_ref().take(counts.iter().sum()) {
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
