//! Sweeping: what was not reached becomes free.
//!
//! It needs the metadata of spans and not their memory. Everyone may help: background threads, and mutators that look
//! for free slots. Work is handed out in *chunks* of 64 pages by a cursor that goes up through the region, so that the
//! memory that is free first lies low.
//!
//! The heap's generation goes on by 2 when marking ends. Every object span's own generation is then 2 behind:
//!
//! ```text
//!   swept = h − 2            swept = h − 1                           swept = h
//!   waits to be swept ─────▶ being swept, by who exchanged it ──────▶ swept ────▶ in its set, if it has free slots
//!                                                    │
//!                                                    └──▶ freed, if no object of it was reached
//! ```
//!
//! What [`Objects::begin_sweep`] finds: no marking, every cache flushed, no sweeping left from before. It forgets the
//! sets of spans with free slots at once, so each set only ever has spans that are swept.
//!
//! In a span that is swept, `allocs` becomes `marks`; then the span counts as swept; then marks and scans are cleared.
//! So who wants to know whether an object in a span not swept is dead finds its mark, or sees the span swept meanwhile.
//!
//! The spans of a chunk are swept, then entered in the books together, and only then shelved or freed: what is freed is in
//! the books before somebody allocates it again, so no reading shows more bytes of objects than of their spans.
//!
//! *Reclaiming* is a second cursor over the same pages, for those who need pages and not slots: it takes only spans
//! without a mark, which are freed whole unless somebody revives an object. Both may run at the same time.
//!
//! # Safety
//! A span without a marked object is in nobody's hands: caches were flushed, and no root leads there.

use super::central::{ObjectWork, Objects};
use super::find::Object;
use super::kind::SpanClass;
use super::meta::{GROUP, PageMeta, ones};
use crate::base::class::CLASSES;
use crate::base::sync::{AtomicUsize, Backoff, Ordering};
use crate::base::{Bytes, PAGE_SIZE, PageId, Pages, PurposeId};
use crate::stats::ClassEvent;

/// Pages of a chunk.
const CHUNK: usize = 64;
/// What dead objects are filled with where that was asked for.
const POISON: u8 = 0xdb;

/// What waits to be swept.
pub(super) struct Sweep {
    /// Pages below this one may have spans that wait.
    end: AtomicUsize,
    /// The next chunk's first page.
    cursor: AtomicUsize,
    /// The next page to look at for spans without a mark.
    reclaim: AtomicUsize,
    /// Threads that sweep.
    active: AtomicUsize,
    /// Bytes of objects alive in spans that were swept in this generation.
    live: AtomicUsize,
}

/// What sweeping came to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Swept {
    /// Spans that were swept.
    pub spans: usize,
    /// Pages of those that were freed.
    pub pages: Pages,
    /// Objects found dead.
    pub objects: usize,
    /// Bytes of them.
    pub bytes: Bytes,
    /// Bytes of the objects found alive.
    pub live: Bytes,
}

/// What is attached to objects, and is looked after when they die.
pub trait Attachments {
    /// Called for each span that something is attached to, when it is swept, before its dead objects are free. Returns
    /// whether something still is. Spans are swept by several threads at once, each with attachments of its own.
    fn sweep(&mut self, span: &Condemned<'_>) -> bool;
}

/// Nothing is attached to anything.
#[derive(Clone, Copy, Default, Debug)]
pub struct NoAttachments;

impl Attachments for NoAttachments {
    fn sweep(&mut self, _: &Condemned<'_>) -> bool {
        true
    }
}

/// A span that is being swept: its objects without a mark are about to die.
pub struct Condemned<'a> {
    objects: &'a Objects,
    first: PageId,
    code: SpanClass,
    meta: &'a PageMeta,
}

