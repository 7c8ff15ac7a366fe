//! A span's record: what the heap knows about a run of pages.
//!
//! The record has a *head* that is the same for every span, and a *body* of one cache line that belongs to the
//! room whose contents fill the span. A room reaches its body through [`Span::body`], which takes a type that
//! fits; this room only promises that the body of a fresh span is all zeros, and that a dead span's is.
//!
//! ```text
//!            publish                     retire
//!   Dead ───────────────▶ InUse(purpose) ──────▶ Dead
//! ```
//!
//! Lookups run without a lock and against any bit pattern: an address leads to a map entry, which may be stale,
//! and that to a record, which may be dead or in another life. So:
//!
//! 1. A record's memory stays a record for as long as the heap lives.
//! 2. `state` is stored last when a span is published (release) and loaded first in a lookup (acquire), so
//!    whoever sees `InUse` sees the page numbers and the purpose of that life or of a later one.
//! 3. A map entry is stored after the state. Entries of freed pages stay as they are: a lookup believes an entry
//!    only if the record is in use and its pages hold the address.
//! 4. `state` returns to `Dead` before the pages are free for others.
//!
//! (Go: `mspan`, its states and the order in `initSpan`.)
//!
//! # Safety
//! The body is raw memory: a room may read it as its own type only in spans that it allocated itself, which
//! it knows by the purpose and by holding the span.

use super::clean::Clean;
use crate::base::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::base::{PageId, Pages, PurposeId};
use core::cell::UnsafeCell;

/// A span's number: its place in the registry. 0 is no span.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct SpanId(pub u32);

impl SpanId {
    /// The number that no span has.
    pub const NONE: SpanId = SpanId(0);

    /// The number, unless it is [`SpanId::NONE`].
    pub fn some(self) -> Option<SpanId> {
        (self != SpanId::NONE).then_some(self)
    }
}

/// What a room keeps in the spans that it fills.
///
/// # Safety
/// The type fits into [`BODY_SIZE`] bytes at an alignment of 64, and all-zero bytes are a value of it.
pub unsafe trait Body {}

/// Bytes that a room has for itself in a record.
pub const BODY_SIZE: usize = 64;

const DEAD: u8 = 0;
const IN_USE: u8 = 1;

/// The record. Two cache lines: the body, which hot paths of the rooms touch, and the head.
#[repr(C, align(128))]
pub struct Span {
    body: UnsafeCell<[u64; BODY_SIZE / 8]>,
    state: AtomicU8,
    purpose: AtomicU8,
    page: AtomicU32,
    pages: AtomicU32,
    /// Which pages were clean when the span was published: see [`Clean`].
    clean: AtomicU64,
    /// The next record of the list that this one lies in: that of the dead, or one of its room's.
    next: AtomicU32,
    /// A word that any thread may change, for the span's room. Zero in a fresh span and in a dead one.
    word: AtomicU64,
    /// The neighbours in the list that the span's room keeps it in.
    links: UnsafeCell<Links>,
    /// A second word of the room's. Zero in a fresh span and in a dead one.
    note: AtomicU64,
}

/// A span's neighbours in a doubly linked list of its room's.
#[derive(Clone, Copy, Default, Debug)]
pub struct Links {
    /// The span before this one, or none.
    pub before: u32,
    /// The span after this one, or none.
    pub after: u32,
}

// SAFETY: the head is atomics; body and links are touched only by the span's holder, as `body` and `links`
// require.
unsafe impl Sync for Span {}

impl Span {
    /// Makes a dead record the span of `pages` pages from `page`, with the word [`Clean`] for its pages.
    ///
    /// The caller stores the map entries afterwards (invariant 3).
    pub(super) fn publish(&self, page: PageId, pages: Pages, purpose: PurposeId, clean: u64) {
        debug_assert_eq!(self.state.load(Ordering::Relaxed), DEAD, "a span published twice");
        self.page.store(page.0 as u32, Ordering::Relaxed);
        self.pages.store(pages.0 as u32, Ordering::Relaxed);
        self.purpose.store(purpose.0, Ordering::Relaxed);
        self.clean.store(clean, Ordering::Relaxed);
        self.state.store(IN_USE, Ordering::Release);
    }

    /// Ends the span's life and clears its body. The caller frees the pages afterwards (invariant 4).
    ///
    /// # Safety
    /// The caller holds the span, and nobody uses its body any more.
    pub(super) unsafe fn retire(&self) {
        debug_assert_eq!(self.state.load(Ordering::Relaxed), IN_USE, "a span retired twice");
        self.state.store(DEAD, Ordering::Release);
        self.word.store(0, Ordering::Relaxed);
        self.note.store(0, Ordering::Relaxed);
        // SAFETY: the caller is the last who knows the span's body.
        unsafe { *self.body.get() = [0; BODY_SIZE / 8] };
    }

