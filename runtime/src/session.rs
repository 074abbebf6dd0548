//! A session: one plan, bound to a device and to a place among the ranks, with the tensors that
//! outlive its steps.
//!
//! # Invariants
//! - Everything a run touches is laid out and bounded when the session is made.
//! - Persistent tensors are shared by all entries; the arena is too, and holds nothing between runs.
//! - Feeds are copied in and checked against their declarations before the first step; a rank's
//!   coordinates in the mesh are feeds that the session gives by itself.
//! - Collectives pass between devices through the host's memory, beside kernels where the plan lets
//!   them.

mod joined;
mod collective;
mod lane;
mod run;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use perilune_plan::{Buffer, DType, Entry, FetchDecl, Place, Plan, Step, TensorDecl};

use self::lane::{Lane, Runner};
use self::run::Run;
use crate::comm::{self, Communicator, Single, Site};

use crate::device::cpu::memory::ALIGNMENT;
use crate::device::{self, Device, DeviceKind, Piece, StepFailure, Storage};
use crate::profile::Profile;
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
        let Session { device, comm, exchanges, plan, options, profile, start, .. } = self;
        let (plan, entry, rank) = (&*plan, &plan.entries[index], comm.rank());
        let (stop, places) = (AtomicBool::new(false), &exchanges[index].places[..]);
        std::thread::scope(|scope| {
            let runner = Runner { comm: comm.as_mut(), plan, entry };
            let lane = Lane::new(runner, (scope, &stop));
            let (device, flying) = (device.as_mut(), BTreeMap::new());
            let profile = options.profile.then_some((profile, *start));
            let run = Run { device, lane, plan, entry, index, rank, places, flying, profile };
            run.all()
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
