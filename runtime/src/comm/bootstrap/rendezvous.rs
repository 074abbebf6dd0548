//! Where the ranks of a job meet: a small store of keys and values behind a TCP port.
//!
//! A frame is its length (u32, little endian) and its bytes. A client first says who it is (token,
//! rank, ranks of the job), then sets and gets keys; a get waits until the key is there. Every
//! answer is a frame whose first byte says how it went.
//!
//! # Invariants
//! - A process without the token learns nothing and changes nothing.
//! - What clients send is bounded: frames, keys, connections.
//! - Nothing waits without a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{CommError, Meeting};

const MAGIC: &[u8; 8] = b"perilune";
/// Most bytes of a frame.
const MAX_FRAME: usize = 64 << 10;
/// Keys for each rank.
const MAX_KEYS: usize = 1024;
/// How long a connection may be silent before it has said who it is.
const HELLO: Duration = Duration::from_secs(10);
/// Time between tries to reach a store.
const AGAIN: Duration = Duration::from_millis(100);
/// How much longer than the store a client waits for an answer.
const GRACE: Duration = Duration::from_secs(2);

/// First byte of an answer.
const OK: u8 = 0;
const REFUSED: u8 = 1;
const ABSENT: u8 = 2;
/// First byte of a request.
const SET: u8 = b'S';
const GET: u8 = b'G';

/// The store, while it is served.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    token: blake3::Hash,
    size: u32,
    state: Mutex<Table>,
    changed: Condvar,
    closed: AtomicBool,
    connections: AtomicUsize,
}

#[derive(Debug, Default)]
struct Table {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Ranks that are connected.
    here: BTreeSet<u32>,
}

