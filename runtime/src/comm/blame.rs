//! Whom to blame when a collective does not complete: from where every rank stands.
//!
//! A rank waits for others, which may wait for yet others. Following these edges leads to a rank
//! that is gone or stopped, or alive but not in a collective; or, when everybody waits, to one that
//! is in another collective than those who wait for it.
//!
//! # Invariants
//! - Pure: the same standings give the same answer, on every rank that starts from the same edge.
//! - What is certain (gone, stopped) goes before what is only likely (late, silent), and what a rank
//!   has said on giving up before both.

use super::{Cause, Lost, OwnedSite};

/// Where a rank stands, as far as another one can see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What its process does.
    pub life: Life,
    /// The collective it is in.
    pub inside: Option<Inside>,
    /// Whom it blames itself, when it has given up.
    pub verdict: Option<Lost>,
}

/// What a rank's process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// It runs, as far as can be seen.
    #[default]
    Alive,
    /// It ended without a word.
    Gone,
    /// It ended by itself.
    Ended {
        /// Exit code of its process.
        exit: u8,
    },
    /// It is stopped.
    Stopped,
    /// It waits in a collective, but has not been heard of for a while.
    Silent,
}

/// A collective that a rank has entered and not left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Where.
    pub site: OwnedSite,
    /// Its ranks.
    pub group: Vec<u32>,
    /// Those whose bytes have not come yet.
    pub missing: Vec<u32>,
}

/// What is to blame for the wait of `me` for `missing` at `site`; `None` where nobody is missing.
pub(crate) fn blame(
    standings: &[Standing],
    (me, site): (u32, &OwnedSite),
    missing: &[u32],
) -> Option<Verdict> {
    let waits = waits(standings, me, missing);
    let reached = || waits.iter().copied();
    let standing = |rank: u32| standings.get(rank as usize);
    // Those who gave up end soon after: that they are gone then says nothing, what they said does.
    let said = || standings.iter().find_map(|standing| standing.verdict.clone());
    let told = reached().find_map(|rank| standing(rank)?.verdict.clone());
    if let Some(lost) = told.or_else(|| said().filter(|_| !missing.is_empty())) {
        return Some(Verdict::Told(lost));
    }
    let certain = reached().find_map(|rank| Some((rank, certain(standing(rank)?.life)?)));
    let outside = || {
        let rank = reached().find(|&rank| standing(rank).is_none_or(|s| s.inside.is_none()))?;
        Some((rank, Cause::Late))
    };
    let elsewhere = || elsewhere(standings, (me, site), &waits);
    let first = || reached().next().map(|rank| (rank, Cause::Silent));
    let (rank, cause) = certain.or_else(outside).or_else(elsewhere).or_else(first)?;
    Some(Verdict::Found { rank, cause })
}

/// Whom [`blame`] blames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What a rank that gave up earlier says.
    Told(Lost),
    /// What follows from the standings.
    Found {
        /// The rank.
        rank: u32,
        /// What became of it.
        cause: Cause,
    },
}

/// The ranks that `me` waits for, those that they wait for, and so on; each once.
fn waits(standings: &[Standing], me: u32, missing: &[u32]) -> Vec<u32> {
    let mut reached = missing.to_vec();
    let mut next = 0;
    while let Some(&rank) = reached.get(next) {
        next += 1;
        let standing = standings.get(rank as usize).filter(|s| s.life == Life::Alive);
        let Some(inside) = standing.and_then(|s| s.inside.as_ref()) else { continue };
        for &to in &inside.missing {
            if to != me && !reached.contains(&to) {
                reached.push(to);
            }
        }
    }
    reached
}

fn certain(life: Life) -> Option<Cause> {
    match life {
        Life::Alive => None,
        Life::Gone => Some(Cause::Gone),
        Life::Ended { exit } => Some(Cause::Ended { exit }),
        Life::Stopped => Some(Cause::Stopped),
        Life::Silent => Some(Cause::Silent),
    }
}

/// The rank whose collective differs from that of most others, among those that wait.
fn elsewhere(
    standings: &[Standing],
    (me, site): (u32, &OwnedSite),
    waits: &[u32],
) -> Option<(u32, Cause)> {
    let mut ranks = vec![me];
    let mut sites = vec![site.to_string()];
    for &rank in waits {
        if let Some(inside) = standings.get(rank as usize).and_then(|s| s.inside.as_ref()) {
            ranks.push(rank);
            sites.push(inside.site.to_string());
        }
    }
    let odd = *odd_ones_out(&sites, 0).first()?;
    Some((ranks[odd], Cause::Elsewhere { entered: sites[odd].clone() }))
}

