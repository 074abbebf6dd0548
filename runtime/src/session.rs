//! A session: one plan, bound to a device and to a place among the ranks, with the tensors that
//! outlive its steps.
//!
//! # Invariants
//! - Everything a run touches is laid out and bounded when the session is made.
//! - Persistent tensors are shared by all entries; the arena is too, and holds nothing between runs.
//! - Feeds are copied in and checked against their declarations before the first step; a rank's
//!   coordinates in the mesh are feeds that the session gives by itself.
//! - Collectives pass between devices through the host's memory.

mod joined;
mod collective;

use std::collections::BTreeMap;
use std::time::Instant;

use perilune_plan::{
    Buffer, Collective, DType, Entry, FetchDecl, Place, Plan, Step, StepOp, TensorDecl,
};

use self::collective::{Bytes, Exchange, Failed};
use crate::comm::{self, Communicator, Single, Site};

use crate::device::cpu::memory::ALIGNMENT;
use crate::device::{self, Device, DeviceKind, Piece, StepFailure, Storage};
use crate::profile::{Counts, Profile, Slice};
use crate::shards;
use crate::tensor::{byte_count, type_name};
use crate::{HostTensor, KernelFindings, RuntimeError};

/// How a session runs.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Threads, the caller included; what the machine offers when absent. Results do not change.
    pub threads: Option<usize>,
    /// Fill the arena with NaN before each run, so that a read of unwritten memory shows.
    pub poison: bool,
    /// Time every step.
    pub profile: bool,
    /// Fetches that must be finite, by name, in whatever entry has them.
    pub check_finite: Vec<String>,
    /// What runs the plan.
    pub device: DeviceKind,
}

/// Bytes that a session holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Persistent tensors.
    pub tensors: u64,
    /// Feeds of all entries.
    pub feeds: u64,
    /// The arena, as large as the largest entry needs.
    pub arena: u64,
}

impl MemoryUse {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.tensors + self.feeds + self.arena
    }
}

/// What a run hands back, in the plan's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetches {
    values: Vec<(String, HostTensor)>,
}

impl Fetches {
    /// The value of a fetch.
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The value of an f32 scalar.
    pub fn scalar(&self, name: &str) -> Option<f32> {
        let values = self.get(name)?.to_f32().ok()?;
        if let [value] = values.as_slice() { Some(*value) } else { None }
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HostTensor)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// Where the values lie that an entry exchanges with its caller.
struct Exchanged {
    feeds: Vec<Piece>,
    fetches: Vec<Piece>,
    /// Where each buffer lies.
    places: Vec<Piece>,
}

/// One plan on one device, as one rank of its mesh.
pub struct Session {
    device: Box<dyn Device>,
    comm: Box<dyn Communicator>,
    /// By entry.
    exchanges: Vec<Exchanged>,
    memory: MemoryUse,
    tensors: Vec<Piece>,
    tensor_index: BTreeMap<String, usize>,
    plan: Plan,
    options: Options,
    profile: Profile,
    start: Instant,
}

impl Session {
    /// A session of a plan for one rank; see [`Session::on_rank`].
    ///
    /// # Errors
    /// Those of [`Session::on_rank`].
    pub fn new(plan: Plan, options: Options) -> Result<Session, RuntimeError> {
        Session::on_rank(plan, options, Box::new(Single::default()))
    }

