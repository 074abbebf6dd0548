//! wgmma: registers and operands between a product and the wait for it.
//!
//! # How
//! - `wgmma.fence` makes every register of the warp *clean*; another instruction that writes one makes it dirty.
//!   A product may use clean registers and the accumulators of products before it.
//! - Until a wait covers a product, its accumulators are not touched and its operands not written.

use super::flight::AsyncAccess;
use super::{Checker, finding};
use crate::execute::{At, Busy, Ending, Engine, Place, Touch, Warp};
use crate::module::{Left, Multiply, Op, PRED_BIT};

impl<const CHECK: bool> Engine<'_, CHECK> {
    /// `wgmma.fence`: what was written to registers so far is ordered before the products to come.
    pub(crate) fn fence_registers(&mut self, warp: &mut Warp) {
        let rows = warp.rows.len();
        warp.products.clean.clear();
        warp.products.clean.resize(rows, true);
    }

    /// Follows what an instruction other than a product does to the registers of products.
    pub(crate) fn check_products(&mut self, warp: &mut Warp, at: &At) {
        let module = self.setup.module;
        let meta = &module.meta[at.pc as usize];
        if at.active == 0 || matches!(module.code[at.pc as usize].op, Op::Wgmma(_)) {
            return;
        }
        let rows = |list| module.list(list).iter().filter(|row| *row & PRED_BIT == 0);
        let place = |row: &u32| at.rows as u32 + row;
        let mut touched = None;
        if !warp.products.busy.is_empty() {
            let busy = &warp.products.busy;
            let read = rows(meta.reads)
                .find_map(|row| busy.get(&place(row)).filter(|busy| busy.accumulates));
            let written = rows(meta.writes).find_map(|row| busy.get(&place(row)));
            touched = read.or(written).copied();
        }
        for row in rows(meta.writes) {
            if let Some(clean) = warp.products.clean.get_mut(place(row) as usize) {
                *clean = false;
            }
        }
        if let Some(busy) = touched {
            let what = if busy.accumulates { "the accumulator" } else { "an operand" };
            let message = format!("{what} of a wgmma that nobody waited for");
            let found =
                super::raw(finding::WGMMA_REGISTER, (warp, 0), at.pc, Some(busy.pc), message);
            self.report_raw(warp, found);
        }
    }

    /// A product takes its registers.
    pub(crate) fn use_registers(&mut self, warp: &mut Warp, at: &At, multiply: &Multiply) {
        if !self.setup.options.checks.races {
            return;
        }
        let module = self.setup.module;
        let operands = match multiply.a {
            Left::Registers(list) => module.list(list),
            Left::Descriptor(..) => &[],
        };
        let number = warp.products.issued;
        let each = module.list(multiply.d).iter().map(|row| (row, true));
        let each = each.chain(operands.iter().map(|row| (row, false)));
        let mut dirty = false;
        for (row, accumulates) in each {
            let row = at.rows as u32 + row;
            let chained = warp.products.busy.get(&row).is_some_and(|busy| busy.accumulates);
            dirty |= !warp.products.clean.get(row as usize).copied().unwrap_or(false) && !chained;
            warp.products.busy.insert(row, Busy { number, accumulates, pc: at.pc });
        }
        if dirty {
            let message =
                "a register of this wgmma was written without a wgmma.fence behind it".to_owned();
            self.report(finding::WGMMA_FENCE, (warp, at.active), at.pc, message);
        }
    }

    /// A product reads sixteen bytes of shared memory.
    pub(crate) fn read_by_product(&mut self, warp: &mut Warp, at: &At, address: u32) {
        let place = Place::Shared(warp.cta, address.into());
        let ending = Ending::Product(warp.products.issued + 1);
        let access = AsyncAccess { place, bytes: 16, touch: Touch::Read, ending };
        for found in self.checker.touch_async(warp, (at, 0), access) {
            self.report_raw(warp, found);
        }
    }

    /// The products up to `target` are done: registers are free, and the warp knows that nobody reads the
    /// operands any more.
    pub(crate) fn land_products(&mut self, warp: &mut Warp, target: u64) {
        warp.products.busy.retain(|_, busy| busy.number > target);
        self.checker.land_products(warp, target);
    }
}

impl Checker {
    /// Products of the whole warpgroup land: a wait means that all four warps have done them.
    fn land_products(&mut self, warp: &Warp, target: u64) {
        if !self.checks.races {
            return;
        }
        let products = self.products();
        let warpgroup = (warp.cta, warp.index / 4);
        let flights = std::mem::take(self.engines.products.entry(warpgroup).or_default());
        let (done, left): (Vec<_>, Vec<_>) =
            flights.into_iter().partition(|flight| flight.product <= target);
        self.engines.products.insert(warpgroup, left);
        let clocks = &mut self.clocks[warp.cta as usize];
        let stamp = clocks.stamp(products, 0, 0);
        let snapshot = clocks.release(products.into());
        for lane in 0..32 {
            clocks.acquire(warp.index as usize * 32 + lane, &snapshot);
        }
        for flight in &done {
            self.land(flight, stamp);
        }
    }
}
