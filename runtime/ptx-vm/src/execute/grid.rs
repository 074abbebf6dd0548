//! The machine's front: a launch to its outcome, clusters spread over host threads.

use super::cluster::Report;
use super::engine::Engine;
use super::setup::{self, Extents, Options, Setup};
use crate::check::{Finding, History};
use crate::count::Counters;
use crate::launch::Launch;
use crate::memory::Memory;
use crate::module::{Kernel, Module};
use crate::source::LoadError;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a launch left behind.
#[derive(Debug)]
pub struct Outcome {
    /// Memory afterwards; buffers by the names of the launch.
    pub memory: Memory,
    /// What was wrong, in the order of the text.
    pub findings: Vec<Finding>,
    /// What was executed.
    pub counters: Counters,
    /// Whether every thread came to its end.
    pub completed: bool,
}

impl Outcome {
    /// The bytes of a buffer.
    #[must_use]
    pub fn buffer(&self, name: &str) -> Option<Vec<u8>> {
        self.memory.read(name)
    }
}

/// A kernel of `module` by name.
fn kernel<'m>(module: &'m Module, entry: &str) -> Result<&'m Kernel, LoadError> {
    module.kernels().iter().find(|kernel| kernel.name == entry).ok_or_else(|| {
        let declared = module.functions.iter().find(|function| function.name == entry);
        let (span, message) = match declared {
            Some(function) if !function.has_body => {
                (function.span, format!("`{entry}` is declared but has no body"))
            }
            _ => (crate::Span::default(), format!("no kernel is called `{entry}`")),
        };
        module.source.error(crate::code::LAUNCH, span, message)
    })
}

/// Runs kernels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Machine {
    /// Runs what `launch` describes, in fresh memory.
    ///
    /// # Errors
    /// V0006 if the launch does not fit the kernel. What goes wrong while the kernel runs is in
    /// [`Outcome::findings`].
    ///
    /// # Examples
    /// ```
    /// use perilune_ptx_vm::{Launch, Machine, Module, Options};
    /// let ptx = r#"
    /// .version 8.0
    /// .target sm_80
    /// .address_size 64
    /// .entry double(.param .u64 x) {
    ///     .reg .b32 %r<3>;
    ///     .reg .b64 %rd<4>;
    ///     ld.param.u64 %rd1, [x];
    ///     mov.u32 %r1, %tid.x;
    ///     mul.wide.u32 %rd2, %r1, 4;
    ///     add.u64 %rd3, %rd1, %rd2;
    ///     ld.global.u32 %r2, [%rd3];
    ///     shl.b32 %r2, %r2, 1;
    ///     st.global.u32 [%rd3], %r2;
    ///     ret;
    /// }"#;
    /// let launch = r#"Launch(
    ///     entry: "double", grid: (1, 1, 1), block: (2, 1, 1),
    ///     params: [Buffer(name: "x", bytes: 8, init: Bytes([1, 0, 0, 0, 2, 0, 0, 0]))],
    /// )"#;
    /// let outcome =
    ///     Machine::run(&Module::parse(ptx)?, &Launch::parse(launch)?, &Options::default())?;
    /// assert!(outcome.findings.is_empty());
    /// assert_eq!(outcome.buffer("x").unwrap(), [2, 0, 0, 0, 4, 0, 0, 0]);
    /// # Ok::<(), perilune_ptx_vm::LoadError>(())
    /// ```
    pub fn run(module: &Module, launch: &Launch, options: &Options) -> Result<Outcome, LoadError> {
        let prepared = Self::prepare(module, launch)?;
        Self::run_with(module, &launch.entry, Extents::from(launch), prepared, options)
    }

    /// The parameter block of a launch, and the memory it points into, as [`Self::run_with`] takes them.
    ///
    /// # Errors
    /// V0006 if the launch does not fit the kernel.
    pub fn prepare(module: &Module, launch: &Launch) -> Result<(Vec<u8>, Memory), LoadError> {
        let kernel = kernel(module, &launch.entry)?;
        setup::check_extents(module, kernel, Extents::from(launch))?;
        let mut memory = Memory::default();
        let params = setup::parameters(module, kernel, launch, &mut memory)?;
        Ok((params, memory))
    }

    /// Runs a kernel on memory and a parameter block of the caller's making.
    ///
    /// # Errors
    /// V0006 if extents or parameters do not fit the kernel.
    pub fn run_with(
        module: &Module,
        entry: &str,
        extents: Extents,
        (params, mut memory): (Vec<u8>, Memory),
        options: &Options,
    ) -> Result<Outcome, LoadError> {
        let kernel = kernel(module, entry)?;
        let cluster = setup::check_extents(module, kernel, extents)?;
        if params.len() != kernel.param_bytes as usize {
            let (have, want) = (params.len(), kernel.param_bytes);
            let message = format!("the kernel takes {want} bytes of parameters, not {have}");
            return Err(setup::refused(module, kernel, message));
        }
        let kept = memory.buffers.len();
        let Some(globals) = setup::place_globals(module, &mut memory) else {
            let message = "the module's variables are larger than memory".to_owned();
            return Err(setup::refused(module, kernel, message));
        };
        let constants = setup::initialise(module, &globals, &memory);
        let setup = Setup {
            module,
            kernel,
            memory: &memory,
            options,
            grid: extents.grid,
            block: extents.block,
            cluster,
            params,
            constants,
            fills: setup::fills(module, kernel, &globals),
            shared_bytes: kernel.dynamic_shared.max(kernel.shared_bytes) + extents.shared_bytes,
            dynamic_bytes: extents.shared_bytes,
            history: Mutex::new(None),
        };
        let merged = run_grid(&setup);
        let history = setup.history.into_inner().ok().flatten();
        for (buffer, known) in
            memory.buffers.iter_mut().zip(history.into_iter().flat_map(History::into_known))
        {
            buffer.known = known;
        }
        memory.buffers.truncate(kept);
        let Merged { findings, counters, completed, .. } = merged;
        let findings = findings.into_values().collect();
        Ok(Outcome { memory, findings, counters, completed })
    }
}

