//! Blocks of several owners, interleaved by the input on one thread.
//!
//! Three owners have two caches each. The input says who allocates, who frees whose block, who parks and who comes
//! back. A free of somebody else's block has two steps, and the input says how long the second one waits: the
//! span may have changed hands, even twice, before it reaches an inbox. After every few operations each span is
//! counted by hand: what its holders have, what waits in it, what its free list gives and what was never carved
//! must be all there is.
//!
//! # Safety
//! Everything is on one thread, so every owner's lock is held, so to speak, by who needs it; blocks are freed
//! only while the model says that they are in use.

use super::block_model::{Asked, Model};
use super::input::Input;
use spanheap::base::class::{MAX_SMALL, SizeClass};
use spanheap::base::purpose::BUILT_IN;
use spanheap::base::sync::Ordering;
use spanheap::base::{Address, Bytes, PAGE_SIZE, PurposeId};
use spanheap::block::body::{LARGE, Phase, mark};
use spanheap::block::cache::Freed;
use spanheap::block::{BlockCache, BlockCentral, BlockSpan, FreeBlock, Work, large, remote};
use spanheap::os::System;
use spanheap::span::{Ground, Meters, PageHeap, Request, Span, SpanCache, SpanId};
use spanheap::stats::{Account, BookShard, Books, Figures};
use std::collections::HashMap;

const OWNERS: usize = 3;
const PURPOSES: usize = 2;
const KEY: usize = 0x5bd1_e995_9d1b_58d3;

/// One owner's part: what a mutator has.
struct Owner {
    number: u32,
    shard: Box<BookShard>,
    spans: SpanCache,
    caches: Vec<*mut BlockCache>,
    parked: bool,
}

/// A span in which a first block waits, on its way to the inbox of who owned it a while ago.
struct Late {
    owner: u32,
    span: SpanId,
}

/// What all owners share.
struct Shared {
    heap: PageHeap,
    meters: Box<Meters>,
    books: Box<Books>,
    central: BlockCentral,
}

/// The owners, and their twin.
struct World {
    shared: Box<Shared>,
    owners: Vec<Owner>,
    model: Model,
    late: Vec<Late>,
}

fn purpose(n: usize) -> PurposeId {
    PurposeId((BUILT_IN.len() + n) as u8)
}

impl Owner {
    fn new(number: u32, shared: &Shared) -> Owner {
        let shard: Box<BookShard> = Box::default();
        // SAFETY: the shard stays where it is until the books are gone.
        unsafe { shared.books.link(&raw const *shard) };
        shared.central.add_owner(number, shared.books.shared().ledger()).unwrap();
        let mut owner =
            Owner { number, shard, spans: SpanCache::default(), caches: Vec::new(), parked: false };
        for n in 0..PURPOSES {
            let cache = Box::into_raw(Box::<BlockCache>::new_zeroed()).cast::<BlockCache>();
            // SAFETY: zeroed memory of our own.
            unsafe { BlockCache::init(cache, shared.ground(&owner.shard), number, purpose(n), KEY) };
            owner.caches.push(cache);
        }
        owner
    }

    fn work<'a>(&'a mut self, shared: &'a Shared) -> Work<'a> {
        Work { ground: shared.ground(&self.shard), spans: &mut self.spans, central: &shared.central }
    }
}

impl Shared {
    fn new() -> Shared {
        let books = Box::new(Books::new());
        // SAFETY: opened once, and what a box holds does not move.
        unsafe { books.open() };
        let meters = Box::into_raw(Box::<Meters>::new_zeroed()).cast::<Meters>();
        // SAFETY: zeroed memory of our own, filled before use.
        let meters = unsafe {
            Meters::init(meters);
            Box::from_raw(meters)
        };
        for n in 0..PURPOSES {
            assert_eq!(meters.declare(["one", "two"][n]), Ok(purpose(n)));
        }
        let (heap, central) = {
            let shared = books.shared();
            let heap = PageHeap::reserve(System::Linux, Bytes::mib(256), Bytes::mib(64), shared.ledger());
            let central = BlockCentral::reserve(System::Linux, 64, shared.ledger());
            (heap.unwrap(), central.unwrap())
        };
        Shared { heap, meters, books, central }
    }

