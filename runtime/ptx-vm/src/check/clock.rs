//! Happens-before: which accesses of which threads a thread has been told of.
//!
//! A thread's *epoch* grows whenever it releases; its *row* holds, for each thread of its CTA, the last
//! epoch it has been told of.
//! A barrier for the whole CTA starts a *generation*: everything older is known to everyone, so rows
//! start empty.
//! What is known of other CTAs is kept apart, since it is rare.
//!
//! # Invariants
//! - Knowledge only grows within a generation.

use std::collections::BTreeMap;

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
pub(crate) struct Foreign {
    pub(crate) generation: u32,
    pub(crate) epochs: Vec<u32>,
}

/// What a thread knows, to be handed on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// The CTA of the thread, plus one.
    pub(crate) cta: u32,
    pub(crate) generation: u32,
    pub(crate) epochs: Vec<u32>,
    pub(crate) foreign: BTreeMap<u32, Foreign>,
}

/// The clocks of a CTA.
#[derive(Debug)]
pub(crate) struct Clocks {
    /// The CTA in the grid, plus one.
    pub(crate) cta: u32,
    pub(crate) generation: u32,
    threads: usize,
    epochs: Vec<u32>,
    rows: Vec<u32>,
    row_generations: Vec<u32>,
    foreign: Vec<BTreeMap<u32, Foreign>>,
    foreign_of_all: BTreeMap<u32, Foreign>,
}

fn join(into: &mut [u32], from: &[u32]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into = (*into).max(*from);
    }
}

fn join_foreign(into: &mut BTreeMap<u32, Foreign>, from: &BTreeMap<u32, Foreign>) {
    for (cta, news) in from {
        let known = into.entry(*cta).or_default();
        if news.generation > known.generation {
            *known = news.clone();
        } else if news.generation == known.generation {
            known.epochs.resize(known.epochs.len().max(news.epochs.len()), 0);
            join(&mut known.epochs, &news.epochs);
        }
    }
}

impl Clocks {
    pub(crate) fn new(cta: u32, threads: usize) -> Self {
        Self {
            cta: cta + 1,
            generation: 1,
            threads,
            epochs: vec![1; threads],
            rows: Vec::new(),
            row_generations: Vec::new(),
            foreign: vec![BTreeMap::new(); threads],
            foreign_of_all: BTreeMap::new(),
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
        if access.cta == self.cta {
            return access.generation < self.generation
                || access.thread == thread
                || self.told(thread.into(), access.thread.into()) >= access.epoch;
        }
        access.cta == 0
            || self.knows_foreign(&self.foreign_of_all, access)
            || self.knows_foreign(&self.foreign[usize::from(thread)], access)
    }

    fn knows_foreign(&self, known: &BTreeMap<u32, Foreign>, access: &Stamp) -> bool {
        let Some(known) = known.get(&access.cta) else { return false };
        let told = known.epochs.get(usize::from(access.thread)).copied().unwrap_or(0);
        access.generation < known.generation
            || (access.generation == known.generation && access.epoch <= told)
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
        let epochs = row.to_vec();
        self.epochs[thread] += 1;
        let mut foreign = self.foreign_of_all.clone();
        join_foreign(&mut foreign, &self.foreign[thread]);
        Snapshot { cta: self.cta, generation: self.generation, epochs, foreign }
    }

    /// Tells `thread` what a snapshot knows.
    pub(crate) fn acquire(&mut self, thread: usize, from: &Snapshot) {
        if from.cta == self.cta {
            if from.generation == self.generation {
                join(self.row(thread), &from.epochs);
            }
            join_foreign(&mut self.foreign[thread], &from.foreign);
            return;
        }
        let mut foreign = from.foreign.clone();
        let news = Foreign { generation: from.generation, epochs: from.epochs.clone() };
        join_foreign(&mut foreign, &BTreeMap::from([(from.cta, news)]));
        foreign.remove(&self.cta);
        join_foreign(&mut self.foreign[thread], &foreign);
    }

    /// All threads meet.
    pub(crate) fn next_generation(&mut self) {
        self.generation += 1;
        for foreign in &mut self.foreign {
            if !foreign.is_empty() {
                join_foreign(&mut self.foreign_of_all, &std::mem::take(foreign));
            }
        }
    }

    /// Everything this CTA did so far is known to another one.
    pub(crate) fn tell_all(&mut self, of: u32, generation: u32) {
        let news = Foreign { generation, epochs: Vec::new() };
        join_foreign(&mut self.foreign_of_all, &BTreeMap::from([(of, news)]));
    }
}

impl Snapshot {
    /// Whether an access is among what is known.
    pub(crate) fn covers(&self, access: &Stamp) -> bool {
        let (generation, epochs) = if access.cta == self.cta {
            (self.generation, &self.epochs)
        } else {
            let Some(known) = self.foreign.get(&access.cta) else { return false };
            (known.generation, &known.epochs)
        };
        let told = epochs.get(usize::from(access.thread)).copied().unwrap_or(0);
        access.generation < generation || (access.generation == generation && access.epoch <= told)
    }

    /// Joins what another thread of the same CTA knows.
    pub(crate) fn merge(&mut self, other: &Self) {
        if self.cta == 0 {
            *self = other.clone();
            return;
        }
        if self.cta == other.cta {
            if other.generation > self.generation {
                self.generation = other.generation;
                self.epochs.clone_from(&other.epochs);
            } else if other.generation == self.generation {
                join(&mut self.epochs, &other.epochs);
            }
            join_foreign(&mut self.foreign, &other.foreign);
            return;
        }
        let news = Foreign { generation: other.generation, epochs: other.epochs.clone() };
        join_foreign(&mut self.foreign, &BTreeMap::from([(other.cta, news)]));
        join_foreign(&mut self.foreign, &other.foreign);
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
}
