//! The page heap: spans in, spans out.
//!
//! An allocation runs in this order, and gives everything back if a later step fails:
//!
//! 1. *charge* the purpose's meter;
//! 2. *take* pages: a run that the mutator has just freed, or pages from its page cache (fewer than 16), both
//!    without a lock, else from the page allocator under the lock, growing the heap where no run is long enough;
//! 3. *commit*: pages that the system has are about to be touched; the heap's limit is checked here;
//! 4. take a *record* and *publish* it, then the map entries;
//! 5. make the *entries* in the books.
//!
//! Freeing runs backwards: retire the record, make the entries, then let the pages go, into the mutator's page
//! cache if they belong to its block, into its stash if the run is short, else to the allocator under the lock. Entries come before the pages are free
//! for others, so no snapshot sees the next owner's entry without ours.
//!
//! Pages that the system has back read as zeros. The allocator knows them page by page, so a span of released
//! pages alone needs no clearing, whether its pages are fresh or came back later; and a holder who knows that the
//! tail of such a span was never touched says so when freeing, and the tail stays released.
//!
//! The room does not know what spans hold, and it decides nothing about when to release memory.
//! (Go: `mheap.allocSpan`, `freeSpanLocked`; there `zeroedBase` approximates what released bits tell exactly.)
//!
//! # Safety
//! System calls on pages are made only while this room holds those pages: taken and not yet published, or taken
//! from the allocator to be released.

use super::clean::Clean;
use super::map::SpanMap;
use super::meter::Meters;
use super::record::{Span, SpanId};
use super::registry::{RecordCache, Registry};
use super::release::{Given, Release};
use super::stash::{Run, Stash};
use crate::base::sync::{AtomicUsize, Ordering};
use crate::base::{
    Address, Bytes, CHUNK_PAGES, ChunkId, Exhausted, Lock, PAGE_SIZE, PageId, Pages, PurposeId, Rank, Scarce,
};
use crate::os::{GrowError, Region, ReserveError, System, SystemError};
use crate::page::{PageAllocator, PageCache, Taken};
use crate::stats::{Account, Ledger, MetadataKind};

/// Requests below this many pages are served by a mutator's page cache.
pub const CACHED_BELOW: Pages = Pages(16);

/// What is shared by all mutators of a heap: the ground, the spans, and the books.
pub struct PageHeap {
    system: System,
    pub(super) region: Region,
    pub(super) map: SpanMap,
    pub(super) registry: Registry,
    pub(super) pages: Lock<PageState>,
    /// Bytes of pages that the heap keeps from the system; metadata stands in the tables.
    pub(super) committed: AtomicUsize,
    /// Bytes of the page allocator's tables, which only the holder of the lock can ask.
    page_tables: AtomicUsize,
    /// Bytes of metadata to the right of this room.
    others: AtomicUsize,
    /// The most bytes that the heap may commit.
    pub(super) limit: AtomicUsize,
    pub(super) given: Given,
}

/// What the lock guards.
pub(super) struct PageState {
    pub(super) allocator: PageAllocator,
    /// Chunks below this one belong to the allocator.
    pub(super) handed: ChunkId,
}

/// A mutator's own part: pages and records that it can take without a lock.
#[derive(Default)]
pub struct SpanCache {
    pub(super) pages: PageCache,
    pub(super) stash: Stash,
    pub(super) records: RecordCache,
}

/// What a span is wanted for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Who the bytes belong to.
    pub purpose: PurposeId,
    /// How long the span is; at least one page.
    pub pages: Pages,
    /// A power of two; the span's address is a multiple of so many pages.
    pub align: Pages,
}

/// A span that was just allocated.
#[derive(Clone, Copy)]
pub struct NewSpan<'a> {
    /// Its number.
    pub id: SpanId,
    /// Its record.
    pub span: &'a Span,
    /// Its first page.
    pub page: PageId,
    /// Every page reads as zero, and none is resident.
    pub fresh: bool,
    /// Pages of which that is true.
    pub released: Pages,
}