impl Server {
    /// Serves a store for a job of `size` ranks at `address` (port 0: any free one).
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn start(address: &str, token: &str, size: u32) -> std::io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            token: blake3::hash(token.as_bytes()),
            size,
            state: Mutex::new(Table::default()),
            changed: Condvar::new(),
            closed: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("rendezvous".to_owned())
            .spawn(move || serving.accept(&listener))?;
        Ok(Server { shared, address })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ranks that are connected now, ascending.
    pub fn here(&self) -> Vec<u32> {
        self.shared.lock().here.iter().copied().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect_timeout(&self.address, HELLO);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let most = 2 * self.size as usize + 16;
        for stream in listener.incoming() {
            if self.closed.load(Ordering::Relaxed) {
                return;
            }
            let Ok(stream) = stream else { continue };
            if self.connections.fetch_add(1, Ordering::Relaxed) >= most {
                self.connections.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let shared = Arc::clone(self);
            let serve = move || {
                shared.serve(stream);
                shared.connections.fetch_sub(1, Ordering::Relaxed);
            };
            if std::thread::Builder::new().spawn(serve).is_err() {
                self.connections.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Serves one connection until it ends.
    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(HELLO));
        let _ = stream.set_nodelay(true);
        let Ok(hello) = read_frame(&mut stream) else { return };
        let rank = match self.admit(&hello) {
            Ok(rank) => rank,
            Err(why) => {
                let _ = answer(&mut stream, REFUSED, why.as_bytes());
                return;
            }
        };
        let _ = stream.set_read_timeout(None);
        if answer(&mut stream, OK, &[]).is_ok() {
            while let Ok(request) = read_frame(&mut stream) {
                let (how, value) = self.respond(&request);
                if answer(&mut stream, how, &value).is_err() {
                    break;
                }
            }
        }
        self.lock().here.remove(&rank);
    }

    /// Lets a client in, or says why not.
    fn admit(&self, hello: &[u8]) -> Result<u32, String> {
        let head = hello.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk::<8>());
        let Some((head, token)) = head else { return Err("that is no rank of a job".to_owned()) };
        // Hashes are compared in constant time.
        if blake3::hash(token) != self.token {
            return Err("the token is not that of this job".to_owned());
        }
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (rank, size) = (word(0), word(4));
        if size != self.size || rank >= size {
            let own = self.size;
            return Err(format!("rank {rank} of {size} does not fit a job of {own} ranks"));
        }
        if !self.lock().here.insert(rank) {
            return Err(format!("rank {rank} is here already"));
        }
        Ok(rank)
    }

    fn respond(&self, request: &[u8]) -> (u8, Vec<u8>) {
        let parsed = request.split_first().and_then(|(kind, rest)| {
            let (word, rest) = rest.split_first_chunk::<4>()?;
            Some((*kind, u32::from_le_bytes(*word), rest))
        });
        match parsed {
            Some((SET, key_bytes, rest)) => match rest.split_at_checked(key_bytes as usize) {
                Some((key, value)) => self.set(key, value),
                None => (REFUSED, b"the key is cut off".to_vec()),
            },
            Some((GET, wait_ms, key)) => self.get(key, Duration::from_millis(wait_ms.into())),
            _ => (REFUSED, b"that is no request".to_vec()),
        }
    }

    fn set(&self, key: &[u8], value: &[u8]) -> (u8, Vec<u8>) {
        let mut table = self.lock();
        if table.values.len() >= MAX_KEYS * self.size as usize && !table.values.contains_key(key) {
            return (REFUSED, b"the store is full".to_vec());
        }
        table.values.insert(key.to_vec(), value.to_vec());
        drop(table);
        self.changed.notify_all();
        (OK, Vec::new())
    }

    fn get(&self, key: &[u8], wait: Duration) -> (u8, Vec<u8>) {
        let begin = Instant::now();
        let mut table = self.lock();
        loop {
            if let Some(value) = table.values.get(key) {
                return (OK, value.clone());
            }
            let left = wait.saturating_sub(begin.elapsed());
            if left.is_zero() || self.closed.load(Ordering::Relaxed) {
                return (ABSENT, Vec::new());
            }
            let woken = self.changed.wait_timeout(table, left);
            table = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A rank's connection to the store.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    address: String,
    rank: u32,
    size: u32,
}

impl Client {
    /// Joins a job; tries again until the store is there or the time is over.
    ///
    /// # Errors
    /// [`CommError::Refused`] when the store is not reached in time or does not let this rank in.
    pub fn join(
        meeting: &Meeting,
        (rank, size): (u32, u32),
        timeout: Duration,
    ) -> Result<Client, CommError> {
        let address = meeting.address.clone();
        let stream = reach(&address, timeout)?;
        let mut client = Client { stream, address, rank, size };
        let mut hello = MAGIC.to_vec();
        hello.extend_from_slice(&rank.to_le_bytes());
        hello.extend_from_slice(&size.to_le_bytes());
        hello.extend_from_slice(meeting.token.as_bytes());
        match client.ask(&hello, HELLO)? {
            (OK, _) => Ok(client),
            (_, why) => {
                let why = String::from_utf8_lossy(&why).into_owned();
                Err(client.refused(&format!("does not let rank {rank} in: {why}")))
            }
        }
    }

    /// Sets a key for all ranks to see.
    ///
    /// # Errors
    /// [`CommError::Refused`] when the store is lost or full.
    pub fn set(&mut self, key: &str, value: &[u8]) -> Result<(), CommError> {
        let mut request = vec![SET];
        request.extend_from_slice(&(key.len() as u32).to_le_bytes());
        request.extend_from_slice(key.as_bytes());
        request.extend_from_slice(value);
        match self.ask(&request, HELLO)? {
            (OK, _) => Ok(()),
            (_, why) => Err(self.refused(&String::from_utf8_lossy(&why))),
        }
    }

    /// Gets a key, waiting until a rank has set it; `None` when none has in time.
    ///
    /// # Errors
    /// [`CommError::Refused`] when the store is lost.
    pub fn get(&mut self, key: &str, timeout: Duration) -> Result<Option<Vec<u8>>, CommError> {
        let wait_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let mut request = vec![GET];
        request.extend_from_slice(&wait_ms.to_le_bytes());
        request.extend_from_slice(key.as_bytes());
        match self.ask(&request, timeout)? {
            (OK, value) => Ok(Some(value)),
            (ABSENT, _) => Ok(None),
            (_, why) => Err(self.refused(&String::from_utf8_lossy(&why))),
        }
    }

    /// Every rank gives a value and gets that of every rank.
    ///
    /// # Errors
    /// [`CommError::Refused`] that names the first rank that does not come, or when the store is
    /// lost.
    pub fn gather(
        &mut self,
        key: &str,
        value: &[u8],
        timeout: Duration,
    ) -> Result<Vec<Vec<u8>>, CommError> {
        let begin = Instant::now();
        self.set(&format!("{key}/{}", self.rank), value)?;
        let mut values = Vec::with_capacity(self.size as usize);
        for rank in 0..self.size {
            let left = timeout.saturating_sub(begin.elapsed());
            match self.get(&format!("{key}/{rank}"), left)? {
                Some(value) => values.push(value),
                None => {
                    let seconds = timeout.as_secs_f64();
                    return Err(
                        self.refused(&format!("has not seen rank {rank} in {seconds:.1} s"))
                    );
                }
            }
        }
        Ok(values)
    }

    /// One request and its answer, which the store may take `wait` for.
    fn ask(&mut self, request: &[u8], wait: Duration) -> Result<(u8, Vec<u8>), CommError> {
        let asked = self
            .stream
            .set_read_timeout(Some(wait + GRACE))
            .and_then(|()| write_frame(&mut self.stream, request))
            .and_then(|()| read_frame(&mut self.stream));
        let answer = asked.map_err(|error| self.refused(&format!("is lost: {error}")))?;
        match answer.split_first() {
            Some((how, value)) => Ok((*how, value.to_vec())),
            None => Err(self.refused("gives an empty answer")),
        }
    }

    fn refused(&self, what: &str) -> CommError {
        refused(&self.address, what)
    }
}

fn refused(address: &str, what: &str) -> CommError {
    CommError::Refused {
        what: format!("the rendezvous at {address} {what}"),
        help: "every rank needs the address, the token and the number of ranks of its job"
            .to_owned(),
    }
}

fn reach(address: &str, timeout: Duration) -> Result<TcpStream, CommError> {
    let begin = Instant::now();
    loop {
        let left = timeout.saturating_sub(begin.elapsed());
        let error = match connect(address, left.max(AGAIN)) {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        if left <= AGAIN {
            let seconds = timeout.as_secs_f64();
            return Err(refused(address, &format!("is not reached in {seconds:.1} s: {error}")));
        }
        std::thread::sleep(AGAIN);
    }
}

fn connect(address: &str, timeout: Duration) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn write_frame(stream: &mut TcpStream, frame: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(frame.len()).ok().filter(|_| frame.len() <= MAX_FRAME);
    let length = length.ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(frame);
    stream.write_all(&bytes)
}

fn answer(stream: &mut TcpStream, how: u8, value: &[u8]) -> std::io::Result<()> {
    let mut frame = vec![how];
    frame.extend_from_slice(value);
    write_frame(stream, &frame)
}

#[cfg(test)]
mod tests;
