//! Ranks as processes that MPI connects.
//!
//! An exchange is one message to and from every other rank of the group, the first [`FIRST`] bytes
//! behind an envelope, and further messages for what is longer.
//! They are sent and received without waiting and asked for in turn, so that a deadline can be kept
//! and the flight recorder be looked after; no call of MPI is made that waits for another rank,
//! except to start and, when all are known to be there, to end.
//!
//! # Invariants
//! - MPI reads and writes memory that this module owns. What is still under way when an exchange
//!   fails keeps its memory until the process ends.
//! - After a failure MPI is not ended in order (`MPI_Finalize` waits for all ranks): the process
//!   leaves it behind.
//! - MPI is called by one thread at a time: every call needs `&mut Mpi`, of which there is one.

use std::mem::ManuallyDrop;
use std::os::raw::{c_int, c_void};
use std::time::{Duration, Instant};

use mpi::environment::{Threading, Universe, initialize_with_threading};
use mpi::ffi;
use mpi::topology::Communicator as _;

use super::envelope::{Envelope, key, mismatch};
use super::flight::Flight;
use super::rendezvous::Met;
use super::{Cause, CommError, Communicator, Lost, Site, Traffic, barrier, place_in_group};

/// Payload that travels with the envelope; together they are small enough to be sent unasked.
const FIRST: usize = 4096 - Envelope::BYTES;
/// Most bytes of a further message; MPI counts in `int`.
const MOST: usize = 1 << 30;
const FIRST_TAG: c_int = 1;
const MORE_TAG: c_int = 2;
/// Rounds of asking before a rank that waits gives its processor to others for longer.
const EAGER_ROUNDS: u32 = 200;
/// How long another reason is looked for when MPI fails.
const EXPLAINING: Duration = Duration::from_secs(1);

/// A rank of an MPI job.
#[derive(Debug)]
pub struct Mpi {
    rank: u32,
    size: u32,
    timeout: Duration,
    traffic: Traffic,
    flight: Flight,
    memory: Memory,
    /// Gone when MPI is not to be ended in order.
    universe: Option<World>,
}

/// MPI between its start and its end.
struct World(ManuallyDrop<Universe>);

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

/// MPI, started, before it is known where the flight recorder writes.
#[derive(Debug)]
pub struct Started {
    world: World,
    /// This process's rank.
    pub rank: u32,
    /// Ranks of the job.
    pub size: u32,
}

impl Started {
    /// Starts MPI; once in a process.
    ///
    /// # Errors
    /// [`CommError::Carrier`] when MPI does not start, was started before, or allows calls from the
    /// main thread alone.
    pub fn new() -> Result<Started, CommError> {
        let failed = |what: &str| CommError::Carrier { carrier: "MPI", what: what.to_owned() };
        let (universe, threading) = initialize_with_threading(Threading::Serialized)
            .ok_or_else(|| failed("it was started before"))?;
        let world = World(ManuallyDrop::new(universe));
        if threading < Threading::Serialized {
            return Err(failed("it allows no calls from threads other than the first"));
        }
        // SAFETY: MPI is started; both handles are constants of the library.
        let code = unsafe {
            ffi::MPI_Comm_set_errhandler(ffi::RSMPI_COMM_WORLD, ffi::RSMPI_ERRORS_RETURN)
        };
        checked(code)?;
        let all = world.0.world();
        let (rank, size) = (all.rank().unsigned_abs(), all.size().unsigned_abs());
        Ok(Started { world, rank, size })
    }

    /// The communicator of all ranks.
    pub fn into_communicator(self, flight: Flight, timeout: Duration) -> Mpi {
        Mpi {
            rank: self.rank,
            size: self.size,
            timeout,
            traffic: Traffic::default(),
            flight,
            memory: Memory::default(),
            universe: Some(self.world),
        }
    }
}

/// Memory of first messages that are done, to be used again; that of longer ones is given back, so
/// that between exchanges none of their size is held.
#[derive(Debug, Default)]
struct Memory(Vec<Vec<u8>>);

