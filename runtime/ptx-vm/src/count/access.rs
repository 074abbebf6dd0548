//! What one memory request of a warp costs: sectors of global memory, wavefronts of shared memory.
//!
//! - Global memory moves in sectors of 32 bytes; a request costs the distinct sectors its lanes touch.
//! - Shared memory has 32 banks of 4 bytes. A wavefront serves one word of each bank; lanes that touch the
//!   same word share it. Requests of 8 and 16 bytes per lane are served by halves and quarters of the warp.

/// Bytes of a sector.
pub(crate) const SECTOR_BYTES: u64 = 32;
const BANKS: usize = 32;
const WORD_BYTES: u64 = 4;

/// Distinct sectors under `bytes` bytes at each address.
pub(crate) fn sectors(addresses: impl Iterator<Item = u64>, bytes: u64) -> u64 {
    let mut touched: Vec<u64> = addresses
        .flat_map(|first| {
            first / SECTOR_BYTES..=first.saturating_add(bytes.max(1) - 1) / SECTOR_BYTES
        })
        .collect();
    touched.sort_unstable();
    touched.dedup();
    touched.len() as u64
}

/// Wavefronts of a request, and how many there would be without a conflict.
///
/// `addresses` holds the lanes' addresses, `None` for lanes that do not take part.
pub(crate) fn wavefronts(addresses: &[Option<u64>; 32], bytes: u64) -> (u64, u64) {
    let lanes_at_once = match bytes {
        0..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    let mut sum = (0, 0);
    for lanes in addresses.chunks(lanes_at_once) {
        let served = phase(lanes.iter().flatten().copied(), bytes);
        sum = (sum.0 + served, sum.1 + u64::from(served > 0));
    }
    sum
}

/// The most distinct words of one bank.
fn phase(addresses: impl Iterator<Item = u64>, bytes: u64) -> u64 {
    let mut words: Vec<u64> = addresses
        .flat_map(|first| first / WORD_BYTES..=first.saturating_add(bytes.max(1) - 1) / WORD_BYTES)
        .collect();
    words.sort_unstable();
    words.dedup();
    let mut per_bank = [0u64; BANKS];
    for word in words {
        per_bank[word as usize % BANKS] += 1;
    }
    per_bank.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strided(stride: u64) -> [Option<u64>; 32] {
        std::array::from_fn(|lane| Some(lane as u64 * stride))
    }

    #[test]
    fn a_stride_of_words_conflicts_as_often_as_it_shares_factors_with_the_banks() {
        for (stride, expected) in [(4, 1), (8, 2), (16, 4), (128, 32), (132, 1), (0, 1), (1, 1)] {
            assert_eq!(wavefronts(&strided(stride), 4), (expected, 1), "stride {stride}");
        }
    }

    #[test]
    fn wide_requests_are_served_in_parts() {
        assert_eq!(wavefronts(&strided(8), 8), (2, 2));
        assert_eq!(wavefronts(&strided(16), 16), (4, 4));
        // Rows of 128 bytes read by columns of 16 bytes: every lane of a quarter in the same four banks.
        assert_eq!(wavefronts(&strided(128), 16), (32, 4));
        let mut few = [None; 32];
        few[20] = Some(64);
        assert_eq!(wavefronts(&few, 16), (1, 1));
    }

    #[test]
    fn requests_cost_their_distinct_sectors() {
        assert_eq!(sectors((0..32).map(|lane| lane * 4), 4), 4);
        assert_eq!(sectors((0..32).map(|lane| lane * 128), 4), 32);
        assert_eq!(sectors((0..32).map(|lane| 16 + lane * 4), 4), 5);
        assert_eq!(sectors((0..32).map(|_| 0), 4), 1);
        assert_eq!(sectors([30].into_iter(), 4), 2);
    }
}