/// The page heap and the books and meters that its work is entered in.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// Spans.
    pub heap: &'a PageHeap,
    /// Limits.
    pub meters: &'a Meters,
    /// The books, and the calling mutator's shard of them.
    pub ledger: Ledger<'a>,
}

/// Where pages were taken from.
struct Pick {
    taken: Taken,
    from: Account,
}

impl SpanCache {
    /// Pages in the cache.
    pub fn pages(&self) -> Pages {
        self.pages.pages() + self.stash.total()
    }
}

impl Request {
    /// A span of `pages` wherever it fits.
    pub fn new(purpose: PurposeId, pages: Pages) -> Request {
        Request { purpose, pages, align: Pages(1) }
    }
}

impl PageHeap {
    /// Reserves a heap of `wanted` bytes of address space, or what the system gives, at least `least`.
    ///
    /// # Errors
    /// [`ReserveError`] says what was wanted and what the system answered.
    pub fn reserve(
        system: System,
        wanted: Bytes,
        least: Bytes,
        ledger: Ledger<'_>,
    ) -> Result<PageHeap, ReserveError> {
        let region = Region::reserve(system, wanted, least, ledger)?;
        let pages = Pages(region.size().0 / Pages(1).bytes().0);
        // SAFETY: what is destroyed here was made here, and nobody has seen it.
        let take_down = |map: Option<&SpanMap>, registry: Option<&Registry>, error| unsafe {
            map.inspect(|map| map.destroy());
            registry.inspect(|registry| registry.destroy());
            region.destroy();
            ReserveError { wanted, least, error }
        };
        let map = SpanMap::reserve(system, pages, ledger).map_err(|e| take_down(None, None, e))?;
        let registry =
            Registry::reserve(system, pages.0, ledger).map_err(|e| take_down(Some(&map), None, e))?;
        let allocator = PageAllocator::new(system, pages, ledger)
            .map_err(|e| take_down(Some(&map), Some(&registry), e))?;
        Ok(PageHeap {
            system,
            region,
            map,
            registry,
            pages: Lock::new(Rank::Pages, PageState { allocator, handed: ChunkId(0) }),
            committed: AtomicUsize::new(0),
            page_tables: AtomicUsize::new(0),
            others: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            given: Given::default(),
        })
    }

    /// The system below.
    pub fn system(&self) -> System {
        self.system
    }

    /// The heap's address space.
    #[inline]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The map from pages to spans.
    pub fn map(&self) -> &SpanMap {
        &self.map
    }

    /// The record with this number.
    #[inline]
    pub fn span(&self, id: SpanId) -> Option<&Span> {
        self.registry.get(id)
    }

    /// All records, for the hot paths of rooms that have the number from the map.
    pub fn records(&self) -> *const Span {
        self.registry.as_ptr()
    }

    /// The records, as the holder of links between spans.
    pub fn links(&self) -> &Registry {
        &self.registry
    }

    /// Every span in use.
    pub fn spans(&self) -> impl Iterator<Item = (SpanId, &Span)> {
        self.registry.in_use()
    }

    /// The span that holds an address; any bit pattern is fine.
    #[inline]
    pub fn find(&self, address: Address) -> Option<(SpanId, &Span)> {
        let page = self.region.page_of(address)?;
        let id = self.map.get(page)?;
        let span = self.registry.get(id)?;
        span.holds(page).then_some((id, span))
    }

    /// Where an address of the region stands in the books.
    pub fn account_at(&self, address: Address) -> Account {
        if let Some((_, span)) = self.find(address) {
            return Account::Span(span.purpose());
        }
        let Some(page) = self.region.page_of(address) else { return Account::Reserved };
        let state = self.pages.lock();
        match (state.allocator.is_free(page), state.allocator.is_released(page)) {
            (_, true) => Account::Released,
            (true, false) => Account::Free,
            (false, false) => Account::Cached,
        }
    }

