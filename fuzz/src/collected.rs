//! A heap with room for objects, and what some mutators have of it: for the bodies of the rooms `object` and `gc`.
//!
//! # Safety
//! Everything is on one thread. What a box holds does not move, and boxes go after the heap.

use spanheap::base::purpose::OBJECTS;
use spanheap::base::{Address, PurposeId};
use spanheap::object::{
    NoAttachments, ObjectCache, ObjectWork, Objects, ShapeId, SpanClass, SpanKind, Swept, Take,
};
use spanheap::os::{Simulated, System};
use spanheap::span::{Ground, Meters, PageHeap, SpanCache};
use spanheap::stats::{BookShard, Books, Figures, Ledger};
use spanheap::{Bytes, Exhausted, Scarce};
use std::ptr::NonNull;

/// What a mutator has: a cache for each purpose.
pub struct Hand {
    pub spans: SpanCache,
    pub caches: [Box<ObjectCache>; 2],
    pub shard: Box<BookShard>,
}

/// The heap.
pub struct Bench {
    pub heap: PageHeap,
    pub objects: Objects,
    pub meters: Box<Meters>,
    pub books: Box<Books>,
    pub purposes: [PurposeId; 2],
    pub simulated: &'static Simulated,
    own: Box<BookShard>,
}

impl Bench {
    /// A heap on a simulated system of its own, and so many mutators.
    pub fn new(mutators: usize) -> (Bench, Vec<Hand>) {
        let simulated: &'static Simulated = Box::leak(Box::new(Simulated::new()));
        let (books, own) = (Box::new(Books::new()), Box::<BookShard>::default());
        let meters = Box::into_raw(Box::<Meters>::new_zeroed()).cast::<Meters>();
        // SAFETY: the file's head; the meters' memory is zeroed and ours.
        let meters = unsafe {
            books.open();
            books.link(&raw const *own);
            Meters::init(meters);
            Box::from_raw(meters)
        };
        let ledger = books.ledger(&own);
        let system = System::Simulated(simulated);
        let heap = PageHeap::reserve(system, Bytes::mib(128), Bytes::mib(128), ledger).unwrap();
        let objects = Objects::reserve(&heap, ledger).unwrap();
        let purposes = [OBJECTS, meters.declare("others").unwrap()];
        purposes.iter().for_each(|&purpose| objects.add_purpose(purpose, ledger).unwrap());
        let bench = Bench { heap, objects, meters, books, purposes, simulated, own };
        let hands = (0..mutators).map(|_| bench.hand()).collect();
        (bench, hands)
    }

    fn hand(&self) -> Hand {
        let shard = Box::<BookShard>::default();
        // SAFETY: the file's head.
        unsafe { self.books.link(&raw const *shard) };
        let caches = self.purposes.map(|purpose| {
            // SAFETY: zeroed memory is an empty cache.
            let mut cache = unsafe { Box::<ObjectCache>::new_zeroed().assume_init() };
            cache.open(purpose);
            cache
        });
        Hand { spans: SpanCache::default(), caches, shard }
    }

