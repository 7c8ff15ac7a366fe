//! The global allocator's door.
//!
//! # Safety
//! The contract of `GlobalAlloc` is that of the process heap's own doors, to which everything is handed on.

use crate::front::heap::Heap;
use crate::front::process;
use core::alloc::{GlobalAlloc, Layout};

/// The process heap as a program's global allocator.
///
/// ```
/// use spanheap::SpanHeap;
///
/// #[global_allocator]
/// static HEAP: SpanHeap = SpanHeap::new();
///
/// let cache = HEAP.heap().declare("cache").unwrap();
/// let table = cache.scope(|| vec![0u8; 100_000]);
/// assert!(cache.inuse().0 >= 100_000);
/// std::thread::spawn(move || drop(table)).join().unwrap();
/// assert_eq!(cache.inuse().0, 0, "freed elsewhere, booked right");
/// ```
///
/// All values of this type stand for the same heap.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpanHeap(());

impl SpanHeap {
    /// The process heap. It is made by the first allocation.
    pub const fn new() -> SpanHeap {
        SpanHeap(())
    }

    /// The heap itself, to declare purposes and to read the books.
    ///
    /// # Panics
    /// When the system refuses the heap's address space.
    pub fn heap(&self) -> &'static Heap {
        process::heap().expect("the system refused the address space of the process heap")
    }
}

// SAFETY: blocks have the layout asked for, live until they are freed, and are freed by any thread.
unsafe impl GlobalAlloc for SpanHeap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        process::allocate_aligned(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller gives the block up.
        unsafe { process::free(block) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        process::allocate_zeroed(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's block, given up unless null comes back.
        unsafe { process::reallocate(block, size, layout.align()) }
    }
}
