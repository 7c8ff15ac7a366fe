//! The page allocator: address-ordered first fit over all chunks.
//!
//! Every allocation takes the lowest run that fits. So the heap stays dense at its lower end, and free memory
//! gathers at the upper end, where it is given back from.
//!
//! The *hint* makes the ordinary case local: no page below it is free, so a search begins there. Before a search
//! it rises to the lowest free page; an allocation of what lies there raises it further, a free below lowers it.
//! It always lies in a grown chunk, as the search reads that chunk's bitmap.
//!
//! # Safety
//! Nothing here is unsafe but to give the tables back, which is left to whoever takes the heap down.

use super::cache::{CACHE_PAGES, PageCache};
use super::chunk::Chunk;
use super::chunks::Chunks;
use super::release::Grain;
use super::tree::{Found, Tree};
use crate::base::{Address, Bytes, CHUNK_PAGES, ChunkId, PageId, Pages};
use crate::os::{System, SystemError};
use crate::stats::{Ledger, MetadataKind};

/// Pages that were free and are now in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// The first page.
    pub page: PageId,
    /// How many there are.
    pub pages: Pages,
    /// How many of them, anywhere among them, the system had.
    pub released: Pages,
    /// Which of them, the first page in the lowest bit, for up to 64 pages; zero for more.
    pub which: u64,
}

/// Which pages of a region are free. The caller holds the heap's lock.
pub struct PageAllocator {
    pub(super) tree: Tree,
    pub(super) chunks: Chunks,
    /// No page below is free. In a grown chunk; `None` when no page at all is free.
    pub(super) hint: Option<PageId>,
    pub(super) free: Pages,
    pub(super) released: Pages,
    /// What pages are given back in.
    pub(super) grain: Grain,
}

/// A chunk of the heap, as [`PageAllocator::chunks`] sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkView {
    /// Which chunk it is.
    pub chunk: ChunkId,
    /// Its free pages, released ones included.
    pub free: Pages,
    /// Those of them that the system has.
    pub released: Pages,
    /// Its longest run of free pages.
    pub longest: Pages,
}

impl PageAllocator {
    /// An allocator for a region of `capacity` pages, a multiple of 512, that has none yet.
    ///
    /// Reserves its tables and commits what every search reads; both stand in the books.
    ///
    /// # Errors
    /// When the system refuses. What was reserved until then is given back; as with a whole heap that goes, its
    /// entries stay in the books, which are of no more use.
    ///
    /// # Panics
    /// When `capacity` is zero or no multiple of a chunk.
    pub fn new(system: System, capacity: Pages, ledger: Ledger) -> Result<PageAllocator, SystemError> {
        assert!(capacity.0 > 0 && capacity.0.is_multiple_of(CHUNK_PAGES), "{capacity:?} are no whole chunks");
        let tree = Tree::new(system, capacity.0 / CHUNK_PAGES, ledger)?;
        let chunks = match Chunks::new(system, capacity.0 / CHUNK_PAGES, ledger) {
            Ok(chunks) => chunks,
            Err(error) => {
                // SAFETY: nobody has seen the tree yet.
                unsafe { tree.destroy() };
                return Err(error);
            }
        };
        Ok(PageAllocator {
            tree,
            chunks,
            hint: None,
            free: Pages(0),
            released: Pages(0),
            grain: Grain::of(system),
        })
    }

    /// Gives the allocator's tables back to the system. Their entries in the books go with the heap.
    ///
    /// # Safety
    /// Called once, and the allocator is not used afterwards.
    pub unsafe fn destroy(&self) {
        // SAFETY: handed on, for both.
        unsafe {
            self.tree.destroy();
            self.chunks.destroy();
        }
    }

    /// Visits the memory of the allocator's own tables: its kind, where it begins and how long it is.
    pub fn for_each_table(&self, mut visit: impl FnMut(MetadataKind, Address, Bytes)) {
        self.tree.committed_ranges().for_each(|(at, size)| visit(MetadataKind::PageSummaries, at, size));
        self.chunks.committed_ranges().for_each(|(at, size)| visit(MetadataKind::PageBitmaps, at, size));
    }