    /// Visits the memory of every table: its kind, where it begins and how long it is.
    pub fn for_each_table(&self, mut visit: impl FnMut(MetadataKind, Address, Bytes)) {
        self.map.committed_ranges().for_each(|(at, size)| visit(MetadataKind::SpanMap, at, size));
        self.registry.committed_ranges().for_each(|(at, size)| visit(MetadataKind::SpanRecords, at, size));
        let state = self.pages.lock();
        state.allocator.for_each_table(visit);
    }

    /// Bytes of every table that have memory, by kind.
    ///
    /// # Safety
    /// This thread called [`PageHeap::acquire_for_fork`].
    pub unsafe fn table_bytes(&self, mut visit: impl FnMut(MetadataKind, Bytes)) {
        visit(MetadataKind::SpanMap, Bytes(self.map.committed()));
        visit(MetadataKind::SpanRecords, Bytes(self.registry.committed()));
        // SAFETY: this thread holds the lock, and nobody else has a reference to what it guards.
        let state = unsafe { self.pages.held_mut() };
        state.allocator.for_each_table(|kind, _, size| visit(kind, size));
    }

    /// Bytes that the heap keeps from the system, metadata included.
    pub fn committed(&self) -> Bytes {
        let words = [&self.committed, &self.page_tables, &self.others];
        let counted: usize = words.into_iter().map(|word| word.load(Ordering::Relaxed)).sum();
        Bytes(counted + self.map.committed() + self.registry.committed())
    }

    /// Bytes of pages that the heap keeps from the system, free ones included.
    pub fn page_bytes(&self) -> Bytes {
        Bytes(self.committed.load(Ordering::Relaxed))
    }

    /// Says how much metadata there is to the right of this room: it counts for the limit.
    pub fn set_other_metadata(&self, bytes: Bytes) {
        self.others.store(bytes.0, Ordering::Relaxed);
    }

    /// The most bytes that the heap may commit.
    pub fn limit(&self) -> Option<Bytes> {
        let limit = self.limit.load(Ordering::Relaxed);
        (limit != usize::MAX).then_some(Bytes(limit))
    }

    /// Sets or lifts the limit on committed bytes. What is above it already stays; nothing more comes in.
    pub fn set_limit(&self, limit: Option<Bytes>) {
        self.limit.store(limit.map_or(usize::MAX, |bytes| bytes.0), Ordering::Relaxed);
    }

    /// Takes the heap's locks before a `fork`.
    pub fn acquire_for_fork(&self) {
        self.pages.acquire();
        self.registry.fresh_lock().acquire();
    }

    /// Gives them back, in parent and child.
    ///
    /// # Safety
    /// This thread called [`PageHeap::acquire_for_fork`], or is the only one left of a process that had.
    pub unsafe fn release_after_fork(&self) {
        // SAFETY: the caller's promise is the contract of both.
        unsafe {
            self.registry.fresh_lock().release();
            self.pages.release();
        }
    }

    /// Gives the whole address space back to the system.
    ///
    /// # Safety
    /// Nobody uses the heap or memory from it any more.
    pub unsafe fn destroy(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.pages.lock().allocator.destroy();
            self.map.destroy();
            self.registry.destroy();
            self.region.destroy();
        }
    }
}