    /// The books, for what no mutator does.
    pub fn ledger(&self) -> Ledger<'_> {
        self.books.ledger(&self.own)
    }

    /// What spans need of the heap and of a mutator.
    pub fn ground<'a>(&'a self, shard: &'a BookShard) -> Ground<'a> {
        Ground { heap: &self.heap, meters: &self.meters, ledger: self.books.ledger(shard) }
    }

    /// Does something with the heap, in a mutator's name.
    pub fn with<T>(
        &self,
        hand: &mut Hand,
        work: impl FnOnce(&mut [Box<ObjectCache>; 2], &mut ObjectWork<'_, '_>) -> T,
    ) -> T {
        let ground = self.ground(&hand.shard);
        work(&mut hand.caches, &mut ObjectWork { ground, spans: &mut hand.spans })
    }

    /// An object of a size class, all zeros.
    pub fn allocate(&self, hand: &mut Hand, of: usize, class: SpanClass) -> Result<*mut u8, Exhausted> {
        loop {
            let pointer = hand.caches[of].allocate_fast(class);
            if !pointer.is_null() {
                return Ok(pointer);
            }
            self.with(hand, |caches, work| {
                if self.objects.refill(&mut caches[of], work, class)? == Take::Unswept
                    && self.objects.sweep_chunk(work, &mut NoAttachments).is_none()
                {
                    self.objects.refill_fresh(&mut caches[of], work, class)?;
                }
                Ok(())
            })?;
        }
    }

    /// A large object, finished.
    pub fn allocate_large(
        &self,
        hand: &mut Hand,
        of: usize,
        size: usize,
        how: (SpanKind, ShapeId),
    ) -> Result<*mut u8, Exhausted> {
        let made =
            self.with(hand, |_, work| self.objects.allocate_large(work, self.purposes[of], Bytes(size), how));
        Ok(self.objects.finish_large(made?))
    }

    /// Memory may be refused by a limit that was set, or by a system that refused something since.
    pub fn assert_refused(&self, error: Exhausted, refusals: usize) {
        match error.scarce {
            Scarce::PurposeLimit => {
                let limits = self.purposes.map(|purpose| self.meters.get(purpose).hard_limit());
                assert!(limits.contains(&Some(error.limit)), "{error}");
            }
            _ => assert!(self.simulated.refusals() > refusals, "{error}, and nothing was refused"),
        }
    }

    pub fn begin_marking(&self, hands: &mut [Hand]) {
        self.objects.set_marking(true);
        hands.iter_mut().flat_map(|hand| &mut hand.caches).for_each(|cache| self.objects.blacken(cache));
    }

    /// Marking ends, with `marked` bytes marked beside those that were marked in advance.
    pub fn end_marking(&self, hands: &mut [Hand], marked: Bytes) {
        hands.iter_mut().for_each(|hand| self.flush(hand));
        self.objects.set_marking(false);
        self.objects.begin_sweep(marked + self.objects.black());
    }

    /// Takes back what a mutator's caches hold.
    pub fn flush(&self, hand: &mut Hand) {
        self.with(hand, |caches, work| caches.iter_mut().for_each(|cache| self.objects.flush(cache, work)));
    }

    /// Sweeps the next chunk, or only frees what is dead as a whole.
    pub fn sweep(&self, hand: &mut Hand, reclaim: bool) -> Option<Swept> {
        self.with(hand, |_, work| match reclaim {
            true => self.objects.reclaim_chunk(work, &mut NoAttachments),
            false => self.objects.sweep_chunk(work, &mut NoAttachments),
        })
    }

    /// Sweeps all that is left.
    pub fn sweep_all(&self, hand: &mut Hand) {
        while self.sweep(hand, false).is_some() {}
        assert!(self.objects.is_swept());
    }

    /// The object that holds an address, which is known to be in one.
    pub fn object(&self, address: usize) -> spanheap::object::Object {
        self.objects.find(Address(address)).expect("an object that is alive is found")
    }

    /// Proves the invariants of all rooms, of a heap at rest.
    pub fn check(&self, hands: &[Hand]) {
        let mut figures = Box::new(Figures::zero());
        self.books.read(&mut figures);
        let caches = hands.iter().flat_map(|hand| &hand.caches).map(|cache| &**cache);
        self.heap.acquire_for_fork();
        // SAFETY: nothing runs; the caller gives all mutators, and the locks were just taken.
        unsafe {
            self.objects.check(&self.heap, &figures, caches).unwrap();
            let spans = hands.iter().map(|hand| &hand.spans);
            self.heap.check(&self.meters, &figures, spans).unwrap();
            self.heap.release_after_fork();
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SAFETY: nobody uses an object any more; the simulated system was leaked for this heap alone, which is down.
        unsafe {
            self.objects.destroy();
            self.heap.destroy();
            assert_eq!(self.simulated.ready_bytes(), Bytes::ZERO);
            drop(Box::from_raw(NonNull::from(self.simulated).as_ptr()));
        }
    }
}
