//! The ground on a simulated system that refuses calls: what is there, what it holds, and what the books say.
//!
//! A region's pages go to and fro, a table gets its elements, a pool gives objects out and takes them back. Their twins
//! are a row of states, a set of numbers, and another set. A refused call changes nothing.
//!
//! # Safety
//! Everything is the body's own; pages are touched only while the twin says that they are ready.

use super::input::Input;
use spanheap::base::{Bytes, CHUNK_PAGES, CHUNK_SIZE, PageId, Pages};
use spanheap::os::{Pool, Region, Simulated, System, Table};
use spanheap::stats::{Account, BookShard, Books, Figures, Ledger, MetadataKind};
use std::collections::BTreeMap;
use std::ptr::NonNull;

const ELEMENTS: usize = 10_000;

/// The ground and its twin.
struct Pair<'a> {
    simulated: &'a Simulated,
    ledger: Ledger<'a>,
    region: Region,
    /// For every page: ready, and what was written there.
    pages: Vec<Option<u64>>,
    table: Table<u64>,
    elements: BTreeMap<usize, u64>,
    pool: Pool<[u64; 9]>,
    objects: BTreeMap<u32, u64>,
    written: u64,
}

impl Pair<'_> {
    /// A page's first word.
    fn word(&self, page: usize) -> *mut u64 {
        self.region.page_pointer(PageId(page)).cast()
    }

    fn grow(&mut self) {
        let before = self.region.committed();
        match self.region.grow(Bytes(CHUNK_SIZE), self.ledger) {
            Ok(_) => self.pages.extend([None; CHUNK_PAGES]),
            Err(_) => assert_eq!(self.region.committed(), before, "a refused growth"),
        }
    }

    fn ready(&mut self, page: usize, n: usize) {
        self.written += 1;
        // SAFETY: the pages are the body's; what is ready may be touched.
        unsafe {
            if self.region.ready(PageId(page), Pages(n)).is_err() {
                return;
            }
            for at in page..page + n {
                assert_eq!(self.word(at).read(), self.pages[at].unwrap_or(0), "page {at}");
                self.word(at).write(self.written);
            }
        }
        self.pages[page..page + n].fill(Some(self.written));
    }

    fn release(&mut self, page: usize, n: usize) {
        // SAFETY: the pages are the body's, and their contents are given up.
        if unsafe { self.region.release(PageId(page), Pages(n)) }.is_ok() {
            self.pages[page..page + n].fill(None);
        }
    }

    fn ensure(&mut self, at: usize, n: usize) {
        let range = at..(at + n).min(ELEMENTS);
        if self.table.ensure(range.clone(), self.ledger).is_ok() {
            for at in range {
                let expected = self.elements.get(&at).copied().unwrap_or(0);
                assert_eq!(self.table.get(at), Some(&expected), "element {at}");
                // SAFETY: the element is there, and no reference to it is kept.
                unsafe { self.table.as_ptr().add(at).write(at as u64) };
                self.elements.insert(at, at as u64);
            }
        }
    }

    fn take(&mut self) {
        let Ok(taken) = self.pool.take(self.ledger) else { return };
        self.written += 1;
        let at = self.pool.pointer(taken.number).cast::<u64>();
        // SAFETY: the object is ours now.
        unsafe {
            assert!(!taken.fresh || (0..9).all(|i| at.add(i).read() == 0), "fresh, but not zero");
            (0..9).for_each(|i| at.add(i).write(self.written));
        }
        assert_eq!(self.objects.insert(taken.number, self.written), None, "given out twice");
    }

    fn give(&mut self, which: usize) {
        let Some((&number, &written)) = self.objects.iter().nth(which % self.objects.len().max(1)) else {
            return;
        };
        let object = self.pool.get(number).expect("an object in use is there");
        assert_eq!(object, &[written; 9], "object {number}");
        self.pool.give(number);
        self.objects.remove(&number);
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        let pages = self.pages.len();
        match operation % 16 {
            0 => self.grow(),
            1..=6 if pages > 0 => {
                let page = input.below(pages);
                let n = (1 + input.byte() % 40).min(pages - page);
                if operation.is_multiple_of(2) { self.ready(page, n) } else { self.release(page, n) }
            }
            7 | 8 => self.ensure(input.below(ELEMENTS), input.byte() * 8),
            9..=11 => (0..input.byte() % 8).for_each(|_| self.take()),
            12 | 13 => self.give(input.below(65_536)),
            14 => self.simulated.refuse(input.byte() % 4, 1 + input.byte() % 3),
            _ => self.simulated.refuse_nothing(),
        }
    }

    fn compare(&self, books: &Books) {
        assert_eq!(self.pool.check(), Ok(()));
        assert_eq!(self.pool.taken(), self.objects.len());
        let mut figures = Box::new(Figures::zero());
        books.read(&mut figures);
        for (account, bytes) in [
            (Account::Released, self.region.committed()),
            (Account::Metadata(MetadataKind::SpanMap), self.table.committed_bytes()),
            (Account::Metadata(MetadataKind::Mutators), self.pool.committed_bytes()),
        ] {
            assert_eq!(figures.balance(account), bytes.0 as i64, "{account:?}");
        }
        assert_eq!(Account::fixed().map(|account| figures.balance(account)).sum::<i64>(), 0);
        for (page, state) in self.pages.iter().enumerate() {
            if let Some(written) = *state {
                // SAFETY: the page is ready.
                assert_eq!(unsafe { self.word(page).read() }, written, "page {page}");
            }
        }
        for (&at, value) in &self.elements {
            assert_eq!(self.table.get(at), Some(value), "element {at}");
        }
    }
}

/// Runs a program.
///
/// # Panics
/// When the ground and its twin differ, or something is left behind.
pub fn fuzz(data: &[u8]) {
    let at = NonNull::from(Box::leak(Box::new(Simulated::new())));
    // SAFETY: leaked until the end of this function.
    let simulated: &'static Simulated = unsafe { &*at.as_ptr() };
    let system = System::Simulated(simulated);
    let books = Box::new(Books::new());
    let shard: Box<BookShard> = Box::default();
    // SAFETY: what a box holds does not move, and both go at the end of this function.
    unsafe {
        books.open();
        books.link(&raw const *shard);
    }
    let ledger = books.ledger(&shard);
    let (map, mutators) = (MetadataKind::SpanMap, MetadataKind::Mutators);
    let mut pair = Pair {
        simulated,
        ledger,
        region: Region::reserve(system, Bytes::mib(64), Bytes::mib(64), ledger).unwrap(),
        pages: Vec::new(),
        table: Table::reserve(system, map, ELEMENTS, c"spanheap: fuzz", ledger).unwrap(),
        elements: BTreeMap::new(),
        pool: Pool::reserve(system, mutators, 500, c"spanheap: fuzz", ledger).unwrap(),
        objects: BTreeMap::new(),
        written: 0,
    };
    let mut input = Input::new(data);
    while let Some(operation) = input.operation() {
        pair.step(operation, &mut input);
    }
    pair.compare(&books);
    // SAFETY: nobody uses these any more.
    unsafe {
        pair.region.destroy();
        pair.table.destroy();
        pair.pool.destroy();
    }
    assert_eq!((simulated.reserved_bytes(), simulated.ready_bytes()), (Bytes::ZERO, Bytes::ZERO));
    // SAFETY: leaked above, and nobody uses it any more.
    drop(unsafe { Box::from_raw(at.as_ptr()) });
}
