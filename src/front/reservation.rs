//! Memory that is promised before the work that needs it.
//!
//! A query that will need 40 MiB should be told at its beginning that it cannot have them, and not when 39 are used up.
//! A [`Reservation`] counts for its purpose's limits from the moment it is made, so what it promises cannot be
//! refused for that limit later: spans and blocks that are allocated against it draw on it.
//!
//! It is a promise of the purpose's limit and of nothing else: no memory is taken from the system, and the heap's own limit
//! or the system may still refuse. Spans are whole pages, and blocks share spans with others: one draws on it by the
//! span that it needs, or by nothing, if there is room in a span. What is drawn belongs to the span, and goes back to the
//! purpose when that is freed, not to the reservation.

use crate::base::sync::{AtomicUsize, Ordering};
use crate::base::{Bytes, Exhausted};
use crate::front::manual::ManualSpan;
use crate::front::purpose::Purpose;
use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

/// A promise of bytes for a purpose. What is left of it goes back when it is dropped.
///
/// ```
/// use spanheap::{Bytes, Config, Heap};
///
/// let heap = Heap::new(Config::default())?;
/// let queries = heap.declare("queries")?;
/// queries.set_limit(Some(Bytes::mib(64)));
/// let work = queries.reserve(Bytes::mib(40))?;
/// let refused = queries.reserve(Bytes::mib(40)).unwrap_err();
/// assert_eq!(refused.to_string(), "no memory for queries: wanted 40 MiB, limit of this purpose 64 MiB");
/// let table = work.allocate_span(Bytes::mib(30))?;
/// assert_eq!(work.left(), Bytes::mib(10));
/// drop(work);
/// assert_eq!((queries.inuse(), queries.reserved()), (table.len(), Bytes::ZERO));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reservation<'h> {
    purpose: Purpose<'h>,
    left: AtomicUsize,
}

impl fmt::Debug for Reservation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = Bytes(self.left.load(Ordering::Relaxed));
        write!(f, "Reservation({left} of {})", self.purpose.name())
    }
}

impl<'h> Reservation<'h> {
    pub(super) fn new(purpose: Purpose<'h>, bytes: Bytes) -> Result<Reservation<'h>, Exhausted> {
        let done = purpose.heap().core().meters.reserve(purpose.id(), bytes);
        purpose.heap().core().tell();
        done.map(|()| Reservation { purpose, left: AtomicUsize::new(bytes.0) })
    }

    /// What the bytes are for.
    pub fn purpose(&self) -> Purpose<'h> {
        self.purpose
    }

    /// Bytes that are promised and not drawn yet.
    pub fn left(&self) -> Bytes {
        Bytes(self.left.load(Ordering::Acquire))
    }

    /// Adds to the promise.
    ///
    /// # Errors
    /// [`Exhausted`], when the purpose's limit stands in the way. The promise is as it was.
    pub fn grow(&self, more: Bytes) -> Result<(), Exhausted> {
        let done = self.purpose.heap().core().meters.reserve(self.purpose.id(), more);
        self.purpose.heap().core().tell();
        done.inspect(|()| {
            self.left.fetch_add(more.0, Ordering::AcqRel);
        })
    }

    /// Gives up to `fewer` bytes of the promise back. Returns how many.
    pub fn shrink(&self, fewer: Bytes) -> Bytes {
        let given = self.take(fewer);
        self.purpose.heap().core().meters.unreserve(self.purpose.id(), given);
        given
    }

    /// Makes two promises of one: the new one has `bytes`; `None`, if there are not so many left.
    pub fn split(&self, bytes: Bytes) -> Option<Reservation<'h>> {
        let less = |left: usize| left.checked_sub(bytes.0);
        self.left.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less).ok()?;
        Some(Reservation { purpose: self.purpose, left: AtomicUsize::new(bytes.0) })
    }

    /// As [`Purpose::allocate_span`], against the promise. Where that is not enough, the span is charged as any other.
    ///
    /// # Errors
    /// [`Exhausted`], when the promise is not enough and the purpose's limit stands in the way, or the heap's limit or the
    /// system does.
    pub fn allocate_span(&self, bytes: Bytes) -> Result<ManualSpan<'h>, Exhausted> {
        ManualSpan::allocate(self.purpose, bytes, Some(&self.left))
    }

    /// As [`Purpose::allocate`], against the promise.
    ///
    /// # Errors
    /// As [`Reservation::allocate_span`].
    pub fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, Exhausted> {
        let heap = self.purpose.heap();
        let (core, mutator) = (heap.core(), heap.mutator());
        let wanted = (layout.size(), layout.align(), false);
        let attempt = || core.allocate_against(mutator, self.purpose.id(), wanted, Some(&self.left));
        let block = match attempt() {
            Err(refused) if core.reclaim(mutator, &refused) => attempt(),
            block => block,
        };
        core.tell();
        block.map(|block| NonNull::new(block.pointer).expect("a region is not at zero"))
    }

    /// Takes up to `most` bytes from what is left.
    fn take(&self, most: Bytes) -> Bytes {
        let mut taken = 0;
        let less = |left: usize| {
            taken = left.min(most.0);
            Some(left - taken)
        };
        let _ = self.left.fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
        Bytes(taken)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.shrink(Bytes(usize::MAX));
    }
}
