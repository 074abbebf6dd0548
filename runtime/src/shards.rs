//! Whole tensors and the parts of them that ranks hold.
//!
//! # Invariants
//! - `join(parts of x) == x`: the parts of a group, in its order, are all of a tensor and nothing
//!   twice.

use perilune_plan::{Mesh, Shard};

use crate::{HostTensor, RuntimeError};

/// The part of a whole tensor that a rank holds.
///
/// # Shapes
/// - whole: `[.., blocks · n · p, ..]`, `n` the ranks of the group
/// - result: `[.., blocks · p, ..]`
///
/// # Errors
/// [`RuntimeError::Shard`] when the tensor cannot be cut so.
pub fn part(
    whole: &HostTensor,
    shard: &Shard,
    (mesh, rank): (&Mesh, u32),
) -> Result<HostTensor, RuntimeError> {
    let cut = Cut::of(whole, shard, mesh.group_size(&shard.axes))?;
    let at = mesh.coordinate(rank, &shard.axes) as usize;
    let mut data = Vec::with_capacity(whole.bytes().len() / cut.ranks.max(1));
    for row in 0..cut.rows {
        let begin = (row * cut.ranks + at) * cut.piece;
        data.extend_from_slice(&whole.bytes()[begin..begin + cut.piece]);
    }
    let mut shape = whole.shape().to_vec();
    shape[shard.dim as usize] /= cut.ranks as u64;
    HostTensor::from_bytes(whole.dtype(), &shape, data)
}

/// The whole tensor, from the parts of a group in its order.
///
/// # Errors
/// [`RuntimeError::Shard`] when the parts do not fit together.
pub fn join(parts: &[HostTensor], shard: &Shard) -> Result<HostTensor, RuntimeError> {
    let misfit = |what: String| RuntimeError::Shard { what };
    let first = parts.first().ok_or_else(|| misfit("no parts".to_owned()))?;
    if parts.iter().any(|p| (p.dtype(), p.shape()) != (first.dtype(), first.shape())) {
        return Err(misfit("parts of different types".to_owned()));
    }
    let cut = Cut::of(first, shard, 1)?;
    let mut data = Vec::with_capacity(first.bytes().len() * parts.len());
    for row in 0..cut.rows {
        for part in parts {
            data.extend_from_slice(&part.bytes()[row * cut.piece..(row + 1) * cut.piece]);
        }
    }
    let mut shape = first.shape().to_vec();
    shape[shard.dim as usize] *= parts.len() as u64;
    HostTensor::from_bytes(first.dtype(), &shape, data)
}

/// A tensor as `rows` times `ranks` pieces of `piece` bytes.
struct Cut {
    rows: usize,
    ranks: usize,
    piece: usize,
}

impl Cut {
    fn of(tensor: &HostTensor, shard: &Shard, ranks: u64) -> Result<Cut, RuntimeError> {
        let dim = shard.dim as usize;
        let pieces = shard.blocks.saturating_mul(ranks);
        let extent = tensor.shape().get(dim).filter(|e| pieces > 0 && e.is_multiple_of(pieces));
        let Some(extent) = extent else {
            let what = format!("{} is cut as `{shard}` over {ranks} ranks", tensor.type_name());
            return Err(RuntimeError::Shard { what });
        };
        let outer: u64 = tensor.shape()[..dim].iter().product();
        let inner: u64 = tensor.shape()[dim + 1..].iter().product();
        let piece = extent / pieces * inner * tensor.dtype().bytes();
        Ok(Cut {
            rows: (outer * shard.blocks) as usize,
            ranks: ranks as usize,
            piece: piece as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(shape: &[u64]) -> HostTensor {
        let values: Vec<i32> = (0..shape.iter().product::<u64>() as i32).collect();
        HostTensor::from_i32(shape, &values).expect("fits")
    }

    #[test]
    fn parts_of_a_group_are_the_whole_again() {
        let mesh: Mesh = "dp=2,ep=3".parse().expect("a mesh");
        for (text, shape) in [("0 over 1", vec![6, 5]), ("1 over 0,1 in 2", vec![3, 24, 2])] {
            let shard: Shard = text.parse().expect("a shard");
            let whole = numbers(&shape);
            let group = mesh.group(4, &shard.axes);
            let parts: Vec<HostTensor> = group
                .iter()
                .map(|rank| part(&whole, &shard, (&mesh, *rank)).expect("cut"))
                .collect();
            assert_eq!(join(&parts, &shard).expect("joined"), whole, "{text}");
        }
    }

    #[test]
    fn a_rank_holds_its_part_of_every_block() {
        let mesh: Mesh = "dp=2".parse().expect("a mesh");
        let shard = Shard { dim: 0, axes: vec![0], blocks: 2 };
        let held = part(&numbers(&[8]), &shard, (&mesh, 1)).expect("cut");
        assert_eq!(held.to_i32().expect("i32"), [2, 3, 6, 7]);
        assert!(part(&numbers(&[6]), &shard, (&mesh, 1)).is_err());
    }
}
