//! A thread pool for steps of a few microseconds: persistent workers that spin, then park.
//!
//! # Invariants
//! - [`Pool::run`] returns after every task has run and no worker can still see the closure.
//! - The caller works too; a worker that the system has put to sleep delays nobody unless it
//!   holds a task.
//!
//! The gate: `epoch` is odd while a job is open. A worker first raises `active`, then looks at
//! `epoch` again; the caller first closes the epoch, then waits for `active` to reach 0. In the
//! total order of these operations one of the two sees the other.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Looks at the gate this many times (some tens of microseconds) before a worker parks.
const SPINS: u32 = 20_000;

/// A task of a job panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerPanic;

/// The work of one job, as the workers see it.
#[derive(Clone, Copy)]
struct Job {
    work: *const (dyn Fn(Range<u64>) + Sync),
    tasks: u64,
    grain: u64,
}

struct Shared {
    epoch: AtomicU64,
    active: AtomicUsize,
    next: AtomicU64,
    panicked: AtomicBool,
    stop: AtomicBool,
    job: UnsafeCell<Job>,
    parked: Vec<AtomicBool>,
}

// SAFETY: `job` is written only while the epoch is closed and `active` is 0, and read only between
// raising `active` under an open epoch and lowering it; the gate orders the two. The closure behind
// the pointer is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is used only while `Pool::run` holds the closure alive.
unsafe impl Send for Shared {}

/// Persistent workers, and the calling thread.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    threads: Vec<Thread>,
}

impl Pool {
    /// A pool of `threads` threads, the caller included; at least 1.
    pub fn new(threads: usize) -> Pool {
        let helpers = threads.max(1) - 1;
        let nothing: &'static (dyn Fn(Range<u64>) + Sync) = &|_| ();
        let shared = Arc::new(Shared {
            epoch: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(Job { work: nothing, tasks: 0, grain: 1 }),
            parked: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut workers = Vec::with_capacity(helpers);
        for index in 0..helpers {
            let shared = Arc::clone(&shared);
            let spawned = std::thread::Builder::new()
                .name(format!("perilune-{index}"))
                .spawn(move || work_until_stopped(&shared, index));
            // A system that refuses threads leaves a smaller pool with the same results.
            if let Ok(worker) = spawned {
                workers.push(worker);
            }
        }
        let threads = workers.iter().map(|worker| worker.thread().clone()).collect();
        Pool { shared, workers, threads }
    }

    /// Threads that take tasks, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work` over `0..tasks` in ranges of at most `grain`, each exactly once, in any order
    /// and on any thread. Not reentrant: `&mut self` keeps a task from starting a job.
    ///
    /// # Errors
    /// [`WorkerPanic`] when a task panicked; the other tasks may then not have run.
    pub fn run(
        &mut self,
        tasks: u64,
        grain: u64,
        work: &(dyn Fn(Range<u64>) + Sync),
    ) -> Result<(), WorkerPanic> {
        let grain = grain.max(1);
        if tasks <= grain || self.workers.is_empty() {
            return match tasks {
                0 => Ok(()),
                _ => catch_unwind(AssertUnwindSafe(|| work(0..tasks))).map_err(|_| WorkerPanic),
            };
        }
        let shared = &*self.shared;
        // SAFETY: the epoch is closed and `active` was seen 0 at the end of the last job, so no
        // worker reads `job`. The lifetime is erased, and this function outlives every reader.
        unsafe {
            let work: *const (dyn Fn(Range<u64>) + Sync) = work;
            *shared.job.get() = Job {
                work: std::mem::transmute::<
                    *const (dyn Fn(Range<u64>) + Sync),
                    *const (dyn Fn(Range<u64>) + Sync + 'static),
                >(work),
                tasks,
                grain,
            };
        }
        shared.next.store(0, Ordering::Relaxed);
        shared.panicked.store(false, Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for (thread, parked) in self.threads.iter().zip(&shared.parked) {
            if parked.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        take_tasks(shared, tasks, grain, work);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0u32;
        while shared.active.load(Ordering::SeqCst) != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if shared.panicked.load(Ordering::Acquire) { Err(WorkerPanic) } else { Ok(()) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in &self.threads {
            thread.unpark();
        }
        for worker in self.workers.drain(..) {
            // A worker never panics: tasks are caught.
            let _ = worker.join();
        }
    }
}

/// Takes ranges of tasks until none is left; a panic closes the rest of the job.
fn take_tasks(shared: &Shared, tasks: u64, grain: u64, work: &(dyn Fn(Range<u64>) + Sync)) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        loop {
            let begin = shared.next.fetch_add(grain, Ordering::Relaxed);
            if begin >= tasks {
                break;
            }
            work(begin..tasks.min(begin + grain));
        }
    }));
    if outcome.is_err() {
        shared.next.store(tasks, Ordering::Relaxed);
        shared.panicked.store(true, Ordering::Release);
    }
}

fn work_until_stopped(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let Some(epoch) = wait_for_job(shared, index, seen) else { return };
        seen = epoch;
        shared.active.fetch_add(1, Ordering::SeqCst);
        if shared.epoch.load(Ordering::SeqCst) == epoch {
            // SAFETY: the epoch is open and `active` is raised: `Pool::run` waits for this worker
            // before it returns or writes the job again, so the job and its closure are alive.
            let (job, work) = unsafe {
                let job = *shared.job.get();
                (job, &*job.work)
            };
            take_tasks(shared, job.tasks, job.grain, work);
        }
        shared.active.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Spins, then parks, until a job newer than `seen` is open; `None` when the pool stops.
fn wait_for_job(shared: &Shared, index: usize, seen: u64) -> Option<u64> {
    let mut spins = 0u32;
    loop {
        let epoch = shared.epoch.load(Ordering::SeqCst);
        if epoch % 2 == 1 && epoch != seen {
            return Some(epoch);
        }
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        spins += 1;
        if spins < SPINS {
            std::hint::spin_loop();
            continue;
        }
        spins = 0;
        shared.parked[index].store(true, Ordering::SeqCst);
        // Looked at again after raising the flag: a job opened in between is not slept through.
        let epoch = shared.epoch.load(Ordering::SeqCst);
        let opened = epoch % 2 == 1 && epoch != seen;
        if !opened && !shared.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        shared.parked[index].store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in 1..=4 {
            let mut pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 64, 1000] {
                let counts: Vec<AtomicU64> = (0..tasks).map(|_| AtomicU64::new(0)).collect();
                let done = pool.run(tasks, 3, &|range| {
                    for task in range {
                        counts[task as usize].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert_eq!(done, Ok(()));
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_short_jobs_do_not_lose_tasks() {
        let mut pool = Pool::new(3);
        let sum = AtomicU64::new(0);
        for _ in 0..20_000 {
            let done = pool.run(8, 1, &|range| {
                sum.fetch_add(range.end - range.start, Ordering::Relaxed);
            });
            assert_eq!(done, Ok(()));
        }
        assert_eq!(sum.load(Ordering::Relaxed), 160_000);
    }

    #[test]
    fn a_panic_in_a_task_is_an_error_and_the_pool_lives_on() {
        let mut pool = Pool::new(2);
        let failed = pool.run(100, 1, &|range| assert!(range.start != 40, "planned"));
        assert_eq!(failed, Err(WorkerPanic));
        assert_eq!(pool.run(100, 1, &|_| ()), Ok(()));
    }
}
