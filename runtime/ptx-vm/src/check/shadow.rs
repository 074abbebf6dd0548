//! What memory went through: who wrote and read each granule last, and which bytes have a value.
//!
//! # How
//! - Memory is remembered in pages of [`PAGE_BYTES`], each in granules of its own size: of the narrowest
//!   access that the page saw. A page whose granules turn out too large is split, each part with the past
//!   of the whole.
//! - Writers, readers and second readers lie apart, and only where there are any.
//!
//! # Invariants
//! - Every access covers whole granules, but for those narrower than the smallest store of the module:
//!   two stores to different bytes never meet in one granule. Bulk copies may: their stamps say which
//!   bytes of a granule they touch.
//! - Of readers that nothing orders, all are kept while threads may meet partly; else two say enough.

use super::clock::Stamp;
use super::release::Releases;
use super::{IN_FLIGHT, meets_partly};
use crate::execute::{Place, Setup};
use crate::module::{BulkOp, Op};

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;
/// Bytes of the largest granule: no thread reads or writes more at once.
const MAX_GRANULE: u64 = 16;
/// The `cta` of what is no stamp but the number, in `epoch`, of a list of readers.
pub(super) const LIST: u32 = u32::MAX;

/// Lists of the readers of granules that many read.
#[derive(Debug, Default)]
struct Lists {
    /// Whether all readers are kept.
    exact: bool,
    lists: Vec<Vec<Stamp>>,
    free: Vec<u32>,
}

impl Lists {
    /// A new list, as it is kept in a page.
    fn begin(&mut self, readers: Vec<Stamp>) -> Stamp {
        let epoch = self.free.pop().unwrap_or_else(|| {
            self.lists.push(Vec::new());
            self.lists.len() as u32 - 1
        });
        self.lists[epoch as usize] = readers;
        Stamp { cta: LIST, epoch, ..Stamp::default() }
    }

    fn of(&mut self, kept: Stamp) -> Option<&mut Vec<Stamp>> {
        if kept.cta == LIST { self.lists.get_mut(kept.epoch as usize) } else { None }
    }

    fn end(&mut self, kept: Stamp) {
        if let Some(list) = self.of(kept) {
            list.clear();
            self.free.push(kept.epoch);
        }
    }
}

/// The last accesses of the granules of a page.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Bytes of a granule, as a power of two; of none before the first access.
    shift: u32,
    bytes: u64,
    /// Each by granule, or empty.
    pub(super) writes: Vec<Stamp>,
    pub(super) reads: Vec<Stamp>,
    /// A second reader, or a list of all.
    pub(super) seconds: Vec<Stamp>,
}

impl Page {
    fn is_fresh(&self) -> bool {
        self.writes.is_empty() && self.reads.is_empty()
    }

    /// Granules that `bytes` bytes at `offset` in the page make up, if it is divided finely enough.
    #[inline]
    pub(super) fn granules(&self, offset: u64, bytes: u64) -> Option<std::ops::Range<usize>> {
        let first = offset >> self.shift;
        let count = bytes >> self.shift;
        (count > 0).then(|| first as usize..(first + count) as usize)
    }

    /// Makes granules of at most `1 << shift` bytes.
    fn divide(&mut self, shift: u32, lists: &mut Lists) {
        if self.is_fresh() {
            self.shift = shift;
        }
        let Some(parts) = self.shift.checked_sub(shift).filter(|finer| *finer > 0) else { return };
        let repeated = |kept: &Stamp| std::iter::repeat_n(*kept, 1 << parts);
        for kept in [&mut self.writes, &mut self.reads, &mut self.seconds] {
            *kept = kept.iter().flat_map(repeated).collect();
        }
        for (index, second) in self.seconds.iter_mut().enumerate() {
            // The first part keeps the list.
            if index % (1 << parts) != 0
                && let Some(list) = lists.of(*second).cloned()
            {
                *second = lists.begin(list);
            }
        }
        self.shift = shift;
    }

    fn clear(&mut self) {
        self.writes.clear();
        self.reads.clear();
        self.seconds.clear();
    }
}

/// A granule that an access touches.
pub(super) struct Cell<'h> {
    page: &'h mut Page,
    index: usize,
    lists: &'h mut Lists,
    /// The bytes that the access touches, a bit each; 0 for all.
    pub(super) touched: u16,
}

