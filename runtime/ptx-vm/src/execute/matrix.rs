//! `mma`, `ldmatrix`, `stmatrix`, `movmatrix`: a warp works on fragments together.

use super::engine::Engine;
use super::lanes::{At, Flow};
use super::place::{Place, Touch, WEAK};
use super::state::{State, Warp};
use crate::check::{Access, finding};
use crate::matrix::Mma;
use crate::matrix::fragment::{self, Rows};
use crate::module::{Address, Lanes, List, MatrixOp};

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// What to do first when not all 32 lanes are here.
    pub(super) fn whole_warp(&mut self, warp: &Warp, at: &At) -> Option<Flow> {
        if at.active == u32::MAX {
            return None;
        }
        let missing = warp.live & !at.mask;
        if at.active == at.mask && missing != 0 && warp.live == u32::MAX {
            return Some(Flow::Wait(State::Converge { missing }));
        }
        let here = at.active.count_ones();
        let message = format!("{here} lanes execute what the 32 of a warp execute together");
        self.fail(finding::PARTIAL_WARP, (warp, at.active), at.pc, message);
        Some(Flow::Stop)
    }

    pub(super) fn matrix(&mut self, warp: &mut Warp, at: &At, op: &MatrixOp) -> Flow {
        if let Some(flow) = self.whole_warp(warp, at) {
            return flow;
        }
        match op {
            MatrixOp::Mma { mma, d, a, b, c } => {
                self.multiply(warp, at, mma, [*d, *a, *b, *c]);
                Flow::Next
            }
            MatrixOp::Load { at: from, transposed, d } => {
                self.load_matrices(warp, at, from, (*transposed, *d))
            }
            MatrixOp::Store { at: to, transposed, a } => {
                self.store_matrices(warp, at, to, (*transposed, *a))
            }
            MatrixOp::Transpose { d, a } => {
                let out = fragment::transpose(&warp.words(at, *a));
                warp.write(at, *d, &Lanes(out.map(u64::from)));
                Flow::Next
            }
        }
    }

    fn multiply(&mut self, warp: &mut Warp, at: &At, mma: &Mma, [d, a, b, c]: [List; 4]) {
        let module = self.setup.module;
        let rows = |list: List| module.list(list).iter();
        let result: Vec<Lanes> = if mma.is_double() {
            let take = |list| rows(list).map(|row| warp.row(at, *row).0).collect::<Vec<_>>();
            let result = mma.execute(&take(a), &take(b), &take(c));
            result.into_iter().map(Lanes).collect()
        } else {
            let take = |list| rows(list).map(|row| warp.words(at, *row)).collect::<Vec<_>>();
            let result = mma.execute(&take(a), &take(b), &take(c));
            result.into_iter().map(|lanes| Lanes(lanes.map(u64::from))).collect()
        };
        for (row, lanes) in rows(d).zip(&result) {
            warp.write(at, *row, lanes);
        }
    }

    /// Where the row of a matrix lies that `lane` gives the address of, and tells the checks of it.
    fn matrix_row(
        &mut self,
        warp: &mut Warp,
        at: &At,
        address: &Address,
        (lane, stored): (usize, Option<&[u8; 16]>),
    ) -> Result<Place, Flow> {
        let bytes = self.address(warp, at, address, lane);
        match self.locate(warp, lane, (address.space, bytes), 16) {
            Ok(place) => {
                if CHECK {
                    let touch = if stored.is_some() { Touch::Write } else { Touch::Read };
                    let mut access = Access::of(place, 16, touch, WEAK);
                    let held = || self.read_row(warp, lane, place);
                    access.same_value = stored.is_some_and(|bytes| *bytes == held());
                    self.touch(warp, at, lane, access);
                }
                Ok(place)
            }
            Err(fault) => Err(self.fault(warp, at, lane, fault)),
        }
    }

    /// The sixteen bytes of a row that was located.
    fn read_row(&self, warp: &Warp, lane: usize, place: Place) -> [u8; 16] {
        let word = |at: usize| self.read(warp, lane, place.behind(at as u64), 8).to_le_bytes();
        let (low, high) = (word(0), word(8));
        std::array::from_fn(|byte| if byte < 8 { low[byte] } else { high[byte - 8] })
    }

    fn load_matrices(
        &mut self,
        warp: &mut Warp,
        at: &At,
        from: &Address,
        (transposed, d): (bool, List),
    ) -> Flow {
        let module = self.setup.module;
        // All rows are read before a register is written: an address may stand in one of them.
        let mut loaded = Vec::with_capacity(4);
        for matrix in 0..d.len as usize {
            let mut rows = Rows::default();
            for (row, bytes) in rows.iter_mut().enumerate() {
                let lane = 8 * matrix + row;
                let place = match self.matrix_row(warp, at, from, (lane, None)) {
                    Ok(place) => place,
                    Err(flow) => return flow,
                };
                *bytes = self.read_row(warp, lane, place);
            }
            loaded.push(fragment::load(&rows, transposed));
        }
        for (row, lanes) in module.list(d).iter().zip(loaded) {
            warp.write(at, *row, &Lanes(lanes.map(u64::from)));
        }
        Flow::Next
    }

    fn store_matrices(
        &mut self,
        warp: &mut Warp,
        at: &At,
        to: &Address,
        (transposed, a): (bool, List),
    ) -> Flow {
        let module = self.setup.module;
        for (matrix, register) in module.list(a).iter().enumerate() {
            let rows = fragment::store(&warp.words(at, *register), transposed);
            for (row, bytes) in rows.iter().enumerate() {
                let lane = 8 * matrix + row;
                let place = match self.matrix_row(warp, at, to, (lane, Some(bytes))) {
                    Ok(place) => place,
                    Err(flow) => return flow,
                };
                for half in 0..2 {
                    let word = std::array::from_fn(|byte| bytes[8 * half + byte]);
                    let place = place.behind(8 * half as u64);
                    self.write(warp, lane, place, (8, u64::from_le_bytes(word)));
                }
            }
        }
        Flow::Next
    }
}
