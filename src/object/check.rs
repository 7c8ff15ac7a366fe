//! The proof, by looking at everything, that the room's invariants hold; and the walk over all objects.
//!
//! The numbers are those of the room's list. Slots belong to the fast paths of the mutators, which take no lock: so the
//! world stands still, or the caches are those of threads that wait.
//!
//! # Safety
//! The walk reads free memory that should be zero: it belongs to spans that nobody else allocates from meanwhile.

use super::cache::{Bin, ObjectCache};
use super::central::Objects;
use super::find::Object;
use super::kind::SpanClass;
use super::meta::{GROUP, GROUPS, PageMeta, ones, valid};
use crate::base::class::CLASSES;
use crate::base::sync::Ordering;
use crate::base::{Broken, Bytes, Invariant, PAGE_SIZE, PageId, PurposeId};
use crate::span::{PageHeap, Span};
use crate::stats::{ClassEvent, Figures};

const OF_CODES: Invariant = Invariant("object", 1);
const OF_BITS: Invariant = Invariant("object", 2);
const OF_GENERATION: Invariant = Invariant("object", 3);
const OF_HOLDERS: Invariant = Invariant("object", 4);
const OF_CACHE: Invariant = Invariant("object", 5);
const OF_ZERO: Invariant = Invariant("object", 6);
const OF_BOOKS: Invariant = Invariant("object", 7);

/// What the walk counts.
struct Totals {
    /// Objects in slots, by size class; large ones behind them.
    objects: [usize; CLASSES + 1],
    large: Bytes,
    /// Swept spans with free slots.
    with_room: usize,
    /// Of these, those in caches.
    in_caches: usize,
    /// Object spans.
    spans: usize,
}

impl Objects {
    /// Visits every object span: its first page, its code, its metadata. Spans that come or go meanwhile may or may not
    /// be among them.
    pub fn for_each_span(&self, mut visit: impl FnMut(PageId, SpanClass, &PageMeta)) {
        for page in (0..self.covered().0 / PAGE_SIZE).map(PageId) {
            let code = self.code(page);
            if code.is_first()
                && let Some(meta) = self.meta(page)
            {
                visit(page, code, meta);
            }
        }
    }

    /// Visits every object that is allocated and not known to be dead. Slots in a mutator's cache are among them until
    /// that is flushed.
    pub fn for_each_object(&self, mut visit: impl FnMut(Object)) {
        self.for_each_span(|first, code, meta| {
            let objects = meta.allocs.iter().map(|index| self.object(first, code, index, meta));
            objects.filter(|object| !self.is_condemned(object)).for_each(&mut visit);
        });
    }

