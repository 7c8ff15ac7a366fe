//! The page heap of several mutators against a plain list of spans.
//!
//! Spans are taken, given back, grown and cut, by mutators in turn, under limits, with flushes and releases in between.
//! No two spans overlap; a look-up finds each by any of its pages and nothing else; what is said to be zero is zero;
//! meters and books agree with the list.
//!
//! # Safety
//! Everything is on one thread; a span's memory is touched only while the list has it.

use super::input::Input;
use spanheap::base::purpose::{BLOCKS, STACKS, WORK_BUFFERS};
use spanheap::base::{Address, Bytes, PAGE_SIZE, PageId, Pages, PurposeId};
use spanheap::os::System;
use spanheap::span::{Ground, Meters, PageHeap, Release, Request, SpanCache, SpanId, Zeroed};
use spanheap::stats::{Account, BookShard, Books, Figures};
use spanheap::{Exhausted, Scarce};
use std::collections::BTreeMap;

const MUTATORS: usize = 3;
const PURPOSES: [PurposeId; 3] = [BLOCKS, STACKS, WORK_BUFFERS];

/// A span in use.
#[derive(Clone, Copy, Debug)]
struct Held {
    id: SpanId,
    pages: usize,
    purpose: PurposeId,
    /// Pages from the start that were touched.
    touched: usize,
    fresh: bool,
}

/// The heap and its twin.
struct Pair {
    heap: PageHeap,
    meters: Box<Meters>,
    books: Box<Books>,
    shards: Vec<Box<BookShard>>,
    caches: Vec<SpanCache>,
    spans: BTreeMap<usize, Held>,
}

impl Pair {
    fn new() -> Pair {
        let books = Box::new(Books::new());
        let shards: Vec<Box<BookShard>> = (0..MUTATORS).map(|_| Box::default()).collect();
        let meters = Box::into_raw(Box::<Meters>::new_zeroed()).cast::<Meters>();
        // SAFETY: what a box holds does not move; the meters' memory is zeroed and ours.
        let meters = unsafe {
            books.open();
            shards.iter().for_each(|shard| books.link(&raw const **shard));
            Meters::init(meters);
            Box::from_raw(meters)
        };
        let (size, least) = (Bytes::mib(64), Bytes::mib(64));
        let heap = PageHeap::reserve(System::Linux, size, least, books.ledger(&shards[0])).unwrap();
        let caches = (0..MUTATORS).map(|_| SpanCache::default()).collect();
        Pair { heap, meters, books, shards, caches, spans: BTreeMap::new() }
    }

    /// What a mutator works with.
    fn ground(&mut self, n: usize) -> (Ground<'_>, &mut SpanCache) {
        let ledger = self.books.ledger(&self.shards[n]);
        (Ground { heap: &self.heap, meters: &self.meters, ledger }, &mut self.caches[n])
    }

    /// A page's first and last word.
    fn words(&self, page: usize) -> [*mut u64; 2] {
        let at = self.heap.region().page_pointer(PageId(page)).cast::<u64>();
        [at, at.wrapping_add(PAGE_SIZE / 8 - 1)]
    }

    /// Writes into pages that nobody else has; first they are `zero`, if that was said.
    fn touch(&self, from: usize, pages: usize, zero: bool) {
        for (page, word) in (from..from + pages).flat_map(|page| self.words(page).map(|word| (page, word))) {
            // SAFETY: the span is ours.
            unsafe {
                assert!(!zero || word.read() == 0, "page {page} of a fresh span holds {:#x}", word.read());
                word.write(page as u64 + 1);
            }
        }
    }

    fn verify(&self, page: usize, held: Held) {
        for (page, word) in
            (page..page + held.touched).flat_map(|page| self.words(page).map(|word| (page, word)))
        {
            // SAFETY: the span is ours.
            assert_eq!(unsafe { word.read() }, page as u64 + 1, "page {page} of {held:?}");
        }
    }

    fn assert_free(&self, page: usize, pages: usize) {
        if let Some((start, held)) = self.spans.range(..page + pages).next_back() {
            assert!(start + held.pages <= page, "{pages} pages from {page} overlap {held:?} at {start}");
        }
    }

    fn allocate(&mut self, n: usize, input: &mut Input<'_>) {
        let pages = match input.byte() {
            few @ 0..200 => 1 + few % 20,
            some => 1 + (some - 200) * 31,
        };
        let align = if input.byte() < 200 { 1 } else { 1 << (input.byte() % 11) };
        let purpose = PURPOSES[input.byte() % PURPOSES.len()];
        let request = Request { purpose, pages: Pages(pages), align: Pages(align) };
        let committed = self.heap.committed();
        let (ground, cache) = self.ground(n);
        let new = match ground.allocate(cache, request) {
            Ok(new) => (new.id, new.page.0, new.fresh),
            Err(error) => return self.assert_exhausted(error, request, committed),
        };
        let (id, page, fresh) = new;
        let at = self.heap.region().address(PageId(page)).0;
        assert!(at.is_multiple_of(align * PAGE_SIZE), "{request:?} at {at:#x}");
        self.assert_free(page, pages);
        // Some spans are touched in part only.
        let touched = if fresh && input.byte() < 128 { input.byte() % (pages + 1) } else { pages };
        self.touch(page, touched, fresh);
        self.spans.insert(page, Held { id, pages, purpose, touched, fresh });
    }

    fn assert_exhausted(&self, error: Exhausted, request: Request, before: Bytes) {
        assert_eq!(error.wanted, request.pages.bytes());
        let fits = match error.scarce {
            Scarce::PurposeLimit => self.meters.get(request.purpose).inuse() + error.wanted <= error.limit,
            Scarce::HeapLimit => before + error.wanted <= error.limit,
            Scarce::AddressSpace => self.spans.is_empty() && request.pages < Pages(512),
            Scarce::Size => error.wanted <= self.heap.region().size(),
            Scarce::System(_) => true,
        };
        assert!(!fits, "{error}, but it would have fitted");
    }