    /// Visits what is reserved for the allocator's own tables: their kind, where it begins and how long it is.
    pub fn for_each_reservation(&self, mut visit: impl FnMut(MetadataKind, Address, Bytes)) {
        let (at, size) = self.tree.reservation();
        visit(MetadataKind::PageSummaries, at, size);
        self.chunks
            .reservations()
            .into_iter()
            .for_each(|(at, size)| visit(MetadataKind::PageBitmaps, at, size));
    }

    /// Takes `chunks` new chunks into the heap: all their pages are free and released.
    ///
    /// # Errors
    /// When the system refuses memory for their bitmaps or summaries. No page has changed then; what metadata
    /// was committed until then stays, in the books too, and the next attempt uses it.
    ///
    /// # Panics
    /// When a chunk is there already or lies beyond the capacity.
    pub fn grow(&mut self, first: ChunkId, chunks: usize, ledger: Ledger) -> Result<(), SystemError> {
        if chunks == 0 {
            return Ok(());
        }
        let end = first.0.checked_add(chunks).filter(|&end| end <= self.chunks.capacity());
        let range = first.0..end.expect("the heap grows inside its region");
        self.tree.ensure(range.clone(), ledger)?;
        self.chunks.ensure(range.clone(), ledger)?;
        for chunk in range.map(ChunkId) {
            assert!(!self.chunks.is_grown(chunk), "the heap has {chunk:?} already");
            self.chunks.open(chunk);
            self.tree.set_leaf(chunk, Chunk::FRESH.free.summary());
        }
        let pages = Pages(chunks * CHUNK_PAGES);
        self.free += pages;
        self.released += pages;
        self.lower_hint(first.first_page());
        Ok(())
    }

    /// Takes the lowest run of `pages` free pages; `None` when none is long enough, which changes nothing.
    ///
    /// # Panics
    /// When no pages are asked for, here and in the other ways to allocate.
    #[inline]
    pub fn allocate(&mut self, pages: Pages) -> Option<Taken> {
        assert!(pages.0 > 0, "an allocation has at least one page");
        let lowest = self.raise_hint()?;
        let page = self.find(lowest, pages)?;
        Some(self.take_found(page, pages))
    }

    /// Takes the lowest run of `pages` free pages that begins at a multiple of `align` pages, a power of two.
    /// Pages before and behind it stay free.
    pub fn allocate_aligned(&mut self, pages: Pages, align: Pages) -> Option<Taken> {
        assert!(pages.0 > 0, "an allocation has at least one page");
        assert!(align.0.is_power_of_two(), "an alignment of {align:?} is no power of two");
        let mut from = self.raise_hint()?;
        loop {
            let page = self.find(from, pages)?;
            let aligned = PageId(page.0.checked_next_multiple_of(align.0)?);
            if self.is_free_run(aligned, pages) {
                return Some(self.take_found(aligned, pages));
            }
            // No run begins between `from` and `page`, no aligned page lies between `page` and `aligned`, and
            // `aligned` itself does not do: go on behind it, in a chunk that can be read.
            let chunk = self.chunks.next_grown(aligned.chunk())?;
            from = aligned.max(chunk.first_page());
        }
    }

    /// Takes exactly these pages if all of them are free, as for an allocation that grows where it stands.
    pub fn allocate_at(&mut self, page: PageId, pages: Pages) -> Option<Taken> {
        assert!(pages.0 > 0, "an allocation has at least one page");
        self.is_free_run(page, pages).then(|| self.take_found(page, pages))
    }

    /// Makes pages in use free. Their memory is kept.
    ///
    /// # Panics
    /// When the heap does not have the pages; in debug builds also when one of them is free already.
    #[inline]
    pub fn free(&mut self, page: PageId, pages: Pages) {
        self.put(page, pages, false);
    }

