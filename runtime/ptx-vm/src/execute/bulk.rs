//! Bulk and tensor copies, asynchronous stores and tensor maps in memory.
//!
//! # Invariants
//! - The bytes move at once; mbarriers hear of them between turns ([`Engine::settle`]), groups at the wait.
//!   Until then the checks treat both ends as in flight.

use super::engine::Engine;
use super::lanes::{At, Flow, lanes};
use super::place::{Fault, Place, Touch, WEAK};
use super::state::{Completing, Object, Warp};
use crate::check::{Access, AsyncAccess, finding};
use crate::matrix::Swizzle;
use crate::module::{
    Address, BulkCopy, BulkOp, Completion, Direction, Row, StoreAsync, TensorCopy,
};
use crate::tensor_map::{BYTES, Field, Reduction, TensorMap, TensorType};

/// How the end of a copy is noticed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// Bytes arrive at an mbarrier.
    Object(Object),
    /// A bulk group of the thread.
    Group,
    /// A wgmma of the warp, by its number.
    Product(u64),
}

impl Ending {
    /// Whether a wgmma ends here.
    pub(crate) fn is_product(self) -> bool {
        matches!(self, Self::Product(_))
    }
}

/// Copies that mbarriers have not heard of at most; beyond it they hear at once.
const MAX_COMPLETING: usize = 1 << 16;

type Done = Result<(), Fault>;

fn invalid(message: String) -> Fault {
    Fault { code: finding::DESCRIPTOR, message }
}