impl Cell<'_> {
    fn get(&self, kept: &[Stamp]) -> Stamp {
        kept.get(self.index).copied().unwrap_or_default()
    }

    /// The last write.
    pub(super) fn write(&self) -> Stamp {
        self.get(&self.page.writes)
    }

    fn put(index: usize, (page_bytes, shift): (u64, u32), kept: &mut Vec<Stamp>, stamp: Stamp) {
        if kept.is_empty() {
            if stamp == Stamp::default() {
                return;
            }
            kept.resize(page_bytes.div_ceil(1 << shift) as usize, Stamp::default());
        }
        kept[index] = stamp;
    }

    pub(super) fn set_write(&mut self, stamp: Stamp) {
        Self::put(self.index, (self.page.bytes, self.page.shift), &mut self.page.writes, stamp);
    }

    fn set_read(&mut self, stamp: Stamp) {
        Self::put(self.index, (self.page.bytes, self.page.shift), &mut self.page.reads, stamp);
    }

    fn set_second(&mut self, stamp: Stamp) {
        Self::put(self.index, (self.page.bytes, self.page.shift), &mut self.page.seconds, stamp);
    }

    /// Notes a reader; those that `known` says it knows are not needed any more.
    pub(super) fn add_reader(&mut self, stamp: Stamp, known: impl Fn(&Stamp) -> bool) {
        // Each flight of an engine is a reader of its own until it lands.
        let same = |other: &Stamp| {
            let thread = other.cta == stamp.cta && other.thread == stamp.thread;
            thread && (other.flags & IN_FLIGHT == 0 || other.epoch == stamp.epoch)
        };
        let (read, second) = (self.get(&self.page.reads), self.get(&self.page.seconds));
        if let Some(list) = self.lists.of(second) {
            match list.iter_mut().find(|other| same(other)) {
                Some(other) => *other = stamp,
                None => list.push(stamp),
            }
            return;
        }
        if read.cta == 0 || same(&read) || (second.cta == 0 && known(&read)) {
            self.set_read(stamp);
        } else if second.cta == 0 || same(&second) {
            self.set_second(stamp);
        } else if known(&read) {
            self.set_read(stamp);
        } else if known(&second) {
            self.set_second(stamp);
        } else if self.lists.exact {
            let list = self.lists.begin(vec![read, second, stamp]);
            self.set_second(list);
        }
    }

    /// A reader that is not ordered.
    pub(super) fn unordered_reader(&mut self, ordered: impl Fn(&Stamp) -> bool) -> Option<Stamp> {
        let both = [self.get(&self.page.reads), self.get(&self.page.seconds)];
        if let Some(list) = self.lists.of(both[1]) {
            return list.iter().copied().find(|other| !ordered(other));
        }
        both.into_iter().find(|other| other.cta != 0 && !ordered(other))
    }

    /// Replaces the readers that `which` picks.
    pub(super) fn replace_readers(
        &mut self,
        which: impl Fn(&Stamp) -> bool,
        by: impl Fn(&Stamp) -> Stamp,
    ) {
        let second = self.get(&self.page.seconds);
        let Page { reads, seconds, .. } = &mut *self.page;
        let replace = |reader: &mut Stamp| {
            which(reader).then(|| {
                *reader = by(reader);
                *reader
            })
        };
        if let Some(first) = reads.get_mut(self.index) {
            replace(first);
        }
        let Some(list) = self.lists.of(second) else {
            seconds.get_mut(self.index).and_then(replace);
            return;
        };
        let Some(new) = list.iter_mut().filter_map(replace).last() else { return };
        // Who knows the new one knows what the same thread did before, there and alike.
        let kind = |reader: &Stamp| (reader.cta, reader.thread, reader.flags, reader.pc);
        list.retain(|reader| kind(reader) != kind(&new));
        list.push(new);
    }

    pub(super) fn clear_readers(&mut self) {
        self.lists.end(self.get(&self.page.seconds));
        self.set_read(Stamp::default());
        self.set_second(Stamp::default());
    }
}

