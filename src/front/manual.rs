//! A span in its holder's hands.
//!
//! # Safety
//! A span is its holder's alone, so references to its bytes follow those to the holder. It is freed once, by `drop`.

use crate::base::sync::{AtomicBool, AtomicUsize, Ordering};
use crate::base::{Address, Bytes, Exhausted, Pages, PurposeName};
use crate::front::heap::Heap;
use crate::front::purpose::Purpose;
use crate::span::{Request, SpanId};
use crate::stats::Whole;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::slice;

/// A run of pages that belongs to its holder, of a purpose that it remembers. It is freed when it is dropped, by
/// whatever thread.
///
/// ```
/// use spanheap::{Bytes, Config, Heap};
///
/// let heap = Heap::new(Config::default())?;
/// let index = heap.declare("index")?;
/// let mut span = index.allocate_span(Bytes::kib(10))?;
/// assert_eq!(span.len(), Bytes::kib(16), "whole pages");
/// span.zero()[0] = 7;
/// assert_eq!(index.inuse(), Bytes::kib(16));
/// drop(span);
/// assert_eq!(index.inuse(), Bytes::ZERO);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ManualSpan<'h> {
    heap: &'h Heap,
    id: SpanId,
    start: NonNull<u8>,
    pages: Pages,
    fresh: bool,
    /// Somebody was let in, if only by a pointer.
    touched: AtomicBool,
}

// SAFETY: the span belongs to its holder alone, whatever thread that is on.
unsafe impl Send for ManualSpan<'_> {}
// SAFETY: shared access only reads.
unsafe impl Sync for ManualSpan<'_> {}

impl<'h> ManualSpan<'h> {
    pub(crate) fn allocate(
        purpose: Purpose<'h>,
        bytes: Bytes,
        promise: Option<&AtomicUsize>,
    ) -> Result<ManualSpan<'h>, Exhausted> {
        let heap = purpose.heap();
        let pages = bytes.pages_ceil().max(Pages(1));
        let attempt = || {
            heap.with_local(|core, mutator, local| {
                let work = core.work(mutator, local);
                let request = Request::new(purpose.id(), pages);
                let new = work.ground.allocate_against(work.spans, request, promise)?;
                let bytes = pages.bytes().0 as i64;
                work.ground.ledger.post(|entry| entry.whole(Whole::ManualSpan, bytes));
                Ok((new.id, new.page, new.fresh))
            })
        };
        let new = match attempt() {
            Err(refused) if heap.core().reclaim(heap.mutator(), &refused) => attempt(),
            new => new,
        };
        heap.core().tell();
        heap.core().heed(heap.mutator());
        let (id, page, fresh) = new?;
        let start =
            NonNull::new(heap.core().pages.region().page_pointer(page)).expect("a region is not at zero");
        Ok(ManualSpan { heap, id, start, pages, fresh, touched: AtomicBool::new(false) })
    }

    /// The first byte. The span's memory may be read and written through the pointer while the span lives, by the
    /// rules for pointers.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.touched.store(true, Ordering::Relaxed);
        self.start
    }

    /// Where the span begins.
    pub fn address(&self) -> Address {
        Address(self.start.as_ptr().addr())
    }

    /// How long the span is: whole pages, at least what was asked for.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> Bytes {
        self.pages.bytes()
    }

    /// What the span is for.
    pub fn purpose(&self) -> PurposeName {
        let core = self.heap.core();
        core.meters.name(core.pages.span(self.id).expect("a held span has a record").purpose())
    }

    /// The span's bytes, which may be anything.
    pub fn as_uninit(&mut self) -> &mut [MaybeUninit<u8>] {
        *self.touched.get_mut() = true;
        // SAFETY: the span is the holder's, and borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.pages.bytes().0) }
    }

    /// The span's bytes, all zero. Memory that the system has just cleared is not cleared again.
    pub fn zero(&mut self) -> &mut [u8] {
        let (start, length) = (self.start.as_ptr(), self.pages.bytes().0);
        // SAFETY: the span is the holder's, and borrowed exclusively; a fresh one reads as zeros until
        // somebody is let in.
        unsafe {
            if !self.fresh || *self.touched.get_mut() {
                start.write_bytes(0, length);
            }
            *self.touched.get_mut() = true;
            slice::from_raw_parts_mut(start, length)
        }
    }
}

impl Drop for ManualSpan<'_> {
    fn drop(&mut self) {
        let touched = if *self.touched.get_mut() { self.pages } else { Pages(0) };
        self.heap.with_local(|core, mutator, local| {
            let work = core.work(mutator, local);
            let bytes = self.pages.bytes().0 as i64;
            work.ground.ledger.post(|entry| entry.whole(Whole::ManualSpan, -bytes));
            // SAFETY: the holder gives the span up; it is `touched` if anybody was let in.
            unsafe { work.ground.free(work.spans, self.id, touched) };
        });
    }
}

impl fmt::Debug for ManualSpan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManualSpan({}, {} at {})", self.purpose(), self.len(), self.address())
    }
}
