//! Happens-before: which accesses of which threads a thread has been told of.
//!
//! A thread's *epoch* grows whenever it releases; its *row* holds, for each thread of its CTA, the last
//! epoch it has been told of.
//! A barrier for the whole CTA starts a *generation*: everything older is known to everyone, so rows
//! start empty.
//! What is known of other CTAs is kept apart, since it is rare, and shared, since it is handed on far
//! more often than it grows.
//!
//! # Invariants
//! - Knowledge only grows within a generation.
//! - An access in flight is known to nobody.

use super::IN_FLIGHT;
use std::collections::BTreeMap;
use std::sync::Arc;

/// When an access happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The CTA in the grid, plus one; 0 for no access.
    pub(crate) cta: u32,
    pub(crate) thread: u16,
    pub(crate) flags: u16,
    pub(crate) generation: u32,
    pub(crate) epoch: u32,
    pub(crate) pc: u32,
}

/// What is known of another CTA: all older generations, and these epochs of this one.
#[derive(Clone, Debug, Default)]
struct Foreign {
    generation: u32,
    /// By thread; of those that are missing nothing is known.
    epochs: Vec<u32>,
}

impl Foreign {
    fn covers(&self, access: &Stamp) -> bool {
        let told = self.epochs.get(usize::from(access.thread)).copied().unwrap_or(0);
        access.generation < self.generation
            || (access.generation == self.generation && access.epoch <= told)
    }

    fn includes(&self, news: &Self) -> bool {
        let longer = self.epochs.len() >= news.epochs.len();
        let each = || self.epochs.iter().zip(&news.epochs).all(|(known, new)| known >= new);
        self.generation > news.generation
            || (self.generation == news.generation && longer && each())
    }

    fn join(&mut self, news: &Self) {
        if news.generation > self.generation {
            self.clone_from(news);
        } else if news.generation == self.generation {
            self.epochs.resize(self.epochs.len().max(news.epochs.len()), 0);
            join(&mut self.epochs, &news.epochs);
        }
    }
}

/// What is known of CTAs, by their numbers.
#[derive(Clone, Debug, Default)]
struct Others(Option<Arc<BTreeMap<u32, Foreign>>>);

impl Others {
    fn get(&self, cta: u32) -> Option<&Foreign> {
        self.0.as_ref()?.get(&cta)
    }

    fn covers(&self, access: &Stamp) -> bool {
        self.get(access.cta).is_some_and(|known| known.covers(access))
    }

    fn join(&mut self, other: &Self) {
        let (Some(known), Some(news)) = (&self.0, &other.0) else {
            self.0 = self.0.take().or_else(|| other.0.clone());
            return;
        };
        if !Arc::ptr_eq(known, news) {
            for (cta, news) in news.iter() {
                self.tell(*cta, news);
            }
        }
    }

    fn tell(&mut self, cta: u32, news: &Foreign) {
        if !self.get(cta).is_some_and(|known| known.includes(news)) {
            let all = self.0.get_or_insert_default();
            Arc::make_mut(all).entry(cta).or_default().join(news);
        }
    }
}

/// What a thread knows, to be handed on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// The CTA of the thread, plus one; 0 for nothing.
    cta: u32,
    own: Foreign,
    others: Others,
}

/// The clocks of a CTA.
#[derive(Debug)]
pub(crate) struct Clocks {
    /// The CTA in the grid, plus one.
    pub(crate) cta: u32,
    pub(crate) generation: u32,
    /// The CTAs of the cluster, plus one each; empty for one alone.
    pub(super) peers: Vec<u32>,
    threads: usize,
    epochs: Vec<u32>,
    rows: Vec<u32>,
    row_generations: Vec<u32>,
    foreign: Vec<Others>,
    foreign_of_all: Others,
}

fn join(into: &mut [u32], from: &[u32]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into = (*into).max(*from);
    }
}

impl Clocks {
    pub(crate) fn new(cta: u32, threads: usize) -> Self {
        Self {
            cta: cta + 1,
            generation: 1,
            peers: Vec::new(),
            threads,
            epochs: vec![1; threads],
            rows: Vec::new(),
            row_generations: Vec::new(),
            foreign: vec![Others::default(); threads],
            foreign_of_all: Others::default(),
        }
    }

    /// The stamp of an access by `thread` now.
    #[inline]
    pub(crate) fn stamp(&self, thread: u16, pc: u32, flags: u16) -> Stamp {
        let (cta, generation) = (self.cta, self.generation);
        let epoch = self.epochs[usize::from(thread)];
        Stamp { cta, thread, flags, generation, epoch, pc }
    }

    /// Whether `thread` has been told of an access.
    #[inline]
    pub(crate) fn knows(&self, thread: u16, access: &Stamp) -> bool {
        if access.flags & IN_FLIGHT != 0 {
            return false;
        }
        if access.cta == self.cta {
            return access.generation < self.generation
                || access.thread == thread
                || self.told(thread.into(), access.thread.into()) >= access.epoch;
        }
        access.cta == 0
            || self.foreign_of_all.covers(access)
            || self.foreign[usize::from(thread)].covers(access)
    }

    fn told(&self, thread: usize, of: usize) -> u32 {
        match self.row_generations.get(thread) {
            Some(generation) if *generation == self.generation => {
                self.rows[thread * self.threads + of]
            }
            _ => 0,
        }
    }

