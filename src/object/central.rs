//! The shared half: the page tables, the sets of spans with free slots, and the words that all threads look at.
//!
//! # Safety
//! The tables' elements are atomics, for which zeros are a value. The map of spans and the records are lent by the page
//! heap, which outlives this.

use super::ShapeId;
use super::kind::{SpanClass, SpanKind};
use super::map::PageMap;
use super::meta::PageMeta;
use super::sweep::Sweep;
use crate::base::purpose::MAX_PURPOSES;
use crate::base::sync::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::base::{Address, Bytes, Exhausted, Lock, PAGE_SIZE, PageId, Pages, PurposeId, Rank, Scarce};
use crate::os::{SystemError, Table, Zeroed};
use crate::span::{Ground, NewSpan, PageHeap, Request, Span, SpanCache, SpanSet};
use crate::stats::{Account, Ledger, MetadataKind};

/// What an operation needs of the heap and of the calling mutator.
pub struct ObjectWork<'a, 'b> {
    /// Where spans come from and go to.
    pub ground: Ground<'a>,
    /// The mutator's pages and records.
    pub spans: &'b mut SpanCache,
}

/// Swept spans of one purpose and span class that have free slots and are in nobody's cache.
#[repr(align(64))]
pub(super) struct Partial(SpanSet);

// SAFETY: a set is a word, and zero is the empty one.
unsafe impl Zeroed for Partial {}

/// Sets of a purpose: one for every code.
const SETS: usize = 256;
/// Words with a bit for each purpose.
const PURPOSE_WORDS: usize = MAX_PURPOSES.div_ceil(64);

/// The collected objects of a heap, as far as mutators share them.
pub struct Objects {
    pub(super) base: Address,
    /// The region's first byte, as a pointer into it.
    pub(super) memory: *mut u8,
    pub(super) map: *const core::sync::atomic::AtomicU32,
    pub(super) records: *const Span,
    /// A code for each page.
    pub(super) kinds: Table<core::sync::atomic::AtomicU8>,
    pub(super) meta: Table<PageMeta>,
    pub(super) maps: Table<PageMap>,
    partial: Table<Partial>,
    /// Bytes from the base on for which there are codes.
    covered: AtomicUsize,
    /// The sweep generation: even. It goes on by 2 when marking ends.
    pub(super) generation: AtomicU32,
    /// Whether slots are handed out marked.
    marking: AtomicBool,
    /// What waits to be swept.
    pub(super) sweep: Sweep,
    /// Bytes that count as alive: those marked in the last cycle, and those taken since.
    pub(super) live: AtomicUsize,
    /// Bytes marked in advance since marking began.
    black: AtomicUsize,
    /// Whether dead objects are filled with a pattern.
    pub(super) poison: AtomicBool,
    /// A bit for each purpose that has sets of spans.
    purposes: [AtomicU64; PURPOSE_WORDS],
    /// Guards the growth of the tables.
    growth: Lock<()>,
}

// SAFETY: the lent tables are shared by all threads, and what they hold is atomic; the region is reached for dead objects
// alone.
unsafe impl Send for Objects {}
// SAFETY: as above.
unsafe impl Sync for Objects {}

