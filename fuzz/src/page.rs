//! The page allocator against its slow twin.
//!
//! The input is a program: an operation a byte, followed by the bytes that it needs. After every operation the two
//! have given the same answer, their counts agree, and the allocator's own check finds nothing wrong.
//!
//! # Safety
//! Books and tables are the body's own: opened where they stay, and taken down when nobody uses them any more.

#[path = "../../src/page/model.rs"]
mod model;

use model::{Model, ModelCache, Page};
use spanheap::base::{CHUNK_PAGES, ChunkId, PAGE_SIZE, PageId, Pages};
use spanheap::os::System;
use spanheap::page::{PageAllocator, PageCache, Taken};
use spanheap::stats::Books;

/// Where chunks may stand: close together, over borders of blocks of every level, and far apart.
const PLACES: [&[usize]; 3] =
    [&[0, 1, 2, 3, 5, 6], &[6, 7, 8, 15, 16, 63, 64, 65], &[0, 511, 512, 4095, 4096, 4097]];

/// The input as a row of small numbers. At its end it says zero, and that it is over.
struct Input<'a>(std::slice::Iter<'a, u8>);

impl Input<'_> {
    fn byte(&mut self) -> usize {
        self.0.next().copied().unwrap_or(0).into()
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.byte() << 8 | self.byte()) % bound
    }

    /// A number of pages: mostly few, at times more than there are.
    fn pages(&mut self) -> usize {
        match self.byte() {
            few @ 0..160 => 1 + few % 16,
            some @ 160..220 => 1 + some % 64,
            chunk @ 220..245 => 1 + chunk * 31 % 600,
            many => 1 + many * self.byte() % 3000,
        }
    }
}

/// The allocator and its twin, and who has what.
struct Pair {
    real: PageAllocator,
    model: Model,
    books: Box<Books>,
    places: &'static [usize],
    grown: usize,
    /// Pages in use that no cache holds.
    live: Vec<(usize, usize)>,
    caches: Vec<(PageCache, ModelCache)>,
    huge: Option<usize>,
}

fn told(taken: Option<Taken>) -> Option<(usize, usize)> {
    taken.map(|taken| (taken.page.0, taken.released.0))
}

impl Pair {
    fn new(places: &'static [usize]) -> Pair {
        let books = Box::new(Books::new());
        // SAFETY: opened once, and what a box holds does not move.
        unsafe { books.open() };
        let capacity = Pages((places.last().unwrap() + 1) * CHUNK_PAGES);
        let real = PageAllocator::new(System::Linux, capacity, books.shared().ledger()).unwrap();
        let huge = System::Linux.huge_page_size().map(|size| size.0 / PAGE_SIZE);
        let model = Model::default();
        Pair { real, model, books, places, grown: 0, live: Vec::new(), caches: Vec::new(), huge }
    }

    /// Opens the next place, going through them in an order of the input's choice.
    fn grow(&mut self, input: &mut Input) {
        let closed: Vec<usize> = self.places.iter().copied().filter(|&c| !self.is_grown(c)).collect();
        if let Some(&chunk) = closed.get(input.byte() % closed.len().max(1)) {
            self.real.grow(ChunkId(chunk), 1, self.books.shared().ledger()).unwrap();
            self.model.grow(chunk * CHUNK_PAGES, CHUNK_PAGES);
            self.grown += 1;
        }
    }

    fn is_grown(&self, chunk: usize) -> bool {
        self.model.state(chunk * CHUNK_PAGES).is_some()
    }

    fn keep(&mut self, pages: usize, real: Option<(usize, usize)>, model: Option<(usize, usize)>) {
        assert_eq!(real, model, "{pages} pages");
        self.live.extend(real.map(|(page, _)| (page, pages)));
    }

    fn allocate_at(&mut self, input: &mut Input) {
        // Behind something that is in use, where growth in place would look, or anywhere.
        let page = match self.live.get(input.byte()) {
            Some(&(page, pages)) => page + pages,
            None => self.places[input.byte() % self.places.len()] * CHUNK_PAGES + input.below(CHUNK_PAGES),
        };
        let pages = input.pages();
        let real = told(self.real.allocate_at(PageId(page), Pages(pages)));
        let model = self.model.allocate_at(page, pages);
        self.keep(pages, real, model);
    }

    /// Picks something in use, or a part of it.
    fn pick(&mut self, input: &mut Input) -> Option<(usize, usize)> {
        let at = input.below(self.live.len().max(1));
        let (page, pages) = *self.live.get(at)?;
        self.live.swap_remove(at);
        if input.byte() < 200 {
            return Some((page, pages));
        }
        let from = input.below(pages);
        let n = 1 + input.below(pages - from);
        let rest = [(page, from), (page + from + n, pages - from - n)];
        self.live.extend(rest.into_iter().filter(|(_, pages)| *pages > 0));
        Some((page + from, n))
    }