    fn pick(&mut self, input: &mut Input<'_>) -> Option<(usize, Held)> {
        let n = input.below(65_536) % self.spans.len().max(1);
        let (&page, &held) = self.spans.iter().nth(n)?;
        self.verify(page, held);
        Some((page, held))
    }

    fn free(&mut self, n: usize, input: &mut Input<'_>) {
        let Some((page, held)) = self.pick(input) else { return };
        self.spans.remove(&page);
        let (ground, cache) = self.ground(n);
        // SAFETY: the span is ours, and given up.
        unsafe { ground.free(cache, held.id, Pages(held.touched)) };
        for at in [page, page + held.pages - 1] {
            let address = self.heap.region().address(PageId(at));
            assert!(self.heap.find(address).is_none(), "a freed span is found");
        }
    }

    fn resize(&mut self, n: usize, input: &mut Input<'_>) {
        let Some((page, held)) = self.pick(input) else { return };
        // All of a span that is resized counts as touched.
        self.touch(page + held.touched, held.pages - held.touched, held.fresh);
        let by = 1 + input.byte() % 30;
        let pages = if input.byte() < 128 {
            let (ground, _) = self.ground(n);
            // SAFETY: the span is ours.
            let Some(Zeroed(zero)) = (unsafe { ground.grow_in_place(held.id, Pages(by)) }) else {
                return self.note(page, Held { touched: held.pages, ..held });
            };
            self.assert_free(page + held.pages, by);
            self.touch(page + held.pages, by, zero);
            held.pages + by
        } else {
            let by = by.min(held.pages - 1);
            if by > 0 {
                let (ground, _) = self.ground(n);
                // SAFETY: the span is ours, and its end is given up.
                unsafe { ground.shrink_in_place(held.id, Pages(by)) };
            }
            held.pages - by
        };
        self.note(page, Held { pages, touched: pages, ..held });
    }

    fn note(&mut self, page: usize, held: Held) {
        self.spans.insert(page, held);
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        let n = input.byte() % MUTATORS;
        let (ground, cache) = self.ground(n);
        let limit = |n: usize| (n < 200).then(|| Bytes(n * (64 << 10)));
        match operation % 32 {
            0..=12 => self.allocate(n, input),
            13..=23 => self.free(n, input),
            24..=26 => self.resize(n, input),
            27 => drop(ground.release(Pages(input.byte()).bytes(), Release::InBackground)),
            28 | 29 => ground.flush(cache),
            30 => self.heap.set_limit(limit(input.byte()).map(|limit| limit + Bytes::mib(4))),
            _ => {
                let purpose = PURPOSES[input.byte() % PURPOSES.len()];
                self.meters.get(purpose).set_hard_limit(limit(input.byte()));
            }
        }
    }

    fn compare(&self) {
        for (&page, held) in &self.spans {
            for at in [page, page + held.pages / 2, page + held.pages - 1] {
                let address = self.heap.region().address(PageId(at));
                let found = self.heap.find(Address(address.0 + at % PAGE_SIZE)).map(|(id, _)| id);
                assert_eq!(found, Some(held.id), "page {at}");
                assert_eq!(self.heap.account_at(address), Account::Span(held.purpose));
            }
            self.verify(page, *held);
        }
        assert_eq!(self.heap.spans().count(), self.spans.len());
        let mut figures = Box::new(Figures::zero());
        self.books.read(&mut figures);
        for purpose in PURPOSES {
            let of = || self.spans.values().filter(|held| held.purpose == purpose);
            let bytes = of().map(|held| Pages(held.pages).bytes()).sum::<Bytes>();
            assert_eq!(self.meters.get(purpose).inuse(), bytes, "{purpose:?}");
            assert_eq!(figures.balance(Account::Span(purpose)), bytes.0 as i64, "{purpose:?}");
            assert_eq!(figures.spans(purpose), of().count() as i64, "{purpose:?}");
        }
        let committed =
            [Account::Free, Account::Cached].map(|account| figures.balance(account)).iter().sum::<i64>();
        assert!(committed >= 0 && figures.balance(Account::Released) >= 0);
    }

    /// Everything goes back; then the system can have every page.
    fn finish(&mut self) {
        self.heap.set_limit(None);
        while let Some((&page, &held)) = self.spans.iter().next() {
            self.verify(page, held);
            self.spans.remove(&page);
            let (ground, cache) = self.ground(0);
            // SAFETY: the span is ours, and given up.
            unsafe { ground.free(cache, held.id, Pages(held.pages)) };
        }
        for n in 0..MUTATORS {
            let (ground, cache) = self.ground(n);
            ground.flush(cache);
        }
        self.ground(0).0.release(Bytes(usize::MAX), Release::OnRequest);
        self.compare();
        let mut figures = Box::new(Figures::zero());
        self.books.read(&mut figures);
        assert_eq!(figures.balance(Account::Released), self.heap.region().committed().0 as i64);
        assert_eq!(self.heap.free_pages(), Pages(0));
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // SAFETY: the heap goes with this.
        unsafe { self.heap.destroy() };
    }
}

/// Runs a program.
///
/// # Panics
/// When the heap and its twin differ.
pub fn fuzz(data: &[u8]) {
    let mut input = Input::new(data);
    let mut pair = Pair::new();
    let mut steps = 0;
    while let Some(operation) = input.operation() {
        pair.step(operation, &mut input);
        steps += 1;
        if steps % 8 == 0 {
            pair.compare();
        }
    }
    pair.compare();
    pair.finish();
}
