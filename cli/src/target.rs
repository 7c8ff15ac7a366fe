//! The real page allocator with its page caches, as the target of a replay.
//!
//! A trace begins with chunks that are free and *kept*, and names what is released; a fresh chunk of the allocator is
//! free and released. So every chunk is taken and freed once at the start, and what the trace names is freed as released.
//!
//! # Safety
//! The allocator's tables are given back when the target goes, which nothing survives.

use crate::replay::Target;
use crate::trace::{Filled, Run, Taken, Trace};
use spanheap::base::{CHUNK_PAGES, ChunkId, PageId, Pages};
use spanheap::os::System;
use spanheap::page::{PageAllocator, PageCache};
use spanheap::stats::Books;

/// An allocator with the chunks of a trace. It manages numbers; there are no pages behind them.
pub(crate) struct RealPages {
    pages: PageAllocator,
    caches: Vec<PageCache>,
}

impl RealPages {
    /// An allocator in the state that the trace begins with; the error says what the system refused.
    pub(crate) fn new(trace: &Trace) -> Result<RealPages, String> {
        let refused = |error| format!("the system refuses memory for the allocator's tables: {error}");
        // The books only stand in for those of a heap; a replay reads them nowhere.
        let books = Box::new(Books::new());
        let shared = books.shared();
        let capacity = trace.chunks.last().map_or(0, |last| last + 1);
        let pages = PageAllocator::new(System::Linux, Pages(capacity * CHUNK_PAGES), shared.ledger())
            .map_err(refused)?;
        let mut target = RealPages { pages, caches: Vec::new() };
        for &chunk in &trace.chunks {
            target.pages.grow(ChunkId(chunk), 1, shared.ledger()).map_err(refused)?;
            let (first, pages) = (ChunkId(chunk).first_page(), Pages(CHUNK_PAGES));
            let taken = target.pages.allocate_at(first, pages);
            debug_assert!(taken.is_some(), "a new chunk is free");
            target.pages.free(first, pages);
        }
        for run in &trace.released {
            let (first, pages) = (PageId(run.first), Pages(run.pages));
            let taken = target.pages.allocate_at(first, pages);
            debug_assert!(taken.is_some(), "nothing is in use before the first operation");
            target.pages.free_released(first, pages);
        }
        Ok(target)
    }
}

impl Drop for RealPages {
    fn drop(&mut self) {
        // SAFETY: the allocator goes with this value, and its caches hold numbers only.
        unsafe { self.pages.destroy() };
    }
}

/// The allocator's answer in the words of a trace.
fn taken(taken: spanheap::page::Taken) -> Taken {
    Taken { first: taken.page.0, released: taken.released.0 }
}

impl Target for RealPages {
    fn allocate(&mut self, pages: usize) -> Option<Taken> {
        self.pages.allocate(Pages(pages)).map(taken)
    }

    fn free(&mut self, run: Run) {
        self.pages.free(PageId(run.first), Pages(run.pages));
    }

    fn fill_cache(&mut self) -> Option<Filled> {
        let cache = self.pages.fill_cache();
        if cache.is_empty() {
            return None;
        }
        self.caches.push(cache);
        let (base, free, released) = cache.parts();
        Some(Filled { base: base.0, free, released })
    }

    fn take_cached(&mut self, cache: usize, pages: usize) -> Option<Taken> {
        self.caches[cache].allocate(Pages(pages)).map(taken)
    }

    fn return_cache(&mut self, cache: usize) {
        self.pages.return_cache(&mut self.caches.remove(cache));
    }

    fn check(&self) -> Result<(), String> {
        self.pages.check().map_err(|error| error.to_string())
    }
}