    fn ground<'a>(&'a self, shard: &'a BookShard) -> Ground<'a> {
        Ground { heap: &self.heap, meters: &self.meters, ledger: self.books.ledger(shard) }
    }

    fn body(&self, span: &Span) -> *mut BlockSpan {
        span.body()
    }

    fn find(&self, pointer: *mut u8) -> (SpanId, &Span) {
        self.heap.find(Address::of(pointer)).expect("a block in use lies in a span")
    }
}

impl World {
    fn new() -> World {
        let shared = Box::new(Shared::new());
        let owners = (1..=OWNERS as u32).map(|number| Owner::new(number, &shared)).collect();
        World { shared, owners, model: Model::default(), late: Vec::new() }
    }

    /// An owner that has a thread, counted from `n`; one is brought back if there is none.
    fn attached(&mut self, n: usize) -> usize {
        let found = (0..OWNERS).map(|i| (n + i) % OWNERS).find(|&i| !self.owners[i].parked);
        found.unwrap_or_else(|| {
            self.attach(n % OWNERS);
            n % OWNERS
        })
    }

    fn attach(&mut self, n: usize) {
        let owner = &mut self.owners[n];
        owner.parked = false;
        self.shared.central.inbox(owner.number).set_parked(false);
    }

    /// What a thread does when it ends.
    fn park(&mut self, n: usize) {
        self.flush(n);
        self.owners[n].parked = true;
        self.shared.central.inbox(self.owners[n].number).set_parked(true);
    }

    fn flush(&mut self, n: usize) {
        let (number, caches) = (self.owners[n].number, self.owners[n].caches.clone());
        let mut work = self.owners[n].work(&self.shared);
        // SAFETY: the owner is ours.
        unsafe {
            BlockCache::put_back(&mut work, number, self.shared.central.inbox(number).take());
            caches.into_iter().for_each(|cache| BlockCache::retire_current(cache, &mut work));
        }
        work.ground.flush(work.spans);
    }

    fn allocate(&mut self, n: usize, which: usize, size: usize) {
        let cache = self.owners[n].caches[which];
        let Some(class) = SizeClass::of(size) else { return self.allocate_large(n, which, size) };
        // SAFETY: the owner is ours.
        let fast = unsafe {
            let small = BlockCache::allocate(cache, size);
            if small.is_null() { BlockCache::allocate_medium(cache, size) } else { small }
        };
        let (pointer, zero) =
            if fast.is_null() { self.allocate_slowly(n, cache, class) } else { (fast, false) };
        let (_, span) = self.shared.find(pointer);
        assert_eq!(span.purpose(), purpose(which));
        // SAFETY: a block was just taken from the span.
        let usable = unsafe { (*self.shared.body(span)).size() };
        self.model.allocated(pointer, Asked { size, align: 16, zeroed: zero, tag: which as u64 }, usable);
    }

    /// The loop of the slow path: the cache, the inbox, parked owners, a fresh span.
    fn allocate_slowly(&mut self, n: usize, cache: *mut BlockCache, class: SizeClass) -> (*mut u8, bool) {
        let number = self.owners[n].number;
        let parked: Vec<usize> = (0..OWNERS).filter(|&i| self.owners[i].parked).collect();
        let which = parked.into_iter().map(|i| self.owners[i].caches.clone());
        let sources: Vec<_> = which.flatten().collect();
        let mut work = self.owners[n].work(&self.shared);
        // SAFETY: all owners are ours.
        unsafe {
            loop {
                if let Some(block) = BlockCache::take(cache, &mut work, class) {
                    (*cache).refresh(work.ground);
                    return (block.pointer, block.zero);
                }
                let inbox = work.central.inbox(number).take();
                if !inbox.is_empty() {
                    BlockCache::put_back(&mut work, number, inbox);
                    continue;
                }
                let same = |source: &&*mut BlockCache| (***source).purpose() == (*cache).purpose();
                let found = sources.iter().filter(same).find_map(|&s| BlockCache::surrender_listed(s, class));
                if let Some(span) = found {
                    BlockCache::adopt(cache, &work, span);
                    continue;
                }
                let request = Request::new((*cache).purpose(), (*cache).next_span(class));
                let new = work.ground.allocate(work.spans, request).expect("there is room");
                BlockCache::install(cache, &new, class);
            }
        }
    }

