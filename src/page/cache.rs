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
        let which = (self.released & mask) >> from;
        self.free &= !mask;
        self.released &= !mask;
        let released = Pages(which.count_ones() as usize);
        Some(Taken { page: PageId(self.base.0 + from), pages, released, which })
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn cache(free: u64, released: u64) -> PageCache {
        PageCache::new(PageId(640), free, released)
    }

    fn taken(page: usize, pages: usize, which: u64) -> Option<Taken> {
        let released = Pages(which.count_ones() as usize);
        Some(Taken { page: PageId(page), pages: Pages(pages), released, which })
    }

    #[test]
    fn the_lowest_run_is_taken_and_released_pages_are_counted() {
        let mut cache = cache(0b1111_0110, 0b0101_0010);
        assert_eq!((cache.pages(), cache.released()), (Pages(6), Pages(3)));
        assert_eq!(cache.allocate(Pages(3)), taken(644, 3, 0b101));
        assert_eq!(cache.allocate(Pages(3)), None);
        assert_eq!(cache.allocate(Pages(1)), taken(641, 1, 1));
        assert_eq!((cache.pages(), cache.released()), (Pages(2), Pages(0)));
        assert_eq!(cache.allocate(Pages(65)), None);
    }

    #[test]
    fn a_whole_block_goes_out_and_comes_back() {
        let mut cache = cache(u64::MAX, u64::MAX);
        assert_eq!(cache.allocate(Pages(64)), taken(640, 64, u64::MAX));
        assert!(cache.is_empty());
        assert!(cache.free(PageId(640), Pages(10)));
        assert!(cache.free_released(PageId(650), Pages(54)));
        assert_eq!(cache, self::cache(u64::MAX, u64::MAX << 10));
    }

    #[test]
    fn only_pages_wholly_in_the_block_come_in() {
        let mut cache = cache(0, 0);
        for (page, pages) in
            [(639, 1), (639, 2), (703, 2), (704, 1), (640, 65), (0, 64), (640, 0), (660, usize::MAX)]
        {
            assert!(!cache.free(PageId(page), Pages(pages)), "{pages} pages at {page}");
            assert!(!cache.free_released(PageId(page), Pages(pages)), "{pages} pages at {page}");
        }
        assert!(cache.is_empty());
        assert!(cache.free(PageId(703), Pages(1)) && cache.free(PageId(640), Pages(1)));
        assert_eq!(cache, self::cache(1 << 63 | 1, 0));
    }

    #[test]
    fn an_empty_cache_is_all_zeros() {
        assert_eq!(PageCache::default(), PageCache::EMPTY);
        assert_eq!(PageCache::EMPTY, PageCache::new(PageId(0), 0, 0));
        assert_eq!(PageCache::EMPTY.pages(), Pages(0));
    }

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "checked in debug builds")]
    #[should_panic(expected = "are free in the cache already")]
    fn a_second_free_is_noticed() {
        cache(1, 0).free(PageId(640), Pages(1));
    }
}
