//! Sixty-four pages that one mutator takes and gives back without the heap's lock.
//!
//! A cache stands for one aligned block of 64 pages. In the bitmap all pages of the block that the cache holds
//! are in use, and not released; the cache alone knows which of its pages are free, and which of those the system
//! has. A page of the block may also come in that was handed out *before* the cache took the block: its bit
//! says "in use" like any other's, and giving the cache back frees exactly what the cache holds. (Go:
//! `pageCache`; there, pages never come back into a cache.)

use super::Taken;
use super::chunk::runs_in_word;
use crate::base::{PageId, Pages};

/// Pages of a cache's block.
pub const CACHE_PAGES: usize = 64;

/// Free pages of one block, owned by one mutator. All zeros is an empty cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct PageCache {
    /// The block's first page, a multiple of 64.
    base: PageId,
    /// The pages that are free.
    free: u64,
    /// Those of them that the system has.
    released: u64,
}

impl PageCache {
    /// A cache without pages.
    pub const EMPTY: PageCache = PageCache { base: PageId(0), free: 0, released: 0 };

    /// A cache of the free pages of the block at `base`.
    pub(super) fn new(base: PageId, free: u64, released: u64) -> PageCache {
        debug_assert!(base.0.is_multiple_of(CACHE_PAGES) && released & !free == 0);
        PageCache { base, free, released }
    }

    /// The block's first page, its free pages, and those of them that are released, as bits.
    pub fn parts(&self) -> (PageId, u64, u64) {
        (self.base, self.free, self.released)
    }

    /// Whether no page is free.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.free == 0
    }

    /// Free pages in the cache, released ones included.
    pub fn pages(&self) -> Pages {
        Pages(self.free.count_ones() as usize)
    }

    /// Free pages that the system has.
    pub fn released(&self) -> Pages {
        Pages(self.released.count_ones() as usize)
    }

    /// Whether all these pages lie in the cache's block: free, or handed out.
    #[inline]
    pub fn contains(&self, page: PageId, pages: Pages) -> bool {
        let from = page.0.wrapping_sub(self.base.0);
        from < CACHE_PAGES && pages.0 <= CACHE_PAGES - from
    }

    /// Takes the lowest run that is long enough; `None` when none is, which changes nothing.
    ///
    /// # Panics
    /// When no pages are asked for.
    #[inline]
    pub fn allocate(&mut self, pages: Pages) -> Option<Taken> {
        assert!(pages.0 > 0, "an allocation has at least one page");
        if pages.0 > CACHE_PAGES {
            return None;
        }
        let starts = runs_in_word(self.free, pages.0);
        if starts == 0 {
            return None;
        }
        let from = starts.trailing_zeros() as usize;
        let mask = mask(from, pages.0);
        let released = (self.released & mask).count_ones() as usize;
        self.free &= !mask;
        self.released &= !mask;
        Some(Taken { page: PageId(self.base.0 + from), pages, released: Pages(released) })
    }

    /// Takes back pages in use whose memory is kept. `false`, and nothing changes, when they do not lie wholly
    /// in the cache's block.
    #[inline]
    pub fn free(&mut self, page: PageId, pages: Pages) -> bool {
        self.put(page, pages).is_some()
    }

    /// As [`PageCache::free`], for pages whose memory the system has.
    #[inline]
    pub fn free_released(&mut self, page: PageId, pages: Pages) -> bool {
        let put = self.put(page, pages);
        self.released |= put.unwrap_or(0);
        put.is_some()
    }

    #[inline]
    fn put(&mut self, page: PageId, pages: Pages) -> Option<u64> {
        if pages.0 == 0 || !self.contains(page, pages) {
            return None;
        }
        let mask = mask(page.0 - self.base.0, pages.0);
        debug_assert!(self.free & mask == 0, "{pages:?} from {page:?} are free in the cache already");
        self.free |= mask;
        Some(mask)
    }
}

impl Default for PageCache {
    fn default() -> PageCache {
        PageCache::EMPTY
    }
}

/// The bits `from..from + n` of a word, 1 to 64 of them.
#[inline]
fn mask(from: usize, n: usize) -> u64 {
    u64::MAX >> (64 - n) << from
}