    fn allocate_large(&mut self, n: usize, which: usize, size: usize) {
        let mut work = self.owners[n].work(&self.shared);
        let block = large::allocate(&mut work, purpose(which), size, 16, size.is_multiple_of(2), None)
            .expect("there is room");
        let usable = self.shared.find(block.pointer).1.pages().bytes().0;
        let asked = Asked { size, align: PAGE_SIZE, zeroed: block.zero, tag: which as u64 };
        self.model.allocated(block.pointer, asked, usable);
    }

    /// Frees a block as the thread of an owner. The second step of a free of somebody else's waits if it may.
    fn free(&mut self, n: usize, pointer: *mut u8, may_wait: bool) {
        self.model.freed(pointer);
        let cache = self.owners[n].caches[0];
        // SAFETY: the block is given up, and the owner is ours.
        unsafe {
            match BlockCache::free(cache, pointer) {
                Freed::Done => {}
                Freed::Tripped(span) => BlockCache::attend(&mut self.owners[n].work(&self.shared), span),
                Freed::Other => return self.free_slowly(n, pointer, may_wait),
            }
            assert_eq!(BlockCache::free(cache, pointer), Freed::Other, "a double free went through");
        }
    }

    fn free_slowly(&mut self, n: usize, pointer: *mut u8, may_wait: bool) {
        let (id, span) = self.shared.find(pointer);
        let body = self.shared.body(span);
        // SAFETY: the block was in use until now, so its span is there; it is given up.
        unsafe {
            let owner = (*body).owner.load(Ordering::Relaxed);
            if owner == LARGE {
                let mut work = self.owners[n].work(&self.shared);
                assert_eq!(large::free(&mut work, id, span, pointer), Ok(0));
                return;
            }
            let block = pointer.cast::<FreeBlock>();
            (*block).mark = mark(KEY, block);
            let memory = self.shared.heap.region().page_pointer(span.page());
            let place = (pointer.addr() - memory.addr()) / 16;
            if remote::wait(span.word(), memory, place as u16) {
                self.late.push(Late { owner, span: id });
                if !may_wait {
                    self.deliver(n, self.late.len() - 1);
                }
            }
        }
    }

    /// The second step: the span reaches the inbox of who owned it when its block was freed.
    fn deliver(&mut self, n: usize, which: usize) {
        let Late { owner, span } = self.late.swap_remove(which);
        let parked = self.shared.central.inbox(owner).push(span, self.shared.heap.links());
        if owner == self.owners[n].number {
            let mut work = self.owners[n].work(&self.shared);
            // SAFETY: the owner is ours.
            unsafe { BlockCache::put_back(&mut work, owner, self.shared.central.inbox(owner).take()) };
        } else if parked {
            self.adopt_freed(n, owner);
        }
    }

    /// Empties a parked owner's inbox, adopting the spans in it.
    fn adopt_freed(&mut self, n: usize, owner: u32) {
        let (number, caches) = (self.owners[n].number, self.owners[n].caches.clone());
        let links = self.shared.heap.links();
        let mut work = self.owners[n].work(&self.shared);
        let mut spans = self.shared.central.inbox(owner).take();
        while let Some(id) = spans.next(links) {
            let span = self.shared.heap.span(id).unwrap();
            let body = span.body::<BlockSpan>();
            // SAFETY: all owners are ours, and the span has a block that waits.
            unsafe {
                let now = (*body).owner.load(Ordering::Relaxed);
                if now != owner {
                    work.central.inbox(now).push(id, links);
                    continue;
                }
                let cache = caches[(span.purpose().0 - purpose(0).0) as usize];
                BlockCache::surrender(&work, body);
                BlockCache::adopt(cache, &work, body);
                assert_eq!((*body).owner.load(Ordering::Relaxed), number);
                BlockCache::absorb(&mut work, span, body);
            }
        }
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        let n = self.attached(input.byte());
        match operation % 32 {
            0..=11 => {
                let (which, size) = (input.byte() % PURPOSES, input.size());
                // A row of one size is what fills spans.
                let count = if size <= MAX_SMALL { 1 + input.byte() % 24 } else { 1 };
                (0..count).for_each(|_| self.allocate(n, which, size));
            }
            12..=25 => {
                let (first, count, may_wait) =
                    (input.below(65_536), 1 + input.byte() % 32, input.byte() < 128);
                for _ in 0..count {
                    let Some(held) = self.model.pick(first) else { return };
                    self.free(n, held.pointer, may_wait);
                }
            }
            26 | 27 if !self.late.is_empty() => self.deliver(n, input.byte() % self.late.len()),
            28 => self.park(n),
            29 => self.attach(input.byte() % OWNERS),
            30 => self.flush(n),
            _ => {}
        }
    }

