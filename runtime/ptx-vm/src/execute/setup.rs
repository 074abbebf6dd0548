//! A launch made ready: checked against the kernel, memory laid out, constants resolved.

use crate::check::{Checks, History};
use crate::launch::{
    Dtype, Init, Launch, LaunchBuffer, LaunchParam, OutOfBounds, SwizzleMode, random_bytes,
};
use crate::matrix::Swizzle;
use crate::memory::{Memory, address_of};
use crate::module::{
    Constant, FUNCTION_WINDOW, Kernel, Lanes, Module, Relocation, RelocationTarget, Space, Special,
};
use crate::source::{LoadError, code};
use crate::tensor_map::{self, MapError, TensorMap, TensorType};
use std::sync::Mutex;

/// Threads of a CTA at most.
pub(crate) const MAX_THREADS: u64 = 1024;
/// CTAs of a cluster at most.
pub(crate) const MAX_CLUSTER: u64 = 16;
/// Shared memory of a CTA at most, in bytes, as on sm_90.
pub(crate) const MAX_SHARED_BYTES: u32 = 227 << 10;

/// Registers and local memory of a cluster's threads at most, in bytes: what a CTA may have at the limits of
/// hardware.
pub(super) const MAX_CLUSTER_BYTES: u64 = 1 << 30;

/// How a constant row gets its value when a frame is entered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fill {
    /// The same for every lane.
    Bits(u64),
    /// The frame's place in local memory plus bytes.
    Frame(i64),
    Special(Special),
}

/// Warp instructions that a grid may execute where nothing else is said.
pub const DEFAULT_STEP_LIMIT: u64 = 1 << 32;

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to check beside what always stops a kernel (bounds, alignment, barriers).
    pub checks: Checks,
    /// Host threads; 0 for as many as the machine has. What a kernel without data races leaves when it
    /// completes does not depend on it.
    pub threads: usize,
    /// Warp instructions that the whole grid may execute.
    pub step_limit: u64,
    /// Whether memory requests are counted, for a [`Profile`](crate::Profile).
    pub profile: bool,
}

impl Default for Options {
    fn default() -> Self {
        let (checks, step_limit) = (Checks::none(), DEFAULT_STEP_LIMIT);
        Self { checks, threads: 0, step_limit, profile: false }
    }
}

/// Everything that stays the same while a grid runs.
pub(crate) struct Setup<'m> {
    pub(crate) module: &'m Module,
    pub(crate) kernel: &'m Kernel,
    pub(crate) memory: &'m Memory,
    pub(crate) options: &'m Options,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) cluster: [u32; 3],
    pub(crate) params: Vec<u8>,
    pub(crate) constants: Vec<u8>,
    /// By function.
    pub(crate) fills: Vec<Vec<Fill>>,
    pub(crate) shared_bytes: u32,
    pub(crate) dynamic_bytes: u32,
    /// What global memory went through, between clusters.
    pub(crate) history: Mutex<Option<History>>,
}

/// The extents of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents {
    /// CTAs per dimension.
    pub grid: [u32; 3],
    /// Threads of a CTA per dimension.
    pub block: [u32; 3],
    /// CTAs of a cluster per dimension, if the launch says so.
    pub cluster: Option<[u32; 3]>,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
}

impl From<&Launch> for Extents {
    fn from(launch: &Launch) -> Self {
        let triple = |(x, y, z): (u32, u32, u32)| [x, y, z];
        Self {
            grid: triple(launch.grid),
            block: triple(launch.block),
            cluster: launch.cluster.map(triple),
            shared_bytes: launch.shared_bytes,
        }
    }
}

fn volume(extents: [u32; 3]) -> u64 {
    extents.iter().map(|extent| u64::from(*extent)).product()
}

/// Bytes that the registers and the local memory of a CTA's threads take when the kernel begins.
fn thread_bytes(module: &Module, kernel: &Kernel, block: [u32; 3]) -> u64 {
    let function = &module.functions[kernel.function as usize];
    let warps = volume(block).div_ceil(32);
    let row = size_of::<Lanes>() as u64;
    warps * (row * u64::from(function.rows()) + 32 * u64::from(function.frame_bytes))
}

