//! The collectives, made of exchanges.
//!
//! # Invariants
//! - A result depends on the group's order and the pieces alone: reductions take the pairwise tree
//!   of [`reduce_pairwise`] over the group's pieces in rank order, whatever carries them.
//! - The bytes that a rank sends to others are the formula in each function's documentation, with
//!   `p` ranks in the group; [`super::Traffic`] counts the same.

use std::ops::Range;

use perilune_plan::DType;

use super::{Combine, CommError, Communicator, Site, reduce_pairwise};

/// Waits until every rank of the group is here.
///
/// # Units
/// Sends 0 bytes.
///
/// # Errors
/// Those of [`Communicator::exchange`].
pub fn barrier<C: Communicator + ?Sized>(
    comm: &mut C,
    site: &Site<'_>,
    group: &[u32],
) -> Result<(), CommError> {
    let mut empty: Vec<&mut [u8]> = group.iter().map(|_| <&mut [u8]>::default()).collect();
    comm.exchange(site, group, &vec![&[][..]; group.len()], &mut empty)
}

/// Every rank gets the piece of every rank; pieces may differ in length.
///
/// # Shapes
/// - receive: one place for each rank of the group, as long as that rank's `mine`
///
/// # Units
/// Sends `(p − 1) · mine` bytes.
///
/// # Errors
/// Those of [`Communicator::exchange`].
pub fn all_gather<C: Communicator + ?Sized>(
    comm: &mut C,
    site: &Site<'_>,
    group: &[u32],
    mine: &[u8],
    receive: &mut [&mut [u8]],
) -> Result<(), CommError> {
    comm.exchange(site, group, &vec![mine; group.len()], receive)
}

/// Every rank gets what `root` has.
///
/// # Units
/// `root` sends `(p − 1) · data` bytes, the others 0.
///
/// # Errors
/// Those of [`Communicator::exchange`], and [`CommError::Use`] when `root` is not in the group.
pub fn broadcast<C: Communicator + ?Sized>(
    comm: &mut C,
    site: &Site<'_>,
    (group, root): (&[u32], u32),
    data: &mut [u8],
) -> Result<(), CommError> {
    let from = place(group, root)?;
    let own = place(group, comm.rank())?;
    let mut receive: Vec<&mut [u8]> = group.iter().map(|_| <&mut [u8]>::default()).collect();
    if own == from {
        let mut send = vec![&*data; group.len()];
        send[own] = &[];
        comm.exchange(site, group, &send, &mut receive)
    } else {
        receive[from] = data;
        comm.exchange(site, group, &vec![&[][..]; group.len()], &mut receive)
    }
}

/// Combines the ranks' data elementwise; every rank gets the result.
///
/// Each rank combines one slice of the elements (`n div p` of them, one more for the first
/// `n mod p` ranks) and hands it to the others.
///
/// # Units
/// With `n` elements, `s` of them in this rank's slice: sends `(n − s) + (p − 1) · s` elements.
///
/// # Errors
/// Those of [`Communicator::exchange`] and [`reduce_pairwise`].
pub fn all_reduce<C: Communicator + ?Sized>(
    comm: &mut C,
    site: &Site<'_>,
    group: &[u32],
    (combine, dtype): (Combine, DType),
    data: &mut [u8],
) -> Result<(), CommError> {
    let own = place(group, comm.rank())?;
    if !(data.len() as u64).is_multiple_of(dtype.bytes()) {
        let what = format!("{} bytes are no whole number of {dtype}", data.len());
        return Err(CommError::Use { what });
    }
    let slices = slices(data.len(), group.len(), dtype);
    let mine = slices[own].clone();
    let mut pieces: Vec<Vec<u8>> = group.iter().map(|_| vec![0; mine.len()]).collect();
    let send: Vec<&[u8]> = slices.iter().map(|slice| &data[slice.clone()]).collect();
    let mut receive: Vec<&mut [u8]> = pieces.iter_mut().map(Vec::as_mut_slice).collect();
    comm.exchange(site, group, &send, &mut receive)?;
    let mine = combined(combine, dtype, &mut pieces)?;
    let mut rest = data;
    let mut receive = Vec::with_capacity(group.len());
    for slice in &slices {
        let (head, tail) = rest.split_at_mut(slice.len());
        receive.push(head);
        rest = tail;
    }
    comm.exchange(site, group, &vec![mine; group.len()], &mut receive)
}

/// The bytes of each rank's slice.
fn slices(bytes: usize, ranks: usize, dtype: DType) -> Vec<Range<usize>> {
    let elem = dtype.bytes() as usize;
    let elems = bytes / elem;
    let start = |i: usize| (elems / ranks * i + (elems % ranks).min(i)) * elem;
    (0..ranks).map(|i| start(i)..start(i + 1)).collect()
}

fn combined(combine: Combine, dtype: DType, pieces: &mut [Vec<u8>]) -> Result<&[u8], CommError> {
    let mut views: Vec<&mut [u8]> = pieces.iter_mut().map(Vec::as_mut_slice).collect();
    reduce_pairwise(combine, dtype, &mut views)?;
    Ok(pieces.first().map_or(&[], Vec::as_slice))
}

fn place(group: &[u32], rank: u32) -> Result<usize, CommError> {
    group.binary_search(&rank).map_err(|_| {
        let what = format!("rank {rank} is not in the group {group:?}");
        CommError::Use { what }
    })
}

#[cfg(test)]
mod tests;