/// The members of a group whose key differs from that of most. Where two keys are as frequent, that
/// of the member at `favoured` is taken to be right, then the first one.
pub(crate) fn odd_ones_out<K: Ord>(keys: &[K], favoured: usize) -> Vec<usize> {
    let count = |key: &K| keys.iter().filter(|other| *other == key).count();
    let weight = |i: &usize| (count(&keys[*i]), keys[*i] == keys[favoured]);
    let Some(best) = (0..keys.len()).rev().max_by_key(weight) else { return Vec::new() };
    (0..keys.len()).filter(|&i| keys[i] != keys[best]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(step: usize) -> OwnedSite {
        let word = |w: &str| w.to_owned();
        OwnedSite { entry: word("e"), step, name: word("all_reduce"), node: word("n") }
    }

    fn inside(step: usize, missing: &[u32]) -> Standing {
        let group = vec![0, 1, 2, 3];
        let inside = Inside { site: site(step), group, missing: missing.to_vec() };
        Standing { inside: Some(inside), ..Standing::default() }
    }

    fn found(standings: &[Standing], missing: &[u32]) -> (u32, Cause) {
        match blame(standings, (0, &site(7)), missing) {
            Some(Verdict::Found { rank, cause }) => (rank, cause),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_chain_of_waits_is_followed_to_its_end() {
        let outside = Standing::default();
        let chain = [inside(7, &[1]), inside(5, &[2]), inside(3, &[3]), outside];
        assert_eq!(found(&chain, &[1]), (3, Cause::Late));
    }

    #[test]
    fn what_is_certain_goes_before_what_is_likely() {
        let gone = Standing { life: Life::Gone, ..Standing::default() };
        let ranks = [inside(7, &[1, 2]), Standing::default(), inside(7, &[3]), gone];
        assert_eq!(found(&ranks, &[1, 2]), (3, Cause::Gone));
        let mut stopped = ranks.clone();
        stopped[3] = Standing { life: Life::Stopped, ..inside(7, &[0]) };
        assert_eq!(found(&stopped, &[1, 2]), (3, Cause::Stopped));
    }

    #[test]
    fn who_is_elsewhere_while_all_wait_is_to_blame() {
        let ranks = [inside(7, &[2]), inside(7, &[2]), inside(8, &[0, 1, 3]), inside(7, &[2])];
        let entered = site(8).to_string();
        assert_eq!(found(&ranks, &[2]), (2, Cause::Elsewhere { entered }));
    }

    #[test]
    fn a_verdict_that_was_given_is_adopted() {
        let lost = Lost {
            rank: 3,
            host: "h".to_owned(),
            cause: Cause::Gone,
            site: site(7),
            waited: std::time::Duration::ZERO,
        };
        let told = Standing { verdict: Some(lost.clone()), ..Standing::default() };
        let ranks = [inside(7, &[1]), told, Standing::default(), Standing::default()];
        assert_eq!(blame(&ranks, (0, &site(7)), &[1]), Some(Verdict::Told(lost)));
    }

    #[test]
    fn a_rank_that_gave_up_and_ended_is_not_to_blame() {
        let lost = Lost {
            rank: 3,
            host: "h".to_owned(),
            cause: Cause::Late,
            site: site(7),
            waited: std::time::Duration::ZERO,
        };
        let ended = Standing { life: Life::Ended { exit: 11 }, ..Standing::default() };
        let told = Standing { verdict: Some(lost.clone()), ..ended.clone() };
        let ranks = [inside(7, &[1]), ended, told, Standing::default()];
        assert_eq!(blame(&ranks, (0, &site(7)), &[1]), Some(Verdict::Told(lost)));
    }

    #[test]
    fn nobody_is_to_blame_when_nobody_is_missing() {
        assert_eq!(blame(&[], (0, &site(7)), &[]), None);
    }

    #[test]
    fn the_minority_is_the_odd_one_out() {
        assert_eq!(odd_ones_out(&[5, 5, 6, 5], 0), [2]);
        assert_eq!(odd_ones_out(&[5, 5, 6, 5], 2), [2]);
        assert_eq!(odd_ones_out(&[5, 6, 6, 7], 0), [0, 3]);
        assert_eq!(odd_ones_out(&[5, 6], 0), [1]);
        assert_eq!(odd_ones_out(&[5, 6], 1), [0]);
        assert_eq!(odd_ones_out(&[5, 5], 1), [0usize; 0]);
        assert_eq!(odd_ones_out::<u8>(&[], 0), [0usize; 0]);
    }
}