/// What a buffer, or the shared memory of a CTA, went through.
#[derive(Debug, Default)]
pub(super) struct Region {
    pages: Vec<Page>,
    /// Which bytes have a value, unless all have.
    pub(super) known: Option<Vec<bool>>,
}

impl Region {
    fn new(bytes: u64, known: Option<Vec<bool>>) -> Self {
        let page = |first: u64| Page { bytes: PAGE_BYTES.min(bytes - first), ..Page::default() };
        Self { pages: (0..bytes).step_by(PAGE_BYTES as usize).map(page).collect(), known }
    }

    /// The page that an offset lies in, the offset in it, and which bytes have a value.
    #[inline]
    pub(super) fn page(&mut self, offset: u64) -> (Option<&mut Page>, u64, Option<&mut Vec<bool>>) {
        let page = self.pages.get_mut((offset / PAGE_BYTES) as usize);
        (page, offset % PAGE_BYTES, self.known.as_mut())
    }
}

/// Regions of a kind.
#[derive(Debug, Default)]
struct Regions {
    all: Vec<Region>,
    lists: Lists,
}

/// What all memory went through.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Bytes of the smallest granule.
    granule: u64,
    /// By rank in the cluster.
    shared: Regions,
    /// By buffer.
    global: Regions,
    /// What was released, kept from cluster to cluster.
    pub(super) releases: Releases,
}

impl History {
    pub(crate) fn new(setup: &Setup<'_>) -> Self {
        let lists = || Lists { exact: meets_partly(setup), ..Lists::default() };
        let region = |buffer: &crate::memory::Buffer| {
            Region::new(buffer.bytes.len() as u64, buffer.known.clone())
        };
        let all = setup.memory.buffers.iter().map(region).collect();
        Self {
            granule: granule(setup),
            shared: Regions { all: Vec::new(), lists: lists() },
            global: Regions { all, lists: lists() },
            releases: Releases::default(),
        }
    }

    /// Of a buffer alone.
    #[cfg(test)]
    pub(super) fn of_one_buffer(granule: u64, exact: bool, bytes: u64) -> Self {
        let lists = Lists { exact, ..Lists::default() };
        let global = Regions { all: vec![Region::new(bytes, None)], lists };
        Self { granule, global, ..Self::default() }
    }

    /// Which bytes of each buffer have a value by now.
    pub(crate) fn into_known(self) -> Vec<Option<Vec<bool>>> {
        self.global.all.into_iter().map(|region| region.known).collect()
    }

    /// Shared memory is new for each cluster.
    pub(crate) fn begin_cluster(&mut self, ranks: usize, bytes: usize) {
        let Regions { all, lists } = &mut self.shared;
        lists.lists.clear();
        lists.free.clear();
        all.resize_with(ranks, || Region::new(bytes as u64, Some(vec![false; bytes])));
        for region in all {
            region.pages.iter_mut().for_each(Page::clear);
            region.known.iter_mut().for_each(|known| known.fill(false));
        }
    }

    /// Whether all readers are kept that nothing orders.
    pub(super) fn is_exact(&self) -> bool {
        self.global.lists.exact
    }

    /// The region of a place; none of what no two threads share.
    #[inline]
    pub(super) fn region(&mut self, place: Place) -> Option<&mut Region> {
        match place {
            Place::Shared(rank, _) => self.shared.all.get_mut(rank as usize),
            Place::Buffer(buffer, _) => self.global.all.get_mut(buffer as usize),
            Place::Local(_) | Place::Const(_) | Place::Param(_) => None,
        }
    }