    /// Compiles the plan's kernels, lays out its memory and binds its entries, as the rank of its
    /// mesh that the communicator is. Persistent tensors start as zeros.
    ///
    /// # Errors
    /// A plan that breaks its rules or is for another number of ranks, a kernel that does not
    /// compile, a step that reaches outside its buffers, too little memory.
    pub fn on_rank(
        plan: Plan,
        options: Options,
        comm: Box<dyn Communicator>,
    ) -> Result<Session, RuntimeError> {
        if plan.mesh.ranks() != u64::from(comm.size()) {
            let (mesh, ranks) = (plan.mesh.to_string(), plan.mesh.ranks());
            return Err(RuntimeError::Mesh { mesh, ranks, found: comm.size() });
        }
        let held = |tensor: &TensorDecl| plan.mesh.among(comm.rank(), tensor.owner.as_ref());
        let tensor_sizes = plan.tensors.iter().map(|t| match held(t) {
            true => byte_count(t.dtype, &t.shape),
            false => Some(0),
        });
        let (tensors, tensor_bytes) = lay_out(Storage::Tensors, tensor_sizes)?;
        let all_feeds = plan.entries.iter().flat_map(|entry| &entry.feeds);
        let feed_sizes = all_feeds.map(|feed| byte_count(feed.dtype, &feed.shape));
        let (feeds, feed_bytes) = lay_out(Storage::Feeds, feed_sizes)?;
        let arena_bytes = plan.entries.iter().map(|entry| entry.arena_bytes).max().unwrap_or(0);
        let memory = MemoryUse { tensors: tensor_bytes, feeds: feed_bytes, arena: arena_bytes };
        let mut device = device::open(&plan, memory, &options)?;

        let mut exchanges = Vec::with_capacity(plan.entries.len());
        let mut feeds = feeds.into_iter();
        for entry in &plan.entries {
            let feeds: Vec<Piece> = feeds.by_ref().take(entry.feeds.len()).collect();
            let rank = comm.rank();
            let places =
                Places { plan: &plan, entry, tensors: &tensors, feeds: &feeds, rank }.all()?;
            let runs = |step: &Step| plan.mesh.among(rank, step.only.as_ref());
            device.bind(&plan, entry, (&places, &runs)).map_err(|refused| RuntimeError::Step {
                entry: entry.name.clone(),
                step: refused.step,
                node: first_node(&plan, entry, refused.step),
                what: refused.what,
            })?;
            let fetches = fetch_pieces(entry, &places)?;
            for (feed, piece) in entry.feeds.iter().zip(&feeds) {
                if let Some(axes) = plan.mesh.of_feed(&feed.name) {
                    let at = plan.mesh.coordinate(comm.rank(), &axes) as i32;
                    device.write(*piece, &at.to_ne_bytes())?;
                }
            }
            exchanges.push(Exchanged { feeds, fetches, places });
        }
        // Binding has bounded every reach and names the node; this adds the plan's own rules.
        plan.verify()?;
        let tensor_index =
            plan.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        Ok(Session {
            device,
            comm,
            exchanges,
            memory,
            tensors,
            tensor_index,
            plan,
            options,
            profile: Profile::default(),
            start: Instant::now(),
        })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Threads that take part in a run at most.
    pub fn threads(&self) -> usize {
        self.device.threads()
    }

    /// Timings since the session began, if asked for.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Forgets the timings so far and switches timing on or off.
    pub fn set_profiling(&mut self, on: bool) {
        self.profile.clear();
        self.options.profile = on;
    }

    /// Bytes that the session holds.
    pub fn memory(&self) -> MemoryUse {
        self.memory
    }

    /// Bytes of machine code that the plan's kernels have become.
    pub fn code_bytes(&self) -> u64 {
        self.device.code_bytes()
    }

    /// Runs an entry.
    ///
    /// # Errors
    /// An unknown entry, feeds that do not match, offsets of experts that are out of order, what
    /// checks of a kernel find, a fetch that is not finite though it must be. Persistent tensors may then be half-updated,
    /// except for errors about feeds.
    pub fn run(
        &mut self,
        entry: &str,
        feeds: &[(&str, &HostTensor)],
    ) -> Result<Fetches, RuntimeError> {
        let index = self.plan.entries.iter().position(|known| known.name == entry);
        let Some(index) = index else {
            let known: Vec<&str> = self.plan.entries.iter().map(|e| e.name.as_str()).collect();
            return Err(RuntimeError::UnknownEntry {
                name: entry.to_owned(),
                known: known.join(", "),
            });
        };
        self.load_feeds(index, feeds)?;
        self.device.begin(index, self.options.poison);
        self.run_steps(index)?;
        self.read_fetches(index)
    }

    fn load_feeds(
        &mut self,
        index: usize,
        given: &[(&str, &HostTensor)],
    ) -> Result<(), RuntimeError> {
        let entry = &self.plan.entries[index];
        check_feeds(&self.plan, entry, given)?;
        for (name, value) in given {
            let Some(i) = entry.feeds.iter().position(|feed| feed.name == *name) else { continue };
            self.device.write(self.exchanges[index].feeds[i], value.bytes())?;
        }
        Ok(())
    }

    fn run_steps(&mut self, index: usize) -> Result<(), RuntimeError> {
        for i in 0..self.plan.entries[index].steps.len() {
            let begin = self.options.profile.then(Instant::now);
            let counts = self.run_step(index, i, begin.is_some())?;
            let entry = &self.plan.entries[index];
            if let Some(begin) = begin {
                let mut slice = describe(&self.plan, entry, i);
                slice.duration_ns = begin.elapsed().as_nanos() as u64;
                slice.start_ns = begin.duration_since(self.start).as_nanos() as u64;
                slice.counts = counts;
                self.profile.push(slice);
            }
        }
        Ok(())
    }

    fn run_step(
        &mut self,
        index: usize,
        step: usize,
        measure: bool,
    ) -> Result<Option<Counts>, RuntimeError> {
        let entry = &self.plan.entries[index];
        if !self.plan.mesh.among(self.comm.rank(), entry.steps[step].only.as_ref()) {
            return Ok(None);
        }
        let ran = match &entry.steps[step].op {
            StepOp::Collective(collective) => {
                let node = first_node(&self.plan, entry, step);
                let name = collective.kind.name();
                let site = Site { entry: &entry.name, step, name, node: &node };
                let buffers = (&entry.buffers[..], &self.exchanges[index].places[..]);
                let group = self.plan.mesh.group(self.comm.rank(), &collective.axes);
                let comm = self.comm.as_mut();
                let exchange = Exchange { comm, site, group: &group };
                run_collective(exchange, collective, (self.device.as_mut(), buffers)).map(|()| None)
            }
            StepOp::Launch(_)
            | StepOp::Contract(_)
            | StepOp::Ragged(_)
            | StepOp::Attention(_)
            | StepOp::AttentionGrad(_)
            | StepOp::Copy { .. } => self.device.run(index, step, measure).map_err(Stopped::Step),
        };
        ran.map_err(|stopped| match stopped {
            Stopped::Step(failure) => failed(&self.plan, (entry, step), failure),
            Stopped::Error(error) => error,
        })
    }

    fn read_fetches(&self, index: usize) -> Result<Fetches, RuntimeError> {
        let entry = &self.plan.entries[index];
        let mut values = Vec::with_capacity(entry.fetches.len());
        for (fetch, piece) in entry.fetches.iter().zip(&self.exchanges[index].fetches) {
            let dtype = entry.buffers[fetch.buffer as usize].dtype;
            let value = HostTensor::from_bytes(dtype, &fetch.shape, self.device.read(*piece)?)?;
            if self.options.check_finite.contains(&fetch.name) && dtype.is_float() {
                let bad = value.to_f32()?.iter().position(|v| !v.is_finite());
                if let Some(index) = bad {
                    return Err(RuntimeError::NonFinite {
                        entry: entry.name.clone(),
                        fetch: fetch.name.clone(),
                        index,
                    });
                }
            }
            values.push((fetch.name.clone(), value));
        }
        Ok(Fetches { values })
    }

    /// The value of a persistent tensor, or of the part of it that this rank holds.
    ///
    /// # Errors
    /// [`RuntimeError::UnknownTensor`], [`RuntimeError::Elsewhere`].
    pub fn tensor(&self, name: &str) -> Result<HostTensor, RuntimeError> {
        let unknown = || RuntimeError::UnknownTensor { name: name.to_owned() };
        let index = *self.tensor_index.get(name).ok_or_else(unknown)?;
        let decl = &self.plan.tensors[index];
        if !self.holds(decl) {
            return Err(RuntimeError::Elsewhere { name: name.to_owned(), rank: self.rank() });
        }
        let data = self.device.read(self.tensors[index])?;
        HostTensor::from_bytes(decl.dtype, &decl.shape, data)
    }

    /// Sets a persistent tensor; dtype and shape must be the plan's.
    ///
    /// # Errors
    /// [`RuntimeError::UnknownTensor`], [`RuntimeError::Elsewhere`], [`RuntimeError::TensorType`].
    pub fn set_tensor(&mut self, name: &str, value: &HostTensor) -> Result<(), RuntimeError> {
        let unknown = || RuntimeError::UnknownTensor { name: name.to_owned() };
        let index = *self.tensor_index.get(name).ok_or_else(unknown)?;
        let decl = &self.plan.tensors[index];
        if decl.dtype != value.dtype() || decl.shape != value.shape() {
            return Err(RuntimeError::TensorType {
                name: name.to_owned(),
                expected: type_name(decl.dtype, &decl.shape),
                found: value.type_name(),
            });
        }
        if !self.holds(decl) {
            return Err(RuntimeError::Elsewhere { name: name.to_owned(), rank: self.rank() });
        }
        self.device.write(self.tensors[index], value.bytes())
    }

    /// Whether this rank holds a tensor or a part of it.
    pub fn holds(&self, decl: &TensorDecl) -> bool {
        self.plan.mesh.among(self.comm.rank(), decl.owner.as_ref())
    }

    /// The rank of the mesh that this session is.
    pub fn rank(&self) -> u32 {
        self.comm.rank()
    }

    /// What carries this rank's bytes to the others.
    pub fn communicator(&mut self) -> &mut dyn Communicator {
        self.comm.as_mut()
    }

    /// The whole of a persistent tensor, of which each rank holds a part. Every rank calls this for
    /// the same tensors in the same order.
    ///
    /// # Errors
    /// [`RuntimeError::UnknownTensor`], and what happens between the ranks.
    pub fn whole_tensor(&mut self, name: &str) -> Result<HostTensor, RuntimeError> {
        let part = self.shared_part(name)?;
        let Some(shard) = self.decl(name)?.shard.clone() else { return Ok(part) };
        let group = self.plan.mesh.group(self.comm.rank(), &shard.axes);
        let mut pieces = vec![vec![0u8; part.bytes().len()]; group.len()];
        let mut places: Vec<&mut [u8]> = pieces.iter_mut().map(Vec::as_mut_slice).collect();
        let site = Site { entry: "tensors", step: 0, name: "all_gather", node: name };
        comm::all_gather(self.comm.as_mut(), &site, &group, part.bytes(), &mut places)?;
        let tensor = |data| HostTensor::from_bytes(part.dtype(), part.shape(), data);
        let parts = pieces.into_iter().map(tensor).collect::<Result<Vec<_>, _>>()?;
        shards::join(&parts, &shard)
    }

    /// This rank's part of a tensor, from its owner where it is not itself.
    fn shared_part(&mut self, name: &str) -> Result<HostTensor, RuntimeError> {
        let decl = self.decl(name)?.clone();
        let Some(owner) = &decl.owner else { return self.tensor(name) };
        let mut data = match self.holds(&decl) {
            true => self.tensor(name)?.bytes().to_vec(),
            false => vec![0; byte_count(decl.dtype, &decl.shape).unwrap_or(0) as usize],
        };
        let group = self.plan.mesh.group(self.comm.rank(), &owner.axes);
        let root = group.get(owner.at as usize).copied().unwrap_or(0);
        let site = Site { entry: "tensors", step: 0, name: "broadcast", node: name };
        comm::broadcast(self.comm.as_mut(), &site, (&group, root), &mut data)?;
        HostTensor::from_bytes(decl.dtype, &decl.shape, data)
    }

    /// Sets this rank's part of a persistent tensor from all of it, if it holds one.
    ///
    /// # Errors
    /// [`RuntimeError::UnknownTensor`], [`RuntimeError::Shard`], [`RuntimeError::TensorType`].
    pub fn set_whole_tensor(&mut self, name: &str, whole: &HostTensor) -> Result<(), RuntimeError> {
        if !self.holds(self.decl(name)?) {
            return Ok(());
        }
        match &self.decl(name)?.shard {
            None => self.set_tensor(name, whole),
            Some(shard) => {
                let part = shards::part(whole, shard, (&self.plan.mesh, self.comm.rank()))?;
                self.set_tensor(name, &part)
            }
        }
    }

    fn decl(&self, name: &str) -> Result<&TensorDecl, RuntimeError> {
        let unknown = || RuntimeError::UnknownTensor { name: name.to_owned() };
        let index = *self.tensor_index.get(name).ok_or_else(unknown)?;
        Ok(&self.plan.tensors[index])
    }
}

/// Why a step did not come to its end.
enum Stopped {
    Step(StepFailure),
    Error(RuntimeError),
}

/// Runs a collective on the buffers of a device.
fn run_collective(
    mut exchange: Exchange<'_>,
    collective: &Collective,
    (device, (buffers, places)): (&mut dyn Device, (&[Buffer], &[Piece])),
) -> Result<(), Stopped> {
    let error = Stopped::Error;
    let place = |n: &u32| places[*n as usize];
    let bytes = |n: &u32| -> Result<Bytes, RuntimeError> {
        let dtype = buffers[*n as usize].dtype;
        Ok(Bytes { dtype, data: device.read(place(n))? })
    };
    let send = collective.send.iter().map(bytes).collect::<Result<_, _>>().map_err(error)?;
    let lengths: Vec<usize> = collective.receive.iter().map(|n| place(n).bytes as usize).collect();
    let received = exchange.run(collective, send, &lengths).map_err(|failed| match failed {
        Failed::Data(what) => Stopped::Step(StepFailure::Data(what)),
        Failed::Comm(source) => error(source.into()),
    })?;
    for (n, bytes) in collective.receive.iter().zip(received) {
        device.write(place(n), &bytes).map_err(error)?;
    }
    Ok(())
}

/// Aligned pieces of a storage, one after the other, and their total.
fn lay_out(
    storage: Storage,
    sizes: impl Iterator<Item = Option<u64>>,
) -> Result<(Vec<Piece>, u64), RuntimeError> {
    let mut end = 0u64;
    let mut pieces = Vec::new();
    for bytes in sizes {
        let piece = bytes.map(|bytes| Piece { storage, offset: end, bytes });
        end = bytes
            .and_then(|bytes| end.checked_add(bytes)?.checked_next_multiple_of(ALIGNMENT))
            .ok_or(RuntimeError::Memory {
            bytes: u64::MAX,
            source: std::io::ErrorKind::OutOfMemory.into(),
        })?;
        pieces.extend(piece);
    }
    Ok((pieces, end))
}

/// The memory that an entry's buffers lie in.
struct Places<'a> {
    plan: &'a Plan,
    entry: &'a Entry,
    tensors: &'a [Piece],
    feeds: &'a [Piece],
    rank: u32,
}

impl Places<'_> {
    /// Where each buffer lies.
    fn all(&self) -> Result<Vec<Piece>, RuntimeError> {
        let entry = self.entry;
        let placed = entry.buffers.iter().enumerate();
        placed
            .map(|(i, buffer)| {
                self.piece(buffer).ok_or_else(|| RuntimeError::Step {
                    entry: entry.name.clone(),
                    step: 0,
                    node: "buffers".to_owned(),
                    what: format!(
                        "buffer {i} ({} × {}) does not lie where the plan puts it: {:?}",
                        buffer.elems, buffer.dtype, buffer.place
                    ),
                })
            })
            .collect()
    }

