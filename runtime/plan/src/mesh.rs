//! The mesh: the ranks that share a plan's work, and how tensors are cut over them.
//!
//! Ranks are numbered row-major over the axes: with `dp=2,ep=4` rank 5 is dp 1, ep 1. A group is
//! the ranks that differ from one another along some axes only.
//!
//! # Invariants
//! - One plan serves every rank: what differs between ranks is data, found from the rank's number.
//! - A rank's place in its group is its coordinate along the group's axes, row-major.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most ranks of a mesh.
pub const MAX_RANKS: u64 = 1 << 20;

/// Ranks laid out along axes; without axes, one rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mesh {
    /// The axes, outermost first.
    pub axes: Vec<MeshAxis>,
}

/// One axis of a mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshAxis {
    /// Its name: `dp`, `ep`.
    pub name: String,
    /// Ranks along it.
    pub ranks: u64,
}

/// How a tensor is cut: rank `c` of the group along `axes` holds the `c`-th part of `dim`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// The dimension that is cut.
    pub dim: u32,
    /// Indices of mesh axes, ascending.
    pub axes: Vec<u32>,
    /// The dimension is this many blocks, each cut by itself: a rank holds its part of every block.
    pub blocks: u64,
}

/// Some of the ranks: those whose coordinate along some axes is one number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Only {
    /// Indices of mesh axes, ascending.
    pub axes: Vec<u32>,
    /// The coordinate.
    pub at: u64,
}

impl Mesh {
    /// Whether a rank is among some of the ranks; all are among no matter which.
    pub fn among(&self, rank: u32, only: Option<&Only>) -> bool {
        only.is_none_or(|only| self.coordinate(rank, &only.axes) == only.at)
    }

    /// Ranks in all.
    pub fn ranks(&self) -> u64 {
        self.axes.iter().fold(1u64, |n, axis| n.saturating_mul(axis.ranks))
    }

    /// Ranks along one axis, by index; 1 for one that is not there.
    pub fn along(&self, axis: u32) -> u64 {
        self.axes.get(axis as usize).map_or(1, |axis| axis.ranks)
    }

    /// Ranks of a group along some axes.
    pub fn group_size(&self, axes: &[u32]) -> u64 {
        axes.iter().fold(1u64, |n, axis| n.saturating_mul(self.along(*axis)))
    }

    /// Name of the feed that a rank's coordinate along some axes is: `mesh.dp.ep`. It is an i32
    /// scalar, and the runtime gives it by itself.
    pub fn feed(&self, axes: &[u32]) -> String {
        let names = axes.iter().filter_map(|axis| self.axes.get(*axis as usize));
        names.fold("mesh".to_owned(), |text, axis| text + "." + &axis.name)
    }

    /// The axes whose coordinate a feed is; `None` for any other feed.
    pub fn of_feed(&self, feed: &str) -> Option<Vec<u32>> {
        let names = feed.strip_prefix("mesh.")?.split('.');
        let index = |name| self.axes.iter().position(|axis| axis.name == name).map(|i| i as u32);
        let axes = names.map(index).collect::<Option<Vec<u32>>>()?;
        self.has(&axes).then_some(axes)
    }

    /// A rank's coordinate along some axes, row-major: its place in their group.
    pub fn coordinate(&self, rank: u32, axes: &[u32]) -> u64 {
        let all = self.coordinates(rank);
        axes.iter().fold(0, |at, axis| {
            at * self.along(*axis) + all.get(*axis as usize).copied().unwrap_or(0)
        })
    }

    /// The ranks that differ from one along some axes only, itself included, ascending.
    pub fn group(&self, rank: u32, axes: &[u32]) -> Vec<u32> {
        let others: Vec<u32> =
            (0..self.axes.len() as u32).filter(|axis| !axes.contains(axis)).collect();
        let place = self.coordinate(rank, &others);
        (0..self.ranks() as u32).filter(|r| self.coordinate(*r, &others) == place).collect()
    }

    fn coordinates(&self, rank: u32) -> Vec<u64> {
        let mut rest = u64::from(rank);
        let mut all: Vec<u64> = self
            .axes
            .iter()
            .rev()
            .map(|axis| {
                let at = rest % axis.ranks.max(1);
                rest /= axis.ranks.max(1);
                at
            })
            .collect();
        all.reverse();
        all
    }

    /// Whether the axes can be what they say.
    pub(crate) fn verify(&self) -> Result<(), String> {
        for (i, axis) in self.axes.iter().enumerate() {
            if axis.ranks == 0 || self.axes[..i].iter().any(|other| other.name == axis.name) {
                return Err(format!("mesh axis `{}` of {} ranks", axis.name, axis.ranks));
            }
        }
        match self.ranks() {
            ranks if ranks <= MAX_RANKS => Ok(()),
            ranks => Err(format!("a mesh of {ranks} ranks; the limit is {MAX_RANKS}")),
        }
    }