/// Reports of clusters, put together in the order of the grid.
struct Merged {
    findings: BTreeMap<(u32, &'static str), Finding>,
    counters: Counters,
    completed: bool,
    steps: u64,
    /// Reports that came before their turn.
    early: BTreeMap<u64, Report>,
    next: u64,
    stopped: bool,
}

impl Merged {
    /// Takes the report of cluster `index`, and those that waited for it.
    fn take(&mut self, setup: &Setup<'_>, index: u64, report: Report) {
        self.early.insert(index, report);
        while !self.stopped {
            let Some(report) = self.early.remove(&self.next) else { return };
            self.next += 1;
            self.steps = self.steps.saturating_add(report.steps);
            self.completed &= report.completed;
            self.counters.add(&report.counters);
            for finding in report.findings {
                let finding = finding.placed(setup.module);
                let key = (finding.instruction, finding.code);
                self.findings
                    .entry(key)
                    .and_modify(|f| f.count += finding.count)
                    .or_insert(finding);
            }
            // Without a limit of its own the cluster may have run longer than what was left.
            if self.steps > setup.options.step_limit || report.out_of_steps {
                let limit = crate::check::step_limit(setup, report.last_pc);
                self.findings.entry((limit.instruction, limit.code)).or_insert(limit);
                self.completed = false;
                self.stopped = true;
            }
        }
    }
}

/// Clusters that host threads may begin before an earlier one has ended, for each thread.
const AHEAD: u64 = 16;

/// Reports that arrive, and clusters that nobody has begun.
struct Queue {
    merged: Merged,
    begun: u64,
}

/// The clusters of a grid, shared by host threads.
struct Shared<'s> {
    setup: &'s Setup<'s>,
    clusters: u64,
    /// How many clusters may lie between the first that has not ended and the last that was begun, so
    /// that the reports that wait for their turn are few.
    ahead: u64,
    queue: Mutex<Queue>,
    reported: Condvar,
}

impl Shared<'_> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next cluster to run, once it is not too far ahead.
    fn take(&self) -> Option<u64> {
        let waits = |queue: &mut Queue| {
            let left = queue.begun < self.clusters && !queue.merged.stopped;
            left && queue.begun >= queue.merged.next.saturating_add(self.ahead)
        };
        let mut queue =
            self.reported.wait_while(self.queue(), waits).unwrap_or_else(PoisonError::into_inner);
        if queue.merged.stopped || queue.begun >= self.clusters {
            return None;
        }
        queue.begun += 1;
        Some(queue.begun - 1)
    }

    fn work(&self) {
        let _unwinding = Unwinding(self);
        while let Some(index) = self.take() {
            let report = Engine::run(self.setup, index);
            self.queue().merged.take(self.setup, index, report);
            self.reported.notify_all();
        }
    }
}

/// Ends the others when a thread panics, since its report would never come.
struct Unwinding<'a, 's>(&'a Shared<'s>);

impl Drop for Unwinding<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.queue().merged.stopped = true;
            self.0.reported.notify_all();
        }
    }
}

fn run_grid(setup: &Setup<'_>) -> Merged {
    let clusters: u64 = (0..3).map(|dim| u64::from(setup.grid[dim] / setup.cluster[dim])).product();
    let merged = Merged {
        findings: BTreeMap::new(),
        counters: Counters::new(setup.module),
        completed: true,
        steps: 0,
        early: BTreeMap::new(),
        next: 0,
        stopped: false,
    };
    let threads = threads(setup, clusters);
    let shared = Shared {
        setup,
        clusters,
        ahead: threads.saturating_mul(AHEAD),
        queue: Mutex::new(Queue { merged, begun: 0 }),
        reported: Condvar::new(),
    };
    if threads <= 1 {
        shared.work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| shared.work());
            }
        });
    }
    shared.queue.into_inner().unwrap_or_else(PoisonError::into_inner).merged
}

/// Host threads for this launch: one where the order of CTAs may show.
fn threads(setup: &Setup<'_>, clusters: u64) -> u64 {
    if setup.options.checks.any() || super::order::shows(setup) {
        return 1;
    }
    let wanted = match setup.options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        wanted => wanted,
    };
    // Each runs a cluster of its own.
    let room = MAX_THREAD_BYTES / setup::cluster_bytes(setup).max(1);
    (wanted as u64).min(clusters).min(room.max(1))
}

/// Memory of the clusters that host threads run at once, at most, in bytes.
const MAX_THREAD_BYTES: u64 = 4 << 30;
