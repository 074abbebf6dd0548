//! Bounds of a plan from outside: every index, every byte range, before anything runs.
//!
//! # Invariants
//! - After [`Plan::verify`] no step touches an element outside its buffer, and no buffer lies
//!   outside its arena, tensor or feed.
//! - All arithmetic on numbers of the plan is checked: an overflow is a refusal.

mod collective;

use std::collections::HashSet;

use thiserror::Error;

use crate::{
    Attention, AttentionGrad, AttentionShape, Buffer, Contract, DType, Entry, Epilogue,
    FORMAT_VERSION, FeedDecl, GPU_ALIGN, HeadsView, KernelDecl, Launch, Loop, Only, Place, Plan,
    Ragged, RaggedForm, Shard, Step, StepOp, View,
};

/// The target whose kernels a CPU runs.
const CPU: &str = "cpu";
/// Largest element count of anything in a plan (2⁴⁸).
const MAX_ELEMS: u64 = 1 << 48;

/// Why bytes are not a plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The first line is another one.
    #[error("not a plan file")]
    NotAPlan,
    /// Written by another version.
    #[error("plan format {found} is not supported; this version reads format {FORMAT_VERSION}")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// More bytes than any plan has.
    #[error("plan file has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Bytes of the file.
        bytes: u64,
        /// Bytes accepted.
        limit: u64,
    },
    /// The file ends early or goes on too long.
    #[error("plan file is truncated")]
    Truncated,
    /// The content is not what was written.
    #[error("plan file was altered: its hash does not match")]
    Hash,
    /// The RON header does not parse.
    #[error("plan header: {message}")]
    Header {
        /// What RON says.
        message: String,
    },
    /// A section is missing or another one stands there.
    #[error("plan file lacks section `{title}`")]
    Section {
        /// Its title.
        title: String,
    },
    /// An index or a range is out of bounds, or something contradicts itself.
    #[error("invalid plan: {place}: {what}")]
    Invalid {
        /// Which entry, step or kernel.
        place: String,
        /// What is wrong.
        what: String,
    },
}

type Check = Result<(), String>;

impl Plan {
    /// Checks every index and range.
    ///
    /// # Errors
    /// [`PlanError::Version`] or [`PlanError::Invalid`] with the first thing found.
    pub fn verify(&self) -> Result<(), PlanError> {
        if self.format != FORMAT_VERSION {
            return Err(PlanError::Version { found: self.format });
        }
        self.verify_names().map_err(at("plan"))?;
        self.mesh.verify().map_err(at("plan"))?;
        for tensor in &self.tensors {
            let place = format!("tensor `{}`", tensor.name);
            elems(&tensor.shape).map_err(at(&place))?;
            self.verify_shard(tensor.shard.as_ref(), &tensor.shape).map_err(at(&place))?;
            self.verify_ranks(tensor.owner.as_ref()).map_err(at(&place))?;
        }
        for entry in &self.entries {
            let place = format!("entry `{}`", entry.name);
            self.verify_buffers(entry).map_err(at(&place))?;
            for (i, step) in entry.steps.iter().enumerate() {
                let cx = StepCx { plan: self, entry };
                cx.verify(&step.op).map_err(at(&format!("{place}, step {i}")))?;
                self.verify_guard(entry, step).map_err(at(&format!("{place}, step {i}")))?;
                if let StepOp::Collective(c) = &step.op {
                    cx.in_flight(i, c).map_err(at(&format!("{place}, step {i}")))?;
                }
                let known = |n: &u32| (*n as usize) < self.nodes.len();
                if step.nodes.is_empty() || !step.nodes.iter().all(known) {
                    let what = "no node, or one that does not exist".to_owned();
                    return Err(at(&format!("{place}, step {i}"))(what));
                }
            }
        }
        Ok(())
    }

    fn verify_names(&self) -> Check {
        unique("tensor", self.tensors.iter().map(|t| t.name.as_str()))?;
        unique("kernel", self.kernels.iter().map(|k| k.name.as_str()))?;
        unique("entry", self.entries.iter().map(|e| e.name.as_str()))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        for kernel in &self.kernels {
            if kernel.name.is_empty() || !kernel.name.chars().all(plain) {
                return Err(format!("kernel name `{}`", kernel.name.escape_debug()));
            }
            if kernel.blocks > i64::MAX as u64 {
                return Err(format!("kernel `{}` has {} blocks", kernel.name, kernel.blocks));
            }
            if self.target != CPU {
                verify_grid(kernel)?;
            }
        }
        Ok(())
    }