    /// Calls `visit` for every granule that `bytes` bytes at a place touch, in order.
    pub(super) fn visit(&mut self, place: Place, bytes: u64, mut visit: impl FnMut(Cell<'_>)) {
        let (regions, index) = match place {
            Place::Shared(rank, _) => (&mut self.shared, rank),
            Place::Buffer(buffer, _) => (&mut self.global, buffer),
            Place::Local(_) | Place::Const(_) | Place::Param(_) => return,
        };
        let Regions { all, lists } = regions;
        let (mut first, end) = (place.offset(), place.offset() + bytes.max(1));
        while first < end {
            let start = first - first % PAGE_BYTES;
            let stop = end.min(start + PAGE_BYTES);
            let page = &mut all[index as usize].pages[(start / PAGE_BYTES) as usize];
            let (from, to) = (first - start, stop - start);
            page.divide(
                (from | to | MAX_GRANULE).trailing_zeros().max(self.granule.trailing_zeros()),
                lists,
            );
            let shift = page.shift;
            for index in from >> shift..=(to - 1) >> shift {
                let granule = (index << shift)..(index + 1) << shift;
                let touched = from.max(granule.start)..to.min(granule.end);
                let mask = |at: u64| (1u16 << (at - granule.start)) - 1;
                let touched =
                    if touched == granule { 0 } else { mask(touched.end) - mask(touched.start) };
                visit(Cell {
                    page: &mut *page,
                    index: index as usize,
                    lists: &mut *lists,
                    touched,
                });
            }
            first = stop;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Place = Place::Buffer(0, 0);

    fn stamp(thread: u16) -> Stamp {
        Stamp { cta: 1, thread, generation: 1, epoch: 1, ..Stamp::default() }
    }

    /// By byte, who wrote it last.
    fn writes(history: &mut History, bytes: u64) -> Vec<u16> {
        (0..bytes)
            .map(|at| {
                let mut thread = 0;
                history.visit(MEMORY.behind(at), 1, |cell| thread = cell.write().thread);
                thread
            })
            .collect()
    }

    #[test]
    fn a_page_that_is_divided_keeps_the_past_of_every_byte() {
        let mut history = History::of_one_buffer(1, true, 32);
        history.visit(MEMORY, 16, |mut cell| cell.set_write(stamp(1)));
        history.visit(MEMORY.behind(16), 16, |mut cell| cell.set_write(stamp(2)));
        history.visit(MEMORY.behind(12), 4, |mut cell| cell.set_write(stamp(3)));
        history.visit(MEMORY.behind(16), 2, |mut cell| cell.set_write(stamp(4)));
        let expected = [[1; 12].as_slice(), &[3; 4], &[4; 2], &[2; 14]].concat();
        assert_eq!(writes(&mut history, 32), expected);
    }

    #[test]
    fn parts_of_a_divided_granule_have_their_own_lists_of_readers() {
        let mut history = History::of_one_buffer(1, true, 16);
        for thread in 1..=4 {
            history.visit(MEMORY, 16, |mut cell| cell.add_reader(stamp(thread), |_| false));
        }
        history.visit(MEMORY, 8, |mut cell| cell.clear_readers());
        let reader = |history: &mut History, at: u64| {
            let mut found = None;
            history.visit(MEMORY.behind(at), 8, |mut cell| {
                found = cell.unordered_reader(|other| other.thread < 4);
            });
            found.map(|stamp| stamp.thread)
        };
        assert_eq!((reader(&mut history, 0), reader(&mut history, 8)), (None, Some(4)));
    }

    #[test]
    fn copies_of_a_thread_that_landed_one_after_the_other_are_one_reader() {
        let mut history = History::of_one_buffer(1, true, 16);
        for id in 0..50u32 {
            for thread in 1..=4 {
                let flying = Stamp { flags: IN_FLIGHT, epoch: id, ..stamp(100 + thread) };
                history.visit(MEMORY, 16, |mut cell| cell.add_reader(flying, |_| false));
                let landed = Stamp { epoch: id, ..stamp(thread) };
                history.visit(MEMORY, 16, |mut cell| {
                    cell.replace_readers(|other| *other == flying, |_| landed);
                });
            }
        }
        let left = std::cell::RefCell::new(Vec::new());
        history.visit(MEMORY, 16, |mut cell| {
            cell.unordered_reader(|other| {
                left.borrow_mut().push((other.thread, other.epoch));
                true
            });
        });
        let mut left = left.into_inner();
        left.sort_unstable();
        assert_eq!(left, (1..=4).map(|thread| (thread, 49)).collect::<Vec<_>>());
    }

    #[test]
    fn an_access_narrower_than_the_smallest_granule_says_which_bytes_it_touches() {
        let mut history = History::of_one_buffer(4, true, 16);
        let mut touched = Vec::new();
        history.visit(MEMORY.behind(3), 6, |cell| touched.push(cell.touched));
        assert_eq!(touched, [0b1000, 0, 0b0001]);
    }
}
