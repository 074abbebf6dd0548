//! `wgmma`: four warps multiply 64 rows; each warp does its own sixteen when it comes to the instruction.
//!
//! # Invariants
//! - The product is there at once; until the wait the checks treat registers and operands as in use.
//! - A wait lets a warp go on only when the other warps of its warpgroup have done the same products:
//!   what it then frees is not read any more.

use super::engine::Engine;
use super::lanes::{At, Flow, lanes};
use super::state::{Awaited, Cta, Descriptors, State, Warp};
use crate::check::{MAX_GROUPS, finding};
use crate::matrix::product::Scale;
use crate::matrix::{Descriptor, Element, Major, Wgmma};
use crate::module::{Lanes, Left, Multiply, Row, WgmmaOp};

/// A tile in shared memory: where, what, and which part of it is wanted.
struct Tile {
    descriptor: Descriptor,
    major: Major,
    element: Element,
    /// First row (or column) and how many.
    first: usize,
    count: usize,
    depth: usize,
}

impl Tile {
    /// Every chunk of sixteen bytes: its address, and the row and depth of its first element.
    fn chunks(&self) -> impl Iterator<Item = (u32, usize, usize)> + '_ {
        let bytes = self.element.bits() / 8;
        let per_chunk = (16 / bytes) as usize;
        let (along, across) = match self.major {
            Major::K => (self.depth, self.count),
            Major::Mn => (self.count, self.depth),
        };
        (0..across).flat_map(move |outer| {
            (0..along / per_chunk).map(move |chunk| {
                let inner = chunk * per_chunk;
                let (row, k) = match self.major {
                    Major::K => (outer, inner),
                    Major::Mn => (inner, outer),
                };
                let mn = (self.first + row) as u32;
                (self.descriptor.address(self.major, bytes, mn, k as u32), row, k)
            })
        })
    }
}