    fn verify_buffers(&self, entry: &Entry) -> Check {
        unique("feed", entry.feeds.iter().map(|f| f.name.as_str()))?;
        unique("fetch", entry.fetches.iter().map(|f| f.name.as_str()))?;
        for feed in &entry.feeds {
            self.verify_feed(feed).map_err(|e| format!("feed `{}`: {e}", feed.name))?;
        }
        for (i, buffer) in entry.buffers.iter().enumerate() {
            self.verify_buffer(entry, buffer).map_err(|e| format!("buffer {i}: {e}"))?;
        }
        for fetch in &entry.fetches {
            let buffer = buffer(entry, fetch.buffer)?;
            if elems(&fetch.shape)? != buffer.elems {
                return Err(format!("fetch `{}` has another extent than its buffer", fetch.name));
            }
            self.verify_shard(fetch.shard.as_ref(), &fetch.shape)
                .map_err(|e| format!("fetch `{}`: {e}", fetch.name))?;
        }
        Ok(())
    }

    /// A part of a tensor, and the tensor that the parts make.
    fn verify_shard(&self, shard: Option<&Shard>, part: &[u64]) -> Check {
        let Some(shard) = shard else { return Ok(()) };
        let extent = part.get(shard.dim as usize);
        let fits = extent.is_some_and(|e| shard.blocks > 0 && e.is_multiple_of(shard.blocks));
        if !fits || !self.mesh.has(&shard.axes) {
            return Err(format!("cut as `{shard}`, which it cannot be"));
        }
        elems(&shard.whole(&self.mesh, part)).map(|_| ())
    }

    /// Some of the ranks, of which there is one at least.
    fn verify_ranks(&self, only: Option<&Only>) -> Check {
        match only {
            Some(only)
                if !self.mesh.has(&only.axes) || only.at >= self.mesh.group_size(&only.axes) =>
            {
                Err(format!("ranks {only}, which the mesh lacks"))
            }
            _ => Ok(()),
        }
    }

    /// A step that reads or writes a tensor runs on ranks that hold it; a collective on whole groups.
    fn verify_guard(&self, entry: &Entry, step: &Step) -> Check {
        self.verify_ranks(step.only.as_ref())?;
        if let (StepOp::Collective(c), Some(only)) = (&step.op, &step.only)
            && c.axes.iter().any(|axis| only.axes.contains(axis))
        {
            return Err("a collective that not all of its ranks run".to_owned());
        }
        for n in touched(&step.op) {
            let Place::Tensor(t) = buffer(entry, n)?.place else { continue };
            let owner = self.tensors.get(t as usize).and_then(|tensor| tensor.owner.as_ref());
            if owner.is_some() && owner != step.only.as_ref() {
                return Err(format!("buffer {n} is a tensor that not all of its ranks hold"));
            }
        }
        Ok(())
    }

    fn verify_feed(&self, feed: &FeedDecl) -> Check {
        elems(&feed.shape)?;
        self.verify_shard(feed.shard.as_ref(), &feed.shape)?;
        let coordinate = self.mesh.of_feed(&feed.name).is_some();
        match (coordinate, feed.dtype, feed.shape.is_empty()) {
            (false, ..) | (true, DType::i32, true) => Ok(()),
            (true, ..) => Err("a coordinate is an i32 scalar".to_owned()),
        }
    }

    fn verify_buffer(&self, entry: &Entry, buffer: &Buffer) -> Check {
        let (dtype, count) = match buffer.place {
            Place::Arena(offset) => {
                let bytes = buffer.elems.checked_mul(buffer.dtype.bytes());
                let end = bytes.and_then(|b| b.checked_add(offset)).ok_or("too many elements")?;
                let unit = if self.target == CPU { buffer.dtype.bytes() } else { GPU_ALIGN };
                let aligned = offset.is_multiple_of(unit);
                let inside = end <= entry.arena_bytes || buffer.elems == 0;
                return if aligned && inside {
                    Ok(())
                } else {
                    Err(format!("bytes {offset}..{end} of an arena of {}", entry.arena_bytes))
                };
            }
            Place::Tensor(n) => {
                let tensor = self.tensors.get(n as usize).ok_or("no such tensor")?;
                (tensor.dtype, elems(&tensor.shape)?)
            }
            Place::Feed(n) => {
                let feed = entry.feeds.get(n as usize).ok_or("no such feed")?;
                (feed.dtype, elems(&feed.shape)?)
            }
        };
        if dtype != buffer.dtype || buffer.elems > count {
            let (e, d) = (buffer.elems, buffer.dtype);
            return Err(format!("{e} elements of {d} in {count} of {dtype}"));
        }
        Ok(())
    }
}

