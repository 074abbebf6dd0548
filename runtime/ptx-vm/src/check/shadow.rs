//! What memory went through: who wrote and read each granule last, and which bytes have a value.
//!
//! # Invariants
//! - A granule is as large as the smallest store of the module, so two stores to different bytes never
//!   meet in one. Bulk copies may: their stamps say which bytes of a granule they touch.
//! - Of readers that nothing orders, all are kept while threads may meet partly; else two say enough.

use super::clock::Stamp;
use super::release::Releases;
use super::{IN_FLIGHT, meets_partly};
use crate::execute::Setup;
use crate::module::{BulkOp, Op};

/// The last accesses of a granule.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cell {
    pub(super) write: Stamp,
    read: Stamp,
    /// A second reader, and 1 + the number of a list of all where there is one.
    second: Stamp,
    list: u32,
}

/// Lists of readers of granules that many read.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    exact: bool,
    lists: Vec<Vec<Stamp>>,
    free: Vec<u32>,
}

impl Readers {
    /// Notes a reader; those that `known` says it knows are not needed any more.
    pub(super) fn add(&mut self, cell: &mut Cell, stamp: Stamp, known: impl Fn(&Stamp) -> bool) {
        // Each flight of an engine is a reader of its own until it lands.
        let same = |other: &Stamp| {
            let thread = other.cta == stamp.cta && other.thread == stamp.thread;
            thread && (other.flags & IN_FLIGHT == 0 || other.epoch == stamp.epoch)
        };
        if cell.list != 0 {
            let list = &mut self.lists[cell.list as usize - 1];
            match list.iter_mut().find(|other| same(other)) {
                Some(other) => *other = stamp,
                None => list.push(stamp),
            }
            return;
        }
        if cell.read.cta == 0 || same(&cell.read) || (cell.second.cta == 0 && known(&cell.read)) {
            cell.read = stamp;
        } else if cell.second.cta == 0 || same(&cell.second) {
            cell.second = stamp;
        } else if known(&cell.read) {
            cell.read = stamp;
        } else if known(&cell.second) {
            cell.second = stamp;
        } else if self.exact {
            let index = self.free.pop().unwrap_or_else(|| {
                self.lists.push(Vec::new());
                self.lists.len() as u32 - 1
            });
            self.lists[index as usize].extend([cell.read, cell.second, stamp]);
            cell.list = index + 1;
        }
    }

    /// A reader that is not ordered.
    pub(super) fn unordered(&self, cell: &Cell, ordered: impl Fn(&Stamp) -> bool) -> Option<Stamp> {
        if cell.list != 0 {
            return self.lists[cell.list as usize - 1].iter().copied().find(|o| !ordered(o));
        }
        let both = [cell.read, cell.second];
        both.into_iter().find(|other| other.cta != 0 && !ordered(other))
    }

    /// Replaces the readers that `which` picks.
    pub(super) fn replace(
        &mut self,
        cell: &mut Cell,
        which: impl Fn(&Stamp) -> bool,
        by: impl Fn(&Stamp) -> Stamp,
    ) {
        let all: &mut [Stamp] = match cell.list {
            0 => &mut [],
            list => &mut self.lists[list as usize - 1],
        };
        for reader in all.iter_mut().chain([&mut cell.read, &mut cell.second]) {
            if which(reader) {
                *reader = by(reader);
            }
        }
    }

    pub(super) fn clear(&mut self, cell: &mut Cell) {
        if cell.list != 0 {
            self.lists[cell.list as usize - 1].clear();
            self.free.push(cell.list - 1);
        }
        (cell.read, cell.second, cell.list) = (Stamp::default(), Stamp::default(), 0);
    }
}

/// Granules of a page of global memory.
const PAGE: u64 = 1024;

/// What all memory went through.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Bytes of a granule.
    pub(crate) granule: u64,
    shared: Vec<Vec<Cell>>,
    shared_known: Vec<Vec<bool>>,
    /// Pages by buffer, empty until they are touched.
    global: Vec<Vec<Vec<Cell>>>,
    /// For buffers that were not initialised: which bytes have a value.
    global_known: Vec<Option<Vec<bool>>>,
    shared_readers: Readers,
    global_readers: Readers,
    /// What was released, kept from cluster to cluster.
    pub(super) releases: Releases,
}

impl History {
    pub(crate) fn new(setup: &Setup<'_>) -> Self {
        let exact = meets_partly(setup);
        let granule = granule(setup);
        let pages = |buffer: &crate::memory::Buffer| {
            let cells = (buffer.bytes.len() as u64).div_ceil(granule);
            vec![Vec::new(); cells.div_ceil(PAGE) as usize]
        };
        Self {
            granule,
            global: setup.memory.buffers.iter().map(pages).collect(),
            global_known: setup.memory.buffers.iter().map(|b| b.known.clone()).collect(),
            shared_readers: Readers { exact, ..Readers::default() },
            global_readers: Readers { exact, ..Readers::default() },
            ..Self::default()
        }
    }

    /// Which bytes of each buffer have a value by now.
    pub(crate) fn into_known(self) -> Vec<Option<Vec<bool>>> {
        self.global_known
    }

    /// Shared memory is new for each cluster.
    pub(crate) fn begin_cluster(&mut self, ranks: usize, bytes: usize) {
        let cells = bytes.div_ceil(self.granule as usize);
        self.shared = vec![vec![Cell::default(); cells]; ranks];
        self.shared_known = vec![vec![false; bytes]; ranks];
        let exact = self.shared_readers.exact;
        self.shared_readers = Readers { exact, ..Readers::default() };
    }

    pub(super) fn known_global(&mut self, buffer: u32) -> Option<&mut Vec<bool>> {
        self.global_known.get_mut(buffer as usize)?.as_mut()
    }

    pub(super) fn known_shared(&mut self, rank: u32) -> &mut Vec<bool> {
        &mut self.shared_known[rank as usize]
    }

    pub(super) fn shared_cell(&mut self, rank: u32, index: u64) -> (&mut Cell, &mut Readers) {
        (&mut self.shared[rank as usize][index as usize], &mut self.shared_readers)
    }

    pub(super) fn global_cell(&mut self, buffer: u32, index: u64) -> (&mut Cell, &mut Readers) {
        let page = &mut self.global[buffer as usize][(index / PAGE) as usize];
        if page.is_empty() {
            *page = vec![Cell::default(); PAGE as usize];
        }
        (&mut page[(index % PAGE) as usize], &mut self.global_readers)
    }
}

/// The bytes of the smallest store or atomic of a module.
fn granule(setup: &Setup<'_>) -> u64 {
    let stores = setup.module.code.iter().filter_map(|inst| match &inst.op {
        Op::Store(transfer) => Some(transfer.bytes),
        Op::Atomic(atomic) => Some(atomic.bytes),
        Op::Bulk(op) => match &**op {
            BulkOp::Copy(copy) => copy.byte_mask.map(|_| 1),
            _ => None,
        },
        _ => None,
    });
    stores.min().unwrap_or(4).clamp(1, 4).into()
}