    fn free(&mut self, input: &mut Input) {
        let Some((page, n)) = self.pick(input) else { return };
        let released = input.byte() < 64;
        let state = if released { Page::Released } else { Page::Kept };
        for (real, model) in &mut self.caches {
            let (page, pages) = (PageId(page), Pages(n));
            let took = if released { real.free_released(page, pages) } else { real.free(page, pages) };
            // An empty cache is one of block 0 for both; what it says is what it holds.
            assert_eq!(took, model.free(page.0, n, state), "into the cache at {}", model.base);
            if took {
                return;
            }
        }
        match released {
            true => self.real.free_released(PageId(page), Pages(n)),
            false => self.real.free(PageId(page), Pages(n)),
        }
        self.model.free(page, n, state);
    }

    fn open_cache(&mut self) {
        let real = self.real.fill_cache();
        let model = self.model.fill_cache();
        self.caches.push((real, model));
    }

    fn close_cache(&mut self, input: &mut Input) {
        let at = input.byte() % self.caches.len().max(1);
        if at < self.caches.len() {
            let (mut real, mut model) = self.caches.remove(at);
            self.real.return_cache(&mut real);
            self.model.return_cache(&mut model);
            assert!(real.is_empty());
        }
    }

    fn allocate_cached(&mut self, input: &mut Input) {
        let at = input.byte() % self.caches.len().max(1);
        let pages = input.byte() % 66 + 1;
        if let Some((real, model)) = self.caches.get_mut(at) {
            let (real, model) = (told(real.allocate(Pages(pages))), model.allocate(pages));
            self.keep(pages, real, model);
        }
    }

    fn release(&mut self, worthwhile: bool, input: &mut Input) {
        let Some(top) = self.real.top() else { return };
        let from = if input.byte() < 160 { top.0 } else { input.below(top.0 + 1) };
        let most = input.pages();
        let (real, model) = if worthwhile {
            let real = self.real.take_worthwhile(PageId(from), Pages(most));
            (real, self.model.take_worthwhile(from, most, self.huge))
        } else {
            let real = self.real.take_releasable(PageId(from), Pages(most));
            (real, self.model.take_releasable(from, most, self.huge))
        };
        assert_eq!(real.map(|(page, pages)| (page.0, pages.0)), model, "{most} pages from {from} down");
        // Until the system has answered they are in use; at times that takes long.
        self.live.extend(model);
        if let (Some((page, n)), 0..200) = (model, input.byte()) {
            self.live.pop();
            self.real.free_released(PageId(page), Pages(n));
            self.model.free(page, n, Page::Released);
        }
    }

    fn step(&mut self, operation: usize, input: &mut Input) {
        match operation % 16 {
            0 => self.grow(input),
            1..=4 => {
                let pages = input.pages();
                let real = told(self.real.allocate(Pages(pages)));
                let model = self.model.allocate(pages, 1);
                self.keep(pages, real, model);
            }
            5 => {
                let (pages, align) = (input.pages(), 1 << (input.byte() % 13));
                let real = told(self.real.allocate_aligned(Pages(pages), Pages(align)));
                let model = self.model.allocate(pages, align);
                self.keep(pages, real, model);
            }
            6 => self.allocate_at(input),
            7..=10 => self.free(input),
            11 => self.open_cache(),
            12 => self.close_cache(input),
            13 | 14 => self.allocate_cached(input),
            _ if operation >= 240 => {
                self.real.next_generation();
                self.model.next_generation();
            }
            _ => self.release(operation >= 128, input),
        }
    }

    /// The allocator finds itself in order, and agrees with its twin.
    fn compare(&self) {
        self.real.check().unwrap();
        let released = self.model.count(Page::Released);
        assert_eq!(self.real.released_pages().0, released);
        assert_eq!(self.real.free_pages().0, released + self.model.count(Page::Kept));
        assert_eq!(self.real.chunks().count(), self.grown);
    }

    /// Page by page.
    fn compare_all(&self) {
        for (page, state) in self.model.pages() {
            assert_eq!(self.real.is_free(PageId(page)), state != Page::InUse, "page {page}");
            assert_eq!(self.real.is_released(PageId(page)), state == Page::Released, "page {page}");
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // SAFETY: the allocator goes with this.
        unsafe { self.real.destroy() };
    }
}

/// Runs a program.
///
/// # Panics
/// When allocator and twin differ, or the allocator's check fails.
pub fn fuzz(data: &[u8]) {
    let mut input = Input(data.iter());
    let mut pair = Pair::new(PLACES[input.byte() % PLACES.len()]);
    pair.grow(&mut input);
    while let Some(&operation) = input.0.next() {
        pair.step(operation.into(), &mut input);
        pair.compare();
    }
    pair.compare_all();
}