    fn piece(&self, buffer: &Buffer) -> Option<Piece> {
        let bytes = buffer.elems.checked_mul(buffer.dtype.bytes())?;
        match buffer.place {
            Place::Arena(offset) => {
                let end = offset.checked_add(bytes)?;
                let fits = end <= self.entry.arena_bytes && offset % buffer.dtype.bytes() == 0;
                fits.then_some(Piece { storage: Storage::Arena, offset, bytes })
            }
            Place::Tensor(index) => {
                let decl = self.plan.tensors.get(index as usize)?;
                let piece = *self.tensors.get(index as usize)?;
                if !self.plan.mesh.among(self.rank, decl.owner.as_ref()) {
                    return Some(piece);
                }
                holds(buffer, decl.dtype, &decl.shape).then_some(piece)
            }
            Place::Feed(index) => {
                let decl = self.entry.feeds.get(index as usize)?;
                let piece = *self.feeds.get(index as usize)?;
                holds(buffer, decl.dtype, &decl.shape).then_some(piece)
            }
        }
    }
}

/// Whether a buffer is a declared tensor's storage.
fn holds(buffer: &Buffer, dtype: DType, shape: &[u64]) -> bool {
    let bytes = buffer.elems.checked_mul(dtype.bytes());
    buffer.dtype == dtype && bytes.is_some() && byte_count(dtype, shape) == bytes
}