/// Bytes that a cluster takes when it begins.
pub(super) fn cluster_bytes(setup: &Setup<'_>) -> u64 {
    let threads = thread_bytes(setup.module, setup.kernel, setup.block);
    (threads + u64::from(setup.shared_bytes)).saturating_mul(volume(setup.cluster))
}

pub(super) fn refused(module: &Module, kernel: &Kernel, message: String) -> LoadError {
    let span = module.functions[kernel.function as usize].span;
    module.source.error(code::LAUNCH, span, message)
}

/// Checks extents against a kernel, and settles the cluster.
pub(super) fn check_extents(
    module: &Module,
    kernel: &Kernel,
    extents: Extents,
) -> Result<[u32; 3], LoadError> {
    let fail = |message: String| Err(refused(module, kernel, message));
    let Extents { grid, block, cluster, shared_bytes } = extents;
    if grid.contains(&0) || block.contains(&0) {
        return fail("a grid and a block have at least one CTA and one thread".to_owned());
    }
    if grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
        return fail(format!("a grid of {grid:?} CTAs is too large"));
    }
    if volume(block) > MAX_THREADS || block[0] > 1024 || block[1] > 1024 || block[2] > 64 {
        return fail(format!("a block of {block:?} threads is too large"));
    }
    if kernel.req_ntid.is_some_and(|required| required != block) {
        return fail(format!("the kernel requires {:?} threads, not {block:?}", kernel.req_ntid));
    }
    if kernel.max_ntid.is_some_and(|most| volume(block) > volume(most)) {
        return fail(format!(
            "the kernel takes at most {:?} threads, not {block:?}",
            kernel.max_ntid
        ));
    }
    if kernel.cluster.is_some() && cluster.is_some() && cluster != kernel.cluster {
        return fail(format!("the kernel requires clusters of {:?}", kernel.cluster));
    }
    let cluster = cluster.or(kernel.cluster).unwrap_or([1; 3]);
    let divides = (0..3).all(|dim| cluster[dim] > 0 && grid[dim] % cluster[dim] == 0);
    if !divides || volume(cluster) > MAX_CLUSTER {
        return fail(format!("clusters of {cluster:?} do not divide a grid of {grid:?}"));
    }
    let total = u64::from(kernel.dynamic_shared.max(kernel.shared_bytes)) + u64::from(shared_bytes);
    if total > MAX_SHARED_BYTES.into() {
        return fail(format!("{total} bytes of shared memory; a CTA has {MAX_SHARED_BYTES}"));
    }
    let bytes = thread_bytes(module, kernel, block).saturating_mul(volume(cluster));
    if bytes > MAX_CLUSTER_BYTES {
        return fail(format!(
            "the registers and local memory of a cluster take {bytes} bytes; \
             here it has {MAX_CLUSTER_BYTES}"
        ));
    }
    Ok(cluster)
}

/// Puts module variables into memory, under names no launch can use.
pub(super) fn place_globals(module: &Module, memory: &mut Memory) -> Option<Vec<Option<u64>>> {
    let mut found = Vec::new();
    for variable in &module.variables.all {
        let global = variable.space == Space::Global;
        found.push(if global {
            let name = format!(".global {}", variable.name);
            Some(memory.allocate_zeros(&name, variable.bytes.into())?)
        } else {
            None
        });
    }
    Some(found)
}

/// Writes initial values, now that every address is known.
pub(super) fn initialise(module: &Module, globals: &[Option<u64>], memory: &Memory) -> Vec<u8> {
    let variables = &module.variables;
    let mut constants = vec![0; variables.const_bytes as usize];
    for (index, variable) in variables.all.iter().enumerate() {
        let buffer = globals[index].and_then(|address| memory.find(address));
        let first = variables.const_offsets[index] as usize;
        let mut put = |at: u32, bytes: &[u8]| match buffer {
            Some((buffer, _)) => memory.buffers[buffer].bytes.fill(at as usize, bytes),
            None if variable.space == Space::Const => {
                constants[first + at as usize..][..bytes.len()].copy_from_slice(bytes);
            }
            None => {}
        };
        for (at, bytes) in &variable.initial {
            put(*at, bytes);
        }
        for relocation in &variable.relocations {
            put(relocation.at, &relocated(module, relocation, globals).to_le_bytes());
        }
    }
    constants
}