    /// Whether these are axes of the mesh, ascending.
    pub(crate) fn has(&self, axes: &[u32]) -> bool {
        axes.windows(2).all(|pair| pair[0] < pair[1])
            && axes.iter().all(|axis| (*axis as usize) < self.axes.len())
    }
}

impl Shard {
    /// The whole tensor's shape from that of a part.
    pub fn whole(&self, mesh: &Mesh, part: &[u64]) -> Vec<u64> {
        let mut shape = part.to_vec();
        if let Some(extent) = shape.get_mut(self.dim as usize) {
            *extent = extent.saturating_mul(mesh.group_size(&self.axes));
        }
        shape
    }
}

impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes: Vec<String> =
            self.axes.iter().map(|axis| format!("{}={}", axis.name, axis.ranks)).collect();
        f.write_str(&axes.join(","))
    }
}

impl FromStr for Mesh {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let axis = |part: &str| {
            let (name, ranks) = part.split_once('=')?;
            let ranks = ranks.parse().ok()?;
            let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
            plain.then(|| MeshAxis { name: name.to_owned(), ranks })
        };
        let parts = text.split(',').filter(|part| !part.is_empty());
        let axes = parts.map(|part| axis(part).ok_or_else(|| format!("`{part}` is no axis")));
        let mesh = Mesh { axes: axes.collect::<Result<_, _>>()? };
        mesh.verify().map(|()| mesh)
    }
}

impl fmt::Display for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes: Vec<String> = self.axes.iter().map(u32::to_string).collect();
        write!(f, "{} of {}", self.at, axes.join(","))
    }
}

impl FromStr for Only {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (at, axes) = text.split_once(" of ")?;
            let axes = axes.split(',').map(|axis| axis.parse().ok()).collect::<Option<_>>()?;
            Some(Only { axes, at: at.parse().ok()? })
        };
        read().ok_or_else(|| format!("`{text}` names no ranks"))
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes: Vec<String> = self.axes.iter().map(u32::to_string).collect();
        write!(f, "{} over {}", self.dim, axes.join(","))?;
        if self.blocks == 1 { Ok(()) } else { write!(f, " in {}", self.blocks) }
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (cut, blocks) = text.split_once(" in ").unwrap_or((text, "1"));
            let (dim, axes) = cut.split_once(" over ")?;
            let axes = axes.split(',').map(|axis| axis.parse().ok()).collect::<Option<_>>()?;
            Some(Shard { dim: dim.parse().ok()?, axes, blocks: blocks.parse().ok()? })
        };
        read().ok_or_else(|| format!("`{text}` says not how a tensor is cut"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_the_ranks_that_differ_along_their_axes() {
        let mesh: Mesh = "dp=2,ep=3".parse().expect("a mesh");
        assert_eq!((mesh.ranks(), mesh.to_string().as_str()), (6, "dp=2,ep=3"));
        assert_eq!(mesh.group(4, &[0]), [1, 4]);
        assert_eq!(mesh.group(4, &[1]), [3, 4, 5]);
        assert_eq!(mesh.group(4, &[0, 1]), [0, 1, 2, 3, 4, 5]);
        assert_eq!(mesh.group(4, &[]), [4]);
        let places = [vec![0], vec![1], vec![0, 1], vec![]].map(|axes| mesh.coordinate(4, &axes));
        assert_eq!(places, [1, 1, 4, 0]);
        assert_eq!(mesh.of_feed(&mesh.feed(&[0, 1])), Some(vec![0, 1]));
        assert_eq!((mesh.feed(&[1]).as_str(), mesh.of_feed("mesh.ep.dp")), ("mesh.ep", None));
        assert_eq!(Mesh::default().group(0, &[]), [0]);
        let second: Only = "1 of 0".parse().expect("ranks");
        assert_eq!((second.to_string().as_str(), mesh.among(4, Some(&second))), ("1 of 0", true));
        assert!(!mesh.among(2, Some(&second)) && mesh.among(2, None));
        for bad in ["dp=0", "dp", "dp=1,dp=2", "dp=99999999", "=3"] {
            assert!(bad.parse::<Mesh>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_shard_is_read_as_it_is_written() {
        for text in ["0 over 1", "2 over 0,1 in 4"] {
            let shard: Shard = text.parse().expect("a shard");
            assert_eq!(shard.to_string(), text);
        }
        assert!("0 across 1".parse::<Shard>().is_err());
        let mesh: Mesh = "dp=2,ep=3".parse().expect("a mesh");
        let shard = Shard { dim: 1, axes: vec![0, 1], blocks: 1 };
        assert_eq!(shard.whole(&mesh, &[5, 2]), [5, 12]);
    }
}