    fn row(&mut self, thread: usize) -> &mut [u32] {
        if self.rows.is_empty() {
            self.rows = vec![0; self.threads * self.threads];
            self.row_generations = vec![0; self.threads];
        }
        let row = &mut self.rows[thread * self.threads..(thread + 1) * self.threads];
        if self.row_generations[thread] != self.generation {
            self.row_generations[thread] = self.generation;
            row.fill(0);
        }
        row
    }

    /// What `thread` knows, itself included; later accesses of it are not in there.
    pub(crate) fn release(&mut self, thread: usize) -> Snapshot {
        let own = self.epochs[thread];
        let row = self.row(thread);
        row[thread] = own;
        let end = row.iter().rposition(|epoch| *epoch != 0).map_or(0, |last| last + 1);
        let epochs = row[..end].to_vec();
        self.epochs[thread] += 1;
        let mut others = self.foreign_of_all.clone();
        others.join(&self.foreign[thread]);
        Snapshot { cta: self.cta, own: Foreign { generation: self.generation, epochs }, others }
    }

    /// Tells `thread` what a snapshot knows.
    pub(crate) fn acquire(&mut self, thread: usize, from: &Snapshot) {
        self.acquire_own(thread, from.cta, &from.own);
        if let Some(own) = from.others.get(self.cta) {
            self.acquire_own(thread, self.cta, own);
        }
        let foreign = &mut self.foreign[thread];
        foreign.join(&from.others);
        if from.cta != self.cta && from.cta != 0 {
            foreign.tell(from.cta, &from.own);
        }
    }

    fn acquire_own(&mut self, thread: usize, cta: u32, own: &Foreign) {
        if cta == self.cta && own.generation == self.generation {
            join(self.row(thread), &own.epochs);
        }
    }

    /// All threads meet.
    pub(crate) fn next_generation(&mut self) {
        self.generation += 1;
        for foreign in &mut self.foreign {
            self.foreign_of_all.join(&std::mem::take(foreign));
        }
    }

    /// Everything this CTA did so far is known to another one.
    pub(crate) fn tell_all(&mut self, of: u32, generation: u32) {
        self.foreign_of_all.tell(of, &Foreign { generation, epochs: Vec::new() });
    }
}

impl Snapshot {
    /// Whether nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.cta == 0
    }

    /// The CTA of the thread it came from first, plus one.
    pub(crate) fn cta(&self) -> u32 {
        self.cta
    }

    /// Whether an access is among what is known.
    pub(crate) fn covers(&self, access: &Stamp) -> bool {
        let own = access.cta == self.cta && self.own.covers(access);
        own || self.others.covers(access)
    }

    /// Joins what another thread knows.
    pub(crate) fn merge(&mut self, other: &Self) {
        if self.cta == 0 {
            *self = other.clone();
            return;
        }
        if self.cta == other.cta {
            self.own.join(&other.own);
        } else if other.cta != 0 {
            self.others.tell(other.cta, &other.own);
        }
        self.others.join(&other.others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_tells_of_what_came_before_it_and_not_of_what_came_after() {
        let mut clocks = Clocks::new(0, 64);
        let before = clocks.stamp(3, 0, 0);
        let snapshot = clocks.release(3);
        let after = clocks.stamp(3, 0, 0);
        assert!(!clocks.knows(40, &before));
        clocks.acquire(40, &snapshot);
        assert!(clocks.knows(40, &before));
        assert!(!clocks.knows(40, &after));
        clocks.next_generation();
        assert!(clocks.knows(40, &after));
    }

    #[test]
    fn knowledge_passes_through_a_third_cta() {
        let mut clocks = [Clocks::new(0, 32), Clocks::new(1, 32), Clocks::new(2, 32)];
        let write = clocks[0].stamp(5, 0, 0);
        let first = clocks[0].release(5);
        clocks[1].acquire(7, &first);
        let second = clocks[1].release(7);
        assert!(!clocks[2].knows(0, &write));
        clocks[2].acquire(0, &second);
        assert!(clocks[2].knows(0, &write));
        assert!(!clocks[2].knows(1, &write));
        clocks[2].next_generation();
        assert!(clocks[2].knows(1, &write));
    }
    #[test]
    fn a_thread_learns_of_its_own_cta_through_another_one() {
        let mut clocks = [Clocks::new(0, 32), Clocks::new(1, 32)];
        let write = clocks[0].stamp(5, 0, 0);
        let first = clocks[0].release(5);
        clocks[1].acquire(7, &first);
        let back = clocks[1].release(7);
        assert!(!clocks[0].knows(6, &write));
        clocks[0].acquire(6, &back);
        assert!(clocks[0].knows(6, &write));
    }

    #[test]
    fn what_is_handed_on_unchanged_is_not_copied() {
        let mut clocks = [Clocks::new(0, 32), Clocks::new(1, 32)];
        let first = clocks[0].release(5);
        clocks[1].acquire(7, &first);
        let (one, two) = (clocks[1].release(7), clocks[1].release(7));
        let shared = one.others.0.zip(two.others.0).map(|(one, two)| Arc::ptr_eq(&one, &two));
        assert_eq!(shared, Some(true));
    }
}