/// The address that an initialiser names.
fn relocated(module: &Module, relocation: &Relocation, globals: &[Option<u64>]) -> u64 {
    let base = match relocation.target {
        RelocationTarget::Function(index) => FUNCTION_WINDOW + u64::from(index) * 16,
        RelocationTarget::Variable(index) => {
            let window = module.variables.all[index as usize].space.window();
            let place = variable_place(module, index as usize, globals);
            if relocation.generic { place.wrapping_add(window) } else { place }
        }
    };
    base.wrapping_add(relocation.addend)
}

/// The address of a variable in its space; shared ones are asked of the kernel.
fn variable_place(module: &Module, index: usize, globals: &[Option<u64>]) -> u64 {
    match globals.get(index).copied().flatten() {
        Some(address) => address,
        None => module.variables.const_offsets[index].into(),
    }
}

/// What fills the constant rows of every function.
pub(super) fn fills(module: &Module, kernel: &Kernel, globals: &[Option<u64>]) -> Vec<Vec<Fill>> {
    let fill = |constant: &Constant| match *constant {
        Constant::Bits(bits) => Fill::Bits(bits),
        Constant::Frame(offset) => Fill::Frame(offset),
        Constant::Special(special) => Fill::Special(special),
        Constant::Variable { index, offset } => {
            let index = index as usize;
            let place = match kernel.shared_offsets.get(index).copied().flatten() {
                Some(offset) => offset.into(),
                None => variable_place(module, index, globals),
            };
            Fill::Bits(place.wrapping_add(offset as u64))
        }
    };
    let of = |function: &crate::module::Function| function.constants.iter().map(fill).collect();
    module.functions.iter().map(of).collect()
}