impl Condemned<'_> {
    /// The span's first page.
    pub fn first_page(&self) -> PageId {
        self.first
    }

    /// The span's objects, the dead ones among them.
    pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        self.meta.allocs.iter().map(|index| self.objects.object(self.first, self.code, index, self.meta))
    }

    /// Whether an object of the span lives on.
    pub fn is_alive(&self, object: &Object) -> bool {
        debug_assert_eq!(object.first_page, self.first);
        self.meta.marks.has(object.index as usize, Ordering::Relaxed)
    }

    /// Lets an object of the span live on, until the next cycle finds it dead. What it points to must have been reached.
    pub fn revive(&self, object: &Object) {
        debug_assert_eq!(object.first_page, self.first);
        self.meta.marks.set(object.index as usize);
    }
}

/// Spans that one thread has swept and not handed on yet.
struct Batch {
    objects: [u32; CLASSES],
    large: (u64, Bytes),
    done: [Handled; CHUNK],
    count: usize,
    swept: Swept,
}

/// A swept span.
#[derive(Clone, Copy)]
struct Handled {
    first: PageId,
    code: SpanClass,
    /// No object of it is alive.
    empty: bool,
}

impl Sweep {
    pub(super) fn new() -> Sweep {
        let zero = || AtomicUsize::new(0);
        Sweep { end: zero(), cursor: zero(), reclaim: zero(), active: zero(), live: zero() }
    }

    /// Counts this thread among those who sweep, before it looks for something to sweep.
    fn enter(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// This thread has swept what it found.
    fn leave(&self) {
        self.active.fetch_sub(1, Ordering::Release);
    }

    /// Pages that are swept next: nobody else gets the same ones.
    fn next(&self, cursor: &AtomicUsize) -> Option<core::ops::Range<usize>> {
        let end = self.end.load(Ordering::Relaxed);
        // Looked at first, so that a cursor does not go on for ever.
        if cursor.load(Ordering::Acquire) >= end {
            return None;
        }
        let from = cursor.fetch_add(CHUNK, Ordering::AcqRel);
        (from < end).then(|| from..(from + CHUNK).min(end))
    }

    /// Whether nobody sweeps and nothing is left. Who takes a chunk is counted before, so an empty cursor that was seen
    /// with him shows him.
    fn is_done(&self) -> bool {
        self.cursor.load(Ordering::Acquire) >= self.end.load(Ordering::Relaxed)
            && self.active.load(Ordering::Acquire) == 0
    }
}

impl Swept {
    /// Adds what another part came to.
    pub fn add(&mut self, more: Swept) {
        self.spans += more.spans;
        self.pages += more.pages;
        self.objects += more.objects;
        self.bytes += more.bytes;
        self.live += more.live;
    }
}

impl Batch {
    fn new() -> Batch {
        let nothing = Handled { first: PageId(0), code: SpanClass::NONE, empty: false };
        Batch {
            objects: [0; CLASSES],
            large: (0, Bytes::ZERO),
            done: [nothing; CHUNK],
            count: 0,
            swept: Swept::default(),
        }
    }
}

impl Objects {
    /// Makes every object span one that waits to be swept. `marked` is how many bytes are marked. The world stands still,
    /// marking has ended, and all caches are flushed.
    pub fn begin_sweep(&self, marked: Bytes) {
        debug_assert!(!self.is_marking() && self.is_swept());
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(2);
        self.generation.store(generation, Ordering::Relaxed);
        for purpose in self.purposes() {
            SpanClass::all().for_each(|code| self.partial(purpose, code).clear());
        }
        self.set_live(marked);
        self.sweep.live.store(0, Ordering::Relaxed);
        self.sweep.reclaim.store(0, Ordering::Relaxed);
        self.sweep.end.store(self.covered().0 / PAGE_SIZE, Ordering::Relaxed);
        self.sweep.cursor.store(0, Ordering::Release);
    }

    /// Whether every span is swept.
    pub fn is_swept(&self) -> bool {
        self.sweep.is_done()
    }

    /// Pages that may have spans that wait to be swept.
    pub fn unswept(&self) -> Pages {
        let (end, cursor) =
            (self.sweep.end.load(Ordering::Relaxed), self.sweep.cursor.load(Ordering::Relaxed));
        Pages(end.saturating_sub(cursor))
    }