/// What every NVIDIA GPU can launch.
fn verify_grid(kernel: &KernelDecl) -> Check {
    const BLOCKS: u64 = (1 << 31) - 1;
    const THREADS: u32 = 1024;
    const STATIC: u32 = 48 * 1024;
    const SHARED: u32 = 1 << 20;
    let KernelDecl { name, blocks, threads, shared, .. } = kernel;
    if *blocks > BLOCKS || *threads == 0 || *threads > THREADS {
        return Err(format!("kernel `{name}` has {blocks} blocks of {threads} threads"));
    }
    if shared.static_bytes > STATIC || shared.dynamic_bytes > SHARED {
        return Err(format!("kernel `{name}` shares too much memory"));
    }
    Ok(())
}

fn at(place: &str) -> impl Fn(String) -> PlanError {
    let place = place.to_owned();
    move |what| PlanError::Invalid { place: place.clone(), what }
}

fn unique<'a>(kind: &str, names: impl Iterator<Item = &'a str>) -> Check {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("{kind} `{name}` appears twice"));
        }
    }
    Ok(())
}

/// Product of extents, bounded.
fn elems(shape: &[u64]) -> Result<u64, String> {
    if shape.contains(&0) {
        return Ok(0);
    }
    let product = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
    product.filter(|n| *n <= MAX_ELEMS).ok_or_else(|| "too many elements".to_owned())
}

fn buffer(entry: &Entry, n: u32) -> Result<&Buffer, String> {
    entry.buffers.get(n as usize).ok_or_else(|| format!("no buffer {n}"))
}

/// Where a buffer lies: which memory, and its first and last byte there.
fn bytes(buffer: &Buffer) -> (Option<Place>, u64, u64) {
    let length = buffer.elems.saturating_mul(buffer.dtype.bytes());
    match buffer.place {
        Place::Arena(offset) => (None, offset, offset.saturating_add(length)),
        place => (Some(place), 0, length),
    }
}

/// Buffers that a step reads or writes.
pub(crate) fn touched(op: &StepOp) -> Vec<u32> {
    let epilogue = |e: &Option<Epilogue>| e.iter().flat_map(|e| e.launch.args.clone()).collect();
    match op {
        StepOp::Launch(launch) => launch.args.clone(),
        StepOp::Contract(c) => {
            let mut all: Vec<u32> = epilogue(&c.epilogue);
            all.extend([c.a.buffer, c.b.buffer, c.c.buffer]);
            all
        }
        StepOp::Ragged(r) => {
            let mut all: Vec<u32> = epilogue(&r.epilogue);
            all.extend([r.a.buffer, r.b.buffer, r.c.buffer, r.offsets.buffer]);
            all
        }
        StepOp::Attention(a) => {
            let heads = [&a.q, &a.k, &a.v, &a.o].map(|h| h.view.buffer);
            let rest = a.lse.iter().chain(&a.max_logit).map(|v| v.buffer);
            heads.into_iter().chain(rest).collect()
        }
        StepOp::AttentionGrad(a) => {
            let heads = [&a.q, &a.k, &a.v, &a.o, &a.d_o, &a.d_q, &a.d_k, &a.d_v];
            heads.map(|h| h.view.buffer).into_iter().chain([a.lse.buffer]).collect()
        }
        StepOp::Copy { src, dst } => vec![*src, *dst],
        StepOp::Collective(c) => c.send.iter().chain(&c.receive).copied().collect(),
    }
}

fn overlap(a: (Option<Place>, u64, u64), b: (Option<Place>, u64, u64)) -> bool {
    a.0 == b.0 && a.1 < b.2 && b.1 < a.2
}

/// Checks of one step.
struct StepCx<'a> {
    plan: &'a Plan,
    entry: &'a Entry,
}