impl Objects {
    /// Room for the objects of a heap, whose page heap outlives it.
    ///
    /// # Errors
    /// When the system refuses the address space.
    pub fn reserve(heap: &PageHeap, ledger: Ledger<'_>) -> Result<Objects, SystemError> {
        let (system, region) = (heap.system(), heap.region());
        let pages = region.size().0 / PAGE_SIZE;
        let marks = MetadataKind::ObjectMarks;
        let (bits, sets) = (MetadataKind::PointerBits, MAX_PURPOSES * SETS);
        // SAFETY: what is given back was just made, and nobody has seen it.
        let give_back = |tables: &[(&dyn AnyTable, MetadataKind)]| unsafe {
            tables.iter().for_each(|(table, kind)| table.give_back(*kind, ledger));
        };
        let kinds = Table::reserve(system, marks, pages, c"spanheap: object kinds", ledger)?;
        let meta = Table::reserve(system, marks, pages, c"spanheap: object marks", ledger)
            .inspect_err(|_| give_back(&[(&kinds, marks)]))?;
        let maps = Table::reserve(system, bits, pages, c"spanheap: pointer bits", ledger)
            .inspect_err(|_| give_back(&[(&kinds, marks), (&meta, marks)]))?;
        let partial = Table::reserve(system, marks, sets, c"spanheap: object spans", ledger)
            .inspect_err(|_| give_back(&[(&kinds, marks), (&meta, marks), (&maps, bits)]))?;
        Ok(Objects {
            base: region.base(),
            memory: region.page_pointer(PageId(0)),
            map: heap.map().as_ptr(),
            records: heap.records(),
            kinds,
            meta,
            maps,
            partial,
            covered: AtomicUsize::new(0),
            generation: AtomicU32::new(2),
            marking: AtomicBool::new(false),
            sweep: Sweep::new(),
            live: AtomicUsize::new(0),
            black: AtomicUsize::new(0),
            poison: AtomicBool::new(false),
            purposes: core::array::from_fn(|_| AtomicU64::new(0)),
            growth: Lock::new(Rank::Metadata, ()),
        })
    }

    /// The region's first byte.
    #[inline]
    pub fn base(&self) -> Address {
        self.base
    }

    /// Bytes from the base on within which objects can lie. It only grows.
    #[inline]
    pub fn covered(&self) -> Bytes {
        Bytes(self.covered.load(Ordering::Acquire))
    }

    /// The table of codes, one for each page. Those below [`Objects::covered`] are there.
    pub fn kinds_ptr(&self) -> *const core::sync::atomic::AtomicU8 {
        self.kinds.as_ptr()
    }

    /// The table of metadata, one for each page. That of pages whose code is that of a first page is there.
    pub fn meta_ptr(&self) -> *const PageMeta {
        self.meta.as_ptr()
    }

    /// Whether slots are handed out marked.
    #[inline]
    pub fn is_marking(&self) -> bool {
        self.marking.load(Ordering::Relaxed)
    }

    /// Says whether slots are handed out marked. The world stands still, and nothing waits to be swept.
    pub fn set_marking(&self, marking: bool) {
        debug_assert!(self.is_swept(), "marks of the last cycle are left");
        if marking {
            self.black.store(0, Ordering::Relaxed);
        }
        self.marking.store(marking, Ordering::Relaxed);
    }

    /// Bytes that count as alive: those that were marked when marking ended last, and those that caches have taken
    /// since, or large objects have. A cache tells what it took when that is some KiB.
    pub fn live(&self) -> Bytes {
        Bytes(self.live.load(Ordering::Relaxed))
    }

    /// Bytes marked in advance, because they were handed out while marking. Exact when all caches are flushed.
    pub fn black(&self) -> Bytes {
        Bytes(self.black.load(Ordering::Relaxed))
    }

    pub(super) fn set_live(&self, bytes: Bytes) {
        self.live.store(bytes.0, Ordering::Relaxed);
    }

    pub(super) fn add_live(&self, bytes: Bytes) {
        self.live.fetch_add(bytes.0, Ordering::Relaxed);
    }

    pub(super) fn add_black(&self, bytes: Bytes) {
        if bytes > Bytes::ZERO {
            self.black.fetch_add(bytes.0, Ordering::Relaxed);
        }
    }

    /// Takes back what a cache told and did not use.
    pub(super) fn untake(&self, bytes: Bytes) {
        self.live.fetch_sub(bytes.0, Ordering::Relaxed);
        if self.is_marking() {
            self.black.fetch_sub(bytes.0, Ordering::Relaxed);
        }
    }

    /// Has dead objects filled with a pattern when they are swept, to find those who use them. Costs time.
    pub fn set_poison(&self, poison: bool) {
        self.poison.store(poison, Ordering::Relaxed);
    }