    /// Bytes of objects found alive in this generation: when all is swept, those of all objects that marking reached.
    pub fn swept_live(&self) -> Bytes {
        Bytes(self.sweep.live.load(Ordering::Relaxed))
    }

    /// Sweeps the next chunk. `None` when there is none left; others may still sweep theirs: see [`Objects::is_swept`].
    pub fn sweep_chunk(
        &self,
        work: &mut ObjectWork<'_, '_>,
        attachments: &mut dyn Attachments,
    ) -> Option<Swept> {
        self.sweep_next(&self.sweep.cursor, work, attachments, |_| true)
    }

    /// Frees the spans of the next chunk in which nothing is marked, so that their pages can serve others. `None` when
    /// there is no chunk left that was not looked at.
    pub fn reclaim_chunk(
        &self,
        work: &mut ObjectWork<'_, '_>,
        attachments: &mut dyn Attachments,
    ) -> Option<Swept> {
        self.sweep_next(&self.sweep.reclaim, work, attachments, |meta| meta.marks.is_empty())
    }

    /// Has the span that begins on a page swept, if it waits: by this thread, or by another one that is at it. The caller
    /// keeps an object of it alive.
    pub fn ensure_swept(
        &self,
        first: PageId,
        work: &mut ObjectWork<'_, '_>,
        attachments: &mut dyn Attachments,
    ) {
        let Some(meta) = self.meta(first) else { return };
        let mut backoff = Backoff::new();
        while self.is_unswept(meta) {
            self.sweep.enter();
            if self.claim(meta) {
                let mut batch = Batch::new();
                self.sweep_span(first, self.code(first), meta, attachments, &mut batch);
                self.finish(batch, work);
            }
            self.sweep.leave();
            backoff.step();
        }
    }

    fn sweep_next(
        &self,
        cursor: &AtomicUsize,
        work: &mut ObjectWork<'_, '_>,
        attachments: &mut dyn Attachments,
        is_wanted: impl Fn(&PageMeta) -> bool,
    ) -> Option<Swept> {
        self.sweep.enter();
        let swept = self.sweep.next(cursor).map(|pages| {
            let mut batch = Batch::new();
            for first in pages.map(PageId) {
                let code = self.code(first);
                if !code.is_first() {
                    continue;
                }
                let meta = self.meta(first).expect("first pages have metadata");
                if self.is_unswept(meta) && is_wanted(meta) && self.claim(meta) {
                    self.sweep_span(first, code, meta, attachments, &mut batch);
                }
            }
            self.finish(batch, work)
        });
        self.sweep.leave();
        swept
    }

    fn claim(&self, meta: &PageMeta) -> bool {
        meta.claim(self.generation.load(Ordering::Relaxed))
    }

    /// Sweeps a span that this thread has claimed.
    fn sweep_span(
        &self,
        first: PageId,
        code: SpanClass,
        meta: &PageMeta,
        attachments: &mut dyn Attachments,
        batch: &mut Batch,
    ) {
        if meta.attached.load(Ordering::Acquire) != 0 {
            let span = Condemned { objects: self, first, code, meta };
            meta.attached.store(attachments.sweep(&span).into(), Ordering::Relaxed);
        }
        let poison = self.poison.load(Ordering::Relaxed);
        let (mut live, mut dead, mut dirty) = (0, 0, meta.dirty.load(Ordering::Relaxed));
        for group in 0..(code.row().slots as usize).div_ceil(GROUP) {
            let (allocs, marks) = (&meta.allocs.0[group], &meta.marks.0[group]);
            let (was, is) = (allocs.load(Ordering::Relaxed), marks.load(Ordering::Relaxed));
            debug_assert_eq!(is & !was, 0, "marked and not allocated: group {group} of {first:?}");
            live += is.count_ones() as usize;
            dead += (was & !is).count_ones() as usize;
            dirty |= u8::from(was != is) << group;
            allocs.store(is, Ordering::Relaxed);
            if poison {
                self.fill(first, code, meta, ones(was & !is).map(|bit| group * GROUP + bit));
            }
        }
        meta.dirty.store(dirty, Ordering::Relaxed);
        meta.settle(self.generation.load(Ordering::Relaxed));
        batch.note(Handled { first, code, empty: live == 0 }, meta, live, dead);
    }

