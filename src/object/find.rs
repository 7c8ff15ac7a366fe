//! From any bit pattern to the object that holds it.
//!
//! The way: the pattern less the region's base is an offset, and its page has a byte in the table of kinds. For spans
//! that begin on that page, the byte alone says how large their slots are. Otherwise the map of spans leads to the first
//! page. Then one multiplication gives the slot, and its bit says whether it is allocated.
//!
//! Nothing here takes a lock, and spans may come and go meanwhile. All that is read are atomics in tables that only
//! grow: entries of kinds, of the map, heads of records, and metadata. Which spans are there is published in this order,
//! and taken back in the opposite one:
//!
//! 1. The record and the map (see [`record`](crate::span::record)); then memory for the entries of the page tables.
//! 2. The metadata of the first page, without a bit that is set.
//! 3. The codes of the later pages, then that of the first one, with release.
//! 4. Bits of slots that are handed out: `scans`, then `marks` if marking, then `allocs`, with release.
//!
//! So who reads a code (acquire) that is not zero finds metadata of that span or of a later one on the same page, and
//! who reads a slot's `allocs` bit (acquire) while marking finds it marked, if it was handed out since marking began.
//! An answer about a span that comes or goes at the same time is one of the two that are right before and after, or
//! `None`.
//!
//! # Safety
//! A code that is not zero was stored after memory for the metadata was there. Below [`Objects::covered`] codes can be read.

use super::Objects;
use super::class;
use super::kind::{SpanClass, SpanKind};
use super::meta::PageMeta;
use super::shape::ShapeId;
use crate::base::sync::Ordering;
use crate::base::{Address, Bytes, PAGE_SIZE, PageId, PurposeId};
use crate::span::SpanId;

/// An allocated slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Object {
    /// The first page of its span.
    pub first_page: PageId,
    /// Its slot.
    pub index: u32,
    /// The code of the span.
    pub class: SpanClass,
    /// Where its pointers are. A large object whose memory may not be looked at yet is plain.
    pub kind: SpanKind,
    /// Its first byte.
    pub start: Address,
    /// Bytes of the slot, which may be more than were asked for.
    pub size: Bytes,
}

/// A slot of a span, allocated or not.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    pub first: PageId,
    pub code: SpanClass,
    pub index: usize,
}

impl Objects {
    /// The allocated object that holds an address; any bit pattern is fine. An address behind the last byte holds
    /// nothing: see [`Objects::find_ending_at`].
    ///
    /// A slot in a mutator's cache counts as allocated until that is flushed. A dead object counts until its span is
    /// swept: see [`Objects::is_condemned`].
    #[inline]
    pub fn find(&self, address: Address) -> Option<Object> {
        let Slot { first, code, index } = self.slot_at(address)?;
        let meta = self.meta(first)?;
        if !meta.allocs.has(index, Ordering::Acquire) {
            return None;
        }
        let object = self.object(first, code, index, meta);
        // A large object is as long as its span, and meanwhile there may be another one, which is shorter.
        (address.0 - object.start.0 < object.size.0).then_some(object)
    }

    /// The allocated object whose last byte is just before an address. Where pointers behind the end of an object keep
    /// it alive, a collector asks for this as well.
    pub fn find_ending_at(&self, address: Address) -> Option<Object> {
        let object = self.find(Address(address.0.wrapping_sub(1)))?;
        (object.start.0 + object.size.0 == address.0).then_some(object)
    }

    /// The slot that holds an address, if the span is not shorter than that: large objects have one slot of any length.
    #[inline]
    pub(super) fn slot_at(&self, address: Address) -> Option<Slot> {
        let offset = address.0.wrapping_sub(self.base.0);
        if offset >= self.covered().0 {
            return None;
        }
        let page = PageId(offset / PAGE_SIZE);
        let mut first = page;
        let mut code = self.code(page);
        if code == SpanClass::LATER {
            first = self.first_page(page)?;
            code = self.code(first);
        }
        let row = code.row();
        let index = class::index(offset - first.offset(), row.magic);
        (index < row.slots as usize).then_some(Slot { first, code, index })
    }

    /// The first page of the span that a later page belongs to.
    pub(crate) fn first_page(&self, page: PageId) -> Option<PageId> {
        // SAFETY: an object span has covered the page, so the map has an entry for it, and whatever number stands
        // there is one of a record, which stays a record.
        let span = unsafe {
            let id = SpanId((*self.map.add(page.0)).load(core::sync::atomic::Ordering::Acquire)).some()?;
            &*self.records.add(id.0 as usize)
        };
        let first = span.page();
        (span.holds(page) && first.offset() < self.covered().0).then_some(first)
    }