impl<'a> Ground<'a> {
    /// Allocates a span. Its contents are undefined unless it is `fresh`.
    ///
    /// # Errors
    /// [`Exhausted`] says which limit or what answer of the system stood in the way; nothing has changed then.
    pub fn allocate(&self, local: &mut SpanCache, request: Request) -> Result<NewSpan<'a>, Exhausted> {
        self.allocate_against(local, request, None)
    }

    /// As [`Ground::allocate`], charged to a promise that the purpose's meter has made, as far as it is enough.
    ///
    /// # Errors
    /// As [`Ground::allocate`].
    pub fn allocate_against(
        &self,
        local: &mut SpanCache,
        request: Request,
        promise: Option<&AtomicUsize>,
    ) -> Result<NewSpan<'a>, Exhausted> {
        debug_assert!(request.pages.0 > 0 && request.align.0.is_power_of_two());
        if request.pages > Pages(self.heap.region.size().0 / Pages(1).bytes().0) {
            return Err(self.exhausted(request, Scarce::Size, Bytes::ZERO));
        }
        let bytes = request.pages.bytes();
        let drawn = promise.filter(|promise| self.meters.draw(request.purpose, promise, bytes));
        if drawn.is_none() {
            self.meters.charge(request.purpose, bytes)?;
        }
        self.allocate_charged(local, request)
            .or_else(|refused| {
                // What the mutator keeps for itself may be what is missing.
                if local.pages() == Pages(0) {
                    return Err(refused);
                }
                self.flush(local);
                self.allocate_charged(local, request)
            })
            .inspect_err(|_| match drawn {
                Some(promise) => self.meters.undraw(request.purpose, promise, bytes),
                None => self.meters.refuse(request.purpose, bytes),
            })
    }

    fn allocate_charged(&self, local: &mut SpanCache, request: Request) -> Result<NewSpan<'a>, Exhausted> {
        let Pick { taken, from } = self.pick(local, request)?;
        let id = self
            .commit(taken, request)
            .and_then(|()| {
                let record = self.heap.registry.take(&mut local.records, self.ledger);
                record.map_err(|error| {
                    self.heap.committed.fetch_sub(taken.released.bytes().0, Ordering::Relaxed);
                    self.refused(request, error)
                })
            })
            .inspect_err(|_| self.give_back(local, taken, from))?;
        let span = self.heap.registry.get(id).expect("the registry gave this number");
        let clean = Clean::word(taken.pages, taken.released, taken.which);
        span.publish(taken.page, taken.pages, request.purpose, clean);
        self.heap.map.set(taken.page, taken.pages, id);
        self.meters.confirm(request.purpose);
        self.ledger.post(|entry| {
            let kept = taken.pages - taken.released;
            entry.transfer(Account::Released, Account::Span(request.purpose), taken.released.bytes());
            entry.transfer(from, Account::Span(request.purpose), kept.bytes());
            entry.span_allocated(request.purpose, taken.pages.bytes());
        });
        let fresh = taken.released == taken.pages;
        Ok(NewSpan { id, span, page: taken.page, fresh, released: taken.released })
    }

    /// Has the system take the memory of a span that was just allocated, so that it reads as zeros. Returns whether
    /// it did.
    ///
    /// # Errors
    /// When the system took the memory and does not give it back. Then the span is freed.
    pub fn renew(
        &self,
        local: &mut SpanCache,
        new: &NewSpan<'_>,
        request: Request,
    ) -> Result<bool, Exhausted> {
        let (page, pages) = (new.page, new.span.pages());
        // SAFETY: the span was just allocated, and nobody has put anything there.
        unsafe {
            if self.heap.region.release(page, pages).is_err() {
                return Ok(false);
            }
            new.span.set_all_clean();
            self.heap.region.ready(page, pages).map_err(|error| {
                self.free(local, new.id, Pages(0));
                self.refused(request, error)
            })?;
        }
        Ok(true)
    }

    /// Frees a span of which the first `touched` pages may have been touched since it was allocated, and no others.
    /// Pages behind those that the system had then go back as its own.
    ///
    /// # Safety
    /// The caller holds the span; nobody uses it or its memory any more; `touched` is true.
    pub unsafe fn free(&self, local: &mut SpanCache, id: SpanId, touched: Pages) {
        let span = self.heap.registry.get(id).expect("a span that is held has a record");
        let (page, pages, purpose) = (span.page(), span.pages(), span.purpose());
        let clean = Clean::new(pages, span.clean(), touched);
        // SAFETY: the caller gives the span up.
        unsafe { span.retire() };
        let untouched = clean.count();
        let cached = local.pages.contains(page, pages);
        let stashed = !cached && untouched == Pages(0) && local.stash.takes(pages);
        self.ledger.post(|entry| {
            let to = if cached || stashed { Account::Cached } else { Account::Free };
            entry.transfer(Account::Span(purpose), to, (pages - untouched).bytes());
            entry.transfer(Account::Span(purpose), Account::Released, untouched.bytes());
            entry.span_freed(purpose, pages.bytes());
        });
        self.heap.committed.fetch_sub(untouched.bytes().0, Ordering::Relaxed);
        if stashed {
            while let Some(run) = local.stash.put(page, pages) {
                self.unstash(run);
            }
        } else {
            self.put(cached.then_some(&mut local.pages), page, clean);
        }
        self.heap.registry.give(&mut local.records, id);
        self.meters.discharge(purpose, pages.bytes());
    }

    /// Makes pages free, in a cache or for everyone.
    fn put(&self, cache: Option<&mut PageCache>, page: PageId, clean: Clean) {
        if let Some(cache) = cache {
            for (from, pages, is_clean) in clean.pieces() {
                let page = page.plus(from);
                let put = if is_clean { cache.free_released(page, pages) } else { cache.free(page, pages) };
                debug_assert!(put, "{pages:?} at {page:?} are not the cache's");
            }
            return;
        }
        let mut state = self.heap.pages.lock();
        for (from, pages, is_clean) in clean.pieces() {
            let page = page.plus(from);
            if is_clean {
                state.allocator.free_released(page, pages);
            } else {
                state.allocator.free(page, pages);
            }
        }
    }

    /// Lets a span grow at its end where it stands, if the pages behind it are free. Returns whether it did, and
    /// whether the new pages read as zeros.
    ///
    /// # Safety
    /// The caller holds the span.
    pub unsafe fn grow_in_place(&self, id: SpanId, more: Pages) -> Option<Zeroed> {
        let span = self.heap.registry.get(id)?;
        let (page, pages, purpose) = (span.page(), span.pages(), span.purpose());
        self.meters.charge(purpose, more.bytes()).ok()?;
        let request = Request::new(purpose, more);
        let taken = self.heap.pages.lock().allocator.allocate_at(page.plus(pages), more);
        let grown = taken.filter(|&taken| {
            let done = self.commit(taken, request);
            if done.is_err() {
                self.give_back(&mut SpanCache::default(), taken, Account::Free);
            }
            done.is_ok()
        });
        let Some(taken) = grown else {
            self.meters.discharge(purpose, more.bytes());
            return None;
        };
        self.heap.map.set(taken.page, more, id);
        self.meters.confirm(purpose);
        span.resize(pages + more);
        self.ledger.post(|entry| {
            entry.transfer(Account::Released, Account::Span(purpose), taken.released.bytes());
            entry.transfer(Account::Free, Account::Span(purpose), (more - taken.released).bytes());
            entry.span_resized(purpose, more.bytes(), Bytes::ZERO);
        });
        Some(Zeroed(taken.released == more))
    }

    /// Frees the last `fewer` pages of a span, which keeps at least one.
    ///
    /// # Safety
    /// The caller holds the span, and nobody uses those pages any more.
    pub unsafe fn shrink_in_place(&self, id: SpanId, fewer: Pages) {
        let span = self.heap.registry.get(id).expect("a span that is held has a record");
        let (pages, purpose) = (span.pages() - fewer, span.purpose());
        debug_assert!(pages.0 > 0);
        span.resize(pages);
        self.ledger.post(|entry| {
            entry.transfer(Account::Span(purpose), Account::Free, fewer.bytes());
            entry.span_resized(purpose, Bytes::ZERO, fewer.bytes());
        });
        self.heap.pages.lock().allocator.free(span.page().plus(pages), fewer);
        self.meters.discharge(purpose, fewer.bytes());
    }

    /// Puts a mutator's cached pages back, so that others can have them and they can be released.
    pub fn flush(&self, local: &mut SpanCache) {
        while let Some(run) = local.stash.pop_oldest() {
            self.unstash(run);
        }
        if local.pages.is_empty() {
            return;
        }
        let kept = local.pages.pages() - local.pages.released();
        self.ledger.transfer(Account::Cached, Account::Free, kept.bytes());
        self.heap.pages.lock().allocator.return_cache(&mut local.pages);
    }

    /// Gives a run that came out of a stash to everyone.
    fn unstash(&self, run: Run) {
        self.ledger.transfer(Account::Cached, Account::Free, run.pages().bytes());
        self.heap.pages.lock().allocator.free(run.page(), run.pages());
    }

    fn pick(&self, local: &mut SpanCache, request: Request) -> Result<Pick, Exhausted> {
        if request.align == Pages(1)
            && let Some(run) = local.stash.take(request.pages)
        {
            let taken = Taken { page: run.page(), pages: run.pages(), released: Pages(0), which: 0 };
            return Ok(Pick { taken, from: Account::Cached });
        }
        if request.pages < CACHED_BELOW && request.align == Pages(1) {
            if let Some(taken) = local.pages.allocate(request.pages) {
                return Ok(Pick { taken, from: Account::Cached });
            }
            if local.pages.is_empty() {
                self.refill(local, request)?;
                if let Some(taken) = local.pages.allocate(request.pages) {
                    return Ok(Pick { taken, from: Account::Cached });
                }
            }
        }
        let mut state = self.heap.pages.lock();
        loop {
            let taken = match request.align {
                Pages(1) => state.allocator.allocate(request.pages),
                align if align.0 <= CHUNK_PAGES => state.allocator.allocate_aligned(request.pages, align),
                _ => self.allocate_far_aligned(&mut state, request),
            };
            match taken {
                Some(taken) => return Ok(Pick { taken, from: Account::Free }),
                None => self.grow(&mut state, request)?,
            }
        }
    }

    /// The region begins at a multiple of a chunk and of no more, so for an alignment beyond that the places come
    /// from the address and are tried one by one.
    #[cold]
    fn allocate_far_aligned(&self, state: &mut PageState, request: Request) -> Option<Taken> {
        let (base, align) = (self.heap.region.base().0 / PAGE_SIZE, request.align.0);
        let first = base.next_multiple_of(align) - base;
        let mut places = (first..state.handed.first_page().0).step_by(align);
        places.find_map(|page| state.allocator.allocate_at(PageId(page), request.pages))
    }

    #[cold]
    fn refill(&self, local: &mut SpanCache, request: Request) -> Result<(), Exhausted> {
        let mut state = self.heap.pages.lock();
        local.pages = state.allocator.fill_cache();
        while local.pages.is_empty() {
            self.grow(&mut state, request)?;
            local.pages = state.allocator.fill_cache();
        }
        drop(state);
        let kept = local.pages.pages() - local.pages.released();
        self.ledger.transfer(Account::Free, Account::Cached, kept.bytes());
        Ok(())
    }

    /// Adds chunks at the end of the heap, enough for the request whatever is free now.
    #[cold]
    fn grow(&self, state: &mut PageState, request: Request) -> Result<(), Exhausted> {
        // Alignments beyond a chunk may skip as much again.
        let skipped = if request.align.0 > CHUNK_PAGES { request.align } else { Pages(0) };
        let chunks = (request.pages + skipped).0.div_ceil(CHUNK_PAGES);
        let refused = |error| self.refused(request, error);
        let first = state.handed;
        let wanted = Pages(chunks * CHUNK_PAGES);
        let region = &self.heap.region;
        let end = first.first_page().plus(wanted);
        if end.offset() > region.size().0 {
            return Err(self.exhausted(request, Scarce::AddressSpace, region.size()));
        }
        self.heap.map.cover(first.first_page(), wanted, self.ledger).map_err(refused)?;
        // A growth that failed half-way may have left committed chunks that the allocator does not have yet.
        if end.offset() > region.committed().0 {
            let missing = Bytes(end.offset() - region.committed().0);
            region.grow(missing, self.ledger).map_err(|error| match error {
                GrowError::AddressSpace { .. } => {
                    self.exhausted(request, Scarce::AddressSpace, region.size())
                }
                GrowError::System(error) => self.refused(request, error),
            })?;
        }
        state.allocator.grow(first, chunks, self.ledger).map_err(refused)?;
        state.handed = ChunkId(first.0 + chunks);
        let mut tables = 0;
        state.allocator.for_each_table(|_, _, size| tables += size.0);
        self.heap.page_tables.store(tables, Ordering::Relaxed);
        Ok(())
    }

    /// Tells the system and the limit that the released pages among these are about to be used.
    fn commit(&self, taken: Taken, request: Request) -> Result<(), Exhausted> {
        if taken.released == Pages(0) {
            return Ok(());
        }
        let bytes = taken.released.bytes();
        self.heap.committed.fetch_add(bytes.0, Ordering::Relaxed);
        let done = self.check_limit(request).and_then(|()| {
            // SAFETY: the pages were taken and belong to no span yet.
            let ready = unsafe { self.heap.region.ready(taken.page, taken.pages) };
            ready.map_err(|error| self.refused(request, error))
        });
        if done.is_err() {
            self.heap.committed.fetch_sub(bytes.0, Ordering::Relaxed);
        }
        done
    }

    fn check_limit(&self, request: Request) -> Result<(), Exhausted> {
        let Some(limit) = self.heap.limit() else { return Ok(()) };
        let excess = |committed: Bytes| Bytes(committed.0.saturating_sub(limit.0));
        let over = excess(self.heap.committed());
        if over > Bytes::ZERO {
            self.release(over, Release::AtLimit);
            if excess(self.heap.committed()) > Bytes::ZERO {
                return Err(self.exhausted(request, Scarce::HeapLimit, limit));
            }
        }
        Ok(())
    }

    /// Undoes a pick. Where some of many pages were released, nobody knows any more which, so the system gets all of
    /// them. Should it refuse, they count as kept from here on: that errs on the side of clearing too much.
    fn give_back(&self, local: &mut SpanCache, taken: Taken, from: Account) {
        let Taken { page, pages, released, which } = taken;
        let cached = from == Account::Cached && local.pages.contains(page, pages);
        if from == Account::Cached && !cached {
            self.ledger.transfer(Account::Cached, Account::Free, (pages - released).bytes());
        }
        let mut clean = Clean::new(pages, Clean::word(pages, released, which), Pages(0));
        if clean.count() != released {
            clean = Clean::new(pages, u64::MAX, pages - self.give_up(taken));
        }
        self.put(cached.then_some(&mut local.pages), page, clean);
    }

    /// Has the system take pages some of which it had. Returns how many it has then, all or none, as the books say.
    fn give_up(&self, taken: Taken) -> Pages {
        let kept = (taken.pages - taken.released).bytes();
        // SAFETY: the pages were taken and belong to no span.
        if unsafe { self.heap.region.release(taken.page, taken.pages) }.is_ok() {
            self.ledger.transfer(Account::Free, Account::Released, kept);
            self.heap.committed.fetch_sub(kept.0, Ordering::Relaxed);
            return taken.pages;
        }
        self.ledger.transfer(Account::Released, Account::Free, taken.released.bytes());
        self.heap.committed.fetch_add(taken.released.bytes().0, Ordering::Relaxed);
        Pages(0)
    }

    fn exhausted(&self, request: Request, scarce: Scarce, limit: Bytes) -> Exhausted {
        Exhausted { scarce, purpose: self.meters.name(request.purpose), wanted: request.pages.bytes(), limit }
    }

    fn refused(&self, request: Request, SystemError(errno): SystemError) -> Exhausted {
        self.exhausted(request, Scarce::System(errno), Bytes::ZERO)
    }
}

/// Whether memory reads as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zeroed(pub bool);