/// Where an entry's fetches lie.
fn fetch_pieces(entry: &Entry, places: &[Piece]) -> Result<Vec<Piece>, RuntimeError> {
    let piece = |fetch: &FetchDecl| {
        let buffer = entry.buffers.get(fetch.buffer as usize)?;
        let fits = holds(buffer, buffer.dtype, &fetch.shape);
        places.get(fetch.buffer as usize).copied().filter(|_| fits)
    };
    let found = entry.fetches.iter().map(|fetch| {
        piece(fetch).ok_or_else(|| RuntimeError::Step {
            entry: entry.name.clone(),
            step: entry.steps.len(),
            node: fetch.name.clone(),
            what: format!("buffer {} does not hold the fetch's shape", fetch.buffer),
        })
    });
    found.collect()
}

/// A failure with its place in the plan.
fn failed(plan: &Plan, (entry, step): (&Entry, usize), failure: StepFailure) -> RuntimeError {
    let (node, entry) = (first_node(plan, entry, step), entry.name.clone());
    match failure {
        StepFailure::Data(what) => RuntimeError::Step { entry, step, node, what },
        StepFailure::Panic => RuntimeError::Worker { entry, step, node },
        StepFailure::Findings { kernel, findings } => {
            Box::new(KernelFindings { entry, step, node, kernel, findings }).into()
        }
    }
}

