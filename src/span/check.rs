//! The proof, by looking at everything, that the room's invariants hold.
//!
//! The numbers are those of the room's list. What a walk cannot prove is that a purpose never changed (2): it only
//! proves that the purpose exists, and 3 then that the books know it under the same one.
//!
//! # Safety
//! The walk reads what the heap's locks guard, so its caller holds them.

use super::heap::{PageHeap, PageState, SpanCache};
use super::meter::Meters;
use super::record::{Span, SpanId};
use crate::base::purpose::MAX_PURPOSES;
use crate::base::sync::Ordering;
use crate::base::{Broken, Bytes, CHUNK_PAGES, Invariant, PageId, Pages, PurposeId};
use crate::page::PageError;
use crate::stats::{Account, Figures};

const OF_PAGES: Invariant = Invariant("span", 1);
const OF_PURPOSE: Invariant = Invariant("span", 2);
const OF_BYTES: Invariant = Invariant("span", 3);
const OF_RECORDS: Invariant = Invariant("span", 4);
const OF_HEAP: Invariant = Invariant("span", 5);

/// What is wrong with the page heap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeapError {
    /// Which pages are free.
    Pages(PageError),
    /// Spans.
    Spans(Broken),
}

impl From<Broken> for HeapError {
    fn from(broken: Broken) -> HeapError {
        HeapError::Spans(broken)
    }
}

/// What the spans in use add up to.
struct Totals {
    records: usize,
    pages: Pages,
    of_purpose: [Bytes; MAX_PURPOSES],
}

/// What the caches of all mutators add up to.
#[derive(Default)]
struct Cached {
    records: usize,
    pages: Pages,
    released: Pages,
}