impl<const CHECK: bool> Engine<'_, CHECK> {
    pub(super) fn bulk(&mut self, warp: &mut Warp, at: &At, op: &BulkOp) -> Flow {
        match op {
            BulkOp::Commit => {
                if CHECK {
                    self.checker.commit_bulk(warp, at.active);
                }
                return Flow::Next;
            }
            BulkOp::Wait { pending, read } => {
                if CHECK {
                    self.checker.land_bulk(warp, at.active, (*pending as usize, *read));
                }
                return Flow::Next;
            }
            BulkOp::Publish { .. } => {
                if let Some(flow) = self.whole_warp(warp, at) {
                    return flow;
                }
            }
            _ => {}
        }
        // What a warp does together, one of its lanes does.
        let active = if matches!(op, BulkOp::Publish { .. }) { 1 } else { at.active };
        for lane in lanes(active) {
            let done = match op {
                BulkOp::Copy(copy) => self.bulk_copy(warp, (at, lane), copy),
                BulkOp::Tensor(copy) => self.tensor_copy(warp, (at, lane), copy),
                BulkOp::Store(store) => self.store_async(warp, (at, lane), store),
                BulkOp::Replace { at: map, field, value } => {
                    self.replace(warp, (at, lane), map, (*field, *value))
                }
                BulkOp::Publish { to, from } => self.publish(warp, (at, lane), to, from),
                BulkOp::Commit | BulkOp::Wait { .. } => Ok(()),
            };
            if let Err(fault) = done {
                return self.fault(warp, at, lane, fault);
            }
        }
        Flow::Next
    }

    /// Tells checks and counters of one end of a copy.
    fn follow(
        &mut self,
        warp: &mut Warp,
        at: (&At, usize),
        (place, bytes, touch): (Place, u64, Touch),
        ending: Ending,
    ) -> Done {
        if self.setup.options.profile {
            self.measure_bulk(at.0, place, bytes);
        }
        if CHECK {
            if touch != Touch::Read {
                self.check_overwrite(warp, at, (place, bytes));
            }
            let access = AsyncAccess { place, bytes, touch, ending };
            for found in self.checker.touch_async(warp, at, access) {
                self.report_raw(warp, found);
            }
            if let Some(message) = self.checker.overflow() {
                return Err(Fault { code: finding::STEPS, message });
            }
        }
        Ok(())
    }

    /// Any number of bytes at a place.
    fn read_bytes(&self, warp: &Warp, lane: usize, place: Place, bytes: usize) -> Vec<u8> {
        let width = width_at(place, bytes);
        let words = (0..bytes / width)
            .map(|word| self.read(warp, lane, place.behind((word * width) as u64), width));
        words.flat_map(|word| word.to_le_bytes().into_iter().take(width)).collect()
    }

    fn write_bytes(&mut self, warp: &mut Warp, lane: usize, place: Place, bytes: &[u8]) {
        let width = width_at(place, bytes.len());
        for (index, part) in bytes.chunks_exact(width).enumerate() {
            let word = part.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            self.write(warp, lane, place.behind((index * width) as u64), (width, word));
        }
    }

    /// An end of a bulk copy: inside one allocation and aligned to 16 bytes.
    fn end(
        &self,
        warp: &Warp,
        (at, lane): (&At, usize),
        address: &Address,
        bytes: u64,
    ) -> Result<Place, Fault> {
        let first = self.address(warp, at, address, lane);
        if !first.is_multiple_of(16) {
            let message = format!("a bulk copy at address {first:#x}, no multiple of 16");
            return Err(invalid(message));
        }
        self.locate_part(warp, lane, (address.space, first), (16, bytes))
    }

    fn bulk_copy(&mut self, warp: &mut Warp, (at, lane): (&At, usize), copy: &BulkCopy) -> Done {
        let bytes = warp.row(at, copy.bytes).0[lane];
        if bytes == 0 {
            return Ok(());
        }
        if !bytes.is_multiple_of(16) {
            return Err(invalid(format!("a bulk copy of {bytes} bytes, no multiple of 16")));
        }
        let from = self.end(warp, (at, lane), &copy.from, bytes)?;
        let to = self.end(warp, (at, lane), &copy.to, bytes)?;
        let data = self.read_bytes(warp, lane, from, bytes as usize);
        let targets = self.targets(warp, (at, lane), to, copy.multicast)?;
        let mbarrier = match &copy.completion {
            Completion::Mbarrier(address) => {
                Some(self.object_beside(warp, (at, lane), address, to)?)
            }
            Completion::Group => None,
        };
        for (index, (rank, to)) in targets.iter().enumerate() {
            let ending = match mbarrier {
                Some((own, offset)) => Ending::Object((rank.unwrap_or(own), offset)),
                None => Ending::Group,
            };
            // The source is read once, however many CTAs get it.
            if index == 0 {
                self.follow(warp, (at, lane), (from, bytes, Touch::Read), ending)?;
            }
            let touch = if copy.reduce.is_some() { Touch::Atomic } else { Touch::Write };
            self.follow(warp, (at, lane), (*to, bytes, touch), ending)?;
            match copy.reduce {
                Some(reduce) => self.reduce_bytes(warp, lane, *to, (&data, reduce)),
                None => self.copy_masked(warp, (at, lane), *to, (&data, copy.byte_mask)),
            }
            self.ends(warp, (at, lane), ending, bytes as u32)?;
        }
        Ok(())
    }

    /// The mbarrier of a copy, which lies in the CTA of its destination.
    fn object_beside(
        &self,
        warp: &Warp,
        (at, lane): (&At, usize),
        address: &Address,
        to: Place,
    ) -> Result<Object, Fault> {
        let object = self.object(warp, at, address, lane)?;
        match to {
            Place::Shared(rank, _) if rank != object.0 => {
                let (to, at) = (rank, object.0);
                Err(invalid(format!("a copy to CTA {to} with an mbarrier of CTA {at}")))
            }
            _ => Ok(object),
        }
    }

    /// Notes what an mbarrier is to hear of a copy.
    fn ends(&mut self, warp: &Warp, (at, lane): (&At, usize), ending: Ending, bytes: u32) -> Done {
        let Ending::Object(object) = ending else { return Ok(()) };
        self.state_of(object)?;
        let (warp, cta, lane, pc) = (warp.index, warp.cta, lane as u8, at.pc);
        if self.completing.len() >= MAX_COMPLETING {
            self.complete_copies();
        }
        self.completing.push(Completing { object, bytes, warp, cta, lane, pc });
        Ok(())
    }

    fn copy_masked(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        to: Place,
        (data, mask): (&[u8], Option<Row>),
    ) {
        let mask = mask.map_or(0xffff, |row| warp.row(at, row).0[lane]);
        if mask & 0xffff == 0xffff {
            return self.write_bytes(warp, lane, to, data);
        }
        for (index, byte) in data.iter().enumerate() {
            if mask >> (index % 16) & 1 != 0 {
                self.write(warp, lane, to.behind(index as u64), (1, (*byte).into()));
            }
        }
    }

    /// Where the copies of a multicast go: the same offset in each CTA of the mask.
    fn targets(
        &self,
        warp: &Warp,
        (at, lane): (&At, usize),
        to: Place,
        multicast: Option<Row>,
    ) -> Result<Vec<(Option<u32>, Place)>, Fault> {
        let (Some(mask), Place::Shared(_, offset)) = (multicast, to) else {
            return Ok(vec![(None, to)]);
        };
        let mask = warp.row(at, mask).0[lane] & 0xffff;
        let ranks = self.ctas.len() as u32;
        if mask >> ranks != 0 {
            return Err(invalid(format!(
                "a multicast to {mask:#06x} in a cluster of {ranks} CTAs"
            )));
        }
        let named = (0..ranks).filter(|rank| mask >> rank & 1 != 0);
        Ok(named.map(|rank| (Some(rank), Place::Shared(rank, offset))).collect())
    }

    fn reduce_bytes(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        to: Place,
        (data, (how, dtype)): (&[u8], (Reduction, TensorType)),
    ) {
        let width = dtype.bytes() as usize;
        let value = |bytes: &[u8]| bytes.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
        for (index, element) in data.chunks_exact(width).enumerate() {
            let new = value(element);
            let place = to.behind((index * width) as u64);
            let reduced = |old: u64| how.apply(dtype, old, new).unwrap_or(old);
            if let Place::Buffer(buffer, offset) = place {
                let bytes = &self.setup.memory.buffers[buffer as usize].bytes;
                bytes.update(offset as usize, width, reduced);
            } else {
                let old = self.read(warp, lane, place, width);
                self.write(warp, lane, place, (width, reduced(old)));
            }
        }
    }

    /// The tensor map at an address.
    fn map(
        &self,
        warp: &Warp,
        (at, lane): (&At, usize),
        copy: &TensorCopy,
    ) -> Result<TensorMap, Fault> {
        let address = self.address(warp, at, &copy.map, lane);
        let place = self.locate_part(warp, lane, (copy.map.space, address), (64, BYTES as u64))?;
        let found = self.read_bytes(warp, lane, place, BYTES);
        let mut bytes = [0; BYTES];
        bytes.copy_from_slice(&found);
        let map = TensorMap::decode(&bytes)
            .map_err(|error| invalid(format!("no tensor map: {error}")))?;
        let (have, want) = (map.dims.len(), copy.coordinates.len as usize);
        if have != want {
            let message = format!("a copy of {want} dimensions through a tensor map of {have}");
            return Err(invalid(message));
        }
        Ok(map)
    }

    fn tensor_copy(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        copy: &TensorCopy,
    ) -> Done {
        let map = self.map(warp, (at, lane), copy)?;
        let module = self.setup.module;
        let coordinates: Vec<i32> = module
            .list(copy.coordinates)
            .iter()
            .map(|row| warp.row(at, *row).0[lane] as u32 as i32)
            .collect();
        let address = self.address(warp, at, &copy.shared, lane);
        if !address.is_multiple_of(128) {
            let message = format!("a box at shared address {address:#x}, no multiple of 128");
            return Err(invalid(message));
        }
        let bytes = map.box_bytes();
        let space = copy.shared.space;
        let shared = self.locate_part(warp, lane, (space, address), (16, bytes))?;
        for (part, bytes) in box_parts(&map, shared) {
            let inside = part.distance_from(shared).unwrap_or(0);
            self.locate_part(warp, lane, (space, address.wrapping_add(inside)), (16, bytes))?;
        }
        match &copy.direction {
            Direction::Load { mbarrier, multicast } => {
                let (own, offset) = self.object_beside(warp, (at, lane), mbarrier, shared)?;
                let targets = self.targets(warp, (at, lane), shared, *multicast)?;
                for (rank, to) in targets {
                    let object = (rank.unwrap_or(own), offset);
                    self.load_box(warp, (at, lane), (&map, &coordinates), (to, object))?;
                    self.ends(warp, (at, lane), Ending::Object(object), bytes as u32)?;
                }
                Ok(())
            }
            Direction::Store { reduce } => {
                self.store_box(warp, (at, lane), (&map, &coordinates), (shared, *reduce))
            }
        }
    }

    /// The place of `bytes` global bytes of a tensor.
    fn tensor_bytes(
        &self,
        warp: &Warp,
        lane: usize,
        address: u64,
        bytes: u32,
    ) -> Result<Place, Fault> {
        let space = crate::module::Space::Global;
        self.locate_part(warp, lane, (space, address), (1, bytes.into()))
    }

    fn load_box(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        (map, coordinates): (&TensorMap, &[i32]),
        (to, object): (Place, Object),
    ) -> Done {
        let ending = Ending::Object(object);
        let width = map.dtype.bytes() as usize;
        let fill = map.fill_element().to_le_bytes();
        for (part, bytes) in box_parts(map, to) {
            self.follow(warp, (at, lane), (part, bytes, Touch::Write), ending)?;
        }
        for row in map.rows(coordinates) {
            let mut bytes = fill[..width].repeat(map.box_dims[0] as usize);
            if row.bytes > 0 {
                let from = self.tensor_bytes(warp, lane, row.global, row.bytes)?;
                let read = (from, row.bytes.into(), Touch::Read);
                self.follow(warp, (at, lane), read, ending)?;
                let inside = self.read_bytes(warp, lane, from, row.bytes as usize);
                bytes[row.skipped as usize..][..row.bytes as usize].copy_from_slice(&inside);
            }
            for (chunk, bytes) in bytes.chunks_exact(16).enumerate() {
                let place = swizzled(map, to, row.shared + 16 * chunk as u32);
                self.write_bytes(warp, lane, place, bytes);
            }
        }
        Ok(())
    }

    fn store_box(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        (map, coordinates): (&TensorMap, &[i32]),
        (from, reduce): (Place, Option<Reduction>),
    ) -> Done {
        if let Some(how) = reduce.filter(|how| !how.exists_for(map.dtype)) {
            return Err(invalid(format!("no reduction {how:?} for elements {:?}", map.dtype)));
        }
        for (part, bytes) in box_parts(map, from) {
            self.follow(warp, (at, lane), (part, bytes, Touch::Read), Ending::Group)?;
        }
        for row in map.rows(coordinates).filter(|row| row.bytes > 0) {
            let chunks = (0..map.row_bytes() / 16).flat_map(|chunk| {
                let place = swizzled(map, from, row.shared + 16 * chunk);
                self.read_bytes(warp, lane, place, 16)
            });
            let bytes: Vec<u8> = chunks.collect();
            let bytes = &bytes[row.skipped as usize..][..row.bytes as usize];
            let to = self.tensor_bytes(warp, lane, row.global, row.bytes)?;
            let touch = if reduce.is_some() { Touch::Atomic } else { Touch::Write };
            let access = (to, row.bytes.into(), touch);
            self.follow(warp, (at, lane), access, Ending::Group)?;
            match reduce {
                Some(how) => self.reduce_bytes(warp, lane, to, (bytes, (how, map.dtype))),
                None => self.write_bytes(warp, lane, to, bytes),
            }
        }
        Ok(())
    }

    fn store_async(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        store: &StoreAsync,
    ) -> Done {
        let width = usize::from(store.bytes);
        let bytes = width * store.values.len as usize;
        let address = self.address(warp, at, &store.to, lane);
        let to = self.locate(warp, lane, (store.to.space, address), bytes as u64)?;
        let object = self.object_beside(warp, (at, lane), &store.mbarrier, to)?;
        let ending = Ending::Object(object);
        let touch = if store.reduce.is_some() { Touch::Atomic } else { Touch::Write };
        self.follow(warp, (at, lane), (to, bytes as u64, touch), ending)?;
        let module = self.setup.module;
        for (index, row) in module.list(store.values).iter().enumerate() {
            let value = warp.row(at, *row).0[lane].to_le_bytes();
            let place = to.behind((index * width) as u64);
            match store.reduce {
                Some(reduce) => self.reduce_bytes(warp, lane, place, (&value[..width], reduce)),
                None => self.write_bytes(warp, lane, place, &value[..width]),
            }
        }
        self.ends(warp, (at, lane), ending, bytes as u32)
    }

    /// `tensormap.replace`.
    fn replace(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        map: &Address,
        (field, value): (Field, Row),
    ) -> Done {
        let address = self.address(warp, at, map, lane);
        let place = self.locate_part(warp, lane, (map.space, address), (64, BYTES as u64))?;
        let Some((offset, width)) = field.place() else { return Ok(()) };
        let mut bytes = [0; BYTES];
        field.replace(&mut bytes, warp.row(at, value).0[lane]);
        let place = place.behind(offset as u64);
        if CHECK {
            let access = Access::of(place, width as u64, Touch::Write, WEAK);
            self.touch(warp, at, lane, access);
        }
        self.write_bytes(warp, lane, place, &bytes[offset..offset + width]);
        Ok(())
    }

    /// `tensormap.cp_fenceproxy`.
    fn publish(
        &mut self,
        warp: &mut Warp,
        (at, lane): (&At, usize),
        to: &Address,
        from: &Address,
    ) -> Done {
        let (source, target) =
            (self.address(warp, at, from, lane), self.address(warp, at, to, lane));
        let source = self.locate_part(warp, lane, (from.space, source), (128, BYTES as u64))?;
        let target = self.locate_part(warp, lane, (to.space, target), (128, BYTES as u64))?;
        if CHECK {
            let of = |place, touch| Access::of(place, BYTES as u64, touch, WEAK);
            self.touch(warp, at, lane, of(source, Touch::Read));
            self.touch(warp, at, lane, of(target, Touch::Write));
        }
        let bytes = self.read_bytes(warp, lane, source, BYTES);
        self.write_bytes(warp, lane, target, &bytes);
        Ok(())
    }
}

/// The widest accesses, up to eight bytes, that fit the alignment of a place and divide a number of bytes.
fn width_at(place: Place, bytes: usize) -> usize {
    1 << (place.offset() | bytes as u64 | 8).trailing_zeros()
}

/// The contiguous parts of shared memory that a box takes: all of it but the last line of a swizzle, of which
/// the chunks may lie anywhere in the line.
fn box_parts(map: &TensorMap, start: Place) -> impl Iterator<Item = (Place, u64)> + '_ {
    let bytes = map.box_bytes();
    let whole = match map.swizzle {
        Swizzle::None => bytes,
        _ => bytes - bytes % u64::from(map.swizzle.row_bytes()),
    };
    let lines = (whole > 0).then_some((start, whole));
    let chunks = (whole..bytes).step_by(16).map(move |at| (swizzled(map, start, at as u32), 16));
    lines.into_iter().chain(chunks)
}

/// Where a byte of a box lies in shared memory.
fn swizzled(map: &TensorMap, start: Place, offset: u32) -> Place {
    match start {
        Place::Shared(rank, at) => {
            Place::Shared(rank, map.swizzle.apply(at as u32 + offset).into())
        }
        other => other.behind(offset.into()),
    }
}