/// Fills memory and the parameter block from a launch.
///
/// # Errors
/// V0006 for a parameter that does not fit, and for files that cannot be read.
pub(super) fn parameters(
    module: &Module,
    kernel: &Kernel,
    launch: &Launch,
    memory: &mut Memory,
) -> Result<Vec<u8>, LoadError> {
    let fail = |message: String| refused(module, kernel, message);
    for given in &launch.buffers {
        buffer(launch, given, memory).map_err(|error| match error {
            Refusal::Message(message) => fail(message),
            Refusal::Load(error) => error,
        })?;
    }
    if launch.params.len() != kernel.params.len() {
        let (have, want) = (launch.params.len(), kernel.params.len());
        return Err(fail(format!("the kernel takes {want} parameters, the launch has {have}")));
    }
    let mut block = vec![0; kernel.param_bytes as usize];
    for (param, given) in kernel.params.iter().zip(&launch.params) {
        let bytes = parameter(launch, given, memory).map_err(|error| match error {
            Refusal::Message(message) => fail(format!("parameter `{}`: {message}", param.name)),
            Refusal::Load(error) => error,
        })?;
        if bytes.len() != param.bytes as usize {
            let (have, want) = (bytes.len(), param.bytes);
            let message = format!("parameter `{}` has {want} bytes, not {have}", param.name);
            return Err(fail(message));
        }
        block[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    Ok(block)
}

enum Refusal {
    Message(String),
    Load(LoadError),
}

impl From<LoadError> for Refusal {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

fn parameter(
    launch: &Launch,
    given: &LaunchParam,
    memory: &mut Memory,
) -> Result<Vec<u8>, Refusal> {
    Ok(match given {
        LaunchParam::Buffer(given) => buffer(launch, given, memory)?.to_le_bytes().to_vec(),
        LaunchParam::BufferOffset { name, bytes } => {
            let index = memory.index(name);
            let Some(index) = index.filter(|i| *bytes <= memory.buffers[*i].bytes.len() as u64)
            else {
                let message = format!("no buffer `{name}` with {bytes} bytes stands before");
                return Err(Refusal::Message(message));
            };
            (address_of(index) + bytes).to_le_bytes().to_vec()
        }
        LaunchParam::U32(value) => value.to_le_bytes().to_vec(),
        LaunchParam::I32(value) => value.to_le_bytes().to_vec(),
        LaunchParam::U64(value) => value.to_le_bytes().to_vec(),
        LaunchParam::I64(value) => value.to_le_bytes().to_vec(),
        LaunchParam::F32(value) => value.to_le_bytes().to_vec(),
        LaunchParam::F64(value) => value.to_le_bytes().to_vec(),
        LaunchParam::Bytes(bytes) => bytes.clone(),
        LaunchParam::TensorMap { name, over, .. } => {
            let Some(address) = memory.address(over) else {
                let message = format!("no buffer `{over}` stands before the tensor map `{name}`");
                return Err(Refusal::Message(message));
            };
            let map =
                tensor_map(given, address).map_err(|error| Refusal::Message(error.to_string()))?;
            map.encode().to_vec()
        }
    })
}

/// The map of a launch's description, over a buffer at `address`.
fn tensor_map(given: &LaunchParam, address: u64) -> Result<TensorMap, MapError> {
    let LaunchParam::TensorMap {
        dtype,
        dims,
        strides,
        box_dims,
        element_strides,
        swizzle,
        oob,
        ..
    } = given
    else {
        return Err(MapError::Rank);
    };
    let steps =
        if element_strides.is_empty() { vec![1; dims.len()] } else { element_strides.clone() };
    let map = TensorMap {
        dtype: element_type(*dtype),
        address,
        dims: dims.clone(),
        strides: strides.clone(),
        box_dims: box_dims.clone(),
        element_strides: steps,
        swizzle: match swizzle {
            SwizzleMode::None => Swizzle::None,
            SwizzleMode::B32 => Swizzle::B32,
            SwizzleMode::B64 => Swizzle::B64,
            SwizzleMode::B128 => Swizzle::B128,
        },
        fill: match oob {
            OutOfBounds::Zeros => tensor_map::Fill::Zeros,
            OutOfBounds::Nan => tensor_map::Fill::Nan,
        },
    };
    map.validate()?;
    Ok(map)
}

/// The element type of a tensor map; bytes have no meaning of their own in one.
fn element_type(dtype: Dtype) -> TensorType {
    match dtype {
        Dtype::F64 => TensorType::F64,
        Dtype::F32 => TensorType::F32,
        Dtype::Tf32 => TensorType::Tf32,
        Dtype::F16 => TensorType::F16,
        Dtype::Bf16 => TensorType::Bf16,
        Dtype::E4m3 | Dtype::E5m2 | Dtype::I8 | Dtype::U8 => TensorType::U8,
        Dtype::I16 | Dtype::U16 => TensorType::U16,
        Dtype::I32 => TensorType::S32,
        Dtype::U32 => TensorType::U32,
        Dtype::I64 => TensorType::S64,
        Dtype::U64 => TensorType::U64,
    }
}

/// Lays out a buffer; its generic address.
fn buffer(launch: &Launch, given: &LaunchBuffer, memory: &mut Memory) -> Result<u64, Refusal> {
    let LaunchBuffer { name, bytes, init } = given;
    let bytes = *bytes;
    if memory.index(name).is_some() {
        return Err(Refusal::Message(format!("`{name}` names two buffers")));
    }
    let address = match init {
        Init::Uninit => memory.allocate_uninitialised(name, bytes),
        _ => memory.allocate_zeros(name, bytes),
    };
    let Some(address) = address else {
        return Err(Refusal::Message(format!("`{name}` is larger than memory")));
    };
    let content = match init {
        Init::Uninit | Init::Zeros => Vec::new(),
        Init::File(file) => launch.file(file, bytes)?,
        Init::Bytes(content) => content.clone(),
        Init::Random { seed, dtype, low, high } => {
            random_bytes((*seed, *dtype), (*low, *high), bytes)
        }
    };
    if memory.write(name, &content).is_none() {
        return Err(Refusal::Message(format!("more values than `{name}` holds")));
    }
    Ok(address)
}