    /// Proves the invariants. `caches` are those of all mutators, and `figures` a reading of the books.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    ///
    /// # Safety
    /// Nobody allocates, sweeps or marks meanwhile, and `figures` was read since.
    pub unsafe fn check<'a>(
        &self,
        heap: &PageHeap,
        figures: &Figures,
        caches: impl Iterator<Item = &'a ObjectCache> + Clone,
    ) -> Result<(), Broken> {
        let mut totals =
            Totals { objects: [0; CLASSES + 1], large: Bytes::ZERO, with_room: 0, in_caches: 0, spans: 0 };
        for page in (0..self.covered().0 / PAGE_SIZE).map(PageId) {
            self.check_page(heap, page, &mut totals)?;
        }
        for cache in caches.clone() {
            self.check_cache(heap, cache, &mut totals)?;
        }
        let in_sets = self.check_sets(heap, &totals)?;
        let text = "a swept span with free slots is in a set or in a cache";
        OF_HOLDERS.equal(text, ("heap", 0), in_sets + totals.in_caches, totals.with_room)?;
        self.check_books(figures, caches, &totals)
    }

    /// 1, and the rest for the span that begins on a page.
    fn check_page(&self, heap: &PageHeap, page: PageId, totals: &mut Totals) -> Result<(), Broken> {
        let (code, subject) = (self.code(page), ("page", page.0));
        if code == SpanClass::NONE {
            return Ok(());
        }
        let found = heap.find(heap.region().address(page));
        let text = "a page with a code is in a span";
        OF_CODES.equal(text, subject, found.is_some().into(), 1)?;
        let Some((id, span)) = found else { return Ok(()) };
        let first = span.page();
        let is_first = page == first;
        OF_CODES.equal(
            "the first page has a code of its own",
            subject,
            code.is_first().into(),
            is_first.into(),
        )?;
        if !is_first {
            let text = "a later page's span is one of objects";
            return OF_CODES.equal(text, subject, self.code(first).is_first().into(), 1);
        }
        let Some(meta) = self.meta(page) else {
            return OF_CODES.equal("an object span has metadata", subject, 0, 1);
        };
        let row = code.row();
        for (text, left, right) in [
            ("metadata names the span", meta.span().0 as usize, id.0 as usize),
            ("metadata has the span's length", meta.pages().0, span.pages().0),
            (
                "a span is as long as its class says",
                if code.is_large() { 0 } else { span.pages().0 },
                row.pages as usize,
            ),
        ] {
            OF_CODES.equal(text, subject, left, right)?;
        }
        self.check_later_pages(page, meta)?;
        self.check_span(page, code, meta, span, totals)
    }

    /// 1, for the pages behind the first one.
    fn check_later_pages(&self, first: PageId, meta: &PageMeta) -> Result<(), Broken> {
        for page in (first.0 + 1..first.0 + meta.pages().0).map(PageId) {
            let code = self.code(page).0 as usize;
            let text = "a later page says so";
            OF_CODES.equal(text, ("page", page.0), code, SpanClass::LATER.0 as usize)?;
        }
        Ok(())
    }

    /// 2, 3 and 6.
    fn check_span(
        &self,
        first: PageId,
        code: SpanClass,
        meta: &PageMeta,
        span: &Span,
        totals: &mut Totals,
    ) -> Result<(), Broken> {
        let (subject, row) = (("page", first.0), code.row());
        let slots = row.slots as usize;
        let is_unswept = self.is_unswept(meta);
        let mut free = 0;
        for group in 0..GROUPS {
            let [allocs, marks, scans] =
                [&meta.allocs, &meta.marks, &meta.scans].map(|bits| bits.0[group].load(Ordering::Acquire));
            for (text, stray) in [
                ("an allocated slot exists", allocs & !valid(group, slots)),
                ("a marked slot is allocated", marks & !allocs),
                ("a slot that is done with is marked", scans & !marks),
            ] {
                OF_BITS.equal(text, subject, stray.count_ones() as usize, 0)?;
            }
            if !is_unswept && !self.is_marking() {
                OF_GENERATION.equal("a swept span has no marks", subject, marks.count_ones() as usize, 0)?;
            }
            let empty = valid(group, slots) & !allocs;
            free += empty.count_ones() as usize;
            if meta.dirty.load(Ordering::Relaxed) >> group & 1 == 0 {
                self.check_zero(first, code, meta, ones(empty).map(|bit| group * GROUP + bit))?;
            }
        }
        self.check_generation(subject, meta, is_unswept)?;
        let room = !is_unswept && free > 0 && code.is_small();
        totals.with_room += usize::from(room);
        totals.spans += 1;
        totals.objects[row.class.0 as usize] += slots - free;
        if code.is_large() {
            totals.large += span.pages().bytes();
        }
        Ok(())
    }

    /// 3.
    fn check_generation(
        &self,
        subject: (&'static str, usize),
        meta: &PageMeta,
        is_unswept: bool,
    ) -> Result<(), Broken> {
        let (swept, now) = (meta.swept.load(Ordering::Relaxed), self.generation.load(Ordering::Relaxed));
        let behind = now.wrapping_sub(swept) as usize;
        OF_GENERATION.equal(
            "a span is swept, or waits to be",
            subject,
            behind,
            if is_unswept { 2 } else { 0 },
        )?;
        let waits = is_unswept && self.is_swept();
        OF_GENERATION.equal("when all is swept, no span waits", subject, waits.into(), 0)
    }

    /// 6.
    fn check_zero(
        &self,
        first: PageId,
        code: SpanClass,
        meta: &PageMeta,
        slots: impl Iterator<Item = usize>,
    ) -> Result<(), Broken> {
        for index in slots {
            let object = self.object(first, code, index, meta);
            let memory = self.memory.wrapping_add(object.start.0 - self.base.0);
            // SAFETY: a free slot of a span, which nobody else uses.
            let dirty = (0..object.size.0).filter(|&at| unsafe { memory.add(at).read() } != 0).count();
            OF_ZERO.equal("a free slot of a clean group is zero", ("slot at", object.start.0), dirty, 0)?;
        }
        Ok(())
    }

    /// 4 and 5, for a cache.
    fn check_cache(&self, heap: &PageHeap, cache: &ObjectCache, totals: &mut Totals) -> Result<(), Broken> {
        for (code, bin) in cache.bins() {
            let subject = ("page", bin.page().0);
            let found = self.code(bin.page());
            OF_CACHE.equal("a bin's span is of its class", subject, found.0.into(), code.0.into())?;
            let Some(meta) = self.meta(bin.page()) else { continue };
            let purpose = heap.span(meta.span()).map_or(usize::MAX, |span| span.purpose().index());
            OF_CACHE.equal(
                "a bin's span is of the cache's purpose",
                subject,
                purpose,
                cache.purpose().index(),
            )?;
            OF_CACHE.equal("a bin's span is swept", subject, self.is_unswept(meta).into(), 0)?;
            self.check_rest(subject, bin, meta)?;
            let room = meta.allocs.count() < code.row().slots as usize;
            totals.in_caches += usize::from(room);
        }
        Ok(())
    }

    /// 5: what a bin can give.
    fn check_rest(&self, subject: (&'static str, usize), bin: &Bin, meta: &PageMeta) -> Result<(), Broken> {
        let (group, rest) = bin.rest();
        if rest == 0 {
            return Ok(());
        }
        let [allocs, marks, scans] =
            [&meta.allocs, &meta.marks, &meta.scans].map(|bits| bits.0[group].load(Ordering::Acquire));
        let stray = |bits: u64| (rest & !bits).count_ones() as usize;
        OF_CACHE.equal("what a bin can give counts as allocated", subject, stray(allocs), 0)?;
        OF_CACHE.at_most(
            "what a bin can give is not in the books",
            subject,
            rest.count_ones() as usize,
            bin.taken(),
        )?;
        if self.is_marking() {
            OF_CACHE.equal("while marking, it is marked", subject, stray(marks & scans), 0)?;
        }
        Ok(())
    }

    /// 4, for the sets. Returns how many spans are in them.
    fn check_sets(&self, heap: &PageHeap, totals: &Totals) -> Result<usize, Broken> {
        let mut count = 0;
        for purpose in self.purposes() {
            for code in SpanClass::all() {
                for id in self.partial(purpose, code).iter(heap.links()) {
                    count += 1;
                    OF_HOLDERS.at_most("a set ends", ("span", id.0 as usize), count, totals.spans)?;
                    self.check_member(heap.span(id), purpose, code, ("span", id.0 as usize))?;
                }
            }
        }
        Ok(count)
    }

    fn check_member(
        &self,
        span: Option<&Span>,
        purpose: PurposeId,
        code: SpanClass,
        subject: (&'static str, usize),
    ) -> Result<(), Broken> {
        let found = span.filter(|span| span.is_in_use()).map(|span| (span, self.meta(span.page())));
        let Some((span, Some(meta))) = found else {
            return OF_HOLDERS.equal("a span in a set is one of objects", subject, 0, 1);
        };
        let room = meta.allocs.count() < code.row().slots as usize;
        for (text, left, right) in [
            ("a span in a set has its class", self.code(span.page()).0.into(), code.0.into()),
            ("a span in a set has its purpose", span.purpose().index(), purpose.index()),
            ("a span in a set is swept", self.is_unswept(meta).into(), 0),
            ("a span in a set has free slots", room.into(), 1),
        ] {
            OF_HOLDERS.equal(text, subject, left, right)?;
        }
        Ok(())
    }

    /// 7.
    fn check_books<'a>(
        &self,
        figures: &Figures,
        caches: impl Iterator<Item = &'a ObjectCache>,
        totals: &Totals,
    ) -> Result<(), Broken> {
        let mut unbooked = [0; CLASSES + 1];
        for (code, bin) in caches.flat_map(ObjectCache::bins) {
            unbooked[code.row().class.0 as usize] += bin.taken();
        }
        for (row, (&objects, unbooked)) in totals.objects.iter().zip(unbooked).enumerate() {
            let of = |event| figures.objects(row, event) as usize;
            let booked = of(ClassEvent::Allocated) - of(ClassEvent::Freed);
            let text = "objects are those in the books, and those that caches have not posted";
            OF_BOOKS.equal(text, ("class", row), objects, booked + unbooked)?;
        }
        let of = |event| figures.large_object_bytes(event) as usize;
        let booked = of(ClassEvent::Allocated) - of(ClassEvent::Freed);
        OF_BOOKS.equal("bytes of large objects are those in the books", ("heap", 0), totals.large.0, booked)
    }
}
