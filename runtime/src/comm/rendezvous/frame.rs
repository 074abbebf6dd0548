//! What goes over a connection to a rendezvous: frames, requests, answers.
//!
//! A frame is its length (u32, little endian) and its bytes. The first frame of a client says who it
//! is ([`Hello`]); every other one is a request whose first byte says what is asked. Every answer is a
//! frame whose first byte says how it went.
//!
//! # Invariants
//! - Pure but for the reading and writing of whole frames; what does not parse is `None`.
//! - No frame is longer than [`MAX_FRAME`], and none is believed about its length before that.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Most bytes of a frame.
pub(super) const MAX_FRAME: usize = 64 << 10;
/// Most bytes that a rank may tell of itself.
pub(super) const MAX_TOLD: usize = 4096;

/// First byte of an answer.
pub(super) const OK: u8 = 0;
pub(super) const REFUSED: u8 = 1;
pub(super) const ABSENT: u8 = 2;
/// First byte of a request: a key's value is set, or waited for.
pub(super) const SET: u8 = b'S';
pub(super) const GET: u8 = b'G';
/// First byte of a request: a rank lives and says where it stands; or asks where the others do.
pub(super) const BEAT: u8 = b'B';
pub(super) const LOOK: u8 = b'L';

/// Every connection begins with it.
const MAGIC: &[u8; 8] = b"perilune";
/// Only ranks of one version understand each other.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Stands for "no rank" where a rank is sent.
const NOBODY: u32 = u32::MAX;

/// Who a client says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) rank: u32,
    /// Ranks of its job.
    pub(super) size: u32,
    pub(super) version: String,
    pub(super) token: Vec<u8>,
}

impl Hello {
    pub(super) fn new((rank, size): (u32, u32), token: &str) -> Hello {
        Hello { rank, size, version: VERSION.to_owned(), token: token.as_bytes().to_vec() }
    }

    /// Whether it is of the version that runs here; the other version where not.
    pub(super) fn other_version(&self) -> Option<&str> {
        (self.version != VERSION).then_some(&self.version)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.rank.to_le_bytes());
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.extend_from_slice(&(self.version.len() as u32).to_le_bytes());
        bytes.extend_from_slice(self.version.as_bytes());
        bytes.extend_from_slice(&self.token);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Hello> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let (rank, size, version) = (word(&mut rest)?, word(&mut rest)?, word(&mut rest)?);
        let (version, token) = rest.split_at_checked(version as usize)?;
        let version = String::from_utf8(version.to_vec()).ok()?;
        Some(Hello { rank, size, version, token: token.to_vec() })
    }
}

/// What a rendezvous knows of a rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The rank.
    pub rank: u32,
    /// Whether it is connected.
    pub here: bool,
    /// For how long it has not been heard, when this was asked.
    pub silent: Duration,
    /// What it told last.
    pub told: Vec<u8>,
}

impl Heard {
    /// Adds this to an answer, if it fits.
    pub(super) fn encode(&self, answer: &mut Vec<u8>) -> bool {
        if answer.len() + 13 + self.told.len() >= MAX_FRAME {
            return false;
        }
        let silent_ms = u32::try_from(self.silent.as_millis()).unwrap_or(u32::MAX);
        answer.extend_from_slice(&self.rank.to_le_bytes());
        answer.push(u8::from(self.here));
        answer.extend_from_slice(&silent_ms.to_le_bytes());
        answer.extend_from_slice(&(self.told.len() as u32).to_le_bytes());
        answer.extend_from_slice(&self.told);
        true
    }

    /// The ranks of an answer.
    pub(super) fn decode(mut rest: &[u8]) -> Option<Vec<Heard>> {
        let mut all = Vec::new();
        while !rest.is_empty() {
            let rank = word(&mut rest)?;
            let (here, after) = rest.split_first()?;
            rest = after;
            let silent = Duration::from_millis(word(&mut rest)?.into());
            let length = word(&mut rest)?;
            let (told, after) = rest.split_at_checked(length as usize)?;
            rest = after;
            all.push(Heard { rank, here: *here != 0, silent, told: told.to_vec() });
        }
        Some(all)
    }
}

/// A rank or nobody, as four bytes.
pub(super) fn encode_rank(rank: Option<u32>) -> [u8; 4] {
    rank.unwrap_or(NOBODY).to_le_bytes()
}

/// The reverse of [`encode_rank`].
pub(super) fn decode_rank(bytes: &[u8]) -> Option<u32> {
    word(&mut &*bytes).filter(|rank| *rank != NOBODY)
}

/// Takes four bytes off the front.
pub(super) fn word(rest: &mut &[u8]) -> Option<u32> {
    let (word, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_le_bytes(*word))
}

/// Reads one frame.
///
/// # Errors
/// A connection that ends, is silent for too long, or whose next frame is too long.
pub(super) fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
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

/// Writes one frame.
///
/// # Errors
/// A connection that has ended, a frame that is too long.
pub(super) fn write_frame(stream: &mut TcpStream, frame: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(frame.len()).ok().filter(|_| frame.len() <= MAX_FRAME);
    let length = length.ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(frame);
    stream.write_all(&bytes)
}

/// Writes an answer: how it went, and a value.
///
/// # Errors
/// Those of [`write_frame`].
pub(super) fn answer(stream: &mut TcpStream, how: u8, value: &[u8]) -> std::io::Result<()> {
    let mut frame = vec![how];
    frame.extend_from_slice(value);
    write_frame(stream, &frame)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_sent_is_understood_and_what_is_cut_off_is_not() {
        let hello = Hello::new((3, 8), "token");
        let bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes), Some(hello));
        assert_eq!(Hello::decode(&bytes[..15]), None);
        assert_eq!(
            (decode_rank(&encode_rank(Some(7))), decode_rank(&encode_rank(None))),
            (Some(7), None)
        );
        let silent = Duration::from_millis(1234);
        let heard = |rank| Heard { rank, here: rank == 1, silent, told: vec![7; rank as usize] };
        let mut answer = Vec::new();
        assert!(heard(1).encode(&mut answer) && heard(9).encode(&mut answer));
        assert_eq!(Heard::decode(&answer), Some(vec![heard(1), heard(9)]));
        assert_eq!(Heard::decode(&answer[..answer.len() - 1]), None);
        let large = Heard { told: vec![0; MAX_FRAME - 40], ..heard(1) };
        assert!(!large.encode(&mut answer), "it would not fit into a frame");
    }

    proptest! {
        #[test]
        fn bytes_of_strangers_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Hello::decode(&bytes), Heard::decode(&bytes), decode_rank(&bytes));
        }
    }
}