    /// Whether a span is not swept yet in this generation.
    #[inline]
    pub(super) fn is_unswept(&self, meta: &PageMeta) -> bool {
        meta.is_unswept(self.generation.load(Ordering::Relaxed))
    }

    /// The swept spans with free slots of a purpose and a span class.
    ///
    /// # Panics
    /// When the purpose was not [added](Objects::add_purpose).
    #[inline]
    pub(super) fn partial(&self, purpose: PurposeId, code: SpanClass) -> &SpanSet {
        let at = purpose.index() * SETS + code.0 as usize;
        &self.partial.get(at).expect("the purpose has sets").0
    }

    /// Makes the sets for spans of a purpose.
    ///
    /// # Errors
    /// When the system refuses the memory.
    pub fn add_purpose(&self, purpose: PurposeId, ledger: Ledger<'_>) -> Result<(), SystemError> {
        let _growth = self.growth.lock();
        self.partial.ensure(purpose.index() * SETS..(purpose.index() + 1) * SETS, ledger)?;
        self.purposes[purpose.index() / 64].fetch_or(1 << (purpose.index() % 64), Ordering::Release);
        Ok(())
    }

    /// Purposes that have sets of spans.
    pub(super) fn purposes(&self) -> impl Iterator<Item = PurposeId> + '_ {
        let words = self.purposes.iter().enumerate();
        words.flat_map(|(at, word)| {
            super::meta::ones(word.load(Ordering::Acquire)).map(move |bit| PurposeId((at * 64 + bit) as u8))
        })
    }

    /// Allocates a span for objects and publishes it, in the order that [`find`](super::find) tells.
    ///
    /// # Errors
    /// As for any span; also when there is no memory for its metadata.
    pub(super) fn open<'a>(
        &self,
        work: &mut ObjectWork<'a, '_>,
        purpose: PurposeId,
        code: SpanClass,
        pages: Pages,
    ) -> Result<NewSpan<'a>, Exhausted> {
        let request = Request::new(purpose, pages);
        let mut new = work.ground.allocate(work.spans, request)?;
        // Clearing would bring in what the system has: where that is a good part, it rather gets all of it.
        if code.is_large() && !new.fresh && new.released.0 * 4 >= pages.0 {
            new.fresh = work.ground.renew(work.spans, &new, request)?;
        }
        if let Err(error) = self.cover(&new, code, work.ground.ledger) {
            let name = work.ground.meters.name(purpose);
            // SAFETY: the span was just allocated, and nobody has its address.
            unsafe { work.ground.free(work.spans, new.id, Pages(0)) };
            let scarce = Scarce::System(error.0);
            return Err(Exhausted { scarce, purpose: name, wanted: pages.bytes(), limit: Bytes::ZERO });
        }
        let meta = self.meta.get(new.page.0).expect("the page is covered");
        meta.marks.clear();
        meta.scans.clear();
        meta.allocs.clear();
        meta.span.store(new.id.0, Ordering::Relaxed);
        meta.pages.store(pages.0 as u32, Ordering::Relaxed);
        meta.shape.store(ShapeId::PLAIN.0, Ordering::Relaxed);
        meta.attached.store(0, Ordering::Relaxed);
        meta.dirty.store(if new.fresh { 0 } else { u8::MAX }, Ordering::Relaxed);
        meta.swept.store(self.generation.load(Ordering::Relaxed), Ordering::Relaxed);
        for later in 1..pages.0 {
            self.set_code(new.page.plus(Pages(later)), SpanClass::LATER);
        }
        self.set_code(new.page, code);
        Ok(new)
    }

    /// Takes back what [`Objects::open`] published; the caller frees the span then.
    pub(super) fn close(&self, first: PageId, pages: Pages) {
        for page in 0..pages.0 {
            self.set_code(first.plus(Pages(page)), SpanClass::NONE);
        }
    }

    fn set_code(&self, page: PageId, code: SpanClass) {
        let entry = self.kinds.get(page.0).expect("the page is covered");
        entry.store(code.0, core::sync::atomic::Ordering::Release);
    }

    /// Has memory in the tables for a span.
    fn cover(&self, new: &NewSpan<'_>, code: SpanClass, ledger: Ledger<'_>) -> Result<(), SystemError> {
        let (first, end) = (new.page.0, new.page.0 + new.span.pages().0);
        let has_maps = matches!(code.row().kind, SpanKind::Mapped | SpanKind::Headed) && code.is_small();
        let covered = |page: usize| !has_maps || self.maps.get(page).is_some();
        if self.covered().0 >= end * PAGE_SIZE && self.meta.get(first).is_some() && (first..end).all(covered)
        {
            return Ok(());
        }
        let _growth = self.growth.lock();
        self.meta.ensure(first..first + 1, ledger)?;
        if has_maps {
            self.maps.ensure(first..end, ledger)?;
        }
        let known = self.covered.load(Ordering::Relaxed) / PAGE_SIZE;
        if known < end {
            // Codes come in whole units of the table, and what lies in the last one is there as well.
            self.kinds.ensure(known..end, ledger)?;
            let there = (end..self.kinds.capacity()).find(|&page| self.kinds.get(page).is_none());
            let covered = there.unwrap_or(self.kinds.capacity());
            self.covered.store(covered * PAGE_SIZE, Ordering::Release);
        }
        Ok(())
    }

    /// Bytes committed for the tables.
    pub fn committed(&self) -> Bytes {
        let marks =
            self.kinds.committed_bytes() + self.meta.committed_bytes() + self.partial.committed_bytes();
        marks + self.maps.committed_bytes()
    }

    /// Visits the memory of every table: its kind, where it begins and how long it is.
    pub fn for_each_table(&self, mut visit: impl FnMut(MetadataKind, Address, Bytes)) {
        let (marks, bits) = (MetadataKind::ObjectMarks, MetadataKind::PointerBits);
        self.kinds.committed_ranges().for_each(|(at, size)| visit(marks, at, size));
        self.meta.committed_ranges().for_each(|(at, size)| visit(marks, at, size));
        self.partial.committed_ranges().for_each(|(at, size)| visit(marks, at, size));
        self.maps.committed_ranges().for_each(|(at, size)| visit(bits, at, size));
    }

    /// The lock of the tables' growth, for `fork`.
    pub fn growth_lock(&self) -> &Lock<()> {
        &self.growth
    }

    /// Unmaps the tables.
    ///
    /// # Safety
    /// Nobody uses the objects any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.kinds.destroy();
            self.meta.destroy();
            self.maps.destroy();
            self.partial.destroy();
        }
    }

    /// Unmaps the tables, and takes them out of the books of a heap that goes on without.
    ///
    /// # Safety
    /// Nobody uses the objects any more.
    pub unsafe fn give_back(&self, ledger: Ledger<'_>) {
        let (marks, bits) = (MetadataKind::ObjectMarks, MetadataKind::PointerBits);
        let tables: [(&dyn AnyTable, MetadataKind); 4] =
            [(&self.kinds, marks), (&self.meta, marks), (&self.maps, bits), (&self.partial, marks)];
        // SAFETY: the caller's promise.
        tables.into_iter().for_each(|(table, kind)| unsafe { table.give_back(kind, ledger) });
    }
}

/// A table of whatever elements.
trait AnyTable {
    /// Gives the table back, and takes it out of the books.
    ///
    /// # Safety
    /// As for [`Table::destroy`].
    unsafe fn give_back(&self, kind: MetadataKind, ledger: Ledger<'_>);
}

impl<T> AnyTable for Table<T> {
    unsafe fn give_back(&self, kind: MetadataKind, ledger: Ledger<'_>) {
        ledger.post(|entry| {
            entry.transfer(Account::Metadata(kind), Account::Reserved, self.committed_bytes());
            entry.transfer(Account::Reserved, Account::System, self.reserved_bytes());
        });
        // SAFETY: the caller's promise.
        unsafe { self.destroy() }
    }
}