impl PageHeap {
    /// Walks everything and proves the invariants of this room and of the page allocator's. `figures` is a reading
    /// of the books, and `caches` are those of all mutators.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    ///
    /// # Safety
    /// This thread called [`PageHeap::acquire_for_fork`] and holds the locks of all mutators; `figures` was read
    /// since.
    pub unsafe fn check<'a>(
        &self,
        meters: &Meters,
        figures: &Figures,
        caches: impl Iterator<Item = &'a SpanCache>,
    ) -> Result<(), HeapError> {
        // SAFETY: this thread holds both locks, and nobody else has references to what they guard.
        let (state, fresh) = unsafe { (self.pages.held_mut(), *self.registry.fresh_lock().held_mut()) };
        state.allocator.check().map_err(HeapError::Pages)?;
        let totals = self.check_spans(state, meters)?;
        let cached = self.check_caches(state, caches)?;
        self.check_records(fresh, totals.records, cached.records)?;
        check_bytes(&totals, meters, figures)?;
        Ok(self.check_pages(state, &totals, &cached, figures)?)
    }

    /// 1 and 2, span by span.
    fn check_spans(&self, state: &PageState, meters: &Meters) -> Result<Totals, Broken> {
        let mut totals = Totals { records: 0, pages: Pages(0), of_purpose: [Bytes::ZERO; MAX_PURPOSES] };
        for (id, span) in self.spans() {
            let subject = ("span", id.0 as usize);
            let end = span.page().plus(span.pages());
            OF_PAGES.at_most("a span has a page", subject, 1, span.pages().0)?;
            let all = state.handed.first_page();
            OF_PAGES.at_most("a span lies in the heap", subject, end.0, all.0)?;
            let purpose = span.purpose().index();
            OF_PURPOSE.at_most("a span's purpose exists", subject, purpose + 1, meters.count())?;
            self.check_span_pages(state, id, span)?;
            totals.records += 1;
            totals.pages += span.pages();
            totals.of_purpose[purpose] += span.pages().bytes();
        }
        Ok(totals)
    }

    fn check_span_pages(&self, state: &PageState, id: SpanId, span: &Span) -> Result<(), Broken> {
        for page in (span.page().0..span.page().0 + span.pages().0).map(PageId) {
            let entry = self.map.get(page).unwrap_or(SpanId::NONE);
            let subject = ("page", page.0);
            OF_PAGES.equal("a page's entry names its span", subject, entry.0 as usize, id.0 as usize)?;
            let free = state.allocator.is_free(page);
            OF_PAGES.equal("no page of a span is free", subject, free.into(), 0)?;
        }
        Ok(())
    }

    /// 1 and 5 for the pages in caches, one by one, and 4 for the records there.
    fn check_caches<'a>(
        &self,
        state: &PageState,
        caches: impl Iterator<Item = &'a SpanCache>,
    ) -> Result<Cached, Broken> {
        let mut all = Cached::default();
        for cache in caches {
            let (base, free, released) = cache.pages.parts();
            let stray = (released & !free).count_ones() as usize;
            OF_HEAP.equal("a released page in a cache is free", ("page", base.0), stray, 0)?;
            for page in (0..64).filter(|bit| free >> bit & 1 == 1).map(|bit| PageId(base.0 + bit)) {
                self.check_cached(state, page)?;
            }
            for run in cache.stash.runs() {
                for page in (run.page().0..run.page().0 + run.pages().0).map(PageId) {
                    self.check_cached(state, page)?;
                }
            }
            for &record in cache.records.at_hand() {
                self.check_dead(record)?;
            }
            all.records += cache.records.at_hand().len();
            all.pages += cache.pages();
            all.released += cache.pages.released();
        }
        Ok(all)
    }

    /// 1 and 5, for a page that a cache holds.
    fn check_cached(&self, state: &PageState, page: PageId) -> Result<(), Broken> {
        let subject = ("page", page.0);
        let free = state.allocator.is_free(page);
        OF_HEAP.equal("no page in a cache is free elsewhere", subject, free.into(), 0)?;
        let span = self.find(self.region().address(page)).map_or(SpanId::NONE, |(id, _)| id);
        OF_PAGES.equal("no page in a cache is in a span", subject, span.0 as usize, 0)
    }

    fn check_dead(&self, record: SpanId) -> Result<(), Broken> {
        let alive = self.registry.get(record).is_none_or(Span::is_in_use);
        OF_RECORDS.equal("a record that can be taken is dead", ("span", record.0 as usize), alive.into(), 0)
    }

    fn check_records(&self, fresh: u32, in_use: usize, at_hand: usize) -> Result<(), Broken> {
        let given = fresh as usize - 1;
        let mut dead = 0;
        for record in self.registry.dead() {
            self.check_dead(record)?;
            dead += 1;
            OF_RECORDS.at_most("the set of dead records ends", ("span", record.0 as usize), dead, given)?;
        }
        let text = "records in use, dead and at hand are all that were given out";
        OF_RECORDS.equal(text, ("heap", 0), in_use + dead + at_hand, given)
    }

    /// 5, in sums.
    fn check_pages(
        &self,
        state: &PageState,
        totals: &Totals,
        cached: &Cached,
        figures: &Figures,
    ) -> Result<(), Broken> {
        let (free, released) = (state.allocator.free_pages(), state.allocator.released_pages());
        let all = state.handed.0 * CHUNK_PAGES;
        let found = (totals.pages + cached.pages + free).0;
        OF_HEAP.equal("pages in spans, in caches and free are all of the heap's", ("heap", 0), found, all)?;
        // What a growth that failed half-way left behind is released, and nobody's yet.
        let between = Bytes(self.region().committed().0 - state.handed.first_page().offset());
        let kept = cached.pages - cached.released;
        for (text, account, bytes) in [
            ("free pages are those of the account", Account::Free, (free - released).bytes()),
            ("cached pages are those of the account", Account::Cached, kept.bytes()),
            (
                "released pages are those of the account",
                Account::Released,
                (released + cached.released).bytes() + between,
            ),
        ] {
            OF_HEAP.equal(text, ("heap", 0), bytes.0, figures.balance(account) as usize)?;
        }
        let committed = (totals.pages + kept + free - released).bytes();
        let counted = self.committed.load(Ordering::Relaxed);
        OF_HEAP.equal("the count of committed bytes is exact", ("heap", 0), committed.0, counted)
    }
}

/// 3.
fn check_bytes(totals: &Totals, meters: &Meters, figures: &Figures) -> Result<(), Broken> {
    for purpose in (0..meters.count() as u8).map(PurposeId) {
        let subject = ("purpose", purpose.index());
        let found = totals.of_purpose[purpose.index()].0;
        let booked = figures.balance(Account::Span(purpose)) as usize;
        OF_BYTES.equal("bytes of a purpose's spans are its balance", subject, found, booked)?;
        let charged = meters.get(purpose).inuse().0;
        OF_BYTES.equal("bytes of a purpose's spans are its meter's charge", subject, found, charged)?;
    }
    Ok(())
}
