//! The side of a rendezvous that serves: who is let in, the store, and what ranks tell of themselves.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::frame::{
    ABSENT, BEAT, GET, Heard, Hello, LOOK, MAX_TOLD, OK, REFUSED, SET, answer, encode_rank,
    read_frame, word,
};

/// Keys for each rank.
const MAX_KEYS: usize = 1024;
/// How long a connection may be silent before it has said who it is.
const HELLO: Duration = Duration::from_secs(10);

/// A rendezvous, while it is served.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    token: blake3::Hash,
    size: u32,
    /// The rank that serves, if one does.
    host: Option<u32>,
    state: Mutex<Table>,
    changed: Condvar,
    closed: AtomicBool,
    connections: AtomicUsize,
}

#[derive(Debug, Default)]
struct Table {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    members: BTreeMap<u32, Member>,
    /// Counts what every rank should hear: that one has gone, or what one told as urgent.
    news: u64,
}

/// A rank that is or was connected.
#[derive(Debug)]
struct Member {
    here: bool,
    beat: Instant,
    told: Vec<u8>,
}

impl Server {
    /// Serves a rendezvous for a job of `size` ranks at `address` (port 0: any free one), in a rank
    /// of the job or, where `host` is `None`, outside of it.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn start(
        address: &str,
        token: &str,
        (host, size): (Option<u32>, u32),
    ) -> std::io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            token: blake3::hash(token.as_bytes()),
            size,
            host,
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
        let table = self.shared.lock();
        table.members.iter().filter(|(_, member)| member.here).map(|(rank, _)| *rank).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.shared.changed.notify_all();
        // Wakes the thread that waits for connections.
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let _ = TcpStream::connect_timeout(&address, HELLO);
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
        if answer(&mut stream, OK, &encode_rank(self.host)).is_ok() {
            while let Ok(request) = read_frame(&mut stream) {
                let (how, value) = self.respond(rank, &request);
                if answer(&mut stream, how, &value).is_err() {
                    break;
                }
            }
        }
        let mut table = self.lock();
        if let Some(member) = table.members.get_mut(&rank) {
            member.here = false;
        }
        table.news += 1;
        drop(table);
        self.changed.notify_all();
    }

    /// Lets a client in, or says why not.
    fn admit(&self, hello: &[u8]) -> Result<u32, String> {
        let stranger = || "that is no rank of a job".to_owned();
        let hello = Hello::decode(hello).ok_or_else(stranger)?;
        // Hashes are compared in constant time.
        if blake3::hash(&hello.token) != self.token {
            return Err("the token is not that of this job".to_owned());
        }
        let (rank, size) = (hello.rank, hello.size);
        if let Some(other) = hello.other_version() {
            return Err(format!("rank {rank} is of version {other}, the job of another one"));
        }
        if size != self.size || rank >= size {
            let own = self.size;
            return Err(format!("rank {rank} of {size} does not fit a job of {own} ranks"));
        }
        let mut table = self.lock();
        if table.members.get(&rank).is_some_and(|member| member.here) {
            return Err(format!("rank {rank} is here already"));
        }
        table.members.insert(rank, Member { here: true, beat: Instant::now(), told: Vec::new() });
        Ok(rank)
    }

    fn respond(&self, rank: u32, request: &[u8]) -> (u8, Vec<u8>) {
        let Some((kind, mut rest)) = request.split_first() else {
            return (REFUSED, b"that is no request".to_vec());
        };
        match (*kind, word(&mut rest)) {
            (SET, Some(key_bytes)) => match rest.split_at_checked(key_bytes as usize) {
                Some((key, value)) => self.set(key, value),
                None => (REFUSED, b"the key is cut off".to_vec()),
            },
            (GET, Some(wait_ms)) => self.get(rest, Duration::from_millis(wait_ms.into())),
            (BEAT, Some(urgent)) if rest.len() <= MAX_TOLD => self.beat(rank, urgent != 0, rest),
            (LOOK, Some(first)) => self.look(first),
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

    /// A rank lives and stands where it says; answers the count of news.
    fn beat(&self, rank: u32, urgent: bool, told: &[u8]) -> (u8, Vec<u8>) {
        let mut table = self.lock();
        table.news += u64::from(urgent);
        if let Some(member) = table.members.get_mut(&rank) {
            member.beat = Instant::now();
            member.told = told.to_vec();
        }
        (OK, table.news.to_le_bytes().to_vec())
    }

    /// What is known of the ranks from `first` on, as many as one answer holds.
    fn look(&self, first: u32) -> (u8, Vec<u8>) {
        let table = self.lock();
        let mut bytes = Vec::new();
        for (&rank, member) in table.members.range(first..) {
            let (here, told) = (member.here, member.told.clone());
            let heard = Heard { rank, here, silent: member.beat.elapsed(), told };
            if !heard.encode(&mut bytes) {
                break;
            }
        }
        (OK, bytes)
    }
}
