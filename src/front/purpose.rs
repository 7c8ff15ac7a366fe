//! Purposes as a program holds them.
//!
//! A [`Purpose`] is a capability: whoever has one can allocate spans and blocks of it, and there is no other way to.
//! Memory under the collector has another type, [`Collected`], which opens none of the manual doors.
//!
//! # Safety
//! Blocks that are handed out through `Allocator` live until they are freed and do not move, whichever copy of the
//! purpose frees them.

use crate::base::{Bytes, Exhausted, PurposeId, PurposeName};
use crate::front::heap::Heap;
use crate::front::manual::ManualSpan;
use crate::front::process;
use crate::front::reservation::Reservation;
use crate::span::{Meter, SoftLimitCallback};
use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

/// The right to allocate memory of one purpose from one heap.
///
/// ```
/// use spanheap::{Bytes, Config, Heap};
///
/// let heap = Heap::new(Config::default())?;
/// let results = heap.declare("query-results")?;
/// results.set_limit(Some(Bytes::mib(1)));
/// assert!(results.allocate_span(Bytes::kib(64)).is_ok());
/// let refused = results.allocate_span(Bytes::mib(2)).unwrap_err();
/// assert_eq!(refused.to_string(), "no memory for query-results: wanted 2 MiB, limit of this purpose 1 MiB");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Collected memory cannot be asked for by hand:
///
/// ```compile_fail,E0599
/// use spanheap::{Bytes, Config, Heap};
///
/// let heap = Heap::new(Config::default()).unwrap();
/// heap.objects().allocate_span(Bytes::kib(8)); // `Collected` has no such method
/// ```
#[derive(Clone, Copy)]
pub struct Purpose<'h> {
    heap: &'h Heap,
    id: PurposeId,
}

/// The purpose of objects under the collector: it has books and limits, but only the collector allocates.
#[derive(Clone, Copy)]
pub struct Collected<'h> {
    heap: &'h Heap,
    id: PurposeId,
}

impl<'h> Purpose<'h> {
    pub(crate) fn new(heap: &'h Heap, id: PurposeId) -> Purpose<'h> {
        Purpose { heap, id }
    }

    /// The heap.
    pub fn heap(&self) -> &'h Heap {
        self.heap
    }

    /// The purpose's number in the books.
    pub fn id(&self) -> PurposeId {
        self.id
    }

    /// The purpose's name.
    pub fn name(&self) -> PurposeName {
        self.heap.core().meters.name(self.id)
    }

    fn meter(&self) -> &'h Meter {
        self.heap.core().meters.get(self.id)
    }

    /// Allocates a span of at least `bytes` for the caller alone; it frees itself when it is dropped.
    ///
    /// # Errors
    /// [`Exhausted`], when a limit or the system stands in the way.
    pub fn allocate_span(&self, bytes: Bytes) -> Result<ManualSpan<'h>, Exhausted> {
        ManualSpan::allocate(*self, bytes, None)
    }

    /// Allocates a block. It is freed with [`Heap::deallocate`], by any thread.
    ///
    /// # Errors
    /// [`Exhausted`], when a limit or the system stands in the way.
    pub fn allocate(&self, layout: Layout) -> Result<NonNull<u8>, Exhausted> {
        self.heap.allocate_for(self.id, layout, false).map(|block| block.pointer())
    }

    /// Allocates a block that reads as zeros, without clearing what the system just cleared.
    ///
    /// # Errors
    /// [`Exhausted`], when a limit or the system stands in the way.
    pub fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, Exhausted> {
        let block = self.heap.allocate_for(self.id, layout, true)?;
        // SAFETY: a block of this layout, and nobody else has it.
        unsafe { block.zeroed(layout.size()) };
        Ok(block.pointer())
    }

    /// Runs `work` with every allocation that this thread makes for nothing in particular booked on this
    /// purpose: those of [`Heap::allocate`], and, in a program whose global allocator is this heap, everything.
    /// Scopes nest. Freeing needs no scope: blocks remember their purpose.
    ///
    /// A thread can have scopes in 16 heaps at once; in further ones they have no effect.
    pub fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let _scope = process::enter(self.heap, self.id);
        work()
    }

    /// Promises `bytes` to this purpose, before the work that needs them: see [`Reservation`].
    ///
    /// # Errors
    /// [`Exhausted`], when the purpose's limit stands in the way. Nothing has changed then.
    pub fn reserve(&self, bytes: Bytes) -> Result<Reservation<'h>, Exhausted> {
        Reservation::new(*self, bytes)
    }

    /// Bytes of the purpose's spans now.
    pub fn inuse(&self) -> Bytes {
        self.meter().inuse()
    }

    /// Bytes that are promised to reservations of this purpose, and not in its spans yet.
    pub fn reserved(&self) -> Bytes {
        self.meter().reserved()
    }

    /// The most bytes that the purpose's spans ever had at once.
    pub fn peak(&self) -> Bytes {
        self.meter().peak()
    }

    /// The limit above which memory is refused.
    pub fn limit(&self) -> Option<Bytes> {
        self.meter().hard_limit()
    }

    /// Sets or lifts the limit above which memory is refused. What is above it already stays.
    pub fn set_limit(&self, limit: Option<Bytes>) {
        self.meter().set_hard_limit(limit);
    }

    /// The limit above which `set_soft_limit`'s callback is called.
    pub fn soft_limit(&self) -> Option<Bytes> {
        self.meter().soft_limit()
    }

    /// Sets or lifts the limit whose passing is counted, and told to `callback`.
    pub fn set_soft_limit(&self, limit: Option<Bytes>, callback: Option<SoftLimitCallback>) {
        self.heap.core().meters.set_callback(self.id, callback);
        self.meter().set_soft_limit(limit);
    }

    /// How often the soft limit was passed.
    pub fn soft_events(&self) -> u64 {
        self.meter().soft_events()
    }

    /// How often memory was refused because of the limit.
    pub fn refused(&self) -> u64 {
        self.meter().refused()
    }
}

impl<'h> Collected<'h> {
    pub(crate) fn new(heap: &'h Heap, id: PurposeId) -> Collected<'h> {
        Collected { heap, id }
    }

    /// Bytes of the purpose's spans now.
    pub fn inuse(&self) -> Bytes {
        self.heap.core().meters.get(self.id).inuse()
    }
}

impl fmt::Debug for Purpose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Purpose({})", self.name())
    }
}

// SAFETY: blocks are of the layout asked for, live until they are freed, and may be freed through any copy of
// the purpose, since the heap knows them by address.
unsafe impl allocator_api2::alloc::Allocator for Purpose<'_> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, allocator_api2::alloc::AllocError> {
        let block =
            self.heap.allocate_for(self.id, layout, false).map_err(|_| allocator_api2::alloc::AllocError)?;
        Ok(NonNull::slice_from_raw_parts(block.pointer(), layout.size()))
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, allocator_api2::alloc::AllocError> {
        let block = Purpose::allocate_zeroed(self, layout).map_err(|_| allocator_api2::alloc::AllocError)?;
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller gives up a block of this allocator.
        unsafe { self.heap.deallocate(block, layout) }
    }
}