    /// Counts every span of blocks by hand.
    fn audit(&self) {
        let mut held: HashMap<SpanId, u32> = HashMap::new();
        for block in self.model.blocks() {
            *held.entry(self.shared.find(block.pointer).0).or_default() += 1;
        }
        for (id, span) in self.shared.heap.spans() {
            // SAFETY: nobody works meanwhile.
            let body = unsafe { &*self.shared.body(span) };
            let held = held.remove(&id).unwrap_or(0);
            if body.phase == Phase::Large {
                assert_eq!(held, 1, "{id:?} holds one large block");
                continue;
            }
            let waiting = span.word().load(Ordering::Relaxed) as u16;
            assert_eq!(body.used(), held + u32::from(waiting), "in use in {id:?}, {:?}", body.phase);
            let (mut at, mut free) = (body.free, 0);
            while !at.is_null() {
                // SAFETY: as above; a free block holds its link and the key.
                unsafe {
                    assert_eq!((*at).mark, mark(KEY, at), "a free block of {id:?} without its mark");
                    at = (*at).next;
                }
                free += 1;
                assert!(free <= body.blocks, "the free list of {id:?} is a ring");
            }
            assert_eq!(body.carved, body.used() + free, "carved in {id:?}");
            assert!(body.carved <= body.blocks);
            let owner = &self.owners[body.owner.load(Ordering::Relaxed) as usize - 1];
            assert!(owner.caches.contains(&body.cache), "{id:?} is in the cache of another owner");
            assert!(body.used() > 0 || body.phase == Phase::Current, "{id:?} is empty and {:?}", body.phase);
            assert!(!owner.parked || body.phase != Phase::Current, "{id:?} is current in a parked cache");
        }
        assert!(held.is_empty(), "blocks outside of all spans: {held:?}");
    }

    /// Frees everything; then nothing may be left of any purpose.
    fn finish(&mut self) {
        while let Some(held) = self.model.pick(self.model.len() * 7 / 11) {
            let n = self.attached(held.pointer.addr() >> 4);
            self.free(n, held.pointer, false);
        }
        while !self.late.is_empty() {
            let n = self.attached(0);
            self.deliver(n, 0);
        }
        // A span that is handed on may be handed on to somebody who was looked after before: so twice.
        for n in (0..OWNERS).chain(0..OWNERS) {
            self.attach(n);
            self.flush(n);
        }
        self.audit();
        assert_eq!(self.shared.heap.spans().count(), 0, "spans are left");
        let mut figures = Box::new(Figures::zero());
        self.shared.books.read(&mut figures);
        for which in (0..PURPOSES).map(purpose) {
            assert_eq!(self.shared.meters.get(which).inuse(), Bytes::ZERO);
            assert_eq!(figures.balance(Account::Span(which)), 0);
        }
        use spanheap::stats::ClassEvent::{Allocated, Freed};
        for row in 0..=spanheap::base::class::CLASSES {
            assert_eq!(figures.class(row, Allocated), figures.class(row, Freed), "events of row {row}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for cache in self.owners.iter().flat_map(|owner| &owner.caches) {
            // SAFETY: made by `Owner::new`; nobody uses it any more, and a cache needs no drop.
            drop(unsafe { Box::from_raw(cache.cast::<std::mem::MaybeUninit<BlockCache>>()) });
        }
        // SAFETY: the heap goes with this.
        unsafe {
            self.shared.heap.destroy();
            self.shared.central.destroy();
        }
    }
}

/// Runs a program.
///
/// # Panics
/// When a block is not what it should be, or a span's counts are wrong.
pub fn fuzz(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    let mut steps = 0;
    while let Some(operation) = input.operation() {
        world.step(operation, &mut input);
        steps += 1;
        if steps % 4 == 0 {
            world.audit();
        }
    }
    world.model.verify();
    world.finish();
}