impl Memory {
    fn take(&mut self) -> Vec<u8> {
        let mut buffer = self.0.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    fn give_back(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= Envelope::BYTES + FIRST {
            self.0.push(buffer);
        }
    }
}

/// A message under way, with its memory.
struct Transfer {
    request: ffi::MPI_Request,
    buffer: ManuallyDrop<Vec<u8>>,
    done: bool,
}

impl Transfer {
    fn send(buffer: Vec<u8>, (to, tag): (u32, c_int)) -> Result<Transfer, CommError> {
        let (count, to) = (int(buffer.len())?, int(to as usize)?);
        let mut transfer = Transfer::new(buffer);
        // SAFETY: the memory is this transfer's until MPI is done with it (`Drop`), and holds
        // `count` bytes; MPI only reads it.
        let code = unsafe {
            ffi::MPI_Isend(
                transfer.buffer.as_ptr().cast::<c_void>(),
                count,
                ffi::RSMPI_UINT8_T,
                to,
                tag,
                ffi::RSMPI_COMM_WORLD,
                &raw mut transfer.request,
            )
        };
        transfer.started(code)
    }

    fn receive(
        mut buffer: Vec<u8>,
        len: usize,
        (from, tag): (u32, c_int),
    ) -> Result<Transfer, CommError> {
        buffer.resize(len, 0);
        let (count, from) = (int(len)?, int(from as usize)?);
        let mut transfer = Transfer::new(buffer);
        // SAFETY: as in `send`; nothing else reads or writes the memory before MPI is done.
        let code = unsafe {
            ffi::MPI_Irecv(
                transfer.buffer.as_mut_ptr().cast::<c_void>(),
                count,
                ffi::RSMPI_UINT8_T,
                from,
                tag,
                ffi::RSMPI_COMM_WORLD,
                &raw mut transfer.request,
            )
        };
        transfer.started(code)
    }

    fn new(buffer: Vec<u8>) -> Transfer {
        // SAFETY: a constant of the library.
        let request = unsafe { ffi::RSMPI_REQUEST_NULL };
        Transfer { request, buffer: ManuallyDrop::new(buffer), done: false }
    }

    fn started(self, code: c_int) -> Result<Transfer, CommError> {
        checked(code)?;
        Ok(self)
    }

    /// Whether MPI is done with it.
    fn test(&mut self) -> Result<bool, CommError> {
        if !self.done {
            let mut flag = 0;
            // SAFETY: the request is one that MPI gave; a status is not asked for.
            let code = unsafe {
                ffi::MPI_Test(&raw mut self.request, &raw mut flag, ffi::RSMPI_STATUS_IGNORE)
            };
            checked(code)?;
            self.done = flag != 0;
        }
        Ok(self.done)
    }

    /// Hands the memory of a transfer that is done back.
    fn recycle(mut self, memory: &mut Memory) {
        if self.done {
            memory.give_back(std::mem::take(&mut *self.buffer));
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.done {
            // SAFETY: MPI is done with the memory, and it is not used after this.
            unsafe { ManuallyDrop::drop(&mut self.buffer) }
        }
        // Otherwise MPI may still use the memory, so it is never freed.
    }
}

/// What comes from one rank.
#[derive(Default)]
struct Inbox {
    /// What the sender says, once known.
    envelope: Option<Envelope>,
    first: Option<Transfer>,
    more: Vec<Transfer>,
    complete: bool,
}

/// An exchange under way.
struct Exchange<'a> {
    group: &'a [u32],
    own: usize,
    key: u64,
    /// Lengths that are to come, by place in the group.
    expected: Vec<usize>,
    outbox: Vec<Transfer>,
    inboxes: Vec<Inbox>,
}

impl Exchange<'_> {
    /// Ranks from which not everything has come.
    fn missing(&self) -> Vec<u32> {
        let inboxes = self.inboxes.iter().enumerate();
        let open = inboxes.filter(|(i, inbox)| *i != self.own && !inbox.complete);
        open.map(|(i, _)| self.group[i]).collect()
    }

    /// The group without this rank.
    fn others(&self) -> Vec<u32> {
        let ranks = self.group.iter().enumerate().filter(|(i, _)| *i != self.own);
        ranks.map(|(_, rank)| *rank).collect()
    }

