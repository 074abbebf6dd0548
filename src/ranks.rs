//! What the ranks of a run decide together.
//!
//! # Invariants
//! - Every rank calls the same functions in the same order, and gets the same answer.
//! - On one rank they cost nothing.

use std::path::{Path, PathBuf};

use perilune_plan::DType;
use perilune_runtime::comm::bootstrap::agree;
use perilune_runtime::comm::{Combine, Communicator, Site, all_gather, all_reduce, broadcast};

use crate::exit::Failure;
use crate::pipeline::comm as failure;

/// The largest of the ranks' numbers.
///
/// # Errors
/// A lost rank.
pub fn largest(
    comm: &mut dyn Communicator,
    what: &'static str,
    value: i32,
) -> Result<i32, Failure> {
    decide(comm, what, Combine::Max, value)
}

/// The smallest of the ranks' numbers.
///
/// # Errors
/// A lost rank.
pub fn smallest(
    comm: &mut dyn Communicator,
    what: &'static str,
    value: i32,
) -> Result<i32, Failure> {
    decide(comm, what, Combine::Min, value)
}

fn decide(
    comm: &mut dyn Communicator,
    what: &'static str,
    combine: Combine,
    value: i32,
) -> Result<i32, Failure> {
    if comm.size() == 1 {
        return Ok(value);
    }
    let site = Site { entry: "run", step: 0, name: "decide", node: what };
    let all: Vec<u32> = (0..comm.size()).collect();
    let mut bytes = value.to_le_bytes();
    let how = (combine, DType::i32);
    all_reduce(comm, &site, &all, how, &mut bytes).map_err(|error| failure(&error))?;
    Ok(i32::from_le_bytes(bytes))
}

/// A text of rank 0, of at most 4,096 bytes; what the other ranks give has no meaning.
///
/// # Errors
/// A lost rank.
pub fn told(
    comm: &mut dyn Communicator,
    what: &'static str,
    text: &str,
) -> Result<String, Failure> {
    const MOST: usize = 4096;
    let site = Site { entry: "run", step: 0, name: "broadcast", node: what };
    let all: Vec<u32> = (0..comm.size()).collect();
    let mut bytes = text.as_bytes().to_vec();
    // Zeros, which no text of ours holds, fill it up.
    bytes.resize(MOST, 0);
    broadcast(comm, &site, (&all, 0), &mut bytes).map_err(|error| failure(&error))?;
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(MOST);
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// The numbers of every rank, in the order of ranks.
///
/// # Errors
/// A lost rank.
pub fn gather<const N: usize>(
    comm: &mut dyn Communicator,
    what: &'static str,
    own: &[u64; N],
) -> Result<Vec<[u64; N]>, Failure> {
    let site = Site { entry: "run", step: 0, name: "gather", node: what };
    let all: Vec<u32> = (0..comm.size()).collect();
    let mine: Vec<u8> = own.iter().flat_map(|n| n.to_le_bytes()).collect();
    let mut bytes = vec![0u8; mine.len() * all.len()];
    let mut places: Vec<&mut [u8]> = bytes.chunks_mut(mine.len().max(1)).collect();
    all_gather(comm, &site, &all, &mine, &mut places).map_err(|error| failure(&error))?;
    let numbers = |rank: &[u8]| {
        let mut out = [0u64; N];
        for (number, bytes) in out.iter_mut().zip(rank.as_chunks().0) {
            *number = u64::from_le_bytes(*bytes);
        }
        out
    };
    Ok(bytes.chunks(mine.len().max(1)).map(numbers).collect())
}

/// Makes sure that all ranks run the same thing, told by parts of it.
///
/// # Errors
/// Ranks that differ, by number; a lost rank.
pub fn same(
    comm: &mut dyn Communicator,
    what: &'static str,
    parts: &[&[u8]],
) -> Result<(), Failure> {
    if comm.size() == 1 {
        return Ok(());
    }
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    agree(comm, what, hasher.finalize().as_bytes()).map_err(|error| failure(&error))
}

/// Where a rank keeps what only it has: the run's folder for rank 0, one below it for each other.
pub fn folder(out: &Path, rank: u32) -> PathBuf {
    match rank {
        0 => out.to_owned(),
        rank => out.join("ranks").join(format!("{rank:04}")),
    }
}
