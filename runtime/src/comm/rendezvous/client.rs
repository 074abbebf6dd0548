//! A rank's connection to a rendezvous.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::super::{CommError, Obstacle};
use super::Meeting;
use super::frame::{
    ABSENT, BEAT, GET, Heard, Hello, LOOK, OK, SET, decode_rank, read_frame, write_frame,
};

/// Time between tries to reach a rendezvous.
const AGAIN: Duration = Duration::from_millis(100);
/// How long one of several addresses is tried.
const EACH: Duration = Duration::from_secs(1);
/// How long an answer at once may take.
const AT_ONCE: Duration = Duration::from_secs(10);
/// How much longer than the rendezvous a client waits for an answer.
const GRACE: Duration = Duration::from_secs(2);

/// A rank's connection to the rendezvous of its job.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    address: String,
    rank: u32,
    size: u32,
    host: Option<u32>,
}

impl Client {
    /// Joins a job; tries again until its rendezvous is there or the time is over.
    ///
    /// # Errors
    /// [`CommError::Refused`] when the rendezvous is not reached in time or does not let this rank
    /// in.
    pub fn join(
        meeting: &Meeting,
        place: (u32, u32),
        timeout: Duration,
    ) -> Result<Client, CommError> {
        let begin = Instant::now();
        let several = meeting.address.contains(',');
        loop {
            let left = timeout.saturating_sub(begin.elapsed());
            let mut said = None;
            for address in meeting.address.split(',') {
                let most = if several { left.min(EACH) } else { left };
                match connect(address, most.max(AGAIN)) {
                    Ok(stream) => match Client::greet(stream, address, (place, &meeting.token)) {
                        Ok(client) => return Ok(client),
                        // Another machine's address may be one of this machine, too.
                        Err(error) if several => said = Some(error),
                        Err(error) => return Err(error),
                    },
                    Err(error) => {
                        let seconds = timeout.as_secs_f64();
                        let what = format!("is not reached in {seconds:.1} s: {error}");
                        said = said.or_else(|| {
                            Some(refused(&meeting.address, Obstacle::Unreachable, &what))
                        });
                    }
                }
            }
            match said {
                Some(error) if left <= AGAIN => return Err(error),
                _ => std::thread::sleep(AGAIN),
            }
        }
    }

    fn greet(
        stream: TcpStream,
        address: &str,
        ((rank, size), token): ((u32, u32), &str),
    ) -> Result<Client, CommError> {
        let mut client = Client { stream, address: address.to_owned(), rank, size, host: None };
        match client.ask(&Hello::new((rank, size), token).encode(), AT_ONCE)? {
            (OK, host) => {
                client.host = decode_rank(&host);
                Ok(client)
            }
            (_, why) => {
                let why = String::from_utf8_lossy(&why).into_owned();
                let what = format!("does not let rank {rank} in: {why}");
                Err(refused(&client.address, Obstacle::KeptOut, &what))
            }
        }
    }

    /// The rank that serves the rendezvous; `None` where it is outside of the job.
    pub fn host(&self) -> Option<u32> {
        self.host
    }

    /// Sets a key for all ranks to see.
    ///
    /// # Errors
    /// [`CommError::Refused`] when the rendezvous is lost or full.
    pub fn set(&mut self, key: &str, value: &[u8]) -> Result<(), CommError> {
        let mut request = vec![SET];
        request.extend_from_slice(&(key.len() as u32).to_le_bytes());
        request.extend_from_slice(key.as_bytes());
        request.extend_from_slice(value);
        match self.ask(&request, AT_ONCE)? {
            (OK, _) => Ok(()),
            (_, why) => Err(self.refused(&String::from_utf8_lossy(&why))),
        }
    }

    /// Gets a key, waiting until a rank has set it; `None` when none has in time.
    ///
    /// # Errors
    /// [`CommError::Refused`] when the rendezvous is lost.
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
    /// [`CommError::Refused`] that names the first rank that does not come, or when the rendezvous
    /// is lost.
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

    /// Says that this rank lives and where it stands; gives the count of news.
    ///
    /// # Errors
    /// A rendezvous that is lost.
    pub fn beat(&mut self, urgent: bool, told: &[u8]) -> std::io::Result<u64> {
        let mut request = vec![BEAT];
        request.extend_from_slice(&u32::from(urgent).to_le_bytes());
        request.extend_from_slice(told);
        let answer = self.exchange(&request, None)?;
        let news = answer.strip_prefix(&[OK]).and_then(|news| news.try_into().ok());
        news.map(u64::from_le_bytes).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
    }

    /// What the rendezvous knows of all ranks that have come, ascending.
    ///
    /// # Errors
    /// A rendezvous that is lost.
    pub fn look(&mut self) -> std::io::Result<Vec<Heard>> {
        let mut all: Vec<Heard> = Vec::new();
        loop {
            let first = all.last().map_or(0, |heard| heard.rank.saturating_add(1));
            let mut request = vec![LOOK];
            request.extend_from_slice(&first.to_le_bytes());
            let answer = self.exchange(&request, None)?;
            let more = answer.strip_prefix(&[OK]).and_then(Heard::decode);
            let more = more.ok_or(std::io::ErrorKind::InvalidData)?;
            match more.is_empty() {
                true => return Ok(all),
                false => all.extend(more),
            }
        }
    }

    /// One request and its answer, which the rendezvous may take `wait` for.
    pub(super) fn ask(
        &mut self,
        request: &[u8],
        wait: Duration,
    ) -> Result<(u8, Vec<u8>), CommError> {
        let asked = self.exchange(request, Some(wait + GRACE));
        let answer = asked.map_err(|error| self.refused(&format!("is lost: {error}")))?;
        match answer.split_first() {
            Some((how, value)) => Ok((*how, value.to_vec())),
            None => Err(self.refused("gives an empty answer")),
        }
    }

    /// One request and its answer; waits for it as long as told.
    fn exchange(&mut self, request: &[u8], most: Option<Duration>) -> std::io::Result<Vec<u8>> {
        self.stream.set_read_timeout(most)?;
        write_frame(&mut self.stream, request)?;
        read_frame(&mut self.stream)
    }

    fn refused(&self, what: &str) -> CommError {
        refused(&self.address, Obstacle::Unreachable, what)
    }
}

fn refused(address: &str, why: Obstacle, what: &str) -> CommError {
    CommError::Refused {
        why,
        what: format!("the rendezvous at {address} {what}"),
        help: "every rank needs the address, the token and the number of ranks of its job"
            .to_owned(),
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