    /// Starts all that can be started at once.
    fn start(&mut self, memory: &mut Memory, send: &[&[u8]]) -> Result<(), CommError> {
        for (i, &peer) in self.group.iter().enumerate().filter(|(i, _)| *i != self.own) {
            let length = Envelope::BYTES + FIRST;
            let first = Transfer::receive(memory.take(), length, (peer, FIRST_TAG))?;
            self.inboxes[i].first = Some(first);
        }
        for (i, &peer) in self.group.iter().enumerate().filter(|(i, _)| *i != self.own) {
            let (first, rest) = send[i].split_at(send[i].len().min(FIRST));
            let mut buffer = memory.take();
            let envelope = Envelope { key: self.key, bytes: send[i].len() as u64 };
            buffer.extend_from_slice(&envelope.encode());
            buffer.extend_from_slice(first);
            self.outbox.push(Transfer::send(buffer, (peer, FIRST_TAG))?);
            for chunk in rest.chunks(MOST) {
                self.outbox.push(Transfer::send(chunk.to_vec(), (peer, MORE_TAG))?);
            }
        }
        Ok(())
    }

    /// Asks for everything once; whether all of it is done.
    fn advance(&mut self) -> Result<bool, CommError> {
        let mut done = true;
        for transfer in &mut self.outbox {
            done &= transfer.test()?;
        }
        for (i, &peer) in self.group.iter().enumerate().filter(|(i, _)| *i != self.own) {
            done &= self.inboxes[i].advance((peer, self.key, self.expected[i]))?;
        }
        Ok(done)
    }

    /// A rank that is in another collective, or sends another length; known once all have said
    /// where they are.
    fn mismatch(&self) -> Option<(u32, Option<Cause>)> {
        let envelopes: Option<Vec<Envelope>> =
            self.inboxes.iter().map(|inbox| inbox.envelope).collect();
        let (place, cause) = mismatch(&envelopes?, &self.expected, self.own)?;
        Some((self.group[place], cause))
    }
}

impl Inbox {
    fn advance(&mut self, (peer, key, expected): (u32, u64, usize)) -> Result<bool, CommError> {
        let Some(first) = &mut self.first else { return Ok(true) };
        if !first.test()? {
            return Ok(false);
        }
        if self.envelope.is_none() {
            let envelope = Envelope::decode(&first.buffer);
            self.envelope = Some(envelope);
            if envelope == (Envelope { key, bytes: expected as u64 }) {
                let mut rest = expected.saturating_sub(FIRST);
                while rest > 0 {
                    let length = rest.min(MOST);
                    let more = Transfer::receive(Vec::new(), length, (peer, MORE_TAG))?;
                    self.more.push(more);
                    rest -= length;
                }
            }
        }
        let mut done = true;
        for more in &mut self.more {
            done &= more.test()?;
        }
        self.complete = done;
        Ok(done)
    }

    /// Copies what came, and hands the memory back.
    fn unpack(self, mut place: &mut [u8], memory: &mut Memory) {
        for (i, transfer) in self.first.into_iter().chain(self.more).enumerate() {
            let bytes = &transfer.buffer[if i == 0 { Envelope::BYTES } else { 0 }..];
            let (head, tail) = place.split_at_mut(bytes.len().min(place.len()));
            head.copy_from_slice(&bytes[..head.len()]);
            place = tail;
            transfer.recycle(memory);
        }
    }
}

impl Mpi {
    /// Asks until all is done, the deadline is over, or a rank is lost.
    fn complete(&mut self, exchange: &mut Exchange<'_>) -> Result<(), CommError> {
        let mut rounds = 0;
        loop {
            let done = exchange.advance()?;
            if let Some((rank, cause)) = exchange.mismatch() {
                let cause = cause
                    .unwrap_or_else(|| Cause::Elsewhere { entered: self.flight.entered(rank) });
                return Err(Box::new(self.flight.lost(rank, cause)).into());
            }
            if done {
                return Ok(());
            }
            if let Some(lost) = self.overdue(exchange) {
                return Err(Box::new(lost).into());
            }
            rounds += 1;
            if rounds < EAGER_ROUNDS {
                std::thread::yield_now();
            } else {
                let pause = u64::from(rounds - EAGER_ROUNDS).clamp(20, 500);
                std::thread::sleep(Duration::from_micros(pause));
            }
        }
    }