    /// What a page holds.
    ///
    /// # Panics
    /// When the page is not below [`Objects::covered`].
    #[inline]
    pub fn code(&self, page: PageId) -> SpanClass {
        assert!(page.offset() < self.covered().0, "{page:?} is behind all objects");
        // SAFETY: below that, there are codes.
        unsafe { self.code_unchecked(page) }
    }

    /// What a page holds.
    ///
    /// # Safety
    /// The page is below [`Objects::covered`].
    #[inline(always)]
    pub unsafe fn code_unchecked(&self, page: PageId) -> SpanClass {
        // SAFETY: the caller's promise.
        SpanClass(unsafe { self.kinds.get_unchecked(page.0) }.load(core::sync::atomic::Ordering::Acquire))
    }

    /// What is known of the span that begins on a page; `None` if none ever did there or nearby.
    #[inline]
    pub fn meta(&self, first: PageId) -> Option<&PageMeta> {
        self.meta.get(first.0)
    }

    /// What is known of the span that begins on a page.
    ///
    /// # Safety
    /// The page's code, which this thread has read, was that of a first page.
    #[inline(always)]
    pub unsafe fn meta_unchecked(&self, first: PageId) -> &PageMeta {
        // SAFETY: the code was stored after the memory was there.
        unsafe { self.meta.get_unchecked(first.0) }
    }

    /// The object in a slot.
    #[inline]
    pub(super) fn object(&self, first: PageId, code: SpanClass, index: usize, meta: &PageMeta) -> Object {
        let row = code.row();
        let (mut size, mut kind) = (row.size as usize, row.kind);
        if code.is_large() {
            size = meta.pages().bytes().0;
            if meta.shape.load(Ordering::Acquire) == ShapeId::PLAIN.0 {
                kind = SpanKind::Plain;
            }
        }
        let start = Address(self.base.0 + first.offset() + index * size);
        Object { first_page: first, index: index as u32, class: code, kind, start, size: Bytes(size) }
    }

    /// The shape of an object. Of a mapped one, only its bits are known: `None`.
    #[inline]
    pub fn shape_of(&self, object: &Object) -> Option<ShapeId> {
        match object.kind {
            SpanKind::Plain => Some(ShapeId::PLAIN),
            SpanKind::Words => Some(ShapeId::WORDS),
            SpanKind::Mapped => None,
            SpanKind::Headed if object.class.is_large() => {
                Some(ShapeId(self.meta(object.first_page)?.shape.load(Ordering::Acquire)))
            }
            SpanKind::Headed => Some(self.shape_at(object.first_page, object.index as usize)),
        }
    }

    /// The purpose of an object's span.
    ///
    /// # Panics
    /// When the object is not one of this heap's.
    pub fn purpose(&self, object: &Object) -> PurposeId {
        let id = self.meta_of(object).span();
        // SAFETY: an object's span has a record, and records stay records.
        unsafe { (*self.records.add(id.0 as usize)).purpose() }
    }

    /// Marks an object as reached. Returns whether this call did; of several that try at once, one does.
    ///
    /// # Panics
    /// When the object is not one of this heap's.
    #[inline]
    pub fn mark(&self, object: &Object) -> bool {
        self.meta_of(object).marks.set(object.index as usize)
    }

    /// Whether an object has been reached.
    ///
    /// # Panics
    /// When the object is not one of this heap's.
    #[inline]
    pub fn is_marked(&self, object: &Object) -> bool {
        self.meta_of(object).marks.has(object.index as usize, Ordering::Acquire)
    }

    /// Whether an object is dead and waits to be swept.
    ///
    /// # Panics
    /// When the object is not one of this heap's.
    #[inline]
    pub fn is_condemned(&self, object: &Object) -> bool {
        let generation = self.generation.load(Ordering::Relaxed);
        self.meta_of(object).is_condemned(object.index as usize, generation)
    }

    /// Notes that something is attached to an object, whose span is [swept](Objects::ensure_swept). From then on sweeping
    /// asks about the span, until it hears that nothing is attached to it any more.
    ///
    /// # Panics
    /// When the object is not one of this heap's.
    pub fn set_attached(&self, object: &Object) {
        let meta = self.meta_of(object);
        debug_assert!(self.is_marking() || !self.is_unswept(meta), "{object:?} waits to be swept");
        meta.attached.store(1, Ordering::Release);
    }

    #[inline]
    fn meta_of(&self, object: &Object) -> &PageMeta {
        self.meta(object.first_page).expect("objects have metadata")
    }
}