    /// Makes pages in use free whose memory the system has: it was just released, or never touched.
    ///
    /// # Panics
    /// As [`PageAllocator::free`].
    pub fn free_released(&mut self, page: PageId, pages: Pages) {
        self.put(page, pages, true);
        self.released += pages;
    }

    /// Takes the free pages of the block of 64 that holds the lowest free page. Empty when no page is free.
    pub fn fill_cache(&mut self) -> PageCache {
        let Some(lowest) = self.raise_hint() else { return PageCache::EMPTY };
        let chunk = lowest.chunk();
        let (free, released) = self.chunks.at_mut(chunk).take_word(lowest.in_chunk() / 64);
        self.free -= Pages(free.count_ones() as usize);
        self.released -= Pages(released.count_ones() as usize);
        self.refresh(chunk);
        let base = PageId(lowest.0 / CACHE_PAGES * CACHE_PAGES);
        // The last page of the block, not the one behind it, which need not be in the heap.
        self.hint = Some(PageId(base.0 + CACHE_PAGES - 1));
        PageCache::new(base, free, released)
    }

    /// Makes the pages that a cache holds free, and the cache empty.
    pub fn return_cache(&mut self, cache: &mut PageCache) {
        let (base, free, released) = core::mem::take(cache).parts();
        if free == 0 {
            return;
        }
        let chunk = base.chunk();
        if free != released {
            self.chunks.mark_releasable(chunk);
        }
        self.chunks.at_mut(chunk).put_word(base.in_chunk() / 64, free, released);
        self.free += Pages(free.count_ones() as usize);
        self.released += Pages(released.count_ones() as usize);
        self.refresh(chunk);
        self.lower_hint(PageId(base.0 + free.trailing_zeros() as usize));
    }

    /// Free pages, released ones included. Pages in caches are not.
    pub fn free_pages(&self) -> Pages {
        self.free
    }

    /// Free pages that the system has. Pages in caches are not among them.
    pub fn released_pages(&self) -> Pages {
        self.released
    }

    /// Whether the heap has the page and nobody uses it.
    pub fn is_free(&self, page: PageId) -> bool {
        self.chunks.get(page.chunk()).is_some_and(|chunk| chunk.free.has(page.in_chunk()))
    }

    /// Whether the page is free and the system has it.
    pub fn is_released(&self, page: PageId) -> bool {
        self.chunks.get(page.chunk()).is_some_and(|chunk| chunk.released.has(page.in_chunk()))
    }

