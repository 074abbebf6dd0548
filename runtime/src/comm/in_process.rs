//! Ranks as threads of one process: for development, and for tests of what runs on many ranks.
//!
//! # Invariants
//! - Sending never waits, so ranks that exchange with each other cannot lock each other out.
//! - A rank that is dropped, by a panic too, makes those that wait for it fail at once.
//! - A rank that gives up leaves its verdict; who waits for it fails with the same.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::blame::{Inside, Life, Standing, Verdict, blame, odd_ones_out};
use super::{
    Cause, CommError, Communicator, DEFAULT_TIMEOUT, Lost, OwnedSite, Site, Traffic, host,
    place_in_group,
};

/// A rank that is a thread.
#[derive(Debug)]
pub struct InProcess {
    rank: u32,
    timeout: Duration,
    traffic: Traffic,
    job: Arc<Job>,
}

/// The ranks of a job of `size`, to be handed to as many threads.
pub fn ranks(size: u32) -> Vec<InProcess> {
    let state = State {
        boxes: (0..size * size).map(|_| VecDeque::new()).collect(),
        standings: vec![Standing::default(); size as usize],
    };
    let job = Arc::new(Job { size, state: Mutex::new(state), changed: Condvar::new() });
    let rank = |rank| InProcess {
        rank,
        timeout: DEFAULT_TIMEOUT,
        traffic: Traffic::default(),
        job: Arc::clone(&job),
    };
    (0..size).map(rank).collect()
}

/// What the ranks share.
#[derive(Debug)]
struct Job {
    size: u32,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// By sender, then receiver.
    boxes: Vec<VecDeque<Parcel>>,
    /// By rank.
    standings: Vec<Standing>,
}

/// What one rank sends another in an exchange.
#[derive(Debug)]
struct Parcel {
    site: Arc<OwnedSite>,
    bytes: Vec<u8>,
}

impl Job {
    /// The state; a rank that panicked while it held it has left it whole, for every change is one
    /// assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An exchange that is under way.
struct Waiting<'a> {
    site: &'a Arc<OwnedSite>,
    group: &'a [u32],
    own: usize,
    begin: Instant,
    /// What came, by place in the group.
    parcels: Vec<Option<Parcel>>,
}

impl Waiting<'_> {
    /// Ranks whose parcel has not come.
    fn missing(&self) -> Vec<u32> {
        let open = self.parcels.iter().enumerate().filter(|(i, p)| *i != self.own && p.is_none());
        open.map(|(i, _)| self.group[i]).collect()
    }
}

impl InProcess {
    /// The same rank with another deadline for each exchange.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Puts the pieces into the boxes of the others.
    fn post(&self, waiting: &Waiting<'_>, send: &[&[u8]]) {
        let size = self.job.size as usize;
        let mut state = self.job.lock();
        for (i, &to) in waiting.group.iter().enumerate() {
            if i != waiting.own {
                let parcel = Parcel { site: Arc::clone(waiting.site), bytes: send[i].to_vec() };
                state.boxes[self.rank as usize * size + to as usize].push_back(parcel);
            }
        }
        drop(state);
        self.job.changed.notify_all();
    }

    /// Takes parcels until all are here or hope is lost.
    fn collect(&self, waiting: &mut Waiting<'_>) -> Result<(), Box<Lost>> {
        let size = self.job.size as usize;
        let mut state = self.job.lock();
        loop {
            for (i, &from) in waiting.group.iter().enumerate() {
                if i != waiting.own && waiting.parcels[i].is_none() {
                    let mailbox = &mut state.boxes[from as usize * size + self.rank as usize];
                    waiting.parcels[i] = mailbox.pop_front();
                }
            }
            let missing = waiting.missing();
            let (site, group) = (OwnedSite::clone(waiting.site), waiting.group.to_vec());
            let inside = Inside { site, group, missing: missing.clone() };
            state.standings[self.rank as usize].inside = Some(inside);
            if missing.is_empty() {
                return Ok(());
            }
            let left = self.timeout.saturating_sub(waiting.begin.elapsed());
            let ended = missing.iter().any(|&from| {
                let standing = &state.standings[from as usize];
                standing.life != Life::Alive || standing.verdict.is_some()
            });
            if ended || left.is_zero() {
                return Err(self.judge(&state, waiting, &missing));
            }
            let woken = self.job.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn judge(&self, state: &State, waiting: &Waiting<'_>, missing: &[u32]) -> Box<Lost> {
        match blame(&state.standings, (self.rank, waiting.site), missing) {
            Some(Verdict::Told(lost)) => Box::new(lost),
            Some(Verdict::Found { rank, cause }) => self.lost(waiting, rank, cause),
            None => self.lost(waiting, self.rank, Cause::Silent),
        }
    }

    fn lost(&self, waiting: &Waiting<'_>, rank: u32, cause: Cause) -> Box<Lost> {
        let site = OwnedSite::clone(waiting.site);
        Box::new(Lost { rank, host: host::name(), cause, site, waited: waiting.begin.elapsed() })
    }

    /// Checks that all parcels are of this collective and as long as expected.
    fn check(&self, waiting: &Waiting<'_>, receive: &[&mut [u8]]) -> Result<(), Box<Lost>> {
        let sites = waiting.parcels.iter().map(|parcel| match parcel {
            Some(parcel) => parcel.site.to_string(),
            None => waiting.site.to_string(),
        });
        let sites: Vec<String> = sites.collect();
        if let Some(&odd) = odd_ones_out(&sites, waiting.own).first() {
            let entered = sites[odd].clone();
            return Err(self.lost(waiting, waiting.group[odd], Cause::Elsewhere { entered }));
        }
        for (i, parcel) in waiting.parcels.iter().enumerate() {
            let found = parcel.as_ref().map_or(receive[i].len(), |parcel| parcel.bytes.len());
            if found != receive[i].len() {
                let (expected, found) = (receive[i].len() as u64, found as u64);
                let cause = Cause::Length { expected, found };
                return Err(self.lost(waiting, waiting.group[i], cause));
            }
        }
        Ok(())
    }

    fn set_standing(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut self.job.lock().standings[self.rank as usize]);
        self.job.changed.notify_all();
    }
}

impl Communicator for InProcess {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn size(&self) -> u32 {
        self.job.size
    }

    fn exchange(
        &mut self,
        site: &Site<'_>,
        group: &[u32],
        send: &[&[u8]],
        receive: &mut [&mut [u8]],
    ) -> Result<(), CommError> {
        let own = place_in_group((self.rank, self.job.size), group, send, receive)?;
        let parcels = group.iter().map(|_| None).collect();
        let site_name = Arc::new(site.to_owned());
        let mut waiting = Waiting { site: &site_name, group, own, begin: Instant::now(), parcels };
        self.post(&waiting, send);
        let done = self.collect(&mut waiting).and_then(|()| self.check(&waiting, receive));
        if let Err(lost) = done {
            self.set_standing(|standing| standing.verdict = Some((*lost).clone()));
            return Err(lost.into());
        }
        for (piece, parcel) in receive.iter_mut().zip(&waiting.parcels) {
            piece.copy_from_slice(
                parcel.as_ref().map_or(send[own], |parcel| parcel.bytes.as_slice()),
            );
        }
        self.traffic.count(site, own, send);
        self.set_standing(|standing| standing.inside = None);
        Ok(())
    }

    fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn leave(&mut self, exit: u8) {
        self.set_standing(|standing| standing.life = Life::Ended { exit });
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.set_standing(|standing| {
            if standing.life == Life::Alive {
                standing.life = Life::Gone;
            }
        });
    }
}

#[cfg(test)]
mod tests;