    /// Fills dead objects with the pattern.
    fn fill(&self, first: PageId, code: SpanClass, meta: &PageMeta, dead: impl Iterator<Item = usize>) {
        for index in dead {
            let object = self.object(first, code, index, meta);
            let memory = self.memory.wrapping_add(object.start.0 - self.base.0);
            // SAFETY: a dead object's memory, in a span that this thread sweeps.
            unsafe { memory.write_bytes(POISON, object.size.0) };
        }
    }

    /// Hands on what was swept.
    fn finish(&self, batch: Batch, work: &mut ObjectWork<'_, '_>) -> Swept {
        let swept = batch.swept;
        self.sweep.live.fetch_add(swept.live.0, Ordering::Relaxed);
        if swept.objects > 0 {
            work.ground.ledger.post(|entry| {
                for (row, &count) in batch.objects.iter().enumerate().filter(|(_, count)| **count > 0) {
                    entry.objects(row, ClassEvent::Freed, count.into());
                }
                let (count, bytes) = batch.large;
                entry.large_objects(ClassEvent::Freed, count, bytes);
            });
        }
        for &Handled { first, code, empty } in &batch.done[..batch.count] {
            let meta = self.meta(first).expect("swept spans have metadata");
            if empty {
                let pages = meta.pages();
                self.close(first, pages);
                // SAFETY: no object of the span is alive, it is in no cache and no set, and this thread has swept it.
                unsafe { work.ground.free(work.spans, meta.span(), pages) };
            } else if code.is_small() {
                self.shelve(self.purpose_of(meta, work), code, meta, work);
            }
        }
        swept
    }

    /// The purpose of a span in use.
    fn purpose_of(&self, meta: &PageMeta, work: &ObjectWork<'_, '_>) -> PurposeId {
        work.ground.heap.span(meta.span()).expect("a span in use has a record").purpose()
    }
}

impl Batch {
    fn note(&mut self, span: Handled, meta: &PageMeta, live: usize, dead: usize) {
        let row = span.code.row();
        let size = if span.code.is_large() { meta.pages().bytes().0 } else { row.size as usize };
        if span.code.is_large() {
            self.large.0 += dead as u64;
            self.large.1 += Bytes(dead * size);
        } else {
            self.objects[row.class.0 as usize] += dead as u32;
        }
        self.done[self.count] = span;
        self.count += 1;
        self.swept.add(Swept {
            spans: 1,
            pages: if span.empty { meta.pages() } else { Pages(0) },
            objects: dead,
            bytes: Bytes(dead * size),
            live: Bytes(live * size),
        });
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;

    /// Every chunk is one thread's, and who finds that all is swept sees what the others did.
    #[test]
    fn loom_when_all_is_swept_nobody_sweeps() {
        loom::model(|| {
            let chunks = [UnsafeCell::new(0), UnsafeCell::new(0)];
            let world = Arc::new((Sweep::new(), chunks));
            world.0.end.store(2 * CHUNK, Ordering::Relaxed);
            let sweep = |(sweep, chunks): &(Sweep, [UnsafeCell<u32>; 2])| {
                sweep.enter();
                let pages = sweep.next(&sweep.cursor);
                if let Some(pages) = &pages {
                    // SAFETY: loom finds out whether anybody else touches it meanwhile.
                    chunks[pages.start / CHUNK].with_mut(|swept| unsafe { *swept += 1 });
                }
                sweep.leave();
                pages.is_some()
            };
            let other = {
                let world = world.clone();
                loom::thread::spawn(move || while sweep(&world) {})
            };
            sweep(&world);
            if world.0.is_done() {
                // SAFETY: as above.
                world.1.iter().for_each(|chunk| chunk.with(|swept| assert_eq!(unsafe { *swept }, 1)));
            }
            other.join().unwrap();
            assert!(world.0.is_done());
        });
    }
}