    /// The chunks that the heap has, from low to high.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkView> {
        self.chunks.grown().map(|id| {
            let chunk = self.chunks.at(id);
            ChunkView {
                chunk: id,
                free: Pages(chunk.free.count()),
                released: Pages(chunk.released.count()),
                longest: Pages(self.tree.leaf(id).longest()),
            }
        })
    }

    /// The lowest place at or above `from`, a page of a grown chunk, where `pages` free pages begin.
    #[inline]
    fn find(&mut self, from: PageId, pages: Pages) -> Option<PageId> {
        let chunk = from.chunk();
        let leaf = self.tree.leaf(chunk);
        if leaf.longest() >= pages.0 {
            let inside = self.chunks.at(chunk).free.find_run(pages.0, from.in_chunk());
            if let Some(bit) = inside {
                return Some(PageId(chunk.first_page().0 + bit));
            }
        }
        let tail = leaf.end().min(CHUNK_PAGES - from.in_chunk());
        match self.tree.find(chunk, tail, pages)? {
            Found::At(page) => Some(page),
            Found::Inside(chunk) => {
                let bit = self.chunks.at(chunk).free.find_run(pages.0, 0);
                Some(PageId(chunk.first_page().0 + bit.expect("a leaf's summary follows from its bitmap")))
            }
        }
    }

    /// The lowest free page; the hint is there afterwards.
    #[inline]
    fn raise_hint(&mut self) -> Option<PageId> {
        let hint = self.hint?;
        let chunk = hint.chunk();
        self.hint = match self.chunks.at(chunk).free.first(hint.in_chunk()) {
            Some(bit) => Some(PageId(chunk.first_page().0 + bit)),
            // Nothing is free in this chunk from the hint on, and nothing below it.
            None => self.find(hint, Pages(1)),
        };
        self.hint
    }

    #[inline]
    fn lower_hint(&mut self, page: PageId) {
        self.hint = Some(self.hint.map_or(page, |hint| hint.min(page)));
    }

    /// Whether the heap has all of these pages and all are free.
    fn is_free_run(&self, page: PageId, pages: Pages) -> bool {
        let end = page.0.checked_add(pages.0);
        if end.is_none_or(|end| end > self.chunks.capacity() * CHUNK_PAGES) {
            return false;
        }
        parts(page, pages)
            .all(|(id, from, n)| self.chunks.get(id).is_some_and(|chunk| chunk.free.has_all(from, n)))
    }

    /// Takes pages that a search found free.
    #[inline]
    fn take_found(&mut self, page: PageId, pages: Pages) -> Taken {
        let which = self.released_of(page, pages);
        let released = self.take(page, pages);
        if self.hint == Some(page) {
            // The last page taken is in the heap; the next one need not be.
            self.hint = Some(PageId(page.0 + pages.0 - 1));
        }
        Taken { page, pages, released, which }
    }

    /// Which of up to 64 pages are released; zero for more.
    fn released_of(&self, page: PageId, pages: Pages) -> u64 {
        if pages.0 > 64 || self.released == Pages(0) {
            return 0;
        }
        let part = |(id, from, n): (ChunkId, usize, usize)| {
            let place = id.first_page().0 + from - page.0;
            self.chunks.at(id).released.window(from, n) << place
        };
        parts(page, pages).map(part).fold(0, |all, part| all | part)
    }

    /// Makes free pages used; says how many of them were released.
    #[inline]
    pub(super) fn take(&mut self, page: PageId, pages: Pages) -> Pages {
        let mut released = 0;
        self.change(page, pages, |chunks, id, from, n| released += chunks.at_mut(id).take(from, n));
        self.free -= pages;
        self.released -= Pages(released);
        Pages(released)
    }

    #[inline]
    fn put(&mut self, page: PageId, pages: Pages, released: bool) {
        self.change(page, pages, |chunks, id, from, n| {
            if !released {
                chunks.mark_releasable(id);
            }
            chunks.at_mut(id).put(from, n, released);
        });
        self.free += pages;
        self.lower_hint(page);
    }

    /// Lets `write` change each chunk's part of these pages, and brings the tree up to date.
    #[inline]
    fn change(
        &mut self,
        page: PageId,
        pages: Pages,
        mut write: impl FnMut(&mut Chunks, ChunkId, usize, usize),
    ) {
        for (id, from, n) in parts(page, pages) {
            write(&mut self.chunks, id, from, n);
            self.refresh(id);
        }
    }

    /// Tells the tree that a chunk's bitmap changed.
    #[inline]
    fn refresh(&mut self, chunk: ChunkId) {
        self.tree.set_leaf(chunk, self.chunks.at(chunk).free.summary());
    }
}

/// The chunks that hold a run of pages, each with the run's first page in it and its number of pages.
#[inline]
fn parts(page: PageId, pages: Pages) -> impl Iterator<Item = (ChunkId, usize, usize)> {
    let end = page.0 + pages.0;
    let mut at = page;
    core::iter::from_fn(move || {
        if at.0 >= end {
            return None;
        }
        let (chunk, from) = (at.chunk(), at.in_chunk());
        let n = (end - at.0).min(CHUNK_PAGES - from);
        at = PageId(at.0 + n);
        Some((chunk, from, n))
    })
}
