//! Pages: which are free, and which free ones the system has.
//!
//! The room manages page *numbers* of one region; it never touches the pages themselves. It gives out runs of
//! pages by address-ordered first fit and takes them back, whole or in parts.
//!
//! ```text
//!                         root  [ · · · · · · · · ]      summaries: free pages at the start,
//!                               /   |                     in the longest run, at the end
//!                             …     …                            (summary, tree)
//!                  leaves  [ · · · · · · · · ]
//!                            |   one a chunk of 512 pages
//!   bitmaps    chunk 0 [free|released]  chunk 1 [free|released] …      (chunk, chunks)
//!                 │ one word, 64 pages
//!                 ▼
//!              PageCache of a mutator: taken and given back without the lock    (cache)
//! ```
//!
//! A page's states, and the arrows between them:
//!
//! ```text
//!                 grow                       allocate
//!   not grown ──────────▶ free, released ─────────────────▶ in use
//!                              ▲    ▲      free_released      │ ▲
//!                              │    └─────────────────────────┤ │ allocate
//!                              │ take_releasable, then        │ │ take_releasable
//!                              │ free_released           free ▼ │
//!                              └───────────────────────── free, kept
//!
//!   A cache takes free pages as "in use" and remembers for each whether it was released (fill_cache,
//!   return_cache).
//! ```
//!
//! Invariants, proved by [`PageAllocator::check`]:
//!
//! 1. A released page is free.
//! 2. A chunk that the heap has not grown into has no free page. (Its bitmap is zero, or not even committed.)
//! 3. Every summary follows from what it covers: a leaf from its chunk's bitmap, an entry above from the eight
//!    entries below it. (Those above one stale leaf follow before they are next read.)
//! 4. The counts of free and of released pages are exact.
//! 5. No page below the search hint is free, and the hint lies in a grown chunk; there is no hint only when no
//!    page is free.
//! 6. A chunk with pages to give back carries the mark *releasable*.
//!
//! And one that no walk can prove: a page in a cache is in use as far as the bitmap knows, so no page is in two
//! places.
//!
//! What the room does not know: spans and their purposes, the books (but for the bytes of its own tables), where
//! the region lies, and when memory should go back to the system. It takes no lock: whoever holds the
//! [`PageAllocator`] mutably holds the heap's lock, and a [`PageCache`] belongs to one mutator.
//!
//! The slow twin is `model.rs`; the fuzz body compares the two operation by operation, and is also run by the
//! room's tests.
//!
//! Unlike in Go, a set bit means *free*, so that what was never written is never handed out; and a span's owner
//! can free pages into its own cache.
//! (Go: `mpagealloc.go`, `mpallocbits.go`, `mpagecache.go`, `mgcscavenge.go`.)

mod allocator;
mod cache;
mod check;
mod chunk;
mod chunks;
mod release;
mod summary;
mod tree;

#[cfg(all(test, not(loom)))]
mod tests;

pub use allocator::{ChunkView, PageAllocator, Taken};
pub use cache::{CACHE_PAGES, PageCache};
pub use check::PageError;