impl StepCx<'_> {
    fn verify(&self, op: &StepOp) -> Check {
        match op {
            StepOp::Launch(launch) => self.launch(launch),
            StepOp::Contract(contract) => self.contract(contract),
            StepOp::Ragged(ragged) => self.ragged(ragged),
            StepOp::Attention(attention) => self.attention(attention),
            StepOp::AttentionGrad(grad) => self.attention_grad(grad),
            StepOp::Collective(collective) => self.collective(collective),
            StepOp::Copy { src, dst } => {
                let (from, to) = (buffer(self.entry, *src)?, buffer(self.entry, *dst)?);
                self.writable(*dst)?;
                match (from.dtype, from.elems) == (to.dtype, to.elems) {
                    true => Ok(()),
                    false => Err("copy between buffers that differ".to_owned()),
                }
            }
        }
    }

    fn launch(&self, launch: &Launch) -> Check {
        let kernel = self.plan.kernels.get(launch.kernel as usize).ok_or("no such kernel")?;
        if kernel.params.len() != launch.args.len() {
            let (want, found) = (kernel.params.len(), launch.args.len());
            return Err(format!("`{}` takes {want} arguments, not {found}", kernel.name));
        }
        for (i, (param, arg)) in kernel.params.iter().zip(&launch.args).enumerate() {
            let given = buffer(self.entry, *arg)?;
            if given.dtype != param.dtype || given.elems < param.elems {
                return Err(format!("argument {i} of `{}` does not fit", kernel.name));
            }
            if param.written {
                self.writable(*arg)?;
            }
        }
        Ok(())
    }

    fn writable(&self, n: u32) -> Check {
        match buffer(self.entry, n)?.place {
            Place::Feed(_) => Err(format!("buffer {n} is a feed and is written")),
            Place::Arena(_) | Place::Tensor(_) => Ok(()),
        }
    }

    /// Every element `view + Σ indexᵢ · strideᵢ` lies in the buffer.
    fn strided(&self, view: View, loops: &[(u64, i64)]) -> Check {
        let buffer = buffer(self.entry, view.buffer)?;
        if loops.iter().any(|(extent, _)| *extent == 0) {
            return Ok(());
        }
        let outside = || format!("view of buffer {} reaches outside it", view.buffer);
        let (mut low, mut high) = (i128::from(view.offset), i128::from(view.offset));
        for (extent, stride) in loops {
            let reach = i128::from(extent - 1).checked_mul(i128::from(*stride));
            let reach = reach.ok_or_else(outside)?;
            let end = if reach < 0 { &mut low } else { &mut high };
            *end = end.checked_add(reach).ok_or_else(outside)?;
        }
        let inside = low >= 0 && high < i128::from(buffer.elems);
        if inside { Ok(()) } else { Err(outside()) }
    }

    fn contract(&self, c: &Contract) -> Check {
        let all = || c.batch.iter().chain(&c.sum).chain([&c.m, &c.n, &c.k]);
        let of = |stride: fn(&Loop) -> i64| -> Vec<(u64, i64)> {
            all().map(|l| (l.extent, stride(l))).collect()
        };
        if all().any(|l| l.extent > MAX_ELEMS) {
            return Err("a loop is too long".to_owned());
        }
        self.strided(c.a, &of(|l| l.a))?;
        self.strided(c.b, &of(|l| l.b))?;
        // What is summed over does not move C; an empty sum still writes it.
        let written = c.batch.iter().chain([&c.m, &c.n]);
        self.strided(c.c, &written.map(|l| (l.extent, l.c)).collect::<Vec<_>>())?;
        self.writable(c.c.buffer)?;
        if c.m.b != 0 || c.n.a != 0 || c.k.c != 0 || c.sum.iter().any(|l| l.c != 0) {
            return Err("a loop moves an operand it must not".to_owned());
        }
        let shape: Vec<u64> = c.batch.iter().chain([&c.m, &c.n]).map(|l| l.extent).collect();
        self.epilogue(c.epilogue.as_ref(), elems(&shape)?, &[c.a, c.b])
    }

    /// An epilogue on a result of `made` elements: a block for each row, and it writes nothing that
    /// the contraction may still read.
    fn epilogue(&self, epilogue: Option<&Epilogue>, made: u64, read: &[View]) -> Check {
        let Some(epilogue) = epilogue else { return Ok(()) };
        self.launch(&epilogue.launch)?;
        let kernel = &self.plan.kernels[epilogue.launch.kernel as usize];
        if epilogue.row == 0 || kernel.blocks.checked_mul(epilogue.row) != Some(made) {
            let (blocks, row) = (kernel.blocks, epilogue.row);
            return Err(format!("an epilogue of {blocks} blocks on {made} elements, {row} a row"));
        }
        for (param, arg) in kernel.params.iter().zip(&epilogue.launch.args) {
            let written = bytes(buffer(self.entry, *arg)?);
            for view in read.iter().filter(|_| param.written) {
                if overlap(written, bytes(buffer(self.entry, view.buffer)?)) {
                    return Err(format!(
                        "an epilogue writes buffer {}, which is read",
                        view.buffer
                    ));
                }
            }
        }
        Ok(())
    }

    fn ragged(&self, r: &Ragged) -> Check {
        let offsets = buffer(self.entry, r.offsets.buffer)?;
        if offsets.dtype != DType::i32 {
            return Err("offsets are not i32".to_owned());
        }
        let ends = r.groups.checked_add(1).ok_or("too many groups")?;
        self.strided(r.offsets, &[(ends, 1)])?;
        self.strided(r.a, &[(r.rows, r.a_row), (r.k, 1)])?;
        let [outer, middle, inner] = r.b_strides;
        let row = i64::try_from(r.n).map_err(|_| "too many columns")?;
        match r.form {
            RaggedForm::Rows => {
                self.strided(r.b, &[(r.groups, outer), (r.k, middle), (r.n, inner)])?;
                self.strided(r.c, &[(r.rows, row), (r.n, 1)])?;
            }
            RaggedForm::Outer => {
                self.strided(r.b, &[(r.rows, middle), (r.n, inner)])?;
                let matrix = i64::try_from(r.k).ok().and_then(|k| k.checked_mul(row));
                let matrix = matrix.ok_or("too many elements")?;
                self.strided(r.c, &[(r.groups, matrix), (r.k, row), (r.n, 1)])?;
            }
        }
        self.writable(r.c.buffer)?;
        let outer = if r.form == RaggedForm::Rows { [r.rows, 1] } else { [r.groups, r.k] };
        let made = elems(&[outer[0], outer[1], r.n])?;
        self.epilogue(r.epilogue.as_ref(), made, &[r.a, r.b, r.offsets])
    }

    fn heads(&self, view: &HeadsView, [batch, seq, heads, dim]: [u64; 4]) -> Check {
        let loops = [(batch, view.batch), (seq, view.seq), (heads, view.head), (dim, 1)];
        self.strided(view.view, &loops)
    }

    fn attention_shape(&self, s: &AttentionShape) -> Check {
        let grouped = s.kv_heads > 0 && s.heads.is_multiple_of(s.kv_heads);
        if !grouped && s.heads > 0 {
            return Err(format!("{} heads over {} key heads", s.heads, s.kv_heads));
        }
        elems(&[s.batch, s.heads, s.seq_q]).map(|_| ())
    }

    fn per_row(&self, view: View, s: &AttentionShape) -> Check {
        self.strided(view, &[(elems(&[s.batch, s.heads, s.seq_q])?, 1)])
    }

    fn attention(&self, a: &Attention) -> Check {
        let s = &a.shape;
        self.attention_shape(s)?;
        self.heads(&a.q, [s.batch, s.seq_q, s.heads, s.qk_dim])?;
        self.heads(&a.k, [s.batch, s.seq_kv, s.kv_heads, s.qk_dim])?;
        self.heads(&a.v, [s.batch, s.seq_kv, s.kv_heads, s.v_dim])?;
        self.heads(&a.o, [s.batch, s.seq_q, s.heads, s.v_dim])?;
        self.writable(a.o.view.buffer)?;
        if let Some(lse) = a.lse {
            self.per_row(lse, s)?;
            self.writable(lse.buffer)?;
        }
        if let Some(max_logit) = a.max_logit {
            self.strided(max_logit, &[(s.heads, 1)])?;
            self.writable(max_logit.buffer)?;
        }
        Ok(())
    }

    fn attention_grad(&self, a: &AttentionGrad) -> Check {
        let s = &a.shape;
        self.attention_shape(s)?;
        self.per_row(a.lse, s)?;
        for view in [&a.q, &a.d_q] {
            self.heads(view, [s.batch, s.seq_q, s.heads, s.qk_dim])?;
        }
        for view in [&a.k, &a.d_k] {
            self.heads(view, [s.batch, s.seq_kv, s.kv_heads, s.qk_dim])?;
        }
        for view in [&a.v, &a.d_v] {
            self.heads(view, [s.batch, s.seq_kv, s.kv_heads, s.v_dim])?;
        }
        for view in [&a.o, &a.d_o] {
            self.heads(view, [s.batch, s.seq_q, s.heads, s.v_dim])?;
        }
        [&a.d_q, &a.d_k, &a.d_v].into_iter().try_for_each(|v| self.writable(v.view.buffer))
    }
}