impl<const CHECK: bool> Engine<'_, CHECK> {
    pub(super) fn wgmma(&mut self, warp: &mut Warp, at: &At, op: &WgmmaOp) -> Flow {
        if let Some(flow) = self.whole_warp(warp, at) {
            return flow;
        }
        if let Some(message) = self.partial_warpgroup(warp) {
            self.fail(finding::PARTIAL_WARP, (warp, at.active), at.pc, message);
            return Flow::Stop;
        }
        match op {
            WgmmaOp::Fence => {
                if CHECK {
                    self.fence_registers(warp);
                }
                Flow::Next
            }
            WgmmaOp::Commit => {
                let products = &mut warp.products;
                products.committed.push_back(products.issued);
                // Of too many groups the oldest two are one.
                if products.committed.len() > MAX_GROUPS {
                    products.committed.pop_front();
                }
                Flow::Next
            }
            WgmmaOp::Wait { pending } => self.wait_products(warp, *pending as usize),
            WgmmaOp::Multiply(multiply) => self.multiply_async(warp, at, multiply),
        }
    }

    /// Why the warp has no whole warpgroup around it.
    fn partial_warpgroup(&self, warp: &Warp) -> Option<String> {
        let warps = self.ctas[warp.cta as usize].warps.len();
        let first = warp.index as usize / Wgmma::WARPS * Wgmma::WARPS;
        (first + Wgmma::WARPS > warps)
            .then(|| format!("the CTA has {warps} warps, no whole warpgroup from warp {first} on"))
    }

    fn wait_products(&mut self, warp: &mut Warp, pending: usize) -> Flow {
        let committed = &warp.products.committed;
        let done = committed.len().saturating_sub(pending);
        let Some(target) = done.checked_sub(1).map(|last| committed[last]) else {
            return Flow::Next;
        };
        if !self.warpgroup_has_issued(warp.cta, warp.index, target) {
            return Flow::Wait(State::Await(Awaited::Warpgroup { target }));
        }
        warp.products.committed.drain(..done);
        if CHECK {
            self.land_products(warp, target);
        }
        Flow::Next
    }

    /// Whether the other warps of the warpgroup have come to as many products.
    pub(super) fn warpgroup_has_issued(&self, cta: u32, warp: u32, target: u64) -> bool {
        let first = warp as usize / Wgmma::WARPS * Wgmma::WARPS;
        let warps = &self.ctas[cta as usize].warps;
        (first..first + Wgmma::WARPS)
            .all(|other| other == warp as usize || warps[other].products.issued >= target)
    }

    fn multiply_async(&mut self, warp: &mut Warp, at: &At, multiply: &Multiply) -> Flow {
        let module = self.setup.module;
        let wgmma = &multiply.wgmma;
        let (left, right) = wgmma.elements();
        let depth = wgmma.depth();
        let rows = 16 * (warp.index as usize % Wgmma::WARPS);
        let a = match multiply.a {
            Left::Registers(list) => {
                let registers = module.list(list);
                let held = std::array::from_fn(|register| warp.words(at, registers[register]));
                wgmma.operand_of_warp(&held)
            }
            Left::Descriptor(row, major) => {
                let tile = (major, left, rows, 16, depth);
                match self.tile(warp, at, row, tile) {
                    Ok(tile) => self.fetch(warp, at, &tile, |row, k| row * depth + k),
                    Err(flow) => return flow,
                }
            }
        };
        let columns = wgmma.columns();
        let tile = (multiply.b_major, right, 0, columns, depth);
        let b = match self.tile(warp, at, multiply.b, tile) {
            Ok(tile) => self.fetch(warp, at, &tile, |column, k| k * columns + column),
            Err(flow) => return flow,
        };
        if let Some(message) = self.other_descriptors(warp, at, multiply) {
            self.fail(finding::DESCRIPTOR, (warp, at.active), at.pc, message);
            return Flow::Stop;
        }
        let accumulate = warp.holds(at, multiply.accumulate) & at.active;
        if accumulate != 0 && accumulate != at.active {
            let message = "the lanes of the warp have different values of scale-d".to_owned();
            self.fail(finding::DESCRIPTOR, (warp, at.active), at.pc, message);
            return Flow::Stop;
        }
        let scale = Scale {
            accumulate: accumulate != 0,
            negate_a: multiply.negate_a,
            negate_b: multiply.negate_b,
        };
        let rows = module.list(multiply.d);
        let mut sums: Vec<[u32; 32]> = rows.iter().map(|row| warp.words(at, *row)).collect();
        wgmma.execute_warp(&a, &b, scale, &mut sums);
        for (row, lanes) in rows.iter().zip(&sums) {
            warp.write(at, *row, &Lanes(lanes.map(u64::from)));
        }
        warp.products.issued += 1;
        warp.products.last_pc = at.pc;
        if CHECK {
            self.use_registers(warp, at, multiply);
            if let Some(message) = self.checker.overflow() {
                self.fail(finding::STEPS, (warp, at.active), at.pc, message);
                return Flow::Stop;
            }
        }
        Flow::Next
    }

    /// Why the warps of the warpgroup do not multiply the same tiles, if that is so.
    fn other_descriptors(&mut self, warp: &Warp, at: &At, multiply: &Multiply) -> Option<String> {
        let a = match multiply.a {
            Left::Registers(_) => 0,
            Left::Descriptor(row, _) => warp.first(at, row),
        };
        let own = [a, warp.first(at, multiply.b)];
        let (number, first) = (warp.products.issued, warp.index as usize / Wgmma::WARPS);
        let Cta { warps, descriptors, .. } = &mut self.ctas[warp.cta as usize];
        let Descriptors { before, given } = &mut descriptors[first];
        // Of products that a warp is far behind with, nothing is known any more.
        let place = number.checked_sub(*before)? as usize;
        let differ = match given.get(place) {
            Some((others, by)) if *others != own => Some(format!(
                "the matrix descriptors {:#018x} and {:#018x}, where warp {by} of the warpgroup has \
                 {:#018x} and {:#018x}",
                own[0], own[1], others[0], others[1]
            )),
            Some(_) => None,
            None => {
                given.push_back((own, warp.index));
                None
            }
        };
        let others = warps[Wgmma::WARPS * first..].iter().take(Wgmma::WARPS);
        let others = others.filter(|other| other.index != warp.index);
        let done = others.map(|other| other.products.issued).min().unwrap_or(0).min(number + 1);
        while *before < done || given.len() > MAX_GROUPS {
            given.pop_front();
            *before += 1;
        }
        differ
    }

    /// The tile of a descriptor, if every byte of it lies in shared memory.
    fn tile(
        &mut self,
        warp: &Warp,
        at: &At,
        row: Row,
        (major, element, first, count, depth): (Major, Element, usize, usize, usize),
    ) -> Result<Tile, Flow> {
        let bits = warp.first(at, row);
        let descriptor = Descriptor::decode(bits);
        let tile = Tile { descriptor, major, element, first, count, depth };
        let bytes = self.ctas[warp.cta as usize].shared.len();
        let stray = Descriptor::stray_bits(bits);
        let differs = |lane: usize| warp.row(at, row).0[lane] != bits;
        let message = if lanes(at.active).any(differs) {
            "the lanes of the warp have different matrix descriptors".to_owned()
        } else if stray != 0 {
            format!("the matrix descriptor {bits:#018x} has reserved bits set: {stray:#x}")
        } else if !descriptor.pattern_is_aligned() {
            format!(
                "the matrix descriptor {bits:#018x} starts at {:#x}, off the pattern of its swizzle by \
                 other than its base offset, {}",
                descriptor.start, descriptor.base_offset
            )
        } else if let Some((address, ..)) =
            tile.chunks().find(|(address, ..)| *address as usize + 16 > bytes)
        {
            format!(
                "the matrix descriptor {bits:#018x} leads to byte {address} of {bytes} of shared memory"
            )
        } else {
            return Ok(tile);
        };
        self.fail(finding::DESCRIPTOR, (warp, at.active), at.pc, message);
        Err(Flow::Stop)
    }

    /// The values of a tile; `place` says where an element belongs.
    fn fetch(
        &mut self,
        warp: &mut Warp,
        at: &At,
        tile: &Tile,
        place: impl Fn(usize, usize) -> usize,
    ) -> Vec<f64> {
        let bits = tile.element.bits();
        let mut values = vec![0.0; tile.count * tile.depth];
        let shared = &self.ctas[warp.cta as usize].shared;
        for (address, row, k) in tile.chunks() {
            let chunk = std::array::from_fn(|byte| shared[address as usize + byte]);
            let chunk = u128::from_le_bytes(chunk);
            for index in 0..(128 / bits) as usize {
                let at = match tile.major {
                    Major::K => place(row, k + index),
                    Major::Mn => place(row + index, k),
                };
                values[at] = tile.element.value((chunk >> (index as u32 * bits)) as u64);
            }
        }
        if CHECK {
            for (address, ..) in tile.chunks() {
                self.read_by_product(warp, at, address);
            }
        }
        values
    }
}