    /// Changes the length of a span in use.
    pub(super) fn resize(&self, pages: Pages) {
        // What comes in later need not be clean, so nothing is said of any page from here on.
        self.clean.store(0, Ordering::Relaxed);
        self.pages.store(pages.0 as u32, Ordering::Release);
    }

    /// Whether the span is in use. Everything else the record says is valid only then.
    #[inline]
    pub fn is_in_use(&self) -> bool {
        self.state.load(Ordering::Acquire) == IN_USE
    }

    /// The span's first page.
    #[inline]
    pub fn page(&self) -> PageId {
        PageId(self.page.load(Ordering::Relaxed) as usize)
    }

    /// The span's length.
    #[inline]
    pub fn pages(&self) -> Pages {
        Pages(self.pages.load(Ordering::Relaxed) as usize)
    }

    /// The word that says which of the span's pages are clean, as long as nobody has touched them.
    pub(super) fn clean(&self) -> u64 {
        self.clean.load(Ordering::Relaxed)
    }

    /// Notes that the system has all pages of a span in use.
    pub(super) fn set_all_clean(&self) {
        self.clean.store(u64::MAX, Ordering::Relaxed);
    }

    /// Whether the system had the page at a place of the span when the span was allocated. Of longer spans only
    /// those of which it had all pages are remembered.
    pub fn was_clean(&self, place: Pages) -> bool {
        Clean::new(self.pages(), self.clean(), Pages(0)).has(place.0)
    }

    /// What the span is for.
    #[inline]
    pub fn purpose(&self) -> PurposeId {
        PurposeId(self.purpose.load(Ordering::Relaxed))
    }

    /// Whether the span is in use and `page` is one of its own.
    #[inline]
    pub fn holds(&self, page: PageId) -> bool {
        self.is_in_use() && page.0.wrapping_sub(self.page().0) < self.pages().0
    }

    /// The room's part of the record.
    #[inline]
    pub fn body<B: Body>(&self) -> *mut B {
        const { assert!(size_of::<B>() <= BODY_SIZE && align_of::<B>() <= 64) };
        self.body.get().cast()
    }

    /// The span's link in a list that many threads share. The span is in one such list at a time.
    #[inline]
    pub fn link(&self) -> &AtomicU32 {
        &self.next
    }

    /// A word of the room's that any thread may change.
    #[inline]
    pub fn word(&self) -> &AtomicU64 {
        &self.word
    }

    /// A second word of the room's, which the span's holder changes.
    #[inline]
    pub fn note(&self) -> &AtomicU64 {
        &self.note
    }

    /// The span's neighbours in its room's list.
    ///
    /// # Safety
    /// The caller holds the list, and no other reference to these links exists.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn links(&self) -> &mut Links {
        // SAFETY: the caller holds the list and so the links.
        unsafe { &mut *self.links.get() }
    }

    /// A dead record, equal to zeroed memory.
    #[cfg(all(test, loom))]
    pub(super) fn dead() -> Span {
        Span {
            body: UnsafeCell::new([0; BODY_SIZE / 8]),
            state: AtomicU8::new(DEAD),
            purpose: AtomicU8::new(0),
            page: AtomicU32::new(0),
            pages: AtomicU32::new(0),
            clean: AtomicU64::new(0),
            next: AtomicU32::new(0),
            note: AtomicU64::new(0),
            word: AtomicU64::new(0),
            links: UnsafeCell::new(Links::default()),
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;

    /// A lookup that runs beside a publication, and beside a second life of the record, sees either nothing or
    /// a whole span that holds the page.
    #[test]
    fn loom_a_lookup_sees_whole_spans() {
        loom::model(|| {
            let world = Arc::new((Span::dead(), AtomicU32::new(0), AtomicU32::new(0)));
            let owner = {
                let world = world.clone();
                loom::thread::spawn(move || {
                    let (span, entry_5, entry_9) = &*world;
                    span.publish(PageId(5), Pages(1), PurposeId(1), 0);
                    entry_5.store(1, Ordering::Release);
                    // SAFETY: only this thread holds the span.
                    unsafe { span.retire() };
                    span.publish(PageId(9), Pages(2), PurposeId(2), 0);
                    entry_9.store(1, Ordering::Release);
                })
            };
            let (span, entry_5, entry_9) = &*world;
            if entry_9.load(Ordering::Acquire) == 1 {
                assert!(span.holds(PageId(9)), "a map entry came before its span");
                assert_eq!(span.purpose(), PurposeId(2));
                assert!(!span.holds(PageId(5)), "a stale entry was believed");
            }
            if entry_5.load(Ordering::Acquire) == 1 && span.is_in_use() {
                assert_ne!(span.purpose(), PurposeId(0), "in use before its purpose");
            }
            owner.join().unwrap();
        });
    }
}