fn check_feeds(
    plan: &Plan,
    entry: &Entry,
    given: &[(&str, &HostTensor)],
) -> Result<(), RuntimeError> {
    let place = |feed: &str| (entry.name.clone(), feed.to_owned());
    let asked = || entry.feeds.iter().filter(|decl| plan.mesh.of_feed(&decl.name).is_none());
    for (i, (name, value)) in given.iter().enumerate() {
        let (entry_name, feed) = place(name);
        let Some(decl) = asked().find(|decl| decl.name == *name) else {
            return Err(RuntimeError::UnknownFeed { entry: entry_name, feed });
        };
        if given[..i].iter().any(|(earlier, _)| earlier == name) {
            return Err(RuntimeError::RepeatedFeed { entry: entry_name, feed });
        }
        if decl.dtype != value.dtype() || decl.shape != value.shape() {
            return Err(RuntimeError::FeedType {
                entry: entry_name,
                feed,
                expected: type_name(decl.dtype, &decl.shape),
                found: value.type_name(),
            });
        }
    }
    match asked().find(|decl| !given.iter().any(|(name, _)| *name == decl.name)) {
        None => Ok(()),
        Some(missing) => {
            let (entry, feed) = place(&missing.name);
            Err(RuntimeError::MissingFeed { entry, feed })
        }
    }
}

