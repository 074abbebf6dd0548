//! Ranks make sure that they run the same thing.

use crate::comm::blame::odd_ones_out;
use crate::comm::{CommError, Communicator, Site, all_gather};

/// Compares a hash across all ranks, before the first collective that depends on it.
///
/// # Errors
/// [`CommError::Disagree`] with the ranks whose hash is not that of most, on every rank; those of
/// [`Communicator::exchange`].
pub fn agree<C: Communicator + ?Sized>(
    comm: &mut C,
    what: &'static str,
    hash: &[u8; 32],
) -> Result<(), CommError> {
    let site = Site { entry: "start", step: 0, name: "agree", node: what };
    let group: Vec<u32> = (0..comm.size()).collect();
    let mut hashes = vec![[0u8; 32]; group.len()];
    let mut places: Vec<&mut [u8]> = hashes.iter_mut().map(<[u8; 32]>::as_mut_slice).collect();
    all_gather(comm, &site, &group, hash, &mut places)?;
    // Where two are as many, the lower rank is right, so that all ranks say the same.
    let ranks: Vec<u32> = odd_ones_out(&hashes, 0).into_iter().map(|i| group[i]).collect();
    if ranks.is_empty() {
        return Ok(());
    }
    let most = group.len() - ranks.len();
    Err(CommError::Disagree { what, ranks, most })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::in_process;

    fn on_ranks(hashes: &[u8]) -> Vec<Result<(), CommError>> {
        std::thread::scope(|scope| {
            let ranks = in_process::ranks(hashes.len() as u32).into_iter().zip(hashes);
            let threads: Vec<_> = ranks
                .map(|(mut comm, hash)| scope.spawn(move || agree(&mut comm, "plan", &[*hash; 32])))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn ranks_with_another_plan_are_named_on_every_rank() {
        assert!(on_ranks(&[7, 7, 7]).iter().all(Result::is_ok));
        for (hashes, expected) in [(&[7, 7, 8, 7][..], "rank 2 has"), (&[1, 2], "rank 1 has")] {
            for refused in on_ranks(hashes) {
                let text = refused.expect_err("they differ").to_string();
                assert!(text.starts_with(expected), "{text}");
            }
        }
    }
}