    /// What MPI says is often that a rank is gone, in other words.
    fn explain(&mut self, error: CommError, exchange: &Exchange<'_>) -> CommError {
        let begin = Instant::now();
        while matches!(error, CommError::Carrier { .. }) && begin.elapsed() < EXPLAINING {
            if let Some(lost) = self.flight.look(&exchange.others()) {
                return Box::new(lost).into();
            }
            std::thread::sleep(EXPLAINING / 20);
        }
        error
    }

    /// A rank that is waited for too long, or in vain.
    fn overdue(&mut self, exchange: &Exchange<'_>) -> Option<Lost> {
        let mut missing = exchange.missing();
        if missing.is_empty() {
            // All has come; what was sent is not taken yet, and nobody says by whom.
            missing = exchange.others();
        }
        if self.flight.waited() >= self.timeout {
            return Some(self.flight.judge(&missing));
        }
        self.flight.look(&missing)
    }

    /// From now on this rank and the others hear of each other: [`Flight::attach`].
    pub(super) fn attach(&mut self, met: Met) -> std::io::Result<()> {
        self.flight.attach(met, self.timeout)
    }

    /// Leaves MPI as it is.
    fn abandon(&mut self) {
        self.universe = None;
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn exchange(
        &mut self,
        site: &Site<'_>,
        group: &[u32],
        send: &[&[u8]],
        receive: &mut [&mut [u8]],
    ) -> Result<(), CommError> {
        let own = place_in_group((self.rank, self.size), group, send, receive)?;
        if self.universe.is_none() {
            let what = "it is of no use after a failure".to_owned();
            return Err(CommError::Carrier { carrier: "MPI", what });
        }
        let bytes = self.traffic.count(site, own, send);
        self.flight.begin(site, group, bytes);
        let key = key(site, group);
        let mut inboxes: Vec<Inbox> = group.iter().map(|_| Inbox::default()).collect();
        let expected: Vec<usize> = receive.iter().map(|piece| piece.len()).collect();
        inboxes[own].envelope = Some(Envelope { key, bytes: expected[own] as u64 });
        let mut exchange = Exchange { group, own, key, expected, outbox: Vec::new(), inboxes };
        let started = exchange.start(&mut self.memory, send);
        let done = started.and_then(|()| self.complete(&mut exchange));
        if let Err(error) = done.map_err(|error| self.explain(error, &exchange)) {
            if let CommError::Lost(lost) = &error {
                self.flight.give_up(lost);
            }
            self.abandon();
            return Err(error);
        }
        for transfer in exchange.outbox {
            transfer.recycle(&mut self.memory);
        }
        for (i, (inbox, piece)) in exchange.inboxes.into_iter().zip(receive).enumerate() {
            if i == own {
                piece.copy_from_slice(send[own]);
            } else {
                inbox.unpack(piece, &mut self.memory);
            }
        }
        self.flight.end();
        Ok(())
    }

    fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn leave(&mut self, exit: u8) {
        if exit == 0 && self.universe.is_some() {
            // All ranks are here, so the end of MPI, which waits for all, does not wait long.
            let site = Site { entry: "end", step: 0, name: "barrier", node: "" };
            let all: Vec<u32> = (0..self.size).collect();
            if barrier(self, &site, &all).is_ok()
                && let Some(World(mut universe)) = self.universe.take()
            {
                // SAFETY: it was taken out, so it is not dropped again.
                unsafe { ManuallyDrop::drop(&mut universe) }
            }
        }
        self.abandon();
        self.flight.leave(exit);
    }
}

fn int(value: usize) -> Result<c_int, CommError> {
    c_int::try_from(value).map_err(|_| CommError::Carrier {
        carrier: "MPI",
        what: format!("{value} does not fit into its counts"),
    })
}

fn checked(code: c_int) -> Result<(), CommError> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = vec![0u8; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut length = 0;
    // SAFETY: the text is as long as MPI asks for.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &raw mut length) };
    text.truncate(usize::try_from(length).unwrap_or(0));
    let what = String::from_utf8_lossy(&text).into_owned();
    Err(CommError::Carrier { carrier: "MPI", what })
}