/// The first RON node of a step, for messages.
fn first_node(plan: &Plan, entry: &Entry, step: usize) -> String {
    let node = entry.steps.get(step).and_then(|step| step.nodes.first());
    let path = node.and_then(|node| plan.nodes.get(*node as usize));
    path.cloned().unwrap_or_else(|| "unnamed".to_owned())
}

/// A step's name and work, with no time yet.
fn describe(plan: &Plan, entry: &Entry, index: usize) -> Slice {
    let step = &entry.steps[index];
    let elems = |buffer: u32| entry.buffers.get(buffer as usize);
    // Sums and products stop at the largest number: a plan's extents may be anything.
    let bytes = |buffer: u32| elems(buffer).map_or(0, |b| b.elems.saturating_mul(b.dtype.bytes()));
    let touched =
        |buffers: [u32; 3]| buffers.into_iter().fold(0, |n: u64, b| n.saturating_add(bytes(b)));
    let (kernel, flops, bytes) = match &step.op {
        StepOp::Launch(launch) => match plan.kernels.get(launch.kernel as usize) {
            Some(decl) => (decl.name.clone(), decl.flops, decl.bytes),
            None => (String::new(), 0, 0),
        },
        StepOp::Contract(c) => {
            let repeats = product(c.batch.iter().chain(&c.sum).map(|l| l.extent));
            let (m, n, k) = (c.m.extent, c.n.extent, c.k.extent);
            let touched = touched([c.a.buffer, c.b.buffer, c.c.buffer]);
            (format!("contract {repeats}×{m}×{n}×{k}"), product([2, repeats, m, n, k]), touched)
        }
        StepOp::Ragged(r) => {
            let touched = touched([r.a.buffer, r.b.buffer, r.c.buffer]);
            let form = format!("{:?}", r.form).to_lowercase();
            let flops = product([2, r.rows, r.n, r.k]);
            (format!("ragged {form} {}×{}×{}", r.rows, r.n, r.k), flops, touched)
        }
        StepOp::Attention(a) => {
            let s = &a.shape;
            let touched = touched([a.q.view.buffer, a.k.view.buffer, a.v.view.buffer]);
            let dims = s.qk_dim.saturating_add(s.v_dim);
            ("attention".to_owned(), product([2, logits(s), dims]), touched)
        }
        StepOp::AttentionGrad(a) => {
            let s = &a.shape;
            let touched = touched([a.q.view.buffer, a.k.view.buffer, a.v.view.buffer]);
            let dims = product([3, s.qk_dim]).saturating_add(product([2, s.v_dim]));
            ("attention_grad".to_owned(), product([2, logits(s), dims]), touched)
        }
        StepOp::Copy { src, .. } => ("copy".to_owned(), 0, bytes(*src).saturating_mul(2)),
        StepOp::Collective(c) => {
            let buffers = c.send.iter().chain(&c.receive);
            let touched = buffers.fold(0u64, |n, buffer| n.saturating_add(bytes(*buffer)));
            (c.kind.name().to_owned(), 0, touched)
        }
    };
    let epilogue = match &step.op {
        StepOp::Contract(c) => c.epilogue.as_ref(),
        StepOp::Ragged(r) => r.epilogue.as_ref(),
        StepOp::Launch(_)
        | StepOp::Attention(_)
        | StepOp::AttentionGrad(_)
        | StepOp::Copy { .. }
        | StepOp::Collective(_) => None,
    };
    let follows = epilogue.and_then(|e| plan.kernels.get(e.launch.kernel as usize));
    let (kernel, flops, bytes) = match follows {
        Some(decl) => {
            let (flops, bytes) =
                (flops.saturating_add(decl.flops), bytes.saturating_add(decl.bytes));
            (format!("{kernel} + {}", decl.name), flops, bytes)
        }
        None => (kernel, flops, bytes),
    };
    let named = step.nodes.iter().filter_map(|node| plan.nodes.get(*node as usize));
    Slice {
        entry: entry.name.clone(),
        step: index,
        kernel,
        nodes: named.cloned().collect(),
        start_ns: 0,
        duration_ns: 0,
        flops,
        bytes,
        counts: None,
    }
}

/// Visible logits of an attention.
fn logits(s: &perilune_plan::AttentionShape) -> u64 {
    let hidden = match s.causal {
        true => product([s.seq_kv.min(s.seq_q).saturating_sub(1), s.seq_q]) / 2,
        false => 0,
    };
    product([s.batch, s.heads, product([s.seq_q, s.seq_kv]).saturating_sub(hidden)])
}

/// A product that stops at the largest number.
fn product(factors: impl IntoIterator<Item = u64>) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}
